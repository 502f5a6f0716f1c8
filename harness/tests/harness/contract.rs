//! The contract of requests and guards, tested over each backend.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lockmesh::{AcquireError, ExtendError, InspectError, LeaseLost, ReleaseError};
use tokio::time::Instant;

use crate::common::{Backend, over_all_backends, until, waits_for, within};

/// Longer than any of these tests: an event before it elapses did not wait for the lease to end.
const LONG: Duration = Duration::from_secs(50);
const SHORT: Duration = Duration::from_millis(400);

over_all_backends! {
    request_does_nothing_before_acquire,
    concurrent_tries_grant_exactly_one,
    try_acquire_returns_none_while_another_holds,
    epochs_of_successive_owners_increase,
    waiters_are_granted_in_order,
    dropped_acquire_withdraws_its_claim,
    timed_out_acquire_withdraws_its_claim,
    guard_returns_key_and_remaining_time,
    dropped_guard_releases_at_once,
    guard_dropped_outside_a_runtime_releases_lock,
    release_grants_lock_to_next_waiter,
    unrenewed_lease_ends_after_its_ttl,
    lease_is_renewed_until_guard_is_dropped,
    lost_returns_at_lease_end_after_a_cancellation,
    run_returns_output_or_lease_lost,
    extend_adds_up_to_max_ttl,
    invalid_key_or_ttl_is_an_error,
    guard_keeps_its_mesh_running,
    shutdown_ends_guards_and_requests,
}

async fn request_does_nothing_before_acquire(Backend { a, b, .. }: Backend) {
    let request = a.lock("k").ttl(LONG);
    let other = b.lock("k").try_acquire().await.unwrap().unwrap();
    other.release().await.unwrap();
    drop(request.acquire().await.unwrap());
}

async fn concurrent_tries_grant_exactly_one(Backend { a, b, .. }: Backend) {
    for round in 0..10 {
        let key = format!("k{round}");
        let tries = (0..8).map(|n| {
            let mesh = if n % 2 == 0 { &a } else { &b };
            tokio::spawn(mesh.lock(&key).ttl(LONG).try_acquire())
        });
        let mut guards = Vec::new();
        for tried in tries.collect::<Vec<_>>() {
            guards.extend(within("an answer", tried).await.unwrap().unwrap());
        }
        assert_eq!(guards.len(), 1, "round {round}");
        assert!(guards[0].is_held());
    }
}

async fn try_acquire_returns_none_while_another_holds(Backend { a, b, .. }: Backend) {
    let guard = a.lock("k").ttl(LONG).acquire().await.unwrap();
    for mesh in [&a, &b] {
        assert!(mesh.lock("k").try_acquire().await.unwrap().is_none());
    }
    guard.release().await.unwrap();
    // A release is not acknowledged, so it may still be in flight.
    let freed = async { while b.lock("k").try_acquire().await.unwrap().is_none() {} };
    within("a free lock", freed).await;
}

async fn epochs_of_successive_owners_increase(Backend { a, b, .. }: Backend) {
    let mut highest = None;
    for round in 0..30 {
        let mesh = if round % 3 == 0 { &a } else { &b };
        let guard = mesh.lock("k").acquire().await.unwrap();
        assert!(Some(guard.epoch()) > highest, "round {round}");
        highest = Some(guard.epoch());
        // On a slow machine a lease granted from a reservation may be over by now.
        let _ = guard.release().await;
    }
}

async fn waiters_are_granted_in_order(Backend { a, b, .. }: Backend) {
    let guard = a.lock("k").ttl(LONG).acquire().await.unwrap();
    let order = Arc::new(std::sync::Mutex::new(Vec::new()));
    let mut waiters = Vec::new();
    for n in 0..4 {
        // Not in the order of the nodes' ids.
        let mesh = if n % 2 == 0 { b.clone() } else { a.clone() };
        let order = order.clone();
        let waits = tokio::spawn(async move {
            let guard = mesh.lock("k").ttl(LONG).acquire().await.unwrap();
            order.lock().unwrap().push(n);
            guard.release().await.unwrap();
        });
        waiters.push(waits);
        waits_for(&a, "k", n + 1).await;
    }
    // `try_acquire` does not overtake the waiters.
    assert!(b.lock("k").try_acquire().await.unwrap().is_none());
    let began = Instant::now();
    guard.release().await.unwrap();
    for waiter in waiters {
        within("a turn", waiter).await.unwrap();
    }
    assert!(began.elapsed() < LONG, "no lease was waited for");
    assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3]);
}

async fn dropped_acquire_withdraws_its_claim(Backend { a, b, .. }: Backend) {
    let guard = a.lock("k").ttl(LONG).acquire().await.unwrap();
    let first = tokio::spawn(b.lock("k").ttl(LONG).acquire());
    waits_for(&a, "k", 1).await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    waits_for(&a, "k", 0).await;
    assert_eq!(b.status().waiting, 0);
    let began = Instant::now();
    guard.release().await.unwrap();
    drop(within("the next", a.lock("k").acquire()).await.unwrap());
    assert!(began.elapsed() < LONG);
}

