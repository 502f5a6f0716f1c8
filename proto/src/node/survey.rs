//! A mesh as its members describe it to an observer. It is advice for people and may be outdated
//! when they read it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::inspect::{Inspection, judge};
use super::surveyor::{Talk, Wanted};
use crate::clocks::WallClock;
use crate::id::{Incarnation, Key, NodeId};
use crate::listing::Place;
use crate::message::Report;
use crate::voter_set::{VoterSet, VoterSetTag, quorum};
use crate::wire::observe::{Overview, VoterState};

/// The state of a mesh, as its members report it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Survey {
    /// The voter set that was reported first.
    pub voter_set: Arc<VoterSet>,
    /// Its members and then the other known nodes, each in the order of their ids.
    pub nodes: Vec<NodeSurvey>,
    /// The keys that are held or waited for, sorted. Empty unless they were requested.
    pub locks: Vec<Inspection>,
    /// `true` if `locks` has all keys of all voters that answered. Otherwise it has the first keys
    /// in the order of a hash of the keys.
    pub has_all_locks: bool,
    /// The state of the key that was requested.
    pub key: Option<Inspection>,
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
    /// Its own answer. A node that is not a member is asked only if the survey started with it.
    pub answer: Option<NodeAnswer>,
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
pub enum Health {
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
        let votes = |node: &&NodeSurvey| {
            node.answer.as_ref().is_some_and(|answer| {
                answer.voter_set == self.voter_set.tag()
                    && answer.overview.voter == VoterState::Votes
            })
        };
        self.members().filter(votes).count()
    }

    /// Returns the number of voting members that report disputed wall clocks.
    #[must_use]
    pub fn disputed(&self) -> usize {
        let is_disputed = |node: &&NodeSurvey| {
            node.answer.as_ref().is_some_and(|answer| {
                answer.voter_set == self.voter_set.tag()
                    && answer.overview.voter == VoterState::Votes
                    && matches!(answer.overview.wall_clock, WallClock::Disputed { .. })
            })
        };
        self.members().filter(is_disputed).count()
    }

    /// Returns the number of nodes that answered, members and others.
    #[must_use]
    pub fn answered(&self) -> usize {
        self.nodes
            .iter()
            .filter(|node| node.answer.is_some())
            .count()
    }

    /// Returns the health of the mesh, as far as the answers show it.
    #[must_use]
    pub fn health(&self) -> Health {
        let absent = self.voter_set.members().len() - self.voting() + self.disputed();
        let voters = self.voter_set.voters_per_key();
        // The absent members may all be voters of one key.
        if absent == 0 {
            Health::Ok
        } else if absent <= voters - quorum(voters) {
            Health::Degraded
        } else {
            Health::Blocked
        }
    }
}

pub(super) fn conclude(voter_set: &Arc<VoterSet>, talks: &[Talk], wanted: &Wanted) -> Survey {
    let said = Said::of(voter_set, talks);
    let (locks, has_all_locks) = said.locks(wanted);
    Survey {
        nodes: said.nodes(),
        locks,
        has_all_locks,
        key: wanted.key.as_ref().map(|key| said.key(key)),
        voter_set: voter_set.clone(),
    }
}

/// The answers, one talk for each node.
struct Said<'a> {
    voter_set: &'a VoterSet,
    talks: BTreeMap<&'a NodeId, &'a Talk>,
}

impl<'a> Said<'a> {
    /// Selects a talk for each node. A finished talk takes precedence, and then the highest
    /// incarnation.
    fn of(voter_set: &'a VoterSet, all: &'a [Talk]) -> Self {
        let mut talks: BTreeMap<&NodeId, &Talk> = BTreeMap::new();
        let rank = |talk: &Talk| {
            let incarnation = talk.speaker.as_ref().map(|speaker| speaker.incarnation);
            (talk.is_done(), incarnation)
        };
        for talk in all {
            let Some(speaker) = &talk.speaker else {
                continue;
            };
            let known = talks.get(&speaker.node);
            if known.is_none_or(|known| rank(known) < rank(talk)) {
                talks.insert(&speaker.node, talk);
            }
        }
        Self { voter_set, talks }
    }

