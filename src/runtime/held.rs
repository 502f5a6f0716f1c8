//! The locks that a node holds through [`DistributedLock`](crate::DistributedLock), which has no
//! guards.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::task;

use super::lease::Lease;

/// Fewer leases than this are not worth a search for those that are over.
const SWEEP_AT_MIN: usize = 16;
/// So many tasks of one key are remembered whose leases were over before they released them.
const LATE_MAX: usize = 8;

/// By key.
#[derive(Debug, Default)]
pub(super) struct Held {
    entries: BTreeMap<String, Entry>,
    /// When there are so many, those that are over are looked for.
    sweep_at: usize,
}

#[derive(Debug)]
struct Entry {
    lease: Arc<Lease>,
    /// The task that acquired it, if it was one.
    task: Option<task::Id>,
    /// Tasks whose own lease was over before this one began, and that have not released it.
    late: Vec<task::Id>,
}

/// The state of a key, as a caller finds it.
#[derive(Debug)]
pub(super) enum Found {
    /// The lease that this node holds.
    Held(Arc<Lease>),
    /// This node holds it, for another task: the caller's own lease is over.
    Late,
    /// This node does not hold it.
    Nothing,
}

impl Entry {
    /// `true` if `task` has acquired the key before, and this lease is another task's.
    fn is_late(&self, task: Option<task::Id>) -> bool {
        task.is_some_and(|task| self.task != Some(task) && self.late.contains(&task))
    }
}

impl Held {
    /// `true` if this node holds `key`.
    pub(super) fn has(&self, key: &str) -> bool {
        let entry = self.entries.get(key);
        entry.is_some_and(|entry| entry.lease.is_held())
    }

    /// The state of `key`, as `task` finds it.
    pub(super) fn find(&self, key: &str, task: Option<task::Id>) -> Found {
        match self.entries.get(key).filter(|it| it.lease.is_held()) {
            None => Found::Nothing,
            Some(entry) if entry.is_late(task) => Found::Late,
            Some(entry) => Found::Held(entry.lease.clone()),
        }
    }

    /// The same for a task that releases `key`: what it has acquired is settled by that. It is told
    /// once that it is late; who releases again means what is held now.
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

    /// Keeps a lease that `task` has acquired. Answers whether it is held still: one that is not
    /// must not take the place of a later one.
    pub(super) fn keep(&mut self, lease: &Arc<Lease>, task: Option<task::Id>) -> bool {
        if !lease.is_held() {
            return false;
        }
        // Those that ended by themselves go when as many others have come: the map holds at most
        // twice what was held at once, and few of those that come pay for the search.
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
    use crate::runtime::clock::Clock;
    use lockmesh_proto::epoch::Epoch;
    use lockmesh_proto::event::Ticket;
    use lockmesh_proto::id::Key;

    fn lease(key: &str) -> Arc<Lease> {
        let clock = Clock::new();
        let until = clock.mono().after(Duration::from_secs(60));
        let key = Key::new(key).unwrap();
        Arc::new(Lease::new(Ticket(1), key, Epoch::new(1), clock, until))
    }

    /// The ids of so many tasks.
    async fn tasks<const N: usize>() -> [task::Id; N] {
        [(); N].map(|()| tokio::spawn(async {}).id())
    }

    fn is_held(found: &Found) -> bool {
        matches!(found, Found::Held(_))
    }

    #[tokio::test]
    async fn late_release_of_expired_lease_is_told_once() {
        let [first, second, third] = tasks().await;
        let mut held = Held::default();
        let lease_of_first = lease("k");
        assert!(held.keep(&lease_of_first, Some(first)));
        lease_of_first.end();
        assert!(held.keep(&lease("k"), Some(second)));
        assert!(matches!(held.find("k", Some(first)), Found::Late));
        assert!(matches!(held.settle("k", Some(first)), Found::Late));
        // Those who have acquired nothing may release what others have, and so may the late one
        // once it was told.
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
        // The second one has released what it had.
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
    async fn held_leases_are_bounded_by_what_is_held() {
        let [task] = tasks().await;
        let mut held = Held::default();
        for n in 0..1_000 {
            let lease = lease(&format!("k{n}"));
            assert!(held.keep(&lease, Some(task)));
            lease.end();
        }
        assert!(held.entries.len() <= SWEEP_AT_MIN);
        // Nor does one key grow without end.
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
