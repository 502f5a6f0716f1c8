//! `lockmesh node`: one bare node, which votes and asks for nothing, until it is told to stop.

pub(crate) mod config;

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use config::Source;
use lockmesh::Mesh;
use tracing_subscriber::EnvFilter;

/// What a configuration that cannot be ends with.
const BAD_CONFIG: u8 = 2;
/// A node that has not found its peers by then says so, and goes on.
const READY_AT_MOST: Duration = Duration::from_secs(60);
/// Longer than the last rounds of gossip at the slowest setting would be no quick stop.
const SHUTDOWN_AT_MOST: Duration = Duration::from_secs(10);

pub(crate) async fn run(file: &Path) -> ExitCode {
    log();
    // Before the start: who is told to stop while it starts stops in order, too.
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => {
            eprintln!("lockmesh: signals cannot be heard: {error}");
            return ExitCode::FAILURE;
        }
    };
    let started = tokio::select! {
        started = start(file) => started,
        signal = signals.next() => {
            tracing::info!(signal, "stopping before the start");
            return ExitCode::SUCCESS;
        }
    };
    let mesh = match started {
        Ok(mesh) => mesh,
        Err(error) => {
            eprintln!("lockmesh: {error}");
            return ExitCode::from(BAD_CONFIG);
        }
    };
    let signal = tokio::select! {
        signal = signals.next() => signal,
        signal = say_whether_ready(&mesh) => signal,
    };
    tracing::info!(node = %mesh.id(), signal, "stopping");
    if tokio::time::timeout(SHUTDOWN_AT_MOST, mesh.shutdown())
        .await
        .is_err()
    {
        tracing::warn!("the gossip did not end in {SHUTDOWN_AT_MOST:?}; everything is released");
    }
    ExitCode::SUCCESS
}

/// To standard error; as `RUST_LOG` says, from `info` on by default.
fn log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter);
    log.with_writer(io::stderr).with_ansi(false).init();
}

async fn start(file: &Path) -> Result<Mesh, config::FileError> {
    let source = Source::read(file)?;
    let builder = source.builder()?;
    builder
        .start()
        .await
        .map_err(|error| source.config_error(&error))
}

/// Says whether the node has found its peers, and then waits for ever.
async fn say_whether_ready(mesh: &Mesh) -> &'static str {
    match mesh.ready(READY_AT_MOST).await {
        Ok(()) => tracing::info!(node = %mesh.id(), "ready"),
        Err(error) => tracing::warn!(node = %mesh.id(), %error, "goes on"),
    }
    std::future::pending().await
}

/// What tells the node to stop.
#[cfg(unix)]
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// What tells the node to stop.
#[cfg(windows)]
struct Signals(tokio::signal::windows::CtrlC);

#[cfg(windows)]
impl Signals {
    fn new() -> io::Result<Self> {
        tokio::signal::windows::ctrl_c().map(Self)
    }

    async fn next(&mut self) -> &'static str {
        self.0.recv().await;
        "Ctrl-C"
    }
}
