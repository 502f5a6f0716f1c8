//! The fencing token, and the clock from which it is drawn.
//!
//! An epoch is a reading of a hybrid logical clock (Kulkarni, Demirbas, Madeppa, Avva, Leone:
//! "Logical Physical Clocks", 2014): milliseconds of wall time in the high 44 bits, a counter in
//! the low 20. It is both the fencing token and the place in the queue. Wall time allows a voter to
//! forget idle keys. The counter keeps epochs rising if the wall clock does not rise.
//!
//! Rejected: a counter for each key, which must be kept for every key ever seen.

use std::fmt;
use std::num::TryFromIntError;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::time::Now;

/// The number of low bits of an epoch that count within one millisecond.
const COUNTER_BITS: u32 = 20;

/// A fencing token: the epochs of a key's successive holders strictly rise.
///
/// Pass it with each request to the protected resource. The resource must reject an epoch below the
/// highest that it has seen.
///
/// It is a reading of a hybrid logical clock (Kulkarni et al., "Logical Physical Clocks", 2014).
/// The high 44 bits are milliseconds since the Unix epoch, and the low 20 bits are a counter.
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize,
)]
pub struct Epoch(u64);

impl Epoch {
    /// The lowest epoch. No granted claim has it.
    pub const ZERO: Self = Self(0);

    /// Creates an epoch from its number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Returns the number, which may be stored, sent and compared.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Returns the next higher epoch.
    #[must_use]
    pub(crate) const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// Returns this epoch plus `ms` milliseconds.
    #[must_use]
    pub(crate) const fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(EpochClock::first_of(ms).0))
    }
}

/// The error returned if a text is not an epoch: digits, with or without an `e` before them.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not an epoch; it must be e and a number below 2^64, such as e1883216782828766043")]
pub struct EpochError;

impl FromStr for Epoch {
    type Err = EpochError;

    /// Parses what `Display` writes, or the number alone.
    fn from_str(text: &str) -> Result<Self, EpochError> {
        let digits = text.strip_prefix('e').unwrap_or(text);
        let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
        let number = digits.parse().ok().filter(|_| is_number);
        number.map(Self).ok_or(EpochError)
    }
}

impl From<u64> for Epoch {
    fn from(number: u64) -> Self {
        Self(number)
    }
}

impl From<Epoch> for u64 {
    fn from(epoch: Epoch) -> Self {
        epoch.0
    }
}

/// For databases without unsigned numbers. Epochs exceed `i64::MAX` from the year 2248.
impl TryFrom<Epoch> for i64 {
    type Error = TryFromIntError;

    fn try_from(epoch: Epoch) -> Result<Self, TryFromIntError> {
        epoch.0.try_into()
    }
}

impl TryFrom<i64> for Epoch {
    type Error = TryFromIntError;

    fn try_from(number: i64) -> Result<Self, TryFromIntError> {
        number.try_into().map(Self)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "e{}", self.0)
    }
}

/// A node's hybrid logical clock (Kulkarni et al., "Logical Physical Clocks", 2014).
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct EpochClock {
    last: Epoch,
}

impl EpochClock {
    /// Returns the first epoch of a millisecond of wall time, in milliseconds since the Unix epoch.
    #[must_use]
    pub const fn first_of(wall_ms: u64) -> Epoch {
        const WALL_MAX: u64 = u64::MAX >> COUNTER_BITS;
        let wall_ms = if wall_ms > WALL_MAX {
            WALL_MAX
        } else {
            wall_ms
        };
        Epoch(wall_ms << COUNTER_BITS)
    }

    /// Returns the wall time in the high bits of `epoch`, in milliseconds since the Unix epoch.
    #[must_use]
    pub const fn wall_ms(epoch: Epoch) -> u64 {
        epoch.0 >> COUNTER_BITS
    }

    /// Returns the highest epoch that is at most `max_clock_skew` ahead of the wall clock of `now`.
    /// A higher epoch comes from a wrong clock.
    #[must_use]
    pub fn limit(now: Now, max_clock_skew: Duration) -> Epoch {
        let skew_ms = u64::try_from(max_clock_skew.as_millis()).unwrap_or(u64::MAX);
        let next_ms = now.wall_ms.saturating_add(skew_ms).saturating_add(1);
        Epoch(Self::first_of(next_ms).0 - 1)
    }

    /// Draws an epoch above every epoch drawn or accepted before, and not below the wall clock.
    ///
    /// Earlier epochs more than `max_clock_skew` ahead of the wall clock are forgotten, since
    /// voters would refuse an epoch above them. The voters' fences keep epochs rising.
    pub fn draw(&mut self, now: Now, max_clock_skew: Duration) -> Epoch {
        self.forget_broken(now, max_clock_skew);
        self.last = self.last.next().max(Self::first_of(now.wall_ms));
        self.last
    }

