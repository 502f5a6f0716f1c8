//! The answer that each voter would give to a claim of this node. The voters are queried, since
//! gossip may be outdated and does not cover their voter set or clocks.
//!
//! A query names the epoch that a claim would have now. The reply is the answer to that claim. No
//! rule depends on it: it serves readiness, the status and the log. The reply also has the reading
//! of the voter's wall clock (rule 28).
//!
//! The cost is one query and one reply for each voter every five seconds. Queries are more frequent
//! while a voter is silent or refuses, or while a request waits.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::id::NodeId;
use crate::message::{RefuseReason, VoterReply};
use crate::time::Instant;
use crate::voter_set::Timing;

/// The interval of queries while a request waits or the voter refuses.
const BUSY: Duration = Duration::from_secs(1);
/// The interval of retransmits of an unanswered query.
const RETRANSMIT: Duration = Duration::from_millis(250);
/// The time without a reply after which a voter is silent.
const SILENT_AFTER: Duration = Duration::from_secs(1);
/// The interval of queries to a voter that did not reply for [`SILENT_FOR_A_WHILE`]. It is short,
/// so that a voter is not silent for long because of lost datagrams.
const SILENT: Duration = Duration::from_secs(2);
const SILENT_FOR_A_WHILE: Duration = Duration::from_secs(3);

/// The answer that a voter would give to a claim of this node.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Standing {
    /// The voter would vote for the claim or queue it.
    Votes,
    /// The voter is in recovery.
    Recovering {
        /// Time left in quarantine. Recovery may add up to one second.
        remaining: Duration,
    },
    /// The voter would refuse the claim.
    Refuses(RefuseReason),
    /// The voter never replied, or does not reply now.
    Silent,
}

impl Standing {
    pub(super) fn of(refuses: Option<RefuseReason>, remaining: Duration) -> Self {
        match refuses {
            None => Self::Votes,
            Some(RefuseReason::Quarantine) => Self::Recovering { remaining },
            Some(reason) => Self::Refuses(reason),
        }
    }
}

/// The queries to the other voters, and their replies.
#[derive(Clone, Debug)]
pub(super) struct Standings {
    asked: BTreeMap<NodeId, Asked>,
    /// The longest pause between queries to a voter. It keeps the uncertainty of its clock (rule
    /// 28) from growing by more than a sixteenth of `max_clock_skew`.
    calm: Duration,
}

#[derive(Clone, Debug)]
struct Asked {
    /// The send time of the last query.
    sent_at: Instant,
    /// The time since which a reply is missing, if one is.
    unanswered: Option<Instant>,
    /// The newest reply.
    reply: Option<VoterReply>,
    /// `true` if it is queried at the next opportunity.
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
            // `remaining` is zero for a voter of a new cluster, which votes soon.
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

    /// Returns the answer that a voter would give to a claim, by its last reply.
    pub(super) fn of(&self, now: Instant, voter: &NodeId) -> Standing {
        let asked = self.asked.get(voter);
        asked.map_or(Standing::Silent, |asked| asked.standing(now))
    }

    /// Returns `true` if a voter is to be queried now, and records the query.
    pub(super) fn asks(&mut self, now: Instant, voter: &NodeId, waits: bool) -> bool {
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

    /// Records a reply. Returns `true` if it counts: it must answer a newer query than the last
    /// reply. Later queries stay unanswered.
    pub(super) fn take(&mut self, voter: &NodeId, reply: VoterReply) -> bool {
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

    /// Returns `true` if a voter was ever queried.
    pub(super) fn are_asked(&self) -> bool {
        !self.asked.is_empty()
    }

    /// Makes the next query to a voter due at once, since its state may have changed.
    pub(super) fn hurry(&mut self, voter: &NodeId) {
        if let Some(asked) = self.asked.get_mut(voter) {
            asked.is_due = true;
        }
    }

    /// Makes queries due to the voters that refused for `reason`, which may no longer apply.
    pub(super) fn hurry_refused(&mut self, reason: RefuseReason) {
        for asked in self.asked.values_mut() {
            let refuses = asked.reply.and_then(|reply| reply.refuses);
            asked.is_due |= refuses == Some(reason);
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

    /// Returns the times at which the voter is queried, if checked every 50 ms.
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
    fn silent_voter_is_queried_often_then_rarely() {
        let mut all = Standings::new(&Timing::lan());
        let times = asked(&mut all, 0, 7_000, false);
        let soon = (0..12).map(|n| n * 250);
        assert_eq!(times, soon.chain([4_750, 6_750]).collect::<Vec<u64>>());
        assert_eq!(standing(&all, 100), Standing::Silent, "no reply yet");
        all.take(&voter(), reply(6_750, None, 0));
        assert_eq!(standing(&all, 7_000), Standing::Votes);
    }

    #[test]
    fn voting_voter_costs_one_query_in_five_seconds() {
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
    fn silent_voter_does_not_count_after_a_second() {
        let mut all = Standings::new(&Timing::lan());
        assert!(all.asks(at(0), &voter(), false));
        all.take(&voter(), reply(0, None, 0));
        assert_eq!(standing(&all, 5_000), Standing::Votes);
        asked(&mut all, 50, 6_000, false);
        assert_eq!(standing(&all, 5_999), Standing::Votes);
        assert_eq!(standing(&all, 6_000), Standing::Silent);
        // After a reply to an older query, the second starts again at the newest query.
        all.take(&voter(), reply(5_250, None, 0));
        assert_eq!(standing(&all, 6_100), Standing::Votes);
    }

    #[test]
    fn refusing_voter_is_queried_each_second() {
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
        // The voter votes as soon as its peers have answered its query.
        let mut all = Standings::new(&Timing::lan());
        assert!(all.asks(at(0), &voter(), false));
        all.take(&voter(), reply(0, quarantine, 0));
        assert_eq!(asked(&mut all, 50, 100, false), [50]);
    }

    #[test]
    fn old_and_unsolicited_replies_do_not_count() {
        let mut all = Standings::new(&Timing::lan());
        all.take(&voter(), reply(0, None, 0));
        assert!(all.asked.is_empty());
        assert!(all.asks(at(0), &voter(), false));
        all.take(&voter(), reply(1, None, 0));
        assert_eq!(standing(&all, 10), Standing::Silent, "not sent yet");
        assert!(all.asks(at(250), &voter(), false));
        all.take(&voter(), reply(250, Some(RefuseReason::VoterSet), 0));
        all.take(&voter(), reply(0, None, 0));
        let refuses = Standing::Refuses(RefuseReason::VoterSet);
        assert_eq!(standing(&all, 300), refuses, "late");
    }

    #[test]
    fn hurried_voter_is_queried_at_once() {
        let mut all = Standings::new(&Timing::lan());
        assert!(all.asks(at(0), &voter(), false));
        all.take(&voter(), reply(0, None, 0));
        all.hurry(&voter());
        assert_eq!(asked(&mut all, 50, 300, false), [50]);
    }
}
