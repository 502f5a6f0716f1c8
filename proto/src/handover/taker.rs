//! The voter that starts without memory and takes up what its last incarnation left.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Handover, KeptToken, MemoryHead, MemoryPart, MemorySize, Parts, WINDOW};
use crate::event::Effects;
use crate::id::NodeId;
use crate::message::Message;
use crate::time::{Instant, earliest};

/// The longest interval between two questions.
const ASK_MAX: Duration = Duration::from_secs(1);
/// The number of retransmissions without an answer after which another keeper is asked.
const TRIES_MAX: u32 = 5;

/// The search of one incarnation for the memory of an earlier one.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Taker {
    nonce: u64,
    round_trip: Duration,
    /// The voters that have not answered yet.
    unheard: Vec<NodeId>,
    answers: BTreeMap<NodeId, KeptToken>,
    fetching: Option<Fetching>,
    delivered: Option<Delivered>,
    asked: u32,
    next_ask: Instant,
}

/// A memory that one keeper delivers.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Fetching {
    from: NodeId,
    token: u64,
    size: MemorySize,
    parts: Parts,
    /// The next part that was not asked for yet.
    next: u32,
    /// The parts that were asked for, and when.
    asked: BTreeSet<(Instant, u32)>,
    /// The number of retransmissions since the last part arrived.
    tries: u32,
}

/// A whole memory.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Delivered {
    /// The keeper that delivered it.
    pub from: NodeId,
    /// The incarnation that left, and the keepers of its memory.
    pub head: MemoryHead,
    /// The memory, in the form of a journal.
    pub journal: Vec<u8>,
}

impl Taker {
    /// Begins the search. `nonce` must differ from that of every earlier incarnation.
    pub fn new(
        now: Instant,
        others: Vec<NodeId>,
        round_trip: Duration,
        nonce: u64,
        out: &mut Effects,
    ) -> Self {
        let mut taker = Self {
            nonce,
            round_trip,
            unheard: others,
            answers: BTreeMap::new(),
            fetching: None,
            delivered: None,
            asked: 0,
            next_ask: now,
        };
        taker.handle_timeout(now, out);
        taker
    }

    /// Returns the memory, if more than half of its keepers have answered with their tokens
    /// (rule 35).
    pub fn confirmed(&self) -> Option<&Delivered> {
        let delivered = self.delivered.as_ref()?;
        let MemoryHead {
            incarnation,
            keepers,
        } = &delivered.head;
        let has_answered = |(node, token): &&(NodeId, u64)| {
            self.answers.get(node).is_some_and(|answer| {
                answer.incarnation == *incarnation
                    && (answer.token == *token || mistaken!(TokenNotCompared))
            })
        };
        let answered = keepers.iter().filter(has_answered).count();
        (answered * 2 > keepers.len() || mistaken!(OneKeeperEnough)).then_some(delivered)
    }

    /// Returns the nonce of its questions.
    pub fn nonce(&self) -> u64 {
        self.nonce
    }

    /// Asks at once, since a node has become reachable.
    pub fn hurry(&mut self, now: Instant) {
        self.next_ask = self.next_ask.min(now);
    }

    /// Handles a `Told` or a `Part`.
    pub fn handle(&mut self, now: Instant, from: &NodeId, msg: Handover, out: &mut Effects) {
        match msg {
            Handover::Told { nonce, kept } if nonce == self.nonce => {
                let waited = self.unheard.len();
                self.unheard.retain(|node| node != from);
                if let Some(kept) = kept.filter(|_| self.unheard.len() < waited) {
                    self.answers.insert(from.clone(), kept);
                }
            }
            Handover::Part(part) => self.take(from, part),
            _ => {}
        }
        self.handle_timeout(now, out);
    }

