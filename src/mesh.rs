//! The handle of a mesh.

use std::io;
use std::net::SocketAddr;
use std::panic;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{self, AbortHandle, JoinHandle};

use crate::clock::Time;
use crate::config::{Advertise, Checked, MeshBuilder, Settings};
use crate::election::{Election, Elections};
use crate::engine::Engine;
use crate::engine::driver;
use crate::error::{AcquireError, ConfigError, ExtendError, InspectError, NotReady, RotateError};
use crate::gossip::capacity;
use crate::gossip::{Gossip, Membership};
use crate::guard;
use crate::held::{Found, Held};
use crate::journal::{Journal, Opening};
use crate::lock::{ClusterError, DistributedLock};
use crate::lock_all::LockAllRequest;
use crate::obstacle::Obstacle;
use crate::request::LockRequest;
use crate::revoke::RevokeRequest;
use crate::seed_query::SeedQuery;
use crate::seeds::{self, Seeds};
use crate::semaphore::SemaphoreRequest;
use crate::status::{Health, Shutdown, Status, VoterStart};
use crate::transport::{self, Transport, UdpTransport};
use lockmesh_proto::{
    ClusterSecret, ClusterSecrets, Epoch, Incarnation, Inspection, JournalOwner, Key, NoSpareVoter,
    Node, NodeConfig, NodeId, NodeJournal, NotMemory, Seal, Started, View,
};

/// The error for a task that releases or extends a lock that another task of this node has acquired
/// since.
const LATE: &str = "the lease of this task is over, and another task of this node holds the lock";
/// The maximum number of datagrams that wait for the gossip library.
const GOSSIP_QUEUE: usize = 256;
/// The maximum time to resolve the advertised name.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(10);

/// A node of the mesh, embedded in this process. Cloning is cheap, and all clones are the same
/// node.
///
/// The node runs until [`shutdown`](Mesh::shutdown), or until the last clone and the last
/// [`Guard`](crate::Guard) are dropped.
#[derive(Clone, Debug)]
pub struct Mesh {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) engine: Arc<Engine>,
    pub(crate) settings: Settings,
    pub(crate) id: NodeId,
    addr: SocketAddr,
    pub(crate) elections: Elections,
    /// The locks acquired through [`DistributedLock`], which has no guards.
    held: Mutex<Held>,
    leave: watch::Sender<bool>,
    /// The runtime that the mesh was started in.
    pub(crate) runtime: Handle,
    driver: AbortHandle,
    gossip: AbortHandle,
    /// The task that ends the mesh. The first shutdown takes it and waits for it.
    end: Mutex<Option<JoinHandle<Shutdown>>>,
}

