//! Time as an argument.
//!
//! This crate has no `now()`. The driver reads the clocks once for each call and passes the
//! readings as a [`Now`]. So a deterministic simulator, a model checker and a production socket
//! loop run the same code.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A reading of one node's monotonic clock, in nanoseconds since an origin that only this node
/// knows. Readings of two nodes must never be compared. Messages have only durations, and send
/// times that the receiver echoes.
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize,
)]
pub struct Instant(u64);

impl Instant {
    /// The earliest reading.
    pub const ZERO: Self = Self(0);
    /// The latest reading. No clock reaches it.
    pub const FAR: Self = Self(u64::MAX);

    /// Creates the reading `nanos` nanoseconds after the clock's origin.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Returns the nanoseconds since the clock's origin.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Returns the time from `earlier` to this reading, or zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Returns the reading `span` after this one, saturating at [`Instant::FAR`].
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(nanos(span)))
    }

    /// Returns the reading `span` before this one, saturating at [`Instant::ZERO`].
    #[must_use]
    pub fn before(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(nanos(span)))
    }
}

impl fmt::Display for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}ms", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

/// The clock readings of a node at the time of a call.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Now {
    /// The monotonic clock, which must also count time while the machine is suspended. Leases are
    /// measured by this clock alone.
    pub mono: Instant,
    /// The wall clock, in milliseconds since the Unix epoch. Epochs start from it. No lease depends
    /// on it.
    pub wall_ms: u64,
}

/// Returns the earliest reading, or `None` if there is none.
#[must_use]
pub(crate) fn earliest<const N: usize>(readings: [Option<Instant>; N]) -> Option<Instant> {
    let earlier = |a: Option<Instant>, b: Option<Instant>| match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        _ => a.or(b),
    };
    readings.into_iter().fold(None, earlier)
}

/// Returns a duration in nanoseconds, saturating at `u64::MAX`.
#[must_use]
pub(crate) fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn earliest_ignores_missing_readings() {
        let at = |nanos| Some(Instant::from_nanos(nanos));
        assert_eq!(earliest([at(2), None, at(1), at(3)]), at(1));
        assert_eq!(earliest([None, at(2)]), at(2));
        assert_eq!(earliest([None, None]), None);
    }

    #[test]
    fn readings_saturate_instead_of_wrapping() {
        assert_eq!(Instant::FAR.after(Duration::from_secs(1)), Instant::FAR);
        assert_eq!(Instant::ZERO.before(Duration::from_secs(1)), Instant::ZERO);
        assert_eq!(Instant::ZERO.since(Instant::FAR), Duration::ZERO);
        assert_eq!(nanos(Duration::MAX), u64::MAX);
    }
}
