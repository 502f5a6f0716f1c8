//! The trait `DistributedLock` over a cluster.

use std::sync::Arc;
use std::time::Duration;

use lockmesh::{ClusterError, DistributedLock, Mesh};
use tokio::sync::Barrier;

use crate::common::{Cluster, until, within};

const MAX_TTL: Duration = Duration::from_secs(30);

#[tokio::test]
async fn try_acquire_returns_false_while_lock_is_held() {
    let cluster = Cluster::start(3, MAX_TTL).await;
    let locks: Vec<Arc<dyn DistributedLock>> = cluster.nodes.iter().map(as_trait).collect();
    assert_eq!(locks[0].try_acquire("k", 20_000).await, Ok(true));
    // The node that holds the lock gets the same result as the others.
    for lock in &locks {
        assert_eq!(lock.try_acquire("k", 20_000).await, Ok(false));
    }
    locks[0].release("k").await.unwrap();
    assert_eq!(locks[1].try_acquire("k", 20_000).await, Ok(true));
}

fn as_trait(mesh: &Mesh) -> Arc<dyn DistributedLock> {
    Arc::new(mesh.clone())
}

#[tokio::test]
async fn trait_lock_ends_after_its_ttl() {
    let cluster = Cluster::start(3, MAX_TTL).await;
    let asked_at = std::time::Instant::now();
    let ttl = Duration::from_millis(700);
    assert_eq!(cluster.nodes[0].try_acquire("k", 700).await, Ok(true));
    until("the end of the lease", || {
        cluster.nodes[0].status().held == 0
    })
    .await;
    assert!(
        asked_at.elapsed() >= ttl * 9 / 10,
        "{:?}",
        asked_at.elapsed()
    );
    let next = cluster.nodes[1].try_acquire("k", 20_000);
    assert_eq!(within("the next", next).await, Ok(true));
    // The first node's lease is over, so it can neither release nor extend it.
    let lock = &cluster.nodes[0];
    assert!(failed_release(DistributedLock::release(lock, "k").await));
    assert!(failed_extension(lock.extend("k", 1_000).await));
    assert_eq!(cluster.nodes[2].try_acquire("k", 20_000).await, Ok(false));
}

fn failed_release(released: Result<(), ClusterError>) -> bool {
    matches!(released, Err(ClusterError::LockReleaseFailed(_)))
}

fn failed_extension(extended: Result<(), ClusterError>) -> bool {
    matches!(extended, Err(ClusterError::LockAcquisitionFailed(_)))
}

#[tokio::test]
async fn release_fails_unless_caller_holds_the_lock() {
    let cluster = Cluster::start(3, MAX_TTL).await;
    let [a, b, _] = &cluster.nodes[..] else {
        unreachable!()
    };
    assert!(failed_release(a.release("k").await));
    assert_eq!(a.try_acquire("k", 20_000).await, Ok(true));
    assert!(failed_release(b.release("k").await));
    assert_eq!(b.try_acquire("k", 20_000).await, Ok(false));
    // The trait does not release or extend a guard of the same node.
    let guard = b.lock("guarded").acquire().await.unwrap();
    assert_eq!(b.try_acquire("guarded", 20_000).await, Ok(false));
    assert!(failed_release(b.release("guarded").await));
    assert!(failed_extension(b.extend("guarded", 1_000).await));
    assert!(guard.is_held());
    a.release("k").await.unwrap();
    assert!(failed_release(a.release("k").await), "released twice");
}

#[tokio::test]
async fn late_poll_after_lease_end_returns_an_error() {
    let cluster = Cluster::start(3, MAX_TTL).await;
    let client = cluster.client("client").await;
    let mut late = std::pin::pin!(client.try_acquire("k", 500));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(late.as_mut().poll(&mut context).is_pending());
    until("the grant", || client.status().waiting == 0).await;
    until("the end of the lease", || client.status().held == 0).await;
    assert_eq!(client.try_acquire("k", 20_000).await, Ok(true));
    let told = within("the one who is late", late).await;
    assert!(
        matches!(told, Err(ClusterError::LockAcquisitionFailed(_))),
        "{told:?}"
    );
    // The late result does not release the lock that the node holds now.
    client.release("k").await.unwrap();
}

#[tokio::test]
async fn extend_adds_to_the_remaining_lease() {
    let cluster = Cluster::start(3, MAX_TTL).await;
    let lock = &cluster.nodes[0];
    assert!(failed_extension(lock.extend("k", 1_000).await));
    assert_eq!(lock.try_acquire("k", 10_000).await, Ok(true));
    lock.extend("k", 15_000).await.unwrap();
    let seen = cluster.nodes[1].inspect("k").await.unwrap();
    let remaining = seen.owner().cloned().unwrap().remaining;
    assert!(remaining > Duration::from_secs(15), "{remaining:?}");
    assert!(remaining <= Duration::from_secs(25), "{remaining:?}");
    let error = lock.extend("k", 15_000).await.unwrap_err();
    assert!(error.to_string().contains("exceed max_ttl, 30s"), "{error}");
    let error = lock.extend("k", u64::MAX).await.unwrap_err();
    assert!(matches!(error, ClusterError::LockAcquisitionFailed(_)));
    DistributedLock::release(lock, "k").await.unwrap();
}

