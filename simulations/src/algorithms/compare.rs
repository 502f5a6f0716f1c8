//! Runs all algorithms in the same worlds, and makes a table of the results.

use std::fmt::Write as _;
use std::ops::Range;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::Algorithm;
use super::stories::{STORIES, Story};
use super::tally::{self, Tally};
use crate::cluster::{Gossip, Plan, Rates, Settings};
use crate::faults;
use crate::kernel::on_all_cores;
use crate::scenarios::{self, NAMED};

/// The name of the last row of the table.
const MIX: &str = "random-mix";
const MIX_WHAT: &str =
    "each seed draws its own world and faults; users let go before their last write has arrived";

/// One row: a story, a scenario or the random mix, with the figures of each algorithm.
struct StoryRow {
    name: &'static str,
    what: &'static str,
    play: Play,
    /// The figures of each algorithm, in the order of [`Algorithm::ALL`].
    tallies: [Tally; 3],
}

/// The world of a row.
enum Play {
    Story(Story),
    /// The text of a scenario.
    Scenario(&'static str),
    Mix,
}

impl Play {
    /// Returns `None` if a scenario cannot be played, which its own tests rule out.
    fn plan(&self, seed: u64, algorithm: Algorithm) -> Option<Plan> {
        match self {
            Self::Story(story) => Some(story.world(seed, algorithm)),
            Self::Scenario(text) => {
                let scenario = scenarios::read(text).ok()?;
                let mut plan = scenario.plan;
                algorithm.put_into(&mut plan.settings);
                plan.settings.seed = seed;
                Some(plan)
            }
            Self::Mix => Some(mixed(seed, algorithm)),
        }
    }
}

/// Runs every story and the random mix, or every bundled scenario, and prints the table.
pub(crate) fn command(seeds: &Range<u64>, scenarios: bool, json: bool) -> ExitCode {
    let rows = match scenarios {
        true => NAMED
            .map(|(name, text)| row(name, "", Play::Scenario(text)))
            .into(),
        false => {
            let stories = STORIES.map(|story| row(story.name, story.what, Play::Story(story)));
            Vec::from(stories)
                .into_iter()
                .chain([row(MIX, MIX_WHAT, Play::Mix)])
                .collect()
        }
    };
    let rows = play_all(rows, seeds);
    match json {
        true => println!("{}", to_json(&rows)),
        false => print!("{}", markdown(&rows)),
    }
    ExitCode::SUCCESS
}

/// Runs all rows with all algorithms, on all cores.
fn play_all(mut rows: Vec<StoryRow>, seeds: &Range<u64>) -> Vec<StoryRow> {
    let jobs: Vec<(usize, usize, u64)> = (0..rows.len())
        .flat_map(|row| (0..3).map(move |which| (row, which)))
        .flat_map(|(row, which)| seeds.clone().map(move |seed| (row, which, seed)))
        .collect();
    let next = AtomicUsize::new(0);
    let parts = on_all_cores(|| {
        let mut sums = vec![[Tally::default(); 3]; rows.len()];
        while let Some((row, which, seed)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Some(plan) = rows[*row].play.plan(*seed, Algorithm::ALL[*which]) {
                sums[*row][*which].add(tally_of(plan));
            }
        }
        sums
    });
    for sums in parts {
        for (row, sums) in rows.iter_mut().zip(sums) {
            for (tally, sum) in row.tallies.iter_mut().zip(sums) {
                tally.add(sum);
            }
        }
    }
    rows
}

fn row(name: &'static str, what: &'static str, play: Play) -> StoryRow {
    StoryRow {
        name,
        what,
        play,
        tallies: Default::default(),
    }
}

/// Draws the world of a seed, with gossip by heartbeats. With the adversarial gossip of the
/// default, a majority of the living could not work at all.
fn mixed(seed: u64, algorithm: Algorithm) -> Plan {
    let mut settings = Settings::draw(seed, None);
    settings.algorithm = algorithm;
    settings.gossip = Gossip::Heartbeats;
    settings.send_plain_and_whole();
    settings.rates = Rates::Kept;
    Plan {
        faults: faults::draw(&settings),
        settings,
        requests: Vec::new(),
    }
}

fn tally_of(mut plan: Plan) -> Tally {
    plan.settings.is_recorded = true;
    let mut record = plan.run(false).record.unwrap_or_default();
    record.end_at_settled();
    tally::UserView::of(&record).tally(record.healed)
}

/// Returns the world of a story by its name, and its faults in a short phrase.
pub(crate) fn world(name: &str, seed: u64, algorithm: Algorithm) -> Option<(Plan, &'static str)> {
    let story = STORIES.into_iter().find(|story| story.name == name)?;
    Some((story.world(seed, algorithm), story.what))
}

/// Returns the names of the stories.
pub(crate) fn names() -> Vec<&'static str> {
    STORIES.iter().map(|story| story.name).collect()
}

