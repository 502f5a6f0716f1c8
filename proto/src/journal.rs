//! The journal of a voter: the records that its next process needs to vote at once, and the file
//! format (`docs/protocol.md`, section 6).
//!
//! A journal is a file of records. Each has its length and a checksum, so that a record which was
//! only partly written is recognized. [`open_journal`] reads a file and returns the memory of the
//! voter. It decides whether that memory counts: a voter whose file may lack votes goes into
//! quarantine.
//!
//! A restored vote lasts its whole ttl from the resume. So no clock is compared across processes,
//! and renewals need no record.
//!
//! This module has no file. The driver writes what [`Output::Persist`](crate::Output::Persist) says,
//! and returns it to the next process.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::epoch::Epoch;
use crate::id::{ClaimId, Incarnation, Key, NodeId};
use crate::time::Instant;
use crate::voter_set::{Timing, VoterSet, fence_bucket_of, quarantine_of};
use crate::wire::codec::{append, decode_whole};

/// The format of journals that this version writes.
pub const JOURNAL_FORMAT: u16 = 2;
/// The format before marks.
const FORMAT_WITHOUT_MARKS: u16 = 1;
const MAGIC: [u8; 8] = *b"lockmesh";
const FILE_HEAD_BYTES: usize = MAGIC.len() + 2;
/// The length and the checksum before each record.
pub(crate) const RECORD_HEAD_BYTES: usize = 8;
const RECORD_BYTES_MAX: usize = 1 << 16;
/// The range from which a process takes its incarnation if the wall clock is behind the journal.
const INCARNATIONS: u64 = 1 << 16;
/// The most fence buckets of a file. A larger number is damage.
const BUCKETS_MAX: u32 = 1 << 20;

/// One record of a journal.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub enum Record {
    /// The node whose journal this is. The first record of every file.
    Owner {
        /// The node.
        node: NodeId,
        /// The name of its cluster.
        cluster: String,
        /// The number of its fence buckets.
        buckets: u32,
    },
    /// A process began, or took a higher incarnation.
    Started(Started),
    /// A datagram of a member in this incarnation was received, and in none that is higher.
    Heard {
        /// The member.
        node: NodeId,
        /// Its incarnation.
        incarnation: Incarnation,
    },
    /// The voter gave its vote, or lengthened it.
    Vote(VoteRecord),
    /// The vote for a key ended, and nobody else has it.
    Ended {
        /// The key.
        key: Key,
    },
    /// The lower bound of one fence bucket.
    Fence {
        /// The number of the bucket.
        bucket: u32,
        /// The bound.
        epoch: Epoch,
    },
    /// A lower bound of all fence buckets.
    AllFences {
        /// The bound.
        epoch: Epoch,
    },
    /// The voter has dropped its votes and goes into quarantine. Their epochs stay as lower bounds of
    /// the fences.
    Forgotten {
        /// The longest time for which a vote that was dropped can last.
        quarantine: Duration,
    },
    /// The voter votes: from here on, the journal has all of its memory.
    Whole,
    /// The process ended in order, and the file was synced.
    Closed,
    /// Since format 2. A key is marked.
    Mark(MarkRecord),
    /// Since format 2. From here on, the journal has all marks that the voter must know.
    MarksWhole,
}

/// The circumstances of a process that keeps a journal.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Started {
    /// The incarnation of the process.
    pub incarnation: Incarnation,
    /// The boot of the machine, or `None` if it is not known. Two unknown boots are never equal.
    pub boot: Option<u128>,
    /// `true` if every record is synced before a message depends on it.
    pub is_synced: bool,
    /// The constants of the voter set.
    pub timing: Timing,
    /// A hash of the members and the number of voters of each key.
    pub voters: u64,
}

impl Started {
    /// Returns the circumstances of a process in this voter set.
    #[must_use]
    pub fn new(
        incarnation: Incarnation,
        boot: Option<u128>,
        is_synced: bool,
        voter_set: &VoterSet,
    ) -> Self {
        Self {
            incarnation,
            boot,
            is_synced,
            timing: *voter_set.timing(),
            voters: voter_set.hash_of_voters(),
        }
    }
}

