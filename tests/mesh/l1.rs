//! L1: exactly one of several concurrent claims on a free key is granted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lockmesh::{Guard, Mesh};
use tokio::sync::Barrier;

use crate::common::{Ledger, nodes, with_clients, within};

const ROUNDS: usize = 500;
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
    let last = granted.pop();
    let last = last.unwrap_or_else(|| panic!("{key}: nobody was granted"));
    assert!(granted.iter().all(|guard| !guard.is_held()), "{key}");
    let took = began.elapsed();
    assert!(granted.is_empty() || took >= LEASE_MIN, "{key}: {took:?}");
    last
}

/// Five voters and three clients; even rounds use a fresh key, odd rounds share one key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_tries_grant_exactly_one() {
    let cluster = with_clients(5, 3, Duration::from_secs(30)).await;
    let nodes = nodes(&cluster);
    let ledger = Ledger::default();
    for n in 0..ROUNDS {
        let key = match n.is_multiple_of(2) {
            true => format!("fresh/{n}"),
            false => "same".to_owned(),
        };
        // If the machine paused, the lease may be over when all tries have returned.
        if let Some(guard) = ledger.enter(round(&nodes, &key).await) {
            ledger.leave(guard).await;
        }
    }
    ledger.check();
    assert!(ledger.grants() > ROUNDS as u64 / 2, "{}", ledger.grants());
}
