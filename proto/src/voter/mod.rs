//! The voter.
//!
//! A voter has one vote for each key. It gives the vote to one claim at a time, for a time that the
//! `Vote` names. It does not give the vote to another claim before that time has passed, unless the
//! first claim is over or its claimant no longer counts the vote. Later claims wait in order. This
//! gives mutual exclusion, since two quorums share a voter.
//!
//! Rule numbers refer to `docs/protocol.md`.
//!
//! Rejected: the claimant determines how long a vote lasts. Then a shrinking or clamped ttl frees a
//! vote while its holder still counts it.

mod journal;
mod kept_marks;
mod marks;
mod recovery;
mod revoked;
mod session;
mod slot;
mod table;

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::clocks::MayReturn;
use crate::description::{OtherSet, count};
use crate::digest::{Digest, DigestParts};
use crate::epoch::{Epoch, EpochClock};
use crate::event::{Effects, View};
use crate::id::{ClaimId, Incarnation, Key, NodeId, Note};
use crate::journal::{Memory, Record};
use crate::message::{
    Claim, KeepAlive, Message, REPORTED_WAITERS_MAX, RecoveryQuery, RecoveryReply, RefuseReason,
    Release, Report, ReportedVote, ReportedWaiter,
};
use crate::time::{Instant, Now, earliest};
use crate::voter_set::{Timing, VoterSet, fence_bucket_of};

pub(crate) use journal::SnapshotFrom;
pub(crate) use marks::MARK_REMAINS_MAX;
use marks::Marks;
pub use marks::{MARK_KEEP_MAX, MARKS_MAX};
use recovery::Recovery;
pub use recovery::Start;
use revoked::RevokedClaims;
use session::{SessionNo, Sessions};
use slot::{GivenVote, QueueEntry, send_refuse};
pub(crate) use table::{SlotAt, Slots};

/// The default number of fence buckets of a voter. They take 32 KiB.
const FENCE_BUCKETS: usize = 4_096;
/// The most votes that expire in one call, so that other work can run in between.
const EXPIRIES_MAX: usize = 1_000;
/// The most votes that a voter sends for one `KeepAlive` whose digest differs (rule 21).
pub(crate) const TOLD_MAX: usize = 128;
/// The most slots that a voter searches for these votes.
const LOOKED_AT_MAX: usize = 4_096;

/// Bounds on the memory of a voter.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct VoterLimits {
    /// The most keys that are held or waited for at once. A key of 16 bytes takes about 180 bytes.
    pub slots_max: usize,
    /// The most claims that wait for one key.
    pub waiters_max: usize,
    /// The number of fence buckets, for keys that have no slot. With more buckets, fewer claims on
    /// free keys receive `Stale` because of another key.
    pub fence_buckets: usize,
    /// The most votes that a voter without a journal leaves with others when it is shut down. With
    /// more it leaves none, and zero switches the handover off. If votes and marks together are
    /// more, the marks are left out, and its next process reads those of the others.
    pub handover_votes_max: usize,
    /// The most keys that are marked at once. A mark with a key of 32 bytes takes about 70 bytes.
    pub marks_max: usize,
}

impl Default for VoterLimits {
    fn default() -> Self {
        Self {
            slots_max: 1 << 20,
            waiters_max: 4_096,
            fence_buckets: FENCE_BUCKETS,
            handover_votes_max: 1 << 14,
            marks_max: MARKS_MAX,
        }
    }
}

/// The voter of one node: its votes, queues, fences and sessions.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Voter {
    me: NodeId,
    voter_set: Arc<VoterSet>,
    limits: VoterLimits,
    pub(crate) slots: Slots,
    sessions: Sessions,
    fence_buckets: Vec<Epoch>,
    /// The highest of `fence_buckets`, cached since each recovery reply needs it.
    highest_bucket: Epoch,
    marks: Marks,
    revoked: RevokedClaims,
    /// `None` once the voter votes.
    recovery: Option<Recovery>,
    /// `true` once a quarantine has ended. Such a voter may have forgotten votes, and cannot
    /// confirm that a cluster is new.
    forgot: bool,
    /// The nodes that gossip reports as dead. Advice only.
    dead: BTreeSet<NodeId>,
    /// `true` if what a next process must know is told as [`Effects::records`].
    keeps_journal: bool,
    /// The votes of the journal, until the voter resumes.
    memory: Option<Box<Memory>>,
    /// The reason why the voter, which is not in recovery, does not vote.
    closed: Option<RefuseReason>,
}

