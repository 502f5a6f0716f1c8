//! For tests (feature `harness`): clusters in one process, with and without a network.
//!
//! Both hand out real [`Mesh`](crate::Mesh)es, which run the very rules that run in production. So
//! there is no trait to be generic over: write code against `Mesh` (or against
//! [`DistributedLock`](crate::DistributedLock)), and hand it one of these in its tests.
//!
//! - [`InMemoryLocks`]: no network, no gossip, no start to wait for, and leases by tokio's clock.
//!   With `#[tokio::test(start_paused = true)]` a test of an hour takes a moment. Take it for unit
//!   tests.
//! - [`LocalMesh`]: real nodes that talk UDP over loopback, with links that can be cut and
//!   disturbed, and nodes that can be paused, crashed and restarted. Take it where the failure is
//!   what is tested.
//! - [`Links`]: only the links, for meshes that are built by hand.
//!
//! The feature brings no further dependency; name it among the `[dev-dependencies]`:
//! `lockmesh = { version = "0.1", features = ["harness"] }`.
//!
//! A job that must not go on once its node is cut off, in virtual time:
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
//! The same with real nodes: `examples/job_runner_test.rs`.

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
