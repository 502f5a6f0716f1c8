//! One claim of a claimant: the promises of each voter, and the next messages to send.
//!
//! A claim that voters refuse for a limit steps aside. A voter that has no free slot keeps the
//! slots of the keys that it has voted for. Several claims on several keys may then each hold a
//! vote that the others need. So a claim that cannot be granted releases its votes and retries
//! after a random pause, which lets one of the others be granted (rule 24).
//!
//! Rejected: an order over all keys by which a voter reclaims slots. Every voter would need an
//! index of its slots by rank.

use std::time::Duration;

use super::backoff::{SendTimes, queue_interval, retransmit_backoff, sweep_interval};
use super::lease::{Lease, Term};
use super::link::{LinkNo, Links};
use super::marking::{MarkAnswer, Marking};
use super::{ClaimCtx, ExtendError, Request};
use crate::epoch::{Epoch, EpochClock};
use crate::event::{Event, KeyHolder, Ticket, VoteTally};
use crate::id::{ClaimId, Key, NodeId, Note};
use crate::message::{
    Claim, Done, HolderGranted, Mark, Marked, Message, NoteMessage, RefuseReason, Release, Revoke,
    SessionId, Stale, Vote, Wait,
};
use crate::time::{Instant, Now};
use crate::voter_set::{Tally, VoterSet, quorum, quorum_reaches};

/// The number of retransmissions after which a `try` claim counts a silent voter as one that may
/// have voted for another claim.
const TRY_REPEATS: u32 = 3;
/// After this many unanswered claims a voter counts as silent.
const UNANSWERED_MAX: u32 = 2;

/// A voter's last answer to a claim.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
enum Reply {
    None,
    Voted,
    Waits {
        granted: HolderGranted,
        /// The holder that the voter named, if rule 16 may need it.
        holder: Option<Box<Holder>>,
    },
    Refused(RefuseReason),
}

impl Reply {
    fn is_wait(&self, of: HolderGranted) -> bool {
        matches!(self, Self::Waits { granted, .. } if *granted == of)
    }
}

/// The claim that a voter named as the holder of its vote.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
struct Holder {
    epoch: Epoch,
    claim: ClaimId,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Ballot {
    voter: NodeId,
    /// Votes with an older send time do not count: the voter may have given them to another claim.
    votes_valid_since: Instant,
    /// The newest vote that counts: its send time, and its ttl from then.
    vote: Option<(Instant, Duration)>,
    /// The session that covers the vote.
    link: Option<LinkNo>,
    reply: Reply,
    /// The number of claims sent since the voter's last answer.
    unanswered: u32,
    /// The time of the next claim to this voter.
    due: Instant,
}

impl Ballot {
    fn new(voter: NodeId) -> Self {
        Self {
            voter,
            votes_valid_since: Instant::ZERO,
            vote: None,
            link: None,
            reply: Reply::None,
            unanswered: 0,
            due: Instant::FAR,
        }
    }

    fn is_covered(&self, links: &Links) -> bool {
        self.link.is_some_and(|link| links.is_live(link))
    }
}

/// The effect of a received vote.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Counted {
    /// The vote was given back, or was never requested.
    No,
    /// A newer vote was received before.
    Older,
    /// It is the newest vote, and counts from now on.
    Newest,
}

/// The state of a claim that is not granted.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Waiting {
    /// When the request gives up.
    deadline: Option<Instant>,
    /// `true` once a `Wait` or a vote with `probe` was received: another claim wants the key, or
    /// may.
    is_contended: bool,
    /// The holder that a voter named last, and when one named it first. Boxed to keep claims small.
    holder: Option<Box<(KeyHolder, Instant)>>,
    /// The number of retransmissions of a `try` claim to all voters, and the time of the next.
    repeats: u32,
    next_repeat: Instant,
    /// The end of the pause, while the claim has stepped aside.
    aside_until: Option<Instant>,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
enum Phase {
    Waiting(Waiting),
    Held(Lease),
    /// The lease was revoked. The code under it may still run until then, by its own clock. So the
    /// claim sends nothing until it is released or that instant has come.
    Revoked {
        until: Instant,
    },
}

/// The renewal of a lease until it is released.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Renewal {
    /// It is renewed at this interval.
    Every(Duration),
    /// It ends after its ttl. It may outlive its process.
    Never { outlives: bool },
}

