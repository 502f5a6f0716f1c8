//! The errors, one type for each operation. Each states what is left behind.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use crate::status::Health;
use lockmesh_proto::{
    DropReason, Epoch, JournalError, KeyHolder, MARK_KEEP_MAX, NameError, Note, RefuseReason,
    RequestError, SecretError, VoteTally, VoterSetError,
};

/// The reason why a data directory cannot be used.
#[derive(Error)]
#[non_exhaustive]
pub enum DataDirError {
    /// Another process uses the directory.
    #[error(
        "{} uses it; stop that process, or give each node a directory of its own",
        .pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
    )]
    InUse {
        /// The id of that process, if it is known.
        pid: Option<u32>,
    },
    /// The journal in it cannot be used.
    #[error(
        "journal: {0}; use another directory, or delete the journal: the voter then waits for a \
         quarantine"
    )]
    Journal(#[from] JournalError),
    /// The directory or a file in it cannot be read or written.
    #[error("{0}; make it a directory that this process can write")]
    Io(#[from] std::io::Error),
}

/// Implements `Debug` as `Display`: a `main` that returns the error prints its text.
macro_rules! debug_as_display {
    ($($error:ty),*) => {$(
        impl fmt::Debug for $error {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )*};
}

debug_as_display!(
    ConfigError,
    DataDirError,
    AcquireError,
    SemaphoreError,
    LockAllError,
    ReleaseError,
    ExtendError,
    MarkError,
    InspectError,
    RevokeError,
    NotReady,
    RotateError
);

/// The error returned if a mesh cannot be started. No socket and no task is left behind.
#[derive(Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The id of this node or of a voter is invalid.
    #[error("{field}: {error}")]
    Name {
        /// The setting: `node_id` or `voters`.
        field: &'static str,
        /// The reason.
        error: NameError,
    },
    /// The voter set or its timing is invalid.
    #[error(transparent)]
    VoterSet(#[from] VoterSetError),
    /// Neither a secret nor `insecure_plaintext()` was given.
    #[error(
        "secret: the mesh has no cluster secret; give secret(..) or secret_from_env(..), \
         or ask for insecure_plaintext()"
    )]
    NoSecret,
    /// The cluster secret is invalid.
    #[error("secret: {0}")]
    Secret(SecretError),
    /// The environment variable of the cluster secret is not set, or is not Unicode.
    #[error("secret: the environment variable {variable} is not set, or is not Unicode")]
    SecretVariable {
        /// The name of the variable.
        variable: String,
    },
    /// The secret of a [`MeshConfig`](crate::MeshConfig) does not have exactly one source.
    #[error(
        "secret: there must be exactly one of secret, secret_env, secret_file and \
         insecure_plaintext = true"
    )]
    SecretSources,
    /// The file of the cluster secret cannot be read.
    #[error("secret_file: {} cannot be read: {error}", .path.display())]
    SecretFile {
        /// The path of the file.
        path: PathBuf,
        /// The error of the operating system.
        error: std::io::Error,
    },
    /// A [`MeshConfig`](crate::MeshConfig) has no `node_id`.
    #[error("node_id: there is none; set node_id or LOCKMESH_NODE_ID")]
    NoNodeId,
    /// The data directory cannot be used.
    #[error("data_dir: {}: {error}", .dir.display())]
    DataDir {
        /// The directory.
        dir: PathBuf,
        /// The reason, and what to do.
        error: DataDirError,
    },
    /// An environment variable does not contain a value of its setting.
    #[error("{variable} {reason}")]
    Variable {
        /// The name of the variable.
        variable: String,
        /// The value and what is allowed.
        reason: String,
    },
    /// A setting refers to an environment variable that is not set, or is not Unicode.
    #[error(
        "{field}: the environment variable {variable} is not set, or is not Unicode; set it, or \
         write ${{{variable}:-default}}"
    )]
    UnknownVariable {
        /// The setting.
        field: &'static str,
        /// The name of the variable.
        variable: String,
    },
    /// A reference to an environment variable in a setting has no closing brace.
    #[error("{field}: a ${{ has no closing brace")]
    Unclosed {
        /// The setting.
        field: &'static str,
    },
    /// An address is not `IP:PORT`.
    #[error("{field}: {value:?} is not an address; it must be IP:PORT")]
    Address {
        /// The setting: `listen`.
        field: &'static str,
        /// The rejected value.
        value: String,
    },
    /// No voters were given. Only [`MeshBuilder::single`](crate::MeshBuilder::single) votes alone.
    #[error(
        "voters: there are none; name the nodes that vote, the same on all nodes, or use \
         MeshBuilder::single for a cluster of one"
    )]
    NoVoters,
    /// The advertised address is no `HOST:PORT`, or is unspecified or has port 0.
    #[error("advertise is {value}; it must be a HOST:PORT at which peers reach this node")]
    Advertise {
        /// The rejected value.
        value: String,
    },
    /// The name of the advertised address does not resolve.
    #[error(
        "advertise: {name} does not resolve: {error}; use an IP address, or leave it out to \
         advertise the address of the network interface"
    )]
    AdvertiseUnresolved {
        /// The name, `HOST:PORT`.
        name: String,
        /// The error of the resolver.
        error: std::io::Error,
    },
    /// The node listens on an unspecified address, and this machine has no route to its peers.
    #[error(
        "advertise: this machine has no route to a peer ({error}); set advertise to a HOST:PORT"
    )]
    NoRoute {
        /// The error of the operating system.
        error: std::io::Error,
    },
    /// The listen address cannot be bound: it is in use, or does not belong to this machine.
    #[error("listen: {listen} cannot be bound: {error}")]
    Bind {
        /// The listen address.
        listen: SocketAddr,
        /// The error of the operating system.
        error: std::io::Error,
    },
    /// A seed is not `HOST:PORT`. A seed that does not resolve is not an error.
    #[error("seeds: {seed:?} is no address: {error}")]
    Seed {
        /// The seed.
        seed: String,
        /// The reason.
        error: std::io::Error,
    },
    /// A voter is configured as short-lived. A voter must gossip, so that peers find it.
    #[error("short_lived: this node is a voter; only a node that does not vote may be short-lived")]
    ShortLivedVoter,
    /// A duration or number is out of range.
    #[error("{field} is {value}; it must be {min} to {max}")]
    OutOfBounds {
        /// The setting.
        field: &'static str,
        /// The rejected value.
        value: String,
        /// The smallest allowed value.
        min: String,
        /// The largest allowed value.
        max: String,
    },
    /// The renewal interval is out of range. It must leave time to repeat a lost renewal.
    #[error(
        "renew_interval is {renew_interval:?}; it must be {min:?} to {max:?}, half of ttl ({ttl:?})"
    )]
    Renewal {
        /// The rejected value.
        renew_interval: Duration,
        /// The smallest allowed value: one round trip.
        min: Duration,
        /// The largest allowed value: half of the default ttl.
        max: Duration,
        /// The default ttl.
        ttl: Duration,
    },
    /// The names of the voters do not fit into a datagram. Each gossip message names every voter.
    #[error(
        "voters take {bytes} bytes in each message of the gossip; at most {max} fit: name fewer \
         voters, or give them shorter names"
    )]
    GossipRoom {
        /// The number of bytes that the voters and this node take.
        bytes: usize,
        /// The number of bytes that are available.
        max: usize,
    },
    /// Gossip could not be started.
    #[error("gossip did not start: {0}")]
    Gossip(String),
    /// The mesh was started outside a tokio runtime.
    #[error("a mesh must be started within a tokio runtime")]
    NoRuntime,
}

