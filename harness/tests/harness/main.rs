//! The test harness: clusters in one process, and locks in memory.
#![allow(clippy::unwrap_used, reason = "a test that unwraps in vain has failed")]

mod common;
mod contract;
mod contract_of_kinds;
mod contract_of_once;
mod contract_of_the_trait;
mod local;
mod memory;
