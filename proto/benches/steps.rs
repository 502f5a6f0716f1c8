//! Time and allocations of each step of the protocol crate: `cargo bench -p lockmesh-proto --bench steps`.

#![allow(
    clippy::unwrap_used,
    reason = "a measurement that cannot go on has failed"
)]

mod cycles;

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use divan::{AllocProfiler, Bencher, black_box};
use lockmesh_proto::{
    Claim, ClaimId, Claimant, ClusterSecret, DATAGRAM_BYTES_MAX, DatagramHead, DatagramKind,
    Effects, Epoch, EpochClock, Event, Incarnation, Instant, Message, NodeId, Now, Release, Seal,
    Start, Ticket, Timing, Vote, Voter, VoterLimits, VoterSet, pack_messages, unpack_messages,
};

use cycles::{Contended, Cycles, TTL, key, request};

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

/// The numbers of messages per datagram that are measured.
const MANY: [u64; 3] = [1, 8, 16];
/// The fixed number of samples for steps that leave state behind, regardless of their duration.
const SAMPLES: u32 = 100;
const STEPS: u32 = 100;

fn main() {
    divan::main();
}

/// Three nodes with messages, codec and seals, but without a network.
mod whole {
    use super::*;

    #[divan::bench]
    fn acquire_and_release(bencher: Bencher<'_, '_>) {
        let (mut cycles, keys) = (Cycles::new(3), [key(0)]);
        bencher.bench_local(|| cycles.uncontended(&keys, 1));
    }

    /// As a watcher of an election does: one datagram to the other voter, and one back.
    #[divan::bench]
    fn inspect_at_one_other_voter(bencher: Bencher<'_, '_>) {
        let (mut cycles, key) = (Cycles::new(2), key(0));
        cycles.claim(0, &key);
        bencher.bench_local(|| cycles.inspect(0, &key));
    }

    #[divan::bench]
    fn hand_over(bencher: Bencher<'_, '_>) {
        let mut contended = Contended::new(3);
        bencher.bench_local(|| contended.hand_over());
    }
}

mod voter {
    use super::*;

    #[divan::bench(sample_count = SAMPLES, sample_size = STEPS)]
    fn votes_for_a_claim_on_a_free_key(bencher: Bencher<'_, '_>) {
        let mut voter = voter();
        let mut number = 0;
        bencher
            .with_inputs(|| {
                number += 1;
                (claim(number), Effects::default())
            })
            .bench_local_values(|(claim, mut out)| {
                voter.handle_claim(now(), &claim, &mut out);
                assert!(matches!(out.messages[0].1, Message::Vote(_)));
                (claim, out)
            });
    }

    #[divan::bench]
    fn renews_its_vote(bencher: Bencher<'_, '_>) {
        let (mut voter, mut claim) = (voter(), claim(1));
        voter.handle_claim(now(), &claim, &mut Effects::default());
        claim.granted = true;
        bencher
            .with_inputs(Effects::default)
            .bench_local_values(|mut out| {
                voter.handle_claim(now(), &claim, &mut out);
                out
            });
    }

    #[divan::bench(sample_count = SAMPLES, sample_size = STEPS)]
    fn takes_a_release(bencher: Bencher<'_, '_>) {
        let voter = RefCell::new(voter());
        let mut number = 0;
        bencher
            .with_inputs(|| {
                number += 1;
                let Claim { key, claim, .. } = held(&mut voter.borrow_mut(), number);
                (
                    Release {
                        key,
                        claim,
                        granted: true,
                    },
                    Effects::default(),
                )
            })
            .bench_local_values(|(release, mut out)| {
                voter.borrow_mut().handle_release(now(), &release, &mut out);
                (release, out)
            });
    }

    fn held(voter: &mut Voter, number: u64) -> Claim {
        let claim = claim(number);
        voter.handle_claim(now(), &claim, &mut Effects::default());
        claim
    }
}

mod claimant {
    use super::*;

    #[divan::bench(sample_count = SAMPLES, sample_size = STEPS)]
    fn asks_for_a_key(bencher: Bencher<'_, '_>) {
        let mut claimant = claimant();
        let mut number = 0;
        bencher
            .with_inputs(|| {
                number += 1;
                (request(key(number)), Effects::default())
            })
            .bench_local_values(|(request, mut out)| {
                let ticket = claimant.request(now(), request, &mut out);
                (ticket, out)
            });
    }

    /// Handles the second of three votes, which grants the key.
    #[divan::bench(sample_count = SAMPLES, sample_size = STEPS)]
    fn wins_by_a_vote(bencher: Bencher<'_, '_>) {
        let claimant = RefCell::new(claimant());
        let mut number = 0;
        bencher
            .with_inputs(|| {
                number += 1;
                let mut claimant = claimant.borrow_mut();
                let (_, votes) = asked(&mut claimant, number);
                let (from, vote) = &votes[1];
                claimant.handle(now(), from, vote, &mut Effects::default());
                (votes[2].clone(), Effects::default())
            })
            .bench_local_values(|((from, vote), mut out)| {
                claimant.borrow_mut().handle(now(), &from, &vote, &mut out);
                assert!(matches!(out.events[0], Event::Granted { .. }));
                (from, vote, out)
            });
    }