impl MeshBuilder {
    /// Starts the node: checks every setting, binds the socket and starts gossip.
    ///
    /// The node may not have found its peers yet when this returns; see [`Mesh::ready`].
    ///
    /// # Errors
    /// Nothing is left running after an error.
    ///
    /// | error | if |
    /// | --- | --- |
    /// | [`Name`](ConfigError::Name) | the id of this node, of a voter or of a static peer is invalid |
    /// | [`NoVoters`](ConfigError::NoVoters) | no voters are given, except with [`single`](Self::single) |
    /// | [`VoterSet`](ConfigError::VoterSet) | the voters, `voters_per_key` or the timing are invalid |
    /// | [`NoSecret`](ConfigError::NoSecret) | there is neither a secret nor [`insecure_plaintext`](Self::insecure_plaintext) |
    /// | [`SecretVariable`](ConfigError::SecretVariable) | the environment variable of the secret is not set |
    /// | [`Secret`](ConfigError::Secret) | a secret is not 32 bytes in base64 or hex; or there are none, too many, or one twice |
    /// | [`Address`](ConfigError::Address) | `listen` is not `IP:PORT` |
    /// | [`Advertise`](ConfigError::Advertise) | `advertise` is not a `HOST:PORT` that peers can reach |
    /// | [`AdvertiseUnresolved`](ConfigError::AdvertiseUnresolved) | the name in `advertise` does not resolve within 10 s |
    /// | [`NoRoute`](ConfigError::NoRoute) | there is no `advertise`, and no route to a peer |
    /// | [`Seed`](ConfigError::Seed) | a seed is not `HOST:PORT` |
    /// | [`ShortLivedVoter`](ConfigError::ShortLivedVoter) | a voter is [`short_lived`](Self::short_lived) |
    /// | [`OutOfBounds`](ConfigError::OutOfBounds), [`Renewal`](ConfigError::Renewal) | a duration or a number is out of range |
    /// | [`GossipRoom`](ConfigError::GossipRoom) | the names of the voters exceed a datagram of gossip |
    /// | [`NoRuntime`](ConfigError::NoRuntime) | there is no tokio runtime |
    /// | [`Bind`](ConfigError::Bind) | the listen address cannot be bound |
    /// | [`Gossip`](ConfigError::Gossip) | gossip cannot be started |
    /// | [`DataDir`](ConfigError::DataDir) | another process uses `data_dir`, it belongs to another node, or it cannot be written |
    ///
    /// # Panics
    /// Panics if the tokio runtime has no I/O or no timers; see
    /// [`enable_all`](tokio::runtime::Builder::enable_all).
    ///
    /// # Cancel safety
    /// If the future is dropped before it completes, nothing is left running.
    pub async fn start(self) -> Result<Mesh, ConfigError> {
        let checked = self.check()?;
        capacity::check(&checked)?;
        if Handle::try_current().is_err() {
            return Err(ConfigError::NoRuntime);
        }
        // Panics without timers: here, rather than in the driver, on which every request depends.
        drop(tokio::time::sleep(Duration::ZERO));
        let (incarnation, opened, why) = open_journal(&checked).await?;
        let listen = checked.listen;
        let transport = match &checked.transport {
            Some(transport) => transport.clone(),
            None => Arc::new(
                UdpTransport::bind(listen).map_err(|error| ConfigError::Bind { listen, error })?,
            ),
        };
        let addr = transport.local_addr();
        let advertise = advertised(addr, &checked).await?;
        let clock = Time::of(checked.clock.clone());
        let (gossip_in, incoming) = mpsc::channel(GOSSIP_QUEUE);
        let (seeds, resolver) = (checked.seeds.clone(), checked.resolver.clone());
        let asks = checked.is_short_lived.then(|| checked.cluster.clone());
        let gossip = Gossip {
            id: checked.id.clone(),
            incarnation,
            cluster: checked.cluster.clone(),
            advertise,
            interval: checked.gossip_interval,
        };
        let (id, settings) = (checked.id.clone(), checked.settings);
        let handover_timeout = checked.handover_timeout;
        let static_peers = checked.static_peers.clone();
        let (journal, node_journal) = opened.unzip();
        let node = new_node(&clock, incarnation, checked, node_journal);
        let engine = Arc::new(Engine::new(clock, transport, (node, journal), gossip_in));
        let start = VoterStart::without_memory(why, engine.journal.is_some());
        engine.with(|core, _| core.begin_voter(start));
        if let Some(journal) = &engine.journal {
            Journal::spawn_writer(journal, &engine)?;
        }
        let seeds = Seeds::new(seeds, &resolver, &report_seeds(&engine));
        let finder = match (static_peers, asks) {
            (Some(peers), _) => {
                engine.with(|core, now| core.node.handle_view(now, &View { peers }));
                Finder::Knows
            }
            (None, Some(cluster)) => {
                Finder::Asks(Box::new(SeedQuery::new(engine.clone(), cluster, seeds)))
            }
            (None, None) => {
                let membership = Membership::start(engine.clone(), gossip, seeds, incoming).await;
                Finder::Gossips(Box::new(membership.map_err(ConfigError::Gossip)?))
            }
        };
        let (no_spare_voter, is_alone) = engine.with(|core, now| {
            let is_alone = core.node.voter_set().members().len() == 1;
            (core.check_restart(now).err(), is_alone)
        });
        let inner = Inner::start(engine, settings, id, addr, finder, handover_timeout);
        tracing::info!(node = %inner.id, %addr, %advertise, %incarnation, "mesh started");
        if let Some(NoSpareVoter::Never { voters_per_key }) = no_spare_voter
            && !is_alone
        {
            tracing::warn!(
                node = %inner.id, voters_per_key,
                "each restart of a voter costs a quorum, since each key needs all of its voters; use \
                 three voters or more for each key"
            );
        }
        Ok(Mesh {
            inner: Arc::new(inner),
        })
    }
}

