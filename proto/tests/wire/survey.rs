//! Surveys of a mesh whose members return true, partial or false answers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use lockmesh_proto::{
    Answer, Health, Incarnation, Key, NodeId, Question, SeenLock, SeenNode, Survey, Surveyor,
    Timing, VoterSet, VoterState, Wanted,
};

use crate::arbitrary::node_id;
use crate::scripted_nodes::{Mesh, ScriptedNode, at, keys, seen, vote, voter_set};

fn nothing_more() -> Wanted {
    Wanted::default()
}

fn names<'a>(nodes: impl IntoIterator<Item = &'a NodeId>) -> Vec<&'a str> {
    nodes.into_iter().map(NodeId::as_str).collect()
}

#[test]
fn one_address_is_enough_to_find_all_members() {
    for first in 1..=3 {
        let survey = Mesh::of_three().survey(&[first], nothing_more());
        assert_eq!(
            names(survey.nodes.iter().map(|node| &node.node)),
            ["a", "b", "c"]
        );
        assert_eq!((survey.answered(), survey.voting()), (3, 3));
        assert_eq!(survey.health(), Health::Ok);
        for (node, port) in survey.nodes.iter().zip(1..) {
            assert!(node.is_member);
            assert_eq!(node.addr, Some(at(port)));
            assert_eq!((node.alive_by.len(), node.dead_by.len()), (2, 0));
        }
        assert_eq!(survey.members().count(), 3);
    }
}

#[test]
fn survey_asks_only_what_is_wanted() {
    let mut mesh = Mesh::of_three();
    let survey = mesh.survey(&[1], nothing_more());
    assert!(survey.locks.is_empty() && survey.key.is_none() && !survey.has_all_locks);
    // One overview and two pages of nodes from each member.
    assert_eq!(mesh.asked.len(), 9);
    let key = keys().remove(0);
    let wanted = |locks_max, key: Option<&Key>| Wanted {
        locks_max,
        key: key.cloned(),
    };
    for (wanted, asked) in [
        (wanted(0, Some(&key)), 12),
        (wanted(1, None), 12),
        (wanted(1, Some(&key)), 15),
    ] {
        let mut mesh = Mesh::of_three();
        mesh.survey(&[1], wanted);
        assert_eq!(mesh.asked.len(), asked);
    }
}

#[test]
fn survey_distinguishes_silent_dead_recovering_and_voting() {
    let mut mesh = Mesh::of_three();
    mesh.scripted_node(1).nodes[1].is_alive = Some(false);
    mesh.scripted_node(3).patience = 0;
    let survey = mesh.survey(&[1], nothing_more());
    assert_eq!((survey.answered(), survey.voting()), (2, 2));
    assert_eq!(survey.health(), Health::Degraded);
    let [_, b, c] = &survey.nodes[..] else {
        panic!("{survey:?}")
    };
    assert_eq!(names(&b.dead_by), ["a"]);
    assert!(b.alive_by.is_empty() && b.answer.is_some());
    assert_eq!(names(&c.alive_by), ["a", "b"]);
    assert!(c.answer.is_none() && c.addr == Some(at(3)));

    mesh.scripted_node(2).voter = VoterState::Recovering {
        remaining: Duration::from_secs(9),
    };
    let survey = mesh.survey(&[1], nothing_more());
    assert_eq!((survey.answered(), survey.voting()), (2, 1));
    assert_eq!(survey.health(), Health::Blocked);
}

