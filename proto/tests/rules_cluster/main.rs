//! Small clusters of real nodes on an in-memory network with virtual time: the laws of section 1,
//! and rules that need several nodes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod addresses;
mod clocks;
mod forged;
mod handover;
mod incarnations;
mod journal;
mod laws_of_liveness;
mod laws_of_safety;
mod marks;
mod namesakes;
mod versions;
