//! A file system for power cuts. It has what was written, and at a cut loses what was not synced.
//!
//! | operation | survives a cut after |
//! | --- | --- |
//! | a write, a change of the length | `fsync` or `fdatasync` of the file |
//! | a name: create, mkdir, rename, unlink | `fsync` of the directory that has it |
//!
//! A file that was synced is lost if its name was not. Operations that were not synced are lost, or
//! the cut is [torn](PowerFs::cut): each file and each directory has a prefix of them, drawn from a
//! seed, independent of all others. So a rename may survive without what was written to the file. If
//! that prefix ends in a write, a part of it may survive, and zeros in place of another part.
//!
//! [`IgnoredSyncs`] is a disk that reports syncs as done and does nothing. Code under test that
//! survives that was not tested.
//!
//! Not modelled:
//! - operations on one file that survive in another order than they were made in;
//! - syncs that fail, full disks, and sectors that cannot be read later;
//! - operations on a file that has no name any more; renames between directories;
//! - all that a journal does without: anything else is `ENOSYS`. A rename onto a name replaces it.
//!
//! The division into what a process observes and what a cut leaves is that of LazyFS (Ramos et al.,
//! "When Amnesia Strikes", VLDB 2024). The orders in which operations may survive are those of ALICE
//! (Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014), as far as listed above.

mod disk;
#[cfg(target_os = "linux")]
mod fuse;

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::SeedableRng;
use rand::rngs::StdRng;

use disk::Disk;

/// The device of the kernel's FUSE.
const DEVICE: &str = "/dev/fuse";
/// The prefix of the sources of all mounts; the process id follows.
#[cfg(target_os = "linux")]
const SOURCE: &str = "lockmesh-power-";

/// The syncs that a disk reports as done without doing them.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub enum IgnoredSyncs {
    /// None: the disk keeps its promises.
    #[default]
    None,
    /// Each `fdatasync`.
    Data,
    /// Each `fsync` and each `fdatasync`.
    All,
}

/// A mounted file system. It is unmounted on drop.
#[derive(Debug)]
pub struct PowerFs {
    disk: Arc<Mutex<Disk>>,
    dir: PathBuf,
    #[cfg(target_os = "linux")]
    _session: fuser::BackgroundSession,
}

impl PowerFs {
    /// Returns the reason why it cannot be mounted here, if there is one.
    #[must_use]
    pub fn missing() -> Option<String> {
        if !cfg!(target_os = "linux") {
            return Some("power cuts need FUSE of Linux".to_owned());
        }
        if !rustix::process::geteuid().is_root() {
            return Some("power cuts need root, to mount a file system".to_owned());
        }
        let opened = OpenOptions::new().read(true).write(true).open(DEVICE);
        let error = opened.err()?;
        Some(format!("power cuts need {DEVICE}: {error}"))
    }

    /// Mounts an empty file system at a directory. Unmounts those of processes that were killed.
    ///
    /// # Errors
    /// Returns the system's error, with the path.
    pub fn mount(dir: &Path, ignored: IgnoredSyncs) -> io::Result<Self> {
        let disk = Arc::new(Mutex::new(Disk::new(ignored)));
        mounted(dir, disk).map_err(|error| {
            let what = format!("{} cannot be mounted: {error}", dir.display());
            io::Error::new(error.kind(), what)
        })
    }

    /// Cuts the power. All processes that use the file system must have ended. If there is a seed of
    /// a torn cut, a part of what was not synced survives.
    pub fn cut(&self, torn: Option<u64>) {
        let mut rng = torn.map(StdRng::seed_from_u64);
        lock(&self.disk).cut(rng.as_mut());
    }

    /// Returns the directory that it is mounted at.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

fn lock(disk: &Mutex<Disk>) -> MutexGuard<'_, Disk> {
    disk.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(not(target_os = "linux"))]
fn mounted(_dir: &Path, _disk: Arc<Mutex<Disk>>) -> io::Result<PowerFs> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(target_os = "linux")]
fn mounted(dir: &Path, disk: Arc<Mutex<Disk>>) -> io::Result<PowerFs> {
    use fuser::{Config, MountOption};

    sweep();
    let dir = dir.canonicalize()?;
    let mut config = Config::default();
    let source = format!("{SOURCE}{}", std::process::id());
    config.mount_options = vec![MountOption::FSName(source)];
    let session = fuser::spawn_mount(fuse::Fuse(disk.clone()), &dir, &config)?;
    Ok(PowerFs {
        disk,
        dir,
        _session: session,
    })
}

#[cfg(target_os = "linux")]
impl Drop for PowerFs {
    /// The mount disappears even if a process still uses it.
    fn drop(&mut self) {
        unmount(&self.dir);
    }
}

#[cfg(target_os = "linux")]
fn unmount(dir: &Path) {
    let _ = rustix::mount::unmount(dir, rustix::mount::UnmountFlags::DETACH);
}

/// Unmounts the file systems of processes that have ended.
#[cfg(target_os = "linux")]
fn sweep() {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for line in mounts.lines() {
        let mut words = line.split(' ');
        let (source, dir) = (words.next(), words.next());
        let pid = source.and_then(|source| source.strip_prefix(SOURCE));
        if let (Some(pid), Some(dir)) = (pid, dir)
            && pid.parse::<u32>().is_ok()
            && !Path::new("/proc").join(pid).exists()
        {
            unmount(Path::new(dir));
        }
    }
}
