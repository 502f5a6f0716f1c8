//! The table of all measurements.

use serde_json::{Map, Value, json};

use super::client::Kind;
use super::measure::Measured;
use crate::report::{Figures, median, micros};
use crate::turns::{Contended, Count};
use tools::put;

/// The figures of one service.
pub(super) struct Line {
    name: &'static str,
    floor_us: Option<f64>,
    acquire_us: Option<f64>,
    rounds: Option<Count>,
    cycles: Option<Count>,
    handoffs_per_s: Option<f64>,
    jain: Option<f64>,
    overlaps: u32,
    takeover_ms: Option<f64>,
    return_ms: Option<f64>,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Redis => "redis, one",
            Self::Redlock => "redlock, three",
            Self::Etcd => "etcd, three",
        }
    }
}

impl Line {
    pub(super) fn of_mesh(mesh: &Figures) -> Self {
        let p50 = |of: &hdrhistogram::Histogram<u64>| micros(of, 0.5);
        let one = mesh.one.as_ref();
        let floor = one.map(|one| &one.floor).filter(|floor| !floor.is_empty());
        let contended = mesh.contended.as_ref();
        let crashes = mesh.crashes.as_ref();
        Self {
            name: "lockmesh, three",
            floor_us: floor.map(p50),
            acquire_us: one.map(|one| p50(&one.acquire)),
            rounds: mesh.rounds,
            cycles: mesh.cycles,
            handoffs_per_s: contended.map(|of| of.handoffs.per_s()),
            jain: contended.map(Contended::jain),
            overlaps: 0,
            takeover_ms: crashes.map(|of| median(&of.after_end)),
            return_ms: crashes.map(|of| median(&of.after_return)),
        }
    }

    pub(super) fn of(kind: Kind, measured: &Measured) -> Self {
        let single = measured.single.as_ref();
        let contended = measured.contended.as_ref();
        Self {
            name: kind.name(),
            floor_us: single.map(|(floor, _)| micros(floor, 0.5)),
            acquire_us: single.map(|(_, acquire)| micros(acquire, 0.5)),
            rounds: measured.rounds,
            cycles: measured.cycles,
            handoffs_per_s: contended.map(|of| of.handoffs.per_s()),
            jain: contended.map(Contended::jain),
            overlaps: measured.overlaps,
            takeover_ms: measured.after_end.as_deref().map(median),
            return_ms: None,
        }
    }

    /// Returns every figure with its name in JSON and its number of decimals.
    fn figures(&self) -> [(&'static str, Option<f64>, usize); 14] {
        let ratio = |a: Option<f64>, b: Option<f64>| Some(a? / b?);
        let per_s = |of: Option<Count>| of.map(|of| of.per_s());
        let cpu = |of: Option<Count>, count| of.map(|of| of.cpu_each() * count);
        let (cycles, rounds) = (per_s(self.cycles), per_s(self.rounds));
        let (cycles_cpu, rounds_cpu) = (cpu(self.cycles, 1e4), cpu(self.rounds, 2e4));
        let in_an_acquire = self.handoffs_per_s.zip(self.acquire_us);
        [
            ("floor_p50_us", self.floor_us, 1),
            ("acquire_p50_us", self.acquire_us, 1),
            ("acquire_ratio", ratio(self.acquire_us, self.floor_us), 2),
            ("floor_rounds_per_s", rounds, 0),
            ("cycles_per_s", cycles, 0),
            ("cycles_ratio", ratio(cycles, rounds.map(|it| it / 2.0)), 2),
            ("handoffs_per_s", self.handoffs_per_s, 0),
            ("handoff_ratio", in_an_acquire.map(|(a, b)| a * b / 1e6), 4),
            ("jain", self.jain, 2),
            ("takeover_ms", self.takeover_ms, 1),
            ("return_ms", self.return_ms, 1),
            ("cpu_s_per_20k_rounds", rounds_cpu, 2),
            ("cpu_s_per_10k_cycles", cycles_cpu, 2),
            ("cpu_ratio", ratio(cycles_cpu, rounds_cpu), 2),
        ]
    }
}

/// The names of the figures in the table, in their order.
const NAMES: [&str; 14] = [
    "W1 bare round, p50 us",
    "W1 acquire, p50 us",
    "W1 acquire / bare round",
    "W2 bare rounds/s, 64 in flight",
    "W2 cycles/s",
    "W2 cycles / (bare rounds / 2)",
    "W3 hand-offs/s",
    "W3 hand-offs/s x acquire p50",
    "W3 Jain's index",
    "W4 take-over after the lease's end, ms",
    "W4 grant after the holder's return, ms",
    "W5 CPU s of 20,000 bare rounds",
    "W5 CPU s of 10,000 cycles, servers too",
    "W5 cycles / bare rounds",
];

/// Prints the table and, with `json`, one JSON object as the last line.
pub(super) fn print(lines: &[Line], json: bool) {
    put("");
    let heads: String = lines.iter().map(|it| format!("{:>17}", it.name)).collect();
    put(&format!("{:<39}{heads}", "beside"));
    for (at, name) in NAMES.iter().enumerate() {
        let cells = lines.iter().map(|line| {
            let (_, figure, digits) = line.figures()[at];
            let figure = figure.map_or_else(|| "-".to_owned(), |it| format!("{it:.digits$}"));
            format!("{figure:>17}")
        });
        put(&format!("{name:<39}{}", cells.collect::<String>()));
    }
    for line in lines.iter().filter(|line| line.overlaps > 0) {
        put(&format!(
            "{}: {} TIMES TWO HELD ONE KEY",
            line.name, line.overlaps
        ));
    }
    if json {
        let lines = lines.iter().map(|line| {
            let mut told = Map::new();
            told.insert("name".to_owned(), line.name.into());
            told.insert("overlaps".to_owned(), line.overlaps.into());
            for (name, figure, _) in line.figures() {
                if let Some(figure) = figure {
                    told.insert(name.to_owned(), figure.into());
                }
            }
            Value::Object(told)
        });
        put(&json!({ "compare": lines.collect::<Vec<_>>() }).to_string());
    }
}
