//! The output of the demo: short lines with a time, for a terminal or a file.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lockmesh::Epoch;

use super::ledger::Row;
use tools::put;

/// The number of low bits of an epoch that are its counter.
const COUNTER_BITS: u32 = 20;

/// Writes lines with the time since the start.
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

    /// Writes a line with its time.
    pub(crate) fn say(&self, text: &str) {
        let date = format!("[{:4.1} s]", self.start.elapsed().as_secs_f64());
        put(&format!("{date} {text}"));
    }

    /// Writes a heading.
    pub(crate) fn phase(&self, text: &str) {
        put("");
        self.say(text);
    }

    /// Formats an epoch as milliseconds of wall time since the start, and its counter.
    pub(crate) fn epoch(&self, epoch: Epoch) -> String {
        let ms = i128::from(epoch.wall_ms()) - i128::from(self.start_wall_ms);
        let counter = epoch.get() & ((1 << COUNTER_BITS) - 1);
        format!("e{ms}.{counter}")
    }

    /// Writes the holders of all keys.
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

/// Formats a duration in milliseconds or seconds.
pub(crate) fn span(span: Duration) -> String {
    if span < Duration::from_secs(1) {
        format!("{:.1} ms", span.as_secs_f64() * 1e3)
    } else {
        format!("{:.2} s", span.as_secs_f64())
    }
}
