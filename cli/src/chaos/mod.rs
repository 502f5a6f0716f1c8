//! `lockmesh chaos`: real processes in networks of their own, and what may happen to them.

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

/// It could not run here: neither accepted nor rejected.
const SKIPPED: u8 = 77;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// How many nodes there are; all of them vote for every key.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(3..=9))]
    nodes: u8,
    /// What the plan of faults and the work of the nodes are drawn from; a fresh one by default.
    #[arg(long)]
    seed: Option<u64>,
    /// For how long there are faults.
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(20..=86_400))]
    seconds: u64,
    /// Measure take-overs instead: crash, restart, SIGTERM and partition of a holder, one after
    /// another in fair weather.
    #[arg(long, conflicts_with = "seconds")]
    measure: bool,
    /// How often each is measured.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000),
        requires = "measure")]
    rounds: u32,
    /// Only print the plan.
    #[arg(long)]
    plan: bool,
    /// Keep histories, logs and configurations in this directory, which must be empty. Without
    /// it they are kept only where something went wrong.
    #[arg(long)]
    keep: Option<PathBuf>,
    /// How long somebody may stand in line while the key is free and a quorum is up, in
    /// milliseconds: five leases.
    #[arg(long, default_value_t = 10_000)]
    wait_bound_ms: u64,
    /// Print one JSON object as the last line.
    #[arg(long)]
    json: bool,
}

/// Ends with 0 where all histories are accepted, with 1 where they are not or the run failed,
/// and with 77 where it cannot run here.
#[cfg(target_os = "linux")]
pub(crate) async fn run(args: &Args) -> ExitCode {
    run::run(args).await
}

/// Ends with 77: it cannot run here.
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
