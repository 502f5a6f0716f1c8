//! The published trait of `ranvier_core`, for services that already use it.

use async_trait::async_trait;
use ranvier_core::cluster::{ClusterError as RanvierError, DistributedLock as RanvierLock};

use crate::lock::{ClusterError, DistributedLock};
use crate::mesh::Mesh;

#[async_trait]
impl RanvierLock for Mesh {
    async fn try_acquire(&self, key: &str, ttl_ms: u64) -> Result<bool, RanvierError> {
        DistributedLock::try_acquire(self, key, ttl_ms)
            .await
            .map_err(Into::into)
    }

    async fn release(&self, key: &str) -> Result<(), RanvierError> {
        DistributedLock::release(self, key)
            .await
            .map_err(Into::into)
    }

    async fn extend(&self, key: &str, extra_ttl_ms: u64) -> Result<(), RanvierError> {
        DistributedLock::extend(self, key, extra_ttl_ms)
            .await
            .map_err(Into::into)
    }
}

impl From<ClusterError> for RanvierError {
    fn from(error: ClusterError) -> Self {
        match error {
            ClusterError::LockAcquisitionFailed(text) => Self::LockAcquisitionFailed(text),
            ClusterError::LockHeld(text) => Self::LockHeld(text),
            ClusterError::LockReleaseFailed(text) => Self::LockReleaseFailed(text),
            ClusterError::BusError(text) => Self::BusError(text),
            ClusterError::ConnectionError(text) => Self::ConnectionError(text),
            ClusterError::Internal(text) => Self::Internal(text),
        }
    }
}
