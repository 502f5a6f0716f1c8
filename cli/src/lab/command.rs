//! What a user may do to the cluster, as a page or a script asks for it.

use std::fmt;

use serde::Deserialize;

/// The longest delay that may be laid on the links, in milliseconds.
pub(super) const DELAY_MAX_MS: u16 = 500;

/// One command: `{"do":"cut","from":0,"to":3,"both":true}`. Nodes are named by number.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Command {
    /// Nothing passes from one node to another, or between them.
    Cut { from: usize, to: usize, both: bool },
    /// Takes such a cut away.
    Mend { from: usize, to: usize, both: bool },
    /// Cuts these nodes off from all others, and takes all other cuts away.
    Split { side: Vec<usize> },
    /// Takes all faults of the links away.
    Heal,
    /// Every link loses so many of a hundred datagrams.
    Loss { percent: u8 },
    /// Every link is so much slower, in milliseconds.
    Delay { ms: u16 },
    /// The node stands still.
    Freeze { node: usize },
    /// It goes on.
    Resume { node: usize },
    /// It ends without a word.
    Crash { node: usize },
    /// It starts again, without its memory.
    Restart { node: usize },
    /// The node asks for the lock, and waits for its turn.
    Acquire { node: usize, key: String },
    /// The node asks for the lock, unless another has it.
    Try { node: usize, key: String },
    /// The node releases the lock, or no longer waits for it.
    Release { node: usize, key: String },
    /// Plays a split brain, step by step.
    Show,
}

impl Command {
    /// The nodes that it names.
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
            Self::Heal | Self::Loss { .. } | Self::Delay { .. } | Self::Show => Vec::new(),
        }
    }

    /// Whether such a command can be at all, among so many nodes.
    ///
    /// # Errors
    /// A sentence that names the value and its bounds.
    pub(super) fn check(&self, nodes: usize) -> Result<(), Refused> {
        if let Some(node) = self.nodes().into_iter().find(|node| *node >= nodes) {
            let last = nodes - 1;
            return Err(Refused::bad(format!(
                "node is {node}; it must be 0 to {last}"
            )));
        }
        match self {
            Self::Cut { from, to, .. } | Self::Mend { from, to, .. } if from == to => {
                Err(Refused::bad(format!("a link from n{from} to itself")))
            }
            Self::Split { side } if side.is_empty() || side.len() >= nodes => {
                Err(Refused::bad(format!(
                    "side names {} of {nodes} nodes; some must be left",
                    side.len()
                )))
            }
            Self::Loss { percent } if *percent > 100 => Err(Refused::bad(format!(
                "percent is {percent}; it must be 0 to 100"
            ))),
            Self::Delay { ms } if *ms > DELAY_MAX_MS => Err(Refused::bad(format!(
                "ms is {ms}; it must be 0 to {DELAY_MAX_MS}"
            ))),
            _ => Ok(()),
        }
    }
}

/// A command that was not done. Nothing has changed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Refused {
    pub(super) why: Why,
    pub(super) what: String,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Why {
    /// It can never be.
    Bad,
    /// It cannot be now.
    NotNow,
    /// There would be too many.
    TooMany,
}

impl Refused {
    pub(super) fn bad(what: String) -> Self {
        let why = Why::Bad;
        Self { why, what }
    }

    pub(super) fn not_now(what: String) -> Self {
        let why = Why::NotNow;
        Self { why, what }
    }

    pub(super) fn too_many(what: String) -> Self {
        let why = Why::TooMany;
        Self { why, what }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(text: &str) -> Command {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_command_is_read_as_it_is_written() {
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
    fn what_is_out_of_its_bounds_is_told_with_them() {
        let words = |text: &str| command(text).check(5).unwrap_err().to_string();
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
