//! The settings of a world, drawn from its seed: nodes, timing, link conditions and users.

use std::time::Duration;

use crate::algorithms::Algorithm;
use crate::faults::{LastingFaults, disks, handovers, lasting, namesakes, wrong_clocks};
use crate::kernel::{LinkFaults, MILLISECOND, Rng, SECOND};
use crate::proto::{Timing, VoterLimits};

/// The number of keys that are reserved for the probes at the end of a run.
pub(crate) const PROBE_KEYS: usize = 20;
/// The number of keys after those, which their holders mark.
pub(crate) const MARKED_KEYS: usize = 3;

/// The rates of the monotonic clocks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Rates {
    /// The ratio of any two rates is at most 1 + `max_drift`.
    Kept,
    /// Rates differ from true time by up to this many parts per million, beyond `max_drift`.
    Wild(i64),
}

/// The views that gossip delivers while faults occur.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Gossip {
    /// The truth, with a short delay.
    Honest,
    /// Stale addresses and incarnations, random liveness, and missing hosts, drawn for each node.
    Hostile,
    /// Liveness by heartbeats: a host without a heartbeat for two rounds is reported as dead.
    Heartbeats,
}

/// The source of the number of a new incarnation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Incarnations {
    /// A counter that rises with every start.
    Counted,
    /// The node's wall clock, which may have been set back.
    WallClock,
}

/// The behaviour of the users.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Habits {
    pub(crate) clients: usize,
    pub(crate) keys: usize,
    /// The longest rest of a client between two requests, in nanoseconds.
    pub(crate) rest_max: u64,
    /// The longest hold of a lock, in nanoseconds. Some holds outlast their lease.
    pub(crate) hold_max: u64,
    /// The longest time from the check of a guard to the write, in nanoseconds; at least a round
    /// trip.
    pub(crate) work_max: u64,
    pub(crate) try_ppm: u64,
    pub(crate) renew_ppm: u64,
    pub(crate) withdraw_ppm: u64,
    pub(crate) deadline_ppm: u64,
    pub(crate) extend_ppm: u64,
    /// Requests per million like those through the trait: without renewal, outliving their process.
    pub(crate) tick_ppm: u64,
    /// Requests per million for a key that is marked when the work is done.
    pub(crate) once_ppm: u64,
    /// The chance, in millionths, that a user frees the lock of somebody by hand before it requests
    /// one.
    pub(crate) revoke_ppm: u64,
}

/// The settings of one world.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) seed: u64,
    /// The algorithm that the hosts run.
    pub(crate) algorithm: Algorithm,
    /// `true` if datagrams are sealed, as in production. Plaintext is faster.
    pub(crate) is_sealed: bool,
    /// `true` if the run is recorded. A recorded run continues after a broken law.
    pub(crate) is_recorded: bool,
    /// Members of the voter set: hosts 0 to `members - 1`. The hosts after them are outsiders.
    pub(crate) members: usize,
    pub(crate) outsiders: usize,
    pub(crate) voters_per_key: usize,
    pub(crate) timing: Timing,
    pub(crate) rates: Rates,
    pub(crate) wall_off_max_ms: i64,
    pub(crate) link_faults: LinkFaults,
    /// The bounds of the base delay of a link, in nanoseconds.
    pub(crate) delay: (u64, u64),
    pub(crate) gossip: Gossip,
    pub(crate) incarnations: Incarnations,
    /// `true` if the first start is that of a new cluster; otherwise it begins in quarantine.
    pub(crate) starts_new: bool,
    /// The length of the fault phase, in nanoseconds.
    pub(crate) fault_span: u64,
    pub(crate) habits: Habits,
    /// The limits of each voter.
    pub(crate) limits: VoterLimits,
    /// The interval of renewals, if it is not a third of the ttl.
    pub(crate) renew_interval: Option<Duration>,
    /// The voter set in which some hosts are restarted.
    pub(crate) other_set: Option<OtherSet>,
    /// Hosts whose wall clocks are wrong for the whole run. The others are right then, and nodes
    /// query them. `None`: any clock may be wrong for a while, and no node queries clocks.
    pub(crate) wrong_clocks: Option<Vec<usize>>,
    /// `true` if another cluster takes over the addresses of dead members.
    pub(crate) has_foreign_cluster: bool,
    /// `true` if second processes start under the names of hosts.
    pub(crate) has_namesakes: bool,
    /// The faults that last for the whole fault phase.
    pub(crate) lasting: LastingFaults,
    /// The journals of the hosts: `None` for none, `true` if it syncs every record.
    pub(crate) journals: Vec<Option<bool>>,
    /// The longest time of a handover, in nanoseconds; `None` for no handovers.
    pub(crate) handover_span: Option<u64>,
    pub(crate) versions: Versions,
}

