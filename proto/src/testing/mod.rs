//! An in-memory network of real nodes, for tests and benches (feature `testing`).
//!
//! A [`Cluster`] has no clock and no socket. Its time moves only in calls, from event to event, so
//! the same calls give the same results. A closure decides which datagrams arrive, and when. A
//! caller may also hand a datagram to a node itself, by [`Cluster::with`].

mod disk;
mod packet;

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::PROTOCOL_VERSION;
pub use crate::handover::{Delivered, Keeper, Leaver, MemoryHead, Taker};
use crate::time::nanos;
use crate::{
    Epoch, Event, Incarnation, Instant, Key, Node, NodeConfig, NodeId, Now, Output, Peer, Request,
    Seal, Start, Ticket, Timing, View, VoterLimits, VoterSet,
};
pub use disk::Disk;
pub use packet::{Packet, Random};

/// The wall clock at time zero, in milliseconds.
pub const WALL_MS: u64 = 1_700_000_000_000;
/// The delay of a datagram by default, which makes a round trip 10 ms.
pub const ONE_WAY: Duration = ms(5);

/// The rate of a clock without error.
const RATE: u64 = 1_000_000;

/// Returns a duration in milliseconds.
#[must_use]
pub const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Returns the key with this name.
///
/// # Panics
/// Panics if the name is too long for a key.
#[must_use]
pub fn key(name: &str) -> Key {
    Key::new(name).expect("a short name")
}

/// Returns [`Timing::lan`] with a drift of 1 % and a `max_ttl` of 30 s.
#[must_use]
pub fn timing() -> Timing {
    Timing {
        max_drift_ppm: 10_000,
        max_ttl: Duration::from_secs(30),
        ..Timing::lan()
    }
}

/// The seat of one node, which runs, has crashed or is paused, with its clocks.
#[derive(Debug)]
pub struct Seat {
    id: NodeId,
    /// The node, if its process runs or is paused.
    pub node: Option<Node>,
    /// The number of its incarnation; zero before the first start.
    pub incarnation: u64,
    /// The rate error of its monotonic clock, in parts per million, above -1,000,000.
    pub rate_ppm: i64,
    /// The offset of its wall clock, in milliseconds.
    pub wall_off_ms: i64,
    /// The port of its socket.
    pub port: u16,
    /// The port of its NAT mapping, if any. Its datagrams come from that port.
    pub mapped: Option<u16>,
    /// The disk with its journal, if it keeps one.
    pub disk: Option<Disk>,
    /// The newest version of the protocol that its next process speaks.
    pub speaks: u8,
    timeout: Option<Instant>,
    paused_until: Duration,
}

impl Seat {
    fn new(id: NodeId, port: u16) -> Self {
        Self {
            id,
            node: None,
            incarnation: 0,
            rate_ppm: 0,
            wall_off_ms: 0,
            port,
            mapped: None,
            disk: None,
            speaks: PROTOCOL_VERSION,
            timeout: None,
            paused_until: Duration::ZERO,
        }
    }

    /// Returns its rate, if that of a clock without error is [`RATE`].
    fn rate(&self) -> u64 {
        RATE.saturating_add_signed(self.rate_ppm)
    }

    fn now(&self, time: Duration) -> Now {
        let wall_ms = WALL_MS + time.as_millis() as u64;
        Now {
            mono: Instant::from_nanos(converted(nanos(time), RATE, self.rate())),
            wall_ms: wall_ms.saturating_add_signed(self.wall_off_ms),
        }
    }

    /// Returns the time at which its clock has reached `at`, despite rounding.
    fn time_of(&self, at: Instant) -> Duration {
        let nanos = converted(at.as_nanos(), self.rate(), RATE);
        Duration::from_nanos(nanos.saturating_add(2))
    }
}

/// Converts the reading of a clock with one rate to that of a clock with the other.
fn converted(nanos: u64, from: u64, to: u64) -> u64 {
    if from == to {
        return nanos;
    }
    let nanos = u128::from(nanos) * u128::from(to) / u128::from(from);
    u64::try_from(nanos).unwrap_or(u64::MAX)
}

type Fate = dyn FnMut(&Packet) -> Vec<Duration>;

