//! What a voter keeps for one key: whom it has given its vote, and who waits for it.

use std::time::Duration;

use super::epoch::Epoch;
use super::id::{ClaimId, Key};
use super::message::Claim;
use super::session::SessionNo;
use super::time::Instant;

/// A claim that waits, as a voter last heard of it.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Heard {
    pub(crate) claim: ClaimId,
    pub(crate) epoch: Epoch,
    /// What it asked for, at most `max_ttl`.
    pub(crate) ttl: Duration,
    /// Its clock, echoed.
    pub(crate) sent_at: Instant,
    /// The voter's clock when `sent_at` came.
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

    /// Whether it comes before `other`.
    pub(crate) fn is_before(&self, other: &Self) -> bool {
        self.rank() < other.rank()
    }

    fn rank(&self) -> Rank<'_> {
        rank(self.granted, self.epoch, &self.claim)
    }

    /// Whether the fence shuts it out. It never does once the claim is granted: a claim that is
    /// still valid has had a quorum all along, so no other can are granted since.
    pub(crate) fn is_below(&self, fence: Epoch) -> bool {
        let counts = !self.granted || mistaken!(GrantedHeldAgainstFence);
        counts && self.epoch <= fence && !mistaken!(FenceIgnored)
    }
}

type Rank<'a> = (bool, Epoch, Option<&'a ClaimId>);

/// The order of claims: those that are granted first, then by epoch, then by claim id. Without the
/// id, claims of equal epochs would wait for each other for ever.
fn rank(granted: bool, epoch: Epoch, claim: &ClaimId) -> Rank<'_> {
    let id = (!mistaken!(EqualEpochsNotOrdered)).then_some(claim);
    (!granted, epoch, id)
}

/// The vote that is out. There may be a million of them: nothing is kept here that no rule asks
/// for again.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct GivenVote {
    pub(crate) claim: ClaimId,
    pub(crate) epoch: Epoch,
    /// The newest send time of its claimant.
    pub(crate) sent_at: Instant,
    /// The voter's clock when `sent_at` came.
    pub(crate) heard: Instant,
    /// When the voter may give it to another, unless a session covers it for longer. It never
    /// moves back.
    pub(crate) expires: Instant,
    /// When its holder was last asked whether it is still there; [`Instant::FAR`]: never.
    asked: Instant,
    pub(crate) granted: bool,
    /// `true` if it outlives its claimant's process.
    pub(crate) outlives: bool,
    /// Which session covers it, or has covered it.
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

    /// Whether its holder was not asked within the last `holder_probe_interval`.
    pub(crate) fn is_rested(&self, now: Instant, holder_probe_interval: Duration) -> bool {
        self.asked == Instant::FAR || now.since(self.asked) >= holder_probe_interval
    }

    pub(crate) fn note_asked(&mut self, now: Instant) {
        self.asked = now;
    }
}

/// One key that is held or waited for. Where there is no vote out there is no slot: a voter keeps
/// a queue only while its vote is out.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Slot {
    pub(crate) key: Key,
    /// The highest epoch of a granted claim, or whose vote ended here other than by being
    /// given back.
    pub(crate) fence: Epoch,
    pub(crate) vote: GivenVote,
    /// Few keys are waited for: no room is kept for a queue before there is one.
    queue: Option<Box<Queue>>,
}

/// In order; never the claim that has the vote.
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

    /// Whether an earlier claim waits for a vote whose holder is not granted.
    pub(crate) fn wants_back(&self) -> bool {
        let vote = &self.vote;
        let of_vote = || rank(vote.granted, vote.epoch, &vote.claim);
        let asks = !vote.granted && !mistaken!(NeverAskedBack);
        asks && self.queue().first().is_some_and(|it| it.rank() < of_vote())
    }

    pub(crate) fn raise_fence(&mut self, epoch: Epoch) {
        self.fence = self.fence.max(epoch);
    }

    /// Puts a claim into the queue, in order. Only a newer send time replaces what is there;
    /// `granted` sticks. Answers how many wait before it.
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

    /// Makes room for a claim in a queue of at most `waiters_max`: the last in it yields to one
    /// that comes before it. Answers the one that has no place then, which may be `entry` itself;
    /// `None` if there is room for all.
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

    /// Takes those out of the queue for whom `leaves` says so, in order.
    pub(crate) fn take_waiters(&mut self, leaves: impl Fn(&Heard) -> bool) -> Vec<Heard> {
        // Mostly there is none.
        let leave = |queue: &&mut Box<Queue>| queue.waiters.iter().any(&leaves);
        let Some(queue) = self.queue.as_mut().filter(leave) else {
            return Vec::new();
        };
        let gone = queue.waiters.extract_if(.., |waiter| leaves(waiter));
        let gone = gone.collect();
        self.drop_empty_queue();
        gone
    }

    /// The first in the queue, taken out of it.
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

    /// A mistake: those that are gone stay in the queue, and it waits for them. Answers whether it
    /// may go on to the others.
    pub(crate) fn skip(&mut self, is_gone: impl Fn(&Heard) -> bool) -> bool {
        !self.queue().first().is_some_and(is_gone)
    }

    fn drop_empty_queue(&mut self) {
        if self.queue().is_empty() {
            self.queue = None;
        }
    }
}