/// The versions of the protocol that the hosts speak.
#[derive(Clone, Debug, Default)]
pub(crate) struct Versions {
    /// `true` if nobody announces the version of a host.
    pub(crate) are_untold: bool,
    pub(crate) are_mixed: bool,
    /// The hosts that speak the version before the newest. Each restart may change that of a host.
    pub(crate) old: Vec<bool>,
    pub(crate) change_ppm: u64,
}

impl Versions {
    fn draw(seed: u64, hosts: usize) -> Self {
        let mut rng = Rng::stream(seed, "versions");
        let (are_untold, are_mixed) = (rng.chance(200_000), rng.chance(150_000));
        let old = (0..hosts)
            .map(|_| are_mixed && rng.chance(400_000))
            .collect();
        let change_ppm = if are_mixed { 300_000 } else { 0 };
        Self {
            are_untold,
            are_mixed,
            old,
            change_ppm,
        }
    }
}

/// A second voter set with other timing, other members or both.
#[derive(Clone, Debug)]
pub(crate) struct OtherSet {
    pub(crate) timing: Timing,
    pub(crate) voters_per_key: usize,
    /// The members, by host.
    pub(crate) members: Vec<usize>,
}

impl OtherSet {
    /// Returns `true` if more than the timing differs. Quorums of the two sets need not intersect
    /// then.
    pub(crate) fn is_other_members(&self, settings: &Settings) -> bool {
        self.voters_per_key != settings.voters_per_key
            || self.members != (0..settings.members).collect::<Vec<_>>()
    }
}

impl Settings {
    /// Returns `true` if the wall clock of this host is wrong for the whole run.
    pub(crate) fn is_wrong(&self, host: usize) -> bool {
        self.wrong_clocks
            .iter()
            .flatten()
            .any(|wrong| *wrong == host)
    }

    /// Returns the settings of a world in which nothing goes wrong.
    pub(crate) fn quiet(
        members: usize,
        voters_per_key: usize,
        timing: Timing,
        habits: Habits,
    ) -> Self {
        Self {
            seed: 0,
            algorithm: Algorithm::default(),
            is_sealed: false,
            is_recorded: false,
            members,
            outsiders: 0,
            voters_per_key,
            timing,
            rates: Rates::Kept,
            wall_off_max_ms: 0,
            link_faults: LinkFaults {
                late_max: 1,
                ..LinkFaults::default()
            },
            delay: (MILLISECOND, 3 * MILLISECOND),
            gossip: Gossip::Honest,
            incarnations: Incarnations::Counted,
            starts_new: true,
            fault_span: 0,
            habits,
            limits: VoterLimits::default(),
            renew_interval: None,
            other_set: None,
            wrong_clocks: None,
            has_foreign_cluster: false,
            has_namesakes: false,
            lasting: LastingFaults::default(),
            journals: Vec::new(),
            handover_span: None,
            versions: Versions::default(),
        }
    }

