//! The bench: the cost of a lock, compared with the bare datagrams that it needs.
//!
//! Both are measured in one run, in alternating slices, so that other load on the machine affects
//! both alike. Only the ratios can be compared between machines. Peers of the floor and nodes of
//! the mesh have their own processes, so that both pay for the same context switches.
#![forbid(unsafe_code)]

mod child;
#[cfg(feature = "compare")]
mod compare;
mod crashes;
mod dirs;
mod floor;
mod held;
mod kinds;
mod link;
mod locks;
mod report;
mod restarts;
mod turns;
mod worker;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Parser, Subcommand, ValueEnum};
use dirs::Keep;
use floor::Floor;
use locks::Cluster;
use report::Measured;
use serde_json::Value;
use tools::put;
use turns::{Contended, WAITERS};

/// The length of a slice.
const SLICE: Duration = Duration::from_millis(250);
/// The time that a measurement may take in addition to its slice.
const PATIENCE: Duration = Duration::from_secs(10);
/// The number of nodes, and that in the row with more voters.
const NODES: usize = 3;
const MORE_NODES: usize = 5;
/// The number of tasks that the goals are for.
const GOAL_TASKS: u16 = 64;

/// Measure locks and bare datagrams in one run on this machine.
#[derive(Clone, Debug, Parser)]
#[command(name = "bench", args_conflicts_with_subcommands = true)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Number of tasks that acquire and release at once. The goals are for the default.
    #[arg(long, default_value_t = GOAL_TASKS)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=4096))]
    tasks: u16,
    /// Duration of each measurement, in seconds.
    #[arg(long, default_value = "3", value_parser = seconds)]
    seconds: Duration,
    /// Measure only these rows of the table.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Row>,
    /// The places in which the voters keep their memory. Several are measured one after another, and
    /// one that is named again is measured again. Rows other than W1, W2, W3 and W5 keep it in the
    /// process.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "memory")]
    keep: Vec<Keep>,
    /// Also measure these lock services, with servers that are started for it: W1 to W5, if the
    /// service supports them. Needs a build with the feature `compare`.
    #[arg(long, value_enum, value_delimiter = ',')]
    compare: Vec<Other>,
    /// Print one JSON object as the last line.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Run a child process, which reads orders from standard input.
    #[command(hide = true)]
    Child,
}

/// A lock service to compare with.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Other {
    /// One Redis server, and three with Redlock (Debian package `redis-server`).
    Redis,
    /// Three members of etcd (Debian package `etcd-server`).
    Etcd,
}

/// A row of the table.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Row {
    /// An uncontended acquisition.
    W1,
    /// An uncontended acquisition with five voters.
    W1Five,
    /// An uncontended acquisition over links with a delay of 200 us, with three and five voters.
    W1Link,
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
    /// The time and the datagrams of each kind of lock, only if it is named.
    Kinds,
    /// Restarts of voters, with and without a data directory: five minutes, only if it is named.
    Restarts,
}

impl Args {
    /// Returns `true` if one of these rows is to be measured.
    fn has(&self, rows: &[Row]) -> bool {
        self.only.is_empty() || rows.iter().any(|row| self.only.contains(row))
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|it| (0.1..=600.0).contains(it));
    let seconds = seconds.map(Duration::from_secs_f64);
    seconds.ok_or_else(|| "it must be 0.1 to 600 seconds".to_owned())
}

