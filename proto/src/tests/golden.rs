//! Golden bytes: datagrams and journals of each version, which must decode for ever.
//!
//! `golden/v1.txt` has a line for each message, question and record of version 1: its name and its
//! bytes. A changed encoding fails here. It needs a new version (docs/protocol.md, "Changing the
//! wire"), and the lines of the old one stay.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::net::SocketAddr;

use serde::{Serialize, de::DeserializeOwned};

use super::*;
use crate::description::{Role, VoterSetDescription};
use crate::handover::{Handover, KeptToken, MemoryPart, MemorySize};
use crate::journal::{JOURNAL_FORMAT, JournalOwner, Record, Started, VoteRecord, frame};
use crate::journal::{open_journal, snapshot_head};
use crate::message::{
    Challenge, Inspect, Namesake, Outdated, RecoveryQuery, RecoveryReply, Report, ReportedVote,
    ReportedWaiter, VoterQuery, VoterReply,
};
use crate::voter_set::VoterSetTag;
use crate::wire::codec::{DatagramHead, append, decode_whole, pack_messages, unpack_messages};
use crate::wire::observe::{Question, Topic};
use crate::wire::seal::{ClusterSecret, Seal};
use crate::wire::{DATAGRAM_BYTES_MAX, DatagramKind, PROTOCOL_VERSION};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/tests/golden/v1.txt");
const GOLDEN: &str = include_str!("golden/v1.txt");
/// The variable that makes the test write the file.
const WRITE: &str = "LOCKMESH_WRITE_GOLDEN";

fn key() -> Key {
    Key::new("orders/42").unwrap()
}

fn claim() -> ClaimId {
    ClaimId {
        node: node("n1"),
        incarnation: Incarnation::new(1_700_000_000_000_001),
        seq: 300,
    }
}

fn epoch() -> Epoch {
    Epoch::new(0x0123_4567_89ab_cdef)
}

fn head() -> DatagramHead {
    DatagramHead {
        from: node("n1"),
        incarnation: Incarnation::new(1_700_000_000_000_001),
        to: node("n2"),
        voter_set: VoterSetTag {
            version: 2,
            digest: u64::MAX - 1,
        },
    }
}

fn session() -> SessionId {
    SessionId {
        nonce: 77,
        number: 3,
    }
}

fn handovers() -> Vec<Handover> {
    let incarnation = Incarnation::new(9);
    let size = MemorySize {
        parts: 2,
        digest: 1 << 60,
    };
    let kept = KeptToken {
        incarnation,
        token: 5,
        memory: Some(size),
    };
    vec![
        Handover::Entrust { incarnation },
        Handover::Token {
            incarnation,
            token: Some(5),
        },
        Handover::Part(MemoryPart {
            token: 5,
            number: 1,
            size,
            bytes: vec![1, 2, 3, 255],
        }),
        Handover::PartKept {
            token: 5,
            number: 1,
            is_whole: true,
        },
        Handover::Ask { nonce: 6 },
        Handover::Told {
            nonce: 6,
            kept: Some(kept),
        },
        Handover::Fetch {
            token: 5,
            number: 1,
        },
    ]
}

fn claims_and_votes() -> Vec<Message> {
    vec![
        Message::Claim(Claim {
            key: key(),
            claim: claim(),
            epoch: epoch(),
            ttl: ms(10_000),
            sent_at: instant(5),
            votes_valid_since: instant(4),
            granted: true,
            is_try: false,
            join: true,
            outlives: false,
        }),
        Message::Vote(Vote {
            key: key(),
            claim: claim(),
            sent_at: instant(5),
            ttl: ms(10_000),
            yield_requested: true,
            probe: false,
            covered: Some(session()),
        }),
        Message::Wait(Wait {
            key: key(),
            claim: claim(),
            holder: claim(),
            epoch: epoch(),
            granted: HolderGranted::Silent,
            ahead: 1_000,
        }),
        Message::Stale(Stale {
            claim: claim(),
            fence: epoch(),
        }),
        Message::Refuse(Refuse {
            claim: claim(),
            reason: RefuseReason::NotAVoter,
        }),
        Message::Release(Release {
            key: key(),
            claim: claim(),
            granted: true,
        }),
        Message::KeepAlive(Box::new(KeepAlive {
            session: session(),
            sent_at: instant(6),
            covered: Digest::default(),
        })),
        Message::Kept(Kept {
            session: session(),
            sent_at: instant(6),
            ttl: Some(ms(10_000)),
            lacks: 513,
        }),
    ]
}

