//! The journal of a voter on disk: the directory, its lock, and the file that the records of the
//! node go to.
//!
//! The records and their meaning are those of [`lockmesh_proto::open_journal`]. A write into the
//! page cache takes less than a microsecond, so the thread that has the node does it itself. Writes
//! that must be synced, and those of a slow disk, are done by the [writer](writer), a thread of its
//! own. It also replaces a journal that has grown, and one that could not be written.

mod writer;

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::engine::Engine;
use crate::error::{ConfigError, DataDirError};
use lockmesh_proto::{
    FileChange, JournalOwner, NodeId, NodeJournal, NotMemory, OpenedJournal, Started, open_journal,
};

use writer::run;

const JOURNAL: &str = "journal";
/// A journal that is being written to replace the other.
const REPLACEMENT: &str = "journal.new";
const LOCK: &str = "lock";
/// The kernel's id of this boot, on Linux.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// A journal that is smaller is not replaced because of its size.
const REPLACED_FROM: u64 = 1 << 20;
/// A journal is replaced when it is this many times as large as it was when it was new.
const GROWTH: u64 = 4;
/// About the size of a record of a vote.
const VOTE_BYTES: u64 = 100;
/// The most bytes that wait for the writer. More are a failure: the disk does not answer.
const QUEUE_MAX: usize = 64 << 20;
/// The duration of a write after which the disk counts as slow.
const SLOW: Duration = Duration::from_millis(2);
/// The time for which the writer then writes.
const SLOW_FOR: Duration = Duration::from_secs(10);
/// The time in which a mesh that has ended frees its directory: a write may still be under way.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
const LOCK_PAUSE: Duration = Duration::from_millis(1);

/// The ends of a process after which a voter still has its memory: see [`MeshBuilder::data_dir`](crate::MeshBuilder::data_dir).
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Each record is written to the operating system before a vote leaves. It survives the end of
    /// the process in any way, and an orderly restart of the machine. After a power cut or a crash
    /// of the machine, the voter is in quarantine.
    #[default]
    Process,
    /// Each record is also synced to the disk (`fdatasync`) before a vote leaves. It survives a
    /// power cut. Each vote takes as long as the disk.
    Machine,
}

/// The journal of one running voter.
#[derive(Debug)]
pub(crate) struct Journal {
    dir: PathBuf,
    durability: Durability,
    state: Mutex<State>,
    /// Notified if there is work for the writer.
    work: Condvar,
    /// `true` once the journal is closed in order.
    is_closed: watch::Sender<bool>,
}

#[derive(Debug)]
struct State {
    /// `None` once the journal is closed.
    files: Option<Files>,
    len: u64,
    /// The number of bytes that are surely synced.
    synced: u64,
    /// Records for the writer.
    queue: Vec<u8>,
    /// The number of the last write of the node.
    last: u64,
    /// `true` while the writer writes records that were queued.
    is_writing: bool,
    /// The time until which the writer writes, since the disk is slow.
    slow_until: Option<Instant>,
    /// `true` after a failed write, until the journal is replaced.
    has_failed: bool,
    /// `true` if the journal is to be closed in order.
    closes: bool,
    failures: u64,
}

#[derive(Debug)]
struct Files {
    journal: File,
    /// Locked while this process uses the directory. The writer has it too while it works.
    lock: Arc<File>,
    /// The journal that will replace this one.
    replacement: Option<File>,
    /// The length from which the journal is replaced.
    len_max: u64,
}

/// The fate of some records.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Written {
    /// They are as durable as they have to be.
    Done,
    /// The writer will report it.
    Later,
    /// They cannot be written. The writer will replace the journal.
    Failed,
}

/// The state of a journal, for [`Status`](crate::status::Status).
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct JournalStatus {
    /// The data directory.
    pub dir: PathBuf,
    /// The durability of its records.
    pub durability: Durability,
    /// The size of the journal in bytes. The directory takes up to twice as much while the journal
    /// is replaced.
    pub bytes: u64,
    /// The number of these bytes that surely survive a power cut.
    pub synced: u64,
    /// `true` if the journal cannot be written. The voter then does not vote, and tries again.
    pub has_failed: bool,
    /// The number of failed writes since the start.
    pub failures: u64,
}

/// The arguments to open a journal.
#[derive(Debug)]
pub(crate) struct Opening {
    pub(crate) owner: JournalOwner,
    pub(crate) durability: Durability,
    /// The circumstances of the process, apart from its durability. The boot is the kernel's if
    /// there is none.
    pub(crate) started: Started,
}

/// A journal that was opened.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) journal: Journal,
    pub(crate) node: NodeJournal,
    /// The reason why its memory does not count.
    pub(crate) why: Option<NotMemory>,
    pub(crate) torn: usize,
}

