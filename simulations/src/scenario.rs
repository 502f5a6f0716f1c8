//! Scenarios in files: nodes, timing, scheduled faults and requests, and the expected results.
//! `scenarios/README.md` documents the format.
//!
//! An unknown key or an invalid value is an error that names its line.

mod bounds;
mod format;

use std::time::Duration;

use lockmesh_proto::{NodeId, Timing, VoterLimits, VoterSet, VoterSetError};
use serde::Deserialize as _;
use toml::Spanned;

use crate::algorithms::Algorithm;
use crate::faults::{Cut, Fault, FaultKind, Target};
use crate::hazards::Hazards;
use crate::network::Weather;
use crate::settings::{Gossip, Habits, Incarnations, MILLISECOND, Pace, Settings};
use crate::workload::Wish;
use crate::world::{Outcome, World};

pub(crate) use format::Counted;
use format::{Ask, Expect, FaultAt, File, HolderWord, TimingMs, Who, Work};

/// The reason why a file cannot be played.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct BadScenario(pub(crate) String);

/// A scenario that can be played.
#[derive(Debug)]
pub(crate) struct Scenario {
    pub(crate) story: String,
    pub(crate) settings: Settings,
    pub(crate) faults: Vec<Fault>,
    pub(crate) asks: Vec<AskAt>,
    expects: Vec<Expect>,
}

/// A scheduled request, and how long its lock is held.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AskAt {
    pub(crate) at: u64,
    pub(crate) host: usize,
    pub(crate) wish: Wish,
    pub(crate) hold: u64,
}

const LATE: &str = "at_ms is after span_ms, when all is mended";

/// Finds the lines of errors in the text of a file.
struct Reader<'a> {
    text: &'a str,
}

impl Reader<'_> {
    fn bad<T>(&self, at: &Spanned<T>, what: impl std::fmt::Display) -> BadScenario {
        self.bad_at(at.span().start, what)
    }

    fn bad_at(&self, at: usize, what: impl std::fmt::Display) -> BadScenario {
        let before = self.text.get(..at).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        BadScenario(format!("line {line}: {what}"))
    }

    /// Returns an error at the line of a key of this table, or at the table if it has no such line.
    fn bad_key<T>(
        &self,
        table: &Spanned<T>,
        key: &str,
        what: impl std::fmt::Display,
    ) -> BadScenario {
        let is_key = |line: &str| {
            let after = line.trim_start().strip_prefix(key);
            after.is_some_and(|after| after.trim_start().starts_with('='))
        };
        self.bad_at(self.find_line(table, is_key), what)
    }

    /// Returns an error at the line of this table that has the word quoted in the message.
    fn bad_word<T>(&self, table: &Spanned<T>, what: &str) -> BadScenario {
        let word = what.split('`').nth(1).filter(|word| !word.is_empty());
        let has_it = |line: &str| word.is_some_and(|word| line.contains(word));
        self.bad_at(self.find_line(table, has_it), what)
    }

    /// Returns the offset of the first line of a table that matches, or of the table itself.
    fn find_line<T>(&self, table: &Spanned<T>, is_it: impl Fn(&str) -> bool) -> usize {
        let start = table.span().start;
        let rest = self.text.get(start..).unwrap_or_default();
        let mut at = start;
        for (number, line) in rest.split_inclusive('\n').enumerate() {
            if number > 0 && line.trim_start().starts_with('[') {
                return start;
            }
            if is_it(line) {
                return at;
            }
            at += line.len();
        }
        start
    }

    fn host<T>(&self, at: &Spanned<T>, hosts: &[usize], count: usize) -> Result<(), BadScenario> {
        match hosts.iter().find(|host| **host >= count) {
            Some(host) => Err(self.bad(
                at,
                format!("there is no host {host}, the last is {}", count - 1),
            )),
            None => Ok(()),
        }
    }
}