/// Of five members with three voters for each key, two absent ones can leave a key without a
/// quorum.
#[test]
fn mesh_is_blocked_if_keys_lose_quorum() {
    for (voters, absent, health) in [
        (3, 0, Health::Ok),
        (3, 1, Health::Degraded),
        (3, 2, Health::Blocked),
        (5, 2, Health::Degraded),
        (5, 3, Health::Blocked),
        (4, 1, Health::Degraded),
        (4, 2, Health::Blocked),
    ] {
        let members = ["a", "b", "c", "d", "e"];
        let ids = members.map(node_id).to_vec();
        let voter_set = Arc::new(VoterSet::new(1, ids, voters, Timing::lan()).unwrap());
        let known: Vec<SeenNode> = (1..)
            .zip(members)
            .map(|(port, name)| seen(name, port, true, None))
            .collect();
        let mut mesh = Mesh::default();
        for (port, name) in (1..).zip(members) {
            mesh.put(port, ScriptedNode::new(name, &voter_set, &known));
            if usize::from(port) > members.len() - absent {
                mesh.scripted_node(port).patience = 0;
            }
        }
        let survey = mesh.survey(&[1], nothing_more());
        assert_eq!(survey.health(), health, "{absent} of {voters}");
    }
}

/// A client is listed after the members, and is asked only if the survey starts with it.
#[test]
fn non_members_are_listed_but_not_sought() {
    let mut mesh = Mesh::of_three();
    let client = seen("aa", 9, false, Some(true));
    mesh.scripted_node(1).nodes.insert(1, client.clone());
    mesh.scripted_node(2).nodes.insert(
        1,
        SeenNode {
            is_alive: Some(false),
            silent_for: None,
            ..client
        },
    );
    let survey = mesh.survey(&[1], nothing_more());
    assert!(!mesh.was_asked(9));
    assert_eq!(
        names(survey.nodes.iter().map(|node| &node.node)),
        ["a", "b", "c", "aa"]
    );
    let other = &survey.nodes[3];
    assert!(!other.is_member && other.answer.is_none());
    assert_eq!(other.addr, Some(at(9)));
    assert_eq!(
        (names(&other.alive_by), names(&other.dead_by)),
        (vec!["a"], vec!["b"])
    );
    assert_eq!((survey.members().count(), survey.answered()), (3, 3));

    let (voter_set, nodes) = (
        mesh.scripted_node(1).voter_set.clone(),
        mesh.scripted_node(1).nodes.clone(),
    );
    let mut client = ScriptedNode::new("aa", &voter_set, &nodes);
    client.voter = VoterState::NotAMember;
    mesh.put(9, client);
    let survey = mesh.survey(&[9], nothing_more());
    assert_eq!((survey.answered(), survey.voting()), (4, 3));
    assert!(survey.nodes[3].answer.is_some() && !survey.nodes[3].is_member);
    assert_eq!(survey.health(), Health::Ok);
}

/// Gossip is delayed: peers may still report the old address of a member.
#[test]
fn member_is_sought_at_up_to_three_addresses() {
    let mut mesh = Mesh::of_three();
    // `a` and `b` disagree on the address of `c`, and only one is right.
    mesh.scripted_node(1).nodes[2].addr = Some(at(33));
    let survey = mesh.survey(&[1], nothing_more());
    assert_eq!(survey.voting(), 3);
    assert_eq!(survey.nodes[2].addr, Some(at(3)));
    // No node is at any reported address of `c`, and 34 is the fourth of them.
    let voter_set = mesh.scripted_node(1).voter_set.clone();
    let mut mesh = Mesh::of_three();
    mesh.scripted_nodes.remove(&at(3));
    for (port, elsewhere) in [(1, 31), (2, 32), (4, 33), (5, 34), (6, 33)] {
        let mut scripted_node = mesh.scripted_node(1 + (port + 1) % 2).clone();
        scripted_node.voter_set = voter_set.clone();
        scripted_node.nodes[2].addr = Some(at(elsewhere));
        mesh.put(port, scripted_node);
    }
    let survey = mesh.survey(&[1, 2, 4, 5, 6], nothing_more());
    let sought: Vec<u16> = [3, 31, 32, 33, 34]
        .into_iter()
        .filter(|port| mesh.was_asked(*port))
        .collect();
    assert_eq!(sought, [31, 32, 33]);
    assert_eq!((survey.voting(), survey.health()), (2, Health::Degraded));
}

