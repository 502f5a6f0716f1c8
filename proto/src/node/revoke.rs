//! Locks that an operator frees by hand: the claim that holds the key is looked for, and then revoked
//! at its voters.
//!
//! Voters pass a `Revoke` on to the holder, since they receive its claims and so have its address.
//! This node may have none.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::epoch::Epoch;
use crate::event::Effects;
use crate::id::{ClaimId, Key, NodeId, Note};
use crate::message::{Inspect, Message, Report, Revoke, Revoked};
use crate::time::{Instant, Now};
use crate::voter_set::quorum;

/// The most revocations that run at once. If one more begins, the oldest ends early.
const REVOCATIONS_MAX: usize = 1_024;
/// The longest interval between two rounds of messages, in round trips.
const INTERVAL_MAX: u32 = 16;

/// Identifies one revocation.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RevokeId(u64);

/// The outcome of a revocation.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Revocation {
    /// The key.
    pub key: Key,
    /// The number of the key's voters.
    pub voters: usize,
    /// The number of voters that reported who holds the key, without those in recovery.
    pub answered: usize,
    /// The claim that was revoked. `None` if no claim holds the key, or if too few voters answered.
    pub claim: Option<RevokedClaim>,
}

/// A claim that was revoked.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[non_exhaustive]
pub struct RevokedClaim {
    /// The node whose claim it was.
    pub node: NodeId,
    /// Its fencing token.
    pub epoch: Epoch,
    /// The voters that do not renew it any more, in order.
    pub confirmed: Vec<NodeId>,
    /// `true` if the claim's node has answered: its guard reports that the lock is lost.
    pub is_holder_notified: bool,
    /// `true` if a quorum of the key's voters renews it no more, so that the lease ends although the
    /// holder may not know.
    pub is_confirmed: bool,
    /// The longest time until a vote for it expires, of the voters that answered. If
    /// [`is_confirmed`](Self::is_confirmed), the key is free then at the latest. It is free sooner if
    /// the holder releases it.
    pub remaining: Duration,
}

impl Revocation {
    /// Returns `true` if a quorum of the key's voters renews the claim no more.
    #[must_use]
    pub fn has_quorum(&self) -> bool {
        self.claim.as_ref().is_some_and(|claim| claim.is_confirmed)
    }
}

/// The state of a revocation.
#[derive(Clone, Debug)]
enum Phase {
    /// The voters are asked which claim has their votes.
    Looks {
        until: Instant,
        reports: BTreeMap<NodeId, Report>,
    },
    /// The claim is revoked.
    Revokes {
        claim: ClaimId,
        epoch: Epoch,
        answered: usize,
        replies: BTreeMap<NodeId, Revoked>,
    },
    /// No claim holds the key.
    NotHeld { answered: usize },
}

#[derive(Clone, Debug)]
struct Running {
    key: Key,
    /// The epoch of the claim to revoke; `None` for that of the holder.
    epoch: Option<Epoch>,
    by: Note,
    through: NodeId,
    until: Instant,
    voters: Vec<NodeId>,
    phase: Phase,
    round_trip: Duration,
    /// The interval to the next round, and its time.
    interval: Duration,
    next_round: Instant,
}

/// The revocations that this node runs.
#[derive(Clone, Debug)]
pub(crate) struct Revoker {
    next: u64,
    running: BTreeMap<u64, Running>,
    /// Those that were ended before their time, since there were too many.
    ended: Vec<(RevokeId, Revocation)>,
}

