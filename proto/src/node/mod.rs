//! A node: voter, claimant and wire combined. It routes messages; the rules are in [`crate::voter`]
//! and [`crate::claimant`].
//!
//! One invariant: after every call that takes `&mut self`, drain [`Node::poll_output`] until it
//! returns [`Output::Timeout`], and call [`Node::handle_timeout`] at that instant.

mod addresses;
mod answer;
mod foreign_nodes;
mod handover;
mod incarnations;
mod inspect;
mod journal;
mod outbox;
mod peers;
mod revoke;
mod sets;
mod standing;
mod survey;
mod surveyor;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

pub use foreign_nodes::{FOREIGN_NODE_INTERVAL, ForeignNode};
pub use inspect::{InspectId, Inspection, KeyOwner, LockState, SeenVotes, Waiter};
pub use journal::{NodeJournal, SnapshotPart};
pub use revoke::{Revocation, RevokeId, RevokedClaim};
pub use standing::Standing;
pub use survey::{NodeAnswer, NodeSurvey, Survey, SurveyHealth};
pub use surveyor::{Surveyor, Wanted};

use crate::claimant::backoff::Jitter;
use crate::claimant::{Claimant, ExtendError, MarkError, Request, RequestError};
use crate::clocks::{Clocks, MayReturn, WallClock};
use crate::description::{Differences, OtherSet, Role, VoterSetDescription};
use crate::epoch::Epoch;
use crate::event::View;
use crate::event::{Effects, Event, KeyHolder, Ticket};
use crate::id::{ClaimId, Incarnation, Key, NodeId, NodeName, Note};
use crate::journal::Memory;
use crate::message::{
    Challenge, Claim, Message, Namesake, NoteMessage, Outdated, RecoveryQuery, RecoveryReply,
    Refuse, RefuseReason, Revoke, Revoked, VoterQuery, VoterReply,
};
use crate::time::{Instant, Now, earliest};
use crate::voter::{MARK_KEEP_MAX, MARK_REMAINS_MAX, Start, Voter, VoterLimits};
use crate::voter_set::{MAX_TTL_MAX, QUARANTINE_MAX, VoterSet, VoterSetTag};
use crate::wire::codec::{pack_into, unpack_into};
use crate::wire::observe::Counts;
use crate::wire::seal::{ClusterSecrets, Fingerprint, SecretError};
use crate::wire::{
    DATAGRAM_BYTES_MAX, DatagramHead, DatagramKind, DropReason, GOSSIP_BYTES_MAX, PROTOCOL_VERSION,
    PROTOCOL_VERSION_MIN, Seal, Traffic,
};

use foreign_nodes::ForeignNodes;
use handover::Handovers;
use incarnations::{ASKED_AGAIN, Asks, Heard, Hearing, Proven};
use inspect::Inspector;
use journal::JournalState;
use outbox::Outbox;
use peers::{Peers, Way};
use revoke::Revoker;
use sets::{SECOND, Sets, UNASKED};
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

/// The size of the range from which a process draws its next number. Two processes of one name are
/// then unlikely to take the same number.
const NUMBERS: u64 = 1 << 16;

/// Another live process of this node's name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Twin {
    /// The source address of this process, as a peer received it.
    pub mine: SocketAddr,
    /// The source address of the other process.
    pub other: SocketAddr,
}

/// The state while another live process of this node's name is known (rule 27).
///
/// The process gives up its leases, sends no claims and does not vote. Once the other has not been
/// reported for half a `max_ttl`, it resumes under a higher incarnation, and its voter is in
/// recovery. A peer that receives datagrams of both detects them ([`incarnations`]) and notifies
/// both.
#[derive(Clone, Copy, Debug)]
struct Stopped {
    twin: Twin,
    /// The instant at which this process resumes, unless the other is reported again.
    until: Instant,
    /// The instant of the next announcement to the members.
    beat: Instant,
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
    /// Append these bytes to the journal, then call [`Node::persisted`] with this number, or
    /// [`Node::persist_failed`] if they cannot be written. Messages that depend on them leave only
    /// after that. Only a node [with a journal](Node::with_journal) has this output.
    Persist {
        /// The number of this write. Numbers rise by one.
        number: u64,
        /// The records.
        bytes: Vec<u8>,
    },
    /// An event of a request, of the voter or of a peer.
    Event(Event),
    /// Datagrams that could not be opened were received. Each address is reported at once, and then
    /// every [`FOREIGN_NODE_INTERVAL`].
    ForeignNode(ForeignNode),
    /// An inspection is done.
    Inspected {
        /// Its id, as [`Node::inspect`] returned it.
        id: InspectId,
        /// Its result.
        inspection: Box<Inspection>,
    },
    /// A revocation is done.
    Revoked {
        /// Its id, as [`Node::revoke`] returned it.
        id: RevokeId,
        /// Its outcome.
        revocation: Box<Revocation>,
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
    revoker: Revoker,
    standings: Standings,
    clocks: Clocks,
    /// The reading of the own wall clock at the last call, in milliseconds since the Unix epoch.
    shown_ms: u64,
    journal: Option<Box<JournalState>>,
    handovers: Handovers,
    /// The newest version of the protocol that this node speaks.
    speaks: u8,
    seal: Seal,
    traffic: Traffic,
    /// The outcomes of its requests.
    counts: Counts,
    effects: Effects,
    /// The effects that are being routed. The buffer is reused.
    routed: Effects,
    /// The kind and body, and the messages, of the datagram that is being handled. The buffers are
    /// reused.
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
        Self::begin(now, config, None)
    }

    /// Creates a node that starts at `now` and keeps a journal, with what its journal says.
    /// [`NodeConfig::incarnation`] is ignored for that of [`NodeJournal::started`].
    #[must_use]
    pub fn with_journal(now: Now, config: NodeConfig, journal: NodeJournal) -> Self {
        Self::begin(now, config, Some(journal))
    }

