//! What a voter keeps for one key: whom it has given its vote, and who waits for it.

use std::time::Duration;

use super::epoch::Epoch;
use super::id::ClaimId;
use super::message::Claim;
use super::time::Instant;

/// A claim as a voter last heard of it.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Heard {
    pub(crate) claim: ClaimId,
    pub(crate) epoch: Epoch,
    /// What it asked for, at most `max_ttl`.
    pub(crate) ttl: Duration,
    /// Its clock, echoed.
    pub(crate) stamp: Instant,
    /// The voter's clock when `stamp` came.
    pub(crate) heard: Instant,
    pub(crate) won: bool,
    pub(crate) is_try: bool,
}

impl Heard {
    pub(crate) fn new(now: Instant, msg: &Claim, max_ttl: Duration) -> Self {
        Self {
            claim: msg.claim.clone(),
            epoch: msg.epoch,
            ttl: msg.ttl.min(max_ttl),
            stamp: msg.stamp,
            heard: now,
            won: msg.won,
            is_try: msg.is_try,
        }
    }

    /// Whether it comes before `other`: claims that have won first, then by epoch, then by claim
    /// id. Without the id, claims of equal epochs would wait for each other for ever.
    pub(crate) fn is_before(&self, other: &Self) -> bool {
        self.rank() < other.rank()
    }

    fn rank(&self) -> (bool, Epoch, Option<&ClaimId>) {
        (
            !self.won,
            self.epoch,
            (!mistaken!(EqualEpochsNotOrdered)).then_some(&self.claim),
        )
    }

    /// Whether the fence shuts it out. It never does once the claim has won: a claim that is
    /// still valid has had a majority all along, so no other can have won since.
    pub(crate) fn is_below(&self, fence: Epoch) -> bool {
        let counts = !self.won || mistaken!(WonHeldAgainstFence);
        counts && self.epoch <= fence && !mistaken!(FenceIgnored)
    }
}

/// The vote that is out.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct GivenVote {
    pub(crate) to: Heard,
    /// When the voter may give it to another. It never moves back.
    pub(crate) expires: Instant,
    /// When its holder was last asked whether it is still there.
    pub(crate) asked: Option<Instant>,
}

/// One key that is held or waited for. Where there is no vote out there is no slot: a voter keeps
/// a queue only while its vote is out.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Slot {
    /// The highest epoch of a claim that has won, or whose vote ended here other than by being
    /// given back.
    pub(crate) fence: Epoch,
    pub(crate) vote: GivenVote,
    /// In order; never the claim that has the vote.
    queue: Vec<Heard>,
}

impl Slot {
    pub(crate) fn new(fence: Epoch, vote: GivenVote) -> Self {
        Self {
            fence,
            vote,
            queue: Vec::new(),
        }
    }

    pub(crate) fn queue(&self) -> &[Heard] {
        &self.queue
    }

    pub(crate) fn waiter(&self, claim: &ClaimId) -> Option<&Heard> {
        self.queue.iter().find(|waiter| waiter.claim == *claim)
    }

    /// Whether an earlier claim waits for a vote whose holder has not won.
    pub(crate) fn wants_back(&self) -> bool {
        let to = &self.vote.to;
        !to.won && self.queue.first().is_some_and(|head| head.is_before(to))
    }

    pub(crate) fn raise_fence(&mut self, epoch: Epoch) {
        self.fence = self.fence.max(epoch);
    }

    /// Puts a claim into the queue, in order. Only a newer stamp replaces what is there; `won`
    /// sticks. Answers how many wait before it.
    pub(crate) fn enqueue(&mut self, mut entry: Heard) -> usize {
        if let Some(at) = self
            .queue
            .iter()
            .position(|waiter| waiter.claim == entry.claim)
        {
            let old = self.queue.remove(at);
            let won = old.won || entry.won;
            if old.stamp >= entry.stamp {
                entry = old;
            }
            entry.won = won;
        }
        let at = self
            .queue
            .partition_point(|waiter| waiter.is_before(&entry));
        self.queue.insert(at, entry);
        at
    }

    pub(crate) fn remove_waiter(&mut self, claim: &ClaimId) -> Option<Heard> {
        let at = self
            .queue
            .iter()
            .position(|waiter| waiter.claim == *claim)?;
        Some(self.queue.remove(at))
    }

    /// Takes those out of the queue for whom `leaves` says so, in order.
    pub(crate) fn take_waiters(&mut self, mut leaves: impl FnMut(&Heard) -> bool) -> Vec<Heard> {
        if self.queue.is_empty() {
            return Vec::new();
        }
        let (gone, kept) = std::mem::take(&mut self.queue)
            .into_iter()
            .partition(|w| leaves(w));
        self.queue = kept;
        gone
    }

    /// The first in the queue, taken out of it.
    pub(crate) fn pop_head(&mut self) -> Option<Heard> {
        if mistaken!(Barging) && self.vote.to.won {
            return self.queue.pop();
        }
        if self.queue.is_empty() {
            None
        } else {
            Some(self.queue.remove(0))
        }
    }

    /// A mistake: those that are gone stay in the queue, and it waits for them. Answers whether it
    /// may go on to the others.
    pub(crate) fn skip(&mut self, is_gone: impl Fn(&Heard) -> bool) -> bool {
        !self.queue.first().is_some_and(is_gone)
    }
}
