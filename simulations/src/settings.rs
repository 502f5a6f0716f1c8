//! What a seed draws before anything happens: how many nodes, which constants, which weather.

use std::time::Duration;

use lockmesh_proto::voter::VoterLimits;
use lockmesh_proto::voter_set::Timing;

use crate::algorithms::Algorithm;
use crate::hazards::{self, Hazards};
use crate::namesakes;
use crate::network::Weather;
use crate::rng::Rng;
use crate::wrong_clocks;

pub(crate) const MILLISECOND: u64 = 1_000_000;
pub(crate) const SECOND: u64 = 1_000 * MILLISECOND;
/// How many keys the probes at the end of a run have for themselves.
pub(crate) const PROBE_KEYS: usize = 20;

/// How monotonic clocks run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Pace {
    /// The ratio of any two rates is at most 1 + `max_drift`.
    Kept,
    /// Up to this many parts per million off, either way: beyond what the voter set allows.
    Wild(i64),
}

/// What gossip tells the nodes while faults are allowed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Gossip {
    /// The truth, a little late.
    Honest,
    /// Stale addresses and lives, the living called dead and the dead living, some left out, and
    /// every node told something else.
    Hostile,
    /// What heartbeats tell: who cannot be heard is believed to be dead after a while.
    Heard,
}

/// Where the number of a new incarnation comes from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Incarnations {
    /// It rises with every start.
    Counted,
    /// The node's wall clock, which may have been set back.
    WallClock,
}

/// What the users of the locks do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Habits {
    pub(crate) clients: usize,
    pub(crate) keys: usize,
    /// How long a client rests between two requests, at the most.
    pub(crate) rest_max: u64,
    /// How long it holds a lock, at the most. Some hold longer than their lease.
    pub(crate) hold_max: u64,
    /// How long it works on a write after it has looked at its guard, at the most; zero: no longer
    /// than a round trip.
    pub(crate) work_max: u64,
    pub(crate) try_ppm: u64,
    pub(crate) renew_ppm: u64,
    pub(crate) withdraw_ppm: u64,
    pub(crate) deadline_ppm: u64,
    pub(crate) extend_ppm: u64,
    /// How many take a lock as through the trait: it does not renew itself, and outlives its
    /// process.
    pub(crate) tick_ppm: u64,
}

/// One world.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) seed: u64,
    /// What the hosts run.
    pub(crate) algorithm: Algorithm,
    /// Whether datagrams are sealed, as in production, or plaintext, which is faster.
    pub(crate) is_sealed: bool,
    /// Whether the run is recorded for a page or a table; it then goes on after a broken law.
    pub(crate) is_recorded: bool,
    /// Members of the voter set, hosts 0 and up; those after them are no members.
    pub(crate) members: usize,
    pub(crate) outsiders: usize,
    pub(crate) voters_per_key: usize,
    pub(crate) timing: Timing,
    pub(crate) pace: Pace,
    pub(crate) wall_off_max_ms: i64,
    pub(crate) weather: Weather,
    /// Each link's own delay is drawn between these.
    pub(crate) delay: (u64, u64),
    pub(crate) gossip: Gossip,
    pub(crate) incarnations: Incarnations,
    /// Whether the first start is said to be a new cluster's; else it begins in quarantine.
    pub(crate) starts_new: bool,
    /// For how long faults are allowed.
    pub(crate) fault_span: u64,
    pub(crate) habits: Habits,
    /// What each voter keeps at the most.
    pub(crate) limits: VoterLimits,
    /// How often leases are renewed, where not three times in a ttl.
    pub(crate) renew_interval: Option<Duration>,
    /// What some hosts are restarted with, and later perhaps back.
    pub(crate) other_set: Option<OtherSet>,
    /// Whose wall clocks are wrong; those of all others are right then, and nodes ask for them.
    /// `None`: any may be wrong at times, and nobody asks.
    pub(crate) wrong_clocks: Option<Vec<usize>>,
    /// Whether another cluster takes over the addresses of dead members.
    pub(crate) has_twins: bool,
    /// Whether second processes start under the names of hosts.
    pub(crate) has_namesakes: bool,
    /// What is wrong all the time.
    pub(crate) hazards: Hazards,
}

