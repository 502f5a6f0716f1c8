//! Commands that look at a running mesh from beside it: over its own UDP port, as no member.

pub(crate) mod inspect;
pub(crate) mod status;

use std::fmt::Display;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use lockmesh::ClusterSecret;
use lockmesh::observe::Observer;

use crate::node::config::{Meeting, Source};

/// Nobody answered.
pub(crate) const NO_ANSWER: u8 = 1;
/// What is asked for cannot be: an option or the configuration.
pub(crate) const BAD_USAGE: u8 = 2;
/// A voter is missing, and every key still has a quorum.
const DEGRADED: u8 = 3;
/// Some keys, or the one that was asked for, have no quorum of voters.
const NO_QUORUM: u8 = 4;
/// Where the secret is taken from if nothing else is said.
const SECRET_VARIABLE: &str = "LOCKMESH_SECRET";

/// Which mesh, and by which secret.
#[derive(Args)]
pub(crate) struct Target {
    /// The configuration of one of its nodes, in TOML: names address, seeds and secret.
    #[arg(long, required_unless_present = "peer")]
    config: Option<PathBuf>,
    /// HOST:PORT of any of its nodes; may be given several times.
    #[arg(long, conflicts_with = "config")]
    peer: Vec<String>,
    /// The cluster's secret. Other users of this machine may see it in the list of processes:
    /// rather give --secret-env or --secret-file.
    #[arg(long, group = "sealed_by", conflicts_with = "config")]
    secret: Option<String>,
    /// The environment variable that has the cluster's secret; LOCKMESH_SECRET by default.
    #[arg(
        long,
        value_name = "NAME",
        group = "sealed_by",
        conflicts_with = "config"
    )]
    secret_env: Option<String>,
    /// The file that has the cluster's secret.
    #[arg(
        long,
        value_name = "FILE",
        group = "sealed_by",
        conflicts_with = "config"
    )]
    secret_file: Option<PathBuf>,
    /// The mesh is not sealed.
    #[arg(long, group = "sealed_by", conflicts_with = "config")]
    insecure_plaintext: bool,
    /// The cluster's name, if it is not "lockmesh".
    #[arg(long, value_name = "NAME", conflicts_with = "config")]
    cluster: Option<String>,
    /// How long each answer is waited for, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 2_000,
          value_parser = clap::value_parser!(u64).range(10..=60_000))]
    patience_ms: u64,
}

impl Target {
    /// What is wrong is said without the secret.
    pub(crate) fn observer(&self) -> Result<Observer, String> {
        let Meeting {
            peers,
            secret,
            cluster,
        } = match &self.config {
            Some(file) => {
                let source = Source::read(file).map_err(text)?;
                source.meeting().map_err(text)?
            }
            None => Meeting {
                peers: self.peer.clone(),
                secret: self.secret()?,
                cluster: self.cluster.clone(),
            },
        };
        let observer = match secret {
            Some(secret) => {
                let secret =
                    ClusterSecret::parse(&secret).map_err(|error| format!("secret: {error}"))?;
                Observer::sealed(peers, secret)
            }
            None => Observer::insecure_plaintext(peers),
        };
        let observer = match cluster {
            Some(cluster) => observer.cluster(cluster),
            None => observer,
        };
        Ok(observer.patience(Duration::from_millis(self.patience_ms)))
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

fn text(error: impl Display) -> String {
    error.to_string()
}

pub(crate) fn fail(code: u8, error: impl Display) -> ExitCode {
    eprintln!("lockmesh: {error}");
    ExitCode::from(code)
}

/// Text of others, as a terminal may show it: a key is any text, also one that would move the
/// cursor or turn the direction of writing.
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

pub(crate) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_does_not_reach_the_terminal_as_a_command_to_it() {
        assert_eq!(shown("invoice/42 ä"), "invoice/42 ä");
        assert_eq!(shown("a\u{1b}[2Jb\n"), "a\\u{1b}[2Jb\\u{a}");
        assert_eq!(shown("a\u{202e}b"), "a\\u{202e}b");
    }
}
