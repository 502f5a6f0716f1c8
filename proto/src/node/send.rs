//! Packing of the pending messages into datagrams.

use std::net::SocketAddr;

use super::{Node, Output};
use crate::id::NodeId;
use crate::message::Message;
use crate::wire::codec::{pack_head, pack_into};
use crate::wire::{DATAGRAM_BYTES_MAX, DropReason, Head, Kind};

impl Node {
    /// Announces this node to a member, in a datagram without messages if none are pending. A voter
    /// that learns of this incarnation frees the votes of earlier ones (rule 7).
    pub(super) fn announce(&mut self, node: &NodeId) {
        if self.voter_set.has_member(node) {
            self.outbox.of(node.clone());
        }
    }

    /// Packs and sends the pending messages to the first node. Returns `true` if there is one.
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

    /// Returns the head of a datagram from this node.
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
