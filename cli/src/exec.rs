//! `lockmesh exec KEY -- COMMAND`: runs a command while a lock is held.
//!
//! This process holds the lock and is the parent of the command. It alone reaps processes, and on
//! Linux also those that the command left behind: they become its children. So it can tell when the
//! last process of the command's group has ended.

use std::ffi::OsString;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind, IsTerminal};
use std::ops::RangeInclusive;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::task::Poll;
use std::time::Duration;

use lockmesh::status::{MemberStatus, VoteTally};
use lockmesh::{AcquireError, Guard, MarkError, Mesh, Note};
use lockmesh_cli::{NodeConfig, Overrides, node};
use rustix::io::Errno;
use rustix::process::{self, Pid, Signal, WaitOptions, WaitStatus};
use rustix::system::uname;
use tokio::signal::unix::{self, SignalKind};
use tokio::time::Instant;

use crate::look::{Failure, bad_usage, shown, with_colon};
use crate::say;

/// The exit code if the lock is taken, or the tick ran before: `EX_TEMPFAIL` of sysexits.h.
pub(crate) const TAKEN: u8 = 75;
/// The exit code without a quorum of voters: `EX_UNAVAILABLE`.
pub(crate) const NO_QUORUM: u8 = 69;
/// The exit code if the lock was lost, or the tick could not be marked.
const LOST: u8 = 125;
/// The exit codes of a shell if it cannot run a command, or finds none.
const CANNOT_RUN: u8 = 126;
const NOT_FOUND: u8 = 127;
/// A shell's exit code for a process that a signal ended is this, plus the number of the signal.
const SIGNALED: u8 = 128;

/// The time in which any node must answer.
const ANSWER_AT_MOST: Duration = Duration::from_millis(1_500);
/// The time in which a quorum must return.
const QUORUM_AT_MOST: Duration = Duration::from_secs(10);
/// The longest wait for killed processes to end.
const KILLED_AT_MOST: Duration = Duration::from_secs(1);
/// The interval at which the group is checked once its first process has ended.
const GROUP_INTERVAL: Duration = Duration::from_millis(20);
/// The longest wait for the last datagrams.
pub(crate) const SHUTDOWN_AT_MOST: Duration = Duration::from_secs(1);
/// The bounds of `--wait`, `--grace` and `--keep-for`.
const WAIT_MIN: Duration = Duration::from_millis(100);
const SPAN_MAX: Duration = Duration::from_secs(366 * DAY_SECS);
const KEEP_MIN: Duration = Duration::from_secs(1);
const KEEP_MAX: Duration = Duration::from_secs(7 * DAY_SECS);
const DAY_SECS: u64 = 24 * 60 * 60;
/// The character between a job and its tick, as for `Mesh::once`.
const SEPARATOR: char = '@';
/// The longest name of a node, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// Signals that would end this process. They are passed on.
const PASSED_ON: [(SignalKind, Signal); 6] = [
    (SignalKind::hangup(), Signal::HUP),
    (SignalKind::interrupt(), Signal::INT),
    (SignalKind::quit(), Signal::QUIT),
    (SignalKind::terminate(), Signal::TERM),
    (SignalKind::user_defined1(), Signal::USR1),
    (SignalKind::user_defined2(), Signal::USR2),
];

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Key of the lock; with --once, the name of the job.
    #[arg(value_name = "KEY")]
    lock: String,
    /// Exit with 75 at once if the lock is taken.
    #[arg(long = "try", conflicts_with = "wait")]
    is_try: bool,
    /// Longest wait for the lock, such as 30s. By default the wait has no end.
    #[arg(long, value_name = "SPAN", value_parser = wait)]
    wait: Option<Duration>,
    /// Run the command once in the cluster for this tick of the job KEY, such as the scheduled time.
    /// Exit with 75 if it ran before. If it fails, another node may run it. The lock is KEY@TICK.
    #[arg(long, value_name = "TICK", value_parser = tick)]
    once: Option<String>,
    /// Time for which the cluster remembers that the tick ran, at most seven days.
    #[arg(long, value_name = "SPAN", default_value = "1d", requires = "once", value_parser = keep_for)]
    keep_for: Duration,
    /// Note for people, of at most 128 bytes, such as "deploy 812 by ci". `lockmesh inspect` and `top`
    /// show it, and so do requests that wait for this lock in vain.
    #[arg(long, value_name = "TEXT")]
    note: Option<Note>,
    /// Time between SIGTERM and SIGKILL, if the lease is lost or processes are left.
    #[arg(long, value_name = "SPAN", default_value = "10s", value_parser = grace)]
    grace: Duration,
    /// Let the command use the terminal. It stays in the process group of this process, so Ctrl-C
    /// reaches it without this process, which passes on the other signals to it alone. Processes
    /// that it leaves behind outlive the lock. Without this option, a command gets /dev/null in
    /// place of a terminal as its input.
    #[arg(long)]
    foreground: bool,
    /// Configuration file of a node, in TOML, for its address, seeds, secret and voters. As for
    /// `lockmesh node`, environment variables such as LOCKMESH_SEEDS replace its settings. The
    /// command runs beside that node, under a name of its own, at any port.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// The end of `lockmesh exec --help`.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  2      the options or the configuration are invalid; the command did not run
  69     no quorum of voters for 10 s or until --wait ends, or no answer of any node for 1.5 s;
         the command did not run
  75     the lock is taken, or the tick of --once ran before; the command did not run
  125    the lock was lost, and the command was ended; or the tick could not be marked
  126    the command cannot be run
  127    the command is not found
  128+N  signal N ended the command, or the wait for the lock
  else   the exit code of the command";

