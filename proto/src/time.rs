//! Time as the rules see it: handed in, never asked for.
//!
//! There is no `now()` in this folder. Whoever drives the rules reads the clocks once, puts the
//! readings into a [`Now`], and hands it to the call. A world that repeats bit for bit, a model
//! checker and a production socket loop can then all drive the very same code.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A reading of one node's own monotonic clock, in nanoseconds since a start that only this node
/// knows. Readings of two nodes must never be compared; what travels is a span, or a send time that
/// is only echoed.
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize,
)]
pub struct Instant(u64);

impl Instant {
    /// The reading zero: before everything.
    pub const ZERO: Self = Self(0);
    /// A reading that no clock reaches.
    pub const FAR: Self = Self(u64::MAX);

    /// The reading that stands `nanos` nanoseconds after the clock's own start.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the clock's own start.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The span from `earlier` to this reading; zero where `earlier` is not earlier.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// This reading moved on by `span`, at most to [`Instant::FAR`].
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(nanos(span)))
    }

    /// This reading moved back by `span`, at most to [`Instant::ZERO`].
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

/// What the clocks of a node say at the moment of a call.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Now {
    /// The monotonic clock, which also counts the time that the machine was suspended. Leases
    /// are measured by it and by nothing else.
    pub mono: Instant,
    /// The wall clock, in milliseconds since the Unix epoch. It only seeds epochs; no lease
    /// depends on it.
    pub wall_ms: u64,
}

/// The earliest of these, where there is any.
#[must_use]
pub(crate) fn earliest<const N: usize>(readings: [Option<Instant>; N]) -> Option<Instant> {
    let earlier = |a: Option<Instant>, b: Option<Instant>| match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        _ => a.or(b),
    };
    readings.into_iter().fold(None, earlier)
}

/// A span in whole nanoseconds, at most `u64::MAX`.
#[must_use]
pub(crate) fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_of_none_is_none() {
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
