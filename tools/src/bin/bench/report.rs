//! The figures of a measurement, and their goals.

use serde_json::{Map, Value};
use tools::{as_f64, put};

use crate::turns::{Contended, Count, Single};

/// What was measured of one service; `None` for the rest.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    pub(crate) one: Option<Single>,
    pub(crate) five: Option<Single>,
    /// Bare rounds and cycles.
    pub(crate) cycles: Option<[Count; 2]>,
    pub(crate) contended: Option<Contended>,
    /// The number of times that two tasks held one key at once.
    pub(crate) overlaps: Option<u32>,
    /// The times from the end of a lease to the next grant, in milliseconds.
    pub(crate) after_end: Option<Vec<f64>>,
    /// The times from the holder's return to the next grant, in milliseconds.
    pub(crate) after_return: Option<Vec<f64>>,
    /// Bytes at a voter for each lock.
    pub(crate) memory: Option<f64>,
    /// Datagrams a second to each voter that keep many locks, and the number of locks lost.
    pub(crate) kept: Option<(f64, usize)>,
}

impl Measured {
    fn p50s(&self) -> Option<[f64; 2]> {
        self.one.as_ref().map(p50s)
    }

    fn cycle(&self) -> Option<[f64; 2]> {
        let [rounds, cycles] = self.cycles?;
        Some([rounds.per_s(), cycles.per_s()])
    }

    /// Returns the processor time of 20,000 bare rounds and of 10,000 cycles, in seconds.
    fn cpu(&self) -> Option<[f64; 2]> {
        let [rounds, cycles] = self.cycles?;
        Some([rounds.cpu_each() * 2e4, cycles.cpu_each() * 1e4])
    }

    fn handoffs(&self) -> Option<f64> {
        self.contended.as_ref().map(Contended::handoffs_per_s)
    }
}

/// Returns the medians of bare rounds and of acquisitions, in microseconds.
fn p50s(of: &Single) -> [f64; 2] {
    [
        quantile(of, 0.5, |it| &it.rounds),
        quantile(of, 0.5, |it| &it.acquires),
    ]
}

fn quantile(
    of: &Single,
    quantile: f64,
    which: fn(&Single) -> &hdrhistogram::Histogram<u64>,
) -> f64 {
    as_f64(which(of).value_at_quantile(quantile)) / 1e3
}

/// Returns the median of an odd number of figures.
fn median(of: &[f64]) -> f64 {
    let mut of = of.to_vec();
    of.sort_by(f64::total_cmp);
    of.get(of.len() / 2).copied().unwrap_or(f64::NAN)
}

enum Goal {
    No,
    AtMost(f64),
    AtLeast(f64),
}
use Goal::{AtLeast, AtMost, No};

type Figure = (
    &'static str,
    &'static str,
    usize,
    Goal,
    fn(&Measured) -> Option<f64>,
);

