//! Readiness: a node is ready if a quorum would vote for its claims, and a voter that has just
//! started if another voter may be restarted too.

use std::time::Duration;

use lockmesh::status::{LockState, NoSpareVoter, Standing, VoterLimits, VoterStart, WallClock};
use lockmesh::{Durability, Health, InspectError, Mesh};
use lockmesh_harness::{LocalMesh, SkewedClock};
use lockmesh_proto::RefuseReason;

use crate::common::{PATIENCE, beside, nodes, secret, settings, timing, until, voters, within};

const LONG: Duration = Duration::from_secs(600);

fn standings(mesh: &Mesh) -> Vec<Standing> {
    let members = mesh.status().members;
    members.iter().map(|member| member.standing).collect()
}

/// Waits until `node` knows that `count` members are in recovery.
async fn knows_recovering(node: &Mesh, count: usize) {
    until("it knows who is in recovery", || {
        let recovers = |it: &Standing| matches!(it, Standing::Recovering { .. });
        standings(node).iter().filter(|it| recovers(it)).count() == count
    })
    .await;
}

#[tokio::test]
async fn node_with_other_max_ttl_is_not_ready() {
    let cluster = voters(3, LONG).await;
    for name in ["client", "n2"] {
        if name == "n2" {
            cluster.shutdown(2).await;
        }
        let other = beside(&cluster, name).timing(timing(LONG / 2));
        let other = other.bootstrap().start().await.unwrap();
        until("both other voters refuse", || {
            standings(&other)[..2] == [Standing::Refuses(RefuseReason::VoterSet); 2]
        })
        .await;
        assert!(!other.status().is_ready);
        let error = other.ready(Duration::from_millis(500)).await.unwrap_err();
        assert_eq!(error.members, 3);
    }
    assert!(cluster.node(0).status().is_ready, "two of three remain");
}

