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

pub(crate) mod backoff;
mod claim;
mod lease;
pub(crate) mod link;
mod marking;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::deadlines::Deadlines;
use crate::epoch::{Epoch, EpochClock};
use crate::event::{Effects, KeyHolder, Ticket};
use crate::id::{ClaimId, Incarnation, Key, NodeId, Note};
use crate::message::{Kept, Message, RefuseReason, Release, Revoke};
use crate::time::{Instant, Now, earliest};
use crate::voter::MARK_KEEP_MAX;
use crate::voter_set::VoterSet;

use backoff::Jitter;
use claim::OwnClaim;
use link::{Links, News};

/// The most claims that were never granted and are remembered. A late vote for one of them is
/// released without raising a fence.
pub const NEVER_GRANTED_MAX: usize = 1_024;
/// An epoch is drawn fewer than 1,024 steps above the lowest possible one. A millisecond has 2^20
/// steps, enough for 1,024 such draws.
const EPOCH_STEPS: u64 = 1_024;
/// The most claims that one call works on, so that other work is not delayed.
pub(crate) const WORK_MAX: usize = 1_000;
/// The most claims retransmitted to a returned voter at once: no more than a socket takes.
pub(crate) const AGAIN_MAX: usize = 500;
/// The pause before the next 500: 125,000 claims per second.
const AGAIN_EVERY: Duration = Duration::from_millis(4);

/// A request for a lock.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Request {
    /// The key to lock.
    pub key: Key,
    /// The duration of each vote that is requested.
    pub ttl: Duration,
    /// Ends with [`Event::Denied`](crate::event::Event::Denied) once another claim is granted,
    /// instead of waiting.
    pub is_try: bool,
    /// Renews the lease until it is released. Otherwise the lease ends `ttl` after the grant.
    pub renews: bool,
    /// Lets the lease outlive its process: neither a later incarnation of the node nor
    /// [`Claimant::release_all`] ends it. Ignored if
    /// `renews` is set, since the end must be known.
    pub outlives: bool,
    /// The key may be marked: the request asks only voters that have all marks.
    pub is_once: bool,
    /// The instant at which the request gives up; `None` for never.
    pub deadline: Option<Instant>,
    /// A text that the voters show to people, and to those that wait for the key.
    pub note: Option<Note>,
}

/// The reason why a request was rejected. Nothing was sent.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum RequestError {
    /// The ttl is under ten round trips or over `max_ttl`.
    #[error("ttl is {ttl:?}; it must be {min:?} to {max:?}")]
    Ttl {
        /// The ttl of the request.
        ttl: Duration,
        /// The minimum: ten round trips.
        min: Duration,
        /// `max_ttl` of the voter set.
        max: Duration,
    },
    /// This node already has the maximum number of requests.
    #[error("this node already has {max} locks or requests for locks")]
    TooMany {
        /// The maximum.
        max: usize,
    },
}

/// The reason why an extension was rejected. The lease is unchanged.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum ExtendError {
    /// The request holds no lease, or the lease has expired.
    #[error("the lock is not held")]
    NotHeld,
    /// More than `max_ttl` would remain.
    #[error("{remaining:?} remain and {extra:?} more would exceed max_ttl, {max:?}")]
    TooLong {
        /// The remaining time of the lease.
        remaining: Duration,
        /// The extension that was requested.
        extra: Duration,
        /// `max_ttl` of the voter set.
        max: Duration,
    },
}

/// The reason why a mark was rejected. Nothing was sent.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum MarkError {
    /// The request holds no lease, or the lease has expired.
    #[error("the lock is not held")]
    NotHeld,
    /// The key would be marked for no time, or for more than [`MARK_KEEP_MAX`].
    #[error("keep_for is {keep_for:?}; it must be above 0 s and at most {MARK_KEEP_MAX:?}")]
    KeepFor {
        /// The time for which the key was to be marked.
        keep_for: Duration,
    },
}

/// One node's claims.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Claimant {
    max_claims: usize,
    claims: BTreeMap<Ticket, OwnClaim>,
    timers: Deadlines<Ticket>,
    /// The highest ticket of any request.
    last_ticket: Ticket,
    /// Set if a session was renewed late, so that all leases are checked early: since when, and the
    /// next ticket to check.
    sweep: Option<(Instant, Ticket)>,
    /// Voters to which claims are retransmitted early: when, and the next ticket.
    returned: BTreeMap<NodeId, (Instant, Ticket)>,
    shared: Shared,
}

