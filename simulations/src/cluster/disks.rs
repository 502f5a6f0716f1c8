//! The disks of voters: their journals, what a crash leaves of them, and what is compared when a
//! voter resumes.

use std::collections::BTreeSet;

use crate::algorithms::Machine;
use crate::cluster::{World, WorldEvent};
use crate::faults::CLUSTER;
use crate::judge::{Fact, HostAt, KeyAt};
use crate::proto::{
    ClaimId, Disk, Epoch, Key, Memory, Node, NodeConfig, Now, OpenedJournal, RefuseReason,
    VoteRecord, Voter,
};

/// The number of a sync for which no node waits.
const WRITTEN_BACK: u64 = 0;

/// The disk of a host, and what the world knows about it.
#[derive(Debug)]
pub(crate) struct HostDisk {
    pub(crate) disk: Disk,
    /// A copy of the journal, which somebody may put back.
    copy: Vec<u8>,
    /// `true` if a copy was put back, or the power cut lost records that had not to be synced.
    /// The voter may then drop its memory.
    may_be_old: bool,
    /// The memory of the last process when it crashed, if the next one must not know less.
    before: Option<Vec<KeptKey>>,
    /// The memory that the present process read.
    read: Option<Memory>,
    /// All votes that were ever written, if the power was cut.
    written: Vec<VoteRecord>,
}

impl HostDisk {
    pub(crate) fn new(syncs: bool) -> Self {
        Self {
            disk: Disk::new(syncs),
            copy: Vec::new(),
            may_be_old: false,
            before: None,
            read: None,
            written: Vec::new(),
        }
    }
}

/// The vote and the fence that a voter had for one key.
#[derive(Clone, Debug)]
pub(super) struct KeptKey {
    pub(super) key: KeyAt,
    pub(super) fence: Epoch,
    pub(super) vote: Option<KeptVote>,
}

#[derive(Clone, Debug)]
pub(super) struct KeptVote {
    pub(super) claim: ClaimId,
    pub(super) epoch: Epoch,
    pub(super) remaining_ms: u128,
}

impl KeptKey {
    /// Returns the way in which a memory has less than this.
    fn lost_by(&self, memory: &Memory, name: &Key) -> Option<String> {
        let vote = memory.vote(name);
        if let Some(had) = &self.vote {
            let is_kept = vote.is_some_and(|vote| {
                vote.claim == had.claim && u128::from(vote.ttl_ms) >= had.remaining_ms
            });
            if !is_kept {
                let key = self.key;
                return Some(format!("key {key}: had {had:?}, has {vote:?}"));
            }
        }
        let fence = vote.map_or(Epoch::ZERO, |vote| vote.epoch);
        let fence = fence.max(memory.fence(name));
        (fence < self.fence).then(|| {
            let (key, had) = (self.key, self.fence);
            format!("key {key}: had the fence {had}, has {fence}")
        })
    }
}

impl World {
    /// Creates the process of a host, with the memory of its journal if it keeps one.
    pub(crate) fn start_from_disk(
        &mut self,
        host: HostAt,
        now: Now,
        config: NodeConfig,
    ) -> Box<dyn Machine> {
        let at = self.hosts[host].disk.as_mut().expect("a disk");
        let started = at.disk.start(now, config, CLUSTER);
        let (node, opened): (Node, OpenedJournal) = started.expect("the journal of this host");
        let incarnation = opened.started.incarnation;
        if let Some(last) = self.hosts[host].incarnations.last_mut() {
            last.incarnation = incarnation;
        }
        match opened.why {
            None => {
                self.count("journals_read");
                self.compare_with_before(host, &opened.memory);
            }
            Some(_) => self.count("journals_not_memory"),
        }
        if let Some(at) = self.hosts[host].disk.as_mut() {
            at.read = opened.why.is_none().then_some(opened.memory);
            (at.before, at.written) = (None, Vec::new());
        }
        Box::new(node)
    }

    fn compare_with_before(&mut self, host: HostAt, memory: &Memory) {
        let Some(at) = &self.hosts[host].disk else {
            return;
        };
        let lost = at
            .before
            .iter()
            .flatten()
            .find_map(|before| before.lost_by(memory, &self.keys[before.key]));
        let written = &at.written;
        let is_torn = |vote: &&VoteRecord| !written.is_empty() && !written.contains(vote);
        let torn = memory.all_votes().find(is_torn);
        let torn = torn.map(|vote| format!("{vote:?} was never written"));
        if let Some(what) = lost.or(torn) {
            self.see(&Fact::Weaker { voter: host, what });
        }
    }

