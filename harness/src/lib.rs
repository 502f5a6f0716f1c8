//! Clusters of [lockmesh] nodes in one process, with and without a network, for tests.
//!
//! Both kinds provide real [`Mesh`](lockmesh::Mesh)es, which run the rules of production. Code under
//! test needs no trait of its own: write it against `Mesh` or
//! [`DistributedLock`](lockmesh::DistributedLock), and pass it one of these.
//!
//! - [`InMemoryLocks`]: no network, no gossip and no start to wait for. Semaphores, several keys
//!   and elections are those of production, too. Leases run by tokio's
//!   clock: with `#[tokio::test(start_paused = true)]`, a test of one hour takes a moment. Use it
//!   for unit tests.
//! - [`LocalMesh`]: real nodes over UDP on loopback. Links can be cut and disturbed; nodes can be
//!   paused, crashed and restarted, with or without a journal on disk. Use it to test failures.
//! - [`Links`]: links alone, for meshes that are built by hand.
//!
//! Add it to `[dev-dependencies]`: `lockmesh-harness = "0.1"`.
//!
//! A test in virtual time of a job that must stop once its node is cut off:
//!
//! ```
//! use std::time::Duration;
//! use lockmesh_harness::InMemoryLocks;
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
//! The same test with real nodes is `examples/job_runner_test.rs` of lockmesh.

mod delay;
mod disks;
mod link;
mod links;
mod local;
mod memory;
mod skewed;
mod stable;

pub use link::Link;
pub use links::{Fault, LinkedTransport, Links};
pub use local::{Condition, LocalMesh, LocalMeshBuilder, LocalMeshError};
pub use memory::InMemoryLocks;
pub use skewed::SkewedClock;
pub use stable::NotStable;
