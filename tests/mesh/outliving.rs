//! Locks acquired through the trait outlive their process; guards do not.

use std::time::{Duration, Instant};

use lockmesh::DistributedLock;

use crate::common::{Cluster, until, within};

const MAX_TTL: Duration = Duration::from_secs(60);
/// Longer than any test here takes, in milliseconds.
const LONG_MS: u64 = 50_000;

#[tokio::test]
async fn trait_lock_outlives_shutdown() {
    let cluster = Cluster::start(3, MAX_TTL).await;
    let other = &cluster.nodes[0];
    let client = cluster.client("client").await;
    let guard = client.lock("guarded").acquire().await.unwrap();
    assert_eq!(client.try_acquire("tick", LONG_MS).await, Ok(true));
    client.shutdown().await;
    assert!(!guard.is_held());
    assert_eq!(other.try_acquire("tick", LONG_MS).await, Ok(false));
    let next = within("what the guard held", other.lock("guarded").acquire()).await;
    assert!(next.unwrap().is_held());
    // The next incarnation does not hold the lock, and gets the same result as its peers.
    let again = cluster.client("client").await;
    assert_eq!(again.try_acquire("tick", LONG_MS).await, Ok(false));
    assert!(DistributedLock::release(&again, "tick").await.is_err());
    assert_eq!(other.try_acquire("tick", LONG_MS).await, Ok(false));
}

#[tokio::test]
async fn trait_lock_outlives_crash_and_restart() {
    let cluster = Cluster::start(3, MAX_TTL).await;
    let other = &cluster.nodes[0];
    let client = cluster.client("client").await;
    assert_eq!(client.try_acquire("tick", LONG_MS).await, Ok(true));
    client.abort();
    // The client is silent, but a quorum has voted for it, so it may have been granted.
    let told = within("an answer", other.try_acquire("tick", LONG_MS)).await;
    assert_eq!(told, Ok(false));
    let again = cluster.client("client").await;
    assert_eq!(again.try_acquire("tick", LONG_MS).await, Ok(false));
    assert_eq!(other.try_acquire("tick", LONG_MS).await, Ok(false));
}

#[tokio::test]
async fn trait_lock_outlives_the_last_handle() {
    let cluster = Cluster::start(3, MAX_TTL).await;
    let client = cluster.client("client").await;
    assert_eq!(client.try_acquire("tick", LONG_MS).await, Ok(true));
    drop(client);
    assert_eq!(
        cluster.nodes[0].try_acquire("tick", LONG_MS).await,
        Ok(false)
    );
}

#[tokio::test]
async fn trait_lock_is_free_after_its_ttl() {
    let cluster = Cluster::start(3, MAX_TTL).await;
    let client = cluster.client("client").await;
    let mut asked_at = Instant::now();
    // On a busy machine a lease may be over before `try_acquire` returns.
    while client.try_acquire("tick", 3_000).await != Ok(true) {
        asked_at = Instant::now();
    }
    client.shutdown().await;
    let taken = async {
        while cluster.nodes[0].try_acquire("tick", LONG_MS).await != Ok(true) {
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    };
    within("the end of the ttl", taken).await;
    let elapsed = asked_at.elapsed();
    assert!(elapsed >= Duration::from_millis(2_900), "{elapsed:?}");
}

#[tokio::test]
async fn request_interrupted_by_shutdown_leaves_no_lock() {
    let cluster = Cluster::start(3, MAX_TTL).await;
    let client = cluster.client("client").await;
    let guard = cluster.nodes[0].lock("tick").acquire().await.unwrap();
    let waits = client.lock("tick").acquire();
    let waits = tokio::spawn(waits);
    until("it waits", || cluster.nodes[0].status().voter_waiters == 1).await;
    client.shutdown().await;
    assert!(within("its end", waits).await.unwrap().is_err());
    guard.release().await.unwrap();
    let next = within("the next", cluster.nodes[1].lock("tick").acquire()).await;
    assert!(next.unwrap().is_held());
}

/// The future is polled once, and dropped after the grant.
#[tokio::test]
async fn dropped_try_acquire_leaves_no_lock() {
    let cluster = Cluster::start(3, MAX_TTL).await;
    let client = cluster.client("client").await;
    {
        let mut asked = std::pin::pin!(client.try_acquire("tick", LONG_MS));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(asked.as_mut().poll(&mut context).is_pending());
        until("it is granted", || client.status().held == 1).await;
    }
    let next = within("the next", cluster.nodes[0].lock("tick").acquire()).await;
    assert!(next.unwrap().is_held());
}