/// The state that all claims of a node share.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Shared {
    me: NodeId,
    incarnation: Incarnation,
    voter_set: Arc<VoterSet>,
    clock: EpochClock,
    jitter: Jitter,
    /// Spreads epochs.
    steps: Jitter,
    renew_interval: Option<Duration>,
    /// The requests by the numbers of their present claims.
    tickets: BTreeMap<u64, Ticket>,
    /// The number of the last claim. Numbers start at 1 and never repeat.
    last_seq: u64,
    never_granted: VecDeque<u64>,
    /// Sessions with voters, and voters that do not vote now.
    links: Links,
}

/// The arguments of each step of a claim.
struct ClaimCtx<'a> {
    now: Now,
    own: &'a mut Shared,
    out: &'a mut Effects,
}

impl Shared {
    fn draw(&mut self, now: Now) -> Epoch {
        let skew = self.voter_set.timing().max_clock_skew;
        self.clock.draw(now, skew);
        self.step(now)
    }

    /// Draws an epoch above a voter's fence, after this many `Stale` answers in a row.
    fn draw_above(&mut self, now: Now, fence: Epoch, stales: u32) -> Epoch {
        let skew = self.voter_set.timing().max_clock_skew;
        self.clock.draw_above(now, fence, stales, skew);
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

    /// Returns the id of a request's next claim.
    fn next_id(&mut self, ticket: Ticket) -> ClaimId {
        self.last_seq += 1;
        self.tickets.insert(self.last_seq, ticket);
        ClaimId {
            node: self.me.clone(),
            incarnation: self.incarnation,
            seq: self.last_seq,
        }
    }

    /// Returns `true` if the claim was made by this process and is over.
    fn is_over(&self, id: &ClaimId) -> bool {
        let is_own = id.node == self.me && id.incarnation == self.incarnation;
        is_own && !self.tickets.contains_key(&id.seq)
    }

    /// Forgets a claim. Returns `true` if it was granted. The number of a claim that was never
    /// granted is kept for late votes.
    fn forget(&mut self, claim: &OwnClaim) -> bool {
        if !mistaken!(TicketsKept) {
            self.tickets.remove(&claim.id.seq);
        }
        let granted = !claim.is_waiting() && !mistaken!(GrantedIsForgotten);
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

    fn send_keep_alives(&mut self, now: Now, out: &mut Effects) {
        let (voter_set, jitter) = (&self.voter_set, &mut self.jitter);
        self.links.send_what_is_due(now, voter_set, jitter, out);
    }
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
            max_claims,
            claims: BTreeMap::new(),
            timers: Deadlines::default(),
            last_ticket: Ticket(0),
            sweep: None,
            returned: BTreeMap::new(),
            shared: Shared {
                me,
                incarnation,
                voter_set,
                clock: EpochClock::default(),
                jitter: Jitter::new(seed),
                steps: Jitter::new(seed),
                renew_interval: None,
                tickets: BTreeMap::new(),
                last_seq: 0,
                never_granted: VecDeque::new(),
                links: Links::default(),
            },
        }
    }

    /// Draws the lowest possible epochs, so that a test can name them.
    #[cfg(test)]
    pub(crate) fn with_lowest_epochs(mut self) -> Self {
        self.shared.steps = Jitter::new(0);
        self
    }