/// A vote that a voter gave.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct VoteRecord {
    /// The key.
    pub key: Key,
    /// The claim that has the vote.
    pub claim: ClaimId,
    /// The epoch of the claim.
    pub epoch: Epoch,
    /// The newest send time of the claim that the voter had received. If it were not restored, a
    /// late copy of the claim could take the vote back (rule 2).
    pub sent_at: Instant,
    /// The longest ttl that a message of this vote may name, in milliseconds, rounded up.
    pub ttl_ms: u32,
    /// `true` if the claim was known to be granted.
    pub granted: bool,
    /// `true` if the claim outlives its process.
    pub outlives: bool,
}

impl VoteRecord {
    pub(crate) fn ttl(&self) -> Duration {
        Duration::from_millis(u64::from(self.ttl_ms))
    }
}

/// A mark of a voter.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct MarkRecord {
    /// The key.
    pub key: Key,
    /// The node whose claim marked it.
    pub by: NodeId,
    /// The epoch of that claim.
    pub epoch: Epoch,
    /// The time until the mark ends, from `at` on.
    pub remaining: Duration,
    /// The voter's own clock at the time of the record, if it is known. It is compared only with
    /// other records of the same process.
    pub at: Option<Instant>,
}

/// A mark as a journal has it.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct RestoredMark {
    pub(crate) by: NodeId,
    pub(crate) epoch: Epoch,
    /// The time until it ends, in the time that the journal proves to have passed.
    ends: Duration,
}

/// The marks of a journal.
///
/// No clock is compared across processes. Time passes only from one record of a mark to the next of
/// the same process. So a restored mark may last longer, but never if many come after it.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
struct RestoredMarks {
    marks: BTreeMap<Key, RestoredMark>,
    /// The time that is proven to have passed.
    passed: Duration,
    /// The last record of a mark of the present process.
    last: Option<Instant>,
    /// `true` if these are all marks that the voter must know.
    is_whole: bool,
}

impl RestoredMarks {
    fn apply(&mut self, record: MarkRecord) {
        if let (Some(last), Some(at)) = (self.last, record.at) {
            self.passed = self.passed.saturating_add(at.since(last));
        }
        // Records beside a snapshot may be older than its own.
        self.last = self.last.max(record.at);
        let ends = self.passed.saturating_add(record.remaining);
        let (by, epoch) = (record.by, record.epoch);
        let mark = RestoredMark { by, epoch, ends };
        match self.marks.entry(record.key) {
            Entry::Occupied(mut known) => {
                let ends = known.get().ends.max(mark.ends);
                let newest = match known.get().epoch < epoch {
                    true => mark,
                    false => known.get().clone(),
                };
                known.insert(RestoredMark { ends, ..newest });
            }
            Entry::Vacant(free) => {
                free.insert(mark);
            }
        }
    }
}

/// The memory of a voter, as its journal has it.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Memory {
    /// The last incarnation that began.
    pub(crate) incarnation: Incarnation,
    /// `true` if these are all votes of the voter.
    pub(crate) is_whole: bool,
    /// `true` if the voter may have voted, in this file or in one that it replaced.
    pub(crate) has_voted: bool,
    pub(crate) votes: BTreeMap<Key, VoteRecord>,
    marks: RestoredMarks,
    /// The incarnations that were received of each other member.
    pub(crate) heard: BTreeMap<NodeId, HeardIncarnations>,
    /// The lower bounds of the fence buckets.
    pub(crate) fences: Vec<Epoch>,
    /// The longest time for which a vote that the journal may lack can last.
    pub(crate) quarantine: Duration,
    /// The same by the last settings alone.
    own_quarantine: Duration,
    /// The largest `max_drift` of the settings so far, in parts per million.
    drift_ppm: u32,
}

/// The two highest incarnations that were received of a member.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub(crate) struct HeardIncarnations {
    pub(crate) highest: Incarnation,
    pub(crate) before: Incarnation,
}

impl HeardIncarnations {
    /// Returns the records from which [`Memory::apply`] restores them.
    pub(crate) fn records(self, node: &NodeId) -> impl Iterator<Item = Record> {
        let node = node.clone();
        let both = [self.before, self.highest].into_iter();
        both.map(move |incarnation| Record::Heard {
            node: node.clone(),
            incarnation,
        })
    }
}

