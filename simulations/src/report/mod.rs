//! A page that shows one run, as a file. The page is the one of the viewer, in `tools/src/page`.

mod data;
mod record;

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;

use crate::algorithms::{UserView, compare};
use crate::campaign::{self, Tweaks};
use crate::cluster::{Plan, World};
use crate::judge::{Fact, Violation};
use crate::kernel::MILLISECOND;
use crate::page::Trace;
use crate::scenarios::{self, BadScenario};

pub(crate) use record::{Links, Note, Record};

/// The run that a page shows: a scenario, a story of `compare`, or else the world of the seed.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) seed: u64,
    pub(crate) tweaks: Tweaks,
    pub(crate) scenario: Option<String>,
    pub(crate) story: Option<String>,
    /// The part of the run to show first.
    pub(crate) window: Option<Range<u64>>,
}

impl Run {
    /// Returns its world and its title.
    fn plan(&self) -> Result<(Plan, String), String> {
        let algorithm = self.tweaks.algorithm;
        if let Some(name) = &self.scenario {
            let (_, text) = scenarios::texts(name)?.swap_remove(0);
            let scenario = scenarios::read(&text);
            let mut scenario = scenario.map_err(|BadScenario(bad)| format!("{name}: {bad}"))?;
            algorithm.put_into(&mut scenario.plan.settings);
            return Ok((scenario.plan, format!("{name}: {}", scenario.story)));
        }
        let seed = self.seed;
        let name = self.story.as_deref().unwrap_or_default();
        if let Some((plan, what)) = compare::world(name, seed, algorithm) {
            return Ok((plan, format!("{name}: {what}, seed {seed}")));
        }
        let plan = campaign::plan_of(seed, self.tweaks);
        Ok((plan, format!("The world of seed {seed}")))
    }
}

/// Writes one run to a page.
pub(crate) fn command(file: &Path, run: Run) -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let command = format!("cargo run --release -p simulations -- {}", words.join(" "));
    let written = run.plan().and_then(|(plan, title)| {
        let draw = AssertUnwindSafe(|| page(title, command, plan, run.window));
        let page = catch_unwind(draw);
        let page = page.unwrap_or_else(|_| Err(format!("seed {} panics", run.seed)))?;
        let failed = |err| format!("cannot write {}: {err}", file.display());
        std::fs::write(file, page).map_err(failed)
    });
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("{err}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a world and renders its page. `window`: the part of the run to show first.
fn page(
    title: String,
    command: String,
    mut plan: Plan,
    window: Option<Range<u64>>,
) -> Result<String, String> {
    plan.settings.is_recorded = true;
    let (algorithm, hosts) = (plan.settings.algorithm, plan.settings.hosts());
    let world = World::new(plan, false);
    let voters = world.laws.history.terms.voters.clone();
    let voters = voters.into_iter().enumerate();
    let outcome = world.run();
    let record = outcome.record.unwrap_or_default();
    let view = UserView::of(&record);
    let trace = Trace {
        title,
        command,
        subject: algorithm.name(),
        nodes: (0..hosts).map(|host| format!("n{host}")).collect(),
        voters: voters
            .map(|(key, of_key)| (format!("key {key}"), of_key))
            .collect(),
        is_fenced: algorithm.has_fence(),
        marks: "writes",
        window: window.unwrap_or_else(|| 0..end(&record, &view, &outcome.violations)),
        run: 0..record.end.max(MILLISECOND),
        timeline: data::timeline(&record, hosts, &view, &outcome.violations),
    };
    trace
        .page()
        .map_err(|err| format!("the data of the page: {err}"))
}

/// Returns the end of the part that is shown first. The stories that time an idle cluster are left out,
/// unless they broke a law.
fn end(record: &Record, view: &UserView, violations: &[Violation]) -> u64 {
    let is_settled = |note: &&(u64, Note)| matches!(note.1, Note::Fact(Fact::Settled));
    let settled = record.notes.iter().find(is_settled);
    let settled = settled.map_or(record.end, |(at, _)| *at);
    let before = view.leases.iter().filter(|it| it.from < settled);
    let ends = before.map(|it| it.until.min(record.end));
    let notes = record.notes.iter().map(|(at, note)| match note {
        Note::Host(..) | Note::Links(_) if *at < settled => *at,
        _ => 0,
    });
    let marks = violations.iter().map(|it| it.at);
    let end = ends.chain(notes).chain(marks).max().unwrap_or_default();
    (end + end / 50).min(record.end.max(end)).max(MILLISECOND)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::algorithms::Algorithm;

    #[test]
    fn page_of_split_shows_sides_and_two_holders() {
        let (plan, _) = compare::world("split", 3, Algorithm::Living).unwrap();
        let page = page("a split".to_owned(), String::new(), plan, None).unwrap();
        assert!(page.contains("partition: n0, n1, n2 | n3, n4"));
        assert!(page.contains("\"sides\":[0,0,0,1,1]") && page.contains("M1 broken"));
    }

    #[test]
    fn recording_does_not_change_the_run() {
        let run = |is_recorded| {
            let (mut plan, _) = compare::world("split", 3, Algorithm::Lockmesh).unwrap();
            plan.settings.is_recorded = is_recorded;
            plan.run(false).digest
        };
        assert_eq!(run(true), run(false));
    }
}
