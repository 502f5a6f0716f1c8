//! The outputs, counters and state of a node.

use std::time::Duration;

use lockmesh_proto::testing::Disk;
use lockmesh_proto::{
    ClaimId, DATAGRAM_BYTES_MAX, DatagramHead, DatagramKind, DropReason, Epoch, Event, ExtendError,
    GOSSIP_BYTES_MAX, Incarnation, Instant, KEY_BYTES_MAX, Key, Message, Node, NodeId, Output,
    Peer, RecoveryQuery, RecoveryReply, Request, RequestError, View, unpack_messages,
};

use crate::arbitrary::node_id;
use crate::node::{
    INCARNATION, SEED, World, addr, claim_message, claim_of, key, release, seal_of, vote_for,
};

fn request(key: Key) -> Request {
    Request {
        key,
        ttl: Duration::from_secs(1),
        is_try: false,
        renews: true,
        outlives: false,
        deadline: None,
        is_once: false,
        note: None,
    }
}

fn numbered(n: usize) -> Key {
    Key::new(format!("key/{n}")).unwrap()
}

/// A gossip view of these nodes, all at one address.
fn view(nodes: &[&str]) -> View {
    let peer = Peer {
        addr: addr(),
        incarnation: Incarnation::new(1),
        alive: true,
        version: Some(lockmesh_proto::PROTOCOL_VERSION),
    };
    let peers = nodes.iter().map(|name| (node_id(name), peer));
    View {
        peers: peers.collect(),
    }
}

/// A node that is no voter and has the address of the only voter.
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
        assert_eq!(kind, DatagramKind::Votes);
        unpack_messages(&body).unwrap().1
    });
    bodies.flatten().collect()
}

#[test]
fn gossip_is_sealed_unless_it_is_too_large() {
    let mut world = World::new(&["a"]);
    let most = GOSSIP_BYTES_MAX - world.peer.overhead();
    for len in [0, 1_300, most] {
        world.node.send_gossip(addr(), &vec![7; len]);
        let outputs = world.drain();
        let sent = datagrams(&outputs);
        assert!(sent.len() == 1 && sent[0].len() <= GOSSIP_BYTES_MAX);
        let opened = seal_of(9).open(sent[0]);
        assert_eq!(opened, Ok((DatagramKind::Gossip, vec![7; len])));
    }
    assert!(world.node.traffic().dropped.is_empty());
    world.node.send_gossip(addr(), &vec![7; most + 1]);
    assert!(world.drain().is_empty());
    assert_eq!(world.node.traffic().dropped_for(DropReason::GossipFull), 1);
}

#[test]
fn failed_sends_are_counted() {
    let mut world = World::new(&["a"]);
    for _ in 0..2 {
        world.node.count_drop(DropReason::SendFailed);
    }
    assert_eq!(world.node.traffic().dropped_for(DropReason::SendFailed), 2);
}

