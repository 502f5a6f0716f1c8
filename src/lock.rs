//! The trait by which frameworks ask for a lock.

use async_trait::async_trait;
use thiserror::Error;

/// What a [`DistributedLock`] may answer instead.
///
/// The variants are those of `ranvier_core::cluster::ClusterError`.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum ClusterError {
    /// Whether the lock is free is not known, or the request cannot be. Nothing is held.
    #[error("failed to acquire lock: {0}")]
    LockAcquisitionFailed(String),
    /// Another holds the lock where that is an error.
    #[error("lock is already held by another node: {0}")]
    LockHeld(String),
    /// There was nothing of the caller's to release.
    #[error("failed to release lock: {0}")]
    LockReleaseFailed(String),
    /// The bus between the nodes failed.
    #[error("cluster bus error: {0}")]
    BusError(String),
    /// Too few other nodes can be reached.
    #[error("connection error: {0}")]
    ConnectionError(String),
    /// The mesh itself cannot go on: it was shut down.
    #[error("internal cluster error: {0}")]
    Internal(String),
}

/// A lock that is held by at most one node of a cluster at a time.
///
/// Nothing renews itself: the lock is over `ttl_ms` after it was acquired, unless it is extended
/// or released before. Nothing else ends it: it lasts also if its process is shut down, is killed
/// or starts again, as a key does that was set with `SET NX PX`. So a job that is to run once in
/// each `ttl_ms` runs once, over deploys and crashes. (The ttl counts from when the request left,
/// less what the clocks of the cluster may drift apart meanwhile.) A node that starts again knows
/// nothing of what it held: it is told `false` like all others, and cannot release it.
///
/// There is no token: a key is this node's, whichever of its tasks asks. A task that releases late,
/// when its own lease is over, would release the lock of another task of its node; it is told an
/// error instead where this node knows, which it does for tokio tasks of the last few leases of the
/// key. A task may always release what another one has acquired, unless a lease of its own on that
/// key was over unreleased: then its first call is an error. Whoever needs more takes a
/// [`Guard`](crate::Guard): it is one lease and no other, tells when it is lost, and has an epoch
/// to fence with.
///
/// The signatures are those of `ranvier_core::cluster::DistributedLock`.
#[async_trait]
pub trait DistributedLock: Send + Sync {
    /// Tries to acquire `key` for `ttl_ms` milliseconds. `Ok(false)`: another claim has it or may
    /// have it, and that may be one of this very node, in this incarnation or an earlier one. A
    /// future that is dropped before it is done leaves no lock behind.
    ///
    /// # Errors
    /// [`ClusterError`] where it is not known whether another has it, since no quorum of the
    /// voters answered in time; where the lock was over before the caller learned that it had it;
    /// and where key or ttl cannot be.
    async fn try_acquire(&self, key: &str, ttl_ms: u64) -> Result<bool, ClusterError>;

    /// Releases what this node has acquired, and never another's lock.
    ///
    /// # Errors
    /// [`ClusterError::LockReleaseFailed`] where this node does not hold `key`, or no longer, or
    /// if it does for another task and the lease of this one is over.
    async fn release(&self, key: &str) -> Result<(), ClusterError>;

    /// Adds `extra_ttl_ms` milliseconds to what remains of the lease.
    ///
    /// # Errors
    /// [`ClusterError::LockAcquisitionFailed`] where this node does not hold `key`, where the
    /// lease would be too long, or where no quorum agreed in time.
    async fn extend(&self, key: &str, extra_ttl_ms: u64) -> Result<(), ClusterError>;
}
