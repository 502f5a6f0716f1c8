//! Random numbers that depend only on the seed.

/// SplitMix64 (Steele, Lea, Flood, 2014): eight bytes of state. Every part of the world draws from
/// a stream of its own, so that a left-out fault changes no earlier event.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    /// Creates the stream of a seed with this name.
    pub(crate) fn stream(seed: u64, name: &str) -> Self {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for byte in name.bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        Self(mix(seed ^ mix(hash)))
    }

    /// Creates another stream from the next draw.
    pub(crate) fn child(&mut self) -> Self {
        Self(self.draw())
    }

    pub(crate) fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Returns a number below `bound`, or zero if `bound` is zero.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.draw()) * u128::from(bound)) >> 64) as u64
    }

    /// Returns a number from `low` to `high`, both included.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low).saturating_add(1))
    }

    /// Returns a number from `low` to `high`. Every binary order of magnitude is equally likely.
    pub(crate) fn spread(&mut self, low: u64, high: u64) -> u64 {
        let (low, high) = (low.max(1), high.max(1));
        let bits = self.between(u64::from(low.ilog2()), u64::from(high.ilog2()));
        let start = 1_u64 << bits;
        self.between(start, start * 2 - 1).clamp(low, high.max(low))
    }

    pub(crate) fn chance(&mut self, ppm: u64) -> bool {
        self.below(1_000_000) < ppm
    }

    pub(crate) fn pick<'a, T>(&mut self, among: &'a [T]) -> &'a T {
        &among[self.below(among.len() as u64) as usize]
    }

    /// Returns `count` different numbers below `bound`, in random order.
    pub(crate) fn sample(&mut self, bound: usize, count: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..bound).collect();
        let count = count.min(bound);
        for at in 0..count {
            let other = self.between(at as u64, bound as u64 - 1) as usize;
            all.swap(at, other);
        }
        all.truncate(count);
        all
    }
}

/// The finalizer of SplitMix64.
pub(crate) fn mix(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_repeat_and_differ_by_name() {
        let mut a = Rng::stream(1, "network");
        let mut b = Rng::stream(1, "network");
        let mut c = Rng::stream(1, "faults");
        let drawn: Vec<u64> = (0..8).map(|_| a.draw()).collect();
        assert_eq!(drawn, (0..8).map(|_| b.draw()).collect::<Vec<_>>());
        assert_ne!(drawn, (0..8).map(|_| c.draw()).collect::<Vec<_>>());
    }

    #[test]
    fn draws_keep_their_bounds() {
        let mut rng = Rng::stream(2, "bounds");
        for _ in 0..10_000 {
            assert!((5..=9).contains(&rng.between(5, 9)));
            assert!((3..=1_000_000).contains(&rng.spread(3, 1_000_000)));
            let sample = rng.sample(7, 3);
            assert_eq!(sample.len(), 3);
            assert!(sample[0] != sample[1] && sample[1] != sample[2]);
        }
    }
}
