//! Gossip: the addresses, incarnations and liveness of the other nodes. No other file uses the
//! crate `chitchat`.
//!
//! Its datagrams travel over the socket of the mesh, sealed like all others. Its result is a
//! [`View`]: advice to the node, which never counts toward a quorum (M4).

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use chitchat::transport::{Socket, Transport};
use chitchat::{
    Chitchat, ChitchatConfig, ChitchatHandle, ChitchatId, ChitchatMessage, Deserializable,
    FailureDetectorConfig, Heartbeat, Serializable, spawn_chitchat,
};
use rand::seq::IteratorRandom;
use tokio::sync::{Mutex, Notify, watch};
use tokio::time::Instant;

pub(crate) mod capacity;
mod digest;
mod filter;

use self::digest::{Identity, Message};
use self::filter::DigestFilter;
use crate::engine::Engine;
use crate::engine::core::GossipOut;
use crate::seeds::{Discovery, Seeds};
use lockmesh_proto::{
    Incarnation, NodeId, PROTOCOL_VERSION, PROTOCOL_VERSION_MIN, Peer, View, VoterSet,
};

/// The key under which a node announces that it leaves.
const LEAVING: &str = "leaving";
/// The key under which a voter announces that it votes, that is, it is not in quarantine.
const VOTES: &str = "votes";
/// The key under which a node announces the newest version of the protocol that it reads. Nodes of
/// version 1 do not announce theirs.
const PROTOCOL: &str = "protocol";
/// The number of heartbeat intervals that may pass before a node counts as dead.
const PHI: f64 = 8.0;
/// The number of rounds without a heartbeat after which a client is no longer shared with peers.
const SILENT_ROUNDS: u32 = 10;
/// The number of heartbeat intervals that are kept of each node.
const WINDOW: usize = 1_000;
/// The time for which the library keeps the record of a dead node: the longer of the two. Peers
/// must stop sharing it within half of that, or it would come back.
const GRACE_MIN: Duration = Duration::from_secs(20);
const GRACE_ROUNDS: u32 = 3 * SILENT_ROUNDS;
/// The most round trips for which a leaving node waits for its peers to ask for its announcement.
const LEAVING_ROUND_TRIPS: u32 = 10;
/// The maximum number of peers to which a leaving node announces it.
const LEAVING_PEERS: usize = 32;
/// The number of peers to which news is passed at once.
const NEWS_PEERS: usize = 3;
/// The delay before gossip is restarted. It doubles with each restart, and is reset after a run of
/// `RESTART_FORGIVEN`.
const RESTART_MIN: Duration = Duration::from_millis(100);
const RESTART_MAX: Duration = Duration::from_secs(30);
const RESTART_FORGIVEN: Duration = Duration::from_secs(60);

/// The settings of gossip.
pub(crate) struct Gossip {
    pub(crate) id: NodeId,
    pub(crate) incarnation: Incarnation,
    pub(crate) cluster: String,
    pub(crate) advertise: SocketAddr,
    pub(crate) interval: Duration,
}

/// Gossip that runs, and is restarted if it ends.
pub(crate) struct Membership {
    engine: Arc<Engine>,
    gossip: Gossip,
    seeds: Seeds,
    incoming: Arc<Mutex<GossipOut>>,
    running: Running,
    discovery: Discovery,
    /// The last view, and the nodes that vote.
    seen: (View, BTreeSet<NodeId>),
}

/// One run of the gossip library.
struct Running {
    handle: ChitchatHandle,
    filter: Arc<StdMutex<DigestFilter>>,
    /// Notified when the gossip library has handled a datagram.
    received: Arc<Notify>,
    /// The peers that were not told yet that this node leaves. The flag is `true` once a handshake
    /// has begun since then; the acknowledgement that ends it has the announcement.
    untold: watch::Sender<BTreeMap<SocketAddr, bool>>,
    /// The last announcement of this run: `true` if this node votes. `None` after a restart, before
    /// the first announcement.
    said: Option<bool>,
    since: Instant,
}

/// The state that a run of the gossip library passes to the next, so that peers accept the next
/// one.
#[derive(Clone, Copy)]
struct Said {
    heartbeat: u64,
    version: u64,
}

