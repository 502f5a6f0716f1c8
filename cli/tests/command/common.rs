//! The command as its users run it.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::LazyLock;

#[path = "../../../tests/common/patience.rs"]
mod patience;

pub(crate) use patience::within;

/// Returns the command, with a state directory of the test's own.
pub(crate) fn lockmesh(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lockmesh"));
    command
        .args(args)
        .env("XDG_STATE_HOME", state_home())
        .env_remove("RUST_LOG")
        .env_remove("LOCKMESH_DATA_DIR")
        .env_remove("LOCKMESH_SECRET");
    command
}

/// Returns the state directory of a test, which does not exist at first. The thread of a test has
/// its name.
pub(crate) fn state_home() -> PathBuf {
    static OF_ALL: LazyLock<PathBuf> = LazyLock::new(|| {
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("state");
        let _ = fs::remove_dir_all(&dir);
        dir
    });
    let thread = std::thread::current();
    OF_ALL.join(thread.name().unwrap_or("none").replace("::", "."))
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}