/// The arguments of each step of a call.
struct VoterCtx<'a> {
    now: Now,
    timing: Timing,
    out: &'a mut Effects,
}

impl Voter {
    /// Creates a voter without memory and begins its recovery. `nonce` must differ from that of
    /// every earlier start.
    #[must_use]
    pub fn new(
        now: Now,
        me: NodeId,
        voter_set: Arc<VoterSet>,
        limits: VoterLimits,
        start: Start,
        nonce: u64,
        out: &mut Effects,
    ) -> Self {
        let recovery = Recovery::new(now, &me, &voter_set, (start, None), nonce, out);
        let mut voter = Self::without_memory(me, voter_set, limits, nonce, recovery);
        voter.handle_timeout(now, out);
        voter
    }

    fn without_memory(
        me: NodeId,
        voter_set: Arc<VoterSet>,
        limits: VoterLimits,
        nonce: u64,
        recovery: Recovery,
    ) -> Self {
        Self {
            me,
            voter_set,
            limits,
            slots: Slots::default(),
            sessions: Sessions::new(nonce),
            fence_buckets: vec![Epoch::ZERO; limits.fence_buckets.max(1)],
            highest_bucket: Epoch::ZERO,
            marks: Marks::new(limits.marks_max, nonce),
            revoked: RevokedClaims::default(),
            recovery: Some(recovery),
            forgot: false,
            dead: BTreeSet::new(),
            keeps_journal: false,
            memory: None,
            closed: None,
        }
    }

