//! The bounds of the values in a scenario file. An error names the line of the value.

use std::ops::RangeInclusive;

use toml::Spanned;

use super::file::{BadScenario, Reader};
use super::format::{Ask, FaultAt, File, Net, TimingMs, Work};

/// The latest time and the longest duration: an hour.
const HOUR_MS: u64 = 3_600_000;
/// The longest delay of a link: ten seconds.
const LINK_US: u64 = 10_000_000;
const SPAN: RangeInclusive<u64> = 1..=HOUR_MS;

type Bound = (&'static str, u64, RangeInclusive<u64>);

/// Checks that every number is within its bounds.
///
/// # Errors
/// Returns [`BadScenario`] with the line of the first number that is not.
pub(super) fn check(
    reader: &Reader<'_>,
    file: &File,
    faults: &[Spanned<FaultAt>],
) -> Result<(), BadScenario> {
    all(reader, &file.timing, &timing(file.timing.as_ref()))?;
    if let Some(net) = &file.network {
        all(reader, net, &network(net.as_ref()))?;
        let Net {
            delay_us_min: min,
            delay_us_max: max,
            ..
        } = net.as_ref();
        if min > max {
            let what = format!("delay_us_min is {min}; it must not be above delay_us_max, {max}");
            return Err(reader.bad_key(net, "delay_us_min", what));
        }
    }
    if let Some(work) = &file.workload {
        all(reader, work, &workload(work.as_ref()))?;
    }
    for fault in faults {
        all(reader, fault, &of_fault(fault.as_ref()))?;
        if let Some((key, what)) = senseless(fault.as_ref()) {
            return Err(reader.bad_key(fault, key, what));
        }
    }
    for ask in &file.ask {
        all(reader, ask, &of_ask(ask.as_ref()))?;
        if ask.as_ref().hosts.is_empty() {
            return Err(reader.bad_key(ask, "hosts", "hosts is empty; name those that ask"));
        }
    }
    Ok(())
}

fn all<T>(reader: &Reader<'_>, table: &Spanned<T>, bounds: &[Bound]) -> Result<(), BadScenario> {
    let Some((key, value, range)) = bounds.iter().find(|(_, at, range)| !range.contains(at)) else {
        return Ok(());
    };
    let (min, max) = (range.start(), range.end());
    let what = format!("{key} is {value}; it must be {min} to {max}");
    Err(reader.bad_key(table, key, what))
}

fn timing(it: &TimingMs) -> Vec<Bound> {
    vec![
        ("round_trip_ms", it.round_trip_ms, 1..=HOUR_MS / 10),
        (
            "max_ttl_ms",
            it.max_ttl_ms,
            it.round_trip_ms.max(1) * 10..=HOUR_MS,
        ),
        ("max_clock_skew_ms", it.max_clock_skew_ms, 1..=it.max_ttl_ms),
        ("reservation_ms", it.reservation_ms, 1..=it.max_ttl_ms),
        (
            "holder_probe_interval_ms",
            it.holder_probe_interval_ms,
            1..=it.max_ttl_ms,
        ),
    ]
}

fn network(it: &Net) -> Vec<Bound> {
    vec![
        ("delay_us_min", it.delay_us_min, 0..=LINK_US),
        ("delay_us_max", it.delay_us_max, 0..=LINK_US),
        ("jitter_us", it.jitter_us, 0..=LINK_US),
    ]
}

fn workload(it: &Work) -> Vec<Bound> {
    vec![
        ("clients", it.clients as u64, 0..=1_000),
        ("rest_max_ms", it.rest_max_ms, 0..=HOUR_MS),
        ("hold_max_ms", it.hold_max_ms, 0..=HOUR_MS),
    ]
}

fn of_ask(it: &Ask) -> Vec<Bound> {
    vec![
        ("at_ms", it.at_ms, 0..=HOUR_MS),
        ("hold_ms", it.hold_ms, 0..=HOUR_MS),
    ]
}

fn of_fault(it: &FaultAt) -> Vec<Bound> {
    use FaultAt::{
        Between, Crash, Drift, Flap, OneWay, Pause, Slow, Split, Storm, Suspend, WallJump,
    };
    match it {
        Split { at_ms, for_ms, .. }
        | OneWay { at_ms, for_ms, .. }
        | Between { at_ms, for_ms, .. }
        | Storm { at_ms, for_ms, .. }
        | Crash { at_ms, for_ms, .. }
        | Pause { at_ms, for_ms, .. }
        | Suspend { at_ms, for_ms, .. } => {
            vec![("at_ms", *at_ms, 0..=HOUR_MS), ("for_ms", *for_ms, SPAN)]
        }
        Slow {
            at_ms,
            for_ms,
            by_ms,
            ..
        } => vec![
            ("at_ms", *at_ms, 0..=HOUR_MS),
            ("for_ms", *for_ms, SPAN),
            ("by_ms", *by_ms, SPAN),
        ],
        Flap {
            at_ms,
            every_ms,
            times,
            ..
        } => vec![
            ("at_ms", *at_ms, 0..=HOUR_MS),
            ("every_ms", *every_ms, SPAN),
            ("times", u64::from(*times), 1..=10_000),
        ],
        WallJump { at_ms, by_ms, .. } => vec![
            ("at_ms", *at_ms, 0..=HOUR_MS),
            ("by_ms", by_ms.unsigned_abs(), 1..=1_000 * HOUR_MS),
        ],
        // A clock at 10 % or 190 % of true time is broken enough.
        Drift {
            at_ms, rate_ppm, ..
        } => vec![
            ("at_ms", *at_ms, 0..=HOUR_MS),
            ("rate_ppm", rate_ppm.unsigned_abs(), 0..=900_000),
        ],
    }
}

/// Returns the key of a fault that would have no effect or cannot exist, and the reason.
fn senseless(it: &FaultAt) -> Option<(&'static str, String)> {
    match it {
        FaultAt::Split { groups, .. } => {
            // Hosts that are not named are in the first group.
            let others = groups.iter().skip(1).any(|group| !group.is_empty());
            let what = "groups must be two at least, as in [[0, 1], [2]]";
            (!others).then(|| ("groups", what.to_owned()))
        }
        FaultAt::OneWay { mute, .. } if mute.is_empty() => Some((
            "mute",
            "mute is empty; name those that are not heard".to_owned(),
        )),
        FaultAt::Between { hosts, .. } | FaultAt::Flap { hosts, .. } if hosts[0] == hosts[1] => {
            let what = format!("hosts names {} twice; a link has two ends", hosts[0]);
            Some(("hosts", what))
        }
        _ => None,
    }
}
