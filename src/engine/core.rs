//! The core of the engine: the protocol node and its pending callers. One thread at a time has it.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::clock::Time;
use crate::engine::batch::{Command, Terms};
use crate::engine::readiness::Readiness;
use crate::error::Reentry;
use crate::journal::{Journal, Written};
use crate::lease::Lease;
use crate::metrics::{LockKind, Meter};
use crate::obstacle::{Obstacle, holding};
use crate::obstacles::{Line, Obstacles};
use crate::status::{Health, VoterStart};
use crate::transport::Transport;
use lockmesh_proto::{
    DropReason, Epoch, Event, ExtendError, ForeignNode, InspectId, Inspection, Instant, Key,
    KeyHolder, MarkError, NoSpareVoter, Node, NodeId, Now, Output, Request, RequestError,
    Revocation, RevokeId, Standing, Ticket, VoteTally, quorum,
};

/// The outcome of an acquisition.
#[derive(Debug)]
pub(crate) enum Ended {
    Granted(Arc<Lease>),
    /// Another claim is granted, or may be.
    Denied,
    /// The key is marked.
    Done {
        by: NodeId,
        epoch: Epoch,
    },
    /// The node did not accept the request.
    Refused(RequestError),
    /// This node holds the key, and the request denies that.
    Reentry(Reentry),
    TimedOut {
        answers: VoteTally,
        /// The reason why no recent datagram could be opened; `None` if one could, or if none
        /// arrived.
        unopened: Option<DropReason>,
        holder: Option<Box<KeyHolder>>,
    },
    ShutDown,
}

/// A result for a caller, to send once the core is put back.
pub(super) enum Notice {
    Ended(oneshot::Sender<Ended>, Ended),
    Inspected(oneshot::Sender<Inspection>, Inspection),
    Revoked(oneshot::Sender<Revocation>, Revocation),
    HandedOver(oneshot::Sender<Vec<NodeId>>, Vec<NodeId>),
    /// `true` if the key is marked.
    Marked(oneshot::Sender<bool>, bool),
}

impl Notice {
    /// Returns `true` if it is for a caller that requested a lock.
    pub(super) fn is_outcome(&self) -> bool {
        matches!(self, Self::Ended(..))
    }

    /// Notifies the caller. One that is gone withdraws its claim itself.
    pub(super) fn send(self) {
        match self {
            Self::Ended(notify, ended) => drop(notify.send(ended)),
            Self::Inspected(notify, inspection) => drop(notify.send(inspection)),
            Self::Revoked(notify, revocation) => drop(notify.send(revocation)),
            Self::HandedOver(notify, voters) => drop(notify.send(voters)),
            Self::Marked(notify, is_marked) => drop(notify.send(is_marked)),
        }
    }
}

/// The channel of incoming datagrams to the gossip library.
pub(crate) type GossipIn = mpsc::Sender<(SocketAddr, Vec<u8>)>;
/// The receiving end of [`GossipIn`].
pub(crate) type GossipOut = mpsc::Receiver<(SocketAddr, Vec<u8>)>;

pub(crate) struct Core {
    pub(crate) node: Node,
    waiting: HashMap<Ticket, Waiting>,
    leases: HashMap<Ticket, Arc<Lease>>,
    /// The callers that mark the key of a lease.
    marking: HashMap<Ticket, Vec<oneshot::Sender<bool>>>,
    inspections: HashMap<InspectId, oneshot::Sender<Inspection>>,
    revocations: HashMap<RevokeId, oneshot::Sender<Revocation>>,
    /// The journal of the voter, if it keeps one.
    pub(crate) journal: Option<Arc<Journal>>,
    gossip: GossipIn,
    /// The channel of answers, if this node asks instead of gossiping.
    pub(crate) answers: Option<mpsc::Sender<Vec<u8>>>,
    /// The other nodes that announce by gossip that they vote. Advice only.
    pub(crate) voting: BTreeSet<NodeId>,
    /// The number of times that gossip has ended and was restarted.
    pub(crate) gossip_restarts: u64,
    /// The commands to submit in this turn. The buffer is reused.
    pub(super) commands: Vec<Command>,
    /// The results of this turn.
    notices: Vec<Notice>,
    pub(crate) is_shut_down: bool,
    /// `true` after a panic in a turn. The node is not called any more.
    pub(crate) has_failed: bool,
    pub(crate) meter: Meter,
    /// The obstacles that keep this node from getting locks, for the log.
    pub(crate) obstacles: Obstacles,
    pub(crate) has_gossip_ended: bool,
    /// The way in which the voter came to vote. `None` without a voter.
    pub(crate) voter_start: Option<VoterStart>,
    /// The shutdown that waits for the end of the handover.
    handed_over: Option<oneshot::Sender<Vec<NodeId>>>,
    /// `true` if the voter may lack marks from before its start.
    pub(crate) may_lack_marks: bool,
    readiness: Readiness,
}

