//! A mesh whose members return scripted answers.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lockmesh_proto::{
    Answer, Counts, Epoch, Flow, Incarnation, Instant, Key, NodeId, Note, Overview, Question,
    Report, ReportedVote, SeenLock, SeenNode, SeenNote, Survey, Surveyor, Timing, Topic, VoterSet,
    VoterState, Wanted, first_lock_number,
};

use crate::arbitrary::node_id;
use crate::node::claim_of;

/// The number of entries on a page.
const PAGE: usize = 2;
/// The time after which a survey gives a question up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

pub(crate) fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

pub(crate) fn voter_set(members: &[&str]) -> Arc<VoterSet> {
    let ids = members.iter().map(|name| node_id(name)).collect();
    let voter_set = VoterSet::new(1, ids, members.len(), Timing::lan()).unwrap();
    Arc::new(voter_set.of_cluster("c"))
}

pub(crate) fn seen(name: &str, port: u16, is_member: bool, is_alive: Option<bool>) -> SeenNode {
    SeenNode {
        node: node_id(name),
        addr: Some(at(port)),
        is_member,
        is_alive,
        silent_for: None,
    }
}

/// A key with a vote for node `x`.
pub(crate) fn vote(key: &Key) -> SeenLock {
    let vote = ReportedVote {
        claim: claim_of("x"),
        epoch: Epoch::new(70),
        granted: true,
        remaining: Duration::from_secs(3),
    };
    SeenLock {
        key: key.clone(),
        report: Report {
            vote: Some(vote),
            ..Report::default()
        },
    }
}

/// A node that returns scripted answers.
#[derive(Clone)]
pub(crate) struct ScriptedNode {
    pub(crate) name: NodeId,
    pub(crate) incarnation: u64,
    pub(crate) voter_set: Arc<VoterSet>,
    pub(crate) voter: VoterState,
    pub(crate) nodes: Vec<SeenNode>,
    /// The keys with votes, in the order of their numbers.
    pub(crate) locks: Vec<SeenLock>,
    /// The notes of the holders, by key.
    pub(crate) notes: BTreeMap<Key, Note>,
    /// `true` if it drops questions for notes, as a node of version 1.
    pub(crate) is_old: bool,
    /// The number of answers until it falls silent.
    pub(crate) patience: usize,
}

impl ScriptedNode {
    pub(crate) fn new(name: &str, voter_set: &Arc<VoterSet>, nodes: &[SeenNode]) -> Self {
        Self {
            name: node_id(name),
            incarnation: 1,
            voter_set: voter_set.clone(),
            voter: VoterState::Votes,
            nodes: nodes.to_vec(),
            locks: Vec::new(),
            notes: BTreeMap::new(),
            is_old: false,
            patience: usize::MAX,
        }
    }

    pub(crate) fn answer(&self, question: &Question) -> Answer {
        let mut answer = Answer {
            nonce: question.nonce,
            node: self.name.clone(),
            incarnation: Incarnation::new(self.incarnation),
            voter_set: self.voter_set.tag(),
            overview: None,
            nodes: Vec::new(),
            locks: Vec::new(),
            next: None,
            notes: Vec::new(),
        };
        match &question.topic {
            Topic::Overview { from } => {
                answer.overview = Some(Box::new(self.overview()));
                let nodes = (0..).zip(&self.nodes);
                (answer.nodes, answer.next) = page(*from, nodes);
            }
            Topic::Locks { from } | Topic::LocksAndNotes { from } => {
                let locks = self.locks.iter();
                let locks = locks.map(|seen| (first_lock_number(&seen.key), seen));
                (answer.locks, answer.next) = page(*from, locks);
            }
            Topic::Key { key } | Topic::KeyAndNotes { key } => {
                let seen = self.locks.iter().find(|seen| seen.key == *key);
                let report = seen.map_or_else(Report::default, |seen| seen.report.clone());
                let key = key.clone();
                answer.locks = vec![SeenLock { key, report }];
            }
        }
        if wants_notes(&question.topic) {
            let notes = (0..).zip(&answer.locks);
            let notes = notes.filter_map(|(lock, seen)| {
                let (claim, note) = (0, self.notes.get(&seen.key)?.clone());
                Some(SeenNote { lock, claim, note })
            });
            answer.notes = notes.collect();
        }
        answer
    }

