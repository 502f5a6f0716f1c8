//! Several real meshes in one process.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use thiserror::Error;
use tokio::time::Instant;

use super::link::Link;
use super::links::{Fault, Links};
use super::stable::{NotStable, Seen, missing};
use crate::config::MeshBuilder;
use crate::error::ConfigError;
use crate::runtime::Mesh;
use lockmesh_proto::voter_set::Timing;
use lockmesh_proto::wire::ClusterSecret;

/// The most nodes that one process is asked to run.
const NODES_MAX: usize = 64;
/// How long a cluster may take to come to rest, beside the quarantine of a restarted voter.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A cluster of real meshes in one process: real UDP over loopback on free ports, sealed, with
/// links that can be cut and nodes that can be paused, crashed and restarted.
///
/// The nodes are called `n0`, `n1` and so on, and every method names them by number. Faults are
/// laid on nodes: one that is restarted keeps them.
///
/// Leases run by the machine's clock, which `start_paused` does not pause; take
/// [`InMemoryLocks`](super::InMemoryLocks) for virtual time. It works on both kinds of runtime,
/// and several may run at once. Once it is dropped all of its nodes end as by
/// [`crash`](LocalMesh::crash), also those that the test still has handles of: no task and no
/// socket is left as soon as the runtime has had a turn.
///
/// ```
/// use lockmesh::harness::LocalMesh;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mesh = LocalMesh::start(3).await?;
/// let guard = mesh.node(0).lock("k").acquire().await?;
/// mesh.partition([0], [1, 2]);
/// let next = mesh.node(1).lock("k").acquire().await?;
/// assert!(!guard.is_held() && next.epoch() > guard.epoch());
/// mesh.heal();
/// # Ok(())
/// # }
/// ```
///
/// # Panics
/// Every method that takes a node's number panics where there is no such node.
#[derive(Debug)]
pub struct LocalMesh {
    settings: LocalMeshBuilder,
    secret: Option<ClusterSecret>,
    links: Arc<Links>,
    nodes: Mutex<Vec<Node>>,
    /// Held while a node ends or begins.
    lifecycle: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Node {
    /// The present incarnation, or the last.
    mesh: Mesh,
    condition: Condition,
}

/// Whether a node of a [`LocalMesh`] runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Condition {
    /// It runs.
    Running,
    /// It stands still; see [`LocalMesh::pause`].
    Paused,
    /// It has crashed, was shut down, or did not start again.
    Down,
}

/// A cluster that was not started. Nothing is left running.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LocalMeshError {
    /// Too few or too many nodes or voters.
    #[error("{field} is {value}; it must be 1 to {max}")]
    OutOfBounds {
        /// `nodes` or `voters`.
        field: &'static str,
        /// Its value.
        value: usize,
        /// The most allowed.
        max: usize,
    },
    /// A node does not start with these settings.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The nodes have not found each other.
    #[error(transparent)]
    NotStable(#[from] NotStable),
}

/// The settings of a [`LocalMesh`].
#[derive(Clone)]
#[must_use = "a cluster that is not started does nothing"]
pub struct LocalMeshBuilder {
    nodes: usize,
    voters: Option<usize>,
    voters_per_key: Option<usize>,
    timing: Option<Timing>,
    ttl: Duration,
    patience: Duration,
    seed: u64,
    secret: SecretChoice,
    configure: Option<Arc<dyn Fn(MeshBuilder) -> MeshBuilder + Send + Sync>>,
}

#[derive(Clone)]
enum SecretChoice {
    Random,
    Given(ClusterSecret),
    Plaintext,
}

impl fmt::Debug for LocalMeshBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalMeshBuilder")
            .field("nodes", &self.nodes)
            .field("voters", &self.voters)
            .field("voters_per_key", &self.voters_per_key)
            .field("timing", &self.timing)
            .field("ttl", &self.ttl)
            .field("seed", &self.seed)
            .finish_non_exhaustive()
    }
}

impl LocalMeshBuilder {
    /// How many nodes: 1 to 64; five by default.
    pub fn nodes(mut self, nodes: usize) -> Self {
        self.nodes = nodes;
        self
    }

    /// How many of them vote, from the first on; the rest only claims. All by default.
    pub fn voters(mut self, voters: usize) -> Self {
        self.voters = Some(voters);
        self
    }

