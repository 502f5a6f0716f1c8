//! Messages to other nodes that are in no datagram yet: one datagram takes many.

use std::collections::VecDeque;

use crate::proto::id::NodeId;
use crate::proto::message::Message;

/// How many lists of messages are kept to be used again, how long they may be, and for how many
/// nodes room is kept: a storm leaves no memory behind.
const SPARE_MAX: usize = 16;
const SPARE_MESSAGES_MAX: usize = 256;
const LISTS_MAX: usize = 32;

/// What there is for each node.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// In the order of the nodes' ids.
    lists: VecDeque<List>,
    spare: Vec<Vec<Message>>,
}

#[derive(Debug)]
struct List {
    to: NodeId,
    /// Empty: a word of its own, if only its name.
    messages: Vec<Message>,
    /// It was there when the round began.
    is_of_round: bool,
}

impl Outbox {
    /// The messages to a node.
    pub(super) fn of(&mut self, node: NodeId) -> &mut Vec<Message> {
        let found = self.lists.binary_search_by(|list| list.to.cmp(&node));
        let at = found.unwrap_or_else(|at| {
            let list = List {
                to: node,
                messages: self.spare.pop().unwrap_or_default(),
                is_of_round: false,
            };
            self.lists.insert(at, list);
            at
        });
        &mut self.lists[at].messages
    }

    /// Takes what there is for the first node.
    pub(super) fn take(&mut self) -> Option<(NodeId, Vec<Message>)> {
        let list = self.lists.pop_front()?;
        Some(self.taken(list))
    }

    pub(super) fn len(&self) -> usize {
        self.lists.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lists.is_empty()
    }

    /// What there is now is a round. Answers for how many nodes.
    pub(super) fn begin_round(&mut self) -> usize {
        for list in &mut self.lists {
            list.is_of_round = true;
        }
        self.lists.len()
    }

    /// Takes what there is for the first node of the round.
    pub(super) fn take_of_round(&mut self) -> Option<(NodeId, Vec<Message>)> {
        let at = self.lists.iter().position(|list| list.is_of_round)?;
        let list = self.lists.remove(at)?;
        Some(self.taken(list))
    }

    fn taken(&mut self, list: List) -> (NodeId, Vec<Message>) {
        if self.lists.is_empty() && self.lists.capacity() > LISTS_MAX {
            self.lists = VecDeque::new();
        }
        (list.to, list.messages)
    }

    /// Whether there are only claims of the round, one for a node, and releases.
    pub(super) fn may_wait(&self) -> bool {
        self.lists.iter().all(|list| {
            let is_claim = |message: &&Message| matches!(message, Message::Claim(_));
            let is_release = |message: &&Message| matches!(message, Message::Release(_));
            let claims = list.messages.iter().filter(is_claim).count();
            let releases = list.messages.iter().filter(is_release).count();
            claims <= usize::from(list.is_of_round)
                && claims + releases == list.messages.len()
                && !list.messages.is_empty()
        })
    }

    /// Keeps the room of what was taken and sent.
    pub(super) fn keep(&mut self, mut messages: Vec<Message>) {
        if self.spare.len() < SPARE_MAX && messages.capacity() <= SPARE_MESSAGES_MAX {
            messages.clear();
            self.spare.push(messages);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::proto::epoch::Epoch;
    use crate::proto::id::{ClaimId, Incarnation, Key};
    use crate::proto::message::{Claim, RecoveryQuery, Release};
    use crate::proto::time::Instant;

    fn node(number: usize) -> NodeId {
        NodeId::new(format!("n{number:02}")).unwrap()
    }

    fn query() -> Message {
        Message::RecoveryQuery(RecoveryQuery { nonce: 1 })
    }

    fn claim() -> Message {
        let claim = ClaimId {
            node: node(0),
            incarnation: Incarnation::new(1),
            seq: 1,
        };
        Message::Claim(Claim {
            key: Key::new("k").unwrap(),
            claim,
            epoch: Epoch::new(1),
            ttl: Duration::from_secs(1),
            sent_at: Instant::ZERO,
            votes_valid_since: Instant::ZERO,
            granted: false,
            is_try: true,
            join: false,
            outlives: false,
        })
    }

    fn release() -> Message {
        let Message::Claim(Claim { key, claim, .. }) = claim() else {
            unreachable!()
        };
        let granted = true;
        Message::Release(Release {
            key,
            claim,
            granted,
        })
    }

    #[test]
    fn room_is_used_again_and_a_storm_leaves_none_behind() {
        let mut outbox = Outbox::default();
        for number in 0..2 * LISTS_MAX {
            outbox.of(node(number)).push(query());
        }
        let room = outbox.of(node(0)).as_ptr();
        let mut taken = Vec::new();
        while let Some((node, messages)) = outbox.take() {
            taken.push(node);
            outbox.keep(messages);
        }
        assert!(taken.is_sorted());
        assert_eq!(taken.len(), 2 * LISTS_MAX);
        assert_eq!(outbox.spare.len(), SPARE_MAX);
        assert!(outbox.spare.iter().all(Vec::is_empty));
        assert!(outbox.spare.iter().any(|spare| spare.as_ptr() == room));
        assert_eq!(outbox.lists.capacity(), 0);
        outbox.spare.clear();
        outbox.keep(Vec::with_capacity(SPARE_MESSAGES_MAX + 1));
        assert_eq!(outbox.spare.len(), 0);
        outbox.of(node(0));
        let room = outbox.lists.capacity();
        outbox.take();
        assert!(room > 0 && outbox.lists.capacity() == room);
    }

    #[test]
    fn a_round_is_what_was_there_when_it_began() {
        let mut outbox = Outbox::default();
        for number in [1, 3] {
            outbox.of(node(number)).push(query());
        }
        assert_eq!(outbox.begin_round(), 2);
        for number in [0, 1, 2] {
            outbox.of(node(number)).push(query());
        }
        let (to, messages) = outbox.take_of_round().unwrap();
        assert_eq!((to, messages.len()), (node(1), 2));
        assert_eq!(outbox.take().unwrap().0, node(0));
        assert_eq!(outbox.take_of_round().unwrap().0, node(3));
        assert!(outbox.take_of_round().is_none());
        assert_eq!(outbox.take().unwrap().0, node(2));
        assert!(outbox.take().is_none());
    }

    #[test]
    fn the_rest_of_a_round_may_wait_with_releases_and_with_nothing_else() {
        let rest_with = |number: usize, message: Option<Message>| {
            let mut outbox = Outbox::default();
            outbox.of(node(1)).push(claim());
            outbox.begin_round();
            outbox.of(node(number)).extend(message);
            outbox.may_wait()
        };
        assert!(rest_with(1, None));
        for number in [1, 2] {
            assert!(rest_with(number, Some(release())), "{number}");
            assert!(!rest_with(number, Some(claim())), "{number}");
            assert!(!rest_with(number, Some(query())), "{number}");
        }
        assert!(!rest_with(2, None), "a word of its own");
    }
}
