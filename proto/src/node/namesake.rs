//! What a process does that learns of another live process of its own name (rule 27): it lets go
//! of what it holds, claims nothing and does not vote, until it has not heard of the other for a
//! while. Then it goes on under a higher number, as a voter without memory.
//!
//! Nodes that hear both find them out ([`super::incarnations`]) and tell both.

use std::net::SocketAddr;

use super::Node;
use super::incarnations::{ASKED_AGAIN, Asks};
use crate::event::{Effects, Event};
use crate::id::{Incarnation, NodeId};
use crate::message::{Challenge, Message, Namesake};
use crate::time::{Instant, Now, earliest};
use crate::wire::Head;

/// A number that a process takes is up to so much above the least that it may be: no other process
/// of its name takes the same.
const NUMBERS: u64 = 1 << 16;

/// Another live process of this node's name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Twin {
    /// Where this process was heard from.
    pub mine: SocketAddr,
    /// Where the other one was heard from.
    pub other: SocketAddr,
}

/// While another live process of this node's name is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stopped {
    twin: Twin,
    /// Then it was not heard of for long enough.
    until: Instant,
    /// When the members are told next that this process lives.
    beat: Instant,
}

impl Node {
    /// Another live process of this node's name, if there is one. This process then neither holds
    /// nor votes.
    #[must_use]
    pub fn twin(&self) -> Option<Twin> {
        self.stopped.map(|stopped| stopped.twin)
    }

    /// Asks two incarnations of a node whether they live.
    pub(super) fn challenge(&mut self, node: &NodeId, asks: Asks) {
        let nonce = asks.nonce;
        for addr in asks.at {
            let message = Message::Challenge(Challenge { nonce });
            self.transmit(addr, node.clone(), &[message]);
        }
    }

    /// An incarnation of a node has answered. If both have, each is told of the other.
    pub(super) fn take_alive(&mut self, head: &Head, addr: SocketAddr, alive: Challenge) {
        let incarnation = (head.incarnation, addr);
        let Some(two) = self.peers.answer(&head.from, incarnation, alive.nonce) else {
            return;
        };
        for (mine, other) in [(two[0], two[1]), (two[1], two[0])] {
            let word = Namesake {
                yours: mine.0,
                yours_at: mine.1,
                other: other.0,
                other_at: other.1,
            };
            let message = Message::Namesake(Box::new(word));
            self.transmit(mine.1, head.from.clone(), &[message]);
        }
    }

    /// Another process of this node's name lives.
    pub(super) fn take_namesake(&mut self, now: Now, word: &Namesake) {
        let own = self.claimant.incarnation();
        if word.yours != own || word.other == own || mistaken!(TwinGoesOn) {
            return;
        }
        self.seen = self.seen.max(word.other);
        let twin = Twin {
            mine: word.yours_at,
            other: word.other_at,
        };
        let timing = self.voter_set.timing();
        let until = now.mono.after(timing.max_ttl / 2);
        let beat = now.mono.after(timing.max_ttl / ASKED_AGAIN);
        let before = self.stopped.replace(Stopped { twin, until, beat });
        let mut restarted = Effects::default();
        if let Some(voter) = &mut self.voter {
            self.starts += 1;
            // No other start has it: the seed is drawn from 64 bits.
            let nonce = self.seed.wrapping_add(self.starts << 32);
            voter.restart(now, nonce, &mut restarted);
            voter.handle_view(&self.view);
        }
        if before.is_none() {
            self.effects.tell(Event::TwinFound);
            self.effects.events.append(&mut restarted.events);
            self.claimant.begin_anew(now, &mut self.effects);
        }
        self.effects.messages.append(&mut restarted.messages);
    }

    /// Whether a message stays here while another process of this node's name lives. Nothing is
    /// released either: what outlives its process would be, too.
    pub(super) fn withholds(&self, message: &Message) -> bool {
        let is_claimants = matches!(
            message,
            Message::Claim(_) | Message::Release(_) | Message::KeepAlive(_)
        );
        self.stopped.is_some() && is_claimants
    }

    /// Whether this process goes on, and who is told that it lives.
    pub(super) fn look_at_twin(&mut self, now: Now) {
        let Some(stopped) = &mut self.stopped else {
            return;
        };
        if now.mono >= stopped.until {
            self.stopped = None;
            self.effects.tell(Event::TwinGone);
            let number = self.number_above(self.seen);
            self.begin_incarnation(now, number);
        } else if now.mono >= stopped.beat {
            let every = self.voter_set.timing().max_ttl / ASKED_AGAIN;
            stopped.beat = now.mono.after(every);
            let voter_set = self.voter_set.clone();
            for member in voter_set.members() {
                if *member != self.id {
                    self.announce(member);
                }
            }
        }
    }

    pub(super) fn next_look_at_twin(&self) -> Option<Instant> {
        let stopped = self.stopped?;
        earliest([Some(stopped.until), Some(stopped.beat)])
    }

    /// Another node has heard of an incarnation of this one with a number above its own: its wall
    /// clock was set back. It goes on under a higher number.
    pub(super) fn adopt(&mut self, now: Now, seen: Incarnation) {
        self.seen = self.seen.max(seen);
        if seen <= self.claimant.incarnation() || self.stopped.is_some() {
            return;
        }
        let number = match mistaken!(AdoptsTheSameNumber) {
            true => seen,
            false => self.number_above(seen),
        };
        self.begin_incarnation(now, number);
        if let Some(voter) = &mut self.voter {
            voter.handle_earlier_incarnation(&mut self.effects);
        }
    }

    fn number_above(&mut self, seen: Incarnation) -> Incarnation {
        let least = seen.max(self.claimant.incarnation()).next();
        let number = least.get().saturating_add(self.numbers.below(NUMBERS));
        Incarnation::new(number)
    }

    fn begin_incarnation(&mut self, now: Now, number: Incarnation) {
        self.claimant.adopt(now, number, &mut self.effects);
        if let Some(voter) = &mut self.voter {
            let number = self.claimant.incarnation();
            voter.handle_incarnation(now, &self.id, number, &mut self.effects);
        }
    }
}
