//! `lockmesh node`: one bare node, which votes and asks for nothing, until it is told to stop.

mod config;

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
    let mesh = match start(file).await {
        Ok(mesh) => mesh,
        Err(error) => {
            eprintln!("lockmesh: {error}");
            return ExitCode::from(BAD_CONFIG);
        }
    };
    match until_stopped(&mesh).await {
        Ok(signal) => tracing::info!(node = %mesh.id(), signal, "stopping"),
        Err(error) => {
            eprintln!("lockmesh: signals cannot be heard: {error}");
            return ExitCode::FAILURE;
        }
    }
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

/// Waits for a signal, and meanwhile says whether the node has found its peers.
async fn until_stopped(mesh: &Mesh) -> io::Result<&'static str> {
    let ready = async {
        match mesh.ready(READY_AT_MOST).await {
            Ok(()) => tracing::info!(node = %mesh.id(), "ready"),
            Err(error) => tracing::warn!(node = %mesh.id(), %error, "goes on"),
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        signal = signal() => signal,
        () = ready => unreachable!("it waits for ever"),
    }
}

#[cfg(unix)]
async fn signal() -> io::Result<&'static str> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}

#[cfg(not(unix))]
async fn signal() -> io::Result<&'static str> {
    tokio::signal::ctrl_c().await.map(|()| "Ctrl-C")
}
