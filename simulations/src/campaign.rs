//! Runs many seeds at once, reduces the faults of those that fail, and prints the results.

use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::json;

use crate::algorithms::Algorithm;
use crate::cluster::{Outcome, Plan, Settings};
use crate::faults;
use crate::judge::{LAWS, LawKind, Violation};
use crate::kernel::on_all_cores;

/// The number of worlds that must reach every corner.
const SEEDS_ENOUGH: u64 = 300;
/// Rare events that must not be missed.
const CORNERS: &str = "adoptions adoptions_under_a_lease adoptions_while_waiting \
    memories_taken_up marked marks_read marks_lost revoked revokes_confirmed \
    crashes_under_a_lease datagrams_overflowed datagrams_too_large cut_and_crash lapses \
    leans_on_wall_clock broken_for_good mappings namesakes_judged restarts_told_new set_back slow_way \
    timers_late twins_found worlds_with_wrong_clocks wrong_clocks_leap";
/// The counters in the summary, by group.
const COVERED: [(&str, &str); 5] = [
    (
        "faults",
        "split one_way bridge flap slow storm crash shutdown pause suspend wall_jump drift \
         slow_way set_back cut_and_crash broken_for_good namesakes mappings",
    ),
    (
        "corners",
        "datagrams_too_large datagrams_overflowed timers_late adoptions adoptions_under_a_lease \
         adoptions_while_waiting lapses twins_found namesakes_judged grants_of_namesakes",
    ),
    (
        "network",
        "messages datagrams datagrams_lost datagrams_cut datagrams_doubled datagrams_late \
         datagrams_damaged sealed_worlds tight_worlds datagrams_at_foreign_nodes views",
    ),
    (
        "locks",
        "tries waits claims grants renewals sessions_kept sessions_over extends released lost \
         denied timed_out crashed_with_a_request shut_down_with_a_request ticks \
         marked done revokes revokes_confirmed revokes_told revokes_untold revoked votes_revoked",
    ),
    (
        "voters and resource",
        "restarts restarts_told_new crashes_under_a_lease quarantines voters_returned \
         leans_on_wall_clock change quarantines_extended leans_on_settings journals_read \
         handovers memories_left memories_taken_up marks_read marks_lost writes_taken writes_refused",
    ),
];

/// Changes to the world of a seed.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub(crate) struct Tweaks {
    /// Gives every world this many members, instead of the drawn number.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=101))]
    pub(crate) nodes: Option<u64>,
    /// Applies only the first N faults of a seed.
    #[arg(long, value_name = "N")]
    pub(crate) faults: Option<usize>,
    /// The algorithm that the hosts run.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) algorithm: Algorithm,
}

/// The way in which a run failed.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Failure {
    /// A panic.
    Crash = 127,
    /// A requested lock was not granted, or too late.
    Liveness = 128,
    /// Two holders, a falling epoch, or a vote that breaks a rule.
    Safety = 129,
}

impl Failure {
    pub(crate) fn of(violations: &[Violation]) -> Option<Self> {
        let worst = violations.iter().map(|it| it.kind).min()?;
        Some(match worst {
            LawKind::Safety => Self::Safety,
            LawKind::Liveness => Self::Liveness,
        })
    }
}

impl From<Failure> for ExitCode {
    fn from(failure: Failure) -> Self {
        Self::from(failure as u8)
    }
}

/// A seed that failed.
#[derive(Clone, Debug, Serialize)]
struct Failed {
    seed: u64,
    failure: Failure,
    what: String,
    /// The length of the shortest prefix of its faults with which it still fails.
    faults: usize,
    /// The command that replays it.
    replay: String,
}

/// The results of many seeds.
#[derive(Debug, Default)]
struct Summary {
    seeds: u64,
    steps: u64,
    facts: u64,
    coverage: BTreeMap<&'static str, u64>,
    violations: u64,
    failed: Vec<Failed>,
    took: Duration,
}

