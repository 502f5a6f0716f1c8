#![doc = include_str!("../README.md")]

mod config;
mod error;
#[cfg(feature = "harness")]
pub mod harness;
mod lock;
mod runtime;

/// Observation of a running mesh from outside, without taking part in it.
pub mod observe {
    pub use crate::runtime::{ObserveError, Observer};
    pub use lockmesh_proto::node::{Health, NodeAnswer, NodeSurvey, Survey};
    pub use lockmesh_proto::wire::observe::{Counts, Flow, Overview, VoterState};
}

pub use lockmesh_proto::claimant::RequestError;
pub use lockmesh_proto::clocks::WallClock;
pub use lockmesh_proto::epoch::Epoch;
pub use lockmesh_proto::event::VoteTally;
pub use lockmesh_proto::id::{Key, NameError, NodeId};
pub use lockmesh_proto::message::RefuseReason;
pub use lockmesh_proto::voter::VoterLimits;
pub use lockmesh_proto::voter_set::{Timing, VoterSetError, VoterSetTag};
pub use lockmesh_proto::wire::{ClusterSecret, DropReason, SecretError, Traffic};

pub use config::MeshBuilder;
pub use error::{AcquireError, ConfigError, ExtendError, InspectError, NotReady, ReleaseError};
pub use lock::{ClusterError, DistributedLock};
pub use lockmesh_proto::node::{Inspection, KeyOwner, LockState, SeenVotes, Standing, Waiter};
pub use runtime::{ClientNode, Guard, LeaseLost, LockRequest, MemberStatus, Mesh, Resolve, Status};
