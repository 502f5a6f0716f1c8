//! Commands that observe a running mesh through its own UDP port, without being a member.

pub(crate) mod inspect;
pub(crate) mod status;

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use lockmesh::observe::{NodeSurvey, Observer, Survey};
use lockmesh::{ClusterSecrets, Note};

use lockmesh_cli::{NodeConfig, Overrides};

/// The exit code if no node answered.
const NO_ANSWER: u8 = 1;
/// The exit code for an invalid option or configuration.
const BAD_USAGE: u8 = 2;
/// The exit code if a voter is missing and every key still has a quorum.
const DEGRADED: u8 = 3;
/// The exit code if some keys, or the inspected one, have no quorum of voters.
const NO_QUORUM: u8 = 4;
/// The environment variable of the secret, if no option names a source.
const SECRET_VARIABLE: &str = "LOCKMESH_SECRET";

/// The mesh to observe, and its secret.
#[derive(Args)]
pub(crate) struct Target {
    /// Configuration file of one of its nodes, in TOML. It supplies address, seeds and secret.
    #[arg(long, required_unless_present = "peer")]
    config: Option<PathBuf>,
    /// HOST:PORT of any of its nodes; may be repeated.
    #[arg(long, conflicts_with = "config")]
    peer: Vec<String>,
    /// Cluster secret. Other users of this machine can see it in the process list: prefer
    /// --secret-env or --secret-file.
    #[arg(long, group = "sealed_by", conflicts_with = "config")]
    secret: Option<String>,
    /// Environment variable with the cluster secret; LOCKMESH_SECRET by default.
    #[arg(
        long,
        value_name = "NAME",
        group = "sealed_by",
        conflicts_with = "config"
    )]
    secret_env: Option<String>,
    /// File with the cluster secret. If it has several, one on each line, questions are sealed with
    /// the first.
    #[arg(
        long,
        value_name = "FILE",
        group = "sealed_by",
        conflicts_with = "config"
    )]
    secret_file: Option<PathBuf>,
    /// Use plaintext, for a mesh without a secret.
    #[arg(long, group = "sealed_by", conflicts_with = "config")]
    insecure_plaintext: bool,
    /// Cluster name, if it is not "lockmesh".
    #[arg(long, value_name = "NAME", conflicts_with = "config")]
    cluster: Option<String>,
    /// Longest wait for each answer, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 2_000,
          value_parser = clap::value_parser!(u64).range(10..=60_000))]
    patience_ms: u64,
}

impl Target {
    /// # Errors
    /// If a setting is invalid or cannot be read. The message does not contain the secret.
    pub(crate) fn observer(&self) -> Result<Observer, Failure> {
        let observer = match self.node_config()? {
            Some(config) => config.observer().map_err(bad_usage)?,
            None => {
                let (peers, text) = (&self.peer, self.secret().map_err(bad_usage)?);
                let secrets = text.as_deref().map(ClusterSecrets::parse).transpose();
                let secrets = secrets.map_err(|error| bad_usage(format!("secret: {error}")))?;
                let observer = match secrets {
                    Some(secrets) => Observer::sealed(peers, secrets),
                    None => Observer::insecure_plaintext(peers),
                };
                match &self.cluster {
                    Some(cluster) => observer.cluster(cluster),
                    None => observer,
                }
            }
        };
        Ok(observer.patience(Duration::from_millis(self.patience_ms)))
    }

    /// Returns how to recognize the node of the configuration, or the one at `--peer`.
    ///
    /// # Errors
    /// If the configuration cannot be read, or there is not exactly one peer that resolves.
    pub(crate) async fn own(&self) -> Result<Own, Failure> {
        if let Some(config) = self.node_config()? {
            let node = config.node_id();
            let node = node.ok_or_else(|| bad_usage("node_id: there is none"))?;
            return Ok(Own::Name(node.to_owned()));
        }
        let [peer] = self.peer.as_slice() else {
            return Err(bad_usage("peer: --ready asks one node; give one --peer"));
        };
        let addrs = tokio::net::lookup_host(peer).await;
        let unresolved = |error| bad_usage(format!("{peer:?} does not resolve: {error}"));
        let addrs = addrs.map_err(unresolved)?;
        Ok(Own::At(addrs.collect()))
    }

    fn node_config(&self) -> Result<Option<NodeConfig>, Failure> {
        let read = |file| NodeConfig::read(Some(file), &Overrides::default());
        let config = self.config.as_deref().map(read).transpose();
        config.map_err(bad_usage)
    }

    fn secret(&self) -> Result<Option<String>, String> {
        if self.insecure_plaintext {
            return Ok(None);
        }
        if let Some(secret) = &self.secret {
            return Ok(Some(secret.clone()));
        }
        if let Some(file) = &self.secret_file {
            let read = std::fs::read_to_string(file);
            return read.map(Some).map_err(|error| {
                format!("secret-file: {} cannot be read: {error}", file.display())
            });
        }
        let variable = self.secret_env.as_deref().unwrap_or(SECRET_VARIABLE);
        std::env::var(variable).map(Some).map_err(|_| {
            format!(
                "secret: the environment variable {variable} is not set, or is not Unicode; give \
                 --secret-env, --secret-file or --insecure-plaintext"
            )
        })
    }
}

/// The node that a probe asks about.
pub(crate) enum Own {
    Name(String),
    At(Vec<SocketAddr>),
}

impl Own {
    pub(crate) fn of<'a>(&self, survey: &'a Survey) -> Option<&'a NodeSurvey> {
        let is_own = |node: &&NodeSurvey| match self {
            Self::Name(name) => node.node.as_str() == name,
            Self::At(addrs) => node.addr.is_some_and(|addr| addrs.contains(&addr)),
        };
        survey.nodes.iter().find(is_own)
    }
}

/// The exit code of a failed command, and its error.
#[derive(Debug)]
pub(crate) struct Failure(pub(crate) u8, pub(crate) String);

pub(crate) fn bad_usage(error: impl Display) -> Failure {
    Failure(BAD_USAGE, error.to_string())
}

pub(crate) fn no_answer(error: impl Display) -> Failure {
    Failure(NO_ANSWER, error.to_string())
}

/// Escapes each character that would move the cursor or change the direction of writing. A key from
/// the mesh can be any text.
pub(crate) fn shown(name: &str) -> String {
    let turns = |c: char| {
        matches!(c, '\u{200e}' | '\u{200f}')
            || ('\u{202a}'..='\u{202e}').contains(&c)
            || ('\u{2066}'..='\u{2069}').contains(&c)
    };
    let is_safe = |c: char| !c.is_control() && !turns(c);
    let mut shown = String::with_capacity(name.len());
    for c in name.chars() {
        match is_safe(c) {
            true => shown.push(c),
            false => shown.extend(c.escape_unicode()),
        }
    }
    shown
}

/// Returns a note after a colon, or nothing.
pub(crate) fn with_colon(note: Option<&Note>) -> String {
    note.map_or_else(String::new, |note| format!(": {}", shown(note.as_str())))
}

pub(crate) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shown_key_escapes_terminal_control_characters() {
        assert_eq!(shown("invoice/42 ä"), "invoice/42 ä");
        assert_eq!(shown("a\u{1b}[2Jb\n"), "a\\u{1b}[2Jb\\u{a}");
        assert_eq!(shown("a\u{202e}b"), "a\\u{202e}b");
    }
}
