//! The state of a voter for one key: the outstanding vote and the queue of waiting claims.

use std::time::Duration;

use super::epoch::Epoch;
use super::id::{ClaimId, Key};
use super::message::Claim;
use super::session::SessionNo;
use super::time::Instant;

/// A waiting claim, as last received by a voter.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Heard {
    pub(crate) claim: ClaimId,
    pub(crate) epoch: Epoch,
    /// The requested ttl, at most `max_ttl`.
    pub(crate) ttl: Duration,
    /// The claimant's clock when it sent the claim. A voter only echoes it.
    pub(crate) sent_at: Instant,
    /// The voter's clock when it received `sent_at`.
    pub(crate) heard: Instant,
    pub(crate) granted: bool,
    pub(crate) is_try: bool,
    pub(crate) outlives: bool,
}

impl Heard {
    pub(crate) fn new(now: Instant, msg: &Claim, max_ttl: Duration) -> Self {
        Self {
            claim: msg.claim.clone(),
            epoch: msg.epoch,
            ttl: msg.ttl.min(max_ttl),
            sent_at: msg.sent_at,
            heard: now,
            granted: msg.granted,
            is_try: msg.is_try,
            outlives: msg.outlives,
        }
    }

    /// Returns `true` if this claim comes before `other` in the queue.
    pub(crate) fn is_before(&self, other: &Self) -> bool {
        self.rank() < other.rank()
    }

    fn rank(&self) -> Rank<'_> {
        rank(self.granted, self.epoch, &self.claim)
    }

    /// Returns `true` if the fence excludes this claim (rule 3). It never excludes a granted claim:
    /// a valid one has had a quorum all along, so no other claim can have been granted since.
    pub(crate) fn is_below(&self, fence: Epoch) -> bool {
        let counts = !self.granted || mistaken!(GrantedHeldAgainstFence);
        counts && self.epoch <= fence && !mistaken!(FenceIgnored)
    }
}

type Rank<'a> = (bool, Epoch, Option<&'a ClaimId>);

/// Returns the sort key of a claim: granted claims first, then by epoch, then by claim id. Without
/// the id, claims of equal epochs could wait for each other for ever.
fn rank(granted: bool, epoch: Epoch, claim: &ClaimId) -> Rank<'_> {
    let id = (!mistaken!(EqualEpochsNotOrdered)).then_some(claim);
    (!granted, epoch, id)
}

/// The outstanding vote for a key. A voter may have a million, so this keeps only the fields that
/// the rules need again.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct GivenVote {
    pub(crate) claim: ClaimId,
    pub(crate) epoch: Epoch,
    /// The newest send time received from the claimant.
    pub(crate) sent_at: Instant,
    /// The voter's clock when it received `sent_at`.
    pub(crate) heard: Instant,
    /// When the vote expires, unless a session covers it for longer. Never moves back.
    pub(crate) expires: Instant,
    /// When the holder was last sent a `Vote` with `probe`; [`Instant::FAR`] if never.
    asked: Instant,
    pub(crate) granted: bool,
    /// `true` if the claim outlives its process.
    pub(crate) outlives: bool,
    /// The session that covers or covered the vote.
    pub(crate) session: SessionNo,
}

impl GivenVote {
    pub(crate) fn new(to: Heard, expires: Instant) -> Self {
        Self {
            claim: to.claim,
            epoch: to.epoch,
            sent_at: to.sent_at,
            heard: to.heard,
            expires,
            asked: Instant::FAR,
            granted: to.granted,
            outlives: to.outlives,
            session: SessionNo::NONE,
        }
    }

    /// Returns `true` if the holder was not probed within the last `holder_probe_interval`.
    pub(crate) fn is_rested(&self, now: Instant, holder_probe_interval: Duration) -> bool {
        self.asked == Instant::FAR || now.since(self.asked) >= holder_probe_interval
    }

    pub(crate) fn note_asked(&mut self, now: Instant) {
        self.asked = now;
    }
}

/// One key that is held or waited for. A slot exists only while its vote is outstanding.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Slot {
    pub(crate) key: Key,
    /// The highest epoch of a claim that was granted, or whose vote expired or ended with its
    /// incarnation.
    pub(crate) fence: Epoch,
    pub(crate) vote: GivenVote,
    /// Boxed and optional to keep slots small, since most keys have no waiters.
    queue: Option<Box<Queue>>,
}