impl Renewal {
    fn every(self) -> Option<Duration> {
        match self {
            Self::Every(every) => Some(every),
            Self::Never { .. } => None,
        }
    }
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct OwnClaim {
    pub(super) ticket: Ticket,
    pub(super) id: ClaimId,
    pub(super) key: Key,
    pub(super) epoch: Epoch,
    /// The claim's timer in the claimant's list.
    pub(super) timer: Instant,
    ttl: Duration,
    is_try: bool,
    is_once: bool,
    note: Option<Note>,
    renewal: Renewal,
    phase: Phase,
    /// Set while a held key is being marked.
    marking: Option<Box<Marking>>,
    ballots: Vec<Ballot>,
    sent: SendTimes,
    /// The number of `Stale` answers in a row.
    stales: u32,
    /// The number of times that the claim stepped aside.
    asides: u32,
}

impl OwnClaim {
    pub(super) fn new(
        ticket: Ticket,
        id: ClaimId,
        epoch: Epoch,
        request: Request,
        voters: Vec<NodeId>,
        renew_interval: Option<Duration>,
    ) -> Self {
        let third = request.ttl / 3;
        let every = renew_interval.map_or(third, |every| every.min(request.ttl / 2));
        Self {
            ticket,
            id,
            key: request.key,
            epoch,
            timer: Instant::FAR,
            ttl: request.ttl,
            is_try: request.is_try,
            is_once: request.is_once,
            note: request.note,
            renewal: match (request.renews, request.outlives) {
                (true, _) => Renewal::Every(every),
                (false, outlives) => Renewal::Never { outlives },
            },
            phase: Phase::Waiting(Waiting {
                deadline: request.deadline.filter(|_| !mistaken!(DeadlineIgnored)),
                is_contended: false,
                holder: None,
                repeats: 0,
                next_repeat: Instant::FAR,
                aside_until: None,
            }),
            marking: None,
            ballots: voters.into_iter().map(Ballot::new).collect(),
            sent: SendTimes::NONE,
            stales: 0,
            asides: 0,
        }
    }

    /// Returns the lease if the claim is granted. It may have expired.
    pub(super) fn lease(&self) -> Option<&Lease> {
        match &self.phase {
            Phase::Held(lease) => Some(lease),
            Phase::Waiting(_) | Phase::Revoked { .. } => None,
        }
    }

