//! How much a node keeps, by what it is: for tests of what grows.

use super::Node;

impl Node {
    /// Returns how many entries each of its maps and queues has, by name.
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
