//! The builder of a mesh, and the checks of its settings.

mod mesh_config;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clock, SystemClock};
use crate::error::ConfigError;
use crate::journal::Durability;
use crate::seeds::{Resolve, System, check as check_seed};
use crate::transport::Transport;
use lockmesh_proto::{
    ClusterSecret, ClusterSecrets, Incarnation, NodeId, Peer, Start, Timing, VoterLimits, VoterSet,
};

pub use mesh_config::{LimitsConfig, MeshConfig, Preset, SecretText, TimingConfig};

/// The default upper limit of `voters_per_key`. More voters only make grants slower.
const VOTERS_PER_KEY_DEFAULT_MAX: usize = 5;
/// The name of a cluster whose builder sets none.
pub(crate) const CLUSTER_DEFAULT: &str = "lockmesh";
/// The maximum length of a cluster name, in bytes.
pub(crate) const CLUSTER_BYTES_MAX: usize = 128;
/// The default listen addresses.
const LISTEN: &str = "0.0.0.0:7400";
const LISTEN_SINGLE: &str = "127.0.0.1:0";
const LISTEN_CLIENT: &str = "0.0.0.0:0";
const GOSSIP_INTERVAL_MIN: Duration = Duration::from_millis(10);
const GOSSIP_INTERVAL_MAX: Duration = Duration::from_secs(60);
const HANDOVER_TIMEOUT_MAX: Duration = Duration::from_secs(60);
const TRY_TIMEOUT_MAX: Duration = Duration::from_secs(3_600);
const MAX_CLAIMS: usize = 1 << 20;

/// The source of the cluster secret.
#[derive(Clone, Default)]
enum SecretSource {
    #[default]
    Unsaid,
    Secrets(Vec<ClusterSecret>),
    Text(String),
    Variable(String),
    Plaintext,
}

impl fmt::Debug for SecretSource {
    /// Redacts secrets, since settings are logged.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsaid => f.write_str("Unsaid"),
            Self::Secrets(_) => f.write_str("Secrets(redacted)"),
            Self::Text(_) => f.write_str("Text(redacted)"),
            Self::Variable(variable) => f.debug_tuple("Variable").field(variable).finish(),
            Self::Plaintext => f.write_str("Plaintext"),
        }
    }
}

/// The settings of a mesh that has not been started.
///
/// Created by [`Mesh::builder`](crate::Mesh::builder) or by a preset: [`MeshBuilder::lan`],
/// [`MeshBuilder::wan`] or [`MeshBuilder::single`].
/// [`MeshBuilder::start`](crate::MeshBuilder::start) checks every value.
/// [`MeshConfig`] has the same settings as data, for files and the environment.
///
/// | setting | `lan()` | rule of thumb | what breaks if it is wrong |
/// | --- | --- | --- | --- |
/// | `listen` | `0.0.0.0:7400` | a fixed port that peers can name | peers do not find the node |
/// | `seeds` | none | two or three nodes that are usually up | the node stays alone |
/// | `voters` | none: an error | three or five, the same on all nodes | nodes refuse each other |
/// | `voters_per_key` | all, at most five | 3; 5 to survive two failures | high: slower grants |
/// | `ttl` | 10 s | the longest pause of a holder | short: lost under load; long: slow takeover |
/// | `renew_interval` | a third of the ttl | keep | long: lost after one or two lost datagrams |
/// | `try_timeout` | 2 s | at least 100 round trips | short: errors while a peer restarts |
/// | `gossip_interval` | 1 s | 200 ms to 2 s | short: processor time; long: dead nodes are noticed late |
/// | `data_dir` | none | a local disk that outlives the process | none: a crash costs a vote for a minute |
/// | `handover_timeout` | 2 s | less than the grace of a stop | short: a restart costs a vote for a minute |
/// | `timing` | [`Timing::lan`] | keep, the same on all nodes | see [`Timing`] |
#[derive(Clone, Debug)]
#[must_use = "a mesh that is not started does nothing"]
pub struct MeshBuilder {
    node_id: String,
    /// `None`: the default.
    listen: Option<String>,
    advertise: Option<String>,
    seeds: Vec<String>,
    resolver: Arc<dyn Resolve>,
    voters: Vec<String>,
    /// `true` if the node votes alone unless it has other voters.
    is_single: bool,
    voters_per_key: Option<usize>,
    voter_set_version: u64,
    timing: Timing,
    secret: SecretSource,
    cluster: String,
    is_bootstrap: bool,
    is_short_lived: bool,
    ttl: Duration,
    renew_interval: Option<Duration>,
    try_timeout: Duration,
    gossip_interval: Duration,
    limits: VoterLimits,
    data_dir: Option<PathBuf>,
    durability: Durability,
    handover_timeout: Duration,
    boot_id: Option<u128>,
    max_claims: usize,
    transport: Option<Arc<dyn Transport>>,
    clock: Arc<dyn Clock>,
    static_peers: Option<Vec<(String, SocketAddr)>>,
}