struct Waiting {
    since: Instant,
    kind: LockKind,
    notify: oneshot::Sender<Ended>,
}

impl Core {
    pub(super) fn new(node: Node, gossip: GossipIn) -> Self {
        Self {
            meter: Meter::new(node.id()),
            node,
            journal: None,
            waiting: HashMap::new(),
            leases: HashMap::new(),
            marking: HashMap::new(),
            inspections: HashMap::new(),
            revocations: HashMap::new(),
            gossip,
            answers: None,
            voting: BTreeSet::new(),
            gossip_restarts: 0,
            commands: Vec::new(),
            notices: Vec::new(),
            is_shut_down: false,
            has_failed: false,
            obstacles: Obstacles::default(),
            has_gossip_ended: false,
            voter_start: None,
            handed_over: None,
            may_lack_marks: false,
            readiness: Readiness::default(),
        }
    }

    /// Hands the memory of the voter over. The receiver gets the voters that have it.
    pub(super) fn hand_over(
        &mut self,
        now: Now,
        at_most: Duration,
    ) -> oneshot::Receiver<Vec<NodeId>> {
        let (notify, notified) = oneshot::channel();
        if !self.has_failed {
            self.handed_over = Some(notify);
            self.node.hand_over(now, at_most);
        }
        notified
    }

    /// Submits the commands of this turn to the node.
    pub(super) fn submit_all(&mut self, now: Now) {
        let mut commands = std::mem::take(&mut self.commands);
        for command in commands.drain(..) {
            self.submit(now, command);
        }
        self.commands = commands;
    }

    fn submit(&mut self, now: Now, command: Command) {
        match command {
            // A caller whose claim is dropped reports that the mesh is shut down.
            _ if self.has_failed => {}
            Command::Claim { notify, .. } if self.is_shut_down => {
                self.notices.push(Notice::Ended(notify, Ended::ShutDown));
            }
            Command::Claim {
                ticket,
                since,
                request,
                terms,
                notify,
            } => match self.claim(now, ticket, request, terms) {
                Ok(()) => {
                    self.meter.began();
                    let kind = terms.kind;
                    let waiting = Waiting {
                        since,
                        kind,
                        notify,
                    };
                    self.waiting.insert(ticket, waiting);
                }
                Err(ended) => self.notices.push(Notice::Ended(notify, ended)),
            },
            Command::Release { ticket, was_held } => {
                self.free(now, ticket, was_held);
            }
            Command::Datagram { from, bytes } => self.node.handle_datagram(now, from, &bytes),
        }
    }

    fn claim(
        &mut self,
        now: Now,
        ticket: Ticket,
        request: Request,
        terms: Terms,
    ) -> Result<(), Ended> {
        let held = terms
            .denies_reentry
            .then(|| self.reentry(now, &request.key));
        match held.flatten() {
            Some(reentry) => Err(Ended::Reentry(reentry)),
            None => self
                .node
                .claim_as(now, ticket, request)
                .map_err(Ended::Refused),
        }
    }

    /// Returns since when this node holds `key`, or `None` if it does not. It looks at each lock that
    /// this node holds.
    pub(crate) fn reentry(&self, now: Now, key: &Key) -> Option<Reentry> {
        let is_it = |lease: &&Arc<Lease>| lease.key == *key && lease.is_held();
        let lease = self.leases.values().find(is_it)?;
        Some(Reentry {
            epoch: lease.epoch,
            held_for: now.mono.since(lease.granted_at),
        })
    }