    /// Sets the interval between renewals. It is at least a round trip and at most half of the ttl;
    /// `None` means a third of the ttl.
    #[must_use]
    pub fn with_renewal(mut self, renew_interval: Option<Duration>) -> Self {
        let round_trip = self.shared.voter_set.timing().round_trip;
        self.shared.renew_interval = renew_interval.map(|every| every.max(round_trip));
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
    /// - [`RequestError::Ttl`] if the ttl is out of bounds.
    /// - [`RequestError::TooMany`] if the claimant already has its maximum number of requests.
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
    /// The errors of [`Claimant::request`].
    pub fn request_as(
        &mut self,
        now: Now,
        ticket: Ticket,
        request: Request,
        out: &mut Effects,
    ) -> Result<(), RequestError> {
        let timing = self.shared.voter_set.timing();
        let (ttl, min, max) = (request.ttl, timing.min_ttl(), timing.max_ttl);
        if ttl < min || ttl > max {
            return Err(RequestError::Ttl { ttl, min, max });
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
        let own = &mut self.shared;
        let (epoch, id) = (own.draw(now), own.next_id(ticket));
        let voters = own.voter_set.voters_for(&request.key);
        let mut claim = OwnClaim::new(ticket, id, epoch, request, voters, own.renew_interval);
        claim.send_to_all(&mut ClaimCtx { now, own, out });
        self.keep(claim);
        Ok(())
    }

    /// Ends a request: withdraws a waiting claim, or releases a lease. Returns `true` if the
    /// request still held its lock.
    pub fn release(&mut self, now: Now, ticket: Ticket, out: &mut Effects) -> bool {
        let Some(claim) = self.claims.remove(&ticket) else {
            return false;
        };
        self.timers.remove(claim.timer, ticket);
        let was_held = claim.lease().map(|lease| !lease.is_over(now));
        if was_held == Some(false) {
            out.tell(claim.lost());
        }
        let own = &mut self.shared;
        claim.finish(&mut ClaimCtx { now, own, out });
        was_held == Some(true)
    }

    /// Withdraws all requests and releases all leases, except leases that outlive their process.
    pub fn release_all(&mut self, now: Now, out: &mut Effects) {
        let ends = |claim: &OwnClaim| !claim.outlives() || mistaken!(ShutdownReleasesAll);
        let claims = self.claims.iter().filter(|(_, claim)| ends(claim));
        let tickets: Vec<Ticket> = claims.map(|(ticket, _)| *ticket).collect();
        for ticket in tickets {
            self.release(now, ticket, out);
        }
    }

    /// Asks the voters to extend a lease by `extra`. Returns the new end, which holds once an
    /// [`Event::Renewed`](crate::event::Event::Renewed) reaches that instant.
    ///
    /// # Errors
    /// - [`ExtendError::NotHeld`] if the request does not hold its lock.
    /// - [`ExtendError::TooLong`] if more than `max_ttl` would remain.
    pub fn extend(
        &mut self,
        now: Now,
        ticket: Ticket,
        extra: Duration,
        out: &mut Effects,
    ) -> Result<Instant, ExtendError> {
        let mut extended = Err(ExtendError::NotHeld);
        self.work_unless_lost(now, ticket, out, |claim, cx| {
            extended = claim.extend(cx, extra);
            false
        });
        extended
    }

    /// Marks the key of a lease, so that nobody is granted it for `keep_for`.
    /// [`Event::Marked`](crate::event::Event::Marked) or
    /// [`Event::NotMarked`](crate::event::Event::NotMarked) tells the outcome, unless the lease ends
    /// first. Has no effect if the key is being marked for at least that time. Otherwise the outcome
    /// is that of the longer time.
    ///
    /// # Errors
    /// - [`MarkError::NotHeld`] if the request does not hold its lock.
    /// - [`MarkError::KeepFor`] if `keep_for` is out of bounds.
    pub fn mark(
        &mut self,
        now: Now,
        ticket: Ticket,
        keep_for: Duration,
        out: &mut Effects,
    ) -> Result<(), MarkError> {
        if keep_for.is_zero() || keep_for > MARK_KEEP_MAX {
            return Err(MarkError::KeepFor { keep_for });
        }
        let mut is_held = false;
        self.work_unless_lost(now, ticket, out, |claim, cx| {
            is_held = claim.mark(cx, keep_for);
            false
        });
        is_held.then_some(()).ok_or(MarkError::NotHeld)
    }

    /// Handles a voter's answer to a claim: a `Vote`, `Wait`, `Stale`, `Refuse`, `Marked` or `Done`.
    /// Ignores other messages. The caller has checked that the claim is from this node.
    pub fn handle(&mut self, now: Now, from: &NodeId, msg: &Message, out: &mut Effects) {
        let (id, key, epoch) = match msg {
            Message::Vote(vote) => (&vote.claim, Some(&vote.key), None),
            Message::Wait(wait) => (&wait.claim, Some(&wait.key), Some(wait.epoch)),
            Message::Stale(stale) => (&stale.claim, None, Some(stale.fence)),
            Message::Refuse(refuse) => (&refuse.claim, None, None),
            Message::Marked(marked) => (&marked.claim, None, None),
            Message::Done(done) => (&done.claim, None, None),
            _ => return,
        };
        // A voter that votes again receives the claims that it refused before.
        if matches!(msg, Message::Vote(_) | Message::Wait(_)) && self.shared.links.note_voice(from)
        {
            self.returned.insert(from.clone(), (now.mono, Ticket(0)));
        }
        // Answers to claims that are over advance the epoch clock too.
        let msg = match epoch.is_none_or(|epoch| self.observe(now, epoch)) {
            true => Ok(msg),
            false => Err(RefuseReason::Skew),
        };
        let is_of_this_incarnation = id.incarnation == self.shared.incarnation;
        let ticket = self.shared.tickets.get(&id.seq).copied();
        let work = |claim: &mut OwnClaim, cx: &mut ClaimCtx<'_>| claim.handle(cx, from, msg);
        let is_known = match ticket.filter(|_| is_of_this_incarnation) {
            None => false,
            Some(ticket) if mistaken!(LostIsNotForGood) => self.work_on(now, ticket, out, work),
            Some(ticket) => self.work_unless_lost(now, ticket, out, work),
        };
        // Rule 17: a vote for a claim that is over is released. Rule 7 ends the votes of earlier
        // incarnations, except those that outlive their process.
        if let Some(key) = key.filter(|_| !is_known && is_of_this_incarnation) {
            // In the order in which claims ended, not by number, so a binary search is not
            // possible.
            let granted = !self.shared.never_granted.contains(&id.seq);
            let release = Release {
                key: key.clone(),
                claim: id.clone(),
                granted,
            };
            out.send(from, Message::Release(release));
        }
    }

    /// Handles the note of the holder that a voter's `Wait` for `claim` named. The caller has checked
    /// that the claim is from this node.
    pub fn handle_note(&mut self, now: Now, claim: &ClaimId, holder: KeyHolder) {
        let own = &self.shared;
        if claim.incarnation == own.incarnation
            && let Some(ticket) = own.tickets.get(&claim.seq)
            && let Some(claim) = self.claims.get_mut(ticket)
        {
            claim.learn_note(now, holder);
        }
    }

    /// Rule 38: handles a `Revoke` of a claim of this node. Returns `true` if the claim is over: its
    /// lease, if it has one, reports that it is lost.
    ///
    /// A lease that was revoked sends nothing until it is released, or its end has come.
    pub fn revoke(&mut self, now: Now, revoke: &Revoke, out: &mut Effects) -> bool {
        if revoke.claim.incarnation != self.shared.incarnation {
            return false;
        }
        if let Some(ticket) = self.shared.tickets.get(&revoke.claim.seq).copied() {
            self.work_unless_lost(now, ticket, out, |claim, cx| {
                claim.revoke(cx, revoke);
                false
            });
        }
        true
    }

    /// Handles a voter's answer to a `KeepAlive`.
    pub fn handle_kept(&mut self, now: Now, from: &NodeId, msg: &Kept) {
        let from_the_first = (now.mono, Ticket(0));
        match self.shared.links.handle_kept(now, from, msg) {
            News::None => {}
            News::Late => self.sweep = Some(from_the_first),
            News::Over => {
                self.returned.insert(from.clone(), from_the_first);
            }
        }
    }

    /// Retransmits unanswered claims and keep-alives to a voter that has become reachable.
    pub fn handle_reachable(&mut self, now: Now, voter: &NodeId, out: &mut Effects) {
        self.returned.insert(voter.clone(), (now.mono, Ticket(0)));
        self.shared.links.ask_again(now, voter);
        self.ask_again(now, out);
        self.shared.send_keep_alives(now, out);
    }

    /// Does the work that is due: retransmissions, renewals, deadlines and expired leases.
    ///
    /// If more is due than one call does, [`Claimant::next_timeout`] is not later than `now`.
    pub fn handle_timeout(&mut self, now: Now, out: &mut Effects) {
        for _ in 0..WORK_MAX {
            let Some(ticket) = self.timers.due(now.mono) else {
                break;
            };
            self.work_unless_lost(now, ticket, out, OwnClaim::handle_timeout);
        }
        self.look_at_leases(now, out);
        self.ask_again(now, out);
        self.shared.send_keep_alives(now, out);
    }

    /// Adopts a higher incarnation, after this node learned that an earlier incarnation of it had a
    /// number at least as high as its own.
    ///
    /// Voters take the higher incarnation as proof that the claims so far are over. So all leases
    /// are lost, and waiting requests claim anew. Leases that outlive their process expire at the
    /// voters.
    pub fn adopt(&mut self, now: Now, incarnation: Incarnation, out: &mut Effects) {
        if incarnation > self.shared.incarnation {
            self.shared.incarnation = incarnation;
            self.begin_anew(now, out);
        }
    }

    /// Ends all leases, and claims anew for all waiting requests: the votes that voters have on
    /// record for this node no longer count.
    pub fn begin_anew(&mut self, now: Now, out: &mut Effects) {
        let claims = std::mem::take(&mut self.claims);
        self.timers.clear();
        let own = &mut self.shared;
        let cx = &mut ClaimCtx { now, own, out };
        for claim in claims.values() {
            let granted = cx.own.forget(claim);
            if !claim.outlives() {
                claim.release_all(granted, cx);
            }
        }
        cx.own.links.end_all();
        self.returned.clear();
        for mut claim in claims.into_values() {
            let own = &mut self.shared;
            if claim.is_held() && mistaken!(LeasesOutliveTheirIncarnation) {
                own.tickets.insert(claim.id.seq, claim.ticket);
                self.keep(claim);
            } else if claim.is_held() {
                out.tell(claim.lost());
            } else if claim.is_waiting() {
                let epoch = own.draw(now);
                claim.claim_anew(&mut ClaimCtx { now, own, out }, epoch);
                self.keep(claim);
            }
        }
    }

    /// Advances the node's epoch clock past a received epoch. Returns `true` if the epoch is within
    /// `max_clock_skew`; otherwise the clock does not move.
    pub fn observe(&mut self, now: Now, epoch: Epoch) -> bool {
        let skew = self.shared.voter_set.timing().max_clock_skew;
        self.shared.clock.observe(now, epoch, skew)
    }

    /// Returns the lowest epoch that a new claim could have now, without drawing it.
    #[must_use]
    pub fn next_epoch(&self, now: Now) -> Epoch {
        let skew = self.shared.voter_set.timing().max_clock_skew;
        self.shared.clock.clone().draw(now, skew)
    }

    /// Returns when [`Claimant::handle_timeout`] has work to do.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        let claims = self.timers.first().map(|(at, _)| at);
        let sweep = self.sweep.map(|(since, _)| since);
        let again = self.returned.values().map(|(at, _)| *at).min();
        earliest([claims, sweep, again, self.shared.links.next_timeout()])
    }

    /// Returns the incarnation that the node's claims are made in.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.shared.incarnation
    }