/// The reason why a run has ended.
enum End {
    Leaving,
    Failed(String),
}

impl Membership {
    /// Starts gossip over the socket of the mesh.
    pub(crate) async fn start(
        engine: Arc<Engine>,
        gossip: Gossip,
        seeds: Seeds,
        incoming: GossipOut,
    ) -> Result<Self, String> {
        let incoming = Arc::new(Mutex::new(incoming));
        let running = Running::start(&engine, &gossip, &incoming, None).await?;
        Ok(Self {
            discovery: Discovery::new(gossip.interval),
            seen: (View::default(), BTreeSet::new()),
            engine,
            gossip,
            seeds,
            incoming,
            running,
        })
    }

    /// Passes the view of gossip to the node, until it is aborted or `leave` becomes `true`. Then
    /// announces that this node leaves, and ends.
    pub(crate) async fn run(mut self: Box<Self>, mut leave: watch::Receiver<bool>) {
        let mut backoff = RESTART_MIN;
        while let End::Failed(reason) = self.gossip(&mut leave).await {
            if self.running.since.elapsed() >= RESTART_FORGIVEN {
                backoff = RESTART_MIN;
            }
            if !self.start_again(&reason, backoff, &mut leave).await {
                return;
            }
            backoff = (backoff * 2).min(RESTART_MAX);
        }
        self.say_leaving().await;
        if let Err(error) = self.running.handle.shutdown().await {
            tracing::debug!(node = %self.gossip.id, %error, "the gossip did not end well");
        }
    }

    /// Announces to live peers that this node leaves. Peers ask for the announcement, so this waits
    /// until it was sent to each of them, or until they had long enough to ask.
    async fn say_leaving(&self) {
        let Running { handle, untold, .. } = &self.running;
        let leaving = |chitchat: &mut Chitchat| chitchat.self_node_state().set(LEAVING, "1");
        handle.with_chitchat(leaving).await;
        let mut peers = self.live_peers(LEAVING_PEERS);
        if peers.is_empty() {
            // A peer counts as alive after two heartbeats. This node left before the second.
            let known = self.seen.0.peers.values().map(|peer| peer.addr);
            peers.extend(known.take(LEAVING_PEERS));
        }
        untold.send_replace(peers.iter().map(|addr| (*addr, false)).collect());
        for addr in peers {
            let _ = handle.gossip(addr);
        }
        let round_trip = self
            .engine
            .with(|core, _| core.node.voter_set().timing().round_trip);
        let mut told = untold.subscribe();
        let told = told.wait_for(BTreeMap::is_empty);
        let _ = tokio::time::timeout(round_trip * LEAVING_ROUND_TRIPS, told).await;
    }

    /// Runs gossip until it ends or this node leaves.
    async fn gossip(&mut self, leave: &mut watch::Receiver<bool>) -> End {
        let handle = &self.running.handle;
        let mut watcher = handle.chitchat().lock().await.live_nodes_watcher();
        let mut ended = pin!(handle.termination_watcher());
        loop {
            if self.engine.has_failed() {
                return End::Leaving;
            }
            self.say_votes().await;
            let known = self.look().await;
            let due = self.discover_if_due();
            let latest = due + self.slack();
            tokio::select! {
                _ = leave.wait_for(|leave| *leave) => return End::Leaving,
                result = ended.as_mut() => return End::Failed(match result {
                    Ok(()) => "it has ended by itself".to_owned(),
                    Err(error) => error.to_string(),
                }),
                // If the library has ended, `ended` reports it.
                Ok(()) = watcher.changed() => {}
                () = self.running.news(known, due) => {}
                () = self.seeds.changed() => self.discovery.start_over(),
                () = tokio::time::sleep_until(latest) => {}
            }
        }
    }

