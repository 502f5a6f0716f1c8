//! A survey of a mesh: it finds the members from any node that answers, and asks each for its
//! state. The caller sends the questions, and passes the answers and the time.
//!
//! Each node is asked one question at a time, which is retransmitted until it is answered or too
//! old. An answer that does not fit its question is dropped.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::inspect::{Inspection, Notes, judge};
use super::survey::{NodeAnswer, NodeSurvey, Survey};
use crate::epoch::Epoch;
use crate::id::{Key, NodeId};
use crate::message::Report;
use crate::time::Instant;
use crate::voter_set::{MEMBERS_MAX, VoterSet};
use crate::wire::DropReason;
use crate::wire::observe::{Answer, Question, SeenNode, Topic, VoterState, first_lock_number};

/// The time after which a question is retransmitted.
const RETRANSMIT_AFTER: Duration = Duration::from_millis(200);
/// The divisor of the patience for nodes that others report as dead. It is checked when a question
/// is retransmitted.
const DOUBT: u32 = 4;
/// The most open questions. The socket must have capacity for all answers.
const OPEN_MAX: usize = 64;
/// The most addresses at which one member is sought, besides those that the survey started with.
const ADDRESSES_MAX: usize = 3;
/// The most addresses of one survey.
const ASKED_MAX: usize = 4 * MEMBERS_MAX;
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
    cluster: String,
    /// The nonce of the last question.
    nonce: u64,
    /// The questions to send once fewer are open.
    waiting: VecDeque<(SocketAddr, Topic)>,
    /// The questions that were sent, by nonce.
    open: BTreeMap<u64, Open>,
    /// All addresses that are asked.
    asked: BTreeSet<SocketAddr>,
    nodes: BTreeMap<NodeId, Known>,
    voter_set: Option<Arc<VoterSet>>,
}

#[derive(Clone, Debug)]
struct Open {
    to: SocketAddr,
    question: Question,
    asked_at: Instant,
    sent_at: Instant,
}

/// The answers of a node's highest incarnation, and those about it.
#[derive(Clone, Debug)]
struct Known {
    node: NodeSurvey,
    /// The number of addresses at which it is sought.
    sought: usize,
    members: Vec<NodeId>,
    /// The number of entries in the pages of the present list.
    listed: usize,
    locks: BTreeMap<Key, Report>,
    /// The notes of the claims on those keys that have any.
    notes: BTreeMap<Key, Notes>,
    /// The number of the first key that was not asked for; `None` if the list is complete.
    rest: Option<u64>,
    /// `true` if it answered all questions.
    is_done: bool,
}

impl Known {
    fn new(node: NodeSurvey) -> Self {
        Self {
            node,
            sought: 0,
            members: Vec::new(),
            listed: 0,
            locks: BTreeMap::new(),
            notes: BTreeMap::new(),
            rest: None,
            is_done: false,
        }
    }

    /// Takes the lists of an answer. Returns the next question.
    fn take(&mut self, topic: Topic, answer: &mut Answer, wanted: &Wanted) -> Option<Topic> {
        let members = answer.nodes.iter().filter(|seen| seen.is_member);
        self.members.extend(members.map(|seen| seen.node.clone()));
        self.listed += answer.nodes.len() + answer.locks.len();
        for seen in answer.notes.drain(..) {
            if let Some(lock) = answer.locks.get(seen.lock as usize)
                && let Some(claim) = claim_of(&lock.report, seen.claim)
            {
                let notes = self.notes.entry(lock.key.clone()).or_default();
                notes.insert(claim, seen.note);
            }
        }
        let locks = answer.locks.drain(..);
        self.locks.extend(locks.map(|seen| (seen.key, seen.report)));
        let first = match (topic, answer.next, wanted) {
            (Topic::Overview { .. }, Some(from), _) if self.listed < NODES_MAX => {
                return Some(Topic::Overview { from });
            }
            (Topic::Locks { .. }, Some(from), Wanted::Locks { max }) if self.listed < *max => {
                return Some(Topic::Locks { from });
            }
            (Topic::LocksAndNotes { .. }, Some(from), Wanted::Locks { max })
                if self.listed < *max =>
            {
                return Some(Topic::LocksAndNotes { from });
            }
            (Topic::Overview { .. }, _, Wanted::Locks { max: 1.. }) => {
                Topic::LocksAndNotes { from: 0 }
            }
            (Topic::Overview { .. }, _, Wanted::Key { key }) => {
                Topic::KeyAndNotes { key: key.clone() }
            }
            (topic, next, _) => {
                let is_list = matches!(topic, Topic::Locks { .. } | Topic::LocksAndNotes { .. });
                self.rest = next.filter(|_| is_list);
                self.is_done = true;
                return None;
            }
        };
        self.listed = 0;
        Some(first)
    }