/// Nodes on an in-memory network, with virtual time. It panics at the first grant that breaks M1 or
/// M2.
pub struct Cluster {
    /// The time since the start of the network, by no node's clock.
    pub time: Duration,
    /// The voter set of nodes that are started next.
    pub voter_set: Arc<VoterSet>,
    /// The seats by number: the members of the voter set, then the clients.
    pub seats: Vec<Seat>,
    /// The delay of datagrams unless [`Cluster::decide`] says otherwise.
    pub one_way: Duration,
    /// The events so far, each with its time and seat.
    pub log: Vec<(Duration, usize, Event)>,
    /// The number of datagrams sent so far, with duplicates and without lost ones.
    pub datagrams: usize,
    /// If set, datagrams to NAT mappings are lost.
    pub loses_mapped: bool,
    /// The number of datagrams to an address without a node.
    pub lost: usize,
    /// `true` if M1 is checked. A test whose clocks break their bound clears it.
    pub checks_exclusion: bool,
    /// `true` if gossip tells the version that each node speaks.
    pub announces_versions: bool,
    /// `None` if every datagram arrives after [`Cluster::one_way`].
    fate: Option<Box<Fate>>,
    /// The datagrams in flight, in the order of their arrival and number.
    packets: VecDeque<((Duration, usize), Packet)>,
    owners: BTreeMap<Key, Epoch>,
}

impl Cluster {
    /// Starts a new cluster of `members` voters, `voters` of them for each key, and `clients` that
    /// only claim. Returns once all voters vote.
    ///
    /// # Panics
    /// Panics if there is no such voter set, or if a voter does not vote.
    #[must_use]
    pub fn new(members: usize, voters: usize, clients: usize) -> Self {
        Self::of(members, voters, clients).started()
    }

    /// Starts a new cluster whose members keep journals. Returns once all voters vote.
    ///
    /// # Panics
    /// Panics as [`Cluster::new`] does.
    #[must_use]
    pub fn with_journals(members: usize, voters: usize, clients: usize, syncs: bool) -> Self {
        let mut cluster = Self::of(members, voters, clients);
        for seat in &mut cluster.seats[..members] {
            seat.disk = Some(Disk::new(syncs));
        }
        cluster.started()
    }

    fn started(self) -> Self {
        let mut cluster = self;
        let (members, seats) = (cluster.voter_set.members().len(), cluster.seats.len());
        for seat in 0..seats {
            cluster.start(seat, Start::NewCluster);
        }
        cluster.run_for(ms(100));
        assert!((0..members).all(|seat| cluster.votes(seat)));
        cluster
    }

    /// Creates the same cluster with no node started.
    ///
    /// # Panics
    /// Panics if there is no such voter set.
    #[must_use]
    pub fn of(members: usize, voters: usize, clients: usize) -> Self {
        let id = |n| NodeId::new(format!("n{n}")).expect("a short name");
        let voter_set = VoterSet::new(1, (0..members).map(id).collect(), voters, timing());
        Self {
            time: ms(1_000),
            voter_set: Arc::new(voter_set.expect("a valid voter set")),
            seats: (0..members + clients)
                .map(|n| Seat::new(id(n), n as u16))
                .collect(),
            one_way: ONE_WAY,
            log: Vec::new(),
            datagrams: 0,
            loses_mapped: false,
            lost: 0,
            checks_exclusion: true,
            announces_versions: true,
            fate: None,
            packets: VecDeque::new(),
            owners: BTreeMap::new(),
        }
    }

    /// Delivers every datagram that is sent from now on, each after [`Cluster::one_way`].
    pub fn heal(&mut self) {
        self.fate = None;
    }

    /// Loses the datagrams for which `is_lost` returns `true`, and delivers the others.
    pub fn lose(&mut self, mut is_lost: impl FnMut(&Packet) -> bool + 'static) {
        let one_way = self.one_way;
        self.decide(move |packet| {
            if is_lost(packet) {
                vec![]
            } else {
                vec![one_way]
            }
        });
    }

    /// Delivers copies of each datagram after the delays that `fate` returns: none for loss, two
    /// for a duplicate.
    pub fn decide(&mut self, fate: impl FnMut(&Packet) -> Vec<Duration> + 'static) {
        self.fate = Some(Box::new(fate));
    }

    /// Returns the gossip view with the current address and incarnation of each seat.
    #[must_use]
    pub fn view(&self) -> View {
        let peers = self.seats.iter().map(|seat| {
            let peer = Peer {
                addr: addr(seat.port),
                incarnation: Incarnation::new(seat.incarnation),
                alive: seat.node.is_some() || seat.incarnation <= 1,
                version: self.announces_versions.then_some(seat.speaks),
            };
            (seat.id.clone(), peer)
        });
        View {
            peers: peers.collect(),
        }
    }

