//! The data of a page, taken from the record of a run. Times are nanoseconds of true time.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use serde::Serialize;

use super::record::{Condition, Links, Note, Record};
use crate::algorithms::{Lease, Overlap, UserView, Wait, WriteAt};
use crate::judge::{Fact, HostAt, Violation};
use crate::kernel::MILLISECOND;

/// The maximum number of leases on a page, so that it stays fast.
const LEASES_MAX: usize = 4_000;

/// All data of a page.
#[derive(Debug, Serialize)]
pub(super) struct Data {
    pub(super) title: String,
    pub(super) command: String,
    pub(super) algorithm: &'static str,
    /// `true` if epochs rise with the grants.
    pub(super) fenced: bool,
    pub(super) hosts: usize,
    /// The voters of each key.
    pub(super) voters: Vec<Vec<HostAt>>,
    #[serde(flatten)]
    pub(super) run: Shown,
}

/// The part of a run that is on the page.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    from: u64,
    to: u64,
    healed: Option<u64>,
    /// A sentence about the part of the run that is not on the page; empty if all is.
    left_out: String,
    leases: Vec<Lease>,
    waits: Vec<Wait>,
    writes: Vec<WriteAt>,
    overlaps: Vec<Overlap>,
    /// Spans of hosts: `frozen`, `down`, `quarantine` or `slow`.
    spans: Vec<HostSpan>,
    /// Spans of the links.
    links: Vec<LinkSpan>,
    violations: Vec<Violation>,
}

#[derive(Debug, Serialize)]
struct HostSpan {
    host: HostAt,
    kind: &'static str,
    from: u64,
    to: u64,
}

#[derive(Debug, Serialize)]
struct LinkSpan {
    from: u64,
    to: u64,
    what: String,
    /// The side of each host; empty if there are no sides.
    sides: Vec<usize>,
}

impl Shown {
    /// Collects what happened in a window, in milliseconds, or in a part that fits a page.
    pub(super) fn of(
        record: &Record,
        hosts: usize,
        mut violations: Vec<Violation>,
        window: Option<Range<u64>>,
    ) -> Self {
        // Two holders break a law at every renewal.
        let mut known = BTreeSet::new();
        violations.retain(|it| known.insert((it.law, it.what.clone())));
        let UserView {
            leases,
            waits,
            writes,
            overlaps,
        } = UserView::of(record);
        let (window, left_out) = match window {
            Some(Range { start, end }) => {
                let text = format!("Only {start} to {end} ms of the run are shown.");
                (start * MILLISECOND..end * MILLISECOND, text)
            }
            None => fitting(record, &violations, &leases),
        };
        let seen = |from: u64, until: u64| until >= window.start && from <= window.end;
        let mut shown = Self {
            from: window.start,
            to: window.end,
            healed: record.healed.filter(|at| seen(*at, *at)),
            left_out,
            leases,
            waits,
            writes,
            overlaps,
            spans: host_spans(record),
            links: link_spans(record, hosts),
            violations,
        };
        shown.leases.retain(|it| seen(it.from, it.until));
        shown.waits.retain(|it| seen(it.from, it.until));
        shown.writes.retain(|it| seen(it.at, it.at));
        shown.overlaps.retain(|it| seen(it.from, it.until));
        shown.spans.retain(|it| seen(it.from, it.to));
        shown.links.retain(|it| seen(it.from, it.to));
        shown.violations.retain(|it| seen(it.at, it.at));
        shown
    }
}

/// Returns the part of a run that fits a page, and a sentence about the rest. The stories that time
/// an idle cluster are left out, unless they broke a law.
fn fitting(record: &Record, violations: &[Violation], leases: &[Lease]) -> (Range<u64>, String) {
    let is_settled = |note: &&(u64, Note)| matches!(note.1, Note::Fact(Fact::Settled));
    let settled = record.notes.iter().find(is_settled);
    let settled = settled.map_or(record.end, |(at, _)| *at);
    let before = leases.iter().filter(|it| it.from < settled);
    let ends = before.map(|it| it.until.min(record.end));
    let notes = record.notes.iter().map(|(at, note)| match note {
        Note::Host(..) | Note::Links(_) if *at < settled => *at,
        _ => 0,
    });
    let marks = violations.iter().map(|it| it.at);
    let end = ends.chain(notes).chain(marks).max().unwrap_or_default();
    let end = (end + end / 50).min(record.end.max(end)).max(MILLISECOND);
    if leases.len() <= LEASES_MAX {
        return (0..end, String::new());
    }
    // Around the first violation, or from the beginning.
    let first = violations.first().map_or(0, |it| it.at);
    let near = leases.partition_point(|it| it.from < first);
    let start = near.saturating_sub(LEASES_MAX / 2);
    let from = leases[..start].last().map_or(0, |it| it.from);
    let last = (start + LEASES_MAX).min(leases.len()) - 1;
    let to = leases[last].from;
    let [all, start, end] = [end, from, to].map(|at| at / MILLISECOND);
    let count = leases.len();
    let text = format!(
        "The run has {count} leases in {all} ms; {start} to {end} ms are shown. Choose others with \
         --window."
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
                let known: Vec<HostAt> = spans.hosts("slow");
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
    open: BTreeMap<(HostAt, &'static str), u64>,
    done: Vec<HostSpan>,
}

impl Spans {
    fn hosts(&self, kind: &str) -> Vec<HostAt> {
        let of_kind = self.open.keys().filter(|(_, it)| *it == kind);
        of_kind.map(|(host, _)| *host).collect()
    }

    fn set(&mut self, at: u64, host: HostAt, kind: &'static str, is: bool) {
        if is {
            self.open.entry((host, kind)).or_insert(at);
        } else if let Some(from) = self.open.remove(&(host, kind)) {
            self.push(host, kind, from, at);
        }
    }

    fn push(&mut self, host: HostAt, kind: &'static str, from: u64, to: u64) {
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
    let cut: BTreeSet<(HostAt, HostAt)> = links.cut.iter().copied().collect();
    let sides = sides(&cut, hosts);
    if sides.iter().any(|side| *side > 0) {
        push(partition(&sides), sides);
    } else {
        push(cut_in_words(&cut), Vec::new());
    }
}

/// Returns the side of each host. No datagram passes between two sides.
fn sides(cut: &BTreeSet<(HostAt, HostAt)>, hosts: usize) -> Vec<usize> {
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
                |other: &HostAt| !cut.contains(&(host, *other)) || !cut.contains(&(*other, host));
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

fn names(hosts: impl Iterator<Item = HostAt>) -> String {
    let names: Vec<String> = hosts.map(|host| format!("n{host}")).collect();
    names.join(", ")
}

/// Describes which hosts do not reach which.
fn cut_in_words(cut: &BTreeSet<(HostAt, HostAt)>) -> String {
    let mut targets: BTreeMap<HostAt, Vec<HostAt>> = BTreeMap::new();
    for (from, to) in cut {
        targets.entry(*from).or_default().push(*to);
    }
    let targets = targets.into_iter();
    let words: Vec<String> = targets
        .map(|(from, to)| format!("n{from} ↛ {}", names(to.into_iter())))
        .collect();
    format!("cut: {}", words.join("; "))
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
