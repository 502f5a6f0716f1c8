//! The journal of a node: records on their way to the file, and the messages that wait for them.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::time::Duration;

use super::{Node, Output};
use crate::event::{Effects, Event};
use crate::id::{Incarnation, NodeId};
use crate::journal::{JournalOwner, Memory, Record, Started, frame, snapshot_head};
use crate::message::{Message, RefuseReason};
use crate::time::{Instant, Now};
use crate::voter::SnapshotFrom;

/// The most records in one part of a snapshot, so that other work can run between two parts.
const SNAPSHOT_RECORDS_MAX: usize = 1_000;

/// The time after which the end of a vote is written, if no other record is. Each write costs, and
/// `Durability::Machine` syncs it.
const ENDED_AFTER: Duration = Duration::from_millis(100);

/// The most messages that wait for a write. More are lost, as on the network: their claimants send
/// again.
const HELD_MAX: usize = 1 << 16;

/// A journal as [`open_journal`](crate::open_journal) has read it.
#[derive(Clone, Debug)]
pub struct NodeJournal {
    /// The owner of the journal.
    pub owner: JournalOwner,
    /// The circumstances of this process.
    pub started: Started,
    /// The memory of the voter.
    pub memory: Memory,
}

/// The position of the next part of a snapshot.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SnapshotPart(SnapshotFrom);

/// When pending records are written, in rising order of urgency.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Write {
    /// With the next other record, or at this time: nothing waits for the end of a vote.
    Later(Reverse<Instant>),
    /// After the datagrams of this call: only the messages in `held` wait for it.
    Now,
    /// Before any datagram of this call.
    First,
}

#[derive(Debug)]
pub(super) struct JournalState {
    owner: JournalOwner,
    started: Started,
    /// The records that the driver was not told yet.
    pending: Vec<u8>,
    /// The write of the pending records.
    write: Write,
    /// The time after which the end of a vote is written, if no other record is.
    ended_after: Duration,
    /// The number of the last write that the driver was told.
    told: u64,
    /// The number of the last write that has returned.
    written: u64,
    /// The messages that may leave once the write with this number has returned.
    held: VecDeque<(u64, NodeId, Message)>,
}

impl JournalState {
    pub(super) fn new(journal: NodeJournal) -> (Box<Self>, Memory) {
        let NodeJournal {
            owner,
            started,
            memory,
        } = journal;
        let state = Self {
            owner,
            started,
            pending: Vec::new(),
            write: Write::Later(Reverse(Instant::FAR)),
            ended_after: ENDED_AFTER,
            told: 0,
            written: 0,
            held: VecDeque::new(),
        };
        (Box::new(state), memory)
    }

    pub(super) fn incarnation(&self) -> Incarnation {
        self.started.incarnation
    }

    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    pub(super) fn begin_incarnation(&mut self, now: Instant, incarnation: Incarnation) {
        self.started.incarnation = incarnation;
        self.append(now, &Record::Started(self.started.clone()));
    }

    /// Records the incarnation of another member.
    pub(super) fn hear(&mut self, now: Instant, node: NodeId, incarnation: Incarnation) {
        self.append(now, &Record::Heard { node, incarnation });
    }

    fn append(&mut self, now: Instant, record: &Record) {
        self.write = self.write.max(match record {
            Record::Ended { .. } => Write::Later(Reverse(now.after(self.ended_after))),
            Record::Vote(_) | Record::Mark(_) => Write::Now,
            _ => Write::First,
        });
        frame(record, &mut self.pending);
    }

    /// Takes the records, and the messages that depend on records which are not written yet.
    pub(super) fn take(&mut self, now: Instant, effects: &mut Effects) {
        for record in effects.records.drain(..) {
            self.append(now, &record);
        }
        let last = self.told + u64::from(self.write >= Write::Now);
        if self.written == last || mistaken!(VoteBeforeWrite) {
            return;
        }
        let depends = |message: &Message| {
            matches!(
                message,
                Message::Vote(_)
                    | Message::Kept(_)
                    | Message::Marked(_)
                    | Message::RecoveryReply(_)
            )
        };
        let room = HELD_MAX.saturating_sub(self.held.len());
        let held = effects
            .messages
            .extract_if(.., |(_, message)| depends(message));
        let held: Vec<_> = held.collect();
        let held = held.into_iter().take(room);
        self.held
            .extend(held.map(|(to, message)| (last, to, message)));
    }

    /// Writes the ends of votes at once from now on, since the process is to end.
    pub(super) fn hurry(&mut self) {
        self.ended_after = Duration::ZERO;
        if !self.pending.is_empty() {
            self.write = self.write.max(Write::Now);
        }
    }

