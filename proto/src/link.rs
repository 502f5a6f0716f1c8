//! What a claimant knows of voters over all its claims: its sessions with them, and which of them
//! does not vote now.
//!
//! A link is one session at one voter. A claim that the voter has named as covered by the session
//! has the voter's vote for as long as the voter keeps the session: one answer renews all of them.
//! A link is made when a vote first names its session and never becomes that of another, so a
//! message that was late on its way says nothing wrong.

use std::collections::BTreeMap;
use std::time::Duration;

use super::backoff::{jittered, retransmit_backoff, sweep_interval};
use super::digest::{Digest, Parts};
use super::event::Effects;
use super::id::NodeId;
use super::message::{KeepAlive, Kept, Message, SessionId};
use super::rng::Jitter;
use super::time::{Instant, Now};
use super::voter_set::VoterSet;

/// Names a link for ever.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct LinkNo(u32);

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Link {
    voter: NodeId,
    session: SessionId,
    ttl: Duration,
    /// How long after one `KeepAlive` the next goes out.
    every: Duration,
    /// The newest that the voter has promised: a send time, and how long from there.
    kept: Option<(Instant, Duration)>,
    /// When that came from: the send time, or that of the oldest vote while it was not kept yet.
    kept_since: Instant,
    last_sent_at: Instant,
    /// How far a send time was ever ahead of the clock.
    ahead: Duration,
    /// How often it was sent without an answer.
    unanswered: u32,
    due: Instant,
    /// The claims that are covered.
    covered: Digest,
    /// Where the voter covers fewer.
    doubted: Parts,
}

/// What follows from an answer for the claims that a link covers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum News {
    /// Nothing that they do not find by themselves.
    None,
    /// It is so late that leases which were not looked at since may be over before they are.
    Late,
    /// The session is over: they are covered no more.
    Over,
}

/// What a claimant knows of its voters.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub(crate) struct Links {
    last: u32,
    living: BTreeMap<LinkNo, Link>,
    /// Voters that do not vote now, and until when they are left alone.
    quiet: BTreeMap<NodeId, Instant>,
}

impl Links {
    /// The link for a session that a vote has named. `None` once all numbers are used up.
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
            last_sent_at: Instant::ZERO,
            ahead: Duration::ZERO,
            unanswered: 0,
            due: now.mono,
            covered: Digest::default(),
            doubted: 0,
        };
        self.living.insert(number, link);
        Some(number)
    }

    /// Whether this is the link for a session.
    pub(crate) fn is_for(&self, number: LinkNo, session: SessionId) -> bool {
        let link = self.living.get(&number);
        link.is_some_and(|link| link.session == session)
    }

    /// A claim is covered from now on, by a vote with this send time.
    pub(crate) fn join(&mut self, number: LinkNo, seq: u64, sent_at: Option<Instant>) {
        if let Some(link) = self.living.get_mut(&number) {
            link.covered.add(seq);
            // Until it is kept, a lease that it covers is known to last from its vote only.
            if let (None, Some(sent_at)) = (link.kept, sent_at) {
                link.kept_since = link.kept_since.min(sent_at);
            }
        }
    }

    /// A claim that was covered is so no more. A link that covers nothing is not kept.
    pub(crate) fn leave(&mut self, number: LinkNo, seq: u64) {
        let Some(link) = self.living.get_mut(&number) else {
            return;
        };
        link.covered.remove(seq);
        if link.covered.is_empty() && !mistaken!(LinksKept) {
            self.living.remove(&number);
        }
    }

    pub(crate) fn is_live(&self, number: LinkNo) -> bool {
        self.living.contains_key(&number)
    }

    /// Whether the voter may not know that it covers this claim.
    pub(crate) fn doubts(&self, number: LinkNo, seq: u64) -> bool {
        let link = self.living.get(&number);
        link.is_some_and(|link| Digest::is_in(link.doubted, seq))
    }

    /// Rule 20: until when the voter has promised to keep what the link covers.
    pub(crate) fn end(&self, number: LinkNo, voter_set: &VoterSet) -> Option<Instant> {
        self.living.get(&number)?.end(voter_set)
    }

    /// When the voter is asked next to keep the link, where it has answered the last time.
    pub(crate) fn asks_at(&self, number: LinkNo) -> Option<Instant> {
        let link = self.living.get(&number)?;
        (link.unanswered == 0).then_some(link.due)
    }

    /// A mistake: whatever the voter keeps, and for which claims.
    pub(crate) fn any_end(&self, voter: &NodeId, voter_set: &VoterSet) -> Option<Instant> {
        let links = self.living.values().filter(|link| link.voter == *voter);
        links.filter_map(|link| link.end(voter_set)).max()
    }

    /// Rules 20 and 22.
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
        if msg.sent_at > link.last_sent_at || !is_newest {
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

    /// Rule 19: keeps the sessions alive.
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

    /// A voter can be reached now: what it did not answer is due.
    pub(crate) fn ask_again(&mut self, now: Now, voter: &NodeId) {
        let links = self.living.values_mut().filter(|it| it.voter == *voter);
        for link in links.filter(|link| link.unanswered > 0) {
            link.due = now.mono;
        }
    }

    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        self.living.values().map(|link| link.due).min()
    }

    /// How many entries each of its maps has, by name.
    pub(crate) fn sizes(&self) -> [(&'static str, usize); 2] {
        [
            ("links", self.living.len()),
            ("voters left alone", self.quiet.len()),
        ]
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.living.len()
    }

    /// The sessions were those of an incarnation that is over.
    pub(crate) fn end_all(&mut self) {
        self.living.clear();
    }

    /// A voter has refused a granted claim, for a reason that is the same for all: the others
    /// leave it alone until then. Answers whether that is new; the one claim that brought the news
    /// asks again for all.
    pub(crate) fn suppress_until(&mut self, now: Now, voter: &NodeId, until: Instant) -> bool {
        let is_new = !self.is_quiet(now, voter);
        if is_new {
            self.quiet.insert(voter.clone(), until);
        }
        is_new
    }

    /// Whether a voter is left alone.
    pub(crate) fn is_quiet(&self, now: Now, voter: &NodeId) -> bool {
        let until = self.quiet.get(voter);
        until.is_some_and(|until| now.mono < *until)
    }

    /// A voter votes. Answers whether it was left alone until now.
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
    /// Counted from when it was asked, as a vote is, by the slowest clock that the voter may have.
    fn end(&self, voter_set: &VoterSet) -> Option<Instant> {
        let (sent_at, ttl) = self.kept?;
        let end = sent_at.after(voter_set.timing().at_least(ttl));
        Some(end.before(self.ahead))
    }

    fn send(&mut self, now: Now, voter_set: &VoterSet, jitter: &mut Jitter, out: &mut Effects) {
        let sent_at = now
            .mono
            .max(self.last_sent_at.after(Duration::from_nanos(1)));
        self.ahead = self.ahead.max(sent_at.since(now.mono));
        self.last_sent_at = sent_at;
        let keep = KeepAlive {
            session: self.session,
            sent_at,
            covered: self.covered,
        };
        out.send(&self.voter, Message::KeepAlive(Box::new(keep)));
        let backoff = retransmit_backoff(self.ttl, voter_set, self.unanswered)
            .min(sweep_interval(self.ttl, voter_set));
        self.unanswered = self.unanswered.saturating_add(1);
        self.due = now.mono.after(jittered(backoff, jitter));
    }
}
