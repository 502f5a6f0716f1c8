//! Claims that voters refuse for a limit: they release their votes and retry later.
//!
//! A voter that has no free slot keeps the slots of the keys that it has voted for. Several claims
//! on several keys may then each hold a vote that the others need. So a claim that cannot be
//! granted releases its votes and retries after a random pause, which lets one of the others be
//! granted.
//!
//! Rejected: an order over all keys by which a voter reclaims slots. Every voter would need an
//! index of its slots by rank.

use super::backoff::{chance_within, retransmit_backoff};
use super::claimant::Claimant;
use super::event::Effects;
use super::own_claim::{Answer, OwnClaim};
use super::time::Now;
use super::voter_set::Tally;

/// After this many unanswered claims a voter counts as silent.
const UNANSWERED_MAX: u32 = 2;

impl OwnClaim {
    /// Returns `true` if the voters that have voted for the claim, have queued it or have yet to
    /// answer are no quorum.
    fn is_shut_out(&self) -> bool {
        let may_vote = self.ballots.iter().filter(|ballot| match ballot.answer {
            Answer::Voted | Answer::Waits(_) => true,
            Answer::Nothing => ballot.unanswered < UNANSWERED_MAX,
            Answer::Refused(_) => false,
        });
        Tally::of(self.ballots.len(), may_vote.count(), 0) != Tally::Granted
    }
}

impl Claimant {
    /// Rule 24: handles the refusal, for a limit, of a claim that is not granted.
    ///
    /// If the other voters may still be a quorum, nothing is done. Otherwise the claim releases all
    /// its votes. It retries under the same epoch, and so keeps its place in the order.
    pub(super) fn step_aside(&mut self, now: Now, claim: &mut OwnClaim, out: &mut Effects) {
        if !claim.is_shut_out() || mistaken!(ShutOutKeepsVotes) {
            return;
        }
        self.finish(claim, out);
        claim.asides = claim.asides.saturating_add(1);
        let backoff = retransmit_backoff(claim.ttl, &self.voter_set, claim.asides);
        let pause = self.voter_set.timing().round_trip + chance_within(backoff, &mut self.jitter);
        claim.aside_until = Some(now.mono.after(pause));
    }

    /// Claims anew for a claim that stepped aside, once its pause is over. Returns `true` if the
    /// claim had stepped aside.
    pub(super) fn come_back(&mut self, now: Now, claim: &mut OwnClaim, out: &mut Effects) -> bool {
        let Some(until) = claim.aside_until else {
            return false;
        };
        if now.mono >= until {
            let epoch = claim.epoch;
            self.claim_anew(now, claim, epoch, out);
        }
        true
    }
}
