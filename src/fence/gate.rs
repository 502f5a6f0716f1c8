//! The fence of a service that receives epochs.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lockmesh_proto::{Epoch, EpochClock, Key};
use thiserror::Error;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

use super::fences::{FenceOf, Fences};
use super::store::FenceStore;

/// The default of [`Gate::with_capacity`].
const CAPACITY: usize = 65_536;
/// An epoch further ahead of the wall clock is a mistake. One of them, once forgotten, would refuse
/// all keys that are not known.
const AHEAD_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// The fence of a service that receives epochs: it admits no epoch below one that it has admitted
/// for the same key.
///
/// Equal epochs are admitted: a holder may write more than once.
///
/// | the write | use |
/// | --- | --- |
/// | is done under a lock of the service, without `.await` | [`admit`](Self::admit), under that lock |
/// | is asynchronous | [`enter`](Self::enter), and keep the [`Pass`] until the write is done |
///
/// # Bounds
///
/// A gate knows the `capacity` keys that it admitted last (65,536 by default), and at most twice as
/// many. All others share one fence, the highest of their epochs. A stale epoch is never admitted.
/// A holder is refused in vain, with [`AdmitError::Forgotten`], if its lock was requested before
/// other locks and `capacity` of those were written since its last write. It acquires the lock
/// again, and has an epoch that is high enough.
///
/// # Restarts
///
/// A gate without a [`FenceStore`] forgets its fences when its process ends. A paused holder may
/// then write late, until the next holder has written. [`open`](Self::open) keeps them, without the
/// order in which they were admitted.
pub struct Gate {
    state: Mutex<State>,
}

struct State {
    fences: Fences,
    store: Option<Box<dyn FenceStore>>,
    /// The keys with passes.
    entered: HashMap<Key, Entered>,
}

/// The passes of a key. All have one epoch.
struct Entered {
    epoch: Epoch,
    passes: usize,
    /// Notified when the last pass is dropped.
    left: Arc<Notify>,
}

/// The error returned if an epoch was not admitted. The caller must not write.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AdmitError {
    /// A later holder has written. The sender of this epoch has lost its lock.
    #[error("epoch {epoch} is stale: {seen} was admitted for this key")]
    Stale {
        /// The refused epoch.
        epoch: Epoch,
        /// The highest epoch that was admitted for this key.
        seen: Epoch,
    },
    /// The fence of this key was forgotten, and may have been higher.
    #[error(
        "epoch {epoch} may be stale: keys that this gate has forgotten had epochs up to {seen}; \
         acquire the lock again, and give the gate more capacity if this recurs"
    )]
    Forgotten {
        /// The refused epoch.
        epoch: Epoch,
        /// The highest epoch of all forgotten keys.
        seen: Epoch,
    },
    /// No grant has this epoch: it is [`Epoch::ZERO`], or more than a day ahead of the wall clock of
    /// this machine. Otherwise that clock is wrong.
    #[error("epoch is {epoch}; it must be e1 to {max}, a day ahead of the wall clock here")]
    OutOfBounds {
        /// The refused epoch.
        epoch: Epoch,
        /// The highest epoch that is admitted now.
        max: Epoch,
    },
    /// The store of the gate failed.
    #[error("the fence was not saved: {0}")]
    Store(#[source] io::Error),
}

impl Gate {
    /// Returns a gate that knows 65,536 keys and forgets them when its process ends.
    #[must_use]
    pub fn new() -> Self {
        Self::with_capacity(CAPACITY)
    }

