//! The programs of this package, as their users run them.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test that cannot continue has failed")]

mod bench;
mod browser;
mod chaos;
mod check;
mod clocks;
mod common;
mod compare;
mod handover;
mod power;
mod settings;
mod ticks;
mod viewer;
mod worker;
