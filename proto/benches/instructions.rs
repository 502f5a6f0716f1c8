//! Compares the number of instructions of fixed workloads, counted by callgrind, with the figures
//! in instructions.json. Unlike times, these counts do not vary between runs, so CI can check them.
//!
//! Run `cargo bench -p lockmesh-proto --bench instructions`; `-- --write` updates the figures.

mod cycles;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use serde_json::{Map, Value};

use cycles::{Contended, Cycles, key};

const CYCLES: u64 = 2_000;
const KEYS: u32 = 64;
/// The highest allowed ratio to the committed figure. Another compiler or processor changes a
/// figure by several percent.
const AT_MOST: f64 = 1.15;

/// The workloads by name. The count of `nothing` is subtracted from the others.
const WORKLOADS: [(&str, fn()); 3] = [
    ("nothing", || drop(Cycles::new(3))),
    ("acquire and release", || {
        let keys: Vec<_> = (0..KEYS).map(key).collect();
        Cycles::new(3).uncontended(&keys, CYCLES);
    }),
    ("hand-over among three", || {
        let mut contended = Contended::new(3);
        for _ in 0..CYCLES {
            contended.hand_over();
        }
    }),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let work = args.iter().skip_while(|arg| *arg != "--work").nth(1);
    if let Some(name) = work {
        return match WORKLOADS.iter().find(|(other, _)| other == name) {
            Some((_, work)) => {
                work();
                ExitCode::SUCCESS
            }
            None => fail(&format!("there is no work called {name}")),
        };
    }
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("SKIPPED: no instructions were counted, for there is no valgrind here.");
        return ExitCode::SUCCESS;
    }
    if std::env::consts::ARCH != "x86_64" {
        println!("SKIPPED: the committed figures are those of x86_64.");
        return ExitCode::SUCCESS;
    }
    let is_write = args.iter().any(|arg| arg == "--write");
    match measure().and_then(|counts| {
        if is_write {
            write(&counts)
        } else {
            compare(&counts)
        }
    }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => fail(&why),
    }
}

fn fail(why: &str) -> ExitCode {
    eprintln!("instructions: {why}");
    ExitCode::FAILURE
}

/// Returns the instructions per cycle of each workload.
fn measure() -> Result<Vec<(&'static str, u64)>, String> {
    let mut counts = Vec::new();
    let mut nothing = 0;
    for (name, _) in WORKLOADS {
        let count = count(name)?;
        if name == "nothing" {
            nothing = count;
        } else {
            counts.push((name, count.saturating_sub(nothing) / CYCLES));
        }
    }
    Ok(counts)
}

/// Returns the instructions of one workload, run under callgrind.
fn count(name: &str) -> Result<u64, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let file = program.with_extension("callgrind");
    let output = Command::new("valgrind")
        .arg("--tool=callgrind")
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(&program)
        .args(["--work", name])
        .output()
        .map_err(|error| format!("no valgrind: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(format!("under valgrind {name:?} failed: {said}"));
    }
    let told = read(&file)?;
    let totals = told.lines().find_map(|line| line.strip_prefix("totals: "));
    totals
        .and_then(|total| total.trim().parse().ok())
        .ok_or_else(|| format!("callgrind did not say how much {name:?} took"))
}

/// Returns an error if a workload exceeds [`AT_MOST`].
fn compare(counts: &[(&str, u64)]) -> Result<(), String> {
    let committed: Map<String, Value> =
        serde_json::from_str(&read(&figures())?).map_err(|error| error.to_string())?;
    println!(
        "{:<24} {:>12} {:>10} {:>6}",
        "instructions each", "committed", "now", "ratio"
    );
    let mut worse = Vec::new();
    for (name, count) in counts {
        let before = committed.get(*name).and_then(Value::as_u64);
        let before = before.ok_or_else(|| format!("instructions.json has no {name:?}"))?;
        let ratio = as_f64(*count) / as_f64(before);
        println!("{name:<24} {before:>12} {count:>10} {ratio:>6.3}");
        if ratio > AT_MOST {
            worse.push(*name);
        }
    }
    if worse.is_empty() {
        return Ok(());
    }
    Err(format!(
        "over {AT_MOST} times the committed figure: {}. Where that is the price of something \
         worth it: cargo bench -p lockmesh-proto --bench instructions -- --write",
        worse.join(", ")
    ))
}

fn write(counts: &[(&str, u64)]) -> Result<(), String> {
    let figures = figures();
    let all: Map<String, Value> = counts
        .iter()
        .map(|(name, count)| ((*name).to_owned(), (*count).into()))
        .collect();
    let text = serde_json::to_string_pretty(&all).map_err(|error| error.to_string())?;
    std::fs::write(&figures, text.clone() + "\n").map_err(|error| error.to_string())?;
    println!("{text}");
    Ok(())
}

fn figures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/instructions.json")
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn as_f64(count: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a count, for show")]
    let count = count as f64;
    count
}
