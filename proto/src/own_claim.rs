//! One claim of a claimant: the promises of each voter, and the next messages to send.

use std::time::Duration;

use super::backoff::{jittered, queue_interval, retransmit_backoff};
use super::epoch::Epoch;
use super::event::{Effects, Event, Ticket, VoteTally};
use super::id::{ClaimId, Key, NodeId};
use super::link::{LinkNo, Links};
use super::message::{Claim, HolderGranted, Message, RefuseReason, Release, Vote, Wait};
use super::request::Request;
use super::rng::Jitter;
use super::time::{Instant, Now};
use super::voter_set::{Tally, VoterSet, quorum_reaches};

/// The number of retransmissions after which a `try` claim counts a silent voter as one that may
/// have voted for another claim.
const TRY_REPEATS: u32 = 3;

/// A voter's last answer to a claim.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Answer {
    Nothing,
    Voted,
    Waits(HolderGranted),
    Refused(RefuseReason),
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Ballot {
    pub(super) voter: NodeId,
    /// Votes with an older send time do not count: the voter may have given them to another claim.
    votes_valid_since: Instant,
    /// The newest vote that counts: its send time, and its ttl from then.
    pub(super) vote: Option<(Instant, Duration)>,
    /// The session that covers the vote.
    pub(super) link: Option<LinkNo>,
    pub(super) answer: Answer,
    /// The holder that the voter named, if this is a waiting `try` claim.
    holder: Option<Box<Holder>>,
    /// The number of claims sent since the voter's last answer.
    pub(super) unanswered: u32,
    /// The time of the next claim to this voter.
    pub(super) due: Instant,
}

/// The claim that a voter named as the holder of its vote.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
struct Holder {
    epoch: Epoch,
    claim: ClaimId,
}

/// The effect of a received vote.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Counted {
    /// The vote was given back, or was never requested.
    No,
    /// A newer vote was received before.
    Older,
    /// It is the newest vote, and counts from now on.
    Newest,
}

/// The lease of a granted claim.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Held {
    /// The end of the lease, as promised so far.
    pub(crate) valid_until: Instant,
    /// The latest end of a lease that does not renew itself, whatever is promised.
    pub(crate) end: Instant,
    /// `true` once the voters were sent a `Claim` with `granted`.
    pub(crate) told: bool,
    /// The send time of the last round of claims to all voters.
    pub(super) round: Instant,
    /// The time of the next round.
    pub(super) next_round: Instant,
    /// The instant that an extension is to reach; `Instant::ZERO` if none was requested.
    pub(super) goal: Instant,
    /// `true` once the lease was renewed, and so is worth a session.
    pub(super) joins: bool,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct OwnClaim {
    pub(crate) ticket: Ticket,
    pub(crate) id: ClaimId,
    pub(crate) key: Key,
    pub(crate) epoch: Epoch,
    pub(crate) ttl: Duration,
    pub(crate) deadline: Option<Instant>,
    pub(crate) held: Option<Held>,
    /// `true` once a `Wait` or a vote with `probe` was received: another claim wants the key, or
    /// may.
    pub(crate) asked: bool,
    /// The number of `Stale` answers in a row.
    pub(crate) stales: u32,
    /// The claim's timer in the claimant's timer list.
    pub(crate) timer: Instant,
    is_try: bool,
    pub(crate) renews: bool,
    outlives: bool,
    /// The interval between renewals.
    pub(crate) renew_interval: Duration,
    pub(super) ballots: Vec<Ballot>,
    pub(super) last_sent_at: Instant,
    /// The most by which a send time was ever ahead of the clock: two send times of one instant
    /// must differ. The lease is shortened by as much.
    pub(super) ahead: Duration,
    /// The number of retransmissions of a `try` claim to all voters.
    repeats: u32,
    /// The time of the next retransmission of a `try` claim.
    next_repeat: Instant,
    /// The number of times that the claim stepped aside (rule 24), and the end of the current
    /// pause.
    pub(super) asides: u32,
    pub(super) aside_until: Option<Instant>,
}

