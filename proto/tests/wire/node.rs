//! A whole node that receives misaddressed, forged and unusual datagrams.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lockmesh_proto::testing::Disk;
use lockmesh_proto::{
    Claim, ClaimId, ClusterSecret, DATAGRAM_BYTES_MAX, DatagramHead, DatagramKind, DropReason,
    Epoch, EpochClock, HolderGranted, Incarnation, Inspect, Instant, Key, Message, Node,
    NodeConfig, Now, Outdated, Output, Refuse, RefuseReason, Release, Request, Seal, Stale, Start,
    Timing, Traffic, Vote, VoterLimits, VoterSet, VoterSetTag, Wait, pack_messages,
};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::arbitrary::{any_message_about, node_id};

pub(crate) const INCARNATION: Incarnation = Incarnation::new(3);
/// The seed of the node, and its first nonce.
pub(crate) const SEED: u64 = 7;
const SLOTS_MAX: usize = 4;
const WAITERS_MAX: usize = 3;
/// More outputs than one datagram may cause.
const OUTPUTS_MAX: usize = 10_000;

/// The node `a` under test, and the seal of a peer that sends to it.
pub(crate) struct World {
    pub(crate) node: Node,
    pub(crate) now: Now,
    pub(crate) peer: Seal,
    pub(crate) voter_set: VoterSetTag,
}

pub(crate) fn seal_of(boot: u8) -> Seal {
    Seal::sealed(ClusterSecret::from_bytes([1; 32]).unwrap(), [boot; 16])
}

pub(crate) fn addr() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7_000))
}

pub(crate) fn key() -> Key {
    Key::new("k").unwrap()
}

pub(crate) fn claim_of(node: &str) -> ClaimId {
    ClaimId {
        node: node_id(node),
        incarnation: INCARNATION,
        seq: 1,
    }
}

impl World {
    /// A node in a cluster of these voters.
    pub(crate) fn new(voters: &[&str]) -> Self {
        Self::start(voters, Node::new)
    }

    /// A node in a cluster of these voters that keeps its journal on a disk.
    pub(crate) fn with_disk(voters: &[&str], disk: &mut Disk) -> Self {
        Self::start(voters, |now, config| {
            disk.start(now, config, "cluster").unwrap().0
        })
    }

    fn start(voters: &[&str], start: impl FnOnce(Now, NodeConfig) -> Node) -> Self {
        let members = voters.iter().map(|name| node_id(name)).collect();
        let voter_set = Arc::new(VoterSet::new(1, members, voters.len(), Timing::lan()).unwrap());
        let tag = voter_set.tag();
        let now = Now {
            mono: Instant::from_nanos(1_000_000_000),
            wall_ms: 1_700_000_000_000,
        };
        let config = NodeConfig {
            id: node_id("a"),
            incarnation: INCARNATION,
            voter_set,
            start: Start::NewCluster,
            limits: VoterLimits {
                slots_max: SLOTS_MAX,
                waiters_max: WAITERS_MAX,
                fence_buckets: 16,
                handover_votes_max: 16,
                marks_max: 8,
            },
            max_claims: 8,
            renew_interval: None,
            seed: SEED,
            seal: seal_of(1),
        };
        let mut world = Self {
            node: start(now, config),
            now,
            peer: seal_of(2),
            voter_set: tag,
        };
        world.drain();
        world
    }

    pub(crate) fn head(&self) -> DatagramHead {
        DatagramHead {
            from: node_id("b"),
            incarnation: INCARNATION,
            to: node_id("a"),
            voter_set: self.voter_set,
        }
    }

    pub(crate) fn datagram(&mut self, head: &DatagramHead, messages: &[Message]) -> Vec<u8> {
        let packed = pack_messages(head, messages, DATAGRAM_BYTES_MAX - self.peer.overhead());
        assert_eq!((packed.bodies.len(), packed.too_large), (1, 0));
        self.peer.seal(DatagramKind::Votes, &packed.bodies[0].0)
    }