/// The waiting claims in order, without the claim that has the vote.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
struct Queue {
    waiters: Vec<Heard>,
}

impl Slot {
    pub(crate) fn new(key: Key, fence: Epoch, vote: GivenVote) -> Self {
        Self {
            key,
            fence,
            vote,
            queue: None,
        }
    }

    pub(crate) fn queue(&self) -> &[Heard] {
        self.queue.as_ref().map_or(&[], |queue| &queue.waiters)
    }

    pub(crate) fn waiter(&self, claim: &ClaimId) -> Option<&Heard> {
        self.queue().iter().find(|waiter| waiter.claim == *claim)
    }

    /// Returns `true` if the holder is not granted and an earlier claim waits.
    pub(crate) fn wants_back(&self) -> bool {
        let vote = &self.vote;
        let of_vote = || rank(vote.granted, vote.epoch, &vote.claim);
        let asks = !vote.granted && !mistaken!(NeverAskedBack);
        asks && self.queue().first().is_some_and(|it| it.rank() < of_vote())
    }

    pub(crate) fn raise_fence(&mut self, epoch: Epoch) {
        self.fence = self.fence.max(epoch);
    }

    /// Inserts a claim into the queue, in order, and returns the number of claims before it. An
    /// older entry of the claim is replaced only by a newer send time. `granted` stays set once
    /// set.
    pub(crate) fn enqueue(&mut self, mut entry: Heard) -> usize {
        let waiters = &mut self.queue.get_or_insert_default().waiters;
        if let Some(at) = waiters
            .iter()
            .position(|waiter| waiter.claim == entry.claim)
        {
            let old = waiters.remove(at);
            let granted = old.granted || entry.granted;
            if old.sent_at >= entry.sent_at {
                entry = old;
            }
            entry.granted = granted;
        }
        let at = waiters.partition_point(|waiter| waiter.is_before(&entry));
        waiters.insert(at, entry);
        at
    }

    /// Makes a place for `entry` in a queue of at most `waiters_max` claims. If the queue is full,
    /// returns the claim left without a place: the last in the queue if `entry` comes before it,
    /// otherwise `entry`.
    pub(crate) fn make_room(&mut self, entry: &Heard, waiters_max: usize) -> Option<Heard> {
        let waiters = self.queue();
        let is_full = waiters.len() >= waiters_max && self.waiter(&entry.claim).is_none();
        let last = waiters.last().filter(|_| is_full)?;
        if mistaken!(FullQueuesStay) || !entry.is_before(last) {
            return Some(entry.clone());
        }
        let last = last.claim.clone();
        self.remove_waiter(&last)
    }

    pub(crate) fn remove_waiter(&mut self, claim: &ClaimId) -> Option<Heard> {
        let waiters = &mut self.queue.as_mut()?.waiters;
        let at = waiters.iter().position(|waiter| waiter.claim == *claim)?;
        let gone = waiters.remove(at);
        self.drop_empty_queue();
        Some(gone)
    }

    /// Removes all waiters for which `leaves` returns `true`, and returns them in order.
    pub(crate) fn take_waiters(&mut self, leaves: impl Fn(&Heard) -> bool) -> Vec<Heard> {
        // Usually there is none.
        let leave = |queue: &&mut Box<Queue>| queue.waiters.iter().any(&leaves);
        let Some(queue) = self.queue.as_mut().filter(leave) else {
            return Vec::new();
        };
        let gone = queue.waiters.extract_if(.., |waiter| leaves(waiter));
        let gone = gone.collect();
        self.drop_empty_queue();
        gone
    }

    /// Removes and returns the first claim in the queue.
    pub(crate) fn pop_head(&mut self) -> Option<Heard> {
        let barges = mistaken!(Barging) && self.vote.granted;
        let waiters = &mut self.queue.as_mut()?.waiters;
        let head = match waiters.is_empty() {
            true => None,
            false if barges => waiters.pop(),
            false => Some(waiters.remove(0)),
        };
        self.drop_empty_queue();
        head
    }

    /// Used only by the mutant `SkipInsteadOfDrop`: a waiter that is gone stays at the head and
    /// blocks the queue. Returns `true` if the head is not gone.
    pub(crate) fn skip(&mut self, is_gone: impl Fn(&Heard) -> bool) -> bool {
        !self.queue().first().is_some_and(is_gone)
    }

    fn drop_empty_queue(&mut self) {
        if self.queue().is_empty() {
            self.queue = None;
        }
    }
}
