//! The command of lockmesh: a demo, a key generator, a bare node, and a measurement.
#![forbid(unsafe_code)]

mod bench;
mod demo;
mod keygen;
mod node;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A lock mesh: a demo, a key generator, a bare node, and a measurement.
#[derive(Debug, Parser)]
#[command(name = "lockmesh", version)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
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
    /// A process that the measurement starts: it takes its orders from the standard input.
    #[command(hide = true)]
    BenchChild {
        /// As the measuring process has it.
        #[arg(long, value_enum, default_value_t)]
        runtime: bench::Flavour,
    },
}

fn main() -> ExitCode {
    let command = Args::parse().command;
    let command = command.unwrap_or(Command::Demo { json: false });
    let flavour = match &command {
        Command::Bench(args) => args.runtime,
        Command::BenchChild { runtime } => *runtime,
        _ => bench::Flavour::default(),
    };
    let runtime = match flavour.runtime() {
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
            Command::BenchChild { .. } => bench::run_child().await,
        }
    })
}