    pub(crate) fn drain(&mut self) -> Vec<Output> {
        let mut outputs = Vec::new();
        loop {
            match self.node.poll_output() {
                Output::Timeout(_) => return outputs,
                output => outputs.push(output),
            }
            assert!(outputs.len() < OUTPUTS_MAX, "a flood of outputs");
        }
    }

    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Vec<Output> {
        self.node.handle_datagram(self.now, addr(), bytes);
        self.drain()
    }

    /// Feeds bytes and asserts that they are dropped once, for this reason, without a reply.
    #[track_caller]
    fn drops(&mut self, bytes: &[u8], reason: DropReason) {
        let mut expected = self.node.traffic().dropped.clone();
        *expected.entry(reason).or_default() += 1;
        let mut outputs = self.feed(bytes);
        outputs.retain(|output| !matches!(output, Output::ForeignNode(_)));
        assert!(outputs.is_empty(), "{outputs:?}");
        assert_eq!(self.node.traffic().dropped, expected);
    }

    #[track_caller]
    pub(crate) fn drops_message(
        &mut self,
        head: &DatagramHead,
        message: Message,
        reason: DropReason,
    ) {
        let datagram = self.datagram(head, &[message]);
        self.drops(&datagram, reason);
    }

    /// Runs the timers that are due. Each must set a later one.
    fn run_timers(&mut self) {
        for _ in 0..100 {
            match self.node.poll_output() {
                Output::Timeout(Some(at)) if at <= self.now.mono => {
                    self.node.handle_timeout(self.now);
                }
                Output::Timeout(_) => return,
                _ => {}
            }
            self.drain();
        }
        panic!("a timer that is always due");
    }

    pub(crate) fn pass(&mut self, span: Duration) {
        self.now.mono = self.now.mono.after(span);
        self.now.wall_ms += u64::try_from(span.as_millis()).unwrap();
        self.run_timers();
    }
}

fn inspect() -> Message {
    Message::Inspect(Inspect {
        nonce: 1,
        key: key(),
    })
}

pub(crate) fn claim_message(claim: ClaimId) -> Message {
    Message::Claim(Claim {
        key: key(),
        claim,
        epoch: EpochClock::first_of(1_700_000_000_000),
        ttl: Duration::from_secs(1),
        sent_at: Instant::from_nanos(5),
        votes_valid_since: Instant::ZERO,
        granted: false,
        is_try: false,
        join: false,
        outlives: false,
    })
}

pub(crate) fn release(claim: ClaimId) -> Message {
    Message::Release(Release {
        key: key(),
        claim,
        granted: true,
    })
}

/// A `Vote`, a `Wait` and a `Stale` for this claim.
pub(crate) fn answers(claim: &ClaimId) -> [Message; 3] {
    let (claim, ttl) = (claim.clone(), Duration::from_secs(9));
    let sent_at = Instant::from_nanos(5);
    [
        Message::Vote(Vote {
            key: key(),
            claim: claim.clone(),
            sent_at,
            ttl,
            yield_requested: false,
            probe: false,
            covered: None,
        }),
        Message::Wait(Wait {
            key: key(),
            claim: claim.clone(),
            holder: claim_of("c"),
            epoch: Epoch::new(5),
            granted: HolderGranted::Yes,
            ahead: 0,
        }),
        Message::Stale(Stale {
            claim,
            fence: Epoch::new(5),
        }),
    ]
}

/// A vote for this claim.
pub(crate) fn vote_for(claim: &Claim) -> Message {
    let [Message::Vote(vote), ..] = answers(&claim.claim) else {
        panic!("a vote comes first");
    };
    let sent_at = claim.sent_at;
    Message::Vote(Vote { sent_at, ..vote })
}

