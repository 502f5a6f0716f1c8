//! A node: voter, claimant and wire combined. It routes messages; the rules are in [`crate::voter`]
//! and [`crate::claimant`].
//!
//! One invariant: after every call that takes `&mut self`, drain [`Node::poll_output`] until it
//! returns [`Output::Timeout`], and call [`Node::handle_timeout`] at that instant.

mod addresses;
mod answer;
mod foreign_nodes;
mod incarnations;
mod inspect;
mod namesake;
mod outbox;
mod peers;
mod send;
mod sets;
mod sizes;
mod standing;
mod survey;
mod surveyor;
mod take;
mod time;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

pub use foreign_nodes::{ForeignNode, TOLD_EVERY};
pub use inspect::{InspectId, Inspection, KeyOwner, LockState, SeenVotes, Waiter};
pub use namesake::Twin;
pub use standing::Standing;
pub use survey::{Health, NodeAnswer, NodeSurvey, Survey};
pub use surveyor::{Surveyor, Wanted};

use crate::claimant::{Claimant, ExtendError, Request, RequestError};
use crate::clocks::Clocks;
use crate::epoch::Epoch;
use crate::event::{Effects, Event, Ticket};
use crate::id::{ClaimId, Incarnation, Key, NodeId};
use crate::message::{Claim, Message, RecoveryQuery, RecoveryReply, Refuse, RefuseReason};
use crate::rng::Jitter;
use crate::time::{Instant, Now, earliest};
use crate::view::View;
use crate::voter::{Start, Voter, VoterLimits};
use crate::voter_set::{MAX_TTL_MAX, QUARANTINE_MAX, VoterSet};
use crate::wire::observe::Counts;
use crate::wire::{DropReason, GOSSIP_BYTES_MAX, Head, Kind, Seal, Traffic};

use foreign_nodes::ForeignNodes;
use inspect::Inspector;
use namesake::Stopped;
use outbox::Outbox;
use peers::Peers;
use sets::Sets;
use standing::Standings;

/// The settings of a node.
#[derive(Debug)]
pub struct NodeConfig {
    /// The node's name, the same after every restart.
    pub id: NodeId,
    /// The number of this incarnation, higher than those of all earlier ones.
    pub incarnation: Incarnation,
    /// The voter set.
    pub voter_set: Arc<VoterSet>,
    /// The state in which its voter starts. Unused if the voter set does not name the node.
    pub start: Start,
    /// The limits of its voter's memory.
    pub limits: VoterLimits,
    /// The most requests and leases that it may have at once.
    pub max_claims: usize,
    /// The interval of lease renewals; `None` for a third of the ttl.
    pub renew_interval: Option<Duration>,
    /// A number that differs for every start. It spreads retransmits and makes nonces unique.
    pub seed: u64,
    /// The seal of its datagrams.
    pub seal: Seal,
}

/// An action for the driver, or an event.
#[derive(Debug)]
#[must_use]
pub enum Output {
    /// Send a datagram.
    Transmit {
        /// The destination address.
        to: SocketAddr,
        /// The sealed datagram.
        bytes: Vec<u8>,
    },
    /// A datagram of the gossip library was received.
    Gossip {
        /// Its source address.
        from: SocketAddr,
        /// Its body.
        bytes: Vec<u8>,
    },
    /// An answer to a question of [`Node::ask`], or one that nobody asked for.
    Answer {
        /// Its body.
        bytes: Vec<u8>,
    },
    /// An event of a request, of the voter or of a peer.
    Event(Event),
    /// Datagrams that could not be opened were received. Each address is reported at once, and then
    /// every [`TOLD_EVERY`].
    ForeignNode(ForeignNode),
    /// An inspection is done.
    Inspected {
        /// Its id, as [`Node::inspect`] returned it.
        id: InspectId,
        /// Its result.
        inspection: Inspection,
    },
    /// Everything is drained. Call [`Node::handle_timeout`] at this instant; `None` sets no timer.
    Timeout(Option<Instant>),
}

