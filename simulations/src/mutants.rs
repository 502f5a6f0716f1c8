//! Puts known mistakes back into the rules, one at a time, to check that a law catches each.
//!
//! Random seeds come first. Mistakes that they do not catch go to the exhaustive search.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::proto::{Mutant, mutants};
use serde::Serialize;

use crate::campaign::{Tweaks, judge};
use crate::exhaustive;

/// The result of a mutant.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Verdict {
    pub(crate) mutant: String,
    /// The law that caught it, if any.
    pub(crate) law: Option<String>,
    /// The place where it was caught: seeds, or the scope of a search.
    pub(crate) place: String,
    /// The number of seeds or states until then.
    pub(crate) after: u64,
    pub(crate) seconds: f64,
}

/// The effort for a mutant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    pub(crate) seeds: u64,
    pub(crate) search: Duration,
    pub(crate) states: usize,
}

/// Puts each mistake back. Returns which law catches it.
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

/// Returns the first failing seed from zero on, and the law.
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
                    // Higher seeds need not run; lower ones are still running.
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
