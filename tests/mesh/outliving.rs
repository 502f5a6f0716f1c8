//! Locks acquired through the trait outlive their process; guards do not.

use std::task::{Context, Waker};
use std::time::Duration;

use lockmesh::{ClusterError, DistributedLock};

use crate::common::{client, until, voters, within};

const MAX_TTL: Duration = Duration::from_secs(60);
/// Longer than any test here takes, in milliseconds.
const LONG_MS: u64 = 50_000;

#[tokio::test]
async fn trait_lock_outlives_shutdown() {
    let cluster = voters(3, MAX_TTL).await;
    let other = cluster.node(0);
    let mesh = client(&cluster, "client").await;
    let guard = mesh.lock("guarded").acquire().await.unwrap();
    assert_eq!(mesh.try_acquire("tick", LONG_MS).await, Ok(true));
    mesh.shutdown().await;
    assert!(!guard.is_held());
    assert_eq!(other.try_acquire("tick", LONG_MS).await, Ok(false));
    let next = within("what the guard held", other.lock("guarded").acquire()).await;
    assert!(next.unwrap().is_held());
    // The next incarnation does not hold the lock, and gets the same result as its peers.
    let again = client(&cluster, "client").await;
    assert_eq!(again.try_acquire("tick", LONG_MS).await, Ok(false));
    assert!(DistributedLock::release(&again, "tick").await.is_err());
    assert_eq!(other.try_acquire("tick", LONG_MS).await, Ok(false));
}

#[tokio::test]
async fn trait_lock_outlives_crash_and_restart() {
    let cluster = voters(3, MAX_TTL).await;
    let other = cluster.node(0);
    let mesh = client(&cluster, "client").await;
    assert_eq!(mesh.try_acquire("tick", LONG_MS).await, Ok(true));
    mesh.abort();
    // The client is silent, but a quorum has voted for it, so it may have been granted.
    let told = within("an answer", other.try_acquire("tick", LONG_MS)).await;
    assert_eq!(told, Ok(false));
    let again = client(&cluster, "client").await;
    assert_eq!(again.try_acquire("tick", LONG_MS).await, Ok(false));
    assert_eq!(other.try_acquire("tick", LONG_MS).await, Ok(false));
}

#[tokio::test]
async fn trait_lock_outlives_the_last_handle() {
    let cluster = voters(3, MAX_TTL).await;
    let mesh = client(&cluster, "client").await;
    assert_eq!(mesh.try_acquire("tick", LONG_MS).await, Ok(true));
    drop(mesh);
    let other = cluster.node(0);
    assert_eq!(other.try_acquire("tick", LONG_MS).await, Ok(false));
}

/// The future is polled once, and dropped after the grant.
#[tokio::test]
async fn dropped_try_acquire_leaves_no_lock() {
    let cluster = voters(3, MAX_TTL).await;
    let mesh = client(&cluster, "client").await;
    {
        let mut asked = std::pin::pin!(mesh.try_acquire("tick", LONG_MS));
        let mut context = Context::from_waker(Waker::noop());
        assert!(asked.as_mut().poll(&mut context).is_pending());
        until("it is granted", || mesh.status().held == 1).await;
    }
    let next = within("the next", cluster.node(0).lock("tick").acquire()).await;
    assert!(next.unwrap().is_held());
}

#[tokio::test]
async fn late_poll_after_lease_end_returns_an_error() {
    let cluster = voters(3, MAX_TTL).await;
    let mesh = client(&cluster, "client").await;
    let mut late = std::pin::pin!(mesh.try_acquire("k", 500));
    let mut context = Context::from_waker(Waker::noop());
    assert!(late.as_mut().poll(&mut context).is_pending());
    until("the grant", || mesh.status().waiting == 0).await;
    until("the end of the lease", || mesh.status().held == 0).await;
    assert_eq!(mesh.try_acquire("k", 20_000).await, Ok(true));
    let told = within("the one who is late", late).await;
    let failed = matches!(told, Err(ClusterError::LockAcquisitionFailed(_)));
    assert!(failed, "{told:?}");
    // The late result does not release the lock that the node holds now.
    mesh.release("k").await.unwrap();
}

#[tokio::test]
async fn try_acquire_without_quorum_is_an_error() {
    let patience = Duration::from_secs(2);
    let settings = crate::common::settings(3, 1, MAX_TTL);
    let settings = settings.configure(move |mesh| mesh.try_timeout(patience));
    let cluster = settings.start().await.unwrap();
    let mesh = cluster.node(3);
    cluster.partition([3], [1, 2]);
    let error = mesh.try_acquire("k", 20_000).await.unwrap_err();
    let failed = matches!(error, ClusterError::LockAcquisitionFailed(_));
    let text = error.to_string();
    assert!(
        failed && text.contains("1 of 3 votes (2 did not answer)"),
        "{text}"
    );
    // The failed claim holds nothing and does not block the next one.
    assert!(DistributedLock::release(&mesh, "k").await.is_err());
    let other = cluster.node(1);
    let next = within("another's turn", other.try_acquire("k", 20_000)).await;
    assert_eq!(next, Ok(true));
    cluster.cut(3, 0);
    let error = mesh.try_acquire("l", 20_000).await.unwrap_err();
    assert!(matches!(error, ClusterError::ConnectionError(_)), "{error}");
}
