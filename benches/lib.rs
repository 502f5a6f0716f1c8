//! A cluster of sealed protocol nodes without a network. All nodes vote, datagrams are delivered
//! immediately, and each call advances the clock by a fixed step. The same calls therefore take
//! the same number of instructions in every run.

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

/// The TTL of all claims.
pub const TTL: Duration = Duration::from_secs(10);
/// The time that passes before each call.
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
    /// The number of grants so far.
    grants: u64,
    /// The number of datagrams delivered so far.
    datagrams: u64,
}

#[derive(Debug)]
struct Datagram {
    from: SocketAddr,
    to: SocketAddr,
    bytes: Vec<u8>,
}

impl World {
    /// Creates `nodes` nodes that know each other, and runs them until all vote.
    ///
    /// # Panics
    /// Panics if `nodes` is no valid number of voters, or if a node does not come to vote.
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
        // The voters may exchange recovery queries before they vote.
        for _ in 0..20_000 {
            world.pass();
        }
        let votes = |node: &Node| node.voter().is_some_and(|of| of.quarantine().is_none());
        assert!(world.nodes.iter().all(votes), "they are in recovery");
        world
    }

    /// Submits a claim of `node` on `key`.
    ///
    /// # Panics
    /// Panics if the node has no capacity for another claim.
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

    /// Releases a claim of `node`. Returns `true` if it held the lock.
    pub fn release(&mut self, node: usize, ticket: Ticket) -> bool {
        self.pass();
        let was_held = self.nodes[node].release(self.now, ticket);
        self.settle(node);
        was_held
    }

    /// Returns the number of grants so far.
    #[must_use]
    pub fn grants(&self) -> u64 {
        self.grants
    }

    /// Returns the number of datagrams delivered so far.
    #[must_use]
    pub fn datagrams(&self) -> u64 {
        self.datagrams
    }

    /// Advances the clock by [`STEP`], and calls the nodes whose timers are due.
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

    /// Drains a node, and delivers datagrams until none is left.
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
                | Output::Answer { .. }
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

/// Acquires and releases `keys` in turn at node 0, `cycles` times, without contention.
///
/// # Panics
/// Panics if a free key is not granted.
pub fn uncontended(world: &mut World, keys: &[Key], cycles: u64) {
    let before = world.grants();
    for key in keys.iter().cycle().zip(0..cycles).map(|(key, _)| key) {
        let ticket = world.claim(0, key);
        assert!(world.release(0, ticket), "a free key was not granted");
    }
    assert_eq!(world.grants() - before, cycles);
}

/// A contended key: all nodes claim it, and the holder releases and claims it again.
#[derive(Debug)]
pub struct Contended {
    world: World,
    key: Key,
    /// The claims, in the order of their grants.
    tickets: VecDeque<(usize, Ticket)>,
}

impl Contended {
    /// Creates a holder at node 0, and a waiter at each other node.
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

    /// Releases the holder's claim, and submits a new claim of its node.
    ///
    /// # Panics
    /// Panics if the next waiter is not granted.
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

/// Returns a key of 16 bytes.
///
/// # Panics
/// Never: 16 bytes are within the limit of a key.
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
        // Boot ids repeat between runs, which is safe only for datagrams that stay in this process.
        seal: Seal::sealed(key, boot_id),
    }
}
