//! The command `lockmesh`, as its users run it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod bench;
mod browser;
mod chaos;
mod check;
mod clocks;
mod common;
mod compare;
mod demo;
mod handover;
mod keygen;
mod lab;
mod look;
mod node;
mod settings;
mod ticks;
