//! The one place where the wall clock of a node is corrected by those of the members (rule 28).
//! What a driver hands in shows the own clock; what the rules are given shows the corrected time.

use super::Node;
use crate::clocks::{MayReturn, WallClock};
use crate::time::Now;

impl Node {
    /// The reading with the corrected time. What the own clock shows is kept for who asks for it.
    pub(super) fn corrected(&mut self, now: Now) -> Now {
        self.shown_ms = now.wall_ms;
        self.clocks.pass(now.mono);
        self.clocks.correct(now)
    }

    /// The reading as the own clock shows it.
    pub(super) fn shown(&self, now: Now) -> Now {
        Now {
            wall_ms: self.shown_ms,
            ..now
        }
    }

    /// A voter without memory comes back with floors by the high time.
    pub(super) fn tell_voter_of_clocks(&mut self, now: Now) {
        let own = self.shown(now);
        let may_return = match self.standings.are_asked() {
            true => self.clocks.may_return(own, self.voter_set.quorum()),
            // Nobody wants to know.
            false => MayReturn::Yes,
        };
        if let Some(voter) = &mut self.voter {
            voter.handle_clocks(self.clocks.high(own), may_return);
        }
    }

    /// What the members' wall clocks say of the own one.
    #[must_use]
    pub fn wall_clock(&self, now: Now) -> WallClock {
        self.clocks.judge(now)
    }

    /// How far the own wall clock is ahead of the corrected time, in milliseconds; behind if
    /// negative.
    #[must_use]
    pub fn wall_ahead_ms(&self, now: Now) -> i64 {
        self.clocks.ahead_ms(now)
    }
}
