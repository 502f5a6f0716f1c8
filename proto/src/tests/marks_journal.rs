//! Marks in the journal of a voter.

use std::collections::BTreeMap;

use super::marks_rules::{mark, named};
use super::*;
use crate::journal::{
    FileChange, JournalOwner, MarkRecord, Memory, NotMemory, OpenedJournal, Record, Started, frame,
    open_journal, snapshot_head,
};
use crate::voter::SnapshotFrom;

const KEPT_MS: u64 = 61_200;
const RECOVERED: [&str; 2] = ["v2", "v3"];

fn owner() -> JournalOwner {
    JournalOwner {
        node: node("v1"),
        cluster: "c".to_owned(),
        buckets: 16,
    }
}

fn started(incarnation: u64) -> Started {
    Started::new(
        Incarnation::new(incarnation),
        Some(1),
        false,
        &voter_set(3, 3),
    )
}

/// A file of this process with these records.
fn file(incarnation: u64, records: &[Record]) -> Vec<u8> {
    let mut bytes = snapshot_head(&owner(), &started(incarnation));
    records.iter().for_each(|record| frame(record, &mut bytes));
    bytes
}

fn opened(bytes: &[u8]) -> OpenedJournal {
    open_journal(bytes, &owner(), started(100)).unwrap()
}

fn record(name: &str, remaining_ms: u64, at_ms: Option<u64>) -> Record {
    Record::Mark(MarkRecord {
        key: named(name),
        by: node("a"),
        epoch: Epoch::new(5),
        remaining: ms(remaining_ms),
        at: at_ms.map(instant),
    })
}

/// Returns the marks of a memory, and the time until each ends in milliseconds.
fn left(memory: &Memory) -> BTreeMap<String, u64> {
    let marks = memory.marks();
    let marks = marks.map(|(key, _, left)| (key.to_string(), left.as_millis() as u64));
    marks.collect()
}

fn expected(marks: &[(&str, u64)]) -> BTreeMap<String, u64> {
    marks
        .iter()
        .map(|(name, left)| ((*name).to_owned(), *left))
        .collect()
}

fn applied(records: Vec<Record>) -> Memory {
    let mut memory = Memory::empty(16);
    records.into_iter().for_each(|record| memory.apply(record));
    memory
}

#[test]
fn restored_marks_age_by_later_marks_of_one_process() {
    let records = vec![
        record("a", 60_000, Some(1_000)),
        record("b", 5_000, Some(2_000)),
        record("c", 60_000, Some(11_000)),
    ];
    let memory = applied(records);
    assert_eq!(left(&memory), expected(&[("a", 50_000), ("c", 60_000)]));
}

/// No clock is compared across processes, wherever it starts.
#[test]
fn restored_marks_never_age_by_another_clock() {
    for begins in [0, 5_000, 1_000_000_000] {
        let memory = applied(vec![
            Record::Started(started(1)),
            record("a", 60_000, Some(900_000)),
            Record::Started(started(2)),
            record("b", 60_000, Some(begins)),
        ]);
        assert_eq!(
            left(&memory),
            expected(&[("a", 60_000), ("b", 60_000)]),
            "{begins}"
        );
        let mut memory = memory;
        memory.apply(record("c", 60_000, Some(begins + 10_000)));
        let all = expected(&[("a", 50_000), ("b", 50_000), ("c", 60_000)]);
        assert_eq!(left(&memory), all, "{begins}");
    }
}

/// A snapshot and the records beside it need not be in the order of their times.
#[test]
fn time_is_not_counted_twice_if_records_are_out_of_order() {
    let memory = applied(vec![
        record("a", 60_000, Some(10_000)),
        record("b", 60_000, Some(1_000)),
        record("c", 60_000, Some(10_000)),
        record("d", 60_000, Some(2_000)),
        record("e", 60_000, Some(12_000)),
    ]);
    assert_eq!(left(&memory)["a"], 58_000);
}

#[test]
fn later_record_of_a_mark_only_lengthens() {
    let newer = Record::Mark(MarkRecord {
        by: node("b"),
        epoch: Epoch::new(6),
        ..match record("a", 1_000, Some(1_000)) {
            Record::Mark(mark) => mark,
            _ => unreachable!(),
        }
    });
    let memory = applied(vec![record("a", 60_000, Some(1_000)), newer]);
    assert_eq!(left(&memory), expected(&[("a", 60_000)]));
    let (_, mark, _) = memory.marks().next().unwrap();
    assert_eq!((&mark.by, mark.epoch), (&node("b"), Epoch::new(6)));
    let memory = applied(vec![
        record("a", 1_000, Some(1_000)),
        record("a", 60_000, Some(1_000)),
    ]);
    assert_eq!(left(&memory), expected(&[("a", 60_000)]));
}

