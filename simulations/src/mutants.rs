//! Puts known mistakes back into the rules, one at a time, to check that a law catches each.
//!
//! `mutants.txt` has the place where each mistake was caught last: a seed, or a scope of the
//! exhaustive search. That place comes first. If the mistake is not caught there, random seeds from
//! zero on come next, and then all scopes. `-- mutants --write` renews the file: the place in it comes
//! last then.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::json;

use crate::campaign::{Tweaks, judge};
use crate::exhaustive;
use crate::kernel::on_all_cores;
use crate::proto::{Mutant, mutants};

/// The path of the file.
const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/mutants.txt");
const KNOWN: &str = include_str!("../mutants.txt");

/// The result of a mutant.
#[derive(Clone, Debug, Serialize)]
struct Caught {
    mutant: String,
    /// The law that caught it, if any.
    law: Option<String>,
    /// The seed or the scope of a search that caught it.
    place: String,
    /// The number of seeds or states until then.
    after: u64,
    seconds: f64,
}

/// The maximum number of states of one scope of the search.
const STATES_MAX: usize = 3_000_000;

/// Puts each mistake back, and prints which law catches it. With `write` the file counts only for
/// mistakes that are caught nowhere else, and is replaced.
pub(crate) fn command(
    seeds: u64,
    only: &str,
    search: Duration,
    write: bool,
    json: bool,
) -> ExitCode {
    let begun = Instant::now();
    let all = Mutant::ALL.iter().copied();
    let all = Vec::from_iter(all.filter(|it| format!("{it:?}").contains(only)));
    let mut known = where_known(&all, search);
    let moved = known.iter().filter(|one| one.is_none()).count();
    println!("{:<24} {:<9} {:>9}  where", "mistake", "caught by", "after");
    let mut verdicts = Vec::new();
    for (mutant, known) in all.iter().zip(&mut known) {
        let early = known.take_if(|_| !write);
        let one = early.unwrap_or_else(|| anywhere(*mutant, seeds, search));
        let one = match one.law {
            None => known.take().unwrap_or(one),
            Some(_) => one,
        };
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
    let (all, seconds) = (verdicts.len(), begun.elapsed().as_secs_f64());
    let caught = verdicts.iter().filter(|one| one.law.is_some()).count();
    println!("{caught} of {all} caught in {seconds:.1} s");
    if moved > 0 && !write {
        println!("{moved} of them not where mutants.txt says; --write renews that file");
    }
    if json {
        let line = json!({
            "mutants": all,
            "caught": caught,
            "seconds": seconds,
            "verdicts": verdicts,
        });
        println!("{line}");
    }
    if write {
        let lines = verdicts.iter().filter(|one| one.law.is_some());
        let lines = lines.map(|one| format!("{} {}\n", one.mutant, one.place));
        if let Err(error) = std::fs::write(FILE, lines.collect::<String>()) {
            eprintln!("cannot write {FILE}: {error}");
            return ExitCode::FAILURE;
        }
    }
    match caught == all {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// Tries each mistake at its place in the file, one on each core. The searches come after the
/// seeds, since each takes all cores.
fn where_known(all: &[Mutant], search: Duration) -> Vec<Option<Caught>> {
    let places = Vec::from_iter(all.iter().map(|mutant| known_place(*mutant)));
    let next = AtomicUsize::new(0);
    let parts = on_all_cores(|| {
        let mut own = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(mutant) = all.get(at) else {
                return own;
            };
            let seed = places[at].and_then(|it| it.strip_prefix("seed "));
            let begun = Instant::now();
            if let Some(seed) = seed.and_then(|it| it.parse().ok())
                && let Some(law) = by_seed(*mutant, seed)
            {
                own.push((at, caught(*mutant, law, format!("seed {seed}"), 1, begun)));
            }
        }
    });
    let mut found = vec![None; all.len()];
    for (at, one) in parts.into_iter().flatten() {
        found[at] = Some(one);
    }
    for (at, mutant) in all.iter().enumerate() {
        if let Some(scope) = places[at].and_then(|it| it.strip_prefix("search: ")) {
            let begun = Instant::now();
            let (law, place, states) = by_search(*mutant, search, Some(scope));
            found[at] = law.map(|law| caught(*mutant, law, place, states, begun));
        }
    }
    found
}

/// Returns the place of a mistake in the file.
fn known_place(mutant: Mutant) -> Option<&'static str> {
    let name = format!("{mutant:?}");
    let lines = KNOWN.lines().filter_map(|line| line.split_once(' '));
    lines.into_iter().find(|line| line.0 == name).map(|it| it.1)
}

fn anywhere(mutant: Mutant, seeds: u64, search: Duration) -> Caught {
    let begun = Instant::now();
    if let Some((seed, law)) = by_seeds(mutant, seeds) {
        return caught(mutant, law, format!("seed {seed}"), seed + 1, begun);
    }
    let (law, place, after) = by_search(mutant, search, None);
    let found = caught(mutant, String::new(), place, after, begun);
    Caught { law, ..found }
}

fn caught(mutant: Mutant, law: String, place: String, after: u64, begun: Instant) -> Caught {
    Caught {
        mutant: format!("{mutant:?}"),
        law: Some(law),
        place,
        after,
        seconds: begun.elapsed().as_secs_f64(),
    }
}

/// Returns the law that this seed breaks with a mistake.
fn by_seed(mutant: Mutant, seed: u64) -> Option<String> {
    mutants::make(Some(mutant));
    let (_, what) = judge(seed, Tweaks::default()).1?;
    Some(what.split_whitespace().next().unwrap_or("?").to_owned())
}

/// Returns the first failing seed from zero on, and the law.
fn by_seeds(mutant: Mutant, seeds: u64) -> Option<(u64, String)> {
    let (next, end) = (AtomicU64::new(0), AtomicU64::new(seeds));
    let failed = on_all_cores(|| {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end.load(Ordering::Relaxed) {
                return None;
            }
            if let Some(law) = by_seed(mutant, seed) {
                // Higher seeds need not run; lower ones are still running.
                end.fetch_min(seed, Ordering::Relaxed);
                return Some((seed, law));
            }
        }
    });
    failed.into_iter().flatten().min()
}

/// Searches one scope, or all.
fn by_search(
    mutant: Mutant,
    timeout: Duration,
    only: Option<&str>,
) -> (Option<String>, String, u64) {
    let mut states = 0;
    let scopes = exhaustive::all_scopes().into_iter();
    for mut scope in scopes.filter(|it| only.is_none_or(|only| it.name() == only)) {
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