    /// Draws the settings of a seed, with `members` members if given.
    pub(crate) fn draw(seed: u64, members: Option<usize>) -> Self {
        let mut rng = Rng::stream(seed, "settings");
        let drawn = draw_members(&mut rng);
        let members = members.unwrap_or(drawn).max(1);
        let voters_per_key = *rng.pick(&[1, 2, 2, 3, 3, 3, 3, 4, 5, 5, 7]);
        let round_trip = *rng.pick(&[2, 5, 10, 20]) * MILLISECOND;
        let timing = draw_timing(&mut rng, round_trip);
        let max_ttl = timing.max_ttl.as_nanos() as u64;
        let rates = if rng.chance(150_000) {
            Rates::Wild(*rng.pick(&[50_000, 200_000, 400_000]))
        } else {
            Rates::Kept
        };
        let fault_span = max_ttl * rng.between(4, 9);
        let mut wire = Rng::stream(seed, "wire");
        let mut link_faults = draw_link_faults(&mut rng, round_trip, max_ttl);
        link_faults.damage_ppm = *wire.pick(&[0, 0, 1_000, 20_000, 200_000]);
        let outsiders = *rng.pick(&[0, 0, 1, 2]);
        let voters_per_key = voters_per_key.min(members);
        let mut settings = Self::quiet(members, voters_per_key, timing, Habits::default());
        settings.seed = seed;
        settings.is_sealed = wire.chance(250_000);
        settings.outsiders = outsiders;
        settings.rates = rates;
        settings.wall_off_max_ms = timing.max_clock_skew.as_millis() as i64 / 2;
        settings.link_faults = link_faults;
        settings.delay = (round_trip / 20, round_trip * rng.between(15, 40) / 100);
        if rng.chance(600_000) {
            settings.gossip = Gossip::Hostile;
        }
        if rng.chance(300_000) {
            settings.incarnations = Incarnations::WallClock;
        }
        settings.starts_new = rng.chance(800_000);
        settings.fault_span = fault_span;
        settings.habits = draw_habits(&mut rng, max_ttl);
        let mut keepers = Rng::stream(seed, "keepers");
        if keepers.chance(300_000) {
            keep_long(&mut keepers, &mut settings.habits, max_ttl);
        }
        let ticks = &mut settings.habits.tick_ppm;
        *ticks = *Rng::stream(seed, "ticks").pick(&[0, 0, 300_000, 1_000_000]);
        settings.renew_interval = draw_renewal(seed, &timing);
        settings.has_foreign_cluster = Rng::stream(seed, "twins").chance(80_000);
        settings.has_namesakes = namesakes::has(seed, members + outsiders);
        settings.other_set = draw_other_set(seed, (members, outsiders), voters_per_key, timing);
        settings.limit_voters();
        lasting::draw(&mut settings);
        settings.wrong_clocks = wrong_clocks::draw(&settings);
        settings.lasting.breaks_minority &= settings.wrong_clocks.is_none();
        settings.has_namesakes &= settings.other_set.is_none() && !settings.has_foreign_cluster;
        namesakes::make_fair(&mut settings);
        settings.journals = disks::draw_journals(seed, members);
        settings.handover_span = handovers::draw_span(seed, round_trip);
        settings.versions = Versions::draw(seed, settings.hosts());
        let mut once = Rng::stream(seed, "once");
        settings.habits.once_ppm = *once.pick(&[0, 0, 100_000, 400_000]);
        let mut revokes = Rng::stream(seed, "revokes");
        settings.habits.revoke_ppm = *revokes.pick(&[0, 0, 100_000, 400_000]);
        if once.chance(50_000) {
            settings.limits.marks_max = 1;
        }
        if settings.handover_span.is_some() && once.chance(150_000) {
            // Votes without marks are handed over.
            settings.limits.handover_votes_max = once.below(MARKED_KEYS as u64) as usize;
        }
        if settings.has_namesakes {
            // The second process would be the heir of the first, and its votes are not judged.
            settings.handover_span = None;
        }
        settings
    }

    /// In 25 % of the worlds, limits slots or waiters to fewer than the users need.
    fn limit_voters(&mut self) {
        let mut rng = Rng::stream(self.seed, "limits");
        if !rng.chance(250_000) {
            return;
        }
        if rng.chance(700_000) {
            self.limits.slots_max = rng.between(1, 4) as usize;
            let keys = self.limits.slots_max as u64 + rng.between(1, 6);
            self.habits.keys = self.habits.keys.max(keys as usize);
        }
        if rng.chance(700_000) {
            self.limits.waiters_max = rng.between(1, 3) as usize;
        }
    }

    /// Returns `true` if voters have limits that the users exceed.
    pub(crate) fn is_tight(&self) -> bool {
        self.limits != VoterLimits::default()
    }

    /// Disables sealing and turns damage into loss, for algorithms whose datagrams have neither a
    /// seal nor a format that reveals damage.
    pub(crate) fn send_plain_and_whole(&mut self) {
        self.is_sealed = false;
        let damage_ppm = std::mem::take(&mut self.link_faults.damage_ppm);
        self.link_faults.loss_ppm = (self.link_faults.loss_ppm + damage_ppm).min(1_000_000);
    }

    pub(crate) fn hosts(&self) -> usize {
        self.members + self.outsiders
    }

    pub(crate) fn max_ttl(&self) -> u64 {
        self.timing.max_ttl.as_nanos() as u64
    }