fn other_messages() -> Vec<Message> {
    let (nonce, incarnation) = (1 << 40, Incarnation::new(9));
    let addr = |last| SocketAddr::from(([10, 0, 0, last], 7_400));
    vec![
        Message::RecoveryQuery(RecoveryQuery { nonce }),
        Message::RecoveryReply(RecoveryReply {
            nonce,
            highest: epoch(),
            votes: true,
            knew: false,
            seen: incarnation,
            before: Incarnation::new(8),
            remembers: true,
            quarantine: ms(60_600),
            skew: ms(5_000),
        }),
        Message::Outdated(Outdated { seen: incarnation }),
        Message::Inspect(Inspect { nonce, key: key() }),
        Message::Report(Report {
            nonce,
            vote: Some(ReportedVote {
                claim: claim(),
                epoch: epoch(),
                granted: true,
                remaining: ms(250),
            }),
            waiters: vec![ReportedWaiter {
                node: node("n3"),
                epoch: epoch(),
            }],
            waiting: 1,
            fence: epoch(),
            is_recovering: false,
        }),
        Message::VoterQuery(VoterQuery {
            sent_at: instant(7),
            epoch: epoch(),
        }),
        Message::VoterReply(VoterReply {
            sent_at: instant(7),
            refuses: Some(RefuseReason::Quarantine),
            remaining: ms(30_000),
            wall_ms: 1_700_000_000_000,
        }),
        Message::Describe(Role::Recovering),
        Message::Described(Box::new(VoterSetDescription {
            role: Role::Votes,
            voters_per_key: 3,
            timing: Timing::lan(),
            members: 3,
            listed: vec![node("n1"), node("n2"), node("n3")],
        })),
        Message::Challenge(Challenge { nonce }),
        Message::Alive(Challenge { nonce }),
        Message::Namesake(Box::new(Namesake {
            yours: incarnation,
            yours_at: addr(1),
            other: Incarnation::new(8),
            other_at: addr(2),
        })),
    ]
}

fn messages() -> Vec<Message> {
    let handovers = handovers().into_iter().map(Box::new).map(Message::Handover);
    let others = other_messages().into_iter().chain(handovers);
    claims_and_votes().into_iter().chain(others).collect()
}

fn questions() -> Vec<Question> {
    let topics = [
        Topic::Overview { from: 3 },
        Topic::Locks { from: 1 << 33 },
        Topic::Key { key: key() },
    ];
    let question = |topic| Question { nonce: 12, topic };
    topics.map(question).into()
}

fn records() -> Vec<Record> {
    vec![
        Record::Heard {
            node: node("n2"),
            incarnation: Incarnation::new(8),
        },
        Record::Vote(VoteRecord {
            key: key(),
            claim: claim(),
            epoch: epoch(),
            sent_at: instant(5),
            ttl_ms: 10_000,
            granted: true,
            outlives: false,
        }),
        Record::Vote(VoteRecord {
            key: Key::new("ended").unwrap(),
            claim: claim(),
            epoch: epoch().max(Epoch::new(1)),
            sent_at: instant(5),
            ttl_ms: 20,
            granted: false,
            outlives: true,
        }),
        Record::Ended {
            key: Key::new("ended").unwrap(),
        },
        Record::Fence {
            bucket: 1,
            epoch: Epoch::new(70),
        },
        Record::AllFences {
            epoch: Epoch::new(50),
        },
        Record::Forgotten {
            quarantine: ms(60_600),
        },
        Record::Whole,
        Record::Closed,
    ]
}

fn owner() -> JournalOwner {
    JournalOwner {
        node: node("n1"),
        cluster: "orders".to_owned(),
        buckets: 4,
    }
}

fn started() -> Started {
    Started {
        incarnation: Incarnation::new(7),
        boot: Some(1 << 100),
        is_synced: true,
        timing: Timing::lan(),
        voters: 1 << 63,
    }
}

/// Returns a journal with these records after the two that each file begins with.
fn journal(records: &[Record]) -> Vec<u8> {
    let mut bytes = snapshot_head(&owner(), &started());
    for record in records {
        frame(record, &mut bytes);
    }
    bytes
}

fn secret() -> ClusterSecret {
    ClusterSecret::from_bytes(std::array::from_fn(|n| n as u8 + 1)).unwrap()
}

