//! The seam to the clocks of the machine.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lockmesh_proto::{Instant, Now};

/// The random bits of an incarnation: the low ten, about one millisecond.
const DRAWN: u64 = (1 << 10) - 1;

/// The clocks that a [`Mesh`](crate::Mesh) reads.
///
/// [`SystemClock`] is used unless [`MeshBuilder::clock`](crate::MeshBuilder::clock) sets another
/// one. Both methods are called often and from any thread, and must not block.
///
/// The timers of a mesh are those of tokio. They decide when the mesh looks at the clock, at least
/// every 250 ms while it holds or awaits a lock. The clock alone decides what has expired.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Returns the time since a fixed instant. It never decreases, and it counts time in which the
    /// machine was suspended. Leases are measured by it.
    fn monotonic(&self) -> Duration;

    /// Returns the wall time. It may be wrong or be set back: the safety of locks does not depend
    /// on it, apart from the cases that `docs/protocol.md` names.
    fn wall(&self) -> SystemTime;
}

impl<C: Clock + ?Sized> Clock for Arc<C> {
    fn monotonic(&self) -> Duration {
        (**self).monotonic()
    }

    fn wall(&self) -> SystemTime {
        (**self).wall()
    }
}

/// The clocks of this machine.
///
/// Leases are measured by a clock that also counts time in which the machine was suspended:
/// `CLOCK_BOOTTIME` on Linux and Android. Elsewhere it is the monotonic clock of the standard
/// library. A process that was frozen or suspended past its lease finds the guard lost at the first
/// check.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    start: std::time::Instant,
}

impl SystemClock {
    /// Creates a clock.
    #[must_use]
    pub fn new() -> Self {
        Self {
            #[cfg(not(any(target_os = "linux", target_os = "android")))]
            start: std::time::Instant::now(),
        }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn monotonic(&self) -> Duration {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
        let nanos = u32::try_from(time.tv_nsec).unwrap_or_default();
        Duration::new(seconds, nanos)
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }
}

/// A clock in the units of the protocol.
#[derive(Clone, Debug)]
pub(crate) struct Time(Arc<dyn Clock>);

impl Time {
    pub(crate) fn of(clock: Arc<dyn Clock>) -> Self {
        Self(clock)
    }

    #[cfg(test)]
    pub(crate) fn system() -> Self {
        Self(Arc::new(SystemClock::new()))
    }

    pub(crate) fn now(&self) -> Now {
        Now {
            mono: self.mono(),
            wall_ms: u64::try_from(self.since_epoch().as_millis()).unwrap_or(u64::MAX),
        }
    }

    pub(crate) fn mono(&self) -> Instant {
        // Adds one nanosecond, since an instant of zero stands for "never".
        let nanos = u64::try_from(self.0.monotonic().as_nanos()).unwrap_or(u64::MAX);
        Instant::from_nanos(nanos.saturating_add(1))
    }

    fn since_epoch(&self) -> Duration {
        let wall = self.0.wall().duration_since(UNIX_EPOCH);
        wall.unwrap_or_default()
    }

    /// Returns the number of an incarnation that begins now: microseconds of wall time, with the
    /// low ten bits from `drawn`.
    ///
    /// The drawn bits keep two processes of one name from starting under one number. If the wall
    /// clock was set back, the number is too low. The node learns that from its peers and takes a
    /// higher one.
    pub(crate) fn incarnation(&self, drawn: u64) -> u64 {
        let micros = u64::try_from(self.since_epoch().as_micros()).unwrap_or(u64::MAX);
        micros & !DRAWN | drawn & DRAWN
    }
}

/// Tokio's clock, which a test can pause.
#[cfg(test)]
#[derive(Debug)]
pub(crate) struct TokioClock(tokio::time::Instant, SystemTime);

#[cfg(test)]
impl TokioClock {
    pub(crate) fn time() -> Time {
        Time::of(Arc::new(Self(
            tokio::time::Instant::now(),
            SystemTime::now(),
        )))
    }
}

#[cfg(test)]
impl Clock for TokioClock {
    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }

    fn wall(&self) -> SystemTime {
        self.1 + self.0.elapsed()
    }
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
            let ours = SystemClock::new().monotonic();
            assert!(before <= ours && ours <= read(ClockId::Boottime));
            let ahead = ours.saturating_sub(read(ClockId::Monotonic));
            assert!(ahead > SHIFT - Duration::from_secs(60), "{ahead:?}");
            return;
        }
        let name = "clock::tests::clock_counts_suspended_time";
        let output = Command::new("unshare")
            .args(["--time", "--boottime", &SHIFT.as_secs().to_string()])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", name, "--test-threads=1"])
            .env(INSIDE, "1")
            .output();
        let (stdout, stderr) = match &output {
            Ok(output) => (
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr).into_owned(),
            ),
            Err(error) => ("".into(), format!("unshare: {error}")),
        };
        if stdout.is_empty() && stderr.starts_with("unshare: ") {
            // Not `eprintln!`, whose output is hidden if the test passes.
            let line = format!("SKIPPED: {name}: there is no time namespace here: {stderr}\n");
            std::io::stderr().write_all(line.as_bytes()).unwrap();
            return;
        }
        assert!(stdout.contains("1 passed"), "{stdout}{stderr}");
    }
}
