//! What each voter would do with a claim of this node. The voters are asked: what gossip says of
//! them may be old, and tells nothing of their voter set or their clocks.
//!
//! A question names the epoch that a claim would have now, and the answer is what that claim would
//! be told. Nothing of the protocol rests on it: it is for readiness, for the status and for the
//! log. With it comes what the voter's wall clock shows (rule 28).
//!
//! It costs one datagram and one answer for each voter every five seconds, and more while a voter
//! does not answer, refuses, or a request waits.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::Node;
use crate::id::NodeId;
use crate::message::{Message, RefuseReason, VoterQuery, VoterReply};
use crate::time::{Instant, Now};
use crate::voter_set::Timing;
use crate::wire::Head;

/// The same while a request waits, and how often one is asked that refuses.
const BUSY: Duration = Duration::from_secs(1);
/// How soon a question is asked again that was not answered.
const RETRANSMIT: Duration = Duration::from_millis(250);
/// A voter that has not answered for this long is silent.
const SILENT_AFTER: Duration = Duration::from_secs(1);
/// How often one is asked that has been silent for a while: datagrams that were lost do not make
/// a voter silent for long.
const SILENT: Duration = Duration::from_secs(2);
const SILENT_FOR_A_WHILE: Duration = Duration::from_secs(3);

/// What a voter would do with a claim of this node.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Standing {
    /// It would take it: vote for it, or let it wait for its turn.
    Votes,
    /// It has no memory of its votes.
    Recovering {
        /// For how long it will not vote at the most, but for a second.
        remaining: Duration,
    },
    /// It would refuse it.
    Refuses(RefuseReason),
    /// It was never heard, or does not answer.
    Silent,
}

impl Standing {
    fn of(refuses: Option<RefuseReason>, remaining: Duration) -> Self {
        match refuses {
            None => Self::Votes,
            Some(RefuseReason::Quarantine) => Self::Recovering { remaining },
            Some(reason) => Self::Refuses(reason),
        }
    }
}

/// What the other voters were asked, and what they said.
#[derive(Clone, Debug)]
pub(super) struct Standings {
    asked: BTreeMap<NodeId, Asked>,
    /// How often a voter is asked at least: what is known of its clock is not to widen by more than
    /// a sixteenth of the skew that is allowed.
    calm: Duration,
}

#[derive(Clone, Debug)]
struct Asked {
    /// When it was last asked.
    sent_at: Instant,
    /// When it was asked first of those times that were not answered yet.
    unanswered: Option<Instant>,
    /// The newest answer.
    reply: Option<VoterReply>,
    /// It is to be asked at the next opportunity.
    is_due: bool,
}

impl Asked {
    fn is_silent(&self, now: Instant, after: Duration) -> bool {
        let unanswered = self.unanswered.map(|since| now.since(since));
        unanswered.is_some_and(|span| span >= after)
    }

    fn standing(&self, now: Instant) -> Standing {
        match self.reply {
            Some(reply) if !self.is_silent(now, SILENT_AFTER) => {
                let remaining = reply.remaining.saturating_sub(now.since(reply.sent_at));
                Standing::of(reply.refuses, remaining)
            }
            _ => Standing::Silent,
        }
    }

    fn next(&self, now: Instant, waits: bool, calm: Duration) -> Instant {
        let pause = match self.reply {
            _ if self.is_due => Duration::ZERO,
            _ if self.is_silent(now, SILENT_FOR_A_WHILE) => SILENT,
            _ if self.unanswered.is_some() => RETRANSMIT,
            None => RETRANSMIT,
            Some(VoterReply { refuses: None, .. }) if waits => BUSY.min(calm),
            Some(VoterReply { refuses: None, .. }) => calm,
            // A voter of a new cluster votes soon.
            Some(VoterReply {
                refuses: Some(RefuseReason::Quarantine),
                remaining,
                ..
            }) => remaining.min(BUSY).min(calm),
            Some(_) => BUSY.min(calm),
        };
        self.sent_at.after(pause)
    }
}

impl Standings {
    pub(super) fn new(timing: &Timing) -> Self {
        Self {
            asked: BTreeMap::new(),
            calm: timing.clocks_every(),
        }
    }