/// A configuration whose values have all been checked.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) id: NodeId,
    pub(crate) listen: SocketAddr,
    pub(crate) advertise: Advertise,
    pub(crate) seeds: Vec<String>,
    pub(crate) resolver: Arc<dyn Resolve>,
    pub(crate) voter_set: VoterSet,
    pub(crate) secrets: Option<ClusterSecrets>,
    pub(crate) cluster: String,
    pub(crate) start: Start,
    pub(crate) is_short_lived: bool,
    pub(crate) settings: Settings,
    pub(crate) gossip_interval: Duration,
    pub(crate) limits: VoterLimits,
    /// The directory of the journal, if the node is a voter and has one.
    pub(crate) data_dir: Option<PathBuf>,
    pub(crate) durability: Durability,
    /// Zero if no memory is handed over.
    pub(crate) handover_timeout: Duration,
    /// The id of this boot of the machine, instead of the kernel's.
    pub(crate) boot_id: Option<u128>,
    pub(crate) max_claims: usize,
    pub(crate) transport: Option<Arc<dyn Transport>>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) static_peers: Option<BTreeMap<NodeId, Peer>>,
}

/// The address at which peers reach this node.
#[derive(Debug)]
pub(crate) enum Advertise {
    At(SocketAddr),
    /// `HOST:PORT`.
    Name(String),
    /// The listen address, or what its route says.
    Default,
}

/// The default settings of requests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) ttl: Duration,
    pub(crate) renew_interval: Option<Duration>,
    pub(crate) try_timeout: Duration,
}

impl MeshBuilder {
    /// Creates a builder for nodes in one data centre, with [`Timing::lan`].
    pub fn lan(node_id: impl Into<String>) -> Self {
        Self {
            node_id: node_id.into(),
            listen: None,
            advertise: None,
            seeds: Vec::new(),
            resolver: Arc::new(System),
            voters: Vec::new(),
            is_single: false,
            voters_per_key: None,
            voter_set_version: 1,
            timing: Timing::lan(),
            secret: SecretSource::Unsaid,
            cluster: CLUSTER_DEFAULT.to_owned(),
            is_bootstrap: false,
            is_short_lived: false,
            ttl: Duration::from_secs(10),
            renew_interval: None,
            try_timeout: Duration::from_secs(2),
            gossip_interval: Duration::from_secs(1),
            limits: VoterLimits::default(),
            data_dir: None,
            durability: Durability::Process,
            handover_timeout: Duration::from_secs(2),
            boot_id: None,
            max_claims: MAX_CLAIMS,
            transport: None,
            clock: Arc::new(SystemClock::new()),
            static_peers: None,
        }
    }

    /// Creates a builder for nodes in several regions, with [`Timing::wan`].
    ///
    /// The ttl and `try_timeout` are 30 s.
    pub fn wan(node_id: impl Into<String>) -> Self {
        Self {
            timing: Timing::wan(),
            ttl: Duration::from_secs(30),
            try_timeout: Duration::from_secs(30),
            ..Self::lan(node_id)
        }
    }

    /// Creates a builder for one node without peers, for development and tests.
    ///
    /// The node is its own only voter, and votes at once without a quarantine. Do not connect
    /// clients: after a restart, the voter has forgotten the locks that it granted them. Epochs
    /// rise across a restart only if the wall clock was not set back.
    ///
    /// The builder still needs a secret or [`insecure_plaintext`](MeshBuilder::insecure_plaintext).
    pub fn single(node_id: impl Into<String>) -> Self {
        Self {
            is_single: true,
            is_bootstrap: true,
            ..Self::lan(node_id)
        }
    }

    /// Sets the address to listen on, as `IP:PORT`. Port 0 selects a free port.
    ///
    /// The default is `0.0.0.0:7400`, and `127.0.0.1:0` for [`single`](MeshBuilder::single).
    pub fn listen(mut self, listen: impl Into<String>) -> Self {
        self.listen = Some(listen.into());
        self
    }