    pub(super) fn handle_datagram(&mut self, now: Now, from: SocketAddr, bytes: &[u8]) {
        if !self.has_failed {
            self.node.handle_datagram(now, from, bytes);
        }
    }

    /// Withdraws a request for which no caller waits any more.
    pub(crate) fn withdraw(&mut self, now: Now, ticket: Ticket) {
        self.waiting.remove(&ticket);
        self.release(now, ticket);
    }

    /// Releases a lease. Returns `true` if it was held until now.
    pub(crate) fn release(&mut self, now: Now, ticket: Ticket) -> bool {
        // The lease ends first: no guard may report "held" once a voter may have the release.
        let lease = self.leases.get(&ticket);
        let was_held = lease.is_some_and(|lease| lease.release());
        self.free(now, ticket, was_held)
    }

    /// Asks for an extension of a lease. Returns the end that it will reach.
    pub(crate) fn extend(
        &mut self,
        now: Now,
        ticket: Ticket,
        extra: Duration,
    ) -> Result<Instant, ExtendError> {
        match self.has_failed {
            true => Err(ExtendError::NotHeld),
            false => self.node.extend(now, ticket, extra),
        }
    }

    /// Marks the key of a lease. The receiver gets `true` once it is marked, and `false` if the voters
    /// have no room. It is closed if the lease ends first.
    pub(crate) fn mark(
        &mut self,
        now: Now,
        ticket: Ticket,
        keep_for: Duration,
    ) -> Result<oneshot::Receiver<bool>, MarkError> {
        if self.has_failed {
            return Err(MarkError::NotHeld);
        }
        // Before the node has it, since its own voter may be a quorum.
        let (notify, marked) = oneshot::channel();
        let callers = self.marking.entry(ticket).or_default();
        callers.retain(|caller| !caller.is_closed());
        callers.push(notify);
        let begun = self.node.mark(now, ticket, keep_for);
        if begun == Err(MarkError::NotHeld) {
            self.marking.remove(&ticket);
        }
        begun.map(|()| marked)
    }

    fn marked(&mut self, ticket: Ticket, is_marked: bool) {
        let callers = self.marking.remove(&ticket).into_iter().flatten();
        let notices = callers.map(|notify| Notice::Marked(notify, is_marked));
        self.notices.extend(notices);
    }

    /// Releases a lease that its guard has ended. Returns `true` if it was held until then.
    fn free(&mut self, now: Now, ticket: Ticket, was_held: bool) -> bool {
        if self.has_failed {
            return false;
        }
        let was_known = self.remove_lease(now.mono, ticket).is_some();
        let was_valid = self.node.release(now, ticket) && was_known;
        if was_valid && !was_held {
            // The guard saw the end of the lease before a renewal. Other losses are events of the
            // node.
            self.meter.lost();
        }
        was_valid && was_held
    }

    fn remove_lease(&mut self, now: Instant, ticket: Ticket) -> Option<Arc<Lease>> {
        self.marking.remove(&ticket);
        let lease = self.leases.remove(&ticket)?;
        self.meter.was_held(lease.kind, now.since(lease.granted_at));
        Some(lease)
    }

    /// Ends all requests and leases. The node does not release claims that outlive this process:
    /// they expire at the voters.
    pub(crate) fn release_all(&mut self, now: Now) {
        self.marking.clear();
        for (_, lease) in self.leases.drain() {
            lease.end();
            let span = now.mono.since(lease.granted_at);
            self.meter.was_held(lease.kind, span);
        }
        for (_, waiting) in self.waiting.drain() {
            let notice = Notice::Ended(waiting.notify, Ended::ShutDown);
            self.notices.push(notice);
        }
        // The driver ends soon, so their results would never arrive.
        self.inspections.clear();
        self.revocations.clear();
        if !self.has_failed {
            self.node.release_all(now);
        }
    }

    /// Marks the mesh as shut down and drops all pending callers. Remaining leases are not renewed.
    pub(crate) fn forget_all(&mut self) {
        self.is_shut_down = true;
        self.waiting.clear();
        self.marking.clear();
        self.inspections.clear();
        self.revocations.clear();
        self.handed_over = None;
    }

