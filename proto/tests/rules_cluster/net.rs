//! A deterministic in-memory network of nodes. Time moves from event to event, and a closure
//! decides the fate of each packet. The network checks M1 and M2 at every grant.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lockmesh_proto::claimant::Request;
use lockmesh_proto::epoch::Epoch;
use lockmesh_proto::event::{Event, Ticket};
use lockmesh_proto::id::{Incarnation, Key, NodeId};
use lockmesh_proto::message::Message;
use lockmesh_proto::node::{Node, NodeConfig, Output};
use lockmesh_proto::time::{Instant, Now};
use lockmesh_proto::view::{Peer, View};
use lockmesh_proto::voter::{Start, VoterLimits};
use lockmesh_proto::voter_set::{Timing, VoterSet};
use lockmesh_proto::wire::Seal;
use lockmesh_proto::wire::codec::unpack;

/// The wall clock at time zero, in milliseconds.
pub(crate) const WALL_MS: u64 = 1_700_000_000_000;
/// The delay of a packet by default, which makes a round trip 10 ms.
pub(crate) const ONE_WAY: Duration = Duration::from_millis(5);

pub(crate) const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub(crate) fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

/// [`Timing::lan`] with a drift of 1 % and a `max_ttl` of 30 s.
pub(crate) fn timing() -> Timing {
    Timing {
        max_drift_ppm: 10_000,
        max_ttl: Duration::from_secs(30),
        ..Timing::lan()
    }
}

/// A datagram in flight.
pub(crate) struct Packet {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) bytes: Vec<u8>,
    /// The source port that the receiver sees.
    from_port: u16,
}

impl Packet {
    pub(crate) fn messages(&self) -> Vec<Message> {
        let (_, body) = Seal::insecure_plaintext().open(&self.bytes).unwrap();
        unpack(&body).unwrap().1
    }

    /// Returns `true` if `is_such` holds for one of its messages.
    pub(crate) fn has(&self, is_such: impl Fn(&Message) -> bool) -> bool {
        self.messages().iter().any(is_such)
    }

    pub(crate) fn is_between(&self, a: usize, b: usize) -> bool {
        (self.from, self.to) == (a, b) || (self.from, self.to) == (b, a)
    }
}

/// Returns the delays of the copies of a packet: none for loss, two for a duplicate.
pub(crate) type Fate = Box<dyn FnMut(&Packet) -> Vec<Duration>>;

pub(crate) fn straight() -> Fate {
    Box::new(|_| vec![ONE_WAY])
}

/// Loses the packets for which `is_lost` returns `true`.
pub(crate) fn losing(mut is_lost: impl FnMut(&Packet) -> bool + 'static) -> Fate {
    Box::new(move |packet| {
        if is_lost(packet) {
            vec![]
        } else {
            vec![ONE_WAY]
        }
    })
}

/// A SplitMix64 generator.
pub(crate) struct Random(pub u64);

impl Random {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % bound.max(1)
    }

    pub(crate) fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }
}

/// The seat of one node, which runs, has crashed or is paused, with its clocks.
pub(crate) struct Seat {
    id: NodeId,
    pub(crate) node: Option<Node>,
    pub(crate) incarnation: u64,
    /// The rate error of its monotonic clock, in parts per million.
    pub(crate) rate_ppm: i64,
    /// The offset of its wall clock, in milliseconds.
    pub(crate) wall_off_ms: i64,
    pub(crate) port: u16,
    /// The port of its NAT mapping, if any. Its datagrams come from that port.
    pub(crate) mapped: Option<u16>,
    timeout: Option<Instant>,
    asleep_until: Duration,
}

impl Seat {
    fn now(&self, time: Duration) -> Now {
        let nanos = time.as_nanos() as i128;
        let mono = nanos + nanos * i128::from(self.rate_ppm) / 1_000_000;
        let wall = WALL_MS as i64 + time.as_millis() as i64 + self.wall_off_ms;
        Now {
            mono: Instant::from_nanos(mono as u64),
            wall_ms: wall as u64,
        }
    }

