//! What the trait `DistributedLock` promises, sentence by sentence, whatever is behind it.

use std::sync::Arc;
use std::time::Duration;

use lockmesh::{ClusterError, DistributedLock};
use tokio::time::Instant;

use crate::common::{Backend, over_all_backends, until, within};

over_all_backends! {
    it_is_held_by_at_most_one_at_a_time,
    false_also_where_this_very_node_has_it,
    nothing_renews_itself,
    a_release_is_never_of_anothers_lock,
    an_extension_adds_to_what_remains,
    what_is_not_held_cannot_be_extended,
    keys_and_ttls_that_cannot_be_are_errors,
    a_mesh_that_was_shut_down_says_so,
    lock_lasts_its_ttl_over_a_shutdown,
    late_release_of_another_tasks_lock_is_an_error,
    task_may_release_what_another_has_acquired,
}

fn locks(backend: &Backend) -> [Arc<dyn DistributedLock>; 2] {
    [Arc::new(backend.a.clone()), Arc::new(backend.b.clone())]
}

async fn it_is_held_by_at_most_one_at_a_time(backend: Backend) {
    let locks = locks(&backend);
    for round in 0..10 {
        // A key of its own: a release may still be on its way.
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
        locks[winners[0]].release(&key).await.unwrap();
    }
}

async fn false_also_where_this_very_node_has_it(backend: Backend) {
    let [a, b] = locks(&backend);
    assert_eq!(a.try_acquire("k", 50_000).await, Ok(true));
    assert_eq!(a.try_acquire("k", 50_000).await, Ok(false));
    assert_eq!(b.try_acquire("k", 50_000).await, Ok(false));
    let guard = backend.a.lock("guarded").acquire().await.unwrap();
    assert_eq!(a.try_acquire("guarded", 50_000).await, Ok(false));
    drop(guard);
}

async fn nothing_renews_itself(backend: Backend) {
    let [a, b] = locks(&backend);
    let asked_at = Instant::now();
    assert_eq!(a.try_acquire("k", 500).await, Ok(true));
    until("the end of the lease", || backend.a.status().held == 0).await;
    assert!(asked_at.elapsed() >= Duration::from_millis(450));
    // The voters' promise is over a little later than what its holder counts.
    within("the next", taken(&*b)).await;
    if !backend.is_one_node() {
        assert!(failed_release(a.release("k").await));
        assert_eq!(a.try_acquire("k", 50_000).await, Ok(false));
    }
    b.release("k").await.unwrap();
}

/// Takes `k` as soon as it is free.
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

async fn a_release_is_never_of_anothers_lock(backend: Backend) {
    let [a, b] = locks(&backend);
    assert!(failed_release(a.release("k").await));
    assert_eq!(a.try_acquire("k", 50_000).await, Ok(true));
    if !backend.is_one_node() {
        assert!(failed_release(b.release("k").await));
        assert_eq!(b.try_acquire("k", 50_000).await, Ok(false));
    }
    let guard = backend.b.lock("guarded").acquire().await.unwrap();
    assert!(failed_release(b.release("guarded").await));
    assert!(guard.is_held());
    a.release("k").await.unwrap();
    assert!(failed_release(a.release("k").await), "released twice");
    within("what was released", taken(&*b)).await;
}

async fn an_extension_adds_to_what_remains(backend: Backend) {
    let [a, _] = locks(&backend);
    assert_eq!(a.try_acquire("k", 20_000).await, Ok(true));
    a.extend("k", 30_000).await.unwrap();
    let owner = backend
        .b
        .inspect("k")
        .await
        .unwrap()
        .owner()
        .cloned()
        .unwrap();
    let remaining = owner.remaining;
    assert!(
        remaining > Duration::from_secs(35) && remaining <= Duration::from_secs(50),
        "{remaining:?}"
    );
    let error = a.extend("k", 30_000).await.unwrap_err();
    assert!(error.to_string().contains("exceed max_ttl, 60s"), "{error}");
    a.release("k").await.unwrap();
}

async fn what_is_not_held_cannot_be_extended(backend: Backend) {
    let [a, b] = locks(&backend);
    assert!(failed_extension(a.extend("k", 1_000).await));
    assert_eq!(a.try_acquire("k", 20_000).await, Ok(true));
    if !backend.is_one_node() {
        assert!(failed_extension(b.extend("k", 1_000).await));
    }
    a.release("k").await.unwrap();
    assert!(failed_extension(a.extend("k", 1_000).await));
}

async fn keys_and_ttls_that_cannot_be_are_errors(backend: Backend) {
    let [a, _] = locks(&backend);
    for (key, ttl_ms) in [("", 1_000), ("k", 99), ("k", 60_001), ("k", u64::MAX)] {
        let error = a.try_acquire(key, ttl_ms).await.unwrap_err();
        assert!(matches!(error, ClusterError::LockAcquisitionFailed(_)));
    }
}

async fn a_mesh_that_was_shut_down_says_so(backend: Backend) {
    let [a, b] = locks(&backend);
    assert_eq!(a.try_acquire("k", 50_000).await, Ok(true));
    within("the shutdown", backend.a.shutdown()).await;
    let error = a.try_acquire("k", 50_000).await.unwrap_err();
    assert!(matches!(error, ClusterError::Internal(_)), "{error}");
    assert!(failed_release(a.release("k").await));
    assert!(failed_extension(a.extend("k", 1_000).await));
    if !backend.is_one_node() {
        // What it held lasts its ttl.
        assert_eq!(b.try_acquire("k", 50_000).await, Ok(false));
    }
}

async fn lock_lasts_its_ttl_over_a_shutdown(backend: Backend) {
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

/// The second one has it, and the first one comes late.
async fn late_release_of_another_tasks_lock_is_an_error(backend: Backend) {
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

async fn task_may_release_what_another_has_acquired(backend: Backend) {
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
