//! The sizes of a node's collections, for tests that memory is bounded.

use super::Node;

impl Node {
    /// Returns the name and the number of entries of each map and queue.
    #[must_use]
    pub fn sizes(&self) -> Vec<(&'static str, usize)> {
        let mut sizes = vec![
            ("peers", self.peers.len()),
            ("boot ids", self.seal.peers()),
            ("inspections", self.inspector.len()),
            ("lists of messages", self.outbox.len()),
            ("outputs", self.outputs.len()),
        ];
        sizes.extend(self.claimant.sizes());
        sizes.extend(self.voter.iter().flat_map(|voter| voter.sizes()));
        sizes
    }
}
