//! A cluster of real meshes in one process.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use thiserror::Error;
use tokio::time::Instant;

use crate::disks::{Disks, cut_power};
use crate::link::Link;
use crate::links::{Fault, LinkedTransport, Links};
use crate::stable::{NotStable, Seen, missing};
use lockmesh::{
    ClusterSecret, ClusterSecrets, ConfigError, Durability, Mesh, MeshBuilder, RotateError,
    SecretError, Shutdown, Timing,
};

/// The maximum number of nodes in one process.
const NODES_MAX: usize = 64;
/// The default time limit for a cluster to become stable, without twice `max_ttl`.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(5);
const FREE_PORT: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));

/// A cluster of real meshes in one process.
///
/// It uses UDP over loopback on free ports, and datagrams are sealed. Links can be cut; nodes can
/// be paused, crashed and restarted.
///
/// The nodes are named `n0`, `n1` and so on, and methods identify a node by its number. Faults
/// belong to nodes: a restarted node keeps them.
///
/// Leases run by the machine's clock, which `start_paused` does not pause. Use
/// [`InMemoryLocks`](crate::InMemoryLocks) for virtual time. A `LocalMesh` works on both kinds of
/// tokio runtime, and several can run at the same time.
///
/// Dropping a `LocalMesh` ends all of its nodes as [`crash`](LocalMesh::crash) does, including
/// those of which the test still has handles. Their tasks and sockets are freed when the runtime
/// next runs.
///
/// ```
/// use lockmesh_harness::LocalMesh;
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
/// Every method that takes the number of a node panics if there is no such node.
#[derive(Debug)]
pub struct LocalMesh {
    settings: LocalMeshBuilder,
    /// The secrets of further nodes; `None` for plaintext.
    secrets: Option<ClusterSecrets>,
    disks: Option<Disks>,
    links: Arc<Links>,
    nodes: Mutex<Vec<Node>>,
    /// Held while a node starts or ends.
    lifecycle: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Node {
    /// The current incarnation, or the last one.
    mesh: Mesh,
    transport: LinkedTransport,
    condition: Condition,
    /// The secrets with which it restarts; `None` for plaintext.
    secrets: Option<ClusterSecrets>,
    /// The number of crashes of its machine.
    boot: u32,
}

/// The state of a node of a [`LocalMesh`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Condition {
    /// The node runs.
    Running,
    /// The node is paused; see [`LocalMesh::pause`].
    Paused,
    /// The node crashed, was shut down, or failed to restart.
    Down,
}

/// The error returned if a cluster cannot be started. Nothing is left running.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LocalMeshError {
    /// The number of nodes or voters is out of range.
    #[error("{field} is {value}; it must be 1 to {max}")]
    OutOfBounds {
        /// The setting: `nodes` or `voters`.
        field: &'static str,
        /// The rejected value.
        value: usize,
        /// The largest allowed value.
        max: usize,
    },
    /// A node cannot start with these settings.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The nodes did not find each other in time.
    #[error(transparent)]
    NotStable(#[from] NotStable),
}

/// The settings of a [`LocalMesh`] that has not been started.
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
    data_dirs: Option<Durability>,
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
            .field("data_dirs", &self.data_dirs)
            .finish_non_exhaustive()
    }
}

impl LocalMeshBuilder {
    /// Sets the number of nodes: 1 to 64. The default is five.
    pub fn nodes(mut self, nodes: usize) -> Self {
        self.nodes = nodes;
        self
    }

    /// Sets the number of voters. The first nodes vote; the others only claim. By default all nodes
    /// vote.
    pub fn voters(mut self, voters: usize) -> Self {
        self.voters = Some(voters);
        self
    }

    /// Sets how many of the voters vote for each key; see [`MeshBuilder::voters_per_key`].
    pub fn voters_per_key(mut self, voters_per_key: usize) -> Self {
        self.voters_per_key = Some(voters_per_key);
        self
    }

    /// Sets the timing constants. The default is [`Timing::lan`] with a `max_ttl` of twice the ttl,
    /// since a voter that is restarted without a journal is in recovery for that long.
    pub fn timing(mut self, timing: Timing) -> Self {
        self.timing = Some(timing);
        self
    }

