//! Nodes that have another voter set than this one, and the differences between the sets.
//!
//! The tag in the head of each datagram identifies the sender's voter set. Both sides describe
//! their voter set to each other at a limited rate. Nothing here decides about a vote. A voter in
//! recovery is notified of the other sets ([`crate::description`]).

use std::collections::BTreeMap;
use std::time::Duration;

use crate::description::{Differences, Role, VoterSetDescription};
use crate::id::{Incarnation, NodeId};
use crate::time::{Instant, Now};
use crate::voter_set::{VoterSet, VoterSetTag};
use crate::wire::Head;

/// The most nodes with other voter sets that are remembered.
const SPEAKERS_MAX: usize = 256;
/// The most descriptions of voter sets that are kept.
const DESCRIPTIONS_MAX: usize = 8;
/// The most descriptions that a node sends per second. In plaintext an address may be forged, and a
/// description is longer than the request for it.
const SENT_MAX: u32 = 128;
pub(super) const SECOND: Duration = Duration::from_secs(1);
/// The number of descriptions per `max_ttl` to a node that did not request them.
pub(super) const UNASKED: u32 = 16;

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
pub(super) struct Speaker {
    incarnation: Incarnation,
    pub(super) tag: VoterSetTag,
    pub(super) heard_since: Instant,
    heard_at: Instant,
    /// Its role in that voter set, if it has reported it.
    pub(super) role: Option<Role>,
    /// `true` if an event has reported that its voter set differs.
    pub(super) is_told: bool,
    /// `true` if an event has reported the differences.
    pub(super) is_told_in_what: bool,
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

    /// Returns the nodes with another voter set from which a datagram was received within `span`.
    pub(super) fn heard_within(&self, now: Now, span: Duration) -> impl Iterator<Item = &NodeId> {
        let speakers = self.speakers.iter();
        let lately = speakers.filter(move |(_, it)| now.mono < it.heard_at.after(span));
        lately.map(|(node, _)| node)
    }

    /// Returns the differences between the voter set of `node` and `mine`, if they differ.
    pub(super) fn differences(&self, mine: &VoterSet, node: &NodeId) -> Option<Differences> {
        let tag = self.speakers.get(node)?.tag;
        let of = |set| Differences::of(mine, tag, set);
        Some(self.description(tag).map(of).unwrap_or_default())
    }

    /// Returns the description of the voter set with this tag, if it is known.
    pub(super) fn description(&self, tag: VoterSetTag) -> Option<&VoterSetDescription> {
        self.descriptions.get(&tag).map(|it| &it.set)
    }

    /// Forgets a node that now has the voter set of this node.
    pub(super) fn forget(&mut self, node: &NodeId) -> Option<Speaker> {
        self.speakers.remove(node)
    }

    /// Records a datagram of a node with another voter set.
    pub(super) fn hear(&mut self, now: Now, head: &Head) -> Option<&mut Speaker> {
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

    pub(super) fn keep(&mut self, now: Now, tag: VoterSetTag, set: VoterSetDescription) {
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
    pub(super) fn longest(&self, now: Now, node: &NodeId) -> (Duration, Duration) {
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
    pub(super) fn may_send(&mut self, now: Now, node: &NodeId, every: Duration) -> bool {
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