    /// Writes records of a node's journal.
    pub(crate) fn persist(&mut self, host: HostAt, number: u64, bytes: &[u8]) {
        let now = self.hosts[host].clock.now(self.time);
        let machine = &mut self.hosts[host];
        let node = machine.process.as_mut().and_then(|it| it.node.node_mut());
        let (Some(at), Some(node)) = (&mut machine.disk, node) else {
            return;
        };
        if !at.disk.write(bytes) {
            return node.persist_failed(now);
        }
        let (len, run) = (at.disk.len(), machine.incarnations.len());
        if !at.disk.syncs {
            node.persisted(now, number);
            // The operating system writes back what it has, some time later.
            let takes = 2 * self.settings.max_ttl();
            let number = WRITTEN_BACK;
            let event = WorldEvent::Synced {
                host,
                run,
                number,
                len,
            };
            return self.push_in(takes, event);
        }
        // Bounds in round trips are judged after the world has settled.
        let takes = match self.is_settled {
            true => 0,
            false => self.disk_rng.below(self.settings.round_trip()),
        };
        self.push_in(
            takes,
            WorldEvent::Synced {
                host,
                run,
                number,
                len,
            },
        );
    }

    /// Handles the end of a sync. The disk works on while the process is paused.
    pub(crate) fn synced(&mut self, host: HostAt, run: usize, number: u64, len: usize) {
        let machine = &mut self.hosts[host];
        if machine.incarnations.len() != run || machine.process.is_none() {
            return;
        }
        if let Some(at) = &mut machine.disk {
            at.disk.sync_to(len);
        }
        if number == WRITTEN_BACK {
            return;
        }
        if machine.is_paused() {
            let event = WorldEvent::Synced {
                host,
                run,
                number,
                len,
            };
            return machine.put_off.push(event);
        }
        self.at_node(host, |node, now| {
            if let Some(node) = node.node_mut() {
                node.persisted(now, number);
            }
        });
    }

    /// Notes what the process of a host knows when it crashes, and cuts the power of the machine in
    /// a quarter of the crashes.
    pub(crate) fn crash_disk(&mut self, host: HostAt) {
        if self.hosts[host].disk.is_none() {
            return;
        }
        let cuts = self.disk_rng.chance(250_000);
        let before = self.known_to_voter(host, cuts);
        let rng = &mut self.disk_rng;
        let Some(at) = &mut self.hosts[host].disk else {
            return;
        };
        at.before = before.filter(|_| !at.may_be_old);
        if cuts {
            at.written = at.disk.votes();
            let unsynced = at.disk.unsynced().len();
            let torn = rng.below(unsynced as u64 + 1) as usize;
            at.may_be_old |= torn < unsynced;
            at.disk.cut_power(torn, rng.below(256) as u8);
            self.count("power_cuts");
        }
    }

    /// Returns what a voter knows that the next process must know. `None` if it has no memory, or
    /// if its journal lacks some of it since the disk fails.
    fn known_to_voter(&self, host: HostAt, cuts: bool) -> Option<Vec<KeptKey>> {
        let at = self.hosts[host].disk.as_ref()?;
        let voter = self.process(host)?.node.voter()?;
        // A voter that shuts down after a failed write is closed for another reason.
        let is_closed = voter.closed().is_some();
        let fails = voter.closed() == Some(RefuseReason::Storage) || is_closed && at.disk.fails;
        if voter.quarantine().is_some() || fails {
            return None;
        }
        let untold: BTreeSet<_> = match cuts {
            true => self
                .process(host)?
                .node
                .node()?
                .untold_keys()
                .into_iter()
                .collect(),
            false => BTreeSet::new(),
        };
        let keys = self.keys_voted_by(host).iter();
        let keys = keys.filter(|key| !untold.contains(&self.keys[**key]));
        let keys = keys.map(|key| self.known_about(host, voter, *key));
        Some(keys.collect())
    }

    pub(super) fn known_about(&self, host: HostAt, voter: &Voter, key: KeyAt) -> KeptKey {
        let now = self.hosts[host].clock.now(self.time);
        let report = voter.report(now, 0, &self.keys[key]);
        KeptKey {
            key,
            fence: report.fence,
            vote: report.vote.map(|vote| KeptVote {
                claim: vote.claim,
                epoch: vote.epoch,
                remaining_ms: vote.remaining.as_millis(),
            }),
        }
    }

