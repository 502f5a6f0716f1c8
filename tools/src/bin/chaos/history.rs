//! Histories: the events that processes observed of their locks, one JSON object a line. Workers
//! write them, the runner adds its faults, and the check judges them. `docs/chaos.md` describes the
//! format.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use lockmesh::Durability;
use serde::{Deserialize, Serialize};

/// The version of the format, written in the first line of every incarnation.
pub(crate) const FORMAT: u32 = 1;

/// The kind of a lock request.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum How {
    /// Waits in line.
    Acquire,
    /// Does not wait.
    Try,
    /// Waits for several locks together. Until it has all, it may hold some.
    Together,
    /// Runs a tick, unless it ran before.
    Once,
}

/// The source of the memory that a voter votes with.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StartFrom {
    /// It had none, and votes after a quarantine, or once the others confirm that the cluster is new.
    Nothing,
    /// Its journal.
    Journal,
    /// Other voters, with which its last process left it.
    Handover,
}

/// One event. Times are nanoseconds of the boot clock. An event with two times happened at an
/// instant between them.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Line {
    /// A process starts to run a node. The events up to the next start belong to this incarnation.
    Start {
        at: u64,
        format: u32,
        boot: String,
        node: String,
        incarnation: u64,
        /// The longest lease of the cluster.
        max_lease_ms: u64,
        /// The durability of its journal, if it keeps one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        durability: Option<Durability>,
    },
    /// The node's voter starts or stops voting, or finds that it may lack marks.
    Voting {
        at: u64,
        votes: bool,
        /// The source of its memory, if it votes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<StartFrom>,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        may_lack_marks: bool,
    },
    /// A lock is about to be requested.
    Asked {
        at: u64,
        /// The number of the request within this incarnation.
        id: u64,
        /// The key, or the id of a semaphore.
        key: String,
        how: How,
        /// The longest time that the request waits.
        wait_ms: u64,
        /// The number of permits, if one of a semaphore is requested.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        permits: Option<usize>,
    },
    /// The lock was granted, and its guard was observed for the first time.
    Granted {
        id: u64,
        before: u64,
        after: u64,
        epoch: u64,
        /// The interval in which the guard's lease ends by its own clock; `None` if it had ended.
        until: Option<[u64; 2]>,
        /// The key of the permit, if it is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        permit: Option<String>,
    },
    /// The guard was observed to be held.
    Held {
        id: u64,
        before: u64,
        after: u64,
        until: [u64; 2],
    },
    /// The guard was observed to be lost.
    Lost { id: u64, before: u64, after: u64 },
    /// An extension of the lease was requested.
    Extended {
        id: u64,
        before: u64,
        after: u64,
        extra_ms: u64,
        error: Option<String>,
    },
    /// The lock was released. `held` is `true` if it was held until then.
    Released {
        id: u64,
        before: u64,
        after: u64,
        held: bool,
    },
    /// A lock was granted through the trait `DistributedLock`. It is held from `at` until `ttl_ms`
    /// after the request, even if the process dies.
    Ticked { id: u64, at: u64, ttl_ms: u64 },
    /// The work of a tick begins. The lock of the tick was granted by then.
    Attempt { id: u64, at: u64, epoch: u64 },
    /// The tick ran. It was marked between these times, and is not to run again for `keep_ms`.
    Ran {
        id: u64,
        before: u64,
        after: u64,
        keep_ms: u64,
    },
    /// The work of a tick ended without a mark, so that the tick may run again.
    GaveBack { id: u64, at: u64 },
    /// The tick had run before, with this epoch.
    AlreadyRan { id: u64, at: u64, epoch: u64 },
    /// A try failed because another claim was granted.
    Denied { id: u64, at: u64 },
    /// The request timed out.
    TimedOut { id: u64, at: u64 },
    /// The caller withdrew the request.
    Withdrawn { id: u64, at: u64 },
    /// The node was shut down while the request waited.
    ShutDown { id: u64, at: u64 },
    /// The node begins to stop.
    Stopping { at: u64, signal: String },
    /// The process ends after a clean shutdown.
    End { at: u64 },
    /// A chaos run begins. Its runner writes this file.
    Chaos {
        at: u64,
        format: u32,
        boot: String,
        seed: u64,
        nodes: Vec<String>,
    },
    /// The runner injected a fault into these nodes, or undid one.
    Fault {
        before: u64,
        after: u64,
        fault: FaultKind,
        nodes: Vec<String>,
        what: String,
    },
    /// All faults are over. From here on every node must be granted a lock.
    Calm { at: u64 },
    /// From here on this node cannot reach a quorum of voters that vote.
    Unserved { at: u64, node: String },
    /// From here on this node can reach such a quorum again.
    Served { at: u64, node: String },
}

