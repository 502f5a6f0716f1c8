//! What a mesh is told before it starts, and what it refuses to start with.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::error::ConfigError;
use crate::runtime::{Resolve, System, check_seed};
use lockmesh_proto::id::NodeId;
use lockmesh_proto::voter::{Start, VoterLimits};
use lockmesh_proto::voter_set::{Timing, VoterSet};
use lockmesh_proto::wire::ClusterSecret;

#[cfg(feature = "harness")]
use crate::harness::Links;

/// The most voters of one key that pay: beyond, a grant only gets slower.
const VOTERS_PER_KEY_DEFAULT_MAX: usize = 5;
/// The name of a cluster that was given none.
pub(crate) const CLUSTER_DEFAULT: &str = "lockmesh";
/// The longest name of a cluster, in bytes.
pub(crate) const CLUSTER_BYTES_MAX: usize = 128;
const GOSSIP_INTERVAL_MIN: Duration = Duration::from_millis(10);
const GOSSIP_INTERVAL_MAX: Duration = Duration::from_secs(60);
const TRY_TIMEOUT_MAX: Duration = Duration::from_secs(3_600);
const MAX_CLAIMS: usize = 1 << 20;

/// How datagrams are sealed.
#[derive(Clone, Default)]
enum SecretSource {
    #[default]
    Unsaid,
    Secret(ClusterSecret),
    Text(String),
    Variable(String),
    Plaintext,
}

impl fmt::Debug for SecretSource {
    /// Settings are logged; secrets are not.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsaid => f.write_str("Unsaid"),
            Self::Secret(_) => f.write_str("Secret(redacted)"),
            Self::Text(_) => f.write_str("Text(redacted)"),
            Self::Variable(variable) => f.debug_tuple("Variable").field(variable).finish(),
            Self::Plaintext => f.write_str("Plaintext"),
        }
    }
}

/// Everything that a mesh can be told before it starts. From
/// [`Mesh::builder`](crate::Mesh::builder) or one of the presets [`MeshBuilder::lan`],
/// [`MeshBuilder::wan`], [`MeshBuilder::single`]; [`MeshBuilder::start`](crate::MeshBuilder::start)
/// checks every value.
///
/// | setting | `lan()` | rule of thumb | what breaks when it is wrong |
/// | --- | --- | --- | --- |
/// | `listen` | `127.0.0.1:0` | a fixed port that others can name | others do not find it |
/// | `seeds` | none | two or three that are usually up | the node stays alone |
/// | `voters` | this node alone | three or five, the same everywhere | nodes refuse each other |
/// | `voters_per_key` | all, at most five | 3; 5 to survive two losses | more: slower grants |
/// | `ttl` | 10 s | the longest pause of a holder | short: lost under load; long: slow take-over |
/// | `renew_interval` | a third of the ttl | leave it | slow: lost after one or two lost datagrams |
/// | `try_timeout` | 2 s | some hundred round trips | short: errors while a peer restarts |
/// | `gossip_interval` | 200 ms | 100 ms to 1 s | long: new nodes are found late |
/// | `timing` | [`Timing::lan`] | leave it | see there; the same on all nodes |
#[derive(Clone, Debug)]
#[must_use = "a mesh that is not started does nothing"]
pub struct MeshBuilder {
    node_id: String,
    listen: String,
    advertise: Option<String>,
    seeds: Vec<String>,
    resolver: Arc<dyn Resolve>,
    voters: Vec<String>,
    voters_per_key: Option<usize>,
    voter_set_version: u64,
    timing: Timing,
    secret: SecretSource,
    cluster: String,
    new_cluster: bool,
    is_short_lived: bool,
    ttl: Duration,
    renew_interval: Option<Duration>,
    try_timeout: Duration,
    gossip_interval: Duration,
    limits: VoterLimits,
    max_claims: usize,
    wall_offset_ms: i64,
    #[cfg(feature = "harness")]
    pub(crate) links: Option<Arc<Links>>,
}

