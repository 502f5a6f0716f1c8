//! The settings of a mesh as data: from a file, from the environment, or from both.
//!
//! The macro [`settings!`] generates the environment, the overlay and the expansion from the one
//! list of fields, so that no setting lacks one of them.

use std::env::{self, VarError};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{LISTEN, LISTEN_CLIENT, LISTEN_SINGLE, MeshBuilder};
use crate::error::ConfigError;
use crate::journal::Durability;
use crate::observer::Observer;
use lockmesh_proto::{ClusterSecrets, Timing, VoterLimits};

/// The start of the name of each environment variable.
const PREFIX: &str = "LOCKMESH";

/// Returns the value of an environment variable.
type Environment<'a> = &'a dyn Fn(&str) -> Result<String, VarError>;

/// A setting or a table of settings.
trait Setting {
    /// Sets what `variable` contains, or the variables whose names it begins.
    fn read(&mut self, variable: &str, env: Environment<'_>) -> Result<(), ConfigError>;
    /// Replaces what `over` sets.
    fn overlay(&mut self, over: Self);
    /// Expands the references to environment variables.
    fn expand(&mut self, field: &'static str, env: Environment<'_>) -> Result<(), ConfigError>;
}

/// A value that is written as text in an environment variable.
trait Value: Sized {
    /// The valid texts.
    const EXPECTED: &'static str;

    fn parse(text: &str) -> Option<Self>;

    /// Returns the value with each of its texts expanded.
    fn expand(self, _: &Expand<'_>) -> Result<Self, ConfigError> {
        Ok(self)
    }
}

type Expand<'a> = dyn Fn(&str) -> Result<String, ConfigError> + 'a;

impl<T: Value> Setting for Option<T> {
    fn read(&mut self, variable: &str, env: Environment<'_>) -> Result<(), ConfigError> {
        let error = |reason| ConfigError::Variable {
            variable: variable.to_owned(),
            reason,
        };
        let text = match env(variable) {
            Ok(text) if !text.is_empty() => text,
            Ok(_) | Err(VarError::NotPresent) => return Ok(()),
            Err(VarError::NotUnicode(_)) => return Err(error("is not Unicode".to_owned())),
        };
        let value = T::parse(&text);
        let value = value.ok_or_else(|| error(format!("is {text:?}; it must be {}", T::EXPECTED)));
        *self = Some(value?);
        Ok(())
    }

    fn overlay(&mut self, over: Self) {
        set(self, over.map(Some));
    }

    fn expand(&mut self, field: &'static str, env: Environment<'_>) -> Result<(), ConfigError> {
        let expand = |text: &str| expanded(field, text, env);
        *self = self.take().map(|value| value.expand(&expand)).transpose()?;
        Ok(())
    }
}

impl Value for String {
    const EXPECTED: &'static str = "text";

    fn parse(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }

    fn expand(self, expand: &Expand<'_>) -> Result<Self, ConfigError> {
        expand(&self)
    }
}

impl Value for SecretText {
    const EXPECTED: &'static str = "text";

    fn parse(text: &str) -> Option<Self> {
        Some(text.into())
    }

    fn expand(self, expand: &Expand<'_>) -> Result<Self, ConfigError> {
        expand(&self.0).map(Self)
    }
}

impl Value for PathBuf {
    const EXPECTED: &'static str = "a path";

    fn parse(text: &str) -> Option<Self> {
        Some(text.into())
    }

    fn expand(self, expand: &Expand<'_>) -> Result<Self, ConfigError> {
        match self.to_str() {
            Some(text) => expand(text).map(Into::into),
            None => Ok(self),
        }
    }
}

impl Value for Vec<String> {
    const EXPECTED: &'static str = "a list with commas";

    fn parse(text: &str) -> Option<Self> {
        let items = text.split(',').map(str::trim);
        Some(
            items
                .filter(|item| !item.is_empty())
                .map(Into::into)
                .collect(),
        )
    }

    fn expand(self, expand: &Expand<'_>) -> Result<Self, ConfigError> {
        self.iter().map(|item| expand(item)).collect()
    }
}

impl Value for Duration {
    const EXPECTED: &'static str = "a duration such as 10s or 250ms";

    fn parse(text: &str) -> Option<Self> {
        humantime::parse_duration(text).ok()
    }
}

/// Implements [`Value`] for types that have only one valid form of text.
macro_rules! values {
    ($($type:ty: $expected:literal,)*) => {$(
        impl Value for $type {
            const EXPECTED: &'static str = $expected;

            fn parse(text: &str) -> Option<Self> {
                text.parse().ok()
            }
        }
    )*};
}

values! {
    bool: "true or false",
    u32: "a whole number",
    u64: "a whole number",
    usize: "a whole number",
}

impl Value for Preset {
    const EXPECTED: &'static str = "lan, wan or single";

    fn parse(text: &str) -> Option<Self> {
        match text {
            "lan" => Some(Self::Lan),
            "wan" => Some(Self::Wan),
            "single" => Some(Self::Single),
            _ => None,
        }
    }
}

impl Value for Durability {
    const EXPECTED: &'static str = "process or machine";

