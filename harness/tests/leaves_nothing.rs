//! A dropped harness leaves no task, socket or thread in its process.

use std::time::Duration;

use lockmesh::Durability;
use lockmesh_harness::{InMemoryLocks, LocalMesh};

/// Waits until `is_so` returns `true`, without a task of its own.
async fn until(what: &str, is_so: impl Fn() -> bool) {
    let look = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    };
    let patience = Duration::from_secs(60);
    let in_time = tokio::time::timeout(patience, look).await;
    assert!(in_time.is_ok(), "{what}: not in {patience:?}");
}

#[cfg(target_os = "linux")]
fn count(folder: &str) -> usize {
    std::fs::read_dir(folder).map_or(0, Iterator::count)
}

#[cfg(not(target_os = "linux"))]
fn count(_: &str) -> usize {
    0
}

fn alive_tasks() -> usize {
    tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks()
}

#[tokio::test]
async fn dropped_harness_leaves_no_task_socket_or_thread() {
    let now = || {
        let (fds, threads) = (count("/proc/self/fd"), count("/proc/self/task"));
        (alive_tasks(), fds, threads)
    };
    let before = now();
    let mesh = LocalMesh::builder().data_dirs(Durability::Machine);
    let mesh = mesh.start().await.unwrap();
    // These datagrams stay in flight for longer than the test.
    let hour = Duration::from_secs(3_600);
    mesh.link(0, 1).delay(hour..hour).duplicate(1.0);
    let handle = mesh.node(0);
    let guard = handle.lock("k").acquire().await.unwrap();
    mesh.crash(1).await;
    mesh.restart(1).await.unwrap();
    mesh.pause(2);
    mesh.shutdown(3).await;
    mesh.crash_machine(4).await.unwrap();
    assert!(alive_tasks() > before.0);
    drop(mesh);
    until("all is as it was", || now() == before).await;
    drop((guard, handle));

    let locks = InMemoryLocks::new();
    let (a, b) = (locks.node("a"), locks.node("b"));
    let guard = a.lock("k").acquire().await.unwrap();
    let waits = tokio::spawn(b.lock("k").acquire());
    tokio::task::yield_now().await;
    waits.abort();
    drop((locks, a, b));
    assert!(guard.is_held());
    assert!(alive_tasks() > before.0);
    drop(guard);
    until("all is as it was", || now() == before).await;
}
