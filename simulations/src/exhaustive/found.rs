//! Runs the searches, and prints their results.

use std::fmt::Debug;
use std::hash::Hash;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::json;
use stateright::{Checker, HasDiscoveries, Model};

use super::deploys::{DeployScope, Deploys, deploy_scopes};
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
    /// `true` if in some state all claims have been granted, one after the other; of deploys, if one
    /// voter has resumed.
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
            false => "; nowhere were all served",
        };
        println!("{scope}: {states} states to depth {depth} in {seconds:.1} s, {rest}{unserved}");
        if let Some((law, path)) = &self.broken {
            println!("{law} is broken:\n  {}", path.join("\n  "));
        }
    }
}

/// Searches all scopes and prints the results. Time that one scope leaves goes to those after it.
pub(crate) fn command(timeout: Duration, states_max: usize, only: &str, json: bool) -> ExitCode {
    let begun = Instant::now();
    let mut scopes = all_scopes();
    scopes.retain(|scope| scope.name().contains(only));
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

/// A scope of one of the two searches.
#[derive(Clone, Debug)]
pub(crate) enum AnyScope {
    Locks(Scope),
    Deploys(DeployScope),
}

impl AnyScope {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Locks(scope) => scope.name,
            Self::Deploys(scope) => scope.name,
        }
    }

    /// Makes a mistake in the rules.
    #[cfg(lockmesh_mutants)]
    pub(crate) fn make(&mut self, mutant: crate::proto::Mutant) {
        match self {
            Self::Locks(scope) => scope.mistake.mutant = Some(mutant),
            Self::Deploys(scope) => scope.mistake.mutant = Some(mutant),
        }
    }
}

/// Returns the scopes of both searches for the real rules.
pub(crate) fn all_scopes() -> Vec<AnyScope> {
    let locks = scopes().into_iter().map(AnyScope::Locks);
    let deploys = deploy_scopes().into_iter().map(AnyScope::Deploys);
    deploys.chain(locks).collect()
}

/// Searches a scope for at most `timeout`, and about `states_max` states.
pub(crate) fn search(scope: &AnyScope, timeout: Duration, states_max: usize) -> Found {
    let limits = (timeout, states_max);
    match scope {
        AnyScope::Locks(scope) => run(
            (scope.name, Search::new(scope.clone())),
            limits,
            |state| state.broken,
            words_of,
        ),
        AnyScope::Deploys(scope) => run(
            (scope.name, Deploys::new(scope.clone())),
            limits,
            |state| state.broken,
            |action| format!("{action:?}"),
        ),
    }
}

/// Searches a model. Its first property must hold in all states, its second in one.
fn run<M>(
    (scope, model): (&'static str, M),
    (timeout, states_max): (Duration, usize),
    broken: impl Fn(&M::State) -> Option<&'static str>,
    words: impl Fn(&M::Action) -> String,
) -> Found
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync,
    M::Action: Clone + Debug + PartialEq + Send,
{
    let begun = Instant::now();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let names: Vec<&str> = model.properties().iter().map(|it| it.name).collect();
    let checker = model
        .checker()
        .threads(cores)
        .timeout(timeout)
        .target_state_count(states_max)
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let discoveries = checker.discoveries();
    let broken = discoveries.get(names[0]).map(|path| {
        let law = broken(path.last_state()).unwrap_or("M1");
        let actions = path.clone().into_actions();
        (law, actions.iter().map(words).collect())
    });
    let took = begun.elapsed();
    Found {
        scope,
        states: checker.unique_state_count(),
        depth: checker.max_depth(),
        exhausted: broken.is_none() && took < timeout && checker.state_count() < states_max,
        seconds: took.as_secs_f64(),
        broken,
        all_served: discoveries.contains_key(names[1]),
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