#[test]
fn node_accepts_intact_datagram_addressed_to_it() {
    let mut world = World::new(&["a"]);
    let head = world.head();
    let datagram = world.datagram(&head, &[inspect(), claim_message(claim_of("b"))]);
    let outputs = world.feed(&datagram);
    assert!(
        matches!(&outputs[..], [Output::Transmit { .. }]),
        "{outputs:?}"
    );
    assert!(world.node.traffic().dropped.is_empty());
    assert_eq!(world.node.traffic().messages_in, 2);
    let gossip = world.peer.seal(DatagramKind::Gossip, b"gossip");
    let outputs = world.feed(&gossip);
    assert!(matches!(&outputs[..], [Output::Gossip { bytes, .. }] if bytes == b"gossip"));
}

#[test]
fn node_silently_drops_datagrams_that_do_not_open() {
    let mut world = World::new(&["a"]);
    let head = world.head();
    let datagram = world.datagram(&head, &[inspect()]);
    let overhead = world.peer.overhead();
    for len in 0..datagram.len() {
        let reason = if len < overhead {
            DropReason::Short
        } else {
            DropReason::Forged
        };
        world.drops(&datagram[..len], reason);
    }
    for bit in 0..datagram.len() * 8 {
        let mut flipped = datagram.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let reason = match bit {
            8 => DropReason::Plaintext,
            0..16 => DropReason::Version,
            16..48 => DropReason::Key,
            48..80 => DropReason::Cluster,
            _ => DropReason::Forged,
        };
        world.drops(&flipped, reason);
    }
    assert_eq!(world.node.traffic().datagrams_in, 0);
    assert_eq!(world.feed(&datagram).len(), 1);
    world.drops(&datagram, DropReason::Replayed);
    let body = pack_messages(&head, &[inspect()], DATAGRAM_BYTES_MAX)
        .bodies
        .remove(0)
        .0;
    let plain = Seal::insecure_plaintext().seal(DatagramKind::Votes, &body);
    world.drops(&plain, DropReason::Plaintext);
    let mut foreign_node = Seal::sealed(ClusterSecret::from_bytes([2; 32]).unwrap(), [3; 16]);
    world.drops(
        &foreign_node.seal(DatagramKind::Votes, &body),
        DropReason::Key,
    );
    world.drops(
        &seal_of(1).seal(DatagramKind::Votes, &body),
        DropReason::FromMyself,
    );
    let cut = world
        .peer
        .seal(DatagramKind::Votes, &body[..body.len() - 1]);
    world.drops(&cut, DropReason::Undecodable);
    assert_eq!(world.node.traffic().datagrams_in, 1);
}

#[test]
fn node_drops_misaddressed_and_own_datagrams() {
    let mut world = World::new(&["a"]);
    let head = world.head();
    let for_c = DatagramHead {
        to: node_id("c"),
        ..head.clone()
    };
    world.drops_message(&for_c, inspect(), DropReason::Misaddressed);
    let from_a = DatagramHead {
        from: node_id("a"),
        ..head
    };
    world.drops_message(&from_a, inspect(), DropReason::FromMyself);
    assert_eq!(world.node.address_of(&node_id("b")), None);
}

#[test]
fn messages_about_claims_of_others_are_dropped() {
    let mut world = World::new(&["a"]);
    let head = world.head();
    for other in ["a", "c"] {
        for message in [claim_message(claim_of(other)), release(claim_of(other))] {
            world.drops_message(&head, message, DropReason::NotTheirs);
        }
    }
    let mut of_another_incarnation = claim_of("b");
    of_another_incarnation.incarnation = INCARNATION.next();
    world.drops_message(
        &head,
        claim_message(of_another_incarnation),
        DropReason::NotTheirs,
    );
    let refuse = Refuse {
        claim: claim_of("c"),
        reason: RefuseReason::Limit,
    };
    world.drops_message(&head, Message::Refuse(refuse), DropReason::NotTheirs);
    for other in ["b", "c"] {
        for message in answers(&claim_of(other)) {
            world.drops_message(&head, message, DropReason::NotTheirs);
        }
    }
    assert_eq!(world.node.voter().unwrap().slots(), 0);
}

