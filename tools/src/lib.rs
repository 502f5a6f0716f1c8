//! Helpers that the programs of this package share.
#![forbid(unsafe_code)]

pub mod page;
pub mod power;

use std::io::Write;
use std::time::Duration;

/// Writes a line to standard output. A closed output is not an error.
pub fn put(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// Returns whole milliseconds.
#[must_use]
pub fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// Returns a count as a figure to calculate with.
#[must_use]
pub fn as_f64(count: u64) -> f64 {
    #[expect(
        clippy::cast_precision_loss,
        reason = "of interest are the first few digits"
    )]
    let count = count as f64;
    count
}