    /// Returns the time at which its clock has reached `at`.
    fn time_of(&self, at: Instant) -> Duration {
        let rate = 1_000_000 + i128::from(self.rate_ppm);
        let nanos = i128::from(at.as_nanos()) * 1_000_000 / rate;
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX).saturating_add(2))
    }
}

pub(crate) struct Net {
    pub(crate) time: Duration,
    pub(crate) voter_set: Arc<VoterSet>,
    pub(crate) seats: Vec<Seat>,
    pub(crate) fate: Fate,
    pub(crate) log: Vec<(Duration, usize, Event)>,
    pub(crate) datagrams: usize,
    /// If set, packets to NAT mappings are lost.
    pub(crate) deaf_mappings: bool,
    /// The number of packets to an address where no node is.
    pub(crate) lost: usize,
    /// `true` if M1 is checked. A test whose clocks break their bound clears it.
    pub(crate) watches_m1: bool,
    packets: BTreeMap<(Duration, usize), Packet>,
    owners: BTreeMap<Key, Epoch>,
}

impl Net {
    /// Starts a new cluster of `members` voters, `voters` of them for each key, and `guests` that
    /// only claim. Returns once all voters vote.
    pub(crate) fn new(members: usize, voters: usize, guests: usize) -> Self {
        let mut net = Self::of(members, voters, guests);
        for seat in 0..members + guests {
            net.start(seat, Start::NewCluster);
        }
        net.run_for(ms(100));
        for seat in &net.seats[..members] {
            let voter = seat.node.as_ref().and_then(Node::voter).unwrap();
            assert_eq!(voter.quarantine(), None);
        }
        net
    }

    /// The same, with no node started.
    pub(crate) fn of(members: usize, voters: usize, guests: usize) -> Self {
        let id = |n| NodeId::new(format!("n{n}")).unwrap();
        let voter_set = VoterSet::new(1, (0..members).map(id).collect(), voters, timing()).unwrap();
        let seats = (0..members + guests).map(|n| Seat {
            id: id(n),
            node: None,
            incarnation: 0,
            rate_ppm: 0,
            wall_off_ms: 0,
            port: n as u16,
            mapped: None,
            timeout: None,
            asleep_until: Duration::ZERO,
        });
        Self {
            time: ms(1_000),
            voter_set: Arc::new(voter_set),
            seats: seats.collect(),
            fate: straight(),
            log: Vec::new(),
            datagrams: 0,
            deaf_mappings: false,
            lost: 0,
            watches_m1: true,
            packets: BTreeMap::new(),
            owners: BTreeMap::new(),
        }
    }

