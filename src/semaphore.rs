//! Semaphores: at most a number of holders at once, over exclusive locks.
//!
//! Voters cannot count permits: with three voters and two permits, three claims can each have two
//! of the six votes. A quorum for `n` permits of `r` voters would need `r * n / (n + 1)` votes, which
//! is all of them for two permits of three. So permit `i` of `ID` is the exclusive lock `ID#i`.
//!
//! The number of permits is not part of the keys. Two nodes that give different numbers exclude
//! each other at the permits that both have, so the larger number bounds both. Rejected: keys such
//! as `ID#i/n`, with which each number would have permits of its own, and both could be out at once.
//!
//! Several permits are collected under a lock of their own, `ID#many`. So at most one caller holds
//! permits while it waits for more, and those that it waits for belong to callers that wait for
//! none. Rejected: taking permits in ascending order without that lock. A caller that holds permit
//! 3 of 4 could not wait for a lower one, though that is free.

use std::pin::{Pin, pin};
use std::time::Duration;

use crate::metrics::LockKind;
use crate::several::{Asks, Concurrent, Options, options};
use crate::{Guard, Guards, Key, Mesh, OfKey, SemaphoreError};

/// The maximum number of permits of a semaphore.
pub const PERMITS_MAX: usize = 64;
/// The time that a request waits before it looks whether other nodes have more permits.
const LOOK_AFTER: Duration = Duration::from_secs(1);

/// A request for permits of a semaphore, returned by [`Mesh::semaphore`].
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let mesh = lockmesh::MeshBuilder::single("dev").insecure_plaintext().start().await?;
/// // At most five nodes or tasks of the whole mesh use the licence server at once.
/// let permit = mesh.semaphore("licence", 5).acquire().await?;
/// permit.run(async { /* work */ }).await?;
/// permit.release().await?;
/// # Ok(())
/// # }
/// ```
///
/// # Permits are locks
/// Permit `i` of the semaphore `ID` is the lock on the key `ID#i`, with `i` from 0. So a permit is a
/// [`Guard`], which has the key, the epoch and the promises of one. The id has up to 253 bytes, or
/// 251 if several permits are acquired together.
///
/// A lone caller takes a free permit in one round trip if the first permit that it tries is free. It
/// begins with a random one. Otherwise it queues for all permits at once, keeps the first that is
/// granted, and withdraws the other claims. So a request that waits counts as one request for each
/// permit, in the metrics and towards [`max_claims`](crate::MeshBuilder::max_claims).
///
/// Waiters are served in the order in which they came, except for those within one round trip.
///
/// # The number of permits
/// All nodes must give the same number. If two differ, the larger one is the bound. A node with the
/// smaller number logs a warning if it has waited for one second and a higher permit is in use. So
/// the number can be changed node by node.
///
/// Nothing is sent before [`acquire`](SemaphoreRequest::acquire) or one of its siblings. Awaiting the
/// request acquires one permit.
#[derive(Clone, Debug)]
#[must_use = "nothing is asked for before acquire() or one of its siblings"]
pub struct SemaphoreRequest {
    mesh: Mesh,
    id: String,
    permits: usize,
    options: Options,
}

impl SemaphoreRequest {
    pub(crate) fn new(mesh: &Mesh, id: String, permits: usize) -> Self {
        let request = mesh.lock("").kind(LockKind::Semaphore).batched();
        Self {
            mesh: mesh.clone(),
            id,
            permits,
            options: Options::new(request),
        }
    }

    options!();

    /// Waits until one permit is granted, and returns its guard.
    ///
    /// # Errors
    /// No permit is left behind after an error.
    /// - [`SemaphoreError::Permits`] if the number of permits is 0 or above [`PERMITS_MAX`].
    /// - [`SemaphoreError::Acquire`] with the key of a permit and the error of
    ///   [`LockRequest::acquire`](crate::LockRequest::acquire).
    ///
    /// # Panics
    /// Panics outside a tokio runtime with timers.
    ///
    /// # Cancel safety
    /// Dropping the future withdraws all claims, and releases a permit that was granted. A later
    /// call is queued anew.
    #[tracing::instrument(level = "debug", skip_all, fields(semaphore = %self.id))]
    pub async fn acquire(self) -> Result<Guard, SemaphoreError> {
        let semaphore = self.begin(1)?;
        loop {
            if let Some(guard) = semaphore.wait_for(1).await?.pop() {
                return Ok(guard);
            }
        }
    }