impl From<SecretError> for ConfigError {
    fn from(error: SecretError) -> Self {
        Self::Secret(error)
    }
}

impl ConfigError {
    pub(crate) fn span(field: &'static str, value: Duration, min: Duration, max: Duration) -> Self {
        let [value, min, max] = [value, min, max].map(|span| format!("{span:?}"));
        Self::OutOfBounds {
            field,
            value,
            min,
            max,
        }
    }
}

/// The error returned if a lock was not acquired. No claim is left behind.
#[derive(Clone, Error, PartialEq)]
#[non_exhaustive]
pub enum AcquireError {
    /// The key is empty or too long. Nothing was sent.
    #[error(transparent)]
    Key(#[from] NameError),
    /// The [note](crate::LockRequest::note) is empty, too long, or has a control character. Nothing
    /// was sent.
    #[error(transparent)]
    Note(NameError),
    /// The ttl is out of range, or this node has too many locks and requests. Nothing was sent.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The timeout passed before a quorum of the key's voters voted for the claim.
    ///
    /// The claim is withdrawn. It is unknown whether another claim holds the key.
    #[error(
        "timed out after {waited:?}: {}{}{}",
        describe(.answers),
        describe_holder(.holder.as_deref(), .held_here.as_deref()),
        describe_unopened(*.unopened)
    )]
    TimedOut {
        /// The timeout of the request.
        waited: Duration,
        /// The answers of the voters until then.
        answers: VoteTally,
        /// The reason why no recent datagram could be opened; `None` if one could, or if none
        /// arrived.
        unopened: Option<DropReason>,
        /// The lock of this same node that the request waited for, if it did.
        held_here: Option<Box<Reentry>>,
        /// The holder that a voter named last. `None` if no voter did. Boxed to keep the error small.
        holder: Option<Box<Holder>>,
    },
    /// The key is marked ([`Guard::mark`](crate::Guard::mark)): what it stands for is done.
    #[error("done by {by} under epoch {epoch}")]
    Done {
        /// The node that marked the key.
        by: String,
        /// The epoch under which it did.
        epoch: Epoch,
    },
    /// This node holds the key itself, and the request is
    /// [`deny_reentry`](crate::LockRequest::deny_reentry). Nothing was sent.
    #[error("{0}; release that guard first, or share it")]
    Reentry(Reentry),
    /// The lock was granted under contention, but its full lease was not confirmed in time.
    ///
    /// A lock granted under contention is valid for a short reservation at first. It has been
    /// released.
    #[error("granted, but the whole lease was not confirmed in {waited:?}")]
    Unconfirmed {
        /// The time that the caller waited.
        waited: Duration,
    },
    /// The mesh is shutting down or has shut down.
    #[error("the mesh is shut down")]
    ShutDown,
}

