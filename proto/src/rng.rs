//! Jitter from a seed that was handed in.

use super::voter_set::mix;

/// SplitMix64 (Steele, Lea, Flood, 2014): eight bytes of state, good enough to spread repeats,
/// and the same for ever from the same seed. Nothing secret is drawn from it.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Jitter(u64);

impl Jitter {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `bound`; zero where `bound` is zero, and where the seed was.
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
    fn the_same_seed_gives_the_same_numbers_within_the_bound() {
        let (mut a, mut b) = (Jitter::new(7), Jitter::new(7));
        for bound in 0..1_000 {
            let drawn = a.below(bound);
            assert_eq!(drawn, b.below(bound));
            assert!(drawn < bound.max(1));
        }
    }
}
