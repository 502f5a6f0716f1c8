//! The ticks of a schedule: instants of wall-clock time that are the same on every node.
//!
//! A [`Schedule`] decides when a job is due, and [`Mesh::once`](crate::Mesh::once) that one node runs
//! it. Both are independent: a tick is only a name.

#[cfg(feature = "cron")]
mod cron;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use thiserror::Error;

#[cfg(feature = "cron")]
use cron::CronTimes;

/// The shortest interval between two ticks.
const PERIOD_MIN: Duration = Duration::from_secs(1);
/// The longest sleep before the wall clock is read again, since it may be set.
const SLEEP_MAX: Duration = Duration::from_secs(10);
/// A tick is missed if it is older than this, in seconds: timers are late on a busy machine.
const LATE_SECS: u64 = 5;

/// An instant at which a job is due, in whole seconds of Unix time.
///
/// Its text is the name of the tick for [`Mesh::once`](crate::Mesh::once): the seconds since the Unix
/// epoch.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Tick(u64);

impl Tick {
    /// Returns the scheduled time.
    #[must_use]
    pub fn time(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.0)
    }

    /// Returns the scheduled time in seconds since the Unix epoch.
    #[must_use]
    pub fn unix_secs(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Tick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What [`Schedule::next`] does with ticks whose time has passed before it was called.
///
/// Ticks are missed while a job takes longer than the interval, while the machine is suspended, and
/// while no node runs, if the schedule begins [`since`](Schedule::since) an earlier time.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Missed {
    /// Leaves them out. A tick that is at most 5 s old is not missed, since timers may be late.
    Skip,
    /// Returns the latest of them, and leaves out those before it.
    #[default]
    RunLatest,
    /// Returns all of them, in order.
    RunAll,
}

/// The error returned if a schedule is not valid.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum ScheduleError {
    /// The interval is shorter than a second, or no whole number of seconds.
    #[error("the interval is {period:?}; it must be a whole number of seconds, at least 1")]
    Period {
        /// The interval.
        period: Duration,
    },
    /// The cron expression cannot be read.
    #[cfg(feature = "cron")]
    #[error("the cron expression {expression:?}: {reason}")]
    Cron {
        /// The expression.
        expression: String,
        /// The reason.
        reason: String,
    },
    /// The time zone is not known.
    #[cfg(feature = "cron")]
    #[error("the time zone {zone:?} is not known; use a name of the IANA database, or \"UTC\"")]
    Zone {
        /// The name.
        zone: String,
    },
}

/// The times of the ticks.
#[derive(Clone, Debug)]
enum Times {
    /// The multiples of so many seconds since the Unix epoch.
    Every(u64),
    #[cfg(feature = "cron")]
    Cron(Box<CronTimes>),
}

/// The ticks of a job, in order.
///
/// Two nodes with the same schedule return the same ticks, whenever they started. A schedule follows
/// the wall clock. If the clock is set back, no tick is returned twice: none is due until the clock
/// has passed the last one again. If it is set forward, the ticks between are missed.
///
/// No other clock corrects this one, so run NTP. A node whose clock is a day ahead returns tomorrow's
/// tick today, and voters grant it. [`Status::wall_clock`](crate::Status::wall_clock) reports such a
/// clock.
///
/// # Examples
///
/// ```no_run
/// # async fn report() {}
/// # async fn run(mesh: lockmesh::Mesh) -> Result<(), Box<dyn std::error::Error>> {
/// use lockmesh::{Outcome, Schedule};
/// use std::time::Duration;
///
/// let mut schedule = Schedule::every(Duration::from_secs(60 * 60))?;
/// loop {
///     let tick = schedule.next().await;
///     // Until it is known that the tick ran.
///     loop {
///         match mesh.once("report", tick).run(|_epoch| report()).await {
///             Ok(Outcome::Ran(()) | Outcome::AlreadyRan { .. }) => break,
///             Ok(_) => {} // another node still runs it
///             Err(error) => eprintln!("{error}"),
///         }
///         tokio::time::sleep(Duration::from_secs(1)).await;
///     }
/// }
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Schedule {
    times: Times,
    missed: Missed,
    /// The last tick that was returned or left out, in seconds.
    last: u64,
}

impl Schedule {
    /// Creates a schedule with a tick at every multiple of `period` since the Unix epoch. The first
    /// tick is in the future.
    ///
    /// So an interval of an hour ticks at each full hour, and one of a day at midnight UTC.
    ///
    /// # Errors
    /// [`ScheduleError::Period`] if `period` is shorter than a second, or no whole number of seconds.
    pub fn every(period: Duration) -> Result<Self, ScheduleError> {
        if period < PERIOD_MIN || period.subsec_nanos() > 0 {
            return Err(ScheduleError::Period { period });
        }
        Ok(Self::new(Times::Every(period.as_secs())))
    }