    /// How many of the voters vote for each key; see [`MeshBuilder::voters_per_key`].
    pub fn voters_per_key(mut self, voters_per_key: usize) -> Self {
        self.voters_per_key = Some(voters_per_key);
        self
    }

    /// The shared constants. By default those of [`Timing::lan`] with a longest lease of twice
    /// the ttl, since a voter that was restarted abstains for that long.
    pub fn timing(mut self, timing: Timing) -> Self {
        self.timing = Some(timing);
        self
    }

    /// The ttl of requests that name none: two seconds by default.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// How long the start, and [`LocalMesh::wait_until_stable`], may take before they are errors,
    /// beside twice the longest lease: a minute by default.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// What the loss, delay and doubling of datagrams is drawn from. When datagrams are sent is
    /// up to the machine: no two runs are the same.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// The cluster's secret, instead of a random one.
    pub fn secret(mut self, secret: ClusterSecret) -> Self {
        self.secret = SecretChoice::Given(secret);
        self
    }

    /// Datagrams in the clear.
    pub fn insecure_plaintext(mut self) -> Self {
        self.secret = SecretChoice::Plaintext;
        self
    }

    /// Further settings of every node, such as `try_timeout`. Addresses, seeds, voters and key
    /// are set after it.
    pub fn configure(
        mut self,
        configure: impl Fn(MeshBuilder) -> MeshBuilder + Send + Sync + 'static,
    ) -> Self {
        self.configure = Some(Arc::new(configure));
        self
    }

    /// Starts the nodes. When this returns every node sees all others, and all voters vote.
    ///
    /// # Errors
    /// [`LocalMeshError`]: a setting cannot be, or the nodes do not find each other in time.
    pub async fn start(self) -> Result<LocalMesh, LocalMeshError> {
        let voters = self.voters.unwrap_or(self.nodes);
        within("nodes", self.nodes, NODES_MAX)?;
        within("voters", voters, self.nodes)?;
        let secret = match &self.secret {
            SecretChoice::Random => Some(random_secret()?),
            SecretChoice::Given(secret) => Some(secret.clone()),
            SecretChoice::Plaintext => None,
        };
        let mesh = LocalMesh {
            links: Arc::new(Links::new(self.seed)),
            nodes: Mutex::default(),
            lifecycle: tokio::sync::Mutex::default(),
            settings: self,
            secret,
        };
        for i in 0..mesh.settings.nodes {
            let node = mesh.describe(i).new_cluster(true).start().await?;
            mesh.nodes().push(Node {
                mesh: node,
                condition: Condition::Running,
            });
        }
        mesh.wait_until_stable().await?;
        Ok(mesh)
    }

    fn timing_or_default(&self) -> Timing {
        let lan = Timing::lan();
        let max_ttl = self.ttl.saturating_mul(2);
        self.timing.unwrap_or_else(|| Timing {
            max_ttl,
            max_clock_skew: lan.max_clock_skew.min(max_ttl),
            ..lan
        })
    }
}

fn within(field: &'static str, value: usize, max: usize) -> Result<(), LocalMeshError> {
    if (1..=max).contains(&value) {
        return Ok(());
    }
    Err(LocalMeshError::OutOfBounds { field, value, max })
}

fn random_secret() -> Result<ClusterSecret, ConfigError> {
    Ok(ClusterSecret::from_bytes(rand::random())?)
}

impl LocalMesh {
    /// Starts so many nodes, all of which vote. When this returns every node sees all others.
    ///
    /// # Errors
    /// [`LocalMeshError`]: no or more than 64 nodes, or they do not find each other in time.
    pub async fn start(nodes: usize) -> Result<Self, LocalMeshError> {
        Self::builder().nodes(nodes).start().await
    }

    /// Begins to describe a cluster: five nodes that all vote, a random key, a ttl of 2 s.
    pub fn builder() -> LocalMeshBuilder {
        LocalMeshBuilder {
            nodes: 5,
            voters: None,
            voters_per_key: None,
            timing: None,
            ttl: Duration::from_secs(2),
            patience: PATIENCE,
            seed: 0,
            secret: SecretChoice::Random,
            configure: None,
        }
    }

