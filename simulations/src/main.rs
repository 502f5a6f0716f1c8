//! Runs the node of lockmesh in a simulated world that repeats bit for bit.
//!
//! One seed is one world: its nodes, timing, links, users and faults. The nodes are production
//! nodes; bytes and time go in, bytes and events come out. A checker for each law judges every
//! step. Then all faults are healed, and every request must be served.
//!
//! `README.md` describes how to run, replay and read it.

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
mod proto;
mod report;
#[cfg(not(lockmesh_mutants))]
mod rerun;
mod scale;
mod scenarios;
mod summary;
#[cfg(test)]
mod tests;
mod users;

use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use std::time::Duration;

use clap::{Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use algorithms::{Algorithm, Plan, compare as comparison};
use campaign::{Summary, Tweaks};

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
    /// Gives every world this many members, instead of the drawn number.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=101))]
    nodes: Option<u64>,
    /// Applies only the first N faults of a seed.
    #[arg(long, value_name = "N")]
    faults: Option<usize>,
    /// The algorithm that the hosts run.
    #[arg(long, value_enum, default_value_t)]
    algorithm: Algorithm,
    /// Writes the run to this file as a page, and runs nothing else.
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
    /// Draws one of the stories of `compare` instead of the world of the seed.
    #[arg(long, value_name = "NAME", requires = "report", value_parser = comparison::names())]
    story: Option<String>,
    /// Draws only this part of the run, in milliseconds.
    #[arg(long, value_name = "A..B", value_parser = parse_range, requires = "report")]
    window: Option<Range<u64>>,
    /// Prints every step of the seed.
    #[arg(long)]
    trace: bool,
    /// Runs every seed twice, and compares the traces.
    #[arg(long)]
    twice: bool,
    /// Prints one JSON object on the last line.
    #[arg(long)]
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
        /// Prints one JSON object instead of the table.
        #[arg(long)]
        json: bool,
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
        #[arg(long, value_name = "N", default_value_t = 60, value_parser = up_to_an_hour())]
        seconds: u64,
        /// Prints one JSON object instead of the table.
        #[arg(long)]
        json: bool,
    },
    /// Searches every interleaving at small scope.
    Exhaustive {
        /// The time for all scopes, in seconds.
        #[arg(long, value_name = "N", default_value_t = 120)]
        seconds: u64,
        /// The maximum number of states of one scope; each takes about 2 KiB.
        #[arg(long, value_name = "N", default_value_t = 6_000_000)]
        states: usize,
        /// Prints one JSON object on the last line.
        #[arg(long)]
        json: bool,
    },
    /// Puts known mistakes back, one at a time, and reports which law catches each. Builds itself
    /// anew for that: no other build has them.
    Mutants {
        /// The number of seeds for each mistake before the exhaustive search.
        #[arg(long, value_name = "N", default_value_t = 1_500)]
        seeds: u64,
        /// Runs only the mistakes with this in their name.
        #[arg(long, value_name = "NAME", default_value = "")]
        only: String,
        /// The time for one scope of the search, in seconds.
        #[arg(long, value_name = "N", default_value_t = 10)]
        seconds: u64,
        /// Prints one JSON object on the last line.
        #[arg(long)]
        json: bool,
    },
}

fn up_to_an_hour() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..=3_600)
}

fn parse_range(text: &str) -> Result<Range<u64>, String> {
    let parts = text.split_once("..").ok_or("a range is written A..B")?;
    let number = |part: &str| {
        part.parse()
            .map_err(|_| format!("{part:?} is not a number"))
    };
    let (start, end) = (number(parts.0)?, number(parts.1)?);
    if start >= end {
        return Err(format!("{start}..{end} is empty"));
    }
    Ok(start..end)
}

