//! A node that receives SIGTERM while it holds a lock for which others wait.

use serde_json::Value;

use crate::common::{chaos, place, stderr, until};
use crate::worker::{Node, Setup, quoted};

fn nanos(of: &Value) -> u64 {
    of.as_u64().unwrap()
}

#[test]
fn stopped_holder_hands_lock_over_before_lease_end() {
    let place = place("handover");
    let long = Setup {
        max_ttl_ms: 30_000,
        ..Setup::default()
    };
    let mut nodes = vec![Node::start(&place, "n1", &long.holding())];
    let seeds = &quoted(&nodes[0].addr());
    let long = Setup { seeds, ..long };
    nodes.push(Node::start(&place, "n2", &long.holding()));
    nodes.push(Node::start(&place, "n3", &long.holding()));

    let holder = until("one holds and all have asked", || {
        let has_asked = nodes.iter().all(|node| node.last("asked").is_some());
        let holder = nodes.iter().position(|node| node.last("held").is_some());
        holder.filter(|_| has_asked)
    });
    let mut holder = nodes.remove(holder);
    holder.signal("-TERM");
    let next = until("another is granted", || {
        nodes.iter().find_map(|node| node.last("granted"))
    });
    assert!(holder.ends("-TERM").success(), "{}", holder.said());

    // All processes share the boot clock.
    let first = holder.last("granted").unwrap();
    let held = holder.last("held").unwrap();
    let stopping = holder.last("stopping").unwrap();
    assert!(holder.last("end").is_some(), "{}", holder.said());
    assert!(nanos(&stopping["at"]) < nanos(&next["after"]), "{next}");
    assert!(
        nanos(&next["after"]) < nanos(&held["until"][0]),
        "{held} {next}"
    );
    assert!(nanos(&first["epoch"]) < nanos(&next["epoch"]), "{next}");

    let files = nodes.iter().chain([&holder]).map(|node| &node.history);
    let judged = chaos(&["check"]).args(files).output().unwrap();
    assert!(judged.status.success(), "{}", stderr(&judged));
}