impl Revoker {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            // Apart from the nonces of inspections.
            next: (seed >> 1) | 1 << 63,
            running: BTreeMap::new(),
            ended: Vec::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.running.len()
    }

    pub(crate) fn begin(
        &mut self,
        now: Now,
        (key, epoch): (&Key, Option<Epoch>),
        (by, through): (Note, NodeId),
        voters: Vec<NodeId>,
        (patience, round_trip): (Duration, Duration),
        out: &mut Effects,
    ) -> RevokeId {
        self.next = self.next.wrapping_add(1);
        let nonce = self.next;
        if self.running.len() >= REVOCATIONS_MAX
            && let Some((oldest, running)) = self.running.pop_first()
        {
            self.ended.push((RevokeId(oldest), running.conclude()));
        }
        let mut running = Running {
            key: key.clone(),
            epoch,
            by,
            through,
            until: now.mono.after(patience),
            voters,
            phase: Phase::Looks {
                until: now.mono.after(patience / 2),
                reports: BTreeMap::new(),
            },
            round_trip,
            interval: round_trip * 2,
            next_round: now.mono,
        };
        running.send_due(now, nonce, out);
        self.running.insert(nonce, running);
        RevokeId(nonce)
    }

    pub(crate) fn handle_report(&mut self, now: Now, from: &NodeId, report: Report) {
        if let Some(running) = self.running.get_mut(&report.nonce)
            && running.voters.contains(from)
            && let Phase::Looks { until, reports } = &mut running.phase
        {
            reports.insert(from.clone(), report);
            if reports.len() >= quorum(running.voters.len()) {
                // A dead voter does not cost the whole time.
                *until = (*until).min(now.mono.after(running.round_trip * 2));
            }
        }
    }

    pub(crate) fn handle_revoked(&mut self, from: &NodeId, msg: &Revoked) {
        if let Some(running) = self.running.get_mut(&msg.nonce)
            && running.voters.contains(from)
            && let Phase::Revokes { claim, replies, .. } = &mut running.phase
            && *claim == msg.claim
        {
            replies.insert(from.clone(), msg.clone());
        }
    }

    /// Sends what is due, and returns the revocations that are done.
    pub(crate) fn advance(&mut self, now: Now, out: &mut Effects) -> Vec<(RevokeId, Revocation)> {
        for (nonce, running) in &mut self.running {
            running.look(now);
            running.send_due(now, *nonce, out);
        }
        let done = self
            .running
            .extract_if(.., |_, running| running.is_done(now));
        let done = done.map(|(nonce, running)| (RevokeId(nonce), running.conclude()));
        self.ended.drain(..).chain(done).collect()
    }

    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        self.running.values().map(Running::next_timeout).min()
    }
}

impl Running {
    /// Decides which claim is revoked, once enough voters have reported.
    fn look(&mut self, now: Now) {
        let Phase::Looks { until, reports } = &self.phase else {
            return;
        };
        let needed = quorum(self.voters.len());
        let answered = reports.values().filter(|it| !it.is_recovering).count();
        let mut votes: BTreeMap<&ClaimId, (usize, bool, Epoch)> = BTreeMap::new();
        let seen = reports.values().filter_map(|report| report.vote.as_ref());
        for vote in seen.filter(|vote| self.epoch.is_none_or(|epoch| vote.epoch == epoch)) {
            let (count, granted, _) = votes.entry(&vote.claim).or_insert((0, false, vote.epoch));
            *count += 1;
            *granted |= vote.granted;
        }
        let most = votes.iter().max_by_key(|(_, votes)| **votes);
        let most = most.map(|(claim, votes)| ((*claim).clone(), *votes));
        let has_quorum = most.as_ref().is_some_and(|(_, votes)| votes.0 >= needed);
        let all = reports.len() == self.voters.len();
        if !has_quorum && !all && now.mono < *until {
            return;
        }
        // The voters that did not answer, or are in recovery, may complete a quorum.
        let unknown = self.voters.len() - answered;
        self.phase = match most {
            Some((claim, (count, _, epoch))) if count + unknown >= needed => Phase::Revokes {
                claim,
                epoch,
                answered,
                replies: BTreeMap::new(),
            },
            _ => Phase::NotHeld { answered },
        };
        self.interval = self.round_trip * 2;
        self.next_round = now.mono;
    }

    /// Sends the next round of messages if it is due.
    fn send_due(&mut self, now: Now, nonce: u64, out: &mut Effects) {
        if now.mono < self.next_round {
            return;
        }
        let key = &self.key;
        for voter in &self.voters {
            let message = match &self.phase {
                Phase::Looks { reports, .. } if !reports.contains_key(voter) => {
                    let key = key.clone();
                    Message::Inspect(Inspect { nonce, key })
                }
                Phase::Revokes { claim, .. } => Message::Revoke(Box::new(Revoke {
                    nonce,
                    key: key.clone(),
                    claim: claim.clone(),
                    by: self.by.clone(),
                    through: self.through.clone(),
                })),
                Phase::Looks { .. } | Phase::NotHeld { .. } => continue,
            };
            out.send(voter, message);
        }
        self.next_round = now.mono.after(self.interval);
        self.interval = (self.interval * 2).min(self.round_trip * INTERVAL_MAX);
    }

    /// Returns `true` if nothing more is to come, or the time is over.
    fn is_done(&self, now: Now) -> bool {
        let is_complete = match &self.phase {
            Phase::Looks { .. } => false,
            Phase::NotHeld { .. } => true,
            Phase::Revokes { replies, .. } => {
                let kept = replies.values().filter(|reply| reply.is_kept).count();
                let is_over = replies.values().any(|reply| reply.is_over);
                kept == self.voters.len() && is_over
            }
        };
        is_complete || now.mono >= self.until
    }

