//! A claimant's sessions with voters, and the voters that do not vote now.
//!
//! A link is one session at one voter. If the voter named the session as covering a claim, that
//! claim has its vote until the session ends. So one answer renews all covered claims. A link is
//! created when a vote first names its session, and never becomes that of another session. So a
//! late message cannot be mistaken.

use std::collections::BTreeMap;
use std::time::Duration;

use super::backoff::{Jitter, SendTimes, retransmit_backoff, sweep_interval};
use crate::digest::{Digest, Parts};
use crate::event::Effects;
use crate::id::NodeId;
use crate::message::{KeepAlive, Kept, Message, SessionId};
use crate::time::{Instant, Now};
use crate::voter_set::VoterSet;

/// The number of a link; never reused.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct LinkNo(u32);

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Link {
    voter: NodeId,
    session: SessionId,
    ttl: Duration,
    /// The interval between two `KeepAlive`s.
    every: Duration,
    /// The latest promise of the voter: a send time, and the ttl from then.
    kept: Option<(Instant, Duration)>,
    /// The send time of `kept`; before the first `Kept`, that of the oldest covered vote.
    kept_since: Instant,
    sent: SendTimes,
    /// The number of `KeepAlive`s sent since the last answer.
    unanswered: u32,
    due: Instant,
    /// The covered claims.
    covered: Digest,
    /// The parts of the digest in which the voter covers fewer claims.
    doubted: Parts,
}

/// The consequence of a `Kept` for the claims that a link covers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum News {
    /// Nothing: the timers of the claims are early enough.
    None,
    /// The answer is so late that leases may expire before they are next checked.
    Late,
    /// The session is over, and covers no claim any more.
    Over,
}

/// The links of a claimant, and its quiet voters.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub(crate) struct Links {
    last: u32,
    living: BTreeMap<LinkNo, Link>,
    /// Voters that do not vote now, and until when granted claims are not sent to them.
    quiet: BTreeMap<NodeId, Instant>,
}

impl Links {
    /// Returns the link for a session that a vote has named, and creates it if there is none.
    /// Returns `None` once all numbers are used up.
    pub(crate) fn meet(
        &mut self,
        now: Now,
        voter: &NodeId,
        session: SessionId,
        (ttl, every): (Duration, Duration),
    ) -> Option<LinkNo> {
        if let Some(number) = self.find(voter, session) {
            return Some(number);
        }
        self.last = self.last.checked_add(1)?;
        let number = LinkNo(self.last);
        let link = Link {
            voter: voter.clone(),
            session,
            ttl,
            every,
            kept: None,
            kept_since: now.mono,
            sent: SendTimes::NONE,
            unanswered: 0,
            due: now.mono,
            covered: Digest::default(),
            doubted: 0,
        };
        self.living.insert(number, link);
        Some(number)
    }

    /// Returns `true` if this is the link for a session.
    pub(crate) fn is_for(&self, number: LinkNo, session: SessionId) -> bool {
        let link = self.living.get(&number);
        link.is_some_and(|link| link.session == session)
    }

    /// Adds a claim that is covered by a vote with this send time.
    pub(crate) fn join(&mut self, number: LinkNo, seq: u64, sent_at: Option<Instant>) {
        if let Some(link) = self.living.get_mut(&number) {
            link.covered.add(seq);
            // Before the first `Kept`, a covered lease is measured from its vote alone.
            if let (None, Some(sent_at)) = (link.kept, sent_at) {
                link.kept_since = link.kept_since.min(sent_at);
            }
        }
    }

    /// Removes a claim that is no longer covered. A link without claims is removed.
    pub(crate) fn leave(&mut self, number: LinkNo, seq: u64) {
        let Some(link) = self.living.get_mut(&number) else {
            return;
        };
        link.covered.remove(seq);
        if link.covered.is_empty() && !mistaken!(LinksKept) {
            self.living.remove(&number);
        }
    }

    /// Returns `true` if the link exists.
    pub(crate) fn is_live(&self, number: LinkNo) -> bool {
        self.living.contains_key(&number)
    }

    /// Returns `true` if the voter may not know that it covers this claim.
    pub(crate) fn doubts(&self, number: LinkNo, seq: u64) -> bool {
        let link = self.living.get(&number);
        link.is_some_and(|link| Digest::is_in(link.doubted, seq))
    }

    /// Rule 20: returns the instant up to which the voter has promised to keep the covered votes.
    pub(crate) fn end(&self, number: LinkNo, voter_set: &VoterSet) -> Option<Instant> {
        self.living.get(&number)?.end(voter_set)
    }

    /// Returns when the next `KeepAlive` is due, if the last one was answered.
    pub(crate) fn asks_at(&self, number: LinkNo) -> Option<Instant> {
        let link = self.living.get(&number)?;
        (link.unanswered == 0).then_some(link.due)
    }