    /// Returns the end of a request's lease; `None` if the request does not hold its lock at `now`.
    #[must_use]
    pub fn valid_until(&self, now: Now, ticket: Ticket) -> Option<Instant> {
        let lease = self.claims.get(&ticket)?.lease()?;
        let is_valid = !lease.is_over(now) || mistaken!(GuardWithoutClock);
        is_valid.then_some(lease.valid_until)
    }

    /// Returns the epoch of a request's current claim. It changes if the request claims anew, for
    /// example after a `Stale`.
    #[must_use]
    pub fn epoch(&self, ticket: Ticket) -> Option<Epoch> {
        self.claims.get(&ticket).map(|claim| claim.epoch)
    }

    /// Returns the id of a request's current claim.
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn claim_id(&self, ticket: Ticket) -> Option<&ClaimId> {
        self.claims.get(&ticket).map(|claim| &claim.id)
    }

    /// Returns the leases that are held at `now`: key, epoch and end.
    pub fn held(&self, now: Now) -> impl Iterator<Item = (&Key, Epoch, Instant)> {
        self.claims.values().filter_map(move |claim| {
            let lease = claim.lease().filter(|lease| !lease.is_over(now))?;
            Some((&claim.key, claim.epoch, lease.valid_until))
        })
    }

    /// Returns the number of requests that wait for their lock.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.claims
            .values()
            .filter(|claim| claim.is_waiting())
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
        self.shared.links.len()
    }

    /// Returns the tickets of all requests in ascending order.
    pub fn tickets(&self) -> impl Iterator<Item = Ticket> {
        self.claims.keys().copied()
    }

    /// Returns the number of entries in each map, by name.
    pub(crate) fn sizes(&self) -> impl Iterator<Item = (&'static str, usize)> {
        let sizes = [
            ("claims", self.claims.len()),
            ("tickets", self.shared.tickets.len()),
            ("timers of claims", self.timers.len()),
            (
                "claims that were never granted",
                self.shared.never_granted.len(),
            ),
            ("voters asked again", self.returned.len()),
        ];
        sizes.into_iter().chain(self.shared.links.sizes())
    }

    /// Retransmits claims to voters that have returned, at most `AGAIN_MAX` at once. A voter that
    /// still refuses is left out.
    fn ask_again(&mut self, now: Now, out: &mut Effects) {
        let due = self.returned.iter().filter(|(_, (at, _))| *at <= now.mono);
        let due: Vec<(NodeId, Ticket)> = due.map(|(v, (_, next))| (v.clone(), *next)).collect();
        for (voter, next) in due {
            self.returned.remove(&voter);
            if self.shared.links.is_quiet(now, &voter) {
                continue;
            }
            let again = self.work_from(now, next, AGAIN_MAX, out, |claim, cx| {
                claim.ask_again(cx, &voter);
            });
            if let Some(next) = again {
                let again = (now.mono.after(AGAIN_EVERY), next);
                self.returned.insert(voter, again);
            }
        }
    }

    /// Checks all leases if a session was renewed late, so that none of them expires although it
    /// was renewed. Otherwise the timer of each lease is early enough.
    fn look_at_leases(&mut self, now: Now, out: &mut Effects) {
        if let Some((since, next)) = self.sweep.take() {
            let again = self.work_from(now, next, WORK_MAX, out, OwnClaim::lengthen);
            self.sweep = again.map(|next| (since, next));
        }
    }

    /// Runs `work` on up to `max` claims whose tickets are at least `next`. Returns the ticket at
    /// which the next call goes on.
    fn work_from(
        &mut self,
        now: Now,
        next: Ticket,
        max: usize,
        out: &mut Effects,
        work: impl Fn(&mut OwnClaim, &mut ClaimCtx<'_>),
    ) -> Option<Ticket> {
        let tickets = self.claims.range(next..).map(|(ticket, _)| *ticket);
        let tickets: Vec<Ticket> = tickets.take(max).collect();
        for ticket in &tickets {
            self.work_unless_lost(now, *ticket, out, |claim, cx| {
                work(claim, cx);
                false
            });
        }
        tickets.get(max - 1).map(|last| Ticket(last.0 + 1))
    }

    /// Runs `work` on a claim, and ends the claim if `work` returns `true`. Returns `true` if there
    /// is a claim with this ticket.
    fn work_on(
        &mut self,
        now: Now,
        ticket: Ticket,
        out: &mut Effects,
        work: impl FnOnce(&mut OwnClaim, &mut ClaimCtx<'_>) -> bool,
    ) -> bool {
        let Some(claim) = self.claims.get_mut(&ticket) else {
            return false;
        };
        let own = &mut self.shared;
        let cx = &mut ClaimCtx { now, own, out };
        if work(claim, cx) {
            claim.finish(cx);
            self.timers.remove(claim.timer, ticket);
            self.claims.remove(&ticket);
        } else {
            let timer = claim.next_timeout();
            self.timers.reset(ticket, &mut claim.timer, timer);
        }
        true
    }

    /// Like `work_on`, but first ends a claim whose lease has expired, so that no message can
    /// revive it. Returns `true` if the claim exists and its lease has not expired.
    fn work_unless_lost(
        &mut self,
        now: Now,
        ticket: Ticket,
        out: &mut Effects,
        work: impl FnOnce(&mut OwnClaim, &mut ClaimCtx<'_>) -> bool,
    ) -> bool {
        let mut is_lost = false;
        let is_there = self.work_on(now, ticket, out, |claim, cx| {
            is_lost = claim.lease().is_some_and(|lease| lease.is_over(now));
            if is_lost {
                cx.out.tell(claim.lost());
            }
            is_lost || work(claim, cx)
        });
        is_there && !is_lost
    }

    fn keep(&mut self, mut claim: OwnClaim) {
        claim.timer = claim.next_timeout();
        self.timers.insert(claim.timer, claim.ticket);
        self.claims.insert(claim.ticket, claim);
    }
}
