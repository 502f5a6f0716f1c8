//! A process of chaos: a node whose tasks request locks in each way that the interface has, and
//! record what they observe.
//!
//! A guard is observed between two readings of the boot clock. So a record is true even if the
//! process is paused in between, which only lengthens the interval.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lockmesh::status::VoterStart;
use lockmesh::{
    AcquireError, ClusterError, DistributedLock, Guard, Guards, Leadership, LockAllError, Mesh,
    MeshBuilder, OnceError, Outcome, SemaphoreError,
};
use lockmesh_cli::Overrides;
use lockmesh_cli::node::{self, Signals};
use lockmesh_harness::SkewedClock;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tools::millis;

use crate::history::{FORMAT, How, Line, StartFrom, Writer, boot, now};

/// The longest time that the tasks may take to observe the shutdown.
const END_AT_MOST: Duration = Duration::from_secs(5);
/// The interval at which the node's own voter is polled.
const VOTER_EVERY: Duration = Duration::from_millis(50);
/// The longest time until a request is withdrawn, if it is to be.
const WITHDRAW_WITHIN_MS: u64 = 100;

/// The semaphore, and its number of permits.
const SEMAPHORE: &str = "pool";
const PERMITS: usize = 3;
/// The election, and the key that its leader holds.
const ELECTION: &str = "jobs";
const LEADER: &str = "jobs#leader";
/// The longest time that a request waits for several locks together.
const TOGETHER_AT_MOST: Duration = Duration::from_secs(3);

/// The job whose ticks run once, and the seconds from one tick to the next.
const JOB: &str = "t";
const TICK_SECS: u64 = 2;
/// The number of ticks that are asked for: the present one, and those before it.
const TICKS: u64 = 12;
/// The time for which a tick that ran is remembered. Some of it ends during a run.
const KEEP_MS: Span = (5_000, 60_000);
/// The percentage of requests that run a tick, and of the work that fails.
const TICKS_PERCENT: u32 = 12;
const FAILS_PERCENT: u32 = 25;

/// A least and a most number of milliseconds.
type Span = (u64, u64);

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Configuration file of the node, as for `lockmesh node`.
    #[arg(long)]
    config: PathBuf,
    /// File to append the history to.
    #[arg(long)]
    history: PathBuf,
    /// Offset of the wall clock, in milliseconds.
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    wall_offset_ms: i64,
    /// The id of this boot of the machine, instead of the kernel's: after a power cut it is another.
    #[arg(long)]
    boot_id: Option<u128>,
    /// Number of keys, named k0 and up. With the mix `everything` there are as many named s0 and up,
    /// of which several are locked together, a semaphore and an election.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    keys: u32,
    /// Number of tasks that request them.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(0..=1_000))]
    tasks: u32,
    /// The requests that the tasks make.
    #[arg(long, value_enum, default_value = "everything")]
    mix: Mix,
    /// The time that a lock is held.
    #[arg(long, default_value = "5..300", value_parser = span)]
    hold_ms: Span,
    /// The time that a task pauses between requests.
    #[arg(long, default_value = "20..200", value_parser = span)]
    pause_ms: Span,
    /// The time that a request waits.
    #[arg(long, default_value = "1000..20000", value_parser = span)]
    acquire_timeout_ms: Span,
    /// The interval at which a holder checks its guard.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    look_every_ms: u64,
    /// The number of requests after which a task ends. The process stops when all tasks have ended.
    #[arg(long)]
    requests: Option<u32>,
    /// The seed of the tasks' choices; random by default.
    #[arg(long)]
    seed: Option<u64>,
}

/// Parses `LEAST..MOST`, or one number that is both.
fn span(text: &str) -> Result<Span, String> {
    let (least, most) = text.split_once("..").unwrap_or((text, text));
    match (least.parse(), most.parse()) {
        (Ok(least), Ok(most)) if 1 <= least && least <= most && most <= 3_600_000 => {
            Ok((least, most))
        }
        _ => Err("it must be LEAST..MOST, within 1 to 3600000".to_owned()),
    }
}

