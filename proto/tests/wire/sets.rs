//! A whole node beside nodes with another voter set, secret or cluster.

use std::time::Duration;

use lockmesh_proto::{
    ClusterSecret, DATAGRAM_BYTES_MAX, DatagramHead, DatagramKind, DropReason, Event, Message,
    Output, Request, Role, Seal, Timing, VoterSet, VoterSetDescription, VoterSetTag, pack_messages,
};

use crate::arbitrary::node_id;
use crate::node::{INCARNATION, World, addr, answers, claim_of, key};

#[test]
fn node_with_another_voter_set_is_reported_once() {
    let mut world = World::new(&["a", "b", "c"]);
    let request = Request {
        key: key(),
        ttl: Duration::from_secs(1),
        is_try: false,
        renews: false,
        outlives: false,
        deadline: None,
        is_once: false,
        note: None,
    };
    world.node.claim(world.now, request).unwrap();
    world.drain();
    let voter_set = VoterSetTag {
        digest: world.voter_set.digest ^ 1,
        ..world.voter_set
    };
    let head = DatagramHead {
        voter_set,
        ..world.head()
    };
    let first = world.datagram(&head, &answers(&claim_of("a"))[..1]);
    // A voter without memory waits when it receives from another set. It sends that node its own
    // set.
    let outputs = world.feed(&first);
    assert!(
        matches!(
            &outputs[..],
            [
                Output::Event(Event::QuarantineBegan { .. }),
                Output::Event(Event::QuarantineExtended {
                    votes_elsewhere: true,
                    ..
                }),
                Output::Transmit { .. },
            ]
        ),
        "{outputs:?}"
    );
    let told = described(&["a", "b", "d"], 10, Role::Votes);
    for times in [1, 0] {
        let datagram = world.datagram(&head, std::slice::from_ref(&told));
        let outputs = world.feed(&datagram);
        let named: Vec<String> = outputs.iter().filter_map(mismatch).collect();
        assert_eq!(
            named,
            ["b: its max_ttl is 10 s, mine 60 s; its voters lack c; its voters have d too"; 1]
                [..times]
        );
    }
    for message in answers(&claim_of("a")) {
        world.drops_message(&head, message, DropReason::VoterSet);
    }
    assert_eq!(world.node.traffic().dropped_for(DropReason::VoterSet), 4);
    assert_eq!(world.node.claimant().held(world.now).count(), 0);
}

fn mismatch(output: &Output) -> Option<String> {
    match output {
        Output::Event(Event::VoterSetMismatch { node, differences }) => {
            Some(format!("{node}: {differences}"))
        }
        _ => None,
    }
}

/// A node's description of its voter set.
fn described(members: &[&str], max_ttl_s: u64, role: Role) -> Message {
    let timing = Timing {
        max_ttl: Duration::from_secs(max_ttl_s),
        ..Timing::lan()
    };
    let members = members.iter().map(|name| node_id(name)).collect();
    let voter_set = VoterSet::new(1, members, 3, timing).unwrap();
    Message::Described(Box::new(VoterSetDescription::of(&voter_set, role)))
}

/// In plaintext an address may be forged, and a description is longer than its request.
#[test]
fn descriptions_are_limited_per_node_and_in_total() {
    let mut world = World::new(&["a", "b", "c"]);
    let described = |outputs: &[Output]| {
        let sent = outputs
            .iter()
            .filter(|output| matches!(output, Output::Transmit { bytes, .. } if bytes.len() > 90));
        sent.count()
    };
    let asks = |world: &mut World, from: &str| {
        let head = DatagramHead {
            from: node_id(from),
            voter_set: VoterSetTag::default(),
            ..world.head()
        };
        let datagram = world.datagram(&head, &[Message::Describe(Role::Recovering)]);
        described(&world.feed(&datagram))
    };
    let sent: usize = (0..10).map(|_| asks(&mut world, "x")).sum();
    assert_eq!(sent, 1);
    let sent: usize = (0..1_000).map(|n| asks(&mut world, &format!("x{n}"))).sum();
    assert_eq!(sent, 127);
    world.now.mono = world.now.mono.after(Duration::from_secs(1));
    assert_eq!(asks(&mut world, "x"), 1);
}

/// The match follows from the node's own datagram.
#[test]
fn node_with_matching_set_again_is_reported() {
    let mut world = World::new(&["a", "b", "c"]);
    let other = DatagramHead {
        voter_set: VoterSetTag::default(),
        ..world.head()
    };
    let told = described(&["a", "b", "c"], 10, Role::Client);
    let datagram = world.datagram(&other, &[told]);
    world.feed(&datagram);
    assert!(world.node.differences(&node_id("b")).is_some());
    let head = DatagramHead {
        incarnation: INCARNATION.next(),
        ..world.head()
    };
    let body = pack_messages(&head, &[], DATAGRAM_BYTES_MAX)
        .bodies
        .remove(0)
        .0;
    let bytes = world.peer.seal(DatagramKind::Votes, &body);
    let outputs = world.feed(&bytes);
    let is_match = |output: &&Output| matches!(output, Output::Event(Event::VoterSetMatch { .. }));
    assert_eq!(outputs.iter().filter(is_match).count(), 1, "{outputs:?}");
    assert_eq!(world.node.differences(&node_id("b")), None);
}

#[test]
fn foreign_secret_or_cluster_is_reported_once() {
    let mut world = World::new(&["a"]);
    let body = pack_messages(&world.head(), &[], DATAGRAM_BYTES_MAX)
        .bodies
        .remove(0)
        .0;
    let key = |byte| ClusterSecret::from_bytes([byte; 32]).unwrap();
    let wrong = Seal::sealed(key(2), [3; 16]);
    let elsewhere = Seal::sealed(key(1), [4; 16]).of_cluster("staging");
    let later = Duration::from_secs(15);
    for (mut seal, reason) in [(wrong, DropReason::Key), (elsewhere, DropReason::Cluster)] {
        world.now.mono = world.now.mono.after(later);
        for count in [1, 0] {
            let outputs = world.feed(&seal.seal(DatagramKind::Votes, &body));
            let told = outputs.iter().filter(
                |it| matches!(it, Output::ForeignNode(it) if (it.from, it.reason) == (addr(), reason)),
            );
            assert_eq!(told.count(), count, "{reason}");
        }
        assert_eq!(world.node.traffic().dropped_for(reason), 2);
    }
    assert_eq!(world.node.unopened(world.now), Some(DropReason::Cluster));
}
