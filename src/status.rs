//! The state of a node and of its locks, for people, dashboards and tests.
//!
//! - [`Mesh::status`](crate::Mesh::status) returns a [`Status`]: the node, its members and counters.
//! - [`Mesh::watch`](crate::Mesh::watch) follows the [`Health`] of the node.
//! - [`Mesh::inspect`](crate::Mesh::inspect) returns an [`Inspection`]: holder and queue of a key.
//! - A [`VoteTally`] is part of [`AcquireError::TimedOut`](crate::AcquireError::TimedOut).
//! - [`VoterLimits`] bound the memory of a voter, which [`Status`] reports in keys and waiters.
//!
//! All of it may be outdated when it is read. Use it for diagnostics, not for decisions.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;

use crate::engine::core::Core;
pub use crate::journal::JournalStatus;
use lockmesh_proto::{NodeId, NotMemory, Now, Timing};

pub use lockmesh_proto::{
    DropReason, Fingerprint, Inspection, KeyOwner, LockState, NoSpareVoter, RefuseReason,
    RevokedClaim, SeenVotes, Standing, Traffic, VoteTally, VoterLimits, VoterSetTag, Waiter,
    WallClock,
};

/// The health of a node, from [`Mesh::watch`](crate::Mesh::watch).
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Health {
    /// Locks can be acquired, and an orchestrator may restart the next voter.
    ///
    /// A quorum of the members would vote for claims of this node, including its own voter if it
    /// has one. A node with a voter was in [`NoSpareVoter`](Self::NoSpareVoter) before, until that
    /// was over. Once ready, it stays so while locks can be acquired, also if another voter stops.
    Ready,
    /// Locks can be acquired, but the next voter must not be restarted yet: some keys could have no
    /// quorum without it, or this node's voter reads the marks of the others. This node has a voter
    /// and has not been ready since its start.
    ///
    /// A voter that is down for good keeps no other node from becoming ready: the wait for it ends
    /// after the length of a quarantine, about `max_ttl`. Nodes do not wait for it if keys have one
    /// or two voters, since a restart then always costs a quorum. Reading ends ten seconds after
    /// the last page of marks. It begins after `max_ttl` if the marks were left out of a handover.
    NoSpareVoter,
    /// The voter of this node is in recovery. The other voters may form a quorum without it.
    Recovering,
    /// Fewer than a quorum of the members would vote for claims of this node. No lock can be
    /// acquired.
    NoQuorum,
    /// Another process runs under the name of this node. Neither can hold a lock.
    NameTaken,
    /// The mesh is shutting down or has shut down.
    ShutDown,
}

impl Health {
    /// Returns `true` if locks can be acquired: [`Ready`](Self::Ready) or
    /// [`NoSpareVoter`](Self::NoSpareVoter).
    #[must_use]
    pub fn can_lock(self) -> bool {
        matches!(self, Self::Ready | Self::NoSpareVoter)
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ready => "ready",
            Self::NoSpareVoter => "without a spare voter",
            Self::Recovering => "in recovery",
            Self::NoQuorum => "without a quorum",
            Self::NameTaken => "not the only process of its name",
            Self::ShutDown => "shut down",
        })
    }
}

/// The state of a node, and of the cluster as this node sees it.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Status {
    /// The id of this node.
    pub node: NodeId,
    /// The incarnation of this node, a number that rises with each start.
    pub incarnation: u64,
    /// The address that this node listens on.
    pub listen: SocketAddr,
    /// The version and digest of the voter set. Nodes with different ones refuse each other.
    pub voter_set: VoterSetTag,
    /// The fingerprints of the cluster secrets that this node has. It seals with the first. Empty
    /// in plaintext.
    pub secrets: Vec<Fingerprint>,
    /// The number of voters of each key.
    pub voters_per_key: usize,
    /// The timing constants, which all nodes share.
    pub timing: Timing,
    /// The members of the voter set.
    pub members: Vec<MemberStatus>,
    /// The nodes that gossip knows but the voter set does not name: they claim and do not vote.
    pub others: Vec<ClientNode>,
    /// `true` if the health is [`Health::Ready`].
    pub is_ready: bool,
    /// The health of this node.
    pub health: Health,
    /// The reason why no voter may be restarted at this moment; `None` if one may, since every key
    /// has a quorum without any one more. Only this node's own reading of marks counts.
    pub no_spare_voter: Option<NoSpareVoter>,
    /// The time left in quarantine; `None` if this node votes or is not a member.
    ///
    /// Afterwards, recovery may add one second. It takes longer if too few wall clocks are known.
    pub quarantine: Option<Duration>,
    /// The way in which this node's voter came to vote; `None` on a node without a voter.
    pub voter_start: Option<VoterStart>,
    /// The journal of this node's voter; `None` if it keeps none.
    pub journal: Option<JournalStatus>,
    /// The wall clock of this node beside those of the voters. A wrong clock costs no lock while
    /// most are right.
    pub wall_clock: WallClock,
    /// The number of locks that this node holds.
    pub held: usize,
    /// The number of pending requests of this node.
    pub waiting: usize,
    /// The number of keys that this node's voter keeps.
    pub voter_keys: usize,
    /// The number of claims that wait at this node's voter.
    pub voter_waiters: usize,
    /// The number of marks at this node's voter: keys that nobody is granted until their marks end,
    /// such as ticks that ran ([`Mesh::once`](crate::Mesh::once)).
    pub voter_marks: usize,
    /// `true` if this node's voter lost its memory, and could not read the marks of enough others.
    /// Ticks that ran before its start may run again.
    pub may_lack_marks: bool,
    /// The number of times that gossip has ended and was restarted. Each is an error in the log.
    pub gossip_restarts: u64,
    /// Counters of datagrams, and of those that were dropped.
    pub traffic: Traffic,
    /// `true` if the mesh was shut down, or its runtime has ended.
    pub is_shut_down: bool,
}

