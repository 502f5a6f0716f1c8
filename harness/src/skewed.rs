//! A wall clock that is wrong.

use std::time::{Duration, SystemTime};

use lockmesh::{Clock, SystemClock};

/// The clock of this machine with a wall clock that is ahead or behind; see
/// [`MeshBuilder::clock`](lockmesh::MeshBuilder::clock).
#[derive(Clone, Copy, Debug, Default)]
pub struct SkewedClock {
    system: SystemClock,
    ahead_ms: i64,
}

impl SkewedClock {
    /// Creates a clock that is `ahead_ms` milliseconds ahead; behind if that is negative.
    #[must_use]
    pub fn new(ahead_ms: i64) -> Self {
        Self {
            system: SystemClock::new(),
            ahead_ms,
        }
    }
}

impl Clock for SkewedClock {
    fn monotonic(&self) -> Duration {
        self.system.monotonic()
    }

    fn wall(&self) -> SystemTime {
        let (now, skew) = (self.system.wall(), self.ahead_ms.unsigned_abs());
        let skew = Duration::from_millis(skew);
        let wrong = match self.ahead_ms {
            0.. => now.checked_add(skew),
            _ => now.checked_sub(skew),
        };
        wrong.unwrap_or(now)
    }
}
