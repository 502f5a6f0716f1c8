//! Readiness: a node is ready if a quorum would vote for its claims.

use std::time::Duration;

use lockmesh::status::{LockState, Standing, WallClock};
use lockmesh::{Health, InspectError, Mesh};
use lockmesh_harness::SkewedClock;
use lockmesh_proto::RefuseReason;

use crate::common::{Cluster, PATIENCE, key, timing, until, within};

const LONG: Duration = Duration::from_secs(600);

fn standings(mesh: &Mesh) -> Vec<Standing> {
    let members = mesh.status().members;
    members.iter().map(|member| member.standing).collect()
}

/// Waits until both other voters refuse, and asserts that the node is not ready.
async fn refused_by_both(mesh: &Mesh, reason: RefuseReason) {
    until("both other voters refuse", || {
        standings(mesh)[..2] == [Standing::Refuses(reason); 2]
    })
    .await;
    assert!(!mesh.status().is_ready);
    mesh.ready(Duration::from_millis(500)).await.unwrap_err();
}

#[tokio::test]
async fn node_with_other_max_ttl_is_not_ready() {
    let cluster = Cluster::start(3, LONG).await;
    for name in ["client", "n2"] {
        let other = cluster.named(name).timing(timing(LONG / 2));
        if name == "n2" {
            cluster.nodes[2].shutdown().await;
        }
        let other = other.bootstrap().start().await.unwrap();
        refused_by_both(&other, RefuseReason::VoterSet).await;
    }
    assert!(cluster.nodes[0].status().is_ready, "two of three remain");
}

#[tokio::test]
async fn node_with_skewed_wall_clock_is_ready() {
    let cluster = Cluster::start(3, LONG).await;
    for (name, off_ms) in [("ahead", 60_000), ("behind", -60_000)] {
        let wrong = cluster.named(name).clock(SkewedClock::new(off_ms));
        let wrong = wrong.start().await.unwrap();
        wrong.ready(PATIENCE).await.unwrap();
        let guard = wrong.lock("k").try_acquire().await.unwrap();
        assert!(guard.is_some(), "{name}");
        until("it knows that it is skewed", || {
            let WallClock::Skewed { ahead_ms } = wrong.status().wall_clock else {
                return false;
            };
            (ahead_ms - off_ms).abs() < 5_000
        })
        .await;
    }
    let right = |node: &Mesh| node.status().wall_clock == WallClock::Right;
    until("all others are right", || cluster.nodes.iter().all(right)).await;
}

#[tokio::test]
async fn voter_whose_wall_clock_lags_acquires_locks() {
    let mut cluster = Cluster::start(3, LONG).await;
    cluster.nodes[2].shutdown().await;
    let behind = cluster.builder(2).clock(SkewedClock::new(-60_000));
    cluster.nodes[2] = behind.bootstrap().start().await.unwrap();
    // Its voter starts without memory. A quarantine would last 600 s; its peers end it sooner.
    until("it knows that it is behind", || {
        let clock = cluster.nodes[2].status().wall_clock;
        matches!(clock, WallClock::Skewed { ahead_ms } if ahead_ms < 0)
    })
    .await;
    let guard = cluster.nodes[2].lock("k").try_acquire().await.unwrap();
    assert!(guard.is_some(), "its claims go by the others' clocks");
}

#[tokio::test]
async fn two_voters_with_different_clocks_report_a_dispute() {
    let start = |name: &str, seeds: Vec<String>| {
        let builder = Mesh::builder(name)
            .voters(["n0", "n1"])
            .seeds(seeds)
            .listen("127.0.0.1:0");
        let builder = builder.secret(key()).timing(timing(LONG)).bootstrap();
        builder.clock(SkewedClock::new(if name == "n1" { -60_000 } else { 0 }))
    };
    let n0 = start("n0", Vec::new()).start().await.unwrap();
    let seed = vec![n0.local_addr().to_string()];
    let n1 = start("n1", seed).start().await.unwrap();
    for node in [&n0, &n1] {
        until("it knows that the clocks are disputed", || {
            let WallClock::Disputed { by_ms } = node.status().wall_clock else {
                return false;
            };
            by_ms.abs_diff(60_000) < 5_000
        })
        .await;
    }
    until("the one ahead is refused", || {
        standings(&n0)[1] == Standing::Refuses(RefuseReason::Skew)
    })
    .await;
    assert!(!n0.status().is_ready);
}