    fn overview(&self) -> Overview {
        Overview {
            voters_per_key: self.voter_set.voters_per_key() as u32,
            timing: *self.voter_set.timing(),
            voter: self.voter,
            wall_clock: Default::default(),
            keys: self.locks.len() as u64,
            claims: 0,
            counts: Counts::default(),
            traffic: Flow::default(),
        }
    }
}

fn wants_notes(topic: &Topic) -> bool {
    matches!(
        topic,
        Topic::LocksAndNotes { .. } | Topic::KeyAndNotes { .. }
    )
}

fn page<'a, T: Clone + 'a>(
    from: u64,
    entries: impl Iterator<Item = (u64, &'a T)>,
) -> (Vec<T>, Option<u64>) {
    let mut entries = entries.filter(|(number, _)| *number >= from);
    let page = entries.by_ref().take(PAGE);
    let page = page.map(|(_, entry)| entry.clone()).collect();
    (page, entries.next().map(|(number, _)| number))
}

/// Scripted nodes by address.
#[derive(Default)]
pub(crate) struct Mesh {
    pub(crate) scripted_nodes: BTreeMap<SocketAddr, ScriptedNode>,
    /// All questions, each with its address. Retransmits are left out.
    pub(crate) asked: Vec<(SocketAddr, Question)>,
    /// The time that the last survey took.
    pub(crate) took: Duration,
}

impl Mesh {
    /// Members that vote, at ports from 1 on, and know each other.
    pub(crate) fn of(names: &[&str]) -> Self {
        Self::with_voters(names, names.len())
    }

    pub(crate) fn of_three() -> Self {
        Self::of(&["a", "b", "c"])
    }

    pub(crate) fn with_voters(names: &[&str], voters_per_key: usize) -> Self {
        let ids = names.iter().map(|name| node_id(name)).collect();
        let voter_set = VoterSet::new(1, ids, voters_per_key, Timing::lan()).unwrap();
        let voter_set = Arc::new(voter_set.of_cluster("c"));
        let mut mesh = Self::default();
        for (name, port) in names.iter().zip(1..) {
            let known = names.iter().zip(1..).map(|(other, at)| {
                let is_alive = (other != name).then_some(true);
                seen(other, at, true, is_alive)
            });
            let known: Vec<SeenNode> = known.collect();
            mesh.put(port, ScriptedNode::new(name, &voter_set, &known));
        }
        mesh
    }

    pub(crate) fn put(&mut self, port: u16, scripted_node: ScriptedNode) {
        self.scripted_nodes.insert(at(port), scripted_node);
    }

    pub(crate) fn scripted_node(&mut self, port: u16) -> &mut ScriptedNode {
        self.scripted_nodes.get_mut(&at(port)).unwrap()
    }

    /// Runs a survey to its end. Nodes that are absent or have fallen silent do not answer.
    pub(crate) fn look(&mut self, ports: &[u16], wanted: Wanted) -> Surveyor {
        let ports = ports.iter().map(|port| at(*port));
        let mut surveyor = Surveyor::new("c", ports, wanted, PATIENCE, 77);
        let mut now = Instant::ZERO;
        self.asked.clear();
        loop {
            while let Some((to, question)) = surveyor.poll(now) {
                if self
                    .asked
                    .iter()
                    .all(|(_, old)| old.nonce != question.nonce)
                {
                    assert!(self.asked.len() < 10_000, "it asks for ever");
                    self.asked.push((to, question.clone()));
                }
                match self.scripted_nodes.get_mut(&to) {
                    Some(it) if it.is_old && wants_notes(&question.topic) => {}
                    Some(scripted_node) if scripted_node.patience > 0 => {
                        scripted_node.patience -= 1;
                        let answer = scripted_node.answer(&question);
                        assert_eq!(surveyor.handle_answer(answer), Ok(()));
                    }
                    _ => {}
                }
            }
            match surveyor.next_timeout() {
                Some(wake) => now = wake,
                None => break,
            }
        }
        self.took = now.since(Instant::ZERO);
        surveyor
    }

    pub(crate) fn survey(&mut self, ports: &[u16], wanted: Wanted) -> Survey {
        self.look(ports, wanted).conclude().unwrap()
    }

    pub(crate) fn was_asked(&self, port: u16) -> bool {
        self.asked.iter().any(|(to, _)| *to == at(port))
    }
}

/// Twenty keys, in the order of their numbers.
pub(crate) fn keys() -> Vec<Key> {
    let keys = (0..20).map(|n| Key::new(format!("key/{n:04}")).unwrap());
    let mut keys: Vec<Key> = keys.collect();
    keys.sort_by_key(first_lock_number);
    keys
}
