//! The state of a voter for one key: the outstanding vote and the queue of waiting claims.

use std::collections::BTreeSet;
use std::time::Duration;

use super::VoterCtx;
use super::session::SessionNo;
use crate::description::count;
use crate::epoch::Epoch;
use crate::event::Effects;
use crate::id::{ClaimId, Key, NodeId, Note};
use crate::message::{
    Claim, HolderGranted, Message, NoteMessage, REPORTED_WAITERS_MAX, Refuse, RefuseReason,
    SessionId, Stale, Vote, Wait,
};
use crate::time::{Instant, Now};

/// The most notes that a voter keeps for one key: as many as a [`Report`](crate::Report) has claims.
const NOTES_MAX: usize = 1 + REPORTED_WAITERS_MAX;

/// A waiting claim, as last received by a voter.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct QueueEntry {
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

impl QueueEntry {
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

    /// Returns `true` if no claim of the waiter was received for its ttl, or for half of it if
    /// gossip reports its node as dead. Waiters retransmit at least every quarter of their ttl (rule
    /// 14). So a node that gossip wrongly reports as dead may lose one datagram and keep its place.
    pub(crate) fn is_gone(&self, now: Now, dead: &BTreeSet<NodeId>) -> bool {
        let is_dead = dead.contains(&self.claim.node);
        let patience = if is_dead { self.ttl / 2 } else { self.ttl };
        if is_dead && mistaken!(DeadWaitersGoAtOnce) {
            return true;
        }
        let heard = match mistaken!(GoneByTheirSentAt) {
            true => self.sent_at,
            false => self.heard,
        };
        now.mono.since(heard) >= patience
    }

    pub(crate) fn send_stale(&self, fence: Epoch, out: &mut Effects) {
        let claim = self.claim.clone();
        out.send(&self.claim.node, Message::Stale(Stale { claim, fence }));
    }
}

pub(crate) fn send_refuse(claim: &ClaimId, reason: RefuseReason, out: &mut Effects) {
    let refuse = Refuse {
        claim: claim.clone(),
        reason,
    };
    out.send(&claim.node, Message::Refuse(refuse));
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
    /// The longest ttl that the journal has for this vote.
    pub(crate) written: WrittenTtl,
}

/// A ttl in two bytes: milliseconds, rounded up to eleven significant bits.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub(crate) struct WrittenTtl(u16);

impl WrittenTtl {
    const BITS: u32 = 11;

    /// Returns the shortest such ttl that is at least `ttl`.
    pub(crate) fn of(ttl: Duration) -> Self {
        let millis = ttl.as_nanos().div_ceil(1_000_000);
        let millis = u32::try_from(millis).unwrap_or(u32::MAX);
        let shift = (u32::BITS - millis.leading_zeros()).saturating_sub(Self::BITS);
        match u64::from(millis).div_ceil(1 << shift) as u16 {
            // The next power of two.
            2_048 => Self(((shift + 1) << Self::BITS) as u16 | 1_024),
            bits => Self((shift << Self::BITS) as u16 | bits),
        }
    }

    /// Returns the ttl in milliseconds.
    pub(crate) fn millis(self) -> u32 {
        let (shift, bits) = (self.0 >> Self::BITS, self.0 & ((1 << Self::BITS) - 1));
        let millis = u64::from(bits) << shift;
        u32::try_from(millis).unwrap_or(u32::MAX)
    }

    /// Returns `true` if this ttl is at least `ttl`.
    pub(crate) fn covers(self, ttl: Duration) -> bool {
        Duration::from_millis(u64::from(self.millis())) >= ttl
    }
}

impl GivenVote {
    pub(crate) fn new(to: QueueEntry, expires: Instant) -> Self {
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
            written: WrittenTtl::default(),
        }
    }

    /// Returns `true` if the holder is silent ([`HolderGranted`]): its claim may be over.
    fn is_silent(&self, cx: &VoterCtx<'_>) -> bool {
        cx.now.mono.since(self.heard) >= cx.timing.holder_probe_interval
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
    /// Boxed and optional to keep slots small, since most keys have neither waiters nor notes.
    queue: Option<Box<Queue>>,
}

#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
struct Queue {
    /// The waiting claims in order, without the claim that has the vote.
    waiters: Vec<QueueEntry>,
    /// Notes of the claim that has the vote and of waiters, at most [`NOTES_MAX`]. Those of claims
    /// that are gone stay until there is no room, or the slot is closed.
    notes: Vec<KeptNote>,
}

