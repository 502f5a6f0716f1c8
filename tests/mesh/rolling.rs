//! A rolling restart of all voters while one guard is held.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lockmesh::{Guard, Mesh};
use lockmesh_harness::LocalMesh;

use crate::common::{Ledger, PATIENCE, restart_elsewhere, settings, until, within, work};

const MAX_TTL: Duration = Duration::from_secs(3);

/// Tries repeatedly for the held lock, and panics if it is granted. Returns the number of denials.
fn rival(mesh: Mesh, stop: Arc<AtomicBool>) -> tokio::task::JoinHandle<u32> {
    tokio::spawn(async move {
        let mut denied = 0;
        while !stop.load(Ordering::SeqCst) {
            let request = mesh.lock("held").acquire_timeout(Duration::from_secs(2));
            match request.try_acquire().await {
                Ok(Some(guard)) => panic!("a second owner, with epoch {}", guard.epoch()),
                Ok(None) => denied += 1,
                // During a restart there may be no quorum.
                Err(_) => {}
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        denied
    })
}

/// Restarts node `n` without memory: after a shutdown without a handover at the same address if `n` is even, else
/// after a crash at another address.
async fn restart(cluster: &LocalMesh, n: usize, guard: &Guard) {
    if n.is_multiple_of(2) {
        within("the shutdown", cluster.shutdown(n)).await;
        cluster.restart(n).await.unwrap();
    } else {
        restart_elsewhere(cluster, n).await;
    }
    let node = cluster.node(n);
    assert!(node.status().quarantine.is_some());
    until("it votes again", || {
        assert!(guard.is_held(), "lost while n{n} restarts");
        node.status().quarantine.is_none()
    })
    .await;
    cluster.wait_until_stable().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guard_survives_rolling_restart_of_all_voters() {
    let settings = settings(3, 2, MAX_TTL).patience(PATIENCE);
    let settings = settings.configure(|mesh| {
        let mesh = mesh.handover_timeout(Duration::ZERO);
        mesh.try_timeout(PATIENCE)
    });
    let cluster = settings.start().await.unwrap();
    let ledger = Arc::new(Ledger::default());
    let (holder, others) = (cluster.node(3), cluster.node(4));
    let guard = holder.lock("held").ttl(MAX_TTL).acquire().await.unwrap();
    let guard = ledger.enter(guard).expect("it is held");
    let stop = Arc::new(AtomicBool::new(false));
    let rival = rival(others.clone(), stop.clone());
    for n in 0..3 {
        restart(&cluster, n, &guard).await;
        // Other locks can be acquired in the meantime.
        for mesh in [&others, &cluster.node(n)] {
            work(mesh.clone(), "other".to_owned(), 2, ledger.clone()).await;
        }
    }
    stop.store(true, Ordering::SeqCst);
    let denied = within("the rival", rival).await.unwrap();
    assert!(denied > 0, "nobody ever tried");
    assert!(guard.is_held());
    let seen = cluster.node(0).inspect("held").await.unwrap();
    let owner = seen.owner().expect("an owner");
    assert_eq!((owner.node.as_str(), owner.epoch), ("n3", guard.epoch()));
    let epoch = guard.epoch();
    assert!(ledger.leave(guard).await);
    let next = within("the next", others.lock("held").acquire()).await;
    let next = next.unwrap();
    assert!(next.epoch() > epoch);
    assert!(ledger.enter(next).is_some());
    ledger.check();
}