impl OwnClaim {
    pub(crate) fn new(
        ticket: Ticket,
        id: ClaimId,
        epoch: Epoch,
        request: Request,
        voters: Vec<NodeId>,
        renew_interval: Option<Duration>,
    ) -> Self {
        let third = request.ttl / 3;
        let ballots = voters.into_iter().map(|voter| Ballot {
            voter,
            votes_valid_since: Instant::ZERO,
            vote: None,
            link: None,
            answer: Answer::Nothing,
            holder: None,
            unanswered: 0,
            due: Instant::FAR,
        });
        Self {
            ticket,
            id,
            key: request.key,
            epoch,
            ttl: request.ttl,
            deadline: request.deadline.filter(|_| !mistaken!(DeadlineIgnored)),
            held: None,
            asked: false,
            stales: 0,
            timer: Instant::FAR,
            is_try: request.is_try,
            renews: request.renews,
            outlives: request.outlives && !request.renews,
            renew_interval: renew_interval.map_or(third, |every| every.min(request.ttl / 2)),
            ballots: ballots.collect(),
            last_sent_at: Instant::ZERO,
            ahead: Duration::ZERO,
            repeats: 0,
            next_repeat: Instant::FAR,
            asides: 0,
            aside_until: None,
        }
    }

    /// Restarts the request as another claim. No answer to the last claim counts.
    pub(crate) fn restart(&mut self, id: ClaimId, epoch: Epoch) {
        self.id = id;
        self.epoch = epoch;
        self.asked = false;
        self.repeats = 0;
        self.aside_until = None;
        for ballot in &mut self.ballots {
            ballot.votes_valid_since = Instant::ZERO;
            if !mistaken!(OldVotesCount) {
                ballot.vote = None;
            }
            ballot.link = None;
            ballot.answer = Answer::Nothing;
            ballot.holder = None;
            ballot.unanswered = 0;
        }
    }

    pub(crate) fn ballot_of(&self, voter: &NodeId) -> Option<usize> {
        self.ballots
            .iter()
            .position(|ballot| ballot.voter == *voter)
    }

    /// Returns `true` if this is the counted vote again, with at most half a reservation left. Such
    /// a vote is better given back than left to expire.
    pub(crate) fn runs_out(&self, now: Now, at: usize, vote: &Vote, voter_set: &VoterSet) -> bool {
        let remains = vote.sent_at.after(vote.ttl).since(now.mono);
        let is_same = self.ballots[at].vote == Some((vote.sent_at, vote.ttl));
        is_same && remains <= voter_set.timing().reservation / 2
    }

    /// Returns `true` if a quorum of the voters answers, so that the claim can be granted. A claim
    /// that cannot be granted lets its reservations expire: it would otherwise delay those behind
    /// it.
    pub(crate) fn may_win(&self) -> bool {
        let answers = self.ballots.iter().filter(|it| it.unanswered < 2).count();
        Tally::of(self.ballots.len(), answers, 0) == Tally::Granted && !mistaken!(TurnsRunOut)
    }

