//! The data of a page, taken from the record of a run. Times are in milliseconds of true time.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use serde::Serialize;

use super::record::{Condition, Links, Note, Record};
use crate::algorithms::{Lease, Overlap, Story, Wait, Write};
use crate::judge::{End, Fact, Host, KeyAt, Violation};

/// The maximum number of leases on a page, so that it stays fast.
const LEASES_MAX: usize = 4_000;
/// The maximum number of listed violations; the rest is counted.
const VIOLATIONS_MAX: usize = 200;

/// All data of a page.
#[derive(Debug, Serialize)]
pub(super) struct Data {
    pub(super) title: String,
    pub(super) command: String,
    pub(super) algorithm: &'static str,
    fenced: bool,
    hosts: usize,
    from: f64,
    to: f64,
    healed: Option<f64>,
    /// A sentence about the part of the run that is not on the page; empty if all is.
    left_out: String,
    /// The voters of each key that is on the page.
    voters: BTreeMap<KeyAt, Vec<Host>>,
    leases: Vec<LeaseBar>,
    waits: Vec<WaitBar>,
    writes: Vec<WriteMark>,
    overlaps: Vec<OverlapBar>,
    /// Spans of hosts: `frozen`, `down`, `quarantine` or `slow`.
    spans: Vec<HostSpan>,
    /// Spans of the links.
    links: Vec<LinkSpan>,
    violations: Vec<Mark>,
    violations_more: usize,
}

#[derive(Debug, Serialize)]
struct LeaseBar {
    host: Host,
    key: KeyAt,
    /// The full number as text: a number in JavaScript is not precise enough.
    epoch: String,
    /// Its rank among the epochs of this run.
    rank: usize,
    claim: u64,
    asked: f64,
    from: f64,
    to: f64,
    renewals: usize,
    why: &'static str,
}

#[derive(Debug, Serialize)]
struct WaitBar {
    host: Host,
    key: KeyAt,
    from: f64,
    to: f64,
    why: &'static str,
}

#[derive(Debug, Serialize)]
struct WriteMark {
    host: Host,
    key: KeyAt,
    at: f64,
    rank: usize,
    taken: bool,
    stale: bool,
}

#[derive(Debug, Serialize)]
struct OverlapBar {
    key: KeyAt,
    from: f64,
    to: f64,
    hosts: (Host, Host),
    ranks: (usize, usize),
}

#[derive(Debug, Serialize)]
struct HostSpan {
    host: Host,
    kind: &'static str,
    from: f64,
    to: f64,
}

#[derive(Debug, Serialize)]
struct LinkSpan {
    from: f64,
    to: f64,
    what: String,
    /// The side of each host; empty if there are no sides.
    sides: Vec<usize>,
}

#[derive(Debug, Serialize)]
struct Mark {
    at: f64,
    law: &'static str,
    what: String,
}

/// The input for the data.
pub(super) struct Source<'a> {
    pub(super) title: String,
    pub(super) command: String,
    pub(super) algorithm: &'static str,
    pub(super) fenced: bool,
    pub(super) hosts: usize,
    pub(super) voters: &'a [Vec<Host>],
    pub(super) record: &'a Record,
    pub(super) violations: &'a [Violation],
    /// The part of the run to show, in milliseconds.
    pub(super) window: Option<Range<u64>>,
}

impl Data {
    /// Collects the data of a run.
    pub(super) fn of(source: Source<'_>) -> Self {
        let story = Story::of(source.record);
        let ranks = ranks(&story, source.fenced);
        let (window, left_out) = window(&source, &story);
        let seen = |from: u64, until: u64| until >= window.start && from <= window.end;
        let leases = story.leases.iter().filter(|it| seen(it.from, it.until));
        let waits = story.waits.iter().filter(|it| seen(it.from, it.until));
        let writes = story.writes.iter().filter(|it| seen(it.at, it.at));
        let overlaps = story.overlaps.iter().filter(|it| seen(it.from, it.until));
        let leases: Vec<LeaseBar> = leases.map(|it| LeaseBar::of(it, &ranks)).collect();
        let keys: BTreeSet<KeyAt> = leases.iter().map(|it| it.key).collect();
        let mut violations = distinct(source.violations);
        violations.retain(|it| seen(it.at, it.at));
        let mut data = Self {
            hosts: source.hosts,
            fenced: source.fenced,
            from: ms(window.start),
            to: ms(window.end),
            healed: source.record.healed.filter(|at| seen(*at, *at)).map(ms),
            left_out,
            voters: voters_of(&keys, source.voters),
            leases,
            waits: waits.map(WaitBar::of).collect(),
            writes: writes.map(|it| WriteMark::of(it, &ranks)).collect(),
            overlaps: overlaps
                .map(|it| OverlapBar::of(it, &story, &ranks))
                .collect(),
            spans: host_spans(source.record),
            links: link_spans(source.record, source.hosts),
            violations_more: violations.len().saturating_sub(VIOLATIONS_MAX),
            violations: violations
                .into_iter()
                .take(VIOLATIONS_MAX)
                .map(Mark::of)
                .collect(),
            title: source.title,
            command: source.command,
            algorithm: source.algorithm,
        };
        data.spans
            .retain(|it| it.to >= data.from && it.from <= data.to);
        data.links
            .retain(|it| it.to >= data.from && it.from <= data.to);
        data
    }
}

