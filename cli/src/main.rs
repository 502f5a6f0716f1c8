//! The command `lockmesh`: runs a node, runs commands under locks, and observes a running mesh.
#![forbid(unsafe_code)]

#[cfg(unix)]
mod exec;
mod look;
#[cfg(unix)]
mod release;
mod top;

use std::fmt::Display;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use lockmesh::ClusterSecret;
use lockmesh_cli::{Overrides, node};
use look::Failure;

/// Run a node of a lock mesh, run commands under its locks, and observe a running mesh.
#[derive(Parser)]
#[command(name = "lockmesh", version)]
enum Command {
    /// Print a new cluster secret.
    Keygen,
    /// Run one node until SIGTERM or SIGINT. At SIGHUP it reads its secrets again.
    Node {
        /// Configuration file, in TOML. Each setting may also be an environment variable, such as
        /// LOCKMESH_NODE_ID or LOCKMESH_TIMING_MAX_TTL, which replaces the file's. Options replace
        /// both.
        #[arg(long)]
        config: Option<PathBuf>,
        #[command(flatten)]
        overrides: Overrides,
    },
    /// Run a command while a lock of a running mesh is held. The command gets LOCKMESH_KEY and
    /// LOCKMESH_EPOCH, the fencing token.
    ///
    /// SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1 and SIGUSR2 are passed on to the process group of
    /// the command. If the lock is lost, the group gets SIGTERM, and SIGKILL after --grace. Once the
    /// command has ended, processes that it left in its group are ended in the same way. The lock is
    /// held until then.
    ///
    /// SIGKILL or SIGSTOP of this process leaves the command without a lock. So pass the epoch to
    /// what the command writes to.
    #[cfg(unix)]
    #[command(after_help = exec::EXIT_CODES)]
    Exec(exec::Args),
    /// Free a lock that its holder does not release. Its guard reports the lock as lost, if it can be
    /// reached. The voters keep the lock until its lease is over by the clock, and renew it no more.
    #[cfg(unix)]
    #[command(after_help = release::EXIT_CODES)]
    Release(release::Args),
    /// Show the members of a running mesh, whether locks can be granted, and whether it is safe to
    /// restart one voter. Exit code: 0 all members vote, 3 some do not, 4 some keys cannot be locked,
    /// 1 no answer. With 0 it is safe, unless keys have only one or two voters: then it never is.
    /// With --ready, a probe of one node.
    Status(look::status::Args),
    /// Show who holds a lock of a running mesh and who waits for it. Exit code: 0 held or free, 4
    /// unknown, 1 no answer.
    Inspect(look::inspect::Args),
    /// Show members, locks, queues and rates of a running mesh in the terminal. With --once or
    /// without a terminal, print one snapshot as text.
    Top(top::Args),
}

#[tokio::main]
async fn main() -> ExitCode {
    let done = match Command::parse() {
        Command::Keygen => keygen(),
        Command::Node { config, overrides } => Ok(node::run(config.as_deref(), &overrides).await),
        #[cfg(unix)]
        Command::Exec(args) => exec::run(args).await,
        #[cfg(unix)]
        Command::Release(args) => release::run(&args).await,
        Command::Status(args) => look::status::run(&args).await,
        Command::Inspect(args) => look::inspect::run(&args).await,
        Command::Top(args) => top::run(&args).await,
    };
    done.unwrap_or_else(|Failure(code, error)| {
        say(error);
        ExitCode::from(code)
    })
}

/// Writes a line to standard error, which may be closed.
fn say(what: impl Display) {
    let _ = writeln!(io::stderr(), "lockmesh: {what}");
}

fn keygen() -> Result<ExitCode, Failure> {
    let secret =
        ClusterSecret::generate().map_err(|error| Failure(1, format!("no secret: {error}")))?;
    println!("{}", secret.to_base64());
    Ok(ExitCode::SUCCESS)
}