/// The way in which this node's voter came to vote, or the reason why it does not vote yet.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(tag = "from", rename_all = "snake_case")]
#[non_exhaustive]
pub enum VoterStart {
    /// It had no memory of an earlier process, so it votes after a quarantine, or once the others
    /// confirm that the cluster is new. [`Status::quarantine`] is the time left.
    Nothing {
        /// The reason why it had no memory.
        why: String,
    },
    /// It has read its memory from its journal.
    Journal {
        /// The number of votes that were out.
        votes: usize,
        /// `true` if more than half of the other members confirmed that no later process of this
        /// node has voted.
        is_confirmed: bool,
    },
    /// It has taken up the memory that its last process left with other voters.
    Handover {
        /// The voter that delivered it.
        node: NodeId,
        /// The number of votes that were out.
        votes: usize,
    },
}

impl VoterStart {
    /// Returns the start of a voter whose journal, if it keeps one, is not memory for this reason. A
    /// voter with a usable journal begins so too, since it asks the others first.
    pub(crate) fn without_memory(why: Option<NotMemory>, keeps_journal: bool) -> Self {
        let why = match why {
            None if keeps_journal => "its journal is not confirmed as the newest".to_owned(),
            None => "it keeps no journal, and no other voter had its memory".to_owned(),
            Some(NotMemory::New) => {
                "its journal is new, and no other voter had its memory".to_owned()
            }
            Some(why) => format!("its journal cannot be used: {why}"),
        };
        Self::Nothing { why }
    }

    /// Returns the value of the label `from` of [`VOTER_STARTS`](crate::metrics::VOTER_STARTS).
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Nothing { .. } => "nothing",
            Self::Journal { .. } => "journal",
            Self::Handover { .. } => "handover",
        }
    }
}

impl fmt::Display for VoterStart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing { why } => write!(f, "without memory: {why}"),
            Self::Journal {
                votes,
                is_confirmed,
            } => {
                let unless = if *is_confirmed { "" } else { ", unconfirmed" };
                write!(f, "from its journal, {votes} votes{unless}")
            }
            Self::Handover { node, votes } => {
                write!(f, "by handover from {node}, {votes} votes")
            }
        }
    }
}

/// The result of [`Mesh::shutdown`](crate::Mesh::shutdown).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Shutdown {
    /// The voters that have the memory of this node's voter, for its next process. Empty if the node
    /// keeps a journal, is no voter, does not vote, or if no other voter took the memory in time.
    pub handed_over_to: Vec<NodeId>,
}

/// A member of the voter set, as this node sees it.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct MemberStatus {
    /// The id of the member.
    pub node: NodeId,
    /// The address that this node sends to, if it knows one.
    pub addr: Option<SocketAddr>,
    /// `true` if gossip reports the member as alive; `None` if gossip does not know it. Advice
    /// only.
    ///
    /// The gossip library decides by a phi accrual failure detector (Hayashibara et al., 2004).
    pub is_alive: Option<bool>,
    /// `true` if it is this node, or has answered this node recently.
    pub is_reachable: bool,
    /// `true` if it would vote for a claim of this node, by its
    /// [`standing`](MemberStatus::standing).
    pub votes: bool,
    /// Its response to a claim of this node, as it reported at most about six seconds ago.
    pub standing: Standing,
    /// The differences between its voter set and this node's, as text; `None` if there are none.
    pub differs: Option<String>,
    /// The secret with which it seals, by its newest datagram. `None` in plaintext, or if no
    /// datagram of it was opened.
    pub secret: Option<Fingerprint>,
}

/// A node that is not a member of the voter set.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ClientNode {
    /// The id of the node.
    pub node: NodeId,
    /// The address of the node.
    pub addr: SocketAddr,
    /// `true` if gossip reports the node as alive.
    pub is_alive: bool,
    /// The differences between its voter set and this node's, as text; `None` if there are none.
    pub differs: Option<String>,
    /// The secret with which it seals, by its newest datagram. `None` in plaintext, or if it has
    /// sent this node only gossip.
    pub secret: Option<Fingerprint>,
    /// The time since gossip reported the node as dead.
    ///
    /// Gossip forgets a dead node after 20 s or 30 gossip intervals, whichever is longer.
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
                    secret: node.secret_of(member),
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
                secret: node.secret_of(id),
                silent_for: node.silent_for(now, id),
            })
            .collect();
        let quarantine = node.voter().and_then(|v| v.quarantine());
        let health = core.health(now);
        Self {
            node: node.id().clone(),
            incarnation: node.claimant().incarnation().get(),
            listen,
            voter_set: voter_set.tag(),
            secrets: node.secrets(),
            voters_per_key: voter_set.voters_per_key(),
            timing: *voter_set.timing(),
            is_ready: health == Health::Ready,
            health,
            no_spare_voter: core.check_restart(now).err(),
            members,
            others,
            quarantine: quarantine.map(|until| until.since(now.mono)),
            voter_start: core.voter_start.clone(),
            journal: core.journal.as_ref().map(|journal| journal.status()),
            wall_clock: node.wall_clock(now),
            held: core.held(),
            waiting: node.claimant().waiting(),
            voter_keys: node.voter().map_or(0, |voter| voter.slots()),
            voter_marks: node.voter().map_or(0, |voter| voter.marks()),
            may_lack_marks: core.may_lack_marks,
            voter_waiters: node.voter().map_or(0, |voter| voter.waiters()),
            gossip_restarts: core.gossip_restarts,
            traffic: node.traffic().clone(),
            is_shut_down: core.is_shut_down,
        }
    }
}
