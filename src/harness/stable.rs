//! Stability of a cluster: what its nodes should see of each other, and what is missing.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use crate::runtime::Status;
use lockmesh_proto::{NodeId, quorum};

/// The error returned if a cluster does not become stable in time.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct NotStable {
    /// The time that the caller waited.
    pub waited: Duration,
    /// The conditions that were missing at the end, one sentence each.
    pub missing: Vec<String>,
}

impl fmt::Display for NotStable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (waited, missing) = (self.waited, self.missing.join("; "));
        write!(f, "not stable in {waited:?}: {missing}")
    }
}

impl std::error::Error for NotStable {}

/// One node and its status.
pub(super) struct Seen {
    pub(super) id: NodeId,
    pub(super) addr: SocketAddr,
    /// `true` if the node is neither paused nor down.
    pub(super) runs: bool,
    pub(super) status: Status,
}

/// Returns what is missing until the nodes see each other as their links allow. `passes(from, to)`
/// returns `true` if datagrams pass from one node to another.
pub(super) fn missing(nodes: &[Seen], passes: impl Fn(usize, usize) -> bool) -> Vec<String> {
    let both_ways = |a, b| passes(a, b) && passes(b, a);
    let mut missing = Vec::new();
    for (i, node) in nodes.iter().enumerate().filter(|(_, node)| node.runs) {
        // A voter in recovery that cannot reach a quorum of the members does not vote yet.
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

/// Returns the running nodes that are reached from `start`, directly or over others.
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

/// Returns `true` if a node sees another as alive, at its current address.
fn sees(status: &Status, other: &Seen) -> bool {
    let mut members = status.members.iter().filter(|m| m.node == other.id);
    let mut others = status.others.iter().filter(|o| o.node == other.id);
    members.any(|m| m.is_alive == Some(true) && m.addr == Some(other.addr))
        || others.any(|o| o.is_alive && o.addr == other.addr)
}
