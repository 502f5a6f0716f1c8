//! The marks of a voter: keys that nobody is granted until their marks end, since the work that they
//! stand for is done (protocol, "Marks").
//!
//! A mark outlives the vote of the claim that made it. So a voter that has lost its memory may vote
//! for a key that a quorum has marked. Before it votes for claims that ask for marks, it reads the
//! marks of the other voters.
//!
//! Rejected: an index of the marks by their ends. It would take a third more memory for a mark. A
//! sweep reads all marks once in a minute, if one has ended.

use std::collections::BTreeMap;
use std::time::Duration;

use super::kept_marks::{KeptMark, KeptMarks};
use super::{Voter, VoterCtx};
use crate::event::{Effects, Event};
use crate::id::{ClaimId, Key, NodeId};
use crate::journal::{MarkRecord, Memory, Record};
use crate::message::{Done, Mark, MarkEntry, Marked, MarksPage, MarksQuery, Message, PageEnd};
use crate::time::{Instant, Now, earliest};
use crate::voter_set::{Timing, VoterSet, quarantine_of};

/// The default limit of the marks of a voter.
pub const MARKS_MAX: usize = 100_000;
/// The longest time for which a key can be marked.
pub const MARK_KEEP_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// The longest time that a mark can remain at a voter, since drift makes it longer.
pub(crate) const MARK_REMAINS_MAX: Duration = MARK_KEEP_MAX.saturating_mul(2);
/// The least time between two sweeps of the marks that have ended.
const SWEEP: Duration = Duration::from_secs(60);
/// The time without a page after which a voter that cannot read the marks of enough others goes on
/// without.
const READ_MAX: Duration = Duration::from_secs(10);
/// The time after which a voter that has not all of its marks is asked again.
const READ_AGAIN: Duration = Duration::from_secs(1);
/// The bytes of the marks in one page, which has two keys and two nodes beside them.
const PAGE_BYTES: usize = 640;
/// The bytes of a mark in a page, beside its key and its node.
const ENTRY_BYTES: usize = 32;
/// The most pages that one query is answered with.
const PAGES_MAX: usize = 16;

/// Returns the record of a mark.
fn record_of(now: Instant, key: Key, mark: KeptMark) -> Record {
    Record::Mark(MarkRecord {
        key,
        by: mark.by,
        epoch: mark.epoch,
        remaining: mark.ends.since(now),
        at: Some(now),
    })
}

/// The marks of one other voter, as far as they are read.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
struct Cursor {
    /// The last key that was read.
    after: Option<Key>,
    /// `true` if a page came from a voter that had not all of its marks.
    is_partial: bool,
    is_read: bool,
    /// The time of the next query.
    due: Instant,
}

/// The state of a voter that reads the marks of the others.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Reading {
    nonce: u64,
    deadline: Instant,
    /// The number of voters whose marks must be read.
    needed: usize,
    /// `true` if a mark was dropped for lack of room.
    is_full: bool,
    cursors: BTreeMap<NodeId, Cursor>,
}

/// The marks of a voter.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Marks {
    marks: KeptMarks,
    max: usize,
    /// The time before which no mark ends.
    first_ends: Instant,
    /// The time of the next sweep; [`Instant::FAR`] if there are no marks.
    sweep: Instant,
    /// `None` if the voter has all marks that it must know.
    reading: Option<Reading>,
    /// Differs from start to start, and rises with each reading.
    nonce: u64,
}

impl Marks {
    pub(super) fn new(max: usize, nonce: u64) -> Self {
        Self {
            marks: KeptMarks::default(),
            max,
            first_ends: Instant::FAR,
            sweep: Instant::FAR,
            reading: None,
            nonce,
        }
    }

    /// Returns the marks for the next start of the voter. A mark is true whoever forgot what.
    pub(super) fn of_next_start(&mut self, nonce: u64) -> Self {
        let none = Self::new(self.max, nonce);
        let marks = std::mem::replace(self, none);
        Self {
            reading: None,
            nonce,
            ..marks
        }
    }

    pub(super) fn len(&self) -> usize {
        self.marks.len()
    }

    /// Returns `true` if there is no room for another mark.
    pub(super) fn is_full(&self, now: Now) -> bool {
        self.marks.len() >= self.max && now.mono < self.first_ends
    }

    /// Returns `true` while the voter reads the marks of the others.
    pub(super) fn is_reading(&self) -> bool {
        self.reading.is_some()
    }

    fn of(&self, now: Now, key: &Key) -> Option<KeptMark> {
        self.marks.get(key).filter(|mark| now.mono < mark.ends)
    }

