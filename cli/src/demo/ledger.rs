//! What the demo believes: who holds what, and what the fenced resource saw. It knows nothing of
//! how locks come about; guards are asked, and never trusted to be alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lockmesh::{Epoch, Guard};

/// How many violations are kept in words; all are counted.
const VIOLATIONS_MAX: usize = 10;

/// Something that says whether it is held, and never again once it has said no.
pub(crate) trait Hold: Send + Sync {
    /// Whether it is held now.
    fn is_held(&self) -> bool;
}

impl Hold for Guard {
    fn is_held(&self) -> bool {
        Self::is_held(self)
    }
}

/// Who asks: a worker of a node, or the node's own part in the story.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Who {
    /// The node's number.
    pub(crate) node: usize,
    /// The worker's number; `None` where the story itself asks.
    pub(crate) worker: Option<usize>,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.worker {
            Some(worker) => write!(f, "n{}/w{worker}", self.node),
            None => write!(f, "n{}", self.node),
        }
    }
}

/// When something was asked for: in which of the cuts, where its node was in the minority.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked(Option<u32>);

/// What was counted so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// Locks that were granted.
    pub(crate) grants: u64,
    /// The same, by node.
    pub(crate) by_node: BTreeMap<usize, u64>,
    /// Requests of a minority that ended without a lock.
    pub(crate) minority_refusals: u64,
    /// Requests of a minority, made during the cut, that were granted during it.
    pub(crate) minority_grants: u64,
    /// Two guards for one key that both said "held" at one instant.
    pub(crate) overlaps: u64,
    /// Owners, or writers, whose epoch was not above that of the owner before.
    pub(crate) epoch_regressions: u64,
    /// Writes that the resource took.
    pub(crate) writes: u64,
    /// Writes of those who were late, which the resource refused.
    pub(crate) late_writes: u64,
    /// What went wrong, in words.
    pub(crate) violations: Vec<String>,
}

/// One line of the table.
#[derive(Debug)]
pub(crate) struct Row {
    /// The key.
    pub(crate) key: &'static str,
    /// Who holds it, at which epoch.
    pub(crate) holder: Option<(Who, Epoch)>,
}

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    keys: BTreeMap<&'static str, Record>,
    minority: BTreeSet<usize>,
    cut: u32,
    tally: Tally,
}

#[derive(Default)]
struct Record {
    /// The highest epoch that was ever granted.
    highest: Epoch,
    inside: Vec<Inside>,
    /// The fenced counter: who wrote last, at which epoch.
    last_write: Option<(Epoch, Who)>,
}

struct Inside {
    who: Who,
    epoch: Epoch,
    hold: Arc<dyn Hold>,
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("highest", &self.highest)
            .finish_non_exhaustive()
    }
}

impl Ledger {
    /// Before a request, so that it is known later whether all of it fell into a cut.
    pub(crate) fn ask(&self, node: usize) -> Asked {
        let state = self.lock();
        Asked(state.minority.contains(&node).then_some(state.cut))
    }

    /// The request ended without a lock.
    pub(crate) fn refused(&self, asked: Asked) {
        if asked.0.is_some() {
            self.lock().tally.minority_refusals += 1;
        }
    }

    /// From now on the links of `minority` to all others are cut. Say so after the cut: requests
    /// that were on their way before it may still be granted by votes from before it.
    pub(crate) fn cut(&self, minority: &[usize]) {
        let mut state = self.lock();
        state.cut += 1;
        state.minority = minority.iter().copied().collect();
    }

    /// The links are about to be healed.
    pub(crate) fn healed(&self) {
        self.lock().minority.clear();
    }

    /// Somebody was granted `key`, and begins.
    pub(crate) fn enter(
        &self,
        asked: Asked,
        who: Who,
        key: &'static str,
        epoch: Epoch,
        hold: Arc<dyn Hold>,
    ) {
        let mut state = self.lock();
        state.tally.grants += 1;
        *state.tally.by_node.entry(who.node).or_default() += 1;
        if asked.0 == Some(state.cut) && state.minority.contains(&who.node) {
            state.tally.minority_grants += 1;
            state.violation(format!(
                "{who} was granted {key} while it was in the minority"
            ));
        }
        // The newcomer is asked first: whoever says "held" after that was held at that instant
        // too, since nobody who is no longer held ever is again.
        let is_held = hold.is_held();
        let record = state.keys.entry(key).or_default();
        record.inside.retain(|other| other.hold.is_held());
        let others: Vec<Who> = record.inside.iter().map(|other| other.who).collect();
        let highest = record.highest;
        record.highest = highest.max(epoch);
        record.inside.push(Inside { who, epoch, hold });
        if is_held {
            for other in others {
                state.tally.overlaps += 1;
                state.violation(format!("{other} and {who} both held {key}"));
            }
            if epoch <= highest {
                state.tally.epoch_regressions += 1;
                state.violation(format!("{who} owns {key} at {epoch}, not above {highest}"));
            }
        }
    }

    /// A fenced write: refused below the highest epoch that has written.
    pub(crate) fn write(&self, who: Who, key: &'static str, epoch: Epoch, hold: &dyn Hold) -> bool {
        let mut state = self.lock();
        let record = state.keys.entry(key).or_default();
        let (is_late, is_shared) = match record.last_write {
            None => (false, false),
            Some((last, by)) => (epoch < last, epoch == last && by != who),
        };
        if is_late {
            state.tally.late_writes += 1;
            // To be late is what fencing is for; to be late and hold the lock cannot be.
            if hold.is_held() {
                state.tally.epoch_regressions += 1;
                state.violation(format!(
                    "{who} holds {key} at {epoch}, and another wrote above"
                ));
            }
            return false;
        }
        record.last_write = Some((epoch, who));
        state.tally.writes += 1;
        if is_shared {
            state.tally.epoch_regressions += 1;
            state.violation(format!("two owners of {key} had {epoch}"));
        }
        true
    }

