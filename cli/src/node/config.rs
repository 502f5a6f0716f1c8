//! The configuration file of a node, and the errors in it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lockmesh::{ConfigError, MeshBuilder, Timing};
use serde::Deserialize;

use super::workload::WorkloadFile;

/// The content of the file. `node.example.toml` describes each field.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NodeFile {
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
    #[serde(default)]
    workload: WorkloadFile,
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
pub(crate) struct Meeting {
    /// The addresses of a node and its peers.
    pub(crate) peers: Vec<String>,
    /// The cluster's secret as text; `None` for plaintext.
    pub(crate) secret: Option<String>,
    /// The cluster's name, if it is not the default.
    pub(crate) cluster: Option<String>,
}

/// An error in a file, and its line.
#[derive(Debug)]
pub(crate) struct FileError {
    file: PathBuf,
    line: Option<usize>,
    what: String,
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, "{line}:")?;
        }
        write!(f, " {}", self.what)
    }
}

/// The path and text of a file, kept so that errors can name a line.
#[derive(Debug)]
pub(crate) struct Source {
    file: PathBuf,
    text: String,
}

impl Source {
    pub(crate) fn read(file: &Path) -> Result<Self, FileError> {
        let text = std::fs::read_to_string(file).map_err(|error| FileError {
            file: file.to_owned(),
            line: None,
            what: format!("cannot be read: {error}"),
        })?;
        let file = file.to_owned();
        Ok(Self { file, text })
    }

    /// Returns the settings of the node and of its workload. The node's settings are checked when
    /// it starts.
    pub(crate) fn builder(&self) -> Result<(MeshBuilder, WorkloadFile), FileError> {
        let file: NodeFile = toml::from_str(&self.text).map_err(|error| {
            let line = error.span().map(|span| self.line_at(span.start));
            self.error(line, error.message().to_owned())
        })?;
        file.workload.check().map_err(|what| {
            let field = what.split(' ').next().unwrap_or_default();
            self.error(self.line_of(field), format!("workload.{what}"))
        })?;
        let builder = match file.preset {
            Preset::Lan => MeshBuilder::lan(&file.node_id).timing(file.timing.over(Timing::lan())),
            Preset::Wan => MeshBuilder::wan(&file.node_id).timing(file.timing.over(Timing::wan())),
            Preset::Single => {
                MeshBuilder::single(&file.node_id).timing(file.timing.over(Timing::lan()))
            }
        };
        let builder = self.sealed(file.apply(builder), &file)?;
        Ok((builder, file.workload))
    }

    /// Returns the settings that an observer needs to reach the node's cluster.
    pub(crate) fn meeting(&self) -> Result<Meeting, FileError> {
        let file: NodeFile = toml::from_str(&self.text).map_err(|error| {
            let line = error.span().map(|span| self.line_at(span.start));
            self.error(line, error.message().to_owned())
        })?;
        // Checks that the secret has exactly one source, and that its file can be read.
        drop(self.sealed(MeshBuilder::lan(&file.node_id), &file)?);
        let unset = |variable: &String| {
            let what = format!("secret: the environment variable {variable} is not set");
            self.error(self.line_of("secret"), what)
        };
        let unread = |error: std::io::Error| {
            let what = format!("secret_file: it cannot be read: {error}");
            self.error(self.line_of("secret_file"), what)
        };
        let secret = match (&file.secret, &file.secret_env, &file.secret_file) {
            (Some(secret), ..) => Some(secret.clone()),
            (_, Some(name), _) => Some(std::env::var(name).map_err(|_| unset(name))?),
            (_, _, Some(path)) => {
                let dir = self.file.parent();
                let path = dir.map_or_else(|| path.clone(), |dir| dir.join(path));
                Some(std::fs::read_to_string(path).map_err(unread)?)
            }
            _ => None,
        };
        let own = file.advertise.or(file.listen).into_iter();
        let peers = own.chain(file.seeds.unwrap_or_default()).collect();
        let cluster = file.cluster;
        Ok(Meeting {
            peers,
            secret,
            cluster,
        })
    }

    /// Returns an error of the start, with the line of the field that it names.
    pub(crate) fn config_error(&self, error: &ConfigError) -> FileError {
        let what = error.to_string();
        let field = what.split([':', ' ']).next().unwrap_or_default();
        self.error(self.line_of(field), what.clone())
    }

