//! A key that its holder marks: the voters that have the mark.

use std::time::Duration;

use super::backoff::retransmit_backoff;
use crate::time::{Instant, Now};
use crate::voter_set::{Tally, Timing, VoterSet};

/// One voter's answer to a `Mark`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum MarkAnswer {
    None,
    /// It has the mark, by its answer to a `Mark` that was sent then.
    Kept(Instant),
    /// It has no room for it.
    Full,
}

/// The state of a key that is being marked.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Marking {
    pub(super) keep_for: Duration,
    /// The first send time. Answers to earlier marks are answers to a shorter one.
    pub(super) since: Option<Instant>,
    /// The answers, in the order of the claim's ballots.
    answers: Vec<MarkAnswer>,
    /// The number of rounds so far, and the time of the next.
    rounds: u32,
    pub(super) next_round: Instant,
    /// `true` once a quorum has the mark, or cannot have it.
    pub(super) is_over: bool,
}

impl Marking {
    pub(super) fn new(keep_for: Duration, voters: usize) -> Self {
        Self {
            keep_for,
            since: None,
            answers: vec![MarkAnswer::None; voters],
            rounds: 0,
            next_round: Instant::ZERO,
            is_over: false,
        }
    }

    /// Schedules the next round, and returns the voters to which this one goes: those whose answer
    /// is missing, or will no longer count.
    pub(super) fn begin_round(
        &mut self,
        now: Now,
        ttl: Duration,
        voter_set: &VoterSet,
    ) -> Vec<usize> {
        let backoff = retransmit_backoff(ttl, voter_set, self.rounds);
        self.rounds = self.rounds.saturating_add(1);
        self.next_round = now.mono.after(backoff);
        let half = self.counts_for(voter_set.timing()) / 2;
        let is_due = |answer: &MarkAnswer| match answer {
            MarkAnswer::Kept(sent_at) => now.mono >= sent_at.after(half),
            MarkAnswer::None | MarkAnswer::Full => true,
        };
        let answers = self.answers.iter().enumerate();
        let due = answers.filter(|(_, answer)| is_due(answer));
        due.map(|(at, _)| at).collect()
    }

    /// Returns the time for which an answer counts.
    fn counts_for(&self, timing: &Timing) -> Duration {
        timing.max_ttl.min(self.keep_for)
    }

    /// Records an answer.
    pub(super) fn answer(&mut self, at: usize, answer: MarkAnswer) {
        if let Some(known) = self.answers.get_mut(at) {
            *known = match (*known, answer) {
                (MarkAnswer::Kept(known), MarkAnswer::Kept(sent_at)) => {
                    MarkAnswer::Kept(known.max(sent_at))
                }
                (_, answer) => answer,
            };
        }
    }

    /// Returns whether a quorum of the voters has the mark.
    ///
    /// An answer counts for a `max_ttl`, and no longer than the mark lasts. A voter that loses its memory after it reads the marks of
    /// the others only when its quarantine, which is longer, is over. By then they have the mark.
    pub(super) fn tally(&self, now: Now, timing: &Timing) -> Tally {
        let span = timing.at_least(self.counts_for(timing));
        let counts = |at: Instant| now.mono < at.after(span);
        let kept = self.answers.iter().filter(|answer| match answer {
            MarkAnswer::Kept(sent_at) => counts(*sent_at),
            MarkAnswer::None | MarkAnswer::Full => false,
        });
        let full = self.answers.iter().filter(|it| **it == MarkAnswer::Full);
        let kept = kept.count() + usize::from(mistaken!(OneMarkFewer));
        Tally::of(self.answers.len(), kept, full.count())
    }
}
