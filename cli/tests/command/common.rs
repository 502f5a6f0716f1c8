//! The command as its users run it.

use std::process::{Command, Output};

#[path = "../../../tests/common/patience.rs"]
mod patience;

pub(crate) use patience::within;

pub(crate) fn lockmesh(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lockmesh"));
    command
        .args(args)
        .env_remove("RUST_LOG")
        .env_remove("LOCKMESH_SECRET");
    command
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}