/// Opens the journal of a voter that has a data directory. Returns it, the incarnation of this
/// process, and the reason why the journal is not memory.
async fn open_journal(
    checked: &Checked,
) -> Result<
    (
        Incarnation,
        Option<(Arc<Journal>, NodeJournal)>,
        Option<NotMemory>,
    ),
    ConfigError,
> {
    let clock = Time::of(checked.clock.clone());
    let incarnation = Incarnation::new(clock.incarnation(rand::random()));
    let Some(dir) = checked.data_dir.clone() else {
        return Ok((incarnation, None, None));
    };
    let opening = Opening {
        owner: JournalOwner {
            node: checked.id.clone(),
            cluster: checked.cluster.clone(),
            buckets: checked.limits.fence_buckets,
        },
        durability: checked.durability,
        started: Started::new(incarnation, checked.boot_id, false, &checked.voter_set),
    };
    let id = checked.id.clone();
    let opened = task::spawn_blocking(move || Journal::open(&dir, opening)).await;
    let opened = opened.unwrap_or_else(|error| panic::resume_unwind(error.into_panic()))?;
    opened.log(&id);
    let incarnation = opened.node.started.incarnation;
    let why = opened.why;
    Ok((
        incarnation,
        Some((Arc::new(opened.journal), opened.node)),
        why,
    ))
}

/// Returns the address at which peers reach a node that listens on `local`.
async fn advertised(local: SocketAddr, checked: &Checked) -> Result<SocketAddr, ConfigError> {
    match &checked.advertise {
        Advertise::At(addr) => Ok(*addr),
        Advertise::Default if !local.ip().is_unspecified() => Ok(local),
        Advertise::Default => {
            let seeds = checked.seeds.iter();
            let peer = seeds.filter_map(|seed| seed.parse().ok()).next();
            let ip = transport::route(local, peer);
            let ip = ip.map_err(|error| ConfigError::NoRoute { error })?;
            Ok(SocketAddr::new(ip, local.port()))
        }
        Advertise::Name(name) => {
            let resolved = tokio::time::timeout(RESOLVE_TIMEOUT, checked.resolver.resolve(name));
            let addrs = resolved.await.unwrap_or_else(|late| Err(late.into()));
            let addr = addrs.and_then(|addrs| {
                let of_family = |addr: &&SocketAddr| addr.is_ipv4() == local.is_ipv4();
                let addr = addrs
                    .iter()
                    .find(of_family)
                    .or_else(|| addrs.first())
                    .copied();
                addr.ok_or_else(|| io::ErrorKind::NotFound.into())
            });
            addr.map_err(|error| ConfigError::AdvertiseUnresolved {
                name: name.clone(),
                error,
            })
        }
    }
}

/// Returns a function that logs if a seed does not resolve.
fn report_seeds(engine: &Arc<Engine>) -> seeds::Report {
    let engine = Arc::downgrade(engine);
    Arc::new(move |seed, error| {
        let Some(engine) = engine.upgrade() else {
            return;
        };
        let obstacle = Obstacle::SeedUnresolved {
            seed: seed.to_owned(),
            error: error.map(ToString::to_string).unwrap_or_default(),
        };
        engine.with(|core, now| match error {
            Some(_) => core.obstacles.begin(now.mono, &obstacle),
            None => core.obstacles.end(now.mono, &obstacle),
        });
    })
}