/// Returns the suffix for a request whose key another claim holds, or may.
fn describe_holder(holder: Option<&Holder>, held_here: Option<&Reentry>) -> String {
    match (held_here, holder) {
        (Some(held), _) => format!("; {held}"),
        (None, Some(holder)) => format!("; {holder}"),
        (None, None) => String::new(),
    }
}

/// The claim that has the vote of one of a key's voters. It may not be granted.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Holder {
    /// The id of its node.
    pub node: String,
    /// Its epoch.
    pub epoch: Epoch,
    /// The least time for which it has had the vote.
    pub held_for: Duration,
    /// Its [note](crate::LockRequest::note), if a voter sent one.
    pub note: Option<Note>,
}

impl From<&KeyHolder> for Holder {
    fn from(holder: &KeyHolder) -> Self {
        Self {
            node: holder.node.to_string(),
            epoch: holder.epoch,
            held_for: holder.held_for,
            note: holder.note.clone(),
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, epoch, .. } = self;
        write!(f, "held by {node} under epoch {epoch} for at least ")?;
        match self.held_for.as_secs() {
            0..120 => write!(f, "{:.1} s", self.held_for.as_secs_f64())?,
            secs @ 120..7_200 => write!(f, "{} min", secs / 60)?,
            secs => write!(f, "{} h", secs / 3_600)?,
        }
        match &self.note {
            Some(note) => write!(f, ": {note}"),
            None => Ok(()),
        }
    }
}

/// A lock that the node itself holds, for which one of its own requests would wait.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Reentry {
    /// The epoch of the lock.
    pub epoch: Epoch,
    /// The time since its grant.
    pub held_for: Duration,
}

impl fmt::Display for Reentry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { epoch, held_for } = self;
        write!(
            f,
            "this node itself has held the key for {held_for:.1?}, at epoch {epoch}"
        )
    }
}

/// Returns the suffix for a node that could open no recent datagram.
fn describe_unopened(unopened: Option<DropReason>) -> String {
    let is = unopened.and_then(DropReason::as_unopened);
    is.map_or_else(String::new, |is| {
        format!("; every datagram that arrived recently is {is}")
    })
}

