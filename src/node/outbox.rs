//! Messages to other nodes that are in no datagram yet: one datagram takes many.

use crate::proto::id::NodeId;
use crate::proto::message::Message;

/// How many lists of messages are kept to be used again, and how long they may be: a storm leaves
/// no memory behind.
const SPARE_MAX: usize = 16;
const SPARE_MESSAGES_MAX: usize = 256;

/// What there is for each node. An empty list: a word of its own, if only its name.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// In the order of the nodes' ids.
    lists: Vec<(NodeId, Vec<Message>)>,
    spare: Vec<Vec<Message>>,
}

impl Outbox {
    pub(super) fn is_empty(&self) -> bool {
        self.lists.is_empty()
    }

    /// The list of a node.
    pub(super) fn of(&mut self, node: NodeId) -> &mut Vec<Message> {
        let found = self.lists.binary_search_by(|(other, _)| other.cmp(&node));
        let at = found.unwrap_or_else(|at| {
            let list = self.spare.pop().unwrap_or_default();
            self.lists.insert(at, (node, list));
            at
        });
        &mut self.lists[at].1
    }

    /// All that there is.
    pub(super) fn take(&mut self) -> Vec<(NodeId, Vec<Message>)> {
        std::mem::take(&mut self.lists)
    }

    /// Keeps the room of what was taken and sent.
    pub(super) fn keep(&mut self, mut lists: Vec<(NodeId, Vec<Message>)>) {
        for (_, mut messages) in lists.drain(..) {
            if self.spare.len() < SPARE_MAX && messages.capacity() <= SPARE_MESSAGES_MAX {
                messages.clear();
                self.spare.push(messages);
            }
        }
        if self.lists.is_empty() && lists.capacity() <= SPARE_MAX {
            self.lists = lists;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::message::Recall;

    fn node(number: usize) -> NodeId {
        NodeId::new(format!("n{number}")).unwrap()
    }

    #[test]
    fn room_is_used_again_and_a_storm_leaves_none_behind() {
        let mut outbox = Outbox::default();
        for number in 0..2 * SPARE_MAX {
            let recall = Message::Recall(Recall { nonce: 1 });
            outbox.of(node(number)).push(recall);
        }
        let room = outbox.of(node(0)).as_ptr();
        let lists = outbox.take();
        assert!(lists.is_sorted_by_key(|(node, _)| node));
        outbox.keep(lists);
        assert!(outbox.is_empty());
        assert_eq!(outbox.spare.len(), SPARE_MAX);
        assert!(outbox.spare.iter().all(Vec::is_empty));
        assert!(outbox.spare.iter().any(|spare| spare.as_ptr() == room));
        assert_eq!(outbox.lists.capacity(), 0);
        outbox.spare.clear();
        let too_long = Vec::with_capacity(SPARE_MESSAGES_MAX + 1);
        outbox.keep(vec![(node(0), too_long)]);
        assert_eq!(outbox.spare.len(), 0);
        assert!(outbox.lists.capacity() > 0);
    }
}
