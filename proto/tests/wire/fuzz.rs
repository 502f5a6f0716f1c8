//! A fuzz target: whatever arrives at the port of a node neither panics, nor floods, nor grows
//! memory without bound.
//!
//! ```sh
//! cargo test --release -p lockmesh-proto --test wire fuzz               # 1,000 random inputs
//! BOLERO_RANDOM_ITERATIONS=1000000 cargo test --release -p lockmesh-proto --test wire fuzz
//! cargo bolero test -p lockmesh-proto --test wire fuzz::datagrams       # guided, with cargo-bolero
//! ```
//!
//! An input is a list of steps: datagrams, spans of time, and requests of the node itself. Random
//! bytes are seldom a message, so that most datagrams are valid ones with some bytes changed.

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use lockmesh_proto::{
    DATAGRAM_BYTES_MAX, DatagramHead, DatagramKind, Incarnation, Instant, Key, Node, NodeConfig,
    NodeId, Now, Output, Request, Seal, Start, Timing, VoterLimits, VoterSet, pack_messages,
};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;

use crate::arbitrary::any_message_about;
use crate::node::few_claim_ids;

/// The most outputs that one step may cause.
const OUTPUTS_MAX: usize = 10_000;
/// The most entries that all maps and queues of the node may have: small limits are set below.
const ENTRIES_MAX: usize = 2_000;

static VOTER_SET: LazyLock<Arc<VoterSet>> = LazyLock::new(|| {
    let members = ["a", "b", "c"].map(name).to_vec();
    Arc::new(VoterSet::new(1, members, 3, Timing::lan()).expect("three voters"))
});

/// How many valid bodies of datagrams there are.
const BODIES: usize = 256;

/// Valid bodies of datagrams to `a`, with one to three messages each.
static VALID: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let mut runner = TestRunner::deterministic();
    let message = any_message_about(few_claim_ids().boxed());
    let mut draw = || {
        let tree = message.new_tree(&mut runner);
        tree.expect("a message can be drawn").current()
    };
    let body = |number: usize| {
        let head = DatagramHead {
            from: name(["b", "c", "d"][number % 3]),
            incarnation: Incarnation::new(1 + number as u64 % 5),
            to: name("a"),
            voter_set: VOTER_SET.tag(),
        };
        let messages: Vec<_> = (0..=number % 3).map(|_| draw()).collect();
        pack_messages(&head, &messages, DATAGRAM_BYTES_MAX)
            .bodies
            .remove(0)
            .0
    };
    (0..BODIES).map(body).collect()
});

fn name(name: &str) -> NodeId {
    NodeId::new(name).expect("a short name")
}

/// The node `a`, in plaintext, so that what follows a head is decoded.
struct World {
    node: Node,
    now: Now,
    peer: Seal,
}

impl World {
    fn new(start: Start) -> Self {
        let now = Now {
            mono: Instant::from_nanos(1_000_000_000),
            wall_ms: 1_700_000_000_000,
        };
        let config = NodeConfig {
            id: name("a"),
            incarnation: Incarnation::new(3),
            voter_set: VOTER_SET.clone(),
            start,
            limits: VoterLimits {
                slots_max: 8,
                waiters_max: 4,
                fence_buckets: 16,
                handover_votes_max: 16,
                marks_max: 8,
            },
            max_claims: 8,
            renew_interval: None,
            seed: 7,
            seal: Seal::insecure_plaintext(),
        };
        let mut world = Self {
            node: Node::new(now, config),
            now,
            peer: Seal::insecure_plaintext(),
        };
        world.drain();
        world
    }

    fn drain(&mut self) {
        for outputs in 0.. {
            assert!(outputs < OUTPUTS_MAX, "a flood of outputs");
            if let Output::Timeout(_) = self.node.poll_output() {
                break;
            }
        }
        let entries: usize = self.node.sizes().iter().map(|(_, len)| len).sum();
        assert!(entries < ENTRIES_MAX, "{:?}", self.node.sizes());
    }

    /// Takes one step by the first byte, and returns what is left of the input.
    fn step<'a>(&mut self, input: &'a [u8]) -> Option<&'a [u8]> {
        let ([op, argument], rest) = input.split_first_chunk()?;
        let (argument, number) = (usize::from(*argument), u64::from(*argument));
        let (bytes, after) = rest.split_at(argument.min(rest.len()));
        let from = SocketAddr::from(([127, 0, 0, op % 5], 7_000));
        match op % 8 {
            // Any datagram.
            0 => self.node.handle_datagram(self.now, from, bytes),
            // A valid body with some bytes changed: pairs of a place and a byte.
            1..=3 => {
                let mut body = VALID[argument % BODIES].clone();
                let changes = usize::from(op / 8 % 4) * 2;
                let (changes, after) = rest.split_at(changes.min(rest.len()));
                for change in changes.chunks_exact(2) {
                    let place = usize::from(change[0]) % body.len();
                    body[place] = change[1];
                }
                let datagram = self.peer.seal(DatagramKind::Votes, &body);
                self.node.handle_datagram(self.now, from, &datagram);
                self.drain();
                return Some(after);
            }
            // A question or an answer of an observer, or gossip.
            4 => {
                let kinds = [
                    DatagramKind::Question,
                    DatagramKind::Answer,
                    DatagramKind::Gossip,
                ];
                let kind = kinds[usize::from(op / 8 % 3)];
                let datagram = self.peer.seal(kind, bytes);
                self.node.handle_datagram(self.now, from, &datagram);
            }
            // Time passes, up to 25 s at once.
            5 => {
                self.now.mono = self.now.mono.after(Duration::from_millis(number * 100));
                self.now.wall_ms += number * 100;
                self.node.handle_timeout(self.now);
                self.drain();
                return Some(rest);
            }
            // A request of this node.
            _ => {
                let request = Request {
                    key: Key::new(["k", "l", "m"][argument % 3]).expect("a short key"),
                    ttl: Duration::from_secs(1),
                    is_try: op & 8 != 0,
                    renews: op & 16 != 0,
                    outlives: op & 32 != 0,
                    deadline: None,
                    is_once: false,
                    note: None,
                };
                if let Ok(ticket) = self.node.claim(self.now, request)
                    && op & 64 != 0
                {
                    self.drain();
                    self.node.release(self.now, ticket);
                }
                self.drain();
                return Some(rest);
            }
        }
        self.drain();
        Some(after)
    }
}

/// The number of inputs from which on the average input must have reached the rules.
const INPUTS_ENOUGH: u64 = 1_000;

#[test]
fn datagrams() {
    let (mut inputs, mut messages) = (0, 0);
    bolero::check!()
        .with_max_len(2_048)
        .for_each(move |input: &[u8]| {
            let starts = [Start::NewCluster, Start::Recovering];
            let mut world = World::new(starts[input.len() % 2]);
            let mut rest = Some(input);
            while let Some(input) = rest {
                rest = world.step(input);
            }
            inputs += 1;
            messages += world.node.traffic().messages_in;
            let is_shallow = messages < inputs;
            assert!(
                inputs < INPUTS_ENOUGH || !is_shallow,
                "{inputs} inputs, {messages} messages"
            );
        });
}