/// The way in which a node finds its peers.
enum Finder {
    Gossips(Box<Membership>),
    Asks(Box<SeedQuery>),
    /// By configuration.
    Knows,
}

/// Finds peers until the mesh leaves, then stops the driver. It is a task of its own, so that a
/// shutdown completes even if its future is dropped.
async fn live(
    finder: Finder,
    engine: Arc<Engine>,
    mut left: watch::Receiver<bool>,
    driver: JoinHandle<()>,
    handover_timeout: Duration,
) -> Shutdown {
    let mut leaves = left.clone();
    let finds = async {
        match finder {
            Finder::Gossips(membership) => membership.run(left).await,
            Finder::Asks(query) => query.run(left).await,
            Finder::Knows => drop(left.wait_for(|left| *left).await),
        }
    };
    let hands_over = async {
        let _ = leaves.wait_for(|leaves| *leaves).await;
        engine.hand_over(handover_timeout).await
    };
    let ((), handed_over_to) = tokio::join!(finds, hands_over);
    engine.end_journal().await;
    driver.abort();
    engine.close();
    Shutdown { handed_over_to }
}

fn seal(secrets: Option<ClusterSecrets>) -> Seal {
    match secrets {
        Some(secrets) => Seal::sealed(secrets, rand::random()),
        None => Seal::insecure_plaintext(),
    }
}

fn new_node(
    clock: &Time,
    incarnation: Incarnation,
    checked: Checked,
    journal: Option<NodeJournal>,
) -> Node {
    let seal = seal(checked.secrets).of_cluster(&checked.cluster);
    let config = NodeConfig {
        id: checked.id,
        incarnation,
        voter_set: Arc::new(checked.voter_set),
        start: checked.start,
        limits: checked.limits,
        max_claims: checked.max_claims,
        renew_interval: checked.settings.renew_interval,
        seed: rand::random(),
        seal,
    };
    match journal {
        None => Node::new(clock.now(), config),
        Some(journal) => Node::with_journal(clock.now(), config, journal),
    }
}

impl Mesh {
    /// Returns a builder with the settings of [`MeshBuilder::lan`].
    pub fn builder(node_id: impl Into<String>) -> MeshBuilder {
        MeshBuilder::lan(node_id)
    }

    /// Returns a request for the lock on `key`, which is any UTF-8 text of 1 to 256 bytes.
    ///
    /// An invalid key is an error of the request, [`AcquireError::Key`].
    ///
    /// Nothing is sent before [`acquire`](LockRequest::acquire) or
    /// [`try_acquire`](LockRequest::try_acquire).
    pub fn lock(&self, key: impl Into<String>) -> LockRequest {
        LockRequest::new(self.inner.clone(), key.into())
    }

    /// Returns the ttl of a request that sets none.
    #[must_use]
    pub fn default_ttl(&self) -> Duration {
        self.inner.settings.ttl
    }

    /// Returns a request for permits of the semaphore `id`, of which at most `permits` are out at
    /// once. All nodes give the same number: 1 to [`PERMITS_MAX`](crate::PERMITS_MAX).
    ///
    /// Nothing is sent before [`acquire`](SemaphoreRequest::acquire) or one of its siblings.
    pub fn semaphore(&self, id: impl Into<String>, permits: usize) -> SemaphoreRequest {
        SemaphoreRequest::new(self, id.into(), permits)
    }

    /// Returns a request for the locks on all `keys` together: 1 to
    /// [`LOCK_ALL_KEYS_MAX`](crate::LOCK_ALL_KEYS_MAX), each once, in any order.
    ///
    /// Nothing is sent before [`acquire`](LockAllRequest::acquire) or
    /// [`try_acquire`](LockAllRequest::try_acquire).
    pub fn lock_all(&self, keys: impl IntoIterator<Item = impl Into<String>>) -> LockAllRequest {
        let keys = keys.into_iter().map(Into::into).collect();
        LockAllRequest::new(self, keys)
    }

