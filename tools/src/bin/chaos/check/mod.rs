//! `chaos check`: judges the histories of processes by the laws of the simulations.

mod figures;
mod laws;
mod read;
mod records;
mod report;
#[cfg(test)]
mod tests;
mod wakeup;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;

pub(crate) use figures::Figures;
use laws::Found;
use lockmesh_cli::FileError;
use read::Reader;
use records::Histories;

use tools::put;

/// The exit code if histories contradict each other.
const REJECTED: u8 = 1;
/// The exit code if histories cannot be read.
const BAD_INPUT: u8 = 2;
/// The maximum number of contradictions that are printed.
const PRINTED_MAX: usize = 20;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Files written by a chaos run (`--keep`).
    #[arg(required = true)]
    histories: Vec<PathBuf>,
    /// Longest allowed wait while the key is free and a quorum is up, in milliseconds. Five leases
    /// are a good bound.
    #[arg(long, default_value_t = 10_000)]
    wait_bound_ms: u64,
    /// Write the histories to this file as a page.
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
    /// Print one JSON object as the last line.
    #[arg(long)]
    json: bool,
}

/// The result of a check.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) figures: Figures,
    /// Descriptions, each with the positions of two lines.
    pub(crate) contradictions: Vec<String>,
}

impl Verdict {
    pub(crate) fn json(&self) -> serde_json::Value {
        json!({
            "accepted": self.contradictions.is_empty(),
            "contradictions": self.contradictions,
            "figures": self.figures,
        })
    }
}

/// Judges histories. Returns exit code 0 (accepted), 1 (contradiction) or 2 (unreadable).
pub(crate) fn run(args: &Args) -> ExitCode {
    let verdict = match judge(&args.histories, args.wait_bound_ms, args.report.as_deref()) {
        Ok(verdict) => verdict,
        Err(error) => {
            eprintln!("chaos: {error}");
            return ExitCode::from(BAD_INPUT);
        }
    };
    print(&verdict);
    if args.json {
        put(&verdict.json().to_string());
    }
    if verdict.contradictions.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(REJECTED)
    }
}

/// Reads these files, judges them together, and writes the page, if one is wanted.
///
/// # Errors
/// [`FileError`] if a file is not a history, if there is nothing to judge, or if the page cannot be
/// written.
pub(crate) fn judge(
    files: &[PathBuf],
    wait_bound_ms: u64,
    report: Option<&Path>,
) -> Result<Verdict, FileError> {
    let mut reader = Reader::default();
    for file in files {
        reader.file(file)?;
    }
    let histories = reader.finish()?;
    if histories.requests.is_empty() {
        return Err(FileError {
            file: files.first().cloned().unwrap_or_default(),
            line: None,
            what: "no history has a request: there is nothing to judge".to_owned(),
        });
    }
    let verdict = verdict(&histories, wait_bound_ms.saturating_mul(1_000_000));
    if let Some(file) = report {
        let page = report::page(&histories, &verdict.contradictions);
        let written = page
            .map_err(Into::into)
            .and_then(|page| std::fs::write(file, page));
        written.map_err(|error| FileError {
            file: file.to_owned(),
            line: None,
            what: format!("cannot be written: {error}"),
        })?;
    }
    Ok(verdict)
}

/// Judges histories. `bound` is the longest allowed wait for a free key, in nanoseconds.
fn verdict(histories: &Histories, bound: u64) -> Verdict {
    let mut found = Found {
        histories,
        sentences: Vec::new(),
    };
    laws::mutual_exclusion(&mut found);
    laws::permits(&mut found);
    laws::fencing(&mut found);
    laws::lost_for_good(&mut found);
    laws::lasts_its_ttl(&mut found);
    laws::ticks_run_once(&mut found);
    laws::resumes_after_power_cuts(&mut found);
    laws::served_in_the_calm(&mut found);
    laws::served_with_a_wrong_wall_clock(&mut found);
    let longest = wakeup::no_lost_wakeup(&mut found, bound);
    Verdict {
        figures: Figures::of(histories, longest),
        contradictions: found.sentences,
    }
}

/// Prints the verdict as text.
pub(crate) fn print(verdict: &Verdict) {
    let contradictions = &verdict.contradictions;
    let figures = json!(verdict.figures);
    for (name, figure) in figures.as_object().into_iter().flatten() {
        if name != "grants_by_node" {
            put(&format!("{:<26} {figure}", name.replace('_', " ")));
        }
    }
    for sentence in contradictions.iter().take(PRINTED_MAX) {
        put(&format!("CONTRADICTION: {sentence}"));
    }
    if contradictions.len() > PRINTED_MAX {
        put(&format!("and {} more", contradictions.len() - PRINTED_MAX));
    }
    put(if contradictions.is_empty() {
        "accepted"
    } else {
        "REJECTED"
    });
}
