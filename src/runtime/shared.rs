//! What the handles, the guards and the driver of one mesh share: the node behind a lock, and
//! the socket.
//!
//! Whoever has something to ask of the node takes the lock, asks, drains the node, lets go of the
//! lock and sends: there is no queue to a task in between, and so no task switch on the way from
//! `acquire` to the socket. Nothing waits while the lock is held.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};

use super::clock::Clock;
use super::lease::Lease;
use super::metrics::Meter;
use super::socket::Sender;
use crate::node::{InspectId, Inspection, Node, Output};
use crate::proto::claimant::{Request, RequestError};
use crate::proto::event::{Answers, Event, Ticket};
use crate::proto::id::NodeId;
use crate::proto::time::{Instant, Now};
use crate::wire::DropReason;

/// How an acquisition ended.
#[derive(Debug)]
pub(crate) enum Ended {
    Granted(Arc<Lease>),
    Denied,
    TimedOut(Answers),
    ShutDown,
}

/// Datagrams of the gossip library, on their way to it.
pub(crate) type GossipIn = mpsc::Sender<(SocketAddr, Vec<u8>)>;
/// The end of that way.
pub(crate) type GossipOut = mpsc::Receiver<(SocketAddr, Vec<u8>)>;

pub(crate) struct Shared {
    pub(crate) clock: Clock,
    sender: Sender,
    core: Mutex<Core>,
    /// The node wants to be woken earlier than the driver sleeps.
    pub(crate) earlier: Notify,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

/// What the lock is on.
pub(crate) struct Core {
    pub(crate) node: Node,
    waiting: HashMap<Ticket, Waiting>,
    leases: HashMap<Ticket, Arc<Lease>>,
    inspections: HashMap<InspectId, oneshot::Sender<Inspection>>,
    gossip: GossipIn,
    /// Which other nodes say by gossip that they vote: advice.
    pub(crate) voting: BTreeSet<NodeId>,
    /// When the node wants to be woken.
    next: Option<Instant>,
    /// When the driver wakes up.
    wakes_at: Instant,
    pub(crate) is_shut_down: bool,
    pub(crate) meter: Meter,
}

struct Waiting {
    since: Instant,
    tell: oneshot::Sender<Ended>,
}

impl Shared {
    pub(crate) fn new(clock: Clock, sender: Sender, node: Node, gossip: GossipIn) -> Self {
        let core = Core {
            meter: Meter::new(node.id()),
            node,
            waiting: HashMap::new(),
            leases: HashMap::new(),
            inspections: HashMap::new(),
            gossip,
            voting: BTreeSet::new(),
            next: None,
            wakes_at: Instant::ZERO,
            is_shut_down: false,
        };
        Self {
            clock,
            sender,
            core: Mutex::new(core),
            earlier: Notify::new(),
        }
    }

    /// Asks something of the node, and sends what comes of it.
    pub(crate) fn with<T>(&self, ask: impl FnOnce(&mut Core, Now) -> T) -> T {
        let mut core = self.lock();
        let answer = ask(&mut core, self.clock.now());
        let mut datagrams = Vec::new();
        core.next = core.drain(self.clock, &mut datagrams);
        let next = core.next.unwrap_or(Instant::FAR);
        let is_earlier = next < core.wakes_at;
        core.wakes_at = core.wakes_at.min(next);
        drop(core);
        let failed = datagrams
            .iter()
            .filter(|(to, bytes)| !self.sender.send(*to, bytes))
            .count();
        if failed > 0 {
            let mut core = self.lock();
            for _ in 0..failed {
                core.node.count_drop(DropReason::SendFailed);
            }
        }
        if is_earlier {
            self.earlier.notify_one();
        }
        answer
    }

    /// How long the driver may sleep, at most `at_most`.
    pub(crate) fn nap(&self, at_most: Duration) -> Duration {
        let mut core = self.lock();
        let now = self.clock.mono();
        let latest = now.after(at_most);
        core.wakes_at = core.next.unwrap_or(latest).min(latest);
        core.wakes_at.since(now)
    }

