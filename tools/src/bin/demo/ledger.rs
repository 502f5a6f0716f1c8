//! The demo's check of mutual exclusion: it records the holders of each key and the writes to a
//! fenced resource. It is independent of the protocol, and only reads the state of guards.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lockmesh::{Epoch, Guard};

/// The maximum number of violations that are kept in words.
const VIOLATIONS_MAX: usize = 10;

/// A guard. Once `is_held` has returned `false`, it never returns `true` again.
pub(crate) trait Hold: Send + Sync {
    /// Returns `true` if the lock is held now.
    fn is_held(&self) -> bool;
}

impl Hold for Guard {
    fn is_held(&self) -> bool {
        Self::is_held(self)
    }
}

/// The requester: a worker of a node, or the demo's script on that node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Who {
    /// The node's number.
    pub(crate) node: usize,
    /// The worker's number; `None` for the script.
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

/// The start of a request: the number of the cut, if its node was in the minority.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked(Option<u32>);

/// The counters of the demo.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// Granted locks.
    pub(crate) grants: u64,
    /// Granted locks, by node.
    pub(crate) by_node: BTreeMap<usize, u64>,
    /// Requests of a minority that ended without a lock.
    pub(crate) minority_refusals: u64,
    /// Requests of a minority that were made and granted during the same cut.
    pub(crate) minority_grants: u64,
    /// Pairs of guards of one key that were held at one instant.
    pub(crate) overlaps: u64,
    /// Holders or writers whose epoch was not above that of the previous holder.
    pub(crate) epoch_regressions: u64,
    /// Writes that the resource accepted.
    pub(crate) writes: u64,
    /// Late writes, which the resource refused.
    pub(crate) late_writes: u64,
    /// Descriptions of the violations.
    pub(crate) violations: Vec<String>,
}

/// A key and its holder, for the table.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) key: &'static str,
    /// The current holder and its epoch.
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
    /// The last write to the fenced counter: its epoch and its writer.
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
    /// Records the start of a request, so that `enter` can tell if it began in the current cut.
    pub(crate) fn ask(&self, node: usize) -> Asked {
        let state = self.lock();
        Asked(state.minority.contains(&node).then_some(state.cut))
    }

    /// Records a request that ended without a lock.
    pub(crate) fn refused(&self, asked: Asked) {
        if asked.0.is_some() {
            self.lock().tally.minority_refusals += 1;
        }
    }

    /// Records that the links of `minority` to all others are cut. Call it after the cut: a request
    /// from before it may still be granted by earlier votes.
    pub(crate) fn cut(&self, minority: &[usize]) {
        let mut state = self.lock();
        state.cut += 1;
        state.minority = minority.iter().copied().collect();
    }

    /// Records that the links are about to be healed.
    pub(crate) fn healed(&self) {
        self.lock().minority.clear();
    }

    /// Records a grant of `key`.
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
        // Check the new guard first: a guard that is held later was held at this instant too, since
        // a lost guard is never held again.
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

    /// Performs a fenced write. Returns `false` if a higher epoch has written before.
    pub(crate) fn write(&self, who: Who, key: &'static str, epoch: Epoch, hold: &dyn Hold) -> bool {
        let mut state = self.lock();
        let record = state.keys.entry(key).or_default();
        let (is_late, is_shared) = match record.last_write {
            None => (false, false),
            Some((last, by)) => (epoch < last, epoch == last && by != who),
        };
        if is_late {
            state.tally.late_writes += 1;
            // Fencing exists for late writes. A late writer that holds the lock is a violation.
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

    /// Records that the holder of `key` is about to release it.
    pub(crate) fn leave(&self, who: Who, key: &'static str, epoch: Epoch) {
        if let Some(record) = self.lock().keys.get_mut(key) {
            record
                .inside
                .retain(|inside| inside.who != who || inside.epoch != epoch);
        }
    }

    /// Records that the process of `node` has ended, and so have its holds. Until then its guards
    /// count like those of a paused process. Call it before a restart, at which the voters drop the
    /// claims of the old incarnation.
    pub(crate) fn gone(&self, node: usize) {
        for record in self.lock().keys.values_mut() {
            record.inside.retain(|inside| inside.who.node != node);
        }
    }

    /// Records any other violation.
    pub(crate) fn violation(&self, what: String) {
        self.lock().violation(what);
    }

    pub(crate) fn tally(&self) -> Tally {
        self.lock().tally.clone()
    }

    /// Returns the number of grants of `node`.
    pub(crate) fn grants_of(&self, node: usize) -> u64 {
        self.lock()
            .tally
            .by_node
            .get(&node)
            .copied()
            .unwrap_or_default()
    }

    /// Returns the current holder of each of `keys`.
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
    fn overlap_counts_only_guards_held_at_once() {
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
    fn gone_process_holds_nothing() {
        let ledger = Ledger::default();
        enter(&ledger, 0, 1, &forged(true));
        ledger.gone(0);
        enter(&ledger, 1, 2, &forged(true));
        assert_eq!(ledger.tally().overlaps, 0);
    }

    #[test]
    fn grant_without_higher_epoch_is_regression() {
        let ledger = Ledger::default();
        enter(&ledger, 0, 5, &forged(true));
        ledger.leave(who(0), "k", Epoch::new(5));
        enter(&ledger, 1, 5, &forged(true));
        assert_eq!(ledger.tally().epoch_regressions, 1);
        assert_eq!(ledger.tally().overlaps, 0);
    }

    #[test]
    fn late_write_is_regression_only_while_held() {
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
    fn minority_grant_requires_request_in_same_cut() {
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