    /// Returns the voter set that the node described, if the description agrees with its digest.
    fn described(&self, cluster: &str) -> Option<Arc<VoterSet>> {
        let NodeAnswer {
            voter_set: tag,
            overview,
            ..
        } = self.node.answer.as_ref()?;
        let (members, voters) = (self.members.clone(), overview.voters_per_key as usize);
        let voter_set = VoterSet::new(tag.version, members, voters, overview.timing).ok()?;
        let voter_set = voter_set.of_cluster(cluster);
        (voter_set.tag() == *tag).then(|| Arc::new(voter_set))
    }

    fn report(&self, key: &Key) -> Report {
        let state = self.node.answer.as_ref().map(|it| it.overview.voter);
        let is_recovering = matches!(state, Some(VoterState::Recovering { .. }));
        let listed = self.locks.get(key).cloned();
        listed.unwrap_or_else(|| Report {
            is_recovering,
            ..Report::default()
        })
    }
}

/// Returns the node and the epoch of a claim in a report, by its number in a [`SeenNote`].
///
/// [`SeenNote`]: crate::wire::observe::SeenNote
fn claim_of(report: &Report, number: u32) -> Option<(NodeId, Epoch)> {
    match (number as usize).checked_sub(1) {
        None => report
            .vote
            .as_ref()
            .map(|it| (it.claim.node.clone(), it.epoch)),
        Some(at) => report.waiters.get(at).map(|it| (it.node.clone(), it.epoch)),
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
        Topic::Locks { from } | Topic::LocksAndNotes { from } => {
            answer.overview.is_none() && is_page(*from, answer.locks.len())
        }
        Topic::Key { key } | Topic::KeyAndNotes { key } => {
            matches!(&answer.locks[..], [lock] if lock.key == *key)
        }
    }
}

impl Surveyor {
    /// Creates a survey that starts with these addresses. One that answers is enough. A question
    /// that is not answered within `patience` is given up. `cluster` is the cluster's name.
    ///
    /// `seed` must be hard to guess, since an answer is accepted if it has its question's nonce.
    #[must_use]
    pub fn new(
        cluster: &str,
        peers: impl IntoIterator<Item = SocketAddr>,
        wanted: Wanted,
        patience: Duration,
        seed: u64,
    ) -> Self {
        let asked = peers.into_iter().collect::<BTreeSet<SocketAddr>>();
        let begin = |addr: &SocketAddr| (*addr, Topic::Overview { from: 0 });
        Self {
            wanted,
            patience,
            cluster: cluster.to_owned(),
            nonce: seed,
            waiting: asked.iter().map(begin).collect(),
            open: BTreeMap::new(),
            asked,
            nodes: BTreeMap::new(),
            voter_set: None,
        }
    }

