//! What is particular to locks in memory.

use std::time::Duration;

use lockmesh::harness::InMemoryLocks;
use lockmesh::{Mesh, Timing};
use tokio::time::Instant;

const TTL: Duration = Duration::from_secs(10);

#[tokio::test(start_paused = true)]
async fn an_hour_of_renewals_takes_no_time_of_the_test() {
    let locks = InMemoryLocks::new();
    let guard = locks.node("a").lock("k").acquire().await.unwrap();
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    assert!(guard.is_held());
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_leaps_over_a_lease_finds_it_lost() {
    let locks = InMemoryLocks::new();
    let guard = locks.node("a").lock("k").ttl(TTL).acquire().await.unwrap();
    tokio::time::advance(TTL - Duration::from_secs(1)).await;
    assert!(guard.is_held());
    tokio::time::advance(TTL * 2).await;
    assert!(!guard.is_held());
}

#[tokio::test(start_paused = true)]
async fn a_free_lock_takes_no_time_and_its_lease_exactly_its_ttl() {
    let locks = InMemoryLocks::new();
    let (a, b) = (locks.node("a"), locks.node("b"));
    let began = Instant::now();
    let request = a.lock("k").ttl(TTL).auto_renew(false);
    let guard = request.acquire().await.unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO);
    guard.lost().await;
    let lost_after = began.elapsed();
    drop(b.lock("k").acquire().await.unwrap());
    let free_after = began.elapsed();
    // A lease is counted shorter by the drift of clocks.
    assert!(lost_after <= free_after && lost_after > TTL * 99 / 100);
    assert!(free_after < TTL + Duration::from_secs(1), "{free_after:?}");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_cut_off_loses_its_locks_to_the_next_in_line() {
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
async fn a_node_is_the_same_until_it_is_shut_down_and_then_a_new_incarnation() {
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
async fn a_new_incarnation_frees_what_its_former_incarnation_held_when_it_crashed() {
    let locks = InMemoryLocks::new();
    let guard = locks.node("a").lock("k").acquire().await.unwrap();
    let began = Instant::now();
    locks.node("a").crash().await;
    let next = locks.node("a").lock("k").acquire().await.unwrap();
    assert!(began.elapsed() < TTL / 2);
    assert!(next.epoch() > guard.epoch());
}

#[tokio::test(start_paused = true)]
async fn a_mesh_outlives_the_locks_that_it_came_from() {
    let mesh = InMemoryLocks::new().node("a");
    let guard = mesh.lock("k").acquire().await.unwrap();
    tokio::time::sleep(TTL * 3).await;
    assert!(guard.is_held());
    assert!(mesh.status().is_ready);
    mesh.ready(TTL).await.unwrap();
    assert!(mesh.lock("k").try_acquire().await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn the_settings_are_those_of_a_builder() {
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
async fn a_node_has_a_name_that_can_be() {
    let _ = InMemoryLocks::new().node("");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tasks_on_many_threads_take_turns() {
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
