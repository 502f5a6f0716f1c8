//! The voter that is shut down and leaves its memory with others.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{
    Handover, KEEPERS_MAX, MEMORY_PART_BYTES, MemoryHead, MemoryPart, MemorySize, WINDOW, size_of,
};
use crate::event::Effects;
use crate::id::{Incarnation, NodeId};
use crate::message::Message;
use crate::time::{Instant, earliest};

/// The longest time for which a leaving voter waits for tokens.
const TOKENS_WAIT: Duration = Duration::from_secs(1);

/// A handover in progress, by the voter that leaves.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Leaver {
    incarnation: Incarnation,
    round_trip: Duration,
    /// The end of the handover.
    deadline: Instant,
    stage: Stage,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
enum Stage {
    /// Waits for tokens.
    Tokens {
        /// In the order of preference.
        voters: Vec<Asked>,
        until: Instant,
        next_ask: Instant,
        asked: u32,
    },
    /// The keepers are fixed, and the memory is wanted.
    Fixed(MemoryHead),
    /// Sends the memory.
    Parts {
        bytes: Vec<u8>,
        size: MemorySize,
        keepers: BTreeMap<NodeId, Progress>,
    },
    /// Over. These voters have the memory.
    Over(Vec<NodeId>),
}

/// A voter that was asked for a token.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Asked {
    node: NodeId,
    /// `true` if the keepers are not fixed before it has replied.
    is_awaited: bool,
    reply: Reply,
}

/// The reply of a voter that was asked for a token.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Reply {
    Missing,
    /// The voter leaves too.
    Refused,
    Token(u64),
}

/// The progress of sending to one keeper.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Progress {
    token: u64,
    /// The next part that was not sent yet.
    next: u32,
    /// The parts on their way, and when they were sent last.
    sent: BTreeSet<(Instant, u32)>,
    is_whole: bool,
}

impl Asked {
    fn new((node, is_awaited): (NodeId, bool)) -> Self {
        Self {
            node,
            is_awaited,
            reply: Reply::Missing,
        }
    }

    fn is_missing(&self) -> bool {
        self.reply == Reply::Missing
    }
}

impl Leaver {
    /// Begins the handover of an incarnation: asks `others`, the preferred ones first, for tokens,
    /// and waits for those with `true`. It is over at `deadline`.
    pub fn new(
        now: Instant,
        incarnation: Incarnation,
        others: Vec<(NodeId, bool)>,
        round_trip: Duration,
        deadline: Instant,
        out: &mut Effects,
    ) -> Self {
        let stage = match others.is_empty() {
            true => Stage::Over(Vec::new()),
            false => Stage::Tokens {
                voters: others.into_iter().map(Asked::new).collect(),
                until: now.after(TOKENS_WAIT).min(deadline),
                next_ask: now,
                asked: 0,
            },
        };
        let mut leaver = Self {
            incarnation,
            round_trip,
            deadline,
            stage,
        };
        leaver.handle_timeout(now, out);
        leaver
    }

    /// Returns the head of the memory that is wanted, if the keepers are fixed.
    pub fn wants_memory(&self) -> Option<&MemoryHead> {
        match &self.stage {
            Stage::Fixed(head) => Some(head),
            _ => None,
        }
    }

    /// Sends the memory to the keepers: the journal after the [head](Self::wants_memory). `None`
    /// ends the handover.
    pub fn send_memory(&mut self, now: Instant, journal: Option<&[u8]>, out: &mut Effects) {
        let Stage::Fixed(head) = &self.stage else {
            return;
        };
        let Some(bytes) = journal.and_then(|journal| head.with(journal)) else {
            self.stage = Stage::Over(Vec::new());
            return;
        };
        let keepers = head.keepers.iter().map(|(node, token)| {
            let progress = Progress {
                token: *token,
                next: 0,
                sent: BTreeSet::new(),
                is_whole: false,
            };
            (node.clone(), progress)
        });
        self.stage = Stage::Parts {
            size: size_of(&bytes),
            keepers: keepers.collect(),
            bytes,
        };
        self.send_parts(now, out);
    }

    /// Returns the voters that have the whole memory, once the handover is over.
    pub fn outcome(&self) -> Option<&[NodeId]> {
        match &self.stage {
            Stage::Over(keepers) => Some(keepers),
            _ => None,
        }
    }

    /// Handles a `Token` or a `PartKept`.
    pub fn handle(&mut self, now: Instant, from: &NodeId, msg: &Handover, out: &mut Effects) {
        match (&mut self.stage, msg) {
            (Stage::Tokens { voters, .. }, Handover::Token { incarnation, token })
                if *incarnation == self.incarnation =>
            {
                let voter = voters.iter_mut().find(|voter| voter.node == *from);
                if let Some(voter) = voter.filter(|voter| voter.is_missing()) {
                    voter.reply = token.map_or(Reply::Refused, Reply::Token);
                }
            }
            (
                Stage::Parts { keepers, .. },
                Handover::PartKept {
                    token,
                    number,
                    is_whole,
                },
            ) => {
                let keeper = keepers.get_mut(from);
                if let Some(keeper) = keeper.filter(|keeper| keeper.token == *token) {
                    keeper.is_whole |= is_whole;
                    keeper.sent.retain(|(_, sent)| sent != number);
                }
            }
            _ => {}
        }
        self.handle_timeout(now, out);
    }

