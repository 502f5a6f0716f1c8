//! What can go wrong: one enum for each operation. Each variant says what state is left.

use std::net::SocketAddr;
use std::time::Duration;

use thiserror::Error;

use lockmesh_proto::claimant::RequestError;
use lockmesh_proto::event::VoteTally;
use lockmesh_proto::id::NameError;
use lockmesh_proto::message::RefuseReason;
use lockmesh_proto::voter_set::VoterSetError;
use lockmesh_proto::wire::{DropReason, SecretError};

/// A mesh that was not started. Nothing is left: no socket, no task.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A node id that cannot be: of this node, or of a voter.
    #[error("{field}: {error}")]
    Name {
        /// `node_id` or `voters`.
        field: &'static str,
        /// What is wrong with it.
        error: NameError,
    },
    /// The voter set, or one of the constants that are part of it.
    #[error(transparent)]
    VoterSet(#[from] VoterSetError),
    /// Neither a key nor `insecure_plaintext()` was given.
    #[error(
        "secret: the mesh has no cluster secret; give secret(..) or secret_from_env(..), \
         or ask for insecure_plaintext()"
    )]
    NoSecret,
    /// The cluster secret cannot be read.
    #[error("secret: {0}")]
    Secret(#[from] SecretError),
    /// The environment variable that should hold the cluster secret is not set.
    #[error("secret: the environment variable {variable} is not set, or is not Unicode")]
    SecretVariable {
        /// Its name.
        variable: String,
    },
    /// An address that cannot be read.
    #[error("{field}: {value:?} is not an address; it must be IP:PORT")]
    Address {
        /// `listen` or `advertise`.
        field: &'static str,
        /// What was given.
        value: String,
    },
    /// Nobody could send to this node: it listens on all addresses and does not say which of
    /// them others reach, or what it says is no such address.
    #[error(
        "{field} is {value}, which nobody can send to; \
         advertise must be an IP:PORT at which others reach this node"
    )]
    Advertise {
        /// `advertise`, or `listen` where no other address is advertised.
        field: &'static str,
        /// Its value.
        value: SocketAddr,
    },
    /// The listen address cannot be bound: in use, or not of this machine.
    #[error("listen: {listen} cannot be bound: {source}")]
    Bind {
        /// The listen address.
        listen: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// A seed is no `HOST:PORT`. One that does not resolve is no error.
    #[error("seeds: {seed:?} is no address: {source}")]
    Seed {
        /// The seed.
        seed: String,
        /// What is wrong with it.
        source: std::io::Error,
    },
    /// A voter must gossip, so that others find it.
    #[error("short_lived: this node is a voter; only a node that does not vote may be short-lived")]
    ShortLivedVoter,
    /// A span or a number is out of its bounds.
    #[error("{field} is {value}; it must be {min} to {max}")]
    OutOfBounds {
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
        /// The least allowed.
        min: String,
        /// The most allowed.
        max: String,
    },
    /// A lease would be over before it is renewed with time to spare.
    #[error(
        "renew_interval is {renew_interval:?}; it must be {min:?} to {max:?}, half of ttl ({ttl:?})"
    )]
    Renewal {
        /// What was given.
        renew_interval: Duration,
        /// The least allowed: a round trip.
        min: Duration,
        /// The most allowed: half of the default ttl.
        max: Duration,
        /// The default ttl.
        ttl: Duration,
    },
    /// Each message of the gossip names every voter, and a datagram holds only so much.
    #[error(
        "voters take {bytes} bytes in each message of the gossip; at most {max} fit: name fewer \
         voters, or give them shorter names"
    )]
    GossipRoom {
        /// What they take, this node included.
        bytes: usize,
        /// What there is room for.
        max: usize,
    },
    /// The gossip could not be started.
    #[error("the gossip did not start: {0}")]
    Gossip(String),
    /// There is no tokio runtime to start in.
    #[error("a mesh must be started within a tokio runtime")]
    NoRuntime,
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