/// The requests that the tasks make.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum Mix {
    /// Every act, on single keys, on a semaphore, on several keys together and in an election.
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

/// The locks that a request is for.
#[derive(Clone, Debug)]
enum Target {
    Key(String),
    /// One permit of the semaphore.
    Permit,
    /// Several permits together.
    Permits(usize),
    /// Several keys together, in order.
    All(Vec<String>),
    /// The leadership of an election.
    Election,
}

/// The reason why a request failed.
#[derive(Debug)]
enum Failed {
    Late,
    ShutDown,
    Otherwise(String),
}

impl From<AcquireError> for Failed {
    fn from(error: AcquireError) -> Self {
        match error {
            AcquireError::ShutDown => Self::ShutDown,
            AcquireError::TimedOut { .. } | AcquireError::Unconfirmed { .. } => Self::Late,
            error => Self::Otherwise(error.to_string()),
        }
    }
}

impl From<SemaphoreError> for Failed {
    fn from(error: SemaphoreError) -> Self {
        match error {
            SemaphoreError::Acquire(of_key) => of_key.error.into(),
            error => Self::Otherwise(error.to_string()),
        }
    }
}

impl From<LockAllError> for Failed {
    fn from(error: LockAllError) -> Self {
        match error {
            LockAllError::Acquire(of_key) => of_key.error.into(),
            error => Self::Otherwise(error.to_string()),
        }
    }
}

/// Requests the locks. Returns `None` if a try was denied.
async fn request(
    mesh: Mesh,
    target: Target,
    act: Act,
    wait: Duration,
) -> Result<Option<Vec<Guard>>, Failed> {
    let (is_try, renews) = (act == Act::Try, act != Act::Lapse);
    let one = |guard: Option<Guard>| guard.map(|guard| vec![guard]);
    let all = |guards: Option<Guards>| guards.map(Guards::into_guards);
    let semaphore = mesh.semaphore(SEMAPHORE, PERMITS);
    let semaphore = semaphore.auto_renew(renews).acquire_timeout(wait);
    Ok(match (target, is_try) {
        (Target::Key(key), _) => {
            let request = mesh.lock(key).auto_renew(renews).acquire_timeout(wait);
            one(match is_try {
                true => request.try_acquire().await?,
                false => Some(request.acquire().await?),
            })
        }
        (Target::Permit, true) => one(semaphore.try_acquire().await?),
        (Target::Permit, false) => one(Some(semaphore.acquire().await?)),
        (Target::Permits(wanted), true) => all(semaphore.try_acquire_many(wanted).await?),
        (Target::Permits(wanted), false) => all(Some(semaphore.acquire_many(wanted).await?)),
        (Target::All(keys), _) => {
            let request = mesh.lock_all(keys).auto_renew(renews).acquire_timeout(wait);
            all(match is_try {
                true => request.try_acquire().await?,
                false => Some(request.acquire().await?),
            })
        }
        (Target::Election, _) => {
            let election = mesh.election(ELECTION).acquire_timeout(wait);
            let leadership = match is_try {
                true => election.try_campaign().await?,
                false => Some(election.campaign().await?),
            };
            one(leadership.map(Leadership::into_guard))
        }
    })
}

/// Runs until a signal arrives, all requests are made, or the history cannot be written.
pub(crate) async fn run(args: Args) -> ExitCode {
    node::log("info");
    match live(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, error)) => {
            eprintln!("chaos worker: {error}");
            ExitCode::from(code)
        }
    }
}