fn wait(text: &str) -> Result<Duration, String> {
    span(text, WAIT_MIN..=SPAN_MAX)
}

fn grace(text: &str) -> Result<Duration, String> {
    span(text, Duration::ZERO..=SPAN_MAX)
}

fn keep_for(text: &str) -> Result<Duration, String> {
    span(text, KEEP_MIN..=KEEP_MAX)
}

fn span(text: &str, bounds: RangeInclusive<Duration>) -> Result<Duration, String> {
    let span = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match bounds.contains(&span) {
        true => Ok(span),
        false => Err(format!(
            "it must be {:?} to {} days",
            bounds.start(),
            bounds.end().as_secs() / DAY_SECS
        )),
    }
}

/// Parses a tick. It is empty if the command of a shell that prints it failed.
fn tick(text: &str) -> Result<String, String> {
    match text.is_empty() || text.contains(SEPARATOR) {
        false => Ok(text.to_owned()),
        true => Err(format!(
            "it must not be empty, and not contain '{SEPARATOR}'"
        )),
    }
}

pub(crate) async fn run(args: Args) -> Result<ExitCode, Failure> {
    node::log("warn");
    // Before the start, so that a signal during the start also ends in order.
    let signals = Signals::new();
    let mut signals =
        signals.map_err(|error| Failure(1, format!("no signal handlers: {error}")))?;
    let config = NodeConfig::read(args.config.as_deref(), &Overrides::default());
    let config = config.map_err(bad_usage)?;
    let client = config.client(name(config.node_id(), "exec"));
    let started = client.map_err(bad_usage)?.start().await;
    let mesh = started.map_err(|error| bad_usage(config.error(&error)))?;
    let done = match args.acquire(&mesh, &mut signals).await {
        Ok(Some(guard)) => args.run_under(guard, &mut signals).await,
        Ok(None) => {
            // The usual outcome on all nodes but one, of which cron would send a mail.
            tracing::info!(
                key = args.key(),
                "the lock is taken, or the tick ran before"
            );
            Ok(ExitCode::from(TAKEN))
        }
        Err(failure) => Err(failure),
    };
    let _ = tokio::time::timeout(SHUTDOWN_AT_MOST, mesh.shutdown()).await;
    done
}

