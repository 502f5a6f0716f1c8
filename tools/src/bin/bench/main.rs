//! The bench: the cost of a lock, compared with the bare datagrams that it needs.
//!
//! Both are measured in one run, in alternating slices, so that other load on the machine affects
//! both alike. Only the ratios can be compared between machines. Peers of the floor and nodes of
//! the mesh have their own processes, so that both pay for the same context switches.

mod child;
#[cfg(feature = "compare")]
mod compare;
mod crashes;
mod floor;
mod held;
mod locks;
mod protocol;
mod report;
mod turns;
mod work;
mod worker;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};
use report::Figures;
use turns::Load;

/// The length of a slice.
const SLICE: Duration = Duration::from_millis(250);
/// The time that a measurement may take in addition to its slice.
const PATIENCE: Duration = Duration::from_secs(10);
/// The number of nodes in the row with more voters.
const MORE_NODES: usize = 5;
/// The load that the goals are for.
const GOAL_NODES: u8 = 3;
const GOAL_TASKS: u16 = 64;

/// Measure locks and bare datagrams in one run on this machine.
#[derive(Clone, Debug, Parser)]
#[command(name = "bench", args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    args: Args,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Run a child process, which reads commands from standard input.
    #[command(hide = true)]
    Child {
        /// The runtime of the measuring process.
        #[arg(long, value_enum, default_value_t)]
        runtime: Flavour,
    },
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Number of nodes; all of them vote.
    #[arg(long, default_value_t = GOAL_NODES, value_parser = clap::value_parser!(u8).range(3..=15))]
    nodes: u8,
    /// Number of tasks that acquire and release at once.
    #[arg(long, default_value_t = GOAL_TASKS)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=4096))]
    tasks: u16,
    /// Number of keys that the tasks share; one for each task by default. With fewer keys, tasks
    /// contend.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    keys: Option<u32>,
    /// Duration of each measurement, in seconds.
    #[arg(long, default_value_t = 3.0, value_parser = seconds)]
    seconds: f64,
    /// Measure only these rows of the table.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Row::ALL)]
    only: Vec<Row>,
    /// Run all nodes and all peers of the floor as tasks of one process.
    #[arg(long)]
    in_process: bool,
    /// Tokio runtime of each process.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) runtime: Flavour,
    /// Also measure these lock services, with servers that are started for it: W1 to W5, if the
    /// service supports them. Needs a build with the feature `compare`.
    #[arg(long, value_enum, value_delimiter = ',', conflicts_with = "nodes")]
    compare: Vec<Other>,
    /// Print one JSON object as the last line.
    #[arg(long)]
    json: bool,
}

/// A lock service to compare with.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum Other {
    /// One Redis server, and three with Redlock (Debian package `redis-server`).
    Redis,
    /// Three members of etcd (Debian package `etcd-server`).
    Etcd,
}

/// A row of the table.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum Row {
    /// An uncontended acquisition.
    W1,
    /// An uncontended acquisition with five voters.
    W1Five,
    /// Cycles of many tasks on their own keys.
    W2,
    /// Many tasks on one key.
    W3,
    /// Five kills of a holder's process, and five kills with a restart.
    W4,
    /// Processor time; measured with W2.
    W5,
    /// Memory of a voter for each of 1,000,000 locks.
    Memory,
    /// Datagrams that renew 100,000 locks.
    Keep,
}

impl Row {
    const ALL: [Self; 8] = [
        Self::W1,
        Self::W1Five,
        Self::W2,
        Self::W3,
        Self::W4,
        Self::W5,
        Self::Memory,
        Self::Keep,
    ];
}

/// The kind of tokio runtime.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub(crate) enum Flavour {
    /// A worker thread for each core, as in `#[tokio::main]`.
    #[default]
    MultiThread,
    /// One thread.
    CurrentThread,
}

impl Flavour {
    /// Returns the name on the command line.
    fn name(self) -> &'static str {
        match self {
            Self::MultiThread => "multi-thread",
            Self::CurrentThread => "current-thread",
        }
    }

    /// Creates a runtime of this kind.
    pub(crate) fn runtime(self) -> std::io::Result<tokio::runtime::Runtime> {
        match self {
            Self::MultiThread => tokio::runtime::Runtime::new(),
            Self::CurrentThread => tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build(),
        }
    }
}

/// The place where nodes and peers run.
#[derive(Clone, Copy, Debug)]
struct Setup {
    in_process: bool,
    flavour: Flavour,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| "it must be a number of seconds".to_owned())?;
    if (0.1..=600.0).contains(&seconds) {
        Ok(seconds)
    } else {
        Err("it must be 0.1 to 600".to_owned())
    }
}

fn main() -> ExitCode {
    let Cli { command, args } = Cli::parse();
    let flavour = match &command {
        Some(Command::Child { runtime }) => *runtime,
        None => args.runtime,
    };
    let runtime = match flavour.runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("bench: no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(async {
        match command {
            Some(Command::Child { .. }) => worker::run().await,
            None => run(&args).await,
        }
    })
}

/// Measures and prints the figures. Returns exit code 1 if the measurement failed.
async fn run(args: &Args) -> ExitCode {
    if !cfg!(feature = "compare") && !args.compare.is_empty() {
        eprintln!("bench: --compare: this was built without it; build with --features compare");
        return ExitCode::from(2);
    }
    // Run on a worker of the runtime like all other tasks: the main thread would need more
    // wake-ups.
    let measured = tokio::spawn(measure(args.clone())).await;
    match measured
        .context("the measurement broke off")
        .and_then(|figures| figures)
    {
        Ok(Some(figures)) => {
            figures.print(args);
            ExitCode::SUCCESS
        }
        Ok(None) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Returns the figures of the mesh, or `None` if they were printed beside those of others.
async fn measure(args: Args) -> anyhow::Result<Option<Figures>> {
    let tasks = usize::from(args.tasks);
    let setup = Setup {
        in_process: args.in_process,
        flavour: args.runtime,
    };
    let load = Load {
        nodes: usize::from(args.nodes),
        tasks,
        keys: args.keys.map_or(Ok(tasks), usize::try_from)?,
        span: Duration::from_secs_f64(args.seconds),
        rows: args.only.clone(),
    };
    #[cfg(feature = "compare")]
    if !args.compare.is_empty() {
        compare::find(&args.compare)?;
        let both = async {
            let alone = Args {
                only: compare::rows(&args.only),
                ..args.clone()
            };
            let mesh = of_mesh(&alone, setup, &load).await?;
            compare::run(&args.compare, setup, &load, &mesh, args.json).await
        };
        return compare::unless_stopped(both).await.map(|()| None);
    }
    of_mesh(&args, setup, &load).await.map(Some)
}

async fn of_mesh(args: &Args, setup: Setup, load: &Load) -> anyhow::Result<Figures> {
    let has = |row| args.only.contains(&row);
    let mut figures = Figures::default();
    if [Row::W1, Row::W2, Row::W3, Row::W5].into_iter().any(has) {
        figures = turns::measure(setup, load).await?;
    }
    if has(Row::W1Five) {
        figures.five = Some(turns::measure_one(setup, MORE_NODES, load.span).await?);
    }
    if has(Row::W4) {
        figures.crashes = Some(crashes::measure(args.runtime).await?);
    }
    if has(Row::Memory) {
        figures.memory = held::memory(args.runtime).await?;
    }
    if has(Row::Keep) {
        figures.kept = Some(held::kept(setup).await?);
    }
    Ok(figures)
}
