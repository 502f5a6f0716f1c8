//! The fences of a gate: the highest epoch of each key, for a bounded number of keys.
//!
//! There are two generations of keys. A key that is admitted moves to the recent one. Once that is
//! full, the keys of the older one are forgotten, and the recent one becomes the older one. So the
//! `capacity` keys admitted last are known, and at most twice as many. One fence stands for all
//! forgotten keys: the highest of their epochs. A forgotten key can therefore be refused in vain,
//! and a stale epoch is never admitted.
//!
//! Rejected: a list in the order of use, which keeps each key twice; and to forget the lowest epoch
//! first, which forgets a lock that is held for long, however often it is used.

use std::collections::HashMap;

use lockmesh_proto::{Epoch, Key};

/// The fence of a key, by what is known of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum FenceOf {
    /// The epoch that was admitted last.
    Key(Epoch),
    /// The key is not known. This is the fence of all forgotten keys.
    Forgotten(Epoch),
}

#[derive(Debug)]
pub(super) struct Fences {
    /// The size of a generation.
    capacity: usize,
    recent: HashMap<Key, Epoch>,
    older: HashMap<Key, Epoch>,
    forgotten: Epoch,
}

impl Fences {
    pub(super) fn new(capacity: usize, forgotten: Epoch) -> Self {
        Self {
            capacity: capacity.max(1),
            recent: HashMap::new(),
            older: HashMap::new(),
            forgotten,
        }
    }

    pub(super) fn of(&self, key: &Key) -> FenceOf {
        let known = self.recent.get(key).or_else(|| self.older.get(key));
        known.map_or(FenceOf::Forgotten(self.forgotten), |epoch| {
            FenceOf::Key(*epoch)
        })
    }

    /// Returns the keys that [`insert`](Self::insert) of `key` would forget, and the fence of all
    /// forgotten keys then; `None` if it would forget none.
    ///
    /// The fence is raised at once: a store that fails may have saved it, and it must not fall.
    pub(super) fn forgets(&mut self, key: &Key) -> Option<(Vec<Key>, Epoch)> {
        if !self.is_full_for(key) {
            return None;
        }
        let leaving = self.older.iter().filter(|(other, _)| *other != key);
        let highest = leaving.clone().map(|(_, epoch)| *epoch).max()?;
        let keys = leaving.map(|(key, _)| key.clone()).collect();
        self.forgotten = self.forgotten.max(highest);
        Some((keys, self.forgotten))
    }

    /// Makes `epoch` the fence of `key`, and `key` the last that was admitted.
    pub(super) fn insert(&mut self, key: &Key, epoch: Epoch) {
        self.older.remove(key);
        if self.is_full_for(key) {
            let highest = self.older.values().copied().max();
            self.forgotten = self.forgotten.max(highest.unwrap_or_default());
            self.older = std::mem::take(&mut self.recent);
        }
        self.recent.insert(key.clone(), epoch);
    }

    /// Returns `true` if `key` is not recent, and all recent keys must become the older ones first.
    fn is_full_for(&self, key: &Key) -> bool {
        self.recent.len() >= self.capacity && !self.recent.contains_key(key)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.recent.len() + self.older.len()
    }
}