    pub(crate) fn round_trip(&self) -> u64 {
        self.timing.round_trip.as_nanos() as u64
    }

    /// Returns the longest `max_ttl` of any voter set, in nanoseconds.
    pub(crate) fn longest_ttl(&self) -> u64 {
        let other = self.other_set.as_ref().map(|other| other.timing.max_ttl);
        other.map_or_else(|| self.max_ttl(), |other| self.max_ttl().max(nanos(other)))
    }

    /// Returns the longest true time of a recovery in nanoseconds, without the second in which the
    /// voter waits for replies. With two voter sets, a late datagram of the other one may extend
    /// its quarantine.
    pub(crate) fn longest_quarantine(&self) -> u64 {
        let own = self.timing.quarantine();
        let Some(other) = &self.other_set else {
            // A process that learns of a namesake loses its memory, and may learn of it late.
            let late = match self.has_namesakes {
                true => self.at_most(self.timing.max_ttl) + self.link_faults.late_max + SECOND,
                false => 0,
            };
            return self.at_most(own) + late;
        };
        let longest = own.max(other.timing.quarantine());
        3 * self.at_most(longest) + self.link_faults.late_max + SECOND
    }

    /// Returns the larger `max_clock_skew` of the two voter sets.
    pub(crate) fn largest_skew(&self) -> Duration {
        let own = self.timing.max_clock_skew;
        let other = self.other_set.as_ref();
        other.map_or(own, |other| own.max(other.timing.max_clock_skew))
    }

    /// Returns the longest true time that `span` of any node's clock may take, in nanoseconds.
    pub(crate) fn at_most(&self, span: Duration) -> u64 {
        let span = span.as_nanos() as u64;
        let other = self.other_set.as_ref().map(|it| it.timing.max_drift_ppm);
        let ppm = u64::from(other.unwrap_or_default().max(self.timing.max_drift_ppm));
        span + span / 1_000_000 * 2 * ppm + 1_000
    }
}

/// Draws an interval from one round trip to half the shortest ttl, in 20 % of the worlds.
fn draw_renewal(seed: u64, timing: &Timing) -> Option<Duration> {
    let mut rng = Rng::stream(seed, "renewal");
    let round_trip = timing.round_trip.as_nanos() as u64;
    let every = rng.spread(round_trip, 5 * round_trip);
    rng.chance(200_000).then(|| Duration::from_nanos(every))
}

fn nanos(span: Duration) -> u64 {
    span.as_nanos() as u64
}

/// Draws a second voter set in 15 % of the worlds with 2 to 20 members. Its `max_ttl`, skew or
/// drift may differ, and in a third of these worlds its voters too.
fn draw_other_set(
    seed: u64,
    (members, outsiders): (usize, usize),
    voters_per_key: usize,
    timing: Timing,
) -> Option<OtherSet> {
    let mut rng = Rng::stream(seed, "sets");
    if !(2..=20).contains(&members) || !rng.chance(150_000) {
        return None;
    }
    let mut other = timing;
    let by = rng.between(2, 6) as u32;
    other.max_ttl = match rng.below(5) {
        0..3 => timing.max_ttl / by,
        3 => timing.max_ttl * by,
        _ => timing.max_ttl,
    };
    if rng.chance(300_000) {
        other.max_drift_ppm = timing.max_drift_ppm.max(50_000);
        other.reservation = timing.reservation.max(timing.round_trip * 10);
    }
    let least = (timing.round_trip * 10)
        .max(other.reservation)
        .max(other.holder_probe_interval);
    other.max_ttl = other.max_ttl.max(least);
    let skew = timing.max_clock_skew * rng.between(1, 4) as u32 / 2;
    other.max_clock_skew = skew.max(Duration::from_millis(1)).min(other.max_ttl);
    let mut all: Vec<usize> = (0..members).collect();
    let mut per_key = voters_per_key;
    if rng.chance(333_000) {
        match rng.below(3) {
            0 => per_key = rng.between(1, members as u64) as usize,
            1 if outsiders > 0 => all.push(members),
            _ => {
                all.remove(rng.below(members as u64) as usize);
            }
        }
    }
    Some(OtherSet {
        timing: other,
        voters_per_key: per_key.min(all.len()),
        members: all,
    })
}