    /// Returns the election `name` among the nodes of the cluster.
    ///
    /// Nothing is sent before [`campaign`](Election::campaign) or [`watch`](Election::watch).
    pub fn election(&self, name: impl Into<String>) -> Election {
        Election::new(self.inner.clone(), name.into())
    }

    /// Returns the id of this node.
    #[must_use]
    pub fn id(&self) -> &NodeId {
        &self.inner.id
    }

    /// Returns the address that this node listens on.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.inner.addr
    }

    /// Waits until this node is ready, which an orchestrator takes as leave to restart the next
    /// voter: [`Health::Ready`].
    ///
    /// | this node | is ready |
    /// | --- | --- |
    /// | is no voter | while locks can be acquired: a quorum of the members would vote for its claims |
    /// | is a voter that has just started | once it votes, and every key has a quorum without any one more voter |
    /// | the same, and another voter is down for good | once locks could be acquired for the length of a quarantine, about `max_ttl` |
    /// | is a voter that has just started and reads the marks of the others | once it has read them |
    /// | is a voter, and keys have one or two voters | while locks can be acquired and it votes: a restart always costs a quorum there |
    /// | was ready | while locks can be acquired and it votes |
    ///
    /// Locks can be requested before; such requests wait. A service that only wants to know if
    /// locks can be acquired uses [`watch`](Self::watch) and [`Health::can_lock`].
    ///
    /// # Errors
    /// [`NotReady`] if the node is not ready within `at_most`.
    ///
    /// # Panics
    /// Panics outside a tokio runtime with timers.
    ///
    /// # Cancel safety
    /// This method is cancel safe.
    pub async fn ready(&self, at_most: Duration) -> Result<(), NotReady> {
        let mut health = self.watch();
        let ready = health.wait_for(|health| *health == Health::Ready);
        if let Ok(Ok(_)) = tokio::time::timeout(at_most, ready).await {
            return Ok(());
        }
        let status = self.status();
        let health = status.health;
        let can_vote = status.members.iter().filter(|member| member.votes);
        let reachable = can_vote.count();
        Err(NotReady {
            waited: at_most,
            reachable,
            members: status.members.len(),
            health,
        })
    }

    /// Returns a receiver of the health of this node, which follows its cause within a second.
    ///
    /// ```
    /// # async fn alert(mesh: lockmesh::Mesh) {
    /// let mut health = mesh.watch();
    /// while health.changed().await.is_ok() {
    ///     println!("this node is {}", *health.borrow_and_update());
    /// }
    /// # }
    /// ```
    ///
    /// A request handler that needs locks can check or await them apart from readiness:
    ///
    /// ```
    /// # async fn serve(mesh: lockmesh::Mesh) -> Result<(), Box<dyn std::error::Error>> {
    /// mesh.watch().wait_for(|health| health.can_lock()).await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Health> {
        let engine = &self.inner.engine;
        engine.set_health(engine.with(|core, now| core.observe_health(now)));
        engine.health.subscribe()
    }

    /// Replaces the cluster secrets of this node: 1 to
    /// [`CLUSTER_SECRETS_MAX`](crate::CLUSTER_SECRETS_MAX), each once. From now on it seals with
    /// the first, and opens with each of them.
    ///
    /// Locks, requests and peers are not affected, as long as this node and its peers can open each
    /// other's datagrams. So a cluster goes from `old` to `new` in three steps. Each step is done on
    /// all nodes before the next begins:
    ///
    /// | step | secrets | when it is done |
    /// | --- | --- | --- |
    /// | 1 | `[old, new]` | each node has two [`Status::secrets`] |
    /// | 2 | `[new, old]` | the [`secret`](crate::status::MemberStatus::secret) of each node is `new` |
    /// | 3 | `[new]` | |
    ///
    /// The node logs the fingerprint of the first, never a secret. After a restart the node has the
    /// secrets of its builder, so replace those as well.
    ///
    /// ```
    /// use lockmesh::{ClusterSecret, Mesh, RotateError};
    ///
    /// fn begin(mesh: &Mesh, old: ClusterSecret, new: ClusterSecret) -> Result<(), RotateError> {
    ///     mesh.rotate_secrets([old, new])
    /// }
    ///
    /// fn is_done(mesh: &Mesh, new: &ClusterSecret) -> bool {
    ///     let members = mesh.status().members;
    ///     members.iter().all(|member| member.secret == Some(new.fingerprint()))
    /// }
    /// ```
    ///
    /// # Errors
    /// The secrets are unchanged after an error.
    /// - [`RotateError::Secret`] if there are none, too many, or one twice; or if the mesh sends
    ///   plaintext.
    /// - [`RotateError::ShutDown`] if the mesh is shutting down or has shut down.
    pub fn rotate_secrets(
        &self,
        secrets: impl IntoIterator<Item = ClusterSecret>,
    ) -> Result<(), RotateError> {
        let secrets = ClusterSecrets::new(secrets)?;
        self.inner.engine.with(|core, _| match core.is_shut_down {
            true => Err(RotateError::ShutDown),
            false => Ok(core.node.rotate_secrets(&secrets)?),
        })?;
        let fingerprints = secrets.fingerprints();
        let secret = &fingerprints[0];
        tracing::info!(node = %self.inner.id, secrets = fingerprints.len(), %secret, "secrets replaced");
        Ok(())
    }

    /// Returns the epoch of a lock that this node holds through [`DistributedLock`], or `None` if it
    /// does not hold `key` in that way.
    #[must_use]
    pub fn held(&self, key: &str) -> Option<Epoch> {
        self.inner.held().epoch(key)
    }

    /// Returns the state of this node, and of the cluster as this node sees it.
    #[must_use]
    pub fn status(&self) -> Status {
        self.inner
            .engine
            .with(|core, now| Status::of(core, now, self.inner.addr))
    }

    /// Returns the holder of `key`, as a quorum of its voters reports it.
    ///
    /// The result may be outdated when it is read. Use it for diagnostics, not for decisions.
    ///
    /// # Errors
    /// - [`InspectError::Key`] if the key is empty or has more than 256 bytes.
    /// - [`InspectError::NoQuorum`] if fewer than a quorum of the voters answered within
    ///   `try_timeout`.
    /// - [`InspectError::ShutDown`] if the mesh is shutting down or has shut down.
    ///
    /// # Cancel safety
    /// This method is cancel safe.
    pub async fn inspect(&self, key: impl AsRef<str>) -> Result<Inspection, InspectError> {
        let key = Key::new(key)?;
        let patience = self.inner.settings.try_timeout;
        let notified = self.inner.inspection(&key, patience);
        let notified = notified.ok_or(InspectError::ShutDown)?.await;
        let inspection = notified.map_err(|_| InspectError::ShutDown)?;
        let (answered, voters) = (inspection.answered, inspection.voters);
        if answered < lockmesh_proto::quorum(voters) {
            return Err(InspectError::NoQuorum { answered, voters });
        }
        Ok(inspection)
    }

    /// Frees the lock on `key` by hand, although its holder does not release it. `by` says who does
    /// so, in 1 to 128 bytes; it is in the logs of the voters and of the holder.
    ///
    /// - The holder's guard reports the lock as lost at once, if a voter reaches its node.
    ///   [`Guard::revoked_by`](crate::Guard::revoked_by) says who did it.
    /// - The voters renew the lease no more. They keep their votes until these expire, so nobody is
    ///   granted the key before that. If the holder releases its guard, the key is free at once.
    ///
    /// # Danger
    /// Only the guard learns that the lock is lost. Code that does not look at its guard runs on, also
    /// when the next holder has the key. Stop that code first, or let its resource compare epochs
    /// ([`fence`](crate::fence)).
    ///
    /// # Errors
    /// - [`RevokeError::Name`](crate::RevokeError::Name) if the key or `by` is invalid.
    /// - [`RevokeError::NotHeld`](crate::RevokeError::NotHeld) if nobody holds the key.
    /// - [`RevokeError::NoQuorum`](crate::RevokeError::NoQuorum) if neither a quorum of the voters nor the holder answered.
    /// - [`RevokeError::ShutDown`](crate::RevokeError::ShutDown) if the mesh is shutting down or has shut down.
    ///
    /// # Cancel safety
    /// Dropping the future does not take the messages back: the lock may be freed.
    pub fn revoke(&self, key: impl Into<String>, by: impl Into<String>) -> RevokeRequest {
        RevokeRequest::new(self.inner.clone(), key.into(), by.into())
    }

    /// Shuts the node down.
    ///
    /// - The locks of all guards are released. Guards that still exist report their lock as lost.
    /// - Pending requests are withdrawn.
    /// - The voter of this node stops voting. If it keeps no journal, it leaves its votes with
    ///   other voters, for the next process of this node. That takes a few round trips, and at most
    ///   [`handover_timeout`](MeshBuilder::handover_timeout).
    /// - The node announces to its peers that it leaves, and stops. That takes a round trip, and at
    ///   most ten if a peer does not answer.
    ///
    /// Locks acquired through [`DistributedLock`] last for the rest of their ttl.
    ///
    /// Returns once the address is free, with the voters that have the votes of this node's voter.
    /// If there are none and it keeps no journal, its next process does not vote for `max_ttl`. A
    /// second call returns at once with none, even if the shutdown has not completed.
    ///
    /// # Cancel safety
    /// The shutdown starts when the future is first polled. If the future is dropped, it completes
    /// in the background while a clone of the mesh exists.
    pub async fn shutdown(&self) -> Shutdown {
        let inner = &self.inner;
        inner.release_everything();
        inner.leave.send_replace(true);
        let Some(shutdown) = inner.ended().await else {
            return Shutdown::default();
        };
        let handed_over_to: Vec<&str> = shutdown.handed_over_to.iter().map(AsRef::as_ref).collect();
        tracing::info!(node = %inner.id, ?handed_over_to, "mesh shut down");
        shutdown
    }

    /// Stops this node at once, as if its process were killed.
    ///
    /// Nothing is released, and no further datagram is sent. The address is free when this returns.
    /// Pending requests end as after a shutdown.
    ///
    /// Guards that still exist act like those of a frozen process: they are held until their leases
    /// expire, and are not renewed. Drop them before the node is restarted under its id, since its
    /// new incarnation ends the old claims at once.
    pub fn abort(&self) {
        let inner = &self.inner;
        inner.engine.close();
        inner.engine.with(|core, _| core.forget_all());
        inner.engine.set_health(Health::ShutDown);
        inner.driver.abort();
        inner.gossip.abort();
        tracing::info!(node = %inner.id, "mesh aborted");
    }

    /// Returns `true` once the mesh is shutting down, has shut down or was aborted.
    #[must_use]
    pub fn is_shut_down(&self) -> bool {
        self.inner.engine.with(|core, _| core.is_shut_down)
    }
}