/// One embedded mesh instance, without its sockets and clocks.
#[derive(Debug)]
pub struct Node {
    id: NodeId,
    voter_set: Arc<VoterSet>,
    voter: Option<Voter>,
    claimant: Claimant,
    peers: Peers,
    view: View,
    sets: Sets,
    foreign_nodes: ForeignNodes,
    /// Set while another live process of this node's name is known.
    stopped: Option<Stopped>,
    /// The highest incarnation of this node that peers have reported.
    seen: Incarnation,
    /// Randomizes the numbers of incarnations.
    numbers: Jitter,
    seed: u64,
    /// The number of times that the voter was restarted.
    starts: u64,
    /// The time of the last call.
    now: Instant,
    /// The nodes that gossip reports as dead, and the time since which it does.
    silent_since: BTreeMap<NodeId, Instant>,
    inspector: Inspector,
    standings: Standings,
    clocks: Clocks,
    /// The reading of the own wall clock at the last call, in milliseconds since the Unix epoch.
    shown_ms: u64,
    seal: Seal,
    traffic: Traffic,
    /// The outcomes of its requests.
    counts: Counts,
    effects: Effects,
    /// The effects that are being routed. The buffer is reused.
    routed: Effects,
    /// The body and the messages of the datagram that is being handled. The buffers are reused.
    opened: Vec<u8>,
    taken: Vec<Message>,
    outbox: Outbox,
    /// The body of the datagram that is being packed. The buffer is reused.
    packing: Vec<u8>,
    outputs: VecDeque<Output>,
}

impl Node {
    /// Creates a node that starts at `now`.
    #[must_use]
    pub fn new(now: Now, config: NodeConfig) -> Self {
        let NodeConfig {
            id,
            incarnation,
            voter_set,
            start,
            limits,
            max_claims,
            renew_interval,
            seed,
            seal,
        } = config;
        let mut effects = Effects::default();
        let voter = voter_set.has_member(&id).then(|| {
            let (me, voter_set) = (id.clone(), voter_set.clone());
            Voter::new(now, me, voter_set, limits, start, seed, &mut effects)
        });
        let claimant = Claimant::new(id.clone(), incarnation, voter_set.clone(), max_claims, seed)
            .with_renewal(renew_interval);
        let mut node = Self {
            peers: Peers::new(id.clone(), voter_set.clone(), seed),
            view: View::default(),
            sets: Sets::default(),
            foreign_nodes: ForeignNodes::new(now),
            stopped: None,
            seen: incarnation,
            numbers: Jitter::new(seed),
            seed,
            starts: 0,
            now: now.mono,
            silent_since: BTreeMap::new(),
            inspector: Inspector::new(seed),
            standings: Standings::new(voter_set.timing()),
            clocks: Clocks::new(&id, &voter_set),
            shown_ms: now.wall_ms,
            id,
            voter_set,
            voter,
            claimant,
            seal,
            traffic: Traffic::default(),
            counts: Counts::default(),
            effects,
            routed: Effects::default(),
            opened: Vec::new(),
            taken: Vec::new(),
            outbox: Outbox::default(),
            packing: Vec::new(),
            outputs: VecDeque::new(),
        };
        node.route(now);
        node
    }

    /// Handles a datagram that was received from `from`.
    pub fn handle_datagram(&mut self, now: Now, from: SocketAddr, bytes: &[u8]) {
        let now = self.corrected(now);
        match self.receive(now, from, bytes) {
            Ok(()) => self.route(now),
            Err(reason) => {
                self.traffic.drop_one(reason);
                if let Some(foreign_node) = self.foreign_nodes.dropped(now, from, reason) {
                    self.outputs.push_back(Output::ForeignNode(foreign_node));
                }
            }
        }
    }

    /// Handles a new view of gossip.
    pub fn handle_view(&mut self, now: Now, view: &View) {
        let now = self.corrected(now);
        let reachable = self.peers.handle_view(view);
        if let Some(voter) = &mut self.voter {
            voter.handle_view(view);
            if mistaken!(GossipFreesVotes) {
                for (node, _) in view.peers.iter().filter(|(_, peer)| !peer.alive) {
                    let all = Incarnation::new(u64::MAX);
                    voter.handle_incarnation(now, node, all, &mut self.effects);
                }
            }
        }
        for (node, peer) in &view.peers {
            let before = self.view.peers.get(node);
            if before.is_none_or(|before| before.alive != peer.alive) {
                self.standings.hurry(node);
            }
        }
        self.view.clone_from(view);
        let silent = view.peers.iter().filter(|(_, peer)| !peer.alive);
        let mut before = std::mem::take(&mut self.silent_since);
        let since = silent.map(|(node, _)| {
            let known = before.remove_entry(node);
            known.unwrap_or_else(|| (node.clone(), now.mono))
        });
        self.silent_since = since.collect();
        for node in reachable {
            if self.voter_set.has_member(&node) {
                self.claimant
                    .handle_reachable(now, &node, &mut self.effects);
            }
        }
        let unheard: Vec<NodeId> = self.peers.unheard_members().cloned().collect();
        for node in &unheard {
            self.announce(node);
        }
        self.route(now);
    }

