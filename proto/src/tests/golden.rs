//! Golden bytes: datagrams and journals of each version, which must decode for ever.
//!
//! `golden/v1.txt` has a line for each message, question and record of version 1: its name and its
//! bytes. `golden/v2.txt` has those that version 2 added. A changed encoding fails here. It needs a
//! new version (docs/protocol.md, "Changing the wire"), and the lines of the old one stay.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::net::SocketAddr;

use serde::{Serialize, de::DeserializeOwned};

use super::*;
use crate::description::{Role, VoterSetDescription};
use crate::handover::{Handover, KeptToken, MemoryPart, MemorySize};
use crate::id::Note;
use crate::journal::{
    FileChange, JOURNAL_FORMAT, JournalOwner, MarkRecord, RECORD_HEAD_BYTES, Record, Started,
    VoteRecord, frame, open_journal, snapshot_head,
};
use crate::message::{
    Challenge, Done, Inspect, Mark, MarkEntry, Marked, MarksPage, MarksQuery, Namesake,
    NoteMessage, Outdated, PageEnd, RecoveryQuery, RecoveryReply, Report, ReportedVote,
    ReportedWaiter, Revoke, Revoked, VoterQuery, VoterReply,
};
use crate::voter_set::VoterSetTag;
use crate::wire::codec::{DatagramHead, append, decode_whole, pack_messages, unpack_messages};
use crate::wire::observe::{Question, Topic};
use crate::wire::seal::{ClusterSecret, Seal};
use crate::wire::{DATAGRAM_BYTES_MAX, DatagramKind, PROTOCOL_VERSION};

/// The lines of each version, from 1 on.
const GOLDEN: [&str; PROTOCOL_VERSION as usize] =
    [include_str!("golden/v1.txt"), include_str!("golden/v2.txt")];
/// The lines of formats that this version reads, and no longer writes.
const READ_ONLY: [&str; 1] = ["journal"];
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

fn marks() -> Vec<Message> {
    let Message::Claim(once) = claims_and_votes().remove(0) else {
        unreachable!("the first is a claim");
    };
    vec![
        Message::OnceClaim(once),
        Message::Mark(Mark {
            key: key(),
            claim: claim(),
            sent_at: instant(8),
            keep_for: ms(7_200_000),
        }),
        Message::Marked(Marked {
            claim: claim(),
            sent_at: instant(8),
            is_kept: true,
        }),
        Message::Done(Done {
            claim: claim(),
            by: node("n3"),
            epoch: epoch(),
            remaining: ms(7_100_000),
        }),
        Message::MarksQuery(MarksQuery {
            nonce: 1 << 40,
            after: Some(key()),
        }),
        Message::MarksPage(Box::new(MarksPage {
            nonce: 1 << 40,
            after: Some(key()),
            marks: vec![MarkEntry {
                key: key(),
                by: node("n3"),
                epoch: epoch(),
                remaining: ms(7_100_000),
            }],
            end: PageEnd::Query,
            is_whole: true,
        })),
        Message::Revoke(Box::new(Revoke {
            nonce: 0x0100_0000_0000_0000,
            key: key(),
            claim: claim(),
            by: Note::new("ann@ops").unwrap(),
            through: node("n3"),
        })),
        Message::Revoked(Box::new(Revoked {
            nonce: 0x0100_0000_0000_0000,
            key: key(),
            claim: claim(),
            is_kept: true,
            remaining: ms(9_500),
            is_over: true,
        })),
    ]
}

fn notes() -> Vec<Message> {
    let note = Note::new("deploy 812 by ci").unwrap();
    let notes = [
        NoteMessage::OfClaim {
            key: key(),
            claim: claim(),
            note: note.clone(),
        },
        NoteMessage::OfHolder {
            claim: claim(),
            node: node("n3"),
            epoch: epoch(),
            held_for: ms(240_000),
            note: note.clone(),
        },
        NoteMessage::OfReported {
            nonce: 1 << 40,
            node: node("n3"),
            epoch: epoch(),
            note,
        },
    ];
    notes.map(|it| Message::Note(Box::new(it))).into()
}

fn messages() -> Vec<Message> {
    let handovers = handovers().into_iter().map(Box::new).map(Message::Handover);
    let others = other_messages().into_iter().chain(handovers);
    let first = claims_and_votes().into_iter().chain(others);
    first.chain(marks()).chain(notes()).collect()
}

fn questions() -> Vec<Question> {
    let topics = [
        Topic::Overview { from: 3 },
        Topic::Locks { from: 1 << 33 },
        Topic::Key { key: key() },
        Topic::LocksAndNotes { from: 1 << 33 },
        Topic::KeyAndNotes { key: key() },
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
        Record::Mark(MarkRecord {
            key: key(),
            by: node("n3"),
            epoch: epoch(),
            remaining: ms(7_200_000),
            at: Some(instant(9)),
        }),
        Record::MarksWhole,
    ]
}

