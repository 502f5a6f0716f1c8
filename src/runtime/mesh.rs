//! The handle of a mesh.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::task::{self, AbortHandle, JoinHandle};

use super::clock::Clock;
use super::driver;
use super::gossip_room;
use super::guard;
use super::held::{Found, Held};
use super::membership::{Gossip, Membership};
use super::observe::Observer;
use super::obstacle::Obstacle;
use super::request::LockRequest;
use super::seed_query::SeedQuery;
use super::seeds::{self, Seeds};
use super::shared::Shared;
use super::socket;
#[cfg(feature = "harness")]
use super::socket::Sender;
use super::status::Status;
use crate::config::{Checked, MeshBuilder, Settings};
use crate::error::{AcquireError, ConfigError, ExtendError, InspectError, NotReady};
#[cfg(feature = "harness")]
use crate::harness::Port;
use crate::lock::{ClusterError, DistributedLock};
use lockmesh_proto::{ClusterSecret, Incarnation, Inspection, Key, Node, NodeConfig, NodeId, Seal};

/// The error for a task that releases or extends a lock that another task of this node has acquired
/// since.
const LATE: &str = "the lease of this task is over, and another task of this node holds the lock";
/// The maximum number of datagrams that wait for the gossip library.
const GOSSIP_QUEUE: usize = 256;

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
    pub(crate) shared: Arc<Shared>,
    pub(crate) settings: Settings,
    id: NodeId,
    addr: SocketAddr,
    /// The locks acquired through [`DistributedLock`], which has no guards.
    held: Mutex<Held>,
    leave: watch::Sender<bool>,
    driver: AbortHandle,
    gossip: AbortHandle,
    /// The task that ends the mesh. The first shutdown takes it and waits for it.
    end: Mutex<Option<JoinHandle<()>>>,
    /// Another mesh that must not end before this one.
    #[cfg(feature = "harness")]
    _needs: Option<Mesh>,
}

impl MeshBuilder {
    /// Starts the node: checks every setting, binds the socket and starts gossip.
    ///
    /// The node may not have found its peers yet when this returns; see [`Mesh::ready`].
    ///
    /// # Errors
    /// [`ConfigError`] if a setting is invalid, the socket cannot be bound, gossip cannot be
    /// started, or there is no tokio runtime. Nothing is left running.
    ///
    /// # Panics
    /// Panics if the tokio runtime has no I/O or no timers; see
    /// [`enable_all`](tokio::runtime::Builder::enable_all).
    ///
    /// # Cancel safety
    /// If the future is dropped before it completes, nothing is left running.
    pub async fn start(self) -> Result<Mesh, ConfigError> {
        let checked = self.check()?;
        gossip_room::check(&checked)?;
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(ConfigError::NoRuntime);
        }
        // Panics without timers: here, rather than in the driver, on which every request depends.
        drop(tokio::time::sleep(Duration::ZERO));
        let listen = checked.listen;
        let (sender, receiver, addr) = socket::bind(
            listen,
            #[cfg(feature = "harness")]
            self.links.map(|links| (links, checked.id.clone())),
        )
        .map_err(|source| ConfigError::Bind { listen, source })?;
        let advertise = checked.advertise.unwrap_or(addr);
        let clock = Clock::new().with_wall_offset_ms(checked.wall_offset_ms);
        let incarnation = Incarnation::new(clock.incarnation(rand::random()));
        let (gossip_in, incoming) = mpsc::channel(GOSSIP_QUEUE);
        let (seeds, resolver) = (checked.seeds.clone(), checked.resolver.clone());
        let query = checked
            .is_short_lived
            .then(|| Observer::of_node(seal(checked.secret.clone())).cluster(&checked.cluster));
        let gossip = Gossip {
            id: checked.id.clone(),
            incarnation,
            cluster: checked.cluster.clone(),
            advertise,
            interval: checked.gossip_interval,
        };
        let (id, settings) = (checked.id.clone(), checked.settings);
        let node = new_node(clock, incarnation, checked);
        let shared = Arc::new(Shared::new(clock, sender, node, gossip_in));
        let seeds = Seeds::new(seeds, &resolver, &report_seeds(&shared));
        let finder = match query {
            Some(observer) => {
                Finder::Asks(Box::new(SeedQuery::new(shared.clone(), observer, seeds)))
            }
            None => {
                let membership = Membership::start(shared.clone(), gossip, seeds, incoming).await;
                Finder::Gossips(Box::new(membership.map_err(ConfigError::Gossip)?))
            }
        };
        let inner = Inner::start(shared, settings, id, addr, Some(receiver), finder);
        tracing::info!(node = %inner.id, %addr, %advertise, %incarnation, "mesh started");
        Ok(Mesh {
            inner: Arc::new(inner),
        })
    }
}