impl Inner {
    fn start(
        engine: Arc<Engine>,
        settings: Settings,
        id: NodeId,
        addr: SocketAddr,
        finder: Finder,
        handover_timeout: Duration,
    ) -> Self {
        let (leave, left) = watch::channel(false);
        let driver = tokio::spawn(driver::drive(engine.clone()));
        let stop = driver.abort_handle();
        let live = live(finder, engine.clone(), left, driver, handover_timeout);
        let end = tokio::spawn(live);
        Self {
            driver: stop,
            gossip: end.abort_handle(),
            end: Mutex::new(Some(end)),
            engine,
            settings,
            addr,
            elections: Elections::default(),
            held: Mutex::new(Held::default()),
            leave,
            runtime: Handle::current(),
            id,
        }
    }

    /// Begins an inspection, which ends after `patience` at the latest. Returns `None` if the mesh
    /// is shutting down or has shut down.
    pub(crate) fn inspection(
        &self,
        key: &Key,
        patience: Duration,
    ) -> Option<oneshot::Receiver<Inspection>> {
        self.engine.with(|core, now| {
            if core.is_shut_down {
                return None;
            }
            let id = core.node.inspect(now, key, patience);
            Some(core.expect_inspection(id))
        })
    }

    /// Waits until all tasks have ended. Returns `None` at once if this is not the first call.
    async fn ended(&self) -> Option<Shutdown> {
        let end = self
            .end
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let ended = end?.await.inspect_err(|error| {
            tracing::debug!(node = %self.id, %error, "the mesh did not end well");
        });
        Some(ended.unwrap_or_default())
    }

