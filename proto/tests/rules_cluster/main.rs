//! Small clusters of real nodes on a network of this process's own, with virtual time: the laws
//! of section 1, and what it takes several nodes to see.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod addresses;
mod clocks;
mod forged;
mod incarnations;
mod laws_of_liveness;
mod laws_of_safety;
mod namesakes;
mod net;
