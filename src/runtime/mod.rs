//! Everything that depends on the outside world: tokio, gossip, the socket, clocks and the
//! operating system's randomness. It contains no rule of the protocol.

mod clock;
mod company;
mod core;
mod digest;
mod driver;
mod filter;
mod gossip_room;
mod guard;
mod held;
mod inbox;
mod lease;
mod membership;
mod mesh;
mod metrics;
mod observe;
mod obstacle;
mod obstacles;
#[cfg(feature = "ranvier")]
mod ranvier;
mod request;
mod seed_query;
mod seeds;
mod shared;
mod socket;
mod status;
#[cfg(test)]
#[cfg(feature = "harness")]
mod wakeups;

pub use guard::{Guard, LeaseLost};
pub use mesh::Mesh;
pub use observe::{ObserveError, Observer};
pub use request::LockRequest;
pub use seeds::Resolve;
pub use status::{ClientNode, MemberStatus, Status};

pub(crate) use seeds::{System, check as check_seed};

#[cfg(feature = "harness")]
pub(crate) use clock::Clock;
#[cfg(feature = "harness")]
pub(crate) use shared::Shared;
