//! The trait through which frameworks acquire locks.

use async_trait::async_trait;
use thiserror::Error;

/// The error of a [`DistributedLock`] operation.
///
/// The variants are those of `ranvier_core::cluster::ClusterError`.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum ClusterError {
    /// The lock could not be acquired or extended.
    ///
    /// After a failed acquisition nothing is held, and it is unknown whether the lock is free.
    #[error("failed to acquire lock: {0}")]
    LockAcquisitionFailed(String),
    /// Another node holds the lock. A mesh never returns this variant.
    #[error("lock is already held by another node: {0}")]
    LockHeld(String),
    /// The caller has no lock to release.
    #[error("failed to release lock: {0}")]
    LockReleaseFailed(String),
    /// The bus between the nodes failed. A mesh never returns this variant.
    #[error("cluster bus error: {0}")]
    BusError(String),
    /// Too few nodes can be reached. A mesh returns this if no voter of the key answered.
    #[error("connection error: {0}")]
    ConnectionError(String),
    /// The mesh has shut down.
    #[error("internal cluster error: {0}")]
    Internal(String),
}

/// A lock that at most one node of a cluster holds at a time.
///
/// # Lease
///
/// The lock ends `ttl_ms` after it was acquired, unless it is extended or released before. It is
/// not renewed in the background. Like a key set with `SET NX PX` in Redis, it survives a shutdown,
/// crash or restart of its process. A job that must run once per `ttl_ms` therefore runs once,
/// across deployments and crashes.
///
/// The ttl counts from the sending of the request, less the allowed drift between the clocks of the
/// cluster.
///
/// A restarted node does not know which locks it held. For such a lock, `try_acquire` returns
/// `false` and `release` fails.
///
/// # Tasks
///
/// There is no token: a lock belongs to the node, and any of its tasks may release it. A task that
/// releases after its own lease has ended could therefore release the lock of another task. For
/// tokio tasks of the last eight leases of a key, the first such call returns an error instead.
///
/// A [`Guard`](crate::Guard) is safer: it stands for exactly one lease, reports its loss, and has
/// an epoch for fencing.
///
/// The signatures are those of `ranvier_core::cluster::DistributedLock`.
#[async_trait]
pub trait DistributedLock: Send + Sync {
    /// Tries to acquire `key` for `ttl_ms` milliseconds. Returns `true` if the lock was acquired.
    ///
    /// Returns `false` if another claim holds the lock, or may hold it. That claim may belong to
    /// this node, in this incarnation or an earlier one.
    ///
    /// # Errors
    /// - [`ClusterError::LockAcquisitionFailed`] if too few voters answered within the `try_timeout`
    ///   of the mesh, so that it is unknown whether the lock is held. The same if the lease ended
    ///   before the caller received it, or if the key or the ttl is invalid.
    /// - [`ClusterError::ConnectionError`] if no voter of the key answered in time.
    /// - [`ClusterError::Internal`] if the mesh is shutting down or has shut down.
    ///
    /// # Cancel safety
    /// Dropping the future withdraws the claim and leaves no lock behind.
    async fn try_acquire(&self, key: &str, ttl_ms: u64) -> Result<bool, ClusterError>;

    /// Releases a lock that this node acquired. Never releases the lock of another node.
    ///
    /// # Errors
    /// [`ClusterError::LockReleaseFailed`] if this node does not hold `key`, or if it holds `key`
    /// for another task and the lease of the calling task has ended.
    ///
    /// # Cancel safety
    /// The lock is released when the future is first polled.
    async fn release(&self, key: &str) -> Result<(), ClusterError>;

    /// Adds `extra_ttl_ms` milliseconds to the remaining time of the lease.
    ///
    /// # Errors
    /// [`ClusterError::LockAcquisitionFailed`] if:
    /// - this node does not hold `key`, or the lease of the calling task has ended;
    /// - more than `max_ttl` would remain;
    /// - no quorum agreed within the `try_timeout` of the mesh. The lease may still be extended
    ///   later.
    ///
    /// # Cancel safety
    /// Dropping the future does not withdraw the request: the lease may still be extended.
    async fn extend(&self, key: &str, extra_ttl_ms: u64) -> Result<(), ClusterError>;
}
