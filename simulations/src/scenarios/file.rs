//! Scenarios in files: nodes, timing, scheduled faults and requests, and the expected results.
//! `scenarios/README.md` documents the format.
//!
//! An unknown key or an invalid value is an error that names its line.

use std::fmt::Display;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::format::{
    Ask, Bound, Expect, FaultTable, File, HolderWord, Net, TimingMs, When, Who, Work, fault_bound,
};
use crate::cluster::{Gossip, Habits, Outcome, Plan, Rates, Settings};
use crate::faults::{Cut, Fault, FaultKind, Target};
use crate::kernel::{LinkFaults, MILLISECOND};
use crate::proto::{NodeId, Timing, VoterSet, VoterSetError};
use crate::users::{RequestAt, Wish};

/// The reason why a file cannot be played.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct BadScenario(pub(crate) String);

/// A scenario that can be played.
#[derive(Debug)]
pub(crate) struct Scenario {
    pub(crate) story: String,
    pub(crate) plan: Plan,
    expects: Vec<Expect>,
}

type Checked<T = ()> = Result<T, BadScenario>;

const LATE: &str = "at_ms is after span_ms, when all is mended";

/// Finds the lines of errors in the text of a file.
struct Reader<'a> {
    text: &'a str,
}

impl Reader<'_> {
    fn bad<T>(&self, at: &Spanned<T>, what: impl Display) -> BadScenario {
        self.bad_at(at.span().start, what)
    }

    fn bad_at(&self, at: usize, what: impl Display) -> BadScenario {
        let before = self.text.get(..at).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        BadScenario(format!("line {line}: {what}"))
    }

    /// Returns an error at the line of a key of this table, or at the table if it has no such line.
    fn bad_key<T>(&self, table: &Spanned<T>, key: &str, what: impl Display) -> BadScenario {
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

    fn check_hosts<T>(&self, at: &Spanned<T>, hosts: &[usize], count: usize) -> Checked {
        match hosts.iter().find(|host| **host >= count) {
            Some(host) => {
                let last = count - 1;
                Err(self.bad(at, format!("there is no host {host}, the last is {last}")))
            }
            None => Ok(()),
        }
    }

    fn check_bounds<T>(&self, table: &Spanned<T>, bounds: &[Bound]) -> Checked {
        match bounds
            .iter()
            .find(|(_, value, range)| !range.contains(value))
        {
            Some((key, value, range)) => {
                let (min, max) = (range.start(), range.end());
                let what = format!("{key} is {value}; it must be {min} to {max}");
                Err(self.bad_key(table, key, what))
            }
            None => Ok(()),
        }
    }

    /// Checks that every number is within its bounds, apart from those of the cluster.
    fn check_numbers(&self, file: &File) -> Checked {
        self.check_bounds(&file.timing, &file.timing.as_ref().bounds())?;
        if let Some(net) = &file.network {
            self.check_bounds(net, &net.as_ref().bounds())?;
            let Net {
                delay_us_min: min,
                delay_us_max: max,
                ..
            } = net.as_ref();
            if min > max {
                let what =
                    format!("delay_us_min is {min}; it must not be above delay_us_max, {max}");
                return Err(self.bad_key(net, "delay_us_min", what));
            }
        }
        if let Some(work) = &file.workload {
            self.check_bounds(work, &work.as_ref().bounds())?;
        }
        Ok(())
    }

    fn check_asks(&self, file: &File) -> Checked {
        for ask in &file.ask {
            self.check_bounds(ask, &ask.as_ref().bounds())?;
            if ask.as_ref().hosts.is_empty() {
                return Err(self.bad_key(ask, "hosts", "hosts is empty; name those that ask"));
            }
        }
        Ok(())
    }

    /// Reads a fault. The error of a table in a list would name the line of the first one.
    fn fault(&self, table: &Spanned<toml::Table>) -> Checked<(u64, FaultTable)> {
        let bad = |error: toml::de::Error| self.bad_word(table, error.message());
        let mut rest = table.as_ref().clone();
        let kind = rest.get("kind").and_then(toml::Value::as_str);
        let kind = kind.unwrap_or_default().to_owned();
        let when = When::deserialize(rest.clone()).map_err(bad);
        rest.remove("at_ms");
        let fault = FaultTable::deserialize(rest).map_err(bad)?;
        for (key, value) in table.as_ref() {
            if let (Some(range), Some(value)) = (fault_bound(&kind, key), value.as_integer())
                && !range.contains(&value.unsigned_abs())
            {
                let (value, min, max) = (value.unsigned_abs(), range.start(), range.end());
                let what = format!("{key} is {value}; it must be {min} to {max}");
                return Err(self.bad_key(table, key, what));
            }
        }
        if let Some((key, what)) = senseless(&fault) {
            return Err(self.bad_key(table, key, what));
        }
        Ok((when?.at_ms, fault))
    }

    fn settings(&self, file: &File) -> Checked<Settings> {
        let cluster = file.cluster.as_ref();
        let members = *cluster.members.as_ref();
        if !(1..=101).contains(&members) {
            return Err(self.bad(&cluster.members, "members must be 1 to 101"));
        }
        if cluster.outsiders > 100 {
            let what = "outsiders must be 0 to 100";
            return Err(self.bad_key(&file.cluster, "outsiders", what));
        }
        if !(1..=3_600_000).contains(cluster.span_ms.as_ref()) {
            return Err(self.bad(&cluster.span_ms, "span_ms must be 1 to 3600000"));
        }
        let timing = timing_of(file.timing.as_ref());
        let voters = *cluster.voters_per_key.as_ref();
        self.check_voter_set(file, members, voters, timing)?;
        let habits = self.habits(file.workload.as_ref().map(Spanned::as_ref))?;
        let net = file.network.as_ref().map(Spanned::as_ref);
        let net = net.copied().unwrap_or_default();
        let mut settings = Settings::quiet(members, voters, timing, habits);
        settings.seed = file.seed;
        settings.is_sealed = cluster.sealed;
        settings.outsiders = cluster.outsiders;
        if !cluster.clocks_kept {
            settings.rates = Rates::Wild(0);
        }
        settings.link_faults = LinkFaults {
            loss_ppm: net.loss_percent.ppm(),
            double_ppm: net.double_percent.ppm(),
            damage_ppm: net.damage_percent.ppm(),
            jitter: net.jitter_us * 1_000,
            ..settings.link_faults
        };
        settings.delay = (net.delay_us_min * 1_000, net.delay_us_max * 1_000);
        if cluster.hostile_gossip {
            settings.gossip = Gossip::Hostile;
        }
        settings.starts_new = !cluster.starts_in_quarantine;
        settings.fault_span = *cluster.span_ms.as_ref() * MILLISECOND;
        Ok(settings)
    }

    fn check_voter_set(
        &self,
        file: &File,
        members: usize,
        voters: usize,
        timing: Timing,
    ) -> Checked {
        let names = (0..members).filter_map(|at| NodeId::new(format!("n{at}")).ok());
        let voter_set = VoterSet::new(1, names.collect(), voters, timing);
        voter_set.map(|_| ()).map_err(|error| match error {
            VoterSetError::VotersPerKey { .. } => {
                self.bad(&file.cluster.as_ref().voters_per_key, error)
            }
            VoterSetError::OutOfBounds { field, .. } => {
                self.bad_key(&file.timing, &format!("{field}_ms"), error)
            }
            VoterSetError::Drift { .. } => self.bad_key(&file.timing, "max_drift_ppm", error),
            error => self.bad(&file.cluster, error),
        })
    }

    fn habits(&self, it: Option<&Work>) -> Checked<Habits> {
        let nobody = Work::default();
        let it = it.unwrap_or(&nobody);
        let keys = it.keys.as_ref().map_or(1, |keys| *keys.as_ref());
        if let Some(at) = &it.keys
            && !(1..=1_000).contains(&keys)
        {
            return Err(self.bad(at, "keys must be 1 to 1000"));
        }
        Ok(Habits {
            clients: it.clients,
            keys,
            rest_max: it.rest_max_ms.max(1) * MILLISECOND,
            hold_max: it.hold_max_ms.max(1) * MILLISECOND,
            try_ppm: it.try_percent.ppm(),
            renew_ppm: it.renew_percent.ppm(),
            withdraw_ppm: it.withdraw_percent.ppm(),
            ..Habits::default()
        })
    }

    fn check_ask(&self, ask: &Spanned<Ask>, settings: &Settings) -> Checked {
        let it = ask.as_ref();
        self.check_hosts(ask, &it.hosts, settings.hosts())?;
        let (min, max) = (settings.timing.min_ttl(), settings.timing.max_ttl);
        let ttl = Duration::from_millis(it.ttl_ms);
        if ttl < min || ttl > max {
            let what = format!("ttl_ms is {}; it must be {min:?} to {max:?}", it.ttl_ms);
            return Err(self.bad_key(ask, "ttl_ms", what));
        }
        let keys = settings.habits.keys;
        if it.key >= keys {
            let what = format!("there is no key {}; there are {keys}, from 0 on", it.key);
            return Err(self.bad_key(ask, "key", what));
        }
        if it.at_ms * MILLISECOND > settings.fault_span {
            return Err(self.bad_key(ask, "at_ms", LATE));
        }
        Ok(())
    }

    fn check_expect(&self, expect: &Spanned<Expect>, settings: &Settings) -> Checked {
        let it = expect.as_ref();
        let named = it.hosts.as_deref().unwrap_or_default();
        self.check_hosts(expect, named, settings.hosts())?;
        if let Some(max) = it.max.filter(|max| *max < it.min) {
            let what = format!("max is {max}, below min, {}: nothing can meet this", it.min);
            return Err(self.bad_key(expect, "max", what));
        }
        let (from, span_ms) = (it.from_ms, settings.fault_span / MILLISECOND);
        let end = it.to_ms.unwrap_or(span_ms);
        if end <= from || end > span_ms {
            let what = format!("from {from} ms to {end} ms is no part of 0 to span_ms");
            let key = it.to_ms.map_or("from_ms", |_| "to_ms");
            return Err(self.bad_key(expect, key, what));
        }
        Ok(())
    }
}

