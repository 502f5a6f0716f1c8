//! Several locks that are asked for and held together. It needs the public interface of requests
//! and guards alone.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use crate::{AcquireError, Epoch, ExtendError, Guard, LeaseLost, LockRequest, OfKey, ReleaseError};

/// Several locks that are held together: the keys of [`Mesh::lock_all`](crate::Mesh::lock_all), or
/// permits of a [`Mesh::semaphore`](crate::Mesh::semaphore). Dropping it releases all of them,
/// without blocking and without a runtime.
///
/// They count as held until the first of them is lost. The others are then still this node's, and
/// nobody else has one of them, until the guards are dropped.
///
/// As with a single [`Guard`], pass the [`epoch`](Guards::epoch) of a key with each write to what
/// that key protects.
#[derive(Debug)]
#[must_use = "guards that are dropped release their locks at once"]
pub struct Guards(Vec<Guard>);

impl Guards {
    pub(crate) fn new(guards: Vec<Guard>) -> Self {
        Self(guards)
    }

    pub(crate) fn push(&mut self, guard: Guard) {
        self.0.push(guard);
    }

    /// Returns the guards: those of keys in the order of the keys, and those of permits in any order.
    pub fn guards(&self) -> &[Guard] {
        &self.0
    }

    /// Returns the guards, each on its own from now on.
    pub fn into_guards(self) -> Vec<Guard> {
        self.0
    }

    /// Returns the keys that are locked.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(Guard::key)
    }

    /// Returns the fencing token of `key`, or `None` if it is not one of the keys.
    ///
    /// It is higher than the epoch of every earlier holder of this key. Epochs of different keys
    /// are not related.
    #[must_use]
    pub fn epoch(&self, key: &str) -> Option<Epoch> {
        let guard = self.0.iter().find(|guard| guard.key() == key);
        guard.map(Guard::epoch)
    }

    /// Returns the remaining time of the lease that ends first, by the local clock. Returns zero
    /// once one is lost.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        let remaining = self.0.iter().map(Guard::remaining);
        remaining.min().unwrap_or_default()
    }

    /// Returns `true` if all locks are held now. Once it returns `false`, it always does.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.0.iter().all(Guard::is_held)
    }

    /// Waits until the first of the leases has ended.
    ///
    /// # Panics
    /// Panics outside a tokio runtime with timers.
    ///
    /// # Cancel safety
    /// This method is cancel safe.
    pub async fn lost(&self) {
        if Concurrent::new(self.0.iter().map(Guard::lost))
            .next()
            .await
            .is_none()
        {
            std::future::pending().await
        }
    }

    /// Runs `work` while all locks are held. If a lease is lost first, `work` is dropped at its
    /// current `.await`, and the rest of it does not run.
    ///
    /// # Errors
    /// [`LeaseLost`] if a lease ended before `work` was done.
    ///
    /// # Panics
    /// Panics outside a tokio runtime with timers.
    ///
    /// # Cancel safety
    /// Dropping the future drops `work`. The locks stay held.
    pub async fn run<F: Future>(&self, work: F) -> Result<F::Output, LeaseLost> {
        tokio::select! {
            biased;
            () = self.lost() => Err(LeaseLost),
            done = work => if self.is_held() { Ok(done) } else { Err(LeaseLost) },
        }
    }

    /// Adds `extra` to the remaining time of each lease, as [`Guard::extend`] does.
    ///
    /// # Errors
    /// The first error in the order of the guards. The other leases may be extended.
    ///
    /// # Panics
    /// Panics outside a tokio runtime with timers.
    ///
    /// # Cancel safety
    /// Dropping the future does not withdraw the requests: the leases may still be extended.
    pub async fn extend(&self, extra: Duration) -> Result<(), OfKey<ExtendError>> {
        let extend = |guard| async move { of_key(guard, Guard::extend(guard, extra).await) };
        first_error(Concurrent::new(self.0.iter().map(extend)).all().await)
    }

    /// Gives up the guards, and keeps each lock for the rest of its lease; see [`Guard::detach`].
    pub fn detach(self) {
        self.0.into_iter().for_each(Guard::detach);
    }

    /// Gives up the guards, and keeps the locks, renewed, until `span` from now; see
    /// [`Guard::detach_for`].
    pub fn detach_for(self, span: Duration) {
        let detach = |guard: Guard| guard.detach_for(span);
        self.0.into_iter().for_each(detach);
    }

    /// Releases all locks, each as [`Guard::release`] does.
    ///
    /// # Errors
    /// [`ReleaseError`] with the first key whose lease had ended before. All others are released.
    ///
    /// # Cancel safety
    /// The locks are released even if the future is dropped before it completes.
    pub async fn release(self) -> Result<(), OfKey<ReleaseError>> {
        let release = |guard: Guard| async move {
            let key = guard.key().to_owned();
            let released = guard.release().await;
            released.map_err(|error| OfKey { key, error })
        };
        first_error(Concurrent::new(self.0.into_iter().map(release)).all().await)
    }
}

fn of_key<E>(guard: &Guard, result: Result<(), E>) -> Result<(), OfKey<E>> {
    let key = || guard.key().to_owned();
    result.map_err(|error| OfKey { key: key(), error })
}

fn first_error<E>(results: Vec<Result<(), E>>) -> Result<(), E> {
    results.into_iter().collect()
}

/// Futures that one task polls together, in their order. At most 64, so each wake-up polls them all.
pub(crate) struct Concurrent<F>(Vec<(usize, Pin<Box<F>>)>);

