//! Fault injection on the links of a cluster in one process.

use std::ops::Range;
use std::time::Duration;

use crate::links::{Fault, Links};

/// Links of a [`LocalMesh`](crate::LocalMesh) that were selected for fault injection, as in
/// `mesh.link(0, 1).loss(0.2)`.
///
/// A fault takes effect at once, keeps the other faults of these links, and lasts until it is
/// healed.
#[derive(Debug)]
pub struct Link<'a> {
    pub(crate) links: &'a Links,
    pub(crate) ends: Vec<(String, String)>,
}

impl Link<'_> {
    /// Sets the share of datagrams that are lost: 0.0 to 1.0.
    ///
    /// # Panics
    /// Panics if `share` is not between 0.0 and 1.0.
    pub fn loss(self, share: f64) -> Self {
        let share = checked_share(share);
        self.change(|fault| fault.loss = share)
    }

    /// Sets the share of datagrams that are delivered twice: 0.0 to 1.0.
    ///
    /// # Panics
    /// Panics if `share` is not between 0.0 and 1.0.
    pub fn duplicate(self, share: f64) -> Self {
        let share = checked_share(share);
        self.change(|fault| fault.duplicate = share)
    }

    /// Delays each datagram by a duration drawn uniformly from `span`. Delayed datagrams are
    /// reordered.
    pub fn delay(self, span: Range<Duration>) -> Self {
        self.change(|fault| fault.delay = Some((span.start, span.end)))
    }

    /// Blocks all datagrams.
    pub fn cut(self) -> Self {
        self.change(|fault| fault.cut = true)
    }

    /// Removes the cut, and keeps the other faults of these links.
    pub fn mend(self) -> Self {
        self.change(|fault| fault.cut = false)
    }

    /// Removes all faults of these links, cuts included.
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
