//! The side that asks.
//!
//! A claimant sends its claim to the voters of the key, counts what they promise, and owns the key
//! for as long as a quorum of them have promised to vote for nobody else. It measures that by
//! its own clock from the moment it *sent* a claim, while a voter measures from the moment it
//! heard it: so the claimant's lease ends first, whatever the network does, and no message is
//! needed to learn that it has.
//!
//! The numbers in the comments are the rules of `docs/protocol.md`.
//!
//! The alternative that was rejected is to count from the receipt of the vote: then a vote that
//! was slow on its way counts longer than the voter keeps it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::epoch::{Epoch, EpochClock};
use super::event::{Effects, Event, Ticket};
use super::id::{ClaimId, Incarnation, Key, NodeId};
use super::link::Links;
use super::message::{HolderGranted, Message, RefuseReason, Release, Stale, Vote, Wait};
use super::own_claim::{Answer, Counted, OwnClaim};
pub use super::request::{ExtendError, Request, RequestError};
use super::rng::Jitter;
use super::time::{Instant, Now, earliest};
use super::voter_set::VoterSet;

/// How many claims that were never granted are remembered, so that a late vote for one of them is
/// given back without raising a fence.
pub const NEVER_GRANTED_MAX: usize = 1_024;
/// An epoch is drawn up to so many steps further on than it must be. A millisecond has room for a
/// thousand such.
const EPOCH_STEPS: u64 = 1_024;
/// How many claims a call works on: where many are due at once, other work is done in between.
pub(super) const WORK_MAX: usize = 1_000;

/// One node's claims.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Claimant {
    me: NodeId,
    incarnation: Incarnation,
    pub(super) voter_set: Arc<VoterSet>,
    clock: EpochClock,
    pub(super) jitter: Jitter,
    /// Spreads epochs.
    steps: Jitter,
    max_claims: usize,
    renew_interval: Option<Duration>,
    pub(super) claims: BTreeMap<Ticket, OwnClaim>,
    pub(super) tickets: BTreeMap<u64, Ticket>,
    /// When each claim has something to do.
    pub(super) due: BTreeSet<(Instant, Ticket)>,
    /// The highest that a request has had.
    last_ticket: Ticket,
    /// Numbers from 1 and never repeats.
    last_seq: u64,
    pub(super) never_granted: VecDeque<u64>,
    /// Sessions with voters.
    pub(super) links: Links,
    /// A session was renewed late, so leases are looked at before their time: since when, and
    /// which comes next.
    pub(super) sweep: Option<(Instant, Ticket)>,
    /// Voters that claims ask again before their time: when, and which comes next.
    pub(super) returned: BTreeMap<NodeId, (Instant, Ticket)>,
}

impl Claimant {
    /// A claimant without claims. `seed` only spreads repeats and epochs; zero spreads nothing,
    /// which spares a model checker states that differ in nothing else.
    #[must_use]
    pub fn new(
        me: NodeId,
        incarnation: Incarnation,
        voter_set: Arc<VoterSet>,
        max_claims: usize,
        seed: u64,
    ) -> Self {
        Self {
            me,
            incarnation,
            voter_set,
            clock: EpochClock::default(),
            jitter: Jitter::new(seed),
            steps: Jitter::new(seed),
            max_claims,
            renew_interval: None,
            claims: BTreeMap::new(),
            tickets: BTreeMap::new(),
            due: BTreeSet::new(),
            last_ticket: Ticket(0),
            last_seq: 0,
            never_granted: VecDeque::new(),
            links: Links::default(),
            sweep: None,
            returned: BTreeMap::new(),
        }
    }

    /// Draws every epoch as low as it may be, so that a test can name it.
    #[cfg(test)]
    pub(super) fn with_lowest_epochs(mut self) -> Self {
        self.steps = Jitter::new(0);
        self
    }

    /// Renews leases so often, though at least twice in a ttl and at most once in a round trip,
    /// instead of three times in a ttl.
    #[must_use]
    pub fn with_renewal(mut self, renew_interval: Option<Duration>) -> Self {
        let round_trip = self.voter_set.timing().round_trip;
        self.renew_interval = renew_interval.map(|every| every.max(round_trip));
        self
    }

    /// A ticket that no request has had.
    #[must_use]
    pub fn next_ticket(&self) -> Ticket {
        Ticket(self.last_ticket.0.saturating_add(1))
    }

