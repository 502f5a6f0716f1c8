//! Work that runs once for each tick of a schedule, in the whole cluster.
//!
//! It is built from [`LockRequest::once`] and [`Guard::mark`] alone: the tick is a key, the work runs
//! under its lock, and the mark says that it is done.

use std::convert::Infallible;
use std::fmt;
use std::time::Duration;

use thiserror::Error;
use tokio::time::Instant;

use crate::error::{AcquireError, MarkError};
use crate::guard::Guard;
use crate::mesh::Mesh;
use crate::request::LockRequest;
use lockmesh_proto::{Epoch, MARK_KEEP_MAX};

/// The default time for which a tick that ran is remembered.
const KEEP_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// The character between a job and its tick.
const SEPARATOR: char = '@';

/// A request to run a tick of a job once in the cluster, returned by [`Mesh::once`].
///
/// The first node that asks for the tick runs the work. Once it is done, a quorum of the voters keeps
/// a mark, so that a node whose clock or timer is late does not run the tick again. If the process
/// dies in the middle, or loses its lease, another node may run the tick: there is at least one
/// attempt while a quorum is up, and at most one of them ends with [`Outcome::Ran`]. The epoch tells
/// attempts apart: pass it with each write ([`Guard::epoch`]).
#[derive(Clone, Debug)]
#[must_use = "nothing runs before run() or try_run()"]
pub struct OnceRequest {
    request: LockRequest,
    /// `None` if the tick is not a valid one.
    tick: Result<(), String>,
    ttl: Duration,
    wait: Option<Duration>,
    keep_for: Duration,
}

/// The result of a tick that was asked for. `E` is the error of the work.
#[derive(Clone, Debug, Eq, PartialEq)]
#[must_use]
pub enum Outcome<T, E = Infallible> {
    /// This call ran the tick. Nobody else is granted it for [`OnceRequest::keep_for`].
    Ran(T),
    /// This call ran the tick, and the work failed. The tick is given back: the next node that asks
    /// for it runs it again. Only [`OnceRequest::try_run`] returns this.
    Failed(E),
    /// The tick ran before.
    AlreadyRan {
        /// The node that ran it.
        by: String,
        /// The epoch under which it did.
        epoch: Epoch,
    },
    /// Another node still ran the tick when the wait was over.
    Running {
        /// The node that runs it, and its epoch, if a voter named it.
        by: Option<(String, Epoch)>,
    },
}

/// The error returned if it is unknown whether a tick ran, or if it may run again.
#[derive(Clone, Error, PartialEq)]
#[non_exhaustive]
pub enum OnceError {
    /// The tick contains an `@`. Nothing was sent.
    #[error("tick is {tick:?}; it must not contain '@'")]
    Tick {
        /// The tick.
        tick: String,
    },
    /// The tick would be remembered for no time, or for more than seven days. Nothing was sent.
    #[error("keep_for is {keep_for:?}; it must be above 0 s and at most {MARK_KEEP_MAX:?}")]
    KeepFor {
        /// The time for which the tick was to be remembered.
        keep_for: Duration,
    },
    /// The lock of the tick was not acquired: there is no quorum, or the request is not valid. The
    /// work did not run.
    #[error(transparent)]
    Acquire(#[from] AcquireError),
    /// The lease was lost while the work ran. The work was dropped at its current `.await`. The tick
    /// may run again.
    #[error("the lease was lost while the work ran; the tick may run again")]
    LeaseLost,
    /// The work is done, but no quorum has the mark. The tick may run again.
    #[error("the work is done, but the tick is not marked and may run again: {0}")]
    NotMarked(MarkError),
}

impl fmt::Debug for OnceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Mesh {
    /// Requests to run a tick of a job once in the cluster.
    ///
    /// `tick` names the tick: the same on all nodes, and another for the next run. Use the scheduled
    /// time, not the present one.
    ///
    /// Nothing is sent before [`run`](OnceRequest::run) or [`try_run`](OnceRequest::try_run). The key
    /// of the lock is `JOB@TICK`. All voters must read version 2 of the protocol; older ones do
    /// not vote for ticks.
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn report() -> u32 { 3 }
    /// # async fn nightly(mesh: &lockmesh::Mesh) -> Result<(), lockmesh::OnceError> {
    /// use lockmesh::Outcome;
    /// use std::time::Duration;
    ///
    /// let two_hours = Duration::from_secs(2 * 60 * 60);
    /// match mesh.once("report", "2026-11-30").keep_for(two_hours).run(|_epoch| report()).await? {
    ///     Outcome::Ran(rows) => println!("{rows} rows"),
    ///     other => println!("not here: {other:?}"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn once(&self, job: impl fmt::Display, tick: impl fmt::Display) -> OnceRequest {
        let tick = tick.to_string();
        OnceRequest {
            request: self.lock(format!("{job}{SEPARATOR}{tick}")).once(),
            tick: match tick.contains(SEPARATOR) {
                true => Err(tick),
                false => Ok(()),
            },
            ttl: self.default_ttl(),
            wait: None,
            keep_for: KEEP_FOR,
        }
    }
}

