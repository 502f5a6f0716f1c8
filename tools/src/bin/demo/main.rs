//! The demo: five nodes on this machine, and a script of faults.
#![forbid(unsafe_code)]

mod cluster;
mod ledger;
mod phases;
mod show;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use cluster::{Cluster, NODES};
use ledger::{Ledger, Tally};
use phases::Story;
use show::Show;
use tools::put;

/// The time limit of the script.
const STORY_AT_MOST: Duration = Duration::from_secs(28);
const STOP_AT_MOST: Duration = Duration::from_millis(1_500);

/// Run a scripted demo of five nodes: partition, heal, crash, restart. Exit code: 1 if there was a
/// violation, or a step failed or took too long.
#[derive(Parser)]
#[command(name = "demo")]
struct Args {
    /// Print one JSON object as the last line.
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Args { json } = Args::parse();
    let show = Show::new();
    let ledger = Arc::new(Ledger::default());
    let (takeover, failure) = match Cluster::start(ledger.clone()).await {
        Ok(cluster) => {
            let deadline = show.start() + STORY_AT_MOST;
            let mut story = Story::new(show, ledger.clone(), cluster, deadline);
            let failure = story.tell().await.err();
            let takeover = story.takeover();
            let _ = tokio::time::timeout(STOP_AT_MOST, story.stop()).await;
            (takeover, failure)
        }
        Err(error) => (None, Some(error)),
    };
    let tally = ledger.tally();
    let failure = failure.map(|error| format!("{error:#}"));
    summary(&show, &tally, takeover, failure.as_deref());
    if json {
        put(&json_line(&tally, takeover).to_string());
    }
    if failure.is_none() && is_clean(&tally) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn is_clean(tally: &Tally) -> bool {
    let counted = tally.minority_grants + tally.overlaps + tally.epoch_regressions;
    counted == 0 && tally.violations.is_empty()
}

fn summary(show: &Show, tally: &Tally, takeover: Option<Duration>, failure: Option<&str>) {
    let Tally {
        grants,
        writes,
        late_writes,
        minority_grants,
        minority_refusals,
        ..
    } = tally;
    show.phase("in short");
    show.say(&format!(
        "  {NODES} nodes, {grants} grants; {writes} fenced writes, {late_writes} late ones refused"
    ));
    show.say(&format!(
        "  asked for in a minority: {} locks; granted: {minority_grants}",
        minority_grants + minority_refusals
    ));
    if let Some(takeover) = takeover {
        show.say(&format!(
            "  taken over from a crashed holder after {}",
            show::span(takeover)
        ));
    }
    show.say(&format!(
        "  two holders at once: {}; epochs that did not rise: {}",
        tally.overlaps, tally.epoch_regressions
    ));
    for violation in &tally.violations {
        show.say(&format!("VIOLATED: {violation}"));
    }
    if let Some(failure) = failure {
        show.say(&format!("FAILED: {failure}"));
    }
    if failure.is_none() && is_clean(tally) {
        show.say("  everything held");
    }
}

/// `takeover_ms` is null if the script ended before the takeover.
fn json_line(tally: &Tally, takeover: Option<Duration>) -> serde_json::Value {
    serde_json::json!({
        "nodes": NODES,
        "grants": tally.grants,
        "takeover_ms": takeover.map(|span| (span.as_secs_f64() * 1e4).round() / 10.0),
        "minority_grants": tally.minority_grants,
        "overlaps": tally.overlaps,
        "epoch_regressions": tally.epoch_regressions,
    })
}
