//! Sessions that renew many leases at once, and retransmission to voters that have returned.

use std::time::Duration;

use super::backoff::{jittered, sweep_interval};
use super::claimant::{Claimant, WORK_MAX};
use super::event::{Effects, Event, Ticket};
use super::id::NodeId;
use super::link::News;
use super::message::{Kept, RefuseReason, SessionId};
use super::own_claim::OwnClaim;
use super::time::{Instant, Now};

/// The most claims retransmitted to a returned voter at once: no more than a socket takes.
pub(super) const AGAIN_MAX: usize = 500;
/// The pause before the next 500: 125,000 claims per second.
const AGAIN_EVERY: Duration = Duration::from_millis(4);

impl Claimant {
    /// Handles a voter's answer to a `KeepAlive`.
    pub fn handle_kept(&mut self, now: Now, from: &NodeId, msg: &Kept) {
        let from_the_first = (now.mono, Ticket(0));
        match self.links.handle_kept(now, from, msg) {
            News::None => {}
            News::Late => self.sweep = Some(from_the_first),
            News::Over => {
                self.returned.insert(from.clone(), from_the_first);
            }
        }
    }

    /// Retransmits unanswered claims and keep-alives to a voter that has become reachable.
    pub fn handle_reachable(&mut self, now: Now, voter: &NodeId, out: &mut Effects) {
        self.returned.insert(voter.clone(), (now.mono, Ticket(0)));
        self.links.ask_again(now, voter);
        self.ask_again(now, out);
        self.links
            .send_what_is_due(now, &self.voter_set, &mut self.jitter, out);
    }

    /// Retransmits claims to voters that have returned, at most `AGAIN_MAX` at once. A voter that
    /// still refuses is left out.
    pub(super) fn ask_again(&mut self, now: Now, out: &mut Effects) {
        let due = self.returned.iter().filter(|(_, (at, _))| *at <= now.mono);
        let due: Vec<(NodeId, Ticket)> = due.map(|(v, (_, next))| (v.clone(), *next)).collect();
        for (voter, next) in due {
            self.returned.remove(&voter);
            if self.links.is_quiet(now, &voter) {
                continue;
            }
            let tickets = self.claims.range(next..).map(|(ticket, _)| *ticket);
            let tickets: Vec<Ticket> = tickets.take(AGAIN_MAX).collect();
            if let Some(last) = tickets.get(AGAIN_MAX - 1) {
                let next = (now.mono.after(AGAIN_EVERY), Ticket(last.0 + 1));
                self.returned.insert(voter.clone(), next);
            }
            for ticket in tickets {
                self.work_unless_lost(now, ticket, out, |me, claim, out| {
                    let known = (&*me.voter_set, &me.links);
                    claim.ask_again(now, &voter, known, &mut me.jitter, out);
                    false
                });
            }
        }
    }

    /// Checks all leases if a session was renewed late, so that none of them expires although it
    /// was renewed. Otherwise the timer of each lease is early enough.
    pub(super) fn look_at_leases(&mut self, now: Now, out: &mut Effects) {
        let Some((since, next)) = self.sweep else {
            return;
        };
        let tickets = self.claims.range(next..).map(|(ticket, _)| *ticket);
        let tickets: Vec<Ticket> = tickets.take(WORK_MAX).collect();
        let last = tickets.get(WORK_MAX - 1);
        self.sweep = last.map(|last| (since, Ticket(last.0 + 1)));
        for ticket in tickets {
            self.work_unless_lost(now, ticket, out, |me, claim, out| {
                me.lengthen(claim, out);
                false
            });
        }
    }

    /// Rule 11 for a lease: reports its new end if a quorum has promised a later one.
    pub(super) fn lengthen(&self, claim: &mut OwnClaim, out: &mut Effects) {
        if let Some(valid_until) = claim.lengthen(&self.voter_set, &self.links) {
            let ticket = claim.ticket;
            out.tell(Event::Renewed {
                ticket,
                valid_until,
            });
        }
    }

    /// Rule 20: records the session that a vote names as covering it, or none.
    pub(super) fn cover(
        &mut self,
        now: Now,
        claim: &mut OwnClaim,
        (at, voter): (usize, &NodeId),
        session: Option<SessionId>,
    ) {
        let session = session.filter(|_| claim.held.is_some());
        let is_known = claim.link(at).zip(session);
        if is_known.is_some_and(|(link, session)| self.links.is_for(link, session)) {
            return;
        }
        let paces = (claim.ttl, claim.renew_interval);
        let link = session.and_then(|it| self.links.meet(now, voter, it, paces));
        if let Some(link) = link {
            self.links.join(link, claim.id.seq, claim.sent_at_of(at));
        }
        if let Some(last) = claim.cover(at, link) {
            self.links.leave(last, claim.id.seq);
        }
    }

    /// Handles a voter's refusal to renew a lease. Other leases may be refused too, so none of them
    /// is retransmitted before its next round. If the reason applies to all of them, one lease
    /// retransmits for all until the voter votes.
    pub(super) fn leave_alone(
        &mut self,
        now: Now,
        claim: &mut OwnClaim,
        (at, voter): (usize, &NodeId),
        reason: RefuseReason,
    ) {
        let backoff = sweep_interval(claim.ttl, &self.voter_set);
        let until = now.mono.after(jittered(backoff, &mut self.jitter));
        let refuses_all = match reason {
            RefuseReason::Quarantine | RefuseReason::VoterSet | RefuseReason::NotAVoter => true,
            RefuseReason::Skew | RefuseReason::Limit => false,
        };
        let asks_for_all = refuses_all && self.links.suppress_until(now, voter, until);
        claim.rest(at, if asks_for_all { until } else { Instant::FAR });
    }

    /// Records that a voter votes. If it refused before, the refused claims are retransmitted.
    pub(super) fn note_voice(&mut self, now: Now, voter: &NodeId) {
        if self.links.note_voice(voter) {
            self.returned.insert(voter.clone(), (now.mono, Ticket(0)));
        }
    }
}
