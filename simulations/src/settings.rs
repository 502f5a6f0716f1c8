//! What a seed draws before anything happens: how many nodes, which constants, which weather.

use std::time::Duration;

use lockmesh::proto::roster::Timing;

use crate::algorithms::Algorithm;
use crate::hazards::{self, Hazards};
use crate::network::Weather;
use crate::rng::Rng;

pub(crate) const MILLISECOND: u64 = 1_000_000;
pub(crate) const SECOND: u64 = 1_000 * MILLISECOND;
/// How many keys the probes at the end of a run have for themselves.
pub(crate) const PROBE_KEYS: usize = 18;

/// How monotonic clocks run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Pace {
    /// The ratio of any two rates is at most 1 + `max_drift`.
    Kept,
    /// Up to this many parts per million off, either way: beyond what the roster allows.
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

/// Where the number of a new life comes from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Lives {
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
    /// Members of the roster, hosts 0 and up; those after them are no members.
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
    pub(crate) lives: Lives,
    /// Whether the first start is said to be a new cluster's; else it begins in quarantine.
    pub(crate) starts_new: bool,
    /// For how long faults are allowed.
    pub(crate) fault_span: u64,
    pub(crate) habits: Habits,
    /// What is wrong all the time.
    pub(crate) hazards: Hazards,
}

impl Settings {
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
        let mut settings = Self {
            seed,
            algorithm: Algorithm::default(),
            is_sealed: wire.chance(250_000),
            is_recorded: false,
            members,
            outsiders: *rng.pick(&[0, 0, 1, 2]),
            voters_per_key: voters_per_key.min(members),
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
            lives: if rng.chance(300_000) {
                Lives::WallClock
            } else {
                Lives::Counted
            },
            starts_new: rng.chance(800_000),
            fault_span,
            habits: {
                let mut habits = draw_habits(&mut rng, max_ttl);
                let mut keepers = Rng::stream(seed, "keepers");
                if keepers.chance(300_000) {
                    keep_long(&mut keepers, &mut habits, max_ttl);
                }
                habits
            },
            hazards: Hazards::default(),
        };
        hazards::draw(&mut settings);
        settings
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

    /// A span of some node's clock, as long as it may take in true time.
    pub(crate) fn at_most(&self, span: Duration) -> u64 {
        let span = span.as_nanos() as u64;
        let ppm = u64::from(self.timing.max_drift_ppm);
        span + span / 1_000_000 * 2 * ppm + 1_000
    }
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
    // An offer must outlast the drift over the age of a waiter's last word, which may be more than
    // sixty round trips old.
    let offer_min = if max_drift_ppm == 50_000 { 10 } else { 5 };
    let offer = (round_trip * rng.between(offer_min, 15)).min(max_ttl);
    let poke = (round_trip * rng.between(5, 15)).min(max_ttl);
    Timing {
        max_ttl: Duration::from_nanos(max_ttl),
        max_drift_ppm,
        max_clock_skew: Duration::from_millis(skew / MILLISECOND),
        round_trip: Duration::from_nanos(round_trip),
        offer: Duration::from_nanos(offer),
        poke: Duration::from_nanos(poke),
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
    use lockmesh::proto::id::NodeId;
    use lockmesh::proto::roster::Roster;

    #[test]
    fn every_seed_draws_a_roster_that_can_be() {
        for seed in 0..2_000 {
            let settings = Settings::draw(seed, None);
            let members = (0..settings.members)
                .map(|n| NodeId::new(format!("n{n}")).unwrap())
                .collect();
            let roster = Roster::new(1, members, settings.voters_per_key, settings.timing);
            assert!(roster.is_ok(), "seed {seed}: {roster:?}");
        }
    }
}