/// Returns a function that logs if a seed does not resolve.
fn report_seeds(shared: &Arc<Shared>) -> seeds::Report {
    let shared = Arc::downgrade(shared);
    Arc::new(move |seed, error| {
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let obstacle = Obstacle::SeedUnresolved {
            seed: seed.to_owned(),
            error: error.map(ToString::to_string).unwrap_or_default(),
        };
        shared.with(|core, now| match error {
            Some(_) => core.obstacles.begin(now.mono, &obstacle),
            None => core.obstacles.end(now.mono, &obstacle),
        });
    })
}

/// The way in which a node finds its peers.
enum Finder {
    Gossips(Box<Membership>),
    Asks(Box<SeedQuery>),
    /// The harness passes the view to it.
    #[cfg(feature = "harness")]
    IsTold,
}

/// Finds peers until the mesh leaves, then stops the driver. It is a task of its own, so that a
/// shutdown completes even if its future is dropped.
async fn live(
    finder: Finder,
    shared: Arc<Shared>,
    #[cfg_attr(
        not(feature = "harness"),
        expect(unused_mut, reason = "the harness waits")
    )]
    mut left: watch::Receiver<bool>,
    driver: JoinHandle<()>,
) {
    match finder {
        Finder::Gossips(membership) => membership.run(left).await,
        Finder::Asks(query) => query.run(left).await,
        #[cfg(feature = "harness")]
        Finder::IsTold => drop(left.wait_for(|left| *left).await),
    }
    driver.abort();
    // The driver owns the receiving half of the socket.
    let _ = driver.await;
    shared.close();
}

fn seal(key: Option<ClusterSecret>) -> Seal {
    match key {
        Some(key) => Seal::sealed(key, rand::random()),
        None => Seal::insecure_plaintext(),
    }
}

fn new_node(clock: Clock, incarnation: Incarnation, checked: Checked) -> Node {
    let seal = seal(checked.secret).of_cluster(&checked.cluster);
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
    Node::new(clock.now(), config)
}

impl Mesh {
    /// Returns a builder with the settings of [`MeshBuilder::lan`].
    pub fn builder(node_id: impl Into<String>) -> MeshBuilder {
        MeshBuilder::lan(node_id)
    }