    /// Returns the next question to send now, and its destination. Call it until it returns `None`.
    pub fn poll(&mut self, now: Instant) -> Option<(SocketAddr, Question)> {
        let (nodes, patience) = (&self.nodes, self.patience);
        self.open
            .retain(|_, open| !is_late(now, open, patience, nodes));
        if self.open.len() < OPEN_MAX
            && let Some((to, topic)) = self.waiting.pop_front()
        {
            self.nonce = self.nonce.wrapping_add(1);
            let nonce = self.nonce;
            let question = Question { nonce, topic };
            let open = Open {
                to,
                question: question.clone(),
                asked_at: now,
                sent_at: now,
            };
            self.open.insert(nonce, open);
            return Some((to, question));
        }
        let again = self.retransmit_after();
        let is_due = |open: &&mut Open| now >= open.sent_at.after(again);
        let open = self.open.values_mut().find(is_due)?;
        open.sent_at = now;
        // A node of version 1 has dropped a question for notes.
        open.question.topic = open.question.topic.clone().without_notes();
        Some((open.to, open.question.clone()))
    }

    fn retransmit_after(&self) -> Duration {
        RETRANSMIT_AFTER.min(self.patience / 2)
    }

    /// Returns when to call [`Surveyor::poll`] again; `None` if all members have answered all
    /// questions, or none is open.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        let is_done = |member| self.nodes.get(member).is_some_and(|known| known.is_done);
        let voter_set = self.voter_set.as_ref();
        if voter_set.is_some_and(|it| it.members().iter().all(is_done)) {
            return None;
        }
        let wake = |open: &Open| {
            let late = open.asked_at.after(self.patience);
            late.min(open.sent_at.after(self.retransmit_after()))
        };
        self.open.values().map(wake).min()
    }

    /// Handles an answer.
    ///
    /// # Errors
    /// [`DropReason::Misaddressed`] if it does not fit an open question.
    pub fn handle_answer(&mut self, mut answer: Answer) -> Result<(), DropReason> {
        let is_fit = |open: &Open| fits(&open.question.topic, &answer);
        let is_open = self.open.get(&answer.nonce).is_some_and(is_fit);
        let open = is_open.then(|| self.open.remove(&answer.nonce)).flatten();
        let Open { to, question, .. } = open.ok_or(DropReason::Misaddressed)?;
        let Some(known) = known(&mut self.nodes, &answer.node) else {
            return Ok(());
        };
        let new = (answer.incarnation, answer.voter_set);
        let old = known.node.answer.as_ref();
        let old = old.map(|it| (it.incarnation, it.voter_set));
        if question.topic != (Topic::Overview { from: 0 }) {
            // Another process answers at this address.
            if old != Some(new) {
                return Ok(());
            }
        } else if old.is_none_or(|old| old.0 < new.0)
            && let Some(overview) = answer.overview.take()
        {
            *known = Known::new(known.node.clone());
            known.sought = ADDRESSES_MAX;
            known.node.addr = Some(to);
            known.node.answer = Some(NodeAnswer {
                incarnation: answer.incarnation,
                voter_set: answer.voter_set,
                overview: *overview,
            });
        } else {
            // It has answered at another address.
            return Ok(());
        }
        let next = known.take(question.topic, &mut answer, &self.wanted);
        let has_all_nodes = !matches!(next, Some(Topic::Overview { .. }));
        if has_all_nodes && self.voter_set.is_none() {
            self.voter_set = known.described(&self.cluster);
            known.is_done &= self.voter_set.is_some();
        }
        if !has_all_nodes || self.voter_set.is_some() {
            self.waiting.extend(next.map(|topic| (to, topic)));
        }
        for seen in answer.nodes {
            self.learn(&answer.node, seen);
        }
        Ok(())
    }

    /// Returns the answers about a node so far.
    #[must_use]
    pub fn node(&self, node: &NodeId) -> Option<&NodeSurvey> {
        self.nodes.get(node).map(|known| &known.node)
    }

    /// Returns the survey; `None` if no voter set is known.
    #[must_use]
    pub fn conclude(&self) -> Option<Survey> {
        let voter_set = self.voter_set.as_ref()?;
        let members = voter_set.members().iter().map(|member| {
            let known = self.node(member).cloned();
            NodeSurvey {
                is_member: true,
                ..known.unwrap_or_else(|| NodeSurvey::unknown(member))
            }
        });
        let others = self.nodes.values().map(|known| &known.node);
        let others = others.filter(|it| !voter_set.has_member(&it.node));
        let (locks, has_all_locks) = self.locks(voter_set);
        Some(Survey {
            voter_set: voter_set.clone(),
            nodes: members.chain(others.cloned()).collect(),
            locks,
            has_all_locks,
        })
    }

    /// Returns the state of the listed keys, up to the first one that a voter was not asked for.
    /// The flag is `true` if there is none. A voter whose list is not finished does not count.
    fn locks(&self, voter_set: &VoterSet) -> (Vec<Inspection>, bool) {
        let list = |voter: &NodeId| {
            let known = self.nodes.get(voter).filter(|known| known.is_done)?;
            let answer = known.node.answer.as_ref()?;
            (answer.voter_set == voter_set.tag()).then_some(known)
        };
        let lists: Vec<&Known> = voter_set.members().iter().filter_map(list).collect();
        let rest = lists.iter().filter_map(|known| known.rest).min();
        let is_before = |key: &&Key| rest.is_none_or(|it| first_lock_number(key) >> 32 < it >> 32);
        let listed = lists.iter().flat_map(|known| known.locks.keys());
        let mut keys: BTreeSet<&Key> = listed.filter(is_before).collect();
        if let Wanted::Key { key } = &self.wanted {
            keys = [key].into();
        }
        let locks = keys.into_iter().map(|key| {
            let voters = voter_set.voters_for(key);
            let lists = voters.iter().filter_map(list);
            let reports: Vec<Report> = lists.map(|known| known.report(key)).collect();
            let notes = voters.iter().filter_map(list);
            let notes = notes.filter_map(|known| known.notes.get(key));
            let notes: Notes = notes
                .flatten()
                .map(|(of, it)| (of.clone(), it.clone()))
                .collect();
            judge(key.clone(), voters.len(), &reports, &notes)
        });
        (locks.collect(), rest.is_none())
    }

    fn learn(&mut self, by: &NodeId, seen: SeenNode) {
        let Some(known) = known(&mut self.nodes, &seen.node) else {
            return;
        };
        let node = &mut known.node;
        match seen.is_alive {
            Some(true) => drop(node.alive_by.insert(by.clone())),
            Some(false) => drop(node.dead_by.insert(by.clone())),
            None => {}
        }
        let silent_for = [node.silent_for, seen.silent_for];
        node.silent_for = silent_for.into_iter().flatten().min();
        let Some(addr) = seen.addr else { return };
        node.addr.get_or_insert(addr);
        let is_sought = seen.is_member && known.sought < ADDRESSES_MAX;
        if is_sought && self.asked.len() < ASKED_MAX && self.asked.insert(addr) {
            known.sought += 1;
            self.waiting.push_back((addr, Topic::Overview { from: 0 }));
        }
    }
}

/// Returns `true` if a question is to be given up. Nodes that others report as dead get less time.
fn is_late(now: Instant, open: &Open, patience: Duration, nodes: &BTreeMap<NodeId, Known>) -> bool {
    let is_dead = |known: &Known| {
        let node = &known.node;
        node.addr == Some(open.to) && node.alive_by.is_empty() && !node.dead_by.is_empty()
    };
    let age = now.since(open.asked_at);
    age >= patience || age >= patience / DOUBT && nodes.values().any(is_dead)
}

fn known<'a>(nodes: &'a mut BTreeMap<NodeId, Known>, node: &NodeId) -> Option<&'a mut Known> {
    if nodes.len() >= NODES_MAX && !nodes.contains_key(node) {
        return None;
    }
    let known = nodes.entry(node.clone());
    Some(known.or_insert_with(|| Known::new(NodeSurvey::unknown(node))))
}
