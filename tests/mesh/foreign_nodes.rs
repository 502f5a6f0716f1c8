//! Foreign nodes: another voter set, another secret, or another cluster name.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lockmesh::status::DropReason;
use lockmesh::{AcquireError, ClusterSecret, Mesh, MeshBuilder};
use lockmesh_proto::RefuseReason;

use crate::common::{beside, sees_all, until, voters, within};

const MAX_TTL: Duration = Duration::from_secs(30);

/// Asserts that at least two of three voters refuse the node's claim, with the reason.
async fn is_refused(foreign_node: &Mesh) {
    sees_all(foreign_node).await;
    let request = foreign_node.lock("k");
    let request = request.acquire_timeout(Duration::from_secs(2));
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
        let said = "refused: it has another voter set";
        assert!(text.contains(said), "{text}");
    }
}

#[tokio::test]
async fn other_voter_set_is_refused_with_reason() {
    let cluster = voters(3, MAX_TTL).await;
    let differs = |mesh: &Mesh, other: &str| {
        let status = mesh.status();
        let known = status.others.iter().map(|it| (&it.node, &it.differs));
        let members = status.members.iter().map(|it| (&it.node, &it.differs));
        let mut all = known.chain(members);
        let found = all.find(|(node, differs)| node.as_str() == other && differs.is_some());
        found.and_then(|(_, differs)| differs.clone())
    };
    for (version, third, words) in [
        (
            2,
            "n2",
            ["its version is 2, mine 1", "its version is 1, mine 2"],
        ),
        (
            1,
            "other",
            [
                "its voters lack n2; its voters have other too",
                "its voters lack other; its voters have n2 too",
            ],
        ),
    ] {
        let foreign_node = beside(&cluster, "other").voters(["n0", "n1", third]);
        let foreign_node = foreign_node.voter_set_version(version).bootstrap();
        let foreign_node = foreign_node.start().await.unwrap();
        is_refused(&foreign_node).await;
        let told = [
            differs(&cluster.node(0), "other").unwrap_or_default(),
            differs(&foreign_node, "n0").unwrap_or_default(),
        ];
        assert_eq!(told, words);
        assert_eq!(differs(&cluster.node(0), "n1"), None);
        let tags = [&foreign_node, &cluster.node(0)].map(|it| it.status().voter_set);
        assert_eq!(tags.map(|tag| tag.version), [version, 1]);
        assert_eq!(tags[0].digest == tags[1].digest, third == "n2");
        let guard = cluster.node(0).lock("k").try_acquire().await.unwrap();
        assert!(guard.is_some_and(|guard| guard.is_held()));
        foreign_node.shutdown().await;
    }
}

/// One of three voters is misconfigured: the other two continue and ignore its vote.
#[tokio::test]
async fn vote_of_member_with_other_set_is_ignored() {
    let cluster = voters(3, MAX_TTL).await;
    cluster.shutdown(2).await;
    let wrong = beside(&cluster, "n2").voter_set_version(7).bootstrap();
    let wrong = wrong.start().await.unwrap();
    sees_all(&wrong).await;
    let tally = async |node: &Mesh| {
        let request = node.lock("k").acquire_timeout(Duration::from_secs(2));
        match request.acquire().await.map(drop).unwrap_err() {
            AcquireError::TimedOut { answers, .. } => answers,
            error => panic!("{error}"),
        }
    };
    // Its own voter refuses too: it is in quarantine, since it ran before with another voter set.
    let answers = tally(&wrong).await;
    assert_eq!((answers.voted, answers.refused), (0, 3));
    let guard = cluster.node(0).lock("l").try_acquire().await.unwrap();
    assert!(guard.is_some());
    // With one of the two gone, the misconfigured voter does not complete a quorum.
    cluster.crash(1).await;
    let answers = tally(&cluster.node(0)).await;
    assert_eq!((answers.voted, answers.refused), (1, 1));
    assert_eq!(answers.reason, Some(RefuseReason::VoterSet));
}

#[tokio::test]
async fn acquire_times_out_under_a_datagram_flood() {
    let cluster = voters(3, MAX_TTL).await;
    let node = cluster.node(0);
    for other in [1, 2] {
        cluster.crash(other).await;
    }
    let to = node.local_addr();
    let is_over = Arc::new(AtomicBool::new(false));
    let over = is_over.clone();
    let floods = std::thread::spawn(move || {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        while !over.load(Ordering::Relaxed) {
            // The send buffer may be full.
            let _ = socket.send_to(b"?", to);
        }
    });
    let request = node.lock("k").acquire_timeout(MAX_TTL / 30);
    let ended = within("the end of its time", request.acquire()).await;
    is_over.store(true, Ordering::Relaxed);
    floods.join().unwrap();
    let error = ended.map(drop).unwrap_err();
    assert!(matches!(error, AcquireError::TimedOut { .. }), "{error}");
    let dropped = node.status().traffic.dropped;
    assert!(dropped.values().sum::<u64>() > 0);
}