/// A configuration whose every value has been checked.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) id: NodeId,
    pub(crate) listen: SocketAddr,
    pub(crate) advertise: Option<SocketAddr>,
    pub(crate) seeds: Vec<String>,
    pub(crate) resolver: Arc<dyn Resolve>,
    pub(crate) voter_set: VoterSet,
    pub(crate) secret: Option<ClusterSecret>,
    pub(crate) cluster: String,
    pub(crate) start: Start,
    pub(crate) is_short_lived: bool,
    pub(crate) settings: Settings,
    pub(crate) gossip_interval: Duration,
    pub(crate) limits: VoterLimits,
    pub(crate) max_claims: usize,
    pub(crate) wall_offset_ms: i64,
}

/// What requests are made with unless they say otherwise.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) ttl: Duration,
    pub(crate) renew_interval: Option<Duration>,
    pub(crate) try_timeout: Duration,
}

impl MeshBuilder {
    /// Nodes in one data centre.
    pub fn lan(node_id: impl Into<String>) -> Self {
        Self {
            node_id: node_id.into(),
            listen: "127.0.0.1:0".to_owned(),
            advertise: None,
            seeds: Vec::new(),
            resolver: Arc::new(System),
            voters: Vec::new(),
            voters_per_key: None,
            voter_set_version: 1,
            timing: Timing::lan(),
            secret: SecretSource::Unsaid,
            cluster: CLUSTER_DEFAULT.to_owned(),
            new_cluster: false,
            is_short_lived: false,
            ttl: Duration::from_secs(10),
            renew_interval: None,
            try_timeout: Duration::from_secs(2),
            gossip_interval: Duration::from_millis(200),
            limits: VoterLimits::default(),
            max_claims: MAX_CLAIMS,
            wall_offset_ms: 0,
            #[cfg(feature = "harness")]
            links: None,
        }
    }

    /// Nodes in several regions: slower, and more patient. The ttl is 30 s.
    pub fn wan(node_id: impl Into<String>) -> Self {
        Self {
            timing: Timing::wan(),
            ttl: Duration::from_secs(30),
            try_timeout: Duration::from_secs(30),
            gossip_interval: Duration::from_secs(1),
            ..Self::lan(node_id)
        }
    }

    /// One node alone, without peers: for development, and for tests. It votes at once, since
    /// there is nobody but itself whom it could have voted for in an earlier incarnation: give it
    /// no clients. That its epochs rise over a restart leans on its wall clock. It still needs a
    /// key, or `insecure_plaintext()`.
    pub fn single(node_id: impl Into<String>) -> Self {
        Self {
            new_cluster: true,
            ..Self::lan(node_id)
        }
    }

    /// The address to listen on, `IP:PORT`; port 0 takes a free one.
    pub fn listen(mut self, listen: impl Into<String>) -> Self {
        self.listen = listen.into();
        self
    }

    /// The address that others reach this node at, where that is not the one it listens on.
    pub fn advertise(mut self, advertise: impl Into<String>) -> Self {
        self.advertise = Some(advertise.into());
        self
    }

    /// Nodes to begin to gossip with, each `HOST:PORT`. One that is up is enough; this node itself
    /// may be among them. A host name stands for all of its addresses. It is resolved in the
    /// background: one that does not resolve is a warning in the log, and is tried again, within a
    /// second while this node knows nobody, and every minute once it does. So is one that resolves,
    /// and an address that changes is followed.
    pub fn seeds<S: Into<String>>(mut self, seeds: impl IntoIterator<Item = S>) -> Self {
        self.seeds = seeds.into_iter().map(Into::into).collect();
        self
    }

    /// Sets a resolver of the names of seeds, instead of the system's: a service
    /// registry, or names that only a test knows.
    pub fn resolver(mut self, resolver: impl Resolve) -> Self {
        self.resolver = Arc::new(resolver);
        self
    }

    /// The node ids that vote: the same on all nodes, in any order. A node that is not among them
    /// claims locks and does not vote.
    pub fn voters<S: Into<String>>(mut self, voters: impl IntoIterator<Item = S>) -> Self {
        self.voters = voters.into_iter().map(Into::into).collect();
        self
    }