/// The number of records that version 1 has.
const RECORDS_OF_1: usize = 9;

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
fn words() -> impl Iterator<Item = (u8, String, Vec<u8>)> {
    let reasons = [
        RefuseReason::Quarantine,
        RefuseReason::Leaving,
        RefuseReason::VoterSet,
        RefuseReason::Skew,
        RefuseReason::Limit,
        RefuseReason::Storage,
        RefuseReason::NotAVoter,
        RefuseReason::Marks,
    ];
    let granted = [
        HolderGranted::No,
        HolderGranted::Unheard,
        HolderGranted::Yes,
        HolderGranted::Silent,
    ];
    let ends = [PageEnd::More, PageEnd::Query, PageEnd::Last];
    let roles = [Role::Client, Role::Recovering, Role::Votes];
    let version = |it| if it == RefuseReason::Marks { 2 } else { 1 };
    let reasons = reasons.map(|it| (version(it), format!("RefuseReason.{it:?}"), encoded(&it)));
    let granted = granted.map(|it| (1, format!("HolderGranted.{it:?}"), encoded(&it)));
    let roles = roles.map(|it| (1, format!("Role.{it:?}"), encoded(&it)));
    let ends = ends.map(|it| (2, format!("PageEnd.{it:?}"), encoded(&it)));
    let first = reasons.into_iter().chain(granted).chain(roles);
    first.chain(ends)
}

/// Returns the first two messages that a version has.
fn first_two(version: u8) -> Vec<Message> {
    let all = messages().into_iter();
    all.filter(|it| it.version() == version).take(2).collect()
}

fn body(version: u8) -> Vec<u8> {
    let packed = pack_messages(&head(), &first_two(version), DATAGRAM_BYTES_MAX);
    packed.bodies[0].0.clone()
}

/// Returns the version that has a topic first.
fn version_of(topic: &Topic) -> u8 {
    match topic {
        Topic::Overview { .. } | Topic::Locks { .. } | Topic::Key { .. } => 1,
        Topic::LocksAndNotes { .. } | Topic::KeyAndNotes { .. } => 2,
    }
}

/// Returns the name of a value's variant.
fn name(value: &impl Debug) -> String {
    let text = format!("{value:?}");
    let mut words = text.split(|c: char| !c.is_alphanumeric());
    let first = words.next().unwrap_or_default().to_owned();
    match first.as_str() {
        "Handover" | "Note" => format!("{first}.{}", words.next().unwrap_or_default()),
        _ => first,
    }
}

