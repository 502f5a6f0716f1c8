//! Answers to the questions of observers, which are not part of the mesh.
//!
//! A node keeps no record of an observer, and a question changes only a counter. An answer is one
//! datagram, which bounds the cost of a question.

use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;

use super::{Node, Output};
use crate::event::Event;
use crate::id::{Key, Note};
use crate::message::{RefuseReason, Report, VoterQuery, VoterReply};
use crate::time::Now;
use crate::voter_set::VoterSetTag;
use crate::wire::codec::encoded_len;
use crate::wire::observe::{
    Answer, Counts, Overview, Question, SeenLock, SeenNode, SeenNote, Topic, VoterState,
};
use crate::wire::{DATAGRAM_BYTES_MAX, DatagramKind, DropReason};

/// The most waiters of a lock in a list. The answer to [`Topic::Key`] may have more.
const LISTED_WAITERS_MAX: usize = 3;

/// Counts the outcome of a request.
pub(super) fn count(counts: &mut Counts, event: &Event) {
    match event {
        Event::Granted { .. } => counts.granted += 1,
        // Somebody had the key.
        Event::Denied { .. } | Event::Done { .. } => counts.denied += 1,
        Event::TimedOut { .. } => counts.timed_out += 1,
        Event::Lost { was_due, .. } => counts.lost += u64::from(!was_due),
        Event::Revoked { .. } => counts.lost += 1,
        Event::Renewed { .. }
        | Event::Marked { .. }
        | Event::NotMarked { .. }
        | Event::MarksRead { .. }
        | Event::VoteRevoked { .. }
        | Event::Resumed { .. }
        | Event::TookUp { .. }
        | Event::HandedOver { .. }
        | Event::JournalOutdated { .. }
        | Event::JournalFailed
        | Event::JournalRestored
        | Event::QuarantineBegan { .. }
        | Event::QuarantineEnded { .. }
        | Event::QuarantineExtended { .. }
        | Event::VoterSetMismatch { .. }
        | Event::VoterSetMatch { .. }
        | Event::SecretChanged { .. }
        | Event::TwinFound
        | Event::TwinGone => {}
    }
}

/// Adds entries to a page of at most `left` bytes. Returns the number of the first entry that does
/// not fit.
fn fill<T: Serialize>(
    mut left: usize,
    page: &mut Vec<T>,
    entries: impl IntoIterator<Item = (u64, T)>,
) -> Result<Option<u64>, DropReason> {
    for (number, entry) in entries {
        match encoded_len(&entry).and_then(|len| left.checked_sub(len)) {
            Some(rest) => left = rest,
            None if page.is_empty() => return Err(DropReason::Short),
            None => return Ok(Some(number)),
        }
        page.push(entry);
    }
    Ok(None)
}

impl Node {
    /// Returns the outcomes of this node's requests so far.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Sends a question, as an observer does. The answer arrives as [`Output::Answer`].
    pub fn ask(&mut self, to: SocketAddr, question: &Question) {
        let bytes = question.seal(&mut self.seal);
        self.outputs.push_back(Output::Transmit { to, bytes });
    }

    /// Sends the answer to a question from `from`.
    pub(super) fn answer(
        &mut self,
        now: Now,
        from: SocketAddr,
        body: &[u8],
    ) -> Result<(), DropReason> {
        let Question { nonce, topic } = Question::from_body(body)?;
        let longest = DATAGRAM_BYTES_MAX - self.seal.overhead();
        // In plaintext the source address may be forged, so the answer must not amplify.
        let budget = match self.seal.is_sealed() {
            true => longest,
            false => longest.min(body.len()),
        };
        let is_overview = matches!(topic, Topic::Overview { .. });
        let mut answer = Answer {
            nonce,
            node: self.id.clone(),
            incarnation: self.claimant.incarnation(),
            voter_set: self.voter_set.tag(),
            overview: is_overview.then(|| Box::new(self.overview(now))),
            nodes: Vec::new(),
            locks: Vec::new(),
            next: Some(u64::MAX),
            notes: Vec::new(),
        };
        let used = answer.to_body().len();
        let left = budget.checked_sub(used).ok_or(DropReason::Short)?;
        answer.next = match topic {
            Topic::Overview { from } => fill(left, &mut answer.nodes, self.known_nodes(now, from)),
            Topic::Locks { from } => fill(left, &mut answer.locks, self.listed_locks(now, from)),
            Topic::LocksAndNotes { from } => {
                let mut page = Vec::new();
                let locks = (0..).zip(self.listed_locks(now, from));
                let entries = locks.map(|(at, (number, lock))| {
                    let of_holder = self.notes(at, &lock.key).find(|it| it.claim == 0);
                    (number, (lock, of_holder))
                });
                let next = fill(left, &mut page, entries);
                for (lock, note) in page {
                    answer.locks.push(lock);
                    answer.notes.extend(note);
                }
                next
            }
            Topic::Key { key } => self.answer_key(now, left, key, &mut answer),
            Topic::KeyAndNotes { key } => {
                let notes: Vec<SeenNote> = self.notes(0, &key).collect();
                let next = self.answer_key(now, left, key, &mut answer);
                // The number of notes takes one byte. Notes that do not fit are left out.
                let left = budget.saturating_sub(answer.to_body().len() + 1);
                let _ = fill(left, &mut answer.notes, (0..).zip(notes));
                next
            }
        }?;
        self.traffic.answers += 1;
        let bytes = self.seal.seal(DatagramKind::Answer, &answer.to_body());
        self.outputs.push_back(Output::Transmit { to: from, bytes });
        Ok(())
    }

