//! The claims that were revoked: an operator freed their locks by hand (protocol, "Revoked claims").
//!
//! A revoked claim keeps the vote that it has until that expires, since the code under its lease may
//! still run. It does not get a vote again. A granted claim may come later than a higher epoch (rule
//! 3), so the fence alone does not keep it out. So the voter remembers the claim for longer than any
//! lease of it can last.
//!
//! Rejected: taking the vote out of its session. A holder that has no `Revoke` counts each `Kept` of the
//! session for its claim, and would hold the key longer than the voter.

use std::collections::BTreeMap;
use std::time::Duration;

use super::table::SlotAt;
use super::{Voter, VoterCtx};
use crate::event::{Effects, Event};
use crate::id::ClaimId;
use crate::message::{Claim, Message, Revoke, Revoked, Stale};
use crate::time::{Instant, Now};

/// The most revoked claims that a voter remembers.
const REVOKED_MAX: usize = 1_024;

/// The record of a revoked claim in a voter.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Entry {
    revoke: Box<Revoke>,
    /// When it is forgotten.
    until: Instant,
    /// `true` once the claim's own node has answered that the claim is over.
    is_over: bool,
}

/// The revoked claims of a voter.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub(super) struct RevokedClaims(BTreeMap<ClaimId, Entry>);

impl RevokedClaims {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns `true` if the claim was revoked.
    pub(super) fn has(&self, claim: &ClaimId) -> bool {
        !self.0.is_empty() && self.0.contains_key(claim)
    }

    /// Forgets the claims whose leases are surely over.
    pub(super) fn forget_old(&mut self, now: Now) {
        if !self.0.is_empty() {
            self.0.retain(|_, entry| now.mono < entry.until);
        }
    }

    /// Remembers a claim. Returns `None` if there are too many that may not be over; otherwise the
    /// entry, and `true` if it is new.
    fn keep(
        &mut self,
        now: Now,
        revoke: &Revoke,
        keep_for: Duration,
    ) -> Option<(&mut Entry, bool)> {
        self.forget_old(now);
        let is_new = !self.0.contains_key(&revoke.claim);
        if is_new && self.0.len() >= REVOKED_MAX {
            // A claim that is over at its own node asks for no vote.
            let over = self.0.iter().find(|(_, entry)| entry.is_over);
            let over = over.map(|(claim, _)| claim.clone())?;
            self.0.remove(&over);
        }
        let entry = self.0.entry(revoke.claim.clone()).or_insert_with(|| Entry {
            revoke: Box::new(Revoke {
                nonce: 0,
                ..revoke.clone()
            }),
            until: Instant::ZERO,
            is_over: false,
        });
        entry.until = now.mono.after(keep_for);
        Some((entry, is_new))
    }
}

impl Voter {
    /// Rule 38: handles a `Revoke`. Returns the reply. `is_over`: the claim is of this very node, and
    /// over.
    pub fn handle_revoke(
        &mut self,
        now: Now,
        msg: &Revoke,
        is_over: bool,
        out: &mut Effects,
    ) -> Revoked {
        let mut reply = Revoked {
            nonce: msg.nonce,
            key: msg.key.clone(),
            claim: msg.claim.clone(),
            is_kept: false,
            remaining: Duration::ZERO,
            is_over,
        };
        let votes = self.voter_set.votes_for(&self.me, &msg.key);
        if !votes || self.recovery.is_some() || self.closed.is_some() {
            return reply;
        }
        let cx = &mut self.ctx(now, out);
        let at = self.settled(cx, &msg.key);
        // All voters of the quorum have received the message within `max_ttl`. Until the last lease
        // of their votes is over, none of them may vote for the claim again.
        let keep_for = cx.timing.quarantine() * 2;
        let Some((entry, is_new)) = self.revoked.keep(now, msg, keep_for) else {
            if msg.claim.node != self.me {
                let revoke = Revoke {
                    nonce: 0,
                    ..msg.clone()
                };
                cx.out
                    .send(&msg.claim.node, Message::Revoke(Box::new(revoke)));
            }
            return reply;
        };
        entry.is_over |= is_over;
        (reply.is_kept, reply.is_over) = (true, entry.is_over);
        // Each copy of the message is one more attempt.
        if !entry.is_over && msg.claim.node != self.me {
            cx.out
                .send(&msg.claim.node, Message::Revoke(entry.revoke.clone()));
        }
        let Some(at) = at else {
            return reply;
        };
        self.slots[at].remove_waiter(&msg.claim);
        let vote = &self.slots[at].vote;
        if vote.claim != msg.claim && !mistaken!(RevokedByKeyAlone) {
            return reply;
        }
        reply.remaining = self.expires_of(vote).since(now.mono);
        if is_new {
            cx.out.tell(Event::VoteRevoked {
                key: msg.key.clone(),
                holder: vote.claim.node.clone(),
                epoch: vote.epoch,
                by: msg.by.clone(),
                through: msg.through.clone(),
            });
        }
        if !mistaken!(RevokedSessionGoesOn) {
            self.sessions.close(vote.session);
        }
        if mistaken!(RevokedVoteFreedAtOnce) || vote.claim != msg.claim {
            self.end_vote(cx, at);
        }
        reply
    }

    /// Handles the reply of the claim's own node to a `Revoke` of this voter.
    pub(crate) fn note_over(&mut self, claim: &ClaimId) {
        if let Some(entry) = self.revoked.0.get_mut(claim) {
            entry.is_over = true;
        }
    }

    /// Returns `true` if a claim was revoked here.
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn has_revoked(&self, claim: &ClaimId) -> bool {
        self.revoked.has(claim)
    }

    /// Rule 38: a `Claim` that was revoked. It keeps the vote that it has, and gets none.
    pub(super) fn answer_revoked(
        &mut self,
        cx: &mut VoterCtx<'_>,
        at: Option<SlotAt>,
        msg: &Claim,
    ) {
        if let Some(entry) = self.revoked.0.get(&msg.claim) {
            let revoke = entry.revoke.clone();
            cx.out.send(&msg.claim.node, Message::Revoke(revoke));
        }
        let has_vote = |at: &SlotAt| self.slots[*at].vote.claim == msg.claim;
        let Some(at) = at.filter(has_vote) else {
            let claim = msg.claim.clone();
            let fence = self.fence(&msg.key);
            return cx
                .out
                .send(&msg.claim.node, Message::Stale(Stale { claim, fence }));
        };
        if msg.votes_valid_since > self.slots[at].vote.sent_at {
            // The claimant does not count the vote any more (rule 2).
            return self.vote_for_head(cx, at);
        }
        if msg.granted {
            self.slots[at].vote.granted = true;
            self.slots[at].learn_granted(cx);
        }
        self.send_vote(cx, at, false);
    }
}
