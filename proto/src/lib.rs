//! The protocol of `lockmesh`: the rules of voters and claimants, the wire format, and the node
//! that puts them together.
//!
//! This crate has no socket, no clock, no thread, no source of randomness and no gossip library.
//! Time and random seeds are arguments. Datagrams, timers and events are return values. Voter and
//! claimant interact by messages alone.
//!
//! Read [`message`] first, then [`voter`], then [`claimant`], then [`node`].
//!
//! After each call, drain [`node::Node::poll_output`] until it returns [`node::Output::Timeout`].
//! In this example the node is the only voter:
//!
//! ```rust
//! use std::sync::Arc;
//! use lockmesh_proto::node::{Node, NodeConfig, Output};
//! use lockmesh_proto::claimant::Request;
//! use lockmesh_proto::event::Event;
//! use lockmesh_proto::id::{Incarnation, Key, NodeId};
//! use lockmesh_proto::time::{Instant, Now};
//! use lockmesh_proto::voter::{Start, VoterLimits};
//! use lockmesh_proto::voter_set::{Timing, VoterSet};
//! use lockmesh_proto::wire::Seal;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let id = NodeId::new("alone")?;
//! let voter_set = VoterSet::new(1, vec![id.clone()], 1, Timing::lan())?;
//! let now = Now { mono: Instant::from_nanos(1), wall_ms: 1_700_000_000_000 };
//! let mut node = Node::new(now, NodeConfig {
//!     id,
//!     incarnation: Incarnation::new(1),
//!     voter_set: Arc::new(voter_set),
//!     start: Start::NewCluster,
//!     limits: VoterLimits::default(),
//!     max_claims: 1_000,
//!     renew_interval: None,
//!     seed: 42,
//!     seal: Seal::insecure_plaintext(),
//! });
//! let ttl = std::time::Duration::from_secs(10);
//! let request = Request { key: Key::new("k")?, ttl, is_try: true, renews: true, outlives: false, deadline: None };
//! node.claim(now, request)?;
//! let mut granted = false;
//! loop {
//!     match node.poll_output() {
//!         Output::Transmit { to, bytes } => { /* socket.send_to(&bytes, to) */ }
//!         Output::Event(Event::Granted { epoch, .. }) => granted = true,
//!         Output::Timeout(at) => break, // node.handle_timeout(now) then
//!         _ => {}
//!     }
//! }
//! assert!(granted); // one voter, which is this node itself: no datagram is needed
//! # Ok(())
//! # }
//! ```

#[cfg(not(lockmesh_mutants))]
#[macro_use]
mod mutants;
#[cfg(lockmesh_mutants)]
#[macro_use]
pub mod mutants;

pub mod claimant;
pub mod clocks;
mod deadlines;
pub mod description;
pub mod digest;
pub mod epoch;
pub mod event;
pub mod id;
pub mod message;
pub mod node;
#[cfg(test)]
mod tests;
pub mod time;
pub mod voter;
pub mod voter_set;
pub mod wire;
pub mod view {
    //! Moved to the event module.
    pub use crate::event::{Peer, View};
}