    fn answer_key(
        &self,
        now: Now,
        left: usize,
        key: Key,
        answer: &mut Answer,
    ) -> Result<Option<u64>, DropReason> {
        let report = self.seen(now, &key);
        fill(left, &mut answer.locks, [(0, SeenLock { key, report })])
    }

    /// Returns the notes of the claims that this node's voter reports for a key.
    fn notes(&self, lock: u32, key: &Key) -> impl Iterator<Item = SeenNote> {
        let notes = self.voter.iter().flat_map(|voter| voter.notes(key));
        notes.map(move |(claim, _, _, note): (_, _, _, &Note)| SeenNote {
            lock,
            claim,
            note: note.clone(),
        })
    }

    fn overview(&self, now: Now) -> Overview {
        let voter = match &self.voter {
            None => VoterState::NotAMember,
            // A voter that leaves, or cannot write its journal, votes for nobody either.
            Some(voter) => match (voter.quarantine(), voter.closed()) {
                (None, None) => VoterState::Votes,
                (until, _) => VoterState::Recovering {
                    remaining: until.map_or(Duration::ZERO, |until| until.since(now.mono)),
                },
            },
        };
        let voters_per_key = self.voter_set.voters_per_key();
        Overview {
            voters_per_key: u32::try_from(voters_per_key).unwrap_or(u32::MAX),
            timing: *self.voter_set.timing(),
            voter,
            wall_clock: self.clocks.judge(self.shown(now)),
            keys: self.voter.as_ref().map_or(0, |voter| voter.slots() as u64),
            claims: self.claimant.len() as u64,
            counts: self.counts,
            traffic: (&self.traffic).into(),
        }
    }

    /// Returns the members, and then the other nodes that gossip knows, from number `from` on.
    fn known_nodes(&self, now: Now, from: u64) -> impl Iterator<Item = (u64, SeenNode)> {
        let members = self.voter_set.members().iter();
        let known = self.view.peers.keys();
        let others = known.filter(|node| !self.voter_set.has_member(node));
        let nodes = members.map(|node| (node, true));
        let nodes = (0..).zip(nodes.chain(others.map(|node| (node, false))));
        let nodes = nodes.skip(usize::try_from(from).unwrap_or(usize::MAX));
        nodes.map(move |(number, (node, is_member))| {
            let peer = self.view.peers.get(node);
            let seen = SeenNode {
                node: node.clone(),
                addr: self
                    .peers
                    .address_of(node)
                    .or_else(|| peer.map(|peer| peer.addr)),
                is_member,
                is_alive: peer.map(|peer| peer.alive),
                silent_for: self.silent_for(now, node),
            };
            (number, seen)
        })
    }

    fn listed_locks(&self, now: Now, from: u64) -> impl Iterator<Item = (u64, SeenLock)> {
        let voter = self.voter.iter();
        let keys = voter.flat_map(move |voter| voter.slots.numbered_from(from));
        keys.map(move |(number, key)| {
            let mut report = self.seen(now, key);
            report.waiters.truncate(LISTED_WAITERS_MAX);
            let key = key.clone();
            (number, SeenLock { key, report })
        })
    }

    /// Returns the answer that this node's voter would give to a claim with the query's epoch.
    pub(super) fn voter_reply(
        &self,
        now: Now,
        voter_set: VoterSetTag,
        query: &VoterQuery,
    ) -> VoterReply {
        let (refuses, remaining) = match &self.voter {
            _ if voter_set != self.voter_set.tag() => {
                (Some(RefuseReason::VoterSet), Duration::ZERO)
            }
            None => (Some(RefuseReason::NotAVoter), Duration::ZERO),
            Some(voter) => voter.would_refuse(now, query.epoch),
        };
        VoterReply {
            sent_at: query.sent_at,
            refuses,
            remaining,
            wall_ms: self.shown_ms,
        }
    }

    /// Returns the voter's view of a key. It is empty if this node has no voter.
    fn seen(&self, now: Now, key: &Key) -> Report {
        let voter = self.voter.as_ref();
        voter.map_or_else(Report::default, |voter| voter.report(now, 0, key))
    }
}
