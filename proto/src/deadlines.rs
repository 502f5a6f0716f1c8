//! The timers of many things of one kind.

use std::collections::BTreeSet;

use super::time::Instant;

/// A set of timers, at most one for each key. Each owner keeps the instant of its timer, so that an
/// entry takes no more memory than the instant and the key.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Deadlines<K>(BTreeSet<(Instant, K)>);

impl<K> Default for Deadlines<K> {
    fn default() -> Self {
        Self(BTreeSet::new())
    }
}

impl<K: Copy + Ord> Deadlines<K> {
    pub(crate) fn insert(&mut self, at: Instant, key: K) {
        self.0.insert((at, key));
    }

    pub(crate) fn remove(&mut self, at: Instant, key: K) {
        self.0.remove(&(at, key));
    }

    /// Moves the timer of `key`, which is set to `at`, and updates `at`.
    pub(crate) fn reset(&mut self, key: K, at: &mut Instant, to: Instant) {
        if *at != to {
            self.remove(*at, key);
            self.insert(to, key);
            *at = to;
        }
    }

    /// Returns the earliest timer.
    pub(crate) fn first(&self) -> Option<(Instant, K)> {
        self.0.first().copied()
    }

    /// Returns the key of the earliest timer if it is due.
    pub(crate) fn due(&self, now: Instant) -> Option<K> {
        let (at, key) = self.first()?;
        (at <= now).then_some(key)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reset_timer_is_due_at_its_new_instant() {
        let at = Instant::from_nanos;
        let mut deadlines = Deadlines::default();
        deadlines.insert(at(5), 'a');
        deadlines.insert(at(7), 'b');
        let mut timer = at(5);
        deadlines.reset('a', &mut timer, at(9));
        assert_eq!((timer, deadlines.first()), (at(9), Some((at(7), 'b'))));
        assert_eq!(
            (deadlines.due(at(6)), deadlines.due(at(7))),
            (None, Some('b'))
        );
        deadlines.remove(at(7), 'b');
        assert_eq!((deadlines.due(at(9)), deadlines.len()), (Some('a'), 1));
    }
}
