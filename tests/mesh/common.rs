//! Meshes on loopback for the tests, and a ledger that checks their grants.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lockmesh::{ClusterSecret, Epoch, Guard, Mesh, MeshBuilder, Timing};
use lockmesh_harness::Links;

#[path = "../common/patience.rs"]
mod patience;

pub(crate) use patience::within;

/// The longest timeout that a test configures; no test waits longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// A free port of this machine.
pub(crate) const LOOPBACK: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));

/// Returns [`Timing::lan`] with this `max_ttl`, so that a quarantine ends soon, and a longer
/// reservation.
///
/// A waiter that is granted the lock has only the reservation until the voters receive its
/// confirmation. A busy machine may pause the test for longer than the default.
pub(crate) fn timing(max_ttl: Duration) -> Timing {
    Timing {
        max_ttl,
        max_clock_skew: Duration::from_millis(500).min(max_ttl),
        reservation: Duration::from_secs(1).min(max_ttl),
        ..Timing::lan()
    }
}

/// Waits until `is_so` returns `true`.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let look = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    };
    within(what, look).await;
}

/// A cluster of nodes `n0`, `n1`, ..., which are all voters.
pub(crate) struct Cluster {
    pub(crate) links: Arc<Links>,
    pub(crate) nodes: Vec<Mesh>,
    size: usize,
    per_key: usize,
    max_ttl: Duration,
}

impl Cluster {
    /// Starts `size` nodes with the default number of voters per key: all, at most five.
    pub(crate) async fn start(size: usize, max_ttl: Duration) -> Self {
        Self::with_voters(size, size.min(5), max_ttl).await
    }

    /// Starts `size` nodes, of which `per_key` vote for each key.
    pub(crate) async fn with_voters(size: usize, per_key: usize, max_ttl: Duration) -> Self {
        let links = Links::new(7);
        let mut cluster = Self {
            links,
            nodes: Vec::new(),
            size,
            per_key,
            max_ttl,
        };
        for n in 0..size {
            let mesh = cluster.builder(n).bootstrap().start().await.unwrap();
            cluster.nodes.push(mesh);
        }
        cluster.ready().await;
        cluster
    }

    /// Waits until every node reaches every member and its own voter votes.
    pub(crate) async fn ready(&self) {
        for node in &self.nodes {
            until("all members see each other", || {
                let status = node.status();
                status.is_ready && status.members.iter().all(|member| member.is_reachable)
            })
            .await;
        }
    }

    /// Returns the settings of node `n`. Its seeds are the running nodes.
    pub(crate) fn builder(&self, n: usize) -> MeshBuilder {
        self.named(&format!("n{n}"))
    }

    /// Returns the settings of node `name`, which may or may not be a voter.
    pub(crate) fn named(&self, name: &str) -> MeshBuilder {
        let running = self.nodes.iter().filter(|node| node.id().as_str() != name);
        Mesh::builder(name)
            .voters((0..self.size).map(|n| format!("n{n}")))
            .voters_per_key(self.per_key)
            .seeds(running.map(|node| node.local_addr().to_string()))
            .secret(key())
            .timing(timing(self.max_ttl))
            .ttl((self.max_ttl / 2).min(Duration::from_secs(5)))
            .try_timeout(PATIENCE)
            .gossip_interval(Duration::from_millis(50))
            .transport(self.links.bind(name, LOOPBACK).unwrap())
    }

    /// Returns the settings of node `name` at an address.
    pub(crate) fn named_at(&self, name: &str, listen: SocketAddr) -> MeshBuilder {
        let transport = self.links.bind(name, listen).unwrap();
        self.named(name).transport(transport)
    }

    /// Starts a node that does not vote, and waits until it reaches all voters.
    pub(crate) async fn client(&self, name: &str) -> Mesh {
        let mesh = self.named(name).start().await.unwrap();
        sees_all(&mesh).await;
        mesh
    }

    /// Starts a new incarnation of node `n`, without memory.
    pub(crate) async fn restart(&mut self, n: usize) {
        let mesh = self.builder(n).start().await.unwrap();
        self.nodes[n] = mesh;
    }
}

pub(crate) async fn sees_all(mesh: &Mesh) {
    until("a node sees all members", || {
        let members = mesh.status().members;
        members.iter().all(|member| member.is_reachable)
    })
    .await;
}

pub(crate) fn key() -> ClusterSecret {
    ClusterSecret::from_bytes([7; 32]).unwrap()
}

/// A record of all grants, which counts overlapping holders and epochs that do not increase.
#[derive(Default)]
pub(crate) struct Ledger {
    keys: Mutex<BTreeMap<String, Entry>>,
    grants: AtomicU64,
    overlaps: AtomicU64,
    regressions: AtomicU64,
}

#[derive(Default)]
struct Entry {
    highest: Option<Epoch>,
    inside: Vec<Arc<Guard>>,
}

impl Ledger {
    /// Enters a guard. Returns `None` and drops the guard if its lease is already over: a fenced
    /// resource would not serve it either.
    pub(crate) fn enter(&self, guard: Guard) -> Option<Arc<Guard>> {
        let guard = Arc::new(guard);
        let mut keys = self.keys.lock().unwrap();
        let entry = keys.entry(guard.key().to_owned()).or_default();
        // The order matters: if the new guard is held now, it was also held while the others
        // were counted, so each counted guard is an overlap.
        let others = entry.inside.iter().filter(|other| other.is_held()).count();
        if !guard.is_held() {
            return None;
        }
        self.overlaps.fetch_add(others as u64, Ordering::SeqCst);
        if entry.highest >= Some(guard.epoch()) {
            self.regressions.fetch_add(1, Ordering::SeqCst);
        }
        entry.highest = entry.highest.max(Some(guard.epoch()));
        entry.inside.retain(|other| other.is_held());
        entry.inside.push(guard.clone());
        self.grants.fetch_add(1, Ordering::SeqCst);
        Some(guard)
    }

    /// Removes and releases a guard. Returns `true` if it was held until then.
    pub(crate) async fn leave(&self, guard: Arc<Guard>) -> bool {
        let key = guard.key().to_owned();
        if let Some(entry) = self.keys.lock().unwrap().get_mut(&key) {
            entry.inside.retain(|other| !Arc::ptr_eq(other, &guard));
        }
        let guard = Arc::try_unwrap(guard).expect("nobody else has the guard");
        guard.release().await.is_ok()
    }

    pub(crate) fn grants(&self) -> u64 {
        self.grants.load(Ordering::SeqCst)
    }

    pub(crate) fn check(&self) {
        let overlaps = self.overlaps.load(Ordering::SeqCst);
        let regressions = self.regressions.load(Ordering::SeqCst);
        let grants = self.grants();
        assert_eq!((overlaps, regressions), (0, 0), "after {grants} grants");
    }
}

/// Locks `key` `rounds` times in sequence, and enters each guard into the ledger.
pub(crate) async fn work(mesh: Mesh, key: String, rounds: usize, ledger: Arc<Ledger>) {
    for _ in 0..rounds {
        let guard = within("a worker's turn", mesh.lock(&key).acquire()).await;
        if let Some(guard) = ledger.enter(guard.unwrap()) {
            tokio::task::yield_now().await;
            ledger.leave(guard).await;
        }
    }
}
