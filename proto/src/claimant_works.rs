//! Access to the claims of a claimant.

use super::claimant::Claimant;
use super::event::{Effects, Ticket};
use super::own_claim::OwnClaim;
use super::time::Now;

impl Claimant {
    /// Withdraws all requests and releases all leases, except leases that outlive their process.
    pub fn release_all(&mut self, now: Now, out: &mut Effects) {
        let ends = |claim: &OwnClaim| !claim.outlives() || mistaken!(ShutdownReleasesAll);
        let claims = self.claims.iter().filter(|(_, claim)| ends(claim));
        let tickets: Vec<Ticket> = claims.map(|(ticket, _)| *ticket).collect();
        for ticket in tickets {
            self.release(now, ticket, out);
        }
    }

    /// Returns the number of entries in each map, by name.
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

    /// Runs `work` on a claim, and ends the claim if `work` returns `true`. Returns `true` if the
    /// claim exists. The map of claims is empty meanwhile, so `work` must not use it.
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

    /// Like `work_on`, but first ends a claim whose lease has expired, so that no message can
    /// revive it. Returns `true` if the claim exists and its lease has not expired.
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

    /// Removes a claim and its timer.
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
