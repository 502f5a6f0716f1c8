//! A node: voter, claimant and wire put together. It routes; the rules are in the other modules.
//!
//! One invariant: after every call that takes `&mut self`, drain [`Node::poll_output`] until it
//! answers [`Output::Timeout`], and come back with [`Node::handle_timeout`] at that instant.

mod addresses;
mod answer;
mod foreign_nodes;
mod incarnations;
mod inspect;
mod namesake;
mod observer;
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
pub use observer::{Observer, QuestionId};
pub use standing::Standing;
pub use survey::{Health, NodeAnswer, NodeSurvey, Survey};
pub use surveyor::{Ask, Surveyor, Wanted};

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

/// How a node comes into the world.
#[derive(Debug)]
pub struct NodeConfig {
    /// Its lasting name.
    pub id: NodeId,
    /// This incarnation of it: higher than in all incarnations before.
    pub incarnation: Incarnation,
    /// Who votes.
    pub voter_set: Arc<VoterSet>,
    /// Whether its voter, where the voter set names it, may have forgotten something.
    pub start: Start,
    /// What its voter keeps at the most.
    pub limits: VoterLimits,
    /// How many requests it may have at once.
    pub max_claims: usize,
    /// How often leases are renewed; `None`: three times in a ttl.
    pub renew_interval: Option<Duration>,
    /// Different for every start: spreads repeats and tells questions apart.
    pub seed: u64,
    /// How its datagrams are sealed.
    pub seal: Seal,
}

/// What a node wants done, or has to say.
#[derive(Debug)]
#[must_use]
pub enum Output {
    /// Send these bytes.
    Transmit {
        /// Where to.
        to: SocketAddr,
        /// What.
        bytes: Vec<u8>,
    },
    /// A datagram of the gossip library came in.
    Gossip {
        /// Where from.
        from: SocketAddr,
        /// Its bytes.
        bytes: Vec<u8>,
    },
    /// Something happened to a request, or to the voter.
    Event(Event),
    /// Datagrams came that could not be opened. Told at once, and then every
    /// [`TOLD_EVERY`] of each address.
    ForeignNode(ForeignNode),
    /// An inspection is done.
    Inspected {
        /// Which.
        id: InspectId,
        /// What the voters said.
        inspection: Inspection,
    },
    /// That was all. Call [`Node::handle_timeout`] then, or at the next call if `None`.
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
    /// While another live process of this node's name is known.
    stopped: Option<Stopped>,
    /// The highest incarnation of this node that others have told of.
    seen: Incarnation,
    /// Spreads the numbers of incarnations.
    numbers: Jitter,
    seed: u64,
    /// How often the voter was restarted.
    starts: u64,
    /// The time of the last call.
    now: Instant,
    /// Since when gossip calls which of its nodes dead.
    silent_since: BTreeMap<NodeId, Instant>,
    inspector: Inspector,
    standings: Standings,
    clocks: Clocks,
    /// What the own wall clock showed at the last call.
    shown_ms: u64,
    seal: Seal,
    traffic: Traffic,
    /// What became of its requests.
    counts: Counts,
    effects: Effects,
    /// What was in the effects while it is handled; its room is used again.
    routed: Effects,
    /// The body of the datagram that is taken in, and its messages; their room is used again.
    opened: Vec<u8>,
    taken: Vec<Message>,
    outbox: Outbox,
    /// The body of the datagram that is sent; its room is used again.
    packing: Vec<u8>,
    outputs: VecDeque<Output>,
}

impl Node {
    /// A node that begins to live at `now`.
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

    /// A datagram came in.
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

    /// Gossip has news.
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

    /// Time has come.
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

    /// Begins to claim a key. What becomes of it is told by events with the ticket.
    ///
    /// # Errors
    /// [`RequestError`] where the ttl is out of bounds or there are too many requests.
    pub fn claim(&mut self, now: Now, request: Request) -> Result<Ticket, RequestError> {
        let ticket = self.claimant.next_ticket();
        self.claim_as(now, ticket, request).map(|()| ticket)
    }