    /// Starts a process in the next incarnation of the seat.
    pub fn start(&mut self, seat: usize, start: Start) {
        self.seats[seat].incarnation += 1;
        self.start_with(seat, self.config(seat, start));
    }

    /// Returns the settings of a process in the current incarnation of the seat.
    #[must_use]
    pub fn config(&self, seat: usize, start: Start) -> NodeConfig {
        let it = &self.seats[seat];
        NodeConfig {
            id: it.id.clone(),
            incarnation: Incarnation::new(it.incarnation),
            voter_set: self.voter_set.clone(),
            start,
            limits: VoterLimits::default(),
            max_claims: 10_000,
            renew_interval: None,
            seed: it.incarnation * 1_000 + seat as u64,
            seal: Seal::insecure_plaintext(),
        }
    }

    /// Starts a process with these settings at the seat.
    pub fn start_with(&mut self, seat: usize, config: NodeConfig) {
        let view = self.view();
        let it = &mut self.seats[seat];
        let now = it.now(self.time);
        let mut node = match &mut it.disk {
            None => Node::new(now, config),
            Some(disk) => {
                let started = disk.start(now, config, "test");
                let (node, opened) = started.expect("the journal of this node");
                it.incarnation = opened.started.incarnation.get();
                node
            }
        };
        node.speak_at_most(it.speaks);
        node.handle_view(now, &view);
        it.node = Some(node);
        it.paused_until = Duration::ZERO;
        self.drain(seat);
    }

    /// Adds a seat for another process of the same name at another port. [`Cluster::start`] gives
    /// it a higher incarnation.
    pub fn seat_beside(&mut self, seat: usize, port: u16) -> usize {
        let it = &self.seats[seat];
        let beside = Seat {
            incarnation: it.incarnation,
            rate_ppm: it.rate_ppm,
            wall_off_ms: it.wall_off_ms,
            speaks: it.speaks,
            ..Seat::new(it.id.clone(), port)
        };
        self.seats.push(beside);
        self.seats.len() - 1
    }

    /// Ends the process of the seat, and all that it knew.
    pub fn crash(&mut self, seat: usize) {
        self.seats[seat].node = None;
        self.seats[seat].timeout = None;
    }

    /// Pauses the process for `span`. Datagrams wait in its socket meanwhile.
    pub fn pause(&mut self, seat: usize, span: Duration) {
        self.seats[seat].paused_until = self.time + span;
    }

    /// Returns `true` if the seat has a process that is not paused.
    #[must_use]
    pub fn is_running(&self, seat: usize) -> bool {
        self.seats[seat].node.is_some() && self.seats[seat].paused_until <= self.time
    }

    /// Returns the node of the seat.
    ///
    /// # Panics
    /// Panics if no process runs there.
    #[must_use]
    pub fn node(&self, seat: usize) -> &Node {
        self.seats[seat].node.as_ref().expect("a running node")
    }

    /// Returns `true` if the seat has a voter outside quarantine.
    ///
    /// # Panics
    /// Panics if no process runs there.
    #[must_use]
    pub fn votes(&self, seat: usize) -> bool {
        let voter = self.node(seat).voter();
        voter.is_some_and(|voter| voter.quarantine().is_none())
    }

    /// Calls `act` on a running node and drains the node.
    ///
    /// # Panics
    /// Panics if no process runs at the seat.
    pub fn with<T>(&mut self, seat: usize, act: impl FnOnce(&mut Node, Now) -> T) -> T {
        let it = &mut self.seats[seat];
        let now = it.now(self.time);
        let done = act(it.node.as_mut().expect("a running node"), now);
        self.drain(seat);
        done
    }

    /// Returns a request for the key with this name, which waits and is renewed.
    ///
    /// # Panics
    /// Panics if the name is too long for a key.
    #[must_use]
    pub fn request(name: &str, ttl: Duration) -> Request {
        Request {
            key: key(name),
            ttl,
            is_try: false,
            renews: true,
            outlives: false,
            deadline: None,
            is_once: false,
            note: None,
        }
    }