    /// Creates a schedule from a cron expression, such as `"30 3 * * MON-FRI"`, in a time zone of the
    /// IANA database, such as `"Europe/Berlin"`. The first tick is in the future.
    ///
    /// The crate `croner` reads the expression: five fields, six with seconds, or a nickname such as
    /// `@daily`.
    ///
    /// Changes of the clocks, as in Vixie cron: a fixed time that is skipped has its tick as soon as
    /// the gap is over. A fixed time that comes twice has its tick at the first of both. An
    /// expression with `*` in its minute or hour follows the clock on the wall instead: it has no
    /// tick within a gap, and one at each pass of a repeated time.
    ///
    /// # Errors
    /// - [`ScheduleError::Cron`] if the expression cannot be read.
    /// - [`ScheduleError::Zone`] if the time zone is not known.
    #[cfg(feature = "cron")]
    #[cfg_attr(docsrs, doc(cfg(feature = "cron")))]
    pub fn cron(expression: &str, zone: &str) -> Result<Self, ScheduleError> {
        let zone: chrono_tz::Tz = zone.parse().map_err(|_| ScheduleError::Zone {
            zone: zone.to_owned(),
        })?;
        let times = CronTimes::new(expression, zone).map_err(|error| ScheduleError::Cron {
            expression: expression.to_owned(),
            reason: error.to_string(),
        })?;
        Ok(Self::new(Times::Cron(Box::new(times))))
    }

    fn new(times: Times) -> Self {
        Self {
            times,
            missed: Missed::default(),
            last: unix_secs(SystemTime::now()),
        }
    }

    /// Sets what happens to missed ticks: the latest is returned by default.
    #[must_use]
    pub fn missed(mut self, missed: Missed) -> Self {
        self.missed = missed;
        self
    }

    /// Begins after `time` instead of now. Ticks between `time` and now are missed ticks.
    ///
    /// Use the time of the last run that is on record, so that a tick is not lost while no node runs.
    #[must_use]
    pub fn since(mut self, time: SystemTime) -> Self {
        self.last = unix_secs(time);
        self
    }

    /// Waits for the next tick and returns it. Missed ticks are returned at once.
    ///
    /// A cron expression that matches no further time waits forever.
    ///
    /// # Panics
    /// Panics outside a tokio runtime with timers.
    ///
    /// # Cancel safety
    /// This method is cancel safe: a later call returns the same tick, unless it is missed by then.
    pub async fn next(&mut self) -> Tick {
        loop {
            let now = SystemTime::now();
            if let Some(tick) = self.due(now) {
                return tick;
            }
            let Some(next) = self.after(self.last) else {
                return std::future::pending().await;
            };
            let next = UNIX_EPOCH.checked_add(Duration::from_secs(next));
            let wait = next.and_then(|next| next.duration_since(now).ok());
            // At least a millisecond, the resolution of the timer.
            let wait = wait.unwrap_or(SLEEP_MAX).max(Duration::from_millis(1));
            tokio::time::sleep(wait.min(SLEEP_MAX)).await;
        }
    }

    /// Returns the tick that is due at `now`, if there is one, and goes on to the next. This is what
    /// [`next`](Self::next) waits for, without a clock and without a runtime.
    pub fn due(&mut self, now: SystemTime) -> Option<Tick> {
        let now = unix_secs(now);
        let mut tick = self.after(self.last).filter(|tick| *tick <= now)?;
        match self.missed {
            Missed::RunAll => {}
            Missed::RunLatest => tick = self.latest(now).unwrap_or(tick),
            // The present tick is not missed.
            Missed::Skip => {
                let latest = self.latest(now).unwrap_or(tick);
                if latest + LATE_SECS < now {
                    self.last = latest;
                    return None;
                }
                tick = latest;
            }
        }
        self.last = tick;
        Some(Tick(tick))
    }

    /// Returns the first tick after a time, if there is one.
    fn after(&self, secs: u64) -> Option<u64> {
        match &self.times {
            Times::Every(period) => (secs / period + 1).checked_mul(*period),
            #[cfg(feature = "cron")]
            Times::Cron(times) => unsigned(times.after(i64::try_from(secs).ok()?)),
        }
    }

    /// Returns the last tick that is not after a time, if there is one.
    fn latest(&self, secs: u64) -> Option<u64> {
        match &self.times {
            Times::Every(period) => Some(secs / period * period),
            #[cfg(feature = "cron")]
            Times::Cron(times) => unsigned(times.latest(i64::try_from(secs).ok()?)),
        }
    }
}

#[cfg(feature = "cron")]
fn unsigned(secs: Option<i64>) -> Option<u64> {
    secs.and_then(|secs| secs.try_into().ok())
}

fn unix_secs(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
