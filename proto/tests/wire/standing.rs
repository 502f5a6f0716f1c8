//! The replies of voters to `VoterQuery`.

use std::time::Duration;

use lockmesh_proto::{
    DatagramHead, Epoch, EpochClock, Message, Output, RefuseReason, Seal, Standing, VoterQuery,
    VoterReply, VoterSetTag, unpack_messages,
};

use crate::arbitrary::node_id;
use crate::node::{World, seal_of};

/// Returns the node's reply to a query of `b`.
fn reply(world: &mut World, ear: &mut Seal, voter_set: VoterSetTag, epoch: Epoch) -> VoterReply {
    let head = DatagramHead {
        voter_set,
        ..world.head()
    };
    let sent_at = world.now.mono;
    let query = Message::VoterQuery(VoterQuery { sent_at, epoch });
    let datagram = world.datagram(&head, &[query]);
    let replies = sent(ear, world.feed(&datagram));
    match replies.last() {
        Some((_, Message::VoterReply(reply))) => *reply,
        other => panic!("{other:?}"),
    }
}

fn sent(ear: &mut Seal, outputs: Vec<Output>) -> Vec<(String, Message)> {
    let mut sent = Vec::new();
    for output in outputs {
        if let Output::Transmit { bytes, .. } = output {
            let (_, body) = ear.open(&bytes).unwrap();
            let (head, messages) = unpack_messages(&body).unwrap();
            let to = head.to.to_string();
            sent.extend(messages.into_iter().map(|message| (to.clone(), message)));
        }
    }
    sent
}

#[test]
fn voter_reply_matches_answer_to_claim() {
    let (mut world, mut ear) = (World::new(&["a"]), seal_of(9));
    let voter_set = world.voter_set;
    let (near, far) = (
        EpochClock::first_of(world.now.wall_ms),
        EpochClock::first_of(world.now.wall_ms + 60_000),
    );
    let mut told = |voter_set, epoch| reply(&mut world, &mut ear, voter_set, epoch).refuses;
    assert_eq!(told(voter_set, near), None);
    assert_eq!(told(voter_set, far), Some(RefuseReason::Skew));
    let other = VoterSetTag {
        version: 2,
        ..voter_set
    };
    assert_eq!(told(other, near), Some(RefuseReason::VoterSet));
    let mut client = World::new(&["b"]);
    let voter_set = client.voter_set;
    let reply = reply(&mut client, &mut seal_of(9), voter_set, near);
    assert_eq!(reply.refuses, Some(RefuseReason::NotAVoter));
}

#[test]
fn voter_without_memory_reports_remaining_time() {
    // No peer has confirmed that the cluster is new.
    let (mut world, mut ear) = (World::new(&["a", "b", "c"]), seal_of(9));
    let (voter_set, near) = (world.voter_set, EpochClock::first_of(world.now.wall_ms));
    let new = reply(&mut world, &mut ear, voter_set, near);
    let quarantine = Some(RefuseReason::Quarantine);
    assert_eq!((new.refuses, new.remaining), (quarantine, Duration::ZERO));
    let Standing::Recovering { remaining } = world.node.standing_of(world.now, &node_id("a"))
    else {
        panic!("it has no memory")
    };
    assert_eq!(remaining, Duration::ZERO);
}

#[test]
fn voters_are_queried_until_they_answer() {
    let (mut world, mut ear) = (World::new(&["a", "b", "c"]), seal_of(9));
    let near = EpochClock::first_of(world.now.wall_ms);
    let voter_set = world.voter_set;
    reply(&mut world, &mut ear, voter_set, near);
    world.node.check_voters(world.now);
    // The address of `c` is unknown.
    let asked = sent(&mut ear, world.drain());
    let [(to, Message::VoterQuery(query))] = &asked[..] else {
        panic!("{asked:?}")
    };
    assert_eq!((to.as_str(), query.sent_at), ("b", world.now.mono));
    let standing = |world: &World| world.node.standing_of(world.now, &node_id("b"));
    assert_eq!(standing(&world), Standing::Silent);
    let answer = VoterReply {
        sent_at: query.sent_at,
        refuses: None,
        remaining: Duration::ZERO,
        wall_ms: world.now.wall_ms,
    };
    let head = world.head();
    let answer = world.datagram(&head, &[Message::VoterReply(answer)]);
    world.feed(&answer);
    assert_eq!(standing(&world), Standing::Votes);
    world.now.mono = world.now.mono.after(Duration::from_secs(1));
    world.node.check_voters(world.now);
    assert!(sent(&mut ear, world.drain()).is_empty(), "it votes");
    assert_eq!(standing(&world), Standing::Votes);
    for _ in 0..24 {
        world.now.mono = world.now.mono.after(Duration::from_millis(250));
        world.node.check_voters(world.now);
    }
    assert!(!sent(&mut ear, world.drain()).is_empty());
    assert_eq!(standing(&world), Standing::Silent);
}
