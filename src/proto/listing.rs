//! The keys that a voter keeps, for people who want to see them: a page at a time.

use std::ops::Bound;

use super::id::Key;
use super::voter::Voter;

impl Voter {
    /// The keys that are held or waited for here, in order, from the first after `after` on. What
    /// each step costs does not depend on how many there are.
    pub fn keys_after(&self, after: Option<&Key>) -> impl Iterator<Item = &Key> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.slots
            .range::<Key, _>((from, Bound::Unbounded))
            .map(|(key, _)| key)
    }
}
