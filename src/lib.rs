#![doc = include_str!("../README.md")]

mod clock;
mod config;
mod engine;
mod error;
mod gossip;
mod guard;
mod held;
mod lease;
mod lock;
mod mesh;
pub mod metrics;
mod observer;
mod obstacle;
mod obstacles;
#[cfg(feature = "ranvier")]
mod ranvier;
mod request;
mod seed_query;
mod seeds;
mod status;
mod transport;

/// Observation of a running mesh from outside, without taking part in it.
pub mod observe {
    pub use crate::observer::{ObserveError, Observer};
    pub use lockmesh_proto::node::{Health, NodeAnswer, NodeSurvey, Survey};
    pub use lockmesh_proto::wire::observe::{Counts, Flow, Overview, VoterState};
}

pub use lockmesh_proto::claimant::RequestError;
pub use lockmesh_proto::clocks::WallClock;
pub use lockmesh_proto::epoch::Epoch;
pub use lockmesh_proto::event::VoteTally;
pub use lockmesh_proto::id::{Key, NameError, NodeId};
pub use lockmesh_proto::message::RefuseReason;
pub use lockmesh_proto::node::{Inspection, KeyOwner, LockState, SeenVotes, Standing, Waiter};
pub use lockmesh_proto::voter::VoterLimits;
pub use lockmesh_proto::voter_set::{Timing, VoterSetError, VoterSetTag};
pub use lockmesh_proto::wire::{ClusterSecret, DropReason, SecretError, Traffic};

pub use clock::{Clock, SystemClock};
pub use config::{LimitsConfig, MeshBuilder, MeshConfig, Preset, SecretText, TimingConfig};
pub use error::{AcquireError, ConfigError, ExtendError, InspectError, NotReady, ReleaseError};
pub use guard::{Guard, LeaseLost};
pub use lock::{ClusterError, DistributedLock};
pub use mesh::Mesh;
pub use request::LockRequest;
pub use seeds::Resolve;
pub use status::{ClientNode, Health, MemberStatus, Status};
pub use transport::{Transport, UdpTransport};