/// A short number for each epoch.
type Ranks = BTreeMap<u64, usize>;

fn rank(ranks: &Ranks, epoch: u64) -> usize {
    ranks.get(&epoch).copied().unwrap_or_default()
}

impl LeaseBar {
    fn of(it: &Lease, ranks: &Ranks) -> Self {
        Self {
            host: it.host,
            key: it.key,
            epoch: it.epoch.to_string(),
            rank: rank(ranks, it.epoch),
            claim: it.request.0,
            asked: ms(it.asked),
            from: ms(it.from),
            to: ms(it.until),
            renewals: it.renewals,
            why: why(it.how, true),
        }
    }
}

impl WaitBar {
    fn of(it: &Wait) -> Self {
        Self {
            host: it.host,
            key: it.key,
            from: ms(it.from),
            to: ms(it.until),
            why: why(it.how, false),
        }
    }
}

impl WriteMark {
    fn of(it: &Write, ranks: &Ranks) -> Self {
        Self {
            host: it.host,
            key: it.key,
            at: ms(it.at),
            rank: rank(ranks, it.epoch),
            taken: it.taken,
            stale: it.is_stale,
        }
    }
}

impl OverlapBar {
    fn of(it: &Overlap, story: &Story, ranks: &Ranks) -> Self {
        let [one, two] = [it.leases.0, it.leases.1].map(|lease| &story.leases[lease]);
        Self {
            key: it.key,
            from: ms(it.from),
            to: ms(it.until),
            hosts: (one.host, two.host),
            ranks: (rank(ranks, one.epoch), rank(ranks, two.epoch)),
        }
    }
}

impl Mark {
    fn of(it: &Violation) -> Self {
        Self {
            at: ms(it.at),
            law: it.law,
            what: it.what.clone(),
        }
    }
}

fn voters_of(keys: &BTreeSet<KeyAt>, voters: &[Vec<Host>]) -> BTreeMap<KeyAt, Vec<Host>> {
    let known = keys
        .iter()
        .filter_map(|key| Some((*key, voters.get(*key)?)));
    known
        .map(|(key, voters)| {
            let mut voters = voters.clone();
            voters.sort_unstable();
            (key, voters)
        })
        .collect()
}

/// Returns the first violation of each law by the same requests: two holders break it at every
/// renewal.
fn distinct(violations: &[Violation]) -> Vec<&Violation> {
    let mut known = BTreeSet::new();
    let mut first = |it: &&Violation| {
        let mut requests: Vec<&str> = it.what.split("request ").skip(1).collect();
        for request in &mut requests {
            *request = request.split(' ').next().unwrap_or_default();
        }
        requests.sort_unstable();
        let words = if requests.is_empty() {
            it.what.clone()
        } else {
            requests.join(" ")
        };
        known.insert((it.law, words))
    };
    violations.iter().filter(|it| first(it)).collect()
}

fn ms(nanos: u64) -> f64 {
    (nanos / 1_000) as f64 / 1_000.0
}

/// Numbers the epochs: by their order, or by their grants if they do not rise.
fn ranks(story: &Story, fenced: bool) -> Ranks {
    if !fenced {
        return story
            .leases
            .iter()
            .map(|lease| lease.epoch)
            .zip(1..)
            .collect();
    }
    let epochs: BTreeSet<u64> = story.leases.iter().map(|lease| lease.epoch).collect();
    epochs.into_iter().zip(1..).collect()
}

