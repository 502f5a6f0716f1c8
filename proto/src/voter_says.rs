//! The messages of a voter to claimants, and the test for waiters that are gone.

use std::collections::BTreeSet;
use std::time::Duration;

use super::epoch::Epoch;
use super::event::Effects;
use super::id::{ClaimId, NodeId};
use super::message::{HolderGranted, Message, Refuse, RefuseReason, SessionId, Stale, Vote, Wait};
use super::slot::{Heard, Slot};
use super::time::Now;

/// Returns `true` if no claim of the waiter was received for its ttl, or for half of it if gossip
/// reports its node as dead. Waiters retransmit at least every quarter of their ttl (rule 14). So a
/// node that gossip wrongly reports as dead may lose one datagram and keep its place.
pub(crate) fn is_gone(now: Now, waiter: &Heard, dead: &BTreeSet<NodeId>) -> bool {
    let is_dead = dead.contains(&waiter.claim.node);
    let patience = if is_dead { waiter.ttl / 2 } else { waiter.ttl };
    if is_dead && mistaken!(DeadWaitersGoAtOnce) {
        return true;
    }
    let heard = match mistaken!(GoneByTheirSentAt) {
        true => waiter.sent_at,
        false => waiter.heard,
    };
    now.mono.since(heard) >= patience
}

/// Rule 8: the claim that has the vote is granted. Sends `Stale` to waiters that can no longer be
/// granted, and `Wait` to `try` claims. Both leave the queue.
pub(crate) fn learn_granted(
    now: Now,
    slot: &mut Slot,
    holder_probe_interval: Duration,
    out: &mut Effects,
) {
    if !mistaken!(FenceNotRaisedOnWin) {
        slot.raise_fence(slot.vote.epoch);
    }
    let fence = slot.fence;
    for waiter in slot.take_waiters(|waiter| waiter.is_below(fence)) {
        send_stale(&waiter, fence, out);
    }
    for (ahead, waiter) in slot
        .take_waiters(|w| w.is_try && !w.granted && !mistaken!(TriesUntold))
        .into_iter()
        .enumerate()
    {
        send_wait(
            now,
            slot,
            (&waiter.claim, ahead),
            holder_probe_interval,
            out,
        );
    }
}

pub(crate) fn send_vote(slot: &Slot, covered: Option<SessionId>, probe: bool, out: &mut Effects) {
    let given = &slot.vote;
    let vote = Vote {
        key: slot.key.clone(),
        claim: given.claim.clone(),
        sent_at: given.sent_at,
        ttl: given.expires.since(given.heard),
        yield_requested: slot.wants_back(),
        probe,
        covered,
    };
    out.send(&given.claim.node, Message::Vote(vote));
}

/// Sends `Wait` to a claim that has `ahead` claims before it in the queue. If the holder is silent
/// ([`HolderGranted`]), the message says so, since its claim may be over.
pub(crate) fn send_wait(
    now: Now,
    slot: &Slot,
    (claim, ahead): (&ClaimId, usize),
    holder_probe_interval: Duration,
    out: &mut Effects,
) {
    let holder = &slot.vote;
    let silent = now.mono.since(holder.heard) >= holder_probe_interval;
    let wait = Wait {
        key: slot.key.clone(),
        claim: claim.clone(),
        holder: holder.claim.clone(),
        epoch: holder.epoch,
        granted: match (holder.granted, silent) {
            (false, false) => HolderGranted::No,
            (false, true) => HolderGranted::Unheard,
            (true, false) => HolderGranted::Yes,
            (true, true) => HolderGranted::Silent,
        },
        ahead: count(ahead),
    };
    out.send(&claim.node, Message::Wait(wait));
}

pub(crate) fn send_stale(entry: &Heard, fence: Epoch, out: &mut Effects) {
    let stale = Stale {
        claim: entry.claim.clone(),
        fence,
    };
    out.send(&entry.claim.node, Message::Stale(stale));
}

pub(crate) fn send_refuse(claim: &ClaimId, reason: RefuseReason, out: &mut Effects) {
    let refuse = Refuse {
        claim: claim.clone(),
        reason,
    };
    out.send(&claim.node, Message::Refuse(refuse));
}

pub(crate) fn count(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
