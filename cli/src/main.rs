//! The `lockmesh` command: demo, lab, node, history checker, chaos runner and benchmarks.
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

/// Run, observe, test and measure a lock mesh.
#[derive(Parser)]
#[command(name = "lockmesh", version)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Run a scripted demo of five nodes: partition, heal, crash, restart. This is the default.
    Demo {
        /// Print one JSON object as the last line.
        #[arg(long)]
        json: bool,
    },
    /// Run several nodes and serve a web page on 127.0.0.1 that shows them and injects faults.
    Lab(lab::Args),
    /// Print a new cluster secret.
    Keygen,
    /// Run one node until SIGTERM or SIGINT.
    Node(node::Args),
    /// Check recorded histories. Exit code: 0 accepted, 1 contradiction, 2 unreadable.
    Check(check::Args),
    /// Run real processes in network namespaces under faults from a seed. Exit code: 0 accepted, 1
    /// rejected, 77 skipped because it cannot run here.
    Chaos(chaos::Args),
    /// Measure locks and bare datagrams in one run on this machine.
    Bench(bench::Args),
    /// Run a child process of `bench`, which reads commands from standard input.
    #[command(hide = true)]
    BenchChild {
        /// The runtime of the measuring process.
        #[arg(long, value_enum, default_value_t)]
        runtime: bench::Flavour,
    },
    /// Show the members of a running mesh and whether locks can be granted. Exit code: 0 all
    /// members vote, 3 some do not, 4 some keys cannot be locked, 1 no answer. With --ready, a
    /// readiness probe of one node.
    Status(look::status::Args),
    /// Show who holds a lock of a running mesh and who waits for it. Exit code: 0 held or free, 4
    /// unknown, 1 no answer.
    Inspect(look::inspect::Args),
    /// Show members, locks, queues and rates of a running mesh in the terminal. With --once or
    /// without a terminal, print one snapshot as text.
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
