//! How a claimant gets at one of its claims.

use super::claimant::Claimant;
use super::event::{Effects, Ticket};
use super::own_claim::OwnClaim;
use super::time::Now;

impl Claimant {
    /// Withdraws all requests and releases all leases, but those that outlive their process.
    pub fn release_all(&mut self, now: Now, out: &mut Effects) {
        let ends = |claim: &OwnClaim| !claim.outlives() || mistaken!(ShutdownReleasesAll);
        let claims = self.claims.iter().filter(|(_, claim)| ends(claim));
        let tickets: Vec<Ticket> = claims.map(|(ticket, _)| *ticket).collect();
        for ticket in tickets {
            self.release(now, ticket, out);
        }
    }

    /// Returns how many entries each of its maps has, by name.
    pub(crate) fn sizes(&self) -> Vec<(&'static str, usize)> {
        let mut sizes = vec![
            ("claims", self.claims.len()),
            ("tickets", self.tickets.len()),
            ("timers of claims", self.due.len()),
            ("claims that were never granted", self.never_granted.len()),
            ("voters asked again", self.returned.len()),
        ];
        sizes.extend(self.links.sizes());
        sizes
    }

    /// Works on a claim where it lies, beside the rest of the claimant: no work looks for claims.
    /// `work` answers whether the claim is over; then it is ended. Answers whether there was one.
    pub(super) fn work_on(
        &mut self,
        ticket: Ticket,
        out: &mut Effects,
        work: impl FnOnce(&mut Self, &mut OwnClaim, &mut Effects) -> bool,
    ) -> bool {
        let mut claims = std::mem::take(&mut self.claims);
        let claim = claims.get_mut(&ticket);
        let is_there = claim.is_some();
        if let Some(claim) = claim {
            if work(self, claim, out) {
                self.finish(claim, out);
                self.due.remove(&(claim.timer, ticket));
                claims.remove(&ticket);
            } else {
                self.set_timer(claim);
            }
        }
        self.claims = claims;
        is_there
    }

    /// The same, but one whose lease is over is ended first, for good. So nothing is looked at and
    /// no message handled before that. Answers whether there was one that was not.
    pub(super) fn work_unless_lost(
        &mut self,
        now: Now,
        ticket: Ticket,
        out: &mut Effects,
        work: impl FnOnce(&mut Self, &mut OwnClaim, &mut Effects) -> bool,
    ) -> bool {
        let mut is_lost = false;
        let is_there = self.work_on(ticket, out, |me, claim, out| {
            is_lost = claim.held.is_some_and(|held| now.mono >= held.valid_until);
            if is_lost {
                out.tell(claim.lost());
            }
            is_lost || work(me, claim, out)
        });
        is_there && !is_lost
    }

    /// Takes a claim out, for good or until it is kept again.
    pub(super) fn take(&mut self, ticket: Ticket) -> Option<OwnClaim> {
        let claim = self.claims.remove(&ticket)?;
        self.due.remove(&(claim.timer, ticket));
        Some(claim)
    }

    pub(super) fn keep(&mut self, mut claim: OwnClaim) {
        claim.timer = claim.next_timeout();
        self.due.insert((claim.timer, claim.ticket));
        self.claims.insert(claim.ticket, claim);
    }

    fn set_timer(&mut self, claim: &mut OwnClaim) {
        let timer = claim.next_timeout();
        if timer != claim.timer {
            self.due.remove(&(claim.timer, claim.ticket));
            self.due.insert((timer, claim.ticket));
            claim.timer = timer;
        }
    }
}