fn why(how: Option<End>, held: bool) -> &'static str {
    match how {
        Some(End::Released) if held => "its holder let go of it",
        Some(End::Released) => "its user gave up waiting",
        Some(End::Lost) => "its lease was over, and it was not renewed in time",
        Some(End::TimedOut) => "its deadline passed",
        Some(End::Denied) => "it was only a try, and another had been granted",
        Some(End::Crashed) => "its process crashed",
        Some(End::ShutDown) => "its process was shut down",
        None if held => "it was still held when the run was over",
        None => "it was granted, or the run was over",
    }
}

/// Returns the part of the run on the page, in nanoseconds, and a sentence about the rest.
fn window(source: &Source<'_>, story: &Story) -> (Range<u64>, String) {
    const MILLISECOND: u64 = 1_000_000;
    if let Some(window) = &source.window {
        let text = format!(
            "Only {} to {} ms of the run are shown.",
            window.start, window.end
        );
        return (window.start * MILLISECOND..window.end * MILLISECOND, text);
    }
    // The stories that time an idle cluster are left out, unless they broke a law.
    let settled = source
        .record
        .notes
        .iter()
        .find_map(|(at, note)| match note {
            Note::Fact(Fact::Settled) => Some(*at),
            _ => None,
        });
    let settled = settled.unwrap_or(source.record.end);
    let leases = story.leases.iter().filter(|it| it.from < settled);
    let ends = leases.map(|it| it.until.min(source.record.end));
    let notes = source.record.notes.iter().map(|(at, note)| match note {
        Note::Fact(_) => 0,
        _ if *at >= settled => 0,
        _ => *at,
    });
    let marks = source.violations.iter().map(|it| it.at);
    let end = ends.chain(notes).chain(marks).max().unwrap_or_default();
    let end = (end + end / 50)
        .min(source.record.end.max(end))
        .max(MILLISECOND);
    if story.leases.len() <= LEASES_MAX {
        return (0..end, String::new());
    }
    // Around the first violation, or from the beginning.
    let first = source.violations.first().map_or(0, |it| it.at);
    let near = story.leases.partition_point(|it| it.from < first);
    let start = near.saturating_sub(LEASES_MAX / 2);
    let last = (start + LEASES_MAX).min(story.leases.len()) - 1;
    let from = if start == 0 {
        0
    } else {
        story.leases[start].from
    };
    let to = story.leases[last].from;
    let text = format!(
        "The run has {} leases in {} ms; {} to {} ms are shown. Choose others with --window.",
        story.leases.len(),
        end / MILLISECOND,
        from / MILLISECOND,
        to / MILLISECOND
    );
    (from..to, text)
}

/// Returns when each host was paused, down, slow or in quarantine.
fn host_spans(record: &Record) -> Vec<HostSpan> {
    let mut spans = Spans::default();
    for (at, note) in &record.notes {
        match note {
            Note::Host(host, condition) => {
                let is = |kind: &str| match condition {
                    Condition::Runs(_) => false,
                    Condition::Frozen(_) => kind == "frozen",
                    Condition::Down => kind == "down",
                };
                for kind in ["frozen", "down"] {
                    spans.set(*at, *host, kind, is(kind));
                }
            }
            Note::Fact(Fact::Forgot { voter }) => spans.set(*at, *voter, "quarantine", true),
            Note::Fact(Fact::Returned { voter, .. }) => {
                spans.set(*at, *voter, "quarantine", false);
            }
            Note::Links(links) => {
                let known: Vec<Host> = spans.hosts("slow");
                for host in known.into_iter().chain(links.slow.keys().copied()) {
                    spans.set(*at, host, "slow", links.slow.contains_key(&host));
                }
            }
            Note::Fact(_) => {}
        }
    }
    spans.close(record.end)
}

#[derive(Default)]
struct Spans {
    open: BTreeMap<(Host, &'static str), u64>,
    done: Vec<HostSpan>,
}

impl Spans {
    fn hosts(&self, kind: &str) -> Vec<Host> {
        let of_kind = self.open.keys().filter(|(_, it)| *it == kind);
        of_kind.map(|(host, _)| *host).collect()
    }

    fn set(&mut self, at: u64, host: Host, kind: &'static str, is: bool) {
        if is {
            self.open.entry((host, kind)).or_insert(at);
        } else if let Some(from) = self.open.remove(&(host, kind)) {
            self.push(host, kind, from, at);
        }
    }

    fn push(&mut self, host: Host, kind: &'static str, from: u64, to: u64) {
        let (from, to) = (ms(from), ms(to));
        self.done.push(HostSpan {
            host,
            kind,
            from,
            to,
        });
    }

