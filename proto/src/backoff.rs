//! The intervals between a claimant's retransmissions.

use std::time::Duration;

use super::rng::Jitter;
use super::time::nanos;
use super::voter_set::VoterSet;

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

/// Returns a random duration below `span`.
pub(crate) fn chance_within(span: Duration, jitter: &mut Jitter) -> Duration {
    Duration::from_nanos(jitter.below(nanos(span)))
}

/// Returns `backoff` shortened by up to a quarter, so that claims which started together drift
/// apart. It is never longer, since an interval is also a bound.
pub(crate) fn jittered(backoff: Duration, jitter: &mut Jitter) -> Duration {
    backoff - Duration::from_nanos(jitter.below(nanos(backoff) / 4))
}
