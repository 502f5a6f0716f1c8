//! A whole node that receives messages about sessions.

use std::time::Duration;

use lockmesh_proto::{
    DatagramHead, Digest, DropReason, Instant, KeepAlive, Kept, Message, SessionId, VoterSetTag,
};

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

/// Returns the counts of `Kept` that renewed a session, and of those that ended one.
fn counted(world: &World) -> (u64, u64) {
    let traffic = world.node.traffic();
    (traffic.sessions_kept, traffic.sessions_over)
}

#[test]
fn kept_is_counted_by_state_of_session() {
    let mut world = World::new(&["b"]);
    let head = world.head();
    let second = Some(Duration::from_secs(1));
    let answers = [kept(second), kept(None), kept(second), kept(second)];
    let datagram = world.datagram(&head, &answers);
    world.feed(&datagram);
    assert_eq!(counted(&world), (3, 1));
}

#[test]
fn session_messages_under_another_set_are_dropped() {
    let mut world = World::new(&["a"]);
    let voter_set = VoterSetTag {
        digest: world.voter_set.digest ^ 1,
        ..world.voter_set
    };
    let head = DatagramHead {
        voter_set,
        ..world.head()
    };
    // The node first replies with its own voter set.
    let datagram = world.datagram(&head, &[keep_alive()]);
    assert_eq!(world.feed(&datagram).len(), 1);
    for message in [keep_alive(), kept(Some(Duration::from_secs(1))), kept(None)] {
        world.drops_message(&head, message, DropReason::VoterSet);
    }
    assert_eq!(world.node.traffic().dropped_for(DropReason::VoterSet), 4);
    assert_eq!(counted(&world), (0, 0));
    // Under its own voter set it answers, and reports the match.
    let head = world.head();
    let datagram = world.datagram(&head, &[keep_alive()]);
    assert_eq!(world.feed(&datagram).len(), 2);
}

#[test]
fn non_voter_keeps_no_session() {
    let mut world = World::new(&["b"]);
    let head = world.head();
    let datagram = world.datagram(&head, &[kept(None)]);
    world.feed(&datagram);
    world.drops_message(&head, keep_alive(), DropReason::NotAVoter);
}