impl Memory {
    /// Returns the memory of an empty journal for this many fence buckets.
    #[must_use]
    pub fn empty(buckets: usize) -> Self {
        Self {
            fences: vec![Epoch::ZERO; buckets.max(1)],
            ..Self::default()
        }
    }

    /// Returns `true` if the voter may vote with this memory.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Returns the number of votes that are out.
    #[must_use]
    pub fn votes(&self) -> usize {
        self.votes.len()
    }

    /// Returns the last incarnation that the journal names.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Iterates over the votes that are out.
    pub fn all_votes(&self) -> impl Iterator<Item = &VoteRecord> {
        self.votes.values()
    }

    /// Returns the vote that is out for a key.
    #[must_use]
    pub fn vote(&self, key: &Key) -> Option<&VoteRecord> {
        self.votes.get(key)
    }

    /// Returns the fence of a key without a vote.
    #[must_use]
    pub fn fence(&self, key: &Key) -> Epoch {
        let bucket = fence_bucket_of(key, self.fences.len());
        self.fences.get(bucket).copied().unwrap_or_default()
    }

    /// Iterates over the marks: key, node, epoch, and the time until each ends.
    pub(crate) fn marks(&self) -> impl Iterator<Item = (&Key, &RestoredMark, Duration)> {
        let passed = self.marks.passed;
        let marks = self.marks.marks.iter();
        let marks = marks.map(move |(key, mark)| (key, mark, mark.ends.saturating_sub(passed)));
        marks.filter(|(_, _, remaining)| *remaining > Duration::ZERO)
    }

    /// Returns `true` if these are all marks that the voter must know.
    pub(crate) fn has_all_marks(&self) -> bool {
        self.marks.is_whole
    }

    /// Takes the next record of the journal into account.
    pub fn apply(&mut self, record: Record) {
        match record {
            Record::Owner { buckets, .. } => {
                let highest = self.fences.iter().copied().max().unwrap_or_default();
                self.fences.clear();
                self.fences.resize(buckets.max(1) as usize, highest);
            }
            Record::Started(started) => {
                // Another process has another clock.
                self.marks.last = None;
                self.incarnation = started.incarnation;
                // In a quarantine, the longest of all settings since the last vote counts.
                let before = match self.is_whole {
                    true => Duration::ZERO,
                    false => self.quarantine,
                };
                self.own_quarantine = started.timing.quarantine();
                self.quarantine = self.own_quarantine.max(before);
                self.drift_ppm = self.drift_ppm.max(started.timing.max_drift_ppm);
            }
            Record::Heard { node, incarnation } => {
                let heard = self.heard.entry(node).or_default();
                if incarnation > heard.highest {
                    heard.before = std::mem::replace(&mut heard.highest, incarnation);
                }
            }
            Record::Vote(vote) => {
                let key = vote.key.clone();
                let before = self.votes.insert(key, vote);
                before.iter().for_each(|vote| self.raise(vote));
            }
            Record::Ended { key } => {
                let ended = self.votes.remove(&key);
                ended.iter().for_each(|vote| self.raise(vote));
            }
            Record::Fence { bucket, epoch } => {
                if let Some(fence) = self.fences.get_mut(bucket as usize) {
                    *fence = epoch.max(*fence);
                }
            }
            Record::AllFences { epoch } => {
                for fence in &mut self.fences {
                    *fence = epoch.max(*fence);
                }
            }
            Record::Forgotten { quarantine } => {
                self.forget();
                self.quarantine = self.quarantine.max(quarantine);
            }
            Record::Whole => {
                // Every vote of earlier settings is over, or in this journal.
                self.quarantine = self.own_quarantine;
                (self.is_whole, self.has_voted) = (true, true);
            }
            Record::Mark(mark) => self.marks.apply(mark),
            Record::MarksWhole => self.marks.is_whole = true,
            Record::Closed => {}
        }
    }

    fn raise(&mut self, vote: &VoteRecord) {
        let bucket = fence_bucket_of(&vote.key, self.fences.len());
        if let Some(fence) = self.fences.get_mut(bucket) {
            *fence = vote.epoch.max(*fence);
        }
    }

