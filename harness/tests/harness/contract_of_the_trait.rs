//! The contract of the trait `DistributedLock`, tested over each backend.

use std::sync::Arc;
use std::time::Duration;

use lockmesh::{ClusterError, DistributedLock};
use tokio::time::Instant;

use crate::common::{Backend, over_all_backends, until, within};

over_all_backends! {
    concurrent_try_acquire_returns_true_exactly_once,
    try_acquire_returns_false_on_holding_node,
    trait_lock_ends_unless_extended,
    release_fails_unless_caller_holds_the_lock,
    extend_adds_to_the_remaining_lease,
    extend_without_the_lock_is_an_error,
    invalid_key_or_ttl_is_an_error,
    shut_down_mesh_returns_errors,
    trait_lock_lasts_its_ttl_after_shutdown,
    release_after_lease_end_is_an_error,
    task_may_release_lock_of_another_task,
}

fn locks(backend: &Backend) -> [Arc<dyn DistributedLock>; 2] {
    [Arc::new(backend.a.clone()), Arc::new(backend.b.clone())]
}

async fn concurrent_try_acquire_returns_true_exactly_once(backend: Backend) {
    let locks = locks(&backend);
    for round in 0..10 {
        // Each round has its own key, since a release may still be in flight.
        let key = format!("k{round}");
        let tries = (0..8).map(|n| {
            let (lock, key) = (locks[n % 2].clone(), key.clone());
            tokio::spawn(async move { lock.try_acquire(&key, 50_000).await })
        });
        let mut winners = Vec::new();
        for (n, tried) in tries.collect::<Vec<_>>().into_iter().enumerate() {
            if within("an answer", tried).await.unwrap().unwrap() {
                winners.push(n % 2);
            }
        }
        assert_eq!(winners.len(), 1, "round {round}");
        // A quorum has confirmed the lease, not only the reservation.
        let seen = backend.a.inspect(&key).await.unwrap();
        assert!(seen.owner().unwrap().remaining > Duration::from_secs(20));
        locks[winners[0]].release(&key).await.unwrap();
    }
}

async fn try_acquire_returns_false_on_holding_node(backend: Backend) {
    let [a, b] = locks(&backend);
    assert_eq!(backend.a.held("k"), None);
    assert_eq!(a.try_acquire("k", 50_000).await, Ok(true));
    let owner = backend.a.inspect("k").await.unwrap();
    assert_eq!(backend.a.held("k"), owner.owner().map(|owner| owner.epoch));
    assert_eq!(a.try_acquire("k", 50_000).await, Ok(false));
    assert_eq!(b.try_acquire("k", 50_000).await, Ok(false));
    let guard = backend.a.lock("guarded").acquire().await.unwrap();
    assert_eq!(a.try_acquire("guarded", 50_000).await, Ok(false));
    drop(guard);
}

async fn trait_lock_ends_unless_extended(backend: Backend) {
    let [a, b] = locks(&backend);
    let asked_at = Instant::now();
    assert_eq!(a.try_acquire("k", 500).await, Ok(true));
    a.extend("k", 1_000).await.unwrap();
    until("the end of the lease", || backend.a.status().held == 0).await;
    assert!(asked_at.elapsed() >= Duration::from_millis(1_350));
    // The voters' lease ends slightly later than the holder's.
    within("the next", taken(&*b)).await;
    if !backend.is_one_node() {
        assert!(failed_release(a.release("k").await));
        assert_eq!(a.try_acquire("k", 50_000).await, Ok(false));
    }
    b.release("k").await.unwrap();
}

