//! Schedules without a mesh. The oracle of cron expressions looks at each minute of a clock on the
//! wall.

use super::*;

const HOUR: u64 = 60 * 60;

fn at(secs: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(secs)
}

fn every(secs: u64) -> Schedule {
    Schedule::every(Duration::from_secs(secs)).unwrap()
}

/// Returns the ticks that are due at these times, at most one at each.
fn due(schedule: &mut Schedule, times: impl IntoIterator<Item = u64>) -> Vec<u64> {
    let ticks = times.into_iter().filter_map(|now| schedule.due(at(now)));
    ticks.map(Tick::unix_secs).collect()
}

/// Returns all ticks up to a time.
fn all(schedule: Schedule, from: u64, to: u64) -> Vec<u64> {
    let mut schedule = schedule.missed(Missed::RunAll).since(at(from));
    let ticks = std::iter::from_fn(|| schedule.due(at(to)));
    ticks.map(Tick::unix_secs).collect()
}

#[test]
fn interval_ticks_at_its_multiples() {
    assert_eq!(all(every(10), 95, 130), [100, 110, 120, 130]);
    assert_eq!(all(every(24 * HOUR), 0, 48 * HOUR), [24 * HOUR, 48 * HOUR]);
    let tick = every(10).since(at(95)).due(at(100)).unwrap();
    assert_eq!((tick.time(), tick.to_string()), (at(100), "100".to_owned()));
}

#[test]
fn first_tick_is_in_the_future() {
    let now = SystemTime::now();
    let mut schedule = every(1000);
    assert_eq!(schedule.due(now), None);
    let tick = schedule.due(now + Duration::from_secs(1001)).unwrap();
    assert!(tick.time() > now);
}

#[test]
fn interval_must_be_whole_seconds() {
    for period in [0, 1, 999, 1500].map(Duration::from_millis) {
        let error = Schedule::every(period).unwrap_err();
        assert_eq!(error, ScheduleError::Period { period });
    }
    let mut longest = Schedule::every(Duration::from_secs(u64::MAX)).unwrap();
    assert_eq!(longest.due(SystemTime::now()), None);
}

#[test]
fn long_job_is_followed_by_what_missed_says() {
    // The job of the tick 100 ends at 137. The next looks are at 137, 138 and 140.
    let run = |missed| {
        let mut schedule = every(10).missed(missed).since(at(95));
        due(&mut schedule, [100, 137, 138, 140])
    };
    assert_eq!(run(Missed::Skip), [100, 140]);
    assert_eq!(run(Missed::RunLatest), [100, 130, 140]);
    assert_eq!(run(Missed::RunAll), [100, 110, 120, 130]);
    assert_eq!(Missed::default(), Missed::RunLatest);
}

#[test]
fn skip_returns_a_tick_whose_timer_was_late() {
    let run = |now| every(60).missed(Missed::Skip).since(at(1)).due(at(now));
    assert_eq!(run(60 + LATE_SECS).map(Tick::unix_secs), Some(60));
    assert_eq!(run(60 + LATE_SECS + 1), None);
}

#[test]
fn since_makes_earlier_ticks_missed_ones() {
    let run = |missed| {
        let mut schedule = every(10).missed(missed).since(at(100));
        due(&mut schedule, [129; 4])
    };
    assert_eq!(run(Missed::RunLatest), [120]);
    assert_eq!(run(Missed::RunAll), [110, 120]);
    assert_eq!(run(Missed::Skip), [0; 0]);
    let before_the_epoch = UNIX_EPOCH - Duration::from_secs(5);
    let tick = every(10).since(before_the_epoch).due(at(10));
    assert_eq!(tick.map(Tick::unix_secs), Some(10));
}

#[test]
fn clock_that_is_set_returns_no_tick_twice() {
    let mut schedule = every(10).since(at(95));
    // Set back by 30 s after the tick 110, and forward by 60 s after the tick 120.
    let times = [100, 110, 80, 90, 100, 110, 119, 120, 185, 190];
    assert_eq!(due(&mut schedule, times), [100, 110, 120, 180, 190]);
}