/// Returns the first bytes of a file in the format before marks.
fn before_marks(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[8..10].copy_from_slice(&1u16.to_le_bytes());
    bytes
}

#[test]
fn file_before_marks_is_replaced_and_has_all_marks() {
    let vote = Record::Vote(crate::journal::VoteRecord {
        key: key(),
        claim: id("a"),
        epoch: Epoch::new(5),
        sent_at: instant(1),
        ttl_ms: 10_000,
        granted: true,
        outlives: false,
    });
    let old = before_marks(file(1, &[Record::Whole, vote]));
    let it = opened(&old);
    assert_eq!((it.why, it.torn), (None, 0));
    assert!(it.memory.has_all_marks());
    let FileChange::Replace(new) = it.change else {
        panic!("it is replaced");
    };
    let again = opened(&new);
    assert_eq!(again.why, None);
    assert!(again.memory.has_all_marks());
    assert_eq!(again.memory.votes(), 1);
    assert!(matches!(again.change, FileChange::Append { .. }));
    // A quarantine still costs the marks of the others.
    let it = opened(&before_marks(file(1, &[])));
    assert_eq!(it.why, Some(NotMemory::NotWhole));
    let FileChange::Replace(new) = it.change else {
        panic!("it is replaced");
    };
    assert!(!opened(&new).memory.has_all_marks());
}

#[test]
fn newer_format_is_refused() {
    let mut bytes = file(1, &[Record::Whole]);
    bytes[8] = 3;
    let refused = open_journal(&bytes, &owner(), started(2));
    assert!(matches!(
        refused,
        Err(crate::JournalError::Format { found: 3 })
    ));
}

/// A file is cut at every byte, and each bit of it is changed. No mark appears that was not made,
/// and a file with fewer marks is not said to have all, unless the end alone is cut.
#[test]
fn torn_and_damaged_files_never_gain_marks() {
    let records = [
        Record::Whole,
        Record::MarksWhole,
        record("a", 60_000, Some(1_000)),
        record("b", 60_000, Some(1_000)),
        record("c", 60_000, Some(1_000)),
    ];
    let whole = file(1, &records);
    let all = left(&opened(&whole).memory);
    assert_eq!(all.len(), 3);
    for keep in 0..whole.len() {
        let it = opened(&whole[..keep]);
        assert!(left(&it.memory).keys().all(|key| all.contains_key(key)));
        if it.why.is_some() {
            assert!(!it.memory.has_all_marks(), "{keep}");
        }
    }
    for bit in 80..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let Ok(it) = open_journal(&bytes, &owner(), started(100)) else {
            continue;
        };
        let marks = left(&it.memory);
        assert!(
            marks.iter().all(|(key, left)| all.get(key) == Some(left)),
            "{bit}"
        );
        let lacks = marks.len() < all.len() && !marks.contains_key("c");
        if marks.contains_key("a") && lacks && it.why.is_none() {
            // Only the last record can be torn.
            assert!(marks.contains_key("b"), "{bit}");
        }
        if it.why.is_some() {
            assert!(!it.memory.has_all_marks(), "{bit}");
        }
    }
}

/// Starts `v1` with a journal, at a clock of its own.
fn resuming(now: Now, bytes: &[u8], limits: VoterLimits) -> (Booth, Effects) {
    let mut out = Effects::default();
    let it = opened(bytes);
    let start = (Start::Recovering, it.memory);
    let set = (voter_set(3, 3), limits);
    let mut voter = Voter::with_journal(now, node("v1"), set, start, 70, &mut out);
    for other in RECOVERED {
        let reply = recovery_rules::memory(70, Epoch::ZERO, true, true);
        voter.handle_recovery_reply(now, &node(other), &reply, &mut out);
    }
    (Booth { voter }, out)
}

fn queries(out: &Effects) -> usize {
    let is_query = |message: &Message| matches!(message, Message::MarksQuery(_));
    out.messages.iter().filter(|(_, it)| is_query(it)).count()
}

