//! The answers of a node to observers, and their use in a survey.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lockmesh_proto::{
    Answer, Answered, Asked, ClusterSecret, DATAGRAM_BYTES_MAX, DatagramKind, DropReason,
    Incarnation, Instant, Key, Node, NodeConfig, NodeId, Now, Observer, Output, Overview, Page,
    Question, Request, Seal, SeenNode, Start, Surveyor, Timing, VoterLimits, VoterSet, VoterState,
    Wanted,
};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::arbitrary::node_id;

const NOW: Now = Now {
    mono: Instant::from_nanos(1_000_000_000),
    wall_ms: 1_700_000_000_000,
};

fn addr() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7_000))
}

pub(crate) fn seal(boot: u8) -> Seal {
    Seal::sealed(ClusterSecret::from_bytes([1; 32]).unwrap(), [boot; 16])
}

/// The only node of a cluster, which holds `locks` locks.
pub(crate) fn node(locks: usize) -> Node {
    let voter_set = VoterSet::new(1, vec![node_id("a")], 1, Timing::lan()).unwrap();
    let config = NodeConfig {
        id: node_id("a"),
        incarnation: Incarnation::new(3),
        voter_set: Arc::new(voter_set),
        start: Start::NewCluster,
        limits: VoterLimits::default(),
        max_claims: 10_000,
        renew_interval: None,
        seed: 7,
        seal: seal(1),
    };
    let mut node = Node::new(NOW, config);
    for n in 0..locks {
        let request = Request {
            key: Key::new(format!("key/{n:04}")).unwrap(),
            ttl: Duration::from_secs(10),
            is_try: false,
            renews: false,
            outlives: false,
            deadline: None,
        };
        node.claim(NOW, request).unwrap();
    }
    transmits(&mut node);
    node
}

fn transmits(node: &mut Node) -> Vec<Vec<u8>> {
    let mut sent = Vec::new();
    loop {
        match node.poll_output() {
            Output::Timeout(_) => return sent,
            Output::Transmit { to, bytes } => {
                assert_eq!(to, addr());
                sent.push(bytes);
            }
            _ => {}
        }
    }
}

pub(crate) fn feed(node: &mut Node, bytes: &[u8]) -> Vec<Vec<u8>> {
    node.handle_datagram(NOW, addr(), bytes);
    transmits(node)
}

#[test]
fn survey_pages_through_every_key_of_node() {
    let mut node = node(500);
    let mut observer = Observer::new(seal(2), 9);
    let wanted = Wanted {
        locks_max: 10_000,
        key: Some(Key::new("key/0007").unwrap()),
    };
    let mut surveyor = Surveyor::new([addr()], wanted);
    let mut questions = 0;
    while let Some(ask) = surveyor.next_question() {
        let (_, bytes) = observer.ask(ask.question);
        assert!(bytes.len() <= DATAGRAM_BYTES_MAX);
        let answers = feed(&mut node, &bytes);
        assert_eq!(answers.len(), 1);
        assert!(answers[0].len() <= bytes.len(), "an answer is never longer");
        let (_, answered) = observer.handle_datagram(&answers[0]).unwrap();
        surveyor.handle_answer(ask.talk, answered);
        questions += 1;
        assert!(questions < 1_000, "it asks for ever");
    }
    assert!(surveyor.is_done());
    let survey = surveyor.conclude().unwrap();
    assert_eq!((survey.voting(), survey.locks.len()), (1, 500));
    assert!(survey.has_all_locks && questions > 10, "{questions}");
    assert!(survey.locks.iter().all(|lock| lock.owner().is_some()));
    let key = survey.key.unwrap();
    assert_eq!(key.owner().cloned().unwrap().node, node_id("a"));
    let answer = survey.nodes[0].answer.as_ref().unwrap();
    assert_eq!(
        (answer.overview.keys, answer.overview.counts.granted),
        (500, 500)
    );
}

