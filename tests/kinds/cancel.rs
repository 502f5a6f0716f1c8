//! Each future is dropped at each of its await points. Nothing must be left behind.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use lockmesh::{Guard, Mesh};
use lockmesh_harness::InMemoryLocks;

use crate::common::until;

type Boxed = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Far below a lease: nothing waits for one to end.
const SOON: Duration = Duration::from_secs(1);
const PERMITS: usize = 3;
const KEYS: [&str; 3] = ["a", "b", "c"];

/// Polls a future this many times, and drops it. Returns `true` if it was done before.
async fn is_done_in(polls: usize, mut future: Boxed) -> bool {
    let mut left = polls;
    poll_fn(move |cx| {
        if left == 0 {
            return Poll::Ready(false);
        }
        left -= 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(true),
            Poll::Pending if left == 0 => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

async fn hold(mesh: &Mesh, key: &str) -> Guard {
    mesh.lock(key).acquire().await.unwrap()
}

/// Takes every permit and every key, which shows that none has leaked.
async fn all_is_free(mesh: &Mesh) {
    let permits = mesh.semaphore("pool", PERMITS).acquire_timeout(SOON);
    drop(permits.acquire_many(PERMITS).await.unwrap());
    drop(mesh.lock_all(KEYS).acquire_timeout(SOON).await.unwrap());
    let election = mesh.election("jobs").acquire_timeout(SOON);
    drop(election.campaign().await.unwrap());
}

/// Drops the future of `start` after each number of polls, until it completes. Meanwhile another
/// node holds `taken`, and releases it one after another.
async fn cancel_at_each_await(taken: &[&str], start: impl Fn(&Mesh) -> Boxed) {
    let mut points = 0;
    loop {
        let locks = InMemoryLocks::new();
        let [a, b, c] = ["a", "b", "c"].map(|name| locks.node(name));
        let mut held = Vec::new();
        for key in taken {
            held.push(hold(&a, key).await);
        }
        let future = start(&b);
        let frees = tokio::spawn(async move {
            for guard in held {
                tokio::time::sleep(Duration::from_millis(20)).await;
                guard.release().await.unwrap();
            }
        });
        let is_done = is_done_in(points, future).await;
        until("nothing is held", || b.status().held == 0).await;
        assert_eq!(b.status().waiting, 0, "after {points} polls");
        frees.await.unwrap();
        all_is_free(&c).await;
        if is_done {
            break;
        }
        points += 1;
    }
    assert!(points > 1, "it has await points");
}

/// Returns the future of a request, whose guards are dropped at once.
macro_rules! of {
    ($mesh:ident => $request:expr) => {
        |$mesh: &Mesh| -> Boxed {
            let request = $request;
            Box::pin(async move { drop(request.await.unwrap()) })
        }
    };
}

#[tokio::test(start_paused = true)]
async fn permit_never_leaks_when_dropped() {
    for taken in [&[][..], &["pool#0"], &["pool#0", "pool#1", "pool#2"]] {
        cancel_at_each_await(taken, of!(b => b.semaphore("pool", PERMITS).acquire())).await;
        cancel_at_each_await(taken, of!(b => b.semaphore("pool", PERMITS).try_acquire())).await;
    }
}

#[tokio::test(start_paused = true)]
async fn many_permits_never_leak_when_dropped() {
    for taken in [
        &[][..],
        &["pool#1"],
        &["pool#many"],
        &["pool#2", "pool#many", "pool#0"],
    ] {
        for wanted in 1..=PERMITS {
            cancel_at_each_await(
                taken,
                of!(b => b.semaphore("pool", PERMITS).acquire_many(wanted)),
            )
            .await;
            cancel_at_each_await(
                taken,
                of!(b => b.semaphore("pool", PERMITS).try_acquire_many(wanted)),
            )
            .await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn keys_are_never_half_locked_when_dropped() {
    for taken in [&[][..], &["a"], &["b"], &["c", "a"], &["c", "b", "a"]] {
        cancel_at_each_await(taken, of!(b => b.lock_all(KEYS).acquire())).await;
        cancel_at_each_await(taken, of!(b => b.lock_all(KEYS).try_acquire())).await;
    }
}

#[tokio::test(start_paused = true)]
async fn campaign_leaves_nothing_when_dropped() {
    let jobs = |mesh: &Mesh| mesh.election("jobs").ttl(Duration::from_secs(3));
    for taken in [&[][..], &["jobs#leader"]] {
        cancel_at_each_await(taken, |b: &Mesh| {
            let jobs = jobs(b);
            Box::pin(async move { drop(jobs.campaign().await.unwrap()) })
        })
        .await;
        cancel_at_each_await(taken, |b: &Mesh| {
            let jobs = jobs(b);
            Box::pin(async move { drop(jobs.try_campaign().await.unwrap()) })
        })
        .await;
        cancel_at_each_await(taken, |b: &Mesh| {
            let jobs = jobs(b);
            Box::pin(async move {
                let leadership = jobs.campaign().await.unwrap();
                leadership.resign().await.unwrap();
            })
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn release_of_all_completes_when_dropped() {
    cancel_at_each_await(&[], |b: &Mesh| {
        let (all, pool) = (b.lock_all(KEYS), b.semaphore("pool", PERMITS));
        Box::pin(async move {
            let (all, permits) = tokio::join!(all.acquire(), pool.acquire_many(2));
            // Both are batched, so that each release yields.
            let (all, permits) = tokio::join!(all.unwrap().release(), permits.unwrap().release());
            all.unwrap();
            permits.unwrap();
        })
    })
    .await;
}