    /// Sets the default ttl of requests: 2 s by default.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Sets the time limit of the start and of [`LocalMesh::wait_until_stable`]: 60 s by default.
    /// Twice `max_ttl` is added to it.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Sets the seed from which loss, delay and duplication are drawn. Two runs still differ, since
    /// the machine decides when datagrams are sent.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Sets the cluster secret, instead of a random one.
    pub fn secret(mut self, secret: ClusterSecret) -> Self {
        self.secret = SecretChoice::Given(secret);
        self
    }

    /// Sends and accepts datagrams without encryption or authentication.
    pub fn insecure_plaintext(mut self) -> Self {
        self.secret = SecretChoice::Plaintext;
        self
    }

    /// Gives each voter a data directory of its own, in which it keeps a journal: see
    /// [`MeshBuilder::data_dir`]. They are in a temporary directory, which is removed when the
    /// [`LocalMesh`] is dropped.
    ///
    /// By default voters keep no journal.
    pub fn data_dirs(mut self, durability: Durability) -> Self {
        self.data_dirs = Some(durability);
        self
    }

    /// Sets further settings of every node, such as `try_timeout`. Addresses, seeds, voters and the
    /// secret are set afterwards.
    pub fn configure(
        mut self,
        configure: impl Fn(MeshBuilder) -> MeshBuilder + Send + Sync + 'static,
    ) -> Self {
        self.configure = Some(Arc::new(configure));
        self
    }

    /// Starts the nodes. When this returns, every node sees all others, and all voters vote.
    ///
    /// # Errors
    /// - [`LocalMeshError::OutOfBounds`] if `nodes` is not 1 to 64, or `voters` is not 1 to `nodes`.
    /// - [`LocalMeshError::Config`] if a setting is invalid, no port is free, or the
    ///   [`data_dirs`](Self::data_dirs) cannot be created.
    /// - [`LocalMeshError::NotStable`] if the nodes do not find each other within the
    ///   [`patience`](Self::patience).
    ///
    /// # Panics
    /// Panics outside a tokio runtime with I/O and timers.
    ///
    /// # Cancel safety
    /// Dropping the future ends all nodes that were started.
    pub async fn start(self) -> Result<LocalMesh, LocalMeshError> {
        let voters = self.voters.unwrap_or(self.nodes);
        within("nodes", self.nodes, NODES_MAX)?;
        within("voters", voters, self.nodes)?;
        let secrets = match &self.secret {
            SecretChoice::Random => {
                Some(ClusterSecret::generate().map_err(ConfigError::from)?.into())
            }
            SecretChoice::Given(secret) => Some(secret.clone().into()),
            SecretChoice::Plaintext => None,
        };
        let mesh = LocalMesh {
            disks: self.data_dirs.map(Disks::new).transpose()?,
            links: Links::new(self.seed),
            nodes: Mutex::default(),
            lifecycle: tokio::sync::Mutex::default(),
            settings: self,
            secrets,
        };
        for i in 0..mesh.settings.nodes {
            let node = mesh
                .start_node(i, FREE_PORT, None, mesh.secrets.clone())
                .await?;
            mesh.nodes().push(node);
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

impl LocalMesh {
    /// Starts `nodes` nodes, all of which vote. When this returns, every node sees all others.
    ///
    /// # Errors
    /// See [`LocalMeshBuilder::start`].
    ///
    /// # Panics
    /// Panics outside a tokio runtime with I/O and timers.
    ///
    /// # Cancel safety
    /// Dropping the future ends all nodes that were started.
    pub async fn start(nodes: usize) -> Result<Self, LocalMeshError> {
        Self::builder().nodes(nodes).start().await
    }

    /// Returns a builder with five nodes that all vote, a random secret and a ttl of 2 s.
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
            data_dirs: None,
            configure: None,
        }
    }

    /// Returns node `i`. If it is down, this is its last incarnation, whose requests fail.
    #[must_use]
    pub fn node(&self, i: usize) -> Mesh {
        self.nodes()[i].mesh.clone()
    }

    /// Returns the state of node `i`.
    #[must_use]
    pub fn condition(&self, i: usize) -> Condition {
        self.nodes()[i].condition
    }

    /// Returns the faults of the link from one node to another, in that direction.
    #[must_use]
    pub fn fault(&self, from: usize, to: usize) -> Fault {
        let (from, to) = (self.node(from), self.node(to));
        self.links.fault(from.id().as_str(), to.id().as_str())
    }

    /// Returns the number of nodes, including those that are down.
    #[must_use]
    pub fn size(&self) -> usize {
        self.settings.nodes
    }

    /// Cuts all links between the two sides, in both directions. All other links stay as they are.
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

    /// Removes all faults of all links. Nodes that are paused or down stay so.
    pub fn heal(&self) {
        self.links.heal();
    }

    /// Cuts the link between two nodes, in both directions.
    pub fn cut(&self, a: usize, b: usize) {
        self.link(a, b).cut();
    }

    /// Cuts the link from `from` to `to`. The other direction stays as it is.
    pub fn cut_one_way(&self, from: usize, to: usize) {
        self.link_one_way(from, to).cut();
    }

    /// Selects the link between two nodes, in both directions, for fault injection.
    pub fn link(&self, a: usize, b: usize) -> Link<'_> {
        self.over([(a, b), (b, a)])
    }

