//! L1: exactly one of several concurrent claims on a free key is granted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lockmesh::{Guard, Mesh};
use tokio::sync::Barrier;

use crate::common::{Cluster, Ledger, within};

/// The number of nodes that try at once.
const NODES: usize = 8;
/// The number of voters among them.
const VOTERS: usize = 5;
/// The number of rounds per test.
const ROUNDS: usize = 500;

async fn eight_nodes() -> (Cluster, Vec<Mesh>) {
    let cluster = Cluster::start(VOTERS, Duration::from_secs(30)).await;
    let mut nodes = cluster.nodes.clone();
    for n in VOTERS..NODES {
        nodes.push(cluster.client(&format!("c{n}")).await);
    }
    (cluster, nodes)
}

/// A lower bound for every lease, including one granted from a reservation.
const LEASE_MIN: Duration = Duration::from_millis(900);

/// All nodes try at the same instant. Returns the last guard.
///
/// Panics unless exactly one node is granted the lock. Another may follow only if the round takes
/// longer than a lease.
async fn round(nodes: &[Mesh], key: &str) -> Guard {
    let began = Instant::now();
    let start = Arc::new(Barrier::new(nodes.len()));
    let tries = nodes.iter().map(|node| {
        let (request, start) = (node.lock(key), start.clone());
        tokio::spawn(async move {
            start.wait().await;
            request.try_acquire().await
        })
    });
    let tries: Vec<_> = tries.collect();
    let mut granted = Vec::new();
    for tried in tries {
        let answer = within("an answer", tried).await.unwrap();
        granted.extend(answer.unwrap_or_else(|error| panic!("{key}: {error}")));
    }
    granted.sort_by_key(Guard::epoch);
    let last = granted
        .pop()
        .unwrap_or_else(|| panic!("{key}: nobody was granted"));
    assert!(granted.iter().all(|guard| !guard.is_held()), "{key}");
    let took = began.elapsed();
    assert!(granted.is_empty() || took >= LEASE_MIN, "{key}: {took:?}");
    last
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_tries_of_fresh_keys_grant_exactly_one() {
    let (_cluster, nodes) = eight_nodes().await;
    for n in 0..ROUNDS {
        drop(round(&nodes, &format!("fresh/{n}")).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_tries_of_one_key_grant_exactly_one() {
    let (_cluster, nodes) = eight_nodes().await;
    let ledger = Ledger::default();
    for _ in 0..ROUNDS {
        // If the machine paused, the lease may be over when all tries have returned.
        if let Some(guard) = ledger.enter(round(&nodes, "same").await) {
            ledger.leave(guard).await;
        }
    }
    ledger.check();
    assert!(ledger.grants() > ROUNDS as u64 / 2, "{}", ledger.grants());
}