fn encoded(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = Vec::new();
    append(&mut bytes, value).unwrap();
    bytes
}

/// Returns the variants within messages, each with its bytes.
fn words() -> impl Iterator<Item = (String, Vec<u8>)> {
    let reasons = [
        RefuseReason::Quarantine,
        RefuseReason::Leaving,
        RefuseReason::VoterSet,
        RefuseReason::Skew,
        RefuseReason::Limit,
        RefuseReason::Storage,
        RefuseReason::NotAVoter,
    ];
    let granted = [
        HolderGranted::No,
        HolderGranted::Unheard,
        HolderGranted::Yes,
        HolderGranted::Silent,
    ];
    let roles = [Role::Client, Role::Recovering, Role::Votes];
    let reasons = reasons.map(|it| (format!("RefuseReason.{it:?}"), encoded(&it)));
    let granted = granted.map(|it| (format!("HolderGranted.{it:?}"), encoded(&it)));
    let roles = roles.map(|it| (format!("Role.{it:?}"), encoded(&it)));
    reasons.into_iter().chain(granted).chain(roles)
}

fn body() -> Vec<u8> {
    let packed = pack_messages(&head(), &messages()[..2], DATAGRAM_BYTES_MAX);
    packed.bodies[0].0.clone()
}

/// Returns the name of a value's variant.
fn name(value: &impl Debug) -> String {
    let text = format!("{value:?}");
    let mut words = text.split(|c: char| !c.is_alphanumeric());
    let first = words.next().unwrap_or_default().to_owned();
    match first.as_str() {
        "Handover" => format!("Handover.{}", words.next().unwrap_or_default()),
        _ => first,
    }
}