async fn live(args: Args) -> Result<(), (u8, String)> {
    let refused = |error: String| (node::BAD_CONFIG, error);
    // Installed before the start, so that a signal during the start also ends in a clean stop.
    let mut signals = Signals::new(false).map_err(|error| refused(error.to_string()))?;
    let log = Log::open(&args).map_err(|error| refused(format!("history: {error}")))?;
    let log = Arc::new(log);
    let skewed = |builder: MeshBuilder| {
        let builder = builder.clock(SkewedClock::new(args.wall_offset_ms));
        match args.boot_id {
            Some(id) => builder.boot_id(id),
            None => builder,
        }
    };
    let overrides = Overrides::default();
    let mesh = tokio::select! {
        mesh = node::start(Some(&args.config), &overrides, skewed) => mesh,
        _ = signals.next() => return Ok(()),
    };
    let mesh = mesh.map_err(|error| refused(error.to_string()))?;
    log.start(&mesh);
    let mut tasks = start_tasks(&mesh, &log, &args);
    let mut voter = JoinSet::new();
    voter.spawn(watch_voter(mesh.clone(), log.clone()));
    let ended = tokio::select! {
        signal = signals.next() => Ok(signal),
        () = joined(&mut tasks), if args.requests.is_some() => Ok("workload"),
        error = log.failed() => Err(error),
        never = node::report_ready(&mesh) => never,
    };
    let signal = ended.as_ref().copied().unwrap_or("history");
    let (at, signal) = (now(), signal.to_owned());
    log.write(&Line::Stopping {
        at,
        signal: signal.clone(),
    });
    // Shut down first, while the tasks still run, so that no peer waits for them.
    node::stop(&mesh, &signal).await;
    let all = async {
        joined(&mut tasks).await;
        joined(&mut voter).await;
    };
    if tokio::time::timeout(END_AT_MOST, all).await.is_err() {
        tracing::warn!("the tasks did not end in {END_AT_MOST:?}");
    }
    log.write(&Line::End { at: now() });
    ended.map(drop).map_err(|error| (1, error))
}

async fn joined(tasks: &mut JoinSet<()>) {
    while tasks.join_next().await.is_some() {}
}

fn start_tasks(mesh: &Mesh, log: &Arc<Log>, args: &Args) -> JoinSet<()> {
    let ids = Arc::new(AtomicU64::new(0));
    let seed = args.seed.unwrap_or_else(rand::random);
    let mut tasks = JoinSet::new();
    for n in 0..args.tasks {
        let task = Task {
            mesh: mesh.clone(),
            log: log.clone(),
            args: args.clone(),
            ids: ids.clone(),
            rng: SmallRng::seed_from_u64(seed.wrapping_add(u64::from(n))),
        };
        tasks.spawn(task.work());
    }
    tasks
}

/// The history that this process writes.
#[derive(Debug)]
struct Log {
    boot: String,
    writer: Writer,
    /// The error that ends the run, from a write or from a request.
    failed: watch::Sender<Option<String>>,
}

impl Log {
    fn open(args: &Args) -> io::Result<Self> {
        Ok(Self {
            boot: boot()?,
            writer: Writer::open(&args.history)?,
            failed: watch::Sender::new(None),
        })
    }

    /// Waits for an error that ends the run, and returns it.
    async fn failed(&self) -> String {
        let mut failed = self.failed.subscribe();
        match failed.wait_for(Option::is_some).await {
            Ok(what) => what.clone().unwrap_or_default(),
            Err(_) => std::future::pending().await,
        }
    }

    fn start(&self, mesh: &Mesh) {
        let status = mesh.status();
        self.write(&Line::Start {
            at: now(),
            format: FORMAT,
            boot: self.boot.clone(),
            node: status.node.to_string(),
            incarnation: status.incarnation,
            max_lease_ms: millis(status.timing.max_ttl),
            durability: status.journal.map(|journal| journal.durability),
        });
    }

