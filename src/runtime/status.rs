//! What a node knows of the cluster and of itself.

use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;

use super::core::Core;
use lockmesh_proto::clocks::WallClock;
use lockmesh_proto::id::NodeId;
use lockmesh_proto::node::Standing;
use lockmesh_proto::time::Now;
use lockmesh_proto::voter_set::{Timing, VoterSetTag};
use lockmesh_proto::wire::Traffic;

/// What a node knows of the cluster and of itself.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Status {
    /// This node.
    pub node: NodeId,
    /// This incarnation of it.
    pub incarnation: u64,
    /// Where it listens.
    pub listen: SocketAddr,
    /// The voter set: version and digest. Nodes that do not share it refuse each other.
    pub voter_set: VoterSetTag,
    /// How many voters a key has.
    pub voters_per_key: usize,
    /// The constants that all nodes share.
    pub timing: Timing,
    /// The members of the voter set.
    pub members: Vec<MemberStatus>,
    /// Nodes that gossip knows and the voter set does not: they claim and do not vote.
    pub others: Vec<ClientNode>,
    /// Whether a quorum of the members would vote for claims of this node, and this node's own
    /// voter is among them, if it has one. Never once the mesh was shut down.
    pub is_ready: bool,
    /// How long this node's voter is still in recovery at the least, since it has no memory; `None`
    /// where it votes, or where this node is no member.
    pub quarantine: Option<Duration>,
    /// What the voters' wall clocks say of this node's. A wrong one costs no lock while most are
    /// right.
    pub wall_clock: WallClock,
    /// How many locks this node holds.
    pub held: usize,
    /// How many requests of this node wait.
    pub waiting: usize,
    /// How many keys this node's voter keeps.
    pub voter_keys: usize,
    /// How many claims wait at this node's voter.
    pub voter_waiters: usize,
    /// How often the gossip has ended and was started again: each is an error in the log.
    pub gossip_restarts: u64,
    /// Datagrams, and what was dropped.
    pub traffic: Traffic,
    /// Whether the mesh was shut down, or its runtime is gone.
    pub is_shut_down: bool,
}

/// A member of the voter set, as this node sees it.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct MemberStatus {
    /// Its id.
    pub node: NodeId,
    /// Where this node would send to.
    pub addr: Option<SocketAddr>,
    /// What gossip says: advice. `None` where it has not heard of it.
    pub is_alive: Option<bool>,
    /// Whether it is this node, or has answered this node lately.
    pub is_reachable: bool,
    /// Whether it would vote for a claim of this node: its [`standing`](MemberStatus::standing).
    pub votes: bool,
    /// What it would do with a claim of this node, as it said itself some seconds ago at the most.
    pub standing: Standing,
    /// In what its voter set differs from this node's, in words, where it does.
    pub differs: Option<String>,
}

/// A node that is no member of the voter set.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ClientNode {
    /// Its id.
    pub node: NodeId,
    /// Where it is.
    pub addr: SocketAddr,
    /// What gossip says.
    pub is_alive: bool,
    /// In what its voter set differs from this node's, in words, where it does.
    pub differs: Option<String>,
    /// For how long gossip has called it dead. It is forgotten some twenty seconds after it died.
    pub silent_for: Option<Duration>,
}

impl Status {
    pub(crate) fn of(core: &Core, now: Now, listen: SocketAddr) -> Self {
        let node = &core.node;
        let (voter_set, view) = (node.voter_set(), node.view());
        let members: Vec<MemberStatus> = voter_set
            .members()
            .iter()
            .map(|member| {
                let is_me = member == node.id();
                let alive = view.peers.get(member).map(|peer| peer.alive);
                let addr = if is_me {
                    Some(listen)
                } else {
                    node.address_of(member)
                };
                let is_alive = if is_me { Some(true) } else { alive };
                let standing = node.standing_of(now, member);
                MemberStatus {
                    node: member.clone(),
                    addr,
                    is_alive,
                    is_reachable: standing != Standing::Silent,
                    votes: standing == Standing::Votes,
                    standing,
                    differs: node.differences(member).map(|it| it.to_string()),
                }
            })
            .collect();
        let others = view
            .peers
            .iter()
            .filter(|(id, _)| !voter_set.has_member(id));
        let others = others
            .map(|(id, peer)| ClientNode {
                node: id.clone(),
                addr: peer.addr,
                is_alive: peer.alive,
                differs: node.differences(id).map(|it| it.to_string()),
                silent_for: node.silent_for(now, id),
            })
            .collect();
        let quarantine = node.voter().and_then(|v| v.quarantine());
        Self {
            node: node.id().clone(),
            incarnation: node.claimant().incarnation().get(),
            listen,
            voter_set: voter_set.tag(),
            voters_per_key: voter_set.voters_per_key(),
            timing: *voter_set.timing(),
            is_ready: core.is_ready(now),
            members,
            others,
            quarantine: quarantine.map(|until| until.since(now.mono)),
            wall_clock: node.wall_clock(now),
            held: core.held(),
            waiting: node.claimant().waiting(),
            voter_keys: node.voter().map_or(0, |voter| voter.slots()),
            voter_waiters: node.voter().map_or(0, |voter| voter.waiters()),
            gossip_restarts: core.gossip_restarts,
            traffic: node.traffic().clone(),
            is_shut_down: core.is_shut_down,
        }
    }
}