/// Returns all entries: a name and the bytes that this version writes.
fn entries() -> Vec<(String, Vec<u8>)> {
    let of = |message: &Message| (format!("message {}", name(message)), encoded(message));
    let mut entries: Vec<_> = messages().iter().map(of).collect();
    let of = |it: &Question| (format!("question {}", name(&it.topic)), encoded(it));
    entries.extend(questions().iter().map(of));
    let sealed = Seal::sealed(secret(), [9; 16]);
    entries.extend(words().map(|(name, bytes)| (format!("word {name}"), bytes)));
    for (what, seal) in [("plain", Seal::insecure_plaintext()), ("sealed", sealed)] {
        let mut seal = seal.of_cluster("orders");
        let kinds = [
            DatagramKind::Votes,
            DatagramKind::Gossip,
            DatagramKind::Question,
            DatagramKind::Answer,
        ];
        for kind in kinds {
            entries.push((format!("{what} {kind:?}"), seal.seal(kind, &body())));
        }
    }
    let records = records();
    for (at, record) in records.iter().enumerate() {
        let mut bytes = Vec::new();
        frame(record, &mut bytes);
        entries.push((format!("record {at} {}", name(record)), bytes));
    }
    entries.push(("journal".to_owned(), journal(&records)));
    entries
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the entries of the file.
fn golden() -> Vec<(&'static str, Vec<u8>)> {
    let byte = |pair: &[u8]| {
        let text = std::str::from_utf8(pair).unwrap();
        u8::from_str_radix(text, 16).unwrap()
    };
    let lines = GOLDEN.lines().map(|line| line.rsplit_once(": ").unwrap());
    lines
        .map(|(name, hex)| (name, hex.as_bytes().chunks(2).map(byte).collect()))
        .collect()
}

fn golden_of(name: &str) -> Vec<u8> {
    let golden = golden();
    let found = golden.iter().find(|(it, _)| *it == name);
    found
        .unwrap_or_else(|| panic!("{name} is not in {FILE}"))
        .1
        .clone()
}

#[test]
fn encodings_change_only_with_the_version() {
    assert_eq!((PROTOCOL_VERSION, JOURNAL_FORMAT), (1, 1));
    let entries = entries();
    if std::env::var_os(WRITE).is_some() {
        // The lines that are there stay.
        let known: BTreeSet<&str> = golden().iter().map(|(name, _)| *name).collect();
        let new = entries
            .iter()
            .filter(|(name, _)| !known.contains(name.as_str()));
        let lines = new.map(|(name, bytes)| format!("{name}: {}\n", hex(bytes)));
        let lines = lines.collect::<String>();
        return std::fs::write(FILE, format!("{GOLDEN}{lines}")).unwrap();
    }
    for (name, bytes) in &entries {
        assert_eq!(
            hex(bytes),
            hex(&golden_of(name)),
            "the encoding of {name} has changed: raise PROTOCOL_VERSION or JOURNAL_FORMAT, and add \
             the golden bytes of the new version; those of version 1 stay. If {name} is new, add it \
             by {WRITE}=1"
        );
    }
    assert_eq!(
        golden().len(),
        entries.len(),
        "an entry of the file is not tested"
    );
}

/// Decodes a golden entry.
fn decodes<T: DeserializeOwned + Debug + PartialEq>(name: &str, expected: &T) {
    let bytes = golden_of(name);
    let decoded: Option<T> = decode_whole(&bytes);
    assert_eq!(decoded.as_ref(), Some(expected), "{name}");
}

#[test]
fn golden_messages_decode() {
    for message in messages() {
        decodes(&format!("message {}", name(&message)), &message);
    }
    for question in questions() {
        decodes(&format!("question {}", name(&question.topic)), &question);
    }
    let mut plain = Seal::insecure_plaintext().of_cluster("orders");
    let mut sealed = Seal::sealed(secret(), [7; 16]).of_cluster("orders");
    for (what, seal) in [("plain", &mut plain), ("sealed", &mut sealed)] {
        let (kind, opened) = seal.open(&golden_of(&format!("{what} Votes"))).unwrap();
        assert_eq!(kind, DatagramKind::Votes);
        let (from, taken) = unpack_messages(&opened).unwrap();
        assert_eq!((from, &taken[..]), (head(), &messages()[..2]));
        let (kind, _) = seal.open(&golden_of(&format!("{what} Gossip"))).unwrap();
        assert_eq!(kind, DatagramKind::Gossip);
    }
}

#[test]
fn golden_journal_is_read() {
    let mut expected = crate::journal::Memory::empty(4);
    expected.apply(Record::Started(started()));
    records()
        .into_iter()
        .for_each(|record| expected.apply(record));
    let opened = open_journal(&golden_of("journal"), &owner(), started()).unwrap();
    assert_eq!(
        (opened.memory, opened.why, opened.torn),
        (expected, None, 0)
    );
    // Without the records that drop the votes, there is one.
    let kept: Vec<Record> = records().drain(..4).chain([Record::Whole]).collect();
    let opened = open_journal(&journal(&kept), &owner(), started()).unwrap();
    assert_eq!(opened.memory.votes(), 1);
    assert!(opened.memory.vote(&key()).is_some());
}

/// A new variant has to be added here, and to the entries.
#[test]
fn every_variant_has_golden_bytes() {
    let mut seen = BTreeSet::new();
    for message in messages() {
        seen.insert(match message {
            Message::Claim(_) => 0,
            Message::Vote(_) => 1,
            Message::Wait(_) => 2,
            Message::Stale(_) => 3,
            Message::Refuse(_) => 4,
            Message::Release(_) => 5,
            Message::RecoveryQuery(_) => 6,
            Message::RecoveryReply(_) => 7,
            Message::Outdated(_) => 8,
            Message::Inspect(_) => 9,
            Message::Report(_) => 10,
            Message::KeepAlive(_) => 11,
            Message::Kept(_) => 12,
            Message::VoterQuery(_) => 13,
            Message::VoterReply(_) => 14,
            Message::Describe(_) => 15,
            Message::Described(_) => 16,
            Message::Challenge(_) => 17,
            Message::Alive(_) => 18,
            Message::Namesake(_) => 19,
            Message::Handover(it) => match *it {
                Handover::Entrust { .. } => 20,
                Handover::Token { .. } => 21,
                Handover::Part(_) => 22,
                Handover::PartKept { .. } => 23,
                Handover::Ask { .. } => 24,
                Handover::Told { .. } => 25,
                Handover::Fetch { .. } => 26,
            },
        });
    }
    assert_eq!(seen.len(), 27);
    let mut seen = BTreeSet::new();
    for record in records() {
        seen.insert(match record {
            // These two are in the journal.
            Record::Owner { .. } | Record::Started(_) => 0,
            Record::Heard { .. } => 1,
            Record::Vote(_) => 2,
            Record::Ended { .. } => 3,
            Record::Fence { .. } => 4,
            Record::AllFences { .. } => 5,
            Record::Forgotten { .. } => 6,
            Record::Whole => 7,
            Record::Closed => 8,
        });
    }
    assert_eq!(seen.len(), 8);
}
