//! A survey of a mesh: it finds all members from any node that answers, and asks each for its
//! state. The caller sends the questions and measures the time.
//!
//! Each answer may reveal further members. A node is asked one question at a time. If its answers
//! do not fit together, it is asked again from the start, and finally counts as silent.

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

/// The most addresses at which one member is sought.
const ADDRESSES_MAX: usize = 3;
/// The most reported addresses of one node that are remembered.
const TOLD_MAX: usize = 16;
/// The most restarts of a talk, because another node or incarnation answers.
const RESTARTS_MAX: usize = 2;
/// The most nodes that are accepted from one node: the members, and those that it remembers.
const NODES_MAX: usize = MEMBERS_MAX + 16_384;

/// The data to collect beyond the members and their state.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Wanted {
    /// The number of keys after which a voter is asked for no further page; zero for no keys.
    pub locks_max: usize,
    /// A key whose state is collected.
    pub key: Option<Key>,
}

/// A question to send.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ask {
    /// The number of the talk that it belongs to.
    pub talk: usize,
    /// The destination address.
    pub to: SocketAddr,
    /// The question.
    pub question: Question,
}

/// One survey of a mesh, in progress.
#[derive(Clone, Debug)]
pub struct Surveyor {
    wanted: Wanted,
    pub(super) talks: Vec<Talk>,
    at: BTreeMap<SocketAddr, usize>,
    told: Told,
    /// The number of addresses at which each member is sought, besides the initial ones.
    sought: BTreeMap<NodeId, usize>,
    cluster: Option<String>,
    pub(super) voter_set: Option<Arc<VoterSet>>,
}

/// The reports of the answering nodes about other nodes.
#[derive(Clone, Debug, Default)]
struct Told {
    /// The addresses of each node, in the order in which they were reported.
    at: BTreeMap<NodeId, Vec<SocketAddr>>,
    /// For the node at each address: `true` if it is reported as alive, and `true` if as dead.
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

/// The questions to one address, and the answers.
#[derive(Clone, Debug)]
pub(super) struct Talk {
    pub(super) addr: SocketAddr,
    step: Step,
    is_asked: bool,
    restarts: usize,
    pub(super) speaker: Option<Speaker>,
    pub(super) nodes: BTreeMap<NodeId, SeenNode>,
    /// The listed keys, in the order of the pages.
    pub(super) locks: BTreeMap<Place, Report>,
    /// The answer for the requested key.
    pub(super) report: Option<Report>,
    /// `true` if `locks` has all keys of the voter.
    pub(super) told_all: bool,
}

/// The node that answered.
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

    /// Returns `true` if all questions were answered.
    pub(super) fn is_done(&self) -> bool {
        self.step == Step::Done
    }

    /// Returns `true` if the node's voter is in recovery.
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

    /// Returns `true` if the node, its incarnation and its voter set are the same as before.
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

    /// Skips the steps that are not wanted.
    fn pass_over(&mut self, wanted: &Wanted) {
        if self.step == Step::Key && wanted.key.is_none() {
            self.step = Step::Locks;
        }
        if self.step == Step::Locks && wanted.locks_max == 0 {
            self.step = Step::Done;
        }
    }

    /// Returns the voter set that the node described, if the description agrees with its digest.
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
    /// Creates a survey that starts with these addresses. One that answers is enough.
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

    /// Sets the cluster's name, which is part of the voter set's digest.
    #[must_use]
    pub fn of_cluster(mut self, name: &str) -> Self {
        self.cluster = Some(name.to_owned());
        self
    }

    /// Returns the next question, if one can be sent now.
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

    /// Handles the answer to the question of a talk.
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

    /// Handles a timeout of the question of a talk.
    pub fn handle_silence(&mut self, talk: usize) {
        if let Some(talk) = self.talks.get_mut(talk) {
            talk.is_asked = false;
            talk.step = Step::Silent;
        }
    }

    /// Returns `true` if the node at the talk's address is reported as dead, and not as alive. A
    /// short timeout is enough for it.
    #[must_use]
    pub fn is_doubtful(&self, talk: usize) -> bool {
        let talk = self.talks.get(talk);
        talk.is_none_or(|talk| self.told.incarnations.get(&talk.addr) == Some(&(false, true)))
    }

    /// Returns `true` if all talks are over, or all members have answered all questions.
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

    /// Returns the survey; `None` if no voter set is known.
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

    /// Starts talks at the reported addresses of the members that have not answered yet.
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
