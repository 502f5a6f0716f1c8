//! Inspections of a key: the queries, the wait for reports, and the result.

use std::time::Duration;

use lockmesh_proto::{
    ClaimId, DatagramHead, DatagramKind, Epoch, Incarnation, InspectId, Inspection, Instant, Key,
    LockState, Message, NodeId, Output, Peer, Report, ReportedVote, ReportedWaiter, Seal, View,
    Waiter, unpack_messages,
};

use crate::arbitrary::node_id;
use crate::node::{World, addr, claim_of, key, seal_of};

const PATIENCE: Duration = Duration::from_secs(5);
const VOTERS: [&str; 3] = ["b", "c", "d"];

/// A node that is no voter and knows the addresses of three voters.
struct Asker {
    world: World,
    /// Opens what the node sends.
    ear: Seal,
}

impl Asker {
    fn new() -> Self {
        let mut world = World::new(&VOTERS);
        let peers = VOTERS.map(|voter| {
            let peer = Peer {
                addr: addr(),
                incarnation: Incarnation::new(1),
                alive: true,
                version: Some(lockmesh_proto::PROTOCOL_VERSION),
            };
            (node_id(voter), peer)
        });
        let view = View {
            peers: peers.into(),
        };
        world.node.handle_view(world.now, &view);
        world.drain();
        let mut asker = Self {
            world,
            ear: seal_of(9),
        };
        // The node announces itself to each voter on first contact. Here that is a report that it
        // did not request.
        for voter in VOTERS {
            asker.feeds(voter, nothing(0));
        }
        asker
    }

    fn feeds(&mut self, from: &str, report: Report) -> Vec<Output> {
        let head = DatagramHead {
            from: node_id(from),
            ..self.world.head()
        };
        let datagram = self.world.datagram(&head, &[Message::Report(report)]);
        self.world.feed(&datagram)
    }

    /// Starts an inspection. Returns its id and the nonce of its queries to all three voters.
    fn asks(&mut self, key: &Key) -> (InspectId, u64) {
        let id = self.world.node.inspect(self.world.now, key, PATIENCE);
        let mut asked = Vec::new();
        for output in self.world.drain() {
            let Output::Transmit { bytes, .. } = output else {
                panic!("{output:?}")
            };
            let (kind, body) = self.ear.open(&bytes).unwrap();
            assert_eq!(kind, DatagramKind::Votes);
            let (head, messages) = unpack_messages(&body).unwrap();
            let [Message::Inspect(inspect)] = &messages[..] else {
                panic!("{messages:?}")
            };
            assert_eq!(inspect.key, *key);
            asked.push((head.to.to_string(), inspect.nonce));
        }
        let nonce = asked[0].1;
        assert_eq!(asked, VOTERS.map(|voter| (voter.to_owned(), nonce)));
        (id, nonce)
    }

    fn hears(&mut self, from: &str, report: Report) -> Vec<(InspectId, Inspection)> {
        inspected(self.feeds(from, report))
    }

    /// The next timeout of the node.
    fn due(&mut self) -> Option<Instant> {
        match self.world.node.poll_output() {
            Output::Timeout(at) => at,
            output => panic!("{output:?}"),
        }
    }

    fn wakes(&mut self, at: Instant) -> Vec<(InspectId, Inspection)> {
        self.world.now.mono = at;
        self.world.node.handle_timeout(self.world.now);
        inspected(self.world.drain())
    }
}

fn inspected(outputs: Vec<Output>) -> Vec<(InspectId, Inspection)> {
    let inspected = outputs.into_iter().map(|output| match output {
        Output::Inspected { id, inspection } => (id, *inspection),
        output => panic!("{output:?}"),
    });
    inspected.collect()
}

/// The report of a voter that has no vote and no fence for the key.
fn nothing(nonce: u64) -> Report {
    Report {
        nonce,
        vote: None,
        waiters: Vec::new(),
        waiting: 0,
        fence: Epoch::ZERO,
        is_recovering: false,
    }
}

fn voted_for(nonce: u64, claim: &ClaimId, granted: bool, secs: u64) -> Report {
    let vote = ReportedVote {
        claim: claim.clone(),
        epoch: Epoch::new(70),
        granted,
        remaining: Duration::from_secs(secs),
    };
    Report {
        vote: Some(vote),
        ..nothing(nonce)
    }
}