fn main() -> ExitCode {
    let args = Args::parse();
    // A panic is a failure of its seed: it is caught, counted and reported with the others.
    std::panic::set_hook(Box::new(|_| {}));
    if let Some(command) = args.command {
        return obey(command);
    }
    if let (Some(name), None) = (&args.scenario, &args.report) {
        return play(name, args.algorithm, args.trace, args.json);
    }
    let tweaks = Tweaks {
        nodes: args.nodes.map(|nodes| nodes as usize),
        faults: args.faults,
        algorithm: args.algorithm,
    };
    let seeds = args
        .seed
        .map_or_else(|| args.seeds.clone(), |seed| seed..seed + 1);
    if let Some(file) = &args.report {
        return report(file, &args, seeds.start, tweaks);
    }
    if args.trace {
        print_trace(seeds.start, tweaks);
    }
    let summary = run(&args, seeds.clone(), tweaks);
    summary::tell(&summary);
    let same = !args.twice || compare(seeds, tweaks);
    if args.json {
        let counted = |name| summary.coverage.get(name).copied().unwrap_or_default();
        let line = json!({
            "seeds": summary.seeds,
            "steps": summary.steps,
            "grants": counted("grants"),
            "messages": counted("messages"),
            "violations": summary.violations,
            "steps_per_second": summary.steps_per_second(),
            "failed": summary.failed,
            "repeats": args.twice.then_some(same),
        });
        println!("{line}");
    }
    let unreached = summary.unreached(tweaks);
    if !unreached.is_empty() {
        eprintln!("in none of these worlds: {}", unreached.join(", "));
    }
    match summary.gravest() {
        Some(failure) => ExitCode::from(failure.exit_code()),
        None if same && unreached.is_empty() => ExitCode::SUCCESS,
        None => ExitCode::FAILURE,
    }
}

/// Returns the world of a page, and its title.
fn plan_of(args: &Args, seed: u64, tweaks: Tweaks) -> Result<(Plan, String), String> {
    if let Some(name) = &args.scenario {
        let named = scenarios::NAMED.iter().find(|(known, _)| known == name);
        let text = match named {
            Some((_, text)) => (*text).to_owned(),
            None => std::fs::read_to_string(name).map_err(|err| format!("{name}: {err}"))?,
        };
        let scenario = scenarios::read(&text).map_err(|bad| format!("{name}: {}", bad.0))?;
        let title = format!("{name}: {}", scenario.story.trim());
        return Ok((Plan::of_scenario(scenario, args.algorithm), title));
    }
    let name = args.story.as_deref();
    let story = name.and_then(|name| comparison::world(name, seed, args.algorithm));
    if let (Some(name), Some(plan)) = (name, story) {
        let title = format!("{name}: {}, seed {seed}", comparison::what(name));
        return Ok((plan, title));
    }
    let (settings, faults) = campaign::world_of(seed, tweaks);
    let plan = Plan {
        settings,
        faults,
        asks: Vec::new(),
    };
    Ok((plan, format!("The world of seed {seed}")))
}

/// Writes one run to a page.
fn report(file: &Path, args: &Args, seed: u64, tweaks: Tweaks) -> ExitCode {
    let (plan, title) = match plan_of(args, seed, tweaks) {
        Ok(plan) => plan,
        Err(err) => {
            eprintln!("{err}");
            return ExitCode::FAILURE;
        }
    };
    let words: Vec<String> = std::env::args().skip(1).collect();
    let command = format!("cargo run --release -p simulations -- {}", words.join(" "));
    let window = args.window.clone();
    let draw = || report::page(title, command, plan, window);
    let page = std::panic::catch_unwind(AssertUnwindSafe(draw));
    let page = page.unwrap_or_else(|_| Err(format!("seed {seed} panics")));
    let written = page.and_then(|page| {
        let told = |err| format!("cannot write {}: {err}", file.display());
        std::fs::write(file, page).map_err(told)
    });
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("{err}");
            ExitCode::FAILURE
        }
    }
}

fn obey(command: Command) -> ExitCode {
    match command {
        Command::Compare {
            seeds,
            scenarios,
            json,
        } => {
            let rows = if scenarios {
                comparison::run_scenarios(&seeds)
            } else {
                comparison::run(&seeds)
            };
            if json {
                println!("{}", comparison::json(&rows));
            } else {
                print!("{}", comparison::markdown(&rows));
            }
            ExitCode::SUCCESS
        }
        Command::Digests { write } => compare_digests(write),
        Command::Scale { seconds, json } => show_scale(seconds, json),
        Command::Exhaustive {
            seconds,
            states,
            json,
        } => search_all(Duration::from_secs(seconds), states, json),
        #[cfg(not(lockmesh_mutants))]
        Command::Mutants { .. } => rerun::with_mistakes(),
        #[cfg(lockmesh_mutants)]
        Command::Mutants {
            seeds,
            only,
            seconds,
            json,
        } => try_mutants(seeds, &only, Duration::from_secs(seconds), json),
    }
}

