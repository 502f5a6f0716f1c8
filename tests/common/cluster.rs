//! Clusters of the tests, and nodes beside them.

use std::time::Duration;

use lockmesh::{ClusterSecret, Mesh, MeshBuilder, Timing};
use lockmesh_harness::{LocalMesh, LocalMeshBuilder};

/// Returns [`Timing::lan`] with this `max_ttl`, so that a quarantine ends soon, and a longer
/// reservation.
///
/// A waiter that is granted the lock has only the reservation until the voters receive its
/// confirmation. A busy machine may pause the test for longer than the default.
pub(crate) fn timing(max_ttl: Duration) -> Timing {
    Timing {
        max_ttl,
        max_clock_skew: Duration::from_millis(500).min(max_ttl),
        reservation: Duration::from_secs(1).min(max_ttl),
        ..Timing::lan()
    }
}

pub(crate) fn secret() -> ClusterSecret {
    ClusterSecret::from_bytes([7; 32]).unwrap()
}

/// Returns the settings of a cluster whose first `voters` nodes vote. The others are clients.
pub(crate) fn settings(voters: usize, clients: usize, max_ttl: Duration) -> LocalMeshBuilder {
    LocalMesh::builder()
        .nodes(voters + clients)
        .voters(voters)
        .secret(secret())
        .timing(timing(max_ttl))
        .ttl((max_ttl / 2).min(Duration::from_secs(5)))
}

/// Returns the settings of a node that is no node of `cluster`, whatever its name. It has the
/// settings of the cluster, except that its gossip is not configured.
pub(crate) fn beside(cluster: &LocalMesh, name: &str) -> MeshBuilder {
    let status = cluster.node(0).status();
    let nodes = (0..cluster.size()).map(|n| cluster.node(n));
    let others = nodes.filter(|node| node.id().as_str() != name && !node.status().is_shut_down);
    Mesh::builder(name)
        .listen("127.0.0.1:0")
        .voters(status.members.iter().map(|it| it.node.to_string()))
        .seeds(others.map(|node| node.local_addr().to_string()))
        .secret(secret())
        .timing(status.timing)
        .ttl((status.timing.max_ttl / 2).min(Duration::from_secs(5)))
        .gossip_interval(Duration::from_millis(50))
}