    fn parse(text: &str) -> Option<Self> {
        match text {
            "process" => Some(Self::Process),
            "machine" => Some(Self::Machine),
            _ => None,
        }
    }
}

/// Returns `text` with the values of the variables that it refers to.
fn expanded(field: &'static str, text: &str, env: Environment<'_>) -> Result<String, ConfigError> {
    let (mut expanded, mut rest) = (String::new(), text);
    while let Some((before, reference)) = rest.split_once("${") {
        let closed = reference.split_once('}');
        let (reference, after) = closed.ok_or(ConfigError::Unclosed { field })?;
        let (variable, default) = match reference.split_once(":-") {
            Some((variable, default)) => (variable, Some(default)),
            None => (reference, None),
        };
        expanded += before;
        match (env(variable), default) {
            (Ok(value), Some(default)) if value.is_empty() => expanded += default,
            (Ok(value), _) => expanded += &value,
            (Err(_), Some(default)) => expanded += default,
            (Err(_), None) => {
                let variable = variable.to_owned();
                return Err(ConfigError::UnknownVariable { field, variable });
            }
        }
        rest = after;
    }
    Ok(expanded + rest)
}

fn of_process(variable: &str) -> Result<String, VarError> {
    env::var(variable)
}

fn set<T>(slot: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *slot = value;
    }
}

