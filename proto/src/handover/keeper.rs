//! The voter that keeps the memories of others.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Handover, KeptToken, MemoryPart, Parts};
use crate::event::Effects;
use crate::id::{Incarnation, NodeId};
use crate::message::Message;
use crate::time::{Instant, nanos};
use crate::voter_set::{Timing, mix};

/// The tokens and memories that a voter keeps of others, at most one of each.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Keeper {
    kept: BTreeMap<NodeId, Kept>,
    /// The time from the token on for which a memory is kept.
    keep_for: Duration,
    /// `true` once this voter leaves itself.
    leaves: bool,
    /// A number that differs for every start, and the number of tokens drawn.
    seed: u64,
    drawn: u64,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Kept {
    incarnation: Incarnation,
    token: u64,
    /// The end of the token and the memory.
    until: Instant,
    /// The incarnation to which they belong.
    heir: Option<Incarnation>,
    parts: Option<Parts>,
    is_whole: bool,
}

impl Keeper {
    /// Creates a keeper of nothing. `seed` must differ from that of every earlier start.
    pub fn new(timing: &Timing, seed: u64) -> Self {
        Self {
            kept: BTreeMap::new(),
            keep_for: match mistaken!(CopyKeptTooLong) {
                true => timing.quarantine() * 2,
                false => keep_for(timing),
            },
            leaves: false,
            seed,
            drawn: 0,
        }
    }

    /// Returns the number of nodes of which it keeps a token.
    pub fn tokens(&self) -> usize {
        self.kept.len()
    }

    /// Refuses all tokens from now on, since this voter leaves. Returns `false` if it left before.
    pub fn leave(&mut self) -> bool {
        !std::mem::replace(&mut self.leaves, true)
    }

    /// Rule 34: records a datagram of this incarnation. The first one above that which left is the
    /// heir. After a second one everything is dropped.
    pub fn hear(&mut self, node: &NodeId, incarnation: Incarnation) {
        if self.kept.is_empty() {
            return;
        }
        let Some(kept) = self.kept.get_mut(node) else {
            return;
        };
        if incarnation <= kept.incarnation {
            return;
        }
        let heir = *kept.heir.get_or_insert(incarnation);
        if heir != incarnation && !mistaken!(CopyGivenToTwo) {
            self.kept.remove(node);
        }
    }

    /// Handles a message of `from` in this incarnation, which has been [heard](Self::hear).
    pub fn handle(
        &mut self,
        now: Instant,
        (from, incarnation): (&NodeId, Incarnation),
        msg: Handover,
        out: &mut Effects,
    ) {
        self.handle_timeout(now);
        let reply = match msg {
            Handover::Entrust {
                incarnation: leaving,
            } if leaving == incarnation => Some(Handover::Token {
                incarnation,
                token: self.token_for(now, from, incarnation),
            }),
            Handover::Part(part) => self.keep(from, incarnation, part),
            Handover::Ask { nonce } => Some(Handover::Told {
                nonce,
                kept: self.kept_for(from, incarnation),
            }),
            Handover::Fetch { token, number } => self.part(from, incarnation, token, number),
            _ => None,
        };
        if let Some(reply) = reply {
            out.send(from, Message::Handover(Box::new(reply)));
        }
    }

    /// Rule 32: returns the token for an incarnation that leaves, the same each time.
    fn token_for(&mut self, now: Instant, node: &NodeId, incarnation: Incarnation) -> Option<u64> {
        let until = now.after(self.keep_for);
        if let Some(kept) = self.kept.get_mut(node) {
            if kept.incarnation == incarnation {
                if mistaken!(SecondEntrustRenews) {
                    kept.until = until;
                }
                return Some(kept.token);
            }
            if kept.incarnation > incarnation {
                return None;
            }
        }
        if self.leaves {
            return None;
        }
        self.drawn += 1;
        let token = mix(mix(self.seed).wrapping_add(self.drawn));
        let kept = Kept {
            incarnation,
            token,
            until,
            heir: None,
            parts: None,
            is_whole: false,
        };
        self.kept.insert(node.clone(), kept);
        Some(token)
    }

    /// Keeps a part of the memory of an incarnation that has a token. Returns the acknowledgment;
    /// `None` for another token, or a part that does not fit.
    fn keep(
        &mut self,
        node: &NodeId,
        incarnation: Incarnation,
        part: MemoryPart,
    ) -> Option<Handover> {
        let kept = self.kept.get_mut(node);
        let kept =
            kept.filter(|kept| kept.token == part.token && kept.incarnation == incarnation)?;
        let (token, number) = (part.token, part.number);
        if kept.parts.is_none() {
            kept.parts = Parts::of(part.size);
        }
        let parts = kept.parts.as_mut()?;
        let missed = parts.missing;
        parts.add(part);
        if missed > 0 && parts.missing == 0 {
            kept.is_whole = parts.whole().is_some();
        }
        parts.has(number).then_some(Handover::PartKept {
            token,
            number,
            is_whole: kept.is_whole,
        })
    }

    /// Rule 35: returns the token and the size of the memory for the heir.
    fn kept_for(&self, node: &NodeId, heir: Incarnation) -> Option<KeptToken> {
        let kept = self.of_heir(node, heir)?;
        let parts = kept.parts.as_ref().filter(|_| kept.is_whole);
        Some(KeptToken {
            incarnation: kept.incarnation,
            token: kept.token,
            memory: parts.map(|parts| parts.size),
        })
    }

    fn part(&self, node: &NodeId, heir: Incarnation, token: u64, number: u32) -> Option<Handover> {
        let kept = self.of_heir(node, heir)?;
        let parts = kept.parts.as_ref();
        let parts = parts.filter(|_| kept.is_whole && kept.token == token)?;
        Some(Handover::Part(MemoryPart {
            token,
            number,
            size: parts.size,
            bytes: parts.get(number)?.clone(),
        }))
    }

    fn of_heir(&self, node: &NodeId, heir: Incarnation) -> Option<&Kept> {
        let kept = self.kept.get(node);
        kept.filter(|kept| {
            kept.heir == Some(heir) || mistaken!(CopyGivenToTwo) && heir > kept.incarnation
        })
    }

    /// Drops what has been kept for its time.
    pub fn handle_timeout(&mut self, now: Instant) {
        if !self.kept.is_empty() {
            self.kept.retain(|_, kept| now < kept.until);
        }
    }

    /// Returns when [`handle_timeout`](Self::handle_timeout) must be called next.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.kept.values().map(|kept| kept.until).min()
    }
}

/// Returns the time for which a token is kept: `max_ttl * (1 - max_drift)`. By any clock it is over
/// before the quarantine of an incarnation that begins later.
fn keep_for(timing: &Timing) -> Duration {
    let drift = 1_000_000 - u128::from(timing.max_drift_ppm.min(1_000_000));
    let kept = u128::from(nanos(timing.max_ttl)) * drift / 1_000_000;
    Duration::from_nanos(u64::try_from(kept).unwrap_or(u64::MAX))
}