    /// Begins to claim.
    ///
    /// # Errors
    /// [`RequestError`] where the ttl is out of bounds or there are too many requests already.
    pub fn request(
        &mut self,
        now: Now,
        request: Request,
        out: &mut Effects,
    ) -> Result<Ticket, RequestError> {
        let ticket = self.next_ticket();
        self.request_as(now, ticket, request, out).map(|()| ticket)
    }

    /// The same with a ticket of the caller's. A request that has it already is ended first.
    ///
    /// # Errors
    /// As [`Claimant::request`].
    pub fn request_as(
        &mut self,
        now: Now,
        ticket: Ticket,
        request: Request,
        out: &mut Effects,
    ) -> Result<(), RequestError> {
        let (min, max) = (
            self.voter_set.timing().min_ttl(),
            self.voter_set.timing().max_ttl,
        );
        if request.ttl < min || request.ttl > max {
            return Err(RequestError::Ttl {
                ttl: request.ttl,
                min,
                max,
            });
        }
        if self.claims.len() >= self.max_claims {
            return Err(RequestError::TooMany {
                max: self.max_claims,
            });
        }
        if ticket <= self.last_ticket {
            self.release(now, ticket, out);
        }
        self.last_ticket = self.last_ticket.max(ticket);
        let epoch = self.draw(now);
        let id = self.next_id();
        let voters = self.voter_set.voters_for(&request.key);
        self.tickets.insert(id.seq, ticket);
        let mut claim = OwnClaim::new(ticket, id, epoch, request, voters, self.renew_interval);
        claim.send_to_all(now, &self.voter_set, &mut self.jitter, out);
        self.keep(claim);
        Ok(())
    }

    /// Ends a request, whatever it has come to: a claim that waits is withdrawn, a lease is
    /// released. Answers whether it was held until now.
    pub fn release(&mut self, now: Now, ticket: Ticket, out: &mut Effects) -> bool {
        let Some(claim) = self.take(ticket) else {
            return false;
        };
        let was_held = claim.held.is_some_and(|held| now.mono < held.valid_until);
        if claim.held.is_some() && !was_held {
            out.tell(claim.lost());
        }
        self.finish(&claim, out);
        was_held
    }

    /// Asks that a lease last `extra` longer than what remains of it. It does once a
    /// [`Event::Renewed`] reaches the instant that is answered.
    ///
    /// # Errors
    /// [`ExtendError`] where it is not held, or where more than `max_ttl` would remain.
    pub fn extend(
        &mut self,
        now: Now,
        ticket: Ticket,
        extra: Duration,
        out: &mut Effects,
    ) -> Result<Instant, ExtendError> {
        let mut extended = Err(ExtendError::NotHeld);
        self.work_unless_lost(now, ticket, out, |me, claim, out| {
            extended = claim.extend(now, extra, &me.voter_set, &mut me.jitter, out);
            false
        });
        extended
    }

    /// A voter's answer to a claim of this node: a `Vote`, `Wait`, `Stale` or `Refuse`. The caller
    /// has checked that the claim is this node's; other messages are not for a claimant.
    pub fn handle(&mut self, now: Now, from: &NodeId, msg: &Message, out: &mut Effects) {
        let (id, key, epoch) = match msg {
            Message::Vote(vote) => (&vote.claim, Some(&vote.key), None),
            Message::Wait(wait) => (&wait.claim, Some(&wait.key), Some(wait.epoch)),
            Message::Stale(stale) => (&stale.claim, None, Some(stale.fence)),
            Message::Refuse(refuse) => (&refuse.claim, None, None),
            _ => return,
        };
        if matches!(msg, Message::Vote(_) | Message::Wait(_)) {
            self.note_voice(now, from);
        }
        // Also from an answer to a claim that is over: the clock moves past all that it believes.
        let is_believed = epoch.is_none_or(|epoch| self.observe(now, epoch));
        let ticket = self.tickets.get(&id.seq).copied();
        let ticket = ticket.filter(|_| id.incarnation == self.incarnation);
        let work = |me: &mut Self, claim: &mut OwnClaim, out: &mut Effects| match msg {
            _ if !is_believed => me.on_refuse(now, claim, from, RefuseReason::Skew, out),
            Message::Vote(vote) => me.on_vote(now, claim, from, vote, out),
            Message::Wait(wait) => me.on_wait(now, claim, from, wait, out),
            Message::Stale(stale) => me.on_stale(now, claim, from, stale, out),
            Message::Refuse(refuse) => me.on_refuse(now, claim, from, refuse.reason, out),
            _ => false,
        };
        let is_known = ticket.is_some_and(|ticket| match mistaken!(LostIsNotForGood) {
            true => self.work_on(ticket, out, work),
            false => self.work_unless_lost(now, ticket, out, work),
        });
        // Rule 17: no ghost keeps a vote. Of an earlier incarnation this one knows nothing: rule 7
        // ends what does not outlive it.
        let is_of_this_incarnation = id.incarnation == self.incarnation;
        if let Some(key) = key.filter(|_| !is_known && is_of_this_incarnation) {
            let granted = !self.never_granted(id);
            let release = Release {
                key: key.clone(),
                claim: id.clone(),
                granted,
            };
            out.send(from, Message::Release(release));
        }
    }

