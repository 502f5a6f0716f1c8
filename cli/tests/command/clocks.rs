//! Real nodes with wrong wall clocks: the skew is reported, and costs no lock while most clocks are
//! right.
#![cfg(unix)]

use serde_json::Value;

use crate::common::{lockmesh, stderr, stdout};
use crate::settings::{KEY, Node, Setup, place, quoted, until};

/// Returns the node's wall clock as `lockmesh status` reports it, and the exit code.
fn status(peer: &Node, name: &str) -> (Value, Option<i32>) {
    let mut command = lockmesh(&[
        "status",
        "--json",
        "--cluster",
        "prod",
        "--peer",
        &peer.addr(),
    ]);
    let output = command.env("LOCKMESH_SECRET", KEY).output().unwrap();
    let seen: Value =
        serde_json::from_str(&stdout(&output)).unwrap_or_else(|_| panic!("{}", stderr(&output)));
    let nodes = seen["nodes"].as_array().unwrap();
    let node = nodes.iter().find(|node| node["node"] == name);
    (node.unwrap()["wall_clock"].clone(), output.status.code())
}

/// Returns the node's skew in milliseconds as `status` reports it, and the exit code.
fn skew(peer: &Node, name: &str) -> (i64, Option<i32>) {
    until("it is skewed", || {
        let (clock, code) = status(peer, name);
        (clock["state"] == "skewed").then(|| (clock["ahead_ms"].as_i64().unwrap(), code))
    })
}

/// Starts three voters, the last with a wrong clock, and waits until all are ready.
fn voters(place: &std::path::Path, wall_offset_ms: i64) -> [Node; 3] {
    let first = Node::start(place, "n1", false, &Setup::default());
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
    let second = Node::start(place, "n2", false, &right);
    let third = Node::start(place, "n3", false, &wrong);
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
    let (ahead_ms, code) = skew(&first, "n3");
    assert!((-10_100..=-9_900).contains(&ahead_ms), "{ahead_ms}");
    assert_eq!(code, Some(0));
    second.kill();
    let seeds = &quoted(&first.addr());
    let asks = Setup {
        seeds,
        ..Setup::default()
    };
    let client = Node::start(&place, "client", true, &asks);
    until("a lock", || client.last("granted"));
    assert_eq!(skew(&first, "n3").1, Some(3), "one of three is dead");
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
    let client = Node::start(&place, "client", true, &ahead);
    until("a lock", || client.last("granted"));
    client.says("this node's wall clock is 10.0 s ahead of those of most voters");
    let (ahead_ms, code) = skew(&client, "client");
    assert!((9_900..=10_100).contains(&ahead_ms), "{ahead_ms}");
    assert_eq!(code, Some(0));
}