#[tokio::test]
async fn node_with_skewed_wall_clock_is_ready() {
    let cluster = voters(3, LONG).await;
    for (name, off_ms) in [("ahead", 60_000), ("behind", -60_000)] {
        let wrong = cluster
            .client(name)
            .unwrap()
            .clock(SkewedClock::new(off_ms));
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
    until("all others are right", || nodes(&cluster).iter().all(right)).await;
}

#[tokio::test]
async fn voter_whose_wall_clock_lags_acquires_locks() {
    let cluster = voters(3, LONG).await;
    cluster.shutdown(2).await;
    let behind = beside(&cluster, "n2").clock(SkewedClock::new(-60_000));
    let behind = behind.try_timeout(PATIENCE).bootstrap();
    let behind = behind.start().await.unwrap();
    // Its voter starts without memory. A quarantine would last 600 s; its peers end it sooner.
    until("it knows that it is behind", || {
        let clock = behind.status().wall_clock;
        matches!(clock, WallClock::Skewed { ahead_ms } if ahead_ms < 0)
    })
    .await;
    let guard = behind.lock("k").try_acquire().await.unwrap();
    assert!(guard.is_some(), "its claims go by the others' clocks");
}

#[tokio::test]
async fn two_voters_with_different_clocks_report_a_dispute() {
    let start = async |name: &str, off_ms, seeds: Vec<String>| {
        let builder = Mesh::builder(name).voters(["n0", "n1"]).seeds(seeds);
        let builder = builder.listen("127.0.0.1:0").secret(secret());
        let builder = builder.timing(timing(LONG)).bootstrap();
        let builder = builder.clock(SkewedClock::new(off_ms));
        builder.start().await.unwrap()
    };
    let n0 = start("n0", 0, Vec::new()).await;
    let seed = vec![n0.local_addr().to_string()];
    let n1 = start("n1", -60_000, seed).await;
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
async fn quorum_in_quarantine_makes_nodes_not_ready() {
    let cluster = voters(3, LONG).await;
    let guard = cluster.node(0).lock("k").ttl(LONG).acquire().await;
    let guard = guard.unwrap();
    for n in [1, 2] {
        cluster.restart(n).await.unwrap();
    }
    knows_recovering(&cluster.node(0), 2).await;
    assert!(nodes(&cluster).iter().all(|it| !it.status().is_ready));
    // `inspect` does not report the key as free while a quorum is in quarantine.
    assert!(guard.is_held());
    for node in nodes(&cluster) {
        let seen = node.inspect("k").await.unwrap();
        assert_eq!((&seen.state, seen.recovering), (&LockState::Unknown, 2));
        let because = seen.unknown_because().unwrap();
        assert_eq!(because, "2 of 3 voters are in quarantine");
        let votes = seen.votes.iter().map(|it| (it.node.as_str(), it.votes));
        assert_eq!(Vec::from_iter(votes), [("n0", 1)]);
    }
    let node = cluster.node(1);
    let left = node.status().quarantine.expect("a quarantine");
    assert!(left > LONG * 5 / 6 && left < LONG * 7 / 6, "{left:?}");
    let error = node.ready(Duration::from_millis(100)).await.unwrap_err();
    let expected = "not ready in 100ms: 1 of 3 members can be counted on";
    assert_eq!(error.to_string(), expected);
    let request = node.lock("l").acquire_timeout(Duration::from_secs(1));
    let error = request.acquire().await.unwrap_err().to_string();
    assert!(error.contains("in quarantine after a restart"), "{error}");
}

#[tokio::test]
async fn cold_start_is_not_ready_and_inspects_unknown() {
    let cluster = voters(3, LONG).await;
    for n in 0..3 {
        cluster.crash(n).await;
    }
    for n in 0..3 {
        cluster.restart(n).await.unwrap();
    }
    let node = cluster.node(1);
    knows_recovering(&node, 3).await;
    assert!(!node.status().is_ready);
    let seen = node.inspect("k").await.unwrap();
    assert_eq!(seen.state, LockState::Unknown);
    let because = seen.unknown_because().unwrap();
    assert_eq!(because, "3 of 3 voters are in quarantine");
    assert!(matches!(node.inspect("").await, Err(InspectError::Key(_))));
}

#[tokio::test]
async fn idle_node_stays_ready_with_few_datagrams() {
    let cluster = voters(3, LONG).await;
    let sent = || cluster.node(0).status().traffic.datagrams_out;
    let (before, began) = (sent(), tokio::time::Instant::now());
    let mut was_ready = true;
    while began.elapsed() < Duration::from_secs(11) {
        was_ready &= cluster.node(0).status().is_ready;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(was_ready);
    // Two or three probes of its own and as many replies to each peer, with a margin.
    let asked = sent() - before;
    assert!((4..=40).contains(&asked), "{asked} datagrams");
}

#[tokio::test]
async fn watch_follows_lost_and_regained_quorum() {
    let cluster = voters(3, LONG).await;
    let node = cluster.node(0);
    let becomes = async |wanted: Health| becomes(&node, wanted).await;
    becomes(Health::Ready).await;
    cluster.partition([0], [1, 2]);
    becomes(Health::NoQuorum).await;
    assert!(!node.status().is_ready);
    assert!([1, 2].iter().all(|n| cluster.node(*n).status().is_ready));
    until("both others are silent", || {
        standings(&node) == [Standing::Votes, Standing::Silent, Standing::Silent]
    })
    .await;
    cluster.heal();
    becomes(Health::Ready).await;
    assert!(node.lock("k").try_acquire().await.unwrap().is_some());
    cluster.shutdown(0).await;
    becomes(Health::ShutDown).await;
}

async fn becomes(mesh: &Mesh, wanted: Health) {
    let mut health = mesh.watch();
    let change = health.wait_for(|health| *health == wanted);
    within("a change of health", change).await.unwrap();
}

/// Returns a cluster whose voters resume from journals.
async fn with_journals(voters: usize, max_ttl: Duration) -> LocalMesh {
    let cluster = settings(voters, 0, max_ttl).data_dirs(Durability::Process);
    let cluster = cluster.start().await.unwrap();
    for node in nodes(&cluster) {
        node.ready(PATIENCE).await.unwrap();
    }
    cluster
}

#[tokio::test]
async fn restarted_voter_is_ready_once_another_may_restart() {
    let cluster = with_journals(3, LONG).await;
    cluster.crash(2).await;
    cluster.restart(1).await.unwrap();
    let node = cluster.node(1);
    becomes(&node, Health::NoSpareVoter).await;
    assert!(node.lock("k").acquire().await.is_ok());
    let error = node.ready(Duration::from_millis(500)).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "not ready in 500ms: 2 of 3 members can be counted on; locks can be acquired, and no other \
         voter may be restarted yet"
    );
    let status = node.status();
    assert!(status.health.can_lock() && !status.is_ready);
    let missing = status.no_spare_voter.unwrap().to_string();
    assert_eq!(missing, "2 of 3 voters vote, and it takes 3");
    // The dead voter takes no traffic from a voter that was ready, nor from a client.
    assert!(cluster.node(0).status().is_ready);
    let client = cluster.client("client").unwrap().start().await.unwrap();
    client.ready(PATIENCE).await.unwrap();
    cluster.restart(2).await.unwrap();
    becomes(&node, Health::Ready).await;
    assert_eq!(node.status().no_spare_voter, None);
}

#[tokio::test]
async fn dead_voter_delays_readiness_for_one_quarantine() {
    let cluster = with_journals(3, Duration::from_secs(5)).await;
    cluster.crash(2).await;
    cluster.restart(1).await.unwrap();
    let node = cluster.node(1);
    becomes(&node, Health::NoSpareVoter).await;
    node.ready(PATIENCE).await.unwrap();
    assert!(node.status().no_spare_voter.is_some());
}

/// The marks were left out of the handover, so the voter reads those of the others.
#[tokio::test]
async fn voter_is_ready_once_it_has_read_marks() {
    let limits = VoterLimits {
        handover_votes_max: 1,
        ..VoterLimits::default()
    };
    let cluster = settings(3, 0, Duration::from_secs(5));
    let cluster = cluster.configure(move |node| node.limits(limits));
    let cluster = cluster.start().await.unwrap();
    for tick in 0..2 {
        let node = cluster.node(0);
        let _ = node.once("job", tick).run(async |_| ()).await.unwrap();
    }
    let node = cluster.node(1);
    until("it has the marks", || node.status().voter_marks == 2).await;
    cluster.shutdown(1).await;
    cluster.restart(1).await.unwrap();
    let node = cluster.node(1);
    until("it reads marks", || {
        node.status().no_spare_voter == Some(NoSpareVoter::ReadsMarks)
    })
    .await;
    let status = node.status();
    assert_eq!(
        (status.health, status.voter_marks),
        (Health::NoSpareVoter, 0)
    );
    assert!(matches!(
        status.voter_start,
        Some(VoterStart::Handover { .. })
    ));
    assert!(node.lock("k").acquire().await.is_ok());
    node.ready(PATIENCE).await.unwrap();
    let status = node.status();
    assert_eq!((status.no_spare_voter, status.voter_marks), (None, 2));
}

#[tokio::test]
async fn two_voters_are_ready_without_a_spare() {
    let cluster = with_journals(2, LONG).await;
    for node in nodes(&cluster) {
        let never = NoSpareVoter::Never { voters_per_key: 2 };
        assert_eq!(node.status().no_spare_voter, Some(never));
    }
}
