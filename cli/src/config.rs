//! The configuration of a node: a file, the environment over it, and the options over both.

use std::ffi::OsString;
use std::fmt::{self, Write};
use std::path::{Path, PathBuf};

use lockmesh::observe::Observer;
use lockmesh::{ClusterSecrets, ConfigError, MeshBuilder, MeshConfig};

/// The directory that has the data directories of all nodes, if the environment names none.
const STATE_HOME: &str = "/var/lib";

/// The settings that differ between nodes. They replace those of the file and the environment.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Overrides {
    /// Name of this node.
    #[arg(long, value_name = "NAME")]
    node_id: Option<String>,
    /// UDP address to listen on.
    #[arg(long, value_name = "IP:PORT")]
    listen: Option<String>,
    /// Address at which peers reach this node.
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// Directory of this voter's journal, so that a restart costs no vote; "" for none. Default:
    /// $XDG_STATE_HOME/lockmesh/NAME, or /var/lib/lockmesh/NAME.
    // As text of the system: clap rejects an empty path.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<OsString>,
    /// Start a new cluster, whose voters vote at once. Never set it again once the cluster runs.
    #[arg(long)]
    bootstrap: bool,
}

impl Overrides {
    fn sets(&self, field: &str) -> bool {
        match field {
            "node_id" => self.node_id.is_some(),
            "listen" => self.listen.is_some(),
            "advertise" => self.advertise.is_some(),
            "data_dir" => self.data_dir.is_some(),
            _ => false,
        }
    }
}

/// An error in a file, and its line.
#[derive(Debug, thiserror::Error)]
#[error("{}:{} {what}", .file.display(), .line.map(|line| format!("{line}:")).unwrap_or_default())]
pub struct FileError {
    /// The path of the file.
    pub file: PathBuf,
    /// The line, counted from 1, if the error is in one.
    pub line: Option<usize>,
    /// The error.
    pub what: String,
}

/// An error in the configuration of a node.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeConfigError {
    /// An error in its file.
    #[error(transparent)]
    File(#[from] FileError),
    /// An error in an environment variable or an option, or a setting that is missing.
    #[error("{0}")]
    Outside(String),
}

/// The configuration of a node, with the text of its file, so that errors can name a line.
pub struct NodeConfig {
    file: Option<PathBuf>,
    text: String,
    options: Overrides,
    mesh: MeshConfig,
}

impl fmt::Debug for NodeConfig {
    /// Leaves the text out, since it may contain the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.mesh.fmt(f)
    }
}

impl NodeConfig {
    /// Reads the file, if there is one, the environment and the options. Values are checked when
    /// the node starts.
    ///
    /// # Errors
    /// - [`NodeConfigError::File`] if the file cannot be read, or has an unknown field or a value of
    ///   another type. The same if it refers to a variable that is not set.
    /// - [`NodeConfigError::Outside`] if an environment variable or an option is invalid.
    pub fn read(file: Option<&Path>, options: &Overrides) -> Result<Self, NodeConfigError> {
        let mut config = Self {
            file: file.map(Into::into),
            text: String::new(),
            options: options.clone(),
            mesh: MeshConfig::default(),
        };
        if let Some(file) = file {
            let text = std::fs::read_to_string(file);
            config.text =
                text.map_err(|error| config.error_at(None, format!("cannot be read: {error}")))?;
            config.mesh = toml::from_str(&config.text).map_err(|error| {
                let line = error.span().map(|span| config.line_at(span.start));
                config.error_at(line, error.message().to_owned())
            })?;
        }
        let env = MeshConfig::from_env();
        let env = env.map_err(|error| NodeConfigError::Outside(error.to_string()))?;
        let mut over = MeshConfig::default();
        over.node_id.clone_from(&options.node_id);
        over.listen.clone_from(&options.listen);
        over.advertise.clone_from(&options.advertise);
        over.bootstrap = options.bootstrap.then_some(true);
        over.data_dir = options.data_dir.clone().map(Into::into);
        let is_secret_of_file = env.secret_file.is_none();
        let is_dir_of_file = env.data_dir.is_none() && over.data_dir.is_none();
        let mesh = std::mem::take(&mut config.mesh).overlay(env).overlay(over);
        config.mesh = mesh.expand().map_err(|error| config.error(&error))?;
        let place = file.map(|file| file.with_file_name(""));
        let paths = [
            (is_secret_of_file, &mut config.mesh.secret_file),
            (is_dir_of_file, &mut config.mesh.data_dir),
        ];
        for (_, path) in paths.into_iter().filter(|(is_of_file, _)| *is_of_file) {
            if let (Some(place), Some(path)) = (&place, path)
                && !path.as_os_str().is_empty()
            {
                *path = place.join(&path);
            }
        }
        Ok(config)
    }

