//! Bugs in the rules that seeds found, each as a short test.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::campaign::{Tweaks, run_seed};
use crate::proto::{
    Claimant, Effects, EpochClock, Event, Incarnation, Instant, Key, Message, Node, NodeConfig,
    NodeId, Now, Output, Peer, RecoveryReply, Refuse, RefuseReason, Request, Seal, Start, Timing,
    View, Voter, VoterLimits, VoterSet,
};

const WALL_MS: u64 = 1_760_000_000_000;

fn id(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

fn addr(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], port))
}

fn voter_set(members: &[&str]) -> Arc<VoterSet> {
    let members: Vec<NodeId> = members.iter().map(|name| id(name)).collect();
    let voters = members.len();
    Arc::new(VoterSet::new(1, members, voters, Timing::lan()).unwrap())
}

fn at(seconds: u64, wall_ms: u64) -> Now {
    Now {
        mono: Instant::ZERO.after(Duration::from_secs(seconds)),
        wall_ms,
    }
}

fn request(key: &str) -> Request {
    Request {
        key: Key::new(key).unwrap(),
        ttl: Duration::from_secs(10),
        is_try: false,
        renews: true,
        outlives: false,
        deadline: None,
        is_once: false,
        note: None,
    }
}

fn node(name: &str, incarnation: u64, voter_set: &Arc<VoterSet>) -> Node {
    let config = NodeConfig {
        id: id(name),
        incarnation: Incarnation::new(incarnation),
        voter_set: voter_set.clone(),
        start: Start::NewCluster,
        limits: VoterLimits::default(),
        max_claims: 8,
        renew_interval: None,
        seed: incarnation,
        seal: Seal::insecure_plaintext(),
    };
    Node::new(at(1, WALL_MS), config)
}

fn sent(node: &mut Node) -> Vec<(SocketAddr, Vec<u8>)> {
    let mut sent = Vec::new();
    loop {
        match node.poll_output() {
            Output::Transmit { to, bytes } => sent.push((to, bytes)),
            Output::Timeout(_) => return sent,
            _ => {}
        }
    }
}

/// Seed 475 of the first world: a waiter was passed over for ever (L2).
#[test]
fn moved_node_learns_of_its_higher_incarnation() {
    let voter_set = voter_set(&["a"]);
    let mut voter = node("a", 1, &voter_set);
    sent(&mut voter);
    let voter_is_at = Peer {
        addr: addr(1),
        incarnation: Incarnation::new(1),
        alive: true,
        version: Some(crate::proto::PROTOCOL_VERSION),
    };
    let view = View {
        peers: [(id("a"), voter_is_at)].into(),
    };
    let claims = |incarnation: u64| {
        let mut claimant = node("b", incarnation, &voter_set);
        claimant.handle_view(at(1, WALL_MS), &view);
        claimant.claim(at(1, WALL_MS), request("k")).unwrap();
        claimant
    };
    for (_, bytes) in sent(&mut claims(9)) {
        voter.handle_datagram(at(1, WALL_MS), addr(2), &bytes);
    }
    sent(&mut voter);
    let mut again = claims(5);
    // Its earlier address no longer replies, so the voter must use its current one.
    for second in 1..20 {
        let now = at(second, WALL_MS + second * 1_000);
        again.handle_timeout(now);
        for (_, bytes) in sent(&mut again) {
            voter.handle_datagram(now, addr(3), &bytes);
        }
        voter.handle_timeout(now);
        for (_, bytes) in sent(&mut voter).iter().filter(|(to, _)| *to == addr(3)) {
            again.handle_datagram(now, addr(1), bytes);
        }
    }
    assert!(again.claimant().incarnation() > Incarnation::new(9));
}

/// Seed 94 of the first world: a request still waited long after the faults (L1).
#[test]
fn refused_claim_is_remade_after_clock_is_right() {
    let voter_set = voter_set(&["a", "b", "c"]);
    // Seed zero draws the lowest epochs.
    let mut claimant = Claimant::new(id("n"), Incarnation::new(1), voter_set, 8, 0);
    let mut out = Effects::default();
    let ahead = WALL_MS + 10_000_000;
    let ticket = claimant
        .request(at(1, ahead), request("k"), &mut out)
        .unwrap();
    let Message::Claim(claim) = &out.messages[0].1 else {
        panic!("a claim is what is sent first");
    };
    let refuse = Message::Refuse(Refuse {
        claim: claim.claim.clone(),
        reason: RefuseReason::Skew,
    });
    // While the clock is ahead the claim is refused, and a new one would be refused too.
    claimant.handle(at(1, ahead), &id("a"), &refuse, &mut out);
    assert_eq!(claimant.epoch(ticket), Some(EpochClock::first_of(ahead)));
    claimant.handle(at(2, WALL_MS), &id("a"), &refuse, &mut out);
    assert_eq!(claimant.epoch(ticket), Some(EpochClock::first_of(WALL_MS)));
}