/// All answer at once, and most report the same wrong address.
#[test]
fn address_reported_by_many_counts_once() {
    let voter_set = voter_set(&["a", "b", "c", "d", "e"]);
    let members = [("a", 33), ("b", 2), ("c", 3), ("d", 4), ("e", 5)];
    let known = members.map(|(name, port)| seen(name, port, true, None));
    let mut mesh = Mesh::default();
    for (name, port) in members {
        mesh.put(port, ScriptedNode::new(name, &voter_set, &known));
    }
    mesh.scripted_node(5).nodes[0].addr = Some(at(1));
    let mut surveyor = Surveyor::new([2, 3, 4, 5].map(at), nothing_more());
    let mut sought = BTreeSet::new();
    loop {
        let asks: Vec<_> = std::iter::from_fn(|| surveyor.next_question()).collect();
        if asks.is_empty() {
            break;
        }
        for ask in asks {
            sought.insert(ask.to.port());
            match mesh.scripted_nodes.get(&ask.to) {
                Some(scripted_node) => {
                    surveyor.handle_answer(ask.talk, scripted_node.answer(&ask.question))
                }
                None => surveyor.handle_silence(ask.talk),
            }
        }
    }
    assert!(sought.contains(&33) && sought.contains(&1), "{sought:?}");
}

/// The limit includes the addresses that the survey started with.
#[test]
fn survey_keeps_sixteen_addresses_per_node() {
    let mut mesh = Mesh::of_three();
    mesh.scripted_nodes.remove(&at(1));
    for (began_with, is_sought) in [(15, true), (16, false)] {
        let ports = (101..=100 + began_with).chain([2]);
        let mut surveyor = Surveyor::new(ports.map(at), nothing_more());
        let mut was_sought = false;
        while let Some(ask) = surveyor.next_question() {
            was_sought |= ask.to == at(99);
            let Some(scripted_node) = mesh.scripted_nodes.get(&ask.to) else {
                surveyor.handle_silence(ask.talk);
                continue;
            };
            let mut answered = scripted_node.answer(&ask.question);
            if let Answer::Nodes(page) = &mut answered.answer {
                let told = (101..=100 + began_with).chain([99]);
                let told = told.map(|port| seen("a", port, true, None));
                page.entries = told
                    .chain(scripted_node.nodes[1..].iter().cloned())
                    .collect();
                page.more = false;
            }
            surveyor.handle_answer(ask.talk, answered);
        }
        assert_eq!(was_sought, is_sought, "it began with {began_with}");
    }
}

#[test]
fn answered_member_is_not_sought_elsewhere() {
    let mut mesh = Mesh::of_three();
    mesh.scripted_node(2).nodes[0].addr = Some(at(11));
    mesh.scripted_node(3).nodes[0].addr = Some(at(12));
    mesh.survey(&[1], nothing_more());
    assert!(!mesh.was_asked(11) && !mesh.was_asked(12));
}

#[test]
fn survey_is_done_once_all_members_answered() {
    let mesh = Mesh::of_three();
    let addrs = [1, 2, 3, 77].map(at);
    let mut surveyor = Surveyor::new(addrs, nothing_more());
    let mut told = 0;
    while let Some(ask) = surveyor.next_question() {
        if let Some(scripted_node) = mesh.scripted_nodes.get(&ask.to) {
            assert!(!surveyor.is_done() && told < 9);
            surveyor.handle_answer(ask.talk, scripted_node.answer(&ask.question));
            told += 1;
        }
    }
    assert_eq!(told, 9);
    assert!(surveyor.is_done(), "nobody waits for the silent one");
    assert_eq!(surveyor.conclude().unwrap().health(), Health::Ok);
}

