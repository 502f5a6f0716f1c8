//! Gossip: where the other nodes are, in which life, and who was heard of lately. The only file
//! that knows the crate `chitchat`.
//!
//! Its datagrams travel over the socket of the mesh, sealed like all others. What it says becomes
//! a [`View`]: advice to the node, on which no majority rests.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chitchat::transport::{Socket, Transport};
use chitchat::{
    Chitchat, ChitchatConfig, ChitchatHandle, ChitchatId, ChitchatMessage, Deserializable,
    FailureDetectorConfig, Serializable, spawn_chitchat,
};
use tokio::sync::{Mutex, Notify, watch};

use super::core::GossipOut;
use super::shared::Shared;
use crate::proto::id::{Incarnation, NodeId};
use crate::proto::view::{Peer, View};

/// The key under which a node says that it leaves.
const LEAVING: &str = "leaving";
/// The key under which a member of the roster says that it votes: it is not in quarantine.
const VOTES: &str = "votes";
/// How many heartbeat intervals may pass before a node counts as dead.
const PHI: f64 = 8.0;
/// How long a node that is dead, or a key that was deleted, is remembered.
const GRACE: Duration = Duration::from_secs(300);
/// The most addresses of seeds that are asked at the start; one that answers knows the others.
const ASKED_MAX: usize = 16;
/// Rounds of gossip that a node that leaves stays for, so that its word spreads.
const LEAVING_ROUNDS: u32 = 2;

/// What gossip must know to begin.
pub(crate) struct Gossip {
    pub(crate) id: NodeId,
    pub(crate) incarnation: Incarnation,
    pub(crate) cluster: String,
    pub(crate) advertise: SocketAddr,
    pub(crate) seeds: Vec<String>,
    /// Where the seeds are now.
    pub(crate) seeds_at: BTreeSet<SocketAddr>,
    pub(crate) interval: Duration,
}

/// A gossip that runs.
pub(crate) struct Membership {
    handle: ChitchatHandle,
    /// The gossip library is done with a datagram.
    heard: Arc<Notify>,
    interval: Duration,
}

impl Membership {
    /// Begins to gossip over the socket of the mesh.
    pub(crate) async fn start(
        shared: Arc<Shared>,
        gossip: Gossip,
        incoming: GossipOut,
    ) -> Result<Self, String> {
        let interval = gossip.interval;
        let config = ChitchatConfig {
            chitchat_id: ChitchatId {
                node_id: gossip.id.as_str().into(),
                generation_id: gossip.incarnation.get(),
                gossip_advertise_addr: gossip.advertise,
            },
            cluster_id: gossip.cluster,
            gossip_interval: interval,
            listen_addr: gossip.advertise,
            seed_nodes: gossip.seeds,
            failure_detector_config: FailureDetectorConfig {
                phi_threshold: PHI,
                sampling_window_size: 1_000,
                max_interval: interval * 10,
                initial_interval: interval,
                dead_node_grace_period: GRACE,
            },
            marked_for_deletion_grace_period: GRACE,
            catchup_callback: None,
            extra_liveness_predicate: None,
        };
        let heard = Arc::new(Notify::new());
        let transport = OurSocket {
            shared,
            incoming: Mutex::new(Some(incoming)),
            heard: heard.clone(),
        };
        let handle = spawn_chitchat(config, Vec::new(), &transport).await;
        let handle = handle.map_err(|error| error.to_string())?;
        // By itself it asks one seed for each interval, which may be one that is down.
        let others = gossip.seeds_at.iter().filter(|at| **at != gossip.advertise);
        for seed in others.take(ASKED_MAX) {
            handle.gossip(*seed).map_err(|error| error.to_string())?;
        }
        Ok(Self {
            handle,
            heard,
            interval,
        })
    }

