//! A request for a lock, from `mesh.lock(key)` to a guard.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::core::Ended;
use super::guard::Guard;
use super::inbox::Ask;
use super::lease::Lease;
use super::mesh::Inner;
use crate::error::AcquireError;
use lockmesh_proto::claimant::Request;
use lockmesh_proto::event::Ticket;
use lockmesh_proto::id::Key;
use lockmesh_proto::time::Instant;

/// A lock that is asked for. From [`Mesh::lock`](crate::Mesh::lock); nothing is sent before
/// [`acquire`](LockRequest::acquire) or [`try_acquire`](LockRequest::try_acquire).
#[derive(Clone, Debug)]
#[must_use = "nothing is asked for before acquire() or try_acquire()"]
pub struct LockRequest {
    mesh: Arc<Inner>,
    key: String,
    ttl: Duration,
    acquire_timeout: Option<Duration>,
    renews: bool,
    is_eager: bool,
    outlives: bool,
}

impl LockRequest {
    pub(crate) fn new(mesh: Arc<Inner>, key: String) -> Self {
        let ttl = mesh.settings.ttl;
        Self {
            mesh,
            key,
            ttl,
            acquire_timeout: None,
            renews: true,
            is_eager: false,
            outlives: false,
        }
    }

    /// The lease: for how long the voters promise their votes at a time. At least ten round
    /// trips, at most `max_ttl` of the voter set.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// How long to wait at the most. Without it [`acquire`](LockRequest::acquire) waits for ever
    /// and [`try_acquire`](LockRequest::try_acquire) as long as the mesh's `try_timeout`.
    pub fn acquire_timeout(mut self, acquire_timeout: Duration) -> Self {
        self.acquire_timeout = Some(acquire_timeout);
        self
    }

    /// Whether the lease is renewed in the background until the guard is dropped, as it is by
    /// default. Without renewal the lock is over one ttl after the grant.
    pub fn auto_renew(mut self, renews: bool) -> Self {
        self.renews = renews;
        self
    }

    /// Returns the guard as soon as the lock is held, however short its lease is by then.
    ///
    /// A lock that others waited for is handed over for the `reservation` of the voter set's timing
    /// (a quarter of a second by default), and the first renewal makes a whole lease of that.
    /// Without `eager` the guard is returned once a quorum has confirmed that renewal: one round
    /// trip later, and good for about its ttl. With it the guard is returned before; whoever then
    /// blocks its thread, or is not run for as long as a reservation, has lost the lock. A lock
    /// that nobody else wants is granted for its whole ttl at once: there both are the same.
    pub fn eager(mut self) -> Self {
        self.is_eager = true;
        self
    }

    /// The lease does not renew itself, and outlives the process.
    pub(crate) fn outliving(mut self) -> Self {
        (self.renews, self.outlives) = (false, true);
        self
    }

    /// Waits for its turn. Those who wait are served in the order of their epochs, and learn of
    /// their turn by a message. The guard is good for about its ttl when it is returned, unless it
    /// was asked for [`eager`](LockRequest::eager)ly. Where the lease is over before that is
    /// confirmed (no quorum answered for the length of a reservation), it waits for another turn.
    ///
    /// # Cancel safety
    /// Dropping the future withdraws the claim, and releases what was granted by then.
    ///
    /// # Errors
    /// [`AcquireError`]: key or ttl cannot be, the time was over, or the mesh is shut down.
    #[tracing::instrument(level = "debug", skip_all, fields(key = %self.key))]
    pub async fn acquire(self) -> Result<Guard, AcquireError> {
        let clock = self.mesh.shared.clock;
        let since = clock.mono();
        let until = self.acquire_timeout.map(|wait| since.after(wait));
        loop {
            let left = until.map(|until| until.since(clock.mono()));
            match self.ask(false, left).await? {
                Ended::Granted(lease) => match self.is_whole(&lease, until).await {
                    Some(true) => return Ok(Guard::new(lease, self.mesh)),
                    Some(false) => {}
                    None => return Err(self.unconfirmed(since)),
                },
                ended => return Err(self.no_lock(&ended, self.acquire_timeout)),
            }
        }
    }

