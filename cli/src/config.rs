//! The configuration file of a node, and the errors in it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use lockmesh::{ConfigError, MeshBuilder, Timing};
use serde::Deserialize;

/// The content of the file. `node.example.toml` describes each field.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeFile {
    node_id: String,
    #[serde(default)]
    preset: Preset,
    listen: Option<String>,
    advertise: Option<String>,
    seeds: Option<Vec<String>>,
    voters: Option<Vec<String>>,
    voters_per_key: Option<usize>,
    voter_set_version: Option<u64>,
    secret: Option<String>,
    secret_env: Option<String>,
    secret_file: Option<PathBuf>,
    #[serde(default)]
    insecure_plaintext: bool,
    cluster: Option<String>,
    #[serde(default)]
    bootstrap: bool,
    ttl_ms: Option<u64>,
    renew_interval_ms: Option<u64>,
    try_timeout_ms: Option<u64>,
    gossip_interval_ms: Option<u64>,
    #[serde(default)]
    timing: TimingFile,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Preset {
    #[default]
    Lan,
    Wan,
    Single,
}

/// Overrides of the timing constants that all nodes share.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct TimingFile {
    max_ttl_ms: Option<u64>,
    max_drift_ppm: Option<u32>,
    max_clock_skew_ms: Option<u64>,
    round_trip_ms: Option<u64>,
    reservation_ms: Option<u64>,
    holder_probe_interval_ms: Option<u64>,
}

/// The settings that an observer needs to reach a mesh.
#[derive(Debug)]
pub struct Reach {
    /// The addresses of a node and its peers.
    pub peers: Vec<String>,
    /// The cluster's secret as text; `None` for plaintext.
    pub secret: Option<String>,
    /// The cluster's name, if it is not the default.
    pub cluster: Option<String>,
}

/// An error in a file, and its line.
#[derive(Debug, thiserror::Error)]
#[error("{}:{} {what}", .file.display(), .line.map(|line| format!("{line}:")).unwrap_or_default())]
pub struct FileError {
    /// The path of the file.
    pub file: PathBuf,
    /// The line, if the error is in one.
    pub line: Option<usize>,
    /// The error.
    pub what: String,
}

/// The configuration of a node, with the text of its file, so that errors can name a line.
#[derive(Debug)]
pub struct NodeConfig {
    file: PathBuf,
    text: String,
    node: NodeFile,
}

impl NodeConfig {
    /// Reads a configuration file. Its values are checked when the node starts.
    ///
    /// # Errors
    /// If the file cannot be read, or has an unknown field or a value of another type.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        let error = |line, what| FileError {
            file: path.to_owned(),
            line,
            what,
        };
        let text = std::fs::read_to_string(path)
            .map_err(|why| error(None, format!("cannot be read: {why}")))?;
        let node = toml::from_str(&text).map_err(|why| {
            let before = why.span().map(|span| &text.as_bytes()[..span.start]);
            let line = before.map(|it| 1 + it.iter().filter(|byte| **byte == b'\n').count());
            error(line, why.message().to_owned())
        })?;
        let file = path.to_owned();
        Ok(Self { file, text, node })
    }

    /// Returns the settings of the node.
    ///
    /// # Errors
    /// If the secret does not have exactly one source, or the source cannot be read.
    pub fn builder(&self) -> Result<MeshBuilder, FileError> {
        let file = &self.node;
        let (preset, timing) = match file.preset {
            Preset::Lan => (MeshBuilder::lan(&file.node_id), Timing::lan()),
            Preset::Wan => (MeshBuilder::wan(&file.node_id), Timing::wan()),
            Preset::Single => (MeshBuilder::single(&file.node_id), Timing::lan()),
        };
        let builder = file.apply(preset).timing(file.timing.over(timing));
        Ok(match self.secret()? {
            Some(secret) => builder.secret_text(&secret),
            None => builder.insecure_plaintext(),
        })
    }

    /// Returns the settings that an observer needs to reach the node's cluster.
    ///
    /// # Errors
    /// As [`NodeConfig::builder`].
    pub fn reach(&self) -> Result<Reach, FileError> {
        let file = &self.node;
        let own = file.advertise.as_ref().or(file.listen.as_ref());
        let peers = own.into_iter().chain(file.seeds.iter().flatten());
        Ok(Reach {
            peers: peers.cloned().collect(),
            secret: self.secret()?,
            cluster: file.cluster.clone(),
        })
    }

    /// Returns an error of the start, with the line of the field that it names.
    #[must_use]
    pub fn error(&self, error: &ConfigError) -> FileError {
        let what = error.to_string();
        let field = what.split([':', ' ']).next().unwrap_or_default();
        self.error_of(field, what.clone())
    }

    /// Returns the cluster's secret, which must have exactly one source; `None` for plaintext.
    fn secret(&self) -> Result<Option<String>, FileError> {
        let file = &self.node;
        let sources = (&file.secret, &file.secret_env, &file.secret_file);
        match (sources, file.insecure_plaintext) {
            ((Some(secret), None, None), false) => Ok(Some(secret.clone())),
            ((None, Some(variable), None), false) => {
                std::env::var(variable).map(Some).map_err(|_| {
                    let what = format!(
                        "secret: the environment variable {variable} is not set, or is not Unicode"
                    );
                    self.error_of("secret", what)
                })
            }
            ((None, None, Some(path)), false) => {
                let path = self.file.with_file_name("").join(path);
                std::fs::read_to_string(&path).map(Some).map_err(|error| {
                    let what = format!("secret_file: {} cannot be read: {error}", path.display());
                    self.error_of("secret_file", what)
                })
            }
            ((None, None, None), true) => Ok(None),
            _ => {
                let what = "secret: there must be exactly one of secret, secret_env, secret_file and \
                            insecure_plaintext = true";
                Err(self.error_of("secret", what.to_owned()))
            }
        }
    }

    fn error_of(&self, field: &str, what: String) -> FileError {
        FileError {
            file: self.file.clone(),
            line: self.line_of(field),
            what,
        }
    }

    /// Returns the line that sets `field`. Its name may have a suffix for the unit, or for the
    /// source of the value.
    fn line_of(&self, field: &str) -> Option<usize> {
        let sets = |line: &str| {
            let name = line.split('=').next().unwrap_or_default().trim();
            let suffix = name.strip_prefix(field);
            suffix.is_some_and(|it| ["", "_ms", "_env", "_file"].contains(&it))
        };
        self.text.lines().position(sets).map(|line| line + 1)
    }
}