/// Reads a scenario.
///
/// # Errors
/// Returns [`BadScenario`] with the line if the file cannot be played.
pub(crate) fn read(text: &str) -> Result<Scenario, BadScenario> {
    let file: File = toml::from_str(text).map_err(|error| BadScenario(error.to_string()))?;
    let reader = Reader { text };
    let faults_at = faults_of(&reader, &file.fault)?;
    bounds::check(&reader, &file, &faults_at)?;
    let settings = settings_of(&reader, &file)?;
    let hosts = settings.hosts();
    let keys = settings.habits.keys;
    let span_ms = *file.cluster.as_ref().span_ms.as_ref();
    let mut faults = Vec::new();
    for fault in &faults_at {
        let (at, kind, named) = kind_of(fault.as_ref(), hosts);
        reader.host(fault, &named, hosts)?;
        if at * MILLISECOND > settings.fault_span {
            return Err(reader.bad_key(fault, "at_ms", LATE));
        }
        faults.push(Fault {
            at: at * MILLISECOND,
            kind: kind.map_err(|what| reader.bad(fault, what))?,
        });
    }
    faults.sort_by_key(|fault| fault.at);
    let mut asks = Vec::new();
    for ask in &file.ask {
        let it = ask.as_ref();
        reader.host(ask, &it.hosts, hosts)?;
        let (min, max) = (settings.timing.min_ttl(), settings.timing.max_ttl);
        let ttl = Duration::from_millis(it.ttl_ms);
        if ttl < min || ttl > max {
            let what = format!("ttl_ms is {}; it must be {min:?} to {max:?}", it.ttl_ms);
            return Err(reader.bad_key(ask, "ttl_ms", what));
        }
        if it.key >= keys {
            let what = format!("there is no key {}; there are {keys}, from 0 on", it.key);
            return Err(reader.bad_key(ask, "key", what));
        }
        if it.at_ms * MILLISECOND > settings.fault_span {
            return Err(reader.bad_key(ask, "at_ms", LATE));
        }
        asks.extend(it.hosts.iter().map(|host| ask_of(it, *host)));
    }
    for expect in &file.expect {
        let it = expect.as_ref();
        reader.host(expect, it.hosts.as_deref().unwrap_or_default(), hosts)?;
        if let Some(max) = it.max.filter(|max| *max < it.min) {
            let what = format!("max is {max}, below min, {}: nothing can meet this", it.min);
            return Err(reader.bad_key(expect, "max", what));
        }
        let end = it.to_ms.unwrap_or(span_ms);
        if end <= it.from_ms || end > span_ms {
            let what = format!(
                "from {} ms to {end} ms is no part of 0 to span_ms",
                it.from_ms
            );
            let key = if it.to_ms.is_some() {
                "to_ms"
            } else {
                "from_ms"
            };
            return Err(reader.bad_key(expect, key, what));
        }
    }
    Ok(Scenario {
        story: file.story,
        settings,
        faults,
        asks,
        expects: file.expect.into_iter().map(Spanned::into_inner).collect(),
    })
}

/// Reads the faults one by one: otherwise an error would name the line of the first one.
fn faults_of(
    reader: &Reader<'_>,
    tables: &[Spanned<toml::Table>],
) -> Result<Vec<Spanned<FaultAt>>, BadScenario> {
    let faults = tables.iter().map(|table| {
        let fault = FaultAt::deserialize(table.as_ref().clone());
        let fault = fault.map_err(|error| reader.bad_word(table, error.message()))?;
        Ok(Spanned::new(table.span(), fault))
    });
    faults.collect()
}

fn ask_of(it: &Ask, host: usize) -> AskAt {
    AskAt {
        at: it.at_ms * MILLISECOND,
        host,
        wish: Wish {
            key: it.key,
            ttl: it.ttl_ms * MILLISECOND,
            is_try: it.is_try,
            renews: it.renews,
            outlives: false,
            patience: None,
        },
        hold: it.hold_ms * MILLISECOND,
    }
}

