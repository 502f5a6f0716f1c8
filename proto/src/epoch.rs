//! The fencing number, and the clock that it is drawn from.
//!
//! An epoch is a reading of a hybrid logical clock (Kulkarni, Demirbas, Madeppa, Avva, Leone:
//! "Logical Physical Clocks", 2014): milliseconds of wall time in the high 44 bits, a counter in
//! the low 20. It is at once the fencing token and the place in the queue. A plain counter for
//! each key would have to be kept for every key ever seen; wall time lets an idle key be
//! forgotten, and the counter keeps epochs rising where the wall clock does not.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::time::Now;

/// How many of an epoch's bits count within one millisecond.
pub const COUNTER_BITS: u32 = 20;

/// A fencing token: the epochs of a key's successive owners strictly rise.
///
/// Hand it to whatever the lock protects, and let that refuse a lower epoch than the highest it
/// has seen.
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize,
)]
pub struct Epoch(u64);

impl Epoch {
    /// Below every epoch that is ever granted.
    pub const ZERO: Self = Self(0);

    /// The epoch with this number, as it was stored or sent.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number: store it, send it, compare it.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The first epoch of a millisecond of wall time.
    #[must_use]
    pub const fn at_wall_ms(wall_ms: u64) -> Self {
        const WALL_MAX: u64 = u64::MAX >> COUNTER_BITS;
        Self(
            if wall_ms > WALL_MAX {
                WALL_MAX
            } else {
                wall_ms
            } << COUNTER_BITS,
        )
    }

    /// The millisecond of wall time in the high bits.
    #[must_use]
    pub const fn wall_ms(self) -> u64 {
        self.0 >> COUNTER_BITS
    }

    /// The next higher epoch.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// This epoch, `ms` milliseconds later.
    #[must_use]
    pub const fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(Self::at_wall_ms(ms).0))
    }

    /// The highest epoch that a node whose wall clock says `now` believes in: what is further
    /// ahead comes from a broken clock.
    #[must_use]
    pub fn limit(now: Now, max_clock_skew: Duration) -> Self {
        let skew_ms = u64::try_from(max_clock_skew.as_millis()).unwrap_or(u64::MAX);
        Self(Self::at_wall_ms(now.wall_ms.saturating_add(skew_ms).saturating_add(1)).0 - 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "e{}", self.0)
    }
}

/// A node's hybrid logical clock.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct EpochClock {
    last: Epoch,
}

impl EpochClock {
    /// Draws an epoch above every one drawn or believed before, and not before the wall clock.
    /// Those that were drawn by a wall clock which has been set back since, by more than
    /// `max_clock_skew`, do not count: no voter would believe what is above them, and it is the
    /// voters' fences that keep epochs rising.
    pub fn draw(&mut self, now: Now, max_clock_skew: Duration) -> Epoch {
        self.forget_broken(now, max_clock_skew);
        self.last = self.last.next().max(Epoch::at_wall_ms(now.wall_ms));
        self.last
    }

    /// Draws an epoch above `fence`, for a claim that was told `Stale` for the `stales`-th time
    /// in a row: at least 2^(stales-1) ms above it, so that a far node is not overtaken for ever,
    /// but never for that beyond what others would believe.
    pub fn draw_above(&mut self, now: Now, fence: Epoch, stales: u32, skew: Duration) -> Epoch {
        self.forget_broken(now, skew);
        let leap = 1u64 << stales.saturating_sub(1).min(40);
        let leapt = fence.plus_ms(leap).min(Epoch::limit(now, skew));
        self.last = self
            .last
            .next()
            .max(Epoch::at_wall_ms(now.wall_ms))
            .max(leapt)
            .max(fence.next());
        self.last
    }

    /// Goes on from the epoch that was drawn last by so many steps, though never for that beyond
    /// what others would believe. Nodes that draw within one millisecond, or above one fence,
    /// would draw the same epoch otherwise, and all but one of them would lose their place when
    /// that one is granted.
    pub fn step(&mut self, now: Now, steps: u64, max_clock_skew: Duration) -> Epoch {
        let ahead = Epoch(self.last.0.saturating_add(steps));
        self.last = self.last.max(ahead.min(Epoch::limit(now, max_clock_skew)));
        self.last
    }