impl NodeFile {
    /// Applies all settings except the secret and the timing.
    fn apply(&self, builder: MeshBuilder) -> MeshBuilder {
        fn set<T>(
            builder: MeshBuilder,
            value: Option<T>,
            with: impl FnOnce(MeshBuilder, T) -> MeshBuilder,
        ) -> MeshBuilder {
            match value {
                Some(value) => with(builder, value),
                None => builder,
            }
        }
        let ms = |ms: Option<u64>| ms.map(Duration::from_millis);
        let builder = set(builder, self.listen.as_ref(), MeshBuilder::listen);
        let builder = set(builder, self.advertise.as_ref(), MeshBuilder::advertise);
        let builder = set(builder, self.seeds.as_ref(), MeshBuilder::seeds);
        let builder = set(builder, self.voters.as_ref(), MeshBuilder::voters);
        let builder = set(builder, self.voters_per_key, MeshBuilder::voters_per_key);
        let version = self.voter_set_version;
        let builder = set(builder, version, MeshBuilder::voter_set_version);
        let builder = set(builder, self.cluster.as_ref(), MeshBuilder::cluster);
        let builder = match self.bootstrap {
            true => builder.bootstrap(),
            false => builder,
        };
        let builder = set(builder, ms(self.ttl_ms), MeshBuilder::ttl);
        let renew = ms(self.renew_interval_ms);
        let builder = set(builder, renew, MeshBuilder::renew_interval);
        let builder = set(builder, ms(self.try_timeout_ms), MeshBuilder::try_timeout);
        let gossip = ms(self.gossip_interval_ms);
        set(builder, gossip, MeshBuilder::gossip_interval)
    }
}

impl TimingFile {
    fn over(&self, preset: Timing) -> Timing {
        let span = |ms: Option<u64>, preset| ms.map_or(preset, Duration::from_millis);
        let probe = self.holder_probe_interval_ms;
        Timing {
            max_ttl: span(self.max_ttl_ms, preset.max_ttl),
            max_drift_ppm: self.max_drift_ppm.unwrap_or(preset.max_drift_ppm),
            max_clock_skew: span(self.max_clock_skew_ms, preset.max_clock_skew),
            round_trip: span(self.round_trip_ms, preset.round_trip),
            reservation: span(self.reservation_ms, preset.reservation),
            holder_probe_interval: span(probe, preset.holder_probe_interval),
        }
    }
}
