//! The handle of a mesh: start, locks, a look inside, shutdown.

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
use lockmesh_proto::id::{Incarnation, Key, NodeId};
use lockmesh_proto::node::{Inspection, Node, NodeConfig};
use lockmesh_proto::wire::{ClusterSecret, Seal};

/// To a task that would end, or lengthen, what another task of this node has acquired since.
const LATE: &str = "the lease of this task is over, and another task of this node holds the lock";
/// Datagrams of the gossip library that wait for it at the most.
const GOSSIP_QUEUE: usize = 256;

/// One node of the mesh, embedded. Cheap to clone; all clones are the same node.
///
/// The node lives until [`shutdown`](Mesh::shutdown), or until the last clone and the last guard
/// are gone.
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
    /// What was acquired through [`DistributedLock`], which has no guards.
    held: Mutex<Held>,
    leave: watch::Sender<bool>,
    driver: AbortHandle,
    gossip: AbortHandle,
    /// Whoever shuts the mesh down first waits for its end.
    end: Mutex<Option<JoinHandle<()>>>,
    /// Another mesh that this one cannot do without, for as long as it lives.
    #[cfg(feature = "harness")]
    _needs: Option<Mesh>,
}

impl MeshBuilder {
    /// Starts the node: checks every value, binds the socket, and begins to gossip. The node need
    /// not have found its peers when this returns; see [`Mesh::ready`].
    ///
    /// # Errors
    /// [`ConfigError`] names the field, its value and its bounds. Nothing is left running.
    ///
    /// # Panics
    /// Where the tokio runtime has no I/O or no timers: see
    /// [`enable_all`](tokio::runtime::Builder::enable_all).
    pub async fn start(self) -> Result<Mesh, ConfigError> {
        let checked = self.check()?;
        gossip_room::check(&checked)?;
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(ConfigError::NoRuntime);
        }
        // Panics without timers: here, rather than in the task that every request depends on.
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

/// Says in the log of the node if a seed does not resolve.
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

/// How a node finds the others.
enum Finder {
    Gossips(Box<Membership>),
    Asks(Box<SeedQuery>),
    /// The harness tells it.
    #[cfg(feature = "harness")]
    IsTold,
}

/// Finds others until the mesh leaves, and then stops it: in a task of its own, so that a shutdown
/// is done even if nobody waits for it to the end.
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
    // It has the other half of the socket.
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
    /// Begins to describe a node, with the settings of [`MeshBuilder::lan`].
    pub fn builder(node_id: impl Into<String>) -> MeshBuilder {
        MeshBuilder::lan(node_id)
    }

    /// A request for the lock on `key`, which may be 1 to 256 bytes of any text.
    pub fn lock(&self, key: impl Into<String>) -> LockRequest {
        LockRequest::new(self.inner.clone(), key.into())
    }

    /// This node's id.
    #[must_use]
    pub fn id(&self) -> &NodeId {
        &self.inner.id
    }

    /// The address that this node listens on.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.inner.addr
    }

    /// Returns once a quorum of the voter set's members can be reached and this node's voter,
    /// where it has one, votes. Locks can be asked for before that; they wait.
    ///
    /// # Errors
    /// [`NotReady`] where `at_most` is over before.
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

    /// What this node knows of the cluster and of itself.
    #[must_use]
    pub fn status(&self) -> Status {
        self.inner
            .shared
            .with(|core, now| Status::of(core, now, self.inner.addr))
    }

    /// Who owns `key`, as a quorum of its voters see it. It may be over by the time that it is
    /// read: decide nothing by it.
    ///
    /// # Errors
    /// [`InspectError`]: the key cannot be, too few voters answered, or the mesh is shut down.
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
        if answered < lockmesh_proto::voter_set::quorum(voters) {
            return Err(InspectError::NoQuorum { answered, voters });
        }
        Ok(inspection)
    }

    /// Releases what the guards of this node hold, withdraws what it waits for, tells the others
    /// that it leaves, and stops. Guards that are still there say "lost". Locks that were acquired
    /// through [`DistributedLock`] last for what remains of their ttl. Returns once all that is
    /// done and the address is free, some two rounds of gossip later; a second call returns at
    /// once.
    pub async fn shutdown(&self) {
        let inner = &self.inner;
        inner.release_everything();
        inner.leave.send_replace(true);
        if inner.ended().await {
            tracing::info!(node = %inner.id, "mesh shut down");
        }
    }

    /// Ends this node as the end of its process would: nothing is released, no other node is
    /// told, not one datagram leaves, and the address is free again once this returns. Requests
    /// that wait end as they do after a shutdown. Guards that are still there are those of a
    /// process that was frozen: they hold for what remains of their leases and are not renewed.
    /// Drop them before the node is started again under its id: its new incarnation ends the claims
    /// of the old one at once.
    #[cfg(feature = "harness")]
    pub async fn crash(&self) {
        self.halt();
        let inner = &self.inner;
        inner.ended().await;
        // The receiving half of the socket is gone with the task that owns it.
        while !inner.driver.is_finished() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tracing::info!(node = %inner.id, "mesh crashed");
    }
}

/// What the harness does to a node.
#[cfg(feature = "harness")]
impl Mesh {
    /// The beginning of a crash: its tasks end, and the address is free, once the runtime gets to
    /// it.
    pub(crate) fn halt(&self) {
        let inner = &self.inner;
        inner.shared.close();
        inner.shared.with(|core, _| core.forget_all());
        inner.shared.pause(false);
        inner.driver.abort();
        inner.gossip.abort();
    }

    /// The node stands still from now on, or goes on.
    pub(crate) fn pause(&self, is_paused: bool) {
        self.inner.shared.pause(is_paused);
    }

    /// Whether the node was shut down or has crashed.
    pub(crate) fn is_over(&self) -> bool {
        self.inner.shared.with(|core, _| core.is_shut_down)
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.inner.shared
    }

    /// A node that sends and hears within this process.
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

    /// Waits until all tasks are over. Answers whether this call is the first that does.
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