    /// Ends all leases and pending callers after a panic. Nothing is sent to other nodes: the state
    /// of the node may be half changed, and its leases end by themselves.
    pub(super) fn fail(&mut self) {
        if !std::mem::replace(&mut self.has_failed, true) {
            self.leases.drain().for_each(|(_, lease)| lease.end());
            // A caller whose channel is dropped reports that the mesh is shut down.
            self.notices.clear();
            self.commands.clear();
            self.forget_all();
        }
    }

    pub(crate) fn expect_inspection(&mut self, id: InspectId) -> oneshot::Receiver<Inspection> {
        let (notify, notified) = oneshot::channel();
        self.inspections.insert(id, notify);
        notified
    }

    pub(crate) fn expect_revocation(&mut self, id: RevokeId) -> oneshot::Receiver<Revocation> {
        let (notify, notified) = oneshot::channel();
        self.revocations.insert(id, notify);
        notified
    }

    /// Returns `true` if this node is a voter and not in quarantine.
    pub(crate) fn votes(&self) -> bool {
        self.node
            .voter()
            .is_some_and(|voter| voter.quarantine().is_none())
    }

    /// Returns `true` if every key has a quorum when this many members vote.
    pub(crate) fn has_quorum(&self, voting: usize) -> bool {
        let voter_set = self.node.voter_set();
        voter_set.members().len() - voting <= voter_set.spare()
    }

    /// Returns the number of members that would vote for claims of this node.
    pub(crate) fn voting(&self, now: Now) -> usize {
        let members = self.node.voter_set().members().iter();
        let votes = |it: &&NodeId| self.node.standing_of(now, it) == Standing::Votes;
        members.filter(votes).count()
    }

    /// Checks if one of the voters may be restarted, as far as this node sees it.
    pub(crate) fn check_restart(&self, now: Now) -> Result<(), NoSpareVoter> {
        self.node.voter_set().check_restart(self.voting(now))?;
        match self.reads_marks() {
            true => Err(NoSpareVoter::ReadsMarks),
            false => Ok(()),
        }
    }

    /// Returns `true` while the voter of this node reads the marks of the others.
    fn reads_marks(&self) -> bool {
        self.node.voter().is_some_and(|voter| voter.reads_marks())
    }

    /// Returns the health of this node.
    pub(crate) fn health(&self, now: Now) -> Health {
        let members = self.node.voter_set().members();
        let votes = |member: &NodeId| self.node.standing_of(now, member) == Standing::Votes;
        let voting = self.voting(now);
        if self.is_shut_down {
            Health::ShutDown
        } else if self.node.twin().is_some() {
            Health::NameTaken
        } else if voting < quorum(members.len()) {
            Health::NoQuorum
        } else if self.node.voter().is_some() && !votes(self.node.id()) {
            Health::Recovering
        } else if self.node.voter().is_some() && !self.is_settled(now, voting) {
            Health::NoSpareVoter
        } else {
            Health::Ready
        }
    }

    fn is_settled(&self, now: Now, voting: usize) -> bool {
        let voter_set = self.node.voter_set();
        self.readiness
            .is_reached(now.mono, voter_set, voting, self.reads_marks())
    }

    /// Returns the health of this node, and records it: a node that was ready stays ready while it
    /// can acquire locks.
    pub(crate) fn observe_health(&mut self, now: Now) -> Health {
        let health = self.health(now);
        self.readiness.observe(health, now.mono);
        health
    }

    /// Records that gossip has ended and will be restarted.
    pub(crate) fn gossip_ended(&mut self) {
        self.gossip_restarts += 1;
        self.has_gossip_ended = true;
        self.meter.gossip_ended();
    }

    /// Returns the known addresses of the other members. Gossip may have forgotten a member whose
    /// votes were received.
    pub(crate) fn addresses_of_members(&self) -> Vec<SocketAddr> {
        let members = self.node.voter_set().members().iter();
        let addrs = members.filter_map(|member| self.node.address_of(member));
        addrs.collect()
    }

    /// Returns `true` if this node neither holds nor awaits a lock.
    pub(crate) fn is_idle(&self) -> bool {
        self.leases.is_empty() && self.waiting.is_empty()
    }

    pub(crate) fn held(&self) -> usize {
        self.leases.len()
    }

