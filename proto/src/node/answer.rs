//! Answers to the questions of observers, which are not part of the mesh.
//!
//! A node keeps no record of an observer, and a question changes only a counter. The size of the
//! answer's datagram bounds the cost of a question.

use std::net::SocketAddr;
use std::ops::Bound;
use std::time::Duration;

use super::{Node, Output};
use crate::event::Event;
use crate::event::Peer;
use crate::id::{Key, NodeId};
use crate::message::{RefuseReason, Report, VoterQuery, VoterReply};
use crate::time::Now;
use crate::voter_set::VoterSetTag;
use crate::wire::observe::{
    Answer, Answered, Asked, Counts, LISTED_WAITERS_MAX, Overview, Page, Question, SeenLock,
    SeenNode, VoterState,
};
use crate::wire::{DatagramKind, DropReason};

/// Counts the outcome of a request.
pub(super) fn count(counts: &mut Counts, event: &Event) {
    match event {
        Event::Granted { .. } => counts.granted += 1,
        Event::Denied { .. } => counts.denied += 1,
        Event::TimedOut { .. } => counts.timed_out += 1,
        Event::Lost { was_due, .. } => counts.lost += u64::from(!was_due),
        Event::Renewed { .. }
        | Event::QuarantineBegan { .. }
        | Event::QuarantineEnded { .. }
        | Event::QuarantineExtended { .. }
        | Event::VoterSetMismatch { .. }
        | Event::VoterSetMatch { .. }
        | Event::TwinFound
        | Event::TwinGone => {}
    }
}

impl Node {
    /// Returns the outcomes of this node's requests so far.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Answers a question from `from`. The answer is never longer than the question, since the
    /// address may be forged.
    pub(super) fn answer(
        &mut self,
        now: Now,
        from: SocketAddr,
        body: &[u8],
    ) -> Result<(), DropReason> {
        let Asked { nonce, question } = Asked::from_body(body)?;
        let mut answered = Answered {
            nonce,
            node: self.id.clone(),
            incarnation: self.claimant.incarnation(),
            voter_set: self.voter_set.tag(),
            answer: Answer::Nodes(Page::empty()),
        };
        // An empty page has the same length in every list.
        let empty = answered.to_body().len();
        let room = body.len().checked_sub(empty).ok_or(DropReason::Short)?;
        answered.answer = match question {
            Question::Overview => Answer::Overview(Box::new(self.overview(now))),
            Question::Nodes { after } => {
                Answer::Nodes(Page::fill(room, self.nodes_after(now, after.as_ref())))
            }
            Question::Locks { after } => {
                Answer::Locks(Page::fill(room, self.locks_after(now, after.as_ref())))
            }
            Question::Key { key } => Answer::Key(self.seen(now, &key)),
        };
        let answer = answered.to_body();
        if answer.len() > body.len() {
            return Err(DropReason::Short);
        }
        self.traffic.answers += 1;
        let bytes = self.seal.seal(DatagramKind::Answer, &answer);
        self.outputs.push_back(Output::Transmit { to: from, bytes });
        Ok(())
    }

    fn overview(&self, now: Now) -> Overview {
        let voter = match &self.voter {
            None => VoterState::NotAMember,
            Some(voter) => match voter.quarantine() {
                None => VoterState::Votes,
                Some(until) => VoterState::Recovering {
                    remaining: until.since(now.mono),
                },
            },
        };
        let few = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Overview {
            members: few(self.voter_set.members().len()),
            voters_per_key: few(self.voter_set.voters_per_key()),
            timing: *self.voter_set.timing(),
            voter,
            wall_clock: self.clocks.judge(self.shown(now)),
            keys: self.voter.as_ref().map_or(0, |voter| voter.slots() as u64),
            claims: self.claimant.len() as u64,
            counts: self.counts,
            traffic: (&self.traffic).into(),
        }
    }

    /// Returns the members and the nodes that gossip knows, in the order of their ids.
    fn nodes_after(&self, now: Now, after: Option<&NodeId>) -> impl Iterator<Item = SeenNode> {
        let members = self.voter_set.members();
        let from = after.map_or(0, |after| members.partition_point(|it| it <= after));
        let mut members = members[from..].iter().peekable();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let view = self.view.peers.range::<NodeId, _>((from, Bound::Unbounded));
        let mut view = view.peekable();
        std::iter::from_fn(move || {
            let (member, peer) = (members.peek(), view.peek());
            let is_member = match (member, peer) {
                (None, None) => return None,
                (Some(member), Some((other, _))) => **member <= **other,
                (member, _) => member.is_some(),
            };
            if !is_member {
                let (node, peer) = view.next()?;
                return Some(self.seen_node(now, node, Some(peer), false));
            }
            let member = members.next()?;
            let peer = view.next_if(|(node, _)| *node == member);
            Some(self.seen_node(now, member, peer.map(|(_, peer)| peer), true))
        })
    }

    fn seen_node(&self, now: Now, node: &NodeId, peer: Option<&Peer>, is_member: bool) -> SeenNode {
        SeenNode {
            node: node.clone(),
            addr: self
                .peers
                .address_of(node)
                .or_else(|| peer.map(|peer| peer.addr)),
            is_member,
            is_alive: peer.map(|peer| peer.alive),
            silent_for: self.silent_for(now, node),
        }
    }

    fn locks_after(&self, now: Now, after: Option<&Key>) -> impl Iterator<Item = SeenLock> {
        let keys = self
            .voter
            .iter()
            .flat_map(move |voter| voter.keys_after(after));
        keys.map(move |key| {
            let mut report = self.seen(now, key);
            report.waiters.truncate(LISTED_WAITERS_MAX);
            let key = key.clone();
            SeenLock { key, report }
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
        match &self.voter {
            Some(voter) => voter.report(now, 0, key),
            None => Report {
                nonce: 0,
                vote: None,
                waiters: Vec::new(),
                waiting: 0,
                fence: Default::default(),
                is_recovering: false,
            },
        }
    }
}
