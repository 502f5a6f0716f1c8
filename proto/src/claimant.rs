//! The claimant: requests votes, counts them and holds leases.
//!
//! A claimant sends its claim to the voters of the key. The claim is granted while a quorum of them
//! has promised to vote for no other claim. The claimant measures a promise from the instant at
//! which it *sent* the claim; the voter measures it from receipt. So the claimant's lease ends
//! first under any network delay, and no message is needed to end it.
//!
//! The rule numbers in the comments refer to `docs/protocol.md`.
//!
//! Rejected: measuring from the receipt of the vote. A delayed vote would then count longer than
//! the voter keeps its promise.

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

/// The most claims that were never granted and are remembered. A late vote for one of them is
/// released without raising a fence.
pub const NEVER_GRANTED_MAX: usize = 1_024;
/// An epoch is drawn fewer than 1,024 steps above the lowest possible one. A millisecond has 2^20
/// steps, enough for 1,024 such draws.
const EPOCH_STEPS: u64 = 1_024;
/// The most claims that one call works on, so that other work is not delayed.
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
    /// The timer of each claim.
    pub(super) due: BTreeSet<(Instant, Ticket)>,
    /// The highest ticket of any request.
    last_ticket: Ticket,
    /// The number of the last claim. Numbers start at 1 and never repeat.
    last_seq: u64,
    pub(super) never_granted: VecDeque<u64>,
    /// Sessions with voters, and voters that do not vote now.
    pub(super) links: Links,
    /// Set if a session was renewed late, so that all leases are checked early: since when, and the
    /// next ticket to check.
    pub(super) sweep: Option<(Instant, Ticket)>,
    /// Voters to which claims are retransmitted early: when, and the next ticket.
    pub(super) returned: BTreeMap<NodeId, (Instant, Ticket)>,
}

impl Claimant {
    /// Creates a claimant without claims.
    ///
    /// `seed` spreads retransmissions and epochs. Zero spreads nothing, so that a model checker has
    /// fewer states to visit.
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

    /// Draws the lowest possible epochs, so that a test can name them.
    #[cfg(test)]
    pub(super) fn with_lowest_epochs(mut self) -> Self {
        self.steps = Jitter::new(0);
        self
    }

    /// Sets the interval between renewals. It is at least a round trip and at most half of the ttl;
    /// `None` means a third of the ttl.
    #[must_use]
    pub fn with_renewal(mut self, renew_interval: Option<Duration>) -> Self {
        let round_trip = self.voter_set.timing().round_trip;
        self.renew_interval = renew_interval.map(|every| every.max(round_trip));
        self
    }

    /// Returns a ticket that no request has used.
    #[must_use]
    pub fn next_ticket(&self) -> Ticket {
        Ticket(self.last_ticket.0.saturating_add(1))
    }

    /// Submits a request and sends its first claim.
    ///
    /// # Errors
    /// [`RequestError::Ttl`] if the ttl is out of bounds, [`RequestError::TooMany`] if the claimant
    /// already has its maximum number of requests.
    pub fn request(
        &mut self,
        now: Now,
        request: Request,
        out: &mut Effects,
    ) -> Result<Ticket, RequestError> {
        let ticket = self.next_ticket();
        self.request_as(now, ticket, request, out).map(|()| ticket)
    }

    /// Submits a request under a ticket that the caller chose. If a request has that ticket
    /// already, it is released first.
    ///
    /// # Errors
    /// The same as [`Claimant::request`].
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

    /// Ends a request: withdraws a waiting claim, or releases a lease. Returns `true` if the
    /// request still held its lock.
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

    /// Asks the voters to extend a lease by `extra`. Returns the new end, which holds once an
    /// [`Event::Renewed`] reaches that instant.
    ///
    /// # Errors
    /// [`ExtendError::NotHeld`] if the request does not hold its lock, [`ExtendError::TooLong`] if
    /// more than `max_ttl` would remain.
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

    /// Handles a voter's answer to a claim: a `Vote`, `Wait`, `Stale` or `Refuse`. Ignores other
    /// messages. The caller has checked that the claim is from this node.
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
        // Answers to claims that are over advance the epoch clock too.
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
        // Rule 17: a vote for a claim that is over is released. Rule 7 ends the votes of earlier
        // incarnations, except those that outlive their process.
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

    /// Does the work that is due: retransmissions, renewals, deadlines and expired leases.
    ///
    /// If more is due than one call does, [`Claimant::next_timeout`] is not later than `now`.
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