/// Measures and prints the figures. Returns exit code 1 if the measurement failed.
#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    if args.command.is_some() {
        return worker::run().await;
    }
    if !cfg!(feature = "compare") && !args.compare.is_empty() {
        eprintln!("bench: --compare: this was built without it; build with --features compare");
        return ExitCode::from(2);
    }
    // Run on a worker of the runtime like all other tasks: the main thread would need more
    // wake-ups.
    let done = tokio::spawn(measure(args)).await;
    match done.context("the measurement broke off").flatten() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(args: Args) -> anyhow::Result<()> {
    put(&format!(
        "Sealed nodes and bare peers that echo, a process each, the first node this one; {} cores,\n\
         loopback UDP. Each measurement {:?}, in slices of {SLICE:?} that take turns with those of\n\
         its floor.\n",
        std::thread::available_parallelism().map_or(0, usize::from),
        args.seconds,
    ));
    let measured = async {
        let mut services = Vec::new();
        for keep in &args.keep {
            services.push((keep.name(), of_mesh(&args, *keep).await?));
        }
        #[cfg(feature = "compare")]
        services.extend(compare::measure(&args).await?);
        anyhow::Ok(services)
    };
    #[cfg(feature = "compare")]
    let measured = {
        compare::find(&args.compare)?;
        compare::unless_stopped(measured)
    };
    let services = measured.await?;
    report::print(&services);
    if args.json {
        let lines = services.iter().map(|(name, of)| {
            let mut line = report::json(of);
            line.insert("name".to_owned(), (*name).into());
            line.insert("tasks".to_owned(), args.tasks.into());
            Value::Object(line)
        });
        let mut lines: Vec<Value> = lines.collect();
        let line = match lines.len() {
            1 => lines.swap_remove(0),
            _ => serde_json::json!({ "compare": lines }),
        };
        put(&line.to_string());
    }
    Ok(())
}

async fn of_mesh(args: &Args, keep: Keep) -> anyhow::Result<Measured> {
    let mut measured = Measured::default();
    let span = args.seconds;
    if args.has(&[Row::W1, Row::W2, Row::W3, Row::W5]) {
        let mut floor = Floor::start(NODES).await?;
        let mut cluster = Cluster::start(NODES, keep).await?;
        if keep == Keep::Machine {
            measured.syncs = Some(dirs::syncs()?);
        }
        let mesh = cluster.mesh.clone();
        if args.has(&[Row::W1, Row::W3]) {
            measured.one = Some(turns::single(&floor, mesh.clone(), span).await?);
        }
        if args.has(&[Row::W2, Row::W5]) {
            let tasks = vec![mesh.clone(); args.tasks.into()];
            let cycles = turns::cycles(&mut floor, tasks, &mut cluster, span);
            measured.cycles = Some(cycles.await?);
        }
        if args.has(&[Row::W3]) {
            let began = Instant::now();
            let order = turns::in_time(span, cluster.contend(WAITERS, span)).await?;
            let mut contended = Contended::default();
            contended.add(&order, began.elapsed());
            measured.contended = Some(contended);
        }
        mesh.shutdown().await;
    }
    if args.has(&[Row::W1Five]) {
        let (floor, cluster) = (
            Floor::start(MORE_NODES).await?,
            Cluster::start(MORE_NODES, keep).await?,
        );
        measured.five = Some(turns::single(&floor, cluster.mesh.clone(), span).await?);
        cluster.mesh.shutdown().await;
    }
    if args.has(&[Row::W4]) {
        let [after_end, after_return] = crashes::measure().await?;
        (measured.after_end, measured.after_return) = (Some(after_end), Some(after_return));
    }
    // With `--compare`, only the rows that other services have too.
    let is_alone = args.compare.is_empty();
    if is_alone && args.has(&[Row::W1Link]) {
        measured.link = Some(link::measure(NODES, span, keep).await?);
        measured.link_five = Some(link::measure(MORE_NODES, span, keep).await?);
    }
    if is_alone && args.has(&[Row::Memory]) {
        measured.memory = held::memory().await?;
    }
    if is_alone && args.has(&[Row::Keep]) {
        measured.kept = Some(held::kept().await?);
    }
    if args.only.contains(&Row::Kinds) {
        let cluster = Cluster::start(NODES, keep).await?;
        measured.kinds = kinds::measure(&cluster.mesh, span).await?;
        cluster.mesh.shutdown().await;
    }
    if args.only.contains(&Row::Restarts) {
        measured.restarts = restarts::measure().await?;
    }
    Ok(measured)
}