    /// The same with a ticket of the caller's. A request that has it already is ended first.
    ///
    /// # Errors
    /// As [`Node::claim`].
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

    /// Withdraws a request or releases its lease. Answers whether it was held until now.
    pub fn release(&mut self, now: Now, ticket: Ticket) -> bool {
        let now = self.corrected(now);
        let was_held = self.claimant.release(now, ticket, &mut self.effects);
        self.route(now);
        was_held
    }

    /// Withdraws all requests and releases all leases, but those that outlive their process.
    pub fn release_all(&mut self, now: Now) {
        let now = self.corrected(now);
        self.claimant.release_all(now, &mut self.effects);
        self.route(now);
    }

    /// Asks that a lease last `extra` longer than what remains. It does once an
    /// [`Event::Renewed`] for the ticket reaches the instant that is answered.
    ///
    /// # Errors
    /// [`ExtendError`] where it is not held, or more than `max_ttl` would remain.
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

    /// Asks the voters of a key who owns it. [`Output::Inspected`] has the answer, within
    /// `patience` at the latest.
    pub fn inspect(&mut self, now: Now, key: &Key, patience: Duration) -> InspectId {
        let now = self.corrected(now);
        let voters = self.voter_set.voters_for(key);
        let until = now.mono.after(patience);
        let id = self.inspector.begin(until, key, voters, &mut self.effects);
        self.route(now);
        id
    }

    /// Seals bytes of the gossip library for `to`.
    pub fn send_gossip(&mut self, to: SocketAddr, body: &[u8]) {
        if body.len() + self.seal.overhead() > GOSSIP_BYTES_MAX {
            return self.traffic.drop_one(DropReason::GossipFull);
        }
        let bytes = self.seal.seal(Kind::Gossip, body);
        self.traffic.gossip_datagrams_out += 1;
        self.traffic.gossip_bytes_out += bytes.len() as u64;
        self.outputs.push_back(Output::Transmit { to, bytes });
    }

    /// Counts what the driver could not deliver.
    pub fn count_drop(&mut self, reason: DropReason) {
        self.traffic.drop_one(reason);
    }

    /// The next thing to do, until it is [`Output::Timeout`].
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

    /// Its name.
    #[must_use]
    pub fn id(&self) -> &NodeId {
        &self.id
    }

    /// Who votes.
    #[must_use]
    pub fn voter_set(&self) -> &Arc<VoterSet> {
        &self.voter_set
    }

    /// Its voter, where the voter set names it.
    #[must_use]
    pub fn voter(&self) -> Option<&Voter> {
        self.voter.as_ref()
    }

    /// Its claims.
    #[must_use]
    pub fn claimant(&self) -> &Claimant {
        &self.claimant
    }

    /// What gossip last said.
    #[must_use]
    pub fn view(&self) -> &View {
        &self.view
    }

    /// For how long gossip has called a node dead. `None` if it is alive, or not known to gossip.
    #[must_use]
    pub fn silent_for(&self, now: Now, node: &NodeId) -> Option<Duration> {
        let since = self.silent_since.get(node)?;
        Some(now.mono.since(*since))
    }

    /// What went through and what was dropped.
    #[must_use]
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Why no datagram can be opened, where some came lately and none could.
    #[must_use]
    pub fn hears_nobody(&self, now: Now) -> Option<DropReason> {
        self.foreign_nodes.nobody(now)
    }

    /// The address that it would send to, for a node.
    #[must_use]
    pub fn address_of(&self, node: &NodeId) -> Option<SocketAddr> {
        self.peers.address_of(node)
    }

    /// When it wants to be woken, as [`Output::Timeout`] says it. For who leaves something in no
    /// datagram.
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
                    // Who hears of this incarnation ends what does not outlive the earlier ones
                    // (rule 7).
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
                // What this incarnation said so far was not heard. One that stays below says no
                // more.
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
            // It counts from where it came, and was taken there.
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

    /// Moves messages to where they go. Those to this node itself cost no datagram: they are
    /// handled here and now.
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

/// Spans that are told are such as a node may have.
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