/// Formats the table as Markdown, with a line for each story and algorithm.
fn markdown(rows: &[StoryRow]) -> String {
    let mut text = String::from(
        "| what goes wrong | algorithm | two holders | for | stale writes taken | refused \
         | grants | longest wait for a free key, healed |\n\
         | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n",
    );
    for row in rows {
        for (algorithm, tally) in Algorithm::ALL.iter().zip(&row.tallies) {
            let what = match algorithm {
                Algorithm::Lockmesh if row.what.is_empty() => format!("**{}**", row.name),
                Algorithm::Lockmesh => format!("**{}**: {}", row.name, row.what),
                _ => String::new(),
            };
            // Writing to a string does not fail.
            let _ = writeln!(
                text,
                "| {what} | {} | {} | {} | {} | {} | {} | {} |",
                algorithm.name(),
                tally.overlaps,
                span(tally.overlap_nanos),
                tally.stale_taken,
                tally.stale_refused,
                tally.grants,
                span(tally.free_but_waited_nanos),
            );
        }
    }
    text
}

/// Formats the table as one JSON object.
fn to_json(rows: &[StoryRow]) -> Value {
    let row = |row: &StoryRow| {
        let by_name = Algorithm::ALL.iter().zip(&row.tallies);
        let by_name: Vec<Value> = by_name
            .map(|(algorithm, tally)| json!({ "algorithm": algorithm.name(), "tally": tally }))
            .collect();
        json!({ "name": row.name, "what": row.what, "algorithms": by_name })
    };
    json!({ "rows": rows.iter().map(row).collect::<Vec<_>>() })
}

fn span(nanos: u64) -> String {
    match nanos {
        0 => "0".to_owned(),
        1..10_000_000_000 => format!("{} ms", nanos.div_ceil(1_000_000)),
        _ => format!("{:.1} s", nanos as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(story: &str, algorithm: Algorithm, seeds: Range<u64>) -> Tally {
        let mut sum = Tally::default();
        for seed in seeds {
            sum.add(tally_of(world(story, seed, algorithm).unwrap().0));
        }
        sum
    }

    #[test]
    fn without_faults_no_algorithm_has_two_holders() {
        for algorithm in Algorithm::ALL {
            let settled = tally("settled", algorithm, 0..5);
            assert!(settled.grants > 50, "{algorithm:?}: {settled:?}");
            assert_eq!(settled.overlaps, 0, "{algorithm:?}");
            assert_eq!(settled.stale_taken, 0, "{algorithm:?}");
        }
    }

    #[test]
    fn partition_gives_majority_of_living_two_holders() {
        let living = tally("split", Algorithm::Living, 0..5);
        assert!(
            living.overlaps > 0 && living.stale_refused > 0,
            "{living:?}"
        );
        assert_eq!(tally("split", Algorithm::Redlock, 0..5).overlaps, 0);
    }

    #[test]
    fn redlock_has_two_holders_when_servers_restart_empty() {
        let redlock = tally("restart-of-three", Algorithm::Redlock, 0..5);
        assert!(redlock.overlaps > 0, "{redlock:?}");
    }

    #[test]
    fn paused_holder_overwrites_successor_only_under_redlock() {
        let redlock = tally("frozen-holder", Algorithm::Redlock, 0..20);
        assert!(redlock.stale_taken > 0, "{redlock:?}");
        for algorithm in [Algorithm::Lockmesh, Algorithm::Living] {
            assert_eq!(tally("frozen-holder", algorithm, 0..20).stale_taken, 0);
        }
    }

    #[test]
    fn lockmesh_has_one_holder_in_every_story() {
        for name in names() {
            let tally = tally(name, Algorithm::Lockmesh, 0..5);
            assert_eq!((tally.overlaps, tally.stale_taken), (0, 0), "{name}");
        }
    }
}
