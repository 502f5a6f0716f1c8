//! The public API over real UDP on loopback, sealed.
//!
//! These tests use real time, and the machine may be busy. Waits are therefore counted in wake-ups
//! instead of time. A test that fails if the machine pauses it says "Depends on real time".

#![allow(clippy::unwrap_used, reason = "a test that unwraps in vain has failed")]

mod common;
mod company;
mod config;
mod contract;
mod crash;
mod ending;
mod foreign_nodes;
mod gossip;
mod guard;
mod l1;
mod look;
mod many;
mod namesakes;
mod outliving;
mod ready;
mod requests;
mod rolling;
mod short_incarnations;
mod stress;
mod whole;