#[test]
fn inspection_ends_once_all_voters_answered() {
    let mut asker = Asker::new();
    let (id, nonce) = asker.asks(&key());
    assert_eq!(asker.hears("b", nothing(nonce)), []);
    assert_eq!(asker.hears("c", nothing(nonce)), []);
    let ended = asker.hears("d", nothing(nonce));
    let [(ended_id, seen)] = &ended[..] else {
        panic!("{ended:?}");
    };
    assert_eq!((ended_id, &seen.key), (&id, &key()));
    assert_eq!((seen.voters, seen.answered, seen.recovering), (3, 3, 0));
    assert_eq!((&seen.state, seen.fence), (&LockState::Free, Epoch::ZERO));
    assert!(seen.votes.is_empty() && seen.waiters.is_empty() && seen.waiting == 0);
    assert_eq!(asker.due(), None);
    assert_eq!(asker.hears("d", nothing(nonce)), [], "it is over");
}

/// One dead voter must not use up the whole timeout.
#[test]
fn quorum_of_reports_leaves_two_round_trips() {
    let mut asker = Asker::new();
    let began = asker.world.now.mono;
    let (id, nonce) = asker.asks(&key());
    assert_eq!(asker.due(), Some(began.after(PATIENCE)));
    asker.hears("b", nothing(nonce));
    assert_eq!(asker.due(), Some(began.after(PATIENCE)));
    asker.hears("c", nothing(nonce));
    let end = began.after(Duration::from_millis(20));
    assert_eq!(asker.due(), Some(end));
    assert_eq!(asker.wakes(end.before(Duration::from_nanos(1))), []);
    let ended = asker.wakes(end);
    assert_eq!((ended[0].0, ended[0].1.answered), (id, 2));
    assert_eq!(asker.due(), None);
}

#[test]
fn inspection_without_quorum_ends_at_its_timeout() {
    let mut asker = Asker::new();
    let end = asker.world.now.mono.after(PATIENCE);
    let (id, nonce) = asker.asks(&key());
    let report = voted_for(nonce, &claim_of("c"), true, 9);
    assert_eq!(asker.hears("b", report), []);
    let ended = asker.wakes(end);
    assert_eq!((ended[0].0, ended[0].1.answered), (id, 1));
    assert_eq!(ended[0].1.owner(), None, "one vote of three is no quorum");
    // The quorum answered late, so the last voter has only the rest of the timeout.
    let (_, nonce) = asker.asks(&key());
    let end = asker.world.now.mono.after(PATIENCE);
    asker.world.now.mono = end.before(Duration::from_millis(3));
    asker.hears("b", nothing(nonce));
    asker.hears("c", nothing(nonce));
    assert_eq!(asker.due(), Some(end));
}

#[test]
fn unrequested_reports_and_non_voters_are_ignored() {
    let mut asker = Asker::new();
    let (_, nonce) = asker.asks(&key());
    let (other, of_other) = asker.asks(&Key::new("another").unwrap());
    assert_ne!(nonce, of_other);
    for (from, nonce) in [("e", nonce), ("b", nonce + 77), ("b", nonce), ("b", nonce)] {
        assert_eq!(asker.hears(from, nothing(nonce)), []);
    }
    assert_eq!(asker.hears("c", nothing(nonce)), []);
    // Reports for one inspection do not count for the other.
    assert_eq!(asker.hears("b", nothing(of_other)), []);
    assert_eq!(asker.hears("c", nothing(of_other)), []);
    let ended = asker.hears("d", nothing(of_other));
    assert_eq!(
        (ended.len(), ended[0].0, ended[0].1.answered),
        (1, other, 3)
    );
    assert_eq!(asker.hears("d", nothing(nonce))[0].1.key, key());
}

/// A caller that starts inspections without waiting for them must not grow memory.
#[test]
fn oldest_inspection_ends_early_above_limit() {
    let mut asker = Asker::new();
    let (first, _) = asker.asks(&key());
    for _ in 1..1_024 {
        asker.asks(&key());
    }
    let now = asker.world.now.mono;
    assert_eq!(asker.wakes(now), []);
    asker.asks(&key());
    let ended = asker.wakes(now);
    let ids: Vec<InspectId> = ended.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, [first]);
}

#[test]
fn owner_remains_while_quorum_of_votes_lasts() {
    let mut asker = Asker::new();
    let owner = |granted, secs| {
        let remaining = Duration::from_secs(secs);
        (node_id("x"), Epoch::new(70), granted, remaining)
    };
    let (x, y) = (claim_of("x"), claim_of("y"));
    // Two voters have promised two seconds, whatever the third reports.
    let rounds = [
        (
            [(&x, false, 1), (&x, false, 9), (&x, false, 2)],
            owner(false, 2),
        ),
        (
            [(&x, false, 2), (&y, true, 9), (&x, false, 5)],
            owner(false, 2),
        ),
        (
            [(&x, false, 3), (&x, true, 5), (&y, false, 1)],
            owner(true, 3),
        ),
    ];
    for (votes, owner) in rounds {
        let (_, nonce) = asker.asks(&key());
        let mut ended = Vec::new();
        for (voter, (claim, granted, secs)) in VOTERS.into_iter().zip(votes) {
            ended = asker.hears(voter, voted_for(nonce, claim, granted, secs));
        }
        let seen = ended[0].1.owner();
        let seen = seen.map(|it| (it.node.clone(), it.epoch, it.confirmed, it.remaining));
        assert_eq!(seen, Some(owner));
    }
}

