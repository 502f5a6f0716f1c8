//! What a node knows of the cluster and of itself.

use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;

use super::core::Core;
use crate::proto::id::NodeId;
use crate::proto::roster::{RosterTag, Timing, majority};
use crate::proto::time::Now;
use crate::wire::Traffic;

/// What a node knows of the cluster and of itself.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Status {
    /// This node.
    pub node: NodeId,
    /// This life of it.
    pub incarnation: u64,
    /// Where it listens.
    pub listen: SocketAddr,
    /// The roster: version and digest. Nodes that do not share it refuse each other.
    pub roster: RosterTag,
    /// How many voters a key has.
    pub voters_per_key: usize,
    /// The constants that all nodes share.
    pub timing: Timing,
    /// The members of the roster.
    pub members: Vec<Member>,
    /// Nodes that gossip knows and the roster does not: they claim and do not vote.
    pub others: Vec<Other>,
    /// Whether a majority of the members vote and can be reached, this node included. Never once
    /// the mesh was shut down.
    pub is_ready: bool,
    /// How long this node's voter still abstains at the least, since it has no memory; `None`
    /// where it votes, or where this node is no member.
    pub quarantine: Option<Duration>,
    /// How many locks this node holds.
    pub held: usize,
    /// How many requests of this node wait.
    pub waiting: usize,
    /// How many keys this node's voter keeps.
    pub voter_keys: usize,
    /// How many claims wait at this node's voter.
    pub voter_waiters: usize,
    /// Datagrams, and what was dropped.
    pub traffic: Traffic,
    /// Whether the mesh was shut down, or its runtime is gone.
    pub is_shut_down: bool,
}

/// A member of the roster, as this node sees it.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Member {
    /// Its id.
    pub node: NodeId,
    /// Where this node would send to.
    pub addr: Option<SocketAddr>,
    /// What gossip says: advice. `None` where it has not heard of it.
    pub is_alive: Option<bool>,
    /// Whether it is this node, or has an address and is not dead by gossip's word.
    pub is_reachable: bool,
    /// Whether it says by gossip that it votes. It does not while it is in quarantine.
    pub votes: bool,
}

/// A node that is no member of the roster.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Other {
    /// Its id.
    pub node: NodeId,
    /// Where it is.
    pub addr: SocketAddr,
    /// What gossip says.
    pub is_alive: bool,
}

impl Status {
    pub(crate) fn of(core: &Core, now: Now, listen: SocketAddr) -> Self {
        let node = &core.node;
        let (roster, view) = (node.roster(), node.view());
        let own_votes = core.votes();
        let members: Vec<Member> = roster
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
                let is_reachable = addr.is_some() && is_alive.unwrap_or(false);
                let votes = if is_me {
                    own_votes
                } else {
                    core.voting.contains(member)
                };
                Member {
                    node: member.clone(),
                    addr,
                    is_alive,
                    is_reachable,
                    votes,
                }
            })
            .collect();
        let others = view.peers.iter().filter(|(id, _)| !roster.has_member(id));
        let others = others
            .map(|(id, peer)| Other {
                node: id.clone(),
                addr: peer.addr,
                is_alive: peer.alive,
            })
            .collect();
        let quarantine = node.voter().and_then(|v| v.quarantine());
        let ready = members
            .iter()
            .filter(|member| member.is_reachable && member.votes)
            .count();
        Self {
            node: node.id().clone(),
            incarnation: node.claimant().incarnation().get(),
            listen,
            roster: roster.tag(),
            voters_per_key: roster.voters_per_key(),
            timing: *roster.timing(),
            is_ready: !core.is_shut_down
                && (own_votes || node.voter().is_none())
                && ready >= majority(members.len()),
            members,
            others,
            quarantine: quarantine.map(|until| until.since(now.mono)),
            held: core.held(),
            waiting: node.claimant().waiting(),
            voter_keys: node.voter().map_or(0, |voter| voter.slots()),
            voter_waiters: node.voter().map_or(0, |voter| voter.waiters()),
            traffic: node.traffic().clone(),
            is_shut_down: core.is_shut_down,
        }
    }
}
