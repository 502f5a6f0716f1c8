//! Distributed locks inside a service, without a lock service beside it.
//!
//! Each copy of the service embeds one [`Mesh`]. The nodes find each other by gossip, and grant a
//! lock by a quorum of votes over UDP. Every grant carries an [`Epoch`], which rises from holder to
//! holder, so that storage can refuse a holder that was overtaken.
//!
//! This program is a cluster of one node, for development:
//!
//! ```
//! use std::time::Duration;
//!
//! use lockmesh::{Epoch, MeshBuilder};
//!
//! /// Writes to the database, which refuses an epoch below the highest that it has seen.
//! async fn pay(fence: Epoch) {
//!     println!("UPDATE invoice SET paid = 1, fence = {0} WHERE fence <= {0}", fence.get());
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let mesh = MeshBuilder::single("dev").insecure_plaintext().start().await?;
//!
//!     let request = mesh.lock("invoice/42").ttl(Duration::from_secs(10));
//!     let guard = request.acquire().await?;
//!     guard.run(pay(guard.epoch())).await?; // `pay` is dropped if the lease is lost
//!     guard.release().await?;
//!
//!     mesh.shutdown().await;
//!     Ok(())
//! }
//! ```
//!
//! A cluster has three or more nodes. Their builder is [`Mesh::builder`] with
//! [`seeds`](MeshBuilder::seeds), [`voters`](MeshBuilder::voters) and a
//! [`secret`](MeshBuilder::secret_from_env). [`MeshConfig`] has the same settings as data.
//!
//! # Guard, run or trait
//!
//! | the work | use | the lock ends |
//! | --- | --- | --- |
//! | is one future | [`Guard::run`] | when the guard is dropped or the lease is lost; the work then stops |
//! | has several steps, or blocks a thread | a [`Guard`], with [`is_held`](Guard::is_held) before each step or [`lost`](Guard::lost) beside it | when the guard is dropped or the lease is lost |
//! | must run once per period, or belongs to a job framework | [`DistributedLock`] | after its ttl, even if the process ends |
//! | is done, and must not run again for a while | [`Guard::detach_for`] | after the given time, or with the mesh |
//!
//! More than one lock:
//!
//! | at most | use |
//! | --- | --- |
//! | one holder of a key | [`Mesh::lock`] |
//! | a number of holders | [`Mesh::semaphore`] |
//! | one holder of several keys together | [`Mesh::lock_all`] |
//! | one leader, which all nodes can watch | [`Mesh::election`] |
//!
//! [`acquire`](LockRequest::acquire) waits in a queue. [`try_acquire`](LockRequest::try_acquire)
//! returns `None` if another claim is granted.
//!
//! # Fencing
//!
//! A guard reports the loss of its lease before another node can be granted the lock. A process
//! that is paused between its check and its write cannot see the report in time. Pass
//! [`Guard::epoch`] with every write that outlives the process, such as to a database, a queue or
//! an object store. The resource stores the highest epoch that it has seen, and refuses a lower one:
//! see [`fence`]. Work that a second run repeats without harm needs no fence.
//!
//! # Modules
//!
//! | module | content |
//! | --- | --- |
//! | the root | what most users name: builder, mesh, requests, guards, errors, and the traits [`Transport`], [`Clock`] and [`Resolve`] |
//! | [`fence`] | what a resource does with epochs: a gate for services, and a guide for databases, object stores and files |
//! | [`status`] | the state of this node and of a key: [`Mesh::status`], [`Mesh::watch`], [`Mesh::inspect`] |
//! | [`observe`] | the state of a mesh from outside, without a node |
//! | [`metrics`] | names, types and labels of all metrics |
//!
//! # Features
//!
//! | feature | default | adds |
//! | --- | --- | --- |
//! | `cron` | no | `Schedule::cron`: ticks of a cron expression, by the crate `croner` |
//! | `ranvier` | no | `ranvier_core::cluster::DistributedLock` for [`Mesh`]; it needs Rust 1.93 |
//! | `tower` | no | `fence::http`, a layer that checks the epochs of requests |
//!
//! # Further reading
//!
//! The README has [what is promised and what is not][promises], [why a lock needs an epoch][epoch],
//! [all settings][settings], [how to operate a mesh][operate] and [how to test with it][test]. The
//! crate `lockmesh-harness` runs clusters inside a test.
//!
//! [promises]: https://docs.rs/crate/lockmesh/latest#what-it-promises
//! [epoch]: https://docs.rs/crate/lockmesh/latest#why-a-lock-needs-an-epoch
//! [settings]: https://docs.rs/crate/lockmesh/latest#configure-it
//! [operate]: https://docs.rs/crate/lockmesh/latest#operate-it
//! [test]: https://docs.rs/crate/lockmesh/latest#test-with-it

// docs.rs shows which feature an item needs.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod clock;
mod config;
mod election;
mod engine;
mod error;
pub mod fence;
mod gossip;
mod guard;
mod held;
mod journal;
mod lease;
mod lock;
mod lock_all;
mod mesh;
pub mod metrics;
mod observer;
mod obstacle;
mod obstacles;
mod once;
#[cfg(feature = "ranvier")]
mod ranvier;
mod request;
mod revoke;
mod schedule;
mod seed_query;
mod seeds;
mod semaphore;
mod several;
pub mod status;
mod transport;

/// Observation of a running mesh from outside, without taking part in it.
///
/// An [`Observer`](observe::Observer) asks the nodes over their UDP ports. [`Mesh::status`] and
/// [`Mesh::inspect`] report what a node of this process sees.
pub mod observe {
    pub use crate::observer::{ObserveError, Observer};
    pub use lockmesh_proto::{
        Counts, Flow, NodeAnswer, NodeSurvey, Overview, Survey, SurveyHealth, VoterState,
    };
}

pub use clock::{Clock, SystemClock};
pub use config::{LimitsConfig, MeshBuilder, MeshConfig, Preset, SecretText, TimingConfig};
pub use election::{Election, Leader, Leadership};
pub use error::{
    AcquireError, ConfigError, DataDirError, ExtendError, Holder, InspectError, LockAllError,
    MarkError, NotReady, OfKey, Reentry, ReleaseError, RevokeError, RotateError, SemaphoreError,
};
pub use guard::{Guard, LeaseLost};
pub use journal::Durability;
pub use lock::{ClusterError, DistributedLock};
pub use lock_all::{LOCK_ALL_KEYS_MAX, LockAllRequest};
pub use lockmesh_proto::{
    CLUSTER_SECRETS_MAX, ClusterSecret, ClusterSecrets, Epoch, Key, NameError, NodeId, Note,
    RequestError, SecretError, Timing, VoterSetError,
};
pub use mesh::Mesh;
pub use once::{OnceError, OnceRequest, Outcome};
pub use request::LockRequest;
pub use revoke::RevokeRequest;
pub use schedule::{Missed, Schedule, ScheduleError, Tick};
pub use seeds::Resolve;
pub use semaphore::{PERMITS_MAX, SemaphoreRequest};
pub use several::Guards;
pub use status::{Health, Shutdown, Status};
pub use transport::{Transport, UdpTransport};

/// Compiles the examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
