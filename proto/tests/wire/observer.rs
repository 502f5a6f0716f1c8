//! The lists that a node sends to observers, and the answers that an observer accepts.

use std::net::SocketAddr;
use std::time::Duration;

use lockmesh_proto::{
    Answer, Answered, Asked, Claim, Counts, DatagramKind, DropReason, Incarnation, Key, Message,
    Observer, Overview, Page, Peer, Question, QuestionId, Request, Seal, SeenLock, SeenNode, View,
    VoterSetTag,
};

use crate::arbitrary::node_id;
use crate::node::{World, addr, claim_message, claim_of, key, vote_for};
use crate::observe::{feed, node, seal};

fn open(datagram: &[u8]) -> Vec<u8> {
    seal(9).open(datagram).unwrap().1
}

/// Returns the node's answer to a question of `len` bytes.
fn answer(world: &mut World, question: &Question, len: usize) -> Option<Answer> {
    let nonce = 5;
    let question = question.clone();
    let body = Asked { nonce, question }.to_body(len);
    let bytes = world.peer.seal(DatagramKind::Question, &body);
    let answers = feed(&mut world.node, &bytes);
    assert!(answers.len() <= 1);
    let answered = answers.first().map(|bytes| open(bytes))?;
    assert!(answered.len() <= len);
    Some(Answered::from_body(&answered).unwrap().answer)
}

fn overview(world: &mut World) -> Overview {
    match answer(world, &Question::Overview, 1_000) {
        Some(Answer::Overview(overview)) => *overview,
        other => panic!("{other:?}"),
    }
}

