//! Gates, beside a naive twin that forgets nothing, and their passes.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lockmesh_proto::{Epoch, EpochClock, Key};
use proptest::prelude::*;

use super::{AdmitError, FenceStore, Gate, SavedFences};

fn key(n: usize) -> Key {
    Key::new(format!("k{n}")).unwrap()
}

/// When a call of the store fails.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fails {
    Before,
    /// The change was saved, and the caller is not told so.
    After,
}

#[derive(Default)]
struct Disk {
    keys: HashMap<Key, Epoch>,
    forgotten: Epoch,
    fails: Option<Fails>,
}

/// A store that outlives its gate.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Disk>>);

impl Shared {
    fn change(&self, change: impl FnOnce(&mut Disk)) -> io::Result<()> {
        let mut disk = self.0.lock().unwrap();
        let fails = disk.fails.take();
        if fails != Some(Fails::Before) {
            change(&mut disk);
        }
        fails.map_or(Ok(()), |_| Err(io::ErrorKind::StorageFull.into()))
    }
}

impl FenceStore for Shared {
    fn load(&mut self) -> io::Result<SavedFences> {
        let disk = self.0.lock().unwrap();
        let keys = disk.keys.clone().into_iter().collect();
        let forgotten = disk.forgotten;
        Ok(SavedFences { keys, forgotten })
    }

    fn save(&mut self, key: &Key, epoch: Epoch) -> io::Result<()> {
        self.change(|disk| {
            disk.keys.insert(key.clone(), epoch);
        })
    }

    fn forget(&mut self, keys: &[Key], forgotten: Epoch) -> io::Result<()> {
        self.change(|disk| {
            assert!(forgotten >= disk.forgotten, "the fence fell");
            disk.forgotten = forgotten;
            disk.keys.retain(|key, _| !keys.contains(key));
        })
    }
}

#[derive(Clone, Debug)]
enum Step {
    Admit(usize, u64),
    Restart,
    Fail(Fails),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        40 => (0..8_usize, 0..40_u64).prop_map(|(key, epoch)| Step::Admit(key, epoch)),
        2 => Just(Step::Restart),
        1 => Just(Step::Fail(Fails::Before)),
        1 => Just(Step::Fail(Fails::After)),
    ];
    proptest::collection::vec(step, 0..200)
}

