//! Runs the node of lockmesh in a simulated world that repeats bit for bit.
//!
//! One seed is one world: its nodes, timing, links, users and faults. The nodes are production
//! nodes; bytes and time go in, bytes and events come out. A checker for each law judges every
//! step. Then all faults are healed, and every request must be served.
//!
//! `README.md` describes how to run, replay and read it, and where a new fault, law or scenario
//! goes.

mod algorithms;
mod campaign;
mod cluster;
mod digests;
mod exhaustive;
mod faults;
mod judge;
mod kernel;
#[cfg(lockmesh_mutants)]
mod mutants;
#[allow(
    dead_code,
    unreachable_pub,
    reason = "a part of the package tools, which has tokio"
)]
#[path = "../../tools/src/page/mod.rs"]
mod page;
mod proto;
mod report;
#[cfg(not(lockmesh_mutants))]
mod rerun;
mod scale;
mod scenarios;
#[cfg(test)]
mod tests;
mod users;
mod year;

use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use algorithms::compare;
use campaign::Tweaks;
use page::{parse_range, parse_window};

/// Tests the lock mesh with simulated faults, and reports every broken law.
#[derive(Debug, Parser)]
#[command(name = "simulations", version, args_conflicts_with_subcommands = true)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Runs only this seed.
    #[arg(long, value_name = "N", conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Runs the seeds from A up to, not including, B.
    #[arg(long, value_name = "A..B", value_parser = parse_range, default_value = "0..1000")]
    seeds: Range<u64>,
    /// Plays a scenario: a name, a file, or `all` bundled ones.
    #[arg(long, value_name = "NAME|FILE", conflicts_with_all = ["seed", "seeds", "nodes"])]
    scenario: Option<String>,
    #[command(flatten)]
    tweaks: Tweaks,
    /// Writes the run to this file as a page, and runs nothing else.
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
    /// Draws one of the stories of `compare` instead of the world of the seed.
    #[arg(long, value_name = "NAME", requires = "report", value_parser = compare::names())]
    story: Option<String>,
    /// Shows this part of the run first, in milliseconds.
    #[arg(long, value_name = "A..B", value_parser = parse_window, requires = "report")]
    window: Option<Range<u64>>,
    /// Prints every step of the seed.
    #[arg(long)]
    trace: bool,
    /// Runs every seed twice, and compares the traces.
    #[arg(long)]
    twice: bool,
    /// Prints one JSON object on the last line, instead of a table.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the same stories with lockmesh, a majority of the living, and Redlock.
    Compare {
        /// The seeds of each story.
        #[arg(long, value_name = "A..B", value_parser = parse_range, default_value = "0..50")]
        seeds: Range<u64>,
        /// Runs the bundled scenarios instead of the stories.
        #[arg(long)]
        scenarios: bool,
    },
    /// Compares the digests of some traces with those of another machine in `digests.txt`.
    Digests {
        /// Writes the digests of this build to the file instead.
        #[arg(long)]
        write: bool,
    },
    /// Measures messages and load while the cluster grows and its users stay the same.
    Scale {
        /// The simulated time of each size, in seconds.
        #[arg(long, value_name = "N", default_value_t = 60,
              value_parser = clap::value_parser!(u64).range(1..=3_600))]
        seconds: u64,
    },
    /// Simulates a year of hourly ticks on five nodes: each runs once.
    Year {
        /// The seed of the faults.
        #[arg(long, value_name = "N", default_value_t = 7)]
        seed: u64,
        /// The number of ticks.
        #[arg(long, value_name = "N", default_value_t = 365 * 24)]
        hours: u64,
    },
    /// Searches every interleaving at small scope.
    Exhaustive {
        /// The time for all scopes, in seconds.
        #[arg(long, value_name = "N", default_value_t = 120)]
        seconds: u64,
        /// The maximum number of states of one scope; each takes about 2 KiB.
        #[arg(long, value_name = "N", default_value_t = 6_000_000)]
        states: usize,
        /// Searches only the scopes with this in their name.
        #[arg(long, value_name = "NAME", default_value = "")]
        only: String,
    },
    /// Puts known mistakes back, one at a time, and reports which law catches each. Builds itself
    /// anew for that: no other build has them.
    Mutants {
        /// The number of seeds for each mistake before the exhaustive search.
        #[arg(long, value_name = "N", default_value_t = 4_000)]
        seeds: u64,
        /// Runs only the mistakes with this in their name.
        #[arg(long, value_name = "NAME", default_value = "")]
        only: String,
        /// The time for one scope of the search, in seconds.
        #[arg(long, value_name = "N", default_value_t = 10)]
        seconds: u64,
        /// Replaces `mutants.txt` by the places at which each was caught. The place in it comes last.
        #[arg(long, conflicts_with = "only")]
        write: bool,
    },
}

fn main() -> ExitCode {
    let args = Args::parse();
    // A panic is a failure of its seed: it is caught, counted and reported with the others.
    std::panic::set_hook(Box::new(|_| {}));
    if let Some(command) = args.command {
        return run(command, args.json);
    }
    let seeds = args.seed.map_or(args.seeds, |seed| seed..seed + 1);
    if let Some(file) = args.report {
        let run = report::Run {
            seed: seeds.start,
            tweaks: args.tweaks,
            scenario: args.scenario,
            story: args.story,
            window: args.window,
        };
        return report::command(&file, run);
    }
    if let Some(name) = args.scenario {
        return scenarios::command(&name, args.tweaks.algorithm, args.trace, args.json);
    }
    if args.trace {
        campaign::print_trace(seeds.start, args.tweaks);
    }
    campaign::command(seeds, args.tweaks, args.twice, args.json)
}

fn run(command: Command, json: bool) -> ExitCode {
    match command {
        Command::Compare { seeds, scenarios } => compare::command(&seeds, scenarios, json),
        Command::Digests { write } => digests::command(write),
        Command::Scale { seconds } => scale::command(seconds, json),
        Command::Year { seed, hours } => year::command(seed, hours),
        Command::Exhaustive {
            seconds,
            states,
            only,
        } => exhaustive::command(Duration::from_secs(seconds), states, &only, json),
        #[cfg(not(lockmesh_mutants))]
        Command::Mutants { .. } => rerun::with_mistakes(),
        #[cfg(lockmesh_mutants)]
        Command::Mutants {
            seeds,
            only,
            seconds,
            write,
        } => mutants::command(seeds, &only, Duration::from_secs(seconds), write, json),
    }
}