impl OnceRequest {
    /// Sets the ttl of the lease under which the work runs. The lease is renewed until the work is
    /// done. If the process dies, another node can run the tick after the ttl.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self.request = self.request.ttl(ttl);
        self
    }

    /// Sets a note for people, as [`LockRequest::note`] does.
    pub fn note(mut self, note: impl AsRef<str>) -> Self {
        self.request = self.request.note(note);
        self
    }

    /// Sets the time for which the voters remember that the tick ran, a day by default and seven days
    /// at most. It must be longer than the clocks and timers of the nodes differ.
    pub fn keep_for(mut self, keep_for: Duration) -> Self {
        self.keep_for = keep_for;
        self
    }

    /// Sets the time to wait while another node runs the tick, twice the ttl by default.
    ///
    /// A node that waits runs the tick if the other one dies. With zero, the call returns
    /// [`Outcome::Running`] as soon as another node has the tick.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = Some(wait);
        self
    }

    /// Runs `work` unless the tick ran before, and marks the tick once `work` is done.
    ///
    /// # Errors
    /// - [`OnceError::Tick`] if the tick contains an `@`.
    /// - [`OnceError::KeepFor`] if `keep_for` is zero, or more than seven days.
    /// - [`OnceError::Acquire`] if there is no quorum, or the request is not valid.
    /// - [`OnceError::LeaseLost`] if the lease ended before `work` was done.
    /// - [`OnceError::NotMarked`] if `work` is done, but no quorum has the mark.
    ///
    /// # Panics
    /// Panics outside a tokio runtime with timers.
    ///
    /// # Cancel safety
    /// Dropping the future drops `work` and gives the tick back, unless it is marked already.
    pub async fn run<F: Future>(
        self,
        work: impl FnOnce(Epoch) -> F,
    ) -> Result<Outcome<F::Output>, OnceError> {
        self.run_and_count(work, Ok).await
    }

    /// Runs `work` like [`run`](Self::run), but gives the tick back if `work` fails.
    ///
    /// # Errors
    /// The errors of [`run`](Self::run). An error of `work` is [`Outcome::Failed`].
    ///
    /// # Panics
    /// Panics outside a tokio runtime with timers.
    ///
    /// # Cancel safety
    /// Like [`run`](Self::run).
    pub async fn try_run<T, E, F: Future<Output = Result<T, E>>>(
        self,
        work: impl FnOnce(Epoch) -> F,
    ) -> Result<Outcome<T, E>, OnceError> {
        self.run_and_count(work, |output| output).await
    }

    async fn run_and_count<T, E, F: Future>(
        self,
        work: impl FnOnce(Epoch) -> F,
        judge: impl FnOnce(F::Output) -> Result<T, E>,
    ) -> Result<Outcome<T, E>, OnceError> {
        let request = self.request.clone();
        let ended = self.run_to(work, judge).await;
        let outcome = match &ended {
            Ok(Outcome::Ran(_)) => "ran",
            Ok(Outcome::Failed(_)) => "failed",
            Ok(Outcome::AlreadyRan { .. }) => "already_ran",
            Ok(Outcome::Running { .. }) => "running",
            // This node stops, and no reason is left to look at the tick.
            Err(OnceError::Acquire(AcquireError::ShutDown)) => return ended,
            Err(OnceError::Tick { .. } | OnceError::KeepFor { .. } | OnceError::Acquire(_)) => {
                "not_acquired"
            }
            Err(OnceError::LeaseLost) => "lease_lost",
            Err(OnceError::NotMarked(_)) => "not_marked",
        };
        request.count_tick(outcome);
        ended
    }

    async fn run_to<T, E, F: Future>(
        self,
        work: impl FnOnce(Epoch) -> F,
        judge: impl FnOnce(F::Output) -> Result<T, E>,
    ) -> Result<Outcome<T, E>, OnceError> {
        self.tick.clone().map_err(|tick| OnceError::Tick { tick })?;
        // Before the work, which would run in vain.
        let keep_for = self.keep_for;
        if keep_for.is_zero() || keep_for > MARK_KEEP_MAX {
            return Err(OnceError::KeepFor { keep_for });
        }
        let guard = match self.acquire().await {
            Ok(Some(guard)) => guard,
            Ok(None) => return Ok(Outcome::Running { by: None }),
            Err(AcquireError::Done { by, epoch }) => {
                return Ok(Outcome::AlreadyRan { by, epoch });
            }
            // A quorum answered: the voters are there, and another claim has their votes.
            Err(AcquireError::TimedOut {
                answers, holder, ..
            }) if answers.voted + answers.waiting > answers.voters / 2 && answers.waiting > 0 => {
                let by = holder.map(|holder| (holder.node, holder.epoch));
                return Ok(Outcome::Running { by });
            }
            Err(error) => return Err(error.into()),
        };
        let output = guard.run(work(guard.epoch())).await;
        match judge(output.map_err(|_| OnceError::LeaseLost)?) {
            Ok(output) => {
                self.mark(&guard).await.map_err(OnceError::NotMarked)?;
                Ok(Outcome::Ran(output))
            }
            Err(error) => Ok(Outcome::Failed(error)),
        }
    }

    /// Acquires the lock of the tick. Returns `None` if another has it and this request does not
    /// wait.
    async fn acquire(&self) -> Result<Option<Guard>, AcquireError> {
        let request = self.request.clone();
        let wait = self.wait.unwrap_or(self.ttl * 2);
        match wait.is_zero() {
            true => request.try_acquire().await,
            false => request.acquire_timeout(wait).acquire().await.map(Some),
        }
    }

    /// Marks the tick. Asks again while the lease lasts, for a ttl at most.
    async fn mark(&self, guard: &Guard) -> Result<(), MarkError> {
        let until = Instant::now() + self.ttl;
        loop {
            match guard.mark(self.keep_for).await {
                Err(MarkError::NoQuorum { .. }) if Instant::now() < until => {}
                marked => return marked,
            }
        }
    }
}