fn recovering(nonce: u64) -> Report {
    Report {
        is_recovering: true,
        ..nothing(nonce)
    }
}

/// A node, and its report for a nonce.
type Answer = (&'static str, fn(u64) -> Report);

/// The node of a claim, its epoch, its number of votes and the time that they remain.
type Votes = (NodeId, Epoch, usize, Duration);

/// Returns the result of an inspection that receives these reports.
fn judged(reports: &[Answer]) -> (LockState, Option<String>, Vec<Votes>) {
    let mut asker = Asker::new();
    let (_, nonce) = asker.asks(&key());
    let end = asker.world.now.mono.after(PATIENCE);
    let mut ended = Vec::new();
    for (voter, report) in reports {
        ended.extend(asker.hears(voter, report(nonce)));
    }
    ended.extend(asker.wakes(end));
    let (_, seen) = ended.remove(0);
    let because = seen.unknown_because();
    let votes = seen.votes.into_iter();
    let votes = votes.map(|it| (it.node, it.epoch, it.votes, it.remaining));
    (seen.state, because, votes.collect())
}

fn vote(nonce: u64) -> Report {
    voted_for(nonce, &claim_of("x"), true, 9)
}

fn one_vote() -> Vec<Votes> {
    vec![(node_id("x"), Epoch::new(70), 1, Duration::from_secs(9))]
}

#[test]
fn key_is_unknown_while_voters_are_in_quarantine() {
    let because = |text: &str| Some(text.to_owned());
    assert_eq!(
        judged(&[("b", vote), ("c", recovering), ("d", recovering)]),
        (
            LockState::Unknown,
            because("2 of 3 voters are in quarantine"),
            one_vote()
        )
    );
    // A cold start.
    assert_eq!(
        judged(&[("b", recovering), ("c", recovering), ("d", recovering)]).1,
        because("3 of 3 voters are in quarantine")
    );
    // A voter that lost its memory may have given the second vote.
    assert_eq!(
        judged(&[("b", vote), ("c", recovering), ("d", nothing)]).1,
        because("1 of 3 voters is in quarantine")
    );
    assert_eq!(
        judged(&[("b", vote), ("c", recovering)]).1,
        because("1 of 3 voters is in quarantine, 1 did not answer")
    );
}

#[test]
fn key_is_free_if_silent_voters_cannot_matter() {
    assert_eq!(judged(&[("b", nothing), ("c", nothing)]).0, LockState::Free);
    let free = judged(&[("b", nothing), ("c", recovering), ("d", nothing)]);
    assert_eq!(free, (LockState::Free, None, Vec::new()));
    let contended = judged(&[("b", vote), ("c", nothing), ("d", nothing)]);
    assert_eq!(contended, (LockState::Free, None, one_vote()));
    let (state, because, votes) = judged(&[("b", vote), ("c", nothing)]);
    assert_eq!((state, votes), (LockState::Unknown, one_vote()));
    assert_eq!(because.unwrap(), "1 of 3 voters did not answer");
    let held = judged(&[("b", vote), ("c", vote), ("d", recovering)]);
    assert!(matches!(held, (LockState::Held(_), None, _)), "{held:?}");
}

#[test]
fn waiters_are_listed_once_and_in_order() {
    let mut asker = Asker::new();
    let (_, nonce) = asker.asks(&key());
    let waiter = |(name, epoch): (&str, u64)| ReportedWaiter {
        node: node_id(name),
        epoch: Epoch::new(epoch),
    };
    let report = |waiters: &[(&str, u64)], waiting, fence| Report {
        waiters: waiters.iter().copied().map(waiter).collect(),
        waiting,
        fence: Epoch::new(fence),
        ..nothing(nonce)
    };
    asker.hears("b", report(&[("y", 8), ("z", 9)], 2, 5));
    asker.hears("c", report(&[("z", 9)], 40, 7));
    let ended = asker.hears("d", report(&[("x", 7), ("z", 9)], 2, 6));
    let named: Vec<(&str, u64)> = ended[0].1.waiters.iter().map(of_waiter).collect();
    assert_eq!(named, [("x", 7), ("y", 8), ("z", 9)]);
    assert_eq!(ended[0].1.waiting, 40, "as many as at the voter with most");
    assert_eq!(ended[0].1.fence, Epoch::new(7));
}

fn of_waiter(waiter: &Waiter) -> (&str, u64) {
    (waiter.node.as_str(), waiter.epoch.get())
}
