//! Several keys at once.

use std::pin::Pin;
use std::time::Duration;

use crate::metrics::LockKind;
use crate::several::{Asks, Concurrent, Options, options};
use crate::{AcquireError, Guards, Key, LockAllError, Mesh, OfKey};

/// The maximum number of keys of one [`Mesh::lock_all`].
pub const LOCK_ALL_KEYS_MAX: usize = 64;

/// A request for several locks together, returned by [`Mesh::lock_all`]. All keys are locked, or
/// none.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let mesh = lockmesh::MeshBuilder::single("dev").insecure_plaintext().start().await?;
/// let accounts = mesh.lock_all(["account/7", "account/3"]).acquire().await?;
/// let (from, to) = (accounts.epoch("account/7"), accounts.epoch("account/3"));
/// accounts.run(async move { /* move money, fenced by both epochs */ }).await?;
/// accounts.release().await?;
/// # let _ = (from, to);
/// # Ok(())
/// # }
/// ```
///
/// # Order
/// First all keys are tried at once, which takes one round trip. If one of them is taken, all are
/// given back, and then taken one after another in the order of their bytes. So callers of
/// `lock_all` never wait for each other in a circle, in whatever order they name the keys.
///
/// | the caller | can wait in a circle |
/// | --- | --- |
/// | holds nothing else | no |
/// | holds a [`Guard`](crate::Guard) or [`Guards`] while it waits for more | yes, unless all callers take their locks in one order |
///
/// While it waits for a key, it holds the keys before it. A `try` of another caller may find those
/// taken, although none of them is returned yet.
///
/// Nothing is sent before [`acquire`](LockAllRequest::acquire) or
/// [`try_acquire`](LockAllRequest::try_acquire). Awaiting the request acquires the locks.
#[derive(Clone, Debug)]
#[must_use = "nothing is asked for before acquire() or try_acquire()"]
pub struct LockAllRequest {
    keys: Vec<String>,
    options: Options,
}

impl LockAllRequest {
    pub(crate) fn new(mesh: &Mesh, keys: Vec<String>) -> Self {
        let request = mesh.lock("").kind(LockKind::LockAll).batched();
        Self {
            keys,
            options: Options::new(request),
        }
    }

    options!();

    /// Fails at once if this node holds one of the keys itself, as [`LockRequest::deny_reentry`](crate::LockRequest::deny_reentry)
    /// does.
    pub fn deny_reentry(mut self) -> Self {
        self.options.request = self.options.request.deny_reentry();
        self
    }

    /// Waits until all locks are granted, and returns their guards.
    ///
    /// If a lease is lost while it waits for another key, all are given back and taken anew.
    ///
    /// # Errors
    /// No lock is left behind after an error.
    /// - [`LockAllError::Keys`] if there are no keys, or more than [`LOCK_ALL_KEYS_MAX`].
    /// - [`LockAllError::Duplicate`] if a key is given twice.
    /// - [`LockAllError::Acquire`] with the key and the error of [`LockRequest::acquire`](crate::LockRequest::acquire).
    ///
    /// # Panics
    /// Panics outside a tokio runtime with timers.
    ///
    /// # Cancel safety
    /// Dropping the future withdraws all claims, and releases the locks that were granted.
    #[tracing::instrument(level = "debug", skip_all, fields(keys = ?self.keys))]
    pub async fn acquire(self) -> Result<Guards, LockAllError> {
        let (keys, asks) = self.begin()?;
        match at_once(&keys, &asks).await {
            Ok(Some(guards)) => return Ok(guards),
            Err(late) if !asks.outlasts(&late.error) => return Err(LockAllError::Acquire(late)),
            Ok(None) | Err(_) => {}
        }
        'anew: loop {
            let mut guards = Guards::new(Vec::new());
            for key in &keys {
                let Ok(granted) = guards.run(asks.acquire(key)).await else {
                    continue 'anew;
                };
                guards.push(granted.map_err(LockAllError::Acquire)?);
            }
            return Ok(guards);
        }
    }

    /// Tries to lock all keys. Returns `None` if one of them is taken by another claim, or may be.
    ///
    /// If several nodes try overlapping sets of keys at the same instant, at least one is granted
    /// all of its keys, unless another caller holds one of them.
    ///
    /// # Errors
    /// As those of [`acquire`](LockAllRequest::acquire); the errors of a key are those of
    /// [`LockRequest::try_acquire`](crate::LockRequest::try_acquire).
    ///
    /// # Panics
    /// Panics outside a tokio runtime with timers.
    ///
    /// # Cancel safety
    /// Dropping the future withdraws all claims, and releases the locks that were granted.
    #[tracing::instrument(level = "debug", skip_all, fields(keys = ?self.keys))]
    pub async fn try_acquire(self) -> Result<Option<Guards>, LockAllError> {
        let (keys, asks) = self.begin()?;
        let tried = at_once(&keys, &asks).await;
        if let Some(guards) = tried.map_err(LockAllError::Acquire)? {
            return Ok(Some(guards));
        }
        // Callers that each got a part have given it back. Now they try in one order, so that the
        // one that is ahead of all others gets all of its keys.
        let mut guards = Guards::new(Vec::new());
        for key in &keys {
            match asks.try_acquire(key).await.map_err(LockAllError::Acquire)? {
                Some(guard) => guards.push(guard),
                None => return Ok(None),
            }
        }
        Ok(guards.is_held().then_some(guards))
    }

    /// Returns the keys in order, and starts the time.
    fn begin(self) -> Result<(Vec<String>, Asks), LockAllError> {
        let (mut keys, max) = (self.keys, LOCK_ALL_KEYS_MAX);
        if !(1..=max).contains(&keys.len()) {
            let keys = keys.len();
            return Err(LockAllError::Keys { keys, max });
        }
        keys.sort_unstable();
        if let Some(pair) = keys.windows(2).find(|pair| pair[0] == pair[1]) {
            let key = pair[0].clone();
            return Err(LockAllError::Duplicate { key });
        }
        for key in &keys {
            if let Err(error) = Key::new(key) {
                let (key, error) = (key.clone(), error.into());
                return Err(LockAllError::Acquire(OfKey { key, error }));
            }
        }
        Ok((keys, self.options.begin()))
    }
}

/// Tries all keys at once. Returns `None`, with everything given back, if one of them is taken.
async fn at_once(keys: &[String], asks: &Asks) -> Result<Option<Guards>, OfKey<AcquireError>> {
    let tries = keys.iter().map(|key| asks.try_acquire(key));
    let tried = Concurrent::new(tries).all().await;
    let guards: Option<Vec<_>> = tried.into_iter().collect::<Result<_, _>>()?;
    let guards = guards.map(Guards::new);
    Ok(guards.filter(Guards::is_held))
}

impl IntoFuture for LockAllRequest {
    type Output = Result<Guards, LockAllError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    /// Acquires the locks, with the errors and the cancel safety of
    /// [`acquire`](LockAllRequest::acquire).
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.acquire())
    }
}