    /// How many of the voters vote for each key.
    pub fn voters_per_key(mut self, voters_per_key: usize) -> Self {
        self.voters_per_key = Some(voters_per_key);
        self
    }

    /// The number of the voter set. In this release a cluster keeps its voter set for life.
    pub fn voter_set_version(mut self, version: u64) -> Self {
        self.voter_set_version = version;
        self
    }

    /// The constants that all nodes share.
    pub fn timing(mut self, timing: Timing) -> Self {
        self.timing = timing;
        self
    }

    /// The cluster's secret.
    pub fn secret(mut self, secret: ClusterSecret) -> Self {
        self.secret = SecretSource::Secret(secret);
        self
    }

    /// The cluster's secret as text: 32 bytes in base64 or hex. `lockmesh keygen` makes one.
    pub fn secret_text(mut self, key: impl Into<String>) -> Self {
        self.secret = SecretSource::Text(key.into());
        self
    }

    /// The cluster's secret as text in an environment variable.
    pub fn secret_from_env(mut self, variable: impl Into<String>) -> Self {
        self.secret = SecretSource::Variable(variable.into());
        self
    }

    /// Datagrams that everybody on the network can read and forge: whoever can send one can take
    /// and release any lock.
    pub fn insecure_plaintext(mut self) -> Self {
        self.secret = SecretSource::Plaintext;
        self
    }

    /// The name of the cluster, `lockmesh` by default. Datagrams of a cluster of another name are
    /// dropped, also where its secret is the same.
    pub fn cluster(mut self, cluster: impl Into<String>) -> Self {
        self.cluster = cluster.into();
        self
    }

    /// The cluster is started for the first time: its voters may vote as soon as the others
    /// confirm that they know of no earlier incarnation of it. Without this they first sit out the
    /// longest lease, since they may have voted before and forgotten it. Those that do remember
    /// something are asked first, so a setting which was left on does no harm while they are there.
    /// Yet unset it once the cluster runs: where all voters restart at once nobody remembers, and
    /// they may give away what a node that does not vote still holds.
    pub fn new_cluster(mut self, is_new: bool) -> Self {
        self.new_cluster = is_new;
        self
    }

    /// The node lives for seconds, as a command does that runs under a lock. It does not gossip,
    /// and nobody gossips about it: it asks its seeds where the voters are, and again every ten
    /// seconds. It locks like any other node. It costs the others nothing while it holds and waits
    /// for nothing, and does not appear in their status. A voter cannot be short-lived.
    pub fn short_lived(mut self, is_short_lived: bool) -> Self {
        self.is_short_lived = is_short_lived;
        self
    }

    /// The ttl of requests that name none.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// How often a held lock is renewed, at most half of its ttl; a third of it by default.
    pub fn renew_interval(mut self, renew_interval: Duration) -> Self {
        self.renew_interval = Some(renew_interval);
        self
    }

    /// How long a `try_acquire` waits for a quorum before it is an error.
    pub fn try_timeout(mut self, try_timeout: Duration) -> Self {
        self.try_timeout = try_timeout;
        self
    }

    /// How often this node gossips. Gossip finds nodes; no lock waits for it.
    pub fn gossip_interval(mut self, gossip_interval: Duration) -> Self {
        self.gossip_interval = gossip_interval;
        self
    }

    /// What this node's voter keeps at the most.
    pub fn limits(mut self, limits: VoterLimits) -> Self {
        self.limits = limits;
        self
    }

    /// How many locks and requests for locks this node may have at once.
    pub fn max_claims(mut self, max_claims: usize) -> Self {
        self.max_claims = max_claims;
        self
    }

    /// Reads the wall clock this much ahead, or behind if negative: for tests of wrong clocks.
    #[doc(hidden)]
    pub fn wall_offset_ms(mut self, wall_offset_ms: i64) -> Self {
        self.wall_offset_ms = wall_offset_ms;
        self
    }

