//! One run, from the setup of the network to the verdict.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::ValueEnum;
use lockmesh::Durability;
use lockmesh_cli::node::Signals;
use serde_json::json;
use tokio::time::Instant;
use tools::power::{IgnoredSyncs, PowerFs};
use tools::put;

use super::command::{Command, Step};
use super::plan;
use super::plan::DataDirs;
use super::play::Stage;
use super::processes::{Load, Processes, QUARANTINE, name, recoveries};
use super::world::World;
use crate::check::{self, Verdict};

/// The exit code if chaos cannot run here: neither accepted nor rejected.
const SKIPPED: u8 = 77;
/// The exit code of an interrupted run.
const INTERRUPTED: u8 = 130;
/// How long the nodes work once all faults are over and all voters vote.
const REST: Duration = Duration::from_secs(10);

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
    /// The nodes that have a data directory, with which they vote again as soon as they are
    /// restarted. The default is `mixed`, or `machine` with power cuts.
    #[arg(long, value_enum)]
    data_dirs: Option<DataDirs>,
    /// Cut the power of one node, of a quorum or of all after each of the faults. The data directories
    /// lie on a file system that then loses what was not synced.
    #[arg(long, conflicts_with_all = ["measure", "earlier"])]
    power_cuts: bool,
    /// Syncs that this file system reports as done without doing them. With `data` or `all` the run
    /// has to be rejected.
    #[arg(long, value_enum, default_value = "none", requires = "power_cuts")]
    ignore_syncs: IgnoredSyncs,
    /// This program as of an earlier version: nodes are started with either. A node without a data
    /// directory changes its version with each start. One with a data directory begins with the
    /// earlier version, and goes on with this one.
    #[arg(long, value_name = "FILE")]
    earlier: Option<PathBuf>,
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
    /// Write the histories to this file as a page.
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
    /// Print one JSON object as the last line.
    #[arg(long)]
    json: bool,
}

impl Args {
    fn data_dirs(&self) -> DataDirs {
        self.data_dirs.unwrap_or(match self.power_cuts {
            true => DataDirs::Machine,
            false => DataDirs::Mixed,
        })
    }

    /// Returns the reason why a run cannot take place here, if there is one.
    fn missing(&self) -> Option<String> {
        let of_power_cuts = || PowerFs::missing().filter(|_| self.power_cuts);
        World::missing().or_else(of_power_cuts)
    }

    /// Prints the outcome of a run without a verdict, and returns its exit code.
    fn ends(&self, code: u8, seed: u64, outcome: &str, why: &str) -> ExitCode {
        put(&format!("{}: {why}", outcome.to_uppercase()));
        if self.json {
            put(&json!({ "outcome": outcome, "seed": seed, "why": why }).to_string());
        }
        ExitCode::from(code)
    }
}

/// The faults that need `tc netem`, which some kernels do not have.
const LEFT_OUT: [&str; 3] = ["delay", "duplication", "reordering"];

