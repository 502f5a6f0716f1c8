//! The command of lockmesh: a demo, a lab, a node, a checker of histories, chaos, a measurement.
#![forbid(unsafe_code)]

mod bench;
mod chaos;
mod check;
mod demo;
mod history;
mod keygen;
mod lab;
mod look;
mod node;
mod top;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A lock mesh: a demo, a lab, a node, a look at a running mesh, chaos, a measurement.
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
    /// Several nodes on this machine and a page to see them and to break them, on 127.0.0.1.
    Lab(lab::Args),
    /// Print a fresh cluster secret.
    Keygen,
    /// Run one bare node until SIGTERM or SIGINT.
    Node(node::Args),
    /// Judge what nodes believed: 0 accepted, 1 contradictory, 2 not readable.
    Check(check::Args),
    /// Real processes in networks of their own, and faults from a seed: 0 accepted, 1 not, 77
    /// skipped since it cannot run here.
    Chaos(chaos::Args),
    /// Measure locks beside bare datagrams, in one run on this machine.
    Bench(bench::Args),
    /// A process that the measurement starts: it takes its orders from the standard input.
    #[command(hide = true)]
    BenchChild {
        /// As the measuring process has it.
        #[arg(long, value_enum, default_value_t)]
        runtime: bench::Flavour,
    },
    /// Show the members of a running mesh and whether locks can be had. Ends with 0 where every
    /// member votes, 3 where some do not, 4 where some keys have no quorum, 1 without an answer.
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
            Command::Lab(args) => lab::run(&args).await,
            Command::Keygen => keygen::run(),
            Command::Node(args) => node::run(&args).await,
            Command::Check(args) => check::run(&args),
            Command::Chaos(args) => chaos::run(&args).await,
            Command::Bench(args) => bench::run(&args).await,
            Command::BenchChild { .. } => bench::run_child().await,
            Command::Status(args) => look::status::run(&args).await,
            Command::Inspect(args) => look::inspect::run(&args).await,
            Command::Top(args) => top::run(&args).await,
        }
    })
}