    /// From here on no datagram leaves.
    pub(crate) fn close(&self) {
        self.sender.close();
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        // A panic while the lock was held is a bug of ours; the node behind it still answers, and
        // its leases end by themselves.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Core {
    /// Begins to claim. The receiver is told how it ended.
    pub(crate) fn claim(
        &mut self,
        now: Now,
        request: Request,
    ) -> Result<(Ticket, oneshot::Receiver<Ended>), RequestError> {
        let (tell, told) = oneshot::channel();
        let ticket = self.node.claim(now, request)?;
        self.meter.began();
        self.waiting.insert(
            ticket,
            Waiting {
                since: now.mono,
                tell,
            },
        );
        Ok((ticket, told))
    }

    /// Withdraws a request that nobody waits for any more.
    pub(crate) fn withdraw(&mut self, now: Now, ticket: Ticket) {
        self.waiting.remove(&ticket);
        self.release(now, ticket);
    }

    /// Releases a lease. Answers whether it was held until now.
    pub(crate) fn release(&mut self, now: Now, ticket: Ticket) -> bool {
        let Some(lease) = self.leases.remove(&ticket) else {
            self.node.release(now, ticket);
            return false;
        };
        let was_held = lease.is_held();
        // First over, then released: no guard says "held" once a voter may know.
        lease.end();
        let was_held = self.node.release(now, ticket) && was_held;
        if !was_held {
            // Nobody had looked since it was over.
            self.meter.lost();
        }
        was_held
    }

    pub(crate) fn release_all(&mut self, now: Now) {
        for (_, lease) in self.leases.drain() {
            lease.end();
        }
        for (_, waiting) in self.waiting.drain() {
            let _ = waiting.tell.send(Ended::ShutDown);
        }
        // Nobody drives the node for much longer: who waits for its answer would wait for ever.
        self.inspections.clear();
        self.node.release_all(now);
    }

    /// Nobody is told anything any more. Leases that are left are not renewed.
    pub(crate) fn forget_all(&mut self) {
        self.is_shut_down = true;
        self.waiting.clear();
        self.inspections.clear();
    }

    pub(crate) fn expect_inspection(&mut self, id: InspectId) -> oneshot::Receiver<Inspection> {
        let (tell, told) = oneshot::channel();
        self.inspections.insert(id, tell);
        told
    }

    /// Whether this node is a member of the roster, and not in quarantine.
    pub(crate) fn votes(&self) -> bool {
        self.node
            .voter()
            .is_some_and(|voter| voter.quarantine().is_none())
    }

    pub(crate) fn held(&self) -> usize {
        self.leases.len()
    }

    /// Takes from the node all that it has to say. Answers when it wants to be woken.
    fn drain(
        &mut self,
        clock: Clock,
        datagrams: &mut Vec<(SocketAddr, Vec<u8>)>,
    ) -> Option<Instant> {
        loop {
            match self.node.poll_output() {
                Output::Transmit { to, bytes } => datagrams.push((to, bytes)),
                Output::Gossip { from, bytes } => {
                    if self.gossip.try_send((from, bytes)).is_err() {
                        self.node.count_drop(DropReason::GossipFull);
                    }
                }
                Output::Event(event) => self.on_event(clock, event),
                Output::Inspected { id, inspection } => {
                    if let Some(tell) = self.inspections.remove(&id) {
                        let _ = tell.send(inspection);
                    }
                }
                Output::Timeout(next) => return next,
            }
        }
    }

    fn on_event(&mut self, clock: Clock, event: Event) {
        super::metrics::trace(&event, self.node.id());
        match event {
            Event::Granted {
                ticket,
                key,
                epoch,
                valid_until,
            } => {
                let lease = Arc::new(Lease::new(ticket, key, epoch, clock, valid_until));
                let Some(Waiting { since, tell }) = self.waiting.remove(&ticket) else {
                    self.release(clock.now(), ticket);
                    return;
                };
                self.meter.granted(clock.mono().since(since));
                self.leases.insert(ticket, lease.clone());
                if tell.send(Ended::Granted(lease)).is_err() {
                    self.release(clock.now(), ticket);
                }
            }
            Event::Renewed {
                ticket,
                valid_until,
            } => {
                let lives = self
                    .leases
                    .get(&ticket)
                    .is_some_and(|l| l.renew(valid_until));
                if !lives {
                    self.release(clock.now(), ticket);
                }
            }
            Event::Lost {
                ticket, was_due, ..
            } => {
                if let Some(lease) = self.leases.remove(&ticket) {
                    lease.end();
                    if !was_due {
                        self.meter.lost();
                    }
                }
            }
            Event::Denied { ticket } => self.end(ticket, Ended::Denied),
            Event::TimedOut { ticket, answers } => self.end(ticket, Ended::TimedOut(answers)),
            Event::QuarantineBegan { .. }
            | Event::QuarantineEnded { .. }
            | Event::RosterMismatch { .. } => {}
        }
    }

    fn end(&mut self, ticket: Ticket, ended: Ended) {
        if let Some(waiting) = self.waiting.remove(&ticket) {
            self.meter.ended_without(&ended);
            let _ = waiting.tell.send(ended);
        }
    }
}