    /// Waits until `wanted` permits are granted, and returns their guards.
    ///
    /// One caller at a time collects several permits, and the others wait for it. So two that want
    /// several never wait for each other's permits. A caller that wants many holds up those after
    /// it until it has them.
    ///
    /// A caller that holds permits already and waits for more can wait forever: acquire all
    /// together.
    ///
    /// # Errors
    /// As those of [`acquire`](SemaphoreRequest::acquire), and [`SemaphoreError::Wanted`] if `wanted`
    /// is 0 or above the number of permits.
    ///
    /// # Panics
    /// Panics outside a tokio runtime with timers.
    ///
    /// # Cancel safety
    /// Dropping the future withdraws all claims, and releases the permits that were granted.
    #[tracing::instrument(level = "debug", skip_all, fields(semaphore = %self.id, wanted))]
    pub async fn acquire_many(self, wanted: usize) -> Result<Guards, SemaphoreError> {
        let semaphore = self.begin(wanted)?;
        loop {
            let key = semaphore.key_of_many();
            let alone = semaphore.asks.acquire(&key).await;
            let alone = alone.map_err(SemaphoreError::Acquire)?;
            // If that lease is lost, everything is given back.
            if let Ok(collected) = alone.run(semaphore.wait_for(wanted)).await {
                return collected.map(Guards::new);
            }
        }
    }

    /// Tries to acquire one permit. Returns `None` if each permit is taken by another claim, or may
    /// be.
    ///
    /// The permits are tried one after another, each for one round trip. So a permit that changes
    /// hands meanwhile may be missed. If several nodes try at the same instant, every free permit is
    /// granted to one of them, as long as there are enough nodes.
    ///
    /// # Errors
    /// As those of [`acquire`](SemaphoreRequest::acquire); the errors of a permit are those of
    /// [`LockRequest::try_acquire`](crate::LockRequest::try_acquire).
    ///
    /// # Panics
    /// Panics outside a tokio runtime with timers.
    ///
    /// # Cancel safety
    /// Dropping the future withdraws all claims, and releases a permit that was granted.
    #[tracing::instrument(level = "debug", skip_all, fields(semaphore = %self.id))]
    pub async fn try_acquire(self) -> Result<Option<Guard>, SemaphoreError> {
        let semaphore = self.begin(1)?;
        Ok(semaphore.try_for(1).await?.pop())
    }

    /// Tries to acquire `wanted` permits. Returns `None`, and keeps none, if fewer are free, or if
    /// another caller collects several.
    ///
    /// # Errors
    /// As those of [`try_acquire`](SemaphoreRequest::try_acquire), and [`SemaphoreError::Wanted`] if
    /// `wanted` is 0 or above the number of permits.
    ///
    /// # Panics
    /// Panics outside a tokio runtime with timers.
    ///
    /// # Cancel safety
    /// Dropping the future withdraws all claims, and releases the permits that were granted.
    #[tracing::instrument(level = "debug", skip_all, fields(semaphore = %self.id, wanted))]
    pub async fn try_acquire_many(self, wanted: usize) -> Result<Option<Guards>, SemaphoreError> {
        let semaphore = self.begin(wanted)?;
        let key = semaphore.key_of_many();
        let alone = semaphore.asks.try_acquire(&key).await;
        let Some(alone) = alone.map_err(SemaphoreError::Acquire)? else {
            return Ok(None);
        };
        let Ok(tried) = alone.run(semaphore.try_for(wanted)).await else {
            return Ok(None);
        };
        let tried = Some(tried?).filter(|permits| permits.len() == wanted);
        Ok(tried.map(Guards::new).filter(Guards::is_held))
    }

    /// Checks the numbers, and starts the time.
    fn begin(self, wanted: usize) -> Result<Semaphore, SemaphoreError> {
        let (semaphore, permits) = (self.id, self.permits);
        if !(1..=PERMITS_MAX).contains(&permits) {
            return Err(SemaphoreError::Permits {
                semaphore,
                permits,
                max: PERMITS_MAX,
            });
        }
        if !(1..=permits).contains(&wanted) {
            return Err(SemaphoreError::Wanted {
                semaphore,
                wanted,
                permits,
            });
        }
        let semaphore = Semaphore {
            mesh: self.mesh,
            id: semaphore,
            permits,
            asks: self.options.begin(),
        };
        for key in [semaphore.id.clone(), semaphore.key(permits - 1)] {
            if let Err(error) = Key::new(&key) {
                let error = error.into();
                return Err(SemaphoreError::Acquire(OfKey { key, error }));
            }
        }
        Ok(semaphore)
    }
}

