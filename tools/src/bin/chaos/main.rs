//! Chaos: real processes in network namespaces, under faults from a seed. `docs/chaos.md` describes
//! it.
#![forbid(unsafe_code)]

mod check;
mod command;
mod history;
mod model;
mod plan;
mod play;
mod processes;
mod run;
mod worker;
mod world;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Run real processes in network namespaces under faults from a seed, and judge their histories.
/// Exit code: 0 accepted, 1 rejected, 77 skipped because it cannot run here.
#[derive(Parser)]
#[command(name = "chaos", args_conflicts_with_subcommands = true)]
struct Program {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: run::Args,
}

#[derive(Subcommand)]
enum Command {
    /// Check recorded histories. Exit code: 0 accepted, 1 contradiction, 2 unreadable.
    Check(check::Args),
    /// Run one node with a workload, and record its history.
    #[command(hide = true)]
    Worker(worker::Args),
}

#[tokio::main]
async fn main() -> ExitCode {
    let program = Program::parse();
    match program.command {
        Some(Command::Check(args)) => check::run(&args),
        Some(Command::Worker(args)) => worker::run(args).await,
        None => run::run(&program.run).await,
    }
}