/// At one of these lengths of keys each datagram is full to the byte.
#[test]
fn messages_for_one_node_share_datagrams() {
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

/// A claim that arrived after its release would be voted for in vain.
#[test]
fn claim_is_sent_before_its_release() {
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
fn only_accepted_requests_are_counted() {
    let mut world = client();
    for n in 0..8 {
        world.node.claim(world.now, request(numbered(n))).unwrap();
    }
    let refused = world.node.claim(world.now, request(key()));
    assert_eq!(refused, Err(RequestError::TooMany { max: 8 }));
    assert_eq!(world.node.counts().requests, 8);
}

#[test]
fn node_keeps_last_view_and_addresses() {
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
fn shutdown_releases_and_withdraws_all_claims() {
    let mut world = World::new(&["a"]);
    let other = claim_message(claim_of("b"));
    let head = world.head();
    let datagram = world.datagram(&head, &[other]);
    world.feed(&datagram);
    // It waits behind `b` for one key, and holds two more.
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
fn extension_is_reported_by_renewal_to_its_goal() {
    let mut world = World::new(&["a"]);
    let ticket = world.node.claim(world.now, request(key())).unwrap();
    world.drain();
    let extra = Duration::from_secs(20);
    let goal = world.node.extend(world.now, ticket, extra).unwrap();
    // 21 s less the drift of 0.5 %.
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

/// Sends a `RecoveryQuery` from `from`, and returns the reply.
fn reply_of(world: &mut World, from: &NodeId) -> RecoveryReply {
    let head = DatagramHead {
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

/// Section 6. They prove to the other node that the cluster existed before.
#[test]
fn votes_or_leases_at_first_contact_set_knew() {
    // A voter that never voted and holds nothing.
    let mut world = World::new(&["a"]);
    let memory = reply_of(&mut world, &node_id("c"));
    assert!(memory.votes && !memory.knew);
    // The voter has given its vote.
    let head = world.head();
    let datagram = world.datagram(&head, &[claim_message(claim_of("b"))]);
    world.feed(&datagram);
    assert!(reply_of(&mut world, &node_id("d")).knew);
    // The state at the first contact with that incarnation counts.
    assert!(!reply_of(&mut world, &node_id("c")).knew);

    // A node that is no voter requests a lock, and then holds it.
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

/// A voter of a new cluster of three, whose journal is written.
fn voter_with_journal() -> World {
    let mut world = World::with_disk(&["a", "b", "c"], &mut Disk::new(false));
    world.node.handle_view(world.now, &view(&["b", "c"]));
    for name in ["b", "c"] {
        let head = DatagramHead {
            from: node_id(name),
            ..world.head()
        };
        let nothing = RecoveryReply {
            nonce: SEED,
            highest: Epoch::new(0),
            votes: false,
            knew: false,
            seen: INCARNATION,
            before: Incarnation::new(0),
            remembers: false,
            quarantine: Duration::ZERO,
            skew: Duration::ZERO,
        };
        let reply = world.datagram(&head, &[Message::RecoveryReply(nothing)]);
        world.feed(&reply);
    }
    assert!(world.node.voter().unwrap().quarantine().is_none());
    world.node.persisted(world.now, u64::MAX);
    world
}

/// The other voters work while the record of the node's own vote is written.
#[test]
fn claim_leaves_before_the_own_vote_is_written() {
    let mut world = voter_with_journal();
    world.node.claim(world.now, request(key())).unwrap();
    let mut outputs = world.drain();
    let write = outputs.pop();
    assert!(matches!(write, Some(Output::Persist { .. })), "{write:?}");
    let claims = said(&outputs);
    let is_claim = |message: &Message| matches!(message, Message::Claim(_));
    assert!(
        claims.len() == 2 && claims.iter().all(is_claim),
        "{claims:?}"
    );
}

/// A voter that replied and then crashed would not know the incarnation that it replied to.
#[test]
fn heard_incarnation_is_written_before_the_reply_leaves() {
    let mut world = voter_with_journal();
    let query = Message::RecoveryQuery(RecoveryQuery { nonce: 1 });
    let head = DatagramHead {
        incarnation: Incarnation::new(INCARNATION.get() + 1),
        ..world.head()
    };
    let datagram = world.datagram(&head, &[query]);
    let mut outputs = world.feed(&datagram);
    let write = outputs.remove(0);
    assert!(matches!(write, Output::Persist { .. }), "{write:?}");
    assert_eq!(said(&outputs), []);
    world.node.persisted(world.now, u64::MAX);
    let replies = said(&world.drain());
    assert!(
        matches!(replies[..], [Message::RecoveryReply(_)]),
        "{replies:?}"
    );
}

/// Node `b` claims the key and releases it. Returns the number of writes of each.
fn claim_and_release(world: &mut World, seq: u64) -> [usize; 2] {
    let claim = ClaimId {
        seq,
        ..claim_of("b")
    };
    let mut claims = claim_message(claim.clone());
    if let Message::Claim(claim) = &mut claims {
        claim.epoch = Epoch::new(claim.epoch.get() + seq);
    }
    [claims, release(claim)].map(|message| {
        let head = world.head();
        let datagram = world.datagram(&head, &[message]);
        let outputs = world.feed(&datagram);
        world.node.persisted(world.now, u64::MAX);
        world.drain();
        writes(&outputs)
    })
}

fn writes(outputs: &[Output]) -> usize {
    let writes = outputs.iter();
    writes
        .filter(|output| matches!(output, Output::Persist { .. }))
        .count()
}

#[test]
fn end_of_vote_is_written_with_the_next_record_or_later() {
    let mut world = voter_with_journal();
    assert_eq!(claim_and_release(&mut world, 1), [1, 0]);
    assert_eq!(claim_and_release(&mut world, 2), [1, 0]);
    let due = world.now.mono.after(Duration::from_millis(100));
    assert!(world.node.next_timeout().is_some_and(|at| at <= due));
    world.now.mono = due;
    world.node.handle_timeout(world.now);
    assert_eq!(writes(&world.drain()), 1);
    assert_eq!(writes(&world.drain()), 0);
}

/// The next process would restore a vote that has ended.
#[test]
fn end_of_vote_is_written_at_once_by_a_leaving_voter() {
    let mut world = voter_with_journal();
    assert_eq!(claim_and_release(&mut world, 1), [1, 0]);
    world.node.hand_over(world.now, Duration::from_secs(1));
    assert_eq!(writes(&world.drain()), 1);
}
