//! The records that a voter writes to its journal, and its return from one.

use std::sync::Arc;
use std::time::Duration;

use super::recovery::Recovery;
use super::slot::{GivenVote, QueueEntry, WrittenTtl};
use super::table::SlotAt;
use super::{Start, Voter, VoterLimits};
use crate::epoch::Epoch;
use crate::event::{Effects, Event};
use crate::id::{Incarnation, Key, NodeId};
use crate::journal::{Memory, Record, VoteRecord, fence_records};
use crate::message::RefuseReason;
use crate::time::{Instant, Now};
use crate::voter_set::{VoterSet, fence_bucket_of, quarantine_of};

/// The position of the rest of a snapshot.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum SnapshotFrom {
    Slot(SlotAt),
    /// The marks after this key.
    Mark(Option<Key>),
}

impl SnapshotFrom {
    pub(crate) const FIRST: Self = Self::Slot(SlotAt::FIRST);
}

impl Voter {
    /// Creates a voter that keeps a journal, with the memory that the journal has. If that is whole,
    /// the voter resumes once the others confirm that no later journal exists. Otherwise it starts
    /// as [`Voter::new`] does, and the fences of the memory are lower bounds.
    #[must_use]
    pub fn with_journal(
        now: Now,
        me: NodeId,
        (voter_set, limits): (Arc<VoterSet>, VoterLimits),
        (start, memory): (Start, Memory),
        nonce: u64,
        out: &mut Effects,
    ) -> Self {
        let start = match memory.has_voted {
            true => Start::Recovering,
            false => start,
        };
        let start = (start, Some(&memory));
        let recovery = Recovery::new(now, &me, &voter_set, start, nonce, out);
        let mut voter = Self::without_memory(me, voter_set, limits, nonce, recovery);
        voter.keeps_journal = true;
        voter.take_fences(&memory);
        voter.take_marks(now, &memory);
        if memory.is_whole {
            voter.memory = Some(Box::new(memory));
        }
        voter.handle_timeout(now, out);
        voter
    }

    /// Takes the fences of a journal as lower bounds.
    fn take_fences(&mut self, memory: &Memory) {
        if mistaken!(FencesNotRestored) {
            return;
        }
        let highest = memory.fences.iter().copied().max().unwrap_or_default();
        if memory.fences.len() == self.fence_buckets.len() {
            for (bucket, fence) in self.fence_buckets.iter_mut().zip(&memory.fences) {
                *bucket = (*bucket).max(*fence);
            }
        } else {
            self.raise_all(highest);
        }
        self.highest_bucket = self.highest_bucket.max(highest);
    }

    fn raise_all(&mut self, to: Epoch) {
        for bucket in &mut self.fence_buckets {
            *bucket = (*bucket).max(to);
        }
        self.highest_bucket = self.highest_bucket.max(to);
    }

    /// Turns the votes of a journal into lower bounds of the fences.
    pub(super) fn drop_memory(&mut self) {
        let Some(memory) = self.memory.take() else {
            return;
        };
        for vote in memory.votes.values() {
            let bucket = fence_bucket_of(&vote.key, self.fence_buckets.len());
            self.fence_buckets[bucket] = self.fence_buckets[bucket].max(vote.epoch);
            self.highest_bucket = self.highest_bucket.max(vote.epoch);
        }
    }

    /// Drops the memory if recovery has found that the journal is an old copy.
    pub(super) fn forget_if_outdated(&mut self, out: &mut Effects) {
        let resumes = self.recovery.as_ref().is_some_and(Recovery::resumes);
        if self.memory.is_some() && !resumes {
            self.drop_memory();
            self.record_loss(out);
        }
    }

    /// Emits the record that the votes are dropped, if this voter keeps a journal.
    pub(super) fn record_loss(&self, out: &mut Effects) {
        let quarantine = self.recovery.as_ref().map(Recovery::quarantine);
        let quarantine = quarantine.unwrap_or_default();
        self.record(out, || Record::Forgotten { quarantine });
    }