    /// Does what is due: repeats, renewals, deadlines, and leases that are over. Where more is due
    /// than one call should do, [`Claimant::next_timeout`] is not later than now.
    pub fn handle_timeout(&mut self, now: Now, out: &mut Effects) {
        for _ in 0..WORK_MAX {
            match self.due.first() {
                Some((at, ticket)) if *at <= now.mono => self.do_what_is_due(now, *ticket, out),
                _ => break,
            }
        }
        self.look_at_leases(now, out);
        self.ask_again(now, out);
        self.links
            .send_what_is_due(now, &self.voter_set, &mut self.jitter, out);
    }

    fn do_what_is_due(&mut self, now: Now, ticket: Ticket, out: &mut Effects) {
        self.work_unless_lost(now, ticket, out, |me, claim, out| {
            if claim.held.is_none() && claim.deadline.is_some_and(|at| now.mono >= at) {
                let answers = claim.answers();
                out.tell(Event::TimedOut { ticket, answers });
                return true;
            }
            if me.come_back(now, claim, out) {
                return false;
            }
            if me.is_denied(claim, out) {
                return true;
            }
            claim.send_what_is_due(now, &me.voter_set, &mut me.jitter, &me.links, out);
            me.lengthen(claim, out);
            false
        });
    }

    /// This node learns that an earlier incarnation of it had a number as high as its own: it goes
    /// on under a higher one. Voters take that as proof that its claims so far are over, and so
    /// they are: leases are lost, and those that wait claim anew. Leases that outlive their process
    /// are lost for this one, and run out at the voters.
    pub fn adopt(&mut self, now: Now, incarnation: Incarnation, out: &mut Effects) {
        if incarnation > self.incarnation {
            self.incarnation = incarnation;
            self.begin_anew(now, out);
        }
    }

    /// Lets go of all leases, and claims anew what is waited for: nothing that voters have on
    /// record for this node counts any more.
    pub fn begin_anew(&mut self, now: Now, out: &mut Effects) {
        let tickets: Vec<Ticket> = self.claims.keys().copied().collect();
        let claims: Vec<OwnClaim> = tickets.into_iter().filter_map(|t| self.take(t)).collect();
        for claim in &claims {
            let granted = self.forget(claim);
            if !claim.outlives() {
                claim.release_all(granted, out);
            }
        }
        self.links.end_all();
        self.returned.clear();
        for mut claim in claims {
            if claim.held.is_some() && mistaken!(LeasesOutliveTheirIncarnation) {
                self.tickets.insert(claim.id.seq, claim.ticket);
                self.keep(claim);
            } else if claim.held.is_some() {
                out.tell(claim.lost());
            } else {
                let epoch = self.draw(now);
                self.claim_anew(now, &mut claim, epoch, out);
                self.keep(claim);
            }
        }
    }

    /// Returns the epoch that a claim would have now. It is not drawn.
    #[must_use]
    pub fn next_epoch(&self, now: Now) -> Epoch {
        let skew = self.voter_set.timing().max_clock_skew;
        self.clock.clone().draw(now, skew)
    }

    /// Moves the node's epoch clock past an epoch that it has seen. Answers whether it is to be
    /// believed.
    pub fn observe(&mut self, now: Now, epoch: Epoch) -> bool {
        self.clock
            .observe(now, epoch, self.voter_set.timing().max_clock_skew)
    }

