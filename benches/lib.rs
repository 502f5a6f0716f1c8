//! Pure nodes that all vote, sealed, with nothing between them: a datagram is where it goes as
//! soon as it is sent, and time is what the caller makes of it. The same calls cost the same
//! instructions every time.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use lockmesh_proto::claimant::Request;
use lockmesh_proto::event::{Event, Ticket};
use lockmesh_proto::id::{Incarnation, Key, NodeId};
use lockmesh_proto::node::{Node, NodeConfig, Output};
use lockmesh_proto::time::{Instant, Now};
use lockmesh_proto::view::{Peer, View};
use lockmesh_proto::voter::{Start, VoterLimits};
use lockmesh_proto::voter_set::{Timing, VoterSet};
use lockmesh_proto::wire::{ClusterSecret, Seal};

/// What leases are asked for.
pub const TTL: Duration = Duration::from_secs(10);
/// How much time passes before each call.
const STEP: Duration = Duration::from_micros(100);
const MAX_CLAIMS: usize = 1 << 20;
const PORT: u16 = 4000;

/// A cluster without a network.
#[derive(Debug)]
pub struct World {
    nodes: Vec<Node>,
    due: Vec<Option<Instant>>,
    now: Now,
    under_way: VecDeque<Datagram>,
    /// What was granted since the world began.
    grants: u64,
    /// How many datagrams were handed over since the world began.
    datagrams: u64,
}

#[derive(Debug)]
struct Datagram {
    from: SocketAddr,
    to: SocketAddr,
    bytes: Vec<u8>,
}

impl World {
    /// So many nodes that know each other and are ready to vote.
    ///
    /// # Panics
    /// Where they do not come to vote for each other: then there is nothing to measure.
    #[must_use]
    pub fn new(nodes: u16) -> Self {
        let ids: Vec<NodeId> = (0..nodes).map(id).collect();
        let voter_set = VoterSet::new(1, ids, usize::from(nodes), Timing::lan());
        let voter_set = Arc::new(voter_set.expect("the voter set is good"));
        let mut world = Self {
            nodes: Vec::new(),
            due: vec![None; usize::from(nodes)],
            now: Now {
                mono: Instant::ZERO.after(Duration::from_secs(1_000)),
                wall_ms: 1_700_000_000_000,
            },
            under_way: VecDeque::new(),
            grants: 0,
            datagrams: 0,
        };
        for n in 0..nodes {
            let node = Node::new(world.now, config(n, &voter_set));
            world.nodes.push(node);
        }
        for n in 0..nodes {
            let others = (0..nodes).filter(|other| *other != n);
            let peers = others.map(|other| (id(other), peer(other))).collect();
            world.nodes[usize::from(n)].handle_view(world.now, &View { peers });
            world.settle(usize::from(n));
        }
        // They ask each other what they remember.
        for _ in 0..20_000 {
            world.pass();
        }
        let votes = |node: &Node| node.voter().is_some_and(|of| of.quarantine().is_none());
        assert!(world.nodes.iter().all(votes), "they are in recovery");
        world
    }

    /// A node begins to claim a key, and waits for it.
    ///
    /// # Panics
    /// Where it has too many claims already.
    pub fn claim(&mut self, node: usize, key: &Key) -> Ticket {
        self.pass();
        let request = Request {
            key: key.clone(),
            ttl: TTL,
            is_try: false,
            renews: true,
            outlives: false,
            deadline: None,
        };
        let ticket = self.nodes[node].claim(self.now, request);
        self.settle(node);
        ticket.expect("there is room for a claim")
    }

    /// A node releases. Answers whether it held the lock.
    pub fn release(&mut self, node: usize, ticket: Ticket) -> bool {
        self.pass();
        let was_held = self.nodes[node].release(self.now, ticket);
        self.settle(node);
        was_held
    }

    /// How many grants there were.
    #[must_use]
    pub fn grants(&self) -> u64 {
        self.grants
    }

    /// How many datagrams there were.
    #[must_use]
    pub fn datagrams(&self) -> u64 {
        self.datagrams
    }

    /// A little time passes, and whoever is due is called.
    fn pass(&mut self) {
        self.now.mono = self.now.mono.after(STEP);
        self.now.wall_ms = 1_700_000_000_000
            + u64::try_from(self.now.mono.since(Instant::ZERO).as_millis()).unwrap_or(u64::MAX);
        for node in 0..self.nodes.len() {
            if self.due[node].is_some_and(|due| due <= self.now.mono) {
                self.nodes[node].handle_timeout(self.now);
                self.settle(node);
            }
        }
    }