    /// Node `i`. One that is down is its last incarnation, whose requests all end.
    #[must_use]
    pub fn node(&self, i: usize) -> Mesh {
        self.nodes()[i].mesh.clone()
    }

    /// Whether node `i` runs.
    #[must_use]
    pub fn condition(&self, i: usize) -> Condition {
        self.nodes()[i].condition
    }

    /// What is wrong with the link from one node to another, in that direction.
    #[must_use]
    pub fn fault(&self, from: usize, to: usize) -> Fault {
        let (from, to) = (self.node(from), self.node(to));
        self.links.fault(from.id(), to.id())
    }

    /// How many nodes there are, those that are down included.
    #[must_use]
    pub fn size(&self) -> usize {
        self.settings.nodes
    }

    /// Cuts all links between the nodes of one side and those of the other, both ways. Links
    /// within a side, and of nodes that are on neither, stay as they are.
    pub fn partition(
        &self,
        one: impl IntoIterator<Item = usize>,
        other: impl IntoIterator<Item = usize>,
    ) {
        let other: Vec<usize> = other.into_iter().collect();
        for a in one {
            for b in &other {
                self.cut(a, *b);
            }
        }
    }

    /// Takes all faults of all links away. Nodes that are paused or down stay so.
    pub fn heal(&self) {
        self.links.heal();
    }

    /// Cuts the link between two nodes, both ways.
    pub fn cut(&self, a: usize, b: usize) {
        self.link(a, b).cut();
    }

    /// Cuts the link from one node to another. What the other sends still comes.
    pub fn cut_one_way(&self, from: usize, to: usize) {
        self.link_one_way(from, to).cut();
    }