    /// Applies the secret, which must have exactly one source.
    fn sealed(&self, builder: MeshBuilder, file: &NodeFile) -> Result<MeshBuilder, FileError> {
        match (
            &file.secret,
            &file.secret_env,
            &file.secret_file,
            file.insecure_plaintext,
        ) {
            (Some(secret), None, None, false) => Ok(builder.secret_text(secret)),
            (None, Some(variable), None, false) => Ok(builder.secret_from_env(variable)),
            (None, None, Some(path), false) => {
                let path = self
                    .file
                    .parent()
                    .map_or_else(|| path.clone(), |dir| dir.join(path));
                let secret = std::fs::read_to_string(&path).map_err(|error| {
                    let what = format!("secret_file: {} cannot be read: {error}", path.display());
                    self.error(self.line_of("secret_file"), what)
                })?;
                Ok(builder.secret_text(secret))
            }
            (None, None, None, true) => Ok(builder.insecure_plaintext()),
            _ => {
                let what = "secret: there must be exactly one of secret, secret_env, secret_file and \
                            insecure_plaintext = true";
                Err(self.error(self.line_of("secret"), what.to_owned()))
            }
        }
    }

    fn error(&self, line: Option<usize>, what: String) -> FileError {
        let file = self.file.clone();
        FileError { file, line, what }
    }

    fn line_at(&self, byte: usize) -> usize {
        let before = self.text.as_bytes().iter().take(byte);
        1 + before.filter(|byte| **byte == b'\n').count()
    }

    /// Returns the line that sets `field`. Its name may have a suffix for the unit, or for the
    /// source of the value.
    fn line_of(&self, field: &str) -> Option<usize> {
        const SUFFIXES: [&str; 4] = ["", "_ms", "_env", "_file"];
        let names = SUFFIXES.map(|suffix| format!("{field}{suffix}"));
        let sets = |line: &str| {
            let name = line.split('=').next().unwrap_or_default().trim();
            names.iter().any(|known| known == name)
        };
        self.text.lines().position(sets).map(|line| line + 1)
    }
}

impl NodeFile {
    /// Applies all settings except the secret and the timing.
    fn apply(&self, mut builder: MeshBuilder) -> MeshBuilder {
        if let Some(listen) = &self.listen {
            builder = builder.listen(listen);
        }
        if let Some(advertise) = &self.advertise {
            builder = builder.advertise(advertise);
        }
        if let Some(seeds) = &self.seeds {
            builder = builder.seeds(seeds);
        }
        if let Some(voters) = &self.voters {
            builder = builder.voters(voters);
        }
        if let Some(voters_per_key) = self.voters_per_key {
            builder = builder.voters_per_key(voters_per_key);
        }
        if let Some(version) = self.voter_set_version {
            builder = builder.voter_set_version(version);
        }
        if let Some(cluster) = &self.cluster {
            builder = builder.cluster(cluster);
        }
        if self.bootstrap {
            builder = builder.bootstrap();
        }
        if let Some(ms) = self.ttl_ms {
            builder = builder.ttl(Duration::from_millis(ms));
        }
        if let Some(ms) = self.renew_interval_ms {
            builder = builder.renew_interval(Duration::from_millis(ms));
        }
        if let Some(ms) = self.try_timeout_ms {
            builder = builder.try_timeout(Duration::from_millis(ms));
        }
        if let Some(ms) = self.gossip_interval_ms {
            builder = builder.gossip_interval(Duration::from_millis(ms));
        }
        builder
    }
}

impl TimingFile {
    fn over(&self, preset: Timing) -> Timing {
        let span = |ms: Option<u64>, preset| ms.map_or(preset, Duration::from_millis);
        Timing {
            max_ttl: span(self.max_ttl_ms, preset.max_ttl),
            max_drift_ppm: self.max_drift_ppm.unwrap_or(preset.max_drift_ppm),
            max_clock_skew: span(self.max_clock_skew_ms, preset.max_clock_skew),
            round_trip: span(self.round_trip_ms, preset.round_trip),
            reservation: span(self.reservation_ms, preset.reservation),
            holder_probe_interval: span(
                self.holder_probe_interval_ms,
                preset.holder_probe_interval,
            ),
        }
    }
}