    /// Returns the settings of the node.
    ///
    /// # Errors
    /// [`NodeConfigError`] if the node has no name, or the secret does not have exactly one source
    /// that can be read. The variant is [`Outside`](NodeConfigError::Outside) if a variable or an
    /// option sets the value, or if there is no file. Otherwise it is
    /// [`File`](NodeConfigError::File).
    pub fn builder(&self) -> Result<MeshBuilder, NodeConfigError> {
        let builder = self.mesh.clone().into_builder();
        builder.map_err(|error| self.error(&error))
    }

    /// Reads the cluster's secrets, of which the first seals. `None` for plaintext.
    ///
    /// # Errors
    /// The errors of [`NodeConfig::builder`]. A missing name is no error.
    pub fn secrets(&self) -> Result<Option<ClusterSecrets>, NodeConfigError> {
        let secrets = self.mesh.read_secrets();
        secrets.map_err(|error| self.error(&error))
    }

    /// Returns an observer of the node's cluster.
    ///
    /// # Errors
    /// The errors of [`NodeConfig::builder`]. A missing name is no error.
    pub fn observer(&self) -> Result<Observer, NodeConfigError> {
        let observer = self.mesh.clone().into_observer();
        observer.map_err(|error| self.error(&error))
    }

    /// Returns the settings of a client beside the node, under this name.
    ///
    /// # Errors
    /// The errors of [`NodeConfig::builder`]. A missing name is no error.
    pub fn client(&self, node_id: impl Into<String>) -> Result<MeshBuilder, NodeConfigError> {
        let client = self.mesh.clone().into_client(node_id);
        client.map_err(|error| self.error(&error))
    }

    /// Returns the name of the node; `None` if no source sets it.
    #[must_use]
    pub fn node_id(&self) -> Option<&str> {
        self.mesh.node_id.as_deref()
    }

    /// Returns the data directory that `lockmesh node` uses by default; `None` if a source sets one,
    /// or sets that there is none.
    pub(crate) fn default_data_dir(&self) -> Option<PathBuf> {
        let name = self.node_id().filter(|_| self.mesh.data_dir.is_none())?;
        let home = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
        // Its specification says that a relative path is to be ignored.
        let home = home.filter(|home| home.is_absolute());
        let home = home.unwrap_or_else(|| STATE_HOME.into());
        Some(home.join("lockmesh").join(file_name(name)))
    }

    /// Returns an error of a setting, with the option, variable or line that sets it.
    #[must_use]
    pub fn error(&self, error: &ConfigError) -> NodeConfigError {
        let what = error.to_string();
        let field = what.split([':', ' ']).next().unwrap_or_default();
        let variable = field.replace('.', "_").to_ascii_uppercase();
        let variables = ["", "TIMING_"].map(|table| format!("LOCKMESH_{table}{variable}"));
        let is_set = |name: &&String| std::env::var_os(name).is_some_and(|it| !it.is_empty());
        let source = match self.options.sets(field) {
            true => Some(format!("--{}", field.replace('_', "-"))),
            false => variables.iter().find(is_set).cloned(),
        };
        match source {
            Some(source) => NodeConfigError::Outside(format!("{source}: {what}")),
            None => self.error_at(self.line_of(field), what),
        }
    }

    fn error_at(&self, line: Option<usize>, what: String) -> NodeConfigError {
        match self.file.clone() {
            Some(file) => FileError { file, line, what }.into(),
            None => NodeConfigError::Outside(what),
        }
    }

    fn line_at(&self, byte: usize) -> usize {
        let before = self.text.as_bytes().iter().take(byte);
        1 + before.filter(|byte| **byte == b'\n').count()
    }

    /// Returns the line that sets `field`. Its name may have a suffix for the source of the value.
    fn line_of(&self, field: &str) -> Option<usize> {
        let field = field.rsplit('.').next().unwrap_or_default();
        let sets = |line: &str| {
            let name = line.split('=').next().unwrap_or_default().trim();
            let suffix = name.strip_prefix(field);
            suffix.is_some_and(|it| ["", "_env", "_file"].contains(&it))
        };
        self.text.lines().position(sets).map(|line| line + 1)
    }
}

/// Returns a file name for a node. Different names have different ones: all bytes but letters,
/// digits, `_`, `-` and inner dots are replaced by `%` and two hexadecimal digits.
fn file_name(node: &str) -> String {
    let mut name = String::new();
    for byte in node.bytes() {
        let is_safe = byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
        if is_safe || byte == b'.' && !name.is_empty() {
            name.push(byte.into());
        } else {
            let _ = write!(name, "%{byte:02x}");
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_node_id_is_a_safe_file_name() {
        for (node, name) in [
            ("billing-0.eu_1", "billing-0.eu_1"),
            ("..", "%2e."),
            ("a/../b", "a%2f..%2fb"),
            ("a%2f", "a%252f"),
            ("zürich 1\n\0", "z%c3%bcrich%201%0a%00"),
        ] {
            assert_eq!(file_name(node), name);
        }
        assert!(file_name(&"\u{10ffff}".repeat(16)).len() < 255);
    }
}
