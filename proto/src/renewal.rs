//! A claim once it is granted: rounds to all voters, renewals, sessions and extensions.

use std::time::Duration;

use super::event::Effects;
use super::id::NodeId;
use super::link::{LinkNo, Links};
use super::own_claim::{Answer, Held, OwnClaim};
use super::request::ExtendError;
use super::rng::Jitter;
use super::time::{Instant, Now};
use super::voter_set::{VoterSet, quorum};

impl OwnClaim {
    /// Sets the link that covers a ballot. Returns the previous one.
    pub(crate) fn cover(&mut self, at: usize, link: Option<LinkNo>) -> Option<LinkNo> {
        std::mem::replace(&mut self.ballots[at].link, link)
    }

    /// Returns the link that covers a ballot.
    pub(crate) fn link(&self, at: usize) -> Option<LinkNo> {
        self.ballots[at].link
    }

    /// Returns the send time of a ballot's newest vote.
    pub(crate) fn sent_at_of(&self, at: usize) -> Option<Instant> {
        self.ballots[at].vote.map(|(sent_at, _)| sent_at)
    }

    /// Returns all links that cover ballots of the claim.
    pub(crate) fn links(&self) -> impl Iterator<Item = LinkNo> {
        self.ballots.iter().filter_map(|ballot| ballot.link)
    }

    pub(super) fn is_covered(&self, at: usize, links: &Links) -> bool {
        self.ballots[at]
            .link
            .is_some_and(|link| links.is_live(link))
    }

    /// Rule 11 for a lease: extends it to the instant that a quorum has promised. Returns the new
    /// end if it is later.
    pub(crate) fn lengthen(&mut self, voter_set: &VoterSet, links: &Links) -> Option<Instant> {
        let held = self.held?;
        let valid_until = self.promised(voter_set, links).min(held.end);
        let is_longer = valid_until > held.valid_until;
        is_longer.then(|| {
            self.held = Some(Held {
                valid_until,
                ..held
            });
            valid_until
        })
    }

    /// Retransmits the claim to a voter that has become reachable, or votes again, if its vote is
    /// behind.
    pub(crate) fn ask_again(
        &mut self,
        now: Now,
        voter: &NodeId,
        (voter_set, links): (&VoterSet, &Links),
        jitter: &mut Jitter,
        out: &mut Effects,
    ) {
        let Some(at) = self.ballot_of(voter).filter(|_| self.aside_until.is_none()) else {
            return;
        };
        let ballot = &self.ballots[at];
        let round = self.held.map(|held| held.round);
        let was_covered = ballot.link.is_some();
        let is_behind = match (round, ballot.vote) {
            (Some(round), Some((sent_at, _))) => sent_at < round || was_covered,
            (Some(_), None) => true,
            (None, _) => ballot.answer == Answer::Nothing,
        };
        if is_behind && !self.is_covered(at, links) {
            self.send_to(now, at, voter_set, jitter, out);
        }
    }

    /// Sends the granted claim to all voters.
    pub(crate) fn tell_all(
        &mut self,
        now: Now,
        voter_set: &VoterSet,
        jitter: &mut Jitter,
        out: &mut Effects,
    ) {
        self.send_to_all(now, voter_set, jitter, out);
        self.note_round(now);
    }

    /// Rules 12 and 18: renews the votes that no session renews, and requests a session for them.
    /// While an extension makes the lease outlast its ttl, all votes are renewed one by one.
    pub(super) fn renew(
        &mut self,
        now: Now,
        voter_set: &VoterSet,
        jitter: &mut Jitter,
        links: &Links,
        out: &mut Effects,
    ) {
        let is_longer = self.wanted(now) > self.ttl;
        if let Some(held) = &mut self.held {
            held.joins = true;
        }
        let mut round = None;
        for at in 0..self.ballots.len() {
            let ballot = &self.ballots[at];
            let is_doubted = ballot.link.is_some_and(|it| links.doubts(it, self.id.seq));
            let is_kept = self.is_covered(at, links) && !is_doubted && !is_longer;
            if is_kept {
                self.ballots[at].due = Instant::FAR;
                continue;
            }
            // If this is the claim that retransmits for all, its timer for this voter stays.
            if links.is_quiet(now, &ballot.voter) {
                continue;
            }
            let sent_at = *round.get_or_insert_with(|| self.next_sent_at(now));
            self.send(now, at, sent_at, voter_set, jitter, out);
        }
        self.note_round(now);
        self.look_once_kept(now, voter_set, links);
    }

    /// Schedules the next round soon after a quorum of the claim's sessions is renewed, not just
    /// before.
    ///
    /// A lease with two thirds of its ttl left survives a longer pause than one with a third left.
    /// The rounds of many leases are spread over an eighth of an interval.
    fn look_once_kept(&mut self, now: Now, voter_set: &VoterSet, links: &Links) {
        let mut asks: Vec<Instant> = self.links().filter_map(|it| links.asks_at(it)).collect();
        asks.sort_unstable();
        let Some(asked) = asks.get(quorum(self.ballots.len()) - 1) else {
            return;
        };
        let apart = self.renew_interval / 512 * (self.id.seq % 64) as u32;
        let look = asked.after(voter_set.timing().round_trip * 2 + apart);
        if let Some(held) = &mut self.held
            && now.mono < look
        {
            held.next_round = held.next_round.min(look);
        }
    }

    /// Records that a round was sent, and schedules the next.
    fn note_round(&mut self, now: Now) {
        let (renews, every, round) = (self.renews, self.renew_interval, self.last_sent_at);
        if let Some(held) = &mut self.held {
            held.told = true;
            held.round = round;
            held.next_round = if renews {
                now.mono.after(every)
            } else {
                Instant::FAR
            };
        }
    }

    /// Requests `extra` on top of the remaining time. Returns the new end of the lease, which holds
    /// once a quorum has promised it.
    pub(crate) fn extend(
        &mut self,
        now: Now,
        extra: Duration,
        voter_set: &VoterSet,
        jitter: &mut Jitter,
        out: &mut Effects,
    ) -> Result<Instant, ExtendError> {
        let Some(held) = &mut self.held else {
            return Err(ExtendError::NotHeld);
        };
        let max = voter_set.timing().max_ttl;
        let ends = if self.renews {
            held.valid_until
        } else {
            held.end
        };
        let remaining = ends.since(now.mono);
        let wanted = remaining.saturating_add(extra);
        if wanted > max {
            return Err(ExtendError::TooLong {
                remaining,
                extra,
                max,
            });
        }
        if self.renews {
            held.goal = now.mono.after(wanted);
        } else {
            held.end = now.mono.after(wanted);
        }
        let asked_for = self.wanted(now);
        self.tell_all(now, voter_set, jitter, out);
        Ok(self
            .last_sent_at
            .after(voter_set.timing().at_least(asked_for))
            .before(self.ahead))
    }
}
