//! A digest of the claims that a session covers, for comparison by voter and claimant.

use serde::{Deserialize, Serialize};

use super::voter_set::mix;

/// The number of parts of a digest. A comparison shows in which parts two sets differ.
pub const DIGEST_PARTS: usize = 16;

/// A set of parts of a [`Digest`], one bit for each.
pub type DigestParts = u16;

/// The claims whose numbers fall into one part.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct DigestPart {
    /// The number of claims.
    pub count: u32,
    /// The exclusive or of the hashes of their numbers.
    pub sum: u32,
}

/// A digest of a set of claims of one node. It only decides which votes are sent again, so a
/// collision is harmless.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Digest {
    /// The parts. A claim belongs to part `seq % DIGEST_PARTS`.
    pub parts: [DigestPart; DIGEST_PARTS],
}

impl Digest {
    /// Returns the index of the part that contains a claim with this number.
    #[must_use]
    pub fn part_of(seq: u64) -> usize {
        (seq % DIGEST_PARTS as u64) as usize
    }

    /// Returns `true` if one of `parts` contains a claim with this number.
    #[must_use]
    pub fn is_in(parts: DigestParts, seq: u64) -> bool {
        parts >> Self::part_of(seq) & 1 == 1
    }

    /// Adds a claim, which must not be in the set.
    pub fn add(&mut self, seq: u64) {
        let part = &mut self.parts[Self::part_of(seq)];
        part.count = part.count.saturating_add(1);
        part.sum ^= mix(seq) as u32;
    }

    /// Removes a claim, which must be in the set.
    pub fn remove(&mut self, seq: u64) {
        let part = &mut self.parts[Self::part_of(seq)];
        part.count = part.count.saturating_sub(1);
        part.sum ^= mix(seq) as u32;
    }

    /// Returns `true` if the set is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.parts.iter().all(|part| part.count == 0)
    }

    /// Returns the parts in which the digests differ.
    #[must_use]
    pub fn differing(&self, other: &Self) -> DigestParts {
        self.compare(other, |own, other| own != other)
    }

    /// Returns the parts in which `other` has more claims.
    #[must_use]
    pub fn lacking(&self, other: &Self) -> DigestParts {
        self.compare(other, |own, other| own.count < other.count)
    }

    fn compare(&self, other: &Self, is: impl Fn(&DigestPart, &DigestPart) -> bool) -> DigestParts {
        let both = self.parts.iter().zip(&other.parts).enumerate();
        both.fold(0, |parts, (at, (own, other))| {
            parts | DigestParts::from(is(own, other)) << at
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
    fn digest_does_not_depend_on_order() {
        let mut other = digest((0..1_000).rev());
        other.add(7_000);
        other.remove(7_000);
        assert_eq!(digest(0..1_000), other);
        (0..1_000).for_each(|seq| other.remove(seq));
        assert_eq!(other, Digest::default());
        assert!(other.is_empty() && !digest([3]).is_empty());
    }

    #[test]
    fn differing_digests_yield_parts_and_lacks() {
        let (own, other) = (digest([1, 2, 3, 18]), digest([1, 3, 34]));
        let parts = own.differing(&other);
        assert_eq!(parts, 1 << 2);
        assert!(Digest::is_in(parts, 2) && Digest::is_in(parts, 34) && !Digest::is_in(parts, 3));
        assert_eq!((own.lacking(&other), other.lacking(&own)), (0, 1 << 2));
        // As many claims, but different ones.
        let other = digest([1, 3, 34, 50]);
        assert_eq!(own.differing(&other), 1 << 2);
        assert_eq!((own.lacking(&other), other.lacking(&own)), (0, 0));
    }
}
