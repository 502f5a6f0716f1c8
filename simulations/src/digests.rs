//! A seed gives the same trace on every machine. `digests.txt` has the digests of some traces, and
//! the tests compare those of their machine with it.
//!
//! A digest covers every datagram that a node sends and the time of every step. It changes only
//! with the rules, the wire format and the world; `-- digests --write` renews the file.

use std::fmt::Write as _;
use std::process::ExitCode;

use crate::algorithms::Algorithm;
use crate::campaign::{Tweaks, run_seed};
use crate::cluster::Outcome;
use crate::scenarios;

/// The path of the file.
const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/digests.txt");
const KNOWN: &str = include_str!("../digests.txt");
/// Large and small worlds, plaintext and sealed; 475 and 1627 once found bugs.
const SEEDS: [u64; 12] = [0, 1, 2, 3, 4, 5, 9, 77, 94, 475, 1_000, 1_627];

/// Compares the digests of this build with the file, or writes them into it.
pub(crate) fn command(write: bool) -> ExitCode {
    let own = text();
    if write {
        return match std::fs::write(FILE, own) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("cannot write {FILE}: {error}");
                ExitCode::FAILURE
            }
        };
    }
    let differences = differences(&own);
    if differences.is_empty() {
        println!("{} traces, all as in digests.txt", own.lines().count());
        return ExitCode::SUCCESS;
    }
    eprintln!("{}\n{ADVICE}", differences.join("\n"));
    ExitCode::FAILURE
}

/// Returns the digests of this build, one on a line.
fn text() -> String {
    let mut text = String::new();
    let mut add = |name: &str, outcome: &Outcome| {
        let grants = outcome.counted("grants");
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{name} {:016x} {} steps {} facts {grants} grants",
            outcome.digest, outcome.steps, outcome.facts
        );
    };
    for seed in SEEDS {
        let outcome = run_seed(seed, Tweaks::default(), false);
        add(&format!("seed/{seed}"), &outcome);
    }
    for algorithm in [Algorithm::Living, Algorithm::Redlock] {
        let tweaks = Tweaks {
            algorithm,
            ..Tweaks::default()
        };
        let outcome = run_seed(1, tweaks, false);
        add(&format!("seed/1/{}", algorithm.word()), &outcome);
    }
    for (name, file) in scenarios::NAMED {
        if let Ok(scenario) = scenarios::read(file) {
            add(name, &scenario.play(false).0);
        }
    }
    text
}

/// Returns the lines of this build that differ from those of the file.
fn differences(own: &str) -> Vec<String> {
    if own == KNOWN {
        return Vec::new();
    }
    let (mut own, mut known) = (own.lines(), KNOWN.lines());
    let mut differences = Vec::new();
    loop {
        match (own.next(), known.next()) {
            (None, None) => return differences,
            (own, known) if own == known => {}
            (own, known) => {
                let (own, known) = (own.unwrap_or("nothing"), known.unwrap_or("nothing"));
                differences.push(format!("here: {own}\n  file: {known}"));
            }
        }
    }
}

/// The advice after a difference.
const ADVICE: &str = "\
If the rules, the wire or the world were changed on purpose, renew the file with
  cargo run --release -p simulations -- digests --write
If not, a seed is not the same run on two machines, and that is a bug.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_match_the_file_on_every_machine() {
        let differences = differences(&text());
        assert!(
            differences.is_empty(),
            "{}\n{ADVICE}",
            differences.join("\n")
        );
    }

    #[test]
    fn changed_digest_is_reported() {
        let changed = KNOWN.replacen("seed/0 ", "seed/0 f", 1);
        assert_eq!(differences(&changed).len(), 1);
        assert_eq!(differences(&format!("{KNOWN}more\n")).len(), 1);
    }
}
