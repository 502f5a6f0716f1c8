//! Cycles of acquiring and releasing in a cluster of sealed nodes. All nodes vote, datagrams arrive
//! at once, and a fixed time passes before each call. The same calls therefore take the same number
//! of instructions in every run.

use std::collections::VecDeque;
use std::time::Duration;

use lockmesh_proto::testing::Cluster;
use lockmesh_proto::{ClusterSecret, Event, Key, NodeConfig, Request, Seal, Start, Ticket};

/// The TTL of all claims.
pub(crate) const TTL: Duration = Duration::from_secs(10);
/// The time that passes before each call.
const STEP: Duration = Duration::from_micros(100);

/// A cluster whose datagrams take no time.
pub(crate) struct Cycles {
    cluster: Cluster,
    /// The number of grants so far.
    grants: u64,
}

impl Cycles {
    /// Creates `nodes` nodes and runs them until all vote.
    pub(crate) fn new(nodes: usize) -> Self {
        let mut cluster = Cluster::of(nodes, nodes, 0);
        cluster.one_way = Duration::ZERO;
        for seat in 0..nodes {
            cluster.seats[seat].incarnation = 1;
            let mut boot_id = [0; 16];
            boot_id[0] = u8::try_from(seat).expect("a few nodes");
            let secret = ClusterSecret::from_bytes([7; 32]).expect("not all zeros");
            let config = NodeConfig {
                max_claims: 1 << 20,
                // Boot ids repeat between runs, which is safe only for datagrams that stay in this
                // process.
                seal: Seal::sealed(secret, boot_id),
                ..cluster.config(seat, Start::NewCluster)
            };
            cluster.start_with(seat, config);
        }
        // The voters may exchange recovery queries before they vote.
        cluster.run_for(Duration::from_secs(2));
        assert!((0..nodes).all(|seat| cluster.votes(seat)), "in recovery");
        Self { cluster, grants: 0 }
    }

    /// Submits a claim of `node` on a key, and delivers all datagrams.
    pub(crate) fn claim(&mut self, node: usize, key: &Key) -> Ticket {
        self.cluster.run_for(STEP);
        let ticket = self.cluster.claim(node, request(key.clone()));
        self.settle();
        ticket
    }

    /// Releases a claim of `node`, and delivers all datagrams. Returns `true` if it held the lock.
    pub(crate) fn release(&mut self, node: usize, ticket: Ticket) -> bool {
        self.cluster.run_for(STEP);
        let was_held = self.cluster.release(node, ticket);
        self.settle();
        was_held
    }

    /// Acquires and releases `keys` in turn at node 0, `cycles` times, without contention.
    pub(crate) fn uncontended(&mut self, keys: &[Key], cycles: u64) {
        let before = self.grants;
        for key in keys.iter().cycle().zip(0..cycles).map(|(key, _)| key) {
            let ticket = self.claim(0, key);
            assert!(self.release(0, ticket), "a free key was not granted");
        }
        assert_eq!(self.grants - before, cycles);
    }

    /// Asks the voters of a key for its holder, and delivers all datagrams.
    #[allow(dead_code, reason = "only the bench of time counts inspections")]
    pub(crate) fn inspect(&mut self, node: usize, key: &Key) {
        self.cluster.run_for(STEP);
        self.cluster.with(node, |it, now| it.inspect(now, key, TTL));
        self.settle();
    }

    fn settle(&mut self) {
        self.cluster.settle();
        let events = self.cluster.log.drain(..);
        let grants = events.filter(|(_, _, event)| matches!(event, Event::Granted { .. }));
        self.grants += grants.count() as u64;
    }
}

/// A contended key: all nodes claim it, and the holder releases and claims it again.
pub(crate) struct Contended {
    cycles: Cycles,
    key: Key,
    /// The claims, in the order of their grants.
    tickets: VecDeque<(usize, Ticket)>,
}

impl Contended {
    /// Creates a holder at node 0, and a waiter at each other node.
    pub(crate) fn new(nodes: usize) -> Self {
        let (mut cycles, key) = (Cycles::new(nodes), key(0));
        let tickets = (0..nodes).map(|node| (node, cycles.claim(node, &key)));
        Self {
            tickets: tickets.collect(),
            cycles,
            key,
        }
    }

    /// Releases the holder's claim, and submits a new claim of its node.
    pub(crate) fn hand_over(&mut self) {
        let before = self.cycles.grants;
        if let Some((node, ticket)) = self.tickets.pop_front() {
            assert!(self.cycles.release(node, ticket), "another had the lock");
            let ticket = self.cycles.claim(node, &self.key);
            self.tickets.push_back((node, ticket));
        }
        assert_eq!(self.cycles.grants - before, 1, "a hand-over for each");
    }
}

/// Returns a key of 16 bytes.
pub(crate) fn key(number: u32) -> Key {
    Key::new(format!("key/{number:012}")).expect("16 bytes")
}

pub(crate) fn request(key: Key) -> Request {
    Request {
        key,
        ttl: TTL,
        is_try: false,
        renews: true,
        outlives: false,
        deadline: None,
        is_once: false,
        note: None,
    }
}
