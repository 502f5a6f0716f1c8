//! `lockmesh bench`: what a lock costs, beside the bare datagrams that it cannot do without.
//!
//! Both sides are measured in one run, in slices that take turns, so that whatever else the
//! machine does hits them alike. Only the ratios travel. Peers of the floor and nodes of the mesh
//! are processes of their own, so that both sides pay for the same switches between processes.

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
use report::Figures;
use turns::Load;
pub(crate) use worker::run as run_child;

/// The sides take turns so often.
const SLICE: Duration = Duration::from_millis(250);
/// How much longer than its slice a measurement may take before it has failed.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many nodes there are in the row for more voters.
const MORE_NODES: usize = 5;
/// What the goals are for.
const GOAL_NODES: u8 = 3;
const GOAL_TASKS: u16 = 64;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// How many nodes there are; all of them vote.
    #[arg(long, default_value_t = GOAL_NODES, value_parser = clap::value_parser!(u8).range(3..=15))]
    nodes: u8,
    /// How many tasks acquire and release at once.
    #[arg(long, default_value_t = GOAL_TASKS)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=4096))]
    tasks: u16,
    /// How many keys those tasks share out; one for each task by default. With fewer keys than
    /// tasks they contend.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    keys: Option<u32>,
    /// How long each measurement takes.
    #[arg(long, default_value_t = 3.0, value_parser = seconds)]
    seconds: f64,
    /// Measure these rows of the table and no others.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Row::ALL)]
    only: Vec<Row>,
    /// All nodes, and all peers of the floor, as tasks of one process.
    #[arg(long)]
    in_process: bool,
    /// Which runtime of tokio drives each process.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) runtime: Flavour,
    /// Measure these lock services too, W1 to W5 as far as each has it, by servers that are started
    /// for it. Needs a build with the feature `compare`.
    #[arg(long, value_enum, value_delimiter = ',', conflicts_with = "nodes")]
    compare: Vec<Other>,
    /// Print one JSON object as the last line.
    #[arg(long)]
    json: bool,
}

/// A lock service to compare with.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum Other {
    /// One Redis, and three of them by Redlock: Debian's package `redis-server`.
    Redis,
    /// Three members of etcd: Debian's package `etcd-server`.
    Etcd,
}

/// A row of the table.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum Row {
    /// An uncontended acquisition.
    W1,
    /// The same with five voters.
    W1Five,
    /// Cycles of many tasks on their own keys.
    W2,
    /// Many tasks on one key.
    W3,
    /// A holder's process is killed, five times, and comes back, five times.
    W4,
    /// Processor time; measured with W2.
    W5,
    /// Memory of a voter for each of 1,000,000 locks.
    Memory,
    /// Datagrams that keep 100,000 locks.
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

/// Which runtime of tokio.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub(crate) enum Flavour {
    /// What `#[tokio::main]` makes: a worker for each core.
    #[default]
    MultiThread,
    /// One thread.
    CurrentThread,
}

impl Flavour {
    /// As the command line has it.
    fn name(self) -> &'static str {
        match self {
            Self::MultiThread => "multi-thread",
            Self::CurrentThread => "current-thread",
        }
    }

    /// A runtime of this kind.
    pub(crate) fn runtime(self) -> std::io::Result<tokio::runtime::Runtime> {
        match self {
            Self::MultiThread => tokio::runtime::Runtime::new(),
            Self::CurrentThread => tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build(),
        }
    }
}

/// Where nodes and peers run.
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

/// Measures, and tells. Ends with 1 where that failed, whatever the figures.
pub(crate) async fn run(args: &Args) -> ExitCode {
    if !cfg!(feature = "compare") && !args.compare.is_empty() {
        eprintln!("lockmesh: --compare: this was built without it; build with --features compare");
        return ExitCode::from(2);
    }
    // On a worker of the runtime like everything else: the main thread would pay for more wake-ups.
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
            eprintln!("lockmesh: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What was measured of the mesh; `None` where that was printed beside others.
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