    /// Restarts the gossip library. Returns `false` if this node leaves.
    async fn start_again(
        &mut self,
        reason: &str,
        backoff: Duration,
        leave: &mut watch::Receiver<bool>,
    ) -> bool {
        tracing::error!(
            node = %self.gossip.id,
            reason,
            ?backoff,
            "the gossip has ended and is started again; locks work between nodes that know each \
             other, and new ones are not found until then; report the reason if this repeats"
        );
        self.engine.with(|core, _| core.gossip_ended());
        let said = self.running.said().await;
        loop {
            tokio::select! {
                _ = leave.wait_for(|leave| *leave) => return false,
                () = tokio::time::sleep(backoff) => {}
            }
            let (engine, gossip) = (&self.engine, &self.gossip);
            match Running::start(engine, gossip, &self.incoming, Some(said)).await {
                Ok(running) => {
                    self.running = running;
                    self.engine.with(|core, _| core.has_gossip_ended = false);
                    self.discovery.start_over();
                    return true;
                }
                Err(error) => tracing::error!(
                    node = %gossip.id,
                    error,
                    "the gossip was not started again; it is tried again, report the error if it \
                     stays"
                ),
            }
        }
    }

    async fn say_votes(&mut self) {
        let votes = self.engine.with(|core, _| core.votes());
        if self.running.said != Some(votes) {
            let say = |chitchat: &mut Chitchat| {
                chitchat.self_node_state().set(VOTES, u8::from(votes));
            };
            self.running.handle.with_chitchat(say).await;
            self.running.said = Some(votes);
        }
    }

    /// Passes a changed view to the node. Returns the number of incarnations that the library
    /// knows.
    async fn look(&mut self) -> usize {
        let (voter_set, now) = self
            .engine
            .with(|core, now| (core.node.voter_set().clone(), now.mono));
        let see = |chitchat: &mut Chitchat| {
            let states = chitchat.node_states().iter();
            let ids = states.map(|(id, state)| (identity(id), state.contains_key(LEAVING)));
            // Under the lock of the library, before another message comes in.
            lock(&self.running.filter).sync(now, ids);
            (look(chitchat, &voter_set), chitchat.node_states().len())
        };
        let (seen, known) = self.running.handle.with_chitchat(see).await;
        if seen != self.seen {
            self.engine.with(|core, now| {
                core.node.handle_view(now, &seen.0);
                core.voting.clone_from(&seen.1);
            });
            let before = std::mem::replace(&mut self.seen, seen).0;
            let is_new = |(node, peer): (&NodeId, &Peer)| {
                let before = before.peers.get(node);
                before.is_none_or(|before| before.incarnation != peer.incarnation)
            };
            if self.seen.0.peers.iter().any(is_new) {
                for addr in self.live_peers(NEWS_PEERS) {
                    let _ = self.running.handle.gossip(addr);
                }
            }
        }
        known
    }

    /// Returns how long due work may wait for a datagram, which wakes this task anyway. A timer of
    /// its own would wake an idle process twice per interval.
    fn slack(&self) -> Duration {
        let is_alone = self.seen.0.peers.values().all(|peer| !peer.alive);
        match is_alone {
            true => Duration::ZERO,
            false => self.gossip.interval,
        }
    }

    /// Returns the addresses of up to `max` live peers, at random.
    fn live_peers(&self, max: usize) -> Vec<SocketAddr> {
        let peers = self.seen.0.peers.values().filter(|peer| peer.alive);
        let peers = peers.map(|peer| peer.addr);
        peers.sample(&mut rand::rng(), max)
    }

    /// Contacts nodes that gossip does not see, if that is due. Returns when to check again.
    fn discover_if_due(&mut self) -> Instant {
        let now = Instant::now();
        let alive = self.seen.0.peers.values().filter(|peer| peer.alive);
        let alive: BTreeSet<SocketAddr> = alive.map(|peer| peer.addr).collect();
        self.seeds.set_alone(alive.is_empty());
        if self.discovery.is_due(now) {
            let mut unseen = self.seeds.addrs();
            unseen.extend(self.engine.with(|core, _| core.addresses_of_members()));
            unseen.remove(&self.gossip.advertise);
            unseen.retain(|addr| !alive.contains(addr));
            for addr in self.discovery.targets(now, alive.is_empty(), unseen) {
                // It fails if the library has ended, which `gossip` detects.
                let _ = self.running.handle.gossip(addr);
            }
        }
        self.discovery.next(now)
    }
}

