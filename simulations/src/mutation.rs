//! Known mistakes, put back into the rules one at a time: does a law catch each?
//!
//! Random seeds come first. What they do not catch goes to the exhaustive search.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use lockmesh_proto::mutants::{self, Mutant};
use serde::Serialize;

use crate::campaign::{Tweaks, judge};
use crate::exhaustive;

/// How a mutant ended.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Verdict {
    pub(crate) mutant: String,
    /// The law that caught it, or `None`.
    pub(crate) law: Option<String>,
    /// What caught it: seeds, or the exhaustive search and which.
    pub(crate) place: String,
    /// How many seeds, or states, it took.
    pub(crate) after: u64,
    pub(crate) seconds: f64,
}

/// How much is spent on a mutant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    pub(crate) seeds: u64,
    pub(crate) search: Duration,
    pub(crate) states: usize,
}

/// Puts each mistake back, and looks who notices.
pub(crate) fn all(only: &str, budget: Budget, tell: impl Fn(&Verdict)) -> Vec<Verdict> {
    let chosen = Mutant::ALL
        .iter()
        .filter(|mutant| format!("{mutant:?}").contains(only));
    let verdicts = chosen.map(|mutant| {
        let verdict = one(*mutant, budget);
        tell(&verdict);
        verdict
    });
    verdicts.collect()
}

fn one(mutant: Mutant, budget: Budget) -> Verdict {
    let begun = std::time::Instant::now();
    let (law, place, after) = match by_seeds(mutant, budget.seeds) {
        Some((seed, law)) => (Some(law), "seeds".to_owned(), seed + 1),
        None => by_search(mutant, budget),
    };
    Verdict {
        mutant: format!("{mutant:?}"),
        law,
        place,
        after,
        seconds: begun.elapsed().as_secs_f64(),
    }
}

/// The first seed from zero on that fails, and by which law.
fn by_seeds(mutant: Mutant, seeds: u64) -> Option<(u64, String)> {
    let next = AtomicU64::new(0);
    let end = AtomicU64::new(seeds);
    let first: Mutex<Option<(u64, String)>> = Mutex::new(None);
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                mutants::make(Some(mutant));
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end.load(Ordering::Relaxed) {
                        return;
                    }
                    let Some((_, what)) = judge(seed, Tweaks::default()).1 else {
                        continue;
                    };
                    // Seeds above this one need not be looked at, those below are still being.
                    end.fetch_min(seed, Ordering::Relaxed);
                    let law = what.split_whitespace().next().unwrap_or("?").to_owned();
                    if let Ok(mut first) = first.lock()
                        && first.as_ref().is_none_or(|(other, _)| seed < *other)
                    {
                        *first = Some((seed, law));
                    }
                }
            });
        }
    });
    first.into_inner().unwrap_or_default()
}

fn by_search(mutant: Mutant, budget: Budget) -> (Option<String>, String, u64) {
    let mut states = 0;
    for mut scope in exhaustive::scopes() {
        scope.mutant = Some(mutant);
        let found = exhaustive::search(&scope, budget.search, budget.states);
        states += found.states as u64;
        if let Some((law, _)) = found.broken {
            let place = format!("search: {}", found.scope);
            return (Some(law.to_owned()), place, states);
        }
    }
    (None, "nowhere".to_owned(), states)
}
