//! Clusters in one process, with and without a network, for tests (feature `harness`).
//!
//! Both kinds provide real [`Mesh`](crate::Mesh)es, which run the rules of production. Code under
//! test needs no trait of its own: write it against `Mesh` or
//! [`DistributedLock`](crate::DistributedLock), and pass it one of these.
//!
//! - [`InMemoryLocks`]: no network, no gossip and no start to wait for. Leases run by tokio's
//!   clock: with `#[tokio::test(start_paused = true)]`, a test of one hour takes a moment. Use it
//!   for unit tests.
//! - [`LocalMesh`]: real nodes over UDP on loopback. Links can be cut and disturbed; nodes can be
//!   paused, crashed and restarted. Use it to test failures.
//! - [`Links`]: links alone, for meshes that are built by hand.
//!
//! The feature adds no dependency. Enable it in `[dev-dependencies]`: `lockmesh = { version =
//! "0.1", features = ["harness"] }`.
//!
//! A test in virtual time of a job that must stop once its node is cut off:
//!
//! ```
//! use std::time::Duration;
//! use lockmesh::harness::InMemoryLocks;
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let locks = InMemoryLocks::new();
//! let (a, b) = (locks.node("a"), locks.node("b"));
//! let guard = a.lock("job").acquire().await?;
//! let job = guard.run(tokio::time::sleep(Duration::from_secs(3_600)));
//! locks.cut_off("a");
//! assert!(job.await.is_err()); // lost, one ttl later
//! let next = b.lock("job").acquire().await?;
//! assert!(next.epoch() > guard.epoch());
//! # Ok(())
//! # }
//! ```
//!
//! The same test with real nodes is `examples/job_runner_test.rs`.

mod link;
mod links;
mod local;
mod memory;
mod stable;

pub use link::Link;
pub use links::{Fault, Links};
pub use local::{Condition, LocalMesh, LocalMeshBuilder, LocalMeshError};
pub use memory::InMemoryLocks;
pub(crate) use memory::Port;
pub use stable::NotStable;