async fn timed_out_acquire_withdraws_its_claim(Backend { a, b, .. }: Backend) {
    let guard = a.lock("k").ttl(LONG).acquire().await.unwrap();
    let patience = Duration::from_secs(2);
    let request = b.lock("k").acquire_timeout(patience);
    let error = within("the error", request.acquire()).await.unwrap_err();
    let AcquireError::TimedOut {
        waited, answers, ..
    } = &error
    else {
        panic!("{error}")
    };
    assert_eq!(*waited, patience);
    assert_eq!(answers.waiting, answers.voters, "{error}");
    waits_for(&a, "k", 0).await;
    assert!(guard.is_held());
}

async fn guard_returns_key_and_remaining_time(Backend { a, b, .. }: Backend) {
    let request = a.lock("invoice/42").ttl(LONG).auto_renew(false);
    let guard = request.acquire().await.unwrap();
    assert_eq!(guard.key(), "invoice/42");
    let remaining = guard.remaining();
    assert!(
        remaining > LONG / 2 && remaining <= LONG,
        "{remaining:?} of {LONG:?}"
    );
    assert!(guard.remaining() <= remaining);
    let seen = b.inspect("invoice/42").await.unwrap();
    let owner = seen.owner().unwrap();
    assert_eq!((&owner.node, owner.epoch), (a.id(), guard.epoch()));
}

async fn dropped_guard_releases_at_once(Backend { a, b, .. }: Backend) {
    let guard = a.lock("k").ttl(LONG).acquire().await.unwrap();
    let waits = tokio::spawn(b.lock("k").acquire());
    waits_for(&a, "k", 1).await;
    let began = Instant::now();
    drop(guard);
    drop(within("the next", waits).await.unwrap().unwrap());
    assert!(began.elapsed() < LONG);
}

async fn guard_dropped_outside_a_runtime_releases_lock(Backend { a, b, .. }: Backend) {
    let guard = a.lock("k").ttl(LONG).acquire().await.unwrap();
    let began = Instant::now();
    std::thread::spawn(move || drop(guard)).join().unwrap();
    drop(within("the next", b.lock("k").acquire()).await.unwrap());
    assert!(began.elapsed() < LONG);
}

async fn release_grants_lock_to_next_waiter(Backend { a, b, .. }: Backend) {
    let guard = a.lock("k").ttl(LONG).acquire().await.unwrap();
    let epoch = guard.epoch();
    let waits = tokio::spawn(b.lock("k").acquire());
    waits_for(&a, "k", 1).await;
    let began = Instant::now();
    assert_eq!(guard.release().await, Ok(()));
    let next = within("the next", waits).await.unwrap().unwrap();
    assert!(began.elapsed() < LONG);
    assert!(next.epoch() > epoch);
}

async fn unrenewed_lease_ends_after_its_ttl(Backend { a, b, .. }: Backend) {
    let asked_at = Instant::now();
    let request = a.lock("k").ttl(SHORT).auto_renew(false);
    let guard = request.acquire().await.unwrap();
    let next = within("the next", b.lock("k").acquire()).await.unwrap();
    // The allowance for clock drift is subtracted.
    assert!(asked_at.elapsed() >= SHORT * 9 / 10);
    assert!(!guard.is_held(), "told before another has it");
    assert!(next.epoch() > guard.epoch());
    assert_eq!(guard.remaining(), Duration::ZERO);
    assert_eq!(guard.extend(SHORT).await, Err(ExtendError::NotHeld));
    assert!(!guard.is_held());
    assert_eq!(guard.release().await, Err(ReleaseError));
    let tried = a.lock("k").try_acquire().await.unwrap();
    let is_free = tried.is_some();
    assert!(!is_free || !next.is_held(), "another's lock was released");
}

/// Depends on real time unless the clock is paused: it fails if the machine pauses it for 2.5 s.
async fn lease_is_renewed_until_guard_is_dropped(Backend { a, b, .. }: Backend) {
    let ttl = Duration::from_secs(4);
    let guard = a.lock("k").ttl(ttl).acquire().await.unwrap();
    let epoch = guard.epoch();
    let began = Instant::now();
    until("two ttls", || {
        assert!(guard.is_held(), "lost after {:?}", began.elapsed());
        assert!(guard.remaining() <= ttl);
        began.elapsed() > ttl * 2
    })
    .await;
    assert_eq!(guard.epoch(), epoch);
    assert!(b.lock("k").try_acquire().await.unwrap().is_none());
    drop(guard);
    drop(within("the next", b.lock("k").acquire()).await.unwrap());
}

async fn lost_returns_at_lease_end_after_a_cancellation(Backend { a, .. }: Backend) {
    let request = a.lock("k").ttl(SHORT).auto_renew(false);
    let guard = request.acquire().await.unwrap();
    // On a slow machine the lease may be over already.
    let _ = tokio::time::timeout(Duration::ZERO, guard.lost()).await;
    within("the end of the lease", guard.lost()).await;
    assert!(!guard.is_held());
    within("lost() of a lost guard", guard.lost()).await;
}