    /// Handles the timers that are due.
    pub fn handle_timeout(&mut self, now: Now) {
        let now = self.corrected(now);
        self.tell_voter_of_clocks(now);
        if let Some(voter) = &mut self.voter {
            voter.handle_timeout(now, &mut self.effects);
        }
        self.claimant.handle_timeout(now, &mut self.effects);
        self.finish_inspections(now);
        self.look_at_twin(now);
        self.route(now);
    }

    /// Starts a request for a key. Events with the returned ticket report its outcome.
    ///
    /// # Errors
    /// - [`RequestError::Ttl`] if the ttl is out of bounds.
    /// - [`RequestError::TooMany`] if the node has [`NodeConfig::max_claims`] requests and leases.
    pub fn claim(&mut self, now: Now, request: Request) -> Result<Ticket, RequestError> {
        let ticket = self.claimant.next_ticket();
        self.claim_as(now, ticket, request).map(|()| ticket)
    }

    /// Starts a request with the caller's own ticket. A request that already has the ticket is
    /// ended first.
    ///
    /// # Errors
    /// The errors of [`Node::claim`].
    pub fn claim_as(
        &mut self,
        now: Now,
        ticket: Ticket,
        request: Request,
    ) -> Result<(), RequestError> {
        let now = self.corrected(now);
        let effects = &mut self.effects;
        let taken = self.claimant.request_as(now, ticket, request, effects);
        self.counts.requests += u64::from(taken.is_ok());
        self.route(now);
        taken
    }

    /// Withdraws a request or releases its lease. Returns `true` if the lease was held until now.
    pub fn release(&mut self, now: Now, ticket: Ticket) -> bool {
        let now = self.corrected(now);
        let was_held = self.claimant.release(now, ticket, &mut self.effects);
        self.route(now);
        was_held
    }

    /// Withdraws all requests and releases all leases, except leases that outlive their process.
    pub fn release_all(&mut self, now: Now) {
        let now = self.corrected(now);
        self.claimant.release_all(now, &mut self.effects);
        self.route(now);
    }

    /// Requests that a lease last `extra` longer, and returns its new end. The lease is extended
    /// once an [`Event::Renewed`] for the ticket reaches that instant.
    ///
    /// # Errors
    /// - [`ExtendError::NotHeld`] if the lease is not held.
    /// - [`ExtendError::TooLong`] if more than `max_ttl` would remain.
    pub fn extend(
        &mut self,
        now: Now,
        ticket: Ticket,
        extra: Duration,
    ) -> Result<Instant, ExtendError> {
        let now = self.corrected(now);
        let goal = self.claimant.extend(now, ticket, extra, &mut self.effects);
        self.route(now);
        goal
    }

    /// Queries the voters of a key for its owner. [`Output::Inspected`] has the result, at most
    /// `patience` later.
    pub fn inspect(&mut self, now: Now, key: &Key, patience: Duration) -> InspectId {
        let now = self.corrected(now);
        let voters = self.voter_set.voters_for(key);
        let until = now.mono.after(patience);
        let id = self.inspector.begin(until, key, voters, &mut self.effects);
        self.route(now);
        id
    }

    /// Seals and sends a datagram of the gossip library. One that is too large for UDP is dropped
    /// and counted.
    pub fn send_gossip(&mut self, to: SocketAddr, body: &[u8]) {
        if body.len() + self.seal.overhead() > GOSSIP_BYTES_MAX {
            return self.traffic.drop_one(DropReason::GossipFull);
        }
        let bytes = self.seal.seal(Kind::Gossip, body);
        self.traffic.gossip_datagrams_out += 1;
        self.traffic.gossip_bytes_out += bytes.len() as u64;
        self.outputs.push_back(Output::Transmit { to, bytes });
    }

    /// Counts a datagram that the driver could not deliver.
    pub fn count_drop(&mut self, reason: DropReason) {
        self.traffic.drop_one(reason);
    }

    /// Returns the next output. [`Output::Timeout`] is the last.
    pub fn poll_output(&mut self) -> Output {
        loop {
            if let Some(output) = self.outputs.pop_front() {
                return output;
            }
            if !self.flush() {
                return Output::Timeout(self.next_timeout());
            }
        }
    }

    /// Returns the node's name.
    #[must_use]
    pub fn id(&self) -> &NodeId {
        &self.id
    }

    /// Returns the voter set.
    #[must_use]
    pub fn voter_set(&self) -> &Arc<VoterSet> {
        &self.voter_set
    }

