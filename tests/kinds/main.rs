//! Semaphores, several keys and elections under cancellation and faults. Their contract is tested over each
//! backend in `harness/tests/harness/contract_of_kinds.rs`.

#![allow(clippy::unwrap_used, reason = "a test that unwraps in vain has failed")]

mod cancel;
#[allow(dead_code, unused_imports, reason = "it is that of tests/mesh")]
#[path = "../mesh/common.rs"]
mod common;
mod election;
mod faults;