/// The result of a run.
enum Outcome {
    Judged(Box<Verdict>),
    Interrupted(&'static str),
}

/// Returns exit code 0 (accepted), 1 (rejected or failed), 77 (cannot run here) or 130
/// (interrupted).
pub(super) async fn run(args: &Args) -> ExitCode {
    let seed = args
        .seed
        .unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let nodes = usize::from(args.nodes);
    let journals = args.data_dirs().draw(seed, nodes);
    let recoveries = recoveries(&journals, args.power_cuts);
    let (steps, length) = if args.measure {
        let steps = plan::measurement(seed, args.rounds, recoveries);
        (steps, format!("--measure --rounds {}", args.rounds))
    } else {
        let steps = plan::chaos(seed, Duration::from_secs(args.seconds), recoveries);
        (steps, format!("--seconds {}", args.seconds))
    };
    let data_dirs = word(args.data_dirs());
    let cuts = match args.power_cuts {
        true => format!(" --power-cuts --ignore-syncs {}", word(args.ignore_syncs)),
        false => String::new(),
    };
    put(&format!(
        "replay: chaos {length} --nodes {nodes} --seed {seed} --data-dirs {data_dirs}{cuts}"
    ));
    put(&format!("data directories: {}", described(&journals)));
    if args.plan {
        steps.iter().for_each(|step| put(&step.to_string()));
        return ExitCode::SUCCESS;
    }
    if let Some(why) = args.missing() {
        return args.ends(SKIPPED, seed, "skipped", &why);
    }
    let (dir, is_ours) = match place(args) {
        Ok(place) => place,
        Err(error) => return args.ends(1, seed, "failed", &format!("{error:#}")),
    };
    let outcome = perform(args, seed, &dir, (&steps, &journals)).await;
    let is_accepted =
        matches!(&outcome, Ok(Outcome::Judged(verdict)) if verdict.contradictions.is_empty());
    if is_accepted && is_ours {
        let _ = fs::remove_dir_all(&dir);
    } else {
        put(&format!(
            "histories, logs and configurations: {}",
            dir.display()
        ));
    }
    match outcome {
        Ok(Outcome::Judged(_)) => ExitCode::from(u8::from(!is_accepted)),
        Ok(Outcome::Interrupted(signal)) => args.ends(INTERRUPTED, seed, "interrupted", signal),
        Err(error) => args.ends(1, seed, "failed", &format!("{error:#}")),
    }
}

/// Returns an option's value as it is written.
fn word(value: impl ValueEnum) -> String {
    let value = value.to_possible_value();
    value.map_or_else(String::new, |it| it.get_name().to_owned())
}

/// Describes the journals of the nodes.
fn described(journals: &[Option<Durability>]) -> String {
    let journals = journals.iter().enumerate();
    let all = journals.map(|(n, journal)| match journal {
        Some(durability) => format!("{} {durability:?}", name(n)),
        None => format!("{} none", name(n)),
    });
    all.collect::<Vec<_>>().join(", ").to_lowercase()
}

/// Returns the directory of all files, and `true` if it is temporary.
fn place(args: &Args) -> anyhow::Result<(PathBuf, bool)> {
    let (dir, is_ours) = match &args.keep {
        Some(dir) => (dir.clone(), false),
        None => {
            let name = format!("lockmesh-chaos-{}", std::process::id());
            (std::env::temp_dir().join(name), true)
        }
    };
    fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    if fs::read_dir(&dir)?.next().is_some() {
        bail!(
            "{} is not empty: old histories would be judged with the new",
            dir.display()
        );
    }
    Ok((dir, is_ours))
}

/// Builds the network, executes the plan, and judges the histories. The network is removed on every
/// way out.
async fn perform(
    args: &Args,
    seed: u64,
    dir: &Path,
    (steps, journals): (&[Step], &[Option<Durability>]),
) -> anyhow::Result<Outcome> {
    // Handle signals before there is anything that would be left behind.
    let mut signals = Signals::new(true)?;
    // One more network for a twin, and one for the clients.
    let world = World::build(journals.len() + 2)?;
    let netem_missing = world.netem_missing();
    let disturbs = |step: &Step| matches!(step.command, Command::Disturb { .. });
    let left_out = netem_missing
        .as_deref()
        .filter(|_| steps.iter().any(disturbs));
    let load = if args.measure {
        Load::Holds
    } else {
        Load::Everything
    };
    let mut processes = Processes::new(dir, journals, seed, load)?.mixed_with(args.earlier.clone());
    if args.power_cuts {
        processes.mount_disks(args.ignore_syncs)?;
    }
    let has_netem = netem_missing.is_none();
    let mut stage = Stage::set(world, dir, journals, (processes, seed), has_netem)?;
    let played = tokio::select! {
        played = whole(&mut stage, steps, load) => played,
        signal = signals.next() => return Ok(Outcome::Interrupted(signal)),
    };
    let files = stage.histories();
    drop(stage);
    played?;
    let verdict = check::judge(&files, args.wait_bound_ms, args.report.as_deref())?;
    put("");
    check::print(&verdict);
    if let Some(why) = left_out {
        put(&format!("LEFT OUT: {}: {why}", LEFT_OUT.join(", ")));
    }
    if args.json {
        let mut line = verdict.json();
        let is_accepted = verdict.contradictions.is_empty();
        line["outcome"] = json!(if is_accepted { "accepted" } else { "rejected" });
        line["seed"] = seed.into();
        line["left_out"] = json!(left_out.map_or(&[][..], |_| &LEFT_OUT));
        put(&line.to_string());
    }
    Ok(Outcome::Judged(Box::new(verdict)))
}

async fn whole(stage: &mut Stage, steps: &[Step], load: Load) -> anyhow::Result<()> {
    stage.play(steps).await?;
    put("heal all, and rest");
    stage.heal().await?;
    stage.wait_until(Instant::now() + QUARANTINE).await?;
    if load == Load::Everything {
        // If holds are long, a node may not be granted a lock before the end.
        stage.calm()?;
    }
    stage.wait_until(Instant::now() + REST).await?;
    stage.end().await
}
