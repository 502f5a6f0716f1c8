//! Meshes on loopback for the tests.

use std::sync::Arc;
use std::time::Duration;

use lockmesh::harness::Links;
use lockmesh::{ClusterKey, Mesh, MeshBuilder, Timing};

/// Long enough for anything that happens at all.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The constants of [`Timing::lan`] with a short longest lease, so that a quarantine is over
/// soon.
pub(crate) fn timing(max_ttl: Duration) -> Timing {
    Timing {
        max_ttl,
        max_clock_skew: Duration::from_millis(500).min(max_ttl),
        ..Timing::lan()
    }
}

/// Nodes `n0`, `n1`, ... that all vote.
pub(crate) struct Cluster {
    pub(crate) links: Arc<Links>,
    pub(crate) nodes: Vec<Mesh>,
    size: usize,
    max_ttl: Duration,
}

impl Cluster {
    pub(crate) async fn start(size: usize, max_ttl: Duration) -> Self {
        let links = Arc::new(Links::new(7));
        let mut cluster = Self {
            links,
            nodes: Vec::new(),
            size,
            max_ttl,
        };
        for n in 0..size {
            let mesh = cluster.builder(n).new_cluster(true).start().await.unwrap();
            cluster.nodes.push(mesh);
        }
        cluster.ready().await;
        cluster
    }

    pub(crate) async fn ready(&self) {
        for node in &self.nodes {
            while node
                .status()
                .members
                .iter()
                .any(|member| !member.is_reachable)
                || !node.status().is_ready
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }

    /// The settings of node `n`; those that run are its seeds.
    pub(crate) fn builder(&self, n: usize) -> MeshBuilder {
        let running = self.nodes.iter().map(|node| node.local_addr().to_string());
        Mesh::builder(format!("n{n}"))
            .voters((0..self.size).map(|n| format!("n{n}")))
            .seeds(running)
            .key(key())
            .timing(timing(self.max_ttl))
            .ttl((self.max_ttl / 2).min(Duration::from_secs(5)))
            .try_at_most(Duration::from_secs(5))
            .gossip_every(Duration::from_millis(50))
            .links(self.links.clone())
    }
}

pub(crate) fn key() -> ClusterKey {
    ClusterKey::from_bytes([7; 32]).unwrap()
}