    fn take(&mut self, from: &NodeId, part: MemoryPart) {
        let fetching = self.fetching.as_mut();
        let Some(it) = fetching.filter(|it| it.from == *from && it.token == part.token) else {
            return;
        };
        it.asked.retain(|(_, number)| *number != part.number);
        it.parts.add(part);
        it.tries = 0;
        if it.parts.missing > 0 {
            return;
        }
        let (from, whole) = (it.from.clone(), it.parts.whole());
        self.fetching = None;
        let incarnation = self.answers.get(&from).map(|answer| answer.incarnation);
        let split = whole.as_deref().and_then(MemoryHead::split);
        match split.filter(|(head, _)| Some(head.incarnation) == incarnation) {
            Some((head, journal)) => {
                let journal = journal.to_vec();
                self.delivered = Some(Delivered {
                    from,
                    head,
                    journal,
                });
            }
            None => self.give_up(&from),
        }
    }

    /// Asks no more for the memory of a keeper.
    fn give_up(&mut self, keeper: &NodeId) {
        if let Some(answer) = self.answers.get_mut(keeper) {
            answer.memory = None;
        }
    }

    /// Asks those that have not answered, and fetches the memory.
    pub fn handle_timeout(&mut self, now: Instant, out: &mut Effects) {
        if !self.unheard.is_empty() && now >= self.next_ask {
            let nonce = self.nonce;
            for node in &self.unheard {
                out.send(node, Message::Handover(Box::new(Handover::Ask { nonce })));
            }
            self.asked = self.asked.saturating_add(1);
            let pause = self.round_trip * (1 << self.asked.min(16));
            self.next_ask = now.after(pause.min(ASK_MAX).max(self.round_trip));
        }
        if self.delivered.is_none() {
            self.choose();
            self.fetch(now, out);
        }
    }

    /// Chooses a keeper that has the memory of the latest incarnation.
    fn choose(&mut self) {
        if self.fetching.is_some() {
            return;
        }
        let has_memory = self.answers.iter().filter(|(_, it)| it.memory.is_some());
        let latest = has_memory.max_by_key(|(_, answer)| answer.incarnation);
        let Some((node, answer)) = latest.map(|(node, answer)| (node.clone(), *answer)) else {
            return;
        };
        let token = answer.token;
        let parts = answer
            .memory
            .and_then(|size| Some((size, Parts::of(size)?)));
        let Some((size, parts)) = parts else {
            return self.give_up(&node);
        };
        self.fetching = Some(Fetching {
            from: node,
            token,
            size,
            parts,
            next: 0,
            asked: BTreeSet::new(),
            tries: 0,
        });
    }

    fn fetch(&mut self, now: Instant, out: &mut Effects) {
        let late = self.round_trip * 4;
        let Some(it) = &mut self.fetching else {
            return;
        };
        let mut due: Vec<u32> = Vec::new();
        while let Some((at, number)) = it.asked.first().copied()
            && now >= at.after(late)
        {
            it.asked.remove(&(at, number));
            due.push(number);
        }
        it.tries += u32::from(!due.is_empty());
        if it.tries > TRIES_MAX {
            let from = it.from.clone();
            self.fetching = None;
            self.give_up(&from);
            self.choose();
            return self.fetch(now, out);
        }
        while it.asked.len() + due.len() < WINDOW && it.next < it.size.parts {
            due.push(it.next);
            it.next += 1;
        }
        for number in due {
            it.asked.insert((now, number));
            let token = it.token;
            let fetch = Handover::Fetch { token, number };
            out.send(&it.from, Message::Handover(Box::new(fetch)));
        }
    }

    /// Returns when [`handle_timeout`](Self::handle_timeout) must be called next.
    pub fn next_timeout(&self) -> Option<Instant> {
        let ask = (!self.unheard.is_empty()).then_some(self.next_ask);
        let fetching = self.fetching.as_ref().filter(|_| self.delivered.is_none());
        let asked = fetching.and_then(|it| it.asked.first());
        let fetch = asked.map(|(at, _)| at.after(self.round_trip * 4));
        earliest([ask, fetch])
    }
}
