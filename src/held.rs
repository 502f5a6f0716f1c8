//! The locks that a node holds through [`DistributedLock`](crate::DistributedLock), which has no
//! guards.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::task;

use crate::lease::Lease;
use lockmesh_proto::Epoch;

/// The number of entries below which ended leases are not searched for.
const SWEEP_AT_MIN: usize = 16;
/// The maximum number of late tasks that are remembered for each key.
const LATE_MAX: usize = 8;

/// The locks by key.
#[derive(Debug, Default)]
pub(super) struct Held {
    entries: BTreeMap<String, Entry>,
    /// The number of entries at which ended leases are removed.
    sweep_at: usize,
}

#[derive(Debug)]
struct Entry {
    lease: Arc<Lease>,
    /// The task that acquired the lease; `None` outside a task.
    task: Option<task::Id>,
    /// The late tasks: their own lease ended before this one began, and they have not released it.
    late: Vec<task::Id>,
}

/// The state of a key for one caller.
#[derive(Debug)]
pub(super) enum Found {
    /// The lease that this node holds.
    Held(Arc<Lease>),
    /// This node holds the key for another task, and the caller's own lease has ended.
    Late,
    /// This node does not hold the key.
    Nothing,
}

impl Entry {
    /// Returns `true` if `task` acquired the key before, and this lease belongs to another task.
    fn is_late(&self, task: Option<task::Id>) -> bool {
        task.is_some_and(|task| self.task != Some(task) && self.late.contains(&task))
    }
}

impl Held {
    /// Returns `true` if this node holds `key`.
    pub(super) fn has(&self, key: &str) -> bool {
        let entry = self.entries.get(key);
        entry.is_some_and(|entry| entry.lease.is_held())
    }

    /// Returns the epoch of `key` if this node holds it.
    pub(super) fn epoch(&self, key: &str) -> Option<Epoch> {
        let entry = self.entries.get(key).filter(|it| it.lease.is_held())?;
        Some(entry.lease.epoch)
    }

    /// Returns the state of `key` for `task`.
    pub(super) fn find(&self, key: &str, task: Option<task::Id>) -> Found {
        match self.entries.get(key).filter(|it| it.lease.is_held()) {
            None => Found::Nothing,
            Some(entry) if entry.is_late(task) => Found::Late,
            Some(entry) => Found::Held(entry.lease.clone()),
        }
    }

    /// Returns the state of `key` for a `task` that releases it, and settles the task's own lease.
    /// `Late` is returned once: the next release by the task means the current lease.
    pub(super) fn settle(&mut self, key: &str, task: Option<task::Id>) -> Found {
        let found = self.find(key, task);
        if let Some(entry) = self.entries.get_mut(key) {
            match found {
                Found::Held(_) => entry.task = None,
                Found::Late | Found::Nothing => {
                    entry.late.retain(|late| Some(*late) != task);
                    if entry.task == task && !entry.lease.is_held() {
                        entry.task = None;
                    }
                }
            }
        }
        found
    }

    /// Keeps a lease that `task` has acquired. Returns `true` if it is still held: an ended lease
    /// must not replace a later one.
    pub(super) fn keep(&mut self, lease: &Arc<Lease>, task: Option<task::Id>) -> bool {
        if !lease.is_held() {
            return false;
        }
        // Ended leases are removed once the map has doubled. The map holds at most twice the number
        // of leases held at once, and few calls pay for the search.
        if self.entries.len() >= self.sweep_at {
            self.entries.retain(|_, entry| entry.lease.is_held());
            self.sweep_at = SWEEP_AT_MIN.max(2 * self.entries.len());
        }
        let last = self.entries.remove(lease.key.as_str());
        let mut late = Vec::new();
        if let Some(last) = last {
            late = last.late;
            late.extend(last.task);
            late.retain(|late| Some(*late) != task);
            late.drain(..late.len().saturating_sub(LATE_MAX));
        }
        let lease = lease.clone();
        let key = lease.key.to_string();
        self.entries.insert(key, Entry { lease, task, late });
        true
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Time;
    use lockmesh_proto::{Key, Ticket};

    fn lease(key: &str) -> Arc<Lease> {
        let clock = Time::system();
        let until = clock.mono().after(Duration::from_secs(60));
        let key = Key::new(key).unwrap();
        Arc::new(Lease::new(Ticket(1), key, Epoch::new(1), clock, until))
    }

    /// Returns the ids of `N` tasks.
    async fn tasks<const N: usize>() -> [task::Id; N] {
        [(); N].map(|()| tokio::spawn(async {}).id())
    }

    fn is_held(found: &Found) -> bool {
        matches!(found, Found::Held(_))
    }

    #[tokio::test]
    async fn late_release_of_expired_lease_fails_once() {
        let [first, second, third] = tasks().await;
        let mut held = Held::default();
        let lease_of_first = lease("k");
        assert!(held.keep(&lease_of_first, Some(first)));
        lease_of_first.end();
        assert!(held.keep(&lease("k"), Some(second)));
        assert!(matches!(held.find("k", Some(first)), Found::Late));
        assert!(matches!(held.settle("k", Some(first)), Found::Late));
        // A task that acquired nothing may release the lock, and so may the late task after its
        // error.
        for task in [Some(third), None, Some(first), Some(second)] {
            assert!(is_held(&held.find("k", task)));
        }
        assert!(is_held(&held.settle("k", Some(third))));
    }

    #[tokio::test]
    async fn late_task_is_remembered_over_a_release() {
        let [first, second, third] = tasks().await;
        let mut held = Held::default();
        for task in [first, second] {
            let lease = lease("k");
            assert!(held.keep(&lease, Some(task)));
            if task == second {
                assert!(is_held(&held.settle("k", Some(second))));
            }
            lease.end();
        }
        assert!(held.keep(&lease("k"), Some(third)));
        assert!(matches!(held.settle("k", Some(first)), Found::Late));
        // The second task has released its own lease.
        assert!(is_held(&held.settle("k", Some(second))));
    }

    #[tokio::test]
    async fn task_that_acquires_again_is_not_late() {
        let [first] = tasks().await;
        let mut held = Held::default();
        for _ in 0..3 {
            let lease = lease("k");
            assert!(held.keep(&lease, Some(first)));
            assert!(is_held(&held.find("k", Some(first))));
            lease.end();
        }
        assert!(matches!(held.settle("k", Some(first)), Found::Nothing));
        assert!(held.entries["k"].late.is_empty());
    }

    #[tokio::test]
    async fn kept_entries_are_bounded_by_held_leases() {
        let [task] = tasks().await;
        let mut held = Held::default();
        for n in 0..1_000 {
            let lease = lease(&format!("k{n}"));
            assert!(held.keep(&lease, Some(task)));
            lease.end();
        }
        assert!(held.entries.len() <= SWEEP_AT_MIN);
        // The entry of one key is bounded, too.
        for n in 0..100 {
            let lease = lease("k");
            held.keep(
                &lease,
                tasks::<1>().await.first().copied().filter(|_| n > 0),
            );
            lease.end();
        }
        assert!(held.entries["k"].late.len() <= LATE_MAX);
        let over = lease("over");
        over.end();
        assert!(!held.keep(&over, None));
    }
}
