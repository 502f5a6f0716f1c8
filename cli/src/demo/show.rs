//! What the demo says: short dated lines, on a terminal as in a file.

use std::io::Write;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lockmesh::Epoch;

use super::ledger::Row;

/// How many low bits of an epoch are its counter.
const COUNTER_BITS: u32 = 20;

/// Writes dated lines.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Show {
    start: Instant,
    start_wall_ms: u64,
}

impl Show {
    pub(crate) fn new() -> Self {
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            start: Instant::now(),
            start_wall_ms: u64::try_from(wall.as_millis()).unwrap_or_default(),
        }
    }

    pub(crate) fn start(&self) -> Instant {
        self.start
    }

    /// A line of its own, with the time before it.
    pub(crate) fn say(&self, text: &str) {
        let date = format!("[{:4.1} s]", self.start.elapsed().as_secs_f64());
        put(&format!("{date} {text}"));
    }

    /// A heading.
    pub(crate) fn phase(&self, text: &str) {
        put("");
        self.say(text);
    }

    /// An epoch as milliseconds of wall time since the start, and its counter.
    pub(crate) fn epoch(&self, epoch: Epoch) -> String {
        let ms = i128::from(epoch.wall_ms()) - i128::from(self.start_wall_ms);
        let counter = epoch.get() & ((1 << COUNTER_BITS) - 1);
        format!("e{ms}.{counter}")
    }

    /// Who holds what.
    pub(crate) fn table(&self, grants_per_s: f64, rows: &[Row]) {
        let cells: Vec<String> = rows
            .iter()
            .map(|row| {
                let holder = row.holder.map_or_else(
                    || "-".to_owned(),
                    |(who, epoch)| format!("{who} {}", self.epoch(epoch)),
                );
                format!("{}: {holder:<16}", row.key)
            })
            .collect();
        let line = format!("  {grants_per_s:5.0} grants/s | {}", cells.join(" | "));
        self.say(line.trim_end());
    }
}

/// Writes a line. Nobody who reads is no reason to fail.
pub(crate) fn put(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// A span, in the unit that reads best.
pub(crate) fn span(span: Duration) -> String {
    if span < Duration::from_secs(1) {
        format!("{:.1} ms", span.as_secs_f64() * 1e3)
    } else {
        format!("{:.2} s", span.as_secs_f64())
    }
}