    /// Takes all outputs from the node, and the time of its next timeout.
    pub(super) fn drain(&mut self) -> (Vec<Output>, Option<Instant>) {
        let mut outputs = Vec::new();
        loop {
            match self.node.poll_output() {
                Output::Timeout(next) => return (outputs, next),
                output => outputs.push(output),
            }
        }
    }

    /// Writes records of the node to the journal.
    fn persist(&mut self, now: Now, number: u64, bytes: &[u8]) {
        match self.journal.as_ref().map(|it| it.write(number, bytes)) {
            Some(Written::Done) => self.node.persisted(now, number),
            Some(Written::Later) => {}
            // A node without a journal has no records.
            Some(Written::Failed) | None => self.node.persist_failed(now),
        }
    }

    /// Takes the notices.
    pub(super) fn notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    /// Handles an output of the node. The node may have more outputs then.
    pub(super) fn handle_output(
        &mut self,
        clock: &Time,
        transport: &dyn Transport,
        output: Output,
    ) {
        match output {
            Output::Transmit { to, bytes } => {
                if transport.try_send(to, &bytes).is_err() {
                    self.node.count_drop(DropReason::SendFailed);
                }
            }
            Output::Gossip { from, bytes } => {
                if self.gossip.try_send((from, bytes)).is_err() {
                    self.node.count_drop(DropReason::GossipFull);
                }
            }
            Output::Answer { bytes } => {
                let is_taken = |answers: &mpsc::Sender<_>| answers.try_send(bytes).is_ok();
                if !self.answers.as_ref().is_some_and(is_taken) {
                    self.node.count_drop(DropReason::Misaddressed);
                }
            }
            Output::Event(event) => self.on_event(clock, event),
            Output::ForeignNode(ForeignNode { from, reason, .. }) => {
                self.note(clock, &Obstacle::ForeignNode { from, reason });
            }
            Output::Inspected { id, inspection } => {
                if let Some(notify) = self.inspections.remove(&id) {
                    self.notices.push(Notice::Inspected(notify, *inspection));
                }
            }
            Output::Revoked { id, revocation } => {
                if let Some(notify) = self.revocations.remove(&id) {
                    self.notices.push(Notice::Revoked(notify, *revocation));
                }
            }
            Output::Persist { number, bytes } => self.persist(clock.now(), number, &bytes),
            Output::Timeout(_) => {}
        }
    }