/// Another voter set, with other constants, other members or both.
#[derive(Clone, Debug)]
pub(crate) struct OtherSet {
    pub(crate) timing: Timing,
    pub(crate) voters_per_key: usize,
    /// By host.
    pub(crate) members: Vec<usize>,
}

impl OtherSet {
    /// Whether more than constants differ: then quorums of the two need not meet.
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

    /// Draws a world, with this many members where the number is given.
    pub(crate) fn draw(seed: u64, members: Option<usize>) -> Self {
        let mut rng = Rng::stream(seed, "settings");
        let drawn = draw_members(&mut rng);
        let members = members.unwrap_or(drawn).max(1);
        let voters_per_key = *rng.pick(&[1, 2, 2, 3, 3, 3, 3, 4, 5, 5, 7]);
        let round_trip = *rng.pick(&[2, 5, 10, 20]) * MILLISECOND;
        let timing = draw_timing(&mut rng, round_trip);
        let max_ttl = timing.max_ttl.as_nanos() as u64;
        let pace = if rng.chance(150_000) {
            Pace::Wild(*rng.pick(&[50_000, 200_000, 400_000]))
        } else {
            Pace::Kept
        };
        let fault_span = max_ttl * rng.between(4, 9);
        let mut wire = Rng::stream(seed, "wire");
        let mut weather = draw_weather(&mut rng, round_trip, max_ttl);
        weather.damage_ppm = *wire.pick(&[0, 0, 1_000, 20_000, 200_000]);
        let outsiders = *rng.pick(&[0, 0, 1, 2]);
        let voters_per_key = voters_per_key.min(members);
        let mut settings = Self {
            seed,
            algorithm: Algorithm::default(),
            is_sealed: wire.chance(250_000),
            is_recorded: false,
            members,
            outsiders,
            voters_per_key,
            timing,
            pace,
            wall_off_max_ms: timing.max_clock_skew.as_millis() as i64 / 2,
            weather,
            delay: (round_trip / 20, round_trip * rng.between(15, 40) / 100),
            gossip: if rng.chance(600_000) {
                Gossip::Hostile
            } else {
                Gossip::Honest
            },
            incarnations: if rng.chance(300_000) {
                Incarnations::WallClock
            } else {
                Incarnations::Counted
            },
            starts_new: rng.chance(800_000),
            fault_span,
            habits: {
                let mut habits = draw_habits(&mut rng, max_ttl);
                let mut keepers = Rng::stream(seed, "keepers");
                if keepers.chance(300_000) {
                    keep_long(&mut keepers, &mut habits, max_ttl);
                }
                habits.tick_ppm = *Rng::stream(seed, "ticks").pick(&[0, 0, 300_000, 1_000_000]);
                habits
            },
            limits: VoterLimits::default(),
            renew_interval: draw_renewal(seed, &timing),
            has_twins: Rng::stream(seed, "twins").chance(80_000),
            has_namesakes: namesakes::has(seed, members + outsiders),
            other_set: draw_other_set(seed, (members, outsiders), voters_per_key, timing),
            wrong_clocks: None,
            hazards: Hazards::default(),
        }
        .with_limits();
        hazards::draw(&mut settings);
        settings.wrong_clocks = wrong_clocks::draw(&settings);
        settings.hazards.maims &= settings.wrong_clocks.is_none();
        settings.has_namesakes &= settings.other_set.is_none() && !settings.has_twins;
        namesakes::make_fair(&mut settings);
        settings
    }