impl Line {
    /// Returns the id of the request that the event belongs to, and the interval of the event;
    /// `None` for the begin of a request, and for other events.
    pub(crate) fn of_request(&self) -> Option<(u64, u64, u64)> {
        match *self {
            Self::Granted {
                id, before, after, ..
            }
            | Self::Held {
                id, before, after, ..
            }
            | Self::Lost { id, before, after }
            | Self::Extended {
                id, before, after, ..
            }
            | Self::Released {
                id, before, after, ..
            }
            | Self::Ran {
                id, before, after, ..
            } => Some((id, before, after)),
            Self::Ticked { id, at, .. }
            | Self::Attempt { id, at, .. }
            | Self::GaveBack { id, at }
            | Self::AlreadyRan { id, at, .. }
            | Self::Denied { id, at }
            | Self::TimedOut { id, at }
            | Self::Withdrawn { id, at }
            | Self::ShutDown { id, at } => Some((id, at, at)),
            _ => None,
        }
    }
}

/// A fault of a node, or the end of one.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FaultKind {
    /// Its process was killed with SIGKILL, to be restarted later.
    Killed,
    /// Its process was killed with SIGKILL and is restarted at once.
    KilledAndRestarted,
    /// Its process was killed with SIGKILL, and its disk lost what was not synced. It is restarted
    /// later.
    PowerCut,
    /// Its process was sent SIGTERM.
    Terminated,
    /// A new process was started.
    Started,
    /// Its process was paused with SIGSTOP.
    Frozen,
    /// Its process was resumed.
    Thawed,
    /// All its links are cut in both directions.
    CutOff,
    /// The links between two groups are cut in both directions.
    Split,
    /// Datagrams pass in one direction only.
    OneWay,
    /// Datagrams are lost at random.
    Loss,
    /// Datagrams are delayed.
    Delay,
    /// Datagrams are duplicated.
    Duplication,
    /// Datagrams are reordered.
    Reordering,
    /// A second process was started under the node's name, at another address.
    Twin,
    /// The second process was killed with SIGKILL.
    TwinGone,
    /// A new process was started with another secret.
    OtherSecret,
    /// A new process was started with a shorter `max_ttl`.
    OtherMaxTtl,
    /// A new process was started with a wrong wall clock.
    WallClock,
    /// The address of its interface was replaced.
    Readdressed,
    /// A process that does not vote was started, to acquire one lock and stop.
    Client,
    /// Such a client was killed with SIGKILL.
    ClientKilled,
    /// The links were restored.
    Healed,
}

impl FaultKind {
    /// Returns this fault if it `is_on`, and `Healed` otherwise.
    pub(crate) fn or_healed(self, is_on: bool) -> Self {
        if is_on { self } else { Self::Healed }
    }

    /// Returns `true` for a fault, and `false` for an event that undoes one.
    pub(crate) fn is_fault(self) -> bool {
        !matches!(
            self,
            Self::Started | Self::Thawed | Self::TwinGone | Self::Healed
        )
    }
}

/// Returns the nanoseconds since boot by `CLOCK_BOOTTIME`, which all processes of a machine share in
/// any network namespace. It is never set, and it includes time spent in suspend.
pub(crate) fn now() -> u64 {
    #[cfg(target_os = "linux")]
    let clock = rustix::time::ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    let clock = rustix::time::ClockId::Monotonic;
    let time = rustix::time::clock_gettime(clock);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanos = u64::try_from(time.tv_nsec).unwrap_or_default();
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}

/// Returns the id of the boot that [`now`] counts from.
///
/// # Errors
/// If it cannot be read: only Linux has one.
pub(crate) fn boot() -> io::Result<String> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let boot = std::fs::read_to_string(path).map_err(|error| named(path, &error))?;
    Ok(boot.trim().to_owned())
}

/// Appends lines to a file. Each line is passed to the system before the process takes its next
/// step, so a killed process loses at most the last line.
#[derive(Debug)]
pub(crate) struct Writer {
    path: PathBuf,
    file: Mutex<File>,
}

impl Writer {
    /// Opens a file, which may contain earlier incarnations. Terminates the last line if it is
    /// incomplete.
    ///
    /// # Errors
    /// Returns the system's error, with the path.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = append(path).map_err(|error| named(path, &error))?;
        let (path, file) = (path.to_owned(), Mutex::new(file));
        Ok(Self { path, file })
    }

    /// # Errors
    /// Returns the system's error, with the path.
    pub(crate) fn write(&self, line: &Line) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let written = file.write_all(&text);
        written.map_err(|error| named(&self.path, &error))
    }
}

fn append(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let mut file = options.read(true).append(true).create(true).open(path)?;
    if file.seek(SeekFrom::End(0))? > 0 {
        file.seek(SeekFrom::End(-1))?;
        let mut last = [0];
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
        }
    }
    Ok(file)
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