    /// Whether a voter is to be asked now; then it counts as asked.
    fn asks(&mut self, now: Instant, voter: &NodeId, waits: bool) -> bool {
        let Some(asked) = self.asked.get_mut(voter) else {
            let asked = Asked {
                sent_at: now,
                unanswered: Some(now),
                reply: None,
                is_due: false,
            };
            self.asked.insert(voter.clone(), asked);
            return true;
        };
        let asks = now >= asked.next(now, waits, self.calm);
        if asks {
            asked.sent_at = now;
            asked.is_due = false;
            asked.unanswered.get_or_insert(now);
        }
        asks
    }

    /// An answer counts if it is to a newer question than the one before. Questions that were
    /// asked later are not answered by it. Answers whether it counts.
    fn take(&mut self, voter: &NodeId, reply: VoterReply) -> bool {
        let Some(asked) = self.asked.get_mut(voter) else {
            return false;
        };
        let is_newer = asked.reply.is_none_or(|old| old.sent_at < reply.sent_at);
        if !is_newer || reply.sent_at > asked.sent_at {
            return false;
        }
        asked.reply = Some(reply);
        asked.unanswered = (reply.sent_at < asked.sent_at).then_some(asked.sent_at);
        true
    }

    /// Returns `true` if the voters were ever asked.
    pub(super) fn are_asked(&self) -> bool {
        !self.asked.is_empty()
    }

    /// Something has happened to a voter, or it said something that does not fit: it is asked at
    /// the next opportunity.
    pub(super) fn hurry(&mut self, voter: &NodeId) {
        if let Some(asked) = self.asked.get_mut(voter) {
            asked.is_due = true;
        }
    }

    /// The voters that have refused for this reason may not do so any more.
    fn hurry_refused(&mut self, reason: RefuseReason) {
        for asked in self.asked.values_mut() {
            let refuses = asked.reply.and_then(|reply| reply.refuses);
            asked.is_due |= refuses == Some(reason);
        }
    }
}

impl Node {
    /// Asks those voters what they would do with a claim that are to be asked now. A node whose
    /// standings are of interest is told to do so some times a second.
    pub fn check_voters(&mut self, now: Now) {
        let now = self.corrected(now);
        let waits = self.claimant.waiting() > 0;
        let voter_set = self.voter_set.clone();
        let epoch = self.claimant.next_epoch(now);
        for voter in voter_set.members().iter().filter(|it| **it != self.id) {
            let asks = self.standings.asks(now.mono, voter, waits);
            if asks && self.peers.address_of(voter).is_some() {
                let sent_at = now.mono;
                let query = VoterQuery { sent_at, epoch };
                self.effects.send(voter, Message::VoterQuery(query));
            }
        }
        self.route(now);
    }

    /// Returns what a voter would do with a claim of this node, as far as it has said.
    #[must_use]
    pub fn standing_of(&self, now: Now, voter: &NodeId) -> Standing {
        if *voter == self.id {
            let now = self.clocks.correct(now);
            let query = VoterQuery {
                sent_at: now.mono,
                epoch: self.claimant.next_epoch(now),
            };
            let reply = self.voter_reply(now, self.voter_set.tag(), &query);
            return Standing::of(reply.refuses, reply.remaining);
        }
        let asked = self.standings.asked.get(voter);
        asked.map_or(Standing::Silent, |asked| asked.standing(now.mono))
    }

    pub(super) fn take_voter_query(&mut self, now: Now, head: &Head, query: &VoterQuery) {
        let reply = self.voter_reply(now, head.voter_set, query);
        self.effects.send(&head.from, Message::VoterReply(reply));
    }