/// Every figure: its name in the table and in JSON, its number of decimals, its goal and value.
const FIGURES: [Figure; 23] = [
    ("W1 bare round, p50 us", "floor_p50_us", 1, No, |it| {
        Some(it.p50s()?[0])
    }),
    ("W1 bare round, p99 us", "floor_p99_us", 1, No, |it| {
        Some(quantile(it.one.as_ref()?, 0.99, |it| &it.rounds))
    }),
    ("W1 acquire, p50 us", "acquire_p50_us", 1, No, |it| {
        Some(it.p50s()?[1])
    }),
    ("W1 acquire, p99 us", "acquire_p99_us", 1, No, |it| {
        Some(quantile(it.one.as_ref()?, 0.99, |it| &it.acquires))
    }),
    (
        "W1 acquire / bare round",
        "acquire_ratio",
        2,
        AtMost(1.3),
        |it| it.p50s().map(|[round, acquire]| acquire / round),
    ),
    (
        "W1 bare round, five voters, p50 us",
        "floor5_p50_us",
        1,
        No,
        |it| Some(p50s(it.five.as_ref()?)[0]),
    ),
    (
        "W1 acquire, five voters, p50 us",
        "acquire5_p50_us",
        1,
        No,
        |it| Some(p50s(it.five.as_ref()?)[1]),
    ),
    (
        "W1 the ratio with five voters",
        "acquire5_ratio",
        2,
        AtMost(1.3),
        |it| {
            it.five
                .as_ref()
                .map(p50s)
                .map(|[round, acquire]| acquire / round)
        },
    ),
    ("W2 bare rounds/s", "floor_rounds_per_s", 0, No, |it| {
        Some(it.cycle()?[0])
    }),
    ("W2 cycles/s", "cycles_per_s", 0, No, |it| {
        Some(it.cycle()?[1])
    }),
    (
        "W2 cycles / (bare rounds / 2)",
        "cycles_ratio",
        2,
        AtLeast(3.0),
        |it| it.cycle().map(|[rounds, cycles]| cycles / (rounds / 2.0)),
    ),
    (
        "W3 hand-offs/s",
        "handoffs_per_s",
        0,
        No,
        Measured::handoffs,
    ),
    (
        "W3 hand-offs/s x acquire p50",
        "handoff_ratio",
        4,
        AtLeast(0.5),
        |it| Some(it.handoffs()? * it.p50s()?[1] / 1e6),
    ),
    ("W3 Jain's index", "jain", 2, AtLeast(0.99), |it| {
        it.contended.as_ref().map(Contended::jain)
    }),
    (
        "W3 times two held the key",
        "overlaps",
        0,
        AtMost(0.0),
        |it| it.overlaps.map(f64::from),
    ),
    (
        "W4 take-over after the lease's end, ms",
        "takeover_ms",
        1,
        AtMost(20.0),
        |it| it.after_end.as_deref().map(median),
    ),
    (
        "W4 grant after the holder's return, ms",
        "return_ms",
        1,
        AtMost(20.0),
        |it| it.after_return.as_deref().map(median),
    ),
    (
        "W5 CPU s of 20,000 bare rounds",
        "cpu_s_per_20k_rounds",
        2,
        No,
        |it| Some(it.cpu()?[0]),
    ),
    (
        "W5 CPU s of 10,000 cycles",
        "cpu_s_per_10k_cycles",
        2,
        No,
        |it| Some(it.cpu()?[1]),
    ),
    (
        "W5 cycles / bare rounds",
        "cpu_ratio",
        2,
        AtMost(1.0),
        |it| it.cpu().map(|[rounds, cycles]| cycles / rounds),
    ),
    (
        "memory at a voter for each lock, bytes",
        "lock_bytes",
        0,
        AtMost(200.0),
        |it| it.memory,
    ),
    (
        "keep: datagrams/s to a voter, 100,000 locks",
        "keep_datagrams_per_s",
        2,
        AtMost(50.0),
        |it| {
            // Datagrams that lost a lock did not keep all.
            it.kept
                .filter(|(_, lost)| *lost == 0)
                .map(|(per_s, _)| per_s)
        },
    ),
    ("keep: locks lost", "keep_lost", 0, AtMost(0.0), |it| {
        it.kept.map(|(_, lost)| as_f64(lost as u64))
    }),
];

/// Returns all figures of a service that were measured, for JSON.
pub(crate) fn json(of: &Measured) -> Map<String, Value> {
    let figures = FIGURES.iter().filter_map(|(_, name, _, _, value)| {
        let thousandths = (value(of)? * 1e3).round() / 1e3;
        Some(((*name).to_owned(), thousandths.into()))
    });
    figures.collect()
}

/// Prints a table with a column for each service. The goals are those of the first.
pub(crate) fn print(services: &[(&str, Measured)]) {
    let heads: String = services
        .iter()
        .map(|(name, _)| format!("{name:>17}"))
        .collect();
    put(&format!("{:<44}{:>8}{heads}", "what", "goal"));
    for (what, _, digits, goal, value) in &FIGURES {
        let cells: Vec<Option<f64>> = services.iter().map(|(_, of)| value(of)).collect();
        if cells.iter().all(Option::is_none) {
            continue;
        }
        let (bound, is_met) = match goal {
            No => (String::new(), None),
            AtMost(most) => (format!("<= {most}"), cells[0].map(|it| it <= *most)),
            AtLeast(least) => (format!(">= {least}"), cells[0].map(|it| it >= *least)),
        };
        let cell = |figure: &Option<f64>| match figure {
            Some(figure) => format!("{figure:>17.digits$}"),
            None => format!("{:>17}", "-"),
        };
        let cells: String = cells.iter().map(cell).collect();
        let met = is_met.map_or("", |is_met| if is_met { "  met" } else { "  NOT MET" });
        put(&format!("{what:<44}{bound:>8}{cells}{met}"));
    }
}
