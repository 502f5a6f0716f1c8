//! The data directories of the nodes of one cluster.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use anyhow::Context;
use clap::ValueEnum;
use hdrhistogram::Histogram;
use lockmesh::Durability;

/// The place in which the voters keep their memory.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Keep {
    /// In the process alone.
    Memory,
    /// In a journal with [`Durability::Process`].
    Process,
    /// In a journal with [`Durability::Machine`].
    Machine,
}

impl Keep {
    pub(crate) fn durability(self) -> Option<Durability> {
        match self {
            Self::Memory => None,
            Self::Process => Some(Durability::Process),
            Self::Machine => Some(Durability::Machine),
        }
    }

    /// Returns the head of its column.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Memory => "lockmesh",
            Self::Process => "with Process",
            Self::Machine => "with Machine",
        }
    }
}

/// The data directories of the nodes, in the directory for temporary files. They are removed on
/// drop.
#[derive(Debug)]
pub(crate) struct Dirs {
    root: PathBuf,
    durability: Durability,
}

impl Dirs {
    /// Creates directories, or `None` if the nodes keep their memory in their processes.
    pub(crate) fn new(keep: Keep) -> anyhow::Result<Option<Self>> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let Some(durability) = keep.durability() else {
            return Ok(None);
        };
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("lockmesh-bench-{}-{next}", std::process::id());
        let root = std::env::temp_dir().join(name);
        fs::create_dir(&root).with_context(|| root.display().to_string())?;
        Ok(Some(Self { root, durability }))
    }

    /// Returns the directory of a node, and how durable its journal is.
    pub(crate) fn of(&self, number: usize) -> (PathBuf, Durability) {
        (self.root.join(format!("n{number}")), self.durability)
    }
}

impl Drop for Dirs {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// Measures an append of 128 bytes and one `fdatasync`, in nanoseconds.
pub(crate) fn syncs() -> anyhow::Result<Histogram<u64>> {
    const SYNCS: u32 = 300;
    let dirs = Dirs::new(Keep::Machine)?.context("no directory")?;
    let path = dirs.root.join("floor");
    let mut file = File::create(&path).with_context(|| path.display().to_string())?;
    let mut took = Histogram::new(3)?;
    for _ in 0..SYNCS {
        let began = Instant::now();
        file.write_all(&[1; 128])?;
        file.sync_data()?;
        took.record(u64::try_from(began.elapsed().as_nanos())?)?;
    }
    Ok(took)
}