    /// Returns the node's voter, if the voter set names the node.
    #[must_use]
    pub fn voter(&self) -> Option<&Voter> {
        self.voter.as_ref()
    }

    /// Returns the node's claimant.
    #[must_use]
    pub fn claimant(&self) -> &Claimant {
        &self.claimant
    }

    /// Returns the last view of gossip.
    #[must_use]
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Returns the time for which gossip has reported a node as dead. `None` if it is alive, or not
    /// known to gossip.
    #[must_use]
    pub fn silent_for(&self, now: Now, node: &NodeId) -> Option<Duration> {
        let since = self.silent_since.get(node)?;
        Some(now.mono.since(*since))
    }

    /// Returns the counters of sent, received and dropped datagrams.
    #[must_use]
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Returns the reason why datagrams cannot be opened, if some were received and none was opened
    /// for one second.
    #[must_use]
    pub fn hears_nobody(&self, now: Now) -> Option<DropReason> {
        self.foreign_nodes.nobody(now)
    }

    /// Returns the address that is tried first for a node.
    #[must_use]
    pub fn address_of(&self, node: &NodeId) -> Option<SocketAddr> {
        self.peers.address_of(node)
    }

    /// Returns the instant of the next [`Output::Timeout`].
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        let voter = self.voter.as_ref().and_then(Voter::next_timeout);
        let claimant = self.claimant.next_timeout();
        let inspector = self.inspector.next_timeout();
        earliest([voter, claimant, inspector, self.next_look_at_twin()])
    }

    fn dispatch(&mut self, now: Now, head: &Head, message: Message) -> Result<(), DropReason> {
        let from = &head.from;
        let same_voter_set = head.voter_set == self.voter_set.tag();
        if let Some(claim) = claim_of(&message) {
            let of_claimant = matches!(message, Message::Claim(_) | Message::Release(_));
            let owner = if of_claimant { from } else { &self.id };
            if claim.node != *owner {
                return Err(DropReason::NotTheirs);
            }
        }
        match message {
            Message::Claim(claim) => self.take_claim(now, head, claim)?,
            Message::Release(release) => {
                let voter = self.voter.as_mut().ok_or(DropReason::NotAVoter)?;
                voter.handle_release(now, &release, &mut self.effects);
            }
            Message::Vote(_) | Message::Wait(_) | Message::Stale(_) if !same_voter_set => {
                return Err(DropReason::VoterSet);
            }
            Message::Vote(_) | Message::Wait(_) | Message::Stale(_) | Message::Refuse(_) => {
                if matches!(message, Message::Refuse(_)) {
                    self.standings.hurry(from);
                }
                let incarnation = self.claimant.incarnation();
                let is_other = claim_of(&message).is_some_and(|c| c.incarnation != incarnation);
                self.claimant.handle(now, from, &message, &mut self.effects);
                if is_other {
                    // A voter that learns of this incarnation frees the votes of earlier ones (rule
                    // 7).
                    self.announce(from);
                }
            }
            Message::Describe(_) => {
                let every = self.voter_set.timing().round_trip;
                self.describe_to(now, from, every);
            }
            Message::Described(set) => self.take_description(now, head, *set),
            Message::RecoveryQuery(query) => {
                let memory = self.recovery_reply(from, query);
                let memory = self.with_other_sets(now, from, memory);
                self.effects.send(from, Message::RecoveryReply(memory));
            }
            Message::RecoveryReply(memory) => {
                self.adopt(now, memory.seen);
                self.tell_voter_of_clocks(now);
                if let Some(voter) = &mut self.voter {
                    voter.handle_recovery_reply(now, from, &memory, &mut self.effects);
                }
            }
            Message::Outdated(outdated) => {
                self.adopt(now, outdated.seen);
                // The peer has dropped the datagrams of this incarnation so far. A stopped process
                // keeps its number and does not announce itself.
                if self.claimant.incarnation() >= outdated.seen {
                    self.announce(from);
                }
            }
            Message::KeepAlive(_) | Message::Kept(_) if !same_voter_set => {
                return Err(DropReason::VoterSet);
            }
            Message::KeepAlive(keep) => {
                let voter = self.voter.as_mut().ok_or(DropReason::NotAVoter)?;
                let incarnation = head.incarnation;
                voter.handle_keep_alive(now, from, incarnation, &keep, &mut self.effects);
            }
            Message::Kept(kept) => {
                let is_over = kept.ttl.is_none();
                self.traffic.sessions_kept += u64::from(!is_over);
                self.traffic.sessions_over += u64::from(is_over);
                self.claimant.handle_kept(now, from, &kept);
            }
            Message::Inspect(inspect) => {
                let voter = self.voter.as_ref().ok_or(DropReason::NotAVoter)?;
                let report = voter.report(now, inspect.nonce, &inspect.key);
                self.effects.send(from, Message::Report(report));
            }
            Message::Report(report) => {
                let grace = self.voter_set.timing().round_trip * 2;
                self.inspector.handle_report(now, from, report, grace);
                self.finish_inspections(now);
            }
            Message::VoterQuery(query) => self.take_voter_query(now, head, &query),
            Message::VoterReply(reply) => self.take_voter_reply(now, from, reply),
            Message::Challenge(it) => self.effects.send(from, Message::Alive(it)),
            // Handled by `take_alive`, since its source address counts.
            Message::Alive(_) => {}
            Message::Namesake(word) => self.take_namesake(now, &word),
        }
        Ok(())
    }

    fn recovery_reply(&self, from: &NodeId, query: RecoveryQuery) -> RecoveryReply {
        let (knew, seen) = self.peers.memory_of(from);
        match &self.voter {
            Some(voter) => voter.recovery_reply(&query, knew, seen),
            None => RecoveryReply {
                nonce: query.nonce,
                highest: Epoch::ZERO,
                votes: false,
                knew,
                seen,
                quarantine: self.voter_set.timing().quarantine(),
                skew: self.voter_set.timing().max_clock_skew,
            },
        }
    }

    fn take_claim(&mut self, now: Now, head: &Head, claim: Claim) -> Result<(), DropReason> {
        if claim.claim.incarnation != head.incarnation {
            return Err(DropReason::NotTheirs);
        }
        self.claimant.observe(now, claim.epoch);
        let reason = match &mut self.voter {
            _ if head.voter_set != self.voter_set.tag() => RefuseReason::VoterSet,
            None => RefuseReason::NotAVoter,
            Some(voter) => {
                voter.handle_claim(now, &claim, &mut self.effects);
                return Ok(());
            }
        };
        let claim = claim.claim;
        let refuse = Message::Refuse(Refuse { claim, reason });
        self.effects.send(&head.from, refuse);
        Ok(())
    }

    fn finish_inspections(&mut self, now: Now) {
        for (id, inspection) in self.inspector.finished(now) {
            self.outputs.push_back(Output::Inspected { id, inspection });
        }
    }

    /// Moves messages to the outbox and events to the outputs. Messages to this node itself are
    /// handled at once, without a datagram.
    fn route(&mut self, now: Now) {
        self.now = now.mono;
        while !self.effects.is_empty() {
            let mut routed = std::mem::take(&mut self.routed);
            std::mem::swap(&mut routed, &mut self.effects);
            for event in routed.events.drain(..) {
                answer::count(&mut self.counts, &event);
                self.outputs.push_back(Output::Event(event));
            }
            for (to, message) in routed.messages.drain(..) {
                if self.withholds(&message) {
                    continue;
                }
                if to != self.id {
                    self.outbox.of(to).push(message);
                    continue;
                }
                let head = self.head(to);
                if let Err(reason) = self.dispatch(now, &head, message) {
                    self.traffic.drop_one(reason);
                }
            }
            self.routed = routed;
        }
    }
}

