//! Many locks, many clients and long spans: the memory of three nodes does not grow, and locks
//! survive restarts.
//!
//! Datagrams take no time and none is lost. The tests exercise numbers, not faults.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::proto::{
    Event, Incarnation, Instant, Key, NEVER_GRANTED_MAX, Node, NodeConfig, NodeId, Now, Output,
    Peer, Request, Seal, Start, Ticket, Timing, View, VoterLimits, VoterSet,
};

const NODES: usize = 3;
const MAX_TTL: Duration = Duration::from_secs(3);
/// The maximum that one node may hold, if the build is optimized.
const KEYS: usize = if cfg!(debug_assertions) {
    5_000
} else {
    100_000
};
const WALL_MS: u64 = 1_760_000_000_000;
/// The index of a client, after the members.
const CLIENT: usize = NODES;
/// The number of nodes that a node remembers.
const REMEMBERED: usize = 8_192;

struct Cluster {
    voter_set: Arc<VoterSet>,
    nodes: Vec<Node>,
    at: Duration,
    incarnations: u64,
    lost: usize,
}

fn id(at: usize) -> NodeId {
    NodeId::new(format!("n{at}")).unwrap()
}

fn addr(at: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, at as u8 + 1], 7_000))
}

/// Returns an address that no other client has.
fn client_addr(incarnation: u64) -> SocketAddr {
    let [.., high, low] = incarnation.to_be_bytes();
    SocketAddr::from(([10, 1, high, low], 7_000))
}

impl Cluster {
    fn new() -> Self {
        let timing = Timing {
            max_ttl: MAX_TTL,
            max_drift_ppm: 5_000,
            max_clock_skew: Duration::from_millis(500),
            round_trip: Duration::from_millis(10),
            reservation: Duration::from_millis(250),
            holder_probe_interval: Duration::from_millis(250),
        };
        let voter_set = VoterSet::new(1, (0..NODES).map(id).collect(), NODES, timing).unwrap();
        let mut cluster = Self {
            voter_set: Arc::new(voter_set),
            nodes: Vec::new(),
            at: Duration::from_secs(1),
            incarnations: 0,
            lost: 0,
        };
        for at in 0..NODES {
            let node = cluster.node(at, Start::NewCluster);
            cluster.nodes.push(node);
        }
        (0..NODES).for_each(|at| cluster.send_view(at));
        cluster.pass(MAX_TTL);
        cluster
    }

    fn now(&self) -> Now {
        Now {
            mono: Instant::ZERO.after(self.at),
            wall_ms: WALL_MS + self.at.as_millis() as u64,
        }
    }

    fn node(&mut self, at: usize, start: Start) -> Node {
        self.named(id(at), start)
    }

    fn named(&mut self, id: NodeId, start: Start) -> Node {
        self.incarnations += 1;
        let config = NodeConfig {
            id,
            incarnation: Incarnation::new(self.incarnations),
            voter_set: self.voter_set.clone(),
            start,
            limits: VoterLimits::default(),
            max_claims: KEYS,
            renew_interval: None,
            seed: self.incarnations,
            seal: Seal::insecure_plaintext(),
        };
        Node::new(self.now(), config)
    }

    /// Starts a client with a new name in place of the last one, which has crashed.
    fn start_client(&mut self) {
        self.nodes.truncate(CLIENT);
        let name = NodeId::new(format!("client-{}", self.incarnations)).unwrap();
        let client = self.named(name, Start::Recovering);
        self.nodes.push(client);
        self.send_view(CLIENT);
    }

    fn addr(&self, at: usize) -> SocketAddr {
        match at {
            CLIENT => client_addr(self.incarnations),
            _ => addr(at),
        }
    }

    fn send_view(&mut self, at: usize) {
        let peers = (0..NODES).filter(|other| *other != at).map(|other| {
            let peer = Peer {
                addr: addr(other),
                incarnation: self.nodes[other].claimant().incarnation(),
                alive: true,
                version: Some(crate::proto::PROTOCOL_VERSION),
            };
            (id(other), peer)
        });
        let view = View {
            peers: peers.collect(),
        };
        let now = self.now();
        self.nodes[at].handle_view(now, &view);
    }

    fn restart(&mut self, at: usize) {
        self.nodes[at] = self.node(at, Start::Recovering);
        (0..NODES).for_each(|at| self.send_view(at));
        self.pass(MAX_TTL * 2);
    }

    /// Delivers all datagrams. Returns the next timeout.
    fn settle(&mut self) -> Option<Instant> {
        let mut inbox = VecDeque::new();
        loop {
            let due = self.drain(&mut inbox);
            if inbox.is_empty() {
                return due;
            }
            let now = self.now();
            for (from, to, bytes) in inbox.drain(..) {
                let from = self.addr(from);
                self.nodes[to].handle_datagram(now, from, &bytes);
            }
        }
    }

    fn drain(&mut self, inbox: &mut VecDeque<(usize, usize, Vec<u8>)>) -> Option<Instant> {
        let mut due: Option<Instant> = None;
        for from in 0..self.nodes.len() {
            loop {
                match self.nodes[from].poll_output() {
                    Output::Transmit { to, bytes } => {
                        let to = (0..self.nodes.len()).find(|at| self.addr(*at) == to);
                        inbox.extend(to.map(|to| (from, to, bytes)));
                    }
                    Output::Event(Event::Lost { .. }) => self.lost += 1,
                    Output::Timeout(at) => {
                        due = due.into_iter().chain(at).min();
                        break;
                    }
                    _ => {}
                }
            }
        }
        due
    }

