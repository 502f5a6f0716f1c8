//! How what a node has to say becomes datagrams.

use std::net::SocketAddr;

use super::{Node, Output};
use crate::proto::id::NodeId;
use crate::proto::message::Message;
use crate::wire::codec::{pack_head, pack_into};
use crate::wire::{DATAGRAM_BYTES_MAX, DropReason, Head, Kind};

impl Node {
    /// A word to a member, if only this node's name: a voter that hears of this incarnation frees
    /// what the incarnation before it held (rule 7), also where nothing is asked of it now.
    pub(super) fn announce(&mut self, node: &NodeId) {
        if self.voter_set.has_member(node) {
            self.outbox.of(node.clone());
        }
    }

    /// Whether there is nothing to do that [`Node::poll_output`] would answer, timers aside.
    #[must_use]
    pub fn has_nothing_to_say(&self) -> bool {
        self.outputs.is_empty() && self.outbox.is_empty()
    }

    /// What is in no datagram by now is a round. Answers how many nodes it is for. With
    /// [`Node::pack_of_round`] it can be sent to one after the other, and what they answer taken in
    /// between.
    pub fn begin_round(&mut self) -> usize {
        self.heard_only_votes = true;
        self.outbox.begin_round()
    }

    /// Makes datagrams of what there is for one node of the round, if any is left. They are among
    /// what [`Node::poll_made`] answers.
    pub fn pack_of_round(&mut self) {
        let list = self.outbox.take_of_round();
        self.pack(list);
    }

    /// The next thing to do, as of [`Node::poll_output`], so far as no datagram is to be made for
    /// it: what is in none stays so, and leaves with what comes later.
    pub fn poll_made(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Whether nobody is kept waiting by what is in no datagram: since the round began no message
    /// came but votes that ask for nothing, no event of them but grants, and what is left is the
    /// rest of the round, a claim for each node, and releases. A claim that has a quorum loses
    /// nothing by it. A late vote of which nobody asks whether it is wanted has crossed its release
    /// on the way: what answers it is a repetition.
    #[must_use]
    pub fn rest_may_wait(&self) -> bool {
        self.heard_only_votes && self.outbox.may_wait()
    }

    /// Makes datagrams of what there is for the first node. Answers whether there was any.
    pub(super) fn flush(&mut self) -> bool {
        let list = self.outbox.take();
        self.pack(list)
    }

    fn pack(&mut self, list: Option<(NodeId, Vec<Message>)>) -> bool {
        let Some((node, messages)) = list else {
            return false;
        };
        match self.peers.send(self.now, &node) {
            [Some(to), other] => {
                if let Some(other) = other {
                    self.transmit(other, node.clone(), &messages);
                }
                self.transmit(to, node, &messages);
            }
            [None, _] => self.traffic.drop_one(DropReason::NoAddress),
        }
        self.outbox.keep(messages);
        true
    }

    /// Of a datagram of this node's.
    pub(super) fn head(&self, to: NodeId) -> Head {
        Head {
            from: self.id.clone(),
            incarnation: self.claimant.incarnation(),
            to,
            voter_set: self.voter_set.tag(),
        }
    }

    pub(super) fn transmit(&mut self, addr: SocketAddr, node: NodeId, messages: &[Message]) {
        let budget = DATAGRAM_BYTES_MAX - self.seal.overhead();
        let head = self.head(node);
        let Self {
            packing,
            seal,
            traffic,
            outputs,
            ..
        } = self;
        let mut send = |body: &[u8], count: usize| {
            traffic.datagrams_out += 1;
            traffic.messages_out += count as u64;
            let bytes = seal.seal(Kind::Votes, body);
            outputs.push_back(Output::Transmit { to: addr, bytes });
        };
        if messages.is_empty() {
            let bodies = pack_head(&head).bodies;
            return bodies.iter().for_each(|(body, count)| send(body, *count));
        }
        let too_large = pack_into(packing, &head, messages, budget, send);
        for _ in 0..too_large {
            self.traffic.drop_one(DropReason::TooLarge);
        }
    }
}
