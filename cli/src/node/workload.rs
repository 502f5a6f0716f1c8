//! The load of a node: its tasks request locks in each way that the interface has, and record what
//! they observe.
//!
//! A guard is observed between two readings of the boot clock. So a record is true even if the
//! process is paused in between, which only lengthens the interval.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lockmesh::{AcquireError, ClusterError, DistributedLock, Guard, LockRequest, Mesh};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde::Deserialize;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::history::{Clock, FORMAT, How, Line, Writer};

const KEYS_MAX: u32 = 10_000;
const TASKS_MAX: u32 = 1_000;
const SPAN_MAX_MS: u64 = 3_600_000;
/// The interval at which the node's own voter is polled.
const VOTER_EVERY: Duration = Duration::from_millis(50);
/// The longest time until a request is withdrawn, if it is to be.
const WITHDRAW_WITHIN_MS: u64 = 100;

/// The table `[workload]` of the configuration. `node.example.toml` describes each field.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct WorkloadFile {
    keys: u32,
    tasks: u32,
    mix: Mix,
    hold_ms: [u64; 2],
    pause_ms: [u64; 2],
    acquire_timeout_ms: [u64; 2],
    look_every_ms: u64,
    requests: Option<u32>,
    seed: Option<u64>,
}

/// The requests that the tasks make.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Mix {
    /// Every [`Act`].
    Everything,
    /// Acquire, hold, release.
    Hold,
    /// Take the lock through `DistributedLock` for a time within `hold_ms`, and never release it.
    Tick,
}

/// One way to use a lock.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Act {
    /// Acquire, hold, release.
    Hold,
    /// Acquire, and withdraw the request soon.
    Withdraw,
    /// Acquire only if the lock is free.
    Try,
    /// Acquire, and extend the lease once.
    Extend,
    /// Acquire without renewal, and observe the guard until it is lost.
    Lapse,
    /// Acquire, and drop the guard instead of releasing it.
    Drop,
}

impl Default for WorkloadFile {
    fn default() -> Self {
        Self {
            keys: 4,
            tasks: 4,
            mix: Mix::Everything,
            hold_ms: [5, 300],
            pause_ms: [20, 200],
            acquire_timeout_ms: [1_000, 20_000],
            look_every_ms: 20,
            requests: None,
            seed: None,
        }
    }
}

impl WorkloadFile {
    /// # Errors
    /// Returns a message that begins with the field whose value is invalid.
    pub(crate) fn check(&self) -> Result<(), String> {
        for (field, value, max) in [
            ("keys", self.keys, KEYS_MAX),
            ("tasks", self.tasks, TASKS_MAX),
        ] {
            if value == 0 || value > max {
                return Err(format!("{field} is {value}; it must be 1 to {max}"));
            }
        }
        if self.requests == Some(0) {
            return Err("requests is 0; it must be 1 or more".to_owned());
        }
        let spans = [
            ("hold_ms", self.hold_ms),
            ("pause_ms", self.pause_ms),
            ("acquire_timeout_ms", self.acquire_timeout_ms),
            ("look_every_ms", [self.look_every_ms; 2]),
        ];
        for (field, [least, most]) in spans {
            if least == 0 || least > most || most > SPAN_MAX_MS {
                return Err(format!(
                    "{field} is {least} to {most}; it must rise, within 1 to {SPAN_MAX_MS}"
                ));
            }
        }
        Ok(())
    }
}

/// The history that this process writes.
#[derive(Debug)]
pub(crate) struct Log {
    clock: Clock,
    writer: Writer,
    /// The error that ends the run, from a write or from a request.
    failed: watch::Sender<Option<String>>,
}

impl Log {
    /// # Errors
    /// If the file cannot be written, or the machine has no boot clock.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let clock = Clock::open().map_err(io::Error::other)?;
        let writer = Writer::open(path)?;
        let failed = watch::Sender::new(None);
        Ok(Self {
            clock,
            writer,
            failed,
        })
    }

    /// Waits for an error that ends the run, and returns it.
    pub(crate) async fn failed(&self) -> String {
        let mut failed = self.failed.subscribe();
        match failed.wait_for(Option::is_some).await {
            Ok(what) => what.clone().unwrap_or_default(),
            Err(_) => std::future::pending().await,
        }
    }

    pub(crate) fn start(&self, mesh: &Mesh) {
        let status = mesh.status();
        self.write(&Line::Start {
            at: self.now(),
            format: FORMAT,
            boot: self.clock.boot().to_owned(),
            node: status.node.to_string(),
            incarnation: status.incarnation,
            max_lease_ms: millis(status.timing.max_ttl),
        });
    }

    pub(crate) fn stopping(&self, signal: &str) {
        let at = self.now();
        let signal = signal.to_owned();
        self.write(&Line::Stopping { at, signal });
    }

    pub(crate) fn end(&self) {
        self.write(&Line::End { at: self.now() });
    }

    fn now(&self) -> u64 {
        self.clock.now()
    }

    fn write(&self, line: &Line) {
        if let Err(error) = self.writer.write(line) {
            self.failed.send_replace(Some(error.to_string()));
        }
    }
}