/// An outstanding question accepts one answer.
#[test]
fn unrequested_answer_changes_nothing() {
    let mesh = Mesh::of_three();
    let mut surveyor = Surveyor::new([at(1)], nothing_more());
    let overview = mesh.scripted_nodes[&at(1)].answer(&Question::Overview);
    surveyor.handle_answer(0, overview.clone());
    let ask = surveyor.next_question().unwrap();
    assert_eq!(
        (ask.talk, ask.to, ask.question),
        (0, at(1), Question::Overview)
    );
    assert_eq!(surveyor.next_question(), None, "one at a time");
    surveyor.handle_answer(7, overview.clone());
    surveyor.handle_answer(0, overview.clone());
    surveyor.handle_answer(0, overview);
    let ask = surveyor.next_question().unwrap();
    assert_eq!(ask.question, Question::Nodes { after: None });
}

#[test]
fn node_that_keeps_changing_is_abandoned() {
    type Change = fn(&mut ScriptedNode);
    let changes: [Change; 3] = [
        |scripted_node| scripted_node.name = node_id("b"),
        |scripted_node| scripted_node.incarnation = 2,
        |scripted_node| scripted_node.voter_set = voter_set(&["a", "b"]),
    ];
    for change in changes {
        let mesh = Mesh::of_three();
        let one = mesh.scripted_nodes[&at(1)].clone();
        let mut other = one.clone();
        change(&mut other);
        // The overview always comes from one node, and the list of nodes from the other.
        let mut surveyor = Surveyor::new([at(1)], nothing_more());
        let mut asked = Vec::new();
        while let Some(ask) = surveyor.next_question() {
            assert!(asked.len() < 20, "it asks for ever");
            let is_first = ask.question == Question::Overview;
            let scripted_node = if is_first { &one } else { &other };
            surveyor.handle_answer(ask.talk, scripted_node.answer(&ask.question));
            asked.push(ask.question);
        }
        let overviews = asked.iter().filter(|it| **it == Question::Overview);
        assert_eq!((overviews.count(), asked.len()), (3, 6));
        assert!(surveyor.is_done() && surveyor.conclude().is_none());
        // The node changes once, as in a restart. The survey succeeds with the new incarnation.
        let mut surveyor = Surveyor::new([at(1)], nothing_more());
        let ask = surveyor.next_question().unwrap();
        surveyor.handle_answer(ask.talk, other.answer(&ask.question));
        let mut asked = 0;
        while let Some(ask) = surveyor.next_question() {
            surveyor.handle_answer(ask.talk, mesh.scripted_nodes[&ask.to].answer(&ask.question));
            asked += 1;
            assert!(asked < 20, "it asks for ever");
        }
        let survey = surveyor.conclude().unwrap();
        assert_eq!((survey.voting(), survey.health()), (3, Health::Ok));
    }
}

/// An answer of another kind than the question is not accepted.
#[test]
fn answer_to_another_question_restarts_the_talk() {
    let mesh = Mesh::of_three();
    let scripted_node = &mesh.scripted_nodes[&at(1)];
    let mut surveyor = Surveyor::new([at(1)], nothing_more());
    surveyor.next_question().unwrap();
    surveyor.handle_answer(0, scripted_node.answer(&Question::Nodes { after: None }));
    assert_eq!(
        surveyor.next_question().unwrap().question,
        Question::Overview
    );
    surveyor.handle_answer(0, scripted_node.answer(&Question::Overview));
    assert_eq!(
        surveyor.next_question().unwrap().question,
        Question::Nodes { after: None }
    );
    surveyor.handle_answer(0, scripted_node.answer(&Question::Overview));
    assert_eq!(
        surveyor.next_question().unwrap().question,
        Question::Overview
    );
}

#[test]
fn voter_set_with_wrong_digest_counts_as_silence() {
    let mut mesh = Mesh::of_three();
    // The list lacks a member, or has one too many.
    mesh.scripted_node(1).nodes.pop();
    let surveyor = mesh.look(&[1], nothing_more());
    assert!(surveyor.conclude().is_none());
    let mut mesh = Mesh::of_three();
    mesh.scripted_node(1).nodes.push(seen("d", 4, true, None));
    let surveyor = mesh.look(&[1], nothing_more());
    assert!(surveyor.conclude().is_none());
    // Another member provides the right voter set.
    let survey = mesh.survey(&[1, 2], nothing_more());
    assert_eq!(names(survey.voter_set.members()), ["a", "b", "c"]);
}

