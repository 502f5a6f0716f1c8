//! `lockmesh bench`
use std::process::ExitCode;
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}
pub(crate) async fn run(_: &Args) -> ExitCode {
    ExitCode::SUCCESS
}
