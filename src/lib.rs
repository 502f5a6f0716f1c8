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
pub use error::{AcquireError, ConfigError, ExtendError, InspectError, NotReady, ReleaseError};
pub use guard::{Guard, LeaseLost};
pub use lock::{ClusterError, DistributedLock};
pub use lockmesh_proto::{
    ClusterSecret, Epoch, Key, NameError, NodeId, RequestError, SecretError, Timing, VoterSetError,
};
pub use mesh::Mesh;
pub use request::LockRequest;
pub use seeds::Resolve;
pub use status::{Health, Status};
pub use transport::{Transport, UdpTransport};
