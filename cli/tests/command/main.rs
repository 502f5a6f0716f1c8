//! The command `lockmesh`, as its users run it.
#![expect(clippy::unwrap_used, reason = "a test that cannot continue has failed")]

mod common;
#[cfg(unix)]
mod exec;
mod keygen;
mod look;
mod node;
#[cfg(unix)]
mod release;
#[cfg(unix)]
mod rotation;
