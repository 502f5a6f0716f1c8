//! How long a claimant waits before it says something again.

use std::time::Duration;

use super::rng::Jitter;
use super::time::nanos;
use super::voter_set::VoterSet;

/// A claim that waits repeats itself every so many round trips: only to stay in the queue, since
/// the voter tells it unasked when its turn comes.
const WAITING_ROUND_TRIPS: u32 = 50;

/// How long to wait for an answer that has not come `unanswered` times: twice a round trip,
/// doubled each time, never slower than the interval of those that wait.
pub(crate) fn retransmit_backoff(ttl: Duration, voter_set: &VoterSet, unanswered: u32) -> Duration {
    let soon = voter_set.timing().round_trip * (2 << unanswered.min(6));
    soon.min(queue_interval(ttl, voter_set))
}

/// Rule 14: every 50 round trips, at most a quarter of the ttl.
pub(crate) fn queue_interval(ttl: Duration, voter_set: &VoterSet) -> Duration {
    (voter_set.timing().round_trip * WAITING_ROUND_TRIPS).min(ttl / 4)
}

/// How long one that asks for many waits at the most before it asks again: a voter that votes again
/// has all their votes back well within a lease.
pub(crate) fn sweep_interval(ttl: Duration, voter_set: &VoterSet) -> Duration {
    queue_interval(ttl, voter_set).min((ttl / 12).max(voter_set.timing().round_trip))
}

/// Any span shorter than this, by chance.
pub(crate) fn chance_within(span: Duration, jitter: &mut Jitter) -> Duration {
    Duration::from_nanos(jitter.below(nanos(span)))
}

/// Up to a quarter shorter, so that those who began together do not stay together; never longer,
/// since an interval is also a bound.
pub(crate) fn jittered(backoff: Duration, jitter: &mut Jitter) -> Duration {
    backoff - Duration::from_nanos(jitter.below(nanos(backoff) / 4))
}