/// A lock that was not obtained. No claim is left behind.
#[derive(Clone, Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum AcquireError {
    /// The key is empty or too long. Nothing was sent.
    #[error(transparent)]
    Key(#[from] NameError),
    /// The ttl is out of its bounds, or this node has too many requests. Nothing was sent.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The time was over before a quorum of the key's voters had voted for it. The claim is
    /// withdrawn. Whether anybody holds the key is not known.
    #[error("no quorum in {waited:?}: {}{}", describe(.answers), unopened(*.hears_nobody))]
    TimedOut {
        /// How long it was waited for.
        waited: Duration,
        /// What the voters had said by then.
        answers: VoteTally,
        /// Why this node could open none of the datagrams that came lately; `None` if it could, or
        /// if none came.
        hears_nobody: Option<DropReason>,
    },
    /// It was granted in contention, and so for a short while at first, but no quorum
    /// confirmed the whole lease in time; it is released.
    #[error("granted, but the whole lease was not confirmed in {waited:?}")]
    Unconfirmed {
        /// How long it was waited for.
        waited: Duration,
    },
    /// The mesh is shutting down, or was shut down.
    #[error("the mesh is shut down")]
    ShutDown,
}

/// Why nobody is heard, in words.
fn unopened(hears_nobody: Option<DropReason>) -> String {
    let is = hears_nobody.and_then(DropReason::as_unopened);
    is.map_or_else(String::new, |is| {
        format!("; every datagram that came lately is {is}")
    })
}

/// What the voters said, in words.
fn describe(answers: &VoteTally) -> String {
    let VoteTally {
        voters,
        voted,
        waiting,
        refused,
        reason,
        silent,
    } = answers;
    let why = match reason {
        None => "",
        Some(RefuseReason::Quarantine) => " (in quarantine after a restart)",
        Some(RefuseReason::VoterSet) => " (it has another voter set)",
        Some(RefuseReason::Skew) => " (the wall clocks are too far apart)",
        Some(RefuseReason::Limit) => " (it keeps as many claims as it may)",
        Some(RefuseReason::NotAVoter) => " (it is not a voter)",
    };
    format!(
        "of {voters} voters {voted} voted for it, {waiting} have another claim before it, \
         {refused} refused{why}, {silent} did not answer"
    )
}

/// A guard that could not be released, since it no longer held the lock. What the lock protects
/// may have had another owner since.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error("the lease was over before it was released")]
pub struct ReleaseError;

/// A lease that was not extended. It is as it was, unless it says otherwise.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum ExtendError {
    /// The lease is over.
    #[error("the lock is not held")]
    NotHeld,
    /// More than `max_ttl` would remain.
    #[error("{remaining:?} remain and {extra:?} more would exceed max_ttl, {max:?}")]
    TooLong {
        /// What remains now.
        remaining: Duration,
        /// What was asked for on top.
        extra: Duration,
        /// `max_ttl` of the voter set.
        max: Duration,
    },
    /// No quorum has agreed in time. The lease may still grow by what was asked for.
    #[error("no quorum has agreed to the extension in {waited:?}")]
    NoQuorum {
        /// How long it was waited for.
        waited: Duration,
    },
}

/// An inspection that has no answer.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum InspectError {
    /// The key is empty or too long.
    #[error(transparent)]
    Key(#[from] NameError),
    /// Fewer than a quorum of the key's voters answered.
    #[error("only {answered} of {voters} voters answered")]
    NoQuorum {
        /// How many answered.
        answered: usize,
        /// How many voters the key has.
        voters: usize,
    },
    /// The mesh is shutting down, or was shut down.
    #[error("the mesh is shut down")]
    ShutDown,
}

/// The mesh is not ready: a quorum of the voter set cannot be reached, or this node's own voter
/// does not vote yet.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error("not ready in {waited:?}: {reachable} of {members} members can be counted on")]
pub struct NotReady {
    /// How long it was waited for.
    pub waited: Duration,
    /// How many members can be reached; this node counts where its voter votes.
    pub reachable: usize,
    /// How many members the voter set has.
    pub members: usize,
}