    /// Rule 10: keeps the newest vote that counts. Returns the effect of this one.
    pub(crate) fn count(&mut self, now: Now, at: usize, vote: &Vote) -> Counted {
        let ballot = &mut self.ballots[at];
        let given_back = vote.sent_at < ballot.votes_valid_since && !mistaken!(GivenBackVotesCount);
        if given_back || vote.sent_at > self.last_sent_at {
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
    pub(crate) fn answer(
        &mut self,
        now: Now,
        at: usize,
        answer: Answer,
        (voter_set, links): (&VoterSet, &Links),
        jitter: &mut Jitter,
    ) {
        let is_covered = self.is_covered(at, links);
        let slow = queue_interval(self.ttl, voter_set);
        let round = self.held.map(|held| held.round);
        let ballot = &mut self.ballots[at];
        ballot.answer = answer;
        ballot.holder = None;
        ballot.unanswered = 0;
        let backoff = match (answer, ballot.vote, round) {
            // The next round renews this vote, unless it answers an earlier round.
            (Answer::Voted, Some((sent_at, _)), Some(round)) if sent_at >= round || is_covered => {
                ballot.due = Instant::FAR;
                return;
            }
            (Answer::Voted, Some((_, ttl)), Some(_)) => slow.min(ttl / 2),
            (Answer::Voted, Some((sent_at, ttl)), None) => {
                let remains = sent_at.after(ttl).since(now.mono);
                slow.min((remains / 2).max(voter_set.timing().round_trip))
            }
            _ => slow,
        };
        ballot.due = now.mono.after(jittered(backoff, jitter));
    }

    pub(crate) fn refused(&mut self, at: usize, reason: RefuseReason) {
        self.ballots[at].answer = Answer::Refused(reason);
        self.ballots[at].holder = None;
    }

    /// Records the holder that a voter named, if rule 16 may need it.
    pub(crate) fn note_holder(&mut self, at: usize, wait: &Wait) {
        if self.is_try && self.held.is_none() {
            self.ballots[at].holder = Some(Box::new(Holder {
                epoch: wait.epoch,
                claim: wait.holder.clone(),
            }));
        }
    }

    /// Suspends claims to a voter until then. A round may be sent sooner.
    pub(crate) fn rest(&mut self, at: usize, until: Instant) {
        self.ballots[at].due = until;
    }

    /// Rule 11: returns the latest instant up to which a quorum of the key's voters has promised
    /// its votes, or [`Instant::ZERO`]. Assumes that their clocks are as fast as `max_drift_ppm`
    /// allows.
    pub(crate) fn promised(&self, voter_set: &VoterSet, links: &Links) -> Instant {
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
            true => self.answered(),
            false => self.ballots.len(),
        };
        if mistaken!(ExpiredVotesCount)
            && Tally::of(voters, ends.clone().count(), 0) == Tally::Granted
        {
            return ends.max().unwrap_or_default();
        }
        match quorum_reaches(voters, ends) {
            Some(end) => end.before(self.ahead),
            None => Instant::ZERO,
        }
    }

    /// For the mistake `CountTheLiving`: returns the number of voters that have answered.
    fn answered(&self) -> usize {
        let silent = |ballot: &&Ballot| ballot.answer == Answer::Nothing;
        self.ballots.len() - self.ballots.iter().filter(silent).count()
    }

    /// Marks the claim as granted. Returns the end of the lease.
    pub(crate) fn win(&mut self, now: Now, promised: Instant) -> Instant {
        let end = if self.renews || mistaken!(NoEnd) {
            Instant::FAR
        } else {
            now.mono.after(self.ttl)
        };
        let next_round = if self.renews {
            now.mono.after(self.renew_interval)
        } else {
            Instant::FAR
        };
        let valid_until = promised.min(end);
        let round = self.last_sent_at;
        self.held = Some(Held {
            valid_until,
            end,
            told: false,
            round,
            next_round,
            goal: Instant::ZERO,
            joins: false,
        });
        self.deadline = None;
        for ballot in &mut self.ballots {
            if ballot.answer == Answer::Voted {
                ballot.due = Instant::FAR;
            }
        }
        valid_until
    }

    /// Rule 13: gives a vote back, since an earlier claim waits or the vote is about to expire. The
    /// voter's earlier votes no longer count.
    pub(crate) fn give_back(
        &mut self,
        now: Now,
        at: usize,
        voter_set: &VoterSet,
        jitter: &mut Jitter,
        out: &mut Effects,
    ) {
        let since = self.next_sent_at(now);
        let ballot = &mut self.ballots[at];
        if !mistaken!(GivenBackVotesCount) {
            ballot.vote = None;
        }
        ballot.votes_valid_since = since;
        ballot.answer = Answer::Nothing;
        self.send(now, at, since, voter_set, jitter, out);
    }

    /// Rules 12 and 14: sends what is due.
    pub(crate) fn send_what_is_due(
        &mut self,
        now: Now,
        voter_set: &VoterSet,
        jitter: &mut Jitter,
        links: &Links,
        out: &mut Effects,
    ) {
        match self.held {
            Some(held) if now.mono >= held.next_round => {
                self.renew(now, voter_set, jitter, links, out);
            }
            None if self.is_try && now.mono >= self.next_repeat => {
                self.repeats = self.repeats.saturating_add(1);
                self.send_to_all(now, voter_set, jitter, out);
            }
            _ => {
                let due: Vec<usize> = (0..self.ballots.len())
                    .filter(|at| self.ballots[*at].due <= now.mono)
                    .collect();
                for at in due {
                    self.send_to(now, at, voter_set, jitter, out);
                }
            }
        }
    }

    pub(crate) fn send_to_all(
        &mut self,
        now: Now,
        voter_set: &VoterSet,
        jitter: &mut Jitter,
        out: &mut Effects,
    ) {
        let sent_at = self.next_sent_at(now);
        for at in 0..self.ballots.len() {
            self.send(now, at, sent_at, voter_set, jitter, out);
        }
        if self.is_try && self.held.is_none() {
            let backoff = retransmit_backoff(self.ttl, voter_set, self.repeats);
            self.next_repeat = now.mono.after(jittered(backoff, jitter));
        }
    }

    pub(crate) fn send_to(
        &mut self,
        now: Now,
        at: usize,
        voter_set: &VoterSet,
        jitter: &mut Jitter,
        out: &mut Effects,
    ) {
        let sent_at = self.next_sent_at(now);
        self.send(now, at, sent_at, voter_set, jitter, out);
    }

    pub(super) fn send(
        &mut self,
        now: Now,
        at: usize,
        sent_at: Instant,
        voter_set: &VoterSet,
        jitter: &mut Jitter,
        out: &mut Effects,
    ) {
        let ttl = self.wanted(now);
        let joins = self.held.is_some_and(|held| held.joins);
        let ballot = &mut self.ballots[at];
        let claim = Claim {
            key: self.key.clone(),
            claim: self.id.clone(),
            epoch: self.epoch,
            ttl,
            sent_at,
            votes_valid_since: ballot.votes_valid_since,
            granted: self.held.is_some(),
            is_try: self.is_try,
            join: joins && self.renews && ttl == self.ttl,
            outlives: self.outlives,
        };
        out.send(&ballot.voter, Message::Claim(claim));
        let backoff = retransmit_backoff(self.ttl, voter_set, ballot.unanswered);
        ballot.unanswered = ballot.unanswered.saturating_add(1);
        ballot.due = now.mono.after(jittered(backoff, jitter));
        if self.held.is_some() && mistaken!(RenewalsNotRepeated) {
            ballot.due = Instant::FAR;
        }
    }

    /// Returns the ttl that the next `Claim` requests.
    pub(super) fn wanted(&self, now: Now) -> Duration {
        match self.held {
            None => self.ttl,
            Some(_) if mistaken!(LeaseShrinks) => self.ttl / 2,
            Some(held) if self.renews => self.ttl.max(held.goal.since(now.mono)),
            Some(held) => held.end.since(now.mono),
        }
    }

    pub(crate) fn release_all(&self, granted: bool, out: &mut Effects) {
        for ballot in &self.ballots {
            let release = Release {
                key: self.key.clone(),
                claim: self.id.clone(),
                granted,
            };
            out.send(&ballot.voter, Message::Release(release));
        }
    }

    /// Rule 16: returns `true` if this is a waiting `try` claim, and another claim is granted or
    /// probably is.
    pub(crate) fn is_denied(&self) -> bool {
        if !self.is_try || self.held.is_some() {
            return false;
        }
        let voters = self.ballots.len();
        let count = |is: fn(Answer) -> bool| self.ballots.iter().filter(|b| is(b.answer)).count();
        let yes = count(|answer| {
            let is_unwon = answer == Answer::Waits(HolderGranted::No) && mistaken!(UnwonDenies);
            answer == Answer::Waits(HolderGranted::Yes) || is_unwon
        });
        let silent = count(|answer| answer == Answer::Waits(HolderGranted::Silent));
        let mute = count(|answer| matches!(answer, Answer::Nothing | Answer::Refused(_)));
        let surely = Tally::of(voters, 0, yes) == Tally::Lost;
        let likely = self.repeats >= TRY_REPEATS
            && yes + silent > 0
            && Tally::of(voters, 0, yes + silent + mute) == Tally::Lost;
        surely || likely || self.repeats >= TRY_REPEATS && self.another_may_have_granted(mute)
    }

    /// Rule 16: returns `true` if a quorum of the voters names one claim that may have been
    /// granted.
    ///
    /// If a quorum has answered and the named claim comes before this one, silent voters count as
    /// naming it too. A live claim that comes after this one would give its votes back. Different
    /// holders prove nothing: they may all be `try` claims.
    fn another_may_have_granted(&self, mute: usize) -> bool {
        let own = Holder {
            epoch: self.epoch,
            claim: self.id.clone(),
        };
        let voters = self.ballots.len();
        let answered = Tally::of(voters, voters - mute, 0) == Tally::Granted;
        let may_have_granted = |ballot: &&Ballot| matches!(ballot.answer, Answer::Waits(granted) if granted != HolderGranted::No);
        let named = || self.ballots.iter().filter(may_have_granted);
        let mut holders = named().filter_map(|ballot| ballot.holder.as_ref());
        holders.any(|holder| {
            let is_it = |ballot: &&Ballot| {
                ballot.holder.as_ref() == Some(holder) || mistaken!(AnySilentHolders)
            };
            let count = named().filter(is_it).count();
            let is_before = **holder < own || mistaken!(AnySilentHolders);
            let mute = if answered && is_before { mute } else { 0 };
            Tally::of(voters, count + mute, 0) == Tally::Granted
        })
    }

    /// Returns `true` if the claim is granted and outlives its process.
    pub(crate) fn outlives(&self) -> bool {
        self.outlives && self.held.is_some()
    }

    pub(crate) fn answers(&self) -> VoteTally {
        let mut answers = VoteTally {
            voters: self.ballots.len(),
            ..VoteTally::default()
        };
        for ballot in &self.ballots {
            match ballot.answer {
                Answer::Nothing => answers.silent += 1,
                Answer::Voted => answers.voted += 1,
                Answer::Waits(_) => answers.waiting += 1,
                Answer::Refused(reason) => {
                    answers.refused += 1;
                    answers.reason = answers.reason.max(Some(reason));
                }
            }
        }
        answers
    }

    /// Returns the event for the end of its lease.
    pub(crate) fn lost(&self) -> Event {
        Event::Lost {
            ticket: self.ticket,
            key: self.key.clone(),
            epoch: self.epoch,
            was_due: !self.renews,
        }
    }

    pub(crate) fn next_timeout(&self) -> Instant {
        match self.held {
            Some(held) => {
                let ballots = self.ballots.iter().map(|ballot| ballot.due);
                ballots.fold(held.valid_until.min(held.next_round), Instant::min)
            }
            None => {
                let end = self.deadline.unwrap_or(Instant::FAR);
                if let Some(until) = self.aside_until {
                    end.min(until)
                } else if self.is_try {
                    end.min(self.next_repeat)
                } else {
                    self.ballots
                        .iter()
                        .map(|ballot| ballot.due)
                        .fold(end, Instant::min)
                }
            }
        }
    }

    /// Returns a send time later than any before. If two fall on one instant, the second is ahead
    /// of the clock, and the lease is shortened by the difference.
    pub(super) fn next_sent_at(&mut self, now: Now) -> Instant {
        let sent_at = now
            .mono
            .max(self.last_sent_at.after(Duration::from_nanos(1)));
        self.ahead = self.ahead.max(sent_at.since(now.mono));
        self.last_sent_at = sent_at;
        sent_at
    }
}