    /// Sets the address at which peers reach this node, as `HOST:PORT`.
    ///
    /// The default is the listen address. If that is unspecified, such as `0.0.0.0`, the default is
    /// the address of the network interface with the route to the first seed that is an IP address,
    /// or with the default route.
    ///
    /// A host name is resolved at the start. In a pod whose own name does not resolve yet, use the
    /// address of the pod or keep the default.
    pub fn advertise(mut self, advertise: impl Into<String>) -> Self {
        self.advertise = Some(advertise.into());
        self
    }

    /// Sets the nodes through which this node discovers the others, each as `HOST:PORT`.
    ///
    /// One reachable seed is enough, and this node may be among them. A host name stands for all of
    /// its addresses, and is resolved in the background. It is resolved at least every second while
    /// this node has no live peer, and every minute afterwards. If it does not resolve, the node
    /// logs a warning and retries. A changed address is followed.
    pub fn seeds<S: Into<String>>(mut self, seeds: impl IntoIterator<Item = S>) -> Self {
        self.seeds = seeds.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the resolver of seed names, instead of the system's. It may use a service registry, for
    /// example.
    pub fn resolver(mut self, resolver: impl Resolve) -> Self {
        self.resolver = Arc::new(resolver);
        self
    }

    /// Sets the node ids of the voters, in any order: 1 to 1,024. All nodes must have the same
    /// voters.
    ///
    /// A node that is not among them claims locks but does not vote. A mesh without this setting is
    /// refused, except [`single`](MeshBuilder::single): it would grant locks to itself without
    /// asking any other node.
    pub fn voters<S: Into<String>>(mut self, voters: impl IntoIterator<Item = S>) -> Self {
        self.voters = voters.into_iter().map(Into::into).collect();
        self
    }

    /// Sets how many of the voters vote for each key. The default is all voters, at most five.
    ///
    /// Rendezvous hashing (Thaler and Ravishankar, 1996) selects them. All nodes must have the same
    /// number.
    pub fn voters_per_key(mut self, voters_per_key: usize) -> Self {
        self.voters_per_key = Some(voters_per_key);
        self
    }

    /// Sets the version of the voter set, 1 by default. In this release, the voter set of a cluster
    /// cannot change.
    pub fn voter_set_version(mut self, version: u64) -> Self {
        self.voter_set_version = version;
        self
    }

    /// Sets the timing constants. All nodes must have the same.
    pub fn timing(mut self, timing: Timing) -> Self {
        self.timing = timing;
        self
    }

    /// Sets the cluster secret. All nodes must have the same.
    pub fn secret(self, secret: ClusterSecret) -> Self {
        self.secrets([secret])
    }

    /// Sets several cluster secrets, while the secret is replaced: 1 to
    /// [`CLUSTER_SECRETS_MAX`](crate::CLUSTER_SECRETS_MAX), each once. The node seals with the
    /// first and opens with each of them.
    ///
    /// [`Mesh::rotate_secrets`](crate::Mesh::rotate_secrets) has the steps, and replaces the
    /// secrets of a running node.
    ///
    /// ```
    /// use lockmesh::{ClusterSecret, Mesh};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let [new, old] = [ClusterSecret::generate()?, ClusterSecret::generate()?];
    /// let builder = Mesh::builder("billing-0").voters(["billing-0"]).listen("127.0.0.1:0");
    /// let mesh = builder.secrets([new.clone(), old]).start().await?;
    /// assert_eq!(mesh.status().secrets[0], new.fingerprint());
    /// # mesh.shutdown().await;
    /// # Ok(())
    /// # }
    /// ```
    pub fn secrets(mut self, secrets: impl IntoIterator<Item = ClusterSecret>) -> Self {
        self.secret = SecretSource::Secrets(secrets.into_iter().collect());
        self
    }

    /// Sets the cluster secret from text: 32 bytes in base64 or hex. `lockmesh keygen` generates
    /// one. Several [`secrets`](Self::secrets) have a line each, or commas between them.
    pub fn secret_text(mut self, key: impl Into<String>) -> Self {
        self.secret = SecretSource::Text(key.into());
        self
    }

    /// Reads the cluster secret from an environment variable, when the mesh starts. It has the
    /// format of [`secret_text`](Self::secret_text).
    pub fn secret_from_env(mut self, variable: impl Into<String>) -> Self {
        self.secret = SecretSource::Variable(variable.into());
        self
    }

    /// Sends and accepts datagrams without encryption or authentication.
    ///
    /// Anyone on the network can then read and forge datagrams, and so acquire or release any lock.
    pub fn insecure_plaintext(mut self) -> Self {
        self.secret = SecretSource::Plaintext;
        self
    }

    /// Sets the name of the cluster, 1 to 128 bytes; `lockmesh` by default.
    ///
    /// Datagrams of a cluster with another name are dropped, even if its secret is the same.
    pub fn cluster(mut self, cluster: impl Into<String>) -> Self {
        self.cluster = cluster.into();
        self
    }

    /// Starts a new cluster: its voters vote without a quarantine.
    ///
    /// Call this for the first start of a cluster, on all voters, and never again. Without it, a
    /// voter first waits for the longest lease that it may have granted in an earlier incarnation.
    /// With it, a voter votes as soon as the other voters confirm that they know of no earlier
    /// incarnation.
    ///
    /// # Danger
    /// If it stays set and all voters restart at once, none remembers what it granted. They may
    /// then grant a lock that a client still holds. While voters that remember earlier votes are
    /// reachable, it does no harm.
    pub fn bootstrap(mut self) -> Self {
        self.is_bootstrap = true;
        self
    }

    /// Configures a node that runs for seconds, such as a command that runs under a lock.
    ///
    /// The node does not gossip. It asks its seeds for the voters, and asks again every ten
    /// seconds. It locks like any other node, but does not appear in the status of its peers. They
    /// keep no state for it while it neither holds nor awaits a lock. A voter cannot be
    /// short-lived.
    pub fn short_lived(mut self, is_short_lived: bool) -> Self {
        self.is_short_lived = is_short_lived;
        self
    }

    /// Sets the default ttl of requests. It must be at least ten round trips and at most `max_ttl`.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Sets how often a held lock is renewed: one round trip to half of its ttl. The default is a
    /// third of the ttl.
    pub fn renew_interval(mut self, renew_interval: Duration) -> Self {
        self.renew_interval = Some(renew_interval);
        self
    }

    /// Sets how long `try_acquire` waits for a quorum before it returns an error: one round trip to
    /// one hour.
    ///
    /// It also limits [`Mesh::inspect`](crate::Mesh::inspect) and
    /// [`Guard::extend`](crate::Guard::extend).
    pub fn try_timeout(mut self, try_timeout: Duration) -> Self {
        self.try_timeout = try_timeout;
        self
    }

    /// Sets the gossip interval: 10 ms to 60 s. Gossip discovers nodes; no lock waits for it.
    pub fn gossip_interval(mut self, gossip_interval: Duration) -> Self {
        self.gossip_interval = gossip_interval;
        self
    }

    /// Sets the limits of this node's voter. Each has a minimum of 1.
    pub fn limits(mut self, limits: VoterLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets the directory in which the voter of this node keeps a journal of its votes. It is
    /// created if it is not there.
    ///
    /// A voter with a journal votes again as soon as it is restarted, also after a crash. A voter
    /// without one leaves its votes with others when it is shut down
    /// ([`handover_timeout`](Self::handover_timeout)). After a crash its votes are lost, and it does
    /// not vote for `max_ttl`, a minute by default.
    ///
    /// Give each node a directory of its own, on a local disk that outlives the process. A voter
    /// with a journal hands nothing over: in a container without a volume, set none. The directory
    /// takes about 100 bytes for each lock that is held, times four. Never put an old copy of it
    /// back. A node that is not a voter does not use it. An empty path means none.
    pub fn data_dir(mut self, data_dir: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(data_dir.into());
        self
    }

    /// Sets the durability of the journal. By default it survives the end of the process, but not
    /// that of the machine.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Sets the longest time for which [`Mesh::shutdown`](crate::Mesh::shutdown) hands the votes of
    /// this node's voter over to other voters: zero to 60 s. 2 s by default; zero switches the
    /// handover off.
    ///
    /// A voter without a journal leaves its votes with up to five other voters. Its next process
    /// takes them up and votes at once, if it starts within `max_ttl` and more than half of these
    /// voters have not been restarted. Otherwise, and after a crash, it does not vote for `max_ttl`.
    /// A voter with a journal hands nothing over, and one of more than 16,384 votes
    /// ([`VoterLimits::handover_votes_max`]) does not either.
    pub fn handover_timeout(mut self, handover_timeout: Duration) -> Self {
        self.handover_timeout = handover_timeout;
        self
    }

    /// Sets the id of this boot of the machine, instead of the kernel's: a test plays a power cut by
    /// another id.
    #[doc(hidden)]
    pub fn boot_id(mut self, boot_id: u128) -> Self {
        self.boot_id = Some(boot_id);
        self
    }

    /// Sets the maximum number of locks and pending requests of this node: 1 to 1,048,576, which is
    /// the default.
    pub fn max_claims(mut self, max_claims: usize) -> Self {
        self.max_claims = max_claims;
        self
    }

    /// Sets the id of this node.
    pub fn node_id(mut self, node_id: impl Into<String>) -> Self {
        self.node_id = node_id.into();
        self
    }

    /// Sets the addresses of the peers, instead of finding them by gossip.
    ///
    /// The node does not gossip. It reaches the given peers and no others, and its peers do not
    /// list it in their status. [`start`](MeshBuilder::start) then completes when it is first
    /// polled. Seeds are ignored.
    pub fn static_peers<S: Into<String>>(
        mut self,
        peers: impl IntoIterator<Item = (S, SocketAddr)>,
    ) -> Self {
        let peers = peers.into_iter().map(|(id, addr)| (id.into(), addr));
        self.static_peers = Some(peers.collect());
        self
    }

    /// Sets the transport, instead of a UDP socket. [`listen`](MeshBuilder::listen) is then
    /// ignored. A transport belongs to one node: start the builder once.
    pub fn transport(mut self, transport: impl Transport) -> Self {
        self.transport = Some(Arc::new(transport));
        self
    }

    /// Sets the clock, instead of [`SystemClock`](crate::SystemClock).
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    pub(crate) fn check(&self) -> Result<Checked, ConfigError> {
        let name = |field| move |error| ConfigError::Name { field, error };
        let id = NodeId::new(&self.node_id).map_err(name("node_id"))?;
        let voters: Vec<NodeId> = if self.voters.is_empty() && self.is_single {
            vec![id.clone()]
        } else {
            let voters = self.voters.iter().map(NodeId::new);
            voters.collect::<Result<_, _>>().map_err(name("voters"))?
        };
        if voters.is_empty() {
            return Err(ConfigError::NoVoters);
        }
        let r = self
            .voters_per_key
            .unwrap_or_else(|| voters.len().min(VOTERS_PER_KEY_DEFAULT_MAX));
        let voter_set = VoterSet::new(self.voter_set_version, voters, r, self.timing)?;
        let voter_set = voter_set.of_cluster(&self.cluster);
        let default = if self.is_single {
            LISTEN_SINGLE
        } else {
            LISTEN
        };
        let listen = match &self.transport {
            Some(transport) => transport.local_addr(),
            None => address("listen", self.listen.as_deref().unwrap_or(default))?,
        };
        let advertise = self.check_advertise()?;
        if self.is_short_lived && voter_set.has_member(&id) {
            return Err(ConfigError::ShortLivedVoter);
        }
        for seed in &self.seeds {
            check_seed(seed).map_err(|error| ConfigError::Seed {
                seed: seed.clone(),
                error,
            })?;
        }
        self.check_spans()?;
        self.check_counts()?;
        let is_used = |dir: &PathBuf| voter_set.has_member(&id) && !dir.as_os_str().is_empty();
        let data_dir = self.data_dir.clone().filter(is_used);
        Ok(Checked {
            id,
            listen,
            advertise,
            seeds: self.seeds.clone(),
            resolver: self.resolver.clone(),
            voter_set,
            secrets: self.read_secrets()?,
            cluster: self.cluster.clone(),
            start: if self.is_bootstrap {
                Start::NewCluster
            } else {
                Start::Recovering
            },
            is_short_lived: self.is_short_lived,
            settings: Settings {
                ttl: self.ttl,
                renew_interval: self.renew_interval,
                try_timeout: self.try_timeout,
            },
            gossip_interval: self.gossip_interval,
            limits: self.limits,
            data_dir,
            durability: self.durability,
            handover_timeout: self.handover_timeout,
            boot_id: self.boot_id,
            max_claims: self.max_claims,
            transport: self.transport.clone(),
            clock: self.clock.clone(),
            static_peers: self.check_static_peers()?,
        })
    }

    fn check_static_peers(&self) -> Result<Option<BTreeMap<NodeId, Peer>>, ConfigError> {
        let peer = |(id, addr): &(String, SocketAddr)| {
            let peer = Peer {
                addr: *addr,
                incarnation: Incarnation::default(),
                alive: true,
                version: None,
            };
            Ok((NodeId::new(id)?, peer))
        };
        let peers = self.static_peers.as_ref();
        let peers = peers.map(|peers| peers.iter().map(peer).collect());
        peers.transpose().map_err(|error| ConfigError::Name {
            field: "static_peers",
            error,
        })
    }

    fn check_advertise(&self) -> Result<Advertise, ConfigError> {
        let Some(text) = &self.advertise else {
            return Ok(Advertise::Default);
        };
        if let Ok(addr) = text.parse::<SocketAddr>() {
            return match addr.ip().is_unspecified() || addr.port() == 0 {
                true => Err(ConfigError::Advertise {
                    value: text.clone(),
                }),
                false => Ok(Advertise::At(addr)),
            };
        }
        match check_seed(text) {
            Ok(()) => Ok(Advertise::Name(text.clone())),
            Err(_) => Err(ConfigError::Advertise {
                value: text.clone(),
            }),
        }
    }

    fn check_spans(&self) -> Result<(), ConfigError> {
        let timing = &self.timing;
        let spans = [
            ("ttl", self.ttl, timing.min_ttl(), timing.max_ttl),
            (
                "try_timeout",
                self.try_timeout,
                timing.round_trip,
                TRY_TIMEOUT_MAX,
            ),
            (
                "gossip_interval",
                self.gossip_interval,
                GOSSIP_INTERVAL_MIN,
                GOSSIP_INTERVAL_MAX,
            ),
            (
                "handover_timeout",
                self.handover_timeout,
                Duration::ZERO,
                HANDOVER_TIMEOUT_MAX,
            ),
        ];
        for (field, value, min, max) in spans {
            if value < min || value > max {
                return Err(ConfigError::span(field, value, min, max));
            }
        }
        match self.renew_interval {
            Some(renew_interval)
                if renew_interval < timing.round_trip || renew_interval > self.ttl / 2 =>
            {
                let (min, max, ttl) = (timing.round_trip, self.ttl / 2, self.ttl);
                Err(ConfigError::Renewal {
                    renew_interval,
                    min,
                    max,
                    ttl,
                })
            }
            _ => Ok(()),
        }
    }

    fn check_counts(&self) -> Result<(), ConfigError> {
        let limits = &self.limits;
        let handed_over = limits.handover_votes_max;
        let counts = [
            ("max_claims", self.max_claims, 1, MAX_CLAIMS),
            ("limits.slots_max", limits.slots_max, 1, 1 << 24),
            ("limits.waiters_max", limits.waiters_max, 1, 1 << 20),
            ("limits.fence_buckets", limits.fence_buckets, 1, 1 << 20),
            ("limits.handover_votes_max", handed_over, 0, 1 << 16),
            ("limits.marks_max", limits.marks_max, 1, 1 << 24),
            ("cluster (bytes)", self.cluster.len(), 1, CLUSTER_BYTES_MAX),
        ];
        for (field, value, min, max) in counts {
            if value < min || value > max {
                let [value, min, max] = [value, min, max].map(|it| it.to_string());
                return Err(ConfigError::OutOfBounds {
                    field,
                    value,
                    min,
                    max,
                });
            }
        }
        Ok(())
    }

    fn read_secrets(&self) -> Result<Option<ClusterSecrets>, ConfigError> {
        match &self.secret {
            SecretSource::Unsaid => Err(ConfigError::NoSecret),
            SecretSource::Plaintext => Ok(None),
            SecretSource::Secrets(secrets) => Ok(Some(ClusterSecrets::new(secrets.clone())?)),
            SecretSource::Text(text) => Ok(Some(ClusterSecrets::parse(text)?)),
            SecretSource::Variable(variable) => {
                let text = std::env::var(variable).map_err(|_| ConfigError::SecretVariable {
                    variable: variable.clone(),
                })?;
                Ok(Some(ClusterSecrets::parse(&text)?))
            }
        }
    }
}

fn address(field: &'static str, value: &str) -> Result<SocketAddr, ConfigError> {
    value.parse().map_err(|_| ConfigError::Address {
        field,
        value: value.to_owned(),
    })
}