    /// When [`Claimant::handle_timeout`] has something to do.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        let claims = self.due.first().map(|(at, _)| *at);
        let sweep = self.sweep.map(|(since, _)| since);
        let again = self.returned.values().map(|(at, _)| *at).min();
        earliest([claims, sweep, again, self.links.next_timeout()])
    }

    /// The incarnation that it claims in.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Until when a request holds its lock; `None` where it does not.
    #[must_use]
    pub fn valid_until(&self, now: Now, ticket: Ticket) -> Option<Instant> {
        let held = self.claims.get(&ticket)?.held?;
        (now.mono < held.valid_until || mistaken!(GuardWithoutClock)).then_some(held.valid_until)
    }

    /// The epoch that a request claims with now: it rises when a claim is told `Stale`.
    #[must_use]
    pub fn epoch(&self, ticket: Ticket) -> Option<Epoch> {
        self.claims.get(&ticket).map(|claim| claim.epoch)
    }

    /// All leases that are held now: key, epoch, and until when.
    pub fn held(&self, now: Now) -> impl Iterator<Item = (&Key, Epoch, Instant)> {
        self.claims.values().filter_map(move |claim| {
            let held = claim.held.filter(|held| now.mono < held.valid_until)?;
            Some((&claim.key, claim.epoch, held.valid_until))
        })
    }

    /// How many requests there are that neither hold their lock nor are over.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.claims
            .values()
            .filter(|claim| claim.held.is_none())
            .count()
    }

    /// How many requests there are, those that hold their lock included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.claims.len()
    }

    /// Whether there is no request at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.claims.is_empty()
    }

    /// How many sessions keep leases of this node alive at voters.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.links.len()
    }

    /// All tickets, in the order of the requests.
    pub fn tickets(&self) -> impl Iterator<Item = Ticket> {
        self.claims.keys().copied()
    }

    /// Rules 10, 11 and 13. Answers whether the claim is over, as do the next three.
    fn on_vote(
        &mut self,
        now: Now,
        claim: &mut OwnClaim,
        from: &NodeId,
        vote: &Vote,
        out: &mut Effects,
    ) -> bool {
        let Some(at) = claim.ballot_of(from) else {
            return false;
        };
        claim.asked |= vote.probe;
        let runs_out = claim.runs_out(now, at, vote, &self.voter_set);
        let counted = claim.count(now, at, vote);
        if counted == Counted::Newest {
            self.cover(now, claim, (at, from), vote.covered);
        }
        if counted != Counted::No {
            let known = (&*self.voter_set, &self.links);
            claim.answer(now, at, Answer::Voted, known, &mut self.jitter);
        }
        if claim.held.is_some() {
            self.lengthen(claim, out);
            if vote.yield_requested && mistaken!(GrantedIsGivenBack) {
                claim.give_back(now, at, &self.voter_set, &mut self.jitter, out);
            } else if vote.probe {
                claim.send_to(now, at, &self.voter_set, &mut self.jitter, out);
            }
            return false;
        }
        let valid_until = claim.promised(&self.voter_set, &self.links);
        if now.mono < valid_until {
            self.win(now, claim, valid_until, out);
        } else if vote.yield_requested || runs_out && claim.may_win() {
            claim.give_back(now, at, &self.voter_set, &mut self.jitter, out);
        }
        false
    }

    /// Rules 11 and 12: it owns the key.
    fn win(&mut self, now: Now, claim: &mut OwnClaim, valid_until: Instant, out: &mut Effects) {
        let valid_until = claim.win(now, valid_until);
        let (ticket, key, epoch) = (claim.ticket, claim.key.clone(), claim.epoch);
        out.tell(Event::Granted {
            ticket,
            key,
            epoch,
            valid_until,
        });
        let is_short = valid_until.since(now.mono) < claim.ttl * 2 / 3;
        if (claim.asked || is_short) && !mistaken!(ReservationsNotRenewed) {
            claim.tell_all(now, &self.voter_set, &mut self.jitter, out);
        }
    }

    fn on_wait(
        &mut self,
        now: Now,
        claim: &mut OwnClaim,
        from: &NodeId,
        wait: &Wait,
        out: &mut Effects,
    ) -> bool {
        let Some(at) = claim.ballot_of(from) else {
            return false;
        };
        claim.asked = true;
        // The voter has forgotten, or the word is old: either way this is safe.
        self.cover(now, claim, (at, from), None);
        // Rule 16: a claim of this process that is over keeps nobody from the lock for long.
        let holder = &wait.holder;
        let is_own = holder.node == self.me && holder.incarnation == self.incarnation;
        let is_over = is_own && !self.tickets.contains_key(&holder.seq);
        let granted = match is_over && !mistaken!(OwnGhostsDeny) {
            true => HolderGranted::No,
            false => wait.granted,
        };
        let known = (&*self.voter_set, &self.links);
        claim.answer(now, at, Answer::Waits(granted), known, &mut self.jitter);
        claim.note_holder(at, wait);
        if claim.held.is_some_and(|held| !held.told) {
            claim.tell_all(now, &self.voter_set, &mut self.jitter, out);
        }
        self.is_denied(claim, out)
    }

    /// Rule 15.
    fn on_stale(
        &mut self,
        now: Now,
        claim: &mut OwnClaim,
        from: &NodeId,
        stale: &Stale,
        out: &mut Effects,
    ) -> bool {
        let is_held = claim.held.is_some() && !mistaken!(StaleEndsLeases);
        if is_held || claim.ballot_of(from).is_none() {
            return false;
        }
        self.finish(claim, out);
        if claim.stales == 0 || !mistaken!(StalesNotCounted) {
            claim.stales = claim.stales.saturating_add(1);
        }
        let skew = self.voter_set.timing().max_clock_skew;
        self.clock.draw_above(now, stale.fence, claim.stales, skew);
        let epoch = self.step(now);
        self.claim_anew(now, claim, epoch, out);
        false
    }

    fn on_refuse(
        &mut self,
        now: Now,
        claim: &mut OwnClaim,
        from: &NodeId,
        reason: RefuseReason,
        out: &mut Effects,
    ) -> bool {
        let Some(at) = claim.ballot_of(from) else {
            return false;
        };
        claim.refused(at, reason);
        if claim.held.is_some() {
            self.leave_alone(now, claim, (at, from), reason);
            return false;
        }
        // The epoch just above a fence may be one ahead of the limit; it is in time soon. What is
        // further ahead was drawn while the own wall clock was, and that was set right since.
        let soon = Epoch::limit(now, self.voter_set.timing().max_clock_skew).next();
        if reason == RefuseReason::Skew && claim.epoch > soon {
            self.finish(claim, out);
            let epoch = self.draw(now);
            self.claim_anew(now, claim, epoch, out);
            return false;
        }
        if self.is_denied(claim, out) {
            return true;
        }
        if reason == RefuseReason::Limit {
            self.step_aside(now, claim, out);
        }
        false
    }

    /// Rule 16: a `try` claim ends once another is granted.
    fn is_denied(&self, claim: &OwnClaim, out: &mut Effects) -> bool {
        let is_denied = claim.is_denied();
        if is_denied {
            out.tell(Event::Denied {
                ticket: claim.ticket,
            });
        }
        is_denied
    }

    pub(super) fn claim_anew(
        &mut self,
        now: Now,
        claim: &mut OwnClaim,
        epoch: Epoch,
        out: &mut Effects,
    ) {
        let id = self.next_id();
        self.tickets.insert(id.seq, claim.ticket);
        claim.restart(id, epoch);
        claim.send_to_all(now, &self.voter_set, &mut self.jitter, out);
    }

    fn draw(&mut self, now: Now) -> Epoch {
        let skew = self.voter_set.timing().max_clock_skew;
        self.clock.draw(now, skew);
        self.step(now)
    }

    /// Some steps above the epoch that was drawn: nobody else is to draw the same.
    fn step(&mut self, now: Now) -> Epoch {
        let skew = self.voter_set.timing().max_clock_skew;
        let steps = match mistaken!(EqualEpochsNotOrdered) {
            true => 0,
            false => self.steps.below(EPOCH_STEPS),
        };
        self.clock.step(now, steps, skew)
    }

    fn next_id(&mut self) -> ClaimId {
        self.last_seq += 1;
        ClaimId {
            node: self.me.clone(),
            incarnation: self.incarnation,
            seq: self.last_seq,
        }
    }

    /// Tells all voters that a claim is over, and forgets it but for what a late vote may ask.
    pub(super) fn finish(&mut self, claim: &OwnClaim, out: &mut Effects) {
        let granted = self.forget(claim);
        claim.release_all(granted, out);
    }

    /// Answers whether it is granted, or may have.
    fn forget(&mut self, claim: &OwnClaim) -> bool {
        if !mistaken!(TicketsKept) {
            self.tickets.remove(&claim.id.seq);
        }
        let granted = claim.held.is_some() && !mistaken!(GrantedIsForgotten);
        if !granted {
            if self.never_granted.len() == NEVER_GRANTED_MAX {
                self.never_granted.pop_front();
            }
            self.never_granted.push_back(claim.id.seq);
        }
        for link in claim.links() {
            self.links.leave(link, claim.id.seq);
        }
        granted
    }

    fn never_granted(&self, id: &ClaimId) -> bool {
        // In the order in which they ended, which is not that of their numbers.
        id.incarnation == self.incarnation && self.never_granted.contains(&id.seq)
    }
}
