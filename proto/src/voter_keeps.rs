//! Sessions at a voter: one `KeepAlive` extends all votes that a session covers.

use std::time::Duration;

use super::digest::{Digest, Parts};
use super::event::Effects;
use super::id::{Incarnation, NodeId};
use super::message::{KeepAlive, Message};
use super::session::SessionNo;
use super::slot::GivenVote;
use super::slots::SlotAt;
use super::time::{Instant, Now};
use super::voter::Voter;
use super::voter_says::send_vote;

/// The most votes that a voter sends for one `KeepAlive` whose digest differs (rule 21).
pub(super) const TOLD_MAX: usize = 128;
/// The most slots that a voter searches for these votes.
const LOOKED_AT_MAX: usize = 4_096;

impl Voter {
    /// Returns the name and the length of each map.
    pub(crate) fn sizes(&self) -> impl Iterator<Item = (&'static str, usize)> {
        self.slots.sizes().into_iter().chain(self.sessions.sizes())
    }

    /// Handles a `KeepAlive`: rules 19 and 21. A voter in recovery does not reply. If it replied
    /// that the session is over, all claims of the session would be sent singly and be refused.
    pub fn handle_keep_alive(
        &mut self,
        now: Now,
        from: &NodeId,
        incarnation: Incarnation,
        msg: &KeepAlive,
        out: &mut Effects,
    ) {
        if self.recovery.is_some() {
            return;
        }
        let heeded = self.sessions.handle_keep_alive(now, from, incarnation, msg);
        out.send(from, Message::Kept(heeded.answer));
        if let Some((session, parts)) = heeded.disputed {
            self.tell_covered(now, session, parts, out);
        }
    }

    /// Returns when a vote expires: the later of its own expiry and that of its session.
    pub(super) fn expires_of(&self, vote: &GivenVote) -> Instant {
        let covered = match mistaken!(CoveredVotesExpire) {
            true => Instant::ZERO,
            false => self.sessions.covers_until(vote.session),
        };
        vote.expires.max(covered)
    }

    pub(super) fn expires(&self, at: SlotAt) -> Instant {
        let slot = self.slots.get(at);
        slot.map_or(Instant::ZERO, |slot| self.expires_of(&slot.vote))
    }

    /// Rule 18: covers the vote by a session of its node. A covered vote stays with its session,
    /// since each `Kept` of that session holds for this vote.
    pub(super) fn cover(&mut self, now: Now, at: SlotAt, ttl: Duration) {
        let Some(slot) = self.slots.get_mut(at) else {
            return;
        };
        let vote = &mut slot.vote;
        if self.sessions.name_of(now, vote.session).is_none() {
            self.sessions.uncover(vote.session, &vote.claim);
            vote.session = self.sessions.cover(now, &vote.claim, ttl);
        }
    }

    /// Rule 21: sends the claimant up to [`TOLD_MAX`] votes that a session covers. The claimant
    /// releases those that it does not know.
    fn tell_covered(&mut self, now: Now, session: SessionNo, parts: Parts, out: &mut Effects) {
        let name = self.sessions.name_of(now, session);
        let Some(cursor) = self.sessions.cursor(session) else {
            return;
        };
        let mut told = 0;
        for _ in 0..LOOKED_AT_MAX {
            if told == TOLD_MAX {
                return;
            }
            if !self.slots.has_places_from(*cursor) {
                *cursor = SlotAt::FIRST;
                return;
            }
            if let Some(slot) = self.slots.get(*cursor)
                && slot.vote.session == session
                && Digest::is_in(parts, slot.vote.claim.seq)
            {
                send_vote(slot, name, false, out);
                told += 1;
            }
            *cursor = cursor.next();
        }
    }
}
