//! Nodes that have another voter set than this one, and the differences between the sets.
//!
//! The tag in the head of each datagram identifies the sender's voter set. Both sides describe
//! their voter set to each other at a limited rate. Nothing here decides about a vote. A voter in
//! recovery is notified of the other sets ([`crate::description`]).

use std::collections::BTreeMap;
use std::time::Duration;

use super::Node;
use crate::description::{Differences, OtherSet, Role, VoterSetDescription};
use crate::event::Event;
use crate::id::{Incarnation, NodeId};
use crate::message::{Message, RecoveryReply};
use crate::time::{Instant, Now};
use crate::voter_set::VoterSetTag;
use crate::wire::Head;

/// The most nodes with other voter sets that are remembered.
const SPEAKERS_MAX: usize = 256;
/// The most descriptions of voter sets that are kept.
const DESCRIPTIONS_MAX: usize = 8;
/// The most descriptions that a node sends per second. In plaintext an address may be forged, and a
/// description is longer than the request for it.
const SENT_MAX: u32 = 128;
const SECOND: Duration = Duration::from_secs(1);
/// The number of descriptions per `max_ttl` to a node that did not request them.
const UNASKED: u32 = 16;

/// The known nodes with other voter sets, and the descriptions of these sets.
#[derive(Debug, Default)]
pub(super) struct Sets {
    speakers: BTreeMap<NodeId, Speaker>,
    descriptions: BTreeMap<VoterSetTag, Description>,
    /// The start of the current second, and the number of descriptions sent in it.
    sent: (Instant, u32),
    /// The time of the last description to each node, for at most [`SPEAKERS_MAX`] nodes.
    sent_to: BTreeMap<NodeId, Instant>,
}

#[derive(Debug)]
struct Speaker {
    incarnation: Incarnation,
    tag: VoterSetTag,
    heard_since: Instant,
    heard_at: Instant,
    /// Its role in that voter set, if it has reported it.
    role: Option<Role>,
    /// `true` if an event has reported that its voter set differs.
    is_told: bool,
    /// `true` if an event has reported the differences.
    is_told_in_what: bool,
}

#[derive(Debug)]
struct Description {
    set: VoterSetDescription,
    heard_at: Instant,
}

impl Sets {
    /// Returns `true` if no node with another voter set is known.
    pub(super) fn is_empty(&self) -> bool {
        self.speakers.is_empty()
    }

    /// Records a datagram of a node with another voter set.
    fn hear(&mut self, now: Now, head: &Head) -> Option<&mut Speaker> {
        if self.speakers.len() >= SPEAKERS_MAX && !self.speakers.contains_key(&head.from) {
            let longest_silent = self.speakers.iter().min_by_key(|(_, it)| it.heard_at);
            let evicted = longest_silent.map(|(node, _)| node.clone())?;
            self.speakers.remove(&evicted);
        }
        let new = || Speaker {
            incarnation: head.incarnation,
            tag: head.voter_set,
            heard_since: now.mono,
            heard_at: now.mono,
            role: None,
            is_told: false,
            is_told_in_what: false,
        };
        let speaker = self.speakers.entry(head.from.clone()).or_insert_with(new);
        if (speaker.incarnation, speaker.tag) != (head.incarnation, head.voter_set) {
            *speaker = new();
        }
        speaker.heard_at = now.mono;
        if let Some(description) = self.descriptions.get_mut(&head.voter_set) {
            description.heard_at = now.mono;
        }
        Some(speaker)
    }

    fn keep(&mut self, now: Now, tag: VoterSetTag, set: VoterSetDescription) {
        if self.descriptions.len() >= DESCRIPTIONS_MAX && !self.descriptions.contains_key(&tag) {
            let oldest = self.descriptions.iter().min_by_key(|(_, it)| it.heard_at);
            if let Some(oldest) = oldest.map(|(tag, _)| *tag) {
                self.descriptions.remove(&oldest);
            }
        }
        let heard_at = now.mono;
        self.descriptions.insert(tag, Description { set, heard_at });
    }

    /// Returns the longest quarantine and the largest skew of the voter sets that may name `node`
    /// and whose votes may still run.
    fn longest(&self, now: Now, node: &NodeId) -> (Duration, Duration) {
        let lasts = |it: &&Description| {
            let quarantine = it.set.timing.quarantine();
            it.set.may_name(node) && now.mono < it.heard_at.after(quarantine)
        };
        let known = self.descriptions.values().filter(lasts);
        known.fold(Default::default(), |(quarantine, skew), it| {
            let timing = &it.set.timing;
            (
                timing.quarantine().max(quarantine),
                timing.max_clock_skew.max(skew),
            )
        })
    }

    /// Returns `true` if a description may be sent to `node`, and counts it. One limit is for each
    /// node, one for all.
    fn may_send(&mut self, now: Now, node: &NodeId, every: Duration) -> bool {
        let last = self.sent_to.get(node);
        if last.is_some_and(|last| now.mono < last.after(every)) {
            return false;
        }
        if now.mono >= self.sent.0.after(SECOND) {
            self.sent = (now.mono, 0);
        }
        if self.sent.1 >= SENT_MAX {
            return false;
        }
        self.sent.1 += 1;
        if self.sent_to.len() >= SPEAKERS_MAX {
            self.sent_to.retain(|_, last| now.mono < last.after(every));
        }
        if self.sent_to.len() < SPEAKERS_MAX {
            self.sent_to.insert(node.clone(), now.mono);
        }
        true
    }
}