/// Scripted members `m0`, `m1` and so on, each at its own port. The first half of them reports an
/// old address for the last one.
struct Many {
    ids: Vec<NodeId>,
    voter_set: VoterSet,
}

impl Many {
    const COUNT: usize = 200;
    const PAGE: usize = 64;
    const LEFT: u16 = 9_999;
    const SILENT: usize = 7;

    fn new() -> Self {
        let mut ids: Vec<_> = (0..Self::COUNT)
            .map(|n| node_id(&format!("m{n}")))
            .collect();
        ids.sort();
        let voter_set = VoterSet::new(1, ids.clone(), 5, Timing::lan()).unwrap();
        Self { ids, voter_set }
    }

    fn addr(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn port(n: usize) -> u16 {
        1_000 + u16::try_from(n).unwrap()
    }

    fn answer(&self, n: usize, question: &Question) -> Option<Answered> {
        let answer = match question {
            Question::Overview => Answer::Overview(Box::new(Overview {
                members: u32::try_from(Self::COUNT).unwrap(),
                voters_per_key: 5,
                timing: Timing::lan(),
                voter: VoterState::Votes,
                wall_clock: Default::default(),
                keys: 0,
                claims: 0,
                counts: Default::default(),
                traffic: Default::default(),
            })),
            Question::Nodes { after } => {
                let known = self.ids.iter().enumerate();
                let mut known = known.filter(|(_, id)| after.as_ref().is_none_or(|it| it < *id));
                let page = known.by_ref().take(Self::PAGE);
                let page = page.map(|(other, id)| self.seen(n, other, id)).collect();
                let more = known.next().is_some();
                Answer::Nodes(Page {
                    entries: page,
                    more,
                })
            }
            other => panic!("nobody wants {other:?}"),
        };
        (n != Self::SILENT).then(|| Answered {
            nonce: 0,
            node: self.ids[n].clone(),
            incarnation: Incarnation::new(1),
            voter_set: self.voter_set.tag(),
            answer,
        })
    }

    fn seen(&self, scripted_node: usize, other: usize, id: &NodeId) -> SeenNode {
        let has_left = other == Self::COUNT - 1 && scripted_node < Self::COUNT / 2;
        let port = if has_left {
            Self::LEFT
        } else {
            Self::port(other)
        };
        SeenNode {
            node: id.clone(),
            addr: Some(Self::addr(port)),
            is_member: true,
            is_alive: (scripted_node != other).then_some(other != Self::SILENT),
            silent_for: None,
        }
    }
}

#[test]
fn survey_finds_many_members_and_a_moved_one() {
    let many = Many::new();
    let mut surveyor = Surveyor::new([Many::addr(Many::port(0))], Wanted::default());
    let (mut asked, mut doubted) = (BTreeMap::new(), BTreeSet::new());
    while let Some(ask) = surveyor.next_question() {
        *asked.entry(ask.to).or_insert(0) += 1;
        if surveyor.is_doubtful(ask.talk) {
            doubted.insert(ask.to);
        }
        let at = usize::from(ask.to.port()).checked_sub(1_000);
        let at = at.filter(|at| *at < Many::COUNT);
        match at.and_then(|at| many.answer(at, &ask.question)) {
            Some(answered) => surveyor.handle_answer(ask.talk, answered),
            None => surveyor.handle_silence(ask.talk),
        }
    }
    assert!(surveyor.is_done());
    let survey = surveyor.conclude().unwrap();
    assert_eq!(survey.answered(), Many::COUNT - 1);
    let last = survey
        .members()
        .find(|it| it.node == many.ids[Many::COUNT - 1]);
    let last = last.unwrap();
    assert!(last.answer.is_some());
    assert_eq!(last.addr, Some(Many::addr(Many::port(Many::COUNT - 1))));
    // Each member is asked once for each page and once for its overview.
    let pages = Many::COUNT.div_ceil(Many::PAGE);
    let left = Many::addr(Many::LEFT);
    let silent = Many::addr(Many::port(Many::SILENT));
    for (addr, times) in asked {
        let is_silent = addr == left || addr == silent;
        assert_eq!(times, if is_silent { 1 } else { 1 + pages }, "{addr}");
    }
    assert_eq!(doubted, BTreeSet::from([silent]));
}

#[test]
fn question_shorter_than_its_answer_gets_none() {
    let mut node = node(100);
    let mut peer = seal(2);
    for len in 0..400 {
        let asked = Asked {
            nonce: 1,
            question: Question::Locks { after: None },
        };
        let bytes = peer.seal(DatagramKind::Question, &asked.to_body(len));
        for answer in feed(&mut node, &bytes) {
            assert!(answer.len() <= bytes.len(), "{len}");
        }
    }
    let asked = Asked {
        nonce: 1,
        question: Question::Overview,
    };
    let dropped = node.traffic().dropped_for(DropReason::Short);
    let bytes = peer.seal(DatagramKind::Question, &asked.to_body(20));
    assert!(feed(&mut node, &bytes).is_empty());
    assert_eq!(node.traffic().dropped_for(DropReason::Short), dropped + 1);
}

#[test]
fn flood_of_questions_leaves_no_state() {
    let mut node = node(3);
    for boot in 0..2_000_u32 {
        let mut boot_id = [9; 16];
        boot_id[..4].copy_from_slice(&boot.to_be_bytes());
        let key = ClusterSecret::from_bytes([1; 32]).unwrap();
        let mut observer = Observer::new(Seal::sealed(key, boot_id), u64::from(boot));
        let (_, bytes) = observer.ask(Question::Overview);
        assert_eq!(feed(&mut node, &bytes).len(), 1);
        assert!(
            feed(&mut node, &bytes).is_empty(),
            "a replay is no question"
        );
    }
    assert_eq!(node.traffic().answers, 2_000);
    assert_eq!(node.traffic().datagrams_in, 0);
    assert_eq!(node.voter().unwrap().slots(), 3);
    assert!(node.view().peers.is_empty());
}

#[test]
fn observer_accepts_one_answer_per_question() {
    let mut node = node(1);
    let mut observer = Observer::new(seal(2), 9);
    let (_, bytes) = observer.ask(Question::Overview);
    let answer = feed(&mut node, &bytes).remove(0);
    let mut foreign_node = Observer::new(seal(3), 1_000);
    foreign_node.ask(Question::Overview);
    let refused = foreign_node.handle_datagram(&answer).unwrap_err();
    assert_eq!(refused, DropReason::Misaddressed);
    assert!(observer.handle_datagram(&answer).is_ok());
    assert!(observer.handle_datagram(&answer).is_err());
    // A node accepts no answers, and an observer accepts no questions.
    let answer = seal(4).seal(DatagramKind::Answer, b"x");
    assert!(feed(&mut node, &answer).is_empty());
    assert_eq!(node.traffic().dropped_for(DropReason::Misaddressed), 1);
    assert!(observer.handle_datagram(&bytes).is_err());
}

proptest! {
    #[test]
    fn random_questions_do_not_affect_node(bodies in vec(vec(any::<u8>(), 0..1_157), 1..20)) {
        let mut node = node(3);
        let mut peer = seal(2);
        for body in &bodies {
            let bytes = peer.seal(DatagramKind::Question, body);
            for answer in feed(&mut node, &bytes) {
                prop_assert!(answer.len() <= bytes.len());
            }
        }
        prop_assert_eq!(node.voter().unwrap().slots(), 3);
    }

    #[test]
    fn random_bodies_decode_losslessly_or_fail(body in vec(any::<u8>(), 0..1_300)) {
        if let Ok(answered) = Answered::from_body(&body) {
            prop_assert_eq!(Answered::from_body(&answered.to_body()), Ok(answered));
        }
        if let Ok(asked) = Asked::from_body(&body) {
            prop_assert_eq!(Asked::from_body(&asked.to_body(0)), Ok(asked));
        }
    }
}