    /// Turns all votes into lower bounds of the fences.
    fn forget(&mut self) {
        for vote in std::mem::take(&mut self.votes).into_values() {
            // The vote may be from a time with a longer `max_ttl`.
            self.quarantine = self
                .quarantine
                .max(quarantine_of(vote.ttl(), self.drift_ppm));
            self.raise(&vote);
        }
        self.is_whole = false;
        self.has_voted = true;
        // The marks stay, but a later one may be missing.
        self.marks.is_whole = false;
    }

    /// Returns the records of this memory for a file that replaces another.
    fn records(&self, is_whole: bool) -> impl Iterator<Item = Record> {
        let heard = self.heard.iter();
        let heard = heard.flat_map(|(node, heard)| heard.records(node));
        let marks = self.marks().map(|(key, mark, remaining)| {
            Record::Mark(MarkRecord {
                key: key.clone(),
                by: mark.by.clone(),
                epoch: mark.epoch,
                remaining,
                at: None,
            })
        });
        let votes = self.votes.values().cloned().map(Record::Vote);
        let quarantine = self.quarantine;
        let end = match (is_whole, self.has_voted) {
            (true, _) => vec![Record::Whole, Record::MarksWhole],
            (false, true) => vec![Record::Forgotten { quarantine }],
            (false, false) => Vec::new(),
        };
        let all = heard.chain(fence_records(&self.fences)).chain(marks);
        all.chain(votes).chain(end)
    }
}

/// Returns the records of fence buckets.
pub(crate) fn fence_records(fences: &[Epoch]) -> impl Iterator<Item = Record> {
    let fences = fences.iter().enumerate();
    let fences = fences.filter(|(_, epoch)| **epoch > Epoch::ZERO);
    fences.map(|(bucket, epoch)| Record::Fence {
        bucket: bucket as u32,
        epoch: *epoch,
    })
}

/// The reason why a voter with a journal starts in quarantine.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum NotMemory {
    /// There is no journal yet.
    New,
    /// The last process ended in quarantine.
    NotWhole,
    /// The machine has restarted since, the file was not closed in order, and its records were not
    /// synced. So it may lack the last votes.
    OtherBoot,
    /// The members or the number of voters of each key have changed.
    OtherVoters,
    /// The file is damaged before its last record.
    Damaged,
}

impl fmt::Display for NotMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::New => "there was none",
            Self::NotWhole => "the last process ended in quarantine",
            Self::OtherBoot => "the machine was restarted before the last records were synced",
            Self::OtherVoters => "the members or voters_per_key have changed",
            Self::Damaged => "it is damaged",
        })
    }
}

/// The reason why a journal cannot be used.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum JournalError {
    /// The file is not a journal.
    #[error("it is not a journal of lockmesh")]
    NotAJournal,
    /// A newer version of this crate wrote the file.
    #[error(
        "its format is {found}, and this version reads {FORMAT_WITHOUT_MARKS} and {JOURNAL_FORMAT}"
    )]
    Format {
        /// The format of the file.
        found: u16,
    },
    /// The file belongs to another node.
    #[error("it belongs to node {node} of cluster {cluster}")]
    OtherOwner {
        /// The node.
        node: NodeId,
        /// Its cluster.
        cluster: String,
    },
}

/// The node that owns a journal.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct JournalOwner {
    /// The node.
    pub node: NodeId,
    /// The name of its cluster.
    pub cluster: String,
    /// The number of its fence buckets.
    pub buckets: usize,
}

impl JournalOwner {
    fn record(&self) -> Record {
        Record::Owner {
            node: self.node.clone(),
            cluster: self.cluster.clone(),
            buckets: u32::try_from(self.buckets.max(1)).unwrap_or(BUCKETS_MAX),
        }
    }
}

/// A journal that was read, and the bytes to write before the process sends its first datagram.
#[derive(Clone, Debug)]
pub struct OpenedJournal {
    /// The memory. If it is not whole, the voter starts in quarantine.
    pub memory: Memory,
    /// The circumstances of the new process. Its incarnation is above all that the journal names.
    pub started: Started,
    /// The change to the file.
    pub change: FileChange,
    /// The reason why the memory is not whole.
    pub why: Option<NotMemory>,
    /// The number of bytes that were cut at the end of the file, because the last record is not
    /// complete.
    pub torn: usize,
}

