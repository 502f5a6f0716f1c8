//! The guard: a lock that is held, for as long as it says so.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::inbox::Ask;
use super::lease::Lease;
use super::mesh::Inner;
use crate::error::{ExtendError, ReleaseError};
use lockmesh_proto::claimant;
use lockmesh_proto::epoch::Epoch;

/// A lock that is held. Dropping it releases the lock, without blocking and without a runtime.
///
/// The guard knows by its own clock until when the lease is valid. It says "lost" before any
/// voter may give its vote to another, with or without a network, and never says "held" again
/// after that. A process that was paused in between two looks cannot know: give what you write to
/// the [`epoch`](Guard::epoch), and let the resource refuse a lower one than it has seen.
///
/// The mesh goes on for as long as there is a guard, also where all handles are dropped.
#[derive(Debug)]
#[must_use = "a guard that is dropped releases its lock at once"]
pub struct Guard {
    lease: Arc<Lease>,
    mesh: Arc<Inner>,
    /// Nothing is left to be done when it is dropped.
    is_released: bool,
}

/// The future was stopped, since the lease was over before it was done.
#[derive(Clone, Copy, Debug, Eq, thiserror::Error, PartialEq)]
#[error("the lease was lost while the work was still going on")]
pub struct LeaseLost;

impl Guard {
    pub(crate) fn new(lease: Arc<Lease>, mesh: Arc<Inner>) -> Self {
        Self {
            lease,
            mesh,
            is_released: false,
        }
    }

    /// What is locked.
    #[must_use]
    pub fn key(&self) -> &str {
        self.lease.key.as_str()
    }

    /// The fencing token: higher than that of every owner of this key before.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.lease.epoch
    }

    /// How long the lease is still valid, by this machine's own clock; zero once it is lost.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.lease.remaining()
    }

    /// Whether the lock is held now. Once it is not, it never is again.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.lease.is_held()
    }

    /// Returns once the lease is over. Cancel safe.
    pub async fn lost(&self) {
        self.lease.lost().await;
    }

    /// Runs `work` for as long as the lock is held. Where the lease is lost first, `work` is
    /// dropped at its next `.await`; the rest of it does not happen.
    ///
    /// # Errors
    /// [`LeaseLost`] where the lease was over before `work` was done, or by the time that it was.
    pub async fn run<F: Future>(&self, work: F) -> Result<F::Output, LeaseLost> {
        tokio::select! {
            biased;
            () = self.lease.lost() => Err(LeaseLost),
            done = work => if self.is_held() { Ok(done) } else { Err(LeaseLost) },
        }
    }

    /// Adds `extra` to what remains of the lease, once a quorum agrees. A lease that renews
    /// itself goes on to do so with its own ttl; this helps before a stretch in which the process
    /// cannot renew.
    ///
    /// # Errors
    /// [`ExtendError`]: not held any more, more than `max_ttl` would remain, or no quorum
    /// agreed in time. In the last case the lease may still grow later.
    pub async fn extend(&self, extra: Duration) -> Result<(), ExtendError> {
        extend(&self.mesh, &self.lease, extra).await
    }

    /// Releases the lock: the next waiter has it about a round trip later. A release is not
    /// acknowledged: a `try_acquire` of another node that overtakes it may still be told that the
    /// lock is held. For a lonely caller it has left this node when this returns. Where many ask at
    /// once it leaves with what they ask, which may be a moment later: where the thread goes on to
    /// block, or the process to end, drop the guard instead, which sends at once. The lock is
    /// released also where the future is dropped before it returns.
    ///
    /// # Errors
    /// [`ReleaseError`] where the lease was over before: another may have had the lock since.
    pub async fn release(self) -> Result<(), ReleaseError> {
        let mut guard = self;
        guard.is_released = true;
        let ticket = guard.lease.ticket;
        // First over, then released: no guard says "held" once a voter may know.
        let was_held = guard.lease.release();
        let leading = guard.mesh.shared.ask(Ask::Release { ticket, was_held });
        if let Some(leading) = leading {
            leading.await;
        }
        if was_held { Ok(()) } else { Err(ReleaseError) }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.is_released {
            let ticket = self.lease.ticket;
            self.mesh.shared.with(|core, now| core.release(now, ticket));
        }
    }
}

/// Asks for an extension and waits until a quorum agrees.
pub(crate) async fn extend(
    mesh: &Inner,
    lease: &Lease,
    extra: Duration,
) -> Result<(), ExtendError> {
    let goal = mesh
        .shared
        .with(|core, now| core.node.extend(now, lease.ticket, extra));
    let goal = goal.map_err(|error| match error {
        claimant::ExtendError::NotHeld => ExtendError::NotHeld,
        claimant::ExtendError::TooLong {
            remaining,
            extra,
            max,
        } => ExtendError::TooLong {
            remaining,
            extra,
            max,
        },
    })?;
    let waited = mesh.settings.try_timeout;
    match tokio::time::timeout(waited, lease.reaches(goal)).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(ExtendError::NotHeld),
        Err(_) => Err(ExtendError::NoQuorum { waited }),
    }
}
