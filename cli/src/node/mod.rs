//! `lockmesh node`: one bare node, until it is told to stop. It votes; under `--workload` it also
//! asks for locks, and writes down what it believed of them.

pub(crate) mod config;
mod workload;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use config::Source;
use lockmesh::Mesh;
use tracing_subscriber::EnvFilter;
use workload::{Log, Workload, WorkloadFile};

/// What a configuration that cannot be ends with.
const BAD_CONFIG: u8 = 2;
/// A node that has not found its peers by then says so, and goes on.
const READY_AT_MOST: Duration = Duration::from_secs(60);
/// Longer than the last rounds of gossip at the slowest setting would be no quick stop.
const SHUTDOWN_AT_MOST: Duration = Duration::from_secs(10);

/// How long the tasks of the workload may take to see that the node is shut down.
const WORKLOAD_AT_MOST: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// The configuration, in TOML.
    #[arg(long)]
    config: PathBuf,
    /// Ask for locks, as the table [workload] of the configuration says.
    #[arg(long, requires = "history")]
    workload: bool,
    /// Append what the workload believed of its locks to this file, for `lockmesh check`.
    #[arg(long, requires = "workload")]
    history: Option<PathBuf>,
    /// Read the wall clock this many milliseconds ahead, or behind if negative: for tests of wrong
    /// clocks. Never set it in production.
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
    // Before the start: who is told to stop while it starts stops in order, too.
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

/// Until it is told to stop, or cannot write its history.
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
    // First of all, and while the workload goes on: nobody else need wait for it to notice.
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

/// To standard error; as `RUST_LOG` says, from `info` on by default.
fn log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter);
    log.with_writer(io::stderr).with_ansi(false).init();
}

async fn start(args: &Args) -> Result<(Mesh, WorkloadFile), config::FileError> {
    let source = Source::read(&args.config)?;
    let (builder, workload) = source.builder()?;
    if args.wall_offset_ms != 0 {
        let ms = args.wall_offset_ms;
        tracing::warn!(
            ms,
            "the wall clock is read with an offset, as --wall-offset-ms says"
        );
    }
    let mesh = builder.wall_offset_ms(args.wall_offset_ms).start().await;
    let mesh = mesh.map_err(|error| source.config_error(&error))?;
    Ok((mesh, workload))
}

/// Says whether the node has found its peers, and then waits for ever.
async fn say_whether_ready(mesh: &Mesh) -> &'static str {
    match mesh.ready(READY_AT_MOST).await {
        Ok(()) => tracing::info!(node = %mesh.id(), "ready"),
        Err(error) => tracing::warn!(node = %mesh.id(), %error, "goes on"),
    }
    std::future::pending().await
}

/// What tells the command to stop.
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

/// What tells the command to stop.
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
