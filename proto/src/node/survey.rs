//! A mesh as its members describe it to an observer. It is advice for people and may be outdated
//! when they read it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::inspect::Inspection;
use crate::clocks::WallClock;
use crate::id::{Incarnation, NodeId};
use crate::voter_set::{NoSpareVoter, VoterSet, VoterSetTag};
use crate::wire::observe::{Overview, VoterState};
use crate::wire::seal::Fingerprint;

/// The state of a mesh, as its members report it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Survey {
    /// The voter set that was reported first.
    pub voter_set: Arc<VoterSet>,
    /// Its members and then the other known nodes, each in the order of their ids.
    pub nodes: Vec<NodeSurvey>,
    /// The keys that are held or waited for, sorted, or the one that was requested. Empty unless
    /// keys were requested.
    pub locks: Vec<Inspection>,
    /// `true` if `locks` has all requested keys of all voters that answered. Otherwise it has the
    /// first keys in the order of a hash of the keys.
    pub has_all_locks: bool,
}

/// The state of one node.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NodeSurvey {
    /// The node's id.
    pub node: NodeId,
    /// `true` if the voter set names it.
    pub is_member: bool,
    /// The address that it answered from, or else the one that other nodes send to.
    pub addr: Option<SocketAddr>,
    /// Its own answer. A node that no other node names as a member is asked only if the survey
    /// started with it.
    pub answer: Option<NodeAnswer>,
    /// The secret with which it sealed its answer; `None` in plaintext or without an answer. The
    /// caller of a [`Surveyor`](super::Surveyor) sets it.
    pub secret: Option<Fingerprint>,
    /// The nodes that answered and report it as alive.
    pub alive_by: BTreeSet<NodeId>,
    /// The nodes that answered and report it as dead.
    pub dead_by: BTreeSet<NodeId>,
    /// The shortest time for which one of them has reported it as dead.
    pub silent_for: Option<Duration>,
}

/// A node's answer about itself.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NodeAnswer {
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// Its voter set.
    pub voter_set: VoterSetTag,
    /// Its state.
    pub overview: Overview,
}

/// The ability of a mesh to grant locks.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SurveyHealth {
    /// Every member votes, and no wall clocks are disputed.
    Ok,
    /// Some members do not vote or have disputed clocks. Every key still has a quorum.
    Degraded,
    /// Too many members do not vote or have disputed clocks. Some keys, or all, may have no quorum.
    Blocked,
}

impl Survey {
    /// Returns the members of the voter set.
    pub fn members(&self) -> impl Iterator<Item = &NodeSurvey> {
        self.nodes.iter().filter(|node| node.is_member)
    }

    /// Returns the number of members that answered that they vote under this voter set.
    #[must_use]
    pub fn voting(&self) -> usize {
        self.votes().count()
    }

    /// Returns the number of voting members that report disputed wall clocks.
    #[must_use]
    pub fn disputed(&self) -> usize {
        let is_disputed = |it: &&Overview| matches!(it.wall_clock, WallClock::Disputed { .. });
        self.votes().filter(is_disputed).count()
    }

    fn votes(&self) -> impl Iterator<Item = &Overview> {
        let answers = self.members().filter_map(|node| node.answer.as_ref());
        let same = answers.filter(|answer| answer.voter_set == self.voter_set.tag());
        let overviews = same.map(|answer| &answer.overview);
        overviews.filter(|overview| overview.voter == VoterState::Votes)
    }

    /// Returns the number of nodes that answered, members and others.
    #[must_use]
    pub fn answered(&self) -> usize {
        let answers = self.nodes.iter().filter_map(|node| node.answer.as_ref());
        answers.count()
    }

    /// Returns the health of the mesh, as far as the answers show it.
    #[must_use]
    pub fn health(&self) -> SurveyHealth {
        let absent = self.voter_set.members().len() - self.voting() + self.disputed();
        if absent == 0 {
            SurveyHealth::Ok
        } else if absent <= self.voter_set.spare() {
            SurveyHealth::Degraded
        } else {
            SurveyHealth::Blocked
        }
    }

    /// Checks if one of the voters may be restarted, as far as the answers show it. Voters with
    /// disputed wall clocks do not count.
    ///
    /// # Errors
    /// [`NoSpareVoter`] if a restart may cost some keys their quorum.
    pub fn check_restart(&self) -> Result<(), NoSpareVoter> {
        let voting = self.voting() - self.disputed();
        self.voter_set.check_restart(voting)
    }
}

impl NodeSurvey {
    pub(super) fn unknown(node: &NodeId) -> Self {
        Self {
            node: node.clone(),
            is_member: false,
            addr: None,
            answer: None,
            secret: None,
            alive_by: BTreeSet::new(),
            dead_by: BTreeSet::new(),
            silent_for: None,
        }
    }
}
