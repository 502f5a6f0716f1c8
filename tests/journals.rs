//! Voters that keep journals, on real files. A binary of its own: its tests lock many keys, which
//! would slow down the tests of others that depend on real time.

#![allow(clippy::unwrap_used, reason = "a test that unwraps in vain has failed")]

#[path = "mesh/common.rs"]
#[allow(dead_code, reason = "the tests of tests/mesh use the rest")]
mod common;
#[path = "mesh/journal.rs"]
mod journal;