#[tokio::test]
async fn cut_off_node_is_not_ready_until_healed() {
    let cluster = Cluster::start(3, LONG).await;
    let ids: Vec<_> = cluster.nodes.iter().map(Mesh::id).cloned().collect();
    cluster.links.partition(&ids[..1], &ids[1..]);
    let is_ready = |n: usize| cluster.nodes[n].status().is_ready;
    until("it is not ready any more", || !is_ready(0)).await;
    assert!(is_ready(1) && is_ready(2));
    assert_eq!(
        standings(&cluster.nodes[0]),
        [Standing::Votes, Standing::Silent, Standing::Silent]
    );
    cluster.links.heal();
    until("it is ready again", || is_ready(0)).await;
    let guard = cluster.nodes[0].lock("k").try_acquire().await.unwrap();
    assert!(guard.is_some());
}

#[tokio::test]
async fn quorum_in_quarantine_makes_nodes_not_ready() {
    let mut cluster = Cluster::start(3, LONG).await;
    let guard = cluster.nodes[0].lock("k").ttl(LONG).acquire().await;
    let guard = guard.unwrap();
    for n in [1, 2] {
        cluster.nodes[n].abort();
        cluster.restart(n).await;
    }
    until("it hears that both have no memory", || {
        let standings = standings(&cluster.nodes[0]);
        let recovers = |it: &Standing| matches!(it, Standing::Recovering { .. });
        standings[1..].iter().all(recovers)
    })
    .await;
    assert!(cluster.nodes.iter().all(|node| !node.status().is_ready));
    // `inspect` does not report the key as free while a quorum is in quarantine.
    assert!(guard.is_held());
    for node in &cluster.nodes {
        let seen = node.inspect("k").await.unwrap();
        assert_eq!(
            (seen.state.clone(), seen.recovering),
            (LockState::Unknown, 2)
        );
        let because = seen.unknown_because().unwrap();
        assert_eq!(because, "2 of 3 voters are in quarantine");
        let votes: Vec<_> = seen
            .votes
            .iter()
            .map(|it| (it.node.as_str(), it.votes))
            .collect();
        assert_eq!(votes, [("n0", 1)]);
    }
}

#[tokio::test]
async fn cold_start_is_not_ready_and_inspects_unknown() {
    let start = |name: &str, seeds: Vec<String>| {
        let builder = Mesh::builder(name)
            .voters(["n0", "n1", "n2"])
            .seeds(seeds)
            .listen("127.0.0.1:0");
        builder.secret(key()).timing(timing(LONG)).start()
    };
    let n0 = start("n0", Vec::new()).await.unwrap();
    let seed = vec![n0.local_addr().to_string()];
    let n1 = start("n1", seed.clone()).await.unwrap();
    let _n2 = start("n2", seed).await.unwrap();
    until("all three wait", || {
        let standings = standings(&n1);
        let recovers = |it: &Standing| matches!(it, Standing::Recovering { .. });
        standings.iter().all(recovers)
    })
    .await;
    assert!(!n1.status().is_ready);
    let seen = n1.inspect("k").await.unwrap();
    assert_eq!(seen.state, LockState::Unknown);
    let because = seen.unknown_because().unwrap();
    assert_eq!(because, "3 of 3 voters are in quarantine");
    assert!(matches!(n1.inspect("").await, Err(InspectError::Key(_))));
}

#[tokio::test]
async fn idle_node_stays_ready_with_few_datagrams() {
    let cluster = Cluster::start(3, LONG).await;
    let sent = || cluster.nodes[0].status().traffic.datagrams_out;
    let (before, began) = (sent(), tokio::time::Instant::now());
    let mut was_ready = true;
    while began.elapsed() < Duration::from_secs(11) {
        was_ready &= cluster.nodes[0].status().is_ready;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(was_ready);
    // Two or three probes of its own and as many replies to each peer, with a margin.
    let asked = sent() - before;
    assert!((4..=40).contains(&asked), "{asked} datagrams");
}

#[tokio::test]
async fn watch_follows_lost_and_regained_quorum() {
    let cluster = Cluster::start(3, LONG).await;
    let mut health = cluster.nodes[0].watch();
    let mut becomes = async |wanted: Health| {
        let change = health.wait_for(|health| *health == wanted);
        assert_eq!(*within("a change", change).await.unwrap(), wanted);
    };
    becomes(Health::Ready).await;
    cluster.links.partition(&["n0"], &["n1", "n2"]);
    becomes(Health::NoQuorum).await;
    cluster.links.heal();
    becomes(Health::Ready).await;
    cluster.nodes[0].shutdown().await;
    becomes(Health::ShutDown).await;
}
