//! Fences of real resources, as docs/fences.md has them: a paused holder wakes up, and its late
//! write is refused. Without the fence it lands.

#![allow(clippy::unwrap_used, reason = "a test that unwraps in vain has failed")]

#[path = "../common/cluster.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod cluster;
#[cfg(unix)]
mod file;
mod folder;
mod gate;
mod guide;
mod http;
mod late_write;
mod object_store;
#[cfg(unix)]
mod postgres;
mod sqlite;
#[path = "../common/waits.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod waits;
