//! The command `lockmesh`, as its users run it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod bench;
mod common;
mod demo;
mod keygen;
mod look;
mod node;
