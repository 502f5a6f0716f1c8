//! Jitter from a given seed.

use super::voter_set::mix;

/// SplitMix64 (Steele, Lea, Flood, 2014): eight bytes of state, and the same numbers for the same
/// seed. Good enough to spread retransmissions, not for secrets.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Jitter(u64);

impl Jitter {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns a number below `bound`; zero if `bound` or the seed is zero.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        if self.0 == 0 {
            return 0;
        }
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let wide = u128::from(mix(self.0)) * u128::from(bound);
        (wide >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_draws_same_numbers_within_bound() {
        let (mut a, mut b) = (Jitter::new(7), Jitter::new(7));
        for bound in 0..1_000 {
            let drawn = a.below(bound);
            assert_eq!(drawn, b.below(bound));
            assert!(drawn < bound.max(1));
        }
    }
}
