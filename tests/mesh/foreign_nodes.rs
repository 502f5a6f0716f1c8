//! Foreign nodes: another voter set, another secret, or another cluster name.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lockmesh::status::DropReason;
use lockmesh::{AcquireError, ClusterSecret, Mesh, MeshBuilder};
use lockmesh_proto::RefuseReason;

use crate::common::{Cluster, timing, until, within};

const MAX_TTL: Duration = Duration::from_secs(30);

/// Returns the settings of a node with a voter set of its own.
fn with_voter_set(cluster: &Cluster, version: u64, voters: [&str; 3]) -> MeshBuilder {
    cluster
        .named("other")
        .voters(voters)
        .voter_set_version(version)
        .bootstrap()
}

/// Asserts that at least two of three voters refuse the node's claim, with the reason.
async fn is_refused(foreign_node: &Mesh, reachable: usize) {
    until("the foreign node finds the others", || {
        let members = foreign_node.status().members;
        members.iter().filter(|member| member.is_reachable).count() >= reachable
    })
    .await;
    let request = foreign_node
        .lock("k")
        .acquire_timeout(Duration::from_secs(2));
    for error in [
        request.clone().try_acquire().await.map(drop).unwrap_err(),
        request.acquire().await.map(drop).unwrap_err(),
    ] {
        let text = error.to_string();
        let AcquireError::TimedOut { answers, .. } = error else {
            panic!("{text}")
        };
        assert!(answers.refused >= 2, "{text}");
        assert_eq!(answers.reason, Some(RefuseReason::VoterSet), "{text}");
        assert!(text.contains("refused: it has another voter set"), "{text}");
    }
}

#[tokio::test]
async fn newer_voter_set_is_refused_with_reason() {
    let cluster = Cluster::start(3, MAX_TTL).await;
    let foreign_node = with_voter_set(&cluster, 2, ["n0", "n1", "n2"]);
    let foreign_node = foreign_node.start().await.unwrap();
    is_refused(&foreign_node, 3).await;
    let differs = |mesh: &Mesh, other: &str| {
        let status = mesh.status();
        let known = status.others.iter().map(|it| (&it.node, &it.differs));
        let members = status.members.iter().map(|it| (&it.node, &it.differs));
        let all = known.chain(members);
        let found = all.filter(|(node, _)| node.as_str() == other);
        found.filter_map(|(_, differs)| differs.clone()).next()
    };
    let told = [
        differs(&cluster.nodes[0], "other"),
        differs(&foreign_node, "n0"),
    ];
    let words = ["its version is 2, mine 1", "its version is 1, mine 2"];
    assert_eq!(told.map(Option::unwrap_or_default), words);
    assert_eq!(differs(&cluster.nodes[0], "n1"), None);
    let tags = (
        foreign_node.status().voter_set,
        cluster.nodes[0].status().voter_set,
    );
    assert_eq!((tags.0.version, tags.1.version), (2, 1));
    let guard = cluster.nodes[0].lock("k").try_acquire().await.unwrap();
    assert!(guard.is_some_and(|guard| guard.is_held()));
}

#[tokio::test]
async fn same_version_with_other_members_is_refused() {
    let cluster = Cluster::start(3, MAX_TTL).await;
    let foreign_node = with_voter_set(&cluster, 1, ["n0", "n1", "other"]);
    let foreign_node = foreign_node.start().await.unwrap();
    is_refused(&foreign_node, 3).await;
    let tags = (
        foreign_node.status().voter_set,
        cluster.nodes[0].status().voter_set,
    );
    assert_eq!(tags.0.version, tags.1.version);
    assert_ne!(tags.0.digest, tags.1.digest);
    let guard = cluster.nodes[0].lock("k").try_acquire().await.unwrap();
    assert!(guard.is_some_and(|guard| guard.is_held()));
}

#[tokio::test]
async fn other_timing_is_refused_as_another_voter_set() {
    let cluster = Cluster::start(3, MAX_TTL).await;
    let foreign_node = with_voter_set(&cluster, 1, ["n0", "n1", "n2"]);
    let foreign_node = foreign_node
        .timing(timing(MAX_TTL * 2))
        .start()
        .await
        .unwrap();
    is_refused(&foreign_node, 3).await;
}

