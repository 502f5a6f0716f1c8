//! What the handles, the guards and the driver of one mesh share: the node behind a lock, and
//! the socket.
//!
//! Whoever has something to ask of the node takes the lock, asks, drains the node, takes its turn
//! at the socket, lets go of the lock and sends: there is no queue to a task in between, and so no
//! task switch on the way from `acquire` to the socket. Nothing waits while the lock is held.
//!
//! Where several callers were told something at once they are in company, and will ask again at
//! about the same time: what they ask stays in the node while each lets the others run once, and
//! the first that runs again sends it all, in a few datagrams instead of one for each. There is no
//! timer behind that, and nobody who asks waits for another task to send for it ([`Left`]).

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

#[cfg(feature = "harness")]
use tokio::sync::watch;
use tokio::sync::{Notify, mpsc, oneshot};

use super::clock::Clock;
use super::company::Left;
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
    /// Whose turn it is to send. Taken while the core is locked, never the other way about.
    turn: Mutex<()>,
    /// How many turns have left. Written while it is one's turn to send.
    left: AtomicU64,
    /// The node wants to be woken earlier than the driver sleeps.
    pub(crate) earlier: Notify,
    /// Whether the node stands still.
    #[cfg(feature = "harness")]
    paused: watch::Sender<bool>,
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
    /// How many callers were told something, or had left something, at the last turn of which that
    /// is true.
    company: usize,
    /// How many callers were told something in this turn.
    told: usize,
    /// How many callers have left something in the node.
    leavers: usize,
    /// Who is to be told what, once the lock is let go.
    tells: Vec<(oneshot::Sender<Ended>, Ended)>,
    /// How often the node was drained.
    turns: u64,
    pub(crate) is_shut_down: bool,
    /// The node stands still: what is asked of it stays in it, and what it hears is not taken in.
    pub(crate) is_paused: bool,
    pub(crate) meter: Meter,
}

