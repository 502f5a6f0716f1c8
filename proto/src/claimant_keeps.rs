//! What a claimant does about sessions, and about voters that come back: leases that are renewed
//! together, and claims that ask again together.

use std::time::Duration;

use super::backoff::{jittered, sweep_interval};
use super::claimant::{Claimant, WORK_MAX};
use super::event::{Effects, Event, Ticket};
use super::id::NodeId;
use super::link::News;
use super::message::{Kept, RefuseReason, SessionId};
use super::own_claim::OwnClaim;
use super::time::{Instant, Now};

/// How many claims ask a voter again at once, and how soon the next do: a hundred thousand within
/// a second, and no more at a time than a socket takes.
pub(super) const AGAIN_MAX: usize = 500;
const AGAIN_EVERY: Duration = Duration::from_millis(4);

impl Claimant {
    /// A voter's answer to a `KeepAlive`.
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

    /// A voter can be reached that could not: those that wait for its answer ask it at once.
    pub fn handle_reachable(&mut self, now: Now, voter: &NodeId, out: &mut Effects) {
        self.returned.insert(voter.clone(), (now.mono, Ticket(0)));
        self.links.ask_again(now, voter);
        self.ask_again(now, out);
        self.links
            .send_what_is_due(now, &self.voter_set, &mut self.jitter, out);
    }

    /// Asks voters that answer again, some claims at a time, unless one still refuses.
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

    /// Leases are looked at when they are due, which is often enough unless their sessions were
    /// renewed late. Then each is looked at now, before it is over.
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

    /// Rule 11, for a lease: tells where more was promised.
    pub(super) fn lengthen(&self, claim: &mut OwnClaim, out: &mut Effects) {
        if let Some(valid_until) = claim.lengthen(&self.voter_set, &self.links) {
            let ticket = claim.ticket;
            out.tell(Event::Renewed {
                ticket,
                valid_until,
            });
        }
    }

    /// Rule 20: a vote names the session that covers it, or none.
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

    /// A voter does not renew a lease. There may be many, so it is not asked again before the next
    /// round; and where it would refuse all of them, by one alone until it votes.
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

    /// A voter votes: where it did not, the claims that it refused ask again.
    pub(super) fn note_voice(&mut self, now: Now, voter: &NodeId) {
        if self.links.note_voice(voter) {
            self.returned.insert(voter.clone(), (now.mono, Ticket(0)));
        }
    }
}
