//! The command `mutants` in a build without the mistakes: builds a program that has them, and runs
//! it.
//!
//! No other build has the switch, so this one does not either. The new build has a target folder of
//! its own, so that no binary with the switch replaces this one.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// Runs the same command line with `--cfg lockmesh_mutants`, and returns its exit code.
pub(crate) fn with_mistakes() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    let (Some(cargo), Some(target)) = (std::env::var_os("CARGO"), target_folder()) else {
        let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
        eprintln!(
            "this build has no mistakes in it; run\n  RUSTFLAGS=\"--cfg lockmesh_mutants\" cargo run \
             --release -p simulations --target-dir target/mutants -- {}",
            words.join(" ")
        );
        return ExitCode::from(2);
    };
    let mut command = Command::new(&cargo);
    command
        .args(["run", "--release"])
        .env("RUSTFLAGS", "--cfg lockmesh_mutants")
        .args([
            "--manifest-path",
            concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"),
        ])
        .arg("--target-dir")
        .arg(target)
        .arg("--")
        .args(words);
    match command.status() {
        // A process that was killed by a signal has no code.
        Ok(status) => ExitCode::from(status.code().map_or(1, |code| code as u8)),
        Err(error) => {
            eprintln!("cannot run {}: {error}", cargo.to_string_lossy());
            ExitCode::FAILURE
        }
    }
}

/// Returns a folder beside that of this binary's profile.
fn target_folder() -> Option<PathBuf> {
    let own = std::env::current_exe().ok()?;
    Some(own.parent()?.parent()?.join("mutants"))
}