/// Returns `true` if the durations in a message are within the protocol's limits.
pub(super) fn is_sane(message: &Message) -> bool {
    match message {
        Message::Described(set) => set.timing.check().is_ok(),
        Message::RecoveryReply(it) => it.quarantine <= QUARANTINE_MAX && it.skew <= MAX_TTL_MAX,
        Message::VoterReply(it) => it.remaining <= QUARANTINE_MAX,
        _ => true,
    }
}

fn claim_of(message: &Message) -> Option<&ClaimId> {
    match message {
        Message::Claim(claim) => Some(&claim.claim),
        Message::Release(release) => Some(&release.claim),
        Message::Vote(vote) => Some(&vote.claim),
        Message::Wait(wait) => Some(&wait.claim),
        Message::Stale(stale) => Some(&stale.claim),
        Message::Refuse(refuse) => Some(&refuse.claim),
        Message::RecoveryQuery(_)
        | Message::RecoveryReply(_)
        | Message::Outdated(_)
        | Message::Inspect(_)
        | Message::Report(_)
        | Message::KeepAlive(_)
        | Message::Kept(_)
        | Message::VoterQuery(_)
        | Message::VoterReply(_)
        | Message::Describe(_)
        | Message::Described(_)
        | Message::Challenge(_)
        | Message::Alive(_)
        | Message::Namesake(_) => None,
    }
}
