//! Clusters for the tests, and a ledger that checks their grants.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lockmesh::{Epoch, Guard, Mesh};
use lockmesh_harness::LocalMesh;

#[path = "../common/cluster.rs"]
mod cluster;
#[path = "../common/waits.rs"]
mod waits;

pub(crate) use cluster::{beside, secret, settings, timing};
pub(crate) use waits::{PATIENCE, until, waits_for, within};

/// Starts a cluster whose nodes all vote.
pub(crate) async fn voters(count: usize, max_ttl: Duration) -> LocalMesh {
    with_clients(count, 0, max_ttl).await
}

/// Starts a cluster of three voters and one client, which is node 3.
pub(crate) async fn three_and_client(max_ttl: Duration) -> LocalMesh {
    with_clients(3, 1, max_ttl).await
}

pub(crate) async fn with_clients(voters: usize, clients: usize, max_ttl: Duration) -> LocalMesh {
    let settings = settings(voters, clients, max_ttl).patience(PATIENCE);
    let settings = settings.configure(|mesh| mesh.try_timeout(PATIENCE));
    settings.start().await.unwrap()
}

/// Returns all nodes of the cluster.
pub(crate) fn nodes(cluster: &LocalMesh) -> Vec<Mesh> {
    (0..cluster.size()).map(|n| cluster.node(n)).collect()
}

/// Starts a further node that does not vote, and waits until it reaches all voters.
pub(crate) async fn client(cluster: &LocalMesh, name: &str) -> Mesh {
    let mesh = cluster.client(name).unwrap().start().await.unwrap();
    sees_all(&mesh).await;
    mesh
}

pub(crate) async fn sees_all(mesh: &Mesh) {
    until("a node sees all members", || {
        let members = mesh.status().members;
        members.iter().all(|member| member.is_reachable)
    })
    .await;
}

/// Restarts node `n` without memory at another address.
pub(crate) async fn restart_elsewhere(cluster: &LocalMesh, n: usize) {
    cluster.crash(n).await;
    let _taken = std::net::UdpSocket::bind(cluster.node(n).local_addr()).unwrap();
    cluster.restart(n).await.unwrap();
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
