//! `InMemoryLocks`: virtual time, incarnations and settings.

use std::time::Duration;

use lockmesh::{Mesh, Timing};
use lockmesh_harness::InMemoryLocks;
use tokio::time::Instant;

const TTL: Duration = Duration::from_secs(10);

#[tokio::test(start_paused = true)]
async fn clock_advance_past_lease_ends_it() {
    let locks = InMemoryLocks::new();
    let guard = locks.node("a").lock("k").ttl(TTL).acquire().await.unwrap();
    tokio::time::advance(TTL - Duration::from_secs(1)).await;
    assert!(guard.is_held());
    tokio::time::advance(TTL * 2).await;
    assert!(!guard.is_held());
}

#[tokio::test(start_paused = true)]
async fn cut_off_node_loses_lock_to_next_waiter() {
    let locks = InMemoryLocks::new();
    let (a, b) = (locks.node("a"), locks.node("b"));
    let guard = a.lock("k").ttl(TTL).acquire().await.unwrap();
    let waits = tokio::spawn(b.lock("k").acquire());
    tokio::time::sleep(Duration::from_secs(1)).await;
    locks.cut_off("a");
    guard.lost().await;
    let next = waits.await.unwrap().unwrap();
    assert!(next.epoch() > guard.epoch());
    assert!(a.lock("k").try_acquire().await.is_err());
    locks.reconnect("a");
    assert!(a.lock("k").try_acquire().await.unwrap().is_none());
    next.release().await.unwrap();
    assert!(a.lock("k").try_acquire().await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn node_after_shutdown_is_a_new_incarnation() {
    let locks = InMemoryLocks::new();
    let first = locks.node("a");
    let incarnation = first.status().incarnation;
    let guard = first.lock("k").acquire().await.unwrap();
    let same = locks.clone().node("a");
    assert_eq!(same.status().incarnation, incarnation);
    assert_eq!(same.status().held, 1);
    same.shutdown().await;
    assert!(!guard.is_held());
    let second = locks.node("a");
    assert!(second.status().incarnation > incarnation);
    let next = second.lock("k").acquire().await.unwrap();
    assert!(next.epoch() > guard.epoch());
}

#[tokio::test(start_paused = true)]
async fn new_incarnation_frees_locks_after_a_crash() {
    let locks = InMemoryLocks::new();
    let guard = locks.node("a").lock("k").acquire().await.unwrap();
    let began = Instant::now();
    locks.node("a").abort();
    let next = locks.node("a").lock("k").acquire().await.unwrap();
    assert!(began.elapsed() < TTL / 2);
    assert!(next.epoch() > guard.epoch());
}

#[tokio::test(start_paused = true)]
async fn mesh_outlives_its_in_memory_locks() {
    let mesh = InMemoryLocks::new().node("a");
    let guard = mesh.lock("k").acquire().await.unwrap();
    tokio::time::sleep(TTL * 3).await;
    assert!(guard.is_held());
    assert!(mesh.status().is_ready);
    mesh.ready(TTL).await.unwrap();
    assert!(mesh.lock("k").try_acquire().await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn settings_come_from_the_builder() {
    let max_ttl = Duration::from_secs(5);
    let timing = Timing {
        max_ttl,
        ..Timing::lan()
    };
    let builder = Mesh::builder("any").timing(timing).ttl(max_ttl);
    let mesh = InMemoryLocks::like(builder.clone()).unwrap().node("a");
    let guard = mesh.lock("k").acquire().await.unwrap();
    assert!(guard.remaining() <= max_ttl);
    assert!(mesh.lock("k").ttl(max_ttl * 2).acquire().await.is_err());
    let error = InMemoryLocks::like(builder.ttl(max_ttl * 2)).unwrap_err();
    assert_eq!(error.to_string(), "ttl is 10s; it must be 100ms to 5s");
}

#[tokio::test]
#[should_panic(expected = "node id is empty")]
async fn empty_node_name_panics() {
    let _ = InMemoryLocks::new().node("");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_on_many_threads_get_unique_epochs() {
    let locks = InMemoryLocks::new();
    let tasks = (0..16).map(|n| {
        let mesh = locks.node(&format!("n{}", n % 4));
        tokio::spawn(async move {
            let mut epochs = Vec::new();
            for _ in 0..50 {
                let guard = mesh.lock("k").acquire().await.unwrap();
                epochs.push(guard.epoch());
                tokio::task::yield_now().await;
                guard.release().await.unwrap();
            }
            epochs
        })
    });
    let mut epochs = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        epochs.extend(task.await.unwrap());
    }
    epochs.sort_unstable();
    epochs.dedup();
    assert_eq!(epochs.len(), 16 * 50, "each owner has its own epoch");
}