/// Runs seeds, prints the results, and returns the exit code.
pub(crate) fn command(seeds: Range<u64>, tweaks: Tweaks, twice: bool, json: bool) -> ExitCode {
    let summary = run(seeds.clone(), tweaks, json);
    summary.print();
    let same = !twice || repeats(seeds, tweaks);
    if json {
        let line = json!({
            "seeds": summary.seeds,
            "steps": summary.steps,
            "grants": summary.counted("grants"),
            "messages": summary.counted("messages"),
            "violations": summary.violations,
            "steps_per_second": summary.steps_per_second(),
            "failed": summary.failed,
            "repeats": twice.then_some(same),
        });
        println!("{line}");
    }
    let unreached = summary.unreached(tweaks);
    if !unreached.is_empty() {
        eprintln!("in none of these worlds: {}", unreached.join(", "));
    }
    match summary.failed.iter().map(|failed| failed.failure).max() {
        Some(gravest) => gravest.into(),
        None if same && unreached.is_empty() => ExitCode::SUCCESS,
        None => ExitCode::FAILURE,
    }
}

/// Prints every step of a seed.
pub(crate) fn print_trace(seed: u64, tweaks: Tweaks) {
    match catch_unwind(|| run_seed(seed, tweaks, true)) {
        Ok(outcome) => outcome.print_lines(),
        Err(_) => eprintln!("seed {seed} panics"),
    }
}

/// Returns `true` if every seed gives the same trace when it runs again.
fn repeats(seeds: Range<u64>, tweaks: Tweaks) -> bool {
    let mut same = true;
    for seed in seeds {
        let [one, two] = [0, 1].map(|_| run_seed(seed, tweaks, false).digest);
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

/// Draws the world of a seed.
pub(crate) fn plan_of(seed: u64, tweaks: Tweaks) -> Plan {
    let mut settings = Settings::draw(seed, tweaks.nodes.map(|nodes| nodes as usize));
    tweaks.algorithm.put_into(&mut settings);
    let mut faults = faults::draw(&settings);
    faults.truncate(tweaks.faults.unwrap_or(usize::MAX));
    Plan {
        settings,
        faults,
        requests: Vec::new(),
    }
}

/// Runs the world of a seed.
pub(crate) fn run_seed(seed: u64, tweaks: Tweaks, keeps_lines: bool) -> Outcome {
    plan_of(seed, tweaks).run(keeps_lines)
}

/// Runs a seed. Returns its outcome unless it panicked, and its failure if it failed.
pub(crate) fn judge(seed: u64, tweaks: Tweaks) -> (Option<Outcome>, Option<(Failure, String)>) {
    match catch_unwind(AssertUnwindSafe(|| run_seed(seed, tweaks, false))) {
        Ok(outcome) => {
            let failure = Failure::of(&outcome.violations).zip(outcome.violations.first());
            let failure = failure.map(|(failure, first)| {
                let (law, at, what) = (first.law, first.at / 1_000_000, &first.what);
                (failure, format!("{law} at {at} ms: {what}"))
            });
            (Some(outcome), failure)
        }
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
            let text = text.unwrap_or_else(|| "a panic without words".to_owned());
            (None, Some((Failure::Crash, text)))
        }
    }
}

/// Runs all seeds on all cores.
fn run(seeds: Range<u64>, tweaks: Tweaks, is_quiet: bool) -> Summary {
    let count = seeds.end - seeds.start;
    let bar = match is_quiet || count == 1 {
        true => ProgressBar::hidden(),
        false => ProgressBar::new(count),
    };
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} seeds, {eta} left");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let begun = Instant::now();
    let next = AtomicU64::new(seeds.start);
    let parts = on_all_cores(|| {
        let mut own = Summary::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return own;
            }
            own.run(seed, tweaks);
            bar.inc(1);
        }
    });
    bar.finish_and_clear();
    let mut summary = Summary::default();
    parts.into_iter().for_each(|part| summary.add(part));
    summary.failed.sort_by_key(|failed| failed.seed);
    summary.took = begun.elapsed();
    summary
}

/// Returns the length of the shortest prefix of the faults that still fails in the same way.
fn fewest_faults(seed: u64, tweaks: Tweaks, failure: Failure, all: usize) -> usize {
    let all = all.min(64);
    let fails = |count: &usize| {
        let faults = Some(*count);
        let (_, other) = judge(seed, Tweaks { faults, ..tweaks });
        other.is_some_and(|(other, _)| other == failure)
    };
    (0..all).find(fails).unwrap_or(all)
}

/// Returns the command that replays a run.
fn replay(seed: u64, tweaks: Tweaks, faults: usize) -> String {
    let nodes = tweaks.nodes.map(|nodes| format!(" --nodes {nodes}"));
    let nodes = nodes.unwrap_or_default();
    let algorithm = tweaks.algorithm.flag();
    format!(
        "cargo run --release -p simulations -- --seed {seed}{nodes}{algorithm} --faults {faults} \
         --trace"
    )
}

