//! When a cluster has come to rest: what its nodes should see of each other, and what of that is
//! missing.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use crate::runtime::Status;
use lockmesh_proto::id::NodeId;
use lockmesh_proto::voter_set::quorum;

/// A cluster that has not come to rest in time.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct NotStable {
    /// How long it was waited for.
    pub waited: Duration,
    /// What was missing at the end, a sentence for each.
    pub missing: Vec<String>,
}

impl fmt::Display for NotStable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (waited, missing) = (self.waited, self.missing.join("; "));
        write!(f, "not stable in {waited:?}: {missing}")
    }
}

impl std::error::Error for NotStable {}

/// One node, and what it says of the cluster.
pub(super) struct Seen {
    pub(super) id: NodeId,
    pub(super) addr: SocketAddr,
    /// Neither paused nor down.
    pub(super) runs: bool,
    pub(super) status: Status,
}

/// What is missing for nodes to see each other as their links are. `passes(from, to)`: whether
/// datagrams pass at all.
pub(super) fn missing(nodes: &[Seen], passes: impl Fn(usize, usize) -> bool) -> Vec<String> {
    let both_ways = |a, b| passes(a, b) && passes(b, a);
    let mut missing = Vec::new();
    for (i, node) in nodes.iter().enumerate().filter(|(_, node)| node.runs) {
        // Whoever cannot hear most members does not vote before it can.
        let is_alone = || {
            let members = &node.status.members;
            let can_answer = |j: &usize| *j == i || nodes[*j].runs && both_ways(i, *j);
            let answer = (0..nodes.len()).filter(can_answer);
            let is_member = |j: &usize| members.iter().any(|it| it.node == nodes[*j].id);
            answer.filter(is_member).count() < quorum(members.len())
        };
        let quarantine = node.status.quarantine;
        if let Some(left) = quarantine.filter(|left| !left.is_zero() || !is_alone()) {
            let id = &node.id;
            missing.push(format!("{id} does not vote yet, for {left:?} at the least"));
        }
        let near = reached(nodes, i, both_ways);
        let heard = reached(nodes, i, |to, from| passes(from, to));
        for (j, other) in nodes.iter().enumerate().filter(|(j, _)| *j != i) {
            let (id, of) = (&node.id, &other.id);
            let sees = sees(&node.status, other);
            let mut members = node.status.members.iter();
            if let Some(member) = members.find(|it| it.node == other.id) {
                let can_answer = other.runs && both_ways(i, j);
                if can_answer && sees && !member.votes {
                    missing.push(format!("{id} has not heard that {of} votes"));
                }
                if !can_answer && member.is_reachable {
                    missing.push(format!("{id} still counts on {of}"));
                }
            }
            if near[j] && !sees {
                missing.push(format!("{id} does not see {of}"));
            } else if !heard[j] && sees {
                missing.push(format!("{id} still sees {of}"));
            }
        }
    }
    missing
}

/// Which running nodes are reached from `start`, over any number of others.
fn reached(nodes: &[Seen], start: usize, passes: impl Fn(usize, usize) -> bool) -> Vec<bool> {
    let mut reached = vec![false; nodes.len()];
    let mut open = vec![start];
    reached[start] = true;
    while let Some(at) = open.pop() {
        for (next, node) in nodes.iter().enumerate() {
            if node.runs && !reached[next] && passes(at, next) {
                reached[next] = true;
                open.push(next);
            }
        }
    }
    reached
}

/// Whether a node believes another to be alive, and where it is.
fn sees(status: &Status, other: &Seen) -> bool {
    let mut members = status.members.iter().filter(|m| m.node == other.id);
    let mut others = status.others.iter().filter(|o| o.node == other.id);
    members.any(|m| m.is_alive == Some(true) && m.addr == Some(other.addr))
        || others.any(|o| o.is_alive && o.addr == other.addr)
}
