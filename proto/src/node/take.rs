//! Handling of a received datagram: it is opened and unpacked, and its sender recorded.

use std::net::SocketAddr;

use super::incarnations::{Heard, Hearing};
use super::{Node, Output, is_sane};
use crate::id::Incarnation;
use crate::message::{Message, Outdated};
use crate::time::Now;
use crate::voter::Voter;
use crate::wire::codec::{ReadHead, unpack_into};
use crate::wire::{DropReason, Head, Kind};

impl Node {
    pub(super) fn receive(
        &mut self,
        now: Now,
        from: SocketAddr,
        bytes: &[u8],
    ) -> Result<(), DropReason> {
        let mut body = std::mem::take(&mut self.opened);
        let opened = self.seal.open_into(bytes, &mut body);
        if opened.is_ok() {
            self.foreign_nodes.opened(now);
        }
        let taken = opened.and_then(|kind| match kind {
            Kind::Votes => self.take_votes(now, from, &body),
            Kind::Gossip => {
                let bytes = body.clone();
                self.outputs.push_back(Output::Gossip { from, bytes });
                Ok(())
            }
            Kind::Question => self.answer(now, from, &body),
            Kind::Answer => {
                let bytes = body.clone();
                self.outputs.push_back(Output::Answer { bytes });
                Ok(())
            }
        });
        self.opened = body;
        taken
    }

    fn take_votes(&mut self, now: Now, from: SocketAddr, body: &[u8]) -> Result<(), DropReason> {
        let mut messages = std::mem::take(&mut self.taken);
        let taken = unpack_into(body, &mut messages)
            .and_then(|head| self.take_messages(now, from, head, &mut messages));
        messages.clear();
        self.taken = messages;
        taken
    }

    fn take_messages(
        &mut self,
        now: Now,
        from: SocketAddr,
        head: ReadHead<'_>,
        messages: &mut Vec<Message>,
    ) -> Result<(), DropReason> {
        if head.to.as_str() != self.id.as_str() {
            return Err(DropReason::Misaddressed);
        }
        if head.from.as_str() == self.id.as_str() {
            return Err(DropReason::FromMyself);
        }
        let head = Head {
            from: self.peers.id_of(head.from),
            incarnation: head.incarnation,
            to: self.id.clone(),
            voter_set: head.voter_set,
        };
        match self.hear(now, &head, from) {
            Heard::Again | Heard::NewIncarnation => {}
            Heard::Outdated { seen, is_told } => {
                self.take_outdated(now, (&head, from), is_told.then_some(seen), messages);
                return Err(DropReason::OutdatedIncarnation);
            }
            Heard::TooMany => return Err(DropReason::TooManyNodes),
        }
        if head.voter_set != self.voter_set.tag() || !self.sets.is_empty() {
            self.note_set(now, &head);
        }
        self.traffic.datagrams_in += 1;
        self.traffic.messages_in += messages.len() as u64;
        for message in messages.drain(..) {
            if !is_sane(&message) {
                self.traffic.drop_one(DropReason::Undecodable);
                continue;
            }
            if let Message::Alive(alive) = message {
                self.take_alive(&head, from, alive);
                continue;
            }
            if let Err(reason) = self.dispatch(now, &head, message) {
                self.traffic.drop_one(reason);
            }
        }
        Ok(())
    }

    /// Records the sender of a datagram and its incarnation.
    fn hear(&mut self, now: Now, head: &Head, addr: SocketAddr) -> Heard {
        let (claimant, voter) = (&self.claimant, &self.voter);
        let knew =
            || claimant.held(now).next().is_some() || voter.as_ref().is_some_and(Voter::has_memory);
        let incarnation = (head.incarnation, addr);
        let hearing = self.peers.hear(now.mono, &head.from, incarnation, knew);
        let Hearing { heard, over, asks } = hearing;
        if let Some(voter) = self.voter.as_mut().filter(|_| !over.is_empty()) {
            let is_over = |incarnation| over.contains(&incarnation);
            voter.handle_incarnations_over(now, &head.from, is_over, &mut self.effects);
        }
        if let Some(asks) = asks {
            self.challenge(&head.from, asks);
        }
        if heard == Heard::NewIncarnation {
            self.standings.hurry(&head.from);
            self.clocks.forget(now, &head.from);
            // The sender may not know this incarnation, and gossip may not know the sender's
            // address.
            self.announce(&head.from);
        }
        heard
    }

    /// Handles a datagram of a lower incarnation than the highest received. Only `Alive` and
    /// `Outdated` count. An `Outdated` is not answered with `Outdated`, or two such nodes would
    /// never stop.
    fn take_outdated(
        &mut self,
        now: Now,
        (head, addr): (&Head, SocketAddr),
        told: Option<Incarnation>,
        messages: &mut Vec<Message>,
    ) {
        let mut says_same = false;
        for message in messages.drain(..) {
            match message {
                Message::Alive(alive) => self.take_alive(head, addr, alive),
                Message::Outdated(Outdated { seen }) => {
                    says_same = true;
                    self.adopt(now, seen);
                }
                _ => {}
            }
        }
        if let Some(seen) = told.filter(|_| !says_same && !mistaken!(OutdatedUntold)) {
            // To the source address, not to the address of the later incarnation.
            let message = Message::Outdated(Outdated { seen });
            self.transmit(addr, head.from.clone(), &[message]);
        }
        self.route(now);
    }
}
