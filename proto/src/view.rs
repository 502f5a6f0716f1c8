//! What gossip says now: advice, not truth.
//!
//! A view tells where nodes are to be found and whether somebody has heard of them lately. It may
//! be stale, wrong, and different on every node. No quorum is counted over it, and nothing in it
//! makes a lock change hands early.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::id::{Incarnation, NodeId};

/// What gossip says of one node.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Peer {
    /// Where it takes datagrams.
    pub addr: SocketAddr,
    /// The incarnation in which it was last heard of.
    pub incarnation: Incarnation,
    /// Whether the failure detector believes it to be alive.
    pub alive: bool,
}

/// All that gossip says now, this node itself left out.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct View {
    /// The nodes that gossip knows.
    pub peers: BTreeMap<NodeId, Peer>,
}