/// Returns the answers of the voters as text.
fn describe(answers: &VoteTally) -> String {
    let VoteTally {
        voters,
        voted,
        waiting,
        refused,
        reason,
        silent,
        ..
    } = answers;
    let why = match reason {
        None => "",
        Some(RefuseReason::Quarantine) => ": in quarantine after a restart",
        Some(RefuseReason::Leaving) => ": it is shutting down",
        Some(RefuseReason::Storage) => ": it cannot write its journal",
        Some(RefuseReason::VoterSet) => ": it has another voter set",
        Some(RefuseReason::Skew) => ": the wall clocks are too far apart",
        Some(RefuseReason::Limit) => ": it has reached its limit of claims",
        Some(RefuseReason::NotAVoter) => ": it is not a voter",
        Some(RefuseReason::Marks) => ": it reads the marks of the others",
    };
    let others = [
        (*waiting, "with another claim ahead", ""),
        (*refused, "refused", why),
        (*silent, "did not answer", ""),
    ];
    let others = others.iter().filter(|(voters, ..)| *voters > 0);
    let others: Vec<_> = others
        .map(|(n, what, why)| format!("{n} {what}{why}"))
        .collect();
    match others.is_empty() {
        true => format!("{voted} of {voters} votes"),
        false => format!("{voted} of {voters} votes ({})", others.join(", ")),
    }
}

/// An error of one of several locks, with its key.
#[derive(Clone, Eq, Error, PartialEq)]
#[error("{key}: {error}")]
pub struct OfKey<E> {
    /// The key.
    pub key: String,
    /// The error of that lock.
    pub error: E,
}

impl<E: fmt::Display> fmt::Debug for OfKey<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The error returned if the permits of a semaphore were not acquired. No permit and no claim is
/// left behind.
#[derive(Clone, Error, PartialEq)]
#[non_exhaustive]
pub enum SemaphoreError {
    /// The number of permits of the semaphore is out of range. Nothing was sent.
    #[error("semaphore {semaphore}: permits is {permits}; it must be 1 to {max}")]
    Permits {
        /// The id of the semaphore.
        semaphore: String,
        /// The rejected number.
        permits: usize,
        /// The largest allowed number.
        max: usize,
    },
    /// No permits were asked for, or more than the semaphore has. Nothing was sent.
    #[error("semaphore {semaphore}: {wanted} permits are wanted; it must be 1 to {permits}")]
    Wanted {
        /// The id of the semaphore.
        semaphore: String,
        /// The rejected number.
        wanted: usize,
        /// The number of permits of the semaphore.
        permits: usize,
    },
    /// A permit was not acquired. The key is `ID#NUMBER`.
    #[error("semaphore: {0}")]
    Acquire(OfKey<AcquireError>),
}

/// The error returned if several keys were not locked together. No lock and no claim is left behind.
#[derive(Clone, Error, PartialEq)]
#[non_exhaustive]
pub enum LockAllError {
    /// There are no keys, or too many. Nothing was sent.
    #[error("lock_all: there are {keys} keys; there must be 1 to {max}")]
    Keys {
        /// The rejected number.
        keys: usize,
        /// The largest allowed number.
        max: usize,
    },
    /// A key is given twice. Nothing was sent.
    #[error("lock_all: the key {key:?} is given twice; give each key once")]
    Duplicate {
        /// The key.
        key: String,
    },
    /// One of the keys was not locked.
    #[error("lock_all: {0}")]
    Acquire(OfKey<AcquireError>),
}

/// The error returned if a guard was released after its lease had ended.
///
/// Another claim may have held the lock since.
#[derive(Clone, Copy, Eq, Error, PartialEq)]
#[error("the lease was over before it was released")]
pub struct ReleaseError;

/// The error returned if a lease was not extended. The lease is unchanged unless the variant says
/// otherwise.
#[derive(Clone, Copy, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum ExtendError {
    /// The lease has ended.
    #[error("the lock is not held")]
    NotHeld,
    /// More than `max_ttl` would remain.
    #[error("{remaining:?} remain and {extra:?} more would exceed max_ttl, {max:?}")]
    TooLong {
        /// The time that remains now.
        remaining: Duration,
        /// The requested extension.
        extra: Duration,
        /// The `max_ttl` of the voter set.
        max: Duration,
    },
    /// No quorum agreed in time. The lease may still be extended later.
    #[error("no quorum has agreed to the extension in {waited:?}")]
    NoQuorum {
        /// The time that the caller waited.
        waited: Duration,
    },
}

