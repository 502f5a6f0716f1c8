//! The correction of a node's wall clock by those of the members (rule 28). It happens only here:
//! the driver passes readings of the own clock, and the rules receive the corrected time.

use super::Node;
use crate::clocks::{MayReturn, WallClock};
use crate::time::Now;

impl Node {
    /// Returns `now` with the corrected time. The reading of the own clock is kept for
    /// [`Node::shown`].
    pub(super) fn corrected(&mut self, now: Now) -> Now {
        self.shown_ms = now.wall_ms;
        self.clocks.pass(now.mono);
        self.clocks.correct(now)
    }

    /// Returns `now` with the reading of the own wall clock.
    pub(super) fn shown(&self, now: Now) -> Now {
        Now {
            wall_ms: self.shown_ms,
            ..now
        }
    }

    /// Passes the high time to the voter. A voter in recovery derives the recovered fence from it.
    pub(super) fn tell_voter_of_clocks(&mut self, now: Now) {
        let own = self.shown(now);
        let may_return = match self.standings.are_asked() {
            true => self.clocks.may_return(own, self.voter_set.quorum()),
            // The driver does not query the voters, so recovery cannot wait for their clocks.
            false => MayReturn::Yes,
        };
        if let Some(voter) = &mut self.voter {
            voter.handle_clocks(self.clocks.high(own), may_return);
        }
    }

    /// Returns the state of the own wall clock, compared with those of the members.
    #[must_use]
    pub fn wall_clock(&self, now: Now) -> WallClock {
        self.clocks.judge(now)
    }

    /// Returns how far the own wall clock is ahead of the corrected time, in milliseconds. Negative
    /// if it is behind.
    #[must_use]
    pub fn wall_ahead_ms(&self, now: Now) -> i64 {
        self.clocks.ahead_ms(now)
    }
}
