//! The public API over real UDP on loopback, sealed. The contract of requests, guards and trait is
//! tested in `harness/tests`.
//!
//! These tests use real time, and the machine may be busy. Waits are therefore counted in wake-ups
//! instead of time. A test that fails if the machine pauses it says "Depends on real time".

#![allow(clippy::unwrap_used, reason = "a test that unwraps in vain has failed")]

mod common;
mod company;
mod config;
mod ending;
mod foreign_nodes;
mod gossip;
mod guard;
mod handover;
mod l1;
mod look;
mod many;
mod namesakes;
mod once;
mod outliving;
mod ready;
mod requests;
mod rolling;
mod rotation;
mod short_incarnations;
mod stress;
mod whole;