    fn on_event(&mut self, clock: &Time, event: Event) {
        crate::metrics::trace(&event, self.node.id());
        match event {
            Event::Granted {
                ticket,
                key,
                epoch,
                valid_until,
            } => {
                let Some(waiting) = self.waiting.remove(&ticket) else {
                    self.release(clock.now(), ticket);
                    return;
                };
                let Waiting {
                    since,
                    kind,
                    notify,
                } = waiting;
                let lease = Lease::new(ticket, key, epoch, clock.clone(), valid_until);
                let lease = Arc::new(lease.of_kind(kind));
                self.meter.granted(lease.granted_at.since(since));
                self.leases.insert(ticket, lease.clone());
                self.notices
                    .push(Notice::Ended(notify, Ended::Granted(lease)));
            }
            // The remaining leases outlive this process.
            Event::Renewed { .. } if self.is_shut_down => {}
            Event::Renewed {
                ticket,
                valid_until,
            } => {
                let lease = self.leases.get(&ticket);
                // If the guard has ended the lease, its release is in the batch.
                let is_known = |l: &Arc<Lease>| l.renew(valid_until) || l.was_released();
                if !lease.is_some_and(is_known) {
                    self.release(clock.now(), ticket);
                }
            }
            Event::Lost {
                ticket, was_due, ..
            } => {
                let lease = self.remove_lease(clock.mono(), ticket);
                let was_released = lease.is_some_and(|lease| {
                    lease.end();
                    lease.was_released()
                });
                if !was_due && !was_released {
                    self.meter.lost();
                }
            }
            Event::Revoked { ticket, by, .. } => {
                if let Some(lease) = self.remove_lease(clock.mono(), ticket) {
                    lease.revoke(by);
                    self.meter.revoked();
                }
            }
            Event::Denied { ticket } => self.end(ticket, Ended::Denied),
            Event::Done {
                ticket, by, epoch, ..
            } => self.end(ticket, Ended::Done { by, epoch }),
            Event::Marked { ticket } => self.marked(ticket, true),
            Event::NotMarked { ticket } => self.marked(ticket, false),
            Event::MarksRead { may_lack, .. } => {
                self.may_lack_marks |= may_lack;
                if may_lack {
                    self.note(clock, &Obstacle::MarksLost);
                }
            }
            Event::TimedOut {
                ticket,
                answers,
                holder,
            } => {
                let unopened = self.node.unopened(clock.now());
                let ended = Ended::TimedOut {
                    answers,
                    unopened,
                    holder,
                };
                self.end(ticket, ended);
            }
            Event::QuarantineEnded {
                answers,
                leans_on_wall_clock,
                knows_clocks,
            } => {
                if let Some(start) = self.voter_start.take() {
                    self.voter_votes(start);
                }
                if leans_on_wall_clock {
                    let obstacle = Obstacle::LeansOnWallClock {
                        answers,
                        knows_clocks,
                    };
                    self.note(clock, &obstacle);
                }
            }
            Event::Resumed {
                votes,
                is_confirmed,
                ..
            } => self.voter_votes(VoterStart::Journal {
                votes,
                is_confirmed,
            }),
            Event::TookUp {
                from: node, votes, ..
            } => {
                self.voter_votes(VoterStart::Handover { node, votes });
            }
            Event::JournalOutdated { .. } => {
                let why = "its journal is an old copy".to_owned();
                self.voter_start = Some(VoterStart::Nothing { why });
            }
            Event::HandedOver { voters } => {
                if let Some(notify) = self.handed_over.take() {
                    self.notices.push(Notice::HandedOver(notify, voters));
                }
            }
            Event::JournalFailed
            | Event::JournalRestored
            | Event::QuarantineBegan { .. }
            | Event::QuarantineExtended { .. }
            | Event::VoterSetMismatch { .. }
            | Event::VoterSetMatch { .. }
            | Event::SecretChanged { .. }
            | Event::VoteRevoked { .. }
            | Event::TwinFound
            | Event::TwinGone => {}
        }
    }

    /// Records that the voter of this node, if it has one, starts. It may still resume.
    pub(crate) fn begin_voter(&mut self, start: VoterStart) {
        if self.voter_start.is_none() && self.node.voter().is_some() {
            self.voter_start = Some(start);
        }
    }

    /// Records the way in which the voter came to vote.
    fn voter_votes(&mut self, start: VoterStart) {
        self.meter.voter_starts(&start);
        self.voter_start = Some(start);
    }

    fn note(&mut self, clock: &Time, obstacle: &Obstacle) {
        self.obstacles.note(clock.mono(), obstacle);
    }

    /// Returns the lines to log now.
    pub(super) fn look(&mut self, now: Now) -> Vec<Line> {
        self.node.check_voters(now);
        let holding = holding(self, now);
        self.obstacles.look(now.mono, &holding)
    }