    fn ctx<'a>(&self, now: Now, out: &'a mut Effects) -> VoterCtx<'a> {
        let timing = *self.voter_set.timing();
        VoterCtx { now, timing, out }
    }

    /// Handles a `Claim`: rules 1 to 5, 8 and 36.
    pub fn handle_claim(&mut self, now: Now, msg: &Claim, out: &mut Effects) {
        self.answer_claim(now, msg, false, out);
    }

    /// Handles an `OnceClaim`: like a `Claim`, but refused if this voter may lack marks.
    pub fn handle_once_claim(&mut self, now: Now, msg: &Claim, out: &mut Effects) {
        self.answer_claim(now, msg, true, out);
    }

    fn answer_claim(&mut self, now: Now, msg: &Claim, is_once: bool, out: &mut Effects) {
        let cx = &mut self.ctx(now, out);
        let at = self.settled(cx, &msg.key);
        if let Some(reason) = self.refusal(now, (msg, is_once), at) {
            return send_refuse(&msg.claim, reason, cx.out);
        }
        let holds = at.is_some_and(|at| self.slots[at].vote.claim == msg.claim);
        if !holds && self.answer_done(cx, &msg.key, &msg.claim) {
            return;
        }
        if self.revoked.has(&msg.claim) {
            return self.answer_revoked(cx, at, msg);
        }
        let entry = QueueEntry::new(now.mono, msg, cx.timing.max_ttl);
        let Some(at) = at else {
            return self.vote_for_first(cx, &msg.key, entry, msg.join);
        };
        let vote = &self.slots[at].vote;
        if vote.claim != msg.claim {
            self.wait_or_stale(cx, at, entry);
        } else if msg.votes_valid_since < vote.sent_at
            || msg.votes_valid_since == vote.sent_at && !mistaken!(SinceNotAfter)
        {
            self.renew(cx, at, &entry, msg.join);
        } else {
            self.take_back(cx, at, entry);
        }
    }

    /// Handles a `Release`: rule 6.
    pub fn handle_release(&mut self, now: Now, msg: &Release, out: &mut Effects) {
        let cx = &mut self.ctx(now, out);
        let Some(at) = self.settled(cx, &msg.key) else {
            return;
        };
        let slot = &mut self.slots[at];
        if slot.vote.claim != msg.claim && !mistaken!(ReleaseByKeyAlone) {
            if !mistaken!(WaitersNotReleased) {
                slot.remove_waiter(&msg.claim);
            }
            return;
        }
        if (msg.granted || slot.vote.granted) && !mistaken!(FenceNotRaisedOnRelease) {
            slot.raise_fence(slot.vote.epoch);
        }
        self.vote_for_head(cx, at);
    }

    /// Keeps the note of a claim that has the vote or waits. It is lost with the slot.
    pub fn handle_note(&mut self, now: Now, key: &Key, claim: &ClaimId, note: &Note) {
        if let Some(at) = self.slots.find(key).filter(|at| at.may_keep_notes()) {
            self.slots[at].keep_note(now.mono, claim, note);
        }
    }

    /// Handles a `KeepAlive`: rules 19 and 21. A voter in recovery does not reply. If it replied
    /// that the session is over, all claims of the session would be sent singly and be refused.
    pub fn handle_keep_alive(
        &mut self,
        now: Now,
        from: &NodeId,
        incarnation: Incarnation,
        msg: &KeepAlive,
        out: &mut Effects,
    ) {
        if self.recovery.is_some() || self.closed.is_some() {
            return;
        }
        let (answer, disputed) = self.sessions.handle_keep_alive(now, from, incarnation, msg);
        out.send(from, Message::Kept(answer));
        if let Some((session, parts)) = disputed {
            self.tell_covered(now, session, parts, out);
        }
    }

    /// Ends the claims of these incarnations of `node`, except votes of claims that outlive their
    /// process (rule 7).
    pub fn handle_incarnations_over(
        &mut self,
        now: Now,
        node: &NodeId,
        numbers: Range<Incarnation>,
        out: &mut Effects,
    ) {
        let is_over = |incarnation| numbers.contains(&incarnation);
        let is_claim_over = |c: &ClaimId| c.node == *node && is_over(c.incarnation);
        let all: Vec<SlotAt> = self.slots.iter().map(|(at, _)| at).collect();
        let cx = &mut self.ctx(now, out);
        for at in all {
            let slot = &mut self.slots[at];
            slot.take_waiters(|waiter| {
                is_claim_over(&waiter.claim) && !mistaken!(EarlierIncarnationsWait)
            });
            let stays = slot.vote.outlives && !mistaken!(LaterIncarnationEndsAll);
            if is_claim_over(&slot.vote.claim) && !stays && !mistaken!(EarlierIncarnationsHold) {
                self.end_vote(cx, at);
            }
        }
        self.sessions.end_incarnations(node, is_over);
    }

    /// Returns `true` if a claim of `node` has a vote or waits, or may do so once this voter resumes.
    pub(crate) fn may_have_claims_of(&self, node: &NodeId) -> bool {
        let mut slots = self.slots.iter();
        self.memory.is_some()
            || slots.any(|(_, slot)| {
                let waits = || slot.queue().iter().any(|waiter| waiter.claim.node == *node);
                slot.vote.claim.node == *node || waits()
            })
    }

    /// Ends the claims of all incarnations of `node` below `incarnation`, as
    /// [`Voter::handle_incarnations_over`] does.
    pub fn handle_incarnation(
        &mut self,
        now: Now,
        node: &NodeId,
        incarnation: Incarnation,
        out: &mut Effects,
    ) {
        self.handle_incarnations_over(now, node, Incarnation::default()..incarnation, out);
    }

    /// Forgets all votes, as after a restart, and begins a quarantine. `nonce` must differ from
    /// that of every earlier start. Each key's fence bucket is raised to the highest epoch known of
    /// that key.
    pub fn restart(&mut self, now: Now, nonce: u64, out: &mut Effects) {
        let (me, voter_set) = (self.me.clone(), self.voter_set.clone());
        for (_, slot) in self.slots.iter() {
            let bucket = fence_bucket_of(&slot.key, self.fence_buckets.len());
            let known = slot.fence.max(slot.vote.epoch);
            self.fence_buckets[bucket] = self.fence_buckets[bucket].max(known);
        }
        self.drop_memory();
        let longest = self.longest_vote();
        let (fence_buckets, highest_bucket) = (
            std::mem::take(&mut self.fence_buckets),
            self.highest_known(),
        );
        let recovery = match self.recovery.take() {
            Some(recovery) => recovery.restart(now, nonce, out),
            None => {
                let start = (Start::Recovering, None);
                Recovery::new(now, &me, &voter_set, start, nonce, out)
            }
        };
        let recovery = recovery.at_least(longest);
        let (keeps_journal, closed) = (self.keeps_journal, self.closed);
        let marks = self.marks.of_next_start(nonce);
        *self = Self::without_memory(me, voter_set, self.limits, nonce, recovery);
        self.marks = marks;
        self.fence_buckets = fence_buckets;
        self.highest_bucket = highest_bucket;
        (self.keeps_journal, self.closed) = (keeps_journal, closed);
        self.record_loss(out);
        self.handle_timeout(now, out);
    }

    /// Returns the highest epoch of all fence buckets, fences and outstanding votes.
    fn highest_known(&self) -> Epoch {
        let fences = self
            .slots
            .iter()
            .map(|(_, slot)| match mistaken!(RepliesWithoutVotes) {
                true => slot.fence,
                false => slot.fence.max(slot.vote.epoch),
            });
        fences.fold(self.highest_bucket, Epoch::max)
    }

    /// Handles a change of the gossip view. Claims of nodes that it reports as dead leave the
    /// queues sooner. A voter in recovery also queries the nodes that the view names.
    pub fn handle_view(&mut self, view: &View) {
        let dead = view.peers.iter().filter(|(_, peer)| !peer.alive);
        self.dead = dead.map(|(node, _)| node.clone()).collect();
        if let Some(recovery) = &mut self.recovery {
            recovery.handle_view(view);
        }
    }

    /// Handles the reply to a `RecoveryQuery` of this voter.
    pub fn handle_recovery_reply(
        &mut self,
        now: Now,
        from: &NodeId,
        msg: &RecoveryReply,
        out: &mut Effects,
    ) {
        if let Some(recovery) = &mut self.recovery {
            recovery.handle_recovery_reply(now, from, msg, out);
        }
        self.finish_recovery(now, out);
    }

    /// Updates recovery with the high time, if it is known ([`Clocks`](crate::clocks::Clocks)), and
    /// with the permission to vote that follows from the clocks. Has no effect once the voter
    /// votes.
    pub fn handle_clocks(&mut self, high: Option<Now>, may_return: MayReturn) {
        if let Some(recovery) = &mut self.recovery {
            recovery.handle_clocks(high, may_return);
        }
    }

    /// Handles a message from a node with another voter set. Has no effect once this voter votes.
    pub fn handle_other_set(&mut self, now: Now, node: &NodeId, set: &OtherSet, out: &mut Effects) {
        if let Some(recovery) = &mut self.recovery {
            recovery.handle_other_set(now, node, set, out);
        }
    }

    /// Handles a report of an earlier incarnation of this voter. It contradicts
    /// [`Start::NewCluster`], so the voter begins a quarantine.
    pub fn handle_earlier_incarnation(&mut self, out: &mut Effects) {
        if let Some(recovery) = &mut self.recovery {
            recovery.handle_earlier_incarnation(out);
        }
        self.forget_if_outdated(out);
    }

    /// Returns the reply to a recovering voter's query. The node supplies `knew` and `seen`, with
    /// their meaning in [`RecoveryReply`].
    #[must_use]
    pub fn recovery_reply(
        &self,
        msg: &RecoveryQuery,
        knew: bool,
        seen: Incarnation,
    ) -> RecoveryReply {
        let highest = self.highest_known();
        // A voter that may have forgotten votes cannot confirm that the cluster is new.
        let forgets = self.recovery.as_ref().is_some_and(Recovery::is_quarantined);
        let knew = knew || (self.forgot || forgets) && !mistaken!(ForgetfulVouch);
        RecoveryReply {
            nonce: msg.nonce,
            highest,
            votes: self.recovery.is_none(),
            knew,
            seen,
            // The node knows it.
            before: Incarnation::default(),
            remembers: self.recovery.as_ref().is_none_or(Recovery::resumes),
            quarantine: self.voter_set.timing().quarantine(),
            skew: self.voter_set.timing().max_clock_skew,
        }
    }

    /// Ends the votes and sessions that have expired (rule 7), and advances recovery. One call ends
    /// at most 1,000 votes; [`Voter::next_timeout`] is then due at once.
    pub fn handle_timeout(&mut self, now: Now, out: &mut Effects) {
        if let Some(recovery) = &mut self.recovery {
            recovery.handle_timeout(now, out);
        }
        self.finish_recovery(now, out);
        self.handle_marks_timeout(now, out);
        self.sessions.end_those_due(now);
        self.revoked.forget_old(now);
        let cx = &mut self.ctx(now, out);
        for _ in 0..EXPIRIES_MAX {
            let Some(at) = self.slots.due(now.mono) else {
                return;
            };
            let expires = self.expires_of(&self.slots[at].vote);
            if now.mono < expires {
                self.slots.lengthen(at, expires);
            } else {
                self.end_vote(cx, at);
            }
        }
    }

    /// Returns when [`Voter::handle_timeout`] must be called next.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        let expiry = self.slots.first_due();
        let recovery = self.recovery.as_ref().map(Recovery::next_timeout);
        let marks = self.next_marks_timeout();
        earliest([expiry, self.sessions.first_due(), recovery, marks])
    }

    /// Returns when the quarantine ends, or `None` once this voter votes. Recovery may last one
    /// second longer, and longer still while too few clocks are known or clocks are disputed.
    #[must_use]
    pub fn quarantine(&self) -> Option<Instant> {
        self.recovery.as_ref().map(Recovery::until)
    }

    /// Returns a node that has another voter set, if this voter stays in recovery because of it.
    #[must_use]
    pub fn waits_for(&self, now: Now) -> Option<&NodeId> {
        self.recovery.as_ref().and_then(|it| it.waits_for(now))
    }

    /// Returns `true` if this voter has an outstanding vote or knows a fence above zero.
    #[must_use]
    pub fn has_memory(&self) -> bool {
        !self.slots.is_empty() || self.highest_bucket > Epoch::ZERO || self.memory.is_some()
    }

    /// Returns `true` while this voter is in recovery and has no journal from which it resumes.
    pub(crate) fn lacks_memory(&self) -> bool {
        self.recovery.is_some() && self.memory.is_none()
    }

    pub(crate) fn limits(&self) -> &VoterLimits {
        &self.limits
    }

    pub(crate) fn voter_set(&self) -> &VoterSet {
        &self.voter_set
    }

    /// Returns the number of keys that are held or waited for at this voter.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Returns the number of sessions that cover votes of this voter.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Returns the number of waiting claims, over all keys.
    #[must_use]
    pub fn waiters(&self) -> usize {
        self.slots.iter().map(|(_, slot)| slot.queue().len()).sum()
    }

    /// Returns the fence of a key. A claim that is not granted gets a vote only if its epoch is
    /// above the fence.
    #[must_use]
    pub fn fence(&self, key: &Key) -> Epoch {
        match self.slots.of(key) {
            Some(slot) => slot.fence,
            None => self.fence_buckets[fence_bucket_of(key, self.fence_buckets.len())],
        }
    }

    /// Returns this voter's view of a key.
    #[must_use]
    pub fn report(&self, now: Now, nonce: u64, key: &Key) -> Report {
        let mut report = Report {
            nonce,
            vote: None,
            waiters: Vec::new(),
            waiting: 0,
            fence: self.fence(key),
            is_recovering: self.recovery.is_some(),
        };
        let Some(slot) = self.slots.of(key) else {
            return report;
        };
        let expires = self.expires_of(&slot.vote);
        if expires > now.mono {
            report.vote = Some(ReportedVote {
                claim: slot.vote.claim.clone(),
                epoch: slot.vote.epoch,
                granted: slot.vote.granted,
                remaining: expires.since(now.mono),
            });
            let waiters = slot.queue().iter().take(REPORTED_WAITERS_MAX);
            let waiters = waiters.map(|waiter| ReportedWaiter {
                node: waiter.claim.node.clone(),
                epoch: waiter.epoch,
            });
            report.waiters = waiters.collect();
            report.waiting = count(slot.queue().len());
        }
        report
    }

    /// Returns the notes of the claims in the [report](Self::report) on a key. Each has the number of
    /// its claim: zero for the vote, and from one on for the waiters.
    pub(crate) fn notes(&self, key: &Key) -> impl Iterator<Item = (u32, &NodeId, Epoch, &Note)> {
        let slot = self.slots.of(key).into_iter();
        slot.flat_map(|slot| {
            let waiters = slot.queue().iter().take(REPORTED_WAITERS_MAX);
            let waiters = waiters.map(|waiter| (&waiter.claim, waiter.epoch));
            let claims = std::iter::once((&slot.vote.claim, slot.vote.epoch)).chain(waiters);
            (0..).zip(claims).filter_map(|(number, (claim, epoch))| {
                Some((number, &claim.node, epoch, slot.note_of(claim)?))
            })
        })
    }

    /// Returns the name and the length of each map.
    pub(crate) fn sizes(&self) -> impl Iterator<Item = (&'static str, usize)> {
        let sizes = self.slots.sizes().into_iter();
        sizes.chain(self.sessions.sizes()).chain([
            ("marks", self.marks.len()),
            ("revoked claims", self.revoked.len()),
        ])
    }

    /// Ends the vote for a key if it has expired (rule 7), and removes waiters that are gone
    /// ([`QueueEntry::is_gone`]). Returns the key's slot if there is one afterwards.
    fn settled(&mut self, cx: &mut VoterCtx<'_>, key: &Key) -> Option<SlotAt> {
        let at = self.slots.find(key)?;
        if cx.now.mono >= self.expires_of(&self.slots[at].vote) {
            self.end_vote(cx, at);
        } else {
            let dead = &self.dead;
            self.slots[at].take_waiters(|waiter| waiter.is_gone(cx.now, dead));
        }
        self.slots.get(at).map(|_| at)
    }

    /// Returns when a vote expires: the later of its own expiry and that of its session.
    fn expires_of(&self, vote: &GivenVote) -> Instant {
        let covered = match mistaken!(CoveredVotesExpire) {
            true => Instant::ZERO,
            false => self.sessions.covers_until(vote.session),
        };
        vote.expires.max(covered)
    }

    fn refusal(
        &self,
        now: Now,
        (msg, is_once): (&Claim, bool),
        at: Option<SlotAt>,
    ) -> Option<RefuseReason> {
        if !self.voter_set.votes_for(&self.me, &msg.key) {
            return Some(RefuseReason::NotAVoter);
        }
        if self.recovery.is_some() {
            return Some(RefuseReason::Quarantine);
        }
        if self.closed.is_some() {
            return self.closed;
        }
        let is_new = is_once && !msg.granted;
        if is_new && self.marks.is_reading() && !mistaken!(ReadingVotesForAll) {
            return Some(RefuseReason::Marks);
        }
        let slot = at.map(|at| &self.slots[at]);
        let holds = slot.is_some_and(|slot| slot.vote.claim == msg.claim);
        let waiter = slot.and_then(|slot| slot.waiter(&msg.claim));
        let granted = msg.granted || waiter.is_some_and(|waiter| waiter.granted);
        let excused = granted && !mistaken!(GrantedHeldAgainstSkew);
        if !excused && !holds && self.is_too_far_ahead(now, msg.epoch) {
            return Some(RefuseReason::Skew);
        }
        // Its work would be done, and could not be marked.
        if is_new && !holds && self.marks.is_full(now) {
            return Some(RefuseReason::Limit);
        }
        let is_full = slot.is_none()
            && (self.slots.len() >= self.limits.slots_max || self.slots.is_crowded(&msg.key));
        is_full.then_some(RefuseReason::Limit)
    }

    fn is_too_far_ahead(&self, now: Now, epoch: Epoch) -> bool {
        epoch > EpochClock::limit(now, self.voter_set.timing().max_clock_skew)
    }

    /// Returns why this voter would refuse a claim with this epoch on a free key, and the time left
    /// in quarantine.
    #[must_use]
    pub fn would_refuse(&self, now: Now, epoch: Epoch) -> (Option<RefuseReason>, Duration) {
        let reason = if self.recovery.is_some() {
            Some(RefuseReason::Quarantine)
        } else if self.closed.is_some() {
            self.closed
        } else if self.is_too_far_ahead(now, epoch) {
            Some(RefuseReason::Skew)
        } else {
            let is_full = self.slots.len() >= self.limits.slots_max;
            is_full.then_some(RefuseReason::Limit)
        };
        let recovery = self.recovery.as_ref().filter(|it| it.is_quarantined());
        let remaining = recovery.map_or(Duration::ZERO, |it| it.until().since(now.mono));
        (reason, remaining)
    }

    /// Rules 1 and 18: a `Claim` of the claim that has the vote.
    fn renew(&mut self, cx: &mut VoterCtx<'_>, at: SlotAt, entry: &QueueEntry, join: bool) {
        let slot = &mut self.slots[at];
        let is_alone = slot.queue().is_empty();
        let vote = &mut slot.vote;
        vote.granted |= entry.granted;
        let is_newer = entry.sent_at > vote.sent_at;
        // While others wait, the vote of a claim that is not granted is never extended: that claim
        // may be unable to get a quorum.
        if (vote.granted || is_alone) && is_newer {
            vote.sent_at = entry.sent_at;
            vote.heard = cx.now.mono;
            let expires = match mistaken!(LeaseShrinks) {
                true => cx.now.mono.after(entry.ttl),
                false => vote.expires.max(cx.now.mono.after(entry.ttl)),
            };
            self.slots.lengthen(at, expires);
            let is_written = self.slots[at].vote.written.covers(entry.ttl);
            if !is_written && !mistaken!(LongerTtlUnwritten) {
                self.write_vote(at, entry.ttl, cx.out);
            }
        }
        if join && entry.granted && is_newer {
            self.cover(cx.now, at, entry.ttl);
        }
        self.send_vote(cx, at, false);
        if entry.granted {
            self.slots[at].learn_granted(cx);
        }
    }

    /// Rule 2: the claimant does not count the vote any more. The fence stays as it is.
    fn take_back(&mut self, cx: &mut VoterCtx<'_>, at: SlotAt, mut entry: QueueEntry) {
        let slot = &mut self.slots[at];
        entry.granted |= slot.vote.granted;
        let claim = entry.claim.clone();
        if mistaken!(GivingBackRaisesFence) {
            slot.raise_fence(entry.epoch);
        }
        slot.enqueue(entry);
        self.vote_for_head(cx, at);
        let Some(slot) = self.slots.get(at) else {
            return;
        };
        if let Some(ahead) = slot.queue().iter().position(|it| it.claim == claim) {
            slot.send_wait(cx, &claim, ahead);
        }
    }

    /// Rules 3 and 5: a `Claim` while another claim has the vote.
    fn wait_or_stale(&mut self, cx: &mut VoterCtx<'_>, at: SlotAt, mut entry: QueueEntry) {
        let slot = &mut self.slots[at];
        entry.granted |= slot.waiter(&entry.claim).is_some_and(|it| it.granted);
        if entry.is_below(slot.fence) {
            slot.remove_waiter(&entry.claim);
            return entry.send_stale(slot.fence, cx.out);
        }
        let claim = entry.claim.clone();
        let left_out = slot.make_room(&entry, self.limits.waiters_max);
        let is_left_out = left_out.as_ref().is_some_and(|it| it.claim == claim);
        // A `try` claim receives `Wait` even without a place in the queue.
        if let Some(it) = left_out.filter(|it| !it.is_try) {
            send_refuse(&it.claim, RefuseReason::Limit, cx.out);
        }
        if !is_left_out {
            let ahead = slot.enqueue(entry);
            slot.send_wait(cx, &claim, ahead);
        } else if entry.is_try {
            slot.send_wait(cx, &claim, slot.queue().len());
        }
        if slot.asks_holder(cx) {
            self.send_vote(cx, at, true);
        }
    }

    /// Rules 3, 4 and 18: a `Claim` while there is no outstanding vote.
    fn vote_for_first(&mut self, cx: &mut VoterCtx<'_>, key: &Key, entry: QueueEntry, join: bool) {
        let fence = self.fence_buckets[fence_bucket_of(key, self.fence_buckets.len())];
        if entry.is_below(fence) {
            return entry.send_stale(fence, cx.out);
        }
        let (ttl, granted) = (entry.ttl, entry.granted);
        let vote = GivenVote::new(entry, cx.now.mono.after(ttl));
        let at = self.slots.open(key.clone(), fence, vote);
        self.write_vote(at, ttl, cx.out);
        if join && granted {
            self.cover(cx.now, at, ttl);
        }
        self.send_vote(cx, at, false);
        if granted {
            self.slots[at].learn_granted(cx);
        }
    }

    /// Rule 7: the vote has expired, or the incarnation of its claim is over.
    fn end_vote(&mut self, cx: &mut VoterCtx<'_>, at: SlotAt) {
        let slot = &mut self.slots[at];
        if !mistaken!(FenceNotRaisedOnExpiry) {
            slot.raise_fence(slot.vote.epoch);
        }
        self.vote_for_head(cx, at);
    }

    /// Rule 9: ends the outstanding vote and votes for the head of the queue. If the queue is
    /// empty, removes the slot and keeps its fence in the key's fence bucket.
    fn vote_for_head(&mut self, cx: &mut VoterCtx<'_>, at: SlotAt) {
        let slot = &mut self.slots[at];
        self.sessions.uncover(slot.vote.session, &slot.vote.claim);
        slot.vote.session = SessionNo::NONE;
        let dead = &self.dead;
        if mistaken!(SkipInsteadOfDrop) && !slot.skip(|it| it.is_gone(cx.now, dead)) {
            return self.slots.forget_due(at);
        }
        slot.take_waiters(|waiter| waiter.is_gone(cx.now, dead));
        let fence = slot.fence;
        for waiter in slot.take_waiters(|waiter| waiter.is_below(fence)) {
            if !mistaken!(StaleUntold) {
                waiter.send_stale(fence, cx.out);
            }
        }
        let head = match self.closed {
            Some(_) => None,
            None => slot.pop_head(),
        };
        let Some(head) = head else {
            if !mistaken!(FenceNotCarried) {
                let bucket = fence_bucket_of(&slot.key, self.fence_buckets.len());
                self.fence_buckets[bucket] = self.fence_buckets[bucket].max(fence);
                self.highest_bucket = self.highest_bucket.max(fence);
            }
            let key = &self.slots[at].key;
            self.record(cx.out, || Record::Ended { key: key.clone() });
            return self.slots.close(at);
        };
        // The head gets a reservation, so that a dead waiter delays those behind it only briefly.
        // A `Claim` with `granted` extends it to the full ttl.
        let granted = head.granted;
        let span = match granted || mistaken!(ReservationIsWholeTtl) {
            true => head.ttl,
            false => head.ttl.min(cx.timing.reservation),
        };
        let expires = cx.now.mono.after(span);
        // The claim will request the whole ttl once it is granted, so that is written now.
        let ttl = head.ttl;
        self.slots.give(at, GivenVote::new(head, expires));
        self.write_vote(at, ttl, cx.out);
        if mistaken!(EndAfterNextVote) {
            let key = self.slots[at].key.clone();
            self.record(cx.out, || Record::Ended { key });
        }
        self.send_vote(cx, at, false);
        if granted {
            self.slots[at].learn_granted(cx);
        }
    }

    /// Rule 18: covers the vote by a session of its node. A covered vote stays with its session,
    /// since each `Kept` of that session holds for this vote.
    fn cover(&mut self, now: Now, at: SlotAt, ttl: Duration) {
        let vote = &mut self.slots[at].vote;
        if self.sessions.name_of(now, vote.session).is_none() {
            self.sessions.uncover(vote.session, &vote.claim);
            vote.session = self.sessions.cover(now, &vote.claim, ttl);
        }
    }

    fn send_vote(&self, cx: &mut VoterCtx<'_>, at: SlotAt, probe: bool) {
        let slot = &self.slots[at];
        let covered = self.sessions.name_of(cx.now, slot.vote.session);
        slot.send_vote(covered, probe, cx.out);
    }

    /// Rule 21: sends the claimant up to [`TOLD_MAX`] votes that a session covers. The claimant
    /// releases those that it does not know.
    fn tell_covered(
        &mut self,
        now: Now,
        session: SessionNo,
        parts: DigestParts,
        out: &mut Effects,
    ) {
        let name = self.sessions.name_of(now, session);
        let Some(cursor) = self.sessions.cursor(session) else {
            return;
        };
        let mut told = 0;
        for _ in 0..LOOKED_AT_MAX {
            if told == TOLD_MAX {
                return;
            }
            if !self.slots.has_places_from(*cursor) {
                *cursor = SlotAt::FIRST;
                return;
            }
            if let Some(slot) = self.slots.get(*cursor)
                && slot.vote.session == session
                && Digest::is_in(parts, slot.vote.claim.seq)
            {
                slot.send_vote(name, false, out);
                told += 1;
            }
            *cursor = cursor.next();
        }
    }
}
