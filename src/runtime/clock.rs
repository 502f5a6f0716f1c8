//! The clocks of this machine.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lockmesh_proto::{Instant, Now};

/// The random bits of an incarnation: the low ten, about one millisecond.
const DRAWN: u64 = (1 << 10) - 1;

/// Reads the clocks of this machine.
///
/// Leases are measured by a clock that also counts time in which the machine was suspended:
/// `CLOCK_BOOTTIME` on Linux and Android. Elsewhere it is the monotonic clock of the standard
/// library. A process that was frozen or suspended past its lease finds the guard lost at the first
/// check.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    start: std::time::Instant,
    /// The offset of the wall clock in milliseconds. It is zero except in tests of wrong clocks.
    wall_offset_ms: i64,
    /// If set, tokio's clock replaces the machine's, since it can be paused: the start, and the
    /// wall time at the start.
    #[cfg(feature = "harness")]
    tokio: Option<(tokio::time::Instant, Duration)>,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self {
            #[cfg(not(any(target_os = "linux", target_os = "android")))]
            start: std::time::Instant::now(),
            wall_offset_ms: 0,
            #[cfg(feature = "harness")]
            tokio: None,
        }
    }

    /// Returns this clock with an offset of the wall clock, which may be negative.
    pub(crate) fn with_wall_offset_ms(mut self, wall_offset_ms: i64) -> Self {
        self.wall_offset_ms = wall_offset_ms;
        self
    }

    /// Returns a clock that follows tokio's clock, starting at the current wall time.
    #[cfg(feature = "harness")]
    pub(crate) fn of_tokio() -> Self {
        let mut clock = Self::new();
        clock.tokio = Some((tokio::time::Instant::now(), wall()));
        clock
    }

    pub(crate) fn now(self) -> Now {
        Now {
            mono: self.mono(),
            wall_ms: u64::try_from(self.wall().as_millis()).unwrap_or(u64::MAX),
        }
    }

    pub(crate) fn mono(self) -> Instant {
        #[cfg(feature = "harness")]
        if let Some((start, _)) = self.tokio {
            let nanos = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
            return Instant::from_nanos(nanos.saturating_add(1));
        }
        self.machine()
    }

    fn wall(self) -> Duration {
        let offset = Duration::from_millis(self.wall_offset_ms.unsigned_abs());
        match self.wall_offset_ms {
            0.. => self.machine_wall().saturating_add(offset),
            _ => self.machine_wall().saturating_sub(offset),
        }
    }

    fn machine_wall(self) -> Duration {
        #[cfg(feature = "harness")]
        if let Some((start, began)) = self.tokio {
            return began + start.elapsed();
        }
        wall()
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn machine(self) -> Instant {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
        let nanos = u64::try_from(time.tv_nsec).unwrap_or_default();
        Instant::from_nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn machine(self) -> Instant {
        // Adds one nanosecond, since an instant of zero stands for "never".
        let nanos = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Instant::from_nanos(nanos.saturating_add(1))
    }

    /// Returns the number of an incarnation that begins now: microseconds of wall time, with the
    /// low ten bits from `drawn`.
    ///
    /// The drawn bits keep two processes of one name from starting under one number. If the wall
    /// clock was set back, the number is too low. The node learns that from its peers and takes a
    /// higher one.
    pub(crate) fn incarnation(self, drawn: u64) -> u64 {
        let micros = u64::try_from(self.wall().as_micros()).unwrap_or(u64::MAX);
        micros & !DRAWN | drawn & DRAWN
    }
}

fn wall() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::io::Write;
    use std::process::Command;

    use rustix::time::ClockId;

    use super::*;

    /// Set if this test runs in a time namespace.
    const INSIDE: &str = "LOCKMESH_TEST_IN_TIME_NAMESPACE";
    const SHIFT: Duration = Duration::from_secs(100_000);

    fn read(id: ClockId) -> Duration {
        let time = rustix::time::clock_gettime(id);
        let seconds = u64::try_from(time.tv_sec).unwrap();
        Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap())
    }

    /// The two clocks differ only after a suspend, or in a time namespace that shifts one of them.
    #[test]
    fn clock_counts_suspended_time() {
        if std::env::var_os(INSIDE).is_some() {
            let before = read(ClockId::Boottime);
            let ours = Duration::from_nanos(Clock::new().mono().as_nanos());
            assert!(before <= ours && ours <= read(ClockId::Boottime));
            let ahead = ours.saturating_sub(read(ClockId::Monotonic));
            assert!(ahead > SHIFT - Duration::from_secs(60), "{ahead:?}");
            return;
        }
        let name = "runtime::clock::tests::clock_counts_suspended_time";
        let output = Command::new("unshare")
            .args(["--time", "--boottime", &SHIFT.as_secs().to_string()])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", name, "--test-threads=1"])
            .env(INSIDE, "1")
            .output();
        let (told, why) = match &output {
            Ok(output) => (
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr).into_owned(),
            ),
            Err(error) => ("".into(), format!("unshare: {error}")),
        };
        if told.is_empty() && why.starts_with("unshare: ") {
            // Not `eprintln!`, whose output is hidden if the test passes.
            let line = format!("SKIPPED: {name}: there is no time namespace here: {why}\n");
            std::io::stderr().write_all(line.as_bytes()).unwrap();
            return;
        }
        assert!(told.contains("1 passed"), "{told}{why}");
    }
}