#[test]
fn restarted_voter_has_its_marks_for_their_time_at_most_again() {
    let mut records = vec![Record::Whole, Record::MarksWhole];
    records.push(record("k", KEPT_MS, Some(900_000)));
    let (mut booth, out) = resuming(at(50), &file(1, &records), VoterLimits::default());
    assert_eq!(booth.voter.quarantine(), None);
    assert_eq!((queries(&out), booth.voter.reads_marks()), (0, false));
    let end = 50 + KEPT_MS;
    let done = booth.hears(end - 1, &claim("b", 9, 1));
    assert_eq!(done, ["b Done by a e5 for 1"]);
    assert_eq!(booth.hears(end, &claim("b", 9, 2)), ["b Vote 2+10000"]);
}

#[test]
fn journal_without_all_marks_is_completed_by_others() {
    let records = [Record::Whole, record("k", KEPT_MS, Some(900_000))];
    let (mut booth, out) = resuming(at(50), &file(1, &records), VoterLimits::default());
    assert_eq!(booth.voter.quarantine(), None, "it votes at once");
    assert_eq!((queries(&out), booth.voter.reads_marks()), (0, true));
    assert!(booth.voter.is_marked(at(51), &key()));
    let refused = booth.does(|voter, out| voter.handle_once_claim(at(51), &claim("b", 9, 1), out));
    assert_eq!(refused, ["b Refuse Marks"]);
    // Later than an answer of an earlier incarnation counts.
    let reads_at = 50 + recovery_rules::QUARANTINE_MS;
    for (now, asked) in [(reads_at - 1, 0), (reads_at, 2)] {
        let mut out = Effects::default();
        booth.voter.handle_timeout(at(now), &mut out);
        assert_eq!((queries(&out), booth.voter.reads_marks()), (asked, true));
    }
}

/// The limit may have been lowered since. What the voter has promised, it keeps.
#[test]
fn restored_marks_are_kept_beyond_the_limit() {
    let mut records = vec![Record::Whole, Record::MarksWhole];
    records.extend((0..10).map(|n| record(&format!("tick {n}"), KEPT_MS, Some(1))));
    let limits = VoterLimits {
        marks_max: 3,
        ..VoterLimits::default()
    };
    let (mut booth, _) = resuming(at(50), &file(1, &records), limits);
    assert_eq!(booth.voter.marks(), 10);
    booth.hears(51, &granted(claim("a", 9, 1)));
    assert_eq!(booth.hears_mark(52, &mark("a", 52)), ["a Marked 52 full"]);
}

/// Each part has at most 1,000 records.
#[test]
fn snapshot_in_parts_has_each_mark_once() {
    for count in [0, 1, 999, 1_000, 1_001, 2_000, 2_500] {
        let mut booth = Booth::new();
        for n in 0..count {
            booth.marks(0, &format!("tick {n}"));
        }
        let held = Claim {
            key: named("held"),
            ..granted(claim("a", 9, 1))
        };
        booth.hears(1, &held);
        let mut part = Some(SnapshotFrom::FIRST);
        let mut records = Vec::new();
        while let Some(from) = part {
            let mut some = Vec::new();
            part = booth
                .voter
                .snapshot_part(instant(200), from, 1_000, &mut some);
            let of_slots = |it: &&Record| matches!(it, Record::Vote(_) | Record::Mark(_));
            assert!(some.iter().filter(of_slots).count() <= 1_000);
            records.extend(some);
        }
        let marks = records.iter().filter(|it| matches!(it, Record::Mark(_)));
        assert_eq!(marks.count(), count);
        let ends = |end: &Record| records.iter().filter(|it| *it == end).count();
        assert_eq!((ends(&Record::Whole), ends(&Record::MarksWhole)), (1, 1));
        let memory = applied(records);
        assert_eq!((memory.marks().count(), memory.votes()), (count, 1));
        assert!(memory.is_whole() && memory.has_all_marks());
        assert!(memory.marks().all(|(_, _, left)| left == ms(KEPT_MS - 200)));
    }
}

/// A snapshot that is taken while the voter reads is not said to have all.
#[test]
fn snapshot_of_reading_voter_lacks_marks() {
    let records = [Record::Whole, record("k", KEPT_MS, Some(900_000))];
    let (booth, _) = resuming(at(50), &file(1, &records), VoterLimits::default());
    let mut records = Vec::new();
    let mut part = Some(SnapshotFrom::FIRST);
    while let Some(from) = part {
        part = booth
            .voter
            .snapshot_part(instant(60), from, 1_000, &mut records);
    }
    let memory = applied(records);
    assert!(memory.is_whole() && !memory.has_all_marks());
    assert_eq!(left(&memory), expected(&[("k", KEPT_MS - 10)]));
}
