//! A disk in memory, with the journal of one node.

use crate::journal::votes_in;
use crate::{
    FileChange, Incarnation, JournalError, JournalOwner, Node, NodeConfig, NodeJournal, Now,
    OpenedJournal, Started, VoteRecord, VoterSet, open_journal,
};

/// The journal of one node on a disk, which survives its processes.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    /// Everything for which a write has returned.
    written: Vec<u8>,
    /// The number of these bytes that survive a power cut.
    synced: usize,
    /// `true` if every record is synced before a message depends on it.
    pub syncs: bool,
    /// `true` while every write fails.
    pub fails: bool,
    /// The number of times that the machine was started.
    boots: u128,
    /// The journal that replaces this one, as far as it is written.
    replacement: Option<Vec<u8>>,
    /// The number of damaged files that were set aside.
    pub set_aside: usize,
}

impl Disk {
    /// Creates an empty disk.
    #[must_use]
    pub fn new(syncs: bool) -> Self {
        Self {
            syncs,
            ..Self::default()
        }
    }

    /// Returns the bytes of the journal.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.written
    }

    /// Returns the bytes that a power cut may lose.
    #[must_use]
    pub fn unsynced(&self) -> &[u8] {
        &self.written[self.synced.min(self.written.len())..]
    }

    /// Returns the votes that the journal names, the present ones and earlier ones.
    #[must_use]
    pub fn votes(&self) -> Vec<VoteRecord> {
        votes_in(&self.written)
    }

    /// Replaces the bytes of the journal, as somebody who puts a copy back.
    pub fn put_back(&mut self, bytes: Vec<u8>) {
        self.synced = bytes.len();
        self.written = bytes;
    }

    /// Starts a process that keeps its journal here.
    ///
    /// # Errors
    /// The errors of [`open_journal`].
    pub fn start(
        &mut self,
        now: Now,
        config: NodeConfig,
        cluster: &str,
    ) -> Result<(Node, OpenedJournal), JournalError> {
        let owner = JournalOwner {
            node: config.id.clone(),
            cluster: cluster.to_owned(),
            buckets: config.limits.fence_buckets,
        };
        let opened = self.open(&owner, config.incarnation, &config.voter_set)?;
        let journal = NodeJournal {
            owner,
            started: opened.started.clone(),
            memory: opened.memory.clone(),
        };
        Ok((Node::with_journal(now, config, journal), opened))
    }

    fn open(
        &mut self,
        owner: &JournalOwner,
        incarnation: Incarnation,
        voter_set: &VoterSet,
    ) -> Result<OpenedJournal, JournalError> {
        let started = Started::new(incarnation, Some(self.boots), self.syncs, voter_set);
        let opened = open_journal(&self.written, owner, started)?;
        self.replacement = None;
        match &opened.change {
            FileChange::Append { keep, bytes } => {
                self.written.truncate(*keep);
                self.written.extend(bytes);
            }
            FileChange::Replace(bytes) => self.written.clone_from(bytes),
        }
        self.set_aside += usize::from(opened.why == Some(crate::NotMemory::Damaged));
        self.sync();
        Ok(opened)
    }

    /// Appends bytes to the journal. Returns `false` if the disk fails.
    #[must_use]
    pub fn write(&mut self, bytes: &[u8]) -> bool {
        if let Some(replacement) = &mut self.replacement {
            replacement.extend(bytes);
        }
        if !self.fails {
            self.written.extend(bytes);
        }
        !self.fails
    }

    /// Syncs everything that is written.
    pub fn sync(&mut self) {
        self.synced = self.written.len();
    }

    /// Returns the number of bytes that are written.
    #[must_use]
    pub fn len(&self) -> usize {
        self.written.len()
    }

    /// Returns `true` if nothing is written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.written.is_empty()
    }

    /// Syncs the first bytes.
    pub fn sync_to(&mut self, len: usize) {
        self.synced = self.synced.max(len.min(self.written.len()));
    }

    /// Writes the next part of a journal that replaces this one. After the last part it takes its
    /// place, unless the disk fails.
    pub fn replace(&mut self, part: &[u8], is_last: bool) {
        let replacement = self.replacement.get_or_insert_default();
        replacement.extend(part);
        if is_last {
            let whole = self.replacement.take().unwrap_or_default();
            if !self.fails {
                self.put_back(whole);
            }
        }
    }

    /// Closes the journal in order.
    pub fn close(&mut self) {
        if self.write(&Node::closing_record()) {
            self.sync();
        }
    }

    /// Cuts the power. Of what is not synced, `torn` bytes stay, and the last of them are damaged.
    pub fn cut_power(&mut self, torn: usize, damage: u8) {
        self.written.truncate(self.synced + torn);
        let synced = self.synced;
        let half = synced + self.written.len().saturating_sub(synced) / 2;
        for byte in &mut self.written[half..] {
            *byte &= damage;
        }
        self.synced = self.written.len();
        self.boots += 1;
        self.replacement = None;
    }
}
