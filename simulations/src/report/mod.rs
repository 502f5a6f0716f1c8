//! A page that shows one run: one file, drawn by a script from the record.

mod data;
mod record;

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;

use crate::algorithms::compare;
use crate::campaign::{self, Tweaks};
use crate::cluster::{Plan, World};
use crate::scenarios::{self, BadScenario};
use data::{Data, Shown};

pub(crate) use record::{Links, Note, Record};

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The run that a page shows: a scenario, a story of `compare`, or else the world of the seed.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) seed: u64,
    pub(crate) tweaks: Tweaks,
    pub(crate) scenario: Option<String>,
    pub(crate) story: Option<String>,
    /// The part of the run to show, in milliseconds.
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

/// Runs a world and renders its page. `window`: the part of the run to show, in milliseconds.
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
    let outcome = world.run();
    let record = outcome.record.unwrap_or_default();
    let data = Data {
        title,
        command,
        algorithm: algorithm.name(),
        fenced: algorithm.has_fence(),
        hosts,
        voters,
        run: Shown::of(&record, hosts, outcome.violations, window),
    };
    fill(&data)
}

fn fill(data: &Data) -> Result<String, String> {
    let json = serde_json::to_string(data).map_err(|err| format!("the data of the page: {err}"))?;
    // Text in a script element must not look like its end.
    let json = json.replace('<', "\\u003c").replace('\u{2028}', "\\u2028");
    let page = PAGE.replace("{{title}}", &escape(&data.title));
    let page = page.replacen("{{style}}", STYLE, 1);
    let page = page.replacen("{{script}}", SCRIPT, 1);
    Ok(page.replacen("{{data}}", &json, 1))
}

fn escape(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    let text = text.replace('>', "&gt;").replace('"', "&quot;");
    text.replace('{', "&#123;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::algorithms::Algorithm;

    fn page_of(story: &str, algorithm: Algorithm, title: &str) -> String {
        let (plan, _) = compare::world(story, 3, algorithm).unwrap();
        page(title.to_owned(), "a command".to_owned(), plan, None).unwrap()
    }

    #[test]
    fn page_has_no_external_references() {
        let page = page_of("split", Algorithm::Living, "a split");
        for word in ["src=", "href=", "@import", "fetch(", "{{"] {
            assert!(!page.contains(word), "{word}");
        }
        // Only references to its own patterns.
        assert!(page.split("url(").skip(1).all(|rest| rest.starts_with('#')));
        assert!(page.contains("\"overlaps\":[{") && page.contains("partition: n0, n1, n2"));
    }

    #[test]
    fn title_text_is_escaped() {
        let page = page_of(
            "settled",
            Algorithm::Lockmesh,
            "</script><img onerror=\"x\">",
        );
        assert!(!page.contains("<img") && !page.contains("</script><"));
        assert!(page.contains("&lt;/script&gt;&lt;img onerror=&quot;x&quot;&gt;"));
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
