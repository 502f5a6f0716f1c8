//! A survey of a mesh: it finds the members from any node that answers, and asks each for its
//! state. The caller sends the questions, and passes the answers and the time.
//!
//! One question at a time is open to each address, and is retransmitted until it is answered or too
//! old. An answer that does not fit its question is dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::inspect::{Inspection, judge};
use super::survey::{NodeAnswer, NodeSurvey, Survey};
use crate::id::{Incarnation, Key, NodeId};
use crate::message::Report;
use crate::time::Instant;
use crate::voter_set::{MEMBERS_MAX, VoterSet, VoterSetTag};
use crate::wire::DropReason;
use crate::wire::observe::{Answer, Overview, Question, SeenNode, Topic, VoterState, first_number};

/// The time after which a question is retransmitted.
const RETRANSMIT_AFTER: Duration = Duration::from_millis(200);
/// The divisor of the patience for nodes that others report as dead.
const DOUBT: u32 = 4;
/// The most open questions. The socket must have capacity for all answers.
const OPEN_MAX: usize = 64;
/// The most addresses at which one member is sought, besides those that the survey started with.
const ADDRESSES_MAX: usize = 3;
/// The most addresses of one survey.
const TALKS_MAX: usize = 4 * MEMBERS_MAX;
/// The most nodes that are accepted from one node, and in one survey.
const NODES_MAX: usize = MEMBERS_MAX + 16_384;

/// The data to collect beyond the state of the nodes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Wanted {
    /// No more.
    #[default]
    Overview,
    /// The keys that are held or waited for.
    Locks {
        /// The number of keys after which a voter is asked for no further page.
        max: usize,
    },
    /// The state of one key.
    Key {
        /// The key.
        key: Key,
    },
}

/// One survey of a mesh, in progress.
#[derive(Clone, Debug)]
pub struct Surveyor {
    wanted: Wanted,
    patience: Duration,
    cluster: Option<String>,
    /// The nonce of the last question.
    nonce: u64,
    talks: BTreeMap<SocketAddr, Talk>,
    /// The number of addresses at which each member is sought. No more are needed for a node that
    /// has answered.
    sought: BTreeMap<NodeId, usize>,
    nodes: BTreeMap<NodeId, NodeSurvey>,
    voter_set: Option<Arc<VoterSet>>,
}

/// The questions to one address, and the answers.
#[derive(Clone, Debug)]
struct Talk {
    /// The present question; `None` if the talk is over.
    topic: Option<Topic>,
    open: Option<Open>,
    /// The node that answered first. Answers of another one end the talk.
    speaker: Option<Speaker>,
    members: Vec<NodeId>,
    /// The number of entries in the pages of the present list.
    listed: usize,
    locks: BTreeMap<Key, Report>,
    /// The number of the first key that was not asked for; `None` if the list is complete.
    rest: Option<u64>,
    /// `true` if all questions were answered.
    is_done: bool,
    is_called_alive: bool,
    is_called_dead: bool,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    nonce: u64,
    asked_at: Instant,
    sent_at: Instant,
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct Speaker {
    node: NodeId,
    incarnation: Incarnation,
    voter_set: VoterSetTag,
}

impl Talk {
    fn new() -> Self {
        Self {
            topic: Some(Topic::Overview { from: 0 }),
            open: None,
            speaker: None,
            members: Vec::new(),
            listed: 0,
            locks: BTreeMap::new(),
            rest: None,
            is_done: false,
            is_called_alive: false,
            is_called_dead: false,
        }
    }

    /// Returns when to give the question up.
    fn deadline(&self, open: Open, patience: Duration) -> Instant {
        let is_doubtful = self.is_called_dead && !self.is_called_alive;
        open.asked_at.after(if is_doubtful {
            patience / DOUBT
        } else {
            patience
        })
    }