/// So many callers make company.
const COMPANY: usize = 2;

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
            company: 0,
            told: 0,
            leavers: 0,
            tells: Vec::new(),
            turns: 0,
            is_shut_down: false,
            is_paused: false,
        };
        Self {
            clock,
            sender,
            core: Mutex::new(core),
            turn: Mutex::new(()),
            left: AtomicU64::new(0),
            earlier: Notify::new(),
            #[cfg(feature = "harness")]
            paused: watch::Sender::new(false),
        }
    }

    /// Asks something of the node, and sends what comes of it, once it no longer stands still.
    pub(crate) fn with<T>(&self, ask: impl FnOnce(&mut Core, Now) -> T) -> T {
        let mut core = self.lock();
        let answer = ask(&mut core, self.clock.now());
        if !core.is_paused {
            self.turn(core);
        }
        answer
    }

    /// The same, but where the caller is in company what it asks is sent together with what the
    /// others ask, once the answer's other half was awaited or dropped.
    pub(crate) fn with_others<T>(
        &self,
        ask: impl FnOnce(&mut Core, Now) -> T,
    ) -> (T, Option<Left<'_>>) {
        let mut core = self.lock();
        let answer = ask(&mut core, self.clock.now());
        if core.is_paused {
            return (answer, None);
        }
        if core.company < COMPANY || core.is_shut_down || self.sender.is_in_memory() {
            self.turn(core);
            return (answer, None);
        }
        core.tell_all(self.clock);
        if !core.node.has_unsent() {
            self.turn(core);
            return (answer, None);
        }
        core.leavers += 1;
        let left = Left::new(self, core.turns);
        tell(core);
        (answer, Some(left))
    }

    /// Whether all of a turn has left. Needs no lock: most of those in company only ask this.
    pub(super) fn has_left(&self, turn: u64) -> bool {
        self.left.load(Ordering::Acquire) > turn
    }

    /// Sends what was left in the node before this turn, unless that is done. It has left when this
    /// returns.
    pub(super) fn send_left(&self, turn: u64) {
        let core = self.lock();
        if core.turns == turn && !core.is_paused {
            return self.turn(core);
        }
        drop(core);
        // Another may be about to send it.
        drop(self.turn.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Drains the node and sends.
    fn turn(&self, mut core: MutexGuard<'_, Core>) {
        let mut datagrams = Vec::new();
        core.next = core.drain(self.clock, &mut datagrams);
        let turn = core.turns;
        core.turns += 1;
        let next = core.next.unwrap_or(Instant::FAR);
        let is_earlier = next < core.wakes_at;
        core.wakes_at = core.wakes_at.min(next);
        let leavers = std::mem::take(&mut core.leavers);
        let company = std::mem::take(&mut core.told) + leavers;
        if company > 0 {
            core.company = company;
        }
        let failed = if datagrams.is_empty() && leavers == 0 {
            tell(core);
            0
        } else {
            self.send(core, turn, &datagrams)
        };
        if failed > 0 {
            let mut core = self.lock();
            for _ in 0..failed {
                core.node.count_drop(DropReason::SendFailed);
            }
        }
        if is_earlier {
            self.earlier.notify_one();
        }
        #[cfg(feature = "harness")]
        self.sender.deliver();
    }

    /// Sends, without the lock, though in the order in which the node made what there is to send:
    /// a renewal that left after the release of the same lock would get it votes again, and those
    /// who try for it meanwhile would be told that it is held. Answers how many were not taken.
    fn send(
        &self,
        core: MutexGuard<'_, Core>,
        turn: u64,
        datagrams: &[(SocketAddr, Vec<u8>)],
    ) -> usize {
        let in_turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        tell(core);
        let failed = datagrams
            .iter()
            .filter(|(to, bytes)| !self.sender.send(*to, bytes))
            .count();
        self.left.store(turn + 1, Ordering::Release);
        drop(in_turn);
        failed
    }

    /// For how long the driver is to set its alarm anew, at most `at_most`; `None` where it may
    /// leave it at `alarm`. An alarm that is early costs less than setting one.
    pub(crate) fn nap(&self, alarm: &mut Instant, at_most: Duration) -> Option<Duration> {
        let mut core = self.lock();
        let now = self.clock.mono();
        let latest = now.after(at_most);
        let next = core.next.unwrap_or(latest).min(latest);
        let is_set = now < *alarm && *alarm <= next;
        if !is_set {
            *alarm = next;
        }
        core.wakes_at = *alarm;
        (!is_set).then(|| next.since(now))
    }

    /// From here on no datagram leaves.
    pub(crate) fn close(&self) {
        self.sender.close();
    }

    /// The node stands still from now on, or goes on.
    #[cfg(feature = "harness")]
    pub(crate) fn pause(&self, is_paused: bool) {
        let mut core = self.lock();
        core.is_paused = is_paused;
        self.paused.send_replace(is_paused);
        drop(core);
        if !is_paused {
            // What was asked of it meanwhile leaves now, and what is over is over before that.
            self.with(|core, now| core.node.handle_timeout(now));
        }
    }

    /// Returns once the node does not stand still.
    #[cfg(feature = "harness")]
    pub(crate) async fn going(&self) {
        // The sending half is here: it cannot be gone.
        let _ = self.paused.subscribe().wait_for(|paused| !paused).await;
    }

    /// Returns at once: only a test can make a node stand still.
    #[cfg(not(feature = "harness"))]
    pub(crate) async fn going(&self) {}

    fn lock(&self) -> MutexGuard<'_, Core> {
        // A panic while the lock was held is a bug of ours; the node behind it still answers, and
        // its leases end by themselves.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets go of the lock, and only then tells those who are to be told something: they run at once,
/// perhaps beside this, and take the lock. One who is gone withdraws by itself.
fn tell(mut core: MutexGuard<'_, Core>) {
    let tells = std::mem::take(&mut core.tells);
    drop(core);
    for (tell, ended) in tells {
        let _ = tell.send(ended);
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
        let was_valid = self.node.release(now, ticket);
        if was_valid && !was_held {
            // The guard saw it over before a renewal came; of others the node itself tells.
            self.meter.lost();
        }
        was_valid && was_held
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
                Output::Timeout(next) => return next,
                output => self.tell(clock, output),
            }
        }
    }

    /// Takes from the node what it has to tell here, and leaves in it what is to be sent.
    fn tell_all(&mut self, clock: Clock) {
        while let Some(output) = self.node.poll_here() {
            self.tell(clock, output);
        }
    }

    fn tell(&mut self, clock: Clock, output: Output) {
        match output {
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
            Output::Transmit { .. } | Output::Timeout(_) => {}
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
                self.told += 1;
                self.tells.push((tell, Ended::Granted(lease)));
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
                }
                if !was_due {
                    self.meter.lost();
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
            self.told += 1;
            self.tells.push((waiting.tell, ended));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::node::NodeConfig;
    use crate::proto::id::{Incarnation, NodeId};
    use crate::proto::roster::{Roster, Timing};
    use crate::proto::voter::{Limits, Start};
    use crate::wire::Seal;

    const THREADS: usize = 4;
    const EACH: u64 = 2_000;

    fn shared(sender: Sender) -> Shared {
        let id = NodeId::new("n0").unwrap();
        let clock = Clock::new();
        let config = NodeConfig {
            id: id.clone(),
            incarnation: Incarnation::new(1),
            roster: Arc::new(Roster::new(1, vec![id], 1, Timing::lan()).unwrap()),
            start: Start::NewCluster,
            limits: Limits::default(),
            claims_max: 1,
            renew_every: None,
            seed: 1,
            seal: Seal::insecure_plaintext(),
        };
        let (gossip, _) = mpsc::channel(1);
        Shared::new(clock, sender, Node::new(clock.now(), config), gossip)
    }

    #[tokio::test]
    async fn datagrams_leave_in_the_order_in_which_the_node_made_them() {
        let hears = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        hears
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        let to = hears.local_addr().unwrap();
        let listen = "127.0.0.1:0".parse().unwrap();
        #[cfg(feature = "harness")]
        let (sender, _receiver, _) = crate::runtime::socket::bind(listen, None).unwrap();
        #[cfg(not(feature = "harness"))]
        let (sender, _receiver, _) = crate::runtime::socket::bind(listen).unwrap();
        let (shared, made) = (shared(sender), AtomicU64::new(0));
        let make = || {
            shared.with(|core, _| {
                let n = made.fetch_add(1, Ordering::SeqCst);
                core.node.send_gossip(to, &n.to_be_bytes());
            });
        };
        let listen = || {
            let (mut buffer, mut last) = ([0; 64], None);
            // The system may drop what comes too fast; what comes, comes in order.
            while last < Some(THREADS as u64 * EACH) {
                let len = hears.recv(&mut buffer).unwrap();
                let n = buffer[..len].last_chunk().map(|n| u64::from_be_bytes(*n));
                assert!(n > last, "{n:?} after {last:?}");
                last = n;
            }
        };
        std::thread::scope(|scope| {
            let listener = scope.spawn(listen);
            let makers: Vec<_> = (0..THREADS)
                .map(|_| scope.spawn(|| (0..EACH).for_each(|_| make())))
                .collect();
            for maker in makers {
                maker.join().unwrap();
            }
            // The last one, again and again until it is heard.
            while !listener.is_finished() {
                make();
                std::thread::sleep(Duration::from_millis(1));
            }
            listener.join().unwrap();
        });
    }
}