impl Summary {
    /// Runs a seed, and adds its results.
    fn run(&mut self, seed: u64, tweaks: Tweaks) {
        let (outcome, failure) = judge(seed, tweaks);
        self.seeds += 1;
        let mut faults = usize::MAX;
        if let Some(outcome) = outcome {
            self.steps += outcome.steps;
            self.facts += outcome.facts;
            self.violations += outcome.violations.len() as u64;
            faults = outcome.faults;
            self.add_coverage(outcome.coverage);
        }
        if let Some((failure, what)) = failure {
            self.violations += u64::from(failure == Failure::Crash);
            let faults = fewest_faults(seed, tweaks, failure, faults);
            self.failed.push(Failed {
                seed,
                failure,
                what,
                faults,
                replay: replay(seed, tweaks, faults),
            });
        }
    }

    fn add(&mut self, other: Self) {
        self.seeds += other.seeds;
        self.steps += other.steps;
        self.facts += other.facts;
        self.violations += other.violations;
        self.failed.extend(other.failed);
        self.add_coverage(other.coverage);
    }

    fn add_coverage(&mut self, coverage: BTreeMap<&'static str, u64>) {
        for (name, count) in coverage {
            *self.coverage.entry(name).or_default() += count;
        }
    }

    fn counted(&self, name: &str) -> u64 {
        self.coverage.get(name).copied().unwrap_or_default()
    }

    /// Returns the corners that no world reached, if there were enough worlds. A law that is never
    /// exercised proves nothing.
    fn unreached(&self, tweaks: Tweaks) -> Vec<&'static str> {
        let is_plain = tweaks.nodes.is_none() && tweaks.faults.is_none();
        if self.seeds < SEEDS_ENOUGH || !is_plain || tweaks.algorithm != Algorithm::Lockmesh {
            return Vec::new();
        }
        let corners = CORNERS.split_whitespace();
        corners.filter(|name| self.counted(name) == 0).collect()
    }

    fn steps_per_second(&self) -> u64 {
        (self.steps as f64 / self.took.as_secs_f64().max(1e-9)) as u64
    }

    fn print(&self) {
        println!(
            "{} seeds, {} steps in {:.1} s ({} a second), {} facts judged by {LAWS} laws",
            self.seeds,
            self.steps,
            self.took.as_secs_f64(),
            self.steps_per_second(),
            self.facts,
        );
        for (group, names) in COVERED {
            let count = |name| format!("{} {}", self.counted(name), name.replace('_', " "));
            let counts: Vec<String> = names.split_whitespace().map(count).collect();
            println!("  {group}: {}", counts.join(", "));
        }
        println!("{} violations", self.violations);
        for failed in &self.failed {
            println!(
                "seed {} failed ({:?}): {}\n  with its first {} faults; replay: {}",
                failed.seed, failed.failure, failed.what, failed.faults, failed.replay
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_seeds_pass_and_tracing_changes_nothing() {
        for seed in 0..40 {
            let plain = run_seed(seed, Tweaks::default(), false);
            assert!(
                plain.violations.is_empty(),
                "seed {seed}: {:?}",
                plain.violations
            );
        }
        let traced = run_seed(7, Tweaks::default(), true);
        assert_eq!(traced.digest, run_seed(7, Tweaks::default(), false).digest);
        assert!(!traced.lines.is_empty());
    }

    #[test]
    fn corner_that_no_world_reached_is_reported() {
        let mut summary = Summary {
            seeds: SEEDS_ENOUGH,
            coverage: CORNERS.split_whitespace().map(|name| (name, 1)).collect(),
            ..Summary::default()
        };
        let plain = Tweaks::default();
        assert!(summary.unreached(plain).is_empty());
        summary.coverage.insert("adoptions_under_a_lease", 0);
        summary.coverage.remove("cut_and_crash");
        assert_eq!(
            summary.unreached(plain),
            ["adoptions_under_a_lease", "cut_and_crash"]
        );
        summary.seeds -= 1;
        assert!(summary.unreached(plain).is_empty());
    }

    #[test]
    fn failures_rank_from_crash_to_safety() {
        assert!(Failure::Safety > Failure::Liveness && Failure::Liveness > Failure::Crash);
        let codes = [Failure::Crash, Failure::Liveness, Failure::Safety];
        assert_eq!(codes.map(|it| it as u8), [127, 128, 129]);
    }
}