impl Node {
    /// Returns the nodes from which a datagram with another voter set was received within `span`.
    pub fn of_other_sets(&self, now: Now, span: Duration) -> impl Iterator<Item = &NodeId> {
        let speakers = self.sets.speakers.iter();
        let lately = speakers.filter(move |(_, it)| now.mono < it.heard_at.after(span));
        lately.map(|(node, _)| node)
    }

    /// Returns the differences between the voter set of `node` and this node's.
    ///
    /// `None` if the sets are equal or nothing was received from `node`. Empty if the differences
    /// are not known.
    #[must_use]
    pub fn differences(&self, node: &NodeId) -> Option<Differences> {
        let speaker = self.sets.speakers.get(node)?;
        let known = self.sets.descriptions.get(&speaker.tag);
        let of = |it: &Description| Differences::of(&self.voter_set, speaker.tag, &it.set);
        Some(known.map(of).unwrap_or_default())
    }

    /// Records the voter set of a sender.
    pub(super) fn note_set(&mut self, now: Now, head: &Head) {
        if head.voter_set == self.voter_set.tag() {
            if let Some(was) = self.sets.speakers.remove(&head.from) {
                let node = head.from.clone();
                self.effects.tell(Event::VoterSetMatch { node });
                // It may have voted in the other set until now.
                self.tell_voter(now, &head.from, was.tag, was.role);
            }
            return;
        }
        let Some(speaker) = self.sets.hear(now, head) else {
            return;
        };
        let role = speaker.role;
        // The event waits one second for a description, which has the differences.
        if !speaker.is_told && now.mono >= speaker.heard_since.after(SECOND) {
            speaker.is_told = true;
            self.effects.tell(Event::VoterSetMismatch {
                node: head.from.clone(),
                differences: Differences::default(),
            });
        }
        self.tell_voter(now, &head.from, head.voter_set, role);
        let every = self.voter_set.timing().max_ttl / UNASKED;
        self.describe_to(now, &head.from, every);
    }

    /// Handles a node's description of its voter set.
    pub(super) fn take_description(&mut self, now: Now, head: &Head, set: VoterSetDescription) {
        if head.voter_set == self.voter_set.tag() {
            return;
        }
        let Some(speaker) = self.sets.hear(now, head) else {
            return;
        };
        let role = set.role;
        speaker.role = Some(role);
        if !std::mem::replace(&mut speaker.is_told_in_what, true) {
            speaker.is_told = true;
            let differences = Differences::of(&self.voter_set, head.voter_set, &set);
            self.effects.tell(Event::VoterSetMismatch {
                node: head.from.clone(),
                differences,
            });
        }
        self.sets.keep(now, head.voter_set, set);
        self.tell_voter(now, &head.from, head.voter_set, Some(role));
    }

    /// Describes this node's voter set to `node`, at most once per `every`.
    pub(super) fn describe_to(&mut self, now: Now, node: &NodeId, every: Duration) {
        if !self.sets.may_send(now, node, every) {
            return;
        }
        let role = match &self.voter {
            None => Role::Client,
            Some(voter) if voter.quarantine().is_some() => Role::Recovering,
            Some(_) => Role::Votes,
        };
        let set = Box::new(VoterSetDescription::of(&self.voter_set, role));
        self.effects.send(node, Message::Described(set));
    }

    /// Raises the quarantine and the skew of `memory` to those of all known voter sets that may
    /// name `node`. This node's own set counts only if it names `node`.
    pub(super) fn with_other_sets(
        &self,
        now: Now,
        node: &NodeId,
        mut memory: RecoveryReply,
    ) -> RecoveryReply {
        if !self.voter_set.has_member(node) {
            (memory.quarantine, memory.skew) = Default::default();
        }
        let (quarantine, skew) = self.sets.longest(now, node);
        memory.quarantine = memory.quarantine.max(quarantine);
        memory.skew = memory.skew.max(skew);
        memory
    }

    fn tell_voter(&mut self, now: Now, from: &NodeId, tag: VoterSetTag, role: Option<Role>) {
        let Some(voter) = &mut self.voter else {
            return;
        };
        if voter.quarantine().is_none() {
            return;
        }
        let known = self.sets.descriptions.get(&tag).map(|it| &it.set);
        let timing = known.map_or_else(|| self.voter_set.timing(), |set| &set.timing);
        let set = OtherSet {
            quarantine: timing.quarantine(),
            skew: timing.max_clock_skew,
            names_me: known.is_some_and(|set| set.may_name(&self.id)),
            votes: self.voter_set.has_member(from) || role == Some(Role::Votes),
        };
        voter.handle_other_set(now, from, &set, &mut self.effects);
    }
}
