//! How what a node has to say becomes datagrams.

use std::net::SocketAddr;

use super::{Node, Output};
use crate::id::NodeId;
use crate::message::Message;
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

    /// Makes datagrams of what there is for the first node. Answers whether there was any.
    pub(super) fn flush(&mut self) -> bool {
        let Some((node, messages)) = self.outbox.take() else {
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