fn settings_of(reader: &Reader<'_>, file: &File) -> Result<Settings, BadScenario> {
    let cluster = file.cluster.as_ref();
    let members = *cluster.members.as_ref();
    if !(1..=101).contains(&members) {
        return Err(reader.bad(&cluster.members, "members must be 1 to 101"));
    }
    if cluster.outsiders > 100 {
        return Err(reader.bad_key(&file.cluster, "outsiders", "outsiders must be 0 to 100"));
    }
    if !(1..=3_600_000).contains(cluster.span_ms.as_ref()) {
        return Err(reader.bad(&cluster.span_ms, "span_ms must be 1 to 3600000"));
    }
    let timing = timing_of(file.timing.as_ref());
    let voters = *cluster.voters_per_key.as_ref();
    check_voter_set(reader, file, members, voters, timing)?;
    let net = file.network.as_ref().map(Spanned::as_ref);
    let net = net.copied().unwrap_or_default();
    Ok(Settings {
        seed: file.seed,
        algorithm: Algorithm::default(),
        is_sealed: cluster.sealed,
        is_recorded: false,
        members,
        outsiders: cluster.outsiders,
        voters_per_key: voters,
        timing,
        pace: if cluster.clocks_kept {
            Pace::Kept
        } else {
            Pace::Wild(0)
        },
        wall_off_max_ms: 0,
        weather: Weather {
            loss_ppm: net.loss_percent.ppm(),
            double_ppm: net.double_percent.ppm(),
            damage_ppm: net.damage_percent.ppm(),
            late_ppm: 0,
            late_max: 1,
            jitter: net.jitter_us * 1_000,
        },
        delay: (net.delay_us_min * 1_000, net.delay_us_max * 1_000),
        gossip: if cluster.hostile_gossip {
            Gossip::Hostile
        } else {
            Gossip::Honest
        },
        incarnations: Incarnations::Counted,
        starts_new: !cluster.starts_in_quarantine,
        other_set: None,
        has_twins: false,
        wrong_clocks: None,
        has_namesakes: false,
        fault_span: *cluster.span_ms.as_ref() * MILLISECOND,
        habits: habits_of(reader, file.workload.as_ref().map(Spanned::as_ref))?,
        limits: VoterLimits::default(),
        renew_interval: None,
        hazards: Hazards::default(),
    })
}

fn check_voter_set(
    reader: &Reader<'_>,
    file: &File,
    members: usize,
    voters: usize,
    timing: Timing,
) -> Result<(), BadScenario> {
    let names = (0..members).filter_map(|at| NodeId::new(format!("n{at}")).ok());
    let voter_set = VoterSet::new(1, names.collect(), voters, timing);
    voter_set.map(|_| ()).map_err(|error| match error {
        VoterSetError::VotersPerKey { .. } => {
            reader.bad(&file.cluster.as_ref().voters_per_key, error)
        }
        VoterSetError::OutOfBounds { field, .. } => {
            reader.bad_key(&file.timing, &format!("{field}_ms"), error)
        }
        VoterSetError::Drift { .. } => reader.bad_key(&file.timing, "max_drift_ppm", error),
        error => reader.bad(&file.cluster, error),
    })
}

fn timing_of(it: &TimingMs) -> Timing {
    Timing {
        max_ttl: Duration::from_millis(it.max_ttl_ms),
        max_drift_ppm: it.max_drift_ppm,
        max_clock_skew: Duration::from_millis(it.max_clock_skew_ms),
        round_trip: Duration::from_millis(it.round_trip_ms),
        reservation: Duration::from_millis(it.reservation_ms),
        holder_probe_interval: Duration::from_millis(it.holder_probe_interval_ms),
    }
}

fn habits_of(reader: &Reader<'_>, it: Option<&Work>) -> Result<Habits, BadScenario> {
    let nobody = Work::default();
    let it = it.unwrap_or(&nobody);
    let keys = it.keys.as_ref().map_or(1, |keys| *keys.as_ref());
    if let Some(at) = &it.keys
        && !(1..=1_000).contains(&keys)
    {
        return Err(reader.bad(at, "keys must be 1 to 1000"));
    }
    Ok(Habits {
        clients: it.clients,
        keys,
        rest_max: it.rest_max_ms.max(1) * MILLISECOND,
        hold_max: it.hold_max_ms.max(1) * MILLISECOND,
        work_max: 0,
        try_ppm: it.try_percent.ppm(),
        renew_ppm: it.renew_percent.ppm(),
        withdraw_ppm: it.withdraw_percent.ppm(),
        deadline_ppm: 0,
        extend_ppm: 0,
        tick_ppm: 0,
    })
}

