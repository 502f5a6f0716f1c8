//! The lease of a granted claim.

use std::time::Duration;

use super::ExtendError;
use crate::time::{Instant, Now};

/// How long a lease may last, whatever the voters promise.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Term {
    /// It is renewed until it is released. An extension is to reach `goal`; [`Instant::ZERO`] if
    /// none was requested.
    Renewed { goal: Instant },
    /// It ends then.
    Ends(Instant),
}

/// The lease of a granted claim.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct Lease {
    /// The end of the lease, as promised so far.
    pub(super) valid_until: Instant,
    pub(super) term: Term,
    /// `true` once the voters were sent a `Claim` with `granted`.
    pub(super) is_announced: bool,
    /// The send time of the last round of claims to all voters.
    pub(super) round: Instant,
    /// The time of the next round.
    pub(super) next_round: Instant,
    /// `true` once the lease was renewed, and so is worth a session.
    pub(super) joins: bool,
}

impl Lease {
    /// Creates the lease of a claim that is granted until `promised`. Its round was sent before.
    pub(super) fn new(promised: Instant, term: Term, round: Instant, next_round: Instant) -> Self {
        let mut lease = Self {
            valid_until: promised,
            term,
            is_announced: false,
            round,
            next_round,
            joins: false,
        };
        lease.valid_until = promised.min(lease.end());
        lease
    }

    pub(super) fn is_over(&self, now: Now) -> bool {
        now.mono >= self.valid_until
    }

    fn end(&self) -> Instant {
        match self.term {
            Term::Renewed { .. } => Instant::FAR,
            Term::Ends(end) => end,
        }
    }

    /// Rule 11 for a lease: extends it to the instant that a quorum has promised. Returns `true` if
    /// its end is later then.
    pub(super) fn lengthen(&mut self, promised: Instant) -> bool {
        let valid_until = promised.min(self.end());
        let is_longer = valid_until > self.valid_until;
        self.valid_until = self.valid_until.max(valid_until);
        is_longer
    }

    /// Returns the ttl that the next `Claim` requests, for a request with this ttl.
    pub(super) fn wanted(&self, now: Now, ttl: Duration) -> Duration {
        match self.term {
            _ if mistaken!(LeaseShrinks) => ttl / 2,
            Term::Renewed { goal } => ttl.max(goal.since(now.mono)),
            Term::Ends(end) => end.since(now.mono),
        }
    }

    /// Sets the term so that `extra` is added to the remaining time.
    pub(super) fn extend(
        &mut self,
        now: Now,
        extra: Duration,
        max: Duration,
    ) -> Result<(), ExtendError> {
        let end = match self.term {
            Term::Renewed { .. } => self.valid_until,
            Term::Ends(end) => end,
        };
        let remaining = end.since(now.mono);
        let wanted = remaining.saturating_add(extra);
        if wanted > max {
            return Err(ExtendError::TooLong {
                remaining,
                extra,
                max,
            });
        }
        match &mut self.term {
            Term::Renewed { goal: until } | Term::Ends(until) => *until = now.mono.after(wanted),
        }
        Ok(())
    }

    /// Records that a round was sent, and schedules the next after `every`.
    pub(super) fn note_round(&mut self, now: Now, sent_at: Instant, every: Option<Duration>) {
        self.is_announced = true;
        self.round = sent_at;
        self.next_round = every.map_or(Instant::FAR, |every| now.mono.after(every));
    }
}