    /// Returns the answer to a claim for a marked key.
    fn done(&self, now: Now, key: &Key, claim: &ClaimId) -> Option<Message> {
        let mark = self.of(now, key)?;
        Some(Message::Done(Done {
            claim: claim.clone(),
            by: mark.by,
            epoch: mark.epoch,
            remaining: mark.ends.since(now.mono),
        }))
    }

    /// Inserts a mark, or lets it end later. Returns `false` if there is no room.
    fn insert(&mut self, now: Now, key: &Key, mark: KeptMark) -> bool {
        let is_full = |marks: &Self| marks.marks.len() >= marks.max;
        if is_full(self) && self.marks.get(key).is_none() {
            if now.mono >= self.first_ends {
                self.remove_ended(now);
            }
            if is_full(self) {
                return false;
            }
        }
        self.insert_beyond_max(now, key, mark);
        true
    }

    /// Inserts a mark that this voter has promised already.
    fn insert_beyond_max(&mut self, now: Now, key: &Key, mark: KeptMark) {
        self.first_ends = self.first_ends.min(mark.ends);
        self.sweep = self.sweep.min(now.mono.after(SWEEP));
        let known = self.marks.get(key).unwrap_or_else(|| mark.clone());
        let ends = known.ends.max(mark.ends);
        let newest = match known.epoch < mark.epoch {
            true => mark,
            false => known,
        };
        self.marks.put(key, &KeptMark { ends, ..newest });
    }

    fn remove_ended(&mut self, now: Now) {
        if now.mono >= self.first_ends {
            self.first_ends = self.marks.remove_ended(now.mono);
        }
        self.sweep = match self.marks.is_empty() {
            true => Instant::FAR,
            false => now.mono.after(SWEEP),
        };
    }

    /// Returns the records of up to `many` marks after a key, and the last key if there may be more.
    pub(super) fn snapshot(
        &self,
        now: Instant,
        after: Option<&Key>,
        many: usize,
        out: &mut Vec<Record>,
    ) -> Option<Key> {
        let mut rest = self.marks.after(after);
        let mut last = None;
        for (key, mark) in rest.by_ref().take(many) {
            last = Some(key.clone());
            out.push(record_of(now, key, mark));
        }
        rest.next()?;
        last
    }

    /// Returns the pages after a key, for another voter.
    fn pages(&self, now: Now, query: &MarksQuery, is_whole: bool) -> Vec<MarksPage> {
        let mut rest = self.marks.after(query.after.as_ref()).peekable();
        let mut pages = Vec::new();
        let mut after = query.after.clone();
        loop {
            let mut page = MarksPage {
                nonce: query.nonce,
                after: after.clone(),
                marks: Vec::new(),
                end: PageEnd::More,
                is_whole,
            };
            let mut bytes = 0;
            let mut fits = |(key, mark): &(Key, KeptMark)| {
                let is_first = bytes == 0;
                bytes += key.as_str().len() + mark.by.as_str().len() + ENTRY_BYTES;
                is_first || bytes <= PAGE_BYTES
            };
            while let Some((key, mark)) = rest.next_if(&mut fits) {
                page.marks.push(MarkEntry {
                    key,
                    by: mark.by,
                    epoch: mark.epoch,
                    remaining: mark.ends.since(now.mono),
                });
            }
            after = page.marks.last().map(|mark| mark.key.clone());
            if rest.peek().is_none() {
                page.end = PageEnd::Last;
            } else if pages.len() + 1 == PAGES_MAX {
                page.end = PageEnd::Query;
            }
            let is_end = page.end != PageEnd::More;
            pages.push(page);
            if is_end {
                return pages;
            }
        }
    }
}

impl Reading {
    fn is_done(&self) -> bool {
        let read = self.cursors.values().filter(|it| it.is_read).count();
        read >= self.needed
    }

    fn next_timeout(&self) -> Instant {
        let open = self.cursors.values().filter(|it| !it.is_read);
        open.map(|it| it.due).fold(self.deadline, Instant::min)
    }
}

/// Returns the number of others whose marks a voter must read: all but `quorum - 2`. A quorum that
/// marked a key has `quorum - 1` others.
fn needed(voter_set: &VoterSet) -> usize {
    let others = voter_set.members().len() - 1;
    (others + 2).saturating_sub(voter_set.quorum())
}

/// Returns the time for which a voter keeps a mark, so that it does not end before `span` has passed
/// by any other clock.
fn kept_for(timing: &Timing, span: Duration) -> Duration {
    if mistaken!(MarksDrift) {
        return span;
    }
    // Bounded, or a mark that voters read from each other could grow until its pages are dropped.
    quarantine_of(span, timing.max_drift_ppm).min(MARK_REMAINS_MAX)
}

