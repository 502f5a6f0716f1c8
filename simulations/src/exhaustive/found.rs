//! Runs the searches, and prints their results.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::json;
use stateright::{Checker, HasDiscoveries, Model};

use super::scope::{Scope, scopes};
use super::{Action, Search};
use crate::campaign::Failure;

/// The result of a search.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Found {
    pub(crate) scope: &'static str,
    /// The number of distinct states.
    pub(crate) states: usize,
    pub(crate) depth: usize,
    /// `true` if these are all states within the scope.
    pub(crate) exhausted: bool,
    pub(crate) seconds: f64,
    /// The broken law, and the actions that lead there.
    pub(crate) broken: Option<(&'static str, Vec<String>)>,
    /// `true` if in some state all claims have been granted, one after the other.
    pub(crate) all_served: bool,
}

impl Found {
    fn print(&self) {
        let Self {
            scope,
            states,
            depth,
            seconds,
            ..
        } = self;
        let rest = match self.exhausted {
            true => "all of them",
            false => "there are more",
        };
        let unserved = match self.all_served {
            true => "",
            false => "; nowhere did all claims own the key in turn",
        };
        println!("{scope}: {states} states to depth {depth} in {seconds:.1} s, {rest}{unserved}");
        if let Some((law, path)) = &self.broken {
            println!("{law} is broken:\n  {}", path.join("\n  "));
        }
    }
}

/// Searches all scopes and prints the results. Time that one scope leaves goes to those after it.
pub(crate) fn command(timeout: Duration, states_max: usize, json: bool) -> ExitCode {
    let begun = Instant::now();
    let scopes = scopes();
    let mut found = Vec::new();
    for (at, scope) in scopes.iter().enumerate() {
        let left = timeout.saturating_sub(begun.elapsed());
        let one = search(scope, left / (scopes.len() - at) as u32, states_max);
        one.print();
        found.push(one);
    }
    let broken = found.iter().filter(|one| one.broken.is_some()).count();
    let states: usize = found.iter().map(|one| one.states).sum();
    println!("{states} states, {broken} violations");
    if json {
        let line = json!({"states": states, "violations": broken, "scopes": found});
        println!("{line}");
    }
    match broken {
        0 => ExitCode::SUCCESS,
        _ => Failure::Safety.into(),
    }
}

/// Searches a scope for at most `timeout`, and about `states_max` states.
pub(crate) fn search(scope: &Scope, timeout: Duration, states_max: usize) -> Found {
    let begun = Instant::now();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let checker = Search::new(scope.clone())
        .checker()
        .threads(cores)
        .timeout(timeout)
        .target_state_count(states_max)
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let discoveries = checker.discoveries();
    let broken = discoveries.get("M1 to M4").map(|path| {
        let law = path.last_state().broken.unwrap_or("M1");
        let actions = path.clone().into_actions();
        (law, actions.iter().map(words_of).collect())
    });
    let took = begun.elapsed();
    Found {
        scope: scope.name,
        states: checker.unique_state_count(),
        depth: checker.max_depth(),
        exhausted: broken.is_none() && took < timeout && checker.state_count() < states_max,
        seconds: took.as_secs_f64(),
        broken,
        all_served: discoveries.contains_key("all own it in turn"),
    }
}

fn words_of(action: &Action) -> String {
    match action {
        Action::Read(envelope) => format!(
            "n{} -> n{}: {:?}",
            envelope.from, envelope.to, envelope.message
        ),
        other => format!("{other:?}"),
    }
}