impl Args {
    /// Returns the key of the lock.
    fn key(&self) -> String {
        match &self.once {
            Some(tick) => format!("{}{SEPARATOR}{tick}", self.lock),
            None => self.lock.clone(),
        }
    }

    /// Waits for the lock. Returns `None` if a try finds it taken, or if the tick ran before.
    async fn acquire(&self, mesh: &Mesh, signals: &mut Signals) -> Result<Option<Guard>, Failure> {
        let mut request = mesh.lock(self.key());
        if self.once.is_some() {
            request = request.once();
        }
        if let Some(note) = &self.note {
            request = request.note(note);
        }
        if let Some(wait) = self.wait {
            request = request.acquire_timeout(wait);
        }
        let acquires = async {
            match self.is_try {
                true => request.try_acquire().await,
                false => request.acquire().await.map(Some),
            }
        };
        let acquired = tokio::select! {
            acquired = acquires => acquired,
            failure = no_quorum(mesh) => return Err(failure),
            signal = signals.next_to_pass_on() => {
                let what = format!("{}: signal {} ended the wait", shown(&self.key()), signal.as_raw());
                return Err(Failure(code_of_signal(signal.as_raw()), what));
            }
        };
        match acquired {
            Ok(guard) => Ok(guard),
            Err(AcquireError::Done { .. }) => Ok(None),
            Err(AcquireError::TimedOut { answers, .. }) if have_answered(&answers) => {
                Err(self.taken(mesh).await)
            }
            Err(error @ (AcquireError::Key(_) | AcquireError::Request(_))) => Err(bad_usage(error)),
            Err(error) => {
                let failure = || Failure(NO_QUORUM, error.to_string());
                Err(no_answer(mesh).unwrap_or_else(failure))
            }
        }
    }

    /// Returns the error for a lock that another claim has.
    async fn taken(&self, mesh: &Mesh) -> Failure {
        let key = self.key();
        let seen = mesh.inspect(&key).await.ok();
        let owner = seen.as_ref().and_then(|seen| seen.owner());
        let by = owner.map(|owner| {
            let node = shown(owner.node.as_str());
            let note = with_colon(owner.note.as_ref());
            format!(" by {node}, epoch {}{note}", owner.epoch.get())
        });
        let by = by.unwrap_or_default();
        Failure(TAKEN, format!("{} is taken{by}", shown(&key)))
    }

    /// Runs the command until it and its group have ended, and releases the lock.
    async fn run_under(&self, guard: Guard, signals: &mut Signals) -> Result<ExitCode, Failure> {
        let mut job = self.spawn(&guard)?;
        let mut ending = Ending::NotAsked;
        while !job.is_over() {
            if job.status.is_some() && matches!(ending, Ending::NotAsked) {
                ending = job.end(self.grace);
            }
            let wake = ending.until();
            tokio::select! {
                signal = signals.next() => match signal {
                    Signal::CHILD => job.reap(),
                    Signal::TSTP => {}
                    // The terminal has sent it to the command too.
                    Signal::INT | Signal::QUIT if self.foreground => job.send(Signal::CONT),
                    signal => job.send(signal),
                },
                () = guard.lost(), if matches!(ending, Ending::NotAsked) => {
                    let key = shown(guard.key());
                    say(match guard.revoked_by() {
                        Some(by) => {
                            format!("{key} was released by force by {}; the command is ended", shown(by))
                        }
                        None => format!("{key} was lost; the command is ended"),
                    });
                    ending = job.end(self.grace);
                }
                () = sleep_until(wake) => match ending {
                    Ending::Asked { .. } => ending = job.kill(),
                    _ => break,
                },
                () = tokio::time::sleep(GROUP_INTERVAL), if job.status.is_some() => job.reap(),
            }
        }
        let code = job.status.map(code_of);
        let marked = match code {
            Some(0) if self.once.is_some() => self.mark(&guard).await,
            _ => Ok(()),
        };
        let was_held = guard.release().await.is_ok();
        marked?;
        Ok(ExitCode::from(code.filter(|_| was_held).unwrap_or(LOST)))
    }