/// The note of a claim.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct KeptNote {
    claim: ClaimId,
    note: Note,
    /// Since when the claim is known to have the vote; `None` if it waited then.
    holds_since: Option<Instant>,
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

    pub(crate) fn queue(&self) -> &[QueueEntry] {
        self.queue.as_ref().map_or(&[], |queue| &queue.waiters)
    }

    pub(crate) fn waiter(&self, claim: &ClaimId) -> Option<&QueueEntry> {
        self.queue().iter().find(|waiter| waiter.claim == *claim)
    }

    /// Returns `true` if the holder is not granted and an earlier claim waits.
    pub(crate) fn wants_back(&self) -> bool {
        let vote = &self.vote;
        let of_vote = || rank(vote.granted, vote.epoch, &vote.claim);
        let asks = !vote.granted && !mistaken!(NeverAskedBack);
        asks && self.queue().first().is_some_and(|it| it.rank() < of_vote())
    }

    /// Returns `true` if the holder is to be asked now whether it still counts the vote, and records
    /// it.
    pub(super) fn asks_holder(&mut self, cx: &VoterCtx<'_>) -> bool {
        let vote = &self.vote;
        let asked = (vote.asked != Instant::FAR).then_some(vote.asked);
        let interval = cx.timing.holder_probe_interval;
        let is_rested = asked.is_none_or(|asked| cx.now.mono.since(asked) >= interval);
        let may_be_over = !vote.granted || vote.is_silent(cx);
        let asks = may_be_over && is_rested && !mistaken!(HolderNotAsked) || self.wants_back();
        if asks {
            self.vote.asked = cx.now.mono;
        }
        asks
    }

    /// Keeps the note of a claim that has the vote or waits.
    pub(crate) fn keep_note(&mut self, now: Instant, claim: &ClaimId, note: &Note) {
        let holds = self.vote.claim == *claim;
        if !holds && self.waiter(claim).is_none() {
            return;
        }
        let holder = &self.vote.claim;
        let Queue { waiters, notes } = &mut **self.queue.get_or_insert_default();
        if let Some(known) = notes.iter_mut().find(|it| it.claim == *claim) {
            known.note.clone_from(note);
            known.holds_since = holds.then(|| known.holds_since.unwrap_or(now));
            return;
        }
        if notes.len() >= NOTES_MAX {
            let is_here = |claim: &ClaimId| {
                claim == holder || waiters.iter().any(|waiter| waiter.claim == *claim)
            };
            notes.retain(|it| is_here(&it.claim));
        }
        // That of the holder comes first.
        if notes.len() >= NOTES_MAX && holds {
            notes.pop();
        }
        if notes.len() < NOTES_MAX {
            notes.push(KeptNote {
                claim: claim.clone(),
                note: note.clone(),
                holds_since: holds.then_some(now),
            });
        }
    }

    /// Returns the kept note of a claim.
    pub(crate) fn note_of(&self, claim: &ClaimId) -> Option<&Note> {
        Some(&self.kept_note_of(claim)?.note)
    }

    fn kept_note_of(&self, claim: &ClaimId) -> Option<&KeptNote> {
        let notes = &self.queue.as_ref()?.notes;
        notes.iter().find(|it| it.claim == *claim)
    }

    pub(crate) fn raise_fence(&mut self, epoch: Epoch) {
        self.fence = self.fence.max(epoch);
    }

    /// Inserts a claim into the queue, in order, and returns the number of claims before it. An
    /// older entry of the claim is replaced only by a newer send time. `granted` stays set once
    /// set.
    pub(crate) fn enqueue(&mut self, mut entry: QueueEntry) -> usize {
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
    pub(crate) fn make_room(
        &mut self,
        entry: &QueueEntry,
        waiters_max: usize,
    ) -> Option<QueueEntry> {
        let waiters = self.queue();
        let is_full = waiters.len() >= waiters_max && self.waiter(&entry.claim).is_none();
        let last = waiters.last().filter(|_| is_full)?;
        if mistaken!(FullQueuesStay) || !entry.is_before(last) {
            return Some(entry.clone());
        }
        let last = last.claim.clone();
        self.remove_waiter(&last)
    }

    pub(crate) fn remove_waiter(&mut self, claim: &ClaimId) -> Option<QueueEntry> {
        let waiters = &mut self.queue.as_mut()?.waiters;
        let at = waiters.iter().position(|waiter| waiter.claim == *claim)?;
        let gone = waiters.remove(at);
        self.drop_empty_queue();
        Some(gone)
    }

    /// Removes all waiters for which `leaves` returns `true`, and returns them in order.
    pub(crate) fn take_waiters(&mut self, leaves: impl Fn(&QueueEntry) -> bool) -> Vec<QueueEntry> {
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
    pub(crate) fn pop_head(&mut self) -> Option<QueueEntry> {
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
    pub(crate) fn skip(&mut self, is_gone: impl Fn(&QueueEntry) -> bool) -> bool {
        !self.queue().first().is_some_and(is_gone)
    }

    /// Rule 8: the claim that has the vote is granted. Sends `Stale` to waiters that can no longer be
    /// granted, and `Wait` to `try` claims. Both leave the queue.
    pub(super) fn learn_granted(&mut self, cx: &mut VoterCtx<'_>) {
        if !mistaken!(FenceNotRaisedOnWin) {
            self.raise_fence(self.vote.epoch);
        }
        let fence = self.fence;
        for waiter in self.take_waiters(|waiter| waiter.is_below(fence)) {
            waiter.send_stale(fence, cx.out);
        }
        let tries = self.take_waiters(|w| w.is_try && !w.granted && !mistaken!(TriesUntold));
        for (ahead, waiter) in tries.iter().enumerate() {
            self.send_wait(cx, &waiter.claim, ahead);
        }
    }

    pub(crate) fn send_vote(&self, covered: Option<SessionId>, probe: bool, out: &mut Effects) {
        let given = &self.vote;
        let vote = Vote {
            key: self.key.clone(),
            claim: given.claim.clone(),
            sent_at: given.sent_at,
            ttl: given.expires.since(given.heard),
            yield_requested: self.wants_back(),
            probe,
            covered,
        };
        out.send(&given.claim.node, Message::Vote(vote));
    }

    /// Returns the state of the holder for a claim that waits. A holder is silent for a later
    /// incarnation of its node: that incarnation soon proves that it is over (rule 25).
    fn granted_for(&self, claim: &ClaimId, cx: &VoterCtx<'_>) -> HolderGranted {
        let holder = &self.vote;
        let is_later =
            claim.node == holder.claim.node && claim.incarnation > holder.claim.incarnation;
        let may_be_over = is_later && !holder.outlives && !mistaken!(EarlierIncarnationsDeny);
        match (holder.granted, holder.is_silent(cx) || may_be_over) {
            (false, false) => HolderGranted::No,
            (false, true) => HolderGranted::Unheard,
            (true, false) => HolderGranted::Yes,
            (true, true) => HolderGranted::Silent,
        }
    }

    /// Sends `Wait` to a claim that has `ahead` claims before it in the queue.
    pub(super) fn send_wait(&self, cx: &mut VoterCtx<'_>, claim: &ClaimId, ahead: usize) {
        let holder = &self.vote;
        let wait = Wait {
            key: self.key.clone(),
            claim: claim.clone(),
            holder: holder.claim.clone(),
            epoch: holder.epoch,
            granted: self.granted_for(claim, cx),
            ahead: count(ahead),
        };
        cx.out.send(&claim.node, Message::Wait(wait));
        if let Some(kept) = self.kept_note_of(&holder.claim) {
            let since = kept.holds_since.unwrap_or(cx.now.mono);
            let note = NoteMessage::OfHolder {
                claim: claim.clone(),
                node: holder.claim.node.clone(),
                epoch: holder.epoch,
                held_for: cx.now.mono.since(since),
                note: kept.note.clone(),
            };
            cx.out.send(&claim.node, Message::Note(Box::new(note)));
        }
    }

    fn drop_empty_queue(&mut self) {
        let is_empty = |queue: &Queue| queue.waiters.is_empty() && queue.notes.is_empty();
        if self.queue.as_deref().is_some_and(is_empty) {
            self.queue = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_ttl_is_rounded_up_by_less_than_a_thousandth() {
        let spans = [0, 1, 999, 2_047, 2_048, 2_049, 4_095, 10_000, 60_000];
        let spans = spans.into_iter().chain((0..27).map(|bit| (1 << bit) - 1));
        for millis in spans.chain([86_400_000, 86_399_999]) {
            let written = WrittenTtl::of(Duration::from_millis(millis));
            assert!(written.covers(Duration::from_millis(millis)), "{millis}");
            let more = u64::from(written.millis()) - millis;
            assert!(more * 1_000 <= millis, "{millis} ms and {more} more");
        }
        assert_eq!(WrittenTtl::of(Duration::from_nanos(1)).millis(), 1);
    }
}
