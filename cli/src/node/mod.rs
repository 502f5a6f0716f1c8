//! `lockmesh node`: runs one bare node until it receives a signal. The node votes. With
//! `--workload` it also requests locks and records what it observes of them.

pub(crate) mod config;
mod workload;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use config::{FileError, NodeConfig, Overrides};
use lockmesh::{Clock, Mesh, SystemClock};
use tracing_subscriber::EnvFilter;
use workload::{Log, Workload, WorkloadFile};

/// The exit code for an invalid configuration.
const BAD_CONFIG: u8 = 2;
/// The time to find peers, after which the node logs a warning and continues.
const READY_AT_MOST: Duration = Duration::from_secs(60);
/// The longest wait for the last rounds of gossip at shutdown.
const SHUTDOWN_AT_MOST: Duration = Duration::from_secs(10);

/// The longest time that the workload's tasks may take to observe the shutdown.
const WORKLOAD_AT_MOST: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Configuration file, in TOML. Each setting may also be an environment variable, such as
    /// LOCKMESH_NODE_ID or LOCKMESH_TIMING_MAX_TTL, which replaces the file's. Options replace both.
    #[arg(long)]
    config: Option<PathBuf>,
    #[command(flatten)]
    overrides: Overrides,
    /// Request locks as configured in the table [workload].
    #[arg(long, requires = "history")]
    workload: bool,
    /// Append the workload's history to this file, for `lockmesh check`.
    #[arg(long, requires = "workload")]
    history: Option<PathBuf>,
    /// Shift the wall clock by this many milliseconds, to test wrong clocks. Never set it in
    /// production.
    #[arg(
        long,
        hide = true,
        value_name = "MS",
        default_value_t = 0,
        allow_negative_numbers = true
    )]
    wall_offset_ms: i64,
}

pub(crate) async fn run(args: &Args) -> ExitCode {
    log();
    // Installed before the start, so that a signal during the start also ends in a clean stop.
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => {
            eprintln!("lockmesh: signals cannot be heard: {error}");
            return ExitCode::FAILURE;
        }
    };
    let history = match args.history.as_deref().map(Log::open).transpose() {
        Ok(history) => history.map(Arc::new),
        Err(error) => {
            eprintln!("lockmesh: history: {error}");
            return ExitCode::from(BAD_CONFIG);
        }
    };
    let started = tokio::select! {
        started = start(args) => started,
        signal = signals.next() => {
            tracing::info!(signal, "stopping before the start");
            return ExitCode::SUCCESS;
        }
    };
    match started {
        Ok((mesh, settings)) => live(&mesh, &settings, history, &mut signals).await,
        Err(error) => {
            eprintln!("lockmesh: {error}");
            ExitCode::from(BAD_CONFIG)
        }
    }
}

/// Runs until a signal arrives, the workload is done, or the history fails.
async fn live(
    mesh: &Mesh,
    settings: &WorkloadFile,
    history: Option<Arc<Log>>,
    signals: &mut Signals,
) -> ExitCode {
    let mut workload = history.as_ref().map(|log| {
        log.start(mesh);
        Workload::start(mesh, log, settings)
    });
    let failed = async {
        match &history {
            Some(log) => log.failed().await,
            None => std::future::pending().await,
        }
    };
    let done = async {
        match &mut workload {
            Some(workload) => workload.done().await,
            None => std::future::pending().await,
        }
    };
    let told = tokio::select! {
        signal = signals.next() => Ok(signal),
        () = done => Ok("workload"),
        never = say_whether_ready(mesh) => Ok(never),
        failed = failed => Err(failed),
    };
    let signal = told.as_ref().copied().unwrap_or("history");
    tracing::info!(node = %mesh.id(), signal, "stopping");
    if let Some(log) = &history {
        log.stopping(signal);
    }
    // Shut down first, while the workload still runs, so that no peer waits for the workload.
    if tokio::time::timeout(SHUTDOWN_AT_MOST, mesh.shutdown())
        .await
        .is_err()
    {
        tracing::warn!("the gossip did not end in {SHUTDOWN_AT_MOST:?}; everything is released");
    }
    if let (Some(workload), Some(log)) = (&mut workload, &history) {
        let ended = tokio::time::timeout(WORKLOAD_AT_MOST, workload.ended()).await;
        if ended.is_err() {
            tracing::warn!("the workload did not end in {WORKLOAD_AT_MOST:?}");
        }
        log.end();
    }
    match told {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lockmesh: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Logs to standard error, filtered by `RUST_LOG`; the default is `info`.
fn log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter);
    log.with_writer(io::stderr).with_ansi(false).init();
}

async fn start(args: &Args) -> Result<(Mesh, WorkloadFile), FileError> {
    let config = NodeConfig::read(args.config.as_deref(), &args.overrides)?;
    let builder = config.builder()?;
    if args.wall_offset_ms != 0 {
        let ms = args.wall_offset_ms;
        tracing::warn!(
            ms,
            "the wall clock is read with an offset, as --wall-offset-ms says"
        );
    }
    let clock = SkewedClock(SystemClock::new(), args.wall_offset_ms);
    let mesh = builder.clock(clock).start().await;
    let mesh = mesh.map_err(|error| config.error(&error))?;
    Ok((mesh, config.workload))
}

/// Logs whether the node found its peers. Never returns.
async fn say_whether_ready(mesh: &Mesh) -> &'static str {
    match mesh.ready(READY_AT_MOST).await {
        Ok(()) => tracing::info!(node = %mesh.id(), "ready"),
        Err(error) => tracing::warn!(node = %mesh.id(), %error, "goes on"),
    }
    std::future::pending().await
}

/// The signals that stop the command.
#[cfg(unix)]
pub(crate) struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    pub(crate) fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// The signals that stop the command.
#[cfg(windows)]
pub(crate) struct Signals(tokio::signal::windows::CtrlC);

#[cfg(windows)]
impl Signals {
    pub(crate) fn new() -> io::Result<Self> {
        tokio::signal::windows::ctrl_c().map(Self)
    }

    pub(crate) async fn next(&mut self) -> &'static str {
        self.0.recv().await;
        "Ctrl-C"
    }
}

/// The clock of this machine, with a wall clock that is ahead by milliseconds.
#[derive(Debug)]
struct SkewedClock(SystemClock, i64);

impl Clock for SkewedClock {
    fn monotonic(&self) -> Duration {
        self.0.monotonic()
    }

    fn wall(&self) -> SystemTime {
        let (now, skew) = (self.0.wall(), Duration::from_millis(self.1.unsigned_abs()));
        let wrong = match self.1 {
            0.. => now.checked_add(skew),
            _ => now.checked_sub(skew),
        };
        wrong.unwrap_or(now)
    }
}
