//! Links of a cluster in one process, to be disturbed by sentences.

use std::ops::Range;
use std::time::Duration;

use super::links::{Fault, Links};
use lockmesh_proto::id::NodeId;

/// Links of a [`LocalMesh`](super::LocalMesh), to be disturbed: `mesh.link(0, 1).loss(0.2)`. What
/// is said takes effect at once, on top of what was said before, and lasts until it is healed.
#[derive(Debug)]
pub struct Link<'a> {
    pub(super) links: &'a Links,
    pub(super) ends: Vec<(NodeId, NodeId)>,
}

impl Link<'_> {
    /// The share of datagrams that are lost.
    ///
    /// # Panics
    /// Where it is not 0.0 to 1.0.
    pub fn loss(self, share: f64) -> Self {
        let share = checked_share(share);
        self.change(|fault| fault.loss = share)
    }

    /// The share of datagrams that come twice.
    ///
    /// # Panics
    /// Where it is not 0.0 to 1.0.
    pub fn duplicate(self, share: f64) -> Self {
        let share = checked_share(share);
        self.change(|fault| fault.duplicate = share)
    }

    /// Datagrams come so much later, each by a span drawn evenly from the range: those that are
    /// delayed overtake each other.
    pub fn delay(self, span: Range<Duration>) -> Self {
        self.change(|fault| fault.delay = Some((span.start, span.end)))
    }

    /// Nothing passes.
    pub fn cut(self) -> Self {
        self.change(|fault| fault.cut = true)
    }

    /// Takes the cut away, and leaves what else is wrong with these links.
    pub fn mend(self) -> Self {
        self.change(|fault| fault.cut = false)
    }

    /// Takes away what is wrong with these links, cuts included.
    pub fn heal(self) -> Self {
        self.change(|fault| *fault = Fault::default())
    }

    fn change(self, change: impl Fn(&mut Fault)) -> Self {
        for (from, to) in &self.ends {
            self.links.change(from, to, &change);
        }
        self
    }
}

fn checked_share(share: f64) -> f64 {
    assert!(
        (0.0..=1.0).contains(&share),
        "a share of {share}; it must be 0.0 to 1.0"
    );
    share
}
