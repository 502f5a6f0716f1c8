#![doc = include_str!("../README.md")]

#[cfg(not(feature = "mutants"))]
#[macro_use]
mod mutants;
#[cfg(feature = "mutants")]
#[macro_use]
pub mod mutants;

pub mod node;
pub mod proto;
pub mod wire;

#[cfg(feature = "runtime")]
mod config;
#[cfg(feature = "runtime")]
mod error;
#[cfg(feature = "harness")]
pub mod harness;
#[cfg(feature = "runtime")]
mod lock;
#[cfg(feature = "runtime")]
mod runtime;

/// A running mesh, seen from beside it.
#[cfg(feature = "runtime")]
pub mod observe {
    pub use crate::node::{Health, NodeAnswer, NodeSurvey, Survey};
    pub use crate::runtime::{ObserveError, Observer};
    pub use crate::wire::observe::{Counts, Dropped, Flow, Overview, VoterState};
}

pub use proto::claimant::RequestError;
pub use proto::clocks::WallClock;
pub use proto::epoch::Epoch;
pub use proto::event::VoteTally;
pub use proto::id::{Key, NameError, NodeId};
pub use proto::message::RefuseReason;
pub use proto::voter::VoterLimits;
pub use proto::voter_set::{Timing, VoterSetError, VoterSetTag};
pub use wire::{ClusterSecret, DropReason, SecretError, Traffic};

#[cfg(feature = "runtime")]
pub use config::MeshBuilder;
#[cfg(feature = "runtime")]
pub use error::{AcquireError, ConfigError, ExtendError, InspectError, NotReady, ReleaseError};
#[cfg(feature = "runtime")]
pub use lock::{ClusterError, DistributedLock};
#[cfg(feature = "runtime")]
pub use node::{Inspection, KeyOwner, LockState, SeenVotes, Standing, Waiter};
#[cfg(feature = "runtime")]
pub use runtime::{ClientNode, Guard, LeaseLost, LockRequest, MemberStatus, Mesh, Resolve, Status};
