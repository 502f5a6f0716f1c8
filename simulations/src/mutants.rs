//! Puts known mistakes back into the rules, one at a time, to check that a law catches each.
//!
//! Random seeds come first. Mistakes that they do not catch go to the exhaustive search.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::json;

use crate::campaign::{Tweaks, judge};
use crate::exhaustive;
use crate::kernel::on_all_cores;
use crate::proto::{Mutant, mutants};

/// The result of a mutant.
#[derive(Clone, Debug, Serialize)]
struct Caught {
    mutant: String,
    /// The law that caught it, if any.
    law: Option<String>,
    /// The place where it was caught: seeds, or the scope of a search.
    place: String,
    /// The number of seeds or states until then.
    after: u64,
    seconds: f64,
}

/// The maximum number of states of one scope of the search.
const STATES_MAX: usize = 3_000_000;

/// Puts each mistake back, and prints which law catches it.
pub(crate) fn command(seeds: u64, only: &str, search: Duration, json: bool) -> ExitCode {
    let begun = Instant::now();
    println!("{:<24} {:<9} {:>9}  where", "mistake", "caught by", "after");
    let mut verdicts = Vec::new();
    for mutant in Mutant::ALL {
        if format!("{mutant:?}").contains(only) {
            let one = one(*mutant, seeds, search);
            let law = one.law.as_deref().unwrap_or("nothing");
            let Caught {
                mutant,
                after,
                place,
                ..
            } = &one;
            println!("{mutant:<24} {law:<9} {after:>9}  {place}");
            verdicts.push(one);
        }
    }
    let (all, seconds) = (verdicts.len(), begun.elapsed().as_secs_f64());
    let caught = verdicts.iter().filter(|one| one.law.is_some()).count();
    println!("{caught} of {all} caught in {seconds:.1} s");
    if json {
        let line = json!({
            "mutants": all,
            "caught": caught,
            "seconds": seconds,
            "verdicts": verdicts,
        });
        println!("{line}");
    }
    match caught == all {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

fn one(mutant: Mutant, seeds: u64, search: Duration) -> Caught {
    let begun = Instant::now();
    let (law, place, after) = match by_seeds(mutant, seeds) {
        Some((seed, law)) => (Some(law), "seeds".to_owned(), seed + 1),
        None => by_search(mutant, search),
    };
    Caught {
        mutant: format!("{mutant:?}"),
        law,
        place,
        after,
        seconds: begun.elapsed().as_secs_f64(),
    }
}

/// Returns the first failing seed from zero on, and the law.
fn by_seeds(mutant: Mutant, seeds: u64) -> Option<(u64, String)> {
    let (next, end) = (AtomicU64::new(0), AtomicU64::new(seeds));
    let failed = on_all_cores(|| {
        mutants::make(Some(mutant));
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end.load(Ordering::Relaxed) {
                return None;
            }
            if let Some((_, what)) = judge(seed, Tweaks::default()).1 {
                // Higher seeds need not run; lower ones are still running.
                end.fetch_min(seed, Ordering::Relaxed);
                let law = what.split_whitespace().next().unwrap_or("?");
                return Some((seed, law.to_owned()));
            }
        }
    });
    failed.into_iter().flatten().min()
}

fn by_search(mutant: Mutant, timeout: Duration) -> (Option<String>, String, u64) {
    let mut states = 0;
    for mut scope in exhaustive::all_scopes() {
        scope.make(mutant);
        let found = exhaustive::search(&scope, timeout, STATES_MAX);
        states += found.states as u64;
        if let Some((law, _)) = found.broken {
            let place = format!("search: {}", found.scope);
            return (Some(law.to_owned()), place, states);
        }
    }
    (None, "nowhere".to_owned(), states)
}