#[tokio::test]
async fn vote_of_member_with_other_set_is_ignored() {
    // One of three voters is misconfigured: the other two continue and ignore its vote.
    let mut cluster = Cluster::start(3, MAX_TTL).await;
    cluster.nodes[2].shutdown().await;
    let wrong = cluster.builder(2).voter_set_version(7).bootstrap();
    cluster.nodes[2] = wrong.start().await.unwrap();
    crate::common::sees_all(&cluster.nodes[2]).await;
    // Its own voter refuses too: it is in quarantine, since it ran before with another voter set.
    let request = cluster.nodes[2]
        .lock("k")
        .acquire_timeout(Duration::from_secs(2));
    let AcquireError::TimedOut { answers, .. } = request.acquire().await.map(drop).unwrap_err()
    else {
        panic!("it was served")
    };
    assert_eq!((answers.voted, answers.refused), (0, 3));
    let guard = cluster.nodes[0]
        .lock("k")
        .try_acquire()
        .await
        .unwrap()
        .unwrap();
    // With one of the two gone, the misconfigured voter does not complete a quorum.
    cluster.nodes[1].abort();
    let request = cluster.nodes[0]
        .lock("l")
        .acquire_timeout(Duration::from_secs(2));
    let error = request.try_acquire().await.unwrap_err();
    let AcquireError::TimedOut { answers, .. } = error else {
        panic!("{error}")
    };
    assert_eq!((answers.voted, answers.refused), (1, 1));
    assert_eq!(answers.reason, Some(RefuseReason::VoterSet));
    drop(guard);
}

#[tokio::test]
async fn acquire_times_out_under_a_datagram_flood() {
    let cluster = Cluster::start(3, MAX_TTL).await;
    for other in &cluster.nodes[1..] {
        other.abort();
    }
    let to = cluster.nodes[0].local_addr();
    let is_over = Arc::new(AtomicBool::new(false));
    let over = is_over.clone();
    let floods = std::thread::spawn(move || {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        while !over.load(Ordering::Relaxed) {
            // The send buffer may be full.
            let _ = socket.send_to(b"?", to);
        }
    });
    let request = cluster.nodes[0].lock("k").acquire_timeout(MAX_TTL / 30);
    let ended = within("the end of its time", request.acquire()).await;
    is_over.store(true, Ordering::Relaxed);
    floods.join().unwrap();
    let error = ended.map(drop).unwrap_err();
    assert!(matches!(error, AcquireError::TimedOut { .. }), "{error}");
    let dropped = cluster.nodes[0].status().traffic.dropped;
    assert!(dropped.values().sum::<u64>() > 0);
}

/// Starts `n0`, and a foreign node whose gossip `n0` drops. Returns both.
async fn unheard(n0: MeshBuilder, foreign_node: MeshBuilder) -> (Mesh, Mesh) {
    let n0 = n0.voters(["n0"]).bootstrap().start().await.unwrap();
    let seed = n0.local_addr().to_string();
    let foreign_node = foreign_node
        .voters(["n0", "other", "third"])
        .seeds([seed])
        .gossip_interval(Duration::from_millis(20))
        .start()
        .await
        .unwrap();
    (n0, foreign_node)
}

/// Asserts that neither node knows the other, and that the foreign node finds no quorum.
async fn do_not_know_each_other(n0: &Mesh, foreign_node: &Mesh) {
    assert!(n0.status().others.is_empty());
    assert_eq!(n0.status().traffic.datagrams_in, 0);
    let n0_at_foreign_node = &foreign_node.status().members[0];
    assert_eq!(n0_at_foreign_node.node.as_str(), "n0");
    assert_eq!(
        (n0_at_foreign_node.addr, n0_at_foreign_node.is_alive),
        (None, None)
    );
    assert!(!foreign_node.status().is_ready);
    let request = foreign_node
        .lock("k")
        .acquire_timeout(Duration::from_millis(300));
    let error = request.acquire().await.unwrap_err();
    let AcquireError::TimedOut { answers, .. } = error else {
        panic!("{error}")
    };
    assert_eq!((answers.voters, answers.silent), (3, 2));
}