    /// Returns a gate that knows the `capacity` keys admitted last, at least one. It forgets them
    /// when its process ends.
    ///
    /// A full gate of 65,536 takes about 9 MB, and keys of more than 23 bytes besides. The capacity
    /// should exceed the number of keys that are written while one lock is waited for and held.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self::of(Fences::new(capacity, Epoch::ZERO), None)
    }

    /// Returns a gate that knows the `capacity` keys admitted last, at least one, and keeps them in
    /// `store` over a restart. It blocks the thread while it reads the store.
    ///
    /// # Errors
    /// The store cannot be read, or cannot forget the keys beyond `capacity`.
    pub fn open(capacity: usize, mut store: impl FenceStore + 'static) -> io::Result<Self> {
        let saved = store.load()?;
        let mut fences = Fences::new(capacity, saved.forgotten);
        for (key, epoch) in saved.keys {
            if let Some((keys, forgotten)) = fences.forgets(&key) {
                store.forget(&keys, forgotten)?;
            }
            fences.insert(&key, epoch);
        }
        Ok(Self::of(fences, Some(Box::new(store))))
    }

    fn of(fences: Fences, store: Option<Box<dyn FenceStore>>) -> Self {
        let entered = HashMap::new();
        let state = State {
            fences,
            store,
            entered,
        };
        Self {
            state: Mutex::new(state),
        }
    }

    /// Admits `epoch` for `key`, and from now on refuses lower epochs of it.
    ///
    /// Call it under the lock that guards the data, and write before that lock is released.
    /// Otherwise a later holder may write between this check and the write. A gate with a store
    /// blocks the thread while it saves.
    ///
    /// # Errors
    /// - [`AdmitError::Stale`] if a higher epoch was admitted for this key.
    /// - [`AdmitError::Forgotten`] if the key is not known, and the epoch is below the fence of the
    ///   forgotten keys.
    /// - [`AdmitError::OutOfBounds`] if the epoch is zero, or more than a day ahead of the wall clock.
    /// - [`AdmitError::Store`] if the store failed.
    pub fn admit(&self, key: &Key, epoch: Epoch) -> Result<(), AdmitError> {
        self.state().admit(key, epoch)
    }

    /// Admits `epoch` for `key`, and waits until no write of a lower epoch is under way.
    ///
    /// While the [`Pass`] lives, no higher epoch enters. So keep it until the write is done. Lower
    /// epochs are refused from the moment of the call. Equal epochs enter together. A write that
    /// never ends keeps later holders out: bound its time.
    ///
    /// # Errors
    /// Those of [`admit`](Self::admit). [`AdmitError::Stale`] also if a higher epoch was admitted
    /// during the wait.
    ///
    /// # Cancel safety
    /// This method is cancel safe. The epoch stays admitted.
    pub async fn enter(self: &Arc<Self>, key: &Key, epoch: Epoch) -> Result<Pass, AdmitError> {
        loop {
            let left = {
                let mut state = self.state();
                state.admit(key, epoch)?;
                state.enter(key, epoch)
            };
            match left {
                None => break,
                Some(left) => left.await,
            }
        }
        Ok(Pass {
            gate: self.clone(),
            key: key.clone(),
            epoch,
        })
    }

    /// Returns the number of keys that are known, and of keys with passes.
    #[cfg(test)]
    pub(super) fn len(&self) -> (usize, usize) {
        let state = self.state();
        (state.fences.len(), state.entered.len())
    }

    /// A panic of a store leaves the state as it was before the call.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").finish_non_exhaustive()
    }
}

impl State {
    fn admit(&mut self, key: &Key, epoch: Epoch) -> Result<(), AdmitError> {
        let max = highest_now();
        if epoch == Epoch::ZERO || epoch > max {
            return Err(AdmitError::OutOfBounds { epoch, max });
        }
        let fence = self.fences.of(key);
        match fence {
            FenceOf::Key(seen) if epoch < seen => return Err(AdmitError::Stale { epoch, seen }),
            FenceOf::Forgotten(seen) if epoch < seen => {
                return Err(AdmitError::Forgotten { epoch, seen });
            }
            _ => {}
        }
        // The store first: after a restart it refuses at least what this gate refuses.
        if let Some(store) = &mut self.store {
            if let Some((keys, forgotten)) = self.fences.forgets(key) {
                store.forget(&keys, forgotten).map_err(AdmitError::Store)?;
            }
            if fence != FenceOf::Key(epoch) {
                store.save(key, epoch).map_err(AdmitError::Store)?;
            }
        }
        self.fences.insert(key, epoch);
        Ok(())
    }

    /// Counts a pass for an epoch that was admitted. Returns what to wait for first if passes of a
    /// lower epoch are left.
    fn enter(&mut self, key: &Key, epoch: Epoch) -> Option<OwnedNotified> {
        let entered = self.entered.entry(key.clone()).or_insert_with(|| Entered {
            epoch,
            passes: 0,
            left: Arc::default(),
        });
        if entered.epoch != epoch {
            return Some(entered.left.clone().notified_owned());
        }
        entered.passes += 1;
        None
    }
}

/// Returns the highest epoch that is admitted now.
fn highest_now() -> Epoch {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let highest = now.unwrap_or_default() + AHEAD_MAX;
    EpochClock::first_of(u64::try_from(highest.as_millis()).unwrap_or(u64::MAX))
}

/// The permission to write, of [`Gate::enter`]. No higher epoch enters until it is dropped.
#[derive(Debug)]
#[must_use = "a later holder may write once the pass is dropped"]
pub struct Pass {
    gate: Arc<Gate>,
    key: Key,
    epoch: Epoch,
}

impl Pass {
    /// Returns the key.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Returns the epoch.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut state = self.gate.state();
        if let Some(entered) = state.entered.get_mut(&self.key) {
            entered.passes -= 1;
            if entered.passes == 0 {
                entered.left.notify_waiters();
                state.entered.remove(&self.key);
            }
        }
    }
}
