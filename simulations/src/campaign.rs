//! Runs many seeds at once, and reduces the faults of those that fail.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::algorithms::Algorithm;
use crate::cluster::{Outcome, Settings, World};
use crate::faults;
use crate::judge::{Kind, Violation};

/// The number of worlds that must reach every corner.
const SEEDS_ENOUGH: u64 = 300;
/// Rare events that must not be missed.
const CORNERS: [&str; 19] = [
    "adoptions",
    "adoptions_under_a_lease",
    "adoptions_while_waiting",
    "crashes_under_a_lease",
    "datagrams_overflowed",
    "datagrams_too_large",
    "knot",
    "lapses",
    "leans_on_wall_clock",
    "maimed",
    "mappings",
    "namesakes_judged",
    "restarts_told_new",
    "set_back",
    "slow_way",
    "timers_late",
    "twins_found",
    "worlds_with_wrong_clocks",
    "wrong_clocks_leap",
];

/// Changes to the world of a seed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tweaks {
    /// The number of members, instead of the drawn one.
    pub(crate) nodes: Option<usize>,
    /// The number of its first faults that are kept.
    pub(crate) faults: Option<usize>,
    /// The algorithm that the hosts run.
    pub(crate) algorithm: Algorithm,
}

/// The way in which a run failed.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Failure {
    /// A panic.
    Crash,
    /// A requested lock was not granted, or too late.
    Liveness,
    /// Two holders, a falling epoch, or a vote that breaks a rule.
    Safety,
}

impl Failure {
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Self::Crash => 127,
            Self::Liveness => 128,
            Self::Safety => 129,
        }
    }

    pub(crate) fn of(violations: &[Violation]) -> Option<Self> {
        let safety = violations
            .iter()
            .any(|violation| violation.kind == Kind::Safety);
        match violations {
            [] => None,
            _ if safety => Some(Self::Safety),
            _ => Some(Self::Liveness),
        }
    }
}

/// A seed that failed.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Failed {
    pub(crate) seed: u64,
    pub(crate) failure: Failure,
    pub(crate) what: String,
    /// The length of the shortest prefix of its faults with which it still fails.
    pub(crate) faults: usize,
    /// The command that replays it.
    pub(crate) replay: String,
}

/// The results of many seeds.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    pub(crate) seeds: u64,
    pub(crate) steps: u64,
    pub(crate) facts: u64,
    pub(crate) coverage: BTreeMap<&'static str, u64>,
    pub(crate) violations: u64,
    pub(crate) failed: Vec<Failed>,
    pub(crate) took: Duration,
}

/// Draws the world of a seed.
pub(crate) fn world_of(seed: u64, tweaks: Tweaks) -> (Settings, Vec<faults::Fault>) {
    let mut settings = Settings::draw(seed, tweaks.nodes);
    tweaks.algorithm.put_into(&mut settings);
    let mut faults = faults::draw(&settings);
    faults.truncate(tweaks.faults.unwrap_or(usize::MAX));
    (settings, faults)
}

/// Runs the world of a seed.
pub(crate) fn run_seed(seed: u64, tweaks: Tweaks, keeps_lines: bool) -> Outcome {
    let (settings, faults) = world_of(seed, tweaks);
    World::new(settings, faults, keeps_lines).run()
}

/// Runs a seed. Returns its outcome unless it panicked, and its failure if it failed.
pub(crate) fn judge(seed: u64, tweaks: Tweaks) -> (Option<Outcome>, Option<(Failure, String)>) {
    match catch_unwind(AssertUnwindSafe(|| run_seed(seed, tweaks, false))) {
        Ok(outcome) => {
            let failure = Failure::of(&outcome.violations);
            let failure = failure.map(|failure| (failure, first_of(&outcome.violations)));
            (Some(outcome), failure)
        }
        Err(panic) => (None, Some((Failure::Crash, words_of(panic.as_ref())))),
    }
}

fn first_of(violations: &[Violation]) -> String {
    violations.first().map_or_else(String::new, |first| {
        format!(
            "{} at {} ms: {}",
            first.law,
            first.at / 1_000_000,
            first.what
        )
    })
}

fn words_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a panic without words".to_owned())
}

/// Runs all seeds on all cores, and calls `tick` after each.
pub(crate) fn run(seeds: std::ops::Range<u64>, tweaks: Tweaks, tick: impl Fn() + Sync) -> Summary {
    let begun = Instant::now();
    let next = AtomicU64::new(seeds.start);
    let summary = Mutex::new(Summary::default());
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                let mut own = Summary::default();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    run_one(seed, tweaks, &mut own);
                    tick();
                }
                if let Ok(mut summary) = summary.lock() {
                    summary.add(own);
                }
            });
        }
    });
    let mut summary = summary.into_inner().unwrap_or_default();
    summary.failed.sort_by_key(|failed| failed.seed);
    summary.took = begun.elapsed();
    summary
}

