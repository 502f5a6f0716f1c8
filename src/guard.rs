//! The guard of a lock.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{ExtendError, MarkError, ReleaseError};
use crate::lease::Lease;
use crate::mesh::Inner;

use lockmesh_proto::{Epoch, Note};

/// A lock that is held. Dropping the guard releases the lock, without blocking and without a
/// runtime.
///
/// The guard knows from the local clock how long its lease is valid. It reports the lock as lost
/// before any voter may vote for another claim, with or without a network. Once lost, it is never
/// reported as held again.
///
/// A process that is paused between a check and a write cannot detect the loss in time. Pass the
/// [`epoch`](Guard::epoch) with each write, and let the resource refuse a lower epoch than it has
/// seen.
///
/// A guard keeps its mesh running, even if all [`Mesh`](crate::Mesh) handles were dropped.
#[must_use = "a guard that is dropped releases its lock at once"]
pub struct Guard {
    lease: Arc<Lease>,
    note: Option<Note>,
    mesh: Arc<Inner>,
    /// `true` if a drop has nothing left to do.
    is_released: bool,
}

/// The error returned by [`Guard::run`] if the lease was lost before the work was done.
#[derive(Clone, Copy, Debug, Eq, thiserror::Error, PartialEq)]
#[error("the lease was lost while the work was still going on")]
pub struct LeaseLost;

impl Guard {
    pub(crate) fn new(lease: Arc<Lease>, note: Option<Note>, mesh: Arc<Inner>) -> Self {
        Self {
            lease,
            note,
            mesh,
            is_released: false,
        }
    }

    pub(crate) fn lease(&self) -> &Arc<Lease> {
        &self.lease
    }

    /// Returns the key that is locked.
    #[must_use]
    pub fn key(&self) -> &str {
        self.lease.key.as_str()
    }

    /// Returns the [note](crate::LockRequest::note) of the request.
    #[must_use]
    pub fn note(&self) -> Option<&Note> {
        self.note.as_ref()
    }

