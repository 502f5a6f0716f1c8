//! A node that replaces its secrets, and its peers that do.

use std::collections::BTreeSet;

use lockmesh_proto::{
    ClusterSecret, ClusterSecrets, DatagramKind, DropReason, Event, Fingerprint, Incarnation,
    Output, Seal,
};
use proptest::prelude::*;

use crate::arbitrary::node_id;
use crate::node::{INCARNATION, World, addr};

fn secrets(bytes: &[u8]) -> ClusterSecrets {
    let secrets = bytes.iter().map(|byte| [*byte; 32]);
    ClusterSecrets::new(secrets.map(|it| ClusterSecret::from_bytes(it).unwrap())).unwrap()
}

fn fingerprint(byte: u8) -> Fingerprint {
    secrets(&[byte]).fingerprints()[0]
}

/// Returns the reports of other secrets.
fn reports(outputs: Vec<Output>) -> Vec<(String, Fingerprint)> {
    let report = |output| match output {
        Output::Event(Event::SecretChanged { node, secret }) => Some((node.to_string(), secret)),
        _ => None,
    };
    outputs.into_iter().filter_map(report).collect()
}

/// Feeds a datagram without messages of `b`. Returns the reports of other secrets.
fn announce(world: &mut World, incarnation: Incarnation) -> Vec<(String, Fingerprint)> {
    let mut head = world.head();
    head.incarnation = incarnation;
    let datagram = world.datagram(&head, &[]);
    reports(world.feed(&datagram))
}

#[test]
fn node_reports_each_change_of_secret_once() {
    let mut world = World::new(&["a", "b"]);
    let spoken = |world: &World| world.node.secret_of(&node_id("b"));
    let others = |world: &World| world.node.with_other_secrets().count();
    assert_eq!((spoken(&world), others(&world)), (None, 0));
    assert_eq!(announce(&mut world, INCARNATION), []);
    assert_eq!((spoken(&world), others(&world)), (Some(fingerprint(1)), 0));

    world.node.rotate_secrets(&secrets(&[2, 1])).unwrap();
    assert_eq!(world.node.secrets(), [2, 1].map(fingerprint));
    assert_eq!(world.node.secret_of(&node_id("a")), Some(fingerprint(2)));
    assert_eq!((spoken(&world), others(&world)), (Some(fingerprint(1)), 1));
    assert_eq!(announce(&mut world, INCARNATION), []);

    world.peer.rotate(&secrets(&[2, 1])).unwrap();
    // Gossip names no node, but has the boot id of a known one.
    let gossip = world.peer.seal(DatagramKind::Gossip, b"gossip");
    let report = [("b".to_owned(), fingerprint(2))];
    assert_eq!(reports(world.feed(&gossip)), report);
    assert_eq!(announce(&mut world, INCARNATION), []);
    assert_eq!((spoken(&world), others(&world)), (Some(fingerprint(2)), 0));

    // Its next process has the old secret.
    world.peer = Seal::sealed(secrets(&[1, 2]), [3; 16]);
    let report = [("b".to_owned(), fingerprint(1))];
    assert_eq!(announce(&mut world, INCARNATION.next()), report);
    assert_eq!((spoken(&world), others(&world)), (Some(fingerprint(1)), 1));
}

#[test]
fn removed_secret_is_a_foreign_one() {
    let mut world = World::new(&["a", "b"]);
    assert_eq!(announce(&mut world, INCARNATION), []);
    world.node.rotate_secrets(&secrets(&[2])).unwrap();
    let datagram = world.datagram(&world.head(), &[]);
    let outputs = world.feed(&datagram);
    let [Output::ForeignNode(foreign_node)] = &outputs[..] else {
        panic!("{outputs:?}")
    };
    assert_eq!(foreign_node.reason, DropReason::Key);
    assert_eq!(foreign_node.from, addr());
    assert_eq!(world.node.secret_of(&node_id("b")), Some(fingerprint(1)));
}

#[derive(Clone, Debug)]
enum Step {
    Send,
    Receive(usize),
    RotateSender(Vec<u8>),
    RotateReceiver(Vec<u8>),
}

fn step() -> impl Strategy<Value = Step> {
    let listed = || prop::sample::subsequence(vec![1, 2, 3], 1..=3).prop_shuffle();
    prop_oneof![
        4 => Just(Step::Send),
        8 => (0..40_usize).prop_map(Step::Receive),
        1 => listed().prop_map(Step::RotateSender),
        1 => listed().prop_map(Step::RotateReceiver),
    ]
}

proptest! {
    /// Compares a receiver with a set of what it has accepted.
    #[test]
    fn datagram_opens_once_over_all_rotations(steps in prop::collection::vec(step(), 1..300)) {
        let mut mine = vec![1];
        let mut sender = Seal::sealed(secrets(&[1]), [1; 16]);
        let mut receiver = Seal::sealed(secrets(&[1]), [2; 16]);
        let (mut first, mut sent, mut taken) = (1, Vec::new(), BTreeSet::new());
        for step in steps {
            match step {
                Step::Send => sent.push((first, sender.seal(DatagramKind::Votes, b"body"))),
                Step::RotateSender(bytes) => {
                    sender.rotate(&secrets(&bytes)).unwrap();
                    first = bytes[0];
                }
                Step::RotateReceiver(bytes) => {
                    receiver.rotate(&secrets(&bytes)).unwrap();
                    mine = bytes;
                }
                Step::Receive(at) if at < sent.len() => {
                    let (secret, datagram) = &sent[at];
                    let expected = match mine.contains(secret) {
                        false => Err(DropReason::Key),
                        true if taken.insert(at) => Ok((DatagramKind::Votes, b"body".to_vec())),
                        true => Err(DropReason::Replayed),
                    };
                    prop_assert_eq!(receiver.open(datagram), expected);
                }
                Step::Receive(_) => {}
            }
        }
    }
}