/// The survey uses the first complete voter set. Members under another one are listed, but their
/// votes do not count.
#[test]
fn member_under_another_voter_set_does_not_vote() {
    let mut mesh = Mesh::of_three();
    let other = voter_set(&["a", "b", "c", "d"]);
    let mut nodes = mesh.scripted_node(3).nodes.clone();
    nodes.push(seen("d", 4, true, None));
    let mut c = ScriptedNode::new("c", &other, &nodes);
    let key = keys().remove(0);
    c.locks = vec![vote(&key)];
    mesh.put(3, c);
    for port in [1, 2] {
        mesh.scripted_node(port).locks = vec![vote(&key)];
    }
    let wanted = Wanted {
        locks_max: 9,
        key: Some(key),
    };
    let survey = mesh.survey(&[1], wanted);
    assert_eq!((survey.answered(), survey.voting()), (3, 2));
    assert_eq!(survey.health(), Health::Degraded);
    let key = survey.key.unwrap();
    assert_eq!((key.voters, key.answered), (3, 2));
    assert_eq!(survey.locks[0].answered, 2);
}

#[test]
fn endless_list_of_nodes_is_limited() {
    let scripted_node = Mesh::of_three().scripted_nodes.remove(&at(1)).unwrap();
    let mut surveyor = Surveyor::new([at(1)], nothing_more());
    let mut told = 0_usize;
    while let Some(ask) = surveyor.next_question() {
        let mut answered = scripted_node.answer(&ask.question);
        if let Answer::Nodes(page) = &mut answered.answer {
            let next = (told..told + 128).map(|n| seen(&format!("n{n:09}"), 9, false, None));
            page.entries = next.collect();
            page.more = true;
            told += page.entries.len();
        }
        assert!(told < 100_000, "it asks for ever");
        surveyor.handle_answer(ask.talk, answered);
    }
    // 1,024 members, and the 8,192 other nodes that each of two nodes may remember.
    assert_eq!(told, 1_024 + 16_384);
    assert!(surveyor.is_done());
}

#[test]
fn node_called_dead_and_never_alive_is_doubtful() {
    let mut mesh = Mesh::of_three();
    let c = |is_alive| seen("c", 3, true, is_alive);
    for (a, b, is_doubtful) in [
        (None, None, false),
        (Some(true), None, false),
        (Some(false), None, true),
        (Some(false), Some(false), true),
        (Some(false), Some(true), false),
        (Some(true), Some(false), false),
    ] {
        mesh.scripted_node(1).nodes[2] = c(a);
        mesh.scripted_node(2).nodes[2] = c(b);
        mesh.scripted_node(3).patience = 0;
        let surveyor = mesh.look(&[1, 2, 3], nothing_more());
        let doubts: Vec<bool> = (0..3).map(|talk| surveyor.is_doubtful(talk)).collect();
        assert_eq!(doubts, [false, false, is_doubtful], "{a:?} {b:?}");
        assert!(surveyor.is_doubtful(3), "there is no such talk");
    }
}

