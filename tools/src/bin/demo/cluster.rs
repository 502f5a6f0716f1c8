//! Five meshes on loopback with links that can be cut, and their workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use lockmesh::harness::Links;
use lockmesh::{AcquireError, ClusterSecret, ConfigError, Guard, Mesh, MeshBuilder, Timing};
use tokio::task::JoinHandle;

use super::ledger::{Ledger, Who};

/// The number of nodes; all of them vote for every key.
pub(crate) const NODES: usize = 5;
/// The number of workers of each node.
pub(crate) const WORKERS_PER_NODE: usize = 4;
/// The keys that the workers compete for.
pub(crate) const KEYS: [&str; 4] = ["protocol", "invoices", "emails", "backups"];
/// The lease of every lock in the demo.
pub(crate) const LEASE: Duration = Duration::from_secs(2);
/// The longest lease, which is also the time that a restarted voter is in recovery.
pub(crate) const MAX_TTL: Duration = Duration::from_secs(3);
const WORKER_WAITS_AT_MOST: Duration = Duration::from_secs(1);
const WORK: Duration = Duration::from_millis(1);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The nodes `n0` to `n4`.
#[derive(Debug)]
pub(crate) struct Cluster {
    secret: ClusterSecret,
    links: Arc<Links>,
    ledger: Arc<Ledger>,
    meshes: Vec<Mesh>,
    workers: Vec<Vec<JoinHandle<()>>>,
    stop: Arc<AtomicBool>,
}

impl Cluster {
    /// Starts the meshes, without waiting until they have found each other.
    pub(crate) async fn start(ledger: Arc<Ledger>) -> anyhow::Result<Self> {
        let mut cluster = Self {
            secret: lockmesh_cli::fresh_secret()?,
            links: Arc::new(Links::new(0)),
            ledger,
            meshes: Vec::new(),
            workers: Vec::new(),
            stop: Arc::new(AtomicBool::new(false)),
        };
        for n in 0..NODES {
            let mesh = cluster.builder(n).new_cluster(true).start().await;
            cluster
                .meshes
                .push(mesh.with_context(|| format!("n{n} did not start"))?);
            cluster.workers.push(Vec::new());
        }
        Ok(cluster)
    }

    /// Returns once every node is ready and reaches all others.
    pub(crate) async fn all_ready(&self) {
        let is_ready = |mesh: &Mesh| {
            let status = mesh.status();
            status.is_ready && status.members.iter().all(|member| member.is_reachable)
        };
        while !self.meshes.iter().all(is_ready) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    pub(crate) fn node(&self, n: usize) -> Mesh {
        self.meshes[n].clone()
    }

    /// Starts the workers of a node.
    pub(crate) fn employ(&mut self, n: usize) {
        let numbers = n * WORKERS_PER_NODE..(n + 1) * WORKERS_PER_NODE;
        let spawn = |number| {
            let (mesh, ledger) = (self.meshes[n].clone(), self.ledger.clone());
            let who = Who {
                node: n,
                worker: Some(number),
            };
            tokio::spawn(work(mesh, ledger, who, self.stop.clone()))
        };
        self.workers[n] = numbers.map(spawn).collect();
    }

    /// Cuts all links between the nodes of `minority` and the others.
    pub(crate) fn cut(&self, minority: &[usize]) {
        let addr = |n: usize| self.meshes[n].local_addr();
        let one: Vec<_> = minority.iter().map(|n| addr(*n)).collect();
        let other: Vec<_> = (0..NODES)
            .filter(|n| !minority.contains(n))
            .map(addr)
            .collect();
        self.links.partition(&one, &other);
        self.ledger.cut(minority);
    }

    pub(crate) fn heal(&self) {
        self.ledger.healed();
        self.links.heal();
    }

    /// Crashes a node without notice to its peers, and aborts its workers.
    pub(crate) async fn crash(&mut self, n: usize) {
        self.meshes[n].crash().await;
        for worker in self.workers[n].drain(..) {
            worker.abort();
        }
    }

    /// Restarts a crashed node with its id and address, but without its state.
    pub(crate) async fn restart(&mut self, n: usize) -> Result<(), ConfigError> {
        self.ledger.gone(n);
        let listen = self.meshes[n].local_addr();
        self.meshes[n] = self.builder(n).listen(listen.to_string()).start().await?;
        Ok(())
    }

    /// Stops the workers and the meshes.
    pub(crate) async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for worker in self.workers.into_iter().flatten() {
            worker.abort();
        }
        let ends: Vec<_> = self
            .meshes
            .into_iter()
            .map(|mesh| tokio::spawn(async move { mesh.shutdown().await }))
            .collect();
        for end in ends {
            let _ = end.await;
        }
    }

    fn builder(&self, n: usize) -> MeshBuilder {
        let seeds = self.meshes.iter().map(|mesh| mesh.local_addr().to_string());
        let timing = Timing {
            max_ttl: MAX_TTL,
            max_clock_skew: Duration::from_millis(500),
            ..Timing::lan()
        };
        Mesh::builder(format!("n{n}"))
            .voters((0..NODES).map(|n| format!("n{n}")))
            .seeds(seeds)
            .secret(self.secret.clone())
            .cluster("demo")
            .timing(timing)
            .ttl(LEASE)
            .gossip_interval(Duration::from_millis(50))
            .links(self.links.clone())
    }
}

/// Acquires its key repeatedly, until it is stopped or its mesh is shut down. Every key has one
/// worker on each node. If workers used all keys in turn, all would soon wait for the one key that
/// is stuck.
async fn work(mesh: Mesh, ledger: Arc<Ledger>, who: Who, stop: Arc<AtomicBool>) {
    let key = KEYS[who.worker.unwrap_or_default() % KEYS.len()];
    while !stop.load(Ordering::Relaxed) {
        let asked = ledger.ask(who.node);
        match mesh
            .lock(key)
            .acquire_timeout(WORKER_WAITS_AT_MOST)
            .acquire()
            .await
        {
            Ok(guard) => {
                let guard = Arc::new(guard);
                ledger.enter(asked, who, key, guard.epoch(), guard.clone());
                section(&ledger, who, key, guard).await;
            }
            Err(AcquireError::TimedOut { .. } | AcquireError::Unconfirmed { .. }) => {
                ledger.refused(asked);
            }
            Err(AcquireError::ShutDown) => return,
            Err(error) => {
                ledger.violation(format!("{who}: {key}: {error}"));
                return;
            }
        }
    }
}

/// Increments the fenced counter of the key twice, while the guard is held.
async fn section(ledger: &Ledger, who: Who, key: &'static str, guard: Arc<Guard>) {
    if guard.is_held() {
        ledger.write(who, key, guard.epoch(), &*guard);
    }
    tokio::time::sleep(WORK).await;
    if guard.is_held() {
        ledger.write(who, key, guard.epoch(), &*guard);
    }
    // Leave the ledger before the release, after which another node may hold the key.
    ledger.leave(who, key, guard.epoch());
    drop(guard);
}