    fn close(mut self, end: u64) -> Vec<HostSpan> {
        for ((host, kind), from) in std::mem::take(&mut self.open) {
            self.push(host, kind, from, end);
        }
        // A crash that ends in the same instant leaves no span.
        self.done.retain(|it| it.to > it.from);
        self.done
    }
}

fn link_spans(record: &Record, hosts: usize) -> Vec<LinkSpan> {
    let mut spans = Vec::new();
    let mut last: Option<(u64, &Links)> = None;
    let end = (record.end, None);
    let changes = record.notes.iter().filter_map(|(at, note)| match note {
        Note::Links(links) => Some((*at, Some(links))),
        _ => None,
    });
    for (at, links) in changes.chain([end]) {
        if let Some((from, before)) = last {
            describe(&mut spans, from, at, before, hosts);
        }
        last = links.map(|links| (at, links));
    }
    spans
}

fn describe(spans: &mut Vec<LinkSpan>, from: u64, to: u64, links: &Links, hosts: usize) {
    let (from, to) = (ms(from), ms(to));
    let mut push = |what: String, sides: Vec<usize>| {
        let span = LinkSpan {
            from,
            to,
            what,
            sides,
        };
        spans.push(span);
    };
    if links.storm_ppm > 0 {
        let percent = links.storm_ppm / 10_000;
        push(format!("{percent} % of all datagrams lost"), Vec::new());
    }
    if links.cut.is_empty() {
        return;
    }
    let cut: BTreeSet<(Host, Host)> = links.cut.iter().copied().collect();
    let sides = sides(&cut, hosts);
    if sides.iter().any(|side| *side > 0) {
        push(partition(&sides), sides);
    } else {
        push(cut_in_words(&cut), Vec::new());
    }
}

/// Returns the side of each host. No datagram passes between two sides.
fn sides(cut: &BTreeSet<(Host, Host)>, hosts: usize) -> Vec<usize> {
    let mut sides = vec![usize::MAX; hosts];
    let mut next = 0;
    for first in 0..hosts {
        if sides[first] != usize::MAX {
            continue;
        }
        let mut frontier = vec![first];
        while let Some(host) = frontier.pop() {
            if sides[host] != usize::MAX {
                continue;
            }
            sides[host] = next;
            let meets =
                |other: &Host| !cut.contains(&(host, *other)) || !cut.contains(&(*other, host));
            frontier.extend(
                (0..hosts)
                    .filter(|other| sides[*other] == usize::MAX)
                    .filter(meets),
            );
        }
        next += 1;
    }
    sides
}

fn partition(sides: &[usize]) -> String {
    let parts = sides.iter().max().map_or(0, |most| most + 1);
    let part = |side: usize| {
        let hosts = (0..sides.len()).filter(|host| sides[*host] == side);
        names(hosts)
    };
    let parts: Vec<String> = (0..parts).map(part).collect();
    format!("partition: {}", parts.join(" | "))
}

fn names(hosts: impl Iterator<Item = Host>) -> String {
    let names: Vec<String> = hosts.map(|host| format!("n{host}")).collect();
    names.join(", ")
}

/// Describes which hosts do not reach which, grouped by equal targets.
fn cut_in_words(cut: &BTreeSet<(Host, Host)>) -> String {
    const GROUPS_MAX: usize = 6;
    let mut targets: BTreeMap<Host, Vec<Host>> = BTreeMap::new();
    for (from, to) in cut {
        targets.entry(*from).or_default().push(*to);
    }
    let mut alike: BTreeMap<Vec<Host>, Vec<Host>> = BTreeMap::new();
    for (from, to) in targets {
        alike.entry(to).or_default().push(from);
    }
    let mut words: Vec<String> = alike
        .into_iter()
        .map(|(to, from)| format!("{} ↛ {}", names(from.into_iter()), names(to.into_iter())))
        .collect();
    let more = words.len().saturating_sub(GROUPS_MAX);
    words.truncate(GROUPS_MAX);
    let rest = if more > 0 {
        format!("; and {more} more")
    } else {
        String::new()
    };
    format!("cut: {}{rest}", words.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_partition_has_sides() {
        let split: BTreeSet<_> = [(0, 1), (1, 0), (0, 2), (2, 0)].into();
        assert_eq!(sides(&split, 3), [0, 1, 1]);
        assert_eq!(partition(&sides(&split, 3)), "partition: n0 | n1, n2");
        let one_way: BTreeSet<_> = [(0, 1), (0, 2)].into();
        assert_eq!(sides(&one_way, 3), [0, 0, 0]);
        assert_eq!(cut_in_words(&one_way), "cut: n0 ↛ n1, n2");
    }
}