/// Returns all entries that this version writes: the version that has them first, their names and
/// bytes.
fn entries() -> Vec<(u8, String, Vec<u8>)> {
    let of = |it: &Message| (it.version(), format!("message {}", name(it)), encoded(it));
    let mut entries: Vec<_> = messages().iter().map(of).collect();
    let of = |it: &Question| {
        let name = format!("question {}", name(&it.topic));
        (version_of(&it.topic), name, encoded(it))
    };
    entries.extend(questions().iter().map(of));
    entries.extend(words().map(|(version, name, bytes)| (version, format!("word {name}"), bytes)));
    for version in 1..=PROTOCOL_VERSION {
        let sealed = Seal::sealed(secret(), [9; 16]);
        for (what, seal) in [("plain", Seal::insecure_plaintext()), ("sealed", sealed)] {
            let mut seal = seal.of_cluster("orders");
            let kinds = [
                DatagramKind::Votes,
                DatagramKind::Gossip,
                DatagramKind::Question,
                DatagramKind::Answer,
            ];
            // Later versions have the first kind alone.
            let many = if version == 1 { kinds.len() } else { 1 };
            for kind in &kinds[..many] {
                let bytes = seal.seal_as(version, *kind, &body(version));
                entries.push((version, format!("{what} {kind:?}"), bytes));
            }
        }
    }
    let records = records();
    for (at, record) in records.iter().enumerate() {
        let mut bytes = Vec::new();
        frame(record, &mut bytes);
        let version = if at < RECORDS_OF_1 { 1 } else { 2 };
        entries.push((version, format!("record {at} {}", name(record)), bytes));
    }
    entries.push((2, "journal 2".to_owned(), journal(&records)));
    entries
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the lines of all versions: version, name and bytes.
fn golden() -> Vec<(u8, &'static str, Vec<u8>)> {
    let byte = |pair: &[u8]| {
        let text = std::str::from_utf8(pair).unwrap();
        u8::from_str_radix(text, 16).unwrap()
    };
    let lines = (1..).zip(GOLDEN).flat_map(|(version, text)| {
        let lines = text.lines().map(|line| line.rsplit_once(": ").unwrap());
        lines.map(move |(name, hex)| (version, name, hex))
    });
    let bytes = |hex: &str| hex.as_bytes().chunks(2).map(byte).collect();
    lines
        .map(|(version, name, hex)| (version, name, bytes(hex)))
        .collect()
}

fn golden_of(version: u8, name: &str) -> Vec<u8> {
    let golden = golden();
    let found = golden
        .iter()
        .find(|(of, it, _)| (*of, *it) == (version, name));
    found
        .unwrap_or_else(|| panic!("{name} is not in golden/v{version}.txt"))
        .2
        .clone()
}

#[test]
fn encodings_change_only_with_the_version() {
    assert_eq!((PROTOCOL_VERSION, JOURNAL_FORMAT), (2, 2));
    let entries = entries();
    if std::env::var_os(WRITE).is_some() {
        // The lines that are there stay.
        let known: BTreeSet<(u8, &str)> = golden().iter().map(|it| (it.0, it.1)).collect();
        for (version, text) in (1..).zip(GOLDEN) {
            let lines = entries
                .iter()
                .filter(|(of, name, _)| *of == version && !known.contains(&(*of, name.as_str())))
                .map(|(_, name, bytes)| format!("{name}: {}\n", hex(bytes)));
            let lines = lines.collect::<String>();
            let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/src/tests/golden");
            std::fs::write(format!("{dir}/v{version}.txt"), format!("{text}{lines}")).unwrap();
        }
        return;
    }
    for (version, name, bytes) in &entries {
        assert_eq!(
            hex(bytes),
            hex(&golden_of(*version, name)),
            "the encoding of {name} has changed: raise PROTOCOL_VERSION or JOURNAL_FORMAT, and add \
             the golden bytes of the new version; those of version {version} stay. If {name} is \
             new, add it by {WRITE}=1"
        );
    }
    let written = golden().len() - READ_ONLY.len();
    assert_eq!(written, entries.len(), "a line of the files is not tested");
}

/// Decodes a golden entry.
fn decodes<T: DeserializeOwned + Debug + PartialEq>(version: u8, name: &str, expected: &T) {
    let bytes = golden_of(version, name);
    let decoded: Option<T> = decode_whole(&bytes);
    assert_eq!(decoded.as_ref(), Some(expected), "{name}");
}

#[test]
fn golden_messages_decode() {
    for message in messages() {
        let version = message.version();
        decodes(version, &format!("message {}", name(&message)), &message);
    }
    for question in questions() {
        let name = format!("question {}", name(&question.topic));
        decodes(version_of(&question.topic), &name, &question);
    }
    for (at, record) in records().iter().enumerate() {
        let version = if at < RECORDS_OF_1 { 1 } else { 2 };
        let framed = golden_of(version, &format!("record {at} {}", name(record)));
        let decoded = decode_whole(&framed[RECORD_HEAD_BYTES..]);
        assert_eq!(decoded.as_ref(), Some(record));
    }
    for version in 1..=PROTOCOL_VERSION {
        let sealed = Seal::sealed(secret(), [7; 16]);
        for (what, seal) in [("plain", Seal::insecure_plaintext()), ("sealed", sealed)] {
            let mut seal = seal.of_cluster("orders");
            let votes = golden_of(version, &format!("{what} Votes"));
            assert_eq!(votes[0], version);
            let (kind, opened) = seal.open(&votes).unwrap();
            assert_eq!(kind, DatagramKind::Votes);
            let (from, taken) = unpack_messages(&opened).unwrap();
            assert_eq!((from, taken), (head(), first_two(version)));
            if version == 1 {
                let gossip = golden_of(1, &format!("{what} Gossip"));
                assert_eq!(seal.open(&gossip).unwrap().0, DatagramKind::Gossip);
            }
        }
    }
}

#[test]
fn golden_journals_are_read() {
    for (format, name) in [(1, "journal"), (2, "journal 2")] {
        let records = match format {
            1 => records().drain(..RECORDS_OF_1).collect(),
            _ => records(),
        };
        let mut expected = crate::journal::Memory::empty(4);
        expected.apply(Record::Started(started()));
        records
            .into_iter()
            .for_each(|record| expected.apply(record));
        // Without marks, all are there.
        expected.apply(Record::MarksWhole);
        let file = golden_of(format, name);
        let opened = open_journal(&file, &owner(), started()).unwrap();
        assert_eq!(
            (&opened.memory, opened.why, opened.torn),
            (&expected, None, 0)
        );
        // A file of the format before is replaced by one with the same memory.
        match opened.change {
            FileChange::Append { keep, .. } => assert_eq!((format, keep), (2, file.len())),
            FileChange::Replace(bytes) => {
                assert_eq!(format, 1);
                let again = open_journal(&bytes, &owner(), started()).unwrap();
                assert_eq!((again.why, again.memory.votes()), (None, 0));
                assert!(again.memory.has_all_marks());
                for key in ["orders/42", "ended"] {
                    let key = Key::new(key).unwrap();
                    assert_eq!(again.memory.fence(&key), expected.fence(&key));
                }
            }
        }
    }
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
            Message::OnceClaim(_) => 27,
            Message::Mark(_) => 28,
            Message::Marked(_) => 29,
            Message::Done(_) => 30,
            Message::MarksQuery(_) => 31,
            Message::MarksPage(_) => 32,
            Message::Note(it) => match *it {
                NoteMessage::OfClaim { .. } => 33,
                NoteMessage::OfHolder { .. } => 34,
                NoteMessage::OfReported { .. } => 35,
            },
            Message::Revoke(_) => 36,
            Message::Revoked(_) => 37,
        });
    }
    assert_eq!(seen.len(), 38);
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
            Record::Mark(_) => 9,
            Record::MarksWhole => 10,
        });
    }
    assert_eq!(seen.len(), 10);
}