    /// Returns the fencing token. It is higher than the epoch of every earlier holder of this key.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.lease.epoch
    }

    /// Returns the remaining time of the lease by the local clock, or zero once it is lost.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.lease.remaining()
    }

    /// Returns `true` if the lock is held now. Once it returns `false`, it always does.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.lease.is_held()
    }

    /// Returns who freed this lock by hand, if somebody did ([`Mesh::revoke`](crate::Mesh::revoke)).
    /// The lock is lost then.
    #[must_use]
    pub fn revoked_by(&self) -> Option<&str> {
        self.lease.revoked_by().map(Note::as_str)
    }

    /// Waits until the lease has ended. After a suspend of the machine it returns within 250 ms.
    ///
    /// # Panics
    /// Panics outside a tokio runtime with timers.
    ///
    /// # Cancel safety
    /// This method is cancel safe.
    pub async fn lost(&self) {
        self.lease.lost().await;
    }

    /// Runs `work` while the lock is held. If the lease is lost first, `work` is dropped at its
    /// current `.await`, and the rest of it does not run.
    ///
    /// # Errors
    /// [`LeaseLost`] if the lease ended before `work` was done.
    ///
    /// # Panics
    /// Panics outside a tokio runtime with timers.
    ///
    /// # Cancel safety
    /// Dropping the future drops `work`. The lock stays held.
    pub async fn run<F: Future>(&self, work: F) -> Result<F::Output, LeaseLost> {
        tokio::select! {
            biased;
            () = self.lease.lost() => Err(LeaseLost),
            done = work => if self.is_held() { Ok(done) } else { Err(LeaseLost) },
        }
    }

    /// Adds `extra` to the remaining time of the lease, once a quorum agrees.
    ///
    /// Use it before a period in which the process cannot renew, such as a blocking call. A lease that renews itself
    /// continues to do so with its own ttl.
    ///
    /// # Errors
    /// - [`ExtendError::NotHeld`] if the lease has ended.
    /// - [`ExtendError::TooLong`] if more than `max_ttl` would remain.
    /// - [`ExtendError::NoQuorum`] if no quorum agreed within the `try_timeout` of the mesh. The
    ///   lease may still be extended later.
    ///
    /// # Panics
    /// Panics outside a tokio runtime with timers.
    ///
    /// # Cancel safety
    /// Dropping the future does not withdraw the request: the lease may still be extended.
    pub async fn extend(&self, extra: Duration) -> Result<(), ExtendError> {
        extend(&self.mesh, &self.lease, extra).await
    }

    /// Marks the key: nobody is granted it for `keep_for`, whether the lock is released or lost.
    ///
    /// Use it when the work that the key stands for is done for good, such as a tick of a schedule.
    /// [`Mesh::once`](crate::Mesh::once) does this. Claims for the key end with
    /// [`AcquireError::Done`](crate::AcquireError::Done). The guard stays held.
    ///
    /// The mark is the voters' promise, by their own clocks. It outlives this process, and restarts
    /// of voters that keep their memory.
    ///
    /// # Errors
    /// - [`MarkError::NotHeld`] if the lease has ended. Some voters may have the mark.
    /// - [`MarkError::KeepFor`] if `keep_for` is zero, or more than seven days.
    /// - [`MarkError::Full`] if too many voters have as many marks as they may.
    /// - [`MarkError::NoQuorum`] if no quorum answered within the `try_timeout` of the mesh. Some
    ///   voters may have the mark; a later call goes on.
    ///
    /// # Panics
    /// Panics outside a tokio runtime with timers.
    ///
    /// # Cancel safety
    /// Dropping the future does not withdraw the mark.
    pub async fn mark(&self, keep_for: Duration) -> Result<(), MarkError> {
        let ticket = self.lease.ticket;
        let marked = self
            .mesh
            .engine
            .with(|core, now| core.mark(now, ticket, keep_for));
        let marked = marked.map_err(|error| match error {
            lockmesh_proto::MarkError::KeepFor { keep_for } => MarkError::KeepFor { keep_for },
            _ => MarkError::NotHeld,
        })?;
        let waited = self.mesh.settings.try_timeout;
        match tokio::time::timeout(waited, marked).await {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => Err(MarkError::Full),
            Ok(Err(_)) => Err(MarkError::NotHeld),
            Err(_) => Err(MarkError::NoQuorum { waited }),
        }
    }

    /// Gives up the guard, and keeps the lock for the rest of its lease.
    ///
    /// Use it for a job that must not run again for a while after it is done. The lock is not
    /// renewed beyond that time.
    ///
    /// A shutdown releases the lock, and keeps it only if it was acquired through
    /// [`DistributedLock`](crate::DistributedLock).
    pub fn detach(self) {
        let remaining = self.remaining();
        self.detach_for(remaining);
    }

    /// Gives up the guard, and keeps the lock, renewed, until `span` from now. Then it is released.
    ///
    /// The lock ends sooner if the lease is lost or the mesh is shut down. If it is freed by hand
    /// ([`Mesh::revoke`](crate::Mesh::revoke)), it is free at once. Until then, the mesh keeps running.
    pub fn detach_for(self, span: Duration) {
        let runtime = self.mesh.runtime.clone();
        runtime.spawn(async move {
            // Dropped, and so released, whichever comes first.
            let _ = tokio::time::timeout(span, self.lost()).await;
        });
    }

    /// Releases the lock. The next waiter is granted it about one round trip later.
    ///
    /// The release is not acknowledged. If a `try_acquire` of another node overtakes it, that call
    /// may still find the lock held.
    ///
    /// The release of a solo caller has left this node when this returns. Concurrent callers are
    /// batched, so that their release may leave a moment later. If the thread then blocks or the
    /// process ends, drop the guard instead: that sends at once.
    ///
    /// # Errors
    /// [`ReleaseError`] if the lease had ended before. Another claim may have held the lock since.
    ///
    /// # Cancel safety
    /// The lock is released even if the future is dropped before it completes.
    pub async fn release(self) -> Result<(), ReleaseError> {
        let mut guard = self;
        guard.is_released = true;
        let ticket = guard.lease.ticket;
        // The lease ends first: no guard may report "held" once a voter may have the release.
        let was_held = guard.lease.release();
        if let Some(combiner) = guard.mesh.engine.release(ticket, was_held) {
            combiner.await;
        }
        if was_held { Ok(()) } else { Err(ReleaseError) }
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("key", &self.key())
            .field("epoch", &self.epoch().get())
            .field("remaining", &self.remaining())
            .finish_non_exhaustive()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.is_released {
            let ticket = self.lease.ticket;
            self.mesh.engine.with(|core, now| core.release(now, ticket));
        }
    }
}

/// Requests an extension, and waits until a quorum agrees.
pub(crate) async fn extend(
    mesh: &Inner,
    lease: &Lease,
    extra: Duration,
) -> Result<(), ExtendError> {
    let goal = mesh
        .engine
        .with(|core, now| core.extend(now, lease.ticket, extra));
    let goal = goal.map_err(|error| match error {
        lockmesh_proto::ExtendError::NotHeld => ExtendError::NotHeld,
        lockmesh_proto::ExtendError::TooLong {
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
