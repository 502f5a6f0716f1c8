//! One run, from the setup of the network to the verdict.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use super::Args;
use super::command::{Command, Step};
use super::plan;
use super::play::Stage;
use super::processes::{Load, QUARANTINE};
use super::world::World;
use crate::check::{self, Verdict};
use crate::demo::put;

/// The exit code of an interrupted run.
const INTERRUPTED: u8 = 130;
/// How long the nodes work once all faults are over and all voters vote.
const REST: Duration = Duration::from_secs(10);

/// The result of a run.
enum Outcome {
    Judged(Box<Verdict>),
    Interrupted(&'static str),
}

pub(super) async fn run(args: &Args) -> ExitCode {
    let seed = args
        .seed
        .unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let nodes = usize::from(args.nodes);
    let steps = if args.measure {
        plan::measurement(seed, nodes, args.rounds, QUARANTINE)
    } else {
        plan::chaos(seed, nodes, Duration::from_secs(args.seconds), QUARANTINE)
    };
    put(&format!("replay: {}", replay(args, seed)));
    if args.plan {
        steps.iter().for_each(|step| put(&step.to_string()));
        return ExitCode::SUCCESS;
    }
    if let Some(why) = World::missing() {
        return super::skip(args, &why);
    }
    let (dir, is_ours) = match place(args) {
        Ok(place) => place,
        Err(error) => {
            eprintln!("lockmesh: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = perform(args, seed, &dir, &steps).await;
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
        Ok(Outcome::Judged(verdict)) if verdict.contradictions.is_empty() => ExitCode::SUCCESS,
        Ok(Outcome::Judged(_)) => ExitCode::FAILURE,
        Ok(Outcome::Interrupted(signal)) => {
            put(&format!("INTERRUPTED: {signal}; everything is removed"));
            if args.json {
                put(&json!({ "outcome": "interrupted", "seed": seed }).to_string());
            }
            ExitCode::from(INTERRUPTED)
        }
        Err(error) => {
            put(&format!("FAILED: {error:#}"));
            if args.json {
                let why = format!("{error:#}");
                put(&json!({ "outcome": "failed", "seed": seed, "why": why }).to_string());
            }
            ExitCode::FAILURE
        }
    }
}

fn replay(args: &Args, seed: u64) -> String {
    let nodes = args.nodes;
    if args.measure {
        let rounds = args.rounds;
        format!("lockmesh chaos --measure --rounds {rounds} --nodes {nodes} --seed {seed}")
    } else {
        let seconds = args.seconds;
        format!("lockmesh chaos --seconds {seconds} --nodes {nodes} --seed {seed}")
    }
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
async fn perform(args: &Args, seed: u64, dir: &Path, steps: &[Step]) -> anyhow::Result<Outcome> {
    // Handle signals before there is anything that would be left behind.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let nodes = usize::from(args.nodes);
    // One more network for a twin, and one for the clients.
    let world = World::build(nodes + 2)?;
    let netem_missing = world.netem_missing();
    let left_out = left_out(netem_missing.as_deref(), steps);
    let load = if args.measure {
        Load::Holds
    } else {
        Load::Everything
    };
    let mut stage = Stage::set(world, dir, nodes, seed, load, netem_missing.is_none())?;
    let played = tokio::select! {
        played = whole(&mut stage, steps, load) => played,
        _ = terminate.recv() => return Ok(Outcome::Interrupted("SIGTERM")),
        _ = interrupt.recv() => return Ok(Outcome::Interrupted("SIGINT")),
        _ = hang_up.recv() => return Ok(Outcome::Interrupted("SIGHUP")),
    };
    let files = stage.histories();
    drop(stage);
    played?;
    let judged = check::judge(&files, args.wait_bound_ms, Vec::new());
    let verdict = judged.map_err(|error| anyhow::anyhow!("{error}"))?;
    put("");
    check::print(&verdict);
    for (fault, why) in &left_out {
        put(&format!("LEFT OUT: {fault}: {why}"));
    }
    if args.json {
        let outcome = if verdict.contradictions.is_empty() {
            "accepted"
        } else {
            "rejected"
        };
        let mut line = verdict.json();
        line["outcome"] = outcome.into();
        line["seed"] = seed.into();
        line["left_out"] = json!(left_out.iter().map(|(fault, _)| fault).collect::<Vec<_>>());
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

/// Returns the planned faults that this kernel cannot inject, with the reason.
fn left_out(netem_missing: Option<&str>, steps: &[Step]) -> Vec<(&'static str, String)> {
    let is_planned = steps
        .iter()
        .any(|step| matches!(step.command, Command::Disturb { .. }));
    match netem_missing {
        Some(why) if is_planned => ["delay", "duplication", "reordering"]
            .map(|fault| (fault, why.to_owned()))
            .to_vec(),
        _ => Vec::new(),
    }
}
