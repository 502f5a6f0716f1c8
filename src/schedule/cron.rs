//! The ticks of a cron expression in a time zone.
//!
//! `croner` decides which readings of a clock match, and only that: in local time, its search may
//! return a time that is not after its start, when an hour comes twice. So a reading is searched as
//! if it were UTC, and this file maps readings to Unix time.
//!
//! The mapping goes by stretches of Unix time in which the offset of the zone is the same. Within a
//! stretch, readings and Unix time differ by a constant, so ticks rise strictly.

use chrono::{DateTime, Offset, TimeZone, Utc};
use chrono_tz::Tz;
use croner::Cron;
use croner::errors::CronError;

/// More than the clocks of any zone were ever changed by, in seconds.
const WINDOW: i64 = 2 * 24 * 60 * 60;
/// No zone changes its offset twice within this, in seconds.
const PROBE: i64 = 6 * 60 * 60;

#[derive(Clone, Debug)]
pub(super) struct CronTimes {
    cron: Cron,
    zone: Tz,
    /// `true` if neither the minute nor the hour has a `*`.
    is_fixed: bool,
}

/// A stretch of time with one offset. All are in seconds.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    /// Its begin in Unix time.
    begin: i64,
    /// Its end in Unix time, exclusive.
    end: i64,
    /// A reading of the clock, less this, is Unix time.
    offset: i64,
    /// The offset before its begin. It is `offset` if the stretch is cut there.
    offset_before: i64,
    /// The offset after its end. It is `offset` if the stretch is cut there.
    offset_after: i64,
}

impl CronTimes {
    pub(super) fn new(expression: &str, zone: Tz) -> Result<Self, CronError> {
        let cron: Cron = expression.parse()?;
        let fields: Vec<&str> = expression.split_whitespace().collect();
        let is_fixed = match fields[..] {
            [nickname] => !nickname.eq_ignore_ascii_case("@hourly"),
            [minute, hour, _, _, _] | [_, minute, hour, ..] => {
                !(minute.contains('*') || hour.contains('*'))
            }
            _ => true,
        };
        Ok(Self {
            cron,
            zone,
            is_fixed,
        })
    }

    /// Returns the first tick after a time, if there is one.
    pub(super) fn after(&self, secs: i64) -> Option<i64> {
        let mut from = secs.checked_add(1)?;
        loop {
            let stretch = self.stretch(from)?;
            let first = match from == stretch.begin {
                true => self.first_reading(stretch),
                false => self.first_reading(stretch).max(from + stretch.offset),
            };
            let reading = self.reading_from(first);
            match reading {
                Some(reading) if reading < stretch.end + stretch.offset => {
                    return Some(stretch.tick(reading));
                }
                // Readings may come again after the end.
                _ if stretch.offset_after != stretch.offset => from = stretch.end,
                Some(reading) => from = stretch.end.max(reading - stretch.offset - WINDOW),
                None => return None,
            }
        }
    }

    /// Returns the last tick that is not after a time, if there is one.
    pub(super) fn latest(&self, secs: i64) -> Option<i64> {
        let mut to = secs;
        loop {
            let stretch = self.stretch(to)?;
            let reading = self.reading_to(to + stretch.offset);
            match reading {
                Some(reading) if reading >= self.first_reading(stretch) => {
                    return Some(stretch.tick(reading));
                }
                // Readings may have come before the begin too.
                _ if stretch.offset_before != stretch.offset => to = stretch.begin - 1,
                Some(reading) => to = (stretch.begin - 1).min(reading - stretch.offset + WINDOW),
                None => return None,
            }
        }
    }

    /// Returns the first reading of a stretch that may have a tick. For fixed times, it includes
    /// those that were skipped at the begin, and excludes those that came before.
    fn first_reading(&self, stretch: Stretch) -> i64 {
        stretch.begin
            + match self.is_fixed {
                true => stretch.offset_before,
                false => stretch.offset,
            }
    }

    /// Returns the stretch that contains a time. It is cut at a distance of [`WINDOW`].
    fn stretch(&self, at: i64) -> Option<Stretch> {
        let offset = self.offset(at)?;
        let (mut begin, mut end) = (at - WINDOW, at + WINDOW);
        let (mut offset_before, mut offset_after) = (offset, offset);
        for probe in (1..=WINDOW / PROBE).map(|n| n * PROBE) {
            if offset_before == offset && self.offset(at - probe)? != offset {
                begin = self.change(at - probe, at - probe + PROBE)?;
                offset_before = self.offset(begin - 1)?;
            }
            if offset_after == offset && self.offset(at + probe)? != offset {
                end = self.change(at + probe - PROBE, at + probe)?;
                offset_after = self.offset(end)?;
            }
        }
        Some(Stretch {
            begin,
            end,
            offset,
            offset_before,
            offset_after,
        })
    }

    /// Returns the first time with the offset of `after`, of a span in which the offset changes.
    fn change(&self, mut before: i64, mut after: i64) -> Option<i64> {
        let offset = self.offset(after)?;
        while after - before > 1 {
            let middle = before + (after - before) / 2;
            match self.offset(middle)? == offset {
                true => after = middle,
                false => before = middle,
            }
        }
        Some(after)
    }

    fn offset(&self, at: i64) -> Option<i64> {
        let at = DateTime::from_timestamp(at, 0)?.naive_utc();
        let offset = self.zone.offset_from_utc_datetime(&at).fix();
        Some(offset.local_minus_utc().into())
    }

    /// Returns the first reading that matches, from this one on.
    fn reading_from(&self, reading: i64) -> Option<i64> {
        let from: DateTime<Utc> = DateTime::from_timestamp(reading, 0)?;
        let next = self.cron.find_next_occurrence(&from, true).ok()?;
        Some(next.timestamp())
    }

    /// Returns the last reading that matches, up to this one.
    fn reading_to(&self, reading: i64) -> Option<i64> {
        let to: DateTime<Utc> = DateTime::from_timestamp(reading, 0)?;
        let last = self.cron.find_previous_occurrence(&to, true).ok()?;
        Some(last.timestamp())
    }
}

impl Stretch {
    /// Returns the tick of a reading. One that was skipped has it at the begin.
    fn tick(self, reading: i64) -> i64 {
        (reading - self.offset).max(self.begin)
    }
}
