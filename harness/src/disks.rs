//! The data directories of a cluster.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use lockmesh::status::JournalStatus;
use lockmesh::{ConfigError, Durability};

/// A temporary directory with the data directories of a cluster. It is removed when it is dropped.
#[derive(Debug)]
pub(crate) struct Disks {
    root: PathBuf,
    durability: Durability,
}

impl Disks {
    pub(crate) fn new(durability: Durability) -> Result<Self, ConfigError> {
        let name = format!("lockmesh-{:032x}", rand::random::<u128>());
        let root = std::env::temp_dir().join(name);
        match fs::create_dir(&root) {
            Ok(()) => Ok(Self { root, durability }),
            Err(error) => Err(ConfigError::DataDir {
                dir: root,
                error: error.into(),
            }),
        }
    }

    /// Returns the data directory of a node.
    pub(crate) fn dir(&self, node_id: &str) -> PathBuf {
        self.root.join(node_id)
    }

    pub(crate) fn durability(&self) -> Durability {
        self.durability
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        // A directory that is left behind is no reason to panic.
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// Takes away what a power cut may take from the journal of a node that has ended. `status` returns
/// its state. Of the bytes that were not synced, the first half stays: its last record is torn.
pub(crate) fn cut_power(dir: &Path, status: impl Fn() -> Option<JournalStatus>) -> io::Result<()> {
    // A write may still be under way: the lock is free after it.
    let lock = File::open(dir.join("lock"))?;
    lock.lock()?;
    let Some(JournalStatus { synced, .. }) = status() else {
        return Ok(());
    };
    let journal = OpenOptions::new().write(true).open(dir.join("journal"))?;
    let unsynced = journal.metadata()?.len().saturating_sub(synced);
    journal.set_len(synced + unsynced / 2)?;
    journal.sync_all()
}
