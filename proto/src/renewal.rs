//! The part of a claim's incarnation in which it is granted: it is told, renewed, covered and
//! extended.

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
    /// Another link covers a ballot from now on, or none. Returns which did.
    pub(crate) fn cover(&mut self, at: usize, link: Option<LinkNo>) -> Option<LinkNo> {
        std::mem::replace(&mut self.ballots[at].link, link)
    }

    /// The link of a ballot.
    pub(crate) fn link(&self, at: usize) -> Option<LinkNo> {
        self.ballots[at].link
    }

    /// The send time of the newest vote of a ballot.
    pub(crate) fn sent_at_of(&self, at: usize) -> Option<Instant> {
        self.ballots[at].vote.map(|(sent_at, _)| sent_at)
    }

    /// All links that cover a ballot of it.
    pub(crate) fn links(&self) -> impl Iterator<Item = LinkNo> {
        self.ballots.iter().filter_map(|ballot| ballot.link)
    }

    pub(super) fn is_covered(&self, at: usize, links: &Links) -> bool {
        self.ballots[at]
            .link
            .is_some_and(|link| links.is_live(link))
    }

    /// Rule 11, for a lease: until when it lasts, if that is longer than it was known to.
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

    /// A voter that did not answer can be reached now, or votes again.
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

    /// Sends the claim that is granted to all voters.
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

    /// Rules 12 and 18: renews what no session renews, and asks that one does. What is to last
    /// longer than a session does is renewed singly.
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
            // It may be this claim that asks for all: that stays due.
            if links.is_quiet(now, &ballot.voter) {
                continue;
            }
            let sent_at = *round.get_or_insert_with(|| self.next_sent_at(now));
            self.send(now, at, sent_at, voter_set, jitter, out);
        }
        self.note_round(now);
        self.look_once_kept(now, voter_set, links);
    }

    /// The next look comes soon after a quorum of its sessions were kept anew, and not just
    /// before: a lease that is known to last two thirds of its ttl lives through a longer stall
    /// than one of which a third is known. The looks at many are spread over a part of a round.
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

    /// All voters that were to be told are.
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

    /// Asks for `extra` on top of what remains. Returns when the lease then ends at the least.
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
