//! Pages of the keys that are held or waited for at a voter, for observers.
//!
//! Keys are ordered by their short hash, then by name. All nodes use this order, and a voter's
//! index supports it. It does not change while locks come and go, so a key that stays is listed
//! exactly once.

use super::id::Key;
use super::voter::Voter;
use super::voter_set::short_hash;

/// The position of a key in the order of the pages.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Place {
    hash: u32,
    pub(crate) key: Key,
}

impl Place {
    pub(crate) fn of(key: Key) -> Self {
        let hash = short_hash(&key);
        Self { hash, key }
    }
}

impl Voter {
    /// Iterates over the keys that are held or waited for, in the order of the pages, starting
    /// after `after`. The cost of a step does not grow with the number of keys before it.
    pub(crate) fn keys_after(&self, after: Option<&Key>) -> impl Iterator<Item = &Key> {
        let hash = after.map_or(0, short_hash);
        let mut found = self.slots.since_hash(hash).peekable();
        // The keys of one hash, in descending order.
        let mut same: Vec<&Key> = Vec::new();
        let mut is_first = true;
        std::iter::from_fn(move || {
            while same.is_empty() {
                let (hash, key) = found.next()?;
                same.push(key);
                while let Some((_, key)) = found.next_if(|(next, _)| *next == hash) {
                    same.push(key);
                }
                same.sort_unstable_by(|a, b| b.cmp(a));
                if std::mem::take(&mut is_first)
                    && let Some(after) = after
                    && hash == short_hash(after)
                {
                    same.retain(|key| *key > after);
                }
            }
            same.pop()
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::epoch::Epoch;
    use crate::event::Effects;
    use crate::id::{ClaimId, Incarnation, NodeId};
    use crate::message::Claim;
    use crate::time::{Instant, Now};
    use crate::voter::{Start, VoterLimits};
    use crate::voter_set::{Timing, VoterSet};

    /// Two keys with one short hash.
    const SAME: [&str; 2] = ["k8996", "k96629"];

    fn voter(keys: &[&str]) -> Voter {
        let me = NodeId::new("v").unwrap();
        let voter_set = Arc::new(VoterSet::new(1, vec![me.clone()], 1, Timing::lan()).unwrap());
        let now = Now {
            mono: Instant::from_nanos(1),
            wall_ms: 1_700_000_000_000,
        };
        let (limits, mut out) = (VoterLimits::default(), Effects::default());
        let start = Start::NewCluster;
        let mut voter = Voter::new(now, me.clone(), voter_set, limits, start, 1, &mut out);
        for (seq, key) in (1..).zip(keys) {
            let claim = Claim {
                key: Key::new(key).unwrap(),
                claim: ClaimId {
                    node: me.clone(),
                    incarnation: Incarnation::new(1),
                    seq,
                },
                epoch: Epoch::new(seq),
                ttl: Duration::from_secs(5),
                sent_at: now.mono,
                votes_valid_since: Instant::ZERO,
                granted: true,
                is_try: false,
                join: false,
                outlives: false,
            };
            voter.handle_claim(now, &claim, &mut out);
        }
        voter
    }

    #[test]
    fn pages_list_every_key_once_in_order() {
        let names: Vec<String> = (0..100).map(|n| format!("key/{n}")).collect();
        let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
        names.extend(SAME);
        let voter = voter(&names);
        for page in 1..5 {
            let mut seen: Vec<Place> = Vec::new();
            loop {
                let after = seen.last().map(|last| last.key.clone());
                let keys = voter.keys_after(after.as_ref()).take(page);
                let keys: Vec<Place> = keys.cloned().map(Place::of).collect();
                if keys.is_empty() {
                    break;
                }
                seen.extend(keys);
            }
            assert_eq!(seen.len(), names.len());
            assert!(seen.is_sorted_by(|a, b| a < b));
        }
    }

    #[test]
    fn page_after_removed_key_starts_at_next() {
        let [a, b] = SAME.map(|key| Key::new(key).unwrap());
        assert_eq!(short_hash(&a), short_hash(&b));
        // The voter has only the second key of the hash.
        let (first, second) = (a.clone().min(b.clone()), a.max(b));
        let voter = voter(&[second.as_str()]);
        assert_eq!(voter.keys_after(Some(&first)).next(), Some(&second));
        assert_eq!(voter.keys_after(Some(&second)).next(), None);
    }
}
