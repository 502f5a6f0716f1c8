//! A rolling restart of all voters while one guard is held.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lockmesh::{Guard, Mesh};

use crate::common::{Cluster, Ledger, sees_all, until, within, work};

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

/// Restarts node `n` without memory: after a shutdown at the same address if `n` is even, else
/// after a crash at another address.
async fn restart(cluster: &mut Cluster, n: usize, guard: &Guard) {
    let was = cluster.nodes[n].clone();
    if n.is_multiple_of(2) {
        within("the shutdown", was.shutdown()).await;
        let builder = cluster.named_at(was.id().as_str(), was.local_addr());
        cluster.nodes[n] = builder.start().await.unwrap();
    } else {
        was.abort();
        cluster.restart(n).await;
    }
    assert!(cluster.nodes[n].status().quarantine.is_some());
    let node = &cluster.nodes[n];
    until("it votes again", || {
        assert!(guard.is_held(), "lost while n{n} restarts");
        node.status().quarantine.is_none()
    })
    .await;
    cluster.ready().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guard_survives_rolling_restart_of_all_voters() {
    let mut cluster = Cluster::start(3, MAX_TTL).await;
    let ledger = Arc::new(Ledger::default());
    let holder = cluster.client("holder").await;
    let others = cluster.client("rival").await;
    let guard = holder.lock("held").ttl(MAX_TTL).acquire().await.unwrap();
    let guard = ledger.enter(guard).expect("it is held");
    let stop = Arc::new(AtomicBool::new(false));
    let rival = rival(others.clone(), stop.clone());
    for n in 0..3 {
        restart(&mut cluster, n, &guard).await;
        // Other locks can be acquired in the meantime.
        for mesh in [&others, &cluster.nodes[n]] {
            work(mesh.clone(), "other".to_owned(), 2, ledger.clone()).await;
        }
    }
    stop.store(true, Ordering::SeqCst);
    let denied = within("the rival", rival).await.unwrap();
    assert!(denied > 0, "nobody ever tried");
    assert!(guard.is_held());
    let seen = cluster.nodes[0].inspect("held").await.unwrap();
    let owner = seen.owner().cloned().expect("an owner");
    assert_eq!(
        (owner.node.as_str(), owner.epoch),
        ("holder", guard.epoch())
    );
    let epoch = guard.epoch();
    assert!(ledger.leave(guard).await);
    sees_all(&others).await;
    let next = within("the next", others.lock("held").acquire())
        .await
        .unwrap();
    assert!(next.epoch() > epoch);
    assert!(ledger.enter(next).is_some());
    ledger.check();
}