impl Running {
    async fn start(
        engine: &Arc<Engine>,
        gossip: &Gossip,
        incoming: &Arc<Mutex<GossipOut>>,
        said: Option<Said>,
    ) -> Result<Self, String> {
        let interval = gossip.interval;
        let id = ChitchatId {
            node_id: gossip.id.as_str().into(),
            generation_id: gossip.incarnation.get(),
            gossip_advertise_addr: gossip.advertise,
        };
        let voter_set = engine.with(|core, _| core.node.voter_set().clone());
        let filter = DigestFilter::new(identity(&id), voter_set, interval * SILENT_ROUNDS);
        let filter = Arc::new(StdMutex::new(filter));
        let config = ChitchatConfig {
            chitchat_id: id,
            cluster_id: gossip.cluster.clone(),
            gossip_interval: interval,
            listen_addr: gossip.advertise,
            // The membership contacts them, since it knows more of them.
            seed_nodes: Vec::new(),
            failure_detector_config: FailureDetectorConfig {
                phi_threshold: PHI,
                sampling_window_size: WINDOW,
                max_interval: interval * SILENT_ROUNDS,
                initial_interval: interval,
                dead_node_grace_period: GRACE_MIN.max(interval * GRACE_ROUNDS),
            },
            marked_for_deletion_grace_period: GRACE_MIN,
            catchup_callback: None,
            extra_liveness_predicate: None,
        };
        let received = Arc::new(Notify::new());
        let untold = watch::Sender::default();
        let transport = OurSocket {
            engine: engine.clone(),
            incoming: incoming.clone(),
            filter: filter.clone(),
            received: received.clone(),
            untold: untold.clone(),
        };
        let handle = spawn_chitchat(config, Vec::new(), &transport).await;
        let handle = handle.map_err(|error| error.to_string())?;
        if let Some(said) = said {
            handle.with_chitchat(|chitchat| said.go_on(chitchat)).await;
        }
        // Only now: a run that was restarted has no state that is older than that of the last one.
        let say = |chitchat: &mut Chitchat| {
            chitchat.self_node_state().set(PROTOCOL, PROTOCOL_VERSION);
        };
        handle.with_chitchat(say).await;
        Ok(Self {
            handle,
            filter,
            received,
            untold,
            said: said.is_none().then_some(false),
            since: Instant::now(),
        })
    }

    async fn said(&self) -> Said {
        let said = |chitchat: &mut Chitchat| {
            let state = chitchat.self_node_state();
            Said {
                heartbeat: state.heartbeat().into(),
                version: state.max_version(),
            }
        };
        self.handle.with_chitchat(said).await
    }

    /// Waits until gossip knows more than `known` incarnations, or has handled a datagram at `due`
    /// or later. A new incarnation is known, with its address, before it counts as alive; the
    /// watcher reports it late.
    async fn news(&self, known: usize, due: Instant) {
        let count = |chitchat: &mut Chitchat| chitchat.node_states().len();
        while self.handle.with_chitchat(count).await <= known && Instant::now() < due {
            self.received.notified().await;
        }
    }
}

impl Said {
    /// Continues after an earlier run. Peers ignore state that is not newer than what they know.
    fn go_on(self, chitchat: &mut Chitchat) {
        let next = self.heartbeat.saturating_add(1).to_le_bytes();
        let state = chitchat.self_node_state();
        state.set_max_version(self.version);
        if let Ok(next) = Heartbeat::deserialize(&mut next.as_slice()) {
            state.try_set_heartbeat(next);
        }
    }
}

fn identity(id: &ChitchatId) -> Identity {
    Identity {
        node: id.node_id.to_string(),
        generation: id.generation_id,
        addr: id.gossip_advertise_addr,
    }
}

fn lock(filter: &StdMutex<DigestFilter>) -> MutexGuard<'_, DigestFilter> {
    filter.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the peers, and those that announce that they vote. A new node counts as alive only after
