//! The format of a scenario file.

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};
use toml::Spanned;

use crate::judge::KeyAt;

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

/// A whole number, 0 to 100.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Percent(u64);

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, tag = "kind", rename_all = "snake_case")]
pub(super) enum FaultAt {
    Split {
        at_ms: u64,
        for_ms: u64,
        groups: Vec<Vec<usize>>,
    },
    OneWay {
        at_ms: u64,
        for_ms: u64,
        mute: Vec<usize>,
    },
    Between {
        at_ms: u64,
        for_ms: u64,
        hosts: [usize; 2],
    },
    Flap {
        at_ms: u64,
        every_ms: u64,
        times: u32,
        hosts: [usize; 2],
    },
    Slow {
        at_ms: u64,
        for_ms: u64,
        host: usize,
        by_ms: u64,
    },
    Storm {
        at_ms: u64,
        for_ms: u64,
        loss_percent: Percent,
    },
    Crash {
        at_ms: u64,
        for_ms: u64,
        host: Who,
    },
    Pause {
        at_ms: u64,
        for_ms: u64,
        host: Who,
    },
    Suspend {
        at_ms: u64,
        for_ms: u64,
        host: Who,
    },
    WallJump {
        at_ms: u64,
        host: usize,
        by_ms: i64,
    },
    Drift {
        at_ms: u64,
        host: usize,
        rate_ppm: i64,
    },
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "a host's number, or \"holder\"")]
pub(super) enum Who {
    Host(usize),
    Holder(HolderWord),
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum HolderWord {
    Holder,
}

#[derive(Clone, Debug, Deserialize)]
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
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd)]
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

    fn visit_u64<E: Error>(self, value: u64) -> Result<Percent, E> {
        self.visit_i64(i64::try_from(value).unwrap_or(i64::MAX))
    }
}

impl Percent {
    pub(super) fn ppm(self) -> u64 {
        self.0 * 10_000
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