    /// Returns the question that follows the answer to `topic`.
    fn after(&mut self, topic: Topic, next: Option<u64>, wanted: &Wanted) -> Option<Topic> {
        let first = match (topic, next, wanted) {
            (Topic::Overview { .. }, Some(from), _) if self.listed < NODES_MAX => {
                return Some(Topic::Overview { from });
            }
            (Topic::Locks { .. }, Some(from), Wanted::Locks { max }) if self.listed < *max => {
                return Some(Topic::Locks { from });
            }
            (Topic::Overview { .. }, _, Wanted::Locks { max: 1.. }) => Topic::Locks { from: 0 },
            (Topic::Overview { .. }, _, Wanted::Key { key }) => Topic::Key { key: key.clone() },
            (topic, next, _) => {
                self.rest = next.filter(|_| matches!(topic, Topic::Locks { .. }));
                self.is_done = true;
                return None;
            }
        };
        self.listed = 0;
        Some(first)
    }
}

/// Returns `true` if an answer fits its question. A page must have entries before there is another
/// one, or the list might never end.
fn fits(topic: &Topic, answer: &Answer) -> bool {
    let is_page = |from: u64, entries: usize| match answer.next {
        Some(next) => next > from && entries > 0,
        None => true,
    };
    match topic {
        Topic::Overview { from } => answer.overview.is_some() && is_page(*from, answer.nodes.len()),
        Topic::Locks { from } => answer.overview.is_none() && is_page(*from, answer.locks.len()),
        Topic::Key { key } => matches!(&answer.locks[..], [lock] if lock.key == *key),
    }
}

impl Surveyor {
    /// Creates a survey that starts with these addresses. One that answers is enough. A question
    /// that is not answered within `patience` is given up.
    ///
    /// `seed` must be hard to guess, since an answer is accepted if it has its question's nonce.
    #[must_use]
    pub fn new(
        peers: impl IntoIterator<Item = SocketAddr>,
        wanted: Wanted,
        patience: Duration,
        seed: u64,
    ) -> Self {
        let talks = peers.into_iter().map(|addr| (addr, Talk::new()));
        Self {
            wanted,
            patience,
            cluster: None,
            nonce: seed,
            talks: talks.collect(),
            sought: BTreeMap::new(),
            nodes: BTreeMap::new(),
            voter_set: None,
        }
    }

    /// Sets the cluster's name, which is part of the voter set's digest.
    #[must_use]
    pub fn of_cluster(mut self, name: &str) -> Self {
        self.cluster = Some(name.to_owned());
        self
    }

    /// Returns the next question to send now, and its destination. Call it until it returns `None`.
    pub fn poll(&mut self, now: Instant) -> Option<(SocketAddr, Question)> {
        let mut open = 0;
        for talk in self.talks.values_mut() {
            let is_late = |it: Open| now >= talk.deadline(it, self.patience);
            if talk.open.is_some_and(is_late) {
                (talk.topic, talk.open) = (None, None);
            }
            open += usize::from(talk.open.is_some());
        }
        let is_due = |talk: &Talk| match talk.open {
            Some(open) => now >= open.sent_at.after(RETRANSMIT_AFTER),
            None => talk.topic.is_some() && open < OPEN_MAX,
        };
        let (addr, talk) = self.talks.iter_mut().find(|(_, talk)| is_due(talk))?;
        let open = talk.open.get_or_insert_with(|| {
            self.nonce = self.nonce.wrapping_add(1);
            Open {
                nonce: self.nonce,
                asked_at: now,
                sent_at: now,
            }
        });
        open.sent_at = now;
        let (nonce, topic) = (open.nonce, talk.topic.clone()?);
        Some((*addr, Question { nonce, topic }))
    }