/// The error returned if a key was not marked. The lease is unchanged.
#[derive(Clone, Copy, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum MarkError {
    /// The lease has ended. Some voters may have the mark.
    #[error("the lock is not held")]
    NotHeld,
    /// The key would be marked for no time, or for more than seven days.
    #[error("keep_for is {keep_for:?}; it must be above 0 s and at most {MARK_KEEP_MAX:?}")]
    KeepFor {
        /// The time for which the key was to be marked.
        keep_for: Duration,
    },
    /// The voters have as many marks as they may.
    #[error(
        "the voters have no room for the mark; raise limits.marks_max, or mark keys for less time"
    )]
    Full,
    /// No quorum has the mark in time. Some voters may have it.
    #[error("no quorum has the mark after {waited:?}")]
    NoQuorum {
        /// The time that the caller waited.
        waited: Duration,
    },
}

/// The error returned if an inspection has no result.
#[derive(Clone, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum InspectError {
    /// The key is empty or too long.
    #[error(transparent)]
    Key(#[from] NameError),
    /// Fewer than a quorum of the key's voters answered.
    #[error("only {answered} of {voters} voters answered")]
    NoQuorum {
        /// The number of voters that answered.
        answered: usize,
        /// The number of voters of the key.
        voters: usize,
    },
    /// The mesh is shutting down or has shut down.
    #[error("the mesh is shut down")]
    ShutDown,
}

/// The error returned if a lock was not freed by hand.
#[derive(Clone, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum RevokeError {
    /// The key or the name of who frees it is empty or too long, or that name has a control
    /// character. Nothing was sent.
    #[error(transparent)]
    Name(#[from] NameError),
    /// No claim holds the key, or none with the epoch that was asked for.
    #[error("nobody holds {key}{}", epoch_of(*.epoch))]
    NotHeld {
        /// The key.
        key: String,
        /// The epoch that was asked for.
        epoch: Option<Epoch>,
    },
    /// Too few voters confirmed, and the holder did not answer. Those that confirmed renew the claim no
    /// more, so a second call goes on. A voter confirms nothing while it is in recovery, or remembers
    /// 1,024 revoked claims that may not be over.
    #[error("only {confirmed} of {voters} voters confirmed, and the holder did not answer")]
    NoQuorum {
        /// The number of voters that renew the claim no more.
        confirmed: usize,
        /// The number of voters of the key.
        voters: usize,
    },
    /// The mesh is shutting down or has shut down.
    #[error("the mesh is shut down")]
    ShutDown,
}

fn epoch_of(epoch: Option<Epoch>) -> String {
    epoch.map_or_else(String::new, |epoch| format!(" under epoch {}", epoch.get()))
}

/// The error returned if the secrets of a running mesh were not replaced. The mesh goes on with
/// those that it has.
#[derive(Clone, Copy, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum RotateError {
    /// There are no secrets, too many, or one twice; or the mesh sends plaintext.
    #[error("secrets: {0}")]
    Secret(#[from] SecretError),
    /// The mesh is shutting down or has shut down.
    #[error("the mesh is shut down")]
    ShutDown,
}

/// The error returned if a node is not ready in time.
///
/// Fewer than a quorum of the members would vote for its claims, its own voter does not vote yet, or
/// no other voter may be restarted yet: see [`Health`].
#[derive(Clone, Copy, Eq, Error, PartialEq)]
#[non_exhaustive]
#[error(
    "not ready in {waited:?}: {reachable} of {members} members can be counted on{}",
    match .health {
        Health::NoSpareVoter => "; locks can be acquired, and no other voter may be restarted yet",
        _ => "",
    }
)]
pub struct NotReady {
    /// The time that the caller waited.
    pub waited: Duration,
    /// The number of members that would vote for a claim of this node, itself included.
    pub reachable: usize,
    /// The number of members of the voter set.
    pub members: usize,
    /// The health of the node when the time was over.
    pub health: Health,
}