    /// Some worlds have voters that keep few keys, or few that wait for one; there are more of both
    /// than fit.
    fn with_limits(mut self) -> Self {
        let mut rng = Rng::stream(self.seed, "limits");
        if !rng.chance(250_000) {
            return self;
        }
        if rng.chance(700_000) {
            self.limits.slots_max = rng.between(1, 4) as usize;
            let keys = self.limits.slots_max as u64 + rng.between(1, 6);
            self.habits.keys = self.habits.keys.max(keys as usize);
        }
        if rng.chance(700_000) {
            self.limits.waiters_max = rng.between(1, 3) as usize;
        }
        self
    }

    /// Whether there is more to keep than voters may.
    pub(crate) fn is_tight(&self) -> bool {
        self.limits != VoterLimits::default()
    }

    /// For those whose datagrams have no seal, and no form that damage would break for certain:
    /// what would arrive damaged is lost.
    pub(crate) fn send_plain_and_whole(&mut self) {
        self.is_sealed = false;
        let damage_ppm = std::mem::take(&mut self.weather.damage_ppm);
        self.weather.loss_ppm = (self.weather.loss_ppm + damage_ppm).min(1_000_000);
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

    /// The longest lease of any voter set.
    pub(crate) fn longest_ttl(&self) -> u64 {
        let other = self.other_set.as_ref().map(|other| other.timing.max_ttl);
        other.map_or_else(|| self.max_ttl(), |other| self.max_ttl().max(nanos(other)))
    }

    /// The longest that a voter without memory may be in recovery in true time, but for a second.
    /// With two voter sets it may have heard of the other at the end of its quarantine, by a late
    /// datagram.
    pub(crate) fn longest_quarantine(&self) -> u64 {
        let own = self.timing.quarantine();
        let Some(other) = &self.other_set else {
            // One that has learnt of a namesake has forgotten all, and may learn of it late.
            let late = match self.has_namesakes {
                true => self.at_most(self.timing.max_ttl) + self.weather.late_max + SECOND,
                false => 0,
            };
            return self.at_most(own) + late;
        };
        let longest = own.max(other.timing.quarantine());
        3 * self.at_most(longest) + self.weather.late_max + SECOND
    }

    /// The larger of the skews that a voter may believe.
    pub(crate) fn largest_skew(&self) -> Duration {
        let own = self.timing.max_clock_skew;
        let other = self.other_set.as_ref();
        other.map_or(own, |other| own.max(other.timing.max_clock_skew))
    }

    /// A span of some node's clock, as long as it may take in true time.
    pub(crate) fn at_most(&self, span: Duration) -> u64 {
        let span = span.as_nanos() as u64;
        let other = self.other_set.as_ref().map(|it| it.timing.max_drift_ppm);
        let ppm = u64::from(other.unwrap_or_default().max(self.timing.max_drift_ppm));
        span + span / 1_000_000 * 2 * ppm + 1_000
    }
}

/// From once in a round trip to twice in the shortest ttl.
fn draw_renewal(seed: u64, timing: &Timing) -> Option<Duration> {
    let mut rng = Rng::stream(seed, "renewal");
    let round_trip = timing.round_trip.as_nanos() as u64;
    let every = rng.spread(round_trip, 5 * round_trip);
    rng.chance(200_000).then(|| Duration::from_nanos(every))
}

fn nanos(span: Duration) -> u64 {
    span.as_nanos() as u64
}

/// In some worlds hosts are restarted with other settings: a shorter or longer `max_ttl`, another
/// skew, a larger drift, and in a third of them with other voters, too.
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
    // A reservation must outlast the drift over the age of a waiter's last word, which may be more
    // than sixty round trips old.
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

fn draw_weather(rng: &mut Rng, round_trip: u64, max_ttl: u64) -> Weather {
    Weather {
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
    }
}

/// The users hold many locks for long, so that a node renews them together.
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
    use lockmesh_proto::id::NodeId;
    use lockmesh_proto::voter_set::VoterSet;

    #[test]
    fn every_seed_draws_a_voter_set_that_can_be() {
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