    /// Marks the tick. Asks again while the lease lasts.
    async fn mark(&self, guard: &Guard) -> Result<(), Failure> {
        loop {
            match guard.mark(self.keep_for).await {
                Ok(()) => return Ok(()),
                Err(MarkError::NoQuorum { .. }) => {}
                Err(error) => {
                    let key = shown(guard.key());
                    let what = format!("{key} is not marked and may run again: {error}");
                    return Err(Failure(LOST, what));
                }
            }
        }
    }

    fn spawn(&self, guard: &Guard) -> Result<Job, Failure> {
        let (program, args) = self
            .command
            .split_first()
            .ok_or_else(|| bad_usage("no command"))?;
        let mut command = Command::new(program);
        command.args(args);
        command.env("LOCKMESH_KEY", guard.key());
        command.env("LOCKMESH_EPOCH", guard.epoch().get().to_string());
        if !self.foreground {
            command.process_group(0);
            if io::stdin().is_terminal() {
                // A read from the background would stop the command.
                command.stdin(Stdio::null());
            }
        }
        // Best effort: without it, what the command leaves behind is reaped by another process.
        #[cfg(target_os = "linux")]
        let _ = process::set_child_subreaper(Some(process::getpid()));
        let child = command.spawn().map_err(|error| {
            let code = match error.kind() {
                ErrorKind::NotFound => NOT_FOUND,
                _ => CANNOT_RUN,
            };
            Failure(code, format!("{}: {error}", program.display()))
        })?;
        let pid = Pid::from_child(&child);
        let has_group = !self.foreground;
        Ok(Job {
            pid,
            has_group,
            status: None,
        })
    }
}

/// The command that runs.
#[derive(Debug)]
struct Job {
    pid: Pid,
    /// `true` if it leads a process group of its own.
    has_group: bool,
    status: Option<WaitStatus>,
}

/// How far the end of the command is enforced.
#[derive(Clone, Copy, Debug)]
enum Ending {
    NotAsked,
    Asked { kill_at: Instant },
    Killed { give_up_at: Instant },
}

impl Ending {
    fn until(self) -> Option<Instant> {
        match self {
            Self::NotAsked => None,
            Self::Asked { kill_at: at } | Self::Killed { give_up_at: at } => Some(at),
        }
    }
}

impl Job {
    /// Returns `true` if the command has ended, and all processes of its group.
    fn is_over(&self) -> bool {
        let is_empty = || process::test_kill_process_group(self.pid) == Err(Errno::SRCH);
        self.status.is_some() && (!self.has_group || is_empty())
    }

    /// Collects the processes that have ended.
    fn reap(&mut self) {
        let options = WaitOptions::NOHANG | WaitOptions::UNTRACED;
        while let Ok(Some((pid, status))) = process::wait(options) {
            let stops_at = status.stopping_signal();
            if [Signal::TTIN, Signal::TTOU]
                .iter()
                .any(|it| stops_at == Some(it.as_raw()))
            {
                say("a process is stopped, since it uses the terminal; use --foreground");
            } else if pid == self.pid && !status.stopped() {
                self.status = Some(status);
            }
        }
    }

    /// Sends a signal to the group, and wakes processes that are stopped. One that has ended gets
    /// none.
    fn send(&self, signal: Signal) {
        for signal in [signal, Signal::CONT] {
            let _ = match self.has_group {
                true => process::kill_process_group(self.pid, signal),
                false if self.status.is_none() => process::kill_process(self.pid, signal),
                false => Ok(()),
            };
        }
    }

    fn end(&self, grace: Duration) -> Ending {
        self.send(Signal::TERM);
        let kill_at = Instant::now() + grace;
        Ending::Asked { kill_at }
    }

    fn kill(&self) -> Ending {
        self.send(Signal::KILL);
        let give_up_at = Instant::now() + KILLED_AT_MOST;
        Ending::Killed { give_up_at }
    }
}

/// The signals of this process.
struct Signals(Vec<(unix::Signal, Signal)>);

