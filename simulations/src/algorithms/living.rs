//! A lock by majority of the members that gossip reports as alive.
//!
//! This mistake looks like a feature, since locks stay available when most members are gone. Each
//! member has one vote per key until the lease that it voted for is over. A claimant needs a
//! majority of the members that its gossip reports as alive, and counts anew with each view. In a
//! partition gossip on each side reports the other side as dead, and both sides find a majority.
//!
//! Everything else follows lockmesh, so that only the count is compared. A vote counts from its
//! send time, less the drift of the clocks. Epochs are drawn as in lockmesh, and a voter refuses
//! one that is not above its fence. A voter that lost its memory is in recovery until every lease
//! it may have voted for is over.

use std::collections::BTreeMap;
use std::time::Duration;

use super::packet::{Packet, Verb};
use super::poller::{Poller, Rules};
use crate::proto::{Epoch, EpochClock, Instant, Key, NodeConfig, NodeId, Now, Start, Timing, View};

/// The attempt that has a vote.
#[derive(Clone, Copy, Debug)]
struct Vote {
    value: u64,
    epoch: u64,
    until: Instant,
}

/// A voter's record of a key.
#[derive(Debug, Default)]
struct KeyRecord {
    /// The highest epoch that had its vote and may have been granted.
    fence: u64,
    vote: Option<Vote>,
}

/// A member: its voter, and the members that its gossip reports as alive.
#[derive(Debug)]
pub(super) struct Living {
    me: NodeId,
    members: Vec<NodeId>,
    living: Vec<usize>,
    timing: Timing,
    /// The instant from which it votes.
    votes_from: Instant,
    records: BTreeMap<u64, KeyRecord>,
    clock: EpochClock,
}

pub(super) fn start(now: Now, config: NodeConfig) -> Poller<Living> {
    let timing = *config.voter_set.timing();
    let votes_from = match config.start {
        Start::NewCluster => now.mono,
        _ => now.mono.after(timing.quarantine()),
    };
    let mut rules = Living {
        me: config.id.clone(),
        members: config.voter_set.members().to_vec(),
        living: Vec::new(),
        timing,
        votes_from,
        records: BTreeMap::new(),
        clock: EpochClock::default(),
    };
    rules.handle_view(&View::default());
    Poller::new(rules, config)
}

impl Rules for Living {
    fn servers(&self, _key: &Key) -> Vec<usize> {
        self.living.clone()
    }

    fn counts_for(&self, ttl: Duration) -> Duration {
        self.timing.at_least(ttl)
    }

    fn draw_epoch(&mut self, now: Now, _value: u64, fence: u64) -> u64 {
        let skew = self.timing.max_clock_skew;
        let drawn = self.clock.draw(now, skew);
        if drawn.get() > fence {
            return drawn.get();
        }
        self.clock.draw_above(now, Epoch::new(fence), 1, skew).get()
    }

    fn serve(&mut self, now: Now, ask: Packet) -> Option<Packet> {
        let record = self.records.entry(ask.key).or_default();
        let ended = record.vote.filter(|vote| now.mono >= vote.until);
        let has_it = record.vote.is_some_and(|vote| vote.value == ask.value);
        let is_over = matches!(ask.verb, Verb::Unlock | Verb::Withdraw);
        if ended.is_some() || (has_it && is_over) {
            let owned = record
                .vote
                .filter(|_| ask.verb != Verb::Withdraw || !has_it);
            record.fence = owned.map_or(record.fence, |vote| record.fence.max(vote.epoch));
            record.vote = None;
        }
        if is_over {
            return None;
        }
        let has_it = record.vote.is_some_and(|vote| vote.value == ask.value);
        // A holder may have got its votes elsewhere; its epoch may then equal the fence.
        let is_above = match ask.verb {
            Verb::Keep => ask.epoch >= record.fence,
            _ => ask.epoch > record.fence,
        };
        let is_free = record.vote.is_none() && is_above && now.mono >= self.votes_from;
        let yes = has_it || is_free;
        if yes {
            let until = now.mono.after(Duration::from_nanos(ask.ttl));
            let until = record.vote.map_or(until, |vote| vote.until.max(until));
            record.vote = Some(Vote {
                value: ask.value,
                epoch: ask.epoch,
                until,
            });
        }
        Some(ask.answer(yes, record.fence))
    }

    fn handle_view(&mut self, view: &View) {
        let is_alive = |member: &NodeId| {
            *member == self.me || view.peers.get(member).is_some_and(|peer| peer.alive)
        };
        let living = self.members.iter().enumerate();
        self.living = living
            .filter(|(_, member)| is_alive(member))
            .map(|(at, _)| at)
            .collect();
    }
}