/// Acquires `k` as soon as it is free.
async fn taken(lock: &dyn DistributedLock) {
    while !lock.try_acquire("k", 50_000).await.unwrap() {
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}

fn failed_release(released: Result<(), ClusterError>) -> bool {
    matches!(released, Err(ClusterError::LockReleaseFailed(_)))
}

fn failed_extension(extended: Result<(), ClusterError>) -> bool {
    matches!(extended, Err(ClusterError::LockAcquisitionFailed(_)))
}

async fn release_fails_unless_caller_holds_the_lock(backend: Backend) {
    let [a, b] = locks(&backend);
    assert!(failed_release(a.release("k").await));
    assert_eq!(a.try_acquire("k", 50_000).await, Ok(true));
    if !backend.is_one_node() {
        assert!(failed_release(b.release("k").await));
        assert_eq!(b.try_acquire("k", 50_000).await, Ok(false));
    }
    let guard = backend.b.lock("guarded").acquire().await.unwrap();
    assert!(failed_release(b.release("guarded").await));
    assert!(failed_extension(b.extend("guarded", 1_000).await));
    assert!(guard.is_held());
    a.release("k").await.unwrap();
    assert!(failed_release(a.release("k").await), "released twice");
    within("what was released", taken(&*b)).await;
}

async fn extend_adds_to_the_remaining_lease(backend: Backend) {
    let [a, _] = locks(&backend);
    assert_eq!(a.try_acquire("k", 20_000).await, Ok(true));
    a.extend("k", 30_000).await.unwrap();
    let seen = backend.b.inspect("k").await.unwrap();
    let remaining = seen.owner().unwrap().remaining;
    assert!(
        remaining > Duration::from_secs(35) && remaining <= Duration::from_secs(50),
        "{remaining:?}"
    );
    let error = a.extend("k", 30_000).await.unwrap_err();
    assert!(error.to_string().contains("exceed max_ttl, 60s"), "{error}");
    assert!(failed_extension(a.extend("k", u64::MAX).await));
    a.release("k").await.unwrap();
}

async fn extend_without_the_lock_is_an_error(backend: Backend) {
    let [a, b] = locks(&backend);
    assert!(failed_extension(a.extend("k", 1_000).await));
    assert_eq!(a.try_acquire("k", 20_000).await, Ok(true));
    if !backend.is_one_node() {
        assert!(failed_extension(b.extend("k", 1_000).await));
    }
    a.release("k").await.unwrap();
    assert!(failed_extension(a.extend("k", 1_000).await));
}

async fn invalid_key_or_ttl_is_an_error(backend: Backend) {
    let [a, _] = locks(&backend);
    for (key, ttl_ms) in [("", 1_000), ("k", 99), ("k", 60_001), ("k", u64::MAX)] {
        let error = a.try_acquire(key, ttl_ms).await.unwrap_err();
        assert!(matches!(error, ClusterError::LockAcquisitionFailed(_)));
    }
}

async fn shut_down_mesh_returns_errors(backend: Backend) {
    let [a, b] = locks(&backend);
    assert_eq!(a.try_acquire("k", 50_000).await, Ok(true));
    within("the shutdown", backend.a.shutdown()).await;
    let error = a.try_acquire("k", 50_000).await.unwrap_err();
    assert!(matches!(error, ClusterError::Internal(_)), "{error}");
    assert!(failed_release(a.release("k").await));
    assert!(failed_extension(a.extend("k", 1_000).await));
    if !backend.is_one_node() {
        // Its lock lasts until the end of its TTL.
        assert_eq!(b.try_acquire("k", 50_000).await, Ok(false));
    }
}

async fn trait_lock_lasts_its_ttl_after_shutdown(backend: Backend) {
    let [a, b] = locks(&backend);
    let asked_at = Instant::now();
    assert_eq!(a.try_acquire("k", 2_000).await, Ok(true));
    within("the shutdown", backend.a.shutdown()).await;
    if !backend.is_one_node() {
        within("the end of its ttl", taken(&*b)).await;
        let elapsed = asked_at.elapsed();
        assert!(elapsed > Duration::from_millis(1_900), "{elapsed:?}");
    }
}

/// The second task holds the lock when the first one extends and releases.
async fn release_after_lease_end_is_an_error(backend: Backend) {
    let [a, _] = locks(&backend);
    let (late, (over, is_over)) = (a.clone(), tokio::sync::oneshot::channel());
    let (taken_by, other) = tokio::sync::oneshot::channel();
    let first = tokio::spawn(async move {
        assert_eq!(late.try_acquire("k", 300).await, Ok(true));
        over.send(()).unwrap();
        other.await.unwrap();
        let extended = late.extend("k", 1_000).await;
        (extended, late.release("k").await)
    });
    is_over.await.unwrap();
    let lock = a.clone();
    let second = tokio::spawn(async move {
        within("the end of the first lease", taken(&*lock)).await;
        taken_by.send(()).unwrap();
        lock
    });
    let lock = second.await.unwrap();
    let (extended, released) = within("the first one", first).await.unwrap();
    assert!(failed_extension(extended));
    assert!(failed_release(released));
    assert_eq!(lock.try_acquire("k", 50_000).await, Ok(false));
    lock.release("k").await.unwrap();
}

async fn task_may_release_lock_of_another_task(backend: Backend) {
    let [a, _] = locks(&backend);
    for _ in 0..2 {
        let lock = a.clone();
        let acquires = tokio::spawn(async move { taken(&*lock).await });
        within("the first task", acquires).await.unwrap();
        let lock = a.clone();
        let releases = tokio::spawn(async move { lock.release("k").await });
        assert_eq!(releases.await.unwrap(), Ok(()));
    }
}
