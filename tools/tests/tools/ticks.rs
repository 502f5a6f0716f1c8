//! A job that runs once in each TTL, across deploys and crashes of its processes.

use std::collections::BTreeSet;

use crate::common::{chaos, place, stderr, stdout, until};
use crate::worker::{Node, Setup, quoted};

/// Returns the times at which a node took the key.
fn ticks(node: &Node) -> BTreeSet<u64> {
    let lines = node.lines().into_iter();
    let ticks = lines.filter(|line| line["event"] == "ticked");
    ticks.filter_map(|line| line["at"].as_u64()).collect()
}

/// Each node that takes the key is stopped or killed, and restarted at once. No two ticks may fall
/// within one TTL.
#[test]
fn job_runs_once_per_ttl_across_restarts() {
    let place = place("ticks");
    let job = Setup {
        max_ttl_ms: 30_000,
        load: "--keys 1 --tasks 1 --mix tick --hold-ms 5000 --pause-ms 10..50",
        ..Setup::default()
    };
    let mut nodes = vec![Node::start(&place, "n1", &job)];
    let seeds = &quoted(&nodes[0].addr());
    nodes.extend(["n2", "n3"].map(|name| Node::start(&place, name, &Setup { seeds, ..job })));
    let seeds: Vec<String> = nodes.iter().map(|node| quoted(&node.addr())).collect();
    let seeds = &seeds.join(", ");
    let mut seen = BTreeSet::new();
    // The last node is left running. Its tick must also wait for the TTL before it.
    for signal in [Some("-TERM"), Some("-KILL"), None] {
        let new = |node: &Node| ticks(node).iter().any(|at| !seen.contains(at));
        let owner = until("a tick", || nodes.iter().position(new));
        seen.extend(nodes.iter().flat_map(ticks));
        if let Some(signal) = signal {
            let mut owner = nodes.remove(owner);
            owner.ends(signal);
            let (name, listen) = (owner.name, &owner.addr());
            drop(owner);
            nodes.push(Node::start(
                &place,
                name,
                &Setup {
                    listen,
                    seeds,
                    ..job
                },
            ));
        }
    }
    for node in &mut nodes {
        node.ends("-KILL");
    }
    let files = nodes.iter().map(|node| &node.history);
    let judged = chaos(&["check"]).args(files).output().unwrap();
    assert!(
        judged.status.success(),
        "{}{}",
        stdout(&judged),
        stderr(&judged)
    );
    assert_eq!(nodes.iter().map(|node| ticks(node).len()).sum::<usize>(), 3);
}