impl<F: Future> Concurrent<F> {
    pub(crate) fn new(futures: impl Iterator<Item = F>) -> Self {
        Self(futures.map(Box::pin).enumerate().collect())
    }

    /// Waits for the next that completes, and removes it. Returns its position and its output, or
    /// `None` if none are left. It is cancel safe.
    async fn next_of(&mut self) -> Option<(usize, F::Output)> {
        poll_fn(|cx| {
            for at in 0..self.0.len() {
                let (number, future) = &mut self.0[at];
                if let Poll::Ready(output) = future.as_mut().poll(cx) {
                    let done = Some((*number, output));
                    drop(self.0.remove(at));
                    return Poll::Ready(done);
                }
            }
            match self.0.is_empty() {
                true => Poll::Ready(None),
                false => Poll::Pending,
            }
        })
        .await
    }

    /// Waits for the next output. Returns `None` if none are left. It is cancel safe.
    pub(crate) async fn next(&mut self) -> Option<F::Output> {
        self.next_of().await.map(|(_, output)| output)
    }

    /// Waits for all, and returns their outputs in the order of the futures.
    pub(crate) async fn all(mut self) -> Vec<F::Output> {
        let mut outputs = Vec::with_capacity(self.0.len());
        while let Some(output) = self.next_of().await {
            outputs.push(output);
        }
        outputs.sort_by_key(|(number, _)| *number);
        outputs.into_iter().map(|(_, output)| output).collect()
    }
}

/// The options of a request for several locks: those of the request for each of them, and the time
/// for all.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) request: LockRequest,
    pub(crate) acquire_timeout: Option<Duration>,
}

impl Options {
    pub(crate) fn new(request: LockRequest) -> Self {
        Self {
            request,
            acquire_timeout: None,
        }
    }

    /// Starts the time for all locks.
    pub(crate) fn begin(self) -> Asks {
        let now = Instant::now();
        let until = self.acquire_timeout.and_then(|wait| now.checked_add(wait));
        Asks {
            options: self,
            until,
        }
    }
}

/// The methods that set [`Options`].
macro_rules! options {
    () => {
        /// Sets the ttl of each lease, as [`LockRequest::ttl`](crate::LockRequest::ttl) does.
        pub fn ttl(mut self, ttl: Duration) -> Self {
            self.options.request = self.options.request.ttl(ttl);
            self
        }

        /// Sets the maximum time to wait for all locks together.
        ///
        /// Without it, [`acquire`](Self::acquire) waits forever, and each try of
        /// [`try_acquire`](Self::try_acquire) waits for the `try_timeout` of the mesh.
        pub fn acquire_timeout(mut self, acquire_timeout: Duration) -> Self {
            self.options.acquire_timeout = Some(acquire_timeout);
            self
        }

        /// Sets whether the leases are renewed until the guards are dropped, as
        /// [`LockRequest::auto_renew`](crate::LockRequest::auto_renew) does. They are by default.
        ///
        /// Locks that must be waited for one after another are given back and taken anew if a lease
        /// ends before the last is granted. So without renewal all have to be granted within one
        /// ttl.
        pub fn auto_renew(mut self, renews: bool) -> Self {
            self.options.request = self.options.request.auto_renew(renews);
            self
        }

        /// Sets a note for people on each lock, as
        /// [`LockRequest::note`](crate::LockRequest::note) does.
        pub fn note(mut self, note: impl AsRef<str>) -> Self {
            self.options.request = self.options.request.note(note);
            self
        }

        /// Returns the guards even if a lease is still short, as
        /// [`LockRequest::eager`](crate::LockRequest::eager) does.
        pub fn eager(mut self) -> Self {
            self.options.request = self.options.request.eager();
            self
        }
    };
}
pub(crate) use options;

/// Requests for locks that share one time limit.
#[derive(Debug)]
pub(crate) struct Asks {
    options: Options,
    until: Option<Instant>,
}

impl Asks {
    /// Waits for the lock on `key`, for the time that is left.
    pub(crate) async fn acquire(&self, key: &str) -> Result<Guard, OfKey<AcquireError>> {
        let acquired = self.request(key).acquire().await;
        acquired.map_err(|error| self.error(key, error))
    }

    /// Tries the lock on `key`, for the time that is left.
    pub(crate) async fn try_acquire(
        &self,
        key: &str,
    ) -> Result<Option<Guard>, OfKey<AcquireError>> {
        let tried = self.request(key).try_acquire().await;
        tried.map_err(|error| self.error(key, error))
    }

    /// Returns `true` if a request that waits goes on after this error of its first tries: they may
    /// end before its own time is over.
    pub(crate) fn outlasts(&self, error: &AcquireError) -> bool {
        let is_late = matches!(
            error,
            AcquireError::TimedOut { .. } | AcquireError::Unconfirmed { .. }
        );
        is_late && self.until.is_none_or(|until| Instant::now() < until)
    }

    fn request(&self, key: &str) -> LockRequest {
        let request = self.options.request.clone().with_key(key);
        let left = self.until.map(|until| until - Instant::now());
        match left {
            Some(left) => request.acquire_timeout(left),
            None => request,
        }
    }

    /// Returns the error with its key, and with the time that the caller waited for all locks.
    fn error(&self, key: &str, mut error: AcquireError) -> OfKey<AcquireError> {
        if let AcquireError::TimedOut { waited, .. } | AcquireError::Unconfirmed { waited } =
            &mut error
            && let Some(timeout) = self.options.acquire_timeout
        {
            *waited = timeout;
        }
        let key = key.to_owned();
        OfKey { key, error }
    }
}
