//! The trait by which a gate keeps its fences over a restart.

use std::io;

use lockmesh_proto::{Epoch, Key};

/// Fences that were saved: see [`FenceStore::load`].
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct SavedFences {
    /// The keys that were saved and not forgotten since, each with its highest epoch.
    pub keys: Vec<(Key, Epoch)>,
    /// The fence of all forgotten keys; [`Epoch::ZERO`] if none was forgotten.
    pub forgotten: Epoch,
}

/// The durable memory of a [`Gate`](super::Gate).
///
/// A gate calls it under its lock, and blocks its thread for as long. It saves once for each new
/// epoch of a key, and not for further writes of the same holder. If a call fails, the epoch is not
/// admitted. One gate at a time may use a store.
///
/// The guide `docs/fences.md` has an implementation in SQLite.
pub trait FenceStore: Send {
    /// Returns all fences. It is called once, when the gate is opened.
    ///
    /// # Errors
    /// The fences cannot be read. The gate is not opened.
    fn load(&mut self) -> io::Result<SavedFences>;

    /// Replaces the epoch of `key`. It must survive a crash of the machine once this returns.
    ///
    /// # Errors
    /// The epoch was not saved, or may not have been.
    fn save(&mut self, key: &Key, epoch: Epoch) -> io::Result<()>;

    /// Deletes `keys`, and saves `forgotten`, the fence of all forgotten keys, which never falls.
    ///
    /// A crash must not delete a key without saving `forgotten`. One transaction does so.
    ///
    /// # Errors
    /// The change was not saved, or may not have been.
    fn forget(&mut self, keys: &[Key], forgotten: Epoch) -> io::Result<()>;
}