impl Opened {
    /// Logs what was found.
    pub(crate) fn log(&self, node: &NodeId) {
        let (dir, torn) = (self.journal.dir.display(), self.torn);
        let Some(why) = self.why else {
            let votes = self.node.memory.votes();
            tracing::info!(%node, %dir, votes, torn, "journal read");
            return;
        };
        match why {
            NotMemory::New => tracing::info!(%node, %dir, "journal begun"),
            NotMemory::Damaged => tracing::error!(
                %node, %dir,
                "the journal is damaged and set aside, so this voter waits for a quarantine; look \
                 at the disk"
            ),
            _ => tracing::warn!(
                %node, %dir, %why,
                "the journal may lack votes, so this voter waits for a quarantine"
            ),
        }
    }
}

impl Journal {
    /// Starts the writer. It ends when the journal is closed.
    pub(crate) fn spawn_writer(
        journal: &Arc<Self>,
        engine: &Arc<Engine>,
    ) -> Result<(), ConfigError> {
        let (it, engine) = (journal.clone(), Arc::downgrade(engine));
        let thread = thread::Builder::new().name("lockmesh-journal".to_owned());
        let spawned = thread.spawn(move || run(&it, &engine));
        spawned.map(|_| ()).map_err(|error| ConfigError::DataDir {
            dir: journal.dir.clone(),
            error: error.into(),
        })
    }

    /// Opens the journal in a directory, which is created if it is not there. Blocks.
    pub(crate) fn open(dir: &Path, opening: Opening) -> Result<Opened, ConfigError> {
        let error = |error| ConfigError::DataDir {
            dir: dir.to_owned(),
            error,
        };
        open(dir, opening).map_err(error)
    }

    /// Writes records of the node, or leaves them to the writer.
    pub(crate) fn write(&self, number: u64, bytes: &[u8]) -> Written {
        let mut state = self.state();
        let state = &mut *state;
        let Some(files) = &mut state.files else {
            return Written::Failed;
        };
        state.last = number;
        if state.has_failed {
            files.write_replacement(bytes);
            return Written::Failed;
        }
        let now = Instant::now();
        let is_slow = state.slow_until.is_some_and(|until| now < until);
        let is_busy = state.is_writing || !state.queue.is_empty();
        if self.durability == Durability::Machine || is_slow || is_busy {
            if state.queue.len() > QUEUE_MAX {
                state.fail();
                return Written::Failed;
            }
            state.queue.extend(bytes);
            self.work.notify_one();
            return Written::Later;
        }
        let written = files.write(bytes);
        if now.elapsed() > SLOW {
            state.slow_until = Some(now + SLOW_FOR);
        }
        if written.is_err() {
            state.fail();
            self.work.notify_one();
            return Written::Failed;
        }
        state.len += bytes.len() as u64;
        if state.len > files.len_max {
            self.work.notify_one();
        }
        Written::Done
    }

    /// Closes the journal in order: syncs all records, and marks the end.
    pub(crate) async fn finish(&self) {
        let mut is_closed = self.is_closed.subscribe();
        self.state().closes = true;
        self.work.notify_one();
        // The sender is part of this journal.
        let _ = is_closed.wait_for(|is_closed| *is_closed).await;
    }

    /// Closes the files at once, so that another process can use the directory.
    pub(crate) fn close(&self) {
        self.state().files = None;
        self.is_closed.send_replace(true);
        self.work.notify_one();
    }