#[tokio::test]
async fn extended_lock_outlives_ttl_and_then_ends() {
    let cluster = Cluster::start(3, MAX_TTL).await;
    let (lock, other) = (&cluster.nodes[0], &cluster.nodes[1]);
    let ttl = Duration::from_millis(600);
    let asked_at = std::time::Instant::now();
    assert_eq!(lock.try_acquire("k", 600).await, Ok(true));
    lock.extend("k", 1_000).await.unwrap();
    until("the end of the lease", || lock.status().held == 0).await;
    assert!(asked_at.elapsed() > ttl * 2, "{:?}", asked_at.elapsed());
    assert_eq!(other.try_acquire("k", 1_000).await, Ok(true));
}

#[tokio::test]
async fn try_acquire_without_quorum_is_an_error() {
    let cluster = Cluster::start(3, MAX_TTL).await;
    let ids: Vec<_> = cluster.nodes.iter().map(Mesh::id).cloned().collect();
    let client = cluster.named("client").try_timeout(Duration::from_secs(2));
    let client = client.start().await.unwrap();
    let alone = cluster.named("n9").try_timeout(Duration::from_secs(2));
    let alone = alone.start().await.unwrap();
    crate::common::sees_all(&client).await;
    crate::common::sees_all(&alone).await;
    // `client` reaches one voter, `alone` none.
    cluster.links.partition(&[client.id()], &ids[1..]);
    cluster.links.partition(&[alone.id()], &ids);
    let error = client.try_acquire("k", 20_000).await.unwrap_err();
    assert!(
        matches!(error, ClusterError::LockAcquisitionFailed(_)),
        "{error}"
    );
    let text = error.to_string();
    assert!(text.contains("1 of 3 votes"), "{text}");
    assert!(text.contains("2 did not answer"), "{text}");
    let error = alone.try_acquire("k", 20_000).await.unwrap_err();
    assert!(matches!(error, ClusterError::ConnectionError(_)), "{error}");
    // The failed claim holds nothing and does not block the next one.
    assert!(failed_release(DistributedLock::release(&client, "k").await));
    let next = cluster.nodes[1].try_acquire("k", 20_000);
    assert_eq!(within("another's turn", next).await, Ok(true));
}

#[tokio::test]
async fn requests_invalid_or_after_shutdown_are_errors() {
    let cluster = Cluster::start(1, MAX_TTL).await;
    let lock = &cluster.nodes[0];
    for (key, ttl_ms, words) in [
        ("", 1_000, "key is empty; it must have 1 to 256 bytes"),
        (&*"k".repeat(257), 1_000, "key has 257 bytes"),
        ("k", 99, "ttl is 99ms; it must be 100ms to 30s"),
        ("k", 30_001, "ttl is 30.001s; it must be 100ms to 30s"),
        ("k", u64::MAX, "it must be 100ms to 30s"),
    ] {
        let error = lock.try_acquire(key, ttl_ms).await.unwrap_err();
        assert!(matches!(error, ClusterError::LockAcquisitionFailed(_)));
        assert!(error.to_string().contains(words), "{error}");
    }
    lock.shutdown().await;
    let error = lock.try_acquire("k", 1_000).await.unwrap_err();
    assert!(matches!(error, ClusterError::Internal(_)), "{error}");
    assert!(failed_extension(lock.extend("k", 1_000).await));
    assert!(failed_release(DistributedLock::release(lock, "k").await));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_try_acquire_returns_true_exactly_once() {
    const TASKS: usize = 16;
    let cluster = Cluster::start(3, MAX_TTL).await;
    for round in 0..60 {
        let start = Arc::new(Barrier::new(TASKS));
        let tasks = (0..TASKS).map(|n| {
            let lock = as_trait(&cluster.nodes[n % 3]);
            let start = start.clone();
            tokio::spawn(async move {
                start.wait().await;
                lock.try_acquire("k", 20_000).await
            })
        });
        let tasks: Vec<_> = tasks.collect();
        let mut winners = Vec::new();
        for (n, task) in tasks.into_iter().enumerate() {
            let answer = within("an answer", task).await.unwrap();
            if answer.unwrap_or_else(|error| panic!("round {round}: {error}")) {
                winners.push(n % 3);
            }
        }
        assert_eq!(winners.len(), 1, "round {round}: {winners:?}");
        // A quorum has confirmed the lease, not only the reservation of one second.
        let seen = cluster.nodes[winners[0]].inspect("k").await.unwrap();
        let remaining = seen.owner().cloned().unwrap().remaining;
        assert!(remaining > Duration::from_secs(2), "{remaining:?}");
        for (n, node) in cluster.nodes.iter().enumerate() {
            let released = DistributedLock::release(node, "k").await;
            assert_eq!(released.is_ok(), n == winners[0], "round {round}");
        }
    }
}
