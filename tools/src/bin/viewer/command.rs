//! The commands by which the page or a script changes the cluster.

use axum::http::StatusCode;
use lockmesh::Note;
use serde::Deserialize;

/// The longest delay of the links, in milliseconds.
pub(super) const DELAY_MAX_MS: u16 = 500;

/// One command: `{"do":"cut","from":0,"to":3,"both":true}`. Nodes are given by number.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Command {
    /// Blocks datagrams from one node to another, or in both directions.
    Cut { from: usize, to: usize, both: bool },
    /// Removes such a cut.
    Mend { from: usize, to: usize, both: bool },
    /// Cuts these nodes off from all others, and removes all other cuts.
    Split { side: Vec<usize> },
    /// Removes all faults of the links.
    Heal,
    /// Sets the percentage of datagrams that every link loses.
    Loss { percent: u8 },
    /// Sets the delay of every link, in milliseconds.
    Delay { ms: u16 },
    /// Pauses the node.
    Freeze { node: usize },
    /// Resumes the node.
    Resume { node: usize },
    /// Crashes the node, without notice to its peers.
    Crash { node: usize },
    /// Restarts the node without its state.
    Restart { node: usize },
    /// Requests the lock and waits in line.
    Acquire {
        node: usize,
        key: String,
        /// What the holder says that it is for.
        note: Option<Note>,
    },
    /// Requests the lock, unless another node holds it.
    Try {
        node: usize,
        key: String,
        note: Option<Note>,
    },
    /// Releases the lock, or withdraws the request.
    Release { node: usize, key: String },
}

impl Command {
    /// Returns the nodes that the command names.
    pub(super) fn nodes(&self) -> Vec<usize> {
        match self {
            Self::Cut { from, to, .. } | Self::Mend { from, to, .. } => vec![*from, *to],
            Self::Split { side } => side.clone(),
            Self::Freeze { node }
            | Self::Resume { node }
            | Self::Crash { node }
            | Self::Restart { node }
            | Self::Acquire { node, .. }
            | Self::Try { node, .. }
            | Self::Release { node, .. } => vec![*node],
            Self::Heal | Self::Loss { .. } | Self::Delay { .. } => Vec::new(),
        }
    }

    /// Checks the command for a cluster of `nodes` nodes.
    ///
    /// # Errors
    /// If a value is out of range. The message contains the value and its range.
    pub(super) fn check(&self, nodes: usize) -> Result<(), Refused> {
        if let Some(node) = self.nodes().into_iter().find(|node| *node >= nodes) {
            let last = nodes - 1;
            return Err(Refused::bad(format!(
                "node is {node}; it must be 0 to {last}"
            )));
        }
        let what = match self {
            Self::Cut { from, to, .. } | Self::Mend { from, to, .. } if from == to => {
                format!("a link from n{from} to itself")
            }
            Self::Split { side } if side.is_empty() || side.len() >= nodes => {
                format!(
                    "side names {} of {nodes} nodes; some must be left",
                    side.len()
                )
            }
            Self::Loss { percent } if *percent > 100 => {
                format!("percent is {percent}; it must be 0 to 100")
            }
            Self::Delay { ms } if *ms > DELAY_MAX_MS => {
                format!("ms is {ms}; it must be 0 to {DELAY_MAX_MS}")
            }
            _ => return Ok(()),
        };
        Err(Refused::bad(what))
    }
}

/// A rejected command. It has changed nothing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Refused(pub(super) StatusCode, pub(super) String);

impl Refused {
    /// The command is invalid.
    pub(super) fn bad(what: String) -> Self {
        Self(StatusCode::UNPROCESSABLE_ENTITY, what)
    }

    /// The command is impossible in the present state.
    pub(super) fn not_now(what: String) -> Self {
        Self(StatusCode::CONFLICT, what)
    }

    /// The command would exceed a limit.
    pub(super) fn too_many(what: String) -> Self {
        Self(StatusCode::TOO_MANY_REQUESTS, what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(text: &str) -> Command {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn command_json_is_parsed_strictly() {
        let cut = command(r#"{"do":"cut","from":0,"to":3,"both":true}"#);
        let (from, to, both) = (0, 3, true);
        assert_eq!(cut, Command::Cut { from, to, both });
        assert_eq!(command(r#"{"do":"heal"}"#), Command::Heal);
        for bad in [
            r#"{"do":"explode"}"#,
            r#"{"do":"freeze"}"#,
            r#"{"do":"freeze","node":-1}"#,
            r#"{"do":"freeze","node":1,"hard":true}"#,
            r#"{"do":"loss","percent":300}"#,
        ] {
            assert!(serde_json::from_str::<Command>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn command_out_of_range_error_names_range() {
        let words = |text: &str| command(text).check(5).unwrap_err().1;
        let node = r#"{"do":"crash","node":5}"#;
        assert_eq!(words(node), "node is 5; it must be 0 to 4");
        let itself = r#"{"do":"cut","from":2,"to":2,"both":false}"#;
        assert_eq!(words(itself), "a link from n2 to itself");
        let loss = r#"{"do":"loss","percent":101}"#;
        assert_eq!(words(loss), "percent is 101; it must be 0 to 100");
        let delay = r#"{"do":"delay","ms":501}"#;
        assert_eq!(words(delay), "ms is 501; it must be 0 to 500");
        for side in ["[]", "[0,1,2,3,4]"] {
            let text = format!(r#"{{"do":"split","side":{side}}}"#);
            assert!(words(&text).contains("of 5 nodes"));
        }
    }
}