/// Returns the time of a fault in milliseconds, its kind, and the hosts that it names.
fn kind_of(it: &FaultAt, hosts: usize) -> (u64, Result<FaultKind, String>, Vec<usize>) {
    let ns = |ms: &u64| *ms * MILLISECOND;
    match it {
        FaultAt::Split {
            at_ms,
            for_ms,
            groups,
        } => {
            let cut = split(groups, hosts).map(|cut| FaultKind::Cut {
                cut,
                span: ns(for_ms),
            });
            (*at_ms, cut, groups.concat())
        }
        FaultAt::OneWay {
            at_ms,
            for_ms,
            mute,
        } => {
            let cut = Cut::OneWay(mute.clone());
            let span = ns(for_ms);
            (*at_ms, Ok(FaultKind::Cut { cut, span }), mute.clone())
        }
        FaultAt::Between {
            at_ms,
            for_ms,
            hosts,
        } => {
            let cut = Cut::Between(hosts[0], hosts[1]);
            let span = ns(for_ms);
            (*at_ms, Ok(FaultKind::Cut { cut, span }), hosts.to_vec())
        }
        FaultAt::Flap {
            at_ms,
            every_ms,
            times,
            hosts,
        } => {
            let flap = FaultKind::Flap {
                cut: Cut::Between(hosts[0], hosts[1]),
                half: ns(every_ms),
                times: *times,
            };
            (*at_ms, Ok(flap), hosts.to_vec())
        }
        FaultAt::Storm {
            at_ms,
            for_ms,
            loss_percent,
        } => {
            let storm = FaultKind::Storm {
                loss_ppm: loss_percent.ppm(),
                span: ns(for_ms),
            };
            (*at_ms, Ok(storm), Vec::new())
        }
        other => kind_of_host(other),
    }
}

fn kind_of_host(it: &FaultAt) -> (u64, Result<FaultKind, String>, Vec<usize>) {
    let target = |who: &Who| match who {
        Who::Host(host) => (Target::Host(*host), vec![*host]),
        Who::Holder(HolderWord::Holder) => (Target::HolderOr(0), Vec::new()),
    };
    match it {
        FaultAt::Slow {
            at_ms,
            for_ms,
            host,
            by_ms,
        } => {
            let slow = FaultKind::Slow {
                host: *host,
                by: *by_ms * MILLISECOND,
                span: *for_ms * MILLISECOND,
            };
            (*at_ms, Ok(slow), vec![*host])
        }
        FaultAt::Crash {
            at_ms,
            for_ms,
            host,
        } => {
            let (target, named) = target(host);
            let crash = FaultKind::Crash {
                target,
                down: *for_ms * MILLISECOND,
                says_new: false,
                moves: false,
            };
            (*at_ms, Ok(crash), named)
        }
        FaultAt::Pause {
            at_ms,
            for_ms,
            host,
        } => {
            let (target, named) = target(host);
            let span = *for_ms * MILLISECOND;
            (*at_ms, Ok(FaultKind::Pause { target, span }), named)
        }
        FaultAt::Suspend {
            at_ms,
            for_ms,
            host,
        } => {
            let (target, named) = target(host);
            let span = *for_ms * MILLISECOND;
            (*at_ms, Ok(FaultKind::Suspend { target, span }), named)
        }
        FaultAt::WallJump { at_ms, host, by_ms } => {
            let (host, by_ms) = (*host, *by_ms);
            (*at_ms, Ok(FaultKind::WallJump { host, by_ms }), vec![host])
        }
        FaultAt::Drift {
            at_ms,
            host,
            rate_ppm,
        } => {
            let (host, rate_ppm) = (*host, *rate_ppm);
            (*at_ms, Ok(FaultKind::Drift { host, rate_ppm }), vec![host])
        }
        _ => (0, Err("not a fault of a host".to_owned()), Vec::new()),
    }
}

