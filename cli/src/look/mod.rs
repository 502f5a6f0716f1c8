//! Commands that look at a running mesh from beside it: over its own UDP port, as no member.

pub(crate) mod inspect;
pub(crate) mod status;

use std::fmt::Display;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use lockmesh::ClusterKey;
use lockmesh::observe::Observer;

use crate::node::config::{Meeting, Source};

/// Nobody answered.
pub(crate) const NO_ANSWER: u8 = 1;
/// What is asked for cannot be: an option or the configuration.
pub(crate) const BAD_USAGE: u8 = 2;
/// A voter is missing, and every key still has a majority.
const DEGRADED: u8 = 3;
/// Some keys, or the one that was asked for, have no majority of voters.
const NO_MAJORITY: u8 = 4;
/// Where the key is taken from if nothing else is said.
const KEY_VARIABLE: &str = "LOCKMESH_KEY";

/// Which mesh, and by which key.
#[derive(Args)]
pub(crate) struct Target {
    /// The configuration of one of its nodes, in TOML: names address, seeds and key.
    #[arg(long, required_unless_present = "peer")]
    config: Option<PathBuf>,
    /// HOST:PORT of any of its nodes; may be given several times.
    #[arg(long, conflicts_with = "config")]
    peer: Vec<String>,
    /// The cluster's key. Other users of this machine may see it in the list of processes: rather
    /// give --key-env or --key-file.
    #[arg(long, group = "secret", conflicts_with = "config")]
    key: Option<String>,
    /// The environment variable that has the cluster's key; LOCKMESH_KEY by default.
    #[arg(long, value_name = "NAME", group = "secret", conflicts_with = "config")]
    key_env: Option<String>,
    /// The file that has the cluster's key.
    #[arg(long, value_name = "FILE", group = "secret", conflicts_with = "config")]
    key_file: Option<PathBuf>,
    /// The mesh is not sealed.
    #[arg(long, group = "secret", conflicts_with = "config")]
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
    /// What is wrong is said without the key.
    pub(crate) fn observer(&self) -> Result<Observer, String> {
        let Meeting {
            peers,
            key,
            cluster,
        } = match &self.config {
            Some(file) => {
                let source = Source::read(file).map_err(text)?;
                source.meeting().map_err(text)?
            }
            None => Meeting {
                peers: self.peer.clone(),
                key: self.key()?,
                cluster: self.cluster.clone(),
            },
        };
        let observer = match key {
            Some(key) => {
                let key = ClusterKey::parse(&key).map_err(|error| format!("key: {error}"))?;
                Observer::sealed(peers, key)
            }
            None => Observer::insecure_plaintext(peers),
        };
        let observer = match cluster {
            Some(cluster) => observer.cluster(cluster),
            None => observer,
        };
        Ok(observer.patience(Duration::from_millis(self.patience_ms)))
    }

    fn key(&self) -> Result<Option<String>, String> {
        if self.insecure_plaintext {
            return Ok(None);
        }
        if let Some(key) = &self.key {
            return Ok(Some(key.clone()));
        }
        if let Some(file) = &self.key_file {
            let read = std::fs::read_to_string(file);
            return read
                .map(Some)
                .map_err(|error| format!("key-file: {} cannot be read: {error}", file.display()));
        }
        let variable = self.key_env.as_deref().unwrap_or(KEY_VARIABLE);
        std::env::var(variable).map(Some).map_err(|_| {
            format!(
                "key: the environment variable {variable} is not set, or is not Unicode; give \
                 --key-env, --key-file or --insecure-plaintext"
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