    fn write(&self, line: &Line) {
        if let Err(error) = self.writer.write(line) {
            self.failed.send_replace(Some(error.to_string()));
        }
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
        let from = match status.voter_start {
            // It may still find its memory.
            _ if !votes => None,
            Some(VoterStart::Nothing { .. }) => Some(StartFrom::Nothing),
            Some(VoterStart::Journal { .. }) => Some(StartFrom::Journal),
            Some(VoterStart::Handover { .. }) => Some(StartFrom::Handover),
            _ => None,
        };
        let now_is = (votes, from, status.may_lack_marks);
        if told != Some(now_is) {
            told = Some(now_is);
            let (votes, from, may_lack_marks) = now_is;
            log.write(&Line::Voting {
                at: now(),
                votes,
                from,
                may_lack_marks,
            });
        }
        tokio::time::sleep(VOTER_EVERY).await;
    }
}

struct Task {
    mesh: Mesh,
    log: Arc<Log>,
    args: Args,
    ids: Arc<AtomicU64>,
    rng: SmallRng,
}

impl Task {
    async fn work(mut self) {
        let mut left = self.args.requests.unwrap_or(u32::MAX);
        while left > 0 && !self.mesh.status().is_shut_down {
            left -= u32::from(self.args.requests.is_some());
            match self.args.mix {
                Mix::Everything if self.rng.random_range(0..100) < TICKS_PERCENT => {
                    self.run_tick().await;
                }
                Mix::Everything => {
                    let act = self.act();
                    self.once(act).await;
                }
                Mix::Hold => self.once(Act::Hold).await,
                Mix::Tick => self.tick().await,
            }
            let pause = self.within(self.args.pause_ms);
            tokio::time::sleep(pause).await;
        }
    }

    fn act(&mut self) -> Act {
        match self.rng.random_range(0..100) {
            0..45 => Act::Hold,
            45..55 => Act::Withdraw,
            55..75 => Act::Try,
            75..85 => Act::Extend,
            85..90 => Act::Lapse,
            _ => Act::Drop,
        }
    }

    fn within(&mut self, (least, most): Span) -> Duration {
        Duration::from_millis(self.rng.random_range(least..=most))
    }

    /// Returns what a request is for.
    fn target(&mut self, act: Act) -> Target {
        let keys = self.args.keys;
        let number = self.rng.random_range(0..keys);
        if self.args.mix != Mix::Everything {
            return Target::Key(format!("k{number}"));
        }
        match self.rng.random_range(0..100) {
            0..65 => Target::Key(format!("k{number}")),
            // A leadership that is not renewed does not exist.
            65..70 if act != Act::Lapse => Target::Election,
            65..75 => Target::Key(format!("s{number}")),
            75..85 => Target::Permit,
            85..90 => Target::Permits(self.rng.random_range(2..=PERMITS)),
            _ => {
                let others = (1..keys).filter(|_| self.rng.random());
                let mut keys: Vec<_> = others
                    .chain([0])
                    .map(|next| format!("s{}", (number + next) % keys))
                    .collect();
                keys.sort();
                Target::All(keys)
            }
        }
    }

    /// Records requests that are about to begin, one for each lock. Returns their numbers.
    fn asks(&self, target: &Target, act: Act, wait: Duration) -> Vec<u64> {
        let (keys, permits) = match target {
            Target::Key(key) => (std::slice::from_ref(key).to_vec(), None),
            Target::Permit => (vec![SEMAPHORE.to_owned()], Some(PERMITS)),
            Target::Permits(wanted) => (vec![SEMAPHORE.to_owned(); *wanted], Some(PERMITS)),
            Target::All(keys) => (keys.clone(), None),
            Target::Election => (vec![LEADER.to_owned()], None),
        };
        let how = match target {
            _ if act == Act::Try => How::Try,
            Target::Key(_) | Target::Permit | Target::Election => How::Acquire,
            Target::Permits(_) | Target::All(_) => How::Together,
        };
        let ask = |key| {
            let id = self.ids.fetch_add(1, Ordering::Relaxed);
            self.log.write(&Line::Asked {
                at: now(),
                id,
                key,
                how,
                wait_ms: millis(wait),
                permits,
            });
            id
        };
        keys.into_iter().map(ask).collect()
    }

