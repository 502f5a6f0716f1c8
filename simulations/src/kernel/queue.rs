//! The events of a world, by time.

use std::collections::BTreeMap;

/// Events in the order of their times, and those of one time in the order in which they were
/// pushed.
#[derive(Debug)]
pub(crate) struct Queue<E> {
    events: BTreeMap<(u64, u64), E>,
    pushed: u64,
}

impl<E> Queue<E> {
    pub(crate) fn new() -> Self {
        Self {
            events: BTreeMap::new(),
            pushed: 0,
        }
    }

    pub(crate) fn push(&mut self, at: u64, event: E) {
        self.pushed += 1;
        self.events.insert((at, self.pushed), event);
    }

    /// Removes the first event, if it is not after `end`, and returns it with its time.
    pub(crate) fn pop_until(&mut self, end: u64) -> Option<(u64, E)> {
        let first = self.events.first_entry()?;
        let at = first.key().0;
        (at <= end).then(|| (at, first.remove()))
    }
}