    fn pass(&mut self, span: Duration) {
        let end = self.at + span;
        loop {
            let due = self.settle().map(|due| due.since(Instant::ZERO));
            let Some(due) = due.filter(|due| *due <= end) else {
                self.at = end;
                return;
            };
            self.at = self.at.max(due);
            let now = self.now();
            for node in &mut self.nodes {
                node.handle_timeout(now);
            }
        }
    }

    fn ask(&mut self, at: usize, key: &str) -> Ticket {
        let request = Request {
            key: Key::new(key).unwrap(),
            ttl: MAX_TTL,
            is_try: false,
            renews: true,
            outlives: false,
            deadline: None,
            is_once: false,
            note: None,
        };
        let now = self.now();
        self.nodes[at].claim(now, request).unwrap()
    }

    fn held(&self, at: usize) -> usize {
        self.nodes[at].claimant().held(self.now()).count()
    }

    /// Returns the most that any node keeps of something.
    fn most(&self, what: &str) -> usize {
        let sizes = self.nodes.iter().flat_map(|node| node.sizes());
        let of_it = sizes.filter(|(name, _)| *name == what);
        of_it.map(|(_, size)| size).max().unwrap_or_default()
    }

    fn keeps_nothing(&self) {
        for (what, size) in self.nodes.iter().flat_map(|node| node.sizes()) {
            let bound = match what {
                "peers" => NODES - 1,
                "claims that were never granted" => NEVER_GRANTED_MAX,
                "voters asked again" | "voters left alone" => NODES,
                "rooms of slots" => 1,
                _ => 0,
            };
            assert!(size <= bound, "{size} {what}");
        }
    }
}

#[test]
fn many_locks_survive_restarts_of_voters() {
    let mut cluster = Cluster::new();
    let tickets: Vec<Ticket> = (0..KEYS)
        .map(|n| cluster.ask(0, &format!("key/{n}")))
        .collect();
    cluster.pass(MAX_TTL * 2);
    assert_eq!(cluster.held(0), KEYS);
    assert_eq!(cluster.most("slots"), KEYS);
    // One session at each voter renews all of them.
    assert_eq!(cluster.most("links"), NODES);
    for voter in 1..NODES {
        cluster.restart(voter);
        assert_eq!((cluster.held(0), cluster.lost), (KEYS, 0), "voter {voter}");
    }
    let now = cluster.now();
    for ticket in tickets {
        cluster.nodes[0].release(now, ticket);
    }
    cluster.pass(MAX_TTL * 2);
    cluster.keeps_nothing();
}

#[test]
fn memory_does_not_grow_over_many_rounds() {
    let mut cluster = Cluster::new();
    let mut sizes = Vec::new();
    for round in 0..1_200 {
        // Each node takes a key, waits for another node's key, withdraws, and releases.
        let now = |cluster: &Cluster| cluster.now();
        let kept: Vec<Ticket> = (0..NODES)
            .map(|at| cluster.ask(at, &format!("key/{round}/{at}")))
            .collect();
        let waits: Vec<Ticket> = (0..NODES)
            .map(|at| cluster.ask(at, &format!("key/{round}/{}", (at + 1) % NODES)))
            .collect();
        cluster.pass(Duration::from_millis(900));
        for (at, (kept, waits)) in kept.into_iter().zip(waits).enumerate() {
            let now = now(&cluster);
            cluster.nodes[at].release(now, waits);
            cluster.nodes[at].release(now, kept);
        }
        cluster.pass(Duration::from_millis(100));
        if round % 200 == 199 {
            cluster.pass(MAX_TTL * 2);
            cluster.keeps_nothing();
            let sizes_now = cluster.nodes.iter().flat_map(|node| node.sizes());
            // A ring that fills with time; `keeps_nothing` checks its bound.
            let grows = |what: &str| what != "claims that were never granted";
            sizes.push(
                sizes_now
                    .filter(|(what, _)| grows(what))
                    .collect::<Vec<_>>(),
            );
        }
    }
    let (first, last) = (&sizes[1], sizes.last().unwrap());
    assert_eq!(first, last);
}

/// Each client takes a lock and crashes. Clients beyond the number that a node remembers are still
/// served, and a holder keeps its lock.
#[test]
fn crashing_clients_do_not_shut_out_others() {
    let mut cluster = Cluster::new();
    cluster.ask(0, "kept");
    for n in 0..REMEMBERED + 200 {
        cluster.start_client();
        cluster.ask(CLIENT, &format!("job/{}", n % 100));
        // The last client with this key had it longer ago than its lease.
        cluster.pass(MAX_TTL / 90);
        assert_eq!(cluster.held(CLIENT), 1, "client {n}");
    }
    assert_eq!((cluster.held(0), cluster.lost), (1, 0));
    assert_eq!(cluster.most("peers"), REMEMBERED);
    cluster.nodes.truncate(CLIENT);
    cluster.pass(MAX_TTL * 2);
    assert_eq!((cluster.held(0), cluster.most("slots")), (1, 1));
}