    /// Returns the longest time for which a vote that is out can last, with twice the drift.
    pub(super) fn longest_vote(&self) -> Duration {
        let votes = self.slots.iter().map(|(_, slot)| &slot.vote);
        let longest = votes.map(|vote| vote.expires.since(vote.heard)).max();
        let drift_ppm = self.voter_set.timing().max_drift_ppm;
        longest.map_or(Duration::ZERO, |ttl| quarantine_of(ttl, drift_ppm))
    }

    /// Emits a record, if this voter keeps a journal.
    pub(super) fn record(&self, out: &mut Effects, record: impl FnOnce() -> Record) {
        if self.keeps_journal {
            out.records.push(record());
        }
    }

    /// Writes the vote that is out at a slot, before a message can name it with this ttl.
    pub(super) fn write_vote(&mut self, at: SlotAt, ttl: Duration, out: &mut Effects) {
        self.slots[at].vote.written = WrittenTtl::of(ttl);
        self.record(out, || Record::Vote(self.vote_record(at)));
    }

    fn vote_record(&self, at: SlotAt) -> VoteRecord {
        let slot = &self.slots[at];
        let vote = &slot.vote;
        VoteRecord {
            key: slot.key.clone(),
            claim: vote.claim.clone(),
            epoch: vote.epoch,
            sent_at: vote.sent_at,
            ttl_ms: vote.written.millis(),
            granted: vote.granted,
            outlives: vote.outlives,
        }
    }

    /// Ends recovery if it is over.
    pub(super) fn finish_recovery(&mut self, now: Now, out: &mut Effects) {
        self.forget_if_outdated(out);
        let Some(done) = self.recovery.as_ref().and_then(Recovery::outcome) else {
            return;
        };
        self.recovery = None;
        let memory = self.memory.as_ref();
        let has_all_marks = memory.is_some_and(|memory| memory.has_all_marks());
        if done.resumes {
            let votes = self.resume(now, out);
            out.tell(Event::Resumed {
                votes,
                answers: done.answers,
                is_confirmed: done.is_confirmed,
            });
            if !has_all_marks {
                self.read_marks(now, self.marks_settle(), out);
            }
            return;
        }
        self.raise_all(done.fence);
        self.forgot = done.was_quarantined;
        self.record(out, || Record::AllFences { epoch: done.fence });
        self.record(out, || Record::Whole);
        out.tell(Event::QuarantineEnded {
            answers: done.answers,
            leans_on_wall_clock: done.leans_on_wall_clock,
            knows_clocks: done.knows_clocks,
        });
        match done.was_quarantined {
            true => self.read_marks(now, Duration::ZERO, out),
            false => self.record(out, || Record::MarksWhole),
        }
    }

    /// Restores the votes of the journal, each for its whole ttl. The earlier incarnations of this
    /// node are over. Returns the number of votes.
    fn resume(&mut self, now: Now, out: &mut Effects) -> usize {
        let memory = self.memory.take().unwrap_or_default();
        let count = memory.votes.len();
        for vote in memory.votes.into_values() {
            let ttl = match mistaken!(RestoredVotesAreCut) {
                true => vote.ttl() / 2,
                false => vote.ttl(),
            };
            let fence = self.fence_buckets[fence_bucket_of(&vote.key, self.fence_buckets.len())];
            let entry = QueueEntry {
                claim: vote.claim,
                epoch: vote.epoch,
                ttl,
                sent_at: match mistaken!(SentAtNotRestored) {
                    true => Instant::ZERO,
                    false => vote.sent_at,
                },
                heard: now.mono,
                granted: vote.granted,
                is_try: false,
                outlives: vote.outlives,
            };
            let mut given = GivenVote::new(entry, now.mono.after(ttl));
            given.written = WrittenTtl::of(ttl);
            self.slots.open(vote.key, fence, given);
        }
        let me = self.me.clone();
        self.handle_incarnation(now, &me, Incarnation::new(u64::MAX), out);
        count
    }

