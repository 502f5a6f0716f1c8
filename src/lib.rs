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
    pub use lockmesh_proto::{
        Counts, Flow, Health, NodeAnswer, NodeSurvey, Overview, Survey, VoterState,
    };
}

pub use lockmesh_proto::{
    ClusterSecret, DropReason, Epoch, Inspection, Key, KeyOwner, LockState, NameError, NodeId,
    RefuseReason, RequestError, SecretError, SeenVotes, Standing, Timing, Traffic, VoteTally,
    VoterLimits, VoterSetError, VoterSetTag, Waiter, WallClock,
};

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
