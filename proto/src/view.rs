//! The view of the cluster that gossip supplies. It is advice only.
//!
//! A view has the addresses of nodes and the state of the failure detector. It may be stale, wrong
//! and different on every node. No quorum is counted over it, and it never ends a vote early (M4).

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::id::{Incarnation, NodeId};

/// The state of one node in gossip.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Peer {
    /// The address at which the node receives datagrams.
    pub addr: SocketAddr,
    /// The incarnation that gossip reports.
    pub incarnation: Incarnation,
    /// `true` if the failure detector considers the node alive.
    pub alive: bool,
}

/// The current state of gossip, without this node.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct View {
    /// The known nodes.
    pub peers: BTreeMap<NodeId, Peer>,
}
