//! L1: of several claims that meet on a free key exactly one wins.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lockmesh::{Guard, Mesh};
use tokio::sync::Barrier;

use crate::common::{Cluster, Ledger, within};

/// How many nodes try at once.
const NODES: usize = 8;
/// How many of them vote.
const VOTERS: usize = 5;
/// Of each kind of round.
const ROUNDS: usize = 500;

async fn eight_nodes() -> (Cluster, Vec<Mesh>) {
    let cluster = Cluster::start(VOTERS, Duration::from_secs(30)).await;
    let mut nodes = cluster.nodes.clone();
    for n in VOTERS..NODES {
        nodes.push(cluster.client(&format!("c{n}")).await);
    }
    (cluster, nodes)
}

/// No lease is over before that, not even one that was granted in contention.
const LEASE_MIN: Duration = Duration::from_millis(900);

/// All try at the same instant. Returns the last guard; panics unless there is exactly one. Only if
/// the machine takes longer than a lease may one be over before another is granted.
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
async fn l1_of_eight_nodes_that_try_a_fresh_key_at_once_exactly_one_gets_it_in_500_rounds() {
    let (_cluster, nodes) = eight_nodes().await;
    for n in 0..ROUNDS {
        drop(round(&nodes, &format!("fresh/{n}")).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l1_of_eight_nodes_that_try_the_same_key_at_once_exactly_one_gets_it_in_500_rounds() {
    let (_cluster, nodes) = eight_nodes().await;
    let ledger = Ledger::default();
    for _ in 0..ROUNDS {
        // On a machine that stands still its lease may be over when all have an answer.
        if let Some(guard) = ledger.enter(round(&nodes, "same").await) {
            ledger.leave(guard).await;
        }
    }
    ledger.check();
    assert!(ledger.grants() > ROUNDS as u64 / 2, "{}", ledger.grants());
}