#[tokio::test]
async fn next_waits_for_ticks_of_the_wall_clock() {
    let mut schedule = every(1);
    let first = schedule.next().await;
    let second = schedule.next().await;
    assert!(first < second && second.time() <= SystemTime::now());
}

#[tokio::test]
async fn next_that_is_dropped_loses_no_tick() {
    let mut schedule = every(1).missed(Missed::RunAll);
    let mut next = async || {
        loop {
            let next = schedule.next();
            if let Ok(tick) = tokio::time::timeout(Duration::from_millis(20), next).await {
                return tick.unix_secs();
            }
        }
    };
    let first = next().await;
    assert_eq!([next().await, next().await], [first + 1, first + 2]);
}

#[cfg(feature = "cron")]
mod cron {
    use super::*;

    use std::str::FromStr;

    use chrono::{DateTime, Offset, TimeZone, Utc};
    use chrono_tz::Tz;
    use proptest::prelude::*;

    const MINUTE: u64 = 60;
    /// The changes of the clocks: the zone, and a time of UTC some hours before.
    const CHANGES: [(&str, &str); 9] = [
        ("Europe/Berlin", "2026-03-28T22:00:00Z"),
        ("Europe/Berlin", "2026-10-24T22:00:00Z"),
        ("America/New_York", "2026-03-08T04:00:00Z"),
        ("America/New_York", "2026-11-01T03:00:00Z"),
        // By half an hour.
        ("Australia/Lord_Howe", "2026-04-04T12:00:00Z"),
        ("Australia/Lord_Howe", "2026-10-03T12:00:00Z"),
        // At midnight, so that the day begins at 1.
        ("Asia/Beirut", "2026-03-28T19:00:00Z"),
        // A day that did not exist.
        ("Pacific/Apia", "2011-12-30T06:00:00Z"),
        ("UTC", "2026-10-24T22:00:00Z"),
    ];
    const EXPRESSIONS: [&str; 13] = [
        "* * * * *",
        "*/15 * * * *",
        "@hourly",
        "30 * * * *",
        "30 2 * * *",
        "0 3 * * *",
        "30 1 * * *",
        "*/10 2 * * *",
        "0,30 1,2,3 * * *",
        "0-59 0-23 * * *",
        "@daily",
        "15 0 30 12 *",
        "0 12 * * SAT-SUN",
    ];

    fn secs(time: &str) -> u64 {
        let time: DateTime<Utc> = time.parse().unwrap();
        time.timestamp().try_into().unwrap()
    }

    fn cron(expression: &str, zone: &str) -> Schedule {
        Schedule::cron(expression, zone).unwrap()
    }

    /// Returns the ticks of a day and a half from a change of the clocks on, in local time.
    fn local(expression: &str, zone: &str, from: &str, hours: u64) -> Vec<String> {
        let from = secs(from);
        let zone_of: Tz = zone.parse().unwrap();
        let ticks = all(cron(expression, zone), from, from + hours * HOUR);
        let local = ticks.into_iter().map(|tick| {
            let local = zone_of.timestamp_opt(tick.try_into().unwrap(), 0);
            local.unwrap().format("%d %H:%M %z").to_string()
        });
        local.collect()
    }

    /// Returns the ticks after `from`, up to `to`, by a look at each minute.
    fn oracle(expression: &str, zone: &str, from: u64, to: u64) -> Vec<u64> {
        let zone: Tz = zone.parse().unwrap();
        let cron = croner::Cron::from_str(expression).unwrap();
        let follows_the_wall =
            expression == "@hourly" || expression.split(' ').take(2).any(|it| it.contains('*'));
        let reading = |at: u64| {
            let utc = DateTime::from_timestamp(at.try_into().unwrap(), 0).unwrap();
            let offset = zone.offset_from_utc_datetime(&utc.naive_utc()).fix();
            at.checked_add_signed(offset.local_minus_utc().into())
                .unwrap()
        };
        let matches = |reading: u64| {
            let reading = DateTime::from_timestamp(reading.try_into().unwrap(), 0).unwrap();
            cron.is_time_matching(&reading).unwrap()
        };
        // Earlier minutes, since the first pass of a time may be before `from`.
        let begin = from / MINUTE * MINUTE - 48 * HOUR;
        let mut highest = reading(begin);
        let mut ticks = Vec::new();
        for now in (begin + MINUTE..=to).step_by(60) {
            let reading = reading(now);
            let is_tick = match follows_the_wall {
                true => matches(reading),
                // A fixed time: the readings that are new, with those that were skipped.
                false => (highest + MINUTE..=reading).step_by(60).any(matches),
            };
            if is_tick && now > from {
                ticks.push(now);
            }
            highest = highest.max(reading);
        }
        ticks
    }