    /// Submits a request at the seat.
    ///
    /// # Panics
    /// Panics if no process runs there, or if it refuses the request.
    pub fn claim(&mut self, seat: usize, request: Request) -> Ticket {
        let ticket = self.with(seat, |node, now| node.claim(now, request));
        ticket.expect("capacity for a claim")
    }

    /// Submits a request that waits and is renewed.
    ///
    /// # Panics
    /// Panics as [`Cluster::claim`] does.
    pub fn acquire(&mut self, seat: usize, name: &str, ttl: Duration) -> Ticket {
        self.claim(seat, Self::request(name, ttl))
    }

    /// Submits a request that does not wait.
    ///
    /// # Panics
    /// Panics as [`Cluster::claim`] does.
    pub fn try_acquire(&mut self, seat: usize, name: &str, ttl: Duration) -> Ticket {
        let request = Request {
            is_try: true,
            ..Self::request(name, ttl)
        };
        self.claim(seat, request)
    }

    /// Releases a claim. Returns `true` if the seat held the lock.
    ///
    /// # Panics
    /// Panics if no process runs at the seat.
    pub fn release(&mut self, seat: usize, ticket: Ticket) -> bool {
        self.with(seat, |node, now| node.release(now, ticket))
    }

    /// Returns the seats whose nodes report the key as held now.
    #[must_use]
    pub fn holders(&self, name: &Key) -> Vec<usize> {
        let holds = |seat: &Seat| {
            let node = seat.node.as_ref();
            node.is_some_and(|node| {
                let mut held = node.claimant().held(seat.now(self.time));
                held.any(|(key, _, _)| key == name)
            })
        };
        (0..self.seats.len())
            .filter(|n| holds(&self.seats[*n]))
            .collect()
    }

    /// Returns `true` if the seat holds the lock of this request now.
    #[must_use]
    pub fn holds(&self, seat: usize, ticket: Ticket) -> bool {
        let it = &self.seats[seat];
        let node = it.node.as_ref();
        node.is_some_and(|node| {
            node.claimant()
                .valid_until(it.now(self.time), ticket)
                .is_some()
        })
    }

    /// Returns the time and the epoch at which a request was granted, if the log has it.
    #[must_use]
    pub fn granted(&self, seat: usize, of: Ticket) -> Option<(Duration, Epoch)> {
        self.log.iter().find_map(|(at, by, event)| match event {
            Event::Granted { ticket, epoch, .. } if (*by, *ticket) == (seat, of) => {
                Some((*at, *epoch))
            }
            _ => None,
        })
    }

    /// Returns `true` if the log says that a request was denied.
    #[must_use]
    pub fn is_denied(&self, seat: usize, of: Ticket) -> bool {
        let denied = Event::Denied { ticket: of };
        self.log
            .iter()
            .any(|(_, by, event)| (*by, event) == (seat, &denied))
    }

    /// Runs all events of the next `span`.
    pub fn run_for(&mut self, span: Duration) {
        let end = self.time + span;
        while self.step(end) {}
        self.time = end;
    }

    /// Runs until `is_so` returns `true`, for at most `limit`. Returns the time that this took.
    ///
    /// # Panics
    /// Panics if `is_so` does not become `true` within `limit`.
    pub fn run_until(&mut self, limit: Duration, is_so: impl Fn(&Self) -> bool) -> Duration {
        let began = self.time;
        while !is_so(self) {
            assert!(self.step(began + limit), "not within {limit:?}");
        }
        self.time - began
    }

    /// Delivers datagrams until none is in flight. Timers that become due meanwhile run in the next
    /// call that runs events.
    pub fn settle(&mut self) {
        while self.deliver_next() {}
    }

    /// Runs the next event and returns `true`, unless that event is after `end`.
    pub fn step(&mut self, end: Duration) -> bool {
        let packet = self.packets.front().map(|((at, _), _)| *at);
        match (self.next_timer(packet), packet) {
            (Some((at, seat)), _) if at <= end => {
                self.time = at;
                self.with(seat, |node, now| node.handle_timeout(now));
                true
            }
            (None, Some(at)) if at <= end => self.deliver_next(),
            _ => false,
        }
    }

    /// Returns the next timer and its seat, if it is due before the datagram at `packet`.
    fn next_timer(&self, packet: Option<Duration>) -> Option<(Duration, usize)> {
        if packet.is_some_and(|at| at <= self.time) {
            return None;
        }
        let timers = self.seats.iter().enumerate().filter_map(|(n, seat)| {
            let at = seat.time_of(seat.timeout?).max(seat.paused_until);
            Some((at.max(self.time), n))
        });
        let next = timers.min();
        next.filter(|(at, _)| packet.is_none_or(|packet| *at < packet))
    }