impl Voter {
    /// Handles a `Mark`: rule 36.
    pub fn handle_mark(&mut self, now: Now, msg: &Mark, out: &mut Effects) {
        if self.recovery.is_some() || self.closed.is_some() {
            return;
        }
        let cx = &mut self.ctx(now, out);
        let Some(at) = self.settled(cx, &msg.key) else {
            return;
        };
        let vote = &self.slots[at].vote;
        if vote.claim != msg.claim {
            return;
        }
        let span = kept_for(&cx.timing, msg.keep_for);
        let mark = KeptMark {
            by: msg.claim.node.clone(),
            epoch: vote.epoch,
            ends: now.mono.after(span),
        };
        let is_kept = self.marks.insert(now, &msg.key, mark);
        if is_kept {
            self.record_mark(now, &msg.key, cx.out);
        }
        cx.out.send(
            &msg.claim.node,
            Message::Marked(Marked {
                claim: msg.claim.clone(),
                sent_at: msg.sent_at,
                is_kept,
            }),
        );
        if is_kept {
            self.end_queue(now, &msg.key, out);
        }
    }

    /// Ends the wait of all claims for a marked key.
    fn end_queue(&mut self, now: Now, key: &Key, out: &mut Effects) {
        if mistaken!(MarkedQueueServed) {
            return;
        }
        let slot = self.slots.find(key).map(|at| &mut self.slots[at]);
        for waiter in slot.map_or_else(Vec::new, |slot| slot.take_waiters(|_| true)) {
            let done = self.marks.done(now, key, &waiter.claim);
            let done = done.map(|done| (waiter.claim.node.clone(), done));
            out.messages.extend(done);
        }
    }

    fn record_mark(&self, now: Now, key: &Key, out: &mut Effects) {
        if let Some(mark) = self.marks.marks.get(key) {
            self.record(out, || record_of(now.mono, key.clone(), mark));
        }
    }

    /// Handles the query of a voter that reads the marks of the others.
    pub fn handle_marks_query(&self, now: Now, from: &NodeId, msg: &MarksQuery, out: &mut Effects) {
        let is_whole = self.recovery.is_none() && !self.marks.is_reading();
        for page in self.marks.pages(now, msg, is_whole) {
            out.send(from, Message::MarksPage(Box::new(page)));
        }
    }

    /// Handles a page of another voter's marks: rule 37.
    pub fn handle_marks_page(
        &mut self,
        now: Now,
        from: &NodeId,
        msg: &MarksPage,
        out: &mut Effects,
    ) {
        let Some(mut reading) = self.marks.reading.take_if(|it| it.nonce == msg.nonce) else {
            return;
        };
        let timing = *self.voter_set.timing();
        let cursor = reading.cursors.get_mut(from);
        if let Some(cursor) = cursor.filter(|it| it.after == msg.after && !it.is_read) {
            // The others have marks of keys for which this voter does not vote.
            let (voter_set, me) = (self.voter_set.clone(), self.me.clone());
            let own = |it: &&MarkEntry| voter_set.votes_for(&me, &it.key);
            for entry in msg.marks.iter().filter(own) {
                let span = kept_for(&timing, entry.remaining);
                let mark = KeptMark {
                    by: entry.by.clone(),
                    epoch: entry.epoch,
                    ends: now.mono.after(span),
                };
                if self.marks.insert(now, &entry.key, mark) {
                    self.record_mark(now, &entry.key, out);
                    self.end_queue(now, &entry.key, out);
                } else {
                    reading.is_full = true;
                }
            }
            cursor.is_partial |= !msg.is_whole;
            if msg.is_whole && msg.end != PageEnd::Last {
                reading.deadline = now.mono.after(READ_MAX);
            }
            if let Some(last) = msg.marks.last() {
                cursor.after = Some(last.key.clone());
            }
            cursor.due = now.mono.after(timing.round_trip * 2);
            match msg.end {
                PageEnd::More => {}
                PageEnd::Query => cursor.due = now.mono,
                PageEnd::Last if cursor.is_partial && !mistaken!(PartialMarksSuffice) => {
                    *cursor = Cursor {
                        due: now.mono.after(READ_AGAIN),
                        ..Cursor::default()
                    };
                }
                PageEnd::Last => cursor.is_read = true,
            }
        }
        self.marks.reading = Some(reading);
        self.go_on_reading(now, out);
    }

    /// Returns the time after which the answers of earlier incarnations to a `Mark` count no more. A
    /// quorum has each mark that was told by then.
    pub(super) fn marks_settle(&self) -> Duration {
        self.voter_set.timing().quarantine()
    }