/// A change to a journal's file. It must be synced before the voter gives its first vote.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum FileChange {
    /// Cut the file to `keep` bytes, and append `bytes`.
    Append {
        /// The length of the complete records.
        keep: usize,
        /// The bytes to append.
        bytes: Vec<u8>,
    },
    /// Replace the file. If the old one is damaged, keep it under another name.
    Replace(Vec<u8>),
}

/// Reads the bytes of a journal, none if there is no file, for a process of `owner` that starts as
/// `started`. If the journal names that incarnation or a higher one, the process takes the next.
///
/// # Errors
/// - [`JournalError::NotAJournal`] if the file is something else.
/// - [`JournalError::Format`] if a newer version wrote it.
/// - [`JournalError::OtherOwner`] if it belongs to another node or cluster.
pub fn open_journal(
    file: &[u8],
    owner: &JournalOwner,
    mut started: Started,
) -> Result<OpenedJournal, JournalError> {
    let read = ReadJournal::of(file, owner)?;
    let why = read.why_not(&started);
    let torn = file.len() - read.len;
    let mut memory = read.memory;
    if !mistaken!(IncarnationFallsBehind) {
        // Two processes that begin with the same journal, one of them with an old copy, must differ,
        // or nobody could tell them apart. The low bits of the wall clock do.
        if started.incarnation <= memory.incarnation {
            let next = memory.incarnation.next().get();
            let next = next.saturating_add(started.incarnation.get() % INCARNATIONS);
            started.incarnation = Incarnation::new(next);
        }
    }
    let change = if why.is_none() && read.format == JOURNAL_FORMAT {
        let mut bytes = Vec::new();
        frame(&Record::Started(started.clone()), &mut bytes);
        let keep = read.len;
        FileChange::Append { keep, bytes }
    } else {
        if why.is_some() && (memory.has_voted || read.is_damaged) {
            memory.forget();
        }
        if memory.fences.len() != owner.buckets.max(1) {
            memory.apply(owner.record());
        }
        let mut bytes = snapshot_head(owner, &started);
        for record in memory.records(why.is_none()) {
            frame(&record, &mut bytes);
        }
        FileChange::Replace(bytes)
    };
    Ok(OpenedJournal {
        memory,
        started,
        change,
        why,
        torn,
    })
}

fn file_head() -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(JOURNAL_FORMAT.to_le_bytes());
    bytes
}

/// Returns the first bytes of a file that replaces another while its process runs.
pub(crate) fn snapshot_head(owner: &JournalOwner, started: &Started) -> Vec<u8> {
    let mut bytes = file_head();
    frame(&owner.record(), &mut bytes);
    frame(&Record::Started(started.clone()), &mut bytes);
    bytes
}

/// Appends a record.
pub(crate) fn frame(record: &Record, bytes: &mut Vec<u8>) {
    let start = bytes.len();
    bytes.extend([0; RECORD_HEAD_BYTES]);
    if append(bytes, record).is_none() {
        // No record has a part that cannot be encoded.
        return bytes.truncate(start);
    }
    let len = (bytes.len() - start - RECORD_HEAD_BYTES) as u32;
    let sum = checksum(&bytes[start + RECORD_HEAD_BYTES..]);
    bytes[start..start + 4].copy_from_slice(&len.to_le_bytes());
    bytes[start + 4..start + 8].copy_from_slice(&sum.to_le_bytes());
}

fn checksum(record: &[u8]) -> u32 {
    crc32fast::hash(record)
}

/// Returns the first record and its length with its head, if it is complete.
fn first_record(bytes: &[u8]) -> Option<(Record, usize)> {
    let (head, rest) = bytes.split_first_chunk::<RECORD_HEAD_BYTES>()?;
    let [a, b, c, d, sum @ ..] = *head;
    let len = u32::from_le_bytes([a, b, c, d]) as usize;
    let record = rest
        .get(..len)
        .filter(|_| (1..=RECORD_BYTES_MAX).contains(&len))?;
    let fits = checksum(record) == u32::from_le_bytes(sum);
    if !fits {
        return None;
    }
    Some((decode_whole(record)?, RECORD_HEAD_BYTES + len))
}

