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
use crate::proto::claimant::Request;
use crate::proto::event::Ticket;
use crate::proto::id::Key;

/// A lock that is asked for. From [`Mesh::lock`](crate::Mesh::lock); nothing is sent before
/// [`acquire`](LockRequest::acquire) or [`try_acquire`](LockRequest::try_acquire).
#[derive(Clone, Debug)]
#[must_use = "nothing is asked for before acquire() or try_acquire()"]
pub struct LockRequest {
    mesh: Arc<Inner>,
    key: String,
    ttl: Duration,
    wait_at_most: Option<Duration>,
    renews: bool,
}

impl LockRequest {
    pub(crate) fn new(mesh: Arc<Inner>, key: String) -> Self {
        let ttl = mesh.settings.ttl;
        Self {
            mesh,
            key,
            ttl,
            wait_at_most: None,
            renews: true,
        }
    }

    /// The lease: for how long the voters promise their votes at a time. At least ten round
    /// trips, at most `max_ttl` of the roster.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// How long to wait at the most. Without it [`acquire`](LockRequest::acquire) waits for ever
    /// and [`try_acquire`](LockRequest::try_acquire) as long as the mesh's `try_at_most`.
    pub fn wait_at_most(mut self, wait_at_most: Duration) -> Self {
        self.wait_at_most = Some(wait_at_most);
        self
    }

    /// Whether the lease is renewed in the background until the guard is dropped, as it is by
    /// default. Without renewal the lock is over one ttl after the grant.
    pub fn auto_renew(mut self, renews: bool) -> Self {
        self.renews = renews;
        self
    }

    /// Waits for its turn. Those who wait are served in the order of their epochs, and learn of
    /// their turn by a message. Dropping the future withdraws the claim.
    ///
    /// # Errors
    /// [`AcquireError`]: key or ttl cannot be, the time was over, or the mesh is shut down.
    #[tracing::instrument(level = "debug", skip_all, fields(key = %self.key))]
    pub async fn acquire(self) -> Result<Guard, AcquireError> {
        match self.ask(false, self.wait_at_most).await? {
            Ended::Granted(lease) => Ok(Guard::new(lease, self.mesh)),
            ended => Err(self.no_lock(&ended, self.wait_at_most)),
        }
    }

    /// Acquires the lock unless another has it. `Ok(None)` only where another claim has won it;
    /// of several that try at once exactly one gets it. Dropping the future withdraws the claim.
    ///
    /// # Errors
    /// [`AcquireError`]: key or ttl cannot be, no majority in time, or the mesh is shut down.
    #[tracing::instrument(level = "debug", skip_all, fields(key = %self.key))]
    pub async fn try_acquire(self) -> Result<Option<Guard>, AcquireError> {
        let lease = self.try_lease().await?;
        Ok(lease.map(|lease| Guard::new(lease, self.mesh)))
    }

    pub(crate) async fn try_lease(&self) -> Result<Option<Arc<Lease>>, AcquireError> {
        let wait = self.wait_at_most.unwrap_or(self.mesh.settings.try_at_most);
        match self.ask(true, Some(wait)).await? {
            Ended::Granted(lease) => Ok(Some(lease)),
            Ended::Denied => Ok(None),
            ended => Err(self.no_lock(&ended, Some(wait))),
        }
    }

    /// The same for those who have no guard to look at. A lock that was won in contention is valid
    /// for the span of an offer only, until its first renewal comes back: this waits for that.
    pub(crate) async fn try_whole_lease(&self) -> Result<Option<Arc<Lease>>, AcquireError> {
        let Some(lease) = self.try_lease().await? else {
            return Ok(None);
        };
        let mut pending = Pending {
            mesh: &self.mesh,
            ticket: Some(lease.ticket),
        };
        let waited = self.mesh.settings.try_at_most;
        let lasts = tokio::time::timeout(waited, lease.lasts(self.ttl * 2 / 3));
        if lasts.await != Ok(true) {
            return Err(AcquireError::Unconfirmed { waited });
        }
        pending.ticket = None;
        Ok(Some(lease))
    }

    async fn ask(&self, is_try: bool, wait: Option<Duration>) -> Result<Ended, AcquireError> {
        let key = Key::new(&self.key)?;
        let (ttl, renews) = (self.ttl, self.renews);
        let shared = &self.mesh.shared;
        let (tell, told) = oneshot::channel();
        let (ticket, since) = (shared.ticket(), shared.clock.mono());
        let mut leading = shared.ask(Ask::Claim {
            ticket,
            since,
            request: Request {
                key,
                ttl,
                is_try,
                renews,
                deadline: wait.map(|wait| since.after(wait)),
            },
            tell,
        });
        // Dropped before the leading is: then claim and withdrawal leave together.
        let mut pending = Pending {
            mesh: &self.mesh,
            ticket: Some(ticket),
        };
        if let Some(leading) = &mut leading {
            leading.await;
        }
        let ended = told.await.unwrap_or(Ended::ShutDown);
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
