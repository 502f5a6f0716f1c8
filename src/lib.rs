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
    pub use lockmesh_proto::{
        Counts, Dropped, Flow, Health, NodeAnswer, NodeSurvey, Overview, Survey, VoterState,
    };
}

pub use lockmesh_proto::{
    ClusterSecret, DropReason, Epoch, Key, NameError, NodeId, RefuseReason, RequestError,
    SecretError, Timing, Traffic, VoteTally, VoterLimits, VoterSetError, VoterSetTag, WallClock,
};

pub use config::MeshBuilder;
pub use error::{AcquireError, ConfigError, ExtendError, InspectError, NotReady, ReleaseError};
pub use lock::{ClusterError, DistributedLock};
pub use lockmesh_proto::{Inspection, KeyOwner, LockState, SeenVotes, Standing, Waiter};
pub use runtime::{ClientNode, Guard, LeaseLost, LockRequest, MemberStatus, Mesh, Resolve, Status};