    /// Resumes a voter in recovery from the memory that its last incarnation left with others
    /// (rule 35). Returns the number of votes.
    pub(crate) fn take_up(&mut self, now: Now, memory: Memory, out: &mut Effects) -> usize {
        self.recovery = None;
        // It vouches for nobody.
        self.forgot = true;
        self.take_fences(&memory);
        self.take_marks(now, &memory);
        let has_all_marks = memory.has_all_marks();
        for vote in memory.all_votes() {
            self.record(out, || Record::Vote(vote.clone()));
        }
        self.memory = Some(Box::new(memory));
        let votes = self.resume(now, out);
        // Before the records, which say whether all marks are there.
        if !has_all_marks {
            self.read_marks(now, self.marks_settle(), out);
        }
        if self.keeps_journal {
            self.marks
                .snapshot(now.mono, None, usize::MAX, &mut out.records);
            self.snapshot_end(true, &mut out.records);
        }
        votes
    }

    /// Returns the newest send time of the claim that has the vote for a key.
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn sent_at(&self, key: &Key) -> Option<Instant> {
        self.slots.of(key).map(|slot| slot.vote.sent_at)
    }

    /// Stops voting for this reason, or votes again. The votes that are out stay. They are not
    /// lengthened, and their ends give the vote to nobody.
    pub(crate) fn close(&mut self, reason: Option<RefuseReason>) {
        self.closed = reason;
    }

    /// Returns the reason for which the voter does not vote outside of recovery.
    #[must_use]
    pub fn closed(&self) -> Option<RefuseReason> {
        self.closed
    }

    /// Returns the records of up to `many` slots or marks from a position on, for a journal that
    /// replaces another, and the position of the rest. The last part has the fences.
    pub(crate) fn snapshot_part(
        &self,
        now: Instant,
        from: SnapshotFrom,
        many: usize,
        out: &mut Vec<Record>,
    ) -> Option<SnapshotFrom> {
        let mut at = match from {
            SnapshotFrom::Slot(at) => at,
            SnapshotFrom::Mark(after) => {
                let last = self.marks.snapshot(now, after.as_ref(), many, out);
                if last.is_none() {
                    self.snapshot_end(true, out);
                }
                return last.map(|last| SnapshotFrom::Mark(Some(last)));
            }
        };
        for _ in 0..many {
            if !self.slots.has_places_from(at) {
                return Some(SnapshotFrom::Mark(None));
            }
            if let Some(slot) = self.slots.get(at) {
                let bucket = fence_bucket_of(&slot.key, self.fence_buckets.len());
                if slot.fence > self.fence_buckets[bucket] {
                    let bucket = bucket as u32;
                    let epoch = slot.fence;
                    out.push(Record::Fence { bucket, epoch });
                }
                out.push(Record::Vote(self.vote_record(at)));
            }
            at = at.next();
        }
        Some(SnapshotFrom::Slot(at))
    }

    /// Returns the records of all that the next incarnation needs (rule 32). If votes and marks
    /// together are too many, the marks are left out.
    pub(crate) fn handover(&self, now: Instant, out: &mut Vec<Record>) {
        let has_marks = self.slots() + self.marks() <= self.limits.handover_votes_max;
        let mut rest = Some(SnapshotFrom::FIRST);
        while let Some(from) = rest {
            rest = match from {
                SnapshotFrom::Mark(_) if !has_marks => {
                    self.snapshot_end(false, out);
                    None
                }
                from => self.snapshot_part(now, from, usize::MAX, out),
            };
        }
    }

    fn snapshot_end(&self, has_marks: bool, out: &mut Vec<Record>) {
        if has_marks {
            self.snapshot_marks_end(out);
        }
        out.extend(fence_records(&self.fence_buckets));
        let Some(recovery) = &self.recovery else {
            return out.push(Record::Whole);
        };
        if let Some(memory) = &self.memory {
            out.extend(memory.votes.values().cloned().map(Record::Vote));
            out.push(Record::Whole);
            if memory.has_all_marks() {
                out.push(Record::MarksWhole);
            }
        } else if recovery.is_quarantined() {
            // The next process must not start as part of a new cluster.
            let quarantine = recovery.quarantine();
            out.push(Record::Forgotten { quarantine });
        }
    }
}