    fn nodes(&self) -> Vec<NodeSurvey> {
        let mut nodes: BTreeMap<(bool, &NodeId), NodeSurvey> = BTreeMap::new();
        let new = |node: &NodeId, is_member| NodeSurvey {
            node: node.clone(),
            is_member,
            addr: None,
            answer: None,
            alive_by: BTreeSet::new(),
            dead_by: BTreeSet::new(),
            silent_for: None,
        };
        for member in self.voter_set.members() {
            nodes.insert((false, member), new(member, true));
        }
        for (scripted_node, talk) in &self.talks {
            let is_member = self.voter_set.has_member(scripted_node);
            let own = nodes.entry((!is_member, scripted_node));
            let own = own.or_insert_with(|| new(scripted_node, is_member));
            own.answer = talk.speaker.as_ref().map(Into::into);
            own.addr = Some(talk.addr);
            for (node, seen) in &talk.nodes {
                let is_member = self.voter_set.has_member(node);
                let other = nodes.entry((!is_member, node));
                let other = other.or_insert_with(|| new(node, is_member));
                // The address that a node answered from takes precedence.
                other.addr = other.addr.or(seen.addr);
                let known = [other.silent_for, seen.silent_for];
                other.silent_for = known.into_iter().flatten().min();
                match seen.is_alive {
                    Some(true) => drop(other.alive_by.insert((*scripted_node).clone())),
                    Some(false) => drop(other.dead_by.insert((*scripted_node).clone())),
                    None => {}
                }
            }
        }
        for ((_, node), known) in &mut nodes {
            if let Some(talk) = self.talks.get(node) {
                known.addr = Some(talk.addr);
            }
        }
        nodes.into_values().collect()
    }

    /// Returns the members with this voter set. Only they count for locks.
    fn voters(&self) -> impl Iterator<Item = (&'a NodeId, &'a Talk)> {
        let is_same = |talk: &Talk| {
            let tag = talk.speaker.as_ref().map(|speaker| speaker.voter_set);
            tag == Some(self.voter_set.tag())
        };
        let talks = self.talks.iter().map(|(node, talk)| (*node, *talk));
        talks.filter(move |(node, talk)| self.voter_set.has_member(node) && is_same(talk))
    }

    fn key(&self, key: &Key) -> Inspection {
        let voters = self.voter_set.voters_for(key);
        let told = self.voters().filter(|(node, _)| voters.contains(node));
        let told: Vec<&Report> = told.filter_map(|(_, talk)| talk.report.as_ref()).collect();
        judge(key.clone(), voters.len(), &told)
    }

    /// Returns the state of the listed keys, up to the place that all unfinished lists have
    /// reached. The flag is `true` if all lists are complete.
    fn locks(&self, wanted: &Wanted) -> (Vec<Inspection>, bool) {
        let nothing = |is_recovering| Report {
            nonce: 0,
            vote: None,
            waiters: Vec::new(),
            waiting: 0,
            fence: Default::default(),
            is_recovering,
        };
        let (votes, recovers) = (nothing(false), nothing(true));
        if wanted.locks_max == 0 {
            return (Vec::new(), false);
        }
        // A voter that fell silent has an incomplete list, which does not count.
        let told: BTreeMap<&NodeId, &Talk> =
            self.voters().filter(|(_, talk)| talk.is_done()).collect();
        let unfinished = told.values().filter(|talk| !talk.told_all);
        let last = unfinished
            .filter_map(|talk| talk.locks.keys().next_back())
            .min();
        let keys = told.values().flat_map(|talk| talk.locks.keys());
        let places: BTreeSet<&Place> = keys
            .filter(|place| last.is_none_or(|last| *place <= last))
            .collect();
        let locks = places.into_iter().map(|place| {
            let key = &place.key;
            let voters = self.voter_set.voters_for(key);
            let told = voters.iter().filter_map(|voter| told.get(voter));
            let told: Vec<&Report> = told
                .map(|talk| match talk.locks.get(place) {
                    Some(report) => report,
                    None if talk.is_recovering() => &recovers,
                    None => &votes,
                })
                .collect();
            judge(key.clone(), voters.len(), &told)
        });
        let mut locks: Vec<Inspection> = locks.collect();
        locks.sort_by(|a, b| a.key.cmp(&b.key));
        (locks, last.is_none())
    }
}
