//! Asks its way through a mesh: from any node that answers to all members, and from each of them
//! what it has. Bytes and time are others' business: questions come out, answers go in.
//!
//! One member after another is found by what those before it say; each is asked one question at a
//! time. An answer that makes no sense counts as silence, never as truth.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use super::survey::{NodeAnswer, Survey, conclude};
use crate::id::{Incarnation, Key, NodeId};
use crate::listing::Place;
use crate::message::Report;
use crate::voter_set::{MEMBERS_MAX, VoterSet, VoterSetTag};
use crate::wire::observe::{
    Answer, Answered, Overview, Page, Question, SeenLock, SeenNode, VoterState,
};

/// The most addresses that one member is looked for at.
const ADDRESSES_MAX: usize = 3;
/// The most addresses of one node that are remembered, those that it began with included.
const TOLD_MAX: usize = 16;
/// How often a node may become another one, or be started again, while it is asked.
const RESTARTS_MAX: usize = 2;
/// The most nodes that one node is believed to know: the members, and those that it remembers.
const NODES_MAX: usize = MEMBERS_MAX + 16_384;

/// What is to be known beyond the members and their state.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Wanted {
    /// The keys that the voters keep, so many of each voter at the most; zero: none.
    pub locks_max: usize,
    /// One key.
    pub key: Option<Key>,
}

/// A question to be asked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ask {
    /// Names whom it is asked of.
    pub talk: usize,
    /// Where to.
    pub to: SocketAddr,
    /// What.
    pub question: Question,
}

/// One look at a mesh, while it goes on.
#[derive(Clone, Debug)]
pub struct Surveyor {
    wanted: Wanted,
    pub(super) talks: Vec<Talk>,
    at: BTreeMap<SocketAddr, usize>,
    told: Told,
    /// At how many addresses each member is looked for beside those that it began with.
    sought: BTreeMap<NodeId, usize>,
    cluster: Option<String>,
    pub(super) voter_set: Option<Arc<VoterSet>>,
}

/// What those that answer say of others.
#[derive(Clone, Debug, Default)]
struct Told {
    /// Where each node is, in the order in which it was told.
    at: BTreeMap<NodeId, Vec<SocketAddr>>,
    /// Whether anybody calls the node at an address alive, and dead.
    incarnations: BTreeMap<SocketAddr, (bool, bool)>,
}

impl Told {
    fn take(&mut self, seen: &SeenNode) {
        let Some(addr) = seen.addr else { return };
        let at = self.at.entry(seen.node.clone()).or_default();
        if at.len() < TOLD_MAX && !at.contains(&addr) {
            at.push(addr);
        }
        let (alive, dead) = self.incarnations.entry(addr).or_default();
        *alive |= seen.is_alive == Some(true);
        *dead |= seen.is_alive == Some(false);
    }
}

/// What is asked of one address.
#[derive(Clone, Debug)]
pub(super) struct Talk {
    pub(super) addr: SocketAddr,
    step: Step,
    is_asked: bool,
    restarts: usize,
    pub(super) speaker: Option<Speaker>,
    pub(super) nodes: BTreeMap<NodeId, SeenNode>,
    /// In the order of the pages.
    pub(super) locks: BTreeMap<Place, Report>,
    /// All keys up to this one are known; all that there are where the talk came to its end.
    pub(super) report: Option<Report>,
    pub(super) told_all: bool,
}

/// Who answered.
#[derive(Clone, Debug)]
pub(super) struct Speaker {
    pub(super) node: NodeId,
    pub(super) incarnation: Incarnation,
    pub(super) voter_set: VoterSetTag,
    pub(super) overview: Overview,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    Overview,
    Nodes,
    Key,
    Locks,
    Done,
    Silent,
}

impl Talk {
    fn new(addr: SocketAddr) -> Self {
        Self {
            addr,
            step: Step::Overview,
            is_asked: false,
            restarts: 0,
            speaker: None,
            nodes: BTreeMap::new(),
            locks: BTreeMap::new(),
            report: None,
            told_all: false,
        }
    }

    fn is_over(&self) -> bool {
        matches!(self.step, Step::Done | Step::Silent)
    }

    /// Whether it got to the end of what was asked.
    pub(super) fn is_done(&self) -> bool {
        self.step == Step::Done
    }

