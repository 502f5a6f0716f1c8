//! Scenarios from files, and the stories of a world that has settled.

mod file;
mod format;
mod more_stories;
mod settled;
mod stories;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use serde_json::{Value, json};

use crate::algorithms::Algorithm;
use crate::campaign::Failure;

pub(crate) use file::{BadScenario, Scenario, read};
pub(crate) use format::Counted;

macro_rules! bundled {
    ($($name:literal)*) => {
        [$(($name, include_str!(concat!("../../scenarios/", $name, ".toml")))),*]
    };
}

/// The bundled scenarios.
#[rustfmt::skip]
pub(crate) const NAMED: [(&str, &str); 20] = bundled![
    "split_brain" "quorum_lost" "one_way_link" "bridge_node" "flapping_link" "slow_voter"
    "frozen_holder" "fast_clock" "rolling_restart" "whole_restart" "storm_of_try"
    "crash_of_holder" "fifty_members" "damaged_datagrams" "rolling_suspend" "early_expiry"
    "wall_clock_ahead" "former_incarnation" "called_dead" "releases_overtake"
];

/// Returns the names and texts of a bundled scenario, of all of them, or of a file.
///
/// # Errors
/// Returns a sentence that lists the bundled ones if there is no such scenario.
pub(crate) fn texts(name: &str) -> Result<Vec<(String, String)>, String> {
    let named = NAMED
        .iter()
        .filter(|(known, _)| name == "all" || *known == name);
    let texts: Vec<_> = named
        .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
        .collect();
    if !texts.is_empty() {
        return Ok(texts);
    }
    match std::fs::read_to_string(name) {
        Ok(text) => Ok(vec![(name.to_owned(), text)]),
        Err(error) => {
            let known: Vec<&str> = NAMED.iter().map(|(known, _)| *known).collect();
            let known = known.join(", ");
            Err(format!(
                "{name} is no scenario and no file that can be read: {error}\n\
                 scenarios: {known}, or all"
            ))
        }
    }
}

/// Plays a scenario by name or from a file, or all of them, and prints the results.
pub(crate) fn command(name: &str, algorithm: Algorithm, trace: bool, json: bool) -> ExitCode {
    match play_all(name, algorithm, trace) {
        Ok((failure, lines)) => {
            if json {
                println!("{}", json!({ "scenarios": lines }));
            }
            failure.map_or(ExitCode::SUCCESS, ExitCode::from)
        }
        Err(what) => {
            eprintln!("{what}");
            ExitCode::from(2)
        }
    }
}

fn play_all(
    name: &str,
    algorithm: Algorithm,
    trace: bool,
) -> Result<(Option<Failure>, Vec<Value>), String> {
    let (mut failure, mut lines) = (None, Vec::new());
    for (name, text) in texts(name)? {
        let mut scenario = read(&text).map_err(|BadScenario(bad)| format!("{name}: {bad}"))?;
        algorithm.put_into(&mut scenario.plan.settings);
        let (fails, line) = play_one(&name, scenario, trace);
        if fails.is_some() {
            println!("  cargo run --release -p simulations -- --scenario {name} --trace");
        }
        failure = failure.max(fails);
        lines.push(line);
    }
    Ok((failure, lines))
}

/// Plays one scenario and prints the result. A panic is a failure.
fn play_one(name: &str, scenario: Scenario, trace: bool) -> (Option<Failure>, Value) {
    let story = scenario.story.clone();
    let Ok((outcome, unmet)) = catch_unwind(AssertUnwindSafe(|| scenario.play(trace))) else {
        println!("{name}: FAILED. It panics. {story}");
        let line = json!({"scenario": name, "panics": true});
        return (Some(Failure::Crash), line);
    };
    outcome.print_lines();
    let fails = Failure::of(&outcome.violations);
    let fails = fails.or_else(|| (!unmet.is_empty()).then_some(Failure::Liveness));
    let verdict = fails.map_or("as expected", |_| "FAILED");
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
        "grants": outcome.counted("grants"),
        "violations": outcome.violations,
        "unmet": unmet,
    });
    (fails, line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bundled_scenarios_meet_their_expectations() {
        for (name, text) in NAMED {
            let scenario = read(text).unwrap_or_else(|bad| panic!("{name}: {}", bad.0));
            let (outcome, unmet) = scenario.play(false);
            let broken = outcome.violations;
            assert!(broken.is_empty(), "{name}: {broken:?}");
            assert!(unmet.is_empty(), "{name}: {unmet:?}");
        }
    }
}