    #[test]
    fn skipped_hour_in_berlin() {
        let ticks = |expression| local(expression, "Europe/Berlin", "2026-03-29T00:20:00Z", 3);
        assert_eq!(ticks("30 2 * * *"), ["29 03:00 +0200"]);
        assert_eq!(ticks("0 3 * * *"), ["29 03:00 +0200"]);
        let hours = ["29 03:00 +0200", "29 04:00 +0200", "29 05:00 +0200"];
        assert_eq!(ticks("@hourly"), hours);
        let quarters = ticks("*/15 * * * *");
        let first = ["29 01:30 +0100", "29 01:45 +0100", "29 03:00 +0200"];
        assert_eq!(quarters[..3], first);
        assert_eq!(quarters.len(), 12);
        assert_eq!(ticks("*/15 2 * * *"), [""; 0]);
        // Several times of the gap are one tick.
        let both = ["29 03:00 +0200", "29 03:30 +0200"];
        assert_eq!(ticks("0,30 2,3 * * *"), both);
    }

    #[test]
    fn repeated_hour_in_berlin() {
        let ticks = |expression| local(expression, "Europe/Berlin", "2026-10-24T23:50:00Z", 3);
        assert_eq!(ticks("30 2 * * *"), ["25 02:30 +0200"]);
        assert_eq!(ticks("0 3 * * *"), ["25 03:00 +0100"]);
        let hours = ["25 02:00 +0200", "25 02:00 +0100", "25 03:00 +0100"];
        assert_eq!(ticks("@hourly"), hours);
        let quarters = ticks("*/15 * * * *");
        assert_eq!((quarters[4].as_str(), quarters.len()), (hours[1], 12));
        assert_eq!(ticks("*/30 2 * * *").len(), 4);
        assert_eq!(ticks("0,30 2 * * *"), [hours[0], "25 02:30 +0200"]);
    }

    #[test]
    fn changed_clocks_in_new_york() {
        let skipped = |expression| local(expression, "America/New_York", "2026-03-08T06:20:00Z", 2);
        assert_eq!(skipped("30 2 * * *"), ["08 03:00 -0400"]);
        assert_eq!(skipped("@hourly"), ["08 03:00 -0400", "08 04:00 -0400"]);
        let repeated =
            |expression| local(expression, "America/New_York", "2026-11-01T04:50:00Z", 3);
        assert_eq!(repeated("30 1 * * *"), ["01 01:30 -0400"]);
        assert_eq!(repeated("@hourly").len(), 3);
        assert_eq!(repeated("*/15 * * * *").len(), 12);
    }