/// The tasks of a node's workload.
#[derive(Debug)]
pub(crate) struct Workload {
    tasks: JoinSet<()>,
    /// Records whether the node votes.
    voter: JoinSet<()>,
}

impl Workload {
    pub(crate) fn start(mesh: &Mesh, log: &Arc<Log>, settings: &WorkloadFile) -> Self {
        let mut tasks = JoinSet::new();
        let ids = Arc::new(AtomicU64::new(0));
        let seed = settings.seed.unwrap_or_else(rand::random);
        for n in 0..settings.tasks {
            let worker = Worker {
                mesh: mesh.clone(),
                log: log.clone(),
                settings: settings.clone(),
                ids: ids.clone(),
                rng: SmallRng::seed_from_u64(seed.wrapping_add(u64::from(n))),
            };
            tasks.spawn(worker.work());
        }
        let mut voter = JoinSet::new();
        voter.spawn(watch_voter(mesh.clone(), log.clone()));
        Self { tasks, voter }
    }

    /// Returns once all tasks have made their requests. Never returns if their number is unlimited.
    pub(crate) async fn done(&mut self) {
        while self.tasks.join_next().await.is_some() {}
    }

    /// Returns once all tasks have seen that the mesh is shut down.
    pub(crate) async fn ended(&mut self) {
        self.done().await;
        while self.voter.join_next().await.is_some() {}
    }
}

/// Records each time at which the node's voter starts or stops voting.
async fn watch_voter(mesh: Mesh, log: Arc<Log>) {
    let mut told = None;
    loop {
        let status = mesh.status();
        if status.is_shut_down {
            return;
        }
        let votes = status.quarantine.is_none();
        if told != Some(votes) {
            told = Some(votes);
            log.write(&Line::Voting {
                at: log.now(),
                votes,
            });
        }
        tokio::time::sleep(VOTER_EVERY).await;
    }
}

struct Worker {
    mesh: Mesh,
    log: Arc<Log>,
    settings: WorkloadFile,
    ids: Arc<AtomicU64>,
    rng: SmallRng,
}

impl Worker {
    async fn work(mut self) {
        let mut left = self.settings.requests.unwrap_or(u32::MAX);
        while left > 0 && !self.mesh.status().is_shut_down {
            left -= u32::from(self.settings.requests.is_some());
            let act = self.act();
            self.once(act).await;
            let pause = self.within(self.settings.pause_ms);
            tokio::time::sleep(pause).await;
        }
    }

    fn act(&mut self) -> Act {
        if self.settings.mix == Mix::Hold {
            return Act::Hold;
        }
        match self.rng.random_range(0..100) {
            0..45 => Act::Hold,
            45..55 => Act::Withdraw,
            55..75 => Act::Try,
            75..85 => Act::Extend,
            85..90 => Act::Lapse,
            _ => Act::Drop,
        }
    }

    fn within(&mut self, [least, most]: [u64; 2]) -> Duration {
        Duration::from_millis(self.rng.random_range(least..=most))
    }

    /// Requests one lock and uses it according to `act`.
    async fn once(&mut self, act: Act) {
        if self.settings.mix == Mix::Tick {
            return self.tick().await;
        }
        let key = format!("k{}", self.rng.random_range(0..self.settings.keys));
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let wait = self.within(self.settings.acquire_timeout_ms);
        let how = if act == Act::Try {
            How::Try
        } else {
            How::Acquire
        };
        self.log.write(&Line::Asked {
            at: self.log.now(),
            id,
            key: key.clone(),
            how,
            wait_ms: millis(wait),
        });
        let request = self.mesh.lock(key).auto_renew(act != Act::Lapse);
        if let Some(guard) = self.ask(id, act, request, wait).await {
            self.hold(id, act, guard).await;
        }
    }

