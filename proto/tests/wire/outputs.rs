//! What a node hands out, counts and tells of itself.

use std::time::Duration;

use lockmesh_proto::claimant::{ExtendError, Request, RequestError};
use lockmesh_proto::event::Event;
use lockmesh_proto::id::{Incarnation, KEY_BYTES_MAX, Key, NodeId};
use lockmesh_proto::message::{Message, RecoveryQuery, RecoveryReply};
use lockmesh_proto::node::{Node, Output};
use lockmesh_proto::time::Instant;
use lockmesh_proto::view::{Peer, View};
use lockmesh_proto::wire::codec::unpack;
use lockmesh_proto::wire::{DATAGRAM_BYTES_MAX, DropReason, GOSSIP_BYTES_MAX, Head, Kind};

use crate::arbitrary::node_id;
use crate::node::{World, addr, claim_message, claim_of, key, seal_of, vote_for};

fn request(key: Key) -> Request {
    Request {
        key,
        ttl: Duration::from_secs(1),
        is_try: false,
        renews: true,
        outlives: false,
        deadline: None,
    }
}

fn numbered(n: usize) -> Key {
    Key::new(format!("key/{n}")).unwrap()
}

/// Gossip that knows these nodes, all at one address.
fn view(nodes: &[&str]) -> View {
    let peer = Peer {
        addr: addr(),
        incarnation: Incarnation::new(1),
        alive: true,
    };
    let peers = nodes.iter().map(|name| (node_id(name), peer));
    View {
        peers: peers.collect(),
    }
}

/// A node that is no voter, with the address of the only one.
fn client() -> World {
    let mut world = World::new(&["b"]);
    world.node.handle_view(world.now, &view(&["b"]));
    world.drain();
    world
}

fn datagrams(outputs: &[Output]) -> Vec<&[u8]> {
    let bytes = outputs.iter().map(|output| match output {
        Output::Transmit { to, bytes } if *to == addr() => &bytes[..],
        output => panic!("{output:?}"),
    });
    bytes.collect()
}

/// The messages in these datagrams.
pub(crate) fn said(outputs: &[Output]) -> Vec<Message> {
    let mut ear = seal_of(9);
    let bodies = datagrams(outputs).into_iter().map(|bytes| {
        let (kind, body) = ear.open(bytes).unwrap();
        assert_eq!(kind, Kind::Votes);
        unpack(&body).unwrap().1
    });
    bodies.flatten().collect()
}

#[test]
fn gossip_is_sealed_and_handed_out_unless_no_datagram_can_carry_it() {
    let mut world = World::new(&["a"]);
    let most = GOSSIP_BYTES_MAX - world.peer.overhead();
    for len in [0, 1_300, most] {
        world.node.send_gossip(addr(), &vec![7; len]);
        let outputs = world.drain();
        let sent = datagrams(&outputs);
        assert!(sent.len() == 1 && sent[0].len() <= GOSSIP_BYTES_MAX);
        let opened = seal_of(9).open(sent[0]);
        assert_eq!(opened, Ok((Kind::Gossip, vec![7; len])));
    }
    assert!(world.node.traffic().dropped.is_empty());
    world.node.send_gossip(addr(), &vec![7; most + 1]);
    assert!(world.drain().is_empty());
    assert_eq!(world.node.traffic().dropped_for(DropReason::GossipFull), 1);
}

#[test]
fn what_the_driver_could_not_deliver_is_counted() {
    let mut world = World::new(&["a"]);
    for _ in 0..2 {
        world.node.count_drop(DropReason::SendFailed);
    }
    assert_eq!(world.node.traffic().dropped_for(DropReason::SendFailed), 2);
}

/// Whatever the length of the keys: at one of these lengths each datagram is full to the byte.
#[test]
fn messages_for_one_node_share_datagrams_that_pass_any_path_and_all_are_counted() {
    for len in 200..=KEY_BYTES_MAX {
        let mut world = client();
        let before = world.node.traffic().clone();
        for n in 0..8 {
            let key = Key::new(format!("{n:0>len$}")).unwrap();
            world.node.claim(world.now, request(key)).unwrap();
        }
        let outputs = world.drain();
        let sent = datagrams(&outputs);
        assert!((2..=3).contains(&sent.len()));
        assert!(sent.iter().all(|bytes| bytes.len() <= DATAGRAM_BYTES_MAX));
        assert_eq!(said(&outputs).len(), 8);
        let traffic = world.node.traffic();
        let out = traffic.datagrams_out - before.datagrams_out;
        assert_eq!(out, sent.len() as u64);
        assert_eq!(traffic.messages_out - before.messages_out, 8);
    }
}

/// A claim that came after its release would be voted for in vain.
#[test]
fn a_claim_and_its_release_leave_in_their_order() {
    let mut world = client();
    let tickets: Vec<_> = (0..8)
        .map(|n| world.node.claim(world.now, request(numbered(n))).unwrap())
        .collect();
    for ticket in tickets {
        world.node.release(world.now, ticket);
    }
    let outputs = world.drain();
    for n in 0..8 {
        let of_key = said(&outputs)
            .into_iter()
            .filter_map(|message| match message {
                Message::Claim(claim) if claim.key == numbered(n) => Some("claim"),
                Message::Release(release) if release.key == numbered(n) => Some("release"),
                _ => None,
            });
        assert_eq!(of_key.collect::<Vec<_>>(), ["claim", "release"]);
    }
}