    /// The link between two nodes, both ways, to be disturbed.
    pub fn link(&self, a: usize, b: usize) -> Link<'_> {
        self.over([(a, b), (b, a)])
    }

    /// The link from one node to another, in that direction only, to be disturbed.
    pub fn link_one_way(&self, from: usize, to: usize) -> Link<'_> {
        self.over([(from, to)])
    }

    /// All links, to be disturbed.
    pub fn every_link(&self) -> Link<'_> {
        let nodes = 0..self.size();
        self.over(nodes.flat_map(|a| (0..self.size()).map(move |b| (a, b))))
    }

    fn over(&self, ends: impl IntoIterator<Item = (usize, usize)>) -> Link<'_> {
        let nodes = self.nodes();
        let id = |i: usize| nodes[i].mesh.id().clone();
        Link {
            links: &self.links,
            ends: ends.into_iter().map(|(a, b)| (id(a), id(b))).collect(),
        }
    }

    /// Node `i` stands still, as a process does that is frozen: it receives, handles and sends
    /// nothing, and what arrives waits in its socket's buffer. The clock goes on: its leases run
    /// out, and its guards say so.
    ///
    /// Those who call it from outside are not frozen with it. What they ask of the node happens
    /// once it goes on: `acquire`, `try_acquire`, `inspect` and `shutdown` wait until then, also
    /// beyond the time that they were given, and `extend` fails in its time. A guard that is
    /// released or dropped is over at once, and the others hear of it later. `status` tells what
    /// the node knew. No effect on a node that is down.
    pub fn pause(&self, i: usize) {
        self.stand_still(i, Condition::Running, Condition::Paused);
    }

    /// Node `i` goes on. No effect on one that is not paused.
    pub fn resume(&self, i: usize) {
        self.stand_still(i, Condition::Paused, Condition::Running);
    }

    fn stand_still(&self, i: usize, from: Condition, to: Condition) {
        let mut nodes = self.nodes();
        let node = &mut nodes[i];
        if node.condition == from {
            node.condition = to;
            node.mesh.pause(to == Condition::Paused);
        }
    }

    /// Ends node `i` as the end of its process would, without a word to anybody; see
    /// [`Mesh::crash`]. No effect on a node that is down.
    pub async fn crash(&self, i: usize) {
        let _lifecycle = self.lifecycle.lock().await;
        if let Some(mesh) = self.take_down(i) {
            mesh.crash().await;
        }
    }

    /// Shuts node `i` down: it releases what it holds, and tells the others that it leaves. One
    /// that is paused goes on for it. No effect on a node that is down.
    pub async fn shutdown(&self, i: usize) {
        let _lifecycle = self.lifecycle.lock().await;
        self.resume(i);
        if let Some(mesh) = self.take_down(i) {
            mesh.shutdown().await;
            // Also where the test still has handles.
            mesh.crash().await;
        }
    }

    fn take_down(&self, i: usize) -> Option<Mesh> {
        let mut nodes = self.nodes();
        let node = &mut nodes[i];
        let was_up = node.condition != Condition::Down;
        node.condition = Condition::Down;
        was_up.then(|| node.mesh.clone())
    }

    /// Starts node `i` again under its id, with another incarnation, at the address that it had if
    /// that is free. If it still runs, it crashes first. [`node`](LocalMesh::node) is the new
    /// incarnation from then on.
    ///
    /// Nodes keep their memory nowhere but in memory, so it has lost it: its voter abstains for
    /// the longest lease. It has not found the others when this returns; see
    /// [`wait_until_stable`](LocalMesh::wait_until_stable).
    ///
    /// # Errors
    /// [`ConfigError`] where it does not start. It is down then.
    pub async fn restart(&self, i: usize) -> Result<(), ConfigError> {
        let _lifecycle = self.lifecycle.lock().await;
        if let Some(mesh) = self.take_down(i) {
            mesh.crash().await;
        }
        // At the address that it had, so that what it held is free at once; somebody else may have
        // taken it.
        let before = self.nodes()[i].mesh.local_addr().to_string();
        let mesh = match self.describe(i).listen(before).start().await {
            Ok(mesh) => mesh,
            Err(_) => self.describe(i).start().await?,
        };
        self.nodes()[i] = Node {
            mesh,
            condition: Condition::Running,
        };
        Ok(())
    }

    /// Returns once every running voter votes, and every running node sees what it should: those
    /// that it is connected to, also over others, at their present address; and none that is
    /// paused or down, or that nothing comes from. Loss and delay do not count as cuts.
    ///
    /// # Errors
    /// [`NotStable`] tells what is missing once the [`patience`](LocalMeshBuilder::patience) is
    /// over.
    pub async fn wait_until_stable(&self) -> Result<(), NotStable> {
        let settings = &self.settings;
        let waited = settings.patience + 2 * settings.timing_or_default().max_ttl;
        let until = Instant::now() + waited;
        loop {
            let missing = self.missing();
            if missing.is_empty() {
                return Ok(());
            }
            if Instant::now() >= until {
                return Err(NotStable { waited, missing });
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn missing(&self) -> Vec<String> {
        let nodes = self.nodes();
        let seen = nodes.iter().map(|Node { mesh, condition }| Seen {
            id: mesh.id().clone(),
            addr: mesh.local_addr(),
            runs: *condition == Condition::Running,
            status: mesh.status(),
        });
        let seen: Vec<Seen> = seen.collect();
        missing(&seen, |from, to| {
            let fault = self.links.fault(&seen[from].id, &seen[to].id);
            !fault.cut && fault.loss < 1.0
        })
    }

    /// The settings of node `i`; those that are up are its seeds.
    fn describe(&self, i: usize) -> MeshBuilder {
        let settings = &self.settings;
        let mut builder = Mesh::builder(name(i))
            .timing(settings.timing_or_default())
            .ttl(settings.ttl)
            .gossip_interval(Duration::from_millis(50));
        if let Some(configure) = &settings.configure {
            builder = configure(builder);
        }
        if let Some(voters_per_key) = settings.voters_per_key {
            builder = builder.voters_per_key(voters_per_key);
        }
        builder = match &self.secret {
            Some(secret) => builder.secret(secret.clone()),
            None => builder.insecure_plaintext(),
        };
        let nodes = self.nodes();
        let up = nodes
            .iter()
            .filter(|node| node.condition != Condition::Down);
        let voters = settings.voters.unwrap_or(settings.nodes);
        builder
            .listen("127.0.0.1:0")
            .seeds(up.map(|node| node.mesh.local_addr().to_string()))
            .voters((0..voters).map(name))
            .links(self.links.clone())
    }

    fn nodes(&self) -> MutexGuard<'_, Vec<Node>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for LocalMesh {
    fn drop(&mut self) {
        for node in self.nodes().iter() {
            node.mesh.halt();
        }
        self.links.lose_late();
    }
}

fn name(i: usize) -> String {
    format!("n{i}")
}