    fn next_timeout(&self) -> Instant {
        let next = self.until.min(self.next_round);
        match &self.phase {
            Phase::Looks { until, .. } => next.min(*until),
            Phase::Revokes { .. } | Phase::NotHeld { .. } => next,
        }
    }

    fn conclude(self) -> Revocation {
        let (answered, claim) = match self.phase {
            // Nothing is known yet.
            Phase::Looks { .. } => (0, None),
            Phase::NotHeld { answered } => (answered, None),
            Phase::Revokes {
                claim,
                epoch,
                answered,
                replies,
            } => {
                let kept = replies.iter().filter(|(_, reply)| reply.is_kept);
                let confirmed: Vec<NodeId> = kept.map(|(voter, _)| voter.clone()).collect();
                let claim = RevokedClaim {
                    node: claim.node,
                    epoch,
                    is_confirmed: confirmed.len() >= quorum(self.voters.len()),
                    confirmed,
                    is_holder_notified: replies.values().any(|reply| reply.is_over),
                    remaining: replies
                        .values()
                        .map(|reply| reply.remaining)
                        .max()
                        .unwrap_or_default(),
                };
                (answered, Some(claim))
            }
        };
        Revocation {
            key: self.key,
            voters: self.voters.len(),
            answered,
            claim,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Incarnation;
    use crate::message::ReportedVote;

    const PATIENCE: Duration = Duration::from_secs(5);

    fn node(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }

    fn claim() -> ClaimId {
        ClaimId {
            node: node("a"),
            incarnation: Incarnation::new(1),
            seq: 1,
        }
    }

    fn begin(revoker: &mut Revoker, out: &mut Effects) -> RevokeId {
        let voters = ["v1", "v2", "v3"].map(node).to_vec();
        let (key, who) = (
            Key::new("k").unwrap(),
            (Note::new("ann").unwrap(), node("ops")),
        );
        let spans = (PATIENCE, Duration::from_millis(1));
        revoker.begin(Now::default(), (&key, None), who, voters, spans, out)
    }

    fn report(revoker: &mut Revoker, id: RevokeId, from: &str) {
        let vote = ReportedVote {
            claim: claim(),
            epoch: Epoch::new(5),
            granted: true,
            remaining: PATIENCE,
        };
        let report = Report {
            nonce: id.0,
            vote: Some(vote),
            waiters: Vec::new(),
            waiting: 0,
            fence: Epoch::ZERO,
            is_recovering: false,
        };
        revoker.handle_report(Now::default(), &node(from), report);
    }

    fn revoked(nonce: u64) -> Revoked {
        Revoked {
            nonce,
            key: Key::new("k").unwrap(),
            claim: claim(),
            is_kept: true,
            remaining: PATIENCE,
            is_over: false,
        }
    }

    #[test]
    fn reply_to_earlier_revoke_confirms_nothing() {
        let (mut revoker, mut out) = (Revoker::new(1), Effects::default());
        let earlier = begin(&mut revoker, &mut out);
        let later = Now {
            mono: Instant::ZERO.after(PATIENCE),
            ..Now::default()
        };
        assert_eq!(revoker.advance(later, &mut out).len(), 1);
        let id = begin(&mut revoker, &mut out);
        ["v1", "v2"]
            .iter()
            .for_each(|voter| report(&mut revoker, id, voter));
        assert!(revoker.advance(Now::default(), &mut out).is_empty());
        revoker.handle_revoked(&node("v1"), &revoked(earlier.0));
        revoker.handle_revoked(&node("v2"), &revoked(0));
        revoker.handle_revoked(&node("v3"), &revoked(id.0));
        let [(_, revocation)] = &revoker.advance(later, &mut out)[..] else {
            panic!("one ends");
        };
        let claim = revocation.claim.as_ref().unwrap();
        assert_eq!(claim.confirmed, [node("v3")]);
        assert!(!claim.is_confirmed && !revocation.has_quorum());
    }

    #[test]
    fn running_revocations_are_bounded_and_evicted_ones_know_nothing() {
        let (mut revoker, mut out) = (Revoker::new(1), Effects::default());
        let first = begin(&mut revoker, &mut out);
        ["v1", "v2"]
            .iter()
            .for_each(|voter| report(&mut revoker, first, voter));
        for _ in 0..REVOCATIONS_MAX {
            begin(&mut revoker, &mut out);
        }
        assert_eq!(revoker.len(), REVOCATIONS_MAX);
        let [(id, revocation)] = &revoker.advance(Now::default(), &mut out)[..] else {
            panic!("one is evicted");
        };
        assert_eq!((*id, revocation.answered), (first, 0));
        assert_eq!(revocation.claim, None);
    }
}