    /// Retransmits what was not answered, and ends what is late.
    pub fn handle_timeout(&mut self, now: Instant, out: &mut Effects) {
        self.ask(now, out);
        self.send_parts(now, out);
        let is_late = now >= self.deadline;
        match &mut self.stage {
            Stage::Tokens { .. } if is_late => self.stage = Stage::Over(Vec::new()),
            Stage::Parts { keepers, .. }
                if is_late || keepers.values().all(|keeper| keeper.is_whole) =>
            {
                let whole = keepers.iter().filter(|(_, keeper)| keeper.is_whole);
                let whole = whole.map(|(node, _)| node.clone()).collect();
                self.stage = Stage::Over(whole);
            }
            _ => {}
        }
    }

    /// Asks the voters that have not answered. Fixes the keepers once those have that are awaited,
    /// or it is time.
    fn ask(&mut self, now: Instant, out: &mut Effects) {
        let Stage::Tokens {
            voters,
            until,
            next_ask,
            asked,
        } = &mut self.stage
        else {
            return;
        };
        let is_awaited = |voter: &Asked| voter.is_awaited && voter.is_missing();
        if !voters.iter().any(is_awaited) || now >= *until {
            let token = |voter: &Asked| match voter.reply {
                Reply::Token(token) => Some((voter.node.clone(), token)),
                Reply::Missing | Reply::Refused => None,
            };
            let mut keepers: Vec<_> = voters.iter().filter_map(token).collect();
            let odd = (keepers.len().div_ceil(2) * 2).saturating_sub(1);
            keepers.truncate(odd.min(KEEPERS_MAX));
            self.stage = match keepers.is_empty() {
                true => Stage::Over(Vec::new()),
                false => Stage::Fixed(MemoryHead {
                    incarnation: self.incarnation,
                    keepers,
                }),
            };
            return;
        }
        if now >= *next_ask {
            let incarnation = self.incarnation;
            for voter in voters.iter().filter(|voter| voter.is_missing()) {
                let entrust = Handover::Entrust { incarnation };
                out.send(&voter.node, Message::Handover(Box::new(entrust)));
            }
            *asked += 1;
            *next_ask = now.after(self.round_trip * (1 << (*asked).min(5)));
        }
    }

    /// Sends the parts that are next, and those that were not acknowledged in time.
    fn send_parts(&mut self, now: Instant, out: &mut Effects) {
        let late = self.retransmits_after();
        let Stage::Parts {
            bytes,
            size,
            keepers,
        } = &mut self.stage
        else {
            return;
        };
        for (node, keeper) in keepers.iter_mut().filter(|(_, keeper)| !keeper.is_whole) {
            let mut due: Vec<u32> = Vec::new();
            while let Some((at, number)) = keeper.sent.first().copied()
                && now >= at.after(late)
            {
                keeper.sent.remove(&(at, number));
                due.push(number);
            }
            while keeper.sent.len() + due.len() < WINDOW && keeper.next < size.parts {
                due.push(keeper.next);
                keeper.next += 1;
            }
            if keeper.sent.is_empty() && due.is_empty() {
                // Every part was acknowledged, but not the whole: the keeper may have restarted.
                due.push(0);
            }
            for number in due {
                keeper.sent.insert((now, number));
                let part = Handover::Part(MemoryPart {
                    token: keeper.token,
                    number,
                    size: *size,
                    bytes: part_of(bytes, number).to_vec(),
                });
                out.send(node, Message::Handover(Box::new(part)));
            }
        }
    }

    fn retransmits_after(&self) -> Duration {
        self.round_trip * 4
    }

    /// Returns when [`handle_timeout`](Self::handle_timeout) must be called next.
    pub fn next_timeout(&self) -> Option<Instant> {
        let next = match &self.stage {
            Stage::Tokens {
                until, next_ask, ..
            } => Some((*until).min(*next_ask)),
            Stage::Fixed(_) => None,
            Stage::Parts { keepers, .. } => {
                let keepers = keepers.values().filter(|keeper| !keeper.is_whole);
                let sent = keepers.filter_map(|keeper| keeper.sent.first());
                let late = self.retransmits_after();
                sent.map(|(at, _)| at.after(late)).min()
            }
            Stage::Over(_) => return None,
        };
        earliest([next, Some(self.deadline)])
    }
}

fn part_of(bytes: &[u8], number: u32) -> &[u8] {
    let start = (number as usize * MEMORY_PART_BYTES).min(bytes.len());
    let end = (start + MEMORY_PART_BYTES).min(bytes.len());
    &bytes[start..end]
}
