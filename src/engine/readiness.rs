//! The time until a voter that can acquire locks becomes ready. An orchestrator restarts the next
//! voter once this one is ready.

use std::time::Duration;

use lockmesh_proto::{Instant, NoSpareVoter, VoterSet};

use crate::status::Health;

/// The time after its quarantine in which a voter is known to vote: the recovery, and the interval
/// of queries.
const SETTLE: Duration = Duration::from_secs(5);

/// The history of a node's health that decides whether it is ready.
#[derive(Debug, Default)]
pub(super) struct Readiness {
    was_ready: bool,
    /// The time since which locks can be acquired.
    can_lock_since: Option<Instant>,
}

impl Readiness {
    /// Returns `true` if a voter that can acquire locks is ready, while `voting` members vote.
    ///
    /// It is once another voter may be restarted. It also is if no wait would help: a voter that is
    /// missing for longer than a quarantine is down for good, and some voter sets never have a
    /// spare voter. A voter that was ready stays so, or the failure of one voter would make all
    /// others unready.
    ///
    /// A voter that reads the marks of the others is not ready until that ends by itself (rule 37).
    pub(super) fn is_reached(
        &self,
        now: Instant,
        voter_set: &VoterSet,
        voting: usize,
        reads_marks: bool,
    ) -> bool {
        let waited = self.can_lock_since.map(|since| now.since(since));
        let is_missing = matches!(
            voter_set.check_restart(voting),
            Err(NoSpareVoter::Missing { .. })
        );
        let at_most = voter_set.timing().quarantine() + SETTLE;
        let has_waited = !is_missing || waited.is_some_and(|waited| waited >= at_most);
        self.was_ready || (has_waited && !reads_marks)
    }

    /// Records the health of the node.
    pub(super) fn observe(&mut self, health: Health, now: Instant) {
        self.was_ready |= health == Health::Ready;
        self.can_lock_since = match health.can_lock() {
            true => self.can_lock_since.or(Some(now)),
            false => None,
        };
    }
}

#[cfg(test)]
mod tests {
    use lockmesh_proto::{NodeId, Timing};

    use super::*;

    fn voter_set(members: usize, voters_per_key: usize) -> VoterSet {
        let names = (0..members).map(|n| NodeId::new(format!("n{n}")).unwrap());
        VoterSet::new(1, names.collect(), voters_per_key, Timing::lan()).unwrap()
    }

    fn at(seconds: u64) -> Instant {
        Instant::ZERO.after(Duration::from_secs(seconds))
    }

    #[test]
    fn new_voter_is_ready_once_another_is_spare() {
        let new = Readiness::default();
        assert!(!new.is_reached(at(9), &voter_set(3, 3), 2, false));
        assert!(new.is_reached(at(9), &voter_set(3, 3), 3, false));
        assert!(new.is_reached(at(9), &voter_set(5, 5), 4, false));
        // All voters of a key may be among those that are missing.
        assert!(!new.is_reached(at(9), &voter_set(5, 3), 4, false));
    }

    #[test]
    fn voter_that_reads_marks_is_not_ready() {
        let mut it = Readiness::default();
        it.observe(Health::NoSpareVoter, at(0));
        for set in [voter_set(3, 3), voter_set(2, 2)] {
            let all = set.members().len();
            assert!(!it.is_reached(at(500), &set, all, true));
            assert!(it.is_reached(at(500), &set, all, false));
        }
        it.observe(Health::Ready, at(501));
        assert!(it.is_reached(at(502), &voter_set(3, 3), 3, true));
    }

    #[test]
    fn ready_voter_stays_ready_without_a_spare() {
        let mut it = Readiness::default();
        it.observe(Health::Ready, at(9));
        it.observe(Health::NoQuorum, at(10));
        assert!(it.is_reached(at(11), &voter_set(3, 3), 2, false));
    }

    #[test]
    fn dead_voter_delays_readiness_for_one_quarantine() {
        let (set, mut it) = (voter_set(3, 3), Readiness::default());
        it.observe(Health::NoSpareVoter, at(0));
        // The wait begins anew after a loss of the quorum.
        it.observe(Health::NoQuorum, at(50));
        it.observe(Health::NoSpareVoter, at(51));
        it.observe(Health::NoSpareVoter, at(90));
        assert!(!it.is_reached(at(116), &set, 2, false));
        assert!(it.is_reached(at(117), &set, 2, false));
    }

    #[test]
    fn voter_sets_without_spare_voters_are_ready() {
        for (members, voters_per_key) in [(1, 1), (2, 2), (3, 1), (5, 2)] {
            let set = voter_set(members, voters_per_key);
            assert!(set.check_restart(members).is_err());
            assert!(Readiness::default().is_reached(at(0), &set, members, false));
        }
    }
}