    #[divan::bench(sample_count = SAMPLES, sample_size = STEPS)]
    fn releases(bencher: Bencher<'_, '_>) {
        let claimant = RefCell::new(claimant());
        let mut number = 0;
        bencher
            .with_inputs(|| {
                number += 1;
                let mut claimant = claimant.borrow_mut();
                let (ticket, votes) = asked(&mut claimant, number);
                for (from, vote) in &votes {
                    claimant.handle(now(), from, vote, &mut Effects::default());
                }
                (ticket, Effects::default())
            })
            .bench_local_values(|(ticket, mut out)| {
                assert!(claimant.borrow_mut().release(now(), ticket, &mut out));
                out
            });
    }

    /// Submits a request. Returns its ticket, and a vote of every voter for it.
    fn asked(claimant: &mut Claimant, number: u32) -> (Ticket, Vec<(NodeId, Message)>) {
        let mut out = Effects::default();
        let ticket = claimant
            .request(now(), request(key(number)), &mut out)
            .unwrap();
        let votes = out.messages.into_iter().filter_map(|(to, message)| {
            let Message::Claim(claim) = message else {
                return None;
            };
            let vote = Vote {
                key: claim.key,
                claim: claim.claim,
                sent_at: claim.sent_at,
                ttl: claim.ttl,
                yield_requested: false,
                probe: false,
                covered: None,
            };
            Some((to, Message::Vote(vote)))
        });
        (ticket, votes.collect())
    }
}

mod codec {
    use super::*;

    #[divan::bench(args = MANY)]
    fn packs(bencher: Bencher<'_, '_>, many: u64) {
        let (head, messages) = (head(), messages(many));
        bencher.bench(|| pack_messages(black_box(&head), black_box(&messages), DATAGRAM_BYTES_MAX));
    }

    #[divan::bench(args = MANY)]
    fn unpacks(bencher: Bencher<'_, '_>, many: u64) {
        let body = body(many);
        bencher.bench(|| unpack_messages(black_box(&body)).unwrap());
    }
}

mod seal {
    use super::*;

    #[divan::bench(args = MANY)]
    fn seals(bencher: Bencher<'_, '_>, many: u64) {
        let (mut seal, body) = (seal(1), body(many));
        bencher.bench_local(|| seal.seal(DatagramKind::Votes, black_box(&body)));
    }

    #[divan::bench(args = MANY)]
    fn opens(bencher: Bencher<'_, '_>, many: u64) {
        let (mut theirs, mut ours, body) = (seal(1), seal(2), body(many));
        bencher
            .with_inputs(|| theirs.seal(DatagramKind::Votes, &body))
            .bench_local_refs(|datagram| ours.open(datagram).unwrap());
    }
}

fn now() -> Now {
    Now {
        mono: Instant::ZERO.after(Duration::from_secs(1_000)),
        wall_ms: 1_700_000_000_000,
    }
}

fn id(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

fn voter_set(members: &[&str]) -> Arc<VoterSet> {
    let members: Vec<NodeId> = members.iter().map(|name| id(name)).collect();
    let voters = members.len();
    Arc::new(VoterSet::new(1, members, voters, Timing::lan()).unwrap())
}

/// Returns the only voter of its set, which recovers without peers.
fn voter() -> Voter {
    let mut voter = Voter::new(
        Now {
            mono: Instant::ZERO,
            ..now()
        },
        id("n0"),
        voter_set(&["n0"]),
        VoterLimits::default(),
        Start::NewCluster,
        1,
        &mut Effects::default(),
    );
    voter.handle_timeout(now(), &mut Effects::default());
    assert_eq!(voter.quarantine(), None);
    voter
}

fn claimant() -> Claimant {
    let voter_set = voter_set(&["n0", "n1", "n2"]);
    Claimant::new(id("n9"), Incarnation::new(1), voter_set, 1 << 24, 1)
}

fn claim(number: u64) -> Claim {
    Claim {
        key: key(u32::try_from(number).unwrap()),
        claim: ClaimId {
            node: id("n9"),
            incarnation: Incarnation::new(1),
            seq: number,
        },
        epoch: Epoch::new(EpochClock::limit(now(), Duration::ZERO).get() + number),
        ttl: TTL,
        sent_at: Instant::ZERO.after(Duration::from_secs(1)),
        votes_valid_since: Instant::ZERO,
        granted: false,
        is_try: false,
        join: false,
        outlives: false,
    }
}

fn head() -> DatagramHead {
    DatagramHead {
        from: id("n9"),
        incarnation: Incarnation::new(1),
        to: id("n0"),
        voter_set: voter_set(&["n0", "n1", "n2"]).tag(),
    }
}

fn messages(many: u64) -> Vec<Message> {
    (0..many).map(|n| Message::Claim(claim(n))).collect()
}

fn body(many: u64) -> Vec<u8> {
    let packed = pack_messages(&head(), &messages(many), DATAGRAM_BYTES_MAX);
    let (body, packed) = packed.bodies.into_iter().next().unwrap();
    assert_eq!(packed as u64, many, "they do not fit into one datagram");
    body
}

fn seal(boot: u8) -> Seal {
    Seal::sealed(ClusterSecret::from_bytes([7; 32]).unwrap(), [boot; 16])
}
