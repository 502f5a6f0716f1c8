//! Voters without a journal that leave their votes with others when they are shut down.
//!
//! Quarantines last ten minutes here: a test that waits for one fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lockmesh::status::{RefuseReason, Standing, VoterStart};
use lockmesh::{AcquireError, Guard, Mesh, Shutdown};
use lockmesh_harness::LocalMesh;

use crate::common::{
    Ledger, PATIENCE, nodes, sees_all, settings, until, with_clients, within, work,
};

const MAX_TTL: Duration = Duration::from_secs(600);

fn starts(cluster: &LocalMesh, n: usize) -> VoterStart {
    cluster.node(n).status().voter_start.expect("a voter")
}

async fn shutdown(cluster: &LocalMesh, n: usize) -> Shutdown {
    within("the shutdown", cluster.shutdown(n)).await
}

/// Restarts node `n` after a shutdown, and waits until its voter votes.
async fn restart(cluster: &LocalMesh, n: usize) {
    let handed_over_to = shutdown(cluster, n).await.handed_over_to;
    assert_eq!(handed_over_to.len(), 1, "one of two others");
    cluster.restart(n).await.unwrap();
    let node = cluster.node(n);
    until("it votes", || node.status().quarantine.is_none()).await;
    let start = starts(cluster, n);
    assert!(
        matches!(&start, VoterStart::Handover { node, .. } if handed_over_to == [node.clone()]),
        "{start}"
    );
    let all_ready = || nodes(cluster).iter().all(|node| node.status().is_ready);
    until("all are ready", all_ready).await;
}

async fn keeps_locking(mesh: Mesh, ledger: Arc<Ledger>, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::SeqCst) {
        work(mesh.clone(), "fresh".to_owned(), 1, ledger.clone()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rolling_restart_costs_no_quarantine_and_no_lock() {
    let cluster = with_clients(3, 2, MAX_TTL).await;
    let ledger = Arc::new(Ledger::default());
    let (holder, other) = (cluster.node(3), cluster.node(4));
    let guard: Guard = holder
        .lock("held")
        .ttl(Duration::from_secs(60))
        .acquire()
        .await
        .unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let works = tokio::spawn(keeps_locking(other.clone(), ledger.clone(), stop.clone()));
    for _ in 0..2 {
        for n in 0..3 {
            restart(&cluster, n).await;
            assert!(guard.is_held(), "lost while n{n} restarted");
        }
    }
    stop.store(true, Ordering::SeqCst);
    within("the last round", works).await.unwrap();
    let denied = other.lock("held").try_acquire().await.unwrap();
    assert!(denied.is_none());
    let epoch = guard.epoch();
    guard.release().await.unwrap();
    let next = within("the next", other.lock("held").acquire())
        .await
        .unwrap();
    assert!(next.epoch() > epoch);
    ledger.check();
    assert!(ledger.grants() > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crash_or_switched_off_handover_costs_a_quarantine() {
    let settings = settings(3, 1, MAX_TTL).patience(PATIENCE);
    let settings = settings.configure(|mesh| mesh.handover_timeout(Duration::ZERO));
    let cluster = settings.start().await.unwrap();
    assert_eq!(shutdown(&cluster, 0).await, Shutdown::default());
    cluster.restart(0).await.unwrap();
    let seen_by = cluster.node(3);
    until("it is in quarantine", || {
        let status = seen_by.status();
        matches!(status.members[0].standing, Standing::Recovering { .. })
    })
    .await;
    let start = starts(&cluster, 0).to_string();
    let expected = "without memory: it keeps no journal, and no other voter had its memory";
    assert_eq!(start, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn second_shutdown_and_nodes_without_votes_hand_nothing_over() {
    let cluster = with_clients(3, 1, MAX_TTL).await;
    assert_eq!(shutdown(&cluster, 3).await, Shutdown::default(), "a client");
    let node = cluster.node(0);
    let (first, second) = tokio::join!(node.shutdown(), node.shutdown());
    assert_eq!(first.handed_over_to.len(), 1);
    assert_eq!(second, Shutdown::default());
    // Two are left; one of them has the memory of the first.
    assert_eq!(shutdown(&cluster, 1).await.handed_over_to.len(), 1);
    let last = cluster.node(2);
    assert_eq!(shutdown(&cluster, 2).await, Shutdown::default());
    assert!(last.is_shut_down());
}

/// While the memory leaves, nobody gets a vote that is not in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaving_voter_says_so() {
    let cluster = with_clients(3, 1, MAX_TTL).await;
    let client = cluster.node(3);
    sees_all(&client).await;
    // Nobody answers, so the handover takes its whole time, and the client reaches only the voter
    // that leaves.
    for n in 1..3 {
        cluster.cut(0, n);
        cluster.cut(3, n);
    }
    let leaves = cluster.node(0);
    let leaving = tokio::spawn(async move { leaves.shutdown().await });
    let refused = async {
        loop {
            let request = client.lock("k").acquire_timeout(Duration::from_millis(50));
            if let Err(AcquireError::TimedOut { answers, .. }) = request.acquire().await
                && answers.reason == Some(RefuseReason::Leaving)
            {
                return;
            }
        }
    };
    within("it is seen to leave", refused).await;
    let handed_over = within("the shutdown", leaving).await.unwrap();
    assert_eq!(handed_over, Shutdown::default());
}
