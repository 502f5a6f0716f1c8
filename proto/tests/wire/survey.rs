//! Surveys of a mesh whose members return true, partial or false answers.

use std::time::Duration;

use lockmesh_proto::{
    Answer, DropReason, Incarnation, Inspection, Instant, Key, NodeId, Note, Question, SeenLock,
    SeenNode, Survey, SurveyHealth, Surveyor, Topic, VoterState, Wanted,
};

use crate::arbitrary::node_id;
use crate::scripted_nodes::{Mesh, PATIENCE, ScriptedNode, at, keys, seen, vote, voter_set};

const FIVE: [&str; 5] = ["a", "b", "c", "d", "e"];

fn nothing_more() -> Wanted {
    Wanted::Overview
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
        assert_eq!(survey.health(), SurveyHealth::Ok);
        for (node, port) in survey.nodes.iter().zip(1..) {
            assert!(node.is_member);
            assert_eq!(node.addr, Some(at(port)));
            assert_eq!((node.alive_by.len(), node.dead_by.len()), (2, 0));
        }
        assert_eq!(survey.members().count(), 3);
    }
}

#[test]
fn survey_distinguishes_silent_dead_recovering_and_voting() {
    let mut mesh = Mesh::of_three();
    mesh.scripted_node(1).nodes[1].is_alive = Some(false);
    mesh.scripted_node(3).patience = 0;
    let survey = mesh.survey(&[1], nothing_more());
    assert_eq!((survey.answered(), survey.voting()), (2, 2));
    assert_eq!(survey.health(), SurveyHealth::Degraded);
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
    assert_eq!(survey.health(), SurveyHealth::Blocked);
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
    assert_eq!(survey.health(), SurveyHealth::Ok);
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
fn voter_set_with_wrong_digest_counts_as_silence() {
    let mut mesh = Mesh::of_three();
    let a = mesh.scripted_node(1).clone();
    let mut alone = Mesh::default();
    // The list lacks a member, or has one too many.
    let mut one_less = a.clone();
    one_less.nodes.pop();
    let mut one_more = a;
    one_more.nodes.push(seen("d", 4, true, None));
    for wrong in [one_less, one_more] {
        alone.put(1, wrong.clone());
        let surveyor = alone.look(&[1], nothing_more());
        assert!(surveyor.conclude().is_none());
        mesh.put(1, wrong);
    }
    // Another member provides the right voter set.
    let survey = mesh.survey(&[1], nothing_more());
    assert_eq!(names(survey.voter_set.members()), ["a", "b", "c"]);
}

/// Of five members with three voters for each key, two absent ones can leave a key without a
/// quorum.
#[test]
fn mesh_is_blocked_if_keys_lose_quorum() {
    for (voters, absent, health) in [
        (3, 0, SurveyHealth::Ok),
        (3, 1, SurveyHealth::Degraded),
        (3, 2, SurveyHealth::Blocked),
        (5, 2, SurveyHealth::Degraded),
        (5, 3, SurveyHealth::Blocked),
        (4, 1, SurveyHealth::Degraded),
        (4, 2, SurveyHealth::Blocked),
    ] {
        let mut mesh = Mesh::with_voters(&FIVE, voters);
        for port in 6 - absent..=5 {
            mesh.scripted_node(port).patience = 0;
        }
        let survey = mesh.survey(&[1], nothing_more());
        assert_eq!(survey.health(), health, "{absent} of {voters}");
    }
}

/// Gossip is delayed: peers may still report the old address of a member.
#[test]
fn member_is_sought_at_up_to_three_addresses() {
    let mut mesh = Mesh::of(&FIVE);
    // All but one know `e` at an address without a node.
    for port in 1..=3 {
        mesh.scripted_node(port).nodes[4].addr = Some(at(30 + port));
    }
    mesh.scripted_node(4).nodes[4].addr = Some(at(31));
    mesh.scripted_nodes.remove(&at(5));
    let survey = mesh.survey(&[1], nothing_more());
    assert_eq!((survey.voting(), survey.nodes[4].addr), (4, Some(at(31))));
    mesh.scripted_node(4).nodes[4].addr = Some(at(34));
    mesh.survey(&[1, 2, 3, 4], nothing_more());
    let sought = (31..=34).filter(|port| mesh.was_asked(*port));
    assert_eq!(sought.count(), 3);
    // One of the addresses is right.
    let e = Mesh::of(&FIVE).scripted_node(5).clone();
    mesh.put(32, e);
    let survey = mesh.survey(&[1], nothing_more());
    assert_eq!((survey.voting(), survey.nodes[4].addr), (5, Some(at(32))));
}

#[test]
fn survey_of_many_members_asks_each_once() {
    let ids: Vec<String> = (0..70).map(|n| format!("m{n:03}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let mut mesh = Mesh::with_voters(&ids, 5);
    let survey = mesh.survey(&[1], nothing_more());
    assert_eq!((survey.answered(), survey.voting()), (70, 70));
    // Each for 35 pages of two nodes.
    assert_eq!((mesh.asked.len(), mesh.took), (70 * 35, Duration::ZERO));
}

#[test]
fn survey_ends_once_all_members_answered() {
    let mut mesh = Mesh::of_three();
    mesh.survey(&[1, 2, 3, 77], nothing_more());
    assert!(mesh.was_asked(77), "nobody waits for the silent one");
    assert_eq!(mesh.took, Duration::ZERO);
    mesh.scripted_node(3).patience = 0;
    mesh.survey(&[1], nothing_more());
    assert_eq!(mesh.took, PATIENCE);
}

/// A node that others report as dead, and none as alive, gets a quarter of the patience, and up to
/// one retransmission more.
#[test]
fn dead_node_costs_less_than_patience() {
    let mut mesh = Mesh::of_three();
    let short = Duration::from_millis(600);
    let c = |is_alive| seen("c", 3, true, is_alive);
    for (a, b, took) in [
        (None, None, PATIENCE),
        (Some(true), None, PATIENCE),
        (Some(false), None, short),
        (Some(false), Some(false), short),
        (Some(false), Some(true), PATIENCE),
        (Some(true), Some(false), PATIENCE),
    ] {
        mesh.scripted_node(1).nodes[2] = c(a);
        mesh.scripted_node(2).nodes[2] = c(b);
        mesh.scripted_node(3).patience = 0;
        for ports in [&[1][..], &[1, 2, 3]] {
            mesh.survey(ports, nothing_more());
            assert_eq!(mesh.took, took, "{a:?} {b:?}");
        }
    }
}

#[test]
fn question_is_retransmitted_until_patience_is_over() {
    let mut surveyor = Surveyor::new("c", [at(1)], nothing_more(), PATIENCE, 5);
    let (_, first) = surveyor.poll(Instant::ZERO).unwrap();
    assert_eq!(surveyor.poll(Instant::ZERO), None);
    let mut sent = 1;
    let mut now = Instant::ZERO;
    while let Some(wake) = surveyor.next_timeout() {
        assert!(now < wake);
        now = wake;
        if let Some((_, again)) = surveyor.poll(now) {
            assert_eq!(again, first, "an answer to either counts");
            sent += 1;
        }
    }
    assert_eq!((sent, now.since(Instant::ZERO)), (10, PATIENCE));
    let late = Mesh::of_three().scripted_node(1).answer(&first);
    let refused = surveyor.handle_answer(late);
    assert_eq!(refused, Err(DropReason::Misaddressed));
    assert!(surveyor.conclude().is_none());
}

/// A node of version 1 drops a question for notes. Its other pages are asked for without.
#[test]
fn old_node_costs_one_retransmission_and_notes() {
    let keys = keys();
    let note = Note::new("deploy 812 by ci").unwrap();
    for (old, wanted) in [
        (false, Wanted::Locks { max: 100 }),
        (true, Wanted::Locks { max: 100 }),
        (
            true,
            Wanted::Key {
                key: keys[3].clone(),
            },
        ),
    ] {
        let mut mesh = Mesh::of_three();
        for port in 1..=3 {
            let node = mesh.scripted_node(port);
            node.locks = keys.iter().map(vote).collect();
            node.notes = [(keys[3].clone(), note.clone())].into();
            node.is_old = old && port != 2;
        }
        let survey = mesh.survey(&[1], wanted.clone());
        assert_eq!(
            survey.locks.len(),
            if wanted == (Wanted::Locks { max: 100 }) {
                20
            } else {
                1
            }
        );
        for lock in &survey.locks {
            let owner = lock.owner().unwrap();
            let expected = (lock.key == keys[3]).then_some(&note);
            assert_eq!(owner.note.as_ref(), expected);
            assert_eq!(lock.votes[0].note.as_ref(), expected);
        }
        let took = if old { 200 } else { 0 };
        assert_eq!(mesh.took, Duration::from_millis(took));
        // Of three old nodes nobody has the note.
        mesh.scripted_node(2).is_old = old;
        let survey = mesh.survey(&[1], wanted);
        let has_note = |lock: &Inspection| lock.owner().unwrap().note.is_some();
        assert_eq!(survey.locks.iter().any(has_note), !old);
    }
}

fn ask(surveyor: &mut Surveyor) -> Question {
    surveyor.poll(Instant::ZERO).unwrap().1
}

/// An observer would never finish with a node whose lists go back or never end.
#[test]
fn answer_that_does_not_fit_is_dropped() {
    type Change = fn(&mut Answer);
    let changes: [(Topic, Change); 7] = [
        (Topic::Overview { from: 0 }, |it| it.nonce += 1),
        (Topic::Overview { from: 0 }, |it| it.overview = None),
        (Topic::Overview { from: 0 }, |it| it.next = Some(0)),
        (Topic::Overview { from: 0 }, |it| {
            it.nodes.clear();
            it.next = Some(9);
        }),
        (Topic::LocksAndNotes { from: 0 }, |it| it.next = Some(0)),
        (Topic::LocksAndNotes { from: 0 }, |it| it.locks.clear()),
        (
            Topic::KeyAndNotes {
                key: keys().remove(0),
            },
            |it| {
                it.locks[0].key = keys().remove(1);
            },
        ),
    ];
    for (topic, change) in changes {
        let mut mesh = Mesh::of(&["a"]);
        let scripted_node = mesh.scripted_node(1);
        scripted_node.locks = keys().iter().map(vote).collect();
        let wanted = match &topic {
            Topic::KeyAndNotes { key } => Wanted::Key { key: key.clone() },
            _ => Wanted::Locks { max: 100 },
        };
        let mut surveyor = Surveyor::new("c", [at(1)], wanted, PATIENCE, 5);
        let mut question = ask(&mut surveyor);
        while question.topic != topic {
            let answer = scripted_node.answer(&question);
            assert_eq!(surveyor.handle_answer(answer.clone()), Ok(()));
            let again = surveyor.handle_answer(answer);
            assert_eq!(again, Err(DropReason::Misaddressed), "it was answered");
            question = ask(&mut surveyor);
        }
        let mut answer = scripted_node.answer(&question);
        let right = answer.clone();
        change(&mut answer);
        let refused = surveyor.handle_answer(answer);
        assert_eq!(refused, Err(DropReason::Misaddressed), "{topic:?}");
        assert_eq!(surveyor.handle_answer(right), Ok(()), "it is still open");
    }
}

/// Another process may answer at the address, or a later incarnation.
#[test]
fn answers_of_two_nodes_end_the_talk() {
    type Change = fn(&mut ScriptedNode);
    let changes: [Change; 3] = [
        |scripted_node| scripted_node.name = node_id("b"),
        |scripted_node| scripted_node.incarnation = 2,
        |scripted_node| scripted_node.voter_set = voter_set(&["a", "b"]),
    ];
    for change in changes {
        let mut mesh = Mesh::of_three();
        let mut surveyor = Surveyor::new("c", [at(1)], nothing_more(), PATIENCE, 5);
        let first = ask(&mut surveyor);
        let answer = mesh.scripted_node(1).answer(&first);
        surveyor.handle_answer(answer).unwrap();
        change(mesh.scripted_node(1));
        let next = std::iter::from_fn(|| surveyor.poll(Instant::ZERO));
        let next = next.filter(|(to, _)| *to == at(1)).map(|(_, it)| it).last();
        let answer = mesh.scripted_node(1).answer(&next.unwrap());
        surveyor.handle_answer(answer).unwrap();
        assert!(
            surveyor.conclude().is_none(),
            "half of a list is no voter set"
        );
        let asked = std::iter::from_fn(|| surveyor.poll(Instant::FAR));
        assert_eq!(asked.filter(|(to, _)| *to == at(1)).count(), 0);
    }
}

/// The survey uses the first complete voter set. Members under another one are listed, but their
/// votes do not count.
#[test]
fn member_under_another_voter_set_does_not_vote() {
    let mut mesh = Mesh::of_three();
    let other = voter_set(&["a", "b", "c", "d"]);
    let mut nodes = mesh.scripted_node(3).nodes.clone();
    nodes.push(seen("d", 4, true, None));
    let key = keys().remove(0);
    mesh.put(3, ScriptedNode::new("c", &other, &nodes));
    for port in 1..=3 {
        mesh.scripted_node(port).locks = vec![vote(&key)];
    }
    for wanted in [Wanted::Locks { max: 9 }, Wanted::Key { key }] {
        let survey = mesh.survey(&[1], wanted);
        assert_eq!((survey.answered(), survey.voting()), (3, 2));
        assert_eq!(survey.health(), SurveyHealth::Degraded);
        assert_eq!((survey.locks[0].voters, survey.locks[0].answered), (3, 2));
    }
}

#[test]
fn endless_list_of_nodes_is_limited() {
    let mut mesh = Mesh::of_three();
    let scripted_node = mesh.scripted_node(1);
    let mut surveyor = Surveyor::new("c", [at(1)], nothing_more(), PATIENCE, 5);
    let mut told = 0;
    while let Some((to, question)) = surveyor.poll(Instant::ZERO) {
        assert_eq!(to, at(1));
        let mut answer = scripted_node.answer(&question);
        let page = (told..told + 50).map(|n| seen(&format!("n{n:09}"), 9, false, None));
        answer.nodes = page.collect();
        told += 50;
        answer.next = Some(told);
        assert!(told < 100_000, "it asks for ever");
        surveyor.handle_answer(answer).unwrap();
    }
    // 1,024 members, and the 8,192 other nodes that each of two nodes may remember.
    assert_eq!(told, 17_450);
    assert_eq!(surveyor.next_timeout(), None);
}

/// A node that was restarted may answer at two addresses, in two incarnations.
#[test]
fn answer_of_later_incarnation_counts() {
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
}

fn listed(survey: &Survey) -> Vec<Key> {
    survey.locks.iter().map(|lock| lock.key.clone()).collect()
}

fn sorted(keys: &[Key]) -> Vec<Key> {
    let mut keys = keys.to_vec();
    keys.sort();
    keys
}

#[test]
fn listed_keys_end_at_first_incomplete_voter() {
    let keys = keys();
    let votes: Vec<SeenLock> = keys.iter().take(9).map(vote).collect();
    let wanted = |max| Wanted::Locks { max };
    let mut mesh = Mesh::of_three();
    // `b` lacks some keys, and `c` has two keys of its own.
    mesh.scripted_node(1).locks = votes[..6].to_vec();
    mesh.scripted_node(2).locks = votes[1..3].to_vec();
    mesh.scripted_node(3).locks = [&votes[..2], &votes[5..8]].concat();
    let survey = mesh.survey(&[1], wanted(100));
    assert_eq!(listed(&survey), sorted(&keys[..8]));
    assert!(survey.has_all_locks);
    for lock in &survey.locks {
        assert_eq!((lock.voters, lock.answered), (3, 3));
        let at = keys.iter().position(|key| *key == lock.key).unwrap();
        let owned = [0, 1, 2, 5].contains(&at);
        assert_eq!(lock.owner().is_some(), owned, "{at}");
    }
    // Two pages of each, and `a` has more than its first four keys.
    let survey = mesh.survey(&[1], wanted(4));
    assert_eq!(listed(&survey), sorted(&keys[..4]));
    assert!(!survey.has_all_locks);
    // A node that falls silent in its list of keys does not count.
    mesh.scripted_node(1).patience = 4;
    let survey = mesh.survey(&[2], wanted(100));
    assert_eq!(listed(&survey), sorted(&[&keys[..3], &keys[5..8]].concat()));
    assert!(survey.has_all_locks);
    assert!(survey.locks.iter().all(|lock| lock.answered == 2));
}

#[test]
fn key_without_vote_is_unknown_in_quarantine() {
    let mut mesh = Mesh::of_three();
    let key = keys().remove(0);
    mesh.scripted_node(1).locks = vec![vote(&key)];
    for port in [2, 3] {
        let remaining = Duration::from_secs(9);
        mesh.scripted_node(port).voter = VoterState::Recovering { remaining };
    }
    let survey = mesh.survey(&[1], Wanted::Locks { max: 9 });
    let because = survey.locks[0].unknown_because().unwrap();
    assert_eq!(because, "2 of 3 voters are in quarantine");
}

#[test]
fn key_is_judged_by_its_voters_alone() {
    let key = keys().remove(0);
    let mut mesh = Mesh::with_voters(&FIVE, 3);
    // Nodes that are no voters of this key report a vote as well.
    for port in 1..=5 {
        mesh.scripted_node(port).locks = vec![vote(&key)];
    }
    let survey = mesh.survey(&[1], Wanted::Key { key: key.clone() });
    let [inspection] = &survey.locks[..] else {
        panic!("{survey:?}")
    };
    assert_eq!(inspection.owner().unwrap().node, node_id("x"));
    assert_eq!(
        (&inspection.key, inspection.voters, inspection.answered),
        (&key, 3, 3)
    );
}
