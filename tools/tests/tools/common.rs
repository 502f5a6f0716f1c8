//! The programs as their users run them.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

#[path = "../../../tests/common/patience.rs"]
mod patience;

pub(crate) use patience::Patience;

pub(crate) fn bench(args: &[&str]) -> Command {
    program(env!("CARGO_BIN_EXE_bench"), args)
}

pub(crate) fn chaos(args: &[&str]) -> Command {
    program(env!("CARGO_BIN_EXE_chaos"), args)
}

pub(crate) fn viewer(args: &[&str]) -> Command {
    program(env!("CARGO_BIN_EXE_viewer"), args)
}

fn program(path: &str, args: &[&str]) -> Command {
    let mut command = Command::new(path);
    command.args(args).env_remove("RUST_LOG");
    command
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Returns an empty directory of this name.
pub(crate) fn place(name: &str) -> PathBuf {
    let place = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&place);
    fs::create_dir_all(&place).unwrap();
    place
}

/// Polls until there is a value.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let mut patience = Patience::new();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        patience.sleep(what);
    }
}