    fn begin(now: Now, config: NodeConfig, journal: Option<NodeJournal>) -> Self {
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
        let (journal, memory) = journal.map(JournalState::new).unzip();
        let journal: Option<Box<JournalState>> = journal;
        let incarnation = journal.as_ref().map_or(incarnation, |it| it.incarnation());
        let heard = memory.as_ref().map(|memory: &Memory| memory.heard.clone());
        let voter = voter_set.has_member(&id).then(|| {
            let (me, voter_set, out) = (id.clone(), voter_set.clone(), &mut effects);
            match memory {
                None => Voter::new(now, me, voter_set, limits, start, seed, out),
                Some(memory) => {
                    let (voter_set, start) = ((voter_set, limits), (start, memory));
                    Voter::with_journal(now, me, voter_set, start, seed, out)
                }
            }
        });
        let claimant = Claimant::new(id.clone(), incarnation, voter_set.clone(), max_claims, seed)
            .with_renewal(renew_interval);
        let mut handovers = Handovers::new(&voter_set, seed);
        if voter.as_ref().is_some_and(Voter::lacks_memory) {
            handovers.take(now.mono, (&id, &voter_set), seed, &mut effects);
        }
        let mut node = Self {
            handovers,
            peers: Peers::new(id.clone(), voter_set.clone(), seed)
                .with_remembered(heard.unwrap_or_default()),
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
            revoker: Revoker::new(seed),
            standings: Standings::new(voter_set.timing()),
            clocks: Clocks::new(&id, &voter_set),
            shown_ms: now.wall_ms,
            id,
            voter_set,
            voter,
            claimant,
            journal,
            speaks: PROTOCOL_VERSION,
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

    /// Speaks this version of the protocol at most, as a node of an older release does.
    #[cfg(feature = "testing")]
    pub fn speak_at_most(&mut self, version: u8) {
        self.speaks = version;
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

    /// Returns another live process of this node's name, if one is known. This process then neither
    /// holds leases nor votes.
    #[must_use]
    pub fn twin(&self) -> Option<Twin> {
        self.stopped.map(|stopped| stopped.twin)
    }

    /// Returns the address that is tried first for a node.
    #[must_use]
    pub fn address_of(&self, node: &NodeId) -> Option<SocketAddr> {
        self.peers.address_of(node)
    }

    /// Returns the answer that a voter would give to a claim of this node, by its last reply.
    #[must_use]
    pub fn standing_of(&self, now: Now, voter: &NodeId) -> Standing {
        if *voter == self.id {
            let now = self.clocks.correct(now);
            let query = VoterQuery {
                sent_at: now.mono,
                epoch: self.claimant.next_epoch(now),
            };
            let reply = self.voter_reply(now, self.voter_set.tag(), &query);
            return Standing::of(reply.refuses, reply.remaining);
        }
        self.standings.of(now.mono, voter)
    }

    /// Returns the nodes from which a datagram with another voter set was received within `span`.
    pub fn of_other_sets(&self, now: Now, span: Duration) -> impl Iterator<Item = &NodeId> {
        self.sets.heard_within(now, span)
    }

    /// Returns the differences between the voter set of `node` and this node's.
    ///
    /// `None` if the sets are equal or nothing was received from `node`. Empty if the differences
    /// are not known.
    #[must_use]
    pub fn differences(&self, node: &NodeId) -> Option<Differences> {
        self.sets.differences(&self.voter_set, node)
    }

    /// Returns the state of the own wall clock, compared with those of the members.
    #[must_use]
    pub fn wall_clock(&self, now: Now) -> WallClock {
        self.clocks.judge(now)
    }

    /// Returns how far the own wall clock is ahead of the corrected time, in milliseconds. Negative
    /// if it is behind.
    #[must_use]
    pub fn wall_ahead_ms(&self, now: Now) -> i64 {
        self.clocks.ahead_ms(now)
    }

    /// Returns the reason why datagrams cannot be opened, if some were received and none was opened
    /// for one second.
    #[must_use]
    pub fn unopened(&self, now: Now) -> Option<DropReason> {
        self.foreign_nodes.nobody(now)
    }

    /// Returns the fingerprints of the secrets. The first seals. Empty in plaintext.
    #[must_use]
    pub fn secrets(&self) -> Vec<Fingerprint> {
        self.seal.secrets()
    }

    /// Returns the secret with which a node seals, by its newest datagram. `None` in plaintext, or
    /// if no datagram of the node is remembered.
    #[must_use]
    pub fn secret_of(&self, node: &NodeId) -> Option<Fingerprint> {
        if *node == self.id {
            return self.seal.secret();
        }
        self.seal.secret_of(self.peers.boot_id_of(node)?)
    }

    /// Returns the members, and the other nodes that gossip knows, whose newest datagram is sealed
    /// with another secret than this node's.
    pub fn with_other_secrets(&self) -> impl Iterator<Item = &NodeId> {
        let mine = self.seal.secret();
        let members = self.voter_set.members().iter();
        let others = self.view.peers.keys();
        let others = others.filter(|node| !self.voter_set.has_member(node));
        let nodes = members.chain(others);
        nodes.filter(move |node| self.secret_of(node).is_some_and(|it| Some(it) != mine))
    }

    /// Returns the counters of sent, received and dropped datagrams.
    #[must_use]
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Returns the name and the number of entries of each map and queue.
    #[must_use]
    pub fn sizes(&self) -> Vec<(&'static str, usize)> {
        let mut sizes = vec![
            ("peers", self.peers.len()),
            ("boot ids", self.seal.peers()),
            ("inspections", self.inspector.len()),
            ("revocations", self.revoker.len()),
            ("memories of others", self.handovers.len()),
            ("lists of messages", self.outbox.len()),
            ("outputs", self.outputs.len()),
            (
                "held messages",
                self.journal.as_ref().map_or(0, |it| it.len()),
            ),
        ];
        sizes.extend(self.claimant.sizes());
        sizes.extend(self.voter.iter().flat_map(|voter| voter.sizes()));
        sizes
    }

    /// Returns the instant of the next [`Output::Timeout`].
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        let voter = self.voter.as_ref().and_then(Voter::next_timeout);
        let claimant = self.claimant.next_timeout();
        let inspector = self.inspector.next_timeout();
        let handovers = self.handovers.next_timeout();
        let twin = self.next_look_at_twin();
        let journal = self.journal.as_ref().and_then(|it| it.next_timeout());
        let next = earliest([voter, claimant, inspector, handovers, twin, journal]);
        // This runs in each drain, and a revocation hardly ever.
        match self.revoker.len() {
            0 => next,
            _ => earliest([next, self.revoker.next_timeout()]),
        }
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
                self.handovers.hurry(now.mono);
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
        self.advance_revocations(now);
        self.look_at_twin(now);
        self.handle_handover_timeout(now);
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

    /// Marks the key of a lease, so that nobody is granted it for `keep_for`. [`Event::Marked`] or
    /// [`Event::NotMarked`] has the outcome, unless the lease ends first.
    ///
    /// # Errors
    /// - [`MarkError::NotHeld`] if the lease is not held.
    /// - [`MarkError::KeepFor`] if `keep_for` is zero, or above [`MARK_KEEP_MAX`].
    pub fn mark(&mut self, now: Now, ticket: Ticket, keep_for: Duration) -> Result<(), MarkError> {
        let now = self.corrected(now);
        let effects = &mut self.effects;
        let begun = self.claimant.mark(now, ticket, keep_for, effects);
        self.route(now);
        begun
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

    /// Frees the lock on a key by hand: revokes the claim that holds it, or that with this epoch.
    /// [`Output::Revoked`] has the outcome, at most `patience` later, and at most `max_ttl` later.
    ///
    /// `by` is for the logs: who does it.
    ///
    /// # Danger
    /// The code under the lease may run on until it reads that its lease is lost. Voters keep their
    /// votes until they expire.
    pub fn revoke(
        &mut self,
        now: Now,
        (key, epoch): (&Key, Option<Epoch>),
        by: Note,
        patience: Duration,
    ) -> RevokeId {
        let now = self.corrected(now);
        let voters = self.voter_set.voters_for(key);
        let timing = self.voter_set.timing();
        let spans = (patience.min(timing.max_ttl), timing.round_trip);
        let who = (by, self.id.clone());
        let (revoker, out) = (&mut self.revoker, &mut self.effects);
        let id = revoker.begin(now, (key, epoch), who, voters, spans, out);
        self.advance_revocations(now);
        self.route(now);
        id
    }

    /// Sends queries to the voters that are due. Call it several times per second if
    /// [`Node::standing_of`] is of interest.
    pub fn check_voters(&mut self, now: Now) {
        let now = self.corrected(now);
        let waits = self.claimant.waiting() > 0;
        let voter_set = self.voter_set.clone();
        let epoch = self.claimant.next_epoch(now);
        for voter in voter_set.members().iter().filter(|it| **it != self.id) {
            let asks = self.standings.asks(now.mono, voter, waits);
            if asks && self.peers.address_of(voter).is_some() {
                let sent_at = now.mono;
                let query = VoterQuery { sent_at, epoch };
                self.effects.send(voter, Message::VoterQuery(query));
            }
        }
        self.route(now);
    }

    /// Seals and sends a datagram of the gossip library. One that is too large for UDP is dropped
    /// and counted.
    pub fn send_gossip(&mut self, to: SocketAddr, body: &[u8]) {
        if body.len() + self.seal.overhead() > GOSSIP_BYTES_MAX {
            return self.traffic.drop_one(DropReason::GossipFull);
        }
        let bytes = self.seal.seal(DatagramKind::Gossip, body);
        self.traffic.gossip_datagrams_out += 1;
        self.traffic.gossip_bytes_out += bytes.len() as u64;
        self.outputs.push_back(Output::Transmit { to, bytes });
    }

    /// Replaces the secrets: the first seals from now on, and each opens.
    ///
    /// # Errors
    /// [`SecretError::Plaintext`] if the datagrams are plaintext.
    pub fn rotate_secrets(&mut self, secrets: &ClusterSecrets) -> Result<(), SecretError> {
        self.seal.rotate(secrets)
    }

    /// Counts a datagram that the driver could not deliver.
    pub fn count_drop(&mut self, reason: DropReason) {
        self.traffic.drop_one(reason);
    }

    /// Returns the next output. [`Output::Timeout`] is the last.
    pub fn poll_output(&mut self) -> Output {
        if let Some(output) = self.journal.as_mut().and_then(|it| it.poll_first()) {
            return output;
        }
        loop {
            if let Some(output) = self.outputs.pop_front() {
                return output;
            }
            if !self.flush() {
                let now = self.now;
                let write = self.journal.as_mut().and_then(|it| it.poll(now));
                return write.unwrap_or_else(|| Output::Timeout(self.next_timeout()));
            }
        }
    }

    fn receive(&mut self, now: Now, from: SocketAddr, bytes: &[u8]) -> Result<(), DropReason> {
        let version = bytes.first().copied().unwrap_or_default();
        if version > self.speaks {
            return Err(DropReason::Version);
        }
        let mut frame = std::mem::take(&mut self.opened);
        let opened = self.seal.open_into(bytes, &mut frame);
        let body = frame.get(1..).unwrap_or_default();
        if opened.is_ok() {
            self.foreign_nodes.opened(now);
            if let Some(boot_id) = self.seal.take_change() {
                let node = self.peers.node_of(boot_id).cloned();
                let secret = self.seal.secret_of(boot_id);
                self.note_secret(node, secret);
            }
        }
        let taken = opened.and_then(|kind| match kind {
            DatagramKind::Votes => self.take_votes(now, (version, from), body),
            DatagramKind::Gossip => {
                let bytes = body.to_vec();
                self.outputs.push_back(Output::Gossip { from, bytes });
                Ok(())
            }
            DatagramKind::Question => self.answer(now, from, body),
            DatagramKind::Answer => {
                let bytes = body.to_vec();
                self.outputs.push_back(Output::Answer { bytes });
                Ok(())
            }
        });
        self.opened = frame;
        taken
    }

    fn take_votes(
        &mut self,
        now: Now,
        from: (u8, SocketAddr),
        body: &[u8],
    ) -> Result<(), DropReason> {
        let mut messages = std::mem::take(&mut self.taken);
        let taken = unpack_into(from.0, body, &mut messages)
            .and_then(|head| self.take_messages(now, from, head, &mut messages));
        messages.clear();
        self.taken = messages;
        taken
    }

    fn take_messages(
        &mut self,
        now: Now,
        (version, from): (u8, SocketAddr),
        head: DatagramHead<NodeName<'_>>,
        messages: &mut Vec<Message>,
    ) -> Result<(), DropReason> {
        if head.to.as_str() != self.id.as_str() {
            return Err(DropReason::Misaddressed);
        }
        if head.from.as_str() == self.id.as_str() {
            return Err(DropReason::FromMyself);
        }
        let head = DatagramHead {
            from: self.peers.id_of(head.from),
            incarnation: head.incarnation,
            to: self.id.clone(),
            voter_set: head.voter_set,
        };
        self.handovers.hear(&head.from, head.incarnation);
        match self.hear(now, &head, (version, from)) {
            Heard::Again | Heard::NewIncarnation => {}
            Heard::Outdated { seen, is_told } => {
                self.take_outdated(now, (&head, from), is_told.then_some(seen), messages);
                return Err(DropReason::OutdatedIncarnation);
            }
            Heard::TooMany => return Err(DropReason::TooManyNodes),
        }
        if head.voter_set != self.voter_set.tag() || !self.sets.is_empty() {
            self.note_set(now, &head);
        }
        self.traffic.datagrams_in += 1;
        self.traffic.messages_in += messages.len() as u64;
        for message in messages.drain(..) {
            if !is_sane(&message) {
                self.traffic.drop_one(DropReason::Undecodable);
                continue;
            }
            if let Message::Alive(alive) = message {
                self.take_alive(now, &head, from, alive);
                continue;
            }
            if let Err(reason) = self.dispatch(now, &head, message) {
                self.traffic.drop_one(reason);
            }
        }
        Ok(())
    }

    /// Records the sender of a datagram, its incarnation, version and address.
    fn hear(&mut self, now: Now, head: &DatagramHead, (version, addr): (u8, SocketAddr)) -> Heard {
        let (claimant, voter) = (&self.claimant, &self.voter);
        let knew =
            || claimant.held(now).next().is_some() || voter.as_ref().is_some_and(Voter::has_memory);
        let incarnation = (version, head.incarnation, addr);
        let has_claims = || {
            voter
                .as_ref()
                .is_some_and(|it| it.may_have_claims_of(&head.from))
        };
        let hearing = self
            .peers
            .hear(now.mono, &head.from, incarnation, knew, has_claims);
        let Hearing { heard, asks } = hearing;
        for Asks { nonce, at } in asks {
            let message = Message::Challenge(Challenge { nonce });
            self.transmit((PROTOCOL_VERSION_MIN, at), head.from.clone(), &[message]);
        }
        if heard == Heard::NewIncarnation {
            if let Some(journal) = &mut self.journal
                && self.voter_set.has_member(&head.from)
            {
                journal.hear(now.mono, head.from.clone(), head.incarnation);
            }
            let boot_id = self.seal.last_sender();
            let secret = |boot_id: Option<_>| self.seal.secret_of(boot_id?);
            let new = secret(boot_id);
            let before = secret(self.peers.boot(&head.from, boot_id));
            if before.is_some_and(|before| new != Some(before)) {
                self.note_secret(Some(head.from.clone()), new);
            }
            self.standings.hurry(&head.from);
            self.clocks.forget(now, &head.from);
            // The sender may not know this incarnation, and gossip may not know the sender's
            // address.
            self.announce(&head.from);
        }
        heard
    }

    /// Reports that a node seals with another secret than before.
    fn note_secret(&mut self, node: Option<NodeId>, secret: Option<Fingerprint>) {
        if let (Some(node), Some(secret)) = (node, secret) {
            let event = Event::SecretChanged { node, secret };
            self.outputs.push_back(Output::Event(event));
        }
    }

    /// Handles a datagram of a lower incarnation than the highest received. Only `Alive` and
    /// `Outdated` count. An `Outdated` is not answered with `Outdated`, or two such nodes would
    /// never stop.
    fn take_outdated(
        &mut self,
        now: Now,
        (head, addr): (&DatagramHead, SocketAddr),
        told: Option<Incarnation>,
        messages: &mut Vec<Message>,
    ) {
        let mut says_same = false;
        for message in messages.drain(..) {
            match message {
                Message::Alive(alive) => self.take_alive(now, head, addr, alive),
                Message::Outdated(Outdated { seen }) => {
                    says_same = true;
                    self.adopt(now, seen);
                }
                _ => {}
            }
        }
        if let Some(seen) = told.filter(|_| !says_same && !mistaken!(OutdatedUntold)) {
            // To the source address, not to the address of the later incarnation.
            let message = Message::Outdated(Outdated { seen });
            self.transmit((PROTOCOL_VERSION_MIN, addr), head.from.clone(), &[message]);
        }
        self.route(now);
    }

    fn dispatch(
        &mut self,
        now: Now,
        head: &DatagramHead,
        message: Message,
    ) -> Result<(), DropReason> {
        let from = &head.from;
        let same_voter_set = head.voter_set == self.voter_set.tag();
        if let Some(claim) = claim_of(&message) {
            let of_claimant = match &message {
                Message::Note(note) => matches!(**note, NoteMessage::OfClaim { .. }),
                Message::Claim(_)
                | Message::OnceClaim(_)
                | Message::Release(_)
                | Message::Mark(_) => true,
                _ => false,
            };
            let owner = if of_claimant { from } else { &self.id };
            if claim.node != *owner {
                return Err(DropReason::NotTheirs);
            }
        }
        match message {
            Message::Claim(claim) => self.take_claim(now, head, (claim, false))?,
            Message::OnceClaim(claim) => self.take_claim(now, head, (claim, true))?,
            Message::Mark(_)
            | Message::MarksQuery(_)
            | Message::MarksPage(_)
            | Message::Note(_)
            | Message::Revoke(_)
            | Message::Revoked(_)
                if !same_voter_set =>
            {
                return Err(DropReason::VoterSet);
            }
            Message::Mark(mark) => {
                let voter = self.voter.as_mut().ok_or(DropReason::NotAVoter)?;
                voter.handle_mark(now, &mark, &mut self.effects);
            }
            Message::MarksQuery(_) | Message::MarksPage(_) if !self.voter_set.has_member(from) => {
                return Err(DropReason::NotAVoter);
            }
            Message::MarksQuery(query) => {
                let voter = self.voter.as_ref().ok_or(DropReason::NotAVoter)?;
                voter.handle_marks_query(now, from, &query, &mut self.effects);
            }
            Message::MarksPage(page) => {
                let voter = self.voter.as_mut().ok_or(DropReason::NotAVoter)?;
                voter.handle_marks_page(now, from, &page, &mut self.effects);
            }
            Message::Release(release) => {
                let voter = self.voter.as_mut().ok_or(DropReason::NotAVoter)?;
                voter.handle_release(now, &release, &mut self.effects);
            }
            Message::Vote(_)
            | Message::Wait(_)
            | Message::Stale(_)
            | Message::Marked(_)
            | Message::Done(_)
                if !same_voter_set =>
            {
                return Err(DropReason::VoterSet);
            }
            Message::Vote(_)
            | Message::Wait(_)
            | Message::Stale(_)
            | Message::Refuse(_)
            | Message::Marked(_)
            | Message::Done(_) => {
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
                // A sender that has restarted knows a higher one from its journal only. A voter
                // that stayed below it would lose its memory at each start.
                self.adopt(now, memory.before);
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
            Message::Note(note) => self.take_note(now, from, *note)?,
            Message::Inspect(inspect) => {
                let voter = self.voter.as_ref().ok_or(DropReason::NotAVoter)?;
                // Before the report, which may end the inspection.
                for (_, node, epoch, note) in voter.notes(&inspect.key) {
                    let note = NoteMessage::OfReported {
                        nonce: inspect.nonce,
                        node: node.clone(),
                        epoch,
                        note: note.clone(),
                    };
                    self.effects.send(from, Message::Note(Box::new(note)));
                }
                let report = voter.report(now, inspect.nonce, &inspect.key);
                self.effects.send(from, Message::Report(report));
            }
            Message::Report(report) => {
                let grace = self.voter_set.timing().round_trip * 2;
                if self.revoker.len() > 0 {
                    self.revoker.handle_report(now, from, report.clone());
                    self.advance_revocations(now);
                }
                self.inspector.handle_report(now, from, report, grace);
                self.finish_inspections(now);
            }
            Message::Revoke(revoke) => self.take_revoke(now, from, &revoke),
            Message::Revoked(revoked) => {
                if let Some(voter) = &mut self.voter
                    && revoked.is_over
                    && revoked.claim.node == *from
                {
                    voter.note_over(&revoked.claim);
                }
                self.revoker.handle_revoked(from, &revoked);
                self.advance_revocations(now);
            }
            Message::VoterQuery(query) => self.take_voter_query(now, head, &query),
            Message::VoterReply(reply) => self.take_voter_reply(now, from, reply),
            Message::Challenge(it) => self.effects.send(from, Message::Alive(it)),
            // Handled by `take_alive`, since its source address counts.
            Message::Alive(_) => {}
            Message::Namesake(word) => self.take_namesake(now, &word),
            Message::Handover(handover) => self.handle_handover(now, head, *handover)?,
        }
        Ok(())
    }

    /// Handles a `Revoke`, as the claim's own node and as a voter.
    fn take_revoke(&mut self, now: Now, from: &NodeId, revoke: &Revoke) {
        let is_own = revoke.claim.node == self.id;
        let is_over = is_own && self.claimant.revoke(now, revoke, &mut self.effects);
        let revoked = match &mut self.voter {
            Some(voter) => voter.handle_revoke(now, revoke, is_over, &mut self.effects),
            None => Revoked {
                nonce: revoke.nonce,
                key: revoke.key.clone(),
                claim: revoke.claim.clone(),
                is_kept: false,
                remaining: Duration::ZERO,
                is_over,
            },
        };
        self.effects.send(from, Message::Revoked(Box::new(revoked)));
    }

    /// Sends what is due for revocations, and reports those that are done.
    fn advance_revocations(&mut self, now: Now) {
        for (id, revocation) in self.revoker.advance(now, &mut self.effects) {
            let revocation = Box::new(revocation);
            self.outputs.push_back(Output::Revoked { id, revocation });
        }
    }

    fn take_claim(
        &mut self,
        now: Now,
        head: &DatagramHead,
        (claim, is_once): (Claim, bool),
    ) -> Result<(), DropReason> {
        if claim.claim.incarnation != head.incarnation {
            return Err(DropReason::NotTheirs);
        }
        self.claimant.observe(now, claim.epoch);
        let reason = match &mut self.voter {
            _ if head.voter_set != self.voter_set.tag() => RefuseReason::VoterSet,
            None => RefuseReason::NotAVoter,
            Some(voter) => {
                match is_once {
                    true => voter.handle_once_claim(now, &claim, &mut self.effects),
                    false => voter.handle_claim(now, &claim, &mut self.effects),
                }
                return Ok(());
            }
        };
        let claim = claim.claim;
        let refuse = Message::Refuse(Refuse { claim, reason });
        self.effects.send(&head.from, refuse);
        Ok(())
    }

    fn take_note(&mut self, now: Now, from: &NodeId, note: NoteMessage) -> Result<(), DropReason> {
        match note {
            NoteMessage::OfClaim { key, claim, note } => {
                let voter = self.voter.as_mut().ok_or(DropReason::NotAVoter)?;
                voter.handle_note(now, &key, &claim, &note);
            }
            NoteMessage::OfHolder {
                claim,
                node,
                epoch,
                held_for,
                note,
            } => {
                let note = Some(note);
                let holder = KeyHolder {
                    node,
                    epoch,
                    held_for,
                    note,
                };
                self.claimant.handle_note(now, &claim, holder);
            }
            NoteMessage::OfReported {
                nonce,
                node,
                epoch,
                note,
            } => self.inspector.handle_note(from, nonce, (node, epoch), note),
        }
        Ok(())
    }

    fn recovery_reply(&self, from: &NodeId, query: RecoveryQuery) -> RecoveryReply {
        let (knew, seen) = self.peers.memory_of(from);
        let before = self.peers.before(from);
        match &self.voter {
            Some(voter) => RecoveryReply {
                before,
                ..voter.recovery_reply(&query, knew, seen)
            },
            None => RecoveryReply {
                before,
                remembers: false,
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

    /// Raises the quarantine and the skew of `memory` to those of all known voter sets that may
    /// name `node`. This node's own set counts only if it names `node`.
    fn with_other_sets(&self, now: Now, node: &NodeId, mut memory: RecoveryReply) -> RecoveryReply {
        if !self.voter_set.has_member(node) {
            (memory.quarantine, memory.skew) = Default::default();
        }
        let (quarantine, skew) = self.sets.longest(now, node);
        memory.quarantine = memory.quarantine.max(quarantine);
        memory.skew = memory.skew.max(skew);
        memory
    }

    fn take_voter_query(&mut self, now: Now, head: &DatagramHead, query: &VoterQuery) {
        let reply = self.voter_reply(now, head.voter_set, query);
        self.effects.send(&head.from, Message::VoterReply(reply));
    }

    fn take_voter_reply(&mut self, now: Now, voter: &NodeId, reply: VoterReply) {
        if self.standings.take(voter, reply) {
            let before = self.clocks.correct(self.shown(now));
            self.clocks.hear(now, voter, reply.sent_at, reply.wall_ms);
            if self.clocks.is_news(self.shown(now), before) {
                self.standings.hurry_refused(RefuseReason::Skew);
            }
        }
    }

    fn finish_inspections(&mut self, now: Now) {
        for (id, inspection) in self.inspector.finished(now) {
            let inspection = Box::new(inspection);
            self.outputs.push_back(Output::Inspected { id, inspection });
        }
    }

    /// Records the voter set of a sender.
    fn note_set(&mut self, now: Now, head: &DatagramHead) {
        if head.voter_set == self.voter_set.tag() {
            if let Some(was) = self.sets.forget(&head.from) {
                let node = head.from.clone();
                self.effects.tell(Event::VoterSetMatch { node });
                // It may have voted in the other set until now.
                self.tell_voter(now, &head.from, was.tag, was.role);
            }
            return;
        }
        let Some(speaker) = self.sets.hear(now, head) else {
            return;
        };
        let role = speaker.role;
        // The event waits one second for a description, which has the differences.
        if !speaker.is_told && now.mono >= speaker.heard_since.after(SECOND) {
            speaker.is_told = true;
            self.effects.tell(Event::VoterSetMismatch {
                node: head.from.clone(),
                differences: Differences::default(),
            });
        }
        self.tell_voter(now, &head.from, head.voter_set, role);
        let every = self.voter_set.timing().max_ttl / UNASKED;
        self.describe_to(now, &head.from, every);
    }

    /// Handles a node's description of its voter set.
    fn take_description(&mut self, now: Now, head: &DatagramHead, set: VoterSetDescription) {
        if head.voter_set == self.voter_set.tag() {
            return;
        }
        let Some(speaker) = self.sets.hear(now, head) else {
            return;
        };
        let role = set.role;
        speaker.role = Some(role);
        if !std::mem::replace(&mut speaker.is_told_in_what, true) {
            speaker.is_told = true;
            let differences = Differences::of(&self.voter_set, head.voter_set, &set);
            self.effects.tell(Event::VoterSetMismatch {
                node: head.from.clone(),
                differences,
            });
        }
        self.sets.keep(now, head.voter_set, set);
        self.tell_voter(now, &head.from, head.voter_set, Some(role));
    }

    /// Describes this node's voter set to `node`, at most once per `every`.
    fn describe_to(&mut self, now: Now, node: &NodeId, every: Duration) {
        if !self.sets.may_send(now, node, every) {
            return;
        }
        let role = match &self.voter {
            None => Role::Client,
            Some(voter) if voter.quarantine().is_some() => Role::Recovering,
            Some(_) => Role::Votes,
        };
        let set = Box::new(VoterSetDescription::of(&self.voter_set, role));
        self.effects.send(node, Message::Described(set));
    }

    fn tell_voter(&mut self, now: Now, from: &NodeId, tag: VoterSetTag, role: Option<Role>) {
        let Some(voter) = &mut self.voter else {
            return;
        };
        if voter.quarantine().is_none() {
            return;
        }
        let known = self.sets.description(tag);
        let timing = known.map_or_else(|| self.voter_set.timing(), |set| &set.timing);
        let set = OtherSet {
            quarantine: timing.quarantine(),
            skew: timing.max_clock_skew,
            names_me: known.is_some_and(|set| set.may_name(&self.id)),
            votes: self.voter_set.has_member(from) || role == Some(Role::Votes),
        };
        voter.handle_other_set(now, from, &set, &mut self.effects);
    }

    /// Handles an incarnation's answer to a challenge. The claims of earlier ones that it proves to
    /// be over end. Each of two live processes is sent a `Namesake`.
    fn take_alive(&mut self, now: Now, head: &DatagramHead, addr: SocketAddr, alive: Challenge) {
        let incarnation = (head.incarnation, addr);
        let Proven { over, two } = self.peers.answer(&head.from, incarnation, alive.nonce);
        if let Some(voter) = self.voter.as_mut().filter(|_| !over.is_empty()) {
            for numbers in over {
                voter.handle_incarnations_over(now, &head.from, numbers, &mut self.effects);
            }
        }
        let Some(two) = two else {
            return;
        };
        for (mine, other) in [(two[0], two[1]), (two[1], two[0])] {
            let word = Namesake {
                yours: mine.0,
                yours_at: mine.1,
                other: other.0,
                other_at: other.1,
            };
            let message = Message::Namesake(Box::new(word));
            self.transmit(
                (PROTOCOL_VERSION_MIN, mine.1),
                head.from.clone(),
                &[message],
            );
        }
    }

    /// Handles the report of another live process of this node's name.
    fn take_namesake(&mut self, now: Now, word: &Namesake) {
        let own = self.claimant.incarnation();
        if word.yours != own || word.other == own || mistaken!(TwinGoesOn) {
            return;
        }
        self.seen = self.seen.max(word.other);
        self.handovers.stop_taking();
        let twin = Twin {
            mine: word.yours_at,
            other: word.other_at,
        };
        let timing = self.voter_set.timing();
        let until = now.mono.after(timing.max_ttl / 2);
        let beat = now.mono.after(timing.max_ttl / ASKED_AGAIN);
        let before = self.stopped.replace(Stopped { twin, until, beat });
        let mut restarted = Effects::default();
        if let Some(voter) = &mut self.voter {
            self.starts += 1;
            // Unique among all starts, since the seed is drawn from 64 bits.
            let nonce = self.seed.wrapping_add(self.starts << 32);
            voter.restart(now, nonce, &mut restarted);
            voter.handle_view(&self.view);
        }
        if before.is_none() {
            self.effects.tell(Event::TwinFound);
            self.effects.events.append(&mut restarted.events);
            self.claimant.begin_anew(now, &mut self.effects);
        }
        self.effects.messages.append(&mut restarted.messages);
    }

    /// Returns `true` if a message must not be sent while another process of this node's name
    /// lives. Releases are withheld too, since they would end leases that outlive their process.
    fn withholds(&self, message: &Message) -> bool {
        let is_claimants = matches!(
            message,
            Message::Claim(_)
                | Message::OnceClaim(_)
                | Message::Release(_)
                | Message::KeepAlive(_)
                | Message::Mark(_)
                | Message::Note(_)
        );
        self.stopped.is_some() && is_claimants
    }

    /// Resumes this process, or announces it to the members, if either is due.
    fn look_at_twin(&mut self, now: Now) {
        let Some(stopped) = &mut self.stopped else {
            return;
        };
        if now.mono >= stopped.until {
            self.stopped = None;
            self.effects.tell(Event::TwinGone);
            let number = self.number_above(self.seen);
            self.begin_incarnation(now, number);
        } else if now.mono >= stopped.beat {
            let every = self.voter_set.timing().max_ttl / ASKED_AGAIN;
            stopped.beat = now.mono.after(every);
            let voter_set = self.voter_set.clone();
            for member in voter_set.members() {
                if *member != self.id {
                    self.announce(member);
                }
            }
        }
    }

    fn next_look_at_twin(&self) -> Option<Instant> {
        let stopped = self.stopped?;
        earliest([Some(stopped.until), Some(stopped.beat)])
    }

    /// Moves this node to a number above `seen`, if `seen` is above its own. A peer has then
    /// received a higher incarnation, since the wall clock was set back.
    fn adopt(&mut self, now: Now, seen: Incarnation) {
        self.seen = self.seen.max(seen);
        if seen <= self.claimant.incarnation() || self.stopped.is_some() {
            return;
        }
        let number = match mistaken!(AdoptsTheSameNumber) {
            true => seen,
            false => self.number_above(seen),
        };
        self.begin_incarnation(now, number);
        if let Some(voter) = &mut self.voter {
            voter.handle_earlier_incarnation(&mut self.effects);
        }
    }

    fn number_above(&mut self, seen: Incarnation) -> Incarnation {
        let least = seen.max(self.claimant.incarnation()).next();
        let number = least.get().saturating_add(self.numbers.below(NUMBERS));
        Incarnation::new(number)
    }

    fn begin_incarnation(&mut self, now: Now, number: Incarnation) {
        let (me, out) = ((&self.id, &*self.voter_set), &mut self.effects);
        self.handovers.take_anew(now.mono, me, out);
        self.claimant.adopt(now, number, &mut self.effects);
        if let Some(journal) = &mut self.journal {
            journal.begin_incarnation(now.mono, self.claimant.incarnation());
        }
        if let Some(voter) = &mut self.voter {
            let number = self.claimant.incarnation();
            voter.handle_incarnation(now, &self.id, number, &mut self.effects);
        }
    }

    /// Returns `now` with the time corrected by the members' clocks (rule 28). It is corrected only
    /// here: the driver passes readings of the own clock, and the rules receive the corrected time.
    /// The reading of the own clock is kept for [`Node::shown`].
    fn corrected(&mut self, now: Now) -> Now {
        self.shown_ms = now.wall_ms;
        self.clocks.pass(now.mono);
        self.clocks.correct(now)
    }

    /// Returns `now` with the reading of the own wall clock.
    fn shown(&self, now: Now) -> Now {
        Now {
            wall_ms: self.shown_ms,
            ..now
        }
    }

    /// Passes the high time to the voter. A voter in recovery derives the recovered fence from it.
    fn tell_voter_of_clocks(&mut self, now: Now) {
        let own = self.shown(now);
        let may_return = match self.standings.are_asked() {
            true => self.clocks.may_return(own, self.voter_set.quorum()),
            // The driver does not query the voters, so recovery cannot wait for their clocks.
            false => MayReturn::Yes,
        };
        if let Some(voter) = &mut self.voter {
            voter.handle_clocks(self.clocks.high(own), may_return);
        }
    }

    /// Announces this node to a member, in a datagram without messages if none are pending. A voter
    /// that learns of this incarnation frees the votes of earlier ones (rule 7).
    fn announce(&mut self, node: &NodeId) {
        if self.voter_set.has_member(node) {
            self.outbox.of(node.clone());
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
            if let Some(journal) = &mut self.journal {
                journal.take(now.mono, &mut routed);
            }
            for (to, message) in routed.messages.drain(..) {
                self.forward(now, to, message);
            }
            self.routed = routed;
        }
    }

    /// Moves a message to the outbox, or handles it if it is for this node itself.
    fn forward(&mut self, now: Now, to: NodeId, message: Message) {
        if self.withholds(&message) {
            return;
        }
        if to != self.id {
            self.outbox.of(to).push(message);
            return;
        }
        let head = self.head(to);
        if let Err(reason) = self.dispatch(now, &head, message) {
            self.traffic.drop_one(reason);
        }
    }

    /// Packs and sends the pending messages to the first node. Returns `true` if there is one.
    fn flush(&mut self) -> bool {
        let Some((node, mut messages)) = self.outbox.take() else {
            return false;
        };
        let way = self.peers.send(self.now, &node);
        let Some(Way {
            targets: [Some(to), other],
            version,
            probes,
        }) = way
        else {
            self.traffic.drop_one(DropReason::NoAddress);
            self.outbox.keep(messages);
            return true;
        };
        let version = version.min(self.speaks);
        if version < PROTOCOL_VERSION {
            let unread = messages.extract_if(.., |message| message.version() > version);
            // Notes are advice, and may come with each claim. Their loss is no reason for an alert.
            for _ in unread.filter(|message| !matches!(message, Message::Note(_))) {
                self.traffic.drop_one(DropReason::Version);
            }
        }
        if probes && self.speaks == PROTOCOL_VERSION {
            // The reply is in that version, if the node reads it.
            let probe = [Message::Challenge(Challenge { nonce: 0 })];
            for to in [Some(to), other].into_iter().flatten() {
                self.transmit((PROTOCOL_VERSION, to), node.clone(), &probe);
            }
        }
        if let Some(other) = other {
            self.transmit((version, other), node.clone(), &messages);
        }
        self.transmit((version, to), node, &messages);
        self.outbox.keep(messages);
        true
    }

    /// Returns the head of a datagram from this node.
    fn head(&self, to: NodeId) -> DatagramHead {
        DatagramHead {
            from: self.id.clone(),
            incarnation: self.claimant.incarnation(),
            to,
            voter_set: self.voter_set.tag(),
        }
    }

    fn transmit(&mut self, (version, addr): (u8, SocketAddr), node: NodeId, messages: &[Message]) {
        let budget = DATAGRAM_BYTES_MAX - self.seal.overhead();
        let head = self.head(node);
        let Self {
            packing,
            seal,
            traffic,
            outputs,
            ..
        } = self;
        let too_large = pack_into(packing, &head, messages, budget, |body, count| {
            traffic.datagrams_out += 1;
            traffic.messages_out += count as u64;
            let bytes = seal.seal_as(version, DatagramKind::Votes, body);
            outputs.push_back(Output::Transmit { to: addr, bytes });
        });
        for _ in 0..too_large {
            self.traffic.drop_one(DropReason::TooLarge);
        }
    }
}

/// Returns `true` if the durations in a message are within the protocol's limits.
fn is_sane(message: &Message) -> bool {
    match message {
        Message::Described(set) => set.timing.check().is_ok(),
        Message::RecoveryReply(it) => it.quarantine <= QUARANTINE_MAX && it.skew <= MAX_TTL_MAX,
        Message::VoterReply(it) => it.remaining <= QUARANTINE_MAX,
        Message::Mark(it) => it.keep_for <= MARK_KEEP_MAX,
        Message::Revoked(it) => it.remaining <= QUARANTINE_MAX,
        Message::MarksPage(it) => {
            let marks = it.marks.iter();
            marks
                .map(|it| it.remaining)
                .all(|it| it <= MARK_REMAINS_MAX)
        }
        _ => true,
    }
}

fn claim_of(message: &Message) -> Option<&ClaimId> {
    match message {
        Message::Claim(claim) | Message::OnceClaim(claim) => Some(&claim.claim),
        Message::Mark(mark) => Some(&mark.claim),
        Message::Marked(marked) => Some(&marked.claim),
        Message::Done(done) => Some(&done.claim),
        Message::Release(release) => Some(&release.claim),
        Message::Vote(vote) => Some(&vote.claim),
        Message::Wait(wait) => Some(&wait.claim),
        Message::Stale(stale) => Some(&stale.claim),
        Message::Refuse(refuse) => Some(&refuse.claim),
        Message::Note(note) => match &**note {
            NoteMessage::OfClaim { claim, .. } | NoteMessage::OfHolder { claim, .. } => Some(claim),
            NoteMessage::OfReported { .. } => None,
        },
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
        | Message::Namesake(_)
        | Message::Handover(_)
        | Message::MarksQuery(_)
        | Message::MarksPage(_)
        | Message::Revoke(_)
        | Message::Revoked(_) => None,
    }
}
