//! `LocalMesh`: faults of links and nodes.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lockmesh::{AcquireError, ClusterSecret, Mesh, MeshBuilder, RotateError, SecretError};
use lockmesh_harness::{Condition, Fault, LocalMesh, LocalMeshError};

use crate::common::{PATIENCE, until, within};

const SHORT: Duration = Duration::from_millis(400);

/// Starts nodes whose leases are far longer than a test.
async fn with_long_leases(nodes: usize) -> LocalMesh {
    let mesh = LocalMesh::builder().nodes(nodes);
    let mesh = mesh.ttl(Duration::from_secs(300));
    let mesh = mesh.configure(|mesh| mesh.try_timeout(PATIENCE));
    mesh.start().await.unwrap()
}

/// Locks and releases `key`. Returns `false` if the request times out.
async fn can_lock(mesh: &Mesh, key: &str) -> bool {
    match mesh.lock(key).acquire_timeout(SHORT).acquire().await {
        Ok(_) => true,
        Err(AcquireError::TimedOut { .. }) => false,
        Err(error) => panic!("{error}"),
    }
}

/// Locks and releases `key`.
async fn is_granted(mesh: &Mesh, key: &str) {
    drop(within("a turn", mesh.lock(key).acquire()).await.unwrap());
}

#[tokio::test]
async fn start_returns_once_all_nodes_vote() {
    let mesh = LocalMesh::start(5).await.unwrap();
    for i in 0..mesh.size() {
        let status = mesh.node(i).status();
        assert_eq!(status.node.as_str(), format!("n{i}"));
        assert!(status.is_ready && status.quarantine.is_none());
        assert!(status.members.iter().all(|member| member.is_reachable));
        is_granted(&mesh.node(i), "k").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_clusters_share_no_locks() {
    let (one, other) = tokio::join!(LocalMesh::start(3), LocalMesh::start(3));
    let (one, other) = (one.unwrap(), other.unwrap());
    let guard = one.node(0).lock("k").acquire().await.unwrap();
    let same_key = other.node(0).lock("k").acquire().await.unwrap();
    assert!(guard.is_held() && same_key.is_held());
}

#[tokio::test]
async fn node_without_vote_can_acquire() {
    let mesh = LocalMesh::builder().nodes(4).voters(3).voters_per_key(1);
    let mesh = mesh.insecure_plaintext().start().await.unwrap();
    let status = mesh.node(3).status();
    assert_eq!((status.members.len(), status.voters_per_key), (3, 1));
    let guard = mesh.node(3).lock("k").acquire().await.unwrap();
    let other = mesh.node(0).lock("k").try_acquire().await.unwrap();
    assert!(other.is_none());
    drop(guard);
}

#[tokio::test]
async fn invalid_settings_are_errors() {
    let words = async |builder: lockmesh_harness::LocalMeshBuilder| {
        builder.start().await.unwrap_err().to_string()
    };
    let builder = LocalMesh::builder;
    assert_eq!(
        words(builder().nodes(0)).await,
        "nodes is 0; it must be 1 to 64"
    );
    assert_eq!(
        words(builder().voters(6)).await,
        "voters is 6; it must be 1 to 5"
    );
    let named = |mesh: MeshBuilder| mesh.cluster("");
    let error = builder().configure(named).start().await.unwrap_err();
    assert!(matches!(error, LocalMeshError::Config(_)), "{error}");
}

#[tokio::test]
async fn unstable_cluster_error_names_missing_links() {
    let started = AtomicUsize::new(0);
    // Each node has its own cluster name, so they do not gossip with each other.
    let mesh = LocalMesh::builder().nodes(2).ttl(SHORT).patience(SHORT);
    let mesh = mesh.configure(move |mesh| {
        let n = started.fetch_add(1, Ordering::SeqCst);
        mesh.cluster(format!("c{n}"))
    });
    let error = mesh.start().await.unwrap_err();
    let LocalMeshError::NotStable(error) = &error else {
        panic!("{error}")
    };
    let text = error.to_string();
    assert!(text.contains("n0 does not see n1"), "{text}");
    assert!(text.contains("n1 does not see n0"), "{text}");
}

#[tokio::test]
async fn link_can_be_cut_in_one_direction() {
    let mesh = with_long_leases(3).await;
    mesh.cut_one_way(0, 1);
    mesh.cut_one_way(0, 2);
    // n0 receives from all peers, but none receives from n0.
    assert!(!can_lock(&mesh.node(0), "k").await);
    is_granted(&mesh.node(1), "k").await;
    mesh.wait_until_stable().await.unwrap();
    let sees = |i: usize, j: usize| mesh.node(i).status().members[j].is_alive == Some(true);
    let reaches = |i: usize, j: usize| mesh.node(i).status().members[j].is_reachable;
    assert!(!sees(1, 0) && !sees(2, 0));
    assert!(!reaches(1, 0) && !reaches(0, 1) && !mesh.node(0).status().is_ready);
    mesh.link_one_way(0, 1).heal();
    mesh.wait_until_stable().await.unwrap();
    assert!(sees(1, 0) && sees(2, 0), "over n1");
    assert!(reaches(1, 0) && !reaches(2, 0) && mesh.node(0).status().is_ready);
    is_granted(&mesh.node(0), "k").await;
}

#[tokio::test]
async fn cut_leaves_links_to_other_nodes() {
    let mesh = with_long_leases(3).await;
    mesh.cut(0, 1);
    for i in 0..3 {
        is_granted(&mesh.node(i), "k").await;
    }
    // Gossip takes the way over the third node.
    mesh.wait_until_stable().await.unwrap();
}

#[tokio::test]
async fn mend_keeps_other_faults_of_the_link() {
    let mesh = LocalMesh::start(2).await.unwrap();
    assert_eq!(mesh.fault(0, 1), Fault::default());
    mesh.every_link().loss(0.25);
    mesh.link_one_way(0, 1).cut();
    let (there, back) = (mesh.fault(0, 1), mesh.fault(1, 0));
    assert!(there.cut && !back.cut);
    assert_eq!((there.loss, back.loss), (0.25, 0.25));
    mesh.link(0, 1).mend();
    let lossy = Fault {
        loss: 0.25,
        ..Fault::default()
    };
    assert_eq!((mesh.fault(0, 1), mesh.fault(1, 0)), (lossy, lossy));
    mesh.heal();
    assert_eq!(mesh.fault(0, 1), Fault::default());
}

#[tokio::test]
async fn condition_follows_pause_crash_and_restart() {
    let mesh = LocalMesh::start(2).await.unwrap();
    assert_eq!(mesh.condition(0), Condition::Running);
    mesh.pause(0);
    assert_eq!(mesh.condition(0), Condition::Paused);
    mesh.crash(0).await;
    mesh.resume(0);
    assert_eq!(mesh.condition(0), Condition::Down);
    assert_eq!(mesh.condition(1), Condition::Running);
    mesh.restart(0).await.unwrap();
    assert_eq!(mesh.condition(0), Condition::Running);
}

#[tokio::test]
async fn paused_node_sends_nothing_and_loses_its_locks() {
    let mesh = LocalMesh::start(3).await.unwrap();
    let paused = mesh.node(0);
    let guard = paused.lock("k").acquire().await.unwrap();
    mesh.pause(0);
    let before = paused.status().traffic.datagrams_in;
    let waits = tokio::spawn(paused.lock("asked").acquire());
    within("lost()", guard.lost()).await;
    let next = within("the next", mesh.node(1).lock("k").acquire()).await;
    assert!(next.unwrap().epoch() > guard.epoch());
    mesh.wait_until_stable().await.unwrap();
    assert!(!mesh.node(1).status().members[0].is_reachable);
    assert_eq!(paused.status().traffic.datagrams_in, before);
    assert!(!waits.is_finished());
    mesh.resume(0);
    drop(within("what was asked", waits).await.unwrap().unwrap());
    mesh.wait_until_stable().await.unwrap();
    assert!(!guard.is_held());
}

#[tokio::test]
async fn paused_node_can_crash_and_shut_down() {
    let mesh = with_long_leases(3).await;
    mesh.pause(0);
    within("the crash", mesh.crash(0)).await;
    mesh.resume(0);
    let guard = mesh.node(1).lock("k").acquire().await.unwrap();
    mesh.pause(1);
    within("the shutdown", mesh.shutdown(1)).await;
    assert!(!guard.is_held());
}

#[tokio::test]
async fn restarted_node_has_a_later_incarnation() {
    let mesh = LocalMesh::start(3).await.unwrap();
    let crashed = mesh.node(0);
    let guard = crashed.lock("k").acquire().await.unwrap();
    let waits = tokio::spawn(crashed.lock("k").acquire());
    mesh.crash(0).await;
    std::net::UdpSocket::bind(crashed.local_addr()).unwrap();
    let ended = within("the end of the wait", waits).await.unwrap();
    assert_eq!(ended.unwrap_err(), AcquireError::ShutDown);
    let next = within("the next", mesh.node(1).lock("k").acquire()).await;
    assert!(!guard.is_held());
    drop(next.unwrap());
    mesh.wait_until_stable().await.unwrap();
    mesh.restart(0).await.unwrap();
    mesh.wait_until_stable().await.unwrap();
    let status = mesh.node(0).status();
    assert_eq!(status.node, crashed.status().node);
    assert!(status.incarnation > crashed.status().incarnation);
    assert!(status.quarantine.is_none(), "stable: it votes");
    let last = mesh.node(0).lock("k").acquire().await.unwrap();
    assert!(last.epoch() > guard.epoch());
}

#[tokio::test]
async fn restarted_node_marks_unknown_crashed_peer_unreachable() {
    let mesh = LocalMesh::builder().nodes(3).ttl(SHORT);
    let mesh = mesh.patience(PATIENCE / 4).start().await.unwrap();
    mesh.crash(0).await;
    mesh.restart(2).await.unwrap();
    mesh.wait_until_stable().await.unwrap();
    assert!(!mesh.node(2).status().members[0].is_reachable);
}

#[tokio::test]
async fn restart_frees_locks_of_the_previous_incarnation() {
    let mesh = with_long_leases(3).await;
    let lost = mesh.node(0).lock("k").acquire().await.unwrap();
    let waits = tokio::spawn(mesh.node(1).lock("k").acquire());
    mesh.restart(0).await.unwrap();
    let next = within("the next", waits).await.unwrap().unwrap();
    assert!(next.epoch() > lost.epoch());
}

#[tokio::test]
async fn restarted_node_keeps_its_link_faults() {
    let mesh = LocalMesh::start(3).await.unwrap();
    mesh.partition([0], [1, 2]);
    mesh.restart(0).await.unwrap();
    mesh.wait_until_stable().await.unwrap();
    assert!(!mesh.node(1).status().members[0].is_reachable);
    assert!(!can_lock(&mesh.node(0), "k").await);
    mesh.heal();
    mesh.wait_until_stable().await.unwrap();
    is_granted(&mesh.node(0), "k").await;
}

#[tokio::test]
async fn dropped_cluster_ends_despite_handles_and_guards() {
    let key = ClusterSecret::from_bytes([7; 32]).unwrap();
    let mesh = LocalMesh::builder().nodes(3).secret(key).seed(1).start();
    let mesh = mesh.await.unwrap();
    let left = mesh.node(0);
    let guard = left.lock("k").acquire().await.unwrap();
    drop(mesh);
    let error = left.lock("k").acquire().await.unwrap_err();
    assert_eq!(error, AcquireError::ShutDown);
    let addr = left.local_addr();
    until("the address is free", || {
        std::net::UdpSocket::bind(addr).is_ok()
    })
    .await;
    within("lost()", guard.lost()).await;
}

#[tokio::test]
#[should_panic(expected = "index out of bounds")]
async fn index_of_missing_node_panics() {
    let mesh = LocalMesh::start(1).await.unwrap();
    mesh.cut(0, 1);
}

#[tokio::test]
async fn node_restarts_with_its_rotated_secrets() {
    let [old, new] = [1, 2].map(|byte| ClusterSecret::from_bytes([byte; 32]).unwrap());
    let mesh = LocalMesh::builder().nodes(3).secret(old.clone());
    let mesh = mesh.start().await.unwrap();
    mesh.crash(2).await;
    for secrets in [vec![old, new.clone()], vec![new.clone()]] {
        for i in 0..mesh.size() {
            mesh.rotate_secrets(i, secrets.clone()).unwrap();
        }
    }
    mesh.restart(2).await.unwrap();
    mesh.wait_until_stable().await.unwrap();
    assert_eq!(mesh.node(2).status().secrets, [new.fingerprint()]);

    let plain = LocalMesh::builder().nodes(1).insecure_plaintext();
    let plain = plain.start().await.unwrap();
    plain.crash(0).await;
    let refused = plain.rotate_secrets(0, [new]).unwrap_err();
    assert_eq!(refused, RotateError::Secret(SecretError::Plaintext));
}
