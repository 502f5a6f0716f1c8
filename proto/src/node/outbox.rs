//! Messages to other nodes that are not in a datagram yet. One datagram carries many.

use std::collections::VecDeque;

use crate::id::NodeId;
use crate::message::Message;

/// The most lists of messages that are kept for reuse. With the next two limits, a burst leaves no
/// memory behind.
const SPARE_MAX: usize = 16;
/// The largest capacity of a list that is kept.
const SPARE_MESSAGES_MAX: usize = 256;
/// The largest capacity of the empty queue of lists that is kept.
const LISTS_MAX: usize = 32;

/// The pending messages to each node.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// The lists of messages, in the order of the nodes' ids.
    lists: VecDeque<List>,
    spare: Vec<Vec<Message>>,
}

#[derive(Debug)]
struct List {
    to: NodeId,
    /// If empty, a datagram with the head alone announces this node.
    messages: Vec<Message>,
}

impl Outbox {
    /// Returns the pending messages to a node.
    pub(super) fn of(&mut self, node: NodeId) -> &mut Vec<Message> {
        let found = self.lists.binary_search_by(|list| list.to.cmp(&node));
        let at = found.unwrap_or_else(|at| {
            let list = List {
                to: node,
                messages: self.spare.pop().unwrap_or_default(),
            };
            self.lists.insert(at, list);
            at
        });
        &mut self.lists[at].messages
    }

    /// Removes and returns the pending messages to the first node.
    #[inline]
    pub(super) fn take(&mut self) -> Option<(NodeId, Vec<Message>)> {
        let List { to, messages } = self.lists.pop_front()?;
        if self.lists.is_empty() && self.lists.capacity() > LISTS_MAX {
            self.lists = VecDeque::new();
        }
        Some((to, messages))
    }

    pub(super) fn len(&self) -> usize {
        self.lists.len()
    }

    /// Keeps the buffer of messages that were sent.
    #[inline]
    pub(super) fn keep(&mut self, mut messages: Vec<Message>) {
        if self.spare.len() < SPARE_MAX && messages.capacity() <= SPARE_MESSAGES_MAX {
            messages.clear();
            self.spare.push(messages);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::RecoveryQuery;

    fn node(number: usize) -> NodeId {
        NodeId::new(format!("n{number:02}")).unwrap()
    }

    fn query() -> Message {
        Message::RecoveryQuery(RecoveryQuery { nonce: 1 })
    }

    #[test]
    fn buffers_are_reused_and_bursts_leave_no_memory() {
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
}