/// Returns the votes that the bytes of a journal name, the present ones and earlier ones.
#[cfg(feature = "testing")]
pub(crate) fn votes_in(file: &[u8]) -> Vec<VoteRecord> {
    let mut at = FILE_HEAD_BYTES;
    let mut votes = Vec::new();
    while let Some((record, len)) = file.get(at..).and_then(first_record) {
        at += len;
        if let Record::Vote(vote) = record {
            votes.push(vote);
        }
    }
    votes
}

/// A journal as far as its records are complete.
#[derive(Debug, Default)]
struct ReadJournal {
    memory: Memory,
    started: Option<Started>,
    is_closed: bool,
    is_damaged: bool,
    /// The length of the complete records.
    len: usize,
    format: u16,
}

impl ReadJournal {
    fn of(file: &[u8], owner: &JournalOwner) -> Result<Self, JournalError> {
        let mut read = Self::default();
        read.memory.apply(owner.record());
        let Some((head, _)) = file.split_first_chunk::<FILE_HEAD_BYTES>() else {
            read.is_damaged = !file.is_empty();
            return match MAGIC.starts_with(&file[..file.len().min(MAGIC.len())]) {
                true => Ok(read),
                false => Err(JournalError::NotAJournal),
            };
        };
        let (magic, format) = head.split_at(MAGIC.len());
        let found = u16::from_le_bytes([format[0], format[1]]);
        if magic != MAGIC {
            return Err(JournalError::NotAJournal);
        }
        if found > JOURNAL_FORMAT {
            return Err(JournalError::Format { found });
        }
        (read.len, read.format) = (FILE_HEAD_BYTES, found);
        while let Some((record, len)) = first_record(&file[read.len..]) {
            let is_first = read.len == FILE_HEAD_BYTES;
            if is_first != matches!(record, Record::Owner { .. }) {
                break;
            }
            read.take(record, owner)?;
            read.len += len;
        }
        // A record that was being written when the machine stopped is the last one. The first two
        // were synced before the file was in place.
        // That version had no marks.
        read.memory.marks.is_whole |= found == FORMAT_WITHOUT_MARKS;
        let rest = &file[read.len..];
        let is_last = !(1..rest.len()).any(|at| first_record(&rest[at..]).is_some());
        read.is_damaged = read.started.is_none() || !is_last;
        Ok(read)
    }

    fn take(&mut self, record: Record, owner: &JournalOwner) -> Result<(), JournalError> {
        match &record {
            Record::Owner {
                node,
                cluster,
                buckets,
            } => {
                if *node != owner.node || *cluster != owner.cluster {
                    return Err(JournalError::OtherOwner {
                        node: node.clone(),
                        cluster: cluster.clone(),
                    });
                }
                if *buckets > BUCKETS_MAX {
                    return Err(JournalError::NotAJournal);
                }
            }
            Record::Started(started) => {
                if started.timing.check().is_err() {
                    return Err(JournalError::NotAJournal);
                }
                self.started = Some(started.clone());
            }
            _ => {}
        }
        let stays = self.is_closed && mistaken!(ClosedMarkStays);
        self.is_closed = stays || matches!(record, Record::Closed);
        self.memory.apply(record);
        Ok(())
    }

    /// Returns the reason why this is not all that the voter must know.
    fn why_not(&self, now: &Started) -> Option<NotMemory> {
        if self.is_damaged {
            return Some(NotMemory::Damaged);
        }
        let Some(before) = &self.started else {
            return Some(NotMemory::New);
        };
        let is_same_boot = before.boot.is_some() && before.boot == now.boot;
        if !self.memory.is_whole && !mistaken!(QuarantineIsMemory) {
            Some(NotMemory::NotWhole)
        } else if before.voters != now.voters {
            Some(NotMemory::OtherVoters)
        } else if is_same_boot || self.is_closed || before.is_synced || mistaken!(OtherBootIsMemory)
        {
            None
        } else {
            Some(NotMemory::OtherBoot)
        }
    }
}