    /// `true` if its voter has no memory of its votes.
    pub(super) fn is_recovering(&self) -> bool {
        let voter = self.speaker.as_ref().map(|speaker| speaker.overview.voter);
        matches!(voter, Some(VoterState::Recovering { .. }))
    }

    fn question(&self, wanted: &Wanted) -> Option<Question> {
        match self.step {
            Step::Overview => Some(Question::Overview),
            Step::Nodes => Some(Question::Nodes {
                after: self.nodes.keys().next_back().cloned(),
            }),
            Step::Key => wanted.key.clone().map(|key| Question::Key { key }),
            Step::Locks => Some(Question::Locks {
                after: self.locks.keys().next_back().map(|last| last.key.clone()),
            }),
            Step::Done | Step::Silent => None,
        }
    }

    /// Whether the one who speaks is who spoke before.
    fn is_same(&self, answered: &Answered) -> bool {
        self.speaker.as_ref().is_some_and(|speaker| {
            speaker.node == answered.node
                && speaker.incarnation == answered.incarnation
                && speaker.voter_set == answered.voter_set
        })
    }

    fn start_again(&mut self) {
        let (addr, restarts) = (self.addr, self.restarts + 1);
        *self = Self::new(addr);
        self.restarts = restarts;
        if restarts > RESTARTS_MAX {
            self.step = Step::Silent;
        }
    }

    fn take(&mut self, answered: Answered, wanted: &Wanted) {
        let Answered {
            node,
            incarnation,
            voter_set,
            answer,
            ..
        } = answered;
        match answer {
            Answer::Overview(overview) => {
                self.speaker = Some(Speaker {
                    node,
                    incarnation,
                    voter_set,
                    overview: *overview,
                });
                self.step = Step::Nodes;
            }
            Answer::Nodes(Page { entries, more }) => {
                let entries = entries.into_iter().map(|seen| (seen.node.clone(), seen));
                self.nodes.extend(entries);
                if !more || self.nodes.len() >= NODES_MAX {
                    self.step = Step::Key;
                    self.pass_over(wanted);
                }
            }
            Answer::Key(report) => {
                self.report = Some(report);
                self.step = Step::Locks;
                self.pass_over(wanted);
            }
            Answer::Locks(Page { entries, more }) => {
                let entries = entries
                    .into_iter()
                    .map(|SeenLock { key, report }| (Place::of(key), report));
                self.locks.extend(entries);
                self.told_all = !more;
                if !more || self.locks.len() >= wanted.locks_max {
                    self.step = Step::Done;
                }
            }
        }
    }

    /// Steps of which nothing is wanted.
    fn pass_over(&mut self, wanted: &Wanted) {
        if self.step == Step::Key && wanted.key.is_none() {
            self.step = Step::Locks;
        }
        if self.step == Step::Locks && wanted.locks_max == 0 {
            self.step = Step::Done;
        }
    }

    /// The voter set that it described, where what it said of it agrees with its digest.
    fn voter_set(&self, cluster: Option<&str>) -> Option<VoterSet> {
        let speaker = self.speaker.as_ref()?;
        let members = self.nodes.values().filter(|seen| seen.is_member);
        let members = members.map(|seen| seen.node.clone()).collect();
        let overview = &speaker.overview;
        let voters_per_key = usize::try_from(overview.voters_per_key).ok()?;
        let version = speaker.voter_set.version;
        let voter_set = VoterSet::new(version, members, voters_per_key, overview.timing).ok()?;
        let voter_set = match cluster {
            Some(name) => voter_set.of_cluster(name),
            None => voter_set,
        };
        (voter_set.tag() == speaker.voter_set).then_some(voter_set)
    }
}

impl Surveyor {
    /// Begins with these addresses; one that answers is enough.
    #[must_use]
    pub fn new(peers: impl IntoIterator<Item = SocketAddr>, wanted: Wanted) -> Self {
        let mut surveyor = Self {
            wanted,
            talks: Vec::new(),
            at: BTreeMap::new(),
            told: Told::default(),
            sought: BTreeMap::new(),
            cluster: None,
            voter_set: None,
        };
        for addr in peers {
            surveyor.begin(addr);
        }
        surveyor
    }

    /// The same in the cluster of this name, which is part of the voter set's digest.
    #[must_use]
    pub fn of_cluster(mut self, name: &str) -> Self {
        self.cluster = Some(name.to_owned());
        self
    }