    /// Somebody is done with `key`, and is about to release it.
    pub(crate) fn leave(&self, who: Who, key: &'static str, epoch: Epoch) {
        if let Some(record) = self.lock().keys.get_mut(key) {
            record
                .inside
                .retain(|inside| inside.who != who || inside.epoch != epoch);
        }
    }

    /// The process of `node` has ended, and what it held with it. Until this is said its guards
    /// count like those of a process that was only frozen; once the node speaks again under its
    /// id, the voters know better.
    pub(crate) fn gone(&self, node: usize) {
        for record in self.lock().keys.values_mut() {
            record.inside.retain(|inside| inside.who.node != node);
        }
    }

    /// Something else that must not be.
    pub(crate) fn violation(&self, what: String) {
        self.lock().violation(what);
    }

    pub(crate) fn tally(&self) -> Tally {
        self.lock().tally.clone()
    }

    /// How many grants `node` had.
    pub(crate) fn grants_of(&self, node: usize) -> u64 {
        self.lock()
            .tally
            .by_node
            .get(&node)
            .copied()
            .unwrap_or_default()
    }

    /// Who holds which of `keys`.
    pub(crate) fn rows(&self, keys: &[&'static str]) -> Vec<Row> {
        let state = self.lock();
        let holder = |key: &'static str| {
            let inside = &state.keys.get(key)?.inside;
            let holder = inside.iter().rev().find(|inside| inside.hold.is_held())?;
            Some((holder.who, holder.epoch))
        };
        keys.iter()
            .map(|key| Row {
                key,
                holder: holder(key),
            })
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn violation(&mut self, what: String) {
        if self.tally.violations.len() < VIOLATIONS_MAX {
            self.tally.violations.push(what);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    struct Forged(AtomicBool);

    impl Hold for Forged {
        fn is_held(&self) -> bool {
            self.0.load(Ordering::SeqCst)
        }
    }

    fn forged(is_held: bool) -> Arc<Forged> {
        Arc::new(Forged(AtomicBool::new(is_held)))
    }

    fn who(node: usize) -> Who {
        Who { node, worker: None }
    }

    fn enter(ledger: &Ledger, node: usize, epoch: u64, hold: &Arc<Forged>) {
        ledger.enter(
            ledger.ask(node),
            who(node),
            "k",
            Epoch::new(epoch),
            hold.clone(),
        );
    }

    #[test]
    fn two_who_both_hold_are_an_overlap_and_one_who_has_lost_is_none() {
        let ledger = Ledger::default();
        let first = forged(true);
        enter(&ledger, 0, 1, &first);
        first.0.store(false, Ordering::SeqCst);
        enter(&ledger, 1, 2, &forged(true));
        assert_eq!(ledger.tally().overlaps, 0);
        enter(&ledger, 2, 3, &forged(true));
        assert_eq!(ledger.tally().overlaps, 1);
        assert_eq!(ledger.tally().epoch_regressions, 0);
        assert_eq!(ledger.tally().violations.len(), 1);
    }

    #[test]
    fn a_process_that_is_gone_holds_nothing() {
        let ledger = Ledger::default();
        enter(&ledger, 0, 1, &forged(true));
        ledger.gone(0);
        enter(&ledger, 1, 2, &forged(true));
        assert_eq!(ledger.tally().overlaps, 0);
    }

    #[test]
    fn an_owner_without_a_higher_epoch_is_a_regression() {
        let ledger = Ledger::default();
        enter(&ledger, 0, 5, &forged(true));
        ledger.leave(who(0), "k", Epoch::new(5));
        enter(&ledger, 1, 5, &forged(true));
        assert_eq!(ledger.tally().epoch_regressions, 1);
        assert_eq!(ledger.tally().overlaps, 0);
    }

    #[test]
    fn a_late_write_is_refused_and_a_regression_only_where_its_writer_still_holds() {
        let ledger = Ledger::default();
        assert!(ledger.write(who(1), "k", Epoch::new(2), &*forged(true)));
        assert!(!ledger.write(who(0), "k", Epoch::new(1), &*forged(false)));
        assert_eq!(ledger.tally().epoch_regressions, 0);
        assert!(!ledger.write(who(0), "k", Epoch::new(1), &*forged(true)));
        assert_eq!(ledger.tally().epoch_regressions, 1);
        assert!(ledger.write(who(0), "k", Epoch::new(2), &*forged(true)));
        assert_eq!(ledger.tally().epoch_regressions, 2);
        assert_eq!((ledger.tally().writes, ledger.tally().late_writes), (2, 2));
    }

    #[test]
    fn a_minority_grant_is_one_that_was_asked_for_and_given_within_one_cut() {
        let ledger = Ledger::default();
        let grant = |asked, key| {
            ledger.enter(asked, who(4), key, Epoch::new(1), forged(true));
            ledger.tally().minority_grants
        };
        let before = ledger.ask(4);
        ledger.cut(&[3, 4]);
        let during = ledger.ask(4);
        assert_eq!(grant(before, "a"), 0);
        assert_eq!(grant(ledger.ask(0), "b"), 0);
        assert_eq!(grant(during, "c"), 1);
        ledger.healed();
        assert_eq!(grant(during, "d"), 1);
        ledger.cut(&[4]);
        assert_eq!(grant(during, "e"), 1);
    }
}
