//! What a whole node makes of messages about sessions.

use std::time::Duration;

use lockmesh_proto::digest::Digest;
use lockmesh_proto::message::{KeepAlive, Kept, Message, SessionId};
use lockmesh_proto::time::Instant;
use lockmesh_proto::voter_set::VoterSetTag;
use lockmesh_proto::wire::{DropReason, Head};

use crate::node::World;

const SESSION: SessionId = SessionId {
    nonce: 1,
    number: 1,
};

fn keep_alive() -> Message {
    let keep = KeepAlive {
        session: SESSION,
        sent_at: Instant::from_nanos(5),
        covered: Digest::default(),
    };
    Message::KeepAlive(Box::new(keep))
}

fn kept(ttl: Option<Duration>) -> Message {
    Message::Kept(Kept {
        session: SESSION,
        sent_at: Instant::from_nanos(5),
        ttl,
        lacks: 0,
    })
}

/// How many answers the node has counted that kept a session, and that ended one.
fn counted(world: &World) -> (u64, u64) {
    let traffic = world.node.traffic();
    (traffic.sessions_kept, traffic.sessions_over)
}

#[test]
fn answers_about_sessions_are_counted_by_whether_the_session_lives() {
    let mut world = World::new(&["b"]);
    let head = world.head();
    let second = Some(Duration::from_secs(1));
    let answers = [kept(second), kept(None), kept(second), kept(second)];
    let datagram = world.datagram(&head, &answers);
    world.feed(&datagram);
    assert_eq!(counted(&world), (3, 1));
}

#[test]
fn what_is_said_of_sessions_under_another_voter_set_is_dropped() {
    let mut world = World::new(&["a"]);
    let voter_set = VoterSetTag {
        digest: world.voter_set.digest ^ 1,
        ..world.voter_set
    };
    let head = Head {
        voter_set,
        ..world.head()
    };
    // Of which the node first tells that its voter set is another one.
    let datagram = world.datagram(&head, &[keep_alive()]);
    assert_eq!(world.feed(&datagram).len(), 1);
    for message in [keep_alive(), kept(Some(Duration::from_secs(1))), kept(None)] {
        world.drops_message(&head, message, DropReason::VoterSet);
    }
    assert_eq!(world.node.traffic().dropped_for(DropReason::VoterSet), 4);
    assert_eq!(counted(&world), (0, 0));
    // Under its own it is answered, and that it is its own is told.
    let head = world.head();
    let datagram = world.datagram(&head, &[keep_alive()]);
    assert_eq!(world.feed(&datagram).len(), 2);
}

#[test]
fn a_node_that_is_no_voter_keeps_no_session() {
    let mut world = World::new(&["b"]);
    let head = world.head();
    let datagram = world.datagram(&head, &[kept(None)]);
    world.feed(&datagram);
    world.drops_message(&head, keep_alive(), DropReason::NotAVoter);
}