/// Seed 9 of the first world: a fence below a granted epoch, without a report of it (M5).
#[test]
fn recovery_that_caps_a_reply_reports_clock_dependence() {
    let voter_set = voter_set(&["a", "b", "c"]);
    for (ahead_ms, leans) in [(0, false), (60_000, true)] {
        let mut out = Effects::default();
        let limits = VoterLimits::default();
        let me = id("a");
        let start = at(1, WALL_MS);
        let mut voter = Voter::new(
            start,
            me,
            voter_set.clone(),
            limits,
            Start::Recovering,
            7,
            &mut out,
        );
        let over = Now {
            mono: voter.quarantine().unwrap(),
            wall_ms: WALL_MS + 30_000,
        };
        voter.handle_timeout(over, &mut out);
        let query = out.messages.iter().find_map(|(_, message)| match message {
            Message::RecoveryQuery(query) => Some(*query),
            _ => None,
        });
        let memory = RecoveryReply {
            nonce: query.unwrap().nonce,
            highest: EpochClock::first_of(WALL_MS + ahead_ms),
            votes: true,
            knew: true,
            seen: Incarnation::new(1),
            before: Incarnation::default(),
            remembers: false,
            quarantine: Duration::ZERO,
            skew: Duration::ZERO,
        };
        for other in ["b", "c"] {
            voter.handle_recovery_reply(over, &id(other), &memory, &mut out);
        }
        let ended = Event::QuarantineEnded {
            answers: 2,
            leans_on_wall_clock: leans,
            knows_clocks: false,
        };
        assert!(out.events.contains(&ended), "{:?}", out.events);
    }
}

/// Two processes began with one incarnation: a copy of the journal was put back after the wall clock
/// was set back.
#[test]
fn old_copy_under_the_same_incarnation_is_told() {
    let outcome = run_seed(1_210_003_007, Tweaks::default(), false);
    let broken: Vec<&str> = outcome.violations.iter().map(|it| it.law).collect();
    assert!(broken.is_empty(), "{broken:?}");
}

/// M9. A voter began a new journal under a lower incarnation, since its wall clock was set right. At
/// its next start, the journal of another voter made that look like an old copy.
#[test]
fn journal_that_began_anew_is_memory() {
    let outcome = run_seed(1_220_012_741, Tweaks::default(), false);
    let broken: Vec<&str> = outcome.violations.iter().map(|it| it.law).collect();
    assert!(broken.is_empty(), "{broken:?}");
}

/// M8. One of three processes of a name sent one datagram to a node. Another, which the node could
/// not reach, sent more, and the node challenged only that one.
#[test]
fn process_that_sends_once_beside_two_others_is_challenged() {
    let outcome = run_seed(1_220_015_995, Tweaks::default(), false);
    let broken: Vec<&str> = outcome.violations.iter().map(|it| it.law).collect();
    assert!(broken.is_empty(), "{broken:?}");
}

/// M3. The wall clock of a holder was set back between two starts, and a voter that knew the earlier
/// process restarted. It took a late datagram of that process for proof that the holder was over.
#[test]
fn late_datagram_is_no_proof() {
    let outcome = run_seed(1_281_001_157, Tweaks::default(), false);
    let broken: Vec<&str> = outcome.violations.iter().map(|it| it.law).collect();
    assert!(broken.is_empty(), "{broken:?}");
}

/// L1. The namesake of a voter was dead, and the voter had taken a higher incarnation. A node that
/// had not received that one asked only the address of the namesake whether it reads the newest
/// version, and so it sent no claim for a key that may be marked.
#[test]
fn voter_at_its_second_address_is_probed() {
    let outcome = run_seed(1_290_019_718, Tweaks::default(), false);
    let broken: Vec<&str> = outcome.violations.iter().map(|it| it.law).collect();
    assert!(broken.is_empty(), "{broken:?}");
}

/// M2, M3, M8, M10, S9, L7, L6, L3 and L1. In these worlds the simulation itself was wrong: it
/// took a process for known that had sent nothing, that was behind a dead mapping or that had
/// another incarnation by then, a late timer for one in time, and an incarnation for proven to be
/// over that had used two addresses. A story began while an answer was on its way that ended it
/// early, or before a process knew the incarnation of its dead namesake. A voter counted for a
/// lease while its vote was out to a host that was cut off from it. A claim was granted by the
/// last vote of a voter after that had lost it, and had said so. A voter whose vote is enough
/// alone had other settings before, and nobody was there to name them. The timer of a process that
/// was paused when it was due was not set again. A voter whose fences were far ahead was to start
/// without them, and took them up from others. A request was granted by its next claim while the
/// claim before was revoked. Voters that had revoked a claim, or that were in the other set,
/// counted for its lease, and a voter that lost its marks in that set did not.
#[test]
fn seeds_that_misled_the_judge_keep_every_law() {
    for seed in [
        811,
        10_998,
        910_003_720,
        910_007_071,
        910_008_338,
        910_010_228,
        910_011_581,
        930_000_303,
        1_130_003_570,
        1_150_005_910,
        1_210_004_216,
        1_220_000_515,
        1_230_005_832,
        1_250_004_931,
        1_290_002_838,
        1_290_006_482,
        1_290_010_720,
        1_290_014_607,
        1_290_017_430,
        1_310_008_047,
    ] {
        let outcome = run_seed(seed, Tweaks::default(), false);
        let broken: Vec<&str> = outcome.violations.iter().map(|it| it.law).collect();
        assert!(broken.is_empty(), "seed {seed}: {broken:?}");
    }
}