/// Runs the steps on a gate, and on a map of all keys that were admitted or tried.
fn compare(capacity: usize, has_store: bool, steps: Vec<Step>) {
    let disk = Shared::default();
    let open = || match has_store {
        true => Gate::open(capacity, disk.clone()).unwrap(),
        false => Gate::with_capacity(capacity),
    };
    let mut gate = open();
    let mut admitted: HashMap<usize, Epoch> = HashMap::new();
    let mut saved: HashMap<usize, Epoch> = HashMap::new();
    // The last `capacity` keys.
    let mut recent: VecDeque<usize> = VecDeque::new();
    let mut has_failed = false;
    for step in steps {
        let (n, epoch) = match step {
            Step::Admit(n, epoch) => (n, Epoch::new(epoch)),
            _ if !has_store => continue,
            Step::Restart => {
                disk.0.lock().unwrap().fails = None;
                gate = open();
                // The order of the keys is not saved.
                recent.clear();
                continue;
            }
            Step::Fail(fails) => {
                disk.0.lock().unwrap().fails = Some(fails);
                has_failed = true;
                continue;
            }
        };
        let highest = admitted.get(&n).copied().unwrap_or_default();
        match gate.admit(&key(n), epoch) {
            Ok(()) => {
                assert!(epoch >= highest && epoch > Epoch::ZERO, "a stale epoch");
                admitted.insert(n, epoch);
                let tried = saved.entry(n).or_default();
                *tried = epoch.max(*tried);
                recent.retain(|other| *other != n);
                recent.push_front(n);
                recent.truncate(capacity);
            }
            Err(AdmitError::Stale { epoch: it, seen }) => {
                assert_eq!(it, epoch);
                assert!(epoch < seen && highest <= seen && seen <= saved[&n]);
            }
            Err(AdmitError::Forgotten { epoch: it, seen }) => {
                assert_eq!(it, epoch);
                assert!(epoch < seen);
                assert!(
                    !recent.contains(&n) || has_failed,
                    "a recent key was forgotten"
                );
            }
            Err(AdmitError::Store(_)) => {
                let tried = saved.entry(n).or_default();
                *tried = epoch.max(*tried);
            }
            Err(AdmitError::OutOfBounds { .. }) => assert_eq!(epoch, Epoch::ZERO),
        }
        assert!(gate.len().0 <= 2 * capacity);
        if has_store && !has_failed {
            let saved = &disk.0.lock().unwrap().keys;
            assert_eq!(gate.len().0, saved.len(), "{saved:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn gate_never_admits_what_its_twin_refuses(capacity in 1..5_usize, has_store: bool, steps in steps()) {
        compare(capacity, has_store, steps);
    }
}

#[test]
fn unknown_keys_share_highest_forgotten_epoch() {
    let gate = Gate::with_capacity(0);
    gate.admit(&key(0), Epoch::new(5)).unwrap();
    let seen = Epoch::new(5);
    let refused = gate.admit(&key(0), Epoch::new(4)).unwrap_err();
    assert!(matches!(refused, AdmitError::Stale { seen: it, .. } if it == seen));
    assert_eq!(
        refused.to_string(),
        "epoch e4 is stale: e5 was admitted for this key"
    );
    // The second other key makes it forget the first.
    gate.admit(&key(1), Epoch::new(2)).unwrap();
    gate.admit(&key(2), Epoch::new(3)).unwrap();
    let refused = gate.admit(&key(0), Epoch::new(4)).unwrap_err();
    assert!(matches!(refused, AdmitError::Forgotten { seen: it, .. } if it == seen));
    // All keys that are not known share that fence, and an equal epoch is admitted.
    assert!(gate.admit(&key(3), Epoch::new(4)).is_err());
    gate.admit(&key(0), Epoch::new(5)).unwrap();
}

#[test]
fn epoch_that_no_grant_has_is_refused() {
    let gate = Gate::new();
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let ahead = |hours: u64| EpochClock::first_of(wall.as_millis() as u64 + hours * 3_600_000);
    gate.admit(&key(0), ahead(23)).unwrap();
    for epoch in [Epoch::ZERO, ahead(25), Epoch::new(u64::MAX)] {
        let refused = gate.admit(&key(0), epoch).unwrap_err();
        assert!(
            matches!(refused, AdmitError::OutOfBounds { .. }),
            "{refused}"
        );
    }
    gate.admit(&key(0), ahead(23)).unwrap();
}

#[test]
fn store_with_more_keys_than_capacity_is_cut() {
    let disk = Shared::default();
    let gate = Gate::open(100, disk.clone()).unwrap();
    for n in 1..=100 {
        gate.admit(&key(n), Epoch::new(n as u64)).unwrap();
    }
    let gate = Gate::open(5, disk.clone()).unwrap();
    assert!(gate.len().0 <= 10 && disk.0.lock().unwrap().keys.len() <= 10);
    for n in 2..=100 {
        assert!(gate.admit(&key(n), Epoch::new(n as u64 - 1)).is_err());
    }
}

#[test]
fn further_writes_of_a_holder_are_not_saved() {
    let disk = Shared::default();
    let gate = Gate::open(2, disk.clone()).unwrap();
    gate.admit(&key(0), Epoch::new(1)).unwrap();
    disk.0.lock().unwrap().fails = Some(Fails::Before);
    gate.admit(&key(0), Epoch::new(1)).unwrap();
    assert!(gate.admit(&key(0), Epoch::new(2)).is_err());
    gate.admit(&key(0), Epoch::new(1)).unwrap();
}

/// Polls a future once.
fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Returns the output of a future that is ready.
fn ready<F: Future>(future: Pin<&mut F>) -> F::Output {
    match poll(future) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("it waits"),
    }
}

fn now<F: Future>(future: F) -> F::Output {
    ready(pin!(future))
}

#[test]
fn later_epoch_enters_after_earlier_passes() {
    let gate = Arc::new(Gate::new());
    let (key, another) = (key(0), key(1));
    let enter = |epoch| gate.enter(&key, Epoch::new(epoch));
    let (one, other) = (now(enter(7)).unwrap(), now(enter(7)).unwrap());
    let mut later = pin!(enter(8));
    assert!(poll(later.as_mut()).is_pending());
    assert!(matches!(now(enter(7)), Err(AdmitError::Stale { .. })));
    drop(one);
    assert!(poll(later.as_mut()).is_pending());
    // Another key does not wait.
    drop(now(gate.enter(&another, Epoch::new(9))).unwrap());
    drop(other);
    let pass = ready(later.as_mut()).unwrap();
    assert_eq!((pass.key(), pass.epoch()), (&key, Epoch::new(8)));
    drop(pass);
    assert_eq!(gate.len(), (2, 0));
}

#[test]
fn waiter_that_is_overtaken_is_refused() {
    let gate = Arc::new(Gate::new());
    let key = key(0);
    let enter = |epoch| gate.enter(&key, Epoch::new(epoch));
    let first = now(enter(7)).unwrap();
    let (mut second, mut third) = (pin!(enter(8)), pin!(enter(9)));
    assert!(poll(second.as_mut()).is_pending());
    assert!(poll(third.as_mut()).is_pending());
    {
        // A waiter that is dropped leaves its fence and nothing else.
        let mut dropped = pin!(enter(9));
        assert!(poll(dropped.as_mut()).is_pending());
    }
    drop(first);
    let refused = ready(second.as_mut()).unwrap_err();
    assert!(matches!(refused, AdmitError::Stale { .. }), "{refused}");
    drop(ready(third.as_mut()).unwrap());
    assert_eq!(gate.len(), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn passes_of_tasks_at_once_never_fall() {
    let gate = Arc::new(Gate::with_capacity(1));
    let written: Arc<[AtomicU64; 3]> = Arc::default();
    let tasks = (0..8_u64).map(|task| {
        let (gate, written) = (gate.clone(), written.clone());
        tokio::spawn(async move {
            let mut passes = 0;
            for round in 1..400_u64 {
                let (n, epoch) = ((round % 3) as usize, round * 8 + task);
                let Ok(pass) = gate.enter(&key(n), Epoch::new(epoch)).await else {
                    continue;
                };
                passes += 1;
                assert!(written[n].swap(epoch, Ordering::SeqCst) <= epoch);
                tokio::task::yield_now().await;
                assert_eq!(written[n].load(Ordering::SeqCst), epoch);
                drop(pass);
            }
            passes
        })
    });
    let mut passes = 0;
    for task in tasks.collect::<Vec<_>>() {
        let end = tokio::time::timeout(Duration::from_secs(300), task);
        passes += end.await.unwrap().unwrap();
    }
    assert!(passes > 0);
    assert_eq!(gate.len().1, 0);
}