    fn addr(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    /// The gossip view with the current address and incarnation of each seat.
    pub(crate) fn view(&self) -> View {
        let peers = self.seats.iter().map(|seat| {
            let peer = Peer {
                addr: Self::addr(seat.port),
                incarnation: Incarnation::new(seat.incarnation),
                alive: seat.node.is_some() || seat.incarnation <= 1,
            };
            (seat.id.clone(), peer)
        });
        View {
            peers: peers.collect(),
        }
    }

    /// Starts a process in the next incarnation of the seat.
    pub(crate) fn start(&mut self, seat: usize, start: Start) {
        self.seats[seat].incarnation += 1;
        self.start_in(seat, start, self.voter_set.clone());
    }

    /// Starts a process in the current incarnation of the seat.
    pub(crate) fn start_in(&mut self, seat: usize, start: Start, voter_set: Arc<VoterSet>) {
        let (time, view) = (self.time, self.view());
        let it = &mut self.seats[seat];
        let config = NodeConfig {
            id: it.id.clone(),
            incarnation: Incarnation::new(it.incarnation),
            voter_set,
            start,
            limits: VoterLimits::default(),
            max_claims: 10_000,
            renew_interval: None,
            seed: it.incarnation * 1_000 + seat as u64,
            seal: Seal::insecure_plaintext(),
        };
        let mut node = Node::new(it.now(time), config);
        node.handle_view(it.now(time), &view);
        it.node = Some(node);
        it.asleep_until = Duration::ZERO;
        self.drain(seat);
    }

    /// Adds a seat for another process of the same name at another port. [`Net::start`] gives it a
    /// higher incarnation.
    pub(crate) fn seat_beside(&mut self, seat: usize, port: u16) -> usize {
        let it = &self.seats[seat];
        let beside = Seat {
            id: it.id.clone(),
            node: None,
            incarnation: it.incarnation,
            rate_ppm: it.rate_ppm,
            wall_off_ms: it.wall_off_ms,
            port,
            mapped: None,
            timeout: None,
            asleep_until: Duration::ZERO,
        };
        self.seats.push(beside);
        self.seats.len() - 1
    }

    pub(crate) fn crash(&mut self, seat: usize) {
        self.seats[seat].node = None;
        self.seats[seat].timeout = None;
    }

    /// Pauses the process for `span`. Datagrams wait in its socket meanwhile.
    pub(crate) fn sleep(&mut self, seat: usize, span: Duration) {
        self.seats[seat].asleep_until = self.time + span;
    }

    pub(crate) fn is_awake(&self, seat: usize) -> bool {
        self.seats[seat].node.is_some() && self.seats[seat].asleep_until <= self.time
    }

    pub(crate) fn node(&self, seat: usize) -> &Node {
        self.seats[seat].node.as_ref().unwrap()
    }

    /// Calls `act` on a running node and drains the node.
    pub(crate) fn with<T>(&mut self, seat: usize, act: impl FnOnce(&mut Node, Now) -> T) -> T {
        let now = self.seats[seat].now(self.time);
        let done = act(self.seats[seat].node.as_mut().unwrap(), now);
        self.drain(seat);
        done
    }

    pub(crate) fn request(name: &str, ttl: Duration) -> Request {
        Request {
            key: key(name),
            ttl,
            is_try: false,
            renews: true,
            outlives: false,
            deadline: None,
        }
    }

    pub(crate) fn claim(&mut self, seat: usize, request: Request) -> Ticket {
        self.with(seat, |node, now| node.claim(now, request).unwrap())
    }

    pub(crate) fn acquire(&mut self, seat: usize, name: &str, ttl: Duration) -> Ticket {
        self.claim(seat, Self::request(name, ttl))
    }

    pub(crate) fn attempt(&mut self, seat: usize, name: &str, ttl: Duration) -> Ticket {
        let is_try = true;
        self.claim(
            seat,
            Request {
                is_try,
                ..Self::request(name, ttl)
            },
        )
    }

    pub(crate) fn release(&mut self, seat: usize, ticket: Ticket) -> bool {
        self.with(seat, |node, now| node.release(now, ticket))
    }

    /// Returns the seats whose nodes report the key as held now.
    pub(crate) fn holders(&self, name: &Key) -> Vec<usize> {
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

    pub(crate) fn holds(&self, seat: usize, ticket: Ticket) -> bool {
        let it = &self.seats[seat];
        let node = it.node.as_ref();
        node.is_some_and(|node| {
            node.claimant()
                .valid_until(it.now(self.time), ticket)
                .is_some()
        })
    }

    /// Returns the time and the epoch at which a request was granted, if the log has it.
    pub(crate) fn granted(&self, seat: usize, of: Ticket) -> Option<(Duration, Epoch)> {
        self.log.iter().find_map(|(at, by, event)| match event {
            Event::Granted { ticket, epoch, .. } if (*by, *ticket) == (seat, of) => {
                Some((*at, *epoch))
            }
            _ => None,
        })
    }

    pub(crate) fn is_denied(&self, seat: usize, of: Ticket) -> bool {
        let denied = Event::Denied { ticket: of };
        self.log
            .iter()
            .any(|(_, by, event)| (*by, event) == (seat, &denied))
    }

    /// Runs all events of the next `span`.
    pub(crate) fn run_for(&mut self, span: Duration) {
        let end = self.time + span;
        while self.step(end) {}
        self.time = end;
    }

    /// Runs until `is_so` returns `true`, for at most `limit`. Returns the time that this took.
    ///
    /// # Panics
    /// If `is_so` does not become `true` within `limit`.
    pub(crate) fn run_until(&mut self, limit: Duration, is_so: impl Fn(&Self) -> bool) -> Duration {
        let began = self.time;
        while !is_so(self) {
            assert!(self.step(began + limit), "not within {limit:?}");
        }
        self.time - began
    }

    /// Runs the next event and returns `true`, unless that event is after `end`.
    pub(crate) fn step(&mut self, end: Duration) -> bool {
        let timer = self.seats.iter().enumerate().filter_map(|(n, seat)| {
            let at = seat.time_of(seat.timeout?).max(seat.asleep_until);
            Some((at.max(self.time), n))
        });
        let timer = timer.min();
        let packet = self.packets.first_key_value().map(|((at, _), _)| *at);
        match (timer, packet) {
            (Some((at, seat)), packet) if at <= end && packet.is_none_or(|p| at < p) => {
                self.time = at;
                self.with(seat, |node, now| node.handle_timeout(now));
            }
            (_, Some(at)) if at <= end => {
                self.time = at.max(self.time);
                if let Some(((_, n), packet)) = self.packets.pop_first() {
                    self.deliver(n, packet);
                }
            }
            _ => return false,
        }
        true
    }

    fn deliver(&mut self, n: usize, packet: Packet) {
        let to = &self.seats[packet.to];
        if to.node.is_some() && to.asleep_until > self.time {
            self.packets.insert((to.asleep_until, n), packet);
        } else if to.node.is_some() {
            let from = Self::addr(packet.from_port);
            self.with(packet.to, |node, now| {
                node.handle_datagram(now, from, &packet.bytes)
            });
        }
    }

    fn drain(&mut self, seat: usize) {
        loop {
            let output = self.seats[seat].node.as_mut().unwrap().poll_output();
            match output {
                Output::Transmit { to, bytes } => self.send(seat, to, bytes),
                Output::Event(event) => self.hear(seat, event),
                Output::Timeout(at) => {
                    self.seats[seat].timeout = at;
                    return;
                }
                Output::Gossip { .. }
                | Output::Answer { .. }
                | Output::Inspected { .. }
                | Output::ForeignNode(_) => {}
            }
        }
    }

    fn send(&mut self, from: usize, to: SocketAddr, bytes: Vec<u8>) {
        let Some(to) = self.seats.iter().position(|seat| {
            let mapped = seat.mapped.filter(|_| !self.deaf_mappings);
            let ports = [Some(seat.port), mapped].into_iter().flatten();
            ports.map(Self::addr).any(|addr| addr == to)
        }) else {
            self.lost += 1;
            return;
        };
        let it = &self.seats[from];
        let from_port = it.mapped.unwrap_or(it.port);
        let packet = Packet {
            from,
            to,
            bytes,
            from_port,
        };
        for delay in (self.fate)(&packet) {
            self.datagrams += 1;
            let bytes = packet.bytes.clone();
            let at = self.time + delay;
            let packet = Packet {
                from,
                to,
                bytes,
                from_port,
            };
            self.packets.insert((at, self.datagrams), packet);
        }
    }

    /// Logs an event, and checks M1 and M2 if it is a grant.
    fn hear(&mut self, seat: usize, event: Event) {
        if let Event::Granted { key, epoch, .. } = &event {
            let holders = self.holders(key);
            assert!(
                holders.len() <= 1 || !self.watches_m1,
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