    /// Drains a node, and hands over whatever is sent until nobody sends any more.
    fn settle(&mut self, node: usize) {
        self.drain(node);
        while let Some(datagram) = self.under_way.pop_front() {
            let Some(to) = (0..self.nodes.len()).find(|n| addr(*n) == datagram.to) else {
                continue;
            };
            self.datagrams += 1;
            self.nodes[to].handle_datagram(self.now, datagram.from, &datagram.bytes);
            self.drain(to);
        }
    }

    fn drain(&mut self, node: usize) {
        loop {
            match self.nodes[node].poll_output() {
                Output::Transmit { to, bytes } => {
                    let from = addr(node);
                    self.under_way.push_back(Datagram { from, to, bytes });
                }
                Output::Event(Event::Granted { .. }) => self.grants += 1,
                Output::Event(_)
                | Output::Gossip { .. }
                | Output::Inspected { .. }
                | Output::ForeignNode(_) => {}
                Output::Timeout(due) => {
                    self.due[node] = due;
                    return;
                }
            }
        }
    }
}

/// Acquires and releases at the first node, key after key, while nobody else wants them.
///
/// # Panics
/// Where a free key is not granted: then there is nothing to measure.
pub fn uncontended(world: &mut World, keys: &[Key], cycles: u64) {
    let before = world.grants();
    for key in keys.iter().cycle().zip(0..cycles).map(|(key, _)| key) {
        let ticket = world.claim(0, key);
        assert!(world.release(0, ticket), "a free key was not granted");
    }
    assert_eq!(world.grants() - before, cycles);
}

/// Nodes that all want one key: whoever has it releases it and asks for it again.
#[derive(Debug)]
pub struct Contended {
    world: World,
    key: Key,
    /// In the order of their turns.
    tickets: VecDeque<(usize, Ticket)>,
}

impl Contended {
    /// Begins with one holder, and the others waiting.
    #[must_use]
    pub fn new(mut world: World) -> Self {
        let key = key(0);
        let nodes = 0..world.nodes.len();
        let tickets = nodes.map(|node| (node, world.claim(node, &key))).collect();
        Self {
            world,
            key,
            tickets,
        }
    }

    /// The holder releases, the next is granted, and the holder asks again.
    ///
    /// # Panics
    /// Where the next is not granted: then there is nothing to measure.
    pub fn hand_over(&mut self) {
        let before = self.world.grants();
        if let Some((node, ticket)) = self.tickets.pop_front() {
            assert!(self.world.release(node, ticket), "another had the lock");
            let ticket = self.world.claim(node, &self.key);
            self.tickets.push_back((node, ticket));
        }
        assert_eq!(self.world.grants() - before, 1, "a hand-over for each");
    }
}

/// A key of 16 bytes.
///
/// # Panics
/// Never: 16 bytes are no more than a key may have.
#[must_use]
pub fn key(number: u32) -> Key {
    Key::new(format!("key/{number:012}")).expect("16 bytes")
}

fn id(number: u16) -> NodeId {
    NodeId::new(format!("n{number}")).expect("a few bytes")
}

fn addr(number: usize) -> SocketAddr {
    let number = u16::try_from(number).unwrap_or(u16::MAX - PORT);
    (Ipv4Addr::LOCALHOST, PORT + number).into()
}

fn peer(number: u16) -> Peer {
    Peer {
        addr: addr(usize::from(number)),
        incarnation: Incarnation::new(1),
        alive: true,
    }
}

fn config(number: u16, voter_set: &Arc<VoterSet>) -> NodeConfig {
    let mut boot_id = [0; 16];
    boot_id[..2].copy_from_slice(&number.to_le_bytes());
    let key = ClusterSecret::from_bytes([7; 32]).expect("not all zeros");
    NodeConfig {
        id: id(number),
        incarnation: Incarnation::new(1),
        voter_set: voter_set.clone(),
        start: Start::NewCluster,
        limits: VoterLimits::default(),
        max_claims: MAX_CLAIMS,
        renew_interval: None,
        seed: u64::from(number),
        // Repeated boot ids are for measurements alone: nobody else reads these datagrams.
        seal: Seal::sealed(key, boot_id),
    }
}