/// two heartbeats. Its address is usable at once.
fn look(chitchat: &Chitchat, voter_set: &VoterSet) -> (View, BTreeSet<NodeId>) {
    let me = &chitchat.self_chitchat_id().node_id;
    let live: BTreeSet<&ChitchatId> = chitchat.live_nodes().collect();
    let mut peers: BTreeMap<NodeId, ((bool, Incarnation), Peer, bool)> = BTreeMap::new();
    for (id, state) in chitchat.node_states() {
        let Ok(node) = NodeId::new(&*id.node_id) else {
            continue;
        };
        let has_left = state.contains_key(LEAVING);
        // A client that left is forgotten at once.
        if id.node_id == *me || has_left && !voter_set.has_member(&node) {
            continue;
        }
        let is_live = live.contains(id);
        let incarnation = Incarnation::new(id.generation_id);
        // Prefers the live incarnation; of several, the latest.
        let rank = (is_live, incarnation);
        if peers.get(&node).is_none_or(|(known, ..)| rank > *known) {
            let version = state.get(PROTOCOL).and_then(|it| it.parse().ok());
            let peer = Peer {
                addr: id.gossip_advertise_addr,
                incarnation,
                alive: is_live && !has_left,
                version: Some(version.unwrap_or(PROTOCOL_VERSION_MIN)),
            };
            peers.insert(node, (rank, peer, state.get(VOTES) == Some("1")));
        }
    }
    let voting = peers.iter().filter(|(_, (_, _, votes))| *votes);
    let voting = voting.map(|(node, _)| node.clone()).collect();
    let peers = peers.into_iter().map(|(node, (_, peer, _))| (node, peer));
    (
        View {
            peers: peers.collect(),
        },
        voting,
    )
}

/// The socket of the mesh, as chitchat's transport.
#[derive(Clone)]
struct OurSocket {
    engine: Arc<Engine>,
    incoming: Arc<Mutex<GossipOut>>,
    filter: Arc<StdMutex<DigestFilter>>,
    received: Arc<Notify>,
    untold: watch::Sender<BTreeMap<SocketAddr, bool>>,
}

#[async_trait]
impl Transport for OurSocket {
    async fn open(&self, _listen: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        Ok(Box::new(OpenSocket {
            ours: self.clone(),
            is_handed_out: false,
        }))
    }
}

struct OpenSocket {
    ours: OurSocket,
    /// `true` while the library handles a datagram. It calls `recv` again when it is done.
    is_handed_out: bool,
}

#[async_trait]
impl Socket for OpenSocket {
    async fn send(&mut self, to: SocketAddr, message: ChitchatMessage) -> anyhow::Result<()> {
        let OurSocket {
            engine,
            filter,
            untold,
            ..
        } = &self.ours;
        let is_syn = matches!(message, ChitchatMessage::Syn { .. });
        let is_ack = matches!(message, ChitchatMessage::Ack { .. });
        let mut bytes = message.serialize_to_vec();
        let now = engine.clock.mono();
        if let Some(mut message) = Message::read(&bytes) {
            let filter = lock(filter);
            if message.is_syn() && filter.is_abandoned(now, to) {
                return Ok(());
            }
            message.entries = filter.outgoing(now, message.entries);
            bytes = message.to_bytes();
        }
        if !digest::has_no_effect(&bytes) {
            engine.with(|core, _| core.node.send_gossip(to, &bytes));
        }
        untold.send_if_modified(|untold| {
            let Some(has_begun) = untold.get_mut(&to) else {
                return false;
            };
            *has_begun |= is_syn;
            is_ack && *has_begun && untold.remove(&to).is_some()
        });
        Ok(())
    }

    /// Receives the next message. An error would end gossip for good, so undecodable messages are
    /// skipped.
    async fn recv(&mut self) -> anyhow::Result<(SocketAddr, ChitchatMessage)> {
        let OurSocket {
            engine,
            incoming,
            filter,
            received,
            ..
        } = &self.ours;
        if std::mem::take(&mut self.is_handed_out) {
            received.notify_one();
        }
        loop {
            let next = incoming.lock().await.recv().await;
            let (from, mut bytes) = next.ok_or_else(|| anyhow::anyhow!("the mesh is gone"))?;
            if let Some(mut message) = Message::read(&bytes) {
                let now = engine.clock.mono();
                message.entries = lock(filter).incoming(now, message.entries);
                bytes = message.to_bytes();
            }
            let mut rest = bytes.as_slice();
            match ChitchatMessage::deserialize(&mut rest) {
                Ok(message) if rest.is_empty() => {
                    self.is_handed_out = true;
                    return Ok((from, message));
                }
                _ => engine.with(|core, _| {
                    core.node
                        .count_drop(lockmesh_proto::DropReason::Undecodable);
                }),
            }
        }
    }
}
