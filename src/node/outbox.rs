//! Messages to other nodes that are in no datagram yet: one datagram takes many.

use std::collections::BTreeMap;

use crate::proto::id::NodeId;
use crate::proto::message::Message;

/// How many lists of messages are kept to be used again, and how long they may be: a storm leaves
/// no memory behind.
const SPARE_MAX: usize = 16;
const SPARE_MESSAGES_MAX: usize = 256;

/// What there is for each node. An empty list: a word of its own, if only its name.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    messages: BTreeMap<NodeId, Vec<Message>>,
    spare: Vec<Vec<Message>>,
}

impl Outbox {
    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// The list of a node.
    pub(super) fn of(&mut self, node: NodeId) -> &mut Vec<Message> {
        let spare = &mut self.spare;
        let new = || spare.pop().unwrap_or_default();
        self.messages.entry(node).or_insert_with(new)
    }

    /// All that there is.
    pub(super) fn take(&mut self) -> BTreeMap<NodeId, Vec<Message>> {
        std::mem::take(&mut self.messages)
    }

    /// Keeps the room of a list that was sent.
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
        let room = outbox.messages[&node(0)].as_ptr();
        for (_, messages) in outbox.take() {
            outbox.keep(messages);
        }
        assert!(outbox.is_empty());
        assert_eq!(outbox.spare.len(), SPARE_MAX);
        assert!(outbox.spare.iter().all(Vec::is_empty));
        assert!(outbox.spare.iter().any(|spare| spare.as_ptr() == room));
        outbox.keep(Vec::with_capacity(SPARE_MESSAGES_MAX + 1));
        assert_eq!(outbox.spare.len(), SPARE_MAX);
        outbox.spare.clear();
        outbox.keep(Vec::with_capacity(SPARE_MESSAGES_MAX + 1));
        assert_eq!(outbox.spare.len(), 0);
    }
}
