//! `lockmesh release KEY --force`: frees a lock that its holder does not release.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use lockmesh::status::RevokedClaim;
use lockmesh::{Epoch, Mesh, RevokeError};
use lockmesh_cli::{NodeConfig, Overrides, node};
use rustix::system::uname;
use serde_json::{Value, json};

use crate::exec::{NO_QUORUM, SHUTDOWN_AT_MOST, TAKEN, name, no_answer};
use crate::look::{Failure, bad_usage, millis, shown};

/// The exit code if nobody holds the lock.
const NOT_HELD: u8 = TAKEN;
/// The longest text that says who does it, in bytes.
const BY_BYTES_MAX: usize = 128;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Key of the lock.
    #[arg(value_name = "KEY")]
    lock: String,
    /// Say that the lock may be freed although its holder does not release it. The holder may still
    /// run: stop it first if what it writes to does not compare epochs.
    #[arg(long)]
    force: bool,
    /// The operator's name, for the logs of the voters and of the holder. Default: USER@HOST.
    #[arg(long, value_name = "TEXT")]
    by: Option<String>,
    /// Free the lock only if it is held under this epoch, as `lockmesh inspect` shows it.
    #[arg(long, value_name = "N")]
    epoch: Option<u64>,
    /// Configuration file of a node, in TOML, for its address, seeds, secret and voters.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Longest wait for the voters and the holder, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 5_000,
          value_parser = clap::value_parser!(u64).range(100..=60_000))]
    patience_ms: u64,
    /// Print one JSON object on one line.
    #[arg(long)]
    json: bool,
}

/// The end of `lockmesh release --help`.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0      a quorum of the voters renews the lock no more, or its holder has answered
  2      the options or the configuration are invalid
  69     no quorum of voters, and the holder did not answer; run it again
  75     nobody holds the lock, or not under this epoch";

pub(crate) async fn run(args: &Args) -> Result<ExitCode, Failure> {
    node::log("warn");
    if !args.force {
        return Err(bad_usage(
            "release: only the holder can release a lock in order. With --force, the voters renew it \
             no more, and its guard reports that it is lost; but its code may still run. Stop that first",
        ));
    }
    let config = NodeConfig::read(args.config.as_deref(), &Overrides::default());
    let config = config.map_err(bad_usage)?;
    let client = config.client(name(config.node_id(), "release"));
    let started = client.map_err(bad_usage)?.start().await;
    let mesh = started.map_err(|error| bad_usage(config.error(&error)))?;
    let done = args.release(&mesh).await;
    let _ = tokio::time::timeout(SHUTDOWN_AT_MOST, mesh.shutdown()).await;
    done
}

impl Args {
    async fn release(&self, mesh: &Mesh) -> Result<ExitCode, Failure> {
        let by = self.by.clone().unwrap_or_else(user);
        let mut request = mesh.revoke(self.lock.as_str(), by);
        request = request.patience(Duration::from_millis(self.patience_ms));
        if let Some(epoch) = self.epoch {
            request = request.epoch(Epoch::new(epoch));
        }
        match request.await {
            Ok(claim) if self.json => println!("{}", self.to_json(&claim)),
            Ok(claim) => print!("{}", self.to_text(&claim)),
            Err(error @ RevokeError::Name(_)) => return Err(bad_usage(error)),
            Err(error @ RevokeError::NotHeld { .. }) => {
                return Err(Failure(NOT_HELD, shown(&error.to_string())));
            }
            Err(error) => {
                let failure = || Failure(NO_QUORUM, error.to_string());
                return Err(no_answer(mesh).unwrap_or_else(failure));
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    fn to_json(&self, claim: &RevokedClaim) -> Value {
        json!({
            "key": self.lock,
            "node": claim.node,
            "epoch": claim.epoch.get().to_string(),
            "voters": claim.confirmed,
            "is_confirmed": claim.is_confirmed,
            "is_holder_notified": claim.is_holder_notified,
            "remaining_ms": millis(claim.remaining),
        })
    }

    fn to_text(&self, claim: &RevokedClaim) -> String {
        let key = shown(&self.lock);
        let (node, epoch) = (shown(claim.node.as_str()), claim.epoch.get());
        let told = match claim.is_holder_notified {
            true => "its guard reports that it is lost",
            false => "the holder did not answer, and holds it until its lease is over",
        };
        let end = match claim.is_confirmed {
            true => format!("free in {} ms at the latest", millis(claim.remaining)),
            false => "that is no quorum, so other votes may last longer; run it again".to_owned(),
        };
        let confirmed = claim.confirmed.len();
        format!(
            "{key}: taken from {node}, epoch {epoch}\n  {told}\n  {confirmed} voters renew it no \
             more\n  {end}\n"
        )
    }
}

/// Returns the user and the host of this process.
fn user() -> String {
    let variable = |name| std::env::var(name).ok().filter(|it| !it.is_empty());
    let user = variable("USER").or_else(|| variable("LOGNAME"));
    let user = user.unwrap_or_else(|| "unknown".to_owned());
    let host = uname();
    let mut by = format!("{user}@{}", host.nodename().to_string_lossy());
    by.retain(|c| !c.is_control());
    by.truncate(by.floor_char_boundary(BY_BYTES_MAX));
    by
}