/// A node that was restarted may answer at two addresses, in two incarnations.
#[test]
fn later_complete_answer_of_one_node_counts() {
    let mut mesh = Mesh::of_three();
    let mut old = mesh.scripted_node(3).clone();
    old.voter = VoterState::NotAMember;
    mesh.scripted_node(3).incarnation = 5;
    mesh.put(4, old);
    for ports in [[4, 3], [3, 4]] {
        let survey = mesh.survey(&ports, nothing_more());
        let answer = survey.nodes[2].answer.as_ref().unwrap();
        assert_eq!(answer.incarnation, Incarnation::new(5));
        assert_eq!((survey.nodes[2].addr, survey.voting()), (Some(at(3)), 3));
        assert_eq!(survey.answered(), 3);
    }
    // The later one fell silent before its answers were complete.
    for ports in [[4, 3], [3, 4]] {
        mesh.scripted_node(3).patience = 1;
        let survey = mesh.survey(&ports, nothing_more());
        let answer = survey.nodes[2].answer.as_ref().unwrap();
        assert_eq!(answer.incarnation, Incarnation::new(1));
        assert_eq!(survey.nodes[2].addr, Some(at(4)));
    }
    // Two of one incarnation: the first one asked counts.
    mesh.scripted_node(3).patience = usize::MAX;
    mesh.scripted_node(3).incarnation = 1;
    let survey = mesh.survey(&[3, 4], nothing_more());
    assert_eq!(survey.nodes[2].addr, Some(at(3)));
}

#[test]
fn listed_keys_end_at_first_incomplete_voter() {
    let keys = keys();
    let votes: Vec<SeenLock> = keys.iter().take(9).map(vote).collect();
    let wanted = |locks_max| Wanted {
        locks_max,
        key: None,
    };
    let told = |survey: &Survey| -> Vec<Key> {
        survey.locks.iter().map(|lock| lock.key.clone()).collect()
    };
    let sorted = |keys: &[Key]| {
        let mut keys = keys.to_vec();
        keys.sort();
        keys
    };
    let mut mesh = Mesh::of_three();
    // `b` lacks some keys, and `c` has two keys of its own.
    mesh.scripted_node(1).locks = votes[..6].to_vec();
    mesh.scripted_node(2).locks = votes[1..3].to_vec();
    mesh.scripted_node(3).locks = [&votes[..2], &votes[5..8]].concat();
    let survey = mesh.survey(&[1], wanted(100));
    assert_eq!(told(&survey), sorted(&keys[..8]));
    assert!(survey.has_all_locks);
    for lock in &survey.locks {
        assert_eq!((lock.voters, lock.answered), (3, 3));
        let at = keys.iter().position(|key| *key == lock.key).unwrap();
        let owned = [0, 1, 2, 5].contains(&at);
        assert_eq!(lock.owner().is_some(), owned, "{at}");
    }
    // Two pages of each, and `a` has more than its first four keys.
    let survey = mesh.survey(&[1], wanted(4));
    assert_eq!(told(&survey), sorted(&keys[..4]));
    assert!(!survey.has_all_locks);
    // A node that falls silent in its list of keys does not count.
    mesh.scripted_node(1).patience = 4;
    let survey = mesh.survey(&[2], wanted(100));
    assert_eq!(told(&survey), sorted(&[&keys[..3], &keys[5..8]].concat()));
    assert!(survey.has_all_locks);
    assert!(survey.locks.iter().all(|lock| lock.answered == 2));
}

#[test]
fn key_is_judged_by_its_voters_alone() {
    let members = ["a", "b", "c", "d", "e"];
    let ids = members.map(node_id).to_vec();
    let voter_set = Arc::new(VoterSet::new(1, ids, 3, Timing::lan()).unwrap());
    let known: Vec<SeenNode> = (1..)
        .zip(members)
        .map(|(port, name)| seen(name, port, true, None))
        .collect();
    let key = keys().remove(0);
    let mut mesh = Mesh::default();
    for (port, name) in (1..).zip(members) {
        let mut scripted_node = ScriptedNode::new(name, &voter_set, &known);
        // Nodes that are no voters of this key report a vote as well.
        scripted_node.locks = vec![vote(&key)];
        mesh.put(port, scripted_node);
    }
    let wanted = Wanted {
        locks_max: 0,
        key: Some(key.clone()),
    };
    let survey = mesh.survey(&[1], wanted);
    let inspection = survey.key.unwrap();
    assert_eq!(inspection.owner().unwrap().node, node_id("x"));
    assert_eq!(
        (inspection.key, inspection.voters, inspection.answered),
        (key, 3, 3)
    );
}