    /// The next question, if there is one now.
    pub fn next_question(&mut self) -> Option<Ask> {
        let wanted = &self.wanted;
        let waiting = self.talks.iter_mut().enumerate();
        let mut waiting = waiting.filter(|(_, talk)| !talk.is_asked);
        let (at, talk, question) =
            waiting.find_map(|(at, talk)| talk.question(wanted).map(|it| (at, talk, it)))?;
        talk.is_asked = true;
        Some(Ask {
            talk: at,
            to: talk.addr,
            question,
        })
    }

    /// A question of this talk was answered.
    pub fn handle_answer(&mut self, talk: usize, answered: Answered) {
        let Some(talk) = self.talks.get_mut(talk).filter(|talk| talk.is_asked) else {
            return;
        };
        talk.is_asked = false;
        let begins = matches!(answered.answer, Answer::Overview(_));
        if begins != (talk.step == Step::Overview) || !(begins || talk.is_same(&answered)) {
            return talk.start_again();
        }
        let knew_nodes = !matches!(talk.step, Step::Overview | Step::Nodes);
        if let Answer::Nodes(page) = &answered.answer {
            page.entries.iter().for_each(|seen| self.told.take(seen));
        }
        talk.take(answered, &self.wanted);
        if knew_nodes || matches!(talk.step, Step::Overview | Step::Nodes) {
            return;
        }
        match (talk.voter_set(self.cluster.as_deref()), &self.voter_set) {
            (None, _) => talk.step = Step::Silent,
            (Some(voter_set), None) => self.voter_set = Some(Arc::new(voter_set)),
            (Some(_), Some(_)) => {}
        }
        self.seek();
    }

    /// A question of this talk was not answered in time.
    pub fn handle_silence(&mut self, talk: usize) {
        if let Some(talk) = self.talks.get_mut(talk) {
            talk.is_asked = false;
            talk.step = Step::Silent;
        }
    }

    /// Whether somebody calls the node at this address dead, and nobody alive: it is not worth much
    /// patience.
    #[must_use]
    pub fn is_doubtful(&self, talk: usize) -> bool {
        let talk = self.talks.get(talk);
        talk.is_none_or(|talk| self.told.incarnations.get(&talk.addr) == Some(&(false, true)))
    }

    /// Whether nothing more is to be learnt: all have told what they have, or were silent.
    #[must_use]
    pub fn is_done(&self) -> bool {
        let all_told = |voter_set: &Arc<VoterSet>| {
            let done = self.talks.iter().filter(|talk| talk.is_done());
            let done: BTreeSet<&NodeId> = done
                .filter_map(|talk| talk.speaker.as_ref())
                .map(|speaker| &speaker.node)
                .collect();
            voter_set
                .members()
                .iter()
                .all(|member| done.contains(member))
        };
        self.talks.iter().all(Talk::is_over) || self.voter_set.as_ref().is_some_and(all_told)
    }

    /// What was learnt; `None` where nobody told what the voter set is.
    #[must_use]
    pub fn conclude(&self) -> Option<Survey> {
        let voter_set = self.voter_set.clone()?;
        Some(conclude(&voter_set, &self.talks, &self.wanted))
    }

    fn begin(&mut self, addr: SocketAddr) {
        if !self.at.contains_key(&addr) {
            self.at.insert(addr, self.talks.len());
            self.talks.push(Talk::new(addr));
        }
    }

    /// Looks for members that have not answered yet, where the others say that they are.
    fn seek(&mut self) {
        let Some(voter_set) = &self.voter_set else {
            return;
        };
        let speakers = self.talks.iter().filter_map(|talk| talk.speaker.as_ref());
        let speakers: BTreeSet<&NodeId> = speakers.map(|speaker| &speaker.node).collect();
        let mut found = Vec::new();
        let silent = voter_set
            .members()
            .iter()
            .filter(|it| !speakers.contains(it));
        for member in silent {
            let told = self.told.at.get(member).into_iter().flatten();
            for addr in told.filter(|addr| !self.at.contains_key(addr)) {
                let sought = self.sought.entry(member.clone()).or_default();
                if *sought < ADDRESSES_MAX {
                    *sought += 1;
                    found.push(*addr);
                }
            }
        }
        for addr in found {
            self.begin(addr);
        }
    }
}

impl From<&Speaker> for NodeAnswer {
    fn from(speaker: &Speaker) -> Self {
        Self {
            incarnation: speaker.incarnation,
            voter_set: speaker.voter_set,
            overview: speaker.overview.clone(),
        }
    }
}
