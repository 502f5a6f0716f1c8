//! The clocks of the nodes.
//!
//! True time belongs to the world, in nanoseconds from its beginning; no node can read it. A node
//! reads a monotonic clock with a rate and an origin of its own, and a wall clock that is off and
//! may jump.

use crate::proto::{Instant, Now};

/// The wall time at which the world begins, in milliseconds since the Unix epoch.
const WALL_START_MS: u64 = 1_760_000_000_000;
const MILLION: i128 = 1_000_000;

/// Returns the reading of a right wall clock at true time `at`, in milliseconds.
pub(crate) fn wall_ms(at: u64) -> u64 {
    WALL_START_MS + at / 1_000_000
}

/// The clocks of one node.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    /// The reading of the monotonic clock at `since`.
    base: u64,
    since: u64,
    /// The rate relative to true time, in parts per million; negative if slower.
    rate_ppm: i64,
    wall_off_ms: i64,
}

impl Clock {
    pub(crate) fn new(at: u64, base: u64, rate_ppm: i64, wall_off_ms: i64) -> Self {
        Self {
            base,
            since: at,
            rate_ppm,
            wall_off_ms,
        }
    }

    pub(crate) fn mono(&self, at: u64) -> Instant {
        let passed = i128::from(at.saturating_sub(self.since));
        let shown = passed * (MILLION + i128::from(self.rate_ppm)) / MILLION;
        Instant::from_nanos(self.base + shown as u64)
    }

    pub(crate) fn now(&self, at: u64) -> Now {
        let wall = wall_ms(at).saturating_add_signed(self.wall_off_ms);
        Now {
            mono: self.mono(at),
            wall_ms: wall,
        }
    }

    /// Returns the first true time at which the monotonic clock shows `reading`, or `None` if it
    /// never does.
    pub(crate) fn when(&self, reading: Instant) -> Option<u64> {
        if reading == Instant::FAR {
            return None;
        }
        let left = i128::from(reading.as_nanos().saturating_sub(self.base));
        let rate = MILLION + i128::from(self.rate_ppm);
        let passed = (left * MILLION + rate - 1) / rate;
        u64::try_from(passed).ok()?.checked_add(self.since)
    }

    /// Changes the rate from `at` on.
    pub(crate) fn set_rate(&mut self, at: u64, rate_ppm: i64) {
        self.base = self.mono(at).as_nanos();
        self.since = at;
        self.rate_ppm = rate_ppm;
    }

    pub(crate) fn jump_wall(&mut self, by_ms: i64) {
        self.wall_off_ms += by_ms;
    }

    /// Returns how far the wall clock is ahead of true time, in milliseconds.
    pub(crate) fn wall_off(&self) -> i64 {
        self.wall_off_ms
    }

    pub(crate) fn set_wall(&mut self, off_ms: i64) {
        self.wall_off_ms = off_ms;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_returns_first_time_of_a_reading() {
        for rate in [-400_000, -37, 0, 1, 999, 5_000, 400_000] {
            let clock = Clock::new(1_000, 77, rate, 0);
            for reading in [78, 1_000, 123_456_789, 98_765_432_101] {
                let reading = Instant::from_nanos(reading);
                let at = clock.when(reading).unwrap();
                assert!(clock.mono(at) >= reading);
                assert!(at == 1_000 || clock.mono(at - 1) < reading);
            }
        }
    }

    #[test]
    fn rate_change_never_sets_clock_back() {
        let mut clock = Clock::new(0, 5, 400_000, 0);
        let before = clock.mono(1_001);
        clock.set_rate(1_001, -400_000);
        assert_eq!(clock.mono(1_001), before);
        assert!(clock.mono(1_002) >= before);
    }

    #[test]
    fn far_instant_is_never_reached() {
        assert_eq!(Clock::new(0, 0, 0, 0).when(Instant::FAR), None);
    }
}