    /// Begins to read the marks of the others, after a delay.
    pub(super) fn read_marks(&mut self, now: Now, delay: Duration, out: &mut Effects) {
        if mistaken!(MarksNotRead) {
            return;
        }
        self.marks.nonce = self.marks.nonce.wrapping_add(1);
        let others = self.voter_set.members().iter();
        let others = others.filter(|member| **member != self.me);
        let cursor = Cursor {
            due: now.mono.after(delay),
            ..Cursor::default()
        };
        let cursors: BTreeMap<_, _> = others.map(|it| (it.clone(), cursor.clone())).collect();
        let needed = match mistaken!(OneMarksReplyFewer) {
            true => needed(&self.voter_set).saturating_sub(1),
            false => needed(&self.voter_set),
        };
        let wait = match cursors.len() < needed {
            true => Duration::ZERO,
            false => delay + READ_MAX,
        };
        self.marks.reading = Some(Reading {
            nonce: self.marks.nonce,
            deadline: now.mono.after(wait),
            needed,
            is_full: false,
            cursors,
        });
        self.go_on_reading(now, out);
    }

    /// Sends the queries that are due, and ends the reading if enough is read or time is up.
    fn go_on_reading(&mut self, now: Now, out: &mut Effects) {
        let Some(reading) = &mut self.marks.reading else {
            return;
        };
        let may_lack = !reading.is_done() || reading.is_full;
        if reading.is_done() || now.mono >= reading.deadline {
            self.marks.reading = None;
            self.record(out, || Record::MarksWhole);
            let marks = self.marks.len();
            out.tell(Event::MarksRead { marks, may_lack });
            return;
        }
        let again = now.mono.after(self.voter_set.timing().round_trip * 2);
        for (node, cursor) in &mut reading.cursors {
            if cursor.is_read || now.mono < cursor.due {
                continue;
            }
            cursor.due = again;
            let query = MarksQuery {
                nonce: reading.nonce,
                after: cursor.after.clone(),
            };
            out.send(node, Message::MarksQuery(query));
        }
    }

    pub(super) fn handle_marks_timeout(&mut self, now: Now, out: &mut Effects) {
        if now.mono >= self.marks.sweep {
            self.marks.remove_ended(now);
            // So that time passes in the journal, where only such records prove it.
            if let Some((key, mark)) = self.marks.marks.after(None).next() {
                self.record(out, || record_of(now.mono, key, mark));
            }
        }
        self.go_on_reading(now, out);
    }

    pub(super) fn next_marks_timeout(&self) -> Option<Instant> {
        let sweep = (self.marks.sweep != Instant::FAR).then_some(self.marks.sweep);
        let reading = self.marks.reading.as_ref().map(Reading::next_timeout);
        earliest([sweep, reading])
    }

    /// Takes the marks of a journal.
    pub(super) fn take_marks(&mut self, now: Now, memory: &Memory) {
        if mistaken!(MarksNotRestored) {
            return;
        }
        for (key, mark, remaining) in memory.marks() {
            let mark = KeptMark {
                by: mark.by.clone(),
                epoch: mark.epoch,
                ends: now.mono.after(remaining),
            };
            // The limit may be lower than before.
            self.marks.insert_beyond_max(now, key, mark);
        }
    }

    /// Adds the end of a snapshot of the marks.
    pub(super) fn snapshot_marks_end(&self, out: &mut Vec<Record>) {
        if self.recovery.is_none() && !self.marks.is_reading() {
            out.push(Record::MarksWhole);
        }
    }

    /// Returns `true` if this voter refuses claims that ask for marks, until it has read those of
    /// the others.
    #[must_use]
    pub fn reads_marks(&self) -> bool {
        self.marks.is_reading()
    }

    /// Returns the number of marks. Some of them may have ended within the last minute.
    #[must_use]
    pub fn marks(&self) -> usize {
        self.marks.len()
    }

    /// Returns `true` if a key is marked.
    #[must_use]
    pub fn is_marked(&self, now: Now, key: &Key) -> bool {
        self.marks.of(now, key).is_some()
    }

    /// Sends `Done` to a claim for a marked key. Returns `true` if the key is marked.
    pub(super) fn answer_done(&self, cx: &mut VoterCtx<'_>, key: &Key, claim: &ClaimId) -> bool {
        // Most voters keep no marks, and each claim comes here.
        if self.marks.len() == 0 || mistaken!(DoneIgnored) {
            return false;
        }
        let done = self.marks.done(cx.now, key, claim);
        let is_done = done.is_some();
        cx.out
            .messages
            .extend(done.map(|done| (claim.node.clone(), done)));
        is_done
    }
}