#[test]
fn dropped_message_leaves_others_in_datagram() {
    let mut world = World::new(&["a"]);
    let head = world.head();
    let messages = [
        release(claim_of("c")),
        inspect(),
        claim_message(claim_of("c")),
    ];
    let datagram = world.datagram(&head, &messages);
    assert_eq!(world.feed(&datagram).len(), 1);
    assert_eq!(world.node.traffic().dropped_for(DropReason::NotTheirs), 2);
}

#[test]
fn claim_from_another_voter_set_is_refused() {
    let mut world = World::new(&["a"]);
    let voter_set = VoterSetTag {
        version: 2,
        ..world.voter_set
    };
    let head = DatagramHead {
        voter_set,
        ..world.head()
    };
    let datagram = world.datagram(&head, &[claim_message(claim_of("b"))]);
    let outputs = world.feed(&datagram);
    assert_eq!(outputs.len(), 1, "{outputs:?}");
    assert_eq!(world.node.voter().unwrap().slots(), 0);
}

#[test]
fn non_voter_drops_messages_for_voters() {
    let mut world = World::new(&["b"]);
    let head = world.head();
    let greeting = world.datagram(&head, &[Message::Outdated(Outdated { seen: INCARNATION })]);
    assert_eq!(world.feed(&greeting).len(), 1);
    world.drops_message(&head, inspect(), DropReason::NotAVoter);
    world.drops_message(&head, release(claim_of("b")), DropReason::NotAVoter);
}

/// An announcement has no more bytes than the datagram that triggered it. A node without a vote
/// receives none.
#[test]
fn node_announces_itself_once_per_member_incarnation() {
    let mut world = World::new(&["a", "b"]);
    let hello = |world: &mut World, from: &str, incarnation: u64| {
        let head = DatagramHead {
            from: node_id(from),
            incarnation: Incarnation::new(incarnation),
            ..world.head()
        };
        let body = pack_messages(&head, &[], DATAGRAM_BYTES_MAX)
            .bodies
            .remove(0)
            .0;
        let bytes = world.peer.seal(DatagramKind::Votes, &body);
        (world.feed(&bytes), bytes.len())
    };
    for incarnation in [10, 11, 12] {
        let (outputs, len) = hello(&mut world, "b", incarnation);
        assert!(
            matches!(&outputs[..], [Output::Transmit { to, bytes }]
                if *to == addr() && bytes.len() <= len),
            "{outputs:?}"
        );
        assert!(hello(&mut world, "b", incarnation).0.is_empty());
        assert!(hello(&mut world, "foreign_node", incarnation).0.is_empty());
    }
}

#[test]
fn earlier_incarnation_receives_outdated_only() {
    let mut world = World::new(&["a"]);
    let now = world.head();
    let greeting = Message::Outdated(Outdated {
        seen: Incarnation::new(0),
    });
    let datagram = world.datagram(&now, &[greeting]);
    assert!(world.feed(&datagram).is_empty());
    let before = DatagramHead {
        incarnation: Incarnation::new(2),
        ..now
    };
    let mut claim = claim_of("b");
    claim.incarnation = before.incarnation;
    let datagram = world.datagram(&before, &[claim_message(claim)]);
    assert!(matches!(
        &world.feed(&datagram)[..],
        [Output::Transmit { .. }]
    ));
    assert_eq!(
        world
            .node
            .traffic()
            .dropped_for(DropReason::OutdatedIncarnation),
        1
    );
    assert_eq!(world.node.voter().unwrap().slots(), 0);
}

