//! A request for a lock, from `mesh.lock(key)` to a guard.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::batch::Terms;
use crate::engine::core::Ended;
use crate::error::{AcquireError, Holder};
use crate::guard::Guard;
use crate::lease::Lease;
use crate::mesh::Inner;
use crate::metrics::LockKind;
use lockmesh_proto::{Instant, Key, NameError, Note, Request, Ticket};

/// A request for a lock, returned by [`Mesh::lock`](crate::Mesh::lock).
///
/// Nothing is sent before [`acquire`](LockRequest::acquire) or
/// [`try_acquire`](LockRequest::try_acquire). Awaiting the request acquires the lock.
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
    is_once: bool,
    note: Option<Result<Note, NameError>>,
    terms: Terms,
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
            is_once: false,
            note: None,
            terms: Terms::default(),
        }
    }

    /// Sets the ttl of the lease: the time for which a voter promises its vote.
    ///
    /// It must be at least ten round trips and at most `max_ttl` of the voter set.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Sets the maximum time to wait for the lock.
    ///
    /// Without it, [`acquire`](LockRequest::acquire) waits forever, and
    /// [`try_acquire`](LockRequest::try_acquire) waits for the `try_timeout` of the mesh.
    pub fn acquire_timeout(mut self, acquire_timeout: Duration) -> Self {
        self.acquire_timeout = Some(acquire_timeout);
        self
    }

    /// Sets whether the lease is renewed in the background until the guard is dropped. It is by
    /// default.
    ///
    /// Without renewal, the lock ends about one ttl after the grant.
    pub fn auto_renew(mut self, renews: bool) -> Self {
        self.renews = renews;
        self
    }

    /// Returns the guard as soon as the lock is held, even if its lease is still short.
    ///
    /// A lock for which others waited is granted for the `reservation` of the voter set's timing,
    /// 250 ms with [`Timing::lan`](crate::Timing::lan). Its first renewal extends the lease to the
    /// whole ttl. By default, the guard is returned once a quorum has confirmed that renewal, one
    /// round trip later.
    ///
    /// An eager guard is returned before. If its holder then blocks the thread, or is not scheduled
    /// for a whole reservation, the lock is lost. An uncontended lock is granted for its whole ttl
    /// at once, so `eager` changes nothing.
    pub fn eager(mut self) -> Self {
        self.is_eager = true;
        self
    }

    /// Fails at once if this node holds the key itself, instead of waiting for its own guard.
    ///
    /// A lock is not reentrant: a second request of the same node waits for the first, even in the
    /// same task. The check is made when the request begins, and looks at each lock that this node
    /// holds. Another request of this node that merely waits is no reason to fail.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use lockmesh::{AcquireError, MeshBuilder};
    /// # let mesh = MeshBuilder::single("dev").insecure_plaintext().start().await?;
    /// let guard = mesh.lock("k").acquire().await?;
    /// let error = mesh.lock("k").deny_reentry().acquire().await.unwrap_err();
    /// assert!(matches!(error, AcquireError::Reentry(held) if held.epoch == guard.epoch()));
    /// # Ok(())
    /// # }
    /// ```
    pub fn deny_reentry(mut self) -> Self {
        self.terms.denies_reentry = true;
        self
    }

    /// Sets the label `kind` of the metric
    /// [`HELD_SECONDS`](crate::metrics::HELD_SECONDS). It is [`LockKind::Lock`] by default.
    ///
    /// For code that builds its own kind of lock from requests, as semaphores are.
    pub fn kind(mut self, kind: LockKind) -> Self {
        self.terms.kind = kind;
        self
    }

    /// Sends the request in one datagram with others that the same task makes at once.
    ///
    /// The request leaves once the other tasks that are ready have run. Use it if several requests
    /// are polled together, as by `join!` or `select!`. Otherwise the first of them leaves alone.
    pub fn batched(mut self) -> Self {
        self.terms.is_batched = true;
        self
    }

    /// Sets a note for people, of at most 128 bytes without control characters.
    ///
    /// `lockmesh inspect` and `top` show it, and so does the error of a request that waits for this
    /// lock in vain: "held by n2 for at least 4 min: deploy 812 by ci". Everybody with the cluster
    /// secret can read it.
    ///
    /// A note is advice. A voter keeps notes of nine claims for each key, and of 16,384 keys. It may
    /// receive a note at the first renewal only, if it is new to this node or has restarted. Voters
    /// that read only version 1 of the protocol keep none.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let mesh = lockmesh::MeshBuilder::single("dev").insecure_plaintext().start().await?;
    /// let guard = mesh.lock("production").note("deploy 812 by ci").acquire().await?;
    /// let seen = mesh.inspect("production").await?;
    /// assert_eq!(seen.owner().and_then(|owner| owner.note.as_ref()), guard.note());
    /// # Ok(())
    /// # }
    /// ```
    pub fn note(mut self, note: impl AsRef<str>) -> Self {
        self.note = Some(Note::new(note));
        self
    }

    /// Returns the request with the same options for another key.
    pub fn with_key(mut self, key: impl Into<String>) -> Self {
        self.key = key.into();
        self
    }

    /// Disables renewal, and lets the lease outlive the process (M6).
    pub(crate) fn outliving(mut self) -> Self {
        (self.renews, self.outlives) = (false, true);
        self
    }

    /// Requests a key that its holders [mark](Guard::mark) when their work is done.
    ///
    /// A voter that has lost its memory does not vote for such a request before it has read the marks
    /// of the others. [`Mesh::once`](crate::Mesh::once) does this, and more. Without it, a key that is
    /// marked may be granted again after a voter has lost its memory.
    pub fn once(mut self) -> Self {
        self.is_once = true;
        self
    }

    /// Counts a tick with one of [`TICK_OUTCOMES`](crate::metrics::TICK_OUTCOMES).
    pub(crate) fn count_tick(&self, outcome: &'static str) {
        self.mesh.engine.with(|core, _| core.meter.tick(outcome));
    }

    /// Waits until the lock is granted, and returns its guard.
    ///
    /// Waiters are served in the order of their epochs, and learn of their turn from a message. The
    /// lease of the guard has at least two thirds of its ttl left, unless the request is
    /// [`eager`](LockRequest::eager). If the lease ends before a quorum has confirmed that, the
    /// request is queued again.
    ///
    /// # Errors
    /// - [`AcquireError::Key`] if the key is empty or has more than 256 bytes.
    /// - [`AcquireError::Note`] if the [note](LockRequest::note) is not valid.
    /// - [`AcquireError::Request`] if the ttl is out of range, or this node has too many requests.
    /// - [`AcquireError::TimedOut`] if the timeout passed before a quorum voted for the claim. It
    ///   says so if this node itself holds the key.
    /// - [`AcquireError::Reentry`] if this node itself holds the key, and the request is
    ///   [`deny_reentry`](LockRequest::deny_reentry).
    /// - [`AcquireError::Done`] if the key is [marked](Guard::mark).
    /// - [`AcquireError::Unconfirmed`] if the timeout passed after the grant, before a quorum
    ///   confirmed the whole lease.
    /// - [`AcquireError::ShutDown`] if the mesh is shutting down or has shut down.
    ///
    /// # Panics
    /// Panics outside a tokio runtime with timers if the lock was granted under contention.
    ///
    /// # Cancel safety
    /// Dropping the future withdraws the claim, and releases the lock if it was granted. A later
    /// call is queued anew.
    #[tracing::instrument(level = "debug", skip_all, fields(key = %self.key))]
    pub async fn acquire(self) -> Result<Guard, AcquireError> {
        let clock = &self.mesh.engine.clock;
        let since = clock.mono();
        let until = self.acquire_timeout.map(|wait| since.after(wait));
        loop {
            let left = until.map(|until| until.since(clock.mono()));
            match self.ask(false, left).await? {
                Ended::Granted(lease) => match self.is_whole(&lease, until).await {
                    Some(true) => return Ok(self.guard(lease)),
                    Some(false) => {}
                    None => return Err(self.unconfirmed(since)),
                },
                ended => return Err(self.no_lock(&ended, self.acquire_timeout)),
            }
        }
    }

    /// Tries to acquire the lock. Returns `None` if another claim is granted, or may be.
    ///
    /// A claim may be granted if a quorum of votes is out for a silent holder. No other claim can
    /// win before those votes expire. Of several concurrent calls, exactly one acquires a free
    /// lock. The lease of the guard has at least two thirds of its ttl left, unless the request is
    /// [`eager`](LockRequest::eager).
    ///
    /// # Errors
    /// - [`AcquireError::Key`] if the key is empty or has more than 256 bytes.
    /// - [`AcquireError::Note`] if the [note](LockRequest::note) is not valid.
    /// - [`AcquireError::Request`] if the ttl is out of range, or this node has too many requests.
    /// - [`AcquireError::TimedOut`] if the timeout passed without an answer from a quorum.
    /// - [`AcquireError::Done`] if the key is [marked](Guard::mark).
    /// - [`AcquireError::Reentry`] if this node itself holds the key, and the request is
    ///   [`deny_reentry`](LockRequest::deny_reentry).
    /// - [`AcquireError::Unconfirmed`] if the lock was granted, but a quorum did not confirm the
    ///   whole lease in time.
    /// - [`AcquireError::ShutDown`] if the mesh is shutting down or has shut down.
    ///
    /// # Panics
    /// Panics outside a tokio runtime with timers if the lock was granted under contention.
    ///
    /// # Cancel safety
    /// Dropping the future withdraws the claim, and releases the lock if it was granted.
    #[tracing::instrument(level = "debug", skip_all, fields(key = %self.key))]
    pub async fn try_acquire(self) -> Result<Option<Guard>, AcquireError> {
        let lease = self.try_lease().await?;
        Ok(lease.map(|lease| self.guard(lease)))
    }

    fn guard(self, lease: Arc<Lease>) -> Guard {
        Guard::new(lease, self.note.and_then(Result::ok), self.mesh)
    }

    pub(crate) async fn try_lease(&self) -> Result<Option<Arc<Lease>>, AcquireError> {
        let clock = &self.mesh.engine.clock;
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

    /// Waits until a quorum has confirmed at least two thirds of the ttl. For an eager request,
    /// returns at once. A lock granted under contention is valid for a reservation only, until its
    /// first renewal is confirmed.
    ///
    /// Returns `Some(true)` if confirmed and `Some(false)` if the lease ended first. Returns
    /// `None`, with the lease released, if `until` passed first.
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
                let left = until.since(self.mesh.engine.clock.mono());
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
        let waited = self.mesh.engine.clock.mono().since(since);
        AcquireError::Unconfirmed { waited }
    }

    async fn ask(&self, is_try: bool, wait: Option<Duration>) -> Result<Ended, AcquireError> {
        let key = Key::new(&self.key)?;
        let note = self.note.clone().transpose().map_err(AcquireError::Note)?;
        let (ttl, renews, outlives) = (self.ttl, self.renews, self.outlives);
        let engine = &self.mesh.engine;
        let since = engine.clock.mono();
        let request = Request {
            key,
            ttl,
            is_try,
            renews,
            outlives,
            deadline: wait.map(|wait| since.after(wait)),
            is_once: self.is_once,
            note,
        };
        let (ticket, ended, mut combiner) = engine.claim(since, request, self.terms);
        // Dropped before `combiner`, so that claim and withdrawal leave together.
        let mut pending = Pending {
            mesh: &self.mesh,
            ticket: Some(ticket),
        };
        if let Some(combiner) = &mut combiner {
            combiner.await;
        }
        let ended = ended.await.unwrap_or(Ended::ShutDown);
        pending.ticket = None;
        match ended {
            Ended::Refused(error) => Err(error.into()),
            Ended::Reentry(reentry) => Err(AcquireError::Reentry(reentry)),
            ended => Ok(ended),
        }
    }

    fn no_lock(&self, ended: &Ended, wait: Option<Duration>) -> AcquireError {
        match ended {
            Ended::TimedOut {
                answers,
                unopened,
                holder,
            } => {
                let waited = wait.unwrap_or_default();
                let engine = &self.mesh.engine;
                let held_here = Key::new(&self.key)
                    .ok()
                    .and_then(|key| engine.with(|core, now| core.reentry(now, &key)));
                AcquireError::TimedOut {
                    waited,
                    answers: *answers,
                    unopened: *unopened,
                    holder: holder.as_deref().map(|it| Box::new(Holder::from(it))),
                    held_here: held_here.map(Box::new),
                }
            }
            Ended::Done { by, epoch } => AcquireError::Done {
                by: by.to_string(),
                epoch: *epoch,
            },
            _ => AcquireError::ShutDown,
        }
    }
}

impl IntoFuture for LockRequest {
    type Output = Result<Guard, AcquireError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    /// Acquires the lock, with the errors and the cancel safety of
    /// [`acquire`](LockRequest::acquire).
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.acquire())
    }
}

/// A claim with a waiting caller. It is withdrawn when the caller goes away.
struct Pending<'a> {
    mesh: &'a Inner,
    ticket: Option<Ticket>,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.mesh
                .engine
                .with(|core, now| core.withdraw(now, ticket));
        }
    }
}