    /// Moves past an epoch that was seen. Answers whether it is to be believed: one that is
    /// further ahead of the own wall clock than `max_clock_skew` moves nothing.
    pub fn observe(&mut self, now: Now, seen: Epoch, max_clock_skew: Duration) -> bool {
        let believed = seen <= Epoch::limit(now, max_clock_skew);
        if believed {
            self.last = self.last.max(seen);
        }
        believed
    }

    fn forget_broken(&mut self, now: Now, max_clock_skew: Duration) {
        if self.last > Epoch::limit(now, max_clock_skew) {
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
    fn epochs_rise_though_the_wall_clock_is_set_back() {
        let mut clock = EpochClock::default();
        let first = clock.draw(at(5_000), SKEW);
        let second = clock.draw(at(4_000), SKEW);
        assert!(second > first);
        assert_eq!(first.wall_ms(), 5_000);
    }

    #[test]
    fn a_wall_clock_that_was_far_ahead_for_a_while_does_no_lasting_harm() {
        let mut clock = EpochClock::default();
        clock.draw(at(9_000_000), SKEW);
        assert_eq!(clock.draw(at(5_000), SKEW), Epoch::at_wall_ms(5_000));
        clock.draw(at(9_000_000), SKEW);
        let fence = Epoch::at_wall_ms(5_100);
        let above = clock.draw_above(at(5_000), fence, 1, SKEW);
        assert_eq!(above, fence.plus_ms(1));
    }

    #[test]
    fn an_epoch_from_a_broken_clock_is_not_believed() {
        let mut clock = EpochClock::default();
        assert!(clock.observe(at(5_000), Epoch::at_wall_ms(6_000), SKEW));
        assert!(!clock.observe(at(5_000), Epoch::at_wall_ms(6_001), SKEW));
        assert_eq!(clock.draw(at(5_000), SKEW), Epoch::at_wall_ms(6_000).next());
    }

    #[test]
    fn a_claim_told_stale_again_and_again_leaps_further_each_time() {
        let mut clock = EpochClock::default();
        let fence = Epoch::at_wall_ms(5_000);
        assert_eq!(
            clock.clone().draw_above(at(5_000), fence, 1, SKEW),
            fence.plus_ms(1)
        );
        assert_eq!(
            clock.clone().draw_above(at(5_000), fence, 5, SKEW),
            fence.plus_ms(16)
        );
        // Never beyond what others believe, yet always above the fence.
        let leapt = clock.clone().draw_above(at(5_000), fence, 60, SKEW);
        assert_eq!(leapt, Epoch::limit(at(5_000), SKEW));
        assert_eq!(clock.draw_above(at(1_000), fence, 60, SKEW), fence.next());
    }

    #[test]
    fn steps_go_on_from_the_last_epoch_as_far_as_others_believe() {
        let mut clock = EpochClock::default();
        let drawn = clock.draw(at(5_000), SKEW);
        let stepped = clock.step(at(5_000), 7, SKEW);
        assert_eq!(stepped.get(), drawn.get() + 7);
        assert_eq!(clock.draw(at(5_000), SKEW), stepped.next());
        let limit = Epoch::limit(at(5_000), SKEW);
        assert_eq!(clock.step(at(5_000), u64::MAX, SKEW), limit);
        // One that is beyond that already stays where it is.
        let beyond = clock.draw(at(5_000), SKEW);
        assert_eq!(clock.step(at(5_000), 7, SKEW), beyond);
    }

    #[test]
    fn the_far_future_does_not_overflow() {
        let end = Epoch::at_wall_ms(u64::MAX);
        assert!(end.plus_ms(u64::MAX).next() >= end);
        assert!(Epoch::limit(at(u64::MAX), Duration::MAX) >= Epoch::new(end.get() - 1));
    }
}