    /// Lets a test cut and disturb the links of this node.
    #[cfg(feature = "harness")]
    pub fn links(mut self, links: Arc<Links>) -> Self {
        self.links = Some(links);
        self
    }

    /// The same settings for another node.
    #[cfg(feature = "harness")]
    pub(crate) fn named(mut self, node_id: &str) -> Self {
        node_id.clone_into(&mut self.node_id);
        self
    }

    pub(crate) fn check(&self) -> Result<Checked, ConfigError> {
        let name = |field| move |error| ConfigError::Name { field, error };
        let id = NodeId::new(&self.node_id).map_err(name("node_id"))?;
        let voters = if self.voters.is_empty() {
            vec![id.clone()]
        } else {
            let voters = self.voters.iter().map(NodeId::new);
            voters.collect::<Result<_, _>>().map_err(name("voters"))?
        };
        let r = self
            .voters_per_key
            .unwrap_or_else(|| voters.len().min(VOTERS_PER_KEY_DEFAULT_MAX));
        let voter_set = VoterSet::new(self.voter_set_version, voters, r, self.timing)?;
        let voter_set = voter_set.of_cluster(&self.cluster);
        let listen = address("listen", &self.listen)?;
        let advertise = self
            .advertise
            .as_deref()
            .map(|a| address("advertise", a))
            .transpose()?;
        check_reachable(listen, advertise)?;
        if self.is_short_lived && voter_set.has_member(&id) {
            return Err(ConfigError::ShortLivedVoter);
        }
        for seed in &self.seeds {
            check_seed(seed).map_err(|source| ConfigError::Seed {
                seed: seed.clone(),
                source,
            })?;
        }
        self.check_spans()?;
        self.check_counts()?;
        Ok(Checked {
            id,
            listen,
            advertise,
            seeds: self.seeds.clone(),
            resolver: self.resolver.clone(),
            voter_set,
            secret: self.read_secret()?,
            cluster: self.cluster.clone(),
            start: if self.new_cluster {
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
            max_claims: self.max_claims,
            wall_offset_ms: self.wall_offset_ms,
        })
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
        let counts = [
            ("max_claims", self.max_claims, MAX_CLAIMS),
            ("limits.slots_max", self.limits.slots_max, 1 << 24),
            ("limits.waiters_max", self.limits.waiters_max, 1 << 20),
            ("limits.floors", self.limits.floors, 1 << 20),
            ("cluster (bytes)", self.cluster.len(), CLUSTER_BYTES_MAX),
        ];
        for (field, value, max) in counts {
            if value == 0 || value > max {
                let (value, min, max) = (value.to_string(), "1".to_owned(), max.to_string());
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

    fn read_secret(&self) -> Result<Option<ClusterSecret>, ConfigError> {
        match &self.secret {
            SecretSource::Unsaid => Err(ConfigError::NoSecret),
            SecretSource::Plaintext => Ok(None),
            SecretSource::Secret(key) => Ok(Some(key.clone())),
            SecretSource::Text(text) => Ok(Some(ClusterSecret::parse(text)?)),
            SecretSource::Variable(variable) => {
                let text = std::env::var(variable).map_err(|_| ConfigError::SecretVariable {
                    variable: variable.clone(),
                })?;
                Ok(Some(ClusterSecret::parse(&text)?))
            }
        }
    }
}

/// Others must be able to send to what is advertised. Port 0 of `listen` becomes a free one.
fn check_reachable(listen: SocketAddr, advertise: Option<SocketAddr>) -> Result<(), ConfigError> {
    let (field, value, is_reachable) = match advertise {
        Some(told) => {
            let is_reachable = !told.ip().is_unspecified() && told.port() != 0;
            ("advertise", told, is_reachable)
        }
        None => ("listen", listen, !listen.ip().is_unspecified()),
    };
    if is_reachable {
        Ok(())
    } else {
        Err(ConfigError::Advertise { field, value })
    }
}

fn address(field: &'static str, value: &str) -> Result<SocketAddr, ConfigError> {
    value.parse().map_err(|_| ConfigError::Address {
        field,
        value: value.to_owned(),
    })
}