fn draw_members(rng: &mut Rng) -> usize {
    match rng.below(1_000) {
        0..400 => 3,
        400..700 => 5,
        700..800 => *rng.pick(&[1, 2, 4, 6]),
        800..900 => 7,
        900..970 => rng.between(8, 16) as usize,
        970..996 => rng.between(17, 50) as usize,
        _ => rng.between(51, 101) as usize,
    }
}

fn draw_timing(rng: &mut Rng, round_trip: u64) -> Timing {
    let max_ttl = (round_trip * rng.spread(30, 300)).clamp(200 * MILLISECOND, 3 * SECOND);
    let skew = rng.spread(max_ttl / 20, max_ttl).max(2 * MILLISECOND);
    let max_drift_ppm = *rng.pick(&[100, 5_000, 50_000]);
    // A reservation must outlast the drift since the waiter's last send time, which may be more
    // than 60 round trips ago.
    let reservation_min = if max_drift_ppm == 50_000 { 10 } else { 5 };
    let reservation = (round_trip * rng.between(reservation_min, 15)).min(max_ttl);
    let holder_probe_interval = (round_trip * rng.between(5, 15)).min(max_ttl);
    Timing {
        max_ttl: Duration::from_nanos(max_ttl),
        max_drift_ppm,
        max_clock_skew: Duration::from_millis(skew / MILLISECOND),
        round_trip: Duration::from_nanos(round_trip),
        reservation: Duration::from_nanos(reservation),
        holder_probe_interval: Duration::from_nanos(holder_probe_interval),
    }
}

fn draw_link_faults(rng: &mut Rng, round_trip: u64, max_ttl: u64) -> LinkFaults {
    LinkFaults {
        loss_ppm: *rng.pick(&[0, 1_000, 20_000, 100_000, 300_000]),
        damage_ppm: 0,
        double_ppm: *rng.pick(&[0, 1_000, 50_000, 300_000]),
        late_ppm: *rng.pick(&[0, 500, 10_000, 100_000]),
        late_max: *rng.pick(&[round_trip * 5, max_ttl / 2, max_ttl * 3]),
        jitter: round_trip / 10,
    }
}

fn draw_habits(rng: &mut Rng, max_ttl: u64) -> Habits {
    Habits {
        clients: rng.between(2, 10) as usize,
        keys: *rng.pick(&[1, 1, 1, 2, 3, 6]),
        rest_max: rng.spread(max_ttl / 100, max_ttl / 2),
        hold_max: rng.spread(max_ttl / 100, max_ttl),
        work_max: 0,
        try_ppm: *rng.pick(&[0, 200_000, 500_000, 1_000_000]),
        renew_ppm: *rng.pick(&[0, 500_000, 1_000_000]),
        withdraw_ppm: *rng.pick(&[0, 100_000, 300_000]),
        deadline_ppm: *rng.pick(&[0, 300_000]),
        extend_ppm: *rng.pick(&[0, 200_000]),
        tick_ppm: 0,
        once_ppm: 0,
        revoke_ppm: 0,
    }
}

/// Makes the users hold many locks for long, so that a node renews them by session.
fn keep_long(rng: &mut Rng, habits: &mut Habits, max_ttl: u64) {
    habits.clients = rng.between(6, 14) as usize;
    habits.keys = rng.between(4, 12) as usize;
    habits.rest_max = max_ttl / 10;
    habits.hold_max = max_ttl * rng.between(1, 5);
    habits.renew_ppm = *rng.pick(&[900_000, 1_000_000]);
    habits.try_ppm = *rng.pick(&[0, 200_000]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{NodeId, VoterSet};

    #[test]
    fn drawn_settings_make_valid_voter_sets() {
        for seed in 0..2_000 {
            let settings = Settings::draw(seed, None);
            let members = (0..settings.members)
                .map(|n| NodeId::new(format!("n{n}")).unwrap())
                .collect();
            let voter_set = VoterSet::new(1, members, settings.voters_per_key, settings.timing);
            assert!(voter_set.is_ok(), "seed {seed}: {voter_set:?}");
            let Some(other) = settings.other_set else {
                continue;
            };
            let names = other.members.iter().map(|n| format!("n{n}"));
            let members = names.map(|name| NodeId::new(name).unwrap()).collect();
            let voter_set = VoterSet::new(1, members, other.voters_per_key, other.timing);
            assert!(voter_set.is_ok(), "seed {seed}: {voter_set:?}");
        }
    }
}
