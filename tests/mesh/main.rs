//! The public API over real UDP on loopback, sealed.

#![allow(clippy::unwrap_used, reason = "a test that unwraps in vain has failed")]

mod common;
mod company;
mod config;
mod contract;
mod crash;
mod ending;
mod fleets;
mod gossip;
mod guard;
mod l1;
mod look;
mod many;
mod requests;
mod rolling;
mod strangers;
