//! A mesh as its members describe it to somebody beside it. Advice for people: by the time they
//! read it, it may be over.

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

/// What the members of a mesh told.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Survey {
    /// The voter set of the first that told one.
    pub voter_set: Arc<VoterSet>,
    /// Its members, and then others that they know, each in the order of their ids.
    pub nodes: Vec<NodeSurvey>,
    /// The keys that are held or waited for, sorted, where they were asked for.
    pub locks: Vec<Inspection>,
    /// Whether those are all keys of all voters that answered. Otherwise they are as many as
    /// were asked for, in an order of the voters' own.
    pub has_all_locks: bool,
    /// The one key that was asked for.
    pub key: Option<Inspection>,
}

/// What is known of one node.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NodeSurvey {
    /// Its id.
    pub node: NodeId,
    /// Whether the voter set names it.
    pub is_member: bool,
    /// Where it answered, or else where others would send to.
    pub addr: Option<SocketAddr>,
    /// What it said itself. Of others than members only those are asked that the survey began
    /// with.
    pub answer: Option<NodeAnswer>,
    /// Who of those that answered believes it to be alive.
    pub alive_by: BTreeSet<NodeId>,
    /// Who believes it to be dead.
    pub dead_by: BTreeSet<NodeId>,
    /// For how long those that believe it to be dead have done so, at the least.
    pub silent_for: Option<Duration>,
}

/// What a node said of itself.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NodeAnswer {
    /// In which incarnation.
    pub incarnation: Incarnation,
    /// Under which voter set.
    pub voter_set: VoterSetTag,
    /// How it is.
    pub overview: Overview,
}

/// Whether a mesh does what it is for.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Every member answered, and votes.
    Ok,
    /// Some do not. Every key still has a quorum of its voters.
    Degraded,
    /// So many do not vote that some keys, or all, cannot be locked.
    Blocked,
}

impl Survey {
    /// The members of the voter set.
    pub fn members(&self) -> impl Iterator<Item = &NodeSurvey> {
        self.nodes.iter().filter(|node| node.is_member)
    }

    /// How many members answered that they vote, under this voter set.
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

    /// How many of those that vote cannot tell which wall clocks are right.
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

    /// How many members, and thus others, answered at all.
    #[must_use]
    pub fn answered(&self) -> usize {
        self.nodes
            .iter()
            .filter(|node| node.answer.is_some())
            .count()
    }

    /// How it is with the mesh, as far as this survey could see.
    #[must_use]
    pub fn health(&self) -> Health {
        let absent = self.voter_set.members().len() - self.voting() + self.disputed();
        let voters = self.voter_set.voters_per_key();
        // They may all be voters of one key.
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

/// Who said what, once for each node.
struct Said<'a> {
    voter_set: &'a VoterSet,
    talks: BTreeMap<&'a NodeId, &'a Talk>,
}

impl<'a> Said<'a> {
    /// Where a node was heard at several addresses, or in several incarnations, the one that told
    /// most.
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
                // What the node itself was found at is better than what others say.
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

    /// The members that count for locks: those under the same voter set.
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

    /// All keys that any voter told, as far as every one that had more to tell has come.
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
        // One that fell silent on the way has told nothing that is whole.
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