    /// Returns when to call [`Surveyor::poll`] again; `None` if the survey is done.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        let wake = |talk: &Talk| {
            let open = talk.open?;
            let again = open.sent_at.after(RETRANSMIT_AFTER);
            Some(again.min(talk.deadline(open, self.patience)))
        };
        let next = self.talks.values().filter_map(wake).min();
        next.filter(|_| !self.is_done())
    }

    /// Handles an answer.
    ///
    /// # Errors
    /// [`DropReason::Misaddressed`] if it does not fit an open question.
    pub fn handle_answer(&mut self, answer: Answer) -> Result<(), DropReason> {
        let is_open = |talk: &Talk| talk.open.is_some_and(|it| it.nonce == answer.nonce);
        let mut talks = self.talks.iter_mut();
        let found = talks.find(|(_, talk)| is_open(talk));
        let (addr, talk) = found.ok_or(DropReason::Misaddressed)?;
        let topic = talk.topic.take_if(|topic| fits(topic, &answer));
        let topic = topic.ok_or(DropReason::Misaddressed)?;
        talk.open = None;
        let speaker = Speaker {
            node: answer.node.clone(),
            incarnation: answer.incarnation,
            voter_set: answer.voter_set,
        };
        if *talk.speaker.get_or_insert_with(|| speaker.clone()) != speaker {
            return Ok(());
        }
        let members = answer.nodes.iter().filter(|seen| seen.is_member);
        talk.members.extend(members.map(|seen| seen.node.clone()));
        talk.listed += answer.nodes.len() + answer.locks.len();
        let locks = answer.locks.into_iter();
        talk.locks.extend(locks.map(|seen| (seen.key, seen.report)));
        talk.topic = talk.after(topic, answer.next, &self.wanted);
        let addr = *addr;
        if let Some(overview) = answer.overview {
            if !matches!(talk.topic, Some(Topic::Overview { .. })) && self.voter_set.is_none() {
                let members = std::mem::take(&mut talk.members);
                self.voter_set = described(&speaker, members, &overview, self.cluster.as_deref());
                if self.voter_set.is_none() {
                    (talk.topic, talk.is_done) = (None, false);
                }
            }
            self.learn_answer(addr, &speaker, *overview);
        }
        for seen in answer.nodes {
            self.learn_node(&speaker.node, seen);
        }
        Ok(())
    }

    /// Returns the answers about a node so far.
    #[must_use]
    pub fn node(&self, node: &NodeId) -> Option<&NodeSurvey> {
        self.nodes.get(node)
    }

    /// Returns the survey; `None` if no voter set is known.
    #[must_use]
    pub fn conclude(&self) -> Option<Survey> {
        let voter_set = self.voter_set.as_ref()?;
        let members = voter_set.members().iter().map(|member| {
            let known = self.nodes.get(member).cloned();
            NodeSurvey {
                is_member: true,
                ..known.unwrap_or_else(|| NodeSurvey::unknown(member))
            }
        });
        let others = self.nodes.values();
        let others = others.filter(|it| !voter_set.has_member(&it.node));
        let (locks, has_all_locks) = self.locks(voter_set);
        Some(Survey {
            voter_set: voter_set.clone(),
            nodes: members.chain(others.cloned()).collect(),
            locks,
            has_all_locks,
        })
    }

    /// Returns `true` if all talks are over, or all members have answered all questions.
    fn is_done(&self) -> bool {
        let done = self.talks.values().filter(|talk| talk.is_done);
        let done: BTreeSet<&NodeId> = done
            .filter_map(|talk| talk.speaker.as_ref())
            .map(|speaker| &speaker.node)
            .collect();
        let mut talks = self.talks.values();
        talks.all(|talk| talk.topic.is_none())
            || self.voter_set.as_ref().is_some_and(|voter_set| {
                let mut members = voter_set.members().iter();
                members.all(|member| done.contains(member))
            })
    }

    fn known(&mut self, node: &NodeId) -> Option<&mut NodeSurvey> {
        if self.nodes.len() >= NODES_MAX && !self.nodes.contains_key(node) {
            return None;
        }
        let known = self.nodes.entry(node.clone());
        Some(known.or_insert_with(|| NodeSurvey::unknown(node)))
    }

    fn learn_answer(&mut self, addr: SocketAddr, speaker: &Speaker, overview: Overview) {
        self.sought.insert(speaker.node.clone(), ADDRESSES_MAX);
        let Some(known) = self.known(&speaker.node) else {
            return;
        };
        let is_later = |it: &NodeAnswer| it.incarnation > speaker.incarnation;
        if !known.answer.as_ref().is_some_and(is_later) {
            known.addr = Some(addr);
            known.answer = Some(NodeAnswer {
                incarnation: speaker.incarnation,
                voter_set: speaker.voter_set,
                overview,
            });
        }
    }

    fn learn_node(&mut self, by: &NodeId, seen: SeenNode) {
        let Some(known) = self.known(&seen.node) else {
            return;
        };
        let (is_alive, is_dead) = (seen.is_alive == Some(true), seen.is_alive == Some(false));
        if is_alive {
            known.alive_by.insert(by.clone());
        }
        if is_dead {
            known.dead_by.insert(by.clone());
        }
        let silent_for = [known.silent_for, seen.silent_for];
        known.silent_for = silent_for.into_iter().flatten().min();
        let Some(addr) = seen.addr else { return };
        known.addr.get_or_insert(addr);
        let sought = self.sought.entry(seen.node).or_default();
        let is_known = self.talks.contains_key(&addr) || self.talks.len() >= TALKS_MAX;
        if seen.is_member && !is_known && *sought < ADDRESSES_MAX {
            *sought += 1;
            self.talks.insert(addr, Talk::new());
        }
        if let Some(talk) = self.talks.get_mut(&addr) {
            talk.is_called_alive |= is_alive;
            talk.is_called_dead |= is_dead;
        }
    }

    /// Returns the state of the listed keys, up to the first one that a voter was not asked for.
    /// The flag is `true` if there is none. Only members with this voter set count.
    fn locks(&self, voter_set: &VoterSet) -> (Vec<Inspection>, bool) {
        let mut lists: BTreeMap<&NodeId, (Incarnation, &Talk)> = BTreeMap::new();
        for talk in self.talks.values().filter(|talk| talk.is_done) {
            let speaker = talk.speaker.as_ref();
            let is_same = |it: &&Speaker| it.voter_set == voter_set.tag();
            let Some(speaker) = speaker.filter(is_same) else {
                continue;
            };
            let list = (speaker.incarnation, talk);
            let known = lists.entry(&speaker.node).or_insert(list);
            if known.0 < list.0 {
                *known = list;
            }
        }
        lists.retain(|node, _| voter_set.has_member(node));
        let rest = lists.values().filter_map(|(_, talk)| talk.rest).min();
        let is_before = |key: &&Key| rest.is_none_or(|it| first_number(key) >> 32 < it >> 32);
        let listed = lists.values().flat_map(|(_, talk)| talk.locks.keys());
        let keys: BTreeSet<&Key> = match &self.wanted {
            Wanted::Key { key } => [key].into(),
            _ => listed.filter(is_before).collect(),
        };
        let report = |key: &Key, voter: &NodeId| {
            let (_, talk) = lists.get(voter)?;
            let state = self.nodes.get(voter)?.answer.as_ref()?.overview.voter;
            let is_recovering = matches!(state, VoterState::Recovering { .. });
            let listed = talk.locks.get(key).cloned();
            Some(listed.unwrap_or_else(|| Report {
                is_recovering,
                ..Report::default()
            }))
        };
        let locks = keys.into_iter().map(|key| {
            let voters = voter_set.voters_for(key);
            let reports = voters.iter().filter_map(|voter| report(key, voter));
            judge(key.clone(), voters.len(), &reports.collect::<Vec<_>>())
        });
        (locks.collect(), rest.is_none())
    }
}

/// Returns the voter set that a node described, if the description agrees with its digest.
fn described(
    speaker: &Speaker,
    members: Vec<NodeId>,
    overview: &Overview,
    cluster: Option<&str>,
) -> Option<Arc<VoterSet>> {
    let voters_per_key = usize::try_from(overview.voters_per_key).ok()?;
    let version = speaker.voter_set.version;
    let voter_set = VoterSet::new(version, members, voters_per_key, overview.timing).ok()?;
    let voter_set = match cluster {
        Some(name) => voter_set.of_cluster(name),
        None => voter_set,
    };
    (voter_set.tag() == speaker.voter_set).then(|| Arc::new(voter_set))
}
