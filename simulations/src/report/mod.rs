//! A page that shows one run: one file, drawn by a script from the record.

mod data;
mod record;

use std::ops::Range;

pub(crate) use record::{Links, Note, Record};

use crate::algorithms::Plan;
use crate::cluster::World;
use data::{Data, Source};

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Runs a world and renders its page. `window`: the part of the run to show, in milliseconds.
///
/// # Errors
/// Returns a sentence if the data cannot be written as JSON.
pub(crate) fn page(
    title: String,
    command: String,
    plan: Plan,
    window: Option<Range<u64>>,
) -> Result<String, String> {
    let mut settings = plan.settings;
    settings.is_recorded = true;
    let (algorithm, hosts) = (settings.algorithm, settings.hosts());
    let world = World::new(settings, plan.faults, false).with_asks(plan.asks);
    let voters = world.laws.history.terms.voters.clone();
    let outcome = world.run();
    let data = Data::of(Source {
        title,
        command,
        algorithm: algorithm.name(),
        fenced: algorithm.has_fence(),
        hosts,
        voters: &voters,
        record: &outcome.record.unwrap_or_default(),
        violations: &outcome.violations,
        window,
    });
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
    use crate::algorithms::{Algorithm, compare};

    fn page_of(story: &str, algorithm: Algorithm, title: &str) -> String {
        let plan = compare::world(story, 3, algorithm).unwrap();
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
            let mut plan = compare::world("split", 3, Algorithm::Lockmesh).unwrap();
            plan.settings.is_recorded = is_recorded;
            World::new(plan.settings, plan.faults, false).run().digest
        };
        assert_eq!(run(true), run(false));
    }
}
