//! What the harness hands to tests: clusters in one process, and locks in memory.

mod common;
mod contract;
mod contract_of_the_trait;
mod local;
mod memory;