    /// Returns when pending records are due that no other record follows.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        match self.write {
            Write::Later(Reverse(at)) => (at < Instant::FAR).then_some(at),
            Write::Now | Write::First => None,
        }
    }

    /// Returns the write of the pending records, if datagrams wait for it.
    pub(super) fn poll_first(&mut self) -> Option<Output> {
        (self.write == Write::First).then(|| self.persist())
    }

    /// Returns the write of the pending records, if it is due. Datagrams that do not depend on it
    /// have left, so the other nodes work while it runs.
    pub(super) fn poll(&mut self, now: Instant) -> Option<Output> {
        (self.write >= Write::Later(Reverse(now))).then(|| self.persist())
    }

    fn persist(&mut self) -> Output {
        self.write = Write::Later(Reverse(Instant::FAR));
        self.told += 1;
        let (number, bytes) = (self.told, std::mem::take(&mut self.pending));
        Output::Persist { number, bytes }
    }
}

impl Node {
    /// Handles the end of a write: the messages that wait for it and for those before leave.
    pub fn persisted(&mut self, now: Now, number: u64) {
        let now = self.corrected(now);
        let Some(journal) = &mut self.journal else {
            return;
        };
        journal.written = journal.written.max(number.min(journal.told));
        let written = journal.written;
        while let Some((_, to, message)) = self.next_held(written) {
            self.forward(now, to, message);
        }
        self.route(now);
    }

    fn next_held(&mut self, written: u64) -> Option<(u64, NodeId, Message)> {
        let held = &mut self.journal.as_mut()?.held;
        let (number, ..) = held.front()?;
        (*number <= written).then(|| held.pop_front())?
    }

    /// Handles a write that failed. The voter refuses all claims until [`Node::journal_replaced`].
    /// It keeps the votes that are out. Messages that depend on the write are dropped.
    pub fn persist_failed(&mut self, now: Now) {
        if mistaken!(FailedWriteIgnored) {
            return self.persisted(now, u64::MAX);
        }
        let now = self.corrected(now);
        if let Some(journal) = &mut self.journal {
            journal.held.clear();
        }
        if let Some(voter) = self.voter.as_mut().filter(|it| it.closed().is_none()) {
            voter.close(Some(RefuseReason::Storage));
            self.effects.tell(Event::JournalFailed);
        }
        self.route(now);
    }

    /// Returns the next part of a journal that replaces the present one, and the position of the
    /// rest. The first part is that of `None`.
    ///
    /// The bytes of [`Output::Persist`] that come after the first part belong into the new journal
    /// too, in their order, and between the parts.
    #[must_use]
    pub fn snapshot(&self, part: Option<SnapshotPart>) -> (Vec<u8>, Option<SnapshotPart>) {
        let Some(journal) = &self.journal else {
            return (Vec::new(), None);
        };
        let mut bytes = match &part {
            None => snapshot_head(&journal.owner, &journal.started),
            Some(_) => Vec::new(),
        };
        let mut records = Vec::new();
        if part.is_none() {
            let heard = self.peers.heard_members();
            records.extend(heard.flat_map(|(node, heard)| heard.records(node)));
        }
        let from = part.map_or(SnapshotFrom::FIRST, |part| part.0);
        let rest = self.voter.as_ref().and_then(|voter| {
            voter.snapshot_part(self.now, from, SNAPSHOT_RECORDS_MAX, &mut records)
        });
        for record in &records {
            frame(record, &mut bytes);
        }
        (bytes, rest.map(SnapshotPart))
    }

    /// Handles the end of a replacement that has everything up to the write with this number. After
    /// a failed write, the voter votes again.
    pub fn journal_replaced(&mut self, now: Now, number: u64) {
        if let Some(voter) = &mut self.voter
            && voter.closed() == Some(RefuseReason::Storage)
        {
            voter.close(None);
            self.effects.tell(Event::JournalRestored);
        }
        self.persisted(now, number);
    }

    /// Returns the record that ends a journal in order. The driver appends and syncs it when the
    /// node is shut down.
    #[must_use]
    pub fn closing_record() -> Vec<u8> {
        let mut bytes = Vec::new();
        frame(&Record::Closed, &mut bytes);
        bytes
    }

    /// Returns the keys of the votes that no message has named yet, since they are not written.
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn untold_keys(&self) -> Vec<crate::Key> {
        let held = self.journal.iter().flat_map(|journal| &journal.held);
        held.filter_map(|(_, _, message)| match message {
            Message::Vote(vote) => Some(vote.key.clone()),
            _ => None,
        })
        .collect()
    }
}