    /// Handles the report that a voter has resumed from its journal.
    pub(crate) fn see_resume(&mut self, host: HostAt, is_confirmed: bool) {
        self.count("voters_resumed");
        self.note_host(host);
        let Some(at) = self.hosts[host].disk.as_mut() else {
            return;
        };
        let has_others = self.settings.members > 1;
        if at.may_be_old && !(is_confirmed && has_others) {
            // Nobody could tell it that its journal is an old copy: a limit of the protocol. The
            // operator starts it without.
            self.count("old_copies_resumed");
            self.crash(host);
            self.clear_disk(host);
            let start = WorldEvent::Start {
                host,
                says_new: false,
                moves: false,
            };
            return self.push_in(0, start);
        }
        let read = at.read.take();
        if let Some(what) = read.and_then(|read| self.restored_less(host, &read)) {
            self.see(&Fact::Weaker { voter: host, what });
        }
        self.see_votes_restored(host);
    }

    /// Handles the return of a voter with its memory. A restored vote lasts its whole ttl again,
    /// even if its claimant is gone.
    pub(super) fn see_votes_restored(&mut self, host: HostAt) {
        for key in self.keys_voted_by(host).to_vec() {
            let voter = self.process(host).and_then(|it| it.node.voter());
            if voter.is_some_and(|voter| self.known_about(host, voter, key).vote.is_some()) {
                self.wanted_at[key] = self.time;
            }
        }
        self.see(&Fact::Resumed { voter: host });
    }

    /// Returns the way in which a voter has less than the memory from which it has just resumed.
    fn restored_less(&self, host: HostAt, read: &Memory) -> Option<String> {
        let voter = self.process(host)?.node.voter()?;
        self.keys_voted_by(host).iter().find_map(|key| {
            let name = &self.keys[*key];
            let has = self.known_about(host, voter, *key);
            let (read, vote) = (read.vote(name), has.vote.as_ref());
            let same = read.zip(vote).filter(|(read, has)| read.claim == has.claim);
            let sent_at = voter.sent_at(name);
            let is_less = |read: &VoteRecord, has: &KeptVote| {
                has.remaining_ms < u128::from(read.ttl_ms) || sent_at < Some(read.sent_at)
            };
            same.filter(|(read, has)| is_less(read, has))
                .map(|(read, has)| format!("key {key}: read {read:?}, has {has:?}"))
        })
    }

    /// Handles the report that a voter with a journal begins a quarantine.
    pub(crate) fn see_dropped_memory(&mut self, host: HostAt) {
        let has_namesakes = self.settings.has_namesakes;
        let Some(at) = self.hosts[host].disk.as_mut() else {
            return;
        };
        if at.read.take().is_some() && !at.may_be_old && !has_namesakes {
            self.see(&Fact::Dropped { voter: host });
        }
        if let Some(at) = self.hosts[host].disk.as_mut() {
            at.may_be_old = false;
        }
    }

    /// Takes a copy of a host's journal.
    pub(crate) fn copy_journal(&mut self, host: HostAt) {
        if let Some(at) = &mut self.hosts[host].disk {
            at.copy = at.disk.bytes().to_vec();
        }
    }

    /// Puts the copy of a host's journal back, after the process has ended.
    pub(crate) fn put_copy_back(&mut self, host: HostAt) {
        if let Some(at) = &mut self.hosts[host].disk {
            at.disk.put_back(std::mem::take(&mut at.copy));
            at.may_be_old = true;
            (at.before, at.written) = (None, Vec::new());
        }
    }

    /// Empties the disk of a host whose process has ended.
    pub(crate) fn clear_disk(&mut self, host: HostAt) {
        if let Some(at) = &mut self.hosts[host].disk {
            *at = HostDisk::new(at.disk.syncs);
        }
    }

    /// Lets all writes of a host fail, or succeed again.
    pub(crate) fn set_disk_fails(&mut self, host: HostAt, fails: bool) {
        let Some(at) = &mut self.hosts[host].disk else {
            return;
        };
        let did_fail = std::mem::replace(&mut at.disk.fails, fails);
        if did_fail && !fails && self.hosts[host].process.is_some() {
            self.replace_journal(host);
        }
    }

    /// Replaces the journal of a host by a snapshot.
    pub(crate) fn replace_journal(&mut self, host: HostAt) {
        let machine = &mut self.hosts[host];
        let node = machine.process.as_ref().and_then(|it| it.node.node());
        let (Some(at), Some(node)) = (&mut machine.disk, node) else {
            return;
        };
        let mut part = None;
        loop {
            let (bytes, rest) = node.snapshot(part);
            at.disk.replace(&bytes, rest.is_none());
            if rest.is_none() {
                break;
            }
            part = rest;
        }
        self.count("journals_replaced");
        self.note_host(host);
        self.at_node(host, |node, now| {
            if let Some(node) = node.node_mut() {
                node.journal_replaced(now, u64::MAX);
            }
        });
    }
}
