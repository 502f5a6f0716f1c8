//! The format of a scenario file, and the bounds of its numbers.

use std::ops::RangeInclusive;

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};
use toml::Spanned;

use crate::judge::KeyAt;

/// The latest time and the longest duration: an hour.
const HOUR_MS: u64 = 3_600_000;
/// The longest delay of a link: ten seconds.
const LINK_US: u64 = 10_000_000;

/// A number of a file, with its name and its bounds.
pub(super) type Bound = (&'static str, u64, RangeInclusive<u64>);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) story: String,
    #[serde(default)]
    pub(super) seed: u64,
    pub(super) cluster: Spanned<Cluster>,
    pub(super) timing: Spanned<TimingMs>,
    pub(super) network: Option<Spanned<Net>>,
    pub(super) workload: Option<Spanned<Work>>,
    #[serde(default)]
    pub(super) fault: Vec<Spanned<toml::Table>>,
    #[serde(default)]
    pub(super) ask: Vec<Spanned<Ask>>,
    #[serde(default)]
    pub(super) expect: Vec<Spanned<Expect>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Cluster {
    pub(super) members: Spanned<usize>,
    #[serde(default)]
    pub(super) outsiders: usize,
    pub(super) voters_per_key: Spanned<usize>,
    /// The length of the fault phase.
    pub(super) span_ms: Spanned<u64>,
    /// `true` if the clocks keep `max_drift`; M1 and the laws that depend on it are judged only
    /// then.
    #[serde(default = "yes")]
    pub(super) clocks_kept: bool,
    #[serde(default)]
    pub(super) sealed: bool,
    #[serde(default)]
    pub(super) starts_in_quarantine: bool,
    #[serde(default)]
    pub(super) hostile_gossip: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TimingMs {
    pub(super) max_ttl_ms: u64,
    #[serde(default = "five_thousand")]
    pub(super) max_drift_ppm: u32,
    pub(super) max_clock_skew_ms: u64,
    pub(super) round_trip_ms: u64,
    pub(super) reservation_ms: u64,
    pub(super) holder_probe_interval_ms: u64,
}

impl TimingMs {
    pub(super) fn bounds(&self) -> Vec<Bound> {
        let ttl = self.max_ttl_ms;
        let ttl_min = self.round_trip_ms.max(1) * 10;
        vec![
            ("round_trip_ms", self.round_trip_ms, 1..=HOUR_MS / 10),
            ("max_ttl_ms", ttl, ttl_min..=HOUR_MS),
            ("max_clock_skew_ms", self.max_clock_skew_ms, 1..=ttl),
            ("reservation_ms", self.reservation_ms, 1..=ttl),
            (
                "holder_probe_interval_ms",
                self.holder_probe_interval_ms,
                1..=ttl,
            ),
        ]
    }
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Net {
    pub(super) delay_us_min: u64,
    pub(super) delay_us_max: u64,
    pub(super) jitter_us: u64,
    pub(super) loss_percent: Percent,
    pub(super) double_percent: Percent,
    pub(super) damage_percent: Percent,
}

impl Net {
    pub(super) fn bounds(&self) -> Vec<Bound> {
        vec![
            ("delay_us_min", self.delay_us_min, 0..=LINK_US),
            ("delay_us_max", self.delay_us_max, 0..=LINK_US),
            ("jitter_us", self.jitter_us, 0..=LINK_US),
        ]
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Work {
    pub(super) clients: usize,
    pub(super) keys: Option<Spanned<usize>>,
    pub(super) rest_max_ms: u64,
    pub(super) hold_max_ms: u64,
    pub(super) try_percent: Percent,
    pub(super) renew_percent: Percent,
    pub(super) withdraw_percent: Percent,
}

impl Work {
    pub(super) fn bounds(&self) -> Vec<Bound> {
        vec![
            ("clients", self.clients as u64, 0..=1_000),
            ("rest_max_ms", self.rest_max_ms, 0..=HOUR_MS),
            ("hold_max_ms", self.hold_max_ms, 0..=HOUR_MS),
        ]
    }
}

/// The time of a fault; the rest of its table is a [`FaultTable`].
#[derive(Debug, Deserialize)]
pub(super) struct When {
    pub(super) at_ms: u64,
}

/// A fault without its time.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, tag = "kind", rename_all = "snake_case")]
pub(super) enum FaultTable {
    Split {
        for_ms: u64,
        groups: Vec<Vec<usize>>,
    },
    OneWay {
        for_ms: u64,
        mute: Vec<usize>,
    },
    Between {
        for_ms: u64,
        hosts: [usize; 2],
    },
    Flap {
        every_ms: u64,
        times: u32,
        hosts: [usize; 2],
    },
    Slow {
        for_ms: u64,
        host: usize,
        by_ms: u64,
    },
    Storm {
        for_ms: u64,
        loss_percent: Percent,
    },
    Crash {
        for_ms: u64,
        host: Who,
    },
    Pause {
        for_ms: u64,
        host: Who,
    },
    Suspend {
        for_ms: u64,
        host: Who,
    },
    WallJump {
        host: usize,
        by_ms: i64,
    },
    Drift {
        host: usize,
        rate_ppm: i64,
    },
}

/// Returns the bounds of the absolute value of a number in the table of a fault.
pub(super) fn fault_bound(kind: &str, key: &str) -> Option<RangeInclusive<u64>> {
    Some(match (kind, key) {
        (_, "at_ms") => 0..=HOUR_MS,
        ("wall_jump", "by_ms") => 1..=1_000 * HOUR_MS,
        (_, "for_ms" | "every_ms" | "by_ms") => 1..=HOUR_MS,
        (_, "times") => 1..=10_000,
        // A clock at 10 % or 190 % of true time is broken enough.
        (_, "rate_ppm") => 0..=900_000,
        _ => return None,
    })
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "a host's number, or \"holder\"")]
pub(super) enum Who {
    Host(usize),
    Holder(HolderWord),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum HolderWord {
    Holder,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ask {
    pub(super) at_ms: u64,
    pub(super) hosts: Vec<usize>,
    #[serde(default)]
    pub(super) key: KeyAt,
    pub(super) ttl_ms: u64,
    #[serde(default)]
    pub(super) is_try: bool,
    #[serde(default)]
    pub(super) renews: bool,
    pub(super) hold_ms: u64,
}

impl Ask {
    pub(super) fn bounds(&self) -> Vec<Bound> {
        vec![
            ("at_ms", self.at_ms, 0..=HOUR_MS),
            ("hold_ms", self.hold_ms, 0..=HOUR_MS),
        ]
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Expect {
    /// One of the events that a scenario may count.
    pub(super) what: Counted,
    #[serde(default)]
    pub(super) from_ms: u64,
    pub(super) to_ms: Option<u64>,
    pub(super) hosts: Option<Vec<usize>>,
    #[serde(default)]
    pub(super) min: u64,
    pub(super) max: Option<u64>,
}

/// An event that a scenario may count.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Counted {
    Grants,
    Denied,
    Lost,
    WritesTaken,
    WritesRefused,
}

fn yes() -> bool {
    true
}

fn five_thousand() -> u32 {
    5_000
}

/// A whole number, 0 to 100.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Percent(u64);

impl Percent {
    pub(super) fn ppm(self) -> u64 {
        self.0 * 10_000
    }
}

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(PercentVisitor)
    }
}

struct PercentVisitor;

impl Visitor<'_> for PercentVisitor {
    type Value = Percent;

    fn expecting(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.write_str("a whole number of per cent, 0 to 100")
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Percent, E> {
        let percent = u64::try_from(value).ok().filter(|value| *value <= 100);
        let wrong = || E::invalid_value(Unexpected::Signed(value), &self);
        percent.map(Percent).ok_or_else(wrong)
    }
}

impl Default for Net {
    fn default() -> Self {
        Self {
            delay_us_min: 1_000,
            delay_us_max: 3_000,
            jitter_us: 500,
            loss_percent: Percent(0),
            double_percent: Percent(0),
            damage_percent: Percent(0),
        }
    }
}