/// Puts every host into one group; those that are not named are in the first.
fn split(groups: &[Vec<usize>], hosts: usize) -> Result<Cut, String> {
    let mut of = vec![None; hosts];
    for (group, members) in groups.iter().enumerate() {
        for host in members.iter().filter(|host| **host < hosts) {
            if of[*host].replace(group as u8).is_some() {
                return Err(format!("host {host} is in two groups"));
            }
        }
    }
    Ok(Cut::Split(
        of.into_iter().map(Option::unwrap_or_default).collect(),
    ))
}

/// Plays a scenario. Returns the run, and the expectations that it did not meet.
pub(crate) fn play(scenario: Scenario, keeps_lines: bool) -> (Outcome, Vec<String>) {
    let end = scenario.settings.fault_span;
    let world = World::new(scenario.settings, scenario.faults, keeps_lines);
    let outcome = world.with_asks(scenario.asks).run();
    let mut unmet = Vec::new();
    for expect in &scenario.expects {
        let from = expect.from_ms * MILLISECOND;
        let to = expect.to_ms.map_or(end, |to| to * MILLISECOND);
        let counts = outcome.happened.iter().filter(|(at, what, host)| {
            let named = expect
                .hosts
                .as_ref()
                .is_none_or(|hosts| hosts.contains(host));
            *what == expect.what && (from..to).contains(at) && named
        });
        let count = counts.count() as u64;
        if count < expect.min || expect.max.is_some_and(|max| count > max) {
            unmet.push(format!("{count} {:?}, expected {expect:?}", expect.what));
        }
    }
    (outcome, unmet)
}

/// The bundled scenarios.
pub(crate) const NAMED: [(&str, &str); 20] = [
    ("split_brain", include_str!("../scenarios/split_brain.toml")),
    ("quorum_lost", include_str!("../scenarios/quorum_lost.toml")),
    (
        "one_way_link",
        include_str!("../scenarios/one_way_link.toml"),
    ),
    ("bridge_node", include_str!("../scenarios/bridge_node.toml")),
    (
        "flapping_link",
        include_str!("../scenarios/flapping_link.toml"),
    ),
    ("slow_voter", include_str!("../scenarios/slow_voter.toml")),
    (
        "frozen_holder",
        include_str!("../scenarios/frozen_holder.toml"),
    ),
    ("fast_clock", include_str!("../scenarios/fast_clock.toml")),
    (
        "rolling_restart",
        include_str!("../scenarios/rolling_restart.toml"),
    ),
    (
        "whole_restart",
        include_str!("../scenarios/whole_restart.toml"),
    ),
    (
        "storm_of_try",
        include_str!("../scenarios/storm_of_try.toml"),
    ),
    (
        "crash_of_holder",
        include_str!("../scenarios/crash_of_holder.toml"),
    ),
    (
        "fifty_members",
        include_str!("../scenarios/fifty_members.toml"),
    ),
    (
        "damaged_datagrams",
        include_str!("../scenarios/damaged_datagrams.toml"),
    ),
    (
        "rolling_suspend",
        include_str!("../scenarios/rolling_suspend.toml"),
    ),
    (
        "early_expiry",
        include_str!("../scenarios/early_expiry.toml"),
    ),
    (
        "wall_clock_ahead",
        include_str!("../scenarios/wall_clock_ahead.toml"),
    ),
    (
        "former_incarnation",
        include_str!("../scenarios/former_incarnation.toml"),
    ),
    ("called_dead", include_str!("../scenarios/called_dead.toml")),
    (
        "releases_overtake",
        include_str!("../scenarios/releases_overtake.toml"),
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bundled_scenarios_meet_their_expectations() {
        for (name, text) in NAMED {
            let scenario = read(text).unwrap_or_else(|bad| panic!("{name}: {}", bad.0));
            let (outcome, unmet) = play(scenario, false);
            assert!(
                outcome.violations.is_empty(),
                "{name}: {:?}",
                outcome.violations
            );
            assert!(unmet.is_empty(), "{name}: {unmet:?}");
        }
    }
}
