//! Which claims a session covers, in a few bytes that both sides can compare.

use serde::{Deserialize, Serialize};

use super::voter_set::mix;

/// How many parts there are: a difference says in which it is.
pub const PARTS: usize = 16;

/// A set of the parts of a [`Digest`]: a bit for each.
pub type Parts = u16;

/// The claims whose numbers fall into one part.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Part {
    /// How many there are.
    pub count: u32,
    /// Their mixed numbers, by exclusive or.
    pub sum: u32,
}

/// A digest of a set of claims of one node. It is advice for clearing up and decides about no vote,
/// so that two sets with one digest do no harm.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Digest {
    /// By the numbers of the claims.
    pub parts: [Part; PARTS],
}

impl Digest {
    /// The part that a claim with this number falls into.
    #[must_use]
    pub fn part_of(seq: u64) -> usize {
        (seq % PARTS as u64) as usize
    }

    /// Whether a claim with this number falls into one of these.
    #[must_use]
    pub fn is_in(parts: Parts, seq: u64) -> bool {
        parts >> Self::part_of(seq) & 1 == 1
    }

    /// Puts a claim in that is not in it.
    pub fn add(&mut self, seq: u64) {
        let part = &mut self.parts[Self::part_of(seq)];
        part.count = part.count.saturating_add(1);
        part.sum ^= mix(seq) as u32;
    }

    /// Takes a claim out that is in it.
    pub fn remove(&mut self, seq: u64) {
        let part = &mut self.parts[Self::part_of(seq)];
        part.count = part.count.saturating_sub(1);
        part.sum ^= mix(seq) as u32;
    }

    /// Whether no claim is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.parts.iter().all(|part| part.count == 0)
    }

    /// Where the other differs.
    #[must_use]
    pub fn differing(&self, other: &Self) -> Parts {
        self.compare(other, |own, other| own != other)
    }

    /// Where the other has more claims.
    #[must_use]
    pub fn lacking(&self, other: &Self) -> Parts {
        self.compare(other, |own, other| own.count < other.count)
    }

    fn compare(&self, other: &Self, is: impl Fn(&Part, &Part) -> bool) -> Parts {
        let both = self.parts.iter().zip(&other.parts).enumerate();
        both.fold(0, |parts, (at, (own, other))| {
            parts | Parts::from(is(own, other)) << at
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(seqs: impl IntoIterator<Item = u64>) -> Digest {
        let mut digest = Digest::default();
        seqs.into_iter().for_each(|seq| digest.add(seq));
        digest
    }

    #[test]
    fn a_set_has_one_digest_in_whatever_order_it_came_to_be() {
        let mut other = digest((0..1_000).rev());
        other.add(7_000);
        other.remove(7_000);
        assert_eq!(digest(0..1_000), other);
        (0..1_000).for_each(|seq| other.remove(seq));
        assert_eq!(other, Digest::default());
        assert!(other.is_empty() && !digest([3]).is_empty());
    }

    #[test]
    fn a_difference_says_where_it_is_and_who_has_less() {
        let (own, other) = (digest([1, 2, 3, 18]), digest([1, 3, 34]));
        let parts = own.differing(&other);
        assert_eq!(parts, 1 << 2);
        assert!(Digest::is_in(parts, 2) && Digest::is_in(parts, 34) && !Digest::is_in(parts, 3));
        assert_eq!((own.lacking(&other), other.lacking(&own)), (0, 1 << 2));
        // As many, but others.
        let other = digest([1, 3, 34, 50]);
        assert_eq!(own.differing(&other), 1 << 2);
        assert_eq!((own.lacking(&other), other.lacking(&own)), (0, 0));
    }
}