    /// Returns a request for the lock on `key`, which is any UTF-8 text of 1 to 256 bytes.
    ///
    /// Nothing is sent before [`acquire`](LockRequest::acquire) or
    /// [`try_acquire`](LockRequest::try_acquire).
    pub fn lock(&self, key: impl Into<String>) -> LockRequest {
        LockRequest::new(self.inner.clone(), key.into())
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

    /// Waits until this node is ready: a quorum of the members would vote for its claims, including
    /// its own voter if it has one.
    ///
    /// Locks can be requested before. Such requests wait.
    ///
    /// # Errors
    /// [`NotReady`] if the node is not ready within `at_most`.
    ///
    /// # Cancel safety
    /// This method is cancel safe.
    pub async fn ready(&self, at_most: Duration) -> Result<(), NotReady> {
        let look = async {
            while !self.status().is_ready {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if tokio::time::timeout(at_most, look).await.is_ok() {
            return Ok(());
        }
        let status = self.status();
        let can_vote = status.members.iter().filter(|member| member.votes);
        let reachable = can_vote.count();
        Err(NotReady {
            waited: at_most,
            reachable,
            members: status.members.len(),
        })
    }

    /// Returns the state of this node, and of the cluster as this node sees it.
    #[must_use]
    pub fn status(&self) -> Status {
        self.inner
            .shared
            .with(|core, now| Status::of(core, now, self.inner.addr))
    }

    /// Returns the holder of `key`, as a quorum of its voters reports it.
    ///
    /// The result may be outdated when it is read. Use it for diagnostics, not for decisions.
    ///
    /// # Errors
    /// - [`InspectError::Key`] if the key is empty or too long.
    /// - [`InspectError::NoQuorum`] if fewer than a quorum of the voters answered within
    ///   `try_timeout`.
    /// - [`InspectError::ShutDown`] if the mesh is shutting down or has shut down.
    ///
    /// # Cancel safety
    /// This method is cancel safe.
    pub async fn inspect(&self, key: impl AsRef<str>) -> Result<Inspection, InspectError> {
        let key = Key::new(key)?;
        let patience = self.inner.settings.try_timeout;
        let notified = self.inner.shared.with(|core, now| {
            if core.is_shut_down {
                return None;
            }
            let id = core.node.inspect(now, &key, patience);
            Some(core.expect_inspection(id))
        });
        let notified = notified.ok_or(InspectError::ShutDown)?.await;
        let inspection = notified.map_err(|_| InspectError::ShutDown)?;
        let (answered, voters) = (inspection.answered, inspection.voters);
        if answered < lockmesh_proto::quorum(voters) {
            return Err(InspectError::NoQuorum { answered, voters });
        }
        Ok(inspection)
    }

    /// Shuts the node down.
    ///
    /// - The locks of all guards are released. Guards that still exist report their lock as lost.
    /// - Pending requests are withdrawn.
    /// - The node announces to its peers that it leaves, and stops.
    ///
    /// Locks acquired through [`DistributedLock`] last for the rest of their ttl.
    ///
    /// Returns once the address is free, about two gossip intervals later. A second call returns at
    /// once, even if the shutdown has not completed.
    ///
    /// # Cancel safety
    /// The shutdown starts when the future is first polled. If the future is dropped, it completes
    /// in the background while a clone of the mesh exists.
    pub async fn shutdown(&self) {
        let inner = &self.inner;
        inner.release_everything();
        inner.leave.send_replace(true);
        if inner.ended().await {
            tracing::info!(node = %inner.id, "mesh shut down");
        }
    }

    /// Ends this node as if its process were killed.
    ///
    /// Nothing is released, and no further datagram is sent. The address is free when this returns.
    /// Pending requests end as after a shutdown.
    ///
    /// Guards that still exist act like those of a frozen process: they are held until their leases
    /// expire, and are not renewed. Drop them before the node is restarted under its id, since its
    /// new incarnation ends the old claims at once.
    ///
    /// # Cancel safety
    /// The node ends when the future is first polled. If the future is dropped, the address may not
    /// be free yet.
    #[cfg(feature = "harness")]
    pub async fn crash(&self) {
        self.halt();
        let inner = &self.inner;
        inner.ended().await;
        // The receiving half of the socket is dropped with the task that owns it.
        while !inner.driver.is_finished() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tracing::info!(node = %inner.id, "mesh crashed");
    }
}

/// Control of a node by the harness.
#[cfg(feature = "harness")]
impl Mesh {
    /// Starts a crash. The tasks end, and the address is free, when the runtime next runs.
    pub(crate) fn halt(&self) {
        let inner = &self.inner;
        inner.shared.close();
        inner.shared.with(|core, _| core.forget_all());
        inner.shared.pause(false);
        inner.driver.abort();
        inner.gossip.abort();
    }

    /// Pauses or resumes the node.
    pub(crate) fn pause(&self, is_paused: bool) {
        self.inner.shared.pause(is_paused);
    }

    /// Returns `true` if the node was shut down or has crashed.
    pub(crate) fn is_over(&self) -> bool {
        self.inner.shared.with(|core, _| core.is_shut_down)
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.inner.shared
    }

    /// Starts a node that sends and receives within this process.
    pub(crate) fn in_memory(
        clock: Clock,
        incarnation: Incarnation,
        checked: Checked,
        port: Port,
        needs: Option<Self>,
    ) -> Self {
        let (id, settings, addr) = (checked.id.clone(), checked.settings, port.addr());
        let node = new_node(clock, incarnation, checked);
        let (gossip, _) = mpsc::channel(1);
        let shared = Arc::new(Shared::new(clock, Sender::in_memory(port), node, gossip));
        let mut inner = Inner::start(shared, settings, id, addr, None, Finder::IsTold);
        inner._needs = needs;
        Self {
            inner: Arc::new(inner),
        }
    }
}

impl Inner {
    fn start(
        shared: Arc<Shared>,
        settings: Settings,
        id: NodeId,
        addr: SocketAddr,
        receiver: Option<UdpSocket>,
        finder: Finder,
    ) -> Self {
        let (leave, left) = watch::channel(false);
        let driver = tokio::spawn(driver::drive(shared.clone(), receiver));
        let stop = driver.abort_handle();
        let end = tokio::spawn(live(finder, shared.clone(), left, driver));
        Self {
            driver: stop,
            gossip: end.abort_handle(),
            end: Mutex::new(Some(end)),
            shared,
            settings,
            addr,
            held: Mutex::new(Held::default()),
            leave,
            id,
            #[cfg(feature = "harness")]
            _needs: None,
        }
    }

    /// Waits until all tasks have ended. Returns `true` if this is the first call; others return at
    /// once.
    async fn ended(&self) -> bool {
        let end = self
            .end
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(end) = end else { return false };
        if let Err(error) = end.await {
            tracing::debug!(%error, "the mesh did not end well");
        }
        true
    }

    fn release_everything(&self) {
        self.shared.with(|core, now| {
            core.is_shut_down = true;
            core.release_all(now);
        });
        self.held().clear();
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.release_everything();
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
                let shared = &self.inner.shared;
                shared.with(|core, now| core.withdraw(now, lease.ticket));
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
        let shared = &self.inner.shared;
        let why = match found {
            Found::Held(lease) if shared.with(|core, now| core.release(now, lease.ticket)) => {
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