fn is_unset<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Defines a table of settings, and its [`Setting`].
macro_rules! settings {
    ($(#[$meta:meta])* $name:ident {
        $($(#[$field_meta:meta])* $field:ident: $type:ty,)*
    }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $($(#[$field_meta])* #[serde(skip_serializing_if = "is_unset")] pub $field: $type,)*
        }

        impl Setting for $name {
            fn read(&mut self, variable: &str, env: Environment<'_>) -> Result<(), ConfigError> {
                $(
                    let field = stringify!($field).to_ascii_uppercase();
                    self.$field.read(&format!("{variable}_{field}"), env)?;
                )*
                Ok(())
            }

            fn overlay(&mut self, over: Self) {
                $(Setting::overlay(&mut self.$field, over.$field);)*
            }

            fn expand(&mut self, _: &'static str, env: Environment<'_>) -> Result<(), ConfigError> {
                $(Setting::expand(&mut self.$field, stringify!($field), env)?;)*
                Ok(())
            }
        }
    };
}

settings! {
    /// The settings of a mesh as data, such as a configuration file or the environment.
    ///
    /// [`into_builder`](Self::into_builder) returns a [`MeshBuilder`], which checks every value
    /// when it starts. A setting that is `None` has the default of its [preset](Self::preset).
    ///
    /// In code, write the settings that differ and `..MeshConfig::default()`: releases add settings.
    ///
    /// | in a file | in the environment |
    /// | --- | --- |
    /// | `ttl` | `LOCKMESH_TTL` |
    /// | `max_ttl` in the table `timing` | `LOCKMESH_TIMING_MAX_TTL` |
    /// | a duration: text such as `"10s"`, `"250ms"` or `"1m 30s"` | the same |
    /// | a list of text | text with commas: `a,b,c` |
    ///
    /// # From a file
    /// The type implements `Deserialize` and `Serialize`, for JSON, TOML and others. Unknown fields
    /// are an error.
    ///
    /// Each text may refer to environment variables. `${NAME}` stands for the value of `NAME`,
    /// which must be set. `${NAME:-default}` stands for `default` if `NAME` is unset or empty.
    ///
    /// ```
    /// use lockmesh::MeshConfig;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let config: MeshConfig = serde_json::from_str(
    ///     r#"{
    ///         "node_id": "${POD_NAME:-billing-0}",
    ///         "listen": "127.0.0.1:0",
    ///         "voters": ["billing-0"],
    ///         "insecure_plaintext": true,
    ///         "ttl": "5s",
    ///         "timing": { "max_ttl": "30s" }
    ///     }"#,
    /// )?;
    /// let mesh = config.into_builder()?.start().await?;
    /// # mesh.shutdown().await;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # From the environment
    /// ```no_run
    /// use lockmesh::MeshConfig;
    ///
    /// # async fn start() -> Result<(), Box<dyn std::error::Error>> {
    /// // LOCKMESH_NODE_ID=billing-1  LOCKMESH_VOTERS=billing-0,billing-1,billing-2
    /// // LOCKMESH_SEEDS=billing:7400  LOCKMESH_SECRET_FILE=/run/secrets/lockmesh
    /// let mesh = MeshConfig::from_env()?.into_builder()?.start().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # From both
    /// The environment replaces what the file sets:
    ///
    /// ```
    /// # use lockmesh::{ConfigError, MeshConfig};
    /// # fn settings(file: MeshConfig) -> Result<MeshConfig, ConfigError> {
    /// let config = file.overlay(MeshConfig::from_env()?);
    /// # Ok(config)
    /// # }
    /// ```
    MeshConfig {
        /// The id of this node: 1 to 64 bytes, unique in the cluster. No default.
        node_id: Option<String>,
        /// The source of all defaults: `lan` by default.
        preset: Option<Preset>,
        /// The UDP address to listen on, as `IP:PORT`. Port 0 selects a free port. By default
        /// `0.0.0.0:7400`; `single`: `127.0.0.1:0`.
        listen: Option<String>,
        /// The address at which peers reach this node, as `HOST:PORT`. By default the listen
        /// address, or that of the network interface with the route to a seed.
        advertise: Option<String>,
        /// The nodes through which this node discovers the others, each as `HOST:PORT`. None by
        /// default.
        seeds: Option<Vec<String>>,
        /// The node ids of the voters, the same on all nodes. No default; `single`: this node.
        voters: Option<Vec<String>>,
        /// The number of voters of each key. All voters by default, at most five.
        voters_per_key: Option<usize>,
        /// The version of the voter set, 1 by default.
        voter_set_version: Option<u64>,
        /// The cluster's secret: 32 bytes in base64 or hex. While it is replaced, several with
        /// commas between them: the first seals, and each opens. See [`MeshBuilder::secrets`].
        ///
        /// Exactly one of `secret`, `secret_env`, `secret_file` and `insecure_plaintext = true` is
        /// needed. A serialized configuration contains this secret.
        secret: Option<SecretText>,
        /// The environment variable that contains the cluster's secret, or several with commas.
        secret_env: Option<String>,
        /// The file that contains the cluster's secret, or several on a line each. A relative path
        /// is relative to the working directory.
        secret_file: Option<PathBuf>,
        /// `true` to send datagrams without encryption or authentication; `false` by default. See
        /// [`MeshBuilder::insecure_plaintext`].
        insecure_plaintext: Option<bool>,
        /// The name of the cluster, 1 to 128 bytes; `lockmesh` by default.
        cluster: Option<String>,
        /// `true` at the first start of a cluster; `false` by default. See its danger at
        /// [`MeshBuilder::bootstrap`].
        bootstrap: Option<bool>,
        /// `true` for a node that runs for seconds; `false` by default. See
        /// [`MeshBuilder::short_lived`].
        short_lived: Option<bool>,
        /// The default lease of requests, a duration of at least ten round trips and at most
        /// `timing.max_ttl`. 10 s by default; `wan`: 30 s.
        #[serde(with = "span")]
        ttl: Option<Duration>,
        /// The interval at which a held lock is renewed, a duration of at most half of the ttl. A
        /// third of the ttl by default.
        #[serde(with = "span")]
        renew_interval: Option<Duration>,
        /// The time that a try waits for a quorum, a duration of at most one hour. 2 s by default;
        /// `wan`: 30 s.
        #[serde(with = "span")]
        try_timeout: Option<Duration>,
        /// The gossip interval, a duration of 10 ms to 60 s. 1 s by default.
        #[serde(with = "span")]
        gossip_interval: Option<Duration>,
        /// The maximum number of locks and pending requests of this node: 1,048,576 by default.
        max_claims: Option<usize>,
        /// The directory in which this node's voter keeps its journal. None by default and if it is
        /// empty: the voter then hands its votes over when it is shut down, and loses them if it
        /// crashes. See [`MeshBuilder::data_dir`].
        data_dir: Option<PathBuf>,
        /// The durability of the journal: `process` by default, or `machine`. See [`Durability`].
        durability: Option<Durability>,
        /// The longest time for which a shutdown hands the votes of this node's voter over to other
        /// voters, a duration of at most 60 s. 2 s by default; `0s` switches it off. See
        /// [`MeshBuilder::handover_timeout`].
        #[serde(with = "span")]
        handover_timeout: Option<Duration>,
        /// The limits of this node's voter.
        limits: LimitsConfig,
        /// The timing constants, the same on all nodes.
        timing: TimingConfig,
    }
}

settings! {
    /// The settings of [`MeshConfig`] that limit the memory of a voter: see [`VoterLimits`].
    LimitsConfig {
        /// The maximum number of keys that are held or waited for: 1,048,576 by default.
        slots_max: Option<usize>,
        /// The maximum number of claims that wait for one key: 4,096 by default.
        waiters_max: Option<usize>,
        /// The number of fence buckets, for keys that have no slot: 4,096 by default.
        fence_buckets: Option<usize>,
        /// The most votes that a voter hands over when it is shut down: 16,384 by default, at most
        /// 65,536.
        handover_votes_max: Option<usize>,
        /// The most keys that are marked at once: 100,000 by default, at most 16,777,216.
        marks_max: Option<usize>,
    }
}

settings! {
    /// The timing constants of [`MeshConfig`], the same on all nodes: see [`Timing`].
    TimingConfig {
        /// The longest lease, a duration. 60 s by default; `wan`: 120 s.
        #[serde(with = "span")]
        max_ttl: Option<Duration>,
        /// The most that one node's monotonic clock may run faster than another's, in parts per
        /// million: 5,000 by default.
        max_drift_ppm: Option<u32>,
        /// The most that two wall clocks may differ, a duration of at most `max_ttl`. 5 s by
        /// default; `wan`: 10 s.
        #[serde(with = "span")]
        max_clock_skew: Option<Duration>,
        /// The round-trip time when the network is slow, a duration. 10 ms by default; `wan`:
        /// 300 ms.
        #[serde(with = "span")]
        round_trip: Option<Duration>,
        /// The time for which a vote is reserved for the next waiter, a duration. 250 ms by
        /// default; `wan`: 3 s.
        #[serde(with = "span")]
        reservation: Option<Duration>,
        /// The time without a renewal after which a voter probes the holder, a duration. 100 ms by
        /// default; `wan`: 3 s.
        #[serde(with = "span")]
        holder_probe_interval: Option<Duration>,
    }
}

/// The kind of network, from which all defaults follow.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// Nodes in one data centre: [`MeshBuilder::lan`].
    #[default]
    Lan,
    /// Nodes in several regions: [`MeshBuilder::wan`].
    Wan,
    /// One node without peers: [`MeshBuilder::single`].
    Single,
}

/// The cluster's secret as text. Its `Debug` does not print the secret; serialization does.
#[derive(Clone, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(transparent)]
pub struct SecretText(String);

impl<T: Into<String>> From<T> for SecretText {
    fn from(text: T) -> Self {
        Self(text.into())
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(redacted)")
    }
}

impl MeshConfig {
    /// Returns the settings that the environment variables `LOCKMESH_*` contain.
    ///
    /// A variable that is empty counts as unset. Variables that name no setting are ignored, since
    /// Kubernetes sets `LOCKMESH_PORT` for a service called `lockmesh`.
    ///
    /// # Errors
    /// [`ConfigError::Variable`] if a value is not of the setting's type, or is not Unicode.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::from_variables(&of_process)
    }

    fn from_variables(env: Environment<'_>) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        config.read(PREFIX, env)?;
        Ok(config)
    }

    /// Returns these settings with those of `over` in place of their own.
    ///
    /// The source of the secret is one setting: if `over` has a source, it replaces any other.
    #[must_use]
    pub fn overlay(mut self, over: Self) -> Self {
        if over.secret_sources() > 0 {
            self.secret = None;
            self.secret_env = None;
            self.secret_file = None;
            self.insecure_plaintext = None;
        }
        Setting::overlay(&mut self, over);
        self
    }

    /// Returns these settings with references such as `${NAME}` expanded.
    ///
    /// [`into_builder`](Self::into_builder) expands too. Call this to read the expanded values.
    ///
    /// # Errors
    /// - [`ConfigError::UnknownVariable`] if a variable is not set and the reference has no default.
    /// - [`ConfigError::Unclosed`] if a reference has no closing brace.
    pub fn expand(self) -> Result<Self, ConfigError> {
        self.expand_from(&of_process)
    }

    fn expand_from(mut self, env: Environment<'_>) -> Result<Self, ConfigError> {
        Setting::expand(&mut self, "", env)?;
        Ok(self)
    }

    /// Returns the builder with these settings. It checks their values when it starts.
    ///
    /// # Errors
    /// - Those of [`expand`](Self::expand).
    /// - [`ConfigError::NoNodeId`] if there is no `node_id`.
    /// - [`ConfigError::SecretSources`] if the secret does not have exactly one source.
    /// - [`ConfigError::SecretVariable`], [`ConfigError::SecretFile`] or [`ConfigError::Secret`] if
    ///   the secret cannot be read or is invalid.
    pub fn into_builder(self) -> Result<MeshBuilder, ConfigError> {
        let config = self.expand()?;
        let secrets = config.read_secrets()?;
        let node_id = config.node_id.ok_or(ConfigError::NoNodeId)?;
        let mut builder = match config.preset.unwrap_or_default() {
            Preset::Lan => MeshBuilder::lan(node_id),
            Preset::Wan => MeshBuilder::wan(node_id),
            Preset::Single => MeshBuilder::single(node_id),
        };
        builder = match secrets {
            Some(secrets) => builder.secrets(secrets),
            None => builder.insecure_plaintext(),
        };
        builder.listen = config.listen;
        builder.advertise = config.advertise;
        set(&mut builder.seeds, config.seeds);
        set(&mut builder.voters, config.voters);
        builder.voters_per_key = config.voters_per_key;
        set(&mut builder.voter_set_version, config.voter_set_version);
        set(&mut builder.cluster, config.cluster);
        builder.is_bootstrap |= config.bootstrap == Some(true);
        set(&mut builder.is_short_lived, config.short_lived);
        set(&mut builder.ttl, config.ttl);
        builder.renew_interval = config.renew_interval;
        set(&mut builder.try_timeout, config.try_timeout);
        set(&mut builder.gossip_interval, config.gossip_interval);
        set(&mut builder.max_claims, config.max_claims);
        builder.data_dir = config.data_dir;
        set(&mut builder.durability, config.durability);
        set(&mut builder.handover_timeout, config.handover_timeout);
        config.limits.apply(&mut builder.limits);
        config.timing.apply(&mut builder.timing);
        Ok(builder)
    }

    /// Returns an observer of the mesh, which starts with this node and its seeds.
    ///
    /// # Errors
    /// - Those of [`expand`](Self::expand).
    /// - [`ConfigError::SecretSources`] if the secret does not have exactly one source.
    /// - [`ConfigError::SecretVariable`], [`ConfigError::SecretFile`] or [`ConfigError::Secret`] if
    ///   the secret cannot be read or is invalid.
    pub fn into_observer(self) -> Result<Observer, ConfigError> {
        let config = self.expand()?;
        let secrets = config.read_secrets()?;
        let peers = std::iter::once(config.own_address()).chain(config.seeds.unwrap_or_default());
        let observer = match secrets {
            Some(secrets) => Observer::sealed(peers, secrets),
            None => Observer::insecure_plaintext(peers),
        };
        Ok(match config.cluster {
            Some(cluster) => observer.cluster(cluster),
            None => observer,
        })
    }

    /// Returns the settings of a client of this node's mesh, for a process beside the node.
    ///
    /// The client has a name and a port of its own, so several may run beside one node. It asks this
    /// node and its seeds for the voters, and is [short-lived](MeshBuilder::short_lived). Settings
    /// of this node's voter do not apply.
    ///
    /// # Errors
    /// Those of [`into_builder`](Self::into_builder). A missing `node_id` is no error.
    pub fn into_client(self, node_id: impl Into<String>) -> Result<MeshBuilder, ConfigError> {
        let mut config = self.expand()?;
        let own = config.own_address();
        config.seeds.get_or_insert_default().insert(0, own);
        let listen = config.listen.as_deref().map(str::parse::<SocketAddr>);
        config.listen = match listen {
            Some(Ok(mut addr)) => {
                addr.set_port(0);
                Some(addr.to_string())
            }
            // An invalid address is an error at the start.
            Some(Err(_)) => config.listen,
            None => Some(LISTEN_CLIENT.to_owned()),
        };
        // A single node has no clients, so that without voters this is an error at the start.
        if config.preset == Some(Preset::Single) {
            config.preset = Some(Preset::Lan);
        }
        (config.node_id, config.short_lived) = (Some(node_id.into()), Some(true));
        (config.advertise, config.bootstrap, config.data_dir) = (None, None, None);
        config.into_builder()
    }

    /// Returns the address at which this node is reached.
    fn own_address(&self) -> String {
        let default = match self.preset {
            Some(Preset::Single) => LISTEN_SINGLE,
            _ => LISTEN,
        };
        let own = self.advertise.as_deref().or(self.listen.as_deref());
        own.unwrap_or(default).to_owned()
    }

    /// Returns the number of sources of the secret.
    fn secret_sources(&self) -> usize {
        let has = [
            self.secret.is_some(),
            self.secret_env.is_some(),
            self.secret_file.is_some(),
            self.insecure_plaintext == Some(true),
        ];
        has.into_iter().filter(|has| *has).count()
    }

    /// Reads the cluster's secrets from their source, of which the first seals. `None` for
    /// plaintext. References to environment variables must be [expanded](Self::expand).
    ///
    /// A process that runs can read them again, for
    /// [`Mesh::rotate_secrets`](crate::Mesh::rotate_secrets).
    ///
    /// # Errors
    /// - [`ConfigError::SecretSources`] if the secret does not have exactly one source.
    /// - [`ConfigError::SecretVariable`], [`ConfigError::SecretFile`] or [`ConfigError::Secret`] if
    ///   the secrets cannot be read or are invalid.
    pub fn read_secrets(&self) -> Result<Option<ClusterSecrets>, ConfigError> {
        if self.secret_sources() != 1 {
            return Err(ConfigError::SecretSources);
        }
        let text = if let Some(variable) = &self.secret_env {
            of_process(variable).map_err(|_| ConfigError::SecretVariable {
                variable: variable.clone(),
            })?
        } else if let Some(path) = &self.secret_file {
            std::fs::read_to_string(path).map_err(|error| ConfigError::SecretFile {
                path: path.clone(),
                error,
            })?
        } else if let Some(SecretText(text)) = &self.secret {
            text.clone()
        } else {
            return Ok(None);
        };
        Ok(Some(ClusterSecrets::parse(&text)?))
    }
}

impl LimitsConfig {
    fn apply(self, limits: &mut VoterLimits) {
        set(&mut limits.slots_max, self.slots_max);
        set(&mut limits.waiters_max, self.waiters_max);
        set(&mut limits.fence_buckets, self.fence_buckets);
        set(&mut limits.handover_votes_max, self.handover_votes_max);
        set(&mut limits.marks_max, self.marks_max);
    }
}

impl TimingConfig {
    fn apply(self, timing: &mut Timing) {
        set(&mut timing.max_ttl, self.max_ttl);
        set(&mut timing.max_drift_ppm, self.max_drift_ppm);
        set(&mut timing.max_clock_skew, self.max_clock_skew);
        set(&mut timing.round_trip, self.round_trip);
        set(&mut timing.reservation, self.reservation);
        set(
            &mut timing.holder_probe_interval,
            self.holder_probe_interval,
        );
    }
}

/// Durations as text such as `10s`.
mod span {
    use std::time::Duration;

    use serde::de::{Error, Unexpected};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Value;

    pub(super) fn serialize<S: Serializer>(
        span: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let text = span.map(|span| humantime::format_duration(span).to_string());
        text.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        let span = |text: String| {
            let unexpected = Unexpected::Str(&text);
            Duration::parse(&text)
                .ok_or_else(|| Error::invalid_value(unexpected, &Duration::EXPECTED))
        };
        text.map(span).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=";

    /// An environment with these variables.
    fn env<'a>(variables: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Result<String, VarError> {
        |name| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            let value = found.map(|(_, value)| (*value).to_owned());
            value.ok_or(VarError::NotPresent)
        }
    }

    fn from(variables: &[(&str, &str)]) -> Result<MeshConfig, ConfigError> {
        MeshConfig::from_variables(&env(variables))
    }

    fn json(text: &str) -> MeshConfig {
        serde_json::from_str(text).unwrap()
    }

    /// One value for every setting, as text of the environment.
    const ALL: [(&str, &str); 34] = [
        ("LOCKMESH_NODE_ID", "n1"),
        ("LOCKMESH_PRESET", "wan"),
        ("LOCKMESH_LISTEN", "127.0.0.1:1"),
        ("LOCKMESH_ADVERTISE", "host:2"),
        ("LOCKMESH_SEEDS", "a:1, b:2,"),
        ("LOCKMESH_VOTERS", "n1,n2,n3"),
        ("LOCKMESH_VOTERS_PER_KEY", "2"),
        ("LOCKMESH_VOTER_SET_VERSION", "7"),
        ("LOCKMESH_SECRET", SECRET),
        ("LOCKMESH_SECRET_ENV", "NAME"),
        ("LOCKMESH_SECRET_FILE", "/run/secret"),
        ("LOCKMESH_INSECURE_PLAINTEXT", "false"),
        ("LOCKMESH_CLUSTER", "prod"),
        ("LOCKMESH_BOOTSTRAP", "true"),
        ("LOCKMESH_SHORT_LIVED", "true"),
        ("LOCKMESH_TTL", "1m 30s"),
        ("LOCKMESH_RENEW_INTERVAL", "20s"),
        ("LOCKMESH_TRY_TIMEOUT", "5s"),
        ("LOCKMESH_GOSSIP_INTERVAL", "250ms"),
        ("LOCKMESH_MAX_CLAIMS", "8"),
        ("LOCKMESH_DATA_DIR", "/var/lib/mesh"),
        ("LOCKMESH_DURABILITY", "machine"),
        ("LOCKMESH_HANDOVER_TIMEOUT", "3s"),
        ("LOCKMESH_LIMITS_SLOTS_MAX", "9"),
        ("LOCKMESH_LIMITS_WAITERS_MAX", "10"),
        ("LOCKMESH_LIMITS_FENCE_BUCKETS", "11"),
        ("LOCKMESH_LIMITS_HANDOVER_VOTES_MAX", "17"),
        ("LOCKMESH_LIMITS_MARKS_MAX", "18"),
        ("LOCKMESH_TIMING_MAX_TTL", "100s"),
        ("LOCKMESH_TIMING_MAX_DRIFT_PPM", "12"),
        ("LOCKMESH_TIMING_MAX_CLOCK_SKEW", "13s"),
        ("LOCKMESH_TIMING_ROUND_TRIP", "14ms"),
        ("LOCKMESH_TIMING_RESERVATION", "15s"),
        ("LOCKMESH_TIMING_HOLDER_PROBE_INTERVAL", "16s"),
    ];

    const ALL_JSON: &str = r#"{
        "node_id": "n1", "preset": "wan", "listen": "127.0.0.1:1", "advertise": "host:2",
        "seeds": ["a:1", "b:2"], "voters": ["n1", "n2", "n3"], "voters_per_key": 2,
        "voter_set_version": 7, "secret": "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=",
        "secret_env": "NAME", "secret_file": "/run/secret", "insecure_plaintext": false,
        "cluster": "prod", "bootstrap": true, "short_lived": true, "ttl": "1m 30s",
        "renew_interval": "20s", "try_timeout": "5s", "gossip_interval": "250ms", "max_claims": 8,
        "data_dir": "/var/lib/mesh", "durability": "machine", "handover_timeout": "3s",
        "limits": {"slots_max": 9, "waiters_max": 10, "fence_buckets": 11,
            "handover_votes_max": 17, "marks_max": 18},
        "timing": {"max_ttl": "1m 40s", "max_drift_ppm": 12, "max_clock_skew": "13s",
            "round_trip": "14ms", "reservation": "15s", "holder_probe_interval": "16s"}
    }"#;

    #[test]
    fn every_setting_is_read_from_both_sources() {
        let config = from(&ALL).unwrap();
        assert_eq!(config, json(ALL_JSON));
        // Serialization leaves out what is unset: all are set.
        let written = serde_json::to_value(&config).unwrap();
        assert_eq!(
            written,
            serde_json::from_str::<serde_json::Value>(ALL_JSON).unwrap()
        );
        assert_eq!(serde_json::to_string(&MeshConfig::default()).unwrap(), "{}");
        // Each variable sets one setting.
        for variable in ALL {
            assert_ne!(
                from(&[variable]).unwrap(),
                MeshConfig::default(),
                "{variable:?}"
            );
        }
    }

    #[test]
    fn builder_has_every_setting() {
        let mut config = json(ALL_JSON);
        config.secret_env = None;
        config.secret_file = None;
        let built = format!("{:?}", config.into_builder().unwrap());
        let parts = [
            "node_id: \"n1\"",
            "listen: Some(\"127.0.0.1:1\")",
            "advertise: Some(\"host:2\")",
            "seeds: [\"a:1\", \"b:2\"]",
            "voters: [\"n1\", \"n2\", \"n3\"]",
            "is_single: false",
            "voters_per_key: Some(2)",
            "voter_set_version: 7",
            "max_ttl: 100s",
            "max_drift_ppm: 12",
            "max_clock_skew: 13s",
            "round_trip: 14ms",
            "reservation: 15s",
            "holder_probe_interval: 16s",
            "Secrets(redacted)",
            "cluster: \"prod\"",
            "is_bootstrap: true",
            "is_short_lived: true",
            " ttl: 90s",
            "renew_interval: Some(20s)",
            "try_timeout: 5s",
            "gossip_interval: 250ms",
            "slots_max: 9",
            "waiters_max: 10",
            "fence_buckets: 11",
            "handover_votes_max: 17",
            "marks_max: 18",
            "max_claims: 8",
            "data_dir: Some(\"/var/lib/mesh\")",
            "durability: Machine",
            "handover_timeout: 3s",
        ];
        for part in parts {
            assert!(built.contains(part), "{part} in {built}");
        }
    }

    #[test]
    fn client_has_a_name_and_a_port_of_its_own() {
        let mut config = json(ALL_JSON);
        (config.secret_env, config.secret_file) = (None, None);
        let (own, seeds) = (
            config.advertise.clone().unwrap(),
            config.seeds.clone().unwrap(),
        );
        let voters = config.voters.clone().unwrap();
        let client = config.into_client("job").unwrap();
        assert_eq!(client.node_id, "job");
        assert_eq!(client.listen.as_deref(), Some("127.0.0.1:0"));
        assert_eq!(client.seeds, [vec![own], seeds].concat());
        assert_eq!((client.advertise, client.data_dir), (None, None));
        assert!(client.is_short_lived && !client.is_bootstrap);
        assert_eq!(
            (client.voters, client.ttl),
            (voters, Duration::from_secs(90))
        );

        let client = |text| json(text).into_client("job");
        let bare = client(r#"{"insecure_plaintext": true}"#).unwrap();
        assert_eq!(bare.listen.as_deref(), Some("0.0.0.0:0"));
        assert_eq!(bare.seeds, ["0.0.0.0:7400"]);
        let single = r#"{"insecure_plaintext": true, "preset": "single", "node_id": "n1"}"#;
        let error = client(single).unwrap().check().unwrap_err();
        assert!(matches!(error, ConfigError::NoVoters), "{error}");
    }

    #[test]
    fn preset_supplies_the_defaults() {
        for (preset, builder) in [
            ("lan", MeshBuilder::lan("n1")),
            ("wan", MeshBuilder::wan("n1")),
            ("single", MeshBuilder::single("n1")),
        ] {
            let config = json(&format!(
                r#"{{"node_id": "n1", "preset": "{preset}", "insecure_plaintext": true}}"#
            ));
            let mut built = config.into_builder().unwrap();
            built.clock = builder.clock.clone();
            let builder = builder.insecure_plaintext();
            assert_eq!(format!("{built:?}"), format!("{builder:?}"));
        }
    }

    #[test]
    fn documented_defaults_of_limits_are_real() {
        let limits = VoterLimits::default();
        let all = (limits.slots_max, limits.waiters_max, limits.fence_buckets);
        assert_eq!(all, (1_048_576, 4_096, 4_096));
        assert_eq!(
            (limits.handover_votes_max, limits.marks_max),
            (16_384, 100_000)
        );
        assert_eq!(MeshBuilder::lan("n1").max_claims, 1_048_576);
    }

    #[test]
    fn invalid_variable_is_named_with_valid_values() {
        let cases = [
            ("LOCKMESH_TTL", "10", "a duration such as 10s or 250ms"),
            ("LOCKMESH_BOOTSTRAP", "yes", "true or false"),
            ("LOCKMESH_TIMING_MAX_DRIFT_PPM", "-1", "a whole number"),
            ("LOCKMESH_PRESET", "moon", "lan, wan or single"),
        ];
        for (variable, value, expected) in cases {
            let error = from(&[(variable, value)]).unwrap_err().to_string();
            assert_eq!(
                error,
                format!("{variable} is {value:?}; it must be {expected}")
            );
        }
        let not_unicode = |_: &str| Err(VarError::NotUnicode("x".into()));
        let error = MeshConfig::from_variables(&not_unicode).unwrap_err();
        assert_eq!(error.to_string(), "LOCKMESH_NODE_ID is not Unicode");
    }

    #[test]
    fn empty_and_foreign_variables_are_ignored() {
        let variables = [
            ("LOCKMESH_TTL", ""),
            ("LOCKMESH_PORT", "udp://10.0.0.1:7400"),
        ];
        assert_eq!(from(&variables).unwrap(), MeshConfig::default());
    }

    #[test]
    fn environment_replaces_what_the_file_sets() {
        let file = json(
            r#"{"node_id": "n1", "ttl": "5s", "secret_env": "LOCKMESH_SECRET",
                "timing": {"max_ttl": "30s", "round_trip": "1ms"}}"#,
        );
        let env = from(&[
            ("LOCKMESH_NODE_ID", "n2"),
            ("LOCKMESH_SECRET", SECRET),
            ("LOCKMESH_TIMING_MAX_TTL", "40s"),
        ]);
        let expected = json(&format!(
            r#"{{"node_id": "n2", "ttl": "5s", "secret": "{SECRET}",
                "timing": {{"max_ttl": "40s", "round_trip": "1ms"}}}}"#
        ));
        assert_eq!(file.clone().overlay(env.unwrap()), expected);
        assert_eq!(file.clone().overlay(MeshConfig::default()), file);
    }

    #[test]
    fn references_are_expanded_in_every_text() {
        let env = env(&[("POD", "billing-1"), ("EMPTY", ""), ("DIR", "/run")]);
        let config = json(
            r#"{"node_id": "${POD}", "listen": "${IP:-127.0.0.1}:${PORT:-7400}",
                "advertise": "${POD}.billing:7400", "seeds": ["${EMPTY:-a}:1", "$b:${EMPTY}2"],
                "secret": "${POD}", "secret_file": "${DIR}/secret"}"#,
        );
        let expected = json(
            r#"{"node_id": "billing-1", "listen": "127.0.0.1:7400",
                "advertise": "billing-1.billing:7400", "seeds": ["a:1", "$b:2"],
                "secret": "billing-1", "secret_file": "/run/secret"}"#,
        );
        assert_eq!(config.expand_from(&env).unwrap(), expected);
    }

    #[test]
    fn unknown_variable_is_named_with_its_field() {
        let error = |text: &str| json(text).expand_from(&env(&[])).unwrap_err().to_string();
        assert_eq!(
            error(r#"{"seeds": ["a:1", "${POD_NAME}:1"]}"#),
            "seeds: the environment variable POD_NAME is not set, or is not Unicode; set it, or \
             write ${POD_NAME:-default}"
        );
        assert_eq!(
            error(r#"{"secret": "${hunter2"}"#),
            "secret: a ${ has no closing brace"
        );
        for strange in ["", "a=b", "a\\u0000"] {
            let text = format!(r#"{{"node_id": "${{{strange}}}"}}"#);
            assert!(json(&text).expand().is_err(), "{text}");
        }
    }

    #[test]
    fn secret_needs_exactly_one_source() {
        let error = |text: &str| json(text).into_builder().unwrap_err().to_string();
        let one = "secret: there must be exactly one of secret, secret_env, secret_file and \
                   insecure_plaintext = true";
        assert_eq!(error(r#"{"node_id": "n1"}"#), one);
        assert_eq!(
            error(r#"{"node_id": "n1", "insecure_plaintext": false}"#),
            one
        );
        assert_eq!(error(r#"{"secret": "x", "insecure_plaintext": true}"#), one);
        assert_eq!(error(r#"{"secret": "x", "secret_env": "X"}"#), one);
        assert_eq!(
            error(r#"{"insecure_plaintext": true}"#),
            "node_id: there is none; set node_id or LOCKMESH_NODE_ID"
        );
        assert_eq!(
            error(r#"{"secret_env": "LOCKMESH_TEST_UNSET"}"#),
            "secret: the environment variable LOCKMESH_TEST_UNSET is not set, or is not Unicode"
        );
        let error = error(r#"{"secret_file": "/no/such/file"}"#);
        assert!(
            error.starts_with("secret_file: /no/such/file cannot be read: "),
            "{error}"
        );
    }

    #[test]
    fn secret_of_a_source_may_be_several() {
        let other = "a".repeat(64);
        let expected = [&other, SECRET].map(|it| ClusterSecrets::parse(it).unwrap().fingerprints());
        let text = format!("{other}, {SECRET}");
        for config in [
            from(&[("LOCKMESH_SECRET", &text)]).unwrap(),
            json(&format!("{{\"secret\": \"{other}\\n{SECRET}\"}}")),
        ] {
            let secrets = config.read_secrets().unwrap().unwrap();
            assert_eq!(secrets.fingerprints(), expected.concat());
        }
        let plain = from(&[("LOCKMESH_INSECURE_PLAINTEXT", "true")]).unwrap();
        assert!(plain.read_secrets().unwrap().is_none());
    }

    #[test]
    fn debug_output_hides_the_secret() {
        let config = from(&[("LOCKMESH_SECRET", SECRET)]).unwrap();
        let text = format!("{config:?} {:?}", config.secret);
        assert!(
            !text.contains(SECRET) && text.contains("redacted"),
            "{text}"
        );
    }

    #[test]
    fn invalid_field_of_a_file_is_refused() {
        let error = |text: &str| {
            serde_json::from_str::<MeshConfig>(text)
                .unwrap_err()
                .to_string()
        };
        let unknown = error(r#"{"ttl_ms": 10}"#);
        assert!(unknown.starts_with("unknown field `ttl_ms`"), "{unknown}");
        let unknown = error(r#"{"timing": {"maxttl": "1s"}}"#);
        assert!(unknown.starts_with("unknown field `maxttl`"), "{unknown}");
        let no_unit = error(r#"{"ttl": "10"}"#);
        let expected = "invalid value: string \"10\", expected a duration such as 10s or 250ms";
        assert!(no_unit.starts_with(expected), "{no_unit}");
    }
}