impl IntoFuture for SemaphoreRequest {
    type Output = Result<Guard, SemaphoreError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    /// Acquires one permit, with the errors and the cancel safety of
    /// [`acquire`](SemaphoreRequest::acquire).
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.acquire())
    }
}

/// A semaphore of which a caller waits for permits.
#[derive(Debug)]
struct Semaphore {
    mesh: Mesh,
    id: String,
    permits: usize,
    asks: Asks,
}

impl Semaphore {
    /// Returns the key of a permit. The number is after the last `#`, whatever the id contains.
    fn key(&self, number: usize) -> String {
        format!("{}#{number}", self.id)
    }

    /// Returns the key of the lock under which several permits are collected.
    fn key_of_many(&self) -> String {
        format!("{}#many", self.id)
    }

    /// Returns all keys, from a random one on, so that concurrent callers try different permits.
    fn keys(&self) -> Vec<String> {
        let first = rand::random_range(0..self.permits);
        let numbers = (first..self.permits).chain(0..first);
        numbers.map(|number| self.key(number)).collect()
    }

    /// Waits until `wanted` permits are held.
    async fn wait_for(&self, wanted: usize) -> Result<Vec<Guard>, SemaphoreError> {
        let mut held = match self.try_at_once(&self.keys()[..wanted]).await {
            Err(SemaphoreError::Acquire(late)) if self.asks.outlasts(&late.error) => Vec::new(),
            tried => tried?,
        };
        let mut warning = pin!(self.warn_of_more_permits());
        let mut has_looked = false;
        while held.len() < wanted {
            // A permit that was taken above may be lost by now.
            let is_missing = |key: &String| !held.iter().any(|guard: &Guard| guard.key() == key);
            let missing: Vec<_> = self.keys().into_iter().filter(is_missing).collect();
            let claims = missing.iter().map(|key| self.asks.acquire(key));
            let mut claims = Concurrent::new(claims);
            while held.len() < wanted {
                tokio::select! {
                    biased;
                    Some(granted) = claims.next() => {
                        held.push(granted.map_err(SemaphoreError::Acquire)?);
                    }
                    () = &mut warning, if !has_looked => has_looked = true,
                }
            }
            held.retain(Guard::is_held);
        }
        Ok(held)
    }

    /// Tries permits until `wanted` are held. Returns fewer if there are no more. At no time does it
    /// hold more than are wanted, so that nobody else finds a permit taken in vain.
    async fn try_for(&self, wanted: usize) -> Result<Vec<Guard>, SemaphoreError> {
        let keys = self.keys();
        let (first, others) = keys.split_at(wanted);
        let mut held = self.try_at_once(first).await?;
        for key in others {
            if held.len() == wanted {
                break;
            }
            let tried = self.asks.try_acquire(key).await;
            held.extend(tried.map_err(SemaphoreError::Acquire)?);
        }
        Ok(held)
    }

    async fn try_at_once(&self, keys: &[String]) -> Result<Vec<Guard>, SemaphoreError> {
        let tries = keys.iter().map(|key| self.asks.try_acquire(key));
        let tried = Concurrent::new(tries).all().await;
        let tried: Result<Vec<_>, _> = tried.into_iter().collect();
        let tried = tried.map_err(SemaphoreError::Acquire)?;
        Ok(tried.into_iter().flatten().collect())
    }

    /// Logs a warning if a permit beyond the last is held or waited for, once the caller has waited
    /// for a while.
    async fn warn_of_more_permits(&self) {
        tokio::time::sleep(LOOK_AFTER).await;
        let Ok(seen) = self.mesh.inspect(self.key(self.permits)).await else {
            return;
        };
        if !seen.votes.is_empty() || seen.waiting > 0 {
            tracing::warn!(
                node = %self.mesh.id(), semaphore = %self.id, permits = self.permits,
                "a higher permit is in use; give the same number of permits on all nodes"
            );
        }
    }
}
