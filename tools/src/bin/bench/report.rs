//! The figures of a measurement, and their goals.

use hdrhistogram::Histogram;
use serde_json::{Map, Value};
use tools::{as_f64, put};

use crate::kinds::{self, Cost};
use crate::restarts::{self, Restarts};
use crate::turns::{Contended, Count, Single};

/// The figures of one service; `None` if it was not measured.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    pub(crate) one: Option<Single>,
    pub(crate) five: Option<Single>,
    /// Over links with a delay, with three and with five voters.
    pub(crate) link: Option<Single>,
    pub(crate) link_five: Option<Single>,
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
    /// The times of an append and `fdatasync`.
    pub(crate) syncs: Option<Histogram<u64>>,
    /// The costs of each kind of lock.
    pub(crate) kinds: Vec<Cost>,
    /// The costs of restarts.
    pub(crate) restarts: Vec<Restarts>,
}

/// Returns a quantile in microseconds.
pub(crate) fn micros(of: &Histogram<u64>, quantile: f64) -> f64 {
    as_f64(of.value_at_quantile(quantile)) / 1e3
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

/// A figure: its names in the table and in JSON, its number of decimals, its goal and its value.
type Figure = (&'static str, &'static str, usize, Goal, Option<f64>);

macro_rules! figures {
    ($($what:literal $json:ident $digits:literal $goal:expr, $value:expr;)+) => {
        vec![$(($what, stringify!($json), $digits, $goal, $value)),+]
    };
}

fn figures(of: &Measured) -> Vec<Figure> {
    let single = |of: &Single, at| [micros(&of.rounds, at), micros(&of.acquires, at)];
    let p50 = of.one.as_ref().map(|of| single(of, 0.5));
    let p99 = of.one.as_ref().map(|of| single(of, 0.99));
    let link = of.link.as_ref().map(|of| single(of, 0.5));
    let link5 = of.link_five.as_ref().map(|of| single(of, 0.5));
    let five = of.five.as_ref().map(|of| single(of, 0.5));
    let ratio = |[round, acquire]: [f64; 2]| acquire / round;
    let per_s = of.cycles.map(|all| all.map(|of| of.per_s()));
    let cpu = of
        .cycles
        .map(|[round, cycle]| [round.cpu_each() * 2e4, cycle.cpu_each() * 1e4]);
    let handoffs = of.contended.as_ref().map(Contended::handoffs_per_s);
    let in_an_acquire = handoffs.zip(p50).map(|(per_s, [_, us])| per_s * us / 1e6);
    // Datagrams that lost a lock did not keep all.
    let kept = of
        .kept
        .filter(|(_, lost)| *lost == 0)
        .map(|(per_s, _)| per_s);
    let median = |of: &Option<Vec<f64>>| of.as_deref().map(median);
    figures! {
        "W1 bare round, p50 us" floor_p50_us 1 No, p50.map(|[it, _]| it);
        "W1 bare round, p99 us" floor_p99_us 1 No, p99.map(|[it, _]| it);
        "W1 acquire, p50 us" acquire_p50_us 1 No, p50.map(|[_, it]| it);
        "W1 acquire, p99 us" acquire_p99_us 1 No, p99.map(|[_, it]| it);
        "fdatasync of an append of 128 bytes, p50 us" fdatasync_p50_us 1 No, of.syncs.as_ref().map(|it| micros(it, 0.5));
        "W1 acquire / bare round" acquire_ratio 2 No, p50.map(ratio);
        "W1 bare round, five voters, p50 us" floor5_p50_us 1 No, five.map(|[it, _]| it);
        "W1 acquire, five voters, p50 us" acquire5_p50_us 1 No, five.map(|[_, it]| it);
        "W1 the ratio with five voters" acquire5_ratio 2 No, five.map(ratio);
        "W1 round of 2 x 200 us, p50 us" link_round_p50_us 1 No, link.map(|[it, _]| it);
        "W1 acquire / that round" link_ratio 2 AtMost(1.1), link.map(ratio);
        "W1 acquire / that round, five voters" link5_ratio 2 AtMost(1.1), link5.map(ratio);
        "W2 bare rounds/s" floor_rounds_per_s 0 No, per_s.map(|[it, _]| it);
        "W2 cycles/s" cycles_per_s 0 No, per_s.map(|[_, it]| it);
        "W2 cycles / (bare rounds / 2)" cycles_ratio 2 AtLeast(3.0), per_s.map(|it| 2.0 * ratio(it));
        "W3 hand-offs/s" handoffs_per_s 0 No, handoffs;
        "W3 hand-offs/s x acquire p50" handoff_ratio 4 AtLeast(0.5), in_an_acquire;
        "W3 Jain's index" jain 2 AtLeast(0.99), of.contended.as_ref().map(Contended::jain);
        "W3 times two held the key" overlaps 0 AtMost(0.0), of.overlaps.map(f64::from);
        "W4 take-over after the lease's end, ms" takeover_ms 1 AtMost(20.0), median(&of.after_end);
        "W4 grant after the holder's return, ms" return_ms 1 AtMost(20.0), median(&of.after_return);
        "W5 CPU s of 20,000 bare rounds" cpu_s_per_20k_rounds 2 No, cpu.map(|[it, _]| it);
        "W5 CPU s of 10,000 cycles" cpu_s_per_10k_cycles 2 No, cpu.map(|[_, it]| it);
        "W5 cycles / bare rounds" cpu_ratio 2 AtMost(1.0), cpu.map(ratio);
        "memory at a voter for each lock, bytes" lock_bytes 0 AtMost(200.0), of.memory;
        "keep: datagrams/s, 100,000 locks" keep_datagrams_per_s 2 AtMost(50.0), kept;
        "keep: locks lost" keep_lost 0 AtMost(0.0), of.kept.map(|(_, lost)| as_f64(lost as u64));
    }
}

/// Returns all figures of a service that were measured, for JSON.
pub(crate) fn json(of: &Measured) -> Map<String, Value> {
    let figures = figures(of)
        .into_iter()
        .filter_map(|(_, name, _, _, value)| {
            let thousandths = (value? * 1e3).round() / 1e3;
            Some((name.to_owned(), thousandths.into()))
        });
    let table = |name: &str, rows: Vec<Value>| {
        (!rows.is_empty()).then(|| (name.to_owned(), Value::from(rows)))
    };
    let kinds = table("kinds", of.kinds.iter().map(Cost::json).collect());
    let restarts = table("restarts", of.restarts.iter().map(Restarts::json).collect());
    figures.chain(kinds).chain(restarts).collect()
}

/// Prints a table with a column for each service, and those of kinds and restarts of the first. The
/// goals are those of the first.
pub(crate) fn print(services: &[(&str, Measured)]) {
    let all: Vec<Vec<Figure>> = services.iter().map(|(_, of)| figures(of)).collect();
    if all.iter().flatten().any(|(.., value)| value.is_some()) {
        print_figures(services, &all);
    }
    let Some((_, of)) = services.first() else {
        return;
    };
    if !of.kinds.is_empty() {
        kinds::print(&of.kinds);
    }
    if !of.restarts.is_empty() {
        restarts::print(&of.restarts);
    }
}

fn print_figures(services: &[(&str, Measured)], all: &[Vec<Figure>]) {
    let heads: String = services
        .iter()
        .map(|(name, _)| format!("{name:>17}"))
        .collect();
    put(&format!("{:<44}{:>8}{heads}", "what", "goal"));
    for (at, (what, _, digits, goal, own)) in all[0].iter().enumerate() {
        let cells = all.iter().map(|figures| figures[at].4);
        if cells.clone().all(|it| it.is_none()) {
            continue;
        }
        let (bound, is_met) = match goal {
            No => (String::new(), None),
            AtMost(most) => (format!("<= {most}"), own.map(|it| it <= *most)),
            AtLeast(least) => (format!(">= {least}"), own.map(|it| it >= *least)),
        };
        let cell = |it: Option<f64>| match it {
            Some(it) => format!("{it:>17.digits$}"),
            None => format!("{:>17}", "-"),
        };
        let cells: String = cells.map(cell).collect();
        let met = is_met.map_or("", |is_met| if is_met { "  met" } else { "  NOT MET" });
        put(&format!("{what:<44}{bound:>8}{cells}{met}"));
    }
}