    #[test]
    fn cron_without_a_match_is_never_due() {
        for expression in ["0 0 30 2 *", "0 0 31 4,6,9,11 *"] {
            let mut schedule = cron(expression, "Europe/Berlin");
            assert_eq!(due(&mut schedule, [0, 1_800_000_000]), [0; 0]);
            assert_eq!(schedule.latest(1_800_000_000), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn next_without_a_match_waits_for_good() {
        let mut schedule = cron("0 0 30 2 *", "UTC");
        let mut next = std::pin::pin!(schedule.next());
        let mut polls = 0;
        let counted = std::future::poll_fn(|cx| {
            polls += 1;
            next.as_mut().poll(cx)
        });
        let hour = tokio::time::timeout(Duration::from_secs(HOUR), counted).await;
        assert!(hour.is_err());
        // At the begin, and at the end of the hour.
        assert_eq!(polls, 2);
    }

    #[test]
    fn schedule_over_decades_rises() {
        for zone in ["Europe/Berlin", "America/New_York", "UTC"] {
            for (expression, count) in [("0 0 29 2 *", 32), ("0 0 1 1 *", 130)] {
                let from = secs("1970-06-01T00:00:00Z");
                let ticks = all(cron(expression, zone), from, secs("2100-06-01T00:00:00Z"));
                assert!(ticks.is_sorted_by(|one, two| one < two));
                assert_eq!(ticks.len(), count, "{expression} {zone}");
            }
        }
        // The ends of what croner, chrono and SystemTime know.
        for now in [
            0,
            95_617_584_000,
            95_617_584_001,
            8_210_266_876_799,
            9_000_000_000_000,
        ] {
            for expression in EXPRESSIONS {
                let schedule = cron(expression, "Europe/Berlin");
                let _ = schedule.clone().since(at(now)).due(at(now + HOUR));
                let _ = (schedule.after(now), schedule.latest(now));
            }
        }
        assert_eq!(cron("* * * * *", "UTC").after(u64::MAX), None);
        assert_eq!(cron("* * * * *", "UTC").latest(u64::MAX), None);
    }

    #[test]
    fn all_ticks_are_those_of_each_minute() {
        for (zone, from) in CHANGES {
            let from = secs(from);
            for expression in EXPRESSIONS {
                let to = from + 36 * HOUR;
                let ticks = all(cron(expression, zone), from, to);
                let expected = oracle(expression, zone, from, to);
                assert_eq!(ticks, expected, "{expression} in {zone} after {from}");
            }
        }
    }

    #[test]
    fn latest_agrees_with_after() {
        for (zone, from) in CHANGES {
            let from = secs(from);
            for expression in EXPRESSIONS {
                let schedule = cron(expression, zone);
                let ticks = all(schedule.clone(), from, from + 12 * HOUR);
                for now in (from..from + 12 * HOUR).step_by(1733) {
                    let before = ticks.iter().rfind(|tick| **tick <= now);
                    let latest = schedule.latest(now);
                    match before {
                        Some(_) => assert_eq!(latest.as_ref(), before, "{expression} {zone} {now}"),
                        None => assert!(latest.is_none_or(|latest| latest <= from)),
                    }
                    if let Some(latest) = latest {
                        // The tick before is followed by this one, and this one by none until now.
                        assert_eq!(schedule.after(latest - 1), Some(latest));
                        assert!(schedule.after(latest).is_none_or(|next| next > now));
                    }
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn ticks_due_at_any_times_rise_and_are_the_cluster_s(
            change in 0..CHANGES.len(),
            expression in 0..EXPRESSIONS.len(),
            missed in 0..3_usize,
            start in 0..20 * HOUR,
            times in proptest::collection::vec(0..30 * HOUR, 1..40),
        ) {
            let (zone, from) = CHANGES[change];
            let (from, expression) = (secs(from), EXPRESSIONS[expression]);
            let missed = [Missed::Skip, Missed::RunLatest, Missed::RunAll][missed];
            let mut schedule = cron(expression, zone).missed(missed).since(at(from + start));
            let ticks = due(&mut schedule, times.iter().map(|time| from + time));
            prop_assert!(ticks.is_sorted_by(|one, two| one < two));
            // Those of a node that started earlier, and missed none.
            let of_another = all(cron(expression, zone), from, from + 30 * HOUR);
            prop_assert!(ticks.iter().all(|tick| of_another.contains(tick)));
        }
    }

    #[test]
    fn seconds_are_a_sixth_field() {
        let ticks = all(cron("*/20 30 2 * * *", "UTC"), 0, 3 * HOUR);
        assert_eq!(ticks, [9000, 9020, 9040]);
    }

    #[test]
    fn bad_expressions_and_zones_are_errors() {
        for expression in ["", "61 * * * *", "* * *", "@never", "every hour"] {
            let error = Schedule::cron(expression, "UTC").unwrap_err();
            assert!(matches!(error, ScheduleError::Cron { .. }), "{error}");
            assert!(error.to_string().contains(expression));
        }
        let error = Schedule::cron("@daily", "Europe/Atlantis").unwrap_err();
        let zone = "Europe/Atlantis".to_owned();
        assert_eq!(error, ScheduleError::Zone { zone });
    }
}