    /// Adopts a higher incarnation, after this node learned that an earlier incarnation of it had a
    /// number at least as high as its own.
    ///
    /// Voters take the higher incarnation as proof that the claims so far are over. So all leases
    /// are lost, and waiting requests claim anew. Leases that outlive their process expire at the
    /// voters.
    pub fn adopt(&mut self, now: Now, incarnation: Incarnation, out: &mut Effects) {
        if incarnation > self.incarnation {
            self.incarnation = incarnation;
            self.begin_anew(now, out);
        }
    }

    /// Ends all leases, and claims anew for all waiting requests: the votes that voters have on
    /// record for this node no longer count.
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

    /// Returns the lowest epoch that a new claim could have now, without drawing it.
    #[must_use]
    pub fn next_epoch(&self, now: Now) -> Epoch {
        let skew = self.voter_set.timing().max_clock_skew;
        self.clock.clone().draw(now, skew)
    }

    /// Advances the node's epoch clock past a received epoch. Returns `true` if the epoch is within
    /// `max_clock_skew`; otherwise the clock does not move.
    pub fn observe(&mut self, now: Now, epoch: Epoch) -> bool {
        self.clock
            .observe(now, epoch, self.voter_set.timing().max_clock_skew)
    }

    /// Returns when [`Claimant::handle_timeout`] has work to do.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        let claims = self.due.first().map(|(at, _)| *at);
        let sweep = self.sweep.map(|(since, _)| since);
        let again = self.returned.values().map(|(at, _)| *at).min();
        earliest([claims, sweep, again, self.links.next_timeout()])
    }

    /// Returns the incarnation that the node's claims are made in.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Returns the end of a request's lease; `None` if the request does not hold its lock at `now`.
    #[must_use]
    pub fn valid_until(&self, now: Now, ticket: Ticket) -> Option<Instant> {
        let held = self.claims.get(&ticket)?.held?;
        (now.mono < held.valid_until || mistaken!(GuardWithoutClock)).then_some(held.valid_until)
    }

    /// Returns the epoch of a request's current claim. It changes if the request claims anew, for
    /// example after a `Stale`.
    #[must_use]
    pub fn epoch(&self, ticket: Ticket) -> Option<Epoch> {
        self.claims.get(&ticket).map(|claim| claim.epoch)
    }

    /// Returns the leases that are held at `now`: key, epoch and end.
    pub fn held(&self, now: Now) -> impl Iterator<Item = (&Key, Epoch, Instant)> {
        self.claims.values().filter_map(move |claim| {
            let held = claim.held.filter(|held| now.mono < held.valid_until)?;
            Some((&claim.key, claim.epoch, held.valid_until))
        })
    }

    /// Returns the number of requests that wait for their lock.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.claims
            .values()
            .filter(|claim| claim.held.is_none())
            .count()
    }

    /// Returns the number of requests, both waiting and granted.
    #[must_use]
    pub fn len(&self) -> usize {
        self.claims.len()
    }

    /// Returns `true` if there are no requests.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.claims.is_empty()
    }

    /// Returns the number of sessions that keep leases of this node alive at voters.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.links.len()
    }

    /// Returns the tickets of all requests in ascending order.
    pub fn tickets(&self) -> impl Iterator<Item = Ticket> {
        self.claims.keys().copied()
    }

    /// Rules 10, 11 and 13. Returns `true` if the claim is over, as do `on_wait`, `on_stale` and
    /// `on_refuse`.
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

    /// Rules 11 and 12: the claim is granted.
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
        // The voter lost its memory, or the message is old. Ending the coverage is safe in both
        // cases.
        self.cover(now, claim, (at, from), None);
        // Rule 16: a holder of this process that is over does not deny a `try` claim, since rule 17
        // soon releases its vote.
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
        // An epoch drawn just above a fence may be one past the limit, and is within it soon. A
        // higher one was drawn while the node's wall clock was ahead; the clock has been corrected
        // since.
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

    /// Rule 16: reports a `try` claim as denied once another claim is granted.
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

    /// Advances the drawn epoch by a random number of steps, so that two nodes rarely draw the same
    /// one.
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

    /// Sends `Release` to all voters and forgets the claim. The number of a claim that was never
    /// granted is kept for late votes.
    pub(super) fn finish(&mut self, claim: &OwnClaim, out: &mut Effects) {
        let granted = self.forget(claim);
        claim.release_all(granted, out);
    }

    /// Forgets a claim. Returns `true` if it was granted.
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
        // Sorted by the order in which claims ended, not by number, so a binary search is not
        // possible.
        id.incarnation == self.incarnation && self.never_granted.contains(&id.seq)
    }
}