    pub(super) fn take_voter_reply(&mut self, now: Now, voter: &NodeId, reply: VoterReply) {
        if self.standings.take(voter, reply) {
            let before = self.clocks.correct(self.shown(now));
            self.clocks.hear(now, voter, reply.sent_at, reply.wall_ms);
            if self.clocks.is_news(self.shown(now), before) {
                self.standings.hurry_refused(RefuseReason::Skew);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::ZERO.after(Duration::from_millis(ms))
    }

    fn voter() -> NodeId {
        NodeId::new("v").unwrap()
    }

    fn reply(sent_ms: u64, refuses: Option<RefuseReason>, remaining_ms: u64) -> VoterReply {
        VoterReply {
            sent_at: at(sent_ms),
            refuses,
            remaining: Duration::from_millis(remaining_ms),
            wall_ms: 0,
        }
    }

    /// When it is asked, looking each 50 ms.
    fn asked(all: &mut Standings, from: u64, to: u64, waits: bool) -> Vec<u64> {
        let looks = (from..to).step_by(50);
        looks
            .filter(|ms| all.asks(at(*ms), &voter(), waits))
            .collect()
    }

    fn standing(all: &Standings, ms: u64) -> Standing {
        all.asked[&voter()].standing(at(ms))
    }

    #[test]
    fn silent_voter_is_asked_again_and_then_rarely() {
        let mut all = Standings::new(&Timing::lan());
        let times = asked(&mut all, 0, 7_000, false);
        let soon = (0..12).map(|n| n * 250);
        assert_eq!(times, soon.chain([4_750, 6_750]).collect::<Vec<u64>>());
        assert_eq!(standing(&all, 100), Standing::Silent, "it never spoke");
        all.take(&voter(), reply(6_750, None, 0));
        assert_eq!(standing(&all, 7_000), Standing::Votes);
    }

    #[test]
    fn voter_that_votes_costs_one_question_in_five_seconds() {
        let mut all = Standings::new(&Timing::lan());
        assert!(all.asks(at(0), &voter(), false));
        all.take(&voter(), reply(0, None, 0));
        assert_eq!(asked(&mut all, 50, 5_050, false), [5_000]);
        all.take(&voter(), reply(5_000, None, 0));
        assert_eq!(
            asked(&mut all, 5_050, 6_050, true),
            [6_000],
            "a request waits"
        );
    }

    #[test]
    fn voter_that_falls_silent_does_not_count_after_a_second() {
        let mut all = Standings::new(&Timing::lan());
        assert!(all.asks(at(0), &voter(), false));
        all.take(&voter(), reply(0, None, 0));
        assert_eq!(standing(&all, 5_000), Standing::Votes);
        asked(&mut all, 50, 6_000, false);
        assert_eq!(standing(&all, 5_999), Standing::Votes);
        assert_eq!(standing(&all, 6_000), Standing::Silent);
        // One question of several was answered: the others count as asked now.
        all.take(&voter(), reply(5_250, None, 0));
        assert_eq!(standing(&all, 6_100), Standing::Votes);
    }

    #[test]
    fn refusal_is_asked_about_each_second_until_it_passes() {
        let mut all = Standings::new(&Timing::lan());
        assert!(all.asks(at(0), &voter(), false));
        let skew = Some(RefuseReason::Skew);
        all.take(&voter(), reply(0, skew, 0));
        assert_eq!(standing(&all, 10), Standing::Refuses(RefuseReason::Skew));
        assert_eq!(asked(&mut all, 50, 1_050, false), [1_000]);
        let quarantine = Some(RefuseReason::Quarantine);
        all.take(&voter(), reply(1_000, quarantine, 60_000));
        let remaining = Duration::from_secs(50);
        assert_eq!(standing(&all, 11_000), Standing::Recovering { remaining });
        // It votes as soon as the others have answered it.
        let mut all = Standings::new(&Timing::lan());
        assert!(all.asks(at(0), &voter(), false));
        all.take(&voter(), reply(0, quarantine, 0));
        assert_eq!(asked(&mut all, 50, 100, false), [50]);
    }

    #[test]
    fn old_and_unasked_replies_do_not_count() {
        let mut all = Standings::new(&Timing::lan());
        all.take(&voter(), reply(0, None, 0));
        assert!(all.asked.is_empty());
        assert!(all.asks(at(0), &voter(), false));
        all.take(&voter(), reply(1, None, 0));
        assert_eq!(standing(&all, 10), Standing::Silent, "of the future");
        assert!(all.asks(at(250), &voter(), false));
        all.take(&voter(), reply(250, Some(RefuseReason::VoterSet), 0));
        all.take(&voter(), reply(0, None, 0));
        let refuses = Standing::Refuses(RefuseReason::VoterSet);
        assert_eq!(standing(&all, 300), refuses, "late");
    }

    #[test]
    fn hurried_voter_is_asked_at_once() {
        let mut all = Standings::new(&Timing::lan());
        assert!(all.asks(at(0), &voter(), false));
        all.take(&voter(), reply(0, None, 0));
        all.hurry(&voter());
        assert_eq!(asked(&mut all, 50, 300, false), [50]);
    }
}
