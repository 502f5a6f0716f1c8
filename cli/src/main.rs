//! The command of lockmesh: a demo, a key generator, a bare node, and a measurement.
#![forbid(unsafe_code)]

mod bench;
mod demo;
mod keygen;
mod look;
mod node;
mod top;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A lock mesh: a demo, a key generator, a bare node, and a measurement.
#[derive(Parser)]
#[command(name = "lockmesh", version)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Five nodes on this machine: cut off, healed, crashed, restarted. The default.
    Demo {
        /// Print one JSON object as the last line.
        #[arg(long)]
        json: bool,
    },
    /// Print a fresh cluster key.
    Keygen,
    /// Run one bare node until SIGTERM or SIGINT.
    Node {
        /// The configuration, in TOML.
        #[arg(long)]
        config: PathBuf,
    },
    /// Measure locks beside bare datagrams, in one run on this machine.
    Bench(bench::Args),
    /// Show the members of a running mesh and whether locks can be had. Ends with 0 where every
    /// member votes, 3 where some do not, 4 where some keys have no majority, 1 without an answer.
    Status(look::status::Args),
    /// Show who holds a lock of a running mesh and who waits for it. Ends with 0, with 4 where too
    /// few voters answered, 1 without an answer.
    Inspect(look::inspect::Args),
    /// Members, locks, queues and rates of a running mesh, in the terminal; without one, or with
    /// --once, one picture as text.
    Top(top::Args),
}

fn main() -> ExitCode {
    let command = Args::parse().command;
    let command = command.unwrap_or(Command::Demo { json: false });
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("lockmesh: no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(async {
        match command {
            Command::Demo { json } => demo::run(json).await,
            Command::Keygen => keygen::run(),
            Command::Node { config } => node::run(&config).await,
            Command::Bench(args) => bench::run(&args).await,
            Command::Status(args) => look::status::run(&args).await,
            Command::Inspect(args) => look::inspect::run(&args).await,
            Command::Top(args) => top::run(&args).await,
        }
    })
}