    /// Delivers the next datagram. Returns `false` if none is in flight.
    fn deliver_next(&mut self) -> bool {
        let Some(((at, n), packet)) = self.packets.pop_front() else {
            return false;
        };
        self.time = at.max(self.time);
        let to = &self.seats[packet.to];
        if to.node.is_some() && to.paused_until > self.time {
            self.launch((to.paused_until, n), packet);
        } else if to.node.is_some() {
            let from = addr(packet.from_port);
            self.with(packet.to, |node, now| {
                node.handle_datagram(now, from, &packet.bytes)
            });
        }
        true
    }

    fn drain(&mut self, seat: usize) {
        while let Some(node) = self.seats[seat].node.as_mut() {
            match node.poll_output() {
                Output::Persist { number, bytes } => self.persist(seat, number, &bytes),
                Output::Transmit { to, bytes } => self.send(seat, to, bytes),
                Output::Event(event) => self.record(seat, event),
                Output::Timeout(at) => {
                    self.seats[seat].timeout = at;
                    return;
                }
                Output::Gossip { .. }
                | Output::Answer { .. }
                | Output::Inspected { .. }
                | Output::Revoked { .. }
                | Output::ForeignNode(_) => {}
            }
        }
    }

    fn persist(&mut self, seat: usize, number: u64, bytes: &[u8]) {
        let it = &mut self.seats[seat];
        let now = it.now(self.time);
        let (Some(disk), Some(node)) = (&mut it.disk, &mut it.node) else {
            return;
        };
        if disk.write(bytes) {
            disk.sync();
            node.persisted(now, number);
        } else {
            node.persist_failed(now);
        }
    }

    /// Replaces the journal of a seat by a snapshot of its node, and reports that to the node.
    ///
    /// # Panics
    /// Panics if no process runs at the seat.
    pub fn replace_journal(&mut self, seat: usize) {
        let it = &mut self.seats[seat];
        let now = it.now(self.time);
        let (Some(disk), Some(node)) = (&mut it.disk, &mut it.node) else {
            panic!("a running node with a journal");
        };
        let mut part = None;
        loop {
            let (bytes, rest) = node.snapshot(part);
            disk.replace(&bytes, rest.is_none());
            match rest {
                None => break,
                rest => part = rest,
            }
        }
        node.journal_replaced(now, u64::MAX);
        self.drain(seat);
    }

    fn send(&mut self, from: usize, to: SocketAddr, bytes: Vec<u8>) {
        let Some(to) = self.seats.iter().position(|seat| {
            let mapped = seat.mapped.filter(|_| !self.loses_mapped);
            addr(seat.port) == to || mapped.map(addr) == Some(to)
        }) else {
            self.lost += 1;
            return;
        };
        let it = &self.seats[from];
        let packet = Packet {
            from,
            to,
            bytes,
            from_port: it.mapped.unwrap_or(it.port),
        };
        let Some(fate) = &mut self.fate else {
            self.datagrams += 1;
            self.launch((self.time + self.one_way, self.datagrams), packet);
            return;
        };
        for delay in fate(&packet) {
            self.datagrams += 1;
            self.launch((self.time + delay, self.datagrams), packet.clone());
        }
    }

    /// Puts a datagram in flight, with the time of its arrival and its number.
    fn launch(&mut self, order: (Duration, usize), packet: Packet) {
        let index = self.packets.partition_point(|(other, _)| *other < order);
        self.packets.insert(index, (order, packet));
    }

    /// Logs an event, and checks M1 and M2 if it is a grant.
    fn record(&mut self, seat: usize, event: Event) {
        if let Event::Granted { key, epoch, .. } = &event {
            let holders = self.holders(key);
            assert!(
                holders.len() <= 1 || !self.checks_exclusion,
                "M1: {key} is held by {holders:?} at {:?}",
                self.time
            );
            let last = self.owners.insert(key.clone(), *epoch);
            assert!(
                last < Some(*epoch),
                "M2: {key} {epoch} after {last:?} at {:?}",
                self.time
            );
        }
        self.log.push((self.time, seat, event));
    }
}

fn addr(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}