#[cfg(lockmesh_mutants)]
fn try_mutants(seeds: u64, only: &str, search: Duration, json: bool) -> ExitCode {
    // A mistake may panic: that counts as caught, and its message is not printed.
    std::panic::set_hook(Box::new(|_| {}));
    let budget = mutants::Budget {
        seeds,
        search,
        states: 3_000_000,
    };
    let begun = std::time::Instant::now();
    println!("{:<24} {:<9} {:>9}  where", "mistake", "caught by", "after");
    let verdicts = mutants::all(only, budget, |one| {
        let law = one.law.as_deref().unwrap_or("nothing");
        println!(
            "{:<24} {law:<9} {:>9}  {}",
            one.mutant, one.after, one.place
        );
    });
    let caught = verdicts.iter().filter(|one| one.law.is_some()).count();
    let seconds = begun.elapsed().as_secs_f64();
    println!("{caught} of {} caught in {seconds:.1} s", verdicts.len());
    if json {
        let line = json!({
            "mutants": verdicts.len(),
            "caught": caught,
            "seconds": seconds,
            "verdicts": verdicts,
        });
        println!("{line}");
    }
    if caught == verdicts.len() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Divides the time among the scopes. Time that one leaves goes to those after it.
fn search_all(patience: Duration, states_max: usize, json: bool) -> ExitCode {
    let begun = std::time::Instant::now();
    let scopes = exhaustive::scopes();
    let mut found = Vec::new();
    for (at, scope) in scopes.iter().enumerate() {
        let left = patience.saturating_sub(begun.elapsed());
        let share = left / (scopes.len() - at) as u32;
        let one = exhaustive::search(scope, share, states_max);
        println!(
            "{}: {} states to depth {} in {:.1} s, {}{}",
            one.scope,
            one.states,
            one.depth,
            one.seconds,
            if one.exhausted {
                "all of them"
            } else {
                "there are more"
            },
            if one.all_served {
                ""
            } else {
                "; nowhere did all claims own the key in turn"
            },
        );
        if let Some((law, path)) = &one.broken {
            println!("{law} is broken:\n  {}", path.join("\n  "));
        }
        found.push(one);
    }
    let broken = found.iter().filter(|one| one.broken.is_some()).count();
    let states: usize = found.iter().map(|one| one.states).sum();
    println!("{states} states, {broken} violations");
    if json {
        let line = json!({"states": states, "violations": broken, "scopes": found});
        println!("{line}");
    }
    if broken == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(campaign::Failure::Safety.exit_code())
    }
}

/// Plays a scenario by name or from a file, or all of them.
fn play(name: &str, algorithm: Algorithm, trace: bool, json: bool) -> ExitCode {
    let named = scenarios::NAMED
        .iter()
        .filter(|(known, _)| name == "all" || *known == name);
    let mut texts: Vec<(String, String)> = named
        .map(|(known, text)| ((*known).to_owned(), (*text).to_owned()))
        .collect();
    if texts.is_empty() {
        match std::fs::read_to_string(name) {
            Ok(text) => texts.push((name.to_owned(), text)),
            Err(error) => {
                let known: Vec<&str> = scenarios::NAMED.iter().map(|(known, _)| *known).collect();
                eprintln!("{name} is no scenario and no file that can be read: {error}");
                eprintln!("scenarios: {}, or all", known.join(", "));
                return ExitCode::from(2);
            }
        }
    }
    let mut lines = Vec::new();
    let mut failure = None;
    for (name, text) in texts {
        let mut scenario = match scenarios::read(&text) {
            Ok(scenario) => scenario,
            Err(bad) => {
                eprintln!("{name}: {}", bad.0);
                return ExitCode::from(2);
            }
        };
        algorithm.put_into(&mut scenario.settings);
        let (fails, line) = play_one(&name, scenario, trace);
        if fails.is_some() {
            println!("  cargo run --release -p simulations -- --scenario {name} --trace");
        }
        failure = failure.max(fails);
        lines.push(line);
    }
    if json {
        println!("{}", json!({"scenarios": lines}));
    }
    failure.map_or(ExitCode::SUCCESS, |failure| {
        ExitCode::from(failure.exit_code())
    })
}