    fn release_everything(&self) {
        self.engine.with(|core, now| {
            core.is_shut_down = true;
            core.release_all(now);
        });
        self.engine.set_health(Health::ShutDown);
        self.held().clear();
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.release_everything();
        self.engine.close();
        self.driver.abort();
        self.gossip.abort();
    }
}

#[async_trait]
impl DistributedLock for Mesh {
    async fn try_acquire(&self, key: &str, ttl_ms: u64) -> Result<bool, ClusterError> {
        if self.inner.held().has(key) {
            return Ok(false);
        }
        let request = self
            .lock(key)
            .ttl(Duration::from_millis(ttl_ms))
            .outliving();
        match request.try_lease().await {
            Ok(Some(lease)) => {
                let is_kept = self.inner.held().keep(&lease, task::try_id());
                if is_kept {
                    return Ok(true);
                }
                let engine = &self.inner.engine;
                engine.with(|core, now| core.withdraw(now, lease.ticket));
                Err(ClusterError::LockAcquisitionFailed(format!(
                    "{key}: the lease was over before its holder learned of it"
                )))
            }
            Ok(None) => Ok(false),
            Err(error) => Err(cluster_error(&error)),
        }
    }

    async fn release(&self, key: &str) -> Result<(), ClusterError> {
        let found = self.inner.held().settle(key, task::try_id());
        let engine = &self.inner.engine;
        let why = match found {
            Found::Held(lease) if engine.with(|core, now| core.release(now, lease.ticket)) => {
                return Ok(());
            }
            Found::Held(_) | Found::Nothing => "this node does not hold it",
            Found::Late => LATE,
        };
        Err(ClusterError::LockReleaseFailed(format!("{key}: {why}")))
    }

    async fn extend(&self, key: &str, extra_ttl_ms: u64) -> Result<(), ClusterError> {
        let error = |error: ExtendError| {
            ClusterError::LockAcquisitionFailed(format!("{key}: not extended: {error}"))
        };
        let found = self.inner.held().find(key, task::try_id());
        let lease = match found {
            Found::Held(lease) => lease,
            Found::Nothing => return Err(error(ExtendError::NotHeld)),
            Found::Late => {
                let text = format!("{key}: not extended: {LATE}");
                return Err(ClusterError::LockAcquisitionFailed(text));
            }
        };
        let extra = Duration::from_millis(extra_ttl_ms);
        guard::extend(&self.inner, &lease, extra)
            .await
            .map_err(error)
    }
}

fn cluster_error(error: &AcquireError) -> ClusterError {
    let text = error.to_string();
    match error {
        AcquireError::ShutDown => ClusterError::Internal(text),
        AcquireError::TimedOut { answers, .. } if answers.silent == answers.voters => {
            ClusterError::ConnectionError(text)
        }
        _ => ClusterError::LockAcquisitionFailed(text),
    }
}