/// Reads a scenario.
///
/// # Errors
/// Returns [`BadScenario`] with the line if the file cannot be played.
pub(crate) fn read(text: &str) -> Result<Scenario, BadScenario> {
    let file: File = toml::from_str(text).map_err(|error| BadScenario(error.to_string()))?;
    let reader = Reader { text };
    reader.check_numbers(&file)?;
    let tables = file.fault.iter();
    let tables: Vec<_> = tables
        .map(|at| Ok((at, reader.fault(at)?)))
        .collect::<Result<_, _>>()?;
    reader.check_asks(&file)?;
    let settings = reader.settings(&file)?;
    let hosts = settings.hosts();
    let mut faults = Vec::new();
    for (table, (at_ms, fault)) in tables {
        reader.check_hosts(table, &named_hosts(table.as_ref()), hosts)?;
        let at = at_ms * MILLISECOND;
        if at > settings.fault_span {
            return Err(reader.bad_key(table, "at_ms", LATE));
        }
        let kind = kind_of(fault, hosts).map_err(|what| reader.bad(table, what))?;
        faults.push(Fault { at, kind });
    }
    faults.sort_by_key(|fault| fault.at);
    let mut requests = Vec::new();
    for ask in &file.ask {
        reader.check_ask(ask, &settings)?;
        let it = ask.as_ref();
        requests.extend(it.hosts.iter().map(|host| request_of(it, *host)));
    }
    for expect in &file.expect {
        reader.check_expect(expect, &settings)?;
    }
    Ok(Scenario {
        story: file.story.trim().to_owned(),
        plan: Plan {
            settings,
            faults,
            requests,
        },
        expects: file.expect.into_iter().map(Spanned::into_inner).collect(),
    })
}

