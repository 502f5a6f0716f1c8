//! A mesh whose members return scripted answers.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lockmesh_proto::{
    Answer, Answered, Counts, Epoch, Flow, Incarnation, Key, NodeId, Observer, Overview, Page,
    Question, Report, ReportedVote, SeenLock, SeenNode, Survey, Surveyor, Timing, VoterSet,
    VoterState, Wanted,
};

use crate::arbitrary::node_id;
use crate::node::claim_of;
use crate::observe::{feed, node, seal};

/// The number of entries on a page.
const PAGE: usize = 2;

pub(crate) fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

pub(crate) fn voter_set(members: &[&str]) -> Arc<VoterSet> {
    let ids = members.iter().map(|name| node_id(name)).collect();
    Arc::new(VoterSet::new(1, ids, members.len(), Timing::lan()).unwrap())
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

pub(crate) fn nobody() -> Report {
    Report {
        nonce: 0,
        vote: None,
        waiters: Vec::new(),
        waiting: 0,
        fence: Epoch::ZERO,
        is_recovering: false,
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
            ..nobody()
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
    /// The keys with votes, in the order of their places.
    pub(crate) locks: Vec<SeenLock>,
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
            patience: usize::MAX,
        }
    }

    pub(crate) fn answer(&self, question: &Question) -> Answered {
        let answer = match question {
            Question::Overview => Answer::Overview(Box::new(Overview {
                members: self.voter_set.members().len() as u32,
                voters_per_key: self.voter_set.voters_per_key() as u32,
                timing: *self.voter_set.timing(),
                voter: self.voter,
                wall_clock: Default::default(),
                keys: self.locks.len() as u64,
                claims: 0,
                counts: Counts::default(),
                traffic: Flow::default(),
            })),
            Question::Nodes { after } => {
                let known = after.as_ref().map_or(0, |after| {
                    self.nodes.partition_point(|seen| seen.node <= *after)
                });
                Answer::Nodes(page(&self.nodes[known..]))
            }
            Question::Locks { after } => {
                let is_after = |seen: &SeenLock| Some(&seen.key) == after.as_ref();
                let known = self.locks.iter().position(is_after);
                Answer::Locks(page(&self.locks[known.map_or(0, |known| known + 1)..]))
            }
            Question::Key { key } => {
                let seen = self.locks.iter().find(|seen| seen.key == *key);
                Answer::Key(seen.map_or_else(nobody, |seen| seen.report.clone()))
            }
        };
        Answered {
            nonce: 0,
            node: self.name.clone(),
            incarnation: Incarnation::new(self.incarnation),
            voter_set: self.voter_set.tag(),
            answer,
        }
    }
}

fn page<T: Clone>(entries: &[T]) -> Page<T> {
    Page {
        entries: entries.iter().take(PAGE).cloned().collect(),
        more: entries.len() > PAGE,
    }
}

/// Scripted nodes by address.
#[derive(Default)]
pub(crate) struct Mesh {
    pub(crate) scripted_nodes: BTreeMap<SocketAddr, ScriptedNode>,
    /// All questions, each with its address.
    pub(crate) asked: Vec<(SocketAddr, Question)>,
}

impl Mesh {
    /// Three members that vote, at ports 1 to 3, and know each other.
    pub(crate) fn of_three() -> Self {
        let voter_set = voter_set(&["a", "b", "c"]);
        let nodes = [("a", 1), ("b", 2), ("c", 3)];
        let mut mesh = Self::default();
        for (name, port) in nodes {
            let known = nodes.map(|(other, at)| {
                let is_alive = (other != name).then_some(true);
                seen(other, at, true, is_alive)
            });
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
        let mut surveyor = Surveyor::new(ports.iter().map(|port| at(*port)), wanted);
        while let Some(ask) = surveyor.next_question() {
            assert!(self.asked.len() < 1_000, "it asks for ever");
            assert!(!surveyor.is_done());
            self.asked.push((ask.to, ask.question.clone()));
            match self.scripted_nodes.get_mut(&ask.to) {
                Some(scripted_node) if scripted_node.patience > 0 => {
                    scripted_node.patience -= 1;
                    surveyor.handle_answer(ask.talk, scripted_node.answer(&ask.question));
                }
                _ => surveyor.handle_silence(ask.talk),
            }
        }
        assert!(surveyor.is_done());
        surveyor
    }

    pub(crate) fn survey(&mut self, ports: &[u16], wanted: Wanted) -> Survey {
        self.look(ports, wanted).conclude().unwrap()
    }

    pub(crate) fn was_asked(&self, port: u16) -> bool {
        self.asked.iter().any(|(to, _)| *to == at(port))
    }
}

/// The keys `key/0000` to `key/0019`, in the order of their places.
pub(crate) fn keys() -> Vec<Key> {
    let mut observer = Observer::new(seal(2), 9);
    let (_, question) = observer.ask(Question::Locks { after: None });
    let answers = feed(&mut node(20), &question);
    match observer.handle_datagram(&answers[0]).unwrap().1.answer {
        Answer::Locks(page) => page.entries.into_iter().map(|seen| seen.key).collect(),
        other => panic!("{other:?}"),
    }
}