    /// Acquires the lock unless another has it. `Ok(None)` where another claim is granted it, or
    /// may have: a quorum of the voters have their votes out for one that is silent, and nobody
    /// else can win before those are over. Of several that try at once exactly one gets it. The
    /// guard is good for about its ttl, as that of [`acquire`](LockRequest::acquire) is.
    ///
    /// # Cancel safety
    /// Dropping the future withdraws the claim, and releases what was granted by then.
    ///
    /// # Errors
    /// [`AcquireError`]: key or ttl cannot be, no quorum in time, or the mesh is shut down.
    #[tracing::instrument(level = "debug", skip_all, fields(key = %self.key))]
    pub async fn try_acquire(self) -> Result<Option<Guard>, AcquireError> {
        let lease = self.try_lease().await?;
        Ok(lease.map(|lease| Guard::new(lease, self.mesh)))
    }

    pub(crate) async fn try_lease(&self) -> Result<Option<Arc<Lease>>, AcquireError> {
        let clock = self.mesh.shared.clock;
        let wait = self
            .acquire_timeout
            .unwrap_or(self.mesh.settings.try_timeout);
        let since = clock.mono();
        match self.ask(true, Some(wait)).await? {
            Ended::Granted(lease) => match self.is_whole(&lease, Some(since.after(wait))).await {
                Some(true) => Ok(Some(lease)),
                Some(false) | None => Err(self.unconfirmed(since)),
            },
            Ended::Denied => Ok(None),
            ended => Err(self.no_lock(&ended, Some(wait))),
        }
    }

    /// Returns `Some(true)` once a quorum has confirmed about the whole lease; at once if the
    /// caller does not want to wait for that. A lock that was granted in contention is valid
    /// for the span of a reservation only, until its first renewal comes back. Returns
    /// `Some(false)` if the lease was over before, and `None`, with the lease released, if `until`
    /// was.
    async fn is_whole(&self, lease: &Lease, until: Option<Instant>) -> Option<bool> {
        let whole = self.ttl * 2 / 3;
        if self.is_eager || lease.remaining() >= whole {
            return Some(true);
        }
        let mut pending = Pending {
            mesh: &self.mesh,
            ticket: Some(lease.ticket),
        };
        let lasts = match until {
            None => lease.lasts(whole).await,
            Some(until) => {
                let left = until.since(self.mesh.shared.clock.mono());
                let lasts = tokio::time::timeout(left, lease.lasts(whole)).await;
                lasts.ok()?
            }
        };
        if lasts {
            pending.ticket = None;
        }
        Some(lasts)
    }

    fn unconfirmed(&self, since: Instant) -> AcquireError {
        let waited = self.mesh.shared.clock.mono().since(since);
        AcquireError::Unconfirmed { waited }
    }

    async fn ask(&self, is_try: bool, wait: Option<Duration>) -> Result<Ended, AcquireError> {
        let key = Key::new(&self.key)?;
        let (ttl, renews, outlives) = (self.ttl, self.renews, self.outlives);
        let shared = &self.mesh.shared;
        let (notify, notified) = oneshot::channel();
        let (ticket, since) = (shared.ticket(), shared.clock.mono());
        let mut leading = shared.ask(Ask::Claim {
            ticket,
            since,
            request: Request {
                key,
                ttl,
                is_try,
                renews,
                outlives,
                deadline: wait.map(|wait| since.after(wait)),
            },
            notify,
        });
        // Dropped before the leading is: then claim and withdrawal leave together.
        let mut pending = Pending {
            mesh: &self.mesh,
            ticket: Some(ticket),
        };
        if let Some(leading) = &mut leading {
            leading.await;
        }
        let ended = notified.await.unwrap_or(Ended::ShutDown);
        pending.ticket = None;
        match ended {
            Ended::Refused(error) => Err(error.into()),
            ended => Ok(ended),
        }
    }

    fn no_lock(&self, ended: &Ended, wait: Option<Duration>) -> AcquireError {
        match ended {
            Ended::TimedOut {
                answers,
                hears_nobody,
            } => {
                let waited = wait.unwrap_or_default();
                AcquireError::TimedOut {
                    waited,
                    answers: *answers,
                    hears_nobody: *hears_nobody,
                }
            }
            Ended::Granted(_) | Ended::Denied | Ended::Refused(_) | Ended::ShutDown => {
                AcquireError::ShutDown
            }
        }
    }
}

/// A claim that somebody waits for; withdrawn where that somebody goes away.
struct Pending<'a> {
    mesh: &'a Inner,
    ticket: Option<Ticket>,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.mesh
                .shared
                .with(|core, now| core.withdraw(now, ticket));
        }
    }
}
