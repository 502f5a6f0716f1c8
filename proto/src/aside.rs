//! A claim that voters shut out for a limit of theirs: it steps aside, and asks again later.
//!
//! A voter that is full of keys keeps the slots of those it has voted for, and of several claims on
//! several keys each may have a vote that the others need. Whoever cannot win gives back what it
//! has, and comes back after a pause that is by chance, so that somebody wins. The alternative that
//! was rejected is an order over all keys by which a voter takes a slot back: it would need an
//! index of its slots by rank, which every voter would pay for.

use super::backoff::{chance_within, retransmit_backoff};
use super::claimant::Claimant;
use super::event::Effects;
use super::own_claim::{Answer, OwnClaim};
use super::time::Now;
use super::voter_set::Tally;

/// So often a voter is asked without an answer before it counts as one that gives none.
const UNANSWERED_MAX: u32 = 2;

impl OwnClaim {
    /// `true` if those voters that have voted for it, queue it, or have yet to answer
    /// are no quorum.
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
    /// A voter refuses a claim that is not granted for a limit. Where it can do without that voter
    /// nothing is done; else the claim gives back all that it has. It asks again under its epoch,
    /// and so with its place in the order.
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

    /// A claim that stepped aside asks again, once it is time. Answers whether it is aside.
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