    pub(super) fn is_held(&self) -> bool {
        self.lease().is_some()
    }

    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.phase, Phase::Waiting(_))
    }

    pub(super) fn is_revoked(&self) -> bool {
        matches!(self.phase, Phase::Revoked { .. })
    }

    fn waiting(&mut self) -> Option<&mut Waiting> {
        match &mut self.phase {
            Phase::Waiting(waiting) => Some(waiting),
            Phase::Held(_) | Phase::Revoked { .. } => None,
        }
    }

    /// Returns all links that cover ballots of the claim.
    pub(super) fn links(&self) -> impl Iterator<Item = LinkNo> {
        self.ballots.iter().filter_map(|ballot| ballot.link)
    }

    /// Returns `true` if the claim is granted and outlives its process.
    pub(super) fn outlives(&self) -> bool {
        self.renewal == Renewal::Never { outlives: true } && !self.is_waiting()
    }

    /// Returns the event for the end of its lease.
    pub(super) fn lost(&self) -> Event {
        Event::Lost {
            ticket: self.ticket,
            key: self.key.clone(),
            epoch: self.epoch,
            was_due: self.renewal.every().is_none(),
        }
    }

    /// Returns when [`OwnClaim::handle_timeout`] has work to do.
    pub(super) fn next_timeout(&self) -> Instant {
        let ballots = || self.ballots.iter().map(|ballot| ballot.due);
        match &self.phase {
            Phase::Held(lease) => {
                let marking = self.marking.as_ref().filter(|marking| !marking.is_over);
                let marking = marking.map_or(Instant::FAR, |marking| marking.next_round);
                let own = lease.valid_until.min(lease.next_round).min(marking);
                ballots().fold(own, Instant::min)
            }
            Phase::Waiting(waiting) => {
                let end = waiting.deadline.unwrap_or(Instant::FAR);
                match waiting.aside_until {
                    Some(until) => end.min(until),
                    None if self.is_try => end.min(waiting.next_repeat),
                    None => ballots().fold(end, Instant::min),
                }
            }
            Phase::Revoked { until } => *until,
        }
    }

    /// Does the work that is due. Returns `true` if the claim is over.
    pub(super) fn handle_timeout(&mut self, cx: &mut ClaimCtx<'_>) -> bool {
        if let Phase::Revoked { until } = self.phase {
            return cx.now.mono >= until;
        }
        if let Some(waiting) = self.waiting() {
            let aside_until = waiting.aside_until;
            if waiting.deadline.is_some_and(|at| cx.now.mono >= at) {
                cx.out.tell(Event::TimedOut {
                    ticket: self.ticket,
                    answers: self.answers(),
                    holder: self.named_holder(cx.now),
                });
                return true;
            }
            if let Some(until) = aside_until {
                if cx.now.mono >= until {
                    self.claim_anew(cx, self.epoch);
                }
                return false;
            }
        }
        if self.is_denied(cx) {
            return true;
        }
        self.retransmit_due(cx);
        self.send_marks(cx);
        self.lengthen(cx);
        false
    }

    /// Handles a voter's answer; `Err` with the reason if it counts as a refusal. Returns `true` if
    /// the claim is over.
    pub(super) fn handle(
        &mut self,
        cx: &mut ClaimCtx<'_>,
        from: &NodeId,
        msg: Result<&Message, RefuseReason>,
    ) -> bool {
        let Some(at) = self.ballot_of(from).filter(|_| !self.is_revoked()) else {
            return false;
        };
        match msg {
            Ok(Message::Vote(vote)) => self.on_vote(cx, at, vote),
            Ok(Message::Wait(wait)) => return self.on_wait(cx, at, wait),
            Ok(Message::Stale(stale)) => self.on_stale(cx, stale),
            Ok(Message::Refuse(refuse)) => return self.on_refuse(cx, at, refuse.reason),
            Ok(Message::Marked(marked)) => self.on_marked(cx, at, marked),
            Ok(Message::Done(done)) => return self.on_done(cx, done),
            Err(reason) => return self.on_refuse(cx, at, reason),
            Ok(_) => {}
        }
        false
    }

    fn ballot_of(&self, voter: &NodeId) -> Option<usize> {
        self.ballots.iter().position(|it| it.voter == *voter)
    }

    /// Rules 10, 11 and 13.
    fn on_vote(&mut self, cx: &mut ClaimCtx<'_>, at: usize, vote: &Vote) {
        if let Some(waiting) = self.waiting() {
            waiting.is_contended |= vote.probe;
        }
        let runs_out = self.runs_out(cx, at, vote);
        let counted = self.count(cx.now, at, vote);
        if counted == Counted::Newest {
            self.cover(cx, at, vote.covered);
        }
        if counted != Counted::No {
            self.answer(cx, at, Reply::Voted);
        }
        if self.is_held() {
            self.lengthen(cx);
            if vote.yield_requested && mistaken!(GrantedIsGivenBack) {
                self.give_back(cx, at);
            } else if vote.probe {
                self.send_to(cx, at);
            }
            return;
        }
        let promised = self.promised(&cx.own.voter_set, &cx.own.links);
        if cx.now.mono < promised {
            self.win(cx, promised);
        } else if vote.yield_requested || runs_out && self.may_win() {
            self.give_back(cx, at);
        }
    }

    fn on_wait(&mut self, cx: &mut ClaimCtx<'_>, at: usize, wait: &Wait) -> bool {
        // The voter lost its memory, or the message is old. Ending the coverage is safe in both
        // cases.
        self.cover(cx, at, None);
        // Rule 16: a holder of this process that is over does not deny a `try` claim, since rule 17
        // soon releases its vote.
        let is_over = cx.own.is_over(&wait.holder) && !mistaken!(OwnGhostsDeny);
        let granted = if is_over {
            HolderGranted::No
        } else {
            wait.granted
        };
        let mut holder = None;
        if let Phase::Waiting(waiting) = &mut self.phase {
            waiting.is_contended = true;
            let is_known = |(known, _): &(KeyHolder, _)| {
                known.epoch == wait.epoch && known.node == wait.holder.node
            };
            if !waiting.holder.as_deref().is_some_and(is_known) {
                let holder = KeyHolder {
                    node: wait.holder.node.clone(),
                    epoch: wait.epoch,
                    held_for: Duration::ZERO,
                    note: None,
                };
                waiting.holder = Some(Box::new((holder, cx.now.mono)));
            }
            holder = self.is_try.then(|| {
                let (epoch, claim) = (wait.epoch, wait.holder.clone());
                Box::new(Holder { epoch, claim })
            });
        }
        self.answer(cx, at, Reply::Waits { granted, holder });
        if self.lease().is_some_and(|lease| !lease.is_announced) {
            self.send_round(cx);
        }
        self.is_denied(cx)
    }

    /// Keeps the note of the holder, if that is the one that a voter named last.
    pub(super) fn learn_note(&mut self, now: Now, from: KeyHolder) {
        if let Phase::Waiting(waiting) = &mut self.phase
            && let Some((holder, since)) = waiting.holder.as_deref_mut()
            && (holder.epoch, &holder.node) == (from.epoch, &from.node)
        {
            // Of several voters, the one that has known the holder for the longest time.
            let known_for = now.mono.since(*since);
            holder.held_for = holder.held_for.max(from.held_for.saturating_sub(known_for));
            holder.note = from.note;
        }
    }

    /// Rule 15.
    fn on_stale(&mut self, cx: &mut ClaimCtx<'_>, stale: &Stale) {
        if self.is_held() && !mistaken!(StaleEndsLeases) {
            return;
        }
        self.finish(cx);
        if self.stales == 0 || !mistaken!(StalesNotCounted) {
            self.stales = self.stales.saturating_add(1);
        }
        let epoch = cx.own.draw_above(cx.now, stale.fence, self.stales);
        self.claim_anew(cx, epoch);
    }

    fn on_refuse(&mut self, cx: &mut ClaimCtx<'_>, at: usize, reason: RefuseReason) -> bool {
        self.ballots[at].reply = Reply::Refused(reason);
        if self.is_held() {
            self.leave_alone(cx, at, reason);
            return false;
        }
        // An epoch drawn just above a fence may be one past the limit, and is within it soon. A
        // higher one was drawn while the node's wall clock was ahead; the clock has been corrected
        // since.
        let skew = cx.own.voter_set.timing().max_clock_skew;
        if reason == RefuseReason::Skew && self.epoch > EpochClock::limit(cx.now, skew).next() {
            self.finish(cx);
            let epoch = cx.own.draw(cx.now);
            self.claim_anew(cx, epoch);
            return false;
        }
        if self.is_denied(cx) {
            return true;
        }
        if reason == RefuseReason::Limit {
            self.step_aside(cx);
        }
        false
    }

    /// Rule 36: ends a claim whose key is marked. A lease stays, since its quorum has voted.
    fn on_done(&self, cx: &mut ClaimCtx<'_>, done: &Done) -> bool {
        if self.is_held() {
            return false;
        }
        cx.out.tell(Event::Done {
            ticket: self.ticket,
            by: done.by.clone(),
            epoch: done.epoch,
            remaining: done.remaining,
        });
        true
    }

    /// Rule 38: ends the claim, which an operator has revoked. A request that waits goes on as
    /// another claim.
    pub(super) fn revoke(&mut self, cx: &mut ClaimCtx<'_>, revoke: &Revoke) {
        match &self.phase {
            Phase::Waiting(_) => {
                self.finish(cx);
                let epoch = cx.own.draw(cx.now);
                self.claim_anew(cx, epoch);
            }
            Phase::Held(lease) => {
                let until = lease.valid_until;
                self.phase = Phase::Revoked { until };
                self.marking = None;
                for ballot in &mut self.ballots {
                    if let Some(link) = ballot.link.take() {
                        cx.own.links.leave(link, self.id.seq);
                    }
                }
                cx.out.tell(Event::Revoked {
                    ticket: self.ticket,
                    key: self.key.clone(),
                    epoch: self.epoch,
                    by: revoke.by.clone(),
                    through: revoke.through.clone(),
                });
            }
            Phase::Revoked { .. } => {}
        }
    }

    /// Rule 36: begins to mark the key. Returns `true` if the claim holds it.
    pub(super) fn mark(&mut self, cx: &mut ClaimCtx<'_>, keep_for: Duration) -> bool {
        if !self.is_held() {
            return false;
        }
        let goes_on = |marking: &Marking| !marking.is_over && marking.keep_for >= keep_for;
        if !self.marking.as_deref().is_some_and(goes_on) {
            let marking = Marking::new(keep_for, self.ballots.len());
            self.marking = Some(Box::new(marking));
            self.send_marks(cx);
        }
        true
    }

    /// Sends the marks that are due.
    fn send_marks(&mut self, cx: &mut ClaimCtx<'_>) {
        let Some(marking) = &mut self.marking else {
            return;
        };
        if marking.is_over || cx.now.mono < marking.next_round {
            return;
        }
        let sent_at = self.sent.next(cx.now);
        marking.since.get_or_insert(sent_at);
        for at in marking.begin_round(cx.now, self.ttl, &cx.own.voter_set) {
            let mark = Mark {
                key: self.key.clone(),
                claim: self.id.clone(),
                sent_at,
                keep_for: marking.keep_for,
            };
            cx.out.send(&self.ballots[at].voter, Message::Mark(mark));
        }
    }

    /// Rule 36: counts the voters that have the mark.
    fn on_marked(&mut self, cx: &mut ClaimCtx<'_>, at: usize, marked: &Marked) {
        let counts = |it: &&mut Box<Marking>| !it.is_over && it.since <= Some(marked.sent_at);
        let Some(marking) = self.marking.as_mut().filter(counts) else {
            return;
        };
        let answer = match marked.is_kept {
            true => MarkAnswer::Kept(marked.sent_at),
            false => MarkAnswer::Full,
        };
        marking.answer(at, answer);
        let ticket = self.ticket;
        let event = match marking.tally(cx.now, cx.own.voter_set.timing()) {
            Tally::Granted => Event::Marked { ticket },
            Tally::Lost => Event::NotMarked { ticket },
            Tally::Pending => return,
        };
        marking.is_over = true;
        cx.out.tell(event);
    }

    /// Returns `true` if this is the counted vote again, with at most half a reservation left. Such
    /// a vote is better given back than left to expire.
    fn runs_out(&self, cx: &ClaimCtx<'_>, at: usize, vote: &Vote) -> bool {
        let remains = vote.sent_at.after(vote.ttl).since(cx.now.mono);
        let is_same = self.ballots[at].vote == Some((vote.sent_at, vote.ttl));
        is_same && remains <= cx.own.voter_set.timing().reservation / 2
    }

    /// Returns `true` if a quorum of the voters answers, so that the claim can be granted. A claim
    /// that cannot be granted lets its reservations expire: it would otherwise delay those behind
    /// it.
    fn may_win(&self) -> bool {
        let answers = |it: &Ballot| it.unanswered < UNANSWERED_MAX;
        self.is_quorum(self.count_of(answers)) && !mistaken!(TurnsRunOut)
    }

    fn count_of(&self, is: impl Fn(&Ballot) -> bool) -> usize {
        self.ballots.iter().filter(|ballot| is(ballot)).count()
    }

    fn is_quorum(&self, yes: usize) -> bool {
        Tally::of(self.ballots.len(), yes, 0) == Tally::Granted
    }

    /// Returns `true` if the other voters are no quorum.
    fn excludes_quorum(&self, no: usize) -> bool {
        Tally::of(self.ballots.len(), 0, no) == Tally::Lost
    }

    /// Rule 10: keeps the newest vote that counts. Returns the effect of this one.
    fn count(&mut self, now: Now, at: usize, vote: &Vote) -> Counted {
        let ballot = &mut self.ballots[at];
        let given_back = vote.sent_at < ballot.votes_valid_since && !mistaken!(GivenBackVotesCount);
        if given_back || vote.sent_at > self.sent.last {
            return Counted::No;
        }
        if ballot
            .vote
            .is_some_and(|(sent_at, _)| vote.sent_at < sent_at)
        {
            return Counted::Older;
        }
        let from = match mistaken!(ValidFromReceipt) {
            true => now.mono,
            false => vote.sent_at,
        };
        let ttl = match mistaken!(VoteWithoutTtl) {
            true => self.ttl,
            false => vote.ttl,
        };
        ballot.vote = Some((from, ttl));
        Counted::Newest
    }

    /// Records a voter's answer, and schedules the next claim to it.
    fn answer(&mut self, cx: &mut ClaimCtx<'_>, at: usize, reply: Reply) {
        let slow = queue_interval(self.ttl, &cx.own.voter_set);
        let round = self.lease().map(|lease| lease.round);
        let ballot = &mut self.ballots[at];
        let has_voted = reply == Reply::Voted;
        ballot.reply = reply;
        ballot.unanswered = 0;
        let backoff = match (ballot.vote.filter(|_| has_voted), round) {
            // The next round renews this vote, unless it answers an earlier round.
            (Some((sent_at, _)), Some(round))
                if sent_at >= round || ballot.is_covered(&cx.own.links) =>
            {
                ballot.due = Instant::FAR;
                return;
            }
            (Some((_, ttl)), Some(_)) => slow.min(ttl / 2),
            (Some((sent_at, ttl)), None) => {
                let remains = sent_at.after(ttl).since(cx.now.mono);
                slow.min((remains / 2).max(cx.own.voter_set.timing().round_trip))
            }
            (None, _) => slow,
        };
        ballot.due = cx.now.mono.after(cx.own.jitter.shorten(backoff));
    }

    /// Rule 11: returns the latest instant up to which a quorum of the key's voters has promised
    /// its votes, or [`Instant::ZERO`]. Assumes that their clocks are as fast as `max_drift_ppm`
    /// allows.
    fn promised(&self, voter_set: &VoterSet, links: &Links) -> Instant {
        let ends = self.ballots.iter().filter_map(|ballot| {
            let (sent_at, ttl) = ballot.vote?;
            let own = sent_at.after(voter_set.timing().at_least(ttl));
            let covered = match mistaken!(KeptCoversAll) {
                true => links.any_end(&ballot.voter, voter_set),
                false => ballot.link.and_then(|link| links.end(link, voter_set)),
            };
            Some(covered.map_or(own, |end| end.max(own)))
        });
        let voters = match mistaken!(CountTheLiving) {
            true => self.count_of(|ballot| ballot.reply != Reply::None),
            false => self.ballots.len(),
        };
        if mistaken!(ExpiredVotesCount) && self.is_quorum(ends.clone().count()) {
            return ends.max().unwrap_or_default();
        }
        match quorum_reaches(voters, ends) {
            Some(end) => end.before(self.sent.ahead),
            None => Instant::ZERO,
        }
    }

    /// Rules 11 and 12: the claim is granted.
    fn win(&mut self, cx: &mut ClaimCtx<'_>, promised: Instant) {
        let is_contended = self.waiting().is_some_and(|waiting| waiting.is_contended);
        let (term, next_round) = match self.renewal {
            Renewal::Every(every) => {
                let goal = Instant::ZERO;
                (Term::Renewed { goal }, cx.now.mono.after(every))
            }
            Renewal::Never { .. } if mistaken!(NoEnd) => (Term::Ends(Instant::FAR), Instant::FAR),
            Renewal::Never { .. } => (Term::Ends(cx.now.mono.after(self.ttl)), Instant::FAR),
        };
        let lease = Lease::new(promised, term, self.sent.last, next_round);
        let valid_until = lease.valid_until;
        self.phase = Phase::Held(lease);
        for ballot in &mut self.ballots {
            if ballot.reply == Reply::Voted {
                ballot.due = Instant::FAR;
            }
        }
        cx.out.tell(Event::Granted {
            ticket: self.ticket,
            key: self.key.clone(),
            epoch: self.epoch,
            valid_until,
        });
        let is_short = valid_until.since(cx.now.mono) < self.ttl * 2 / 3;
        if (is_contended || is_short) && !mistaken!(ReservationsNotRenewed) {
            self.send_round(cx);
        }
    }

    /// Rule 11 for a lease: reports its new end if a quorum has promised a later one.
    pub(super) fn lengthen(&mut self, cx: &mut ClaimCtx<'_>) {
        if !self.is_held() {
            return;
        }
        let promised = self.promised(&cx.own.voter_set, &cx.own.links);
        if let Phase::Held(lease) = &mut self.phase
            && lease.lengthen(promised)
        {
            cx.out.tell(Event::Renewed {
                ticket: self.ticket,
                valid_until: lease.valid_until,
            });
        }
    }

    /// Requests `extra` on top of the remaining time. Returns the new end of the lease, which holds
    /// once a quorum has promised it.
    pub(super) fn extend(
        &mut self,
        cx: &mut ClaimCtx<'_>,
        extra: Duration,
    ) -> Result<Instant, ExtendError> {
        let Phase::Held(lease) = &mut self.phase else {
            return Err(ExtendError::NotHeld);
        };
        lease.extend(cx.now, extra, cx.own.voter_set.timing().max_ttl)?;
        let wanted = self.wanted(cx.now);
        self.send_round(cx);
        let promise = cx.own.voter_set.timing().at_least(wanted);
        Ok(self.sent.last.after(promise).before(self.sent.ahead))
    }

    /// Rule 20: records the session that a vote names as covering it, or none.
    fn cover(&mut self, cx: &mut ClaimCtx<'_>, at: usize, session: Option<SessionId>) {
        let every = self.renewal.every().filter(|_| self.is_held());
        let ballot = &mut self.ballots[at];
        let named = session.zip(every);
        if let (Some((session, _)), Some(link)) = (named, ballot.link)
            && cx.own.links.is_for(link, session)
        {
            return;
        }
        let links = &mut cx.own.links;
        let link = named.and_then(|(session, every)| {
            links.meet(cx.now, &ballot.voter, session, (self.ttl, every))
        });
        if let Some(link) = link {
            let sent_at = ballot.vote.map(|(sent_at, _)| sent_at);
            links.join(link, self.id.seq, sent_at);
        }
        if let Some(last) = std::mem::replace(&mut ballot.link, link) {
            links.leave(last, self.id.seq);
        }
    }

    /// Handles a voter's refusal to renew a lease. Other leases may be refused too, so none of them
    /// is retransmitted before its next round. If the reason applies to all of them, one lease
    /// retransmits for all until the voter votes.
    fn leave_alone(&mut self, cx: &mut ClaimCtx<'_>, at: usize, reason: RefuseReason) {
        let backoff = sweep_interval(self.ttl, &cx.own.voter_set);
        let until = cx.now.mono.after(cx.own.jitter.shorten(backoff));
        let refuses_all = match reason {
            RefuseReason::Quarantine
            | RefuseReason::Leaving
            | RefuseReason::Storage
            | RefuseReason::VoterSet
            | RefuseReason::NotAVoter => true,
            RefuseReason::Skew | RefuseReason::Limit | RefuseReason::Marks => false,
        };
        let ballot = &mut self.ballots[at];
        let links = &mut cx.own.links;
        let asks_for_all = refuses_all && links.suppress_until(cx.now, &ballot.voter, until);
        ballot.due = if asks_for_all { until } else { Instant::FAR };
    }

    /// Rule 13: gives a vote back, since an earlier claim waits or the vote is about to expire. The
    /// voter's earlier votes no longer count.
    fn give_back(&mut self, cx: &mut ClaimCtx<'_>, at: usize) {
        let since = self.sent.next(cx.now);
        let ballot = &mut self.ballots[at];
        if !mistaken!(GivenBackVotesCount) {
            ballot.vote = None;
        }
        ballot.votes_valid_since = since;
        ballot.reply = Reply::None;
        self.send(cx, at, since);
    }

    /// Rule 24: handles the refusal, for a limit, of a claim that is not granted.
    ///
    /// If the other voters may still be a quorum, nothing is done. Otherwise the claim releases all
    /// its votes. It retries under the same epoch, and so keeps its place in the order.
    fn step_aside(&mut self, cx: &mut ClaimCtx<'_>) {
        let may_vote = self.count_of(|ballot| match ballot.reply {
            Reply::Voted | Reply::Waits { .. } => true,
            Reply::None => ballot.unanswered < UNANSWERED_MAX,
            Reply::Refused(_) => false,
        });
        if self.is_quorum(may_vote) || mistaken!(ShutOutKeepsVotes) {
            return;
        }
        self.finish(cx);
        self.asides = self.asides.saturating_add(1);
        let backoff = retransmit_backoff(self.ttl, &cx.own.voter_set, self.asides);
        let pause = cx.own.voter_set.timing().round_trip + cx.own.jitter.within(backoff);
        if let Some(waiting) = self.waiting() {
            waiting.aside_until = Some(cx.now.mono.after(pause));
        }
    }

    /// Continues the request as another claim. No answer to the last claim counts.
    pub(super) fn claim_anew(&mut self, cx: &mut ClaimCtx<'_>, epoch: Epoch) {
        self.id = cx.own.next_id(self.ticket);
        self.epoch = epoch;
        if let Some(waiting) = self.waiting() {
            waiting.is_contended = false;
            waiting.repeats = 0;
            waiting.aside_until = None;
        }
        for ballot in &mut self.ballots {
            let vote = ballot.vote.filter(|_| mistaken!(OldVotesCount));
            let new = Ballot::new(ballot.voter.clone());
            *ballot = Ballot { vote, ..new };
        }
        self.send_to_all(cx);
    }

    /// Ends the claim: sends `Release` to all voters and forgets the claim's number.
    pub(super) fn finish(&self, cx: &mut ClaimCtx<'_>) {
        let granted = cx.own.forget(self);
        self.release_all(granted, cx);
    }

    pub(super) fn release_all(&self, granted: bool, cx: &mut ClaimCtx<'_>) {
        for ballot in &self.ballots {
            let release = Release {
                key: self.key.clone(),
                claim: self.id.clone(),
                granted,
            };
            cx.out.send(&ballot.voter, Message::Release(release));
        }
    }

    /// Rules 12 and 14: sends what is due.
    fn retransmit_due(&mut self, cx: &mut ClaimCtx<'_>) {
        let now = cx.now.mono;
        match &mut self.phase {
            Phase::Held(lease) if now >= lease.next_round => self.renew(cx),
            Phase::Waiting(waiting) if self.is_try && now >= waiting.next_repeat => {
                waiting.repeats = waiting.repeats.saturating_add(1);
                self.send_to_all(cx);
            }
            _ => {
                for at in 0..self.ballots.len() {
                    if self.ballots[at].due <= now {
                        self.send_to(cx, at);
                    }
                }
            }
        }
    }

    /// Retransmits the claim to a voter that has become reachable, or votes again, if its vote is
    /// behind.
    pub(super) fn ask_again(&mut self, cx: &mut ClaimCtx<'_>, voter: &NodeId) {
        let Some(at) = self.ballot_of(voter) else {
            return;
        };
        let ballot = &self.ballots[at];
        let is_behind = match (&self.phase, ballot.vote) {
            (Phase::Held(lease), Some((sent_at, _))) => {
                sent_at < lease.round || ballot.link.is_some()
            }
            (Phase::Held(_), None) => true,
            (Phase::Revoked { .. }, _) => false,
            (Phase::Waiting(waiting), _) => {
                ballot.reply == Reply::None && waiting.aside_until.is_none()
            }
        };
        if is_behind && !ballot.is_covered(&cx.own.links) {
            self.send_to(cx, at);
        }
    }

    /// Rules 12 and 18: renews the votes that no session renews, and requests a session for them.
    /// While an extension makes the lease outlast its ttl, all votes are renewed one by one.
    fn renew(&mut self, cx: &mut ClaimCtx<'_>) {
        let is_longer = self.wanted(cx.now) > self.ttl;
        if let Phase::Held(lease) = &mut self.phase {
            lease.joins = true;
        }
        let mut round = None;
        for at in 0..self.ballots.len() {
            let (ballot, links) = (&mut self.ballots[at], &cx.own.links);
            let is_doubted = ballot.link.is_some_and(|it| links.doubts(it, self.id.seq));
            if ballot.is_covered(links) && !is_doubted && !is_longer {
                ballot.due = Instant::FAR;
                continue;
            }
            // If this is the claim that retransmits for all, its timer for this voter stays.
            if links.is_quiet(cx.now, &ballot.voter) {
                continue;
            }
            let sent_at = *round.get_or_insert_with(|| self.sent.next(cx.now));
            self.send(cx, at, sent_at);
        }
        self.note_round(cx.now);
        self.look_once_kept(cx);
    }

    /// Schedules the next round soon after a quorum of the claim's sessions is renewed, not just
    /// before.
    ///
    /// A lease with two thirds of its ttl left survives a longer pause than one with a third left.
    /// The rounds of many leases are spread over an eighth of an interval.
    fn look_once_kept(&mut self, cx: &ClaimCtx<'_>) {
        let links = &cx.own.links;
        let mut asks: Vec<Instant> = self.links().filter_map(|it| links.asks_at(it)).collect();
        asks.sort_unstable();
        let asked = asks.get(quorum(self.ballots.len()) - 1);
        if let (Some(asked), Some(every)) = (asked, self.renewal.every())
            && let Phase::Held(lease) = &mut self.phase
        {
            let apart = every / 512 * (self.id.seq % 64) as u32;
            let look = asked.after(cx.own.voter_set.timing().round_trip * 2 + apart);
            if cx.now.mono < look {
                lease.next_round = lease.next_round.min(look);
            }
        }
    }

    /// Sends the granted claim to all voters.
    fn send_round(&mut self, cx: &mut ClaimCtx<'_>) {
        self.send_to_all(cx);
        self.note_round(cx.now);
    }

    fn note_round(&mut self, now: Now) {
        if let Phase::Held(lease) = &mut self.phase {
            lease.note_round(now, self.sent.last, self.renewal.every());
        }
    }

    pub(super) fn send_to_all(&mut self, cx: &mut ClaimCtx<'_>) {
        let sent_at = self.sent.next(cx.now);
        for at in 0..self.ballots.len() {
            self.send(cx, at, sent_at);
        }
        if let Phase::Waiting(waiting) = &mut self.phase
            && self.is_try
        {
            let backoff = retransmit_backoff(self.ttl, &cx.own.voter_set, waiting.repeats);
            waiting.next_repeat = cx.now.mono.after(cx.own.jitter.shorten(backoff));
        }
    }

    fn send_to(&mut self, cx: &mut ClaimCtx<'_>, at: usize) {
        let sent_at = self.sent.next(cx.now);
        self.send(cx, at, sent_at);
    }

    fn send(&mut self, cx: &mut ClaimCtx<'_>, at: usize, sent_at: Instant) {
        let ttl = self.wanted(cx.now);
        let granted = self.is_held();
        let joins = self.lease().is_some_and(|lease| lease.joins);
        let ballot = &mut self.ballots[at];
        let claim = Claim {
            key: self.key.clone(),
            claim: self.id.clone(),
            epoch: self.epoch,
            ttl,
            sent_at,
            votes_valid_since: ballot.votes_valid_since,
            granted,
            is_try: self.is_try,
            join: joins && ttl == self.ttl,
            outlives: self.renewal == Renewal::Never { outlives: true },
        };
        let message = match self.is_once {
            true => Message::OnceClaim(claim),
            false => Message::Claim(claim),
        };
        cx.out.send(&ballot.voter, message);
        if let Some(note) = &self.note {
            let note = NoteMessage::OfClaim {
                key: self.key.clone(),
                claim: self.id.clone(),
                note: note.clone(),
            };
            cx.out.send(&ballot.voter, Message::Note(Box::new(note)));
        }
        let backoff = retransmit_backoff(self.ttl, &cx.own.voter_set, ballot.unanswered);
        ballot.unanswered = ballot.unanswered.saturating_add(1);
        ballot.due = cx.now.mono.after(cx.own.jitter.shorten(backoff));
        if granted && mistaken!(RenewalsNotRepeated) {
            ballot.due = Instant::FAR;
        }
    }

    /// Returns the ttl that the next `Claim` requests.
    fn wanted(&self, now: Now) -> Duration {
        let lease = self.lease();
        lease.map_or(self.ttl, |lease| lease.wanted(now, self.ttl))
    }

    /// Rule 16: reports a `try` claim as denied once another claim is granted.
    fn is_denied(&self, cx: &mut ClaimCtx<'_>) -> bool {
        let is_denied = match &self.phase {
            Phase::Waiting(waiting) if self.is_try => {
                self.another_has_granted(waiting.repeats >= TRY_REPEATS)
            }
            _ => false,
        };
        if is_denied {
            let ticket = self.ticket;
            cx.out.tell(Event::Denied { ticket });
        }
        is_denied
    }

    /// Returns `true` if another claim is granted; if the voters had time to answer, also if
    /// another one probably is.
    fn another_has_granted(&self, had_time: bool) -> bool {
        let yes = self.count_of(|ballot| {
            let is_unwon = ballot.reply.is_wait(HolderGranted::No) && mistaken!(UnwonDenies);
            ballot.reply.is_wait(HolderGranted::Yes) || is_unwon
        });
        let silent = self.count_of(|ballot| ballot.reply.is_wait(HolderGranted::Silent));
        let mute = self.count_of(|it| matches!(it.reply, Reply::None | Reply::Refused(_)));
        let likely = yes + silent > 0 && self.excludes_quorum(yes + silent + mute);
        self.excludes_quorum(yes) || had_time && (likely || self.another_may_have_granted(mute))
    }

    /// Returns `true` if a quorum of the voters names one claim that may have been granted.
    ///
    /// If a quorum has answered and the named claim comes before this one, silent voters count as
    /// naming it too. A live claim that comes after this one would give its votes back. Different
    /// holders prove nothing: they may all be `try` claims.
    fn another_may_have_granted(&self, mute: usize) -> bool {
        let own = (self.epoch, &self.id);
        let answered = self.is_quorum(self.ballots.len() - mute);
        let named = self
            .ballots
            .iter()
            .filter_map(|ballot| match &ballot.reply {
                Reply::Waits { granted, holder } if *granted != HolderGranted::No => {
                    holder.as_deref()
                }
                _ => None,
            });
        named.clone().any(|holder| {
            let any = mistaken!(AnySilentHolders);
            let count = named.clone().filter(|it| *it == holder || any).count();
            let is_before = (holder.epoch, &holder.claim) < own || any;
            let mute = if answered && is_before { mute } else { 0 };
            self.is_quorum(count + mute)
        })
    }

    fn named_holder(&self, now: Now) -> Option<Box<KeyHolder>> {
        let Phase::Waiting(waiting) = &self.phase else {
            return None;
        };
        let (holder, since) = waiting.holder.as_deref()?;
        let known_for = now.mono.since(*since);
        Some(Box::new(KeyHolder {
            held_for: holder.held_for.saturating_add(known_for),
            ..holder.clone()
        }))
    }

    fn answers(&self) -> VoteTally {
        let mut answers = VoteTally {
            voters: self.ballots.len(),
            ..VoteTally::default()
        };
        for ballot in &self.ballots {
            match ballot.reply {
                Reply::None => answers.silent += 1,
                Reply::Voted => answers.voted += 1,
                Reply::Waits { .. } => answers.waiting += 1,
                Reply::Refused(reason) => {
                    answers.refused += 1;
                    let reasons = [answers.reason, Some(reason)];
                    answers.reason = reasons.into_iter().flatten().max_by_key(|it| it.weight());
                }
            }
        }
        answers
    }
}