fn request_of(it: &Ask, host: usize) -> RequestAt {
    RequestAt {
        at: it.at_ms * MILLISECOND,
        host,
        wish: Wish {
            key: it.key,
            ttl: it.ttl_ms * MILLISECOND,
            is_try: it.is_try,
            renews: it.renews,
            outlives: false,
            keep_for: None,
            timeout: None,
        },
        hold: it.hold_ms * MILLISECOND,
    }
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

/// Returns the key of a fault that would have no effect or cannot exist, and the reason.
fn senseless(it: &FaultTable) -> Option<(&'static str, String)> {
    match it {
        // Hosts that are not named are in the first group.
        FaultTable::Split { groups, .. } if groups.iter().skip(1).all(Vec::is_empty) => {
            let what = "groups must be two at least, as in [[0, 1], [2]]";
            Some(("groups", what.to_owned()))
        }
        FaultTable::OneWay { mute, .. } if mute.is_empty() => {
            let what = "mute is empty; name those that are not heard";
            Some(("mute", what.to_owned()))
        }
        FaultTable::Between { hosts: [a, b], .. } | FaultTable::Flap { hosts: [a, b], .. }
            if a == b =>
        {
            let what = format!("hosts names {a} twice; a link has two ends");
            Some(("hosts", what))
        }
        _ => None,
    }
}

/// Returns the hosts that the table of a fault names.
fn named_hosts(table: &toml::Table) -> Vec<usize> {
    fn numbers(value: &toml::Value) -> Vec<usize> {
        match value {
            toml::Value::Integer(host) => vec![usize::try_from(*host).unwrap_or(usize::MAX)],
            toml::Value::Array(all) => all.iter().flat_map(numbers).collect(),
            _ => Vec::new(),
        }
    }
    let keys = ["host", "hosts", "mute", "groups"].into_iter();
    let values = keys.filter_map(|key| table.get(key));
    values.flat_map(numbers).collect()
}

fn kind_of(it: FaultTable, hosts: usize) -> Result<FaultKind, String> {
    let ns = |ms: u64| ms * MILLISECOND;
    let target = |who| match who {
        Who::Host(host) => Target::Host(host),
        Who::Holder(HolderWord::Holder) => Target::HolderOr(0),
    };
    let cut = |cut, for_ms| FaultKind::Cut {
        cut,
        span: ns(for_ms),
    };
    Ok(match it {
        FaultTable::Split { for_ms, groups } => cut(split(&groups, hosts)?, for_ms),
        FaultTable::OneWay { for_ms, mute } => cut(Cut::OneWay(mute), for_ms),
        FaultTable::Between {
            for_ms,
            hosts: [a, b],
        } => cut(Cut::Between(a, b), for_ms),
        FaultTable::Flap {
            every_ms,
            times,
            hosts: [a, b],
        } => FaultKind::Flap {
            cut: Cut::Between(a, b),
            half: ns(every_ms),
            times,
        },
        FaultTable::Storm {
            for_ms,
            loss_percent,
        } => FaultKind::Storm {
            loss_ppm: loss_percent.ppm(),
            span: ns(for_ms),
        },
        FaultTable::Slow {
            for_ms,
            host,
            by_ms,
        } => FaultKind::Slow {
            host,
            by: ns(by_ms),
            span: ns(for_ms),
        },
        FaultTable::Crash { for_ms, host } => FaultKind::crash(target(host), ns(for_ms)),
        FaultTable::Pause { for_ms, host } => {
            let (target, span) = (target(host), ns(for_ms));
            FaultKind::Pause { target, span }
        }
        FaultTable::Suspend { for_ms, host } => {
            let (target, span) = (target(host), ns(for_ms));
            FaultKind::Suspend { target, span }
        }
        FaultTable::WallJump { host, by_ms } => FaultKind::WallJump { host, by_ms },
        FaultTable::Drift { host, rate_ppm } => FaultKind::Drift { host, rate_ppm },
    })
}

/// Puts every host into one group; those that are not named are in the first.
fn split(groups: &[Vec<usize>], hosts: usize) -> Result<Cut, String> {
    let mut of = vec![None; hosts];
    for (group, members) in groups.iter().enumerate() {
        for host in members {
            if of[*host].replace(group as u8).is_some() {
                return Err(format!("host {host} is in two groups"));
            }
        }
    }
    let of = of.into_iter().map(Option::unwrap_or_default);
    Ok(Cut::Split(of.collect()))
}

impl Scenario {
    /// Plays it. Returns the run, and the expectations that it did not meet.
    pub(crate) fn play(self, keeps_lines: bool) -> (Outcome, Vec<String>) {
        let end = self.plan.settings.fault_span;
        let outcome = self.plan.run(keeps_lines);
        let mut unmet = Vec::new();
        for expect in &self.expects {
            let from = expect.from_ms * MILLISECOND;
            let to = expect.to_ms.map_or(end, |to| to * MILLISECOND);
            let is_named = |host| {
                let named = expect.hosts.as_ref();
                named.is_none_or(|hosts| hosts.contains(host))
            };
            let counts = outcome.happened.iter().filter(|(at, what, host)| {
                *what == expect.what && (from..to).contains(at) && is_named(host)
            });
            let count = counts.count() as u64;
            if count < expect.min || expect.max.is_some_and(|max| count > max) {
                unmet.push(format!("{count} {:?}, expected {expect:?}", expect.what));
            }
        }
        (outcome, unmet)
    }
}