    /// Requests locks and uses them according to `act`.
    async fn once(&mut self, act: Act) {
        let target = self.target(act);
        let wait = self.within(self.args.acquire_timeout_ms);
        let wait = match target {
            // While it waits for one, others wait for those that it has.
            Target::Permits(_) | Target::All(_) => wait.min(TOGETHER_AT_MOST),
            Target::Key(_) | Target::Permit | Target::Election => wait,
        };
        let ids = self.asks(&target, act, wait);
        if let Some(guards) = self.ask(&ids, act, target, wait).await {
            let guards = ids.into_iter().zip(guards).collect();
            self.hold(act, guards).await;
        }
    }

    /// Takes a lock as a job does that runs once in each TTL.
    async fn tick(&mut self) {
        let ttl_ms = millis(self.within(self.args.hold_ms));
        let target = self.target(Act::Try);
        let ids = self.asks(&target, Act::Try, Duration::ZERO);
        let (Target::Key(key), &[id]) = (&target, &ids[..]) else {
            return;
        };
        let told = DistributedLock::try_acquire(&self.mesh, key, ttl_ms).await;
        let at = now();
        self.log.write(&match told {
            Ok(true) => Line::Ticked { id, at, ttl_ms },
            Ok(false) => Line::Denied { id, at },
            Err(ClusterError::Internal(_)) => Line::ShutDown { id, at },
            Err(_) => Line::TimedOut { id, at },
        });
    }

    /// Runs a tick once in the cluster, which may have run before. All processes have the same ticks,
    /// since they have the same boot clock.
    async fn run_tick(&mut self) {
        let tick = now() / (TICK_SECS * 1_000_000_000) - self.rng.random_range(0..TICKS);
        let (wait, keep_for) = (
            self.within(self.args.acquire_timeout_ms),
            self.within(KEEP_MS),
        );
        let (takes, fails) = (
            self.within(self.args.hold_ms),
            self.rng.random_range(0..100) < FAILS_PERCENT,
        );
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        self.log.write(&Line::Asked {
            at: now(),
            id,
            key: format!("{JOB}@{tick}"),
            how: How::Once,
            wait_ms: millis(wait),
            permits: None,
        });
        let mut before = None;
        let request = self.mesh.once(JOB, tick).wait(wait).keep_for(keep_for);
        let told = request.try_run(async |epoch| {
            let (at, epoch) = (now(), epoch.get());
            self.log.write(&Line::Attempt { id, at, epoch });
            tokio::time::sleep(takes).await;
            before = Some(now());
            if fails { Err(()) } else { Ok(()) }
        });
        let told = told.await;
        let at = now();
        self.log.write(&match told {
            Ok(Outcome::Ran(())) => Line::Ran {
                id,
                before: before.unwrap_or(at),
                after: at,
                keep_ms: millis(keep_for),
            },
            Ok(Outcome::AlreadyRan { epoch, .. }) => Line::AlreadyRan {
                id,
                at,
                epoch: epoch.get(),
            },
            Ok(Outcome::Running { .. }) => Line::Denied { id, at },
            Ok(Outcome::Failed(())) | Err(OnceError::NotMarked(_)) => Line::GaveBack { id, at },
            Err(OnceError::LeaseLost) => Line::Lost {
                id,
                before: at,
                after: at,
            },
            Err(OnceError::Acquire(AcquireError::ShutDown)) => Line::ShutDown { id, at },
            Err(OnceError::Acquire(
                AcquireError::TimedOut { .. } | AcquireError::Unconfirmed { .. },
            )) => Line::TimedOut { id, at },
            Err(error) => {
                let what = format!("request {id}: {error}");
                self.log.failed.send_replace(Some(what));
                return;
            }
        });
    }