async fn counts(mesh: &Mesh, reason: DropReason) {
    until("it counts what it drops", || {
        mesh.status().traffic.dropped_for(reason) >= 3
    })
    .await;
}

fn sealed(name: &str, byte: u8) -> MeshBuilder {
    Mesh::builder(name)
        .listen("127.0.0.1:0")
        .secret(ClusterSecret::from_bytes([byte; 32]).unwrap())
}

#[tokio::test]
async fn datagrams_under_another_secret_are_dropped() {
    let (n0, foreign_node) = unheard(sealed("n0", 1), sealed("other", 2)).await;
    counts(&n0, DropReason::Key).await;
    do_not_know_each_other(&n0, &foreign_node).await;
    assert_eq!(n0.status().traffic.dropped.len(), 1);
}

#[tokio::test]
async fn timeout_error_names_a_wrong_secret() {
    let (n0, foreign_node) = unheard(sealed("n0", 1), sealed("other", 2)).await;
    let request = foreign_node
        .lock("k")
        .acquire_timeout(Duration::from_millis(300));
    let silent = request.clone().acquire().await.unwrap_err().to_string();
    assert!(silent.ends_with("2 did not answer)"), "{silent}");
    let sends = sealed("sends", 1).seeds([foreign_node.local_addr().to_string()]);
    let sends = sends.gossip_interval(Duration::from_millis(20));
    let _sends = sends.voters(["n0"]).start().await.unwrap();
    counts(&foreign_node, DropReason::Key).await;
    until("it is so for a second", || {
        foreign_node.status().traffic.dropped_for(DropReason::Key) >= 60
    })
    .await;
    let error = request.acquire().await.unwrap_err().to_string();
    let said =
        "2 did not answer); every datagram that arrived recently is not sealed with our secret";
    assert!(error.ends_with(said), "{error}");
    drop(n0);
}

#[tokio::test]
async fn sealed_node_drops_plaintext_datagrams() {
    let plain = Mesh::builder("other")
        .listen("127.0.0.1:0")
        .insecure_plaintext();
    let (n0, foreign_node) = unheard(sealed("n0", 1), plain).await;
    counts(&n0, DropReason::Plaintext).await;
    do_not_know_each_other(&n0, &foreign_node).await;
}

#[tokio::test]
async fn plaintext_node_drops_sealed_datagrams() {
    let plain = Mesh::builder("n0")
        .listen("127.0.0.1:0")
        .insecure_plaintext();
    let (n0, foreign_node) = unheard(plain, sealed("other", 1)).await;
    counts(&n0, DropReason::Sealed).await;
    do_not_know_each_other(&n0, &foreign_node).await;
}

#[tokio::test]
async fn noise_datagrams_are_counted_and_harmless() {
    let cluster = Cluster::start(3, MAX_TTL).await;
    let noise = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = cluster.nodes[0].local_addr();
    for n in 0..100u8 {
        let bytes: Vec<u8> = (0..n).map(|b| b.wrapping_mul(31).wrapping_add(n)).collect();
        noise.send_to(&bytes, to).unwrap();
        // The first two bytes of a sealed datagram, followed by noise.
        noise.send_to(&[&[1, 1][..], &bytes].concat(), to).unwrap();
    }
    until("all of it is counted", || {
        let dropped = cluster.nodes[0].status().traffic.dropped;
        dropped.values().sum::<u64>() >= 200
    })
    .await;
    let guard = cluster.nodes[1].lock("k").acquire().await.unwrap();
    assert!(guard.is_held());
}

#[tokio::test]
async fn gossip_ignores_other_cluster_names() {
    let named = |name: &str, cluster: &str| sealed(name, 1).cluster(cluster);
    let (n0, foreign_node) = unheard(named("n0", "one"), named("other", "two")).await;
    let request = foreign_node
        .lock("k")
        .acquire_timeout(Duration::from_secs(2));
    assert!(request.acquire().await.is_err());
    do_not_know_each_other(&n0, &foreign_node).await;
}