impl Signals {
    fn new() -> io::Result<Self> {
        // SIGTSTP is ignored: a process that is stopped cannot renew its lease.
        let more = [
            (SignalKind::child(), Signal::CHILD),
            (SignalKind::from_raw(Signal::TSTP.as_raw()), Signal::TSTP),
        ];
        let kinds = PASSED_ON.into_iter().chain(more);
        let signals = kinds.map(|(kind, signal)| Ok((unix::signal(kind)?, signal)));
        signals.collect::<io::Result<_>>().map(Self)
    }

    /// Waits for a signal. Cancel safe: none is lost.
    async fn next(&mut self) -> Signal {
        std::future::poll_fn(|cx| {
            let mut arrived = self
                .0
                .iter_mut()
                .filter_map(|(stream, signal)| stream.poll_recv(cx).is_ready().then_some(*signal));
            arrived.next().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    /// Waits for a signal that would end this process.
    async fn next_to_pass_on(&mut self) -> Signal {
        loop {
            let signal = self.next().await;
            if ![Signal::CHILD, Signal::TSTP].contains(&signal) {
                return signal;
            }
        }
    }
}

/// Returns a name for a client beside `node`, which no other process has.
pub(crate) fn name(node: Option<&str>, command: &str) -> String {
    let random = RandomState::new().hash_one(std::process::id()) as u32;
    let suffix = format!(".{command}.{}.{random:08x}", std::process::id());
    let host = uname();
    let host = host.nodename().to_string_lossy();
    let mut name = node.unwrap_or(&host).to_owned();
    name.truncate(name.floor_char_boundary(NAME_BYTES_MAX - suffix.len()));
    name + &suffix
}

/// Returns the error for a mesh of which no node has answered yet; `None` if one has.
pub(crate) fn no_answer(mesh: &Mesh) -> Option<Failure> {
    let status = mesh.status();
    let has_answered = |it: &MemberStatus| it.is_reachable || it.is_alive == Some(true);
    if status.members.iter().any(has_answered) {
        return None;
    }
    let is = match status.secrets.is_empty() {
        true => "the mesh plaintext and the cluster's name right",
        false => "the secret right, the cluster's name right and the mesh sealed",
    };
    Some(Failure(
        NO_QUORUM,
        format!("no answer from any node: is {is}, is it up?"),
    ))
}

/// Returns the error for a mesh of which no node answers, or that has no quorum for a while. Never
/// returns otherwise.
async fn no_quorum(mesh: &Mesh) -> Failure {
    tokio::time::sleep(ANSWER_AT_MOST).await;
    if let Some(failure) = no_answer(mesh) {
        return failure;
    }
    let mut health = mesh.watch();
    let mut can_lock = async |can| {
        // The mesh outlives this future.
        let _ = health.wait_for(|health| health.can_lock() == can).await;
    };
    loop {
        can_lock(false).await;
        let recovers = tokio::time::timeout(QUORUM_AT_MOST, can_lock(true));
        if recovers.await.is_err() {
            break;
        }
    }
    let members = mesh.status().members;
    let votes = members.iter().filter(|member| member.votes).count();
    let of = members.len();
    let what = format!("no quorum for {QUORUM_AT_MOST:?}: {votes} of {of} voters would vote");
    Failure(NO_QUORUM, what)
}

/// Returns `true` if a quorum of the voters of a key has answered a claim.
fn have_answered(answers: &VoteTally) -> bool {
    answers.voted + answers.waiting > answers.voters / 2
}

async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(wake) => tokio::time::sleep_until(wake).await,
        None => std::future::pending().await,
    }
}

/// Returns the exit code that a shell has for the end of a process.
fn code_of(status: WaitStatus) -> u8 {
    match status.terminating_signal() {
        Some(signal) => code_of_signal(signal),
        None => status
            .exit_status()
            .and_then(|code| code.try_into().ok())
            .unwrap_or(1),
    }
}

fn code_of_signal(signal: i32) -> u8 {
    SIGNALED.saturating_add(signal.try_into().unwrap_or(u8::MAX))
}