fn plain(name: &str) -> MeshBuilder {
    let node = Mesh::builder(name).listen("127.0.0.1:0");
    node.insecure_plaintext().bootstrap()
}

fn sealed(name: &str, byte: u8) -> MeshBuilder {
    let node = Mesh::builder(name).listen("127.0.0.1:0").bootstrap();
    node.secret(ClusterSecret::from_bytes([byte; 32]).unwrap())
}

/// Starts `n0`, and a foreign node whose gossip `n0` drops. Returns both.
async fn unheard(n0: MeshBuilder, foreign_node: MeshBuilder) -> (Mesh, Mesh) {
    let n0 = n0.start().await.unwrap();
    let foreign_node = foreign_node
        .voters(["n0", "other", "third"])
        .seeds([n0.local_addr().to_string()])
        .gossip_interval(Duration::from_millis(20));
    (n0, foreign_node.start().await.unwrap())
}

async fn counts(mesh: &Mesh, reason: DropReason, dropped: u64) {
    until("it counts what it drops", || {
        mesh.status().traffic.dropped_for(reason) >= dropped
    })
    .await;
}

#[tokio::test]
async fn datagrams_of_other_clusters_are_dropped() {
    let named = |name: &str, cluster: &str| sealed(name, 1).cluster(cluster);
    for (n0, foreign_node, reason) in [
        (sealed("n0", 1), sealed("other", 2), DropReason::Key),
        (
            named("n0", "one"),
            named("other", "two"),
            DropReason::Cluster,
        ),
        (sealed("n0", 1), plain("other"), DropReason::Plaintext),
        (plain("n0"), sealed("other", 1), DropReason::Sealed),
    ] {
        let (n0, foreign_node) = unheard(n0.voters(["n0"]), foreign_node).await;
        counts(&n0, reason, 3).await;
        assert_eq!(n0.status().traffic.dropped.len(), 1, "{reason}");
        // Neither node knows the other, and the foreign node finds no quorum.
        assert!(n0.status().others.is_empty());
        assert_eq!(n0.status().traffic.datagrams_in, 0);
        let n0_there = &foreign_node.status().members[0];
        assert_eq!((n0_there.addr, n0_there.is_alive), (None, None));
        assert!(!foreign_node.status().is_ready);
        let request = foreign_node.lock("k");
        let request = request.acquire_timeout(Duration::from_millis(300));
        let error = request.acquire().await.unwrap_err();
        let AcquireError::TimedOut { answers, .. } = error else {
            panic!("{error}")
        };
        assert_eq!((answers.voters, answers.silent), (3, 2));
    }
}

#[tokio::test]
async fn timeout_error_names_a_wrong_secret() {
    let n0 = sealed("n0", 1).voters(["n0"]);
    let (_n0, foreign_node) = unheard(n0, sealed("other", 2)).await;
    let request = foreign_node.lock("k");
    let request = request.acquire_timeout(Duration::from_millis(300));
    let silent = request.clone().acquire().await.unwrap_err().to_string();
    assert!(silent.ends_with("2 did not answer)"), "{silent}");
    let sends = sealed("sends", 1).seeds([foreign_node.local_addr().to_string()]);
    let sends = sends.gossip_interval(Duration::from_millis(20));
    let _sends = sends.voters(["sends"]).start().await.unwrap();
    // It must be so for a second.
    counts(&foreign_node, DropReason::Key, 60).await;
    let error = request.acquire().await.unwrap_err().to_string();
    let said = "every datagram that arrived recently is not sealed with our secret";
    assert!(error.ends_with(said), "{error}");
}

#[tokio::test]
async fn noise_datagrams_are_counted_and_harmless() {
    let cluster = voters(3, MAX_TTL).await;
    let noise = UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = cluster.node(0).local_addr();
    for n in 0..100u8 {
        let bytes: Vec<u8> = (0..n).map(|b| b.wrapping_mul(31).wrapping_add(n)).collect();
        noise.send_to(&bytes, to).unwrap();
        // The first two bytes of a sealed datagram, followed by noise.
        noise.send_to(&[&[1, 1][..], &bytes].concat(), to).unwrap();
    }
    until("all of it is counted", || {
        let dropped = cluster.node(0).status().traffic.dropped;
        dropped.values().sum::<u64>() >= 200
    })
    .await;
    let guard = cluster.node(1).lock("k").acquire().await.unwrap();
    assert!(guard.is_held());
}