    pub(crate) fn status(&self) -> JournalStatus {
        let state = self.state();
        JournalStatus {
            dir: self.dir.clone(),
            durability: self.durability,
            bytes: state.len,
            synced: state.synced,
            has_failed: state.has_failed,
            failures: state.failures,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Ends writing until the journal is replaced. What was queued is dropped: a replacement that
    /// begins later will have it.
    fn fail(&mut self) {
        self.has_failed = true;
        self.failures += 1;
        self.queue = Vec::new();
        if let Some(files) = &mut self.files {
            files.replacement = None;
        }
    }
}

impl Files {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.journal.write_all(bytes)?;
        self.write_replacement(bytes);
        Ok(())
    }

    /// Writes to the journal that will replace this one, if there is one. It is given up if that
    /// fails.
    fn write_replacement(&mut self, bytes: &[u8]) {
        let written = self.replacement.as_mut().map(|file| file.write_all(bytes));
        if let Some(Err(_)) = written {
            self.replacement = None;
        }
    }
}

fn len_max(len: u64) -> u64 {
    REPLACED_FROM.max(len.saturating_mul(GROWTH))
}

fn open(dir: &Path, opening: Opening) -> Result<Opened, DataDirError> {
    create_dir(dir)?;
    let lock = lock(dir)?;
    let path = dir.join(JOURNAL);
    let options = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .clone();
    let mut journal = options.open(&path)?;
    let mut bytes = Vec::new();
    journal.read_to_end(&mut bytes)?;
    let Opening {
        owner,
        durability,
        started,
    } = opening;
    let started = Started {
        boot: started.boot.or_else(boot_id),
        is_synced: durability == Durability::Machine,
        ..started
    };
    let opened = open_journal(&bytes, &owner, started)?;
    let OpenedJournal {
        memory,
        started,
        change,
        why,
        torn,
    } = opened;
    match change {
        FileChange::Append { keep, bytes } => {
            journal.set_len(keep as u64)?;
            journal.write_all(&bytes)?;
            journal.sync_all()?;
        }
        FileChange::Replace(bytes) => {
            if why == Some(NotMemory::Damaged) {
                let now = SystemTime::now().duration_since(UNIX_EPOCH);
                let now = now.map_or(0, |since| since.as_millis());
                fs::copy(&path, dir.join(format!("journal.damaged.{now}")))?;
            }
            let mut new = replacement(dir)?;
            new.write_all(&bytes)?;
            new.sync_all()?;
            install(dir)?;
            sync_name(dir)?;
            journal = new;
        }
    }
    sync_dir(dir)?;
    let len = journal.seek(SeekFrom::End(0))?;
    let live = memory.votes() as u64 * VOTE_BYTES;
    let state = State {
        files: Some(Files {
            journal,
            lock: Arc::new(lock),
            replacement: None,
            len_max: len_max(live),
        }),
        len,
        synced: len,
        queue: Vec::new(),
        last: 0,
        is_writing: false,
        slow_until: None,
        has_failed: false,
        closes: false,
        failures: 0,
    };
    Ok(Opened {
        journal: Journal {
            dir: dir.to_owned(),
            durability,
            state: Mutex::new(state),
            work: Condvar::new(),
            is_closed: watch::Sender::new(false),
        },
        node: NodeJournal {
            owner,
            started,
            memory,
        },
        why,
        torn,
    })
}

/// Creates a directory that is missing, and those above it, and syncs their names: a file that was
/// synced is lost with its directory.
fn create_dir(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    create_dir(parent_of(dir))?;
    match fs::create_dir(dir) {
        Err(error) if !dir.is_dir() => Err(error),
        _ => sync_dir(parent_of(dir)),
    }
}

/// Syncs the name of a directory that exists. A process that created it may have ended before it did
/// so. The directory above may be one that this process must not read.
fn sync_name(dir: &Path) -> io::Result<()> {
    match sync_dir(parent_of(dir)) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        synced => synced,
    }
}

fn parent_of(dir: &Path) -> &Path {
    let parent = dir.parent().filter(|it| !it.as_os_str().is_empty());
    parent.unwrap_or_else(|| Path::new("."))
}

/// Locks the directory for this process.
fn lock(dir: &Path) -> Result<File, DataDirError> {
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false);
    let mut file = options.open(dir.join(LOCK))?;
    let until = Instant::now() + LOCK_PATIENCE;
    while let Err(error) = file.try_lock() {
        match error {
            TryLockError::WouldBlock if Instant::now() < until => thread::sleep(LOCK_PAUSE),
            TryLockError::WouldBlock => {
                let mut pid = String::new();
                let _ = file.read_to_string(&mut pid);
                let pid = pid.trim().parse().ok();
                return Err(DataDirError::InUse { pid });
            }
            TryLockError::Error(error) => return Err(error.into()),
        }
    }
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())?;
    Ok(file)
}

/// Creates the file that will replace the journal.
fn replacement(dir: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let path = dir.join(REPLACEMENT);
    options
        .write(true)
        .create(true)
        .truncate(true)
        .open(&path)?;
    OpenOptions::new().read(true).append(true).open(path)
}

/// Puts the replacement in the place of the journal.
fn install(dir: &Path) -> io::Result<()> {
    fs::rename(dir.join(REPLACEMENT), dir.join(JOURNAL))?;
    sync_dir(dir)
}

/// Syncs the names in a directory.
fn sync_dir(dir: &Path) -> io::Result<()> {
    match cfg!(unix) {
        true => File::open(dir)?.sync_all(),
        false => Ok(()),
    }
}

/// Returns the id of this boot of the machine, if it is known.
fn boot_id() -> Option<u128> {
    let text = fs::read_to_string(BOOT_ID).ok()?;
    u128::from_str_radix(&text.trim().replace('-', ""), 16).ok()
}
