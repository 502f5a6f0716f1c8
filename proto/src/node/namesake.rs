//! The reaction of a process to another live process of its own name (rule 27).
//!
//! The process gives up its leases, sends no claims and does not vote. Once the other has not been
//! reported for half a `max_ttl`, it resumes under a higher incarnation, and its voter is in
//! recovery.
//!
//! A peer that receives datagrams of both detects them ([`super::incarnations`]) and notifies both.

use std::net::SocketAddr;

use super::Node;
use super::incarnations::{ASKED_AGAIN, Asks};
use crate::event::{Effects, Event};
use crate::id::{Incarnation, NodeId};
use crate::message::{Challenge, Message, Namesake};
use crate::time::{Instant, Now, earliest};
use crate::wire::Head;

/// The size of the range from which a process draws its next number. Two processes of one name are
/// then unlikely to take the same number.
const NUMBERS: u64 = 1 << 16;

/// Another live process of this node's name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Twin {
    /// The source address of this process, as a peer received it.
    pub mine: SocketAddr,
    /// The source address of the other process.
    pub other: SocketAddr,
}

/// The state while another live process of this node's name is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stopped {
    twin: Twin,
    /// The instant at which this process resumes, unless the other is reported again.
    until: Instant,
    /// The instant of the next announcement to the members.
    beat: Instant,
}

impl Node {
    /// Returns another live process of this node's name, if one is known. This process then neither
    /// holds leases nor votes.
    #[must_use]
    pub fn twin(&self) -> Option<Twin> {
        self.stopped.map(|stopped| stopped.twin)
    }

    /// Sends a challenge to two incarnations of a node.
    pub(super) fn challenge(&mut self, node: &NodeId, asks: Asks) {
        let nonce = asks.nonce;
        for addr in asks.at {
            let message = Message::Challenge(Challenge { nonce });
            self.transmit(addr, node.clone(), &[message]);
        }
    }

    /// Handles an incarnation's answer to a challenge. If both have answered, each is sent a
    /// `Namesake`.
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

    /// Handles the report of another live process of this node's name.
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
            // Unique among all starts, since the seed is drawn from 64 bits.
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

    /// Returns `true` if a message must not be sent while another process of this node's name
    /// lives. Releases are withheld too, since they would end leases that outlive their process.
    pub(super) fn withholds(&self, message: &Message) -> bool {
        let is_claimants = matches!(
            message,
            Message::Claim(_) | Message::Release(_) | Message::KeepAlive(_)
        );
        self.stopped.is_some() && is_claimants
    }

    /// Resumes this process, or announces it to the members, if either is due.
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

    /// Moves this node to a number above `seen`, if `seen` is above its own. A peer has then
    /// received a higher incarnation, since the wall clock was set back.
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