    /// Returns the guards if they were granted, in the order of `ids`. The caller records the grant.
    async fn ask(
        &mut self,
        ids: &[u64],
        act: Act,
        target: Target,
        wait: Duration,
    ) -> Option<Vec<Guard>> {
        let request = request(self.mesh.clone(), target, act, wait);
        let asked = match act {
            Act::Withdraw => {
                let patience = self.within((1, WITHDRAW_WITHIN_MS));
                tokio::time::timeout(patience, request).await.ok()
            }
            _ => Some(request.await),
        };
        let at = now();
        let line = |id| match &asked {
            None => Line::Withdrawn { id, at },
            Some(Ok(_)) => Line::Denied { id, at },
            Some(Err(Failed::ShutDown)) => Line::ShutDown { id, at },
            Some(Err(Failed::Late | Failed::Otherwise(_))) => Line::TimedOut { id, at },
        };
        if let Some(Err(Failed::Otherwise(error))) = &asked {
            let what = format!("request {}: {error}", ids[0]);
            self.log.failed.send_replace(Some(what));
            return None;
        }
        if let Some(Ok(Some(guards))) = asked {
            return Some(guards);
        }
        ids.iter().for_each(|id| self.log.write(&line(*id)));
        None
    }

    async fn hold(&mut self, act: Act, mut guards: Vec<(u64, Guard)>) {
        guards.retain(|(id, guard)| {
            let (before, until, after) = self.look(guard);
            let is_permit = guard.key().starts_with(SEMAPHORE);
            self.log.write(&Line::Granted {
                id: *id,
                before,
                after,
                epoch: guard.epoch().get(),
                until,
                permit: is_permit.then(|| guard.key().to_owned()),
            });
            until.is_some()
        });
        let span = self.within(self.args.hold_ms);
        let end = tokio::time::Instant::now() + span;
        if act == Act::Extend {
            for (id, guard) in &guards {
                self.extend(*id, guard).await;
            }
        }
        let every = Duration::from_millis(self.args.look_every_ms);
        while !guards.is_empty() {
            let left = end.saturating_duration_since(tokio::time::Instant::now());
            let is_last = act != Act::Lapse && left <= every;
            tokio::time::sleep(if is_last { left } else { every }).await;
            guards.retain(|(id, guard)| {
                let id = *id;
                let (before, until, after) = self.look(guard);
                self.log.write(&match until {
                    None => Line::Lost { id, before, after },
                    Some(until) => Line::Held {
                        id,
                        before,
                        after,
                        until,
                    },
                });
                until.is_some()
            });
            if is_last {
                for (id, guard) in std::mem::take(&mut guards) {
                    self.let_go(id, act, guard).await;
                }
            }
        }
    }

    /// Reads the boot clock, the guard, and the boot clock again. Returns both readings and, if the
    /// lock is held, the interval in which its lease ends.
    fn look(&self, guard: &Guard) -> (u64, Option<[u64; 2]>, u64) {
        let before = now();
        let left = guard.remaining();
        let after = now();
        let left = u64::try_from(left.as_nanos()).unwrap_or(u64::MAX);
        let until = (left > 0).then(|| [before, after].map(|at| at.saturating_add(left)));
        (before, until, after)
    }

    async fn extend(&mut self, id: u64, guard: &Guard) {
        let extra = self.within((1, 500));
        let before = now();
        let done = guard.extend(extra).await;
        self.log.write(&Line::Extended {
            id,
            before,
            after: now(),
            extra_ms: millis(extra),
            error: done.err().map(|error| error.to_string()),
        });
    }

    async fn let_go(&mut self, id: u64, act: Act, guard: Guard) {
        let before = now();
        let held = if act == Act::Drop {
            let held = guard.is_held();
            drop(guard);
            held
        } else {
            guard.release().await.is_ok()
        };
        let after = now();
        self.log.write(&Line::Released {
            id,
            before,
            after,
            held,
        });
    }
}