    /// For the mistake `KeptCoversAll`: returns the latest promise of any link with the voter.
    pub(crate) fn any_end(&self, voter: &NodeId, voter_set: &VoterSet) -> Option<Instant> {
        let links = self.living.values().filter(|link| link.voter == *voter);
        links.filter_map(|link| link.end(voter_set)).max()
    }

    /// Rules 20 and 22: handles a `Kept`.
    pub(crate) fn handle_kept(&mut self, now: Now, from: &NodeId, msg: &Kept) -> News {
        let Some(number) = self.find(from, msg.session) else {
            return News::None;
        };
        let Some(ttl) = msg.ttl else {
            self.living.remove(&number);
            return News::Over;
        };
        let Some(link) = self.living.get_mut(&number) else {
            return News::None;
        };
        let is_newest = link.kept.is_none() || msg.sent_at >= link.kept_since;
        if msg.sent_at > link.sent.last || !is_newest {
            return News::None;
        }
        let from = match mistaken!(KeptFromReceipt) {
            true => now.mono,
            false => msg.sent_at,
        };
        let unseen = now.mono.since(link.kept_since) + link.every;
        link.kept = Some((from, ttl));
        link.kept_since = msg.sent_at;
        link.doubted = msg.lacks;
        link.unanswered = 0;
        link.due = link.due.max(msg.sent_at.after(link.every));
        if unseen > link.ttl / 6 * 5 && !mistaken!(LateKeptUnseen) {
            News::Late
        } else {
            News::None
        }
    }

    /// Rule 19: sends the `KeepAlive`s that are due.
    pub(crate) fn send_what_is_due(
        &mut self,
        now: Now,
        voter_set: &VoterSet,
        jitter: &mut Jitter,
        out: &mut Effects,
    ) {
        let due = self.living.values_mut().filter(|link| link.due <= now.mono);
        for link in due {
            link.send(now, voter_set, jitter, out);
        }
    }

    /// Makes unanswered `KeepAlive`s to a voter due, since it has become reachable.
    pub(crate) fn ask_again(&mut self, now: Now, voter: &NodeId) {
        let links = self.living.values_mut().filter(|it| it.voter == *voter);
        for link in links.filter(|link| link.unanswered > 0) {
            link.due = now.mono;
        }
    }

    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        self.living.values().map(|link| link.due).min()
    }

    /// Returns the number of entries in each map, by name.
    pub(crate) fn sizes(&self) -> [(&'static str, usize); 2] {
        [
            ("links", self.living.len()),
            ("voters left alone", self.quiet.len()),
        ]
    }

    /// Returns the number of links.
    pub(crate) fn len(&self) -> usize {
        self.living.len()
    }

    /// Removes all links: they are those of an incarnation that is over.
    pub(crate) fn end_all(&mut self) {
        self.living.clear();
    }

    /// Suppresses granted claims to a voter until then, after a refusal for a reason that applies
    /// to all of them. Returns `true` if they were not suppressed yet: the refused claim then
    /// retransmits for all.
    pub(crate) fn suppress_until(&mut self, now: Now, voter: &NodeId, until: Instant) -> bool {
        let is_new = !self.is_quiet(now, voter);
        if is_new {
            self.quiet.insert(voter.clone(), until);
        }
        is_new
    }

    /// Returns `true` while granted claims to a voter are suppressed.
    pub(crate) fn is_quiet(&self, now: Now, voter: &NodeId) -> bool {
        let until = self.quiet.get(voter);
        until.is_some_and(|until| now.mono < *until)
    }

    /// Records that a voter votes. Returns `true` if granted claims to it were suppressed.
    pub(crate) fn note_voice(&mut self, voter: &NodeId) -> bool {
        self.quiet.remove(voter).is_some()
    }

    fn find(&self, voter: &NodeId, session: SessionId) -> Option<LinkNo> {
        let is_it = |link: &Link| {
            let is_its = link.session == session || mistaken!(KeptForAnother);
            is_its && link.voter == *voter
        };
        let mut found = self.living.iter().filter(|(_, link)| is_it(link));
        found.next().map(|(number, _)| *number)
    }
}

impl Link {
    /// Measured from the send time, as a vote is. Assumes that the voter's clock is as fast as
    /// allowed.
    fn end(&self, voter_set: &VoterSet) -> Option<Instant> {
        let (sent_at, ttl) = self.kept?;
        let end = sent_at.after(voter_set.timing().at_least(ttl));
        Some(end.before(self.sent.ahead))
    }

    fn send(&mut self, now: Now, voter_set: &VoterSet, jitter: &mut Jitter, out: &mut Effects) {
        let sent_at = self.sent.next(now);
        let keep = KeepAlive {
            session: self.session,
            sent_at,
            covered: self.covered,
        };
        out.send(&self.voter, Message::KeepAlive(Box::new(keep)));
        let backoff = retransmit_backoff(self.ttl, voter_set, self.unanswered)
            .min(sweep_interval(self.ttl, voter_set));
        self.unanswered = self.unanswered.saturating_add(1);
        self.due = now.mono.after(jitter.shorten(backoff));
    }
}
