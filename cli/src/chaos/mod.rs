//! `lockmesh chaos`: real processes in network namespaces, under faults.

#[cfg(target_os = "linux")]
mod command;
#[cfg(target_os = "linux")]
mod model;
#[cfg(target_os = "linux")]
mod plan;
#[cfg(target_os = "linux")]
mod play;
#[cfg(target_os = "linux")]
mod processes;
#[cfg(target_os = "linux")]
mod run;
#[cfg(target_os = "linux")]
mod world;

use std::path::PathBuf;
use std::process::ExitCode;

use crate::demo::put;

/// The exit code if chaos cannot run here: neither accepted nor rejected.
const SKIPPED: u8 = 77;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Number of nodes; all of them vote for every key.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(3..=9))]
    nodes: u8,
    /// Seed of the fault plan and of the nodes' workloads; random by default.
    #[arg(long)]
    seed: Option<u64>,
    /// Duration of the faults, in seconds.
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(20..=86_400))]
    seconds: u64,
    /// Measure takeovers instead: after a crash, a restart, SIGTERM and a partition of a holder,
    /// one at a time without other faults.
    #[arg(long, conflicts_with = "seconds")]
    measure: bool,
    /// Number of times that each takeover is measured.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000),
        requires = "measure")]
    rounds: u32,
    /// Print the plan and exit.
    #[arg(long)]
    plan: bool,
    /// Keep histories, logs and configurations in this directory, which must be empty. By default
    /// they are kept only if the run is not accepted.
    #[arg(long)]
    keep: Option<PathBuf>,
    /// Longest allowed wait while the key is free and a quorum is up, in milliseconds.
    #[arg(long, default_value_t = 10_000)]
    wait_bound_ms: u64,
    /// Print one JSON object as the last line.
    #[arg(long)]
    json: bool,
}

/// Returns exit code 0 (accepted), 1 (rejected or failed), 77 (cannot run here) or 130
/// (interrupted).
#[cfg(target_os = "linux")]
pub(crate) async fn run(args: &Args) -> ExitCode {
    run::run(args).await
}

/// Returns exit code 77: chaos cannot run here.
#[cfg(not(target_os = "linux"))]
#[expect(
    clippy::unused_async,
    reason = "it is awaited where there is something to wait for"
)]
pub(crate) async fn run(args: &Args) -> ExitCode {
    skip(args, "it needs network namespaces, which only Linux has")
}

fn skip(args: &Args, why: &str) -> ExitCode {
    put(&format!("SKIPPED: {why}"));
    if args.json {
        put(&serde_json::json!({ "outcome": "skipped", "why": why }).to_string());
    }
    ExitCode::from(SKIPPED)
}
