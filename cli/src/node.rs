//! `lockmesh node`: runs one bare node until it receives a signal.

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use lockmesh::{ConfigError, Mesh, MeshBuilder};
use tokio::sync::mpsc;
use tracing_subscriber::EnvFilter;

use crate::config::{NodeConfig, NodeConfigError, Overrides};

/// The exit code for an invalid configuration.
pub const BAD_CONFIG: u8 = 2;
/// The time to find peers, after which the node logs a warning and continues.
const READY_AT_MOST: Duration = Duration::from_secs(60);
/// The longest wait for the last rounds of gossip at shutdown.
const SHUTDOWN_AT_MOST: Duration = Duration::from_secs(10);

/// Runs a node until it receives SIGTERM or SIGINT. Logs to standard error. A voter uses a data
/// directory, unless its configuration sets none.
///
/// At SIGHUP it reads the secrets of its configuration again. If they are invalid, it logs an error
/// and keeps those that it has. No other setting is read again.
///
/// Returns [`BAD_CONFIG`] if the node does not start, and [`ExitCode::FAILURE`] if the system allows
/// no signal handlers.
///
/// # Panics
/// Panics outside a tokio runtime with I/O and timers, and if the process has a global subscriber of
/// `tracing`.
///
/// # Cancel safety
/// Dropping the future releases the node's locks and ends the node, without an announcement to its
/// peers.
pub async fn run(config: Option<&Path>, overrides: &Overrides) -> ExitCode {
    log("info");
    // Installed before the start, so that a signal during the start also ends in a clean stop.
    let mut signals = match Signals::new(true) {
        Ok(signals) => signals,
        Err(error) => {
            eprintln!("lockmesh: no signal handlers: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut is_hung_up = false;
    let started = tokio::select! {
        started = start_with_data_dir(config, overrides) => started,
        signal = until_stopped(&mut signals, || is_hung_up = true) => {
            tracing::info!(signal, "stopping before the start");
            return ExitCode::SUCCESS;
        }
    };
    match started {
        Ok(mesh) => {
            let reload = || reload_secrets(&mesh, config, overrides);
            if is_hung_up {
                reload();
            }
            let signal = tokio::select! {
                signal = until_stopped(&mut signals, reload) => signal,
                never = report_ready(&mesh) => never,
            };
            stop(&mesh, signal).await;
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("lockmesh: {error}");
            ExitCode::from(BAD_CONFIG)
        }
    }
}

/// Waits for a signal to stop, and calls `reload` for each SIGHUP before it.
async fn until_stopped(signals: &mut Signals, mut reload: impl FnMut()) -> &'static str {
    loop {
        match signals.next().await {
            HANGUP => reload(),
            signal => return signal,
        }
    }
}

/// Gives the node the secrets that its configuration has now. If it has none that are valid, the
/// node keeps its own.
fn reload_secrets(mesh: &Mesh, config: Option<&Path>, overrides: &Overrides) {
    let secrets = NodeConfig::read(config, overrides).and_then(|config| config.secrets());
    let is_plaintext = mesh.status().secrets.is_empty();
    let error = match secrets {
        Ok(Some(secrets)) => match mesh.rotate_secrets(secrets) {
            Ok(()) => return,
            Err(error) => error.to_string(),
        },
        Ok(None) if is_plaintext => return,
        Ok(None) => "plaintext is configured, and takes a restart".to_owned(),
        Err(error) => error.to_string(),
    };
    tracing::error!(
        node = %mesh.id(), %error,
        "the secrets are not replaced, and the node keeps those that it has; correct the \
         configuration and send SIGHUP again"
    );
}

/// Logs to standard error, filtered by `RUST_LOG`, or by `default` if that is not set.
///
/// # Panics
/// Panics if the process has a global subscriber of `tracing`.
pub fn log(default: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let log = tracing_subscriber::fmt().with_env_filter(filter);
    // A report of a failed write to a closed standard error would panic.
    let log = log.log_internal_errors(false);
    log.with_writer(io::stderr).with_ansi(false).init();
}

/// Starts the node of a configuration file, if there is one, of the environment and of options.
/// `change` completes its settings.
///
/// # Errors
/// If a setting is invalid or the node does not start:
/// - [`NodeConfigError::Outside`] if a variable or an option sets the value, or there is no file.
/// - [`NodeConfigError::File`] otherwise. It names the line of the setting.
///
/// # Panics
/// Panics in a tokio runtime without I/O or timers; see [`MeshBuilder::start`].
///
/// # Cancel safety
/// If the future is dropped before it completes, nothing is left running.
pub async fn start(
    config: Option<&Path>,
    overrides: &Overrides,
    change: impl FnOnce(MeshBuilder) -> MeshBuilder,
) -> Result<Mesh, NodeConfigError> {
    let config = NodeConfig::read(config, overrides)?;
    let started = change(config.builder()?).start().await;
    started.map_err(|error| config.error(&error))
}

/// Starts the node of a configuration, with the default data directory if it sets none.
async fn start_with_data_dir(
    config: Option<&Path>,
    overrides: &Overrides,
) -> Result<Mesh, NodeConfigError> {
    let config = NodeConfig::read(config, overrides)?;
    let builder = config.builder()?;
    let started = match config.default_data_dir() {
        None => builder.start().await,
        Some(dir) => match builder.clone().data_dir(&dir).start().await {
            // Nobody asked for this directory, so its absence does not prevent the start. But
            // votes that this process gave without a journal would be missing in an old one.
            Err(error @ ConfigError::DataDir { .. }) if !may_have_journal(&dir) => {
                tracing::warn!(
                    %error,
                    "no journal is kept, so a crash costs this vote for max_ttl, a minute by default; \
                     choose another directory with --data-dir DIR, or none with --data-dir \"\""
                );
                builder.start().await
            }
            started => started,
        },
    };
    started.map_err(|error| config.error(&error))
}

/// Returns `false` if a data directory surely has no journal.
fn may_have_journal(dir: &Path) -> bool {
    match std::fs::metadata(dir.join("journal")) {
        Ok(_) => true,
        Err(error) => !matches!(
            error.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
        ),
    }
}

/// Logs if the node is ready, or is not ready after 60 s. Never returns.
///
/// # Cancel safety
/// This function is cancel safe.
pub async fn report_ready<T>(mesh: &Mesh) -> T {
    match mesh.ready(READY_AT_MOST).await {
        Ok(()) => tracing::info!(node = %mesh.id(), "ready"),
        Err(error) => tracing::warn!(node = %mesh.id(), %error, "continues without all peers"),
    }
    std::future::pending().await
}

/// Shuts the node down, and logs `signal` as the reason. Returns after at most 10 s.
///
/// # Cancel safety
/// The shutdown starts when the future is first polled; see [`Mesh::shutdown`].
pub async fn stop(mesh: &Mesh, signal: &str) {
    tracing::info!(node = %mesh.id(), signal, "stopping");
    let shut_down = tokio::time::timeout(SHUTDOWN_AT_MOST, mesh.shutdown()).await;
    if shut_down.is_err() {
        tracing::warn!("the gossip did not end in {SHUTDOWN_AT_MOST:?}; all locks are released");
    }
}

/// The name of the signal that most daemons take as the request to read files again.
const HANGUP: &str = "SIGHUP";

/// The signals that stop a process, and SIGHUP.
#[derive(Debug)]
pub struct Signals(mpsc::Receiver<&'static str>);

impl Signals {
    /// Handles SIGTERM and SIGINT from here on, and SIGHUP if `with_hangup` is set. On systems
    /// without these signals, handles Ctrl-C.
    ///
    /// # Errors
    /// An error of the operating system if it allows no handler.
    ///
    /// # Panics
    /// Panics outside a tokio runtime with I/O.
    pub fn new(with_hangup: bool) -> io::Result<Self> {
        let (notify, signals) = mpsc::channel(1);
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            let kinds = [
                (SignalKind::terminate(), "SIGTERM"),
                (SignalKind::interrupt(), "SIGINT"),
                (SignalKind::hangup(), HANGUP),
            ];
            for (kind, name) in &kinds[..2 + usize::from(with_hangup)] {
                let (mut signal, notify, name) = (signal(*kind)?, notify.clone(), *name);
                tokio::spawn(async move {
                    while signal.recv().await.is_some() && notify.send(name).await.is_ok() {}
                });
            }
        }
        #[cfg(not(unix))]
        {
            let _ = with_hangup;
            tokio::spawn(async move {
                while tokio::signal::ctrl_c().await.is_ok() && notify.send("Ctrl-C").await.is_ok() {
                }
            });
        }
        Ok(Self(signals))
    }

    /// Waits for a signal, and returns its name.
    ///
    /// # Cancel safety
    /// This method is cancel safe: no signal is lost.
    pub async fn next(&mut self) -> &'static str {
        match self.0.recv().await {
            Some(signal) => signal,
            None => std::future::pending().await,
        }
    }
}