/// Plays one scenario and prints the result. A panic is a failure.
fn play_one(
    name: &str,
    scenario: scenarios::Scenario,
    trace: bool,
) -> (Option<campaign::Failure>, serde_json::Value) {
    let story = scenario.story.trim().to_owned();
    let played = std::panic::catch_unwind(AssertUnwindSafe(|| scenarios::play(scenario, trace)));
    let Ok((outcome, unmet)) = played else {
        println!("{name}: FAILED. It panics. {story}");
        let line = json!({"scenario": name, "panics": true});
        return (Some(campaign::Failure::Crash), line);
    };
    print_lines(outcome.lines);
    let fails = campaign::Failure::of(&outcome.violations);
    let fails = fails.or_else(|| (!unmet.is_empty()).then_some(campaign::Failure::Liveness));
    let verdict = if fails.is_none() {
        "as expected"
    } else {
        "FAILED"
    };
    println!("{name}: {verdict}. {story}");
    for violation in &outcome.violations {
        println!("  {} broken: {}", violation.law, violation.what);
    }
    for what in &unmet {
        println!("  {what}");
    }
    let line = json!({
        "scenario": name,
        "steps": outcome.steps,
        "grants": outcome.coverage.get("grants").copied().unwrap_or_default(),
        "violations": outcome.violations,
        "unmet": unmet,
    });
    (fails, line)
}

fn print_lines(lines: Vec<String>) {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    for line in lines {
        // The reader may have closed the pipe.
        if writeln!(out, "{line}").is_err() {
            return;
        }
    }
}

fn run(args: &Args, seeds: Range<u64>, tweaks: Tweaks) -> Summary {
    let count = seeds.end - seeds.start;
    let bar = if args.json || count == 1 {
        ProgressBar::hidden()
    } else {
        ProgressBar::new(count)
    };
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} seeds, {eta} left");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let summary = campaign::run(seeds, tweaks, || bar.inc(1));
    bar.finish_and_clear();
    summary
}

fn print_trace(seed: u64, tweaks: Tweaks) {
    let traced = std::panic::catch_unwind(|| campaign::run_seed(seed, tweaks, true));
    let Ok(outcome) = traced else {
        return eprintln!("seed {seed} panics");
    };
    print_lines(outcome.lines);
}

/// Compares the digests of some traces with the file, or writes them into it.
fn compare_digests(write: bool) -> ExitCode {
    let own = digests::text();
    if write {
        return match std::fs::write(digests::FILE, own) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("cannot write {}: {error}", digests::FILE);
                ExitCode::FAILURE
            }
        };
    }
    let differences = digests::differences(&own);
    if differences.is_empty() {
        println!("{} traces, all as in digests.txt", own.lines().count());
        return ExitCode::SUCCESS;
    }
    eprintln!("{}\n{}", differences.join("\n"), digests::ADVICE);
    ExitCode::FAILURE
}

fn show_scale(seconds: u64, json: bool) -> ExitCode {
    let rows = scale::rows(seconds);
    if json {
        println!("{}", json!({"rows": rows}));
    } else {
        print!("{}", scale::markdown(&rows));
    }
    ExitCode::SUCCESS
}

/// Returns `true` if every seed gives the same trace when it runs again.
fn compare(seeds: Range<u64>, tweaks: Tweaks) -> bool {
    let mut same = true;
    for seed in seeds {
        let digest = || campaign::run_seed(seed, tweaks, false).digest;
        let (one, two) = (digest(), digest());
        if one != two {
            println!("seed {seed} does not repeat: {one:016x} and {two:016x}");
            same = false;
        }
    }
    if same {
        println!("every seed gave the same trace twice");
    }
    same
}