/// Locks of the other incarnation may outlive it. A voter that receives this incarnation's name
/// ends those that do not (rule 7).
#[test]
fn vote_for_another_incarnation_gets_own_name() {
    let mut world = World::new(&["a", "b"]);
    let head = world.head();
    let greeting = pack_messages(&head, &[], DATAGRAM_BYTES_MAX)
        .bodies
        .remove(0)
        .0;
    let greeting = world.peer.seal(DatagramKind::Votes, &greeting);
    world.feed(&greeting);
    for incarnation in [INCARNATION.get() - 1, INCARNATION.get() + 1] {
        let vote = Message::Vote(Vote {
            key: key(),
            claim: ClaimId {
                incarnation: Incarnation::new(incarnation),
                ..claim_of("a")
            },
            sent_at: Instant::from_nanos(5),
            ttl: Duration::from_secs(1),
            yield_requested: false,
            probe: true,
            covered: None,
        });
        let datagram = world.datagram(&head, &[vote]);
        let outputs = world.feed(&datagram);
        assert!(
            matches!(&outputs[..], [Output::Transmit { bytes, .. }]
                if bytes.len() <= greeting.len()),
            "{outputs:?}"
        );
    }
}

/// Claim ids from small ranges, so that some are those of real claims.
pub(crate) fn few_claim_ids() -> impl Strategy<Value = ClaimId> + Clone {
    ("[aaabc]", 2..5_u64, 0..5_u64).prop_map(|(node, incarnation, seq)| ClaimId {
        node: node_id(&node),
        incarnation: Incarnation::new(incarnation),
        seq,
    })
}

fn total_dropped(traffic: &Traffic) -> u64 {
    traffic.dropped.values().sum()
}

proptest! {
    #[test]
    fn random_bytes_cause_no_reply(datagrams in vec(vec(any::<u8>(), 0..300), 1..20)) {
        let mut world = World::new(&["a"]);
        for (n, bytes) in datagrams.iter().enumerate() {
            let told = |it: &Output| matches!(it, Output::ForeignNode(_));
            prop_assert!(world.feed(bytes).iter().all(told));
            prop_assert_eq!(total_dropped(world.node.traffic()), n as u64 + 1);
        }
    }

    /// The senders are members that have the secret but misbehave.
    #[test]
    fn arbitrary_messages_keep_node_within_limits(
        is_alone in any::<bool>(),
        steps in vec(
            (
                ("[bcd]", 2..5_u64, any::<prop::sample::Index>()),
                vec(any_message_about(few_claim_ids().boxed()), 1..4),
                0..3_000_u64,
            ),
            1..40,
        ),
    ) {
        let mut world = World::new(if is_alone { &["a"] } else { &["a", "b", "c"] });
        world.pass(Duration::from_secs(40));
        for ((from, incarnation, at), messages, millis) in steps {
            let head = DatagramHead {
                from: node_id(&from),
                incarnation: Incarnation::new(incarnation),
                voter_set: if at.index(8) == 0 { VoterSetTag::default() } else { world.voter_set },
                ..world.head()
            };
            let request = Request {
                key: Key::new(["k", "l"][at.index(2)]).unwrap(),
                ttl: Duration::from_secs(1),
                is_try: at.index(3) == 0,
                renews: at.index(5) == 0,
                outlives: at.index(7) == 0,
                deadline: None,
                is_once: false,
                note: None,
            };
            // The node refuses requests above `max_claims`.
            let _ = world.node.claim(world.now, request);
            world.drain();
            let budget = DATAGRAM_BYTES_MAX - world.peer.overhead();
            for (body, _) in pack_messages(&head, &messages, budget).bodies {
                let datagram = world.peer.seal(DatagramKind::Votes, &body);
                world.feed(&datagram);
            }
            world.pass(Duration::from_millis(millis));
            let voter = world.node.voter().unwrap();
            prop_assert!(voter.slots() <= SLOTS_MAX);
            prop_assert!(voter.waiters() <= SLOTS_MAX * WAITERS_MAX);
        }
    }
}
