//! When a claimant sends: intervals, jitter and send times.

use std::time::Duration;

use crate::time::{Instant, Now, nanos};
use crate::voter_set::{VoterSet, mix};

/// The retransmission interval of a waiting claim, in round trips. It only keeps the claim in the
/// queue: the voter sends its `Vote` unasked.
const WAITING_ROUND_TRIPS: u32 = 50;

/// Returns the wait after `unanswered` unanswered messages: two round trips, doubled each time, at
/// most [`queue_interval`].
pub(crate) fn retransmit_backoff(ttl: Duration, voter_set: &VoterSet, unanswered: u32) -> Duration {
    let soon = voter_set.timing().round_trip * (2 << unanswered.min(6));
    soon.min(queue_interval(ttl, voter_set))
}

/// Rule 14: returns 50 round trips, at most a quarter of the ttl.
pub(crate) fn queue_interval(ttl: Duration, voter_set: &VoterSet) -> Duration {
    (voter_set.timing().round_trip * WAITING_ROUND_TRIPS).min(ttl / 4)
}

/// Returns the longest retransmission interval of a message that stands for many claims. It is at
/// most a twelfth of the ttl, but at least a round trip. So a voter that votes again has all their
/// votes well within a lease.
pub(crate) fn sweep_interval(ttl: Duration, voter_set: &VoterSet) -> Duration {
    queue_interval(ttl, voter_set).min((ttl / 12).max(voter_set.timing().round_trip))
}

/// Jitter from a given seed: SplitMix64 (Steele, Lea, Flood, 2014). It has eight bytes of state,
/// and the same numbers for the same seed. Good enough to spread retransmissions, not for secrets.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Jitter(u64);

impl Jitter {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns a number below `bound`; zero if `bound` or the seed is zero.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        if self.0 == 0 {
            return 0;
        }
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let wide = u128::from(mix(self.0)) * u128::from(bound);
        (wide >> 64) as u64
    }

    /// Returns a random duration below `span`.
    pub(crate) fn within(&mut self, span: Duration) -> Duration {
        Duration::from_nanos(self.below(nanos(span)))
    }

    /// Returns `backoff` shortened by up to a quarter, so that claims which started together drift
    /// apart. It is never longer, since an interval is also a bound.
    pub(crate) fn shorten(&mut self, backoff: Duration) -> Duration {
        backoff - Duration::from_nanos(self.below(nanos(backoff) / 4))
    }
}

/// The send times of one sequence of messages. All differ, since a voter's answer names the message
/// by its send time.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct SendTimes {
    pub(crate) last: Instant,
    /// The most by which a send time was ever ahead of the clock. A promise is shortened by as
    /// much.
    pub(crate) ahead: Duration,
}

impl SendTimes {
    pub(crate) const NONE: Self = Self {
        last: Instant::ZERO,
        ahead: Duration::ZERO,
    };

    /// Returns a send time later than any before. If two fall on one instant, the second is ahead
    /// of the clock.
    pub(crate) fn next(&mut self, now: Now) -> Instant {
        self.last = now.mono.max(self.last.after(Duration::from_nanos(1)));
        self.ahead = self.ahead.max(self.last.since(now.mono));
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_draws_same_numbers_within_bound() {
        let (mut a, mut b) = (Jitter::new(7), Jitter::new(7));
        for bound in 0..1_000 {
            let drawn = a.below(bound);
            assert_eq!(drawn, b.below(bound));
            assert!(drawn < bound.max(1));
        }
    }
}
