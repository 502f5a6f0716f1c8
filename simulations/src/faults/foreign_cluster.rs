//! Another cluster with the same secret, names and timing. If a host has no process, the voter of
//! that name in the other cluster has taken over its address.
//!
//! It has voted there for a long time. Only nodes that mistake it for the host's process send it
//! claims, and this must have no effect.

use std::sync::Arc;

use crate::cluster::{Datagram, Settings, World};
use crate::judge::HostAt;
use crate::proto::{
    Incarnation, Node, NodeConfig, Now, Output, Peer, Start, View, VoterLimits, VoterSet,
};

/// The names of the two clusters.
pub(crate) const CLUSTER: &str = "prod";
const OTHER_CLUSTER: &str = "staging";
/// Above all incarnations of the hosts, or it would count as an earlier one of the host.
const INCARNATION: u64 = u64::MAX / 2;

/// The voter of each member's name, if the settings ask for a foreign cluster.
#[derive(Debug, Default)]
pub(crate) struct ForeignCluster(Vec<Node>);

impl World {
    /// Starts the voters of the other cluster, as a new cluster.
    pub(crate) fn begin_foreign_cluster(&mut self) {
        if !self.settings.has_foreign_cluster {
            return;
        }
        let voter_set = voter_set(&self.settings, self);
        let now = self.hosts[0].clock.now(self.time);
        let nodes = (0..self.settings.members).map(|host| {
            let incarnation = Incarnation::new(INCARNATION);
            let seal = self.seal_of(OTHER_CLUSTER, [host as u8; 16]);
            let config = NodeConfig {
                voter_set: voter_set.clone(),
                limits: VoterLimits::default(),
                ..self.node_config(host, incarnation, Start::NewCluster, host as u64, seal)
            };
            Node::new(now, config)
        });
        let mut nodes: Vec<Node> = nodes.collect();
        let peers = self.hosts[..self.settings.members].iter().map(|host| {
            let peer = Peer {
                addr: host.addr,
                incarnation: Incarnation::new(INCARNATION),
                alive: true,
                version: Some(crate::proto::PROTOCOL_VERSION),
            };
            (host.id.clone(), peer)
        });
        let view = View {
            peers: peers.collect(),
        };
        for node in &mut nodes {
            node.handle_view(now, &view);
            node.handle_timeout(now);
        }
        self.deliver(&mut nodes, now);
        debug_assert!(nodes.iter().all(|node| {
            node.voter()
                .is_some_and(|voter| voter.quarantine().is_none())
        }));
        self.foreign_cluster = ForeignCluster(nodes);
    }

    /// Delivers all datagrams among them at once.
    fn deliver(&self, nodes: &mut [Node], now: Now) {
        let mut sent = true;
        while std::mem::take(&mut sent) {
            for from in 0..nodes.len() {
                while let Output::Transmit { to, bytes } = next(&mut nodes[from]) {
                    sent = true;
                    if let Some(node) = self.by_addr.get(&to).and_then(|at| nodes.get_mut(*at)) {
                        node.handle_datagram(now, self.hosts[from].addr, &bytes);
                    }
                }
            }
        }
    }

    /// Delivers a datagram to a host that has no process.
    pub(crate) fn arrive_at_foreign_node(&mut self, host: HostAt, datagram: &Datagram) {
        let now = self.hosts[host].clock.now(self.time);
        let Some(node) = self.foreign_cluster.0.get_mut(host) else {
            return;
        };
        node.handle_datagram(now, datagram.from, &datagram.bytes);
        let mut sent = Vec::new();
        while let Output::Transmit { to, bytes } = next(node) {
            sent.push((to, bytes));
        }
        self.count("datagrams_at_foreign_nodes");
        for (to, bytes) in sent {
            self.transmit(host, to, bytes);
        }
    }
}

/// Returns the next output that is no event.
fn next(node: &mut Node) -> Output {
    loop {
        match node.poll_output() {
            Output::Event(_) | Output::ForeignNode(_) => {}
            output => return output,
        }
    }
}

fn voter_set(settings: &Settings, world: &World) -> Arc<VoterSet> {
    let hosts = world.hosts[..settings.members].iter();
    let members = hosts.map(|host| host.id.clone()).collect();
    let voter_set = VoterSet::new(1, members, settings.voters_per_key, settings.timing);
    let voter_set = voter_set.expect("the cluster's own is the same");
    Arc::new(voter_set.of_cluster(OTHER_CLUSTER))
}