#[test]
fn requests_that_were_begun_are_counted_and_those_refused_are_not() {
    let mut world = client();
    for n in 0..8 {
        world.node.claim(world.now, request(numbered(n))).unwrap();
    }
    let refused = world.node.claim(world.now, request(key()));
    assert_eq!(refused, Err(RequestError::TooMany { max: 8 }));
    assert_eq!(world.node.counts().requests, 8);
}

#[test]
fn a_node_knows_what_gossip_last_said_and_where_others_are() {
    let mut world = World::new(&["a", "b"]);
    let seen = view(&["b", "c"]);
    world.node.handle_view(world.now, &seen);
    assert_eq!(*world.node.view(), seen);
    assert_eq!(world.node.address_of(&node_id("b")), Some(addr()));
    assert_eq!(world.node.address_of(&node_id("c")), Some(addr()));
    world.node.handle_view(world.now, &View::default());
    assert_eq!(*world.node.view(), View::default());
    assert_eq!(world.node.address_of(&node_id("c")), None);
}

#[test]
fn a_node_that_leaves_releases_and_withdraws_all_that_it_has() {
    let mut world = World::new(&["a"]);
    let other = claim_message(claim_of("b"));
    let head = world.head();
    let datagram = world.datagram(&head, &[other]);
    world.feed(&datagram);
    // It waits behind the other for one key, and holds two more.
    for name in ["k", "l", "m"] {
        let key = Key::new(name).unwrap();
        world.node.claim(world.now, request(key)).unwrap();
    }
    world.drain();
    let voter = |node: &Node| {
        let voter = node.voter().unwrap();
        (voter.slots(), voter.waiters())
    };
    assert_eq!(voter(&world.node), (3, 1));
    world.node.release_all(world.now);
    world.drain();
    assert!(world.node.claimant().is_empty());
    assert_eq!(voter(&world.node), (1, 0));
}

#[test]
fn an_extension_is_told_by_the_renewal_that_reaches_what_was_answered() {
    let mut world = World::new(&["a"]);
    let ticket = world.node.claim(world.now, request(key())).unwrap();
    world.drain();
    let extra = Duration::from_secs(20);
    let goal = world.node.extend(world.now, ticket, extra).unwrap();
    // 21 seconds less the drift, five parts in a thousand.
    let least = world.now.mono.after(Duration::from_millis(20_890));
    assert!(goal >= least, "{goal}");
    let renewed: Vec<Instant> = world.drain().iter().filter_map(renewal).collect();
    assert_eq!(renewed.last(), Some(&goal));
    assert_eq!(
        world.node.claimant().valid_until(world.now, ticket),
        Some(goal)
    );
    world.node.release(world.now, ticket);
    let over = world.node.extend(world.now, ticket, extra);
    assert_eq!(over, Err(ExtendError::NotHeld));
}

fn renewal(output: &Output) -> Option<Instant> {
    match output {
        Output::Event(Event::Renewed { valid_until, .. }) => Some(*valid_until),
        _ => None,
    }
}

/// Asks as a voter that has lost its memory does, under a name that was not heard before.
fn reply_of(world: &mut World, from: &NodeId) -> RecoveryReply {
    let head = Head {
        from: from.clone(),
        ..world.head()
    };
    let datagram = world.datagram(&head, &[Message::RecoveryQuery(RecoveryQuery { nonce: 5 })]);
    let outputs = world.feed(&datagram);
    match &said(&outputs)[..] {
        [Message::RecoveryReply(memory)] => *memory,
        other => panic!("{other:?}"),
    }
}

/// Section 6: what it has then proves to the other that the cluster was alive before.
#[test]
fn a_node_that_votes_or_holds_when_it_first_hears_of_another_knew_of_an_incarnation_before() {
    // A voter that never voted, and holds nothing.
    let mut world = World::new(&["a"]);
    let memory = reply_of(&mut world, &node_id("c"));
    assert!(memory.votes && !memory.knew);
    // Its vote is out.
    let head = world.head();
    let datagram = world.datagram(&head, &[claim_message(claim_of("b"))]);
    world.feed(&datagram);
    assert!(reply_of(&mut world, &node_id("d")).knew);
    // What counts is what it knew when it first heard of that incarnation.
    assert!(!reply_of(&mut world, &node_id("c")).knew);

    // No voter: it asks for a lock, and then holds it.
    let mut world = client();
    let head = world.head();
    let asked = world.node.claim(world.now, request(key())).unwrap();
    let vote = match &said(&world.drain())[..] {
        [Message::Claim(claim)] => vote_for(claim),
        other => panic!("{other:?}"),
    };
    assert!(!reply_of(&mut world, &node_id("c")).knew);
    let datagram = world.datagram(&head, &[vote]);
    world.feed(&datagram);
    let held = world.node.claimant().valid_until(world.now, asked);
    assert!(held.is_some());
    let memory = reply_of(&mut world, &node_id("d"));
    assert!(memory.knew && !memory.votes);
}