    /// Takes a lock as a job does that runs once in each TTL.
    async fn tick(&mut self) {
        let key = format!("k{}", self.rng.random_range(0..self.settings.keys));
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let ttl_ms = millis(self.within(self.settings.hold_ms));
        self.log.write(&Line::Asked {
            at: self.log.now(),
            id,
            key: key.clone(),
            how: How::Try,
            wait_ms: 0,
        });
        let told = DistributedLock::try_acquire(&self.mesh, &key, ttl_ms).await;
        let at = self.log.now();
        self.log.write(&match told {
            Ok(true) => Line::Ticked { id, at, ttl_ms },
            Ok(false) => Line::Denied { id, at },
            Err(ClusterError::Internal(_)) => Line::ShutDown { id, at },
            Err(_) => Line::TimedOut { id, at },
        });
    }

    /// Returns the guard if it was granted. The caller records the grant.
    async fn ask(
        &mut self,
        id: u64,
        act: Act,
        request: LockRequest,
        wait: Duration,
    ) -> Option<Guard> {
        let asked = match act {
            Act::Try => request.try_acquire().await,
            Act::Withdraw => {
                let patience = self.within([1, WITHDRAW_WITHIN_MS]);
                let request = request.acquire_timeout(wait).acquire();
                match tokio::time::timeout(patience, request).await {
                    Ok(asked) => asked.map(Some),
                    Err(_) => {
                        let at = self.log.now();
                        self.log.write(&Line::Withdrawn { id, at });
                        return None;
                    }
                }
            }
            _ => request.acquire_timeout(wait).acquire().await.map(Some),
        };
        let at = self.log.now();
        match asked {
            Ok(Some(guard)) => return Some(guard),
            Ok(None) => self.log.write(&Line::Denied { id, at }),
            Err(AcquireError::ShutDown) => self.log.write(&Line::ShutDown { id, at }),
            Err(AcquireError::TimedOut { .. } | AcquireError::Unconfirmed { .. }) => {
                self.log.write(&Line::TimedOut { id, at });
            }
            Err(error) => {
                let what = format!("request {id}: {error}");
                self.log.failed.send_replace(Some(what));
            }
        }
        None
    }

    async fn hold(&mut self, id: u64, act: Act, guard: Guard) {
        let (before, until, after) = self.look(&guard);
        self.log.write(&Line::Granted {
            id,
            before,
            after,
            epoch: guard.epoch().get(),
            until,
        });
        if until.is_none() {
            return;
        }
        let span = self.within(self.settings.hold_ms);
        let end = tokio::time::Instant::now() + span;
        let mut extends = act == Act::Extend;
        loop {
            if extends {
                extends = false;
                self.extend(id, &guard).await;
            }
            let every = Duration::from_millis(self.settings.look_every_ms);
            let left = end.saturating_duration_since(tokio::time::Instant::now());
            let is_last = act != Act::Lapse && left <= every;
            tokio::time::sleep(if is_last { left } else { every }).await;
            let (before, until, after) = self.look(&guard);
            let Some(until) = until else {
                self.log.write(&Line::Lost { id, before, after });
                return;
            };
            self.log.write(&Line::Held {
                id,
                before,
                after,
                until,
            });
            if is_last {
                return self.let_go(id, act, guard).await;
            }
        }
    }

    /// Reads the boot clock, the guard, and the boot clock again. Returns both readings and, if the
    /// lock is held, the interval in which its lease ends.
    fn look(&self, guard: &Guard) -> (u64, Option<[u64; 2]>, u64) {
        let before = self.log.now();
        let left = guard.remaining();
        let after = self.log.now();
        let left = u64::try_from(left.as_nanos()).unwrap_or(u64::MAX);
        let until = (left > 0).then(|| [before, after].map(|at| at.saturating_add(left)));
        (before, until, after)
    }

    async fn extend(&mut self, id: u64, guard: &Guard) {
        let extra = self.within([1, 500]);
        let before = self.log.now();
        let done = guard.extend(extra).await;
        let after = self.log.now();
        let error = done.err().map(|error| error.to_string());
        self.log.write(&Line::Extended {
            id,
            before,
            after,
            extra_ms: millis(extra),
            error,
        });
    }

    async fn let_go(&mut self, id: u64, act: Act, guard: Guard) {
        let before = self.log.now();
        let held = if act == Act::Drop {
            let held = guard.is_held();
            drop(guard);
            held
        } else {
            guard.release().await.is_ok()
        };
        let after = self.log.now();
        self.log.write(&Line::Released {
            id,
            before,
            after,
            held,
        });
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