async fn run_returns_output_or_lease_lost(Backend { a, .. }: Backend) {
    struct Dropped(Arc<AtomicBool>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let guard = a.lock("answers").ttl(LONG).acquire().await.unwrap();
    assert_eq!(guard.run(async { 42 }).await, Ok(42));
    let request = a.lock("k").ttl(SHORT).auto_renew(false);
    let guard = request.acquire().await.unwrap();
    let stopped = Arc::new(AtomicBool::new(false));
    let dropped = Dropped(stopped.clone());
    let work = async move {
        let _dropped = dropped;
        std::future::pending::<()>().await;
    };
    assert_eq!(within("the end", guard.run(work)).await, Err(LeaseLost));
    assert!(stopped.load(Ordering::SeqCst));
    assert_eq!(guard.run(async {}).await, Err(LeaseLost));
}

async fn extend_adds_up_to_max_ttl(Backend { a, .. }: Backend) {
    let (ttl, extra) = (Duration::from_secs(20), Duration::from_secs(30));
    for renews in [true, false] {
        let request = a.lock(format!("k/{renews}")).ttl(ttl).auto_renew(renews);
        let guard = request.acquire().await.unwrap();
        let before = guard.remaining();
        guard.extend(extra).await.unwrap();
        let after = guard.remaining();
        assert!(after > ttl + extra / 2 && after <= before + extra);
        let error = guard.extend(extra).await.unwrap_err();
        assert!(error.to_string().contains("max_ttl, 60s"), "{error}");
        let ExtendError::TooLong { max, extra: by, .. } = error else {
            panic!("{error}")
        };
        assert_eq!((max, by), (Duration::from_secs(60), extra));
        assert!(guard.is_held());
    }
}

async fn invalid_key_or_ttl_is_an_error(Backend { a, b, .. }: Backend) {
    for (key, expected) in [
        (String::new(), "key is empty; it must have 1 to 256 bytes"),
        ("k".repeat(257), "key has 257 bytes; it must have 1 to 256"),
    ] {
        let error = a.lock(key).acquire().await.unwrap_err();
        assert!(matches!(error, AcquireError::Key(_)), "{error}");
        assert_eq!(error.to_string(), expected);
    }
    for ttl in [Duration::ZERO, Duration::from_millis(60_001), Duration::MAX] {
        let error = a.lock("k").ttl(ttl).try_acquire().await.unwrap_err();
        assert!(matches!(error, AcquireError::Request(_)), "{error}");
        let expected = format!("ttl is {ttl:?}; it must be 100ms to 60s");
        assert_eq!(error.to_string(), expected);
    }
    for key in ["k".repeat(256), "ключ\n\0/🔒".to_owned(), " ".to_owned()] {
        let guard = a.lock(&key).acquire().await.unwrap();
        assert_eq!(guard.key(), key);
        assert!(b.lock(&key).try_acquire().await.unwrap().is_none());
    }
}

/// Depends on real time unless the clock is paused: it fails if the machine pauses it for 2.5 s.
async fn guard_keeps_its_mesh_running(backend: Backend) {
    let ttl = Duration::from_secs(4);
    let guard = backend.a.lock("k").ttl(ttl).acquire().await.unwrap();
    let Backend { a, b, _all } = backend;
    drop((a, b));
    let began = Instant::now();
    until("two ttls", || {
        assert!(guard.is_held(), "lost after {:?}", began.elapsed());
        began.elapsed() > ttl * 2
    })
    .await;
    guard.release().await.unwrap();
}

async fn shutdown_ends_guards_and_requests(backend: Backend) {
    let Backend { a, b, .. } = &backend;
    let guard = a.lock("k").ttl(LONG).acquire().await.unwrap();
    let other = b.lock("other").ttl(LONG).acquire().await.unwrap();
    let waits = tokio::spawn(a.lock("other").acquire());
    waits_for(a, "other", 1).await;
    let began = Instant::now();
    within("the shutdown", a.shutdown()).await;
    let ended = within("the end of the wait", waits).await.unwrap();
    assert_eq!(ended.unwrap_err(), AcquireError::ShutDown);
    let error = a.lock("k").acquire().await.unwrap_err();
    assert_eq!(error.to_string(), "the mesh is shut down");
    let error = a.lock("k").try_acquire().await.unwrap_err();
    assert_eq!(error, AcquireError::ShutDown);
    let error = a.inspect("k").await.unwrap_err();
    assert_eq!(error, InspectError::ShutDown);
    let status = a.status();
    assert_eq!((status.held, status.waiting), (0, 0));
    assert!(status.is_shut_down && a.ready(Duration::ZERO).await.is_err());
    within("lost()", guard.lost()).await;
    assert_eq!(guard.release().await, Err(ReleaseError));
    if !backend.is_one_node() {
        assert!(other.is_held());
        drop(within("the next", b.lock("k").acquire()).await.unwrap());
        // The shutdown withdrew the pending claim, also at the voter of `b` if it is a voter.
        until("nobody waits", || b.status().voter_waiters == 0).await;
    }
    assert!(began.elapsed() < LONG);
    within("a second shutdown", a.shutdown()).await;
}