fn request(name: &str) -> Request {
    Request {
        key: Key::new(name).unwrap(),
        ttl: Duration::from_secs(1),
        is_try: false,
        renews: true,
        outlives: false,
        deadline: None,
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
    assert_eq!(overview(&mut world).counts, counts);
}

/// The end of a lease that does not renew itself is no loss.
#[test]
fn only_failed_renewals_count_as_lost() {
    let mut world = World::new(&["b"]);
    let peer = Peer {
        addr: addr(),
        incarnation: Incarnation::new(1),
        alive: true,
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

/// The source address of a question may be forged, so the answer must not amplify it.
#[test]
fn answer_is_never_longer_than_its_question() {
    let mut world = World::new(&["a"]);
    world.node.claim(world.now, request("l")).unwrap();
    world.drain();
    let question = Question::Key {
        key: Key::new("l").unwrap(),
    };
    let answers: Vec<bool> = (0..400)
        .map(|len| answer(&mut world, &question, len).is_some())
        .collect();
    let least = answers.iter().position(|is| *is).unwrap();
    assert!(answers[least..].iter().all(|is| *is));
    let body = Asked { nonce: 5, question }.to_body(least);
    let bytes = world.peer.seal(DatagramKind::Question, &body);
    let answer = open(&feed(&mut world.node, &bytes)[0]);
    assert_eq!((body.len(), answer.len()), (least, least));
}

#[test]
fn node_lists_known_nodes_in_id_order() {
    let mut world = World::new(&["a", "c", "e"]);
    let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let peer = |name: &str, port, alive| {
        let peer = Peer {
            addr: at(port),
            incarnation: Incarnation::new(1),
            alive,
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
        seen("b", Some(2), false, Some(true)),
        seen("c", Some(3), true, Some(true)),
        seen("d", Some(4), false, Some(false)),
        seen("e", None, true, None),
    ];
    for (after, from) in [
        ("", 0),
        ("a", 1),
        ("b", 2),
        ("bb", 2),
        ("c", 3),
        ("d", 4),
        ("e", 5),
    ] {
        let after = (!after.is_empty()).then(|| node_id(after));
        let page = match answer(&mut world, &Question::Nodes { after }, 1_000) {
            Some(Answer::Nodes(page)) => page,
            other => panic!("{other:?}"),
        };
        assert_eq!((&page.entries[..], page.more), (&all[from..], false));
    }
}

/// An observer, and a scripted node that returns arbitrary answers.
struct Interview {
    observer: Observer,
    scripted_node: Seal,
    id: QuestionId,
    nonce: u64,
}

impl Interview {
    fn of(question: Question) -> Self {
        let mut observer = Observer::new(seal(2), 9);
        let (id, bytes) = observer.ask(question);
        let nonce = Asked::from_body(&open(&bytes)).unwrap().nonce;
        Self {
            observer,
            scripted_node: seal(3),
            id,
            nonce,
        }
    }

    /// Returns `true` if the observer accepts the answer. Otherwise the question must stay open.
    fn believes(&mut self, answer: Answer) -> bool {
        let answered = Answered {
            nonce: self.nonce,
            node: node_id("a"),
            incarnation: Incarnation::new(1),
            voter_set: VoterSetTag::default(),
            answer,
        };
        let bytes = self
            .scripted_node
            .seal(DatagramKind::Answer, &answered.to_body());
        let heard = self.observer.handle_datagram(&bytes);
        assert_eq!(self.observer.repeat(self.id).is_some(), heard.is_err());
        match heard {
            Ok(heard) => heard == (self.id, answered),
            Err(reason) => {
                assert_eq!(reason, DropReason::Misaddressed);
                false
            }
        }
    }
}

#[test]
fn answer_of_another_kind_is_rejected() {
    let mut world = World::new(&["a"]);
    let questions = [
        Question::Overview,
        Question::Nodes { after: None },
        Question::Locks { after: None },
        Question::Key { key: key() },
    ];
    let answers = questions
        .each_ref()
        .map(|question| answer(&mut world, question, 1_000).unwrap());
    for (asked, question) in questions.iter().enumerate() {
        let mut interview = Interview::of(question.clone());
        for (n, answer) in answers.iter().enumerate() {
            if n != asked {
                assert!(
                    !interview.believes(answer.clone()),
                    "{question:?} {answer:?}"
                );
            }
        }
        assert!(interview.believes(answers[asked].clone()), "{question:?}");
    }
}

/// An observer would never finish with a node whose lists go back or never end.
#[test]
fn page_of_nodes_must_continue_in_order() {
    let page = |names: &str, more| {
        let entries = names.chars().map(|name| SeenNode {
            node: node_id(&name.to_string()),
            addr: None,
            is_member: true,
            is_alive: None,
            silent_for: None,
        });
        Answer::Nodes(Page {
            entries: entries.collect(),
            more,
        })
    };
    let after = |name: &str| {
        let after = (!name.is_empty()).then(|| node_id(name));
        Interview::of(Question::Nodes { after })
    };
    for (known, names) in [("c", "b"), ("c", "c"), ("c", "dd"), ("c", "ed"), ("", "ba")] {
        for more in [false, true] {
            let believed = after(known).believes(page(names, more));
            assert!(!believed, "{names} after {known:?}");
        }
    }
    for (known, names) in [("c", "d"), ("c", "de"), ("", "abc")] {
        for more in [false, true] {
            let believed = after(known).believes(page(names, more));
            assert!(believed, "{names} after {known:?}");
        }
    }
    assert!(after("c").believes(page("", false)));
    assert!(!after("c").believes(page("", true)));
}

#[test]
fn page_of_keys_must_continue_in_order() {
    let mut node = node(20);
    let mut observer = Observer::new(seal(2), 9);
    let (_, question) = observer.ask(Question::Locks { after: None });
    let answers = feed(&mut node, &question);
    let (_, answered) = observer.handle_datagram(&answers[0]).unwrap();
    let Answer::Locks(Page { entries, .. }) = answered.answer else {
        panic!("{answered:?}")
    };
    assert!(entries.len() > 3);
    let page = |entries: &[SeenLock]| {
        let (entries, more) = (entries.to_vec(), true);
        Answer::Locks(Page { entries, more })
    };
    let after = |known: Option<usize>| {
        let after = known.map(|at| entries[at].key.clone());
        Interview::of(Question::Locks { after })
    };
    assert!(after(Some(1)).believes(page(&entries[2..])));
    assert!(!after(Some(1)).believes(page(&entries[1..])));
    assert!(!after(Some(2)).believes(page(&entries[1..])));
    let mut reversed = entries.clone();
    reversed.reverse();
    assert!(!after(None).believes(page(&reversed)));
    assert!(after(None).believes(page(&entries)));
}

#[test]
fn question_is_repeatable_until_answered_or_dropped() {
    let mut node = node(1);
    let mut observer = Observer::new(seal(2), 9);
    let (lost, first) = observer.ask(Question::Overview);
    let again = observer.repeat(lost).unwrap();
    assert_ne!(first, again, "a copy would be taken for a replay");
    // Only the repeated question arrives.
    let answers = feed(&mut node, &again);
    let (id, answered) = observer.handle_datagram(&answers[0]).unwrap();
    assert_eq!(id, lost);
    assert!(matches!(answered.answer, Answer::Overview(_)));
    assert_eq!(observer.repeat(lost), None);

    let (dropped, bytes) = observer.ask(Question::Overview);
    let (kept, _) = observer.ask(Question::Overview);
    assert_ne!(dropped, kept);
    observer.drop_question(dropped);
    assert_eq!(observer.repeat(dropped), None);
    let answers = feed(&mut node, &bytes);
    let late = observer.handle_datagram(&answers[0]);
    assert_eq!(late.unwrap_err(), DropReason::Misaddressed);
    assert!(observer.repeat(kept).is_some());
    observer.drop_all();
    assert_eq!(observer.repeat(kept), None);
}