    /// Selects the link from one node to another, in that direction only, for fault injection.
    pub fn link_one_way(&self, from: usize, to: usize) -> Link<'_> {
        self.over([(from, to)])
    }

    /// Selects all links for fault injection.
    pub fn every_link(&self) -> Link<'_> {
        let nodes = 0..self.size();
        self.over(nodes.flat_map(|a| (0..self.size()).map(move |b| (a, b))))
    }

    fn over(&self, ends: impl IntoIterator<Item = (usize, usize)>) -> Link<'_> {
        let nodes = self.nodes();
        let id = |i: usize| nodes[i].mesh.id().to_string();
        Link {
            links: &self.links,
            ends: ends.into_iter().map(|(a, b)| (id(a), id(b))).collect(),
        }
    }

    /// Replaces the secrets of node `i`, which keeps them over a [`restart`](LocalMesh::restart);
    /// see [`Mesh::rotate_secrets`]. A node that is down restarts with them.
    ///
    /// # Errors
    /// [`RotateError::Secret`] if there are none, too many, or one twice; or if the cluster sends
    /// plaintext.
    ///
    /// # Panics
    /// Panics if there is no node `i`.
    pub fn rotate_secrets(
        &self,
        i: usize,
        secrets: impl IntoIterator<Item = ClusterSecret>,
    ) -> Result<(), RotateError> {
        let secrets = ClusterSecrets::new(secrets)?;
        let node = &mut self.nodes()[i];
        if node.secrets.is_none() {
            return Err(SecretError::Plaintext.into());
        }
        match node.mesh.rotate_secrets(secrets.clone()) {
            Ok(()) | Err(RotateError::ShutDown) => node.secrets = Some(secrets),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Pauses node `i`: until [`resume`](LocalMesh::resume) it sends and receives nothing, like a
    /// frozen process. No effect on a node that is down.
    ///
    /// Incoming datagrams wait in the buffer of its socket. Datagrams that it would send are lost.
    /// Its clock and its callers are not paused: requests time out, leases expire, and guards
    /// report it.
    pub fn pause(&self, i: usize) {
        self.stand_still(i, Condition::Running, Condition::Paused);
    }

    /// Resumes node `i`. No effect on a node that is not paused.
    pub fn resume(&self, i: usize) {
        self.stand_still(i, Condition::Paused, Condition::Running);
    }

    fn stand_still(&self, i: usize, from: Condition, to: Condition) {
        let mut nodes = self.nodes();
        let node = &mut nodes[i];
        if node.condition == from {
            node.condition = to;
            node.transport.pause(to == Condition::Paused);
        }
    }

    /// Ends node `i` as if its process were killed; see [`Mesh::abort`]. No effect on a node that
    /// is down.
    ///
    /// # Cancel safety
    /// If the future is dropped, the node may still run, or its address may not be free yet.
    pub async fn crash(&self, i: usize) {
        let _lifecycle = self.lifecycle.lock().await;
        if let Some(mesh) = self.take_down(i) {
            mesh.abort();
        }
    }

    /// Ends node `i` as if the power of its machine were cut. In its data directory, whatever was not
    /// synced is lost, apart from a torn part. The node may be down already: it crashed or was shut
    /// down before.
    ///
    /// A restarted voter resumes if its records were synced: with [`Durability::Machine`], or after
    /// [`shutdown`](LocalMesh::shutdown). Otherwise it is in quarantine. Without
    /// [`data_dirs`](LocalMeshBuilder::data_dirs) this is [`crash`](LocalMesh::crash).
    ///
    /// # Errors
    /// The error of the operating system if the journal cannot be cut. The node is down all the
    /// same.
    ///
    /// # Cancel safety
    /// If the future is dropped, the node may still run.
    pub async fn crash_machine(&self, i: usize) -> io::Result<()> {
        let _lifecycle = self.lifecycle.lock().await;
        if let Some(mesh) = self.take_down(i) {
            mesh.abort();
        }
        let mesh = {
            let node = &mut self.nodes()[i];
            node.boot += 1;
            node.mesh.clone()
        };
        match mesh.status().journal {
            Some(journal) => cut_power(&journal.dir, || mesh.status().journal),
            None => Ok(()),
        }
    }

    /// Shuts node `i` down: it releases its locks, leaves the votes of its voter with other voters,
    /// and announces that it leaves. A paused node is resumed first. Returns the result of
    /// [`Mesh::shutdown`]; the default, without effect, for a node that is down.
    ///
    /// # Cancel safety
    /// A shutdown that has started completes in the background if the future is dropped.
    pub async fn shutdown(&self, i: usize) -> Shutdown {
        let _lifecycle = self.lifecycle.lock().await;
        self.resume(i);
        match self.take_down(i) {
            Some(mesh) => mesh.shutdown().await,
            None => Shutdown::default(),
        }
    }

    fn take_down(&self, i: usize) -> Option<Mesh> {
        let mut nodes = self.nodes();
        let node = &mut nodes[i];
        let was_up = node.condition != Condition::Down;
        node.condition = Condition::Down;
        was_up.then(|| node.mesh.clone())
    }

    /// Restarts node `i` under its id, as a new incarnation. It gets its previous address if that
    /// is free. A node that runs crashes first. [`node`](LocalMesh::node) returns the new
    /// incarnation from then on.
    ///
    /// Its voter resumes from its journal if there are [`data_dirs`](LocalMeshBuilder::data_dirs).
    /// Otherwise it has forgotten its votes, and is in recovery for the longest lease. The node may not have found its peers yet when this returns; see
    /// [`wait_until_stable`](LocalMesh::wait_until_stable).
    ///
    /// # Errors
    /// The node is down after an error.
    /// - [`ConfigError::Bind`] if no port is free.
    /// - [`ConfigError::Gossip`] if gossip cannot be started.
    /// - [`ConfigError::DataDir`] if the data directory cannot be used.
    ///
    /// # Panics
    /// Panics outside a tokio runtime with I/O and timers, or if there is no node `i`.
    ///
    /// # Cancel safety
    /// If the future is dropped, the node may be down.
    pub async fn restart(&self, i: usize) -> Result<(), ConfigError> {
        let _lifecycle = self.lifecycle.lock().await;
        if let Some(mesh) = self.take_down(i) {
            mesh.abort();
        }
        // At its previous address the node proves that its old claims are over. Another process may
        // have taken that address.
        let (before, boot, secrets) = {
            let node = &self.nodes()[i];
            (
                node.mesh.local_addr(),
                Some(node.boot),
                node.secrets.clone(),
            )
        };
        let node = match self.start_node(i, before, boot, secrets.clone()).await {
            Ok(node) => node,
            Err(_) => self.start_node(i, FREE_PORT, boot, secrets).await?,
        };
        self.nodes()[i] = node;
        Ok(())
    }

    /// Starts a node of a new cluster, or again on a machine that has crashed `boot` times.
    async fn start_node(
        &self,
        i: usize,
        listen: SocketAddr,
        boot: Option<u32>,
        secrets: Option<ClusterSecrets>,
    ) -> Result<Node, ConfigError> {
        let transport = self.links.bind(&name(i), listen);
        let transport = transport.map_err(|error| ConfigError::Bind { listen, error })?;
        let mut builder = self.describe(&name(i), secrets.clone());
        builder = builder.transport(transport.clone());
        if let Some(disks) = &self.disks {
            builder = builder.data_dir(disks.dir(&name(i)));
            builder = builder.durability(disks.durability());
            builder = builder.boot_id(u128::from(boot.unwrap_or(0)));
        }
        if boot.is_none() {
            builder = builder.bootstrap();
        }
        Ok(Node {
            mesh: builder.start().await?,
            transport,
            condition: Condition::Running,
            secrets,
            boot: boot.unwrap_or(0),
        })
    }

    /// Waits until every running voter votes, and every running node sees its peers as its links
    /// allow.
    ///
    /// A node must see each running peer that it is connected to, directly or over others, at its
    /// current address. It must not see a peer that is paused or down, or from which no datagram
    /// arrives. Loss and delay do not count as cuts.
    ///
    /// # Errors
    /// [`NotStable`] if this takes longer than [`patience`](LocalMeshBuilder::patience) and twice
    /// `max_ttl`. It lists what is missing.
    ///
    /// # Cancel safety
    /// This method is cancel safe.
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
        let seen = nodes.iter().map(
            |Node {
                 mesh, condition, ..
             }| Seen {
                id: mesh.id().clone(),
                addr: mesh.local_addr(),
                runs: *condition == Condition::Running,
                status: mesh.status(),
            },
        );
        let seen: Vec<Seen> = seen.collect();
        missing(&seen, |from, to| {
            let fault = self
                .links
                .fault(seen[from].id.as_str(), seen[to].id.as_str());
            !fault.cut && fault.loss < 1.0
        })
    }

    /// Returns the settings of a further node, which locks but does not vote. Its links take the
    /// faults of no other node.
    ///
    /// # Errors
    /// [`ConfigError::Bind`] if no port is free.
    ///
    /// # Panics
    /// Panics if `name` is the name of a node of this cluster, or outside a tokio runtime with I/O.
    pub fn client(&self, name: &str) -> Result<MeshBuilder, ConfigError> {
        let is_taken = (0..self.size()).any(|i| name == self::name(i));
        assert!(!is_taken, "{name} is a node of this cluster");
        let transport = self.links.bind(name, FREE_PORT);
        let transport = transport.map_err(|error| ConfigError::Bind {
            listen: FREE_PORT,
            error,
        })?;
        let builder = self.describe(name, self.secrets.clone());
        Ok(builder.transport(transport))
    }

    /// Returns the settings of a node. Its seeds are the nodes that are up.
    fn describe(&self, node_id: &str, secrets: Option<ClusterSecrets>) -> MeshBuilder {
        let settings = &self.settings;
        let mut builder = Mesh::builder(node_id)
            .timing(settings.timing_or_default())
            .ttl(settings.ttl)
            .gossip_interval(Duration::from_millis(50));
        if let Some(configure) = &settings.configure {
            builder = configure(builder);
        }
        if let Some(voters_per_key) = settings.voters_per_key {
            builder = builder.voters_per_key(voters_per_key);
        }
        builder = match secrets {
            Some(secrets) => builder.secrets(secrets),
            None => builder.insecure_plaintext(),
        };
        let nodes = self.nodes();
        let up = nodes
            .iter()
            .filter(|node| node.condition != Condition::Down);
        let voters = settings.voters.unwrap_or(settings.nodes);
        builder
            .seeds(up.map(|node| node.mesh.local_addr().to_string()))
            .voters((0..voters).map(name))
    }

    fn nodes(&self) -> MutexGuard<'_, Vec<Node>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for LocalMesh {
    fn drop(&mut self) {
        for node in self.nodes().iter() {
            node.mesh.abort();
        }
        self.links.lose_late();
    }
}

fn name(i: usize) -> String {
    format!("n{i}")
}
