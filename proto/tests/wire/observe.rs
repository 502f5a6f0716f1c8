//! The questions of observers to real nodes, and the answers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lockmesh_proto::{
    Answer, Claim, ClusterSecret, Counts, DATAGRAM_BYTES_MAX, DatagramKind, DropReason,
    Incarnation, Instant, KEY_BYTES_MAX, Key, Message, NOTE_BYTES_MAX, Node, NodeConfig, Note, Now,
    Output, Peer, Question, REPORTED_WAITERS_MAX, Request, Seal, SeenNode, SeenNote, Start,
    Surveyor, Timing, Topic, View, VoterLimits, VoterSet, Wanted,
};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::arbitrary::node_id;
use crate::node::{World, claim_message, claim_of, vote_for};

const NOW: Now = Now {
    mono: Instant::from_nanos(1_000_000_000),
    wall_ms: 1_700_000_000_000,
};

fn addr() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7_000))
}

fn seal(boot: u8) -> Seal {
    Seal::sealed(ClusterSecret::from_bytes([1; 32]).unwrap(), [boot; 16])
}

/// The only node of a cluster, which holds `locks` locks.
fn node(locks: usize, seal: Seal) -> Node {
    let voter_set = VoterSet::new(1, vec![node_id("a")], 1, Timing::lan()).unwrap();
    let config = NodeConfig {
        id: node_id("a"),
        incarnation: Incarnation::new(3),
        voter_set: Arc::new(voter_set.of_cluster("c")),
        start: Start::NewCluster,
        limits: VoterLimits::default(),
        max_claims: 10_000,
        renew_interval: None,
        seed: 7,
        seal,
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
            is_once: false,
            note: None,
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

fn feed(node: &mut Node, bytes: &[u8]) -> Vec<Vec<u8>> {
    node.handle_datagram(NOW, addr(), bytes);
    transmits(node)
}

fn question(topic: Topic) -> Question {
    Question { nonce: 5, topic }
}

/// Returns the body of the node's answer, if it answers.
fn answer_to(node: &mut Node, peer: &mut Seal, bytes: &[u8]) -> Option<Vec<u8>> {
    let mut answers = feed(node, bytes);
    assert!(answers.len() <= 1);
    let answer = answers.pop()?;
    assert!(answer.len() <= DATAGRAM_BYTES_MAX);
    let (kind, body) = peer.open(&answer).unwrap();
    assert_eq!(kind, DatagramKind::Answer);
    Some(body)
}

fn answer(node: &mut Node, peer: &mut Seal, topic: Topic) -> Answer {
    let bytes = question(topic).seal(peer);
    let body = answer_to(node, peer, &bytes).unwrap();
    Answer::from_body(&body).unwrap()
}

#[test]
fn survey_pages_through_every_key_of_node() {
    let plaintext = (Seal::insecure_plaintext(), Seal::insecure_plaintext());
    for (of_node, mut peer) in [(seal(1), seal(2)), plaintext] {
        let mut node = node(500, of_node);
        let wanted = Wanted::Locks { max: 10_000 };
        let mut surveyor = Surveyor::new("c", [addr()], wanted, Duration::from_secs(1), 9);
        let mut questions = 0;
        while let Some((to, question)) = surveyor.poll(NOW.mono) {
            assert_eq!(to, addr());
            let bytes = question.seal(&mut peer);
            let body = answer_to(&mut node, &mut peer, &bytes).unwrap();
            let answer = Answer::from_body(&body).unwrap();
            surveyor.handle_answer(answer).unwrap();
            questions += 1;
            assert!(questions < 1_000, "it asks for ever");
        }
        let survey = surveyor.conclude().unwrap();
        assert_eq!((survey.voting(), survey.locks.len()), (1, 500));
        assert!(survey.has_all_locks && questions > 10, "{questions}");
        assert!(survey.locks.is_sorted_by(|a, b| a.key < b.key));
        assert!(survey.locks.iter().all(|lock| lock.owner().is_some()));
        let answer = survey.nodes[0].answer.as_ref().unwrap();
        let overview = &answer.overview;
        assert_eq!((overview.keys, overview.counts.granted), (500, 500));
    }
}

#[test]
fn one_key_is_answered_with_its_claim() {
    let (mut node, mut peer) = (node(20, seal(1)), seal(2));
    for (name, is_held) in [("key/0007", true), ("another", false)] {
        let key = Key::new(name).unwrap();
        let answer = answer(&mut node, &mut peer, Topic::Key { key: key.clone() });
        let [lock] = &answer.locks[..] else {
            panic!("{answer:?}")
        };
        assert_eq!((&lock.key, lock.report.vote.is_some()), (&key, is_held));
    }
}

/// The source address of a plaintext question may be forged, so the answer must not amplify it.
#[test]
fn plaintext_answer_is_never_longer_than_question() {
    let mut node = node(100, Seal::insecure_plaintext());
    let mut peer = Seal::insecure_plaintext();
    let key = Key::new("key/0007").unwrap();
    for topic in [
        Topic::Overview { from: 0 },
        Topic::Locks { from: 0 },
        Topic::Key { key: key.clone() },
        Topic::LocksAndNotes { from: 0 },
        Topic::KeyAndNotes { key },
    ] {
        let whole = question(topic).seal(&mut peer);
        assert_eq!(whole.len(), DATAGRAM_BYTES_MAX);
        let mut answered = 0;
        for len in 0..=whole.len() {
            for answer in feed(&mut node, &whole[..len]) {
                assert!(answer.len() <= len);
                answered += 1;
            }
        }
        assert!(answered > 500, "{answered}");
    }
    assert!(node.traffic().dropped_for(DropReason::Short) > 100);
}

/// A sealed question is of the cluster, and is opened once.
#[test]
fn sealed_question_is_short_and_not_replayed() {
    let mut node = node(100, seal(1));
    let mut peer = seal(2);
    let bytes = question(Topic::Locks { from: 0 }).seal(&mut peer);
    assert!(bytes.len() < 60);
    let body = answer_to(&mut node, &mut peer, &bytes).unwrap();
    let answer = Answer::from_body(&body).unwrap();
    assert!(answer.locks.len() > 5 && answer.next.is_some());
    assert!(feed(&mut node, &bytes).is_empty(), "a replay");
}

/// Notes that do not fit are left out, and never the lock.
#[test]
fn answer_has_notes_as_far_as_they_fit() {
    let all = 1 + REPORTED_WAITERS_MAX;
    for (key, text, is_whole) in [(KEY_BYTES_MAX, NOTE_BYTES_MAX, false), (1, 5, true)] {
        let (mut node, mut peer) = (node(1, seal(1)), seal(2));
        let note = Note::new("n".repeat(text)).unwrap();
        let key = "k".repeat(key);
        for _ in 0..12 {
            let note = Some(note.clone());
            let request = Request {
                note,
                ..request(&key)
            };
            node.claim(NOW, request).unwrap();
        }
        transmits(&mut node);
        let key = Key::new(key).unwrap();
        let topic = Topic::KeyAndNotes { key: key.clone() };
        let answered = answer(&mut node, &mut peer, topic);
        assert_eq!(answered.locks[0].report.waiters.len(), REPORTED_WAITERS_MAX);
        let numbers: Vec<_> = answered.notes.iter().map(|it| it.claim as usize).collect();
        assert_eq!(numbers, Vec::from_iter(0..numbers.len()));
        assert!((1..=all).contains(&numbers.len()), "{numbers:?}");
        assert_eq!(numbers.len() == all, is_whole, "{numbers:?}");
        let is_its = |it: &SeenNote| it.lock == 0 && it.note == note;
        assert!(answered.notes.iter().all(is_its));
        // A list has the notes of holders alone, and an answer of version 1 has none.
        let list = answer(&mut node, &mut peer, Topic::LocksAndNotes { from: 0 });
        let lock = list.locks.iter().position(|it| it.key == key).unwrap() as u32;
        let claim = 0;
        assert_eq!(list.notes, [SeenNote { lock, claim, note }]);
        for topic in [Topic::Locks { from: 0 }, Topic::Key { key }] {
            assert_eq!(answer(&mut node, &mut peer, topic).notes, []);
        }
    }
}

#[test]
fn flood_of_questions_leaves_no_state() {
    let mut node = node(3, seal(1));
    for boot in 0..2_000_u32 {
        let mut boot_id = [9; 16];
        boot_id[..4].copy_from_slice(&boot.to_be_bytes());
        let key = ClusterSecret::from_bytes([1; 32]).unwrap();
        let mut peer = Seal::sealed(key, boot_id);
        let bytes = question(Topic::Overview { from: 0 }).seal(&mut peer);
        assert_eq!(feed(&mut node, &bytes).len(), 1);
    }
    assert_eq!(node.traffic().answers, 2_000);
    assert_eq!(node.traffic().datagrams_in, 0);
    assert_eq!(node.voter().unwrap().slots(), 3);
    assert!(node.view().peers.is_empty());
}

#[test]
fn node_asks_another_as_observers_do() {
    let (mut asks, mut other) = (node(0, seal(1)), node(1, seal(2)));
    asks.ask(addr(), &question(Topic::Overview { from: 0 }));
    let question = transmits(&mut asks).remove(0);
    let answer = feed(&mut other, &question).remove(0);
    asks.handle_datagram(NOW, addr(), &answer);
    let Output::Answer { bytes } = asks.poll_output() else {
        panic!("no answer")
    };
    let answer = Answer::from_body(&bytes).unwrap();
    assert_eq!((answer.nonce, answer.overview.unwrap().keys), (5, 1));
}

fn request(name: &str) -> Request {
    Request {
        key: Key::new(name).unwrap(),
        ttl: Duration::from_secs(1),
        is_try: false,
        renews: true,
        outlives: false,
        deadline: None,
        is_once: false,
        note: None,
    }
}

#[test]
fn node_counts_outcomes_of_its_requests() {
    let mut world = World::new(&["a"]);
    // Node `b` is granted `k` for one second.
    let Message::Claim(claim) = claim_message(claim_of("b")) else {
        unreachable!()
    };
    let granted = Message::Claim(Claim {
        granted: true,
        ..claim
    });
    let head = world.head();
    let datagram = world.datagram(&head, &[granted]);
    world.feed(&datagram);
    let deadline = Some(world.now.mono.after(Duration::from_millis(300)));
    let wanted = [
        request("l"),
        request("m"),
        Request {
            is_try: true,
            ..request("k")
        },
        Request {
            is_try: true,
            ..request("k")
        },
        Request {
            deadline,
            ..request("k")
        },
        Request {
            deadline,
            ..request("k")
        },
    ];
    for request in wanted {
        world.node.claim(world.now, request).unwrap();
    }
    world.drain();
    world.pass(Duration::from_millis(300));
    let counts = Counts {
        requests: 6,
        granted: 2,
        denied: 2,
        timed_out: 2,
        lost: 0,
    };
    assert_eq!(*world.node.counts(), counts);
    let overview = answer(
        &mut world.node,
        &mut world.peer,
        Topic::Overview { from: 0 },
    )
    .overview;
    assert_eq!(overview.unwrap().counts, counts);
}

/// The end of a lease that does not renew itself is no loss.
#[test]
fn only_failed_renewals_count_as_lost() {
    let mut world = World::new(&["b"]);
    let peer = Peer {
        addr: addr(),
        incarnation: Incarnation::new(1),
        alive: true,
        version: Some(lockmesh_proto::PROTOCOL_VERSION),
    };
    let peers = [(node_id("b"), peer)].into();
    world.node.handle_view(world.now, &View { peers });
    world.drain();
    let once = Request {
        renews: false,
        ..request("n")
    };
    for request in [request("l"), request("m"), once] {
        world.node.claim(world.now, request).unwrap();
        let claims = crate::outputs::said(&world.drain());
        let [Message::Claim(claim)] = &claims[..] else {
            panic!("{claims:?}")
        };
        let head = world.head();
        let datagram = world.datagram(&head, &[vote_for(claim)]);
        world.feed(&datagram);
    }
    assert_eq!(world.node.counts().granted, 3);
    world.pass(Duration::from_secs(60));
    assert_eq!(world.node.claimant().held(world.now).count(), 0);
    assert_eq!(world.node.counts().lost, 2);
}

#[test]
fn node_lists_members_first() {
    let mut world = World::new(&["a", "c", "e"]);
    let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let peer = |name: &str, port, alive| {
        let peer = Peer {
            addr: at(port),
            incarnation: Incarnation::new(1),
            alive,
            version: Some(lockmesh_proto::PROTOCOL_VERSION),
        };
        (node_id(name), peer)
    };
    let peers = [peer("b", 2, true), peer("c", 3, true), peer("d", 4, false)].into();
    world.node.handle_view(world.now, &View { peers });
    world.drain();
    let seen = |name, port: Option<u16>, is_member, is_alive| SeenNode {
        node: node_id(name),
        addr: port.map(at),
        is_member,
        is_alive,
        silent_for: (is_alive == Some(false)).then_some(Duration::ZERO),
    };
    let all = [
        seen("a", None, true, None),
        seen("c", Some(3), true, Some(true)),
        seen("e", None, true, None),
        seen("b", Some(2), false, Some(true)),
        seen("d", Some(4), false, Some(false)),
    ];
    for from in 0..=6 {
        let answer = answer(&mut world.node, &mut world.peer, Topic::Overview { from });
        let rest = all.get(from as usize..).unwrap_or_default();
        assert_eq!((&answer.nodes[..], answer.next), (rest, None));
    }
}

proptest! {
    #[test]
    fn random_questions_do_not_affect_node(bodies in vec(vec(any::<u8>(), 0..1_157), 1..20)) {
        let mut node = node(3, Seal::insecure_plaintext());
        let mut peer = Seal::insecure_plaintext();
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
        if let Ok(answer) = Answer::from_body(&body) {
            prop_assert_eq!(Answer::from_body(&answer.to_body()), Ok(answer));
        }
        if let Ok(question) = Question::from_body(&body) {
            let mut peer = Seal::insecure_plaintext();
            let bytes = question.seal(&mut peer);
            let body = Seal::insecure_plaintext().open(&bytes).unwrap().1;
            prop_assert_eq!(Question::from_body(&body), Ok(question));
        }
    }
}

/// A voter that cannot write its journal answers claims with a refusal, so it does not vote.
#[test]
fn voter_that_refuses_all_claims_does_not_count_as_voting() {
    let mut node = node(1, Seal::insecure_plaintext());
    let mut peer = Seal::insecure_plaintext();
    let mut voting = |node: &mut Node| {
        let mut surveyor =
            Surveyor::new("c", [addr()], Wanted::Overview, Duration::from_secs(1), 9);
        while let Some((_, question)) = surveyor.poll(NOW.mono) {
            let bytes = question.seal(&mut peer);
            let body = answer_to(node, &mut peer, &bytes).unwrap();
            surveyor
                .handle_answer(Answer::from_body(&body).unwrap())
                .unwrap();
        }
        surveyor.conclude().unwrap().voting()
    };
    assert_eq!(voting(&mut node), 1);
    node.persist_failed(NOW);
    assert_eq!(voting(&mut node), 0);
}