fn run_one(seed: u64, tweaks: Tweaks, summary: &mut Summary) {
    let (outcome, failure) = judge(seed, tweaks);
    summary.seeds += 1;
    let mut faults = usize::MAX;
    if let Some(outcome) = outcome {
        summary.steps += outcome.steps;
        summary.facts += outcome.facts;
        summary.violations += outcome.violations.len() as u64;
        faults = outcome.faults;
        for (name, count) in outcome.coverage {
            *summary.coverage.entry(name).or_default() += count;
        }
    }
    if let Some((failure, what)) = failure {
        summary.violations += u64::from(failure == Failure::Crash);
        let fewest = fewest_faults(seed, tweaks, failure, faults);
        summary.failed.push(Failed {
            seed,
            failure,
            what,
            faults: fewest,
            replay: replay(seed, tweaks, fewest),
        });
    }
}

/// Returns the length of the shortest prefix of the faults that still fails in the same way.
fn fewest_faults(seed: u64, tweaks: Tweaks, failure: Failure, all: usize) -> usize {
    let all = all.min(64);
    let fails = |count: &usize| {
        let tweaks = Tweaks {
            faults: Some(*count),
            ..tweaks
        };
        judge(seed, tweaks)
            .1
            .is_some_and(|(other, _)| other == failure)
    };
    (0..all).find(fails).unwrap_or(all)
}

/// Returns the command that replays a run.
pub(crate) fn replay(seed: u64, tweaks: Tweaks, faults: usize) -> String {
    let nodes = tweaks
        .nodes
        .map_or_else(String::new, |nodes| format!(" --nodes {nodes}"));
    let algorithm = tweaks.algorithm.flag();
    format!(
        "cargo run --release -p simulations -- --seed {seed}{nodes}{algorithm} --faults {faults} \
         --trace"
    )
}

impl Summary {
    fn add(&mut self, other: Self) {
        self.seeds += other.seeds;
        self.steps += other.steps;
        self.facts += other.facts;
        self.violations += other.violations;
        self.failed.extend(other.failed);
        for (name, count) in other.coverage {
            *self.coverage.entry(name).or_default() += count;
        }
    }

    /// Returns the corners that no world reached, if there were enough worlds. A law that is never
    /// exercised proves nothing.
    pub(crate) fn unreached(&self, tweaks: Tweaks) -> Vec<&'static str> {
        let is_plain = tweaks.nodes.is_none() && tweaks.faults.is_none();
        if self.seeds < SEEDS_ENOUGH || !is_plain || tweaks.algorithm != Algorithm::Lockmesh {
            return Vec::new();
        }
        let is_missing = |name: &&str| self.coverage.get(name).is_none_or(|count| *count == 0);
        CORNERS.into_iter().filter(is_missing).collect()
    }

    /// Returns the gravest of the failures.
    pub(crate) fn gravest(&self) -> Option<Failure> {
        self.failed.iter().map(|failed| failed.failure).max()
    }

    pub(crate) fn steps_per_second(&self) -> u64 {
        (self.steps as f64 / self.took.as_secs_f64().max(1e-9)) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seed_run_twice_has_equal_digests() {
        for seed in [1, 2, 3, 77, 475, 1_627] {
            let runs = [0, 1].map(|_| run_seed(seed, Tweaks::default(), false));
            assert_eq!(runs[0].digest, runs[1].digest, "seed {seed}");
            assert_eq!(runs[0].steps, runs[1].steps);
        }
    }

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
            coverage: CORNERS.map(|name| (name, 1)).into(),
            ..Summary::default()
        };
        let plain = Tweaks::default();
        assert!(summary.unreached(plain).is_empty());
        summary.coverage.insert("adoptions_under_a_lease", 0);
        summary.coverage.remove("knot");
        assert_eq!(
            summary.unreached(plain),
            ["adoptions_under_a_lease", "knot"]
        );
        summary.seeds -= 1;
        assert!(summary.unreached(plain).is_empty());
    }

    #[test]
    fn failures_rank_from_crash_to_safety() {
        assert!(Failure::Safety > Failure::Liveness && Failure::Liveness > Failure::Crash);
        let codes = [Failure::Crash, Failure::Liveness, Failure::Safety];
        assert_eq!(codes.map(Failure::exit_code), [127, 128, 129]);
    }
}