    /// Draws an epoch above `fence`, for a claim that received `Stale` for the `stales`-th time in
    /// a row.
    ///
    /// The epoch is at least 2^(stales-1) ms above the fence, so that a distant node is not
    /// overtaken for ever. This leap ends at the [`limit`](Self::limit) that voters accept.
    pub fn draw_above(&mut self, now: Now, fence: Epoch, stales: u32, skew: Duration) -> Epoch {
        self.forget_broken(now, skew);
        let leap = 1u64 << stales.saturating_sub(1).min(40);
        let leapt = fence.plus_ms(leap).min(Self::limit(now, skew));
        self.last = self
            .last
            .next()
            .max(Self::first_of(now.wall_ms))
            .max(leapt)
            .max(fence.next());
        self.last
    }

    /// Advances the clock by `steps` from the last epoch, at most to the [`limit`](Self::limit)
    /// that voters accept. Returns the new last epoch.
    ///
    /// Without steps, nodes that draw within one millisecond or above one fence draw the same
    /// epoch. Once one of them is granted, the others receive `Stale` and lose their place.
    pub fn step(&mut self, now: Now, steps: u64, max_clock_skew: Duration) -> Epoch {
        let ahead = Epoch(self.last.0.saturating_add(steps));
        self.last = self.last.max(ahead.min(Self::limit(now, max_clock_skew)));
        self.last
    }

    /// Moves the clock past an epoch that was received. Returns `true` if the epoch is at most
    /// `max_clock_skew` ahead of the wall clock. A higher epoch leaves the clock unchanged.
    pub fn observe(&mut self, now: Now, seen: Epoch, max_clock_skew: Duration) -> bool {
        let believed = seen <= Self::limit(now, max_clock_skew);
        if believed {
            self.last = self.last.max(seen);
        }
        believed
    }

    fn forget_broken(&mut self, now: Now, max_clock_skew: Duration) {
        if self.last > Self::limit(now, max_clock_skew) {
            self.last = Epoch::ZERO;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SKEW: Duration = Duration::from_secs(1);

    fn at(wall_ms: u64) -> Now {
        Now {
            wall_ms,
            ..Now::default()
        }
    }

    #[test]
    fn draw_after_clock_setback_still_rises() {
        let mut clock = EpochClock::default();
        let first = clock.draw(at(5_000), SKEW);
        let second = clock.draw(at(4_000), SKEW);
        assert!(second > first);
        assert_eq!(EpochClock::wall_ms(first), 5_000);
    }

    #[test]
    fn draw_after_far_ahead_clock_follows_wall_clock() {
        let mut clock = EpochClock::default();
        clock.draw(at(9_000_000), SKEW);
        assert_eq!(clock.draw(at(5_000), SKEW), EpochClock::first_of(5_000));
        clock.draw(at(9_000_000), SKEW);
        let fence = EpochClock::first_of(5_100);
        let above = clock.draw_above(at(5_000), fence, 1, SKEW);
        assert_eq!(above, fence.plus_ms(1));
    }

    #[test]
    fn observe_beyond_skew_leaves_clock_unchanged() {
        let mut clock = EpochClock::default();
        assert!(clock.observe(at(5_000), EpochClock::first_of(6_000), SKEW));
        assert!(!clock.observe(at(5_000), EpochClock::first_of(6_001), SKEW));
        assert_eq!(
            clock.draw(at(5_000), SKEW),
            EpochClock::first_of(6_000).next()
        );
    }

    #[test]
    fn draw_above_after_repeated_stales_leaps_further() {
        let mut clock = EpochClock::default();
        let fence = EpochClock::first_of(5_000);
        assert_eq!(
            clock.clone().draw_above(at(5_000), fence, 1, SKEW),
            fence.plus_ms(1)
        );
        assert_eq!(
            clock.clone().draw_above(at(5_000), fence, 5, SKEW),
            fence.plus_ms(16)
        );
        // A leap ends at the limit, but the epoch is always above the fence.
        let leapt = clock.clone().draw_above(at(5_000), fence, 60, SKEW);
        assert_eq!(leapt, EpochClock::limit(at(5_000), SKEW));
        assert_eq!(clock.draw_above(at(1_000), fence, 60, SKEW), fence.next());
    }

    #[test]
    fn step_advances_last_epoch_up_to_limit() {
        let mut clock = EpochClock::default();
        let drawn = clock.draw(at(5_000), SKEW);
        let stepped = clock.step(at(5_000), 7, SKEW);
        assert_eq!(stepped.get(), drawn.get() + 7);
        assert_eq!(clock.draw(at(5_000), SKEW), stepped.next());
        let limit = EpochClock::limit(at(5_000), SKEW);
        assert_eq!(clock.step(at(5_000), u64::MAX, SKEW), limit);
        // A last epoch beyond the limit does not move.
        let beyond = clock.draw(at(5_000), SKEW);
        assert_eq!(clock.step(at(5_000), 7, SKEW), beyond);
    }

    #[test]
    fn epochs_in_far_future_do_not_overflow() {
        let end = EpochClock::first_of(u64::MAX);
        assert!(end.plus_ms(u64::MAX).next() >= end);
        assert!(EpochClock::limit(at(u64::MAX), Duration::MAX) >= Epoch::new(end.get() - 1));
    }
}