    fn end(&mut self, ticket: Ticket, ended: Ended) {
        if let Some(waiting) = self.waiting.remove(&ticket) {
            self.meter.ended_without(&ended);
            self.notices.push(Notice::Ended(waiting.notify, ended));
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::transport::Nowhere;
    use lockmesh_proto::{
        Incarnation, Key, NodeConfig, Seal, Start, Timing, VoterLimits, VoterSet,
    };

    /// Returns a node that is the only voter.
    pub(crate) fn only_voter(clock: &Time) -> Node {
        member(clock, 0, 1)
    }

    pub(crate) fn member(clock: &Time, number: usize, members: usize) -> Node {
        Node::new(clock.now(), config(number, members))
    }

    /// Returns the settings of member `number` of `members` nodes that all vote for every key.
    pub(crate) fn config(number: usize, members: usize) -> NodeConfig {
        let ids: Vec<_> = (0..members)
            .map(|number| NodeId::new(format!("n{number}")).unwrap())
            .collect();
        NodeConfig {
            id: ids[number].clone(),
            incarnation: Incarnation::new(1),
            voter_set: Arc::new(VoterSet::new(1, ids, members, Timing::lan()).unwrap()),
            start: Start::NewCluster,
            limits: VoterLimits::default(),
            max_claims: members,
            renew_interval: None,
            seed: 1,
            seal: Seal::insecure_plaintext(),
        }
    }

    fn core(clock: &Time) -> Core {
        Core::new(only_voter(clock), mpsc::channel(1).0)
    }

    /// Returns a request that waits for the lock on `key`.
    pub(crate) fn request(key: &str) -> Request {
        Request {
            key: Key::new(key).unwrap(),
            ttl: Duration::from_secs(10),
            is_try: false,
            renews: true,
            outlives: false,
            deadline: None,
            is_once: false,
            note: None,
        }
    }

    fn drain(core: &mut Core, clock: &Time) {
        for output in core.drain().0 {
            core.handle_output(clock, &Nowhere, output);
        }
    }

    /// Claims a lock. Returns the outcome that the caller has received by now.
    fn claim(core: &mut Core, clock: &Time, ticket: u64) -> Option<Ended> {
        let (notify, mut ended) = oneshot::channel();
        let claim = Command::Claim {
            ticket: Ticket(ticket),
            since: clock.mono(),
            request: request("k"),
            terms: Terms::default(),
            notify,
        };
        core.submit(clock.now(), claim);
        drain(core, clock);
        core.notices().into_iter().for_each(Notice::send);
        ended.try_recv().ok()
    }

    /// Returns the lease of a claim on a free key.
    fn granted(core: &mut Core, clock: &Time, ticket: u64) -> Arc<Lease> {
        match claim(core, clock, ticket) {
            Some(Ended::Granted(lease)) => lease,
            other => panic!("not granted: {other:?}"),
        }
    }

    #[test]
    fn every_claim_receives_its_outcome() {
        let clock = &Time::system();
        let mut core = core(clock);
        let lease = granted(&mut core, clock, 1);
        assert!(lease.is_held());
        let refused = claim(&mut core, clock, 2);
        let too_many = RequestError::TooMany { max: 1 };
        assert!(matches!(refused, Some(Ended::Refused(error)) if error == too_many));
        core.forget_all();
        let late = claim(&mut core, clock, 3);
        assert!(matches!(late, Some(Ended::ShutDown)), "{late:?}");
    }

    /// The guard has ended the lease, and its release is still in the batch.
    #[test]
    fn renewal_of_released_lease_sends_no_release() {
        let clock = &Time::system();
        let mut core = core(clock);
        let lease = granted(&mut core, clock, 1);
        assert!(lease.release());
        let renewed = |ticket| Event::Renewed {
            ticket,
            valid_until: Instant::FAR,
        };
        let ticket = Ticket(1);
        core.on_event(clock, renewed(ticket));
        assert!(!lease.is_held());
        assert_ne!(core.node.claimant().epoch(ticket), None);
        let was_held = true;
        core.submit(clock.now(), Command::Release { ticket, was_held });
        assert_eq!(core.node.claimant().epoch(ticket), None);
        assert_eq!(core.held(), 0);
        // The guard has seen the end of this lease without releasing it.
        let lease = granted(&mut core, clock, 2);
        lease.end();
        let ticket = Ticket(2);
        core.on_event(clock, renewed(ticket));
        assert_eq!(core.node.claimant().epoch(ticket), None);
    }

    /// The guard sees the end of the lease, and so does the node before the release is submitted.
    #[test]
    fn expired_lease_counts_as_lost_on_release() {
        use metrics_util::debugging::{DebugValue, DebuggingRecorder};

        let recorder = DebuggingRecorder::new();
        let snapshotter = recorder.snapshotter();
        metrics::with_local_recorder(&recorder, || {
            let clock = &Time::system();
            let mut core = core(clock);
            let lease = granted(&mut core, clock, 1);
            lease.end();
            let was_held = lease.release();
            assert!(!was_held);
            let mut later = clock.now();
            later.mono = later.mono.after(Duration::from_secs(11));
            core.node.handle_timeout(later);
            drain(&mut core, clock);
            let ticket = Ticket(1);
            core.submit(later, Command::Release { ticket, was_held });
        });
        let counted = snapshotter.snapshot().into_vec();
        let lost = counted
            .iter()
            .find(|(key, ..)| key.key().name() == "lockmesh_lost_total");
        assert!(
            matches!(lost, Some((.., DebugValue::Counter(1)))),
            "{lost:?}"
        );
    }
}