    /// Tells the node what gossip says, until it is aborted or `leave` turns true. Then tells the
    /// others that this node leaves, and ends.
    pub(crate) async fn run(self, shared: Arc<Shared>, mut leave: watch::Receiver<bool>) {
        let mut watcher = self.handle.chitchat().lock().await.live_nodes_watcher();
        let mut last = (View::default(), BTreeSet::new());
        let mut told = false;
        loop {
            shared.going().await;
            let votes = shared.with(|core, _| core.votes());
            if votes != told {
                let say = |chitchat: &mut Chitchat| {
                    chitchat.self_node_state().set(VOTES, u8::from(votes));
                };
                self.handle.with_chitchat(say).await;
                told = votes;
            }
            let see = |chitchat: &mut Chitchat| (look(chitchat), chitchat.node_states().len());
            let (seen, lives) = self.handle.with_chitchat(see).await;
            if seen != last {
                shared.with(|core, now| {
                    core.node.handle_view(now, &seen.0);
                    core.voting.clone_from(&seen.1);
                });
                last = seen;
            }
            let has_ended = tokio::select! {
                _ = leave.wait_for(|leave| *leave) => break,
                changed = watcher.changed() => changed.is_err(),
                () = self.more_than(lives) => false,
                () = tokio::time::sleep(self.interval) => false,
            };
            if has_ended {
                // Votes go on between nodes that know each other; new ones are not found.
                shared.with(|core, _| core.has_gossip_ended = true);
                let _ = leave.wait_for(|leave| *leave).await;
                return;
            }
        }
        self.handle
            .with_chitchat(|chitchat| chitchat.self_node_state().set(LEAVING, "1"))
            .await;
        tokio::time::sleep(self.interval * LEAVING_ROUNDS).await;
        if let Err(error) = self.handle.shutdown().await {
            tracing::debug!(%error, "the gossip did not end well");
        }
    }

    /// Returns once gossip knows more lives of nodes than these. A new one is known, and where it
    /// is, before it counts as alive: the watcher tells of it late.
    async fn more_than(&self, lives: usize) {
        let count = |chitchat: &mut Chitchat| chitchat.node_states().len();
        while self.handle.with_chitchat(count).await <= lives {
            self.heard.notified().await;
        }
    }
}

/// Who is where, and who of them says that it votes. A node that was only just discovered is not
/// alive before it was heard of twice; its address is good at once.
fn look(chitchat: &Chitchat) -> (View, BTreeSet<NodeId>) {
    let me = &chitchat.self_chitchat_id().node_id;
    let live: BTreeSet<&ChitchatId> = chitchat.live_nodes().collect();
    let mut peers: BTreeMap<NodeId, ((bool, Incarnation), Peer, bool)> = BTreeMap::new();
    for (id, state) in chitchat.node_states() {
        let Ok(node) = NodeId::new(&*id.node_id) else {
            continue;
        };
        if id.node_id == *me {
            continue;
        }
        let is_live = live.contains(id);
        let incarnation = Incarnation::new(id.generation_id);
        // Of several lives the one that is alive, of several such the latest.
        let rank = (is_live, incarnation);
        if peers.get(&node).is_none_or(|(known, ..)| rank > *known) {
            let peer = Peer {
                addr: id.gossip_advertise_addr,
                incarnation,
                alive: is_live && !state.contains_key(LEAVING),
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
struct OurSocket {
    shared: Arc<Shared>,
    incoming: Mutex<Option<GossipOut>>,
    heard: Arc<Notify>,
}

#[async_trait]
impl Transport for OurSocket {
    async fn open(&self, _listen: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        let incoming = self.incoming.lock().await.take();
        let incoming = incoming.ok_or_else(|| anyhow::anyhow!("the socket is open already"))?;
        Ok(Box::new(OpenSocket {
            shared: self.shared.clone(),
            incoming,
            heard: self.heard.clone(),
            is_handed_out: false,
        }))
    }
}

struct OpenSocket {
    shared: Arc<Shared>,
    incoming: GossipOut,
    heard: Arc<Notify>,
    /// A datagram was handed to the library, which comes back once it is done with it.
    is_handed_out: bool,
}

#[async_trait]
impl Socket for OpenSocket {
    async fn send(&mut self, to: SocketAddr, message: ChitchatMessage) -> anyhow::Result<()> {
        self.shared.going().await;
        let bytes = message.serialize_to_vec();
        self.shared
            .with(|core, _| core.node.send_gossip(to, &bytes));
        Ok(())
    }

    /// An error would end the gossip for good: what does not decode is passed over.
    async fn recv(&mut self) -> anyhow::Result<(SocketAddr, ChitchatMessage)> {
        if std::mem::take(&mut self.is_handed_out) {
            self.heard.notify_one();
        }
        loop {
            let next = self.incoming.recv().await;
            let (from, bytes) = next.ok_or_else(|| anyhow::anyhow!("the mesh is gone"))?;
            let mut rest = bytes.as_slice();
            match ChitchatMessage::deserialize(&mut rest) {
                Ok(message) if rest.is_empty() => {
                    self.is_handed_out = true;
                    return Ok((from, message));
                }
                _ => self.shared.with(|core, _| {
                    core.node.count_drop(crate::wire::DropReason::Undecodable);
                }),
            }
        }
    }
}
