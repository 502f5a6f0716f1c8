//! Real nodes with wrong wall clocks: the skew is reported, and costs no lock while most clocks are
//! right.

use lockmesh::ClusterSecret;
use lockmesh::observe::{Observer, SurveyHealth};
use lockmesh::status::WallClock;

use crate::common::{place, until};
use crate::worker::{KEY, Node, Setup, quoted};

/// Returns the node's skew in milliseconds as an observer sees it, and the health of the mesh.
fn skew(peer: &Node, name: &str) -> (i64, SurveyHealth) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let secret = ClusterSecret::parse(KEY).unwrap();
    let mut observer =
        runtime.block_on(async { Observer::sealed([peer.addr()], secret).cluster("prod") });
    until("it is skewed", || {
        let survey = runtime.block_on(observer.survey()).unwrap();
        let mut nodes = survey.nodes.iter();
        let node = nodes.find(|node| node.node.as_str() == name).unwrap();
        match node.answer.as_ref().unwrap().overview.wall_clock {
            WallClock::Skewed { ahead_ms } => Some((ahead_ms, survey.health())),
            _ => None,
        }
    })
}

/// Starts three voters, the last with a wrong clock, and waits until all are ready.
fn voters(place: &std::path::Path, wall_offset_ms: i64) -> [Node; 3] {
    let first = Node::start(place, "n1", &Setup::default());
    let seeds = &quoted(&first.addr());
    let right = Setup {
        seeds,
        ..Setup::default()
    };
    let wrong = Setup {
        seeds,
        wall_offset_ms,
        ..Setup::default()
    };
    let second = Node::start(place, "n2", &right);
    let third = Node::start(place, "n3", &wrong);
    let all = [first, second, third];
    until("all are ready", || {
        all.iter().all(Node::is_ready).then_some(())
    });
    all
}

#[test]
fn skewed_voter_costs_no_lock_with_another_dead() {
    let place = place("clocks-voter");
    let [first, second, third] = voters(&place, -10_000);
    third.says("this node's wall clock is 10.0 s behind those of most voters");
    let (ahead_ms, health) = skew(&first, "n3");
    assert!((-10_100..=-9_900).contains(&ahead_ms), "{ahead_ms}");
    assert_eq!(health, SurveyHealth::Ok);
    second.kill();
    let seeds = &quoted(&first.addr());
    let asks = Setup {
        seeds,
        ..Setup::default()
    };
    let client = Node::start(&place, "client", &asks.holding());
    until("a lock", || client.last("granted"));
    assert_eq!(
        skew(&first, "n3").1,
        SurveyHealth::Degraded,
        "one of three is dead"
    );
}

#[test]
fn claimant_ten_seconds_ahead_gets_locks_and_warns() {
    let place = place("clocks-claimant");
    let [first, _second, _third] = voters(&place, 0);
    let seeds = &quoted(&first.addr());
    let ahead = Setup {
        seeds,
        wall_offset_ms: 10_000,
        ..Setup::default()
    };
    let client = Node::start(&place, "client", &ahead.holding());
    until("a lock", || client.last("granted"));
    client.says("this node's wall clock is 10.0 s ahead of those of most voters");
    let (ahead_ms, health) = skew(&client, "client");
    assert!((9_900..=10_100).contains(&ahead_ms), "{ahead_ms}");
    assert_eq!(health, SurveyHealth::Ok);
}
