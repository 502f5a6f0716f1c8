//! **No lost wake-up**: no request waits longer than a bound while its key is free and a quorum is
//! up.
//!
//! The key is free while no request may hold it. A request may hold it from its grant until its
//! release or loss. If its process was killed or paused, it may hold the key until the longest
//! lease after that. A request for several locks together may hold each of them from its begin. A
//! semaphore is free while fewer requests may hold a permit than there are. A quorum is up for a waiter except in spans recorded for its node as unserved.

use std::collections::BTreeMap;

use super::laws::Found;
use super::records::{End, Histories, KeyAt, Place, ProcessIncarnation, Request};
use crate::history::{FaultKind, How};

/// A span in which a request may hold a key, and the line of its end.
#[derive(Clone, Copy, Debug)]
struct Owned {
    from: u64,
    to: u64,
    end: Place,
}

/// A span in which a key was free, and the line after which it was.
type Free = (u64, u64, Option<Place>);

/// Judges all waits. Returns the longest wait for a free key, in nanoseconds.
pub(crate) fn no_lost_wakeup(found: &mut Found<'_>, bound: u64) -> u64 {
    let histories = found.histories;
    let mut longest = 0;
    let blocked: Vec<Vec<(u64, u64)>> = (0..histories.nodes.len())
        .map(|node| histories.unserved(node))
        .collect();
    let keys = histories.by_key().into_iter().enumerate();
    let semaphores = histories.by_semaphore().into_iter();
    let semaphores =
        semaphores.map(|(semaphore, (permits, requests))| (semaphore, permits, requests));
    // The permits as keys have owners, and nobody waits for just one of them.
    let keys = keys.map(|(key, requests)| {
        let is_single = |request: &&Request| request.semaphore.is_none();
        (key, 1, requests.into_iter().filter(is_single).collect())
    });
    for (name, permits, requests) in semaphores.chain(keys) {
        let owned = full(owned(histories, &requests), permits);
        for request in &requests {
            if request.how != How::Acquire {
                continue;
            }
            let blocked = &blocked[histories.node_of(request)];
            let (end, ended) = end_of_wait(histories, request);
            for free in free(request.asked.at, end, &owned, blocked) {
                let (from, to, _) = free;
                longest = longest.max(to - from);
                if to - from > bound {
                    add(found, request, name, free, ended);
                    break;
                }
            }
        }
    }
    longest
}

/// Adds a wait of a request for a key that was free meanwhile.
fn add(
    found: &mut Found<'_>,
    request: &Request,
    name: KeyAt,
    (from, to, after): Free,
    ended: Place,
) {
    let histories = found.histories;
    let free = match after {
        Some(after) => format!("free since {}", histories.at(after)),
        None => "free".to_owned(),
    };
    let what = format!(
        "{} stood in line for {:?}, which was {free}, for {} ms from {from} on",
        histories.nodes[histories.node_of(request)],
        histories.keys[name],
        (to - from) / 1_000_000,
    );
    found.add("no lost wake-up", [request.asked.place, ended], &what);
}

/// Returns the end of a wait, and the line that reports it.
pub(crate) fn end_of_wait(histories: &Histories, request: &Request) -> (u64, Place) {
    let incarnation = &histories.incarnations[request.incarnation];
    match (request.grant, request.over) {
        (Some(grant), _) => (grant.before, grant.place),
        (None, Some(over)) => (over.after, over.place),
        (None, None) => (incarnation.gone.min(histories.end), incarnation.last.place),
    }
}

/// Returns the spans in which a request may hold the key, in order.
fn owned(histories: &Histories, requests: &[&Request]) -> Vec<Owned> {
    let mut owned: Vec<Owned> = requests
        .iter()
        .filter_map(|request| {
            let from = match (request.how, request.grant) {
                (How::Together, _) => request.asked.at,
                (_, grant) => grant?.before,
            };
            let incarnation = &histories.incarnations[request.incarnation];
            let (mut to, end) = match request.over {
                Some(over) => (over.after, over.place),
                None if incarnation.ended.is_some() => (incarnation.gone, incarnation.last.place),
                None => (
                    incarnation.gone.saturating_add(incarnation.max_lease),
                    incarnation.last.place,
                ),
            };
            // A paused process learns late that its lock is lost. Waiters need not wait for that.
            if request.over.is_some_and(|over| over.how == End::Lost) {
                let last = request.held.map_or(from, |held| held.at);
                let stop = stopped(histories, incarnation, last, to);
                to = stop.map_or(to, |stop| {
                    to.min(stop.saturating_add(incarnation.max_lease))
                });
            }
            Some(Owned { from, to, end })
        })
        .collect();
    owned.sort_by_key(|owned| (owned.from, owned.to));
    owned
}

/// Returns the spans in which this many may hold, in order.
fn full(owned: Vec<Owned>, permits: usize) -> Vec<Owned> {
    let mut spans: Vec<Owned> = Vec::new();
    // The spans that have begun, with those first that end first.
    let mut held: BTreeMap<(u64, Place), usize> = BTreeMap::new();
    for Owned { from, to, end } in owned {
        held.retain(|(until, _), _| *until > from);
        *held.entry((to, end)).or_default() += 1;
        let mut left: usize = held.values().sum();
        // It is full until so many have ended that fewer than the permits are left.
        let full_until = held.iter().find(|(_, count)| {
            left -= **count;
            left < permits
        });
        let count: usize = held.values().sum();
        let Some(((to, end), _)) = full_until.filter(|_| count >= permits) else {
            continue;
        };
        match spans.last_mut() {
            Some(last) if last.to >= from => {
                if *to > last.to {
                    (last.to, last.end) = (*to, *end);
                }
            }
            _ => spans.push(Owned {
                from,
                to: *to,
                end: *end,
            }),
        }
    }
    spans
}

/// Returns the last time at which a process was paused within a span.
fn stopped(
    histories: &Histories,
    incarnation: &ProcessIncarnation,
    from: u64,
    to: u64,
) -> Option<u64> {
    let faults = histories.faults.iter();
    let stops = faults.filter(|fault| {
        fault.kind == FaultKind::Frozen
            && !incarnation.is_twin
            && fault.nodes.contains(&incarnation.node)
            && fault.after >= from
            && fault.after < to
    });
    stops.map(|fault| fault.after).max()
}

/// Returns the spans of a wait in which the key was free and the waiter had to be served. Each has
/// the line after which the key was free.
fn free(from: u64, to: u64, owned: &[Owned], blocked: &[(u64, u64)]) -> Vec<Free> {
    let mut spans = Vec::new();
    // Earlier spans may reach into the wait.
    let first = owned.partition_point(|owned| owned.from < from);
    let earlier = owned[..first].last();
    let mut since = (from, earlier.map(|owned| owned.end));
    if let Some(earlier) = earlier {
        since.0 = since.0.max(earlier.to);
    }
    let within = owned[first..].iter().take_while(|owned| owned.from < to);
    for owned in within {
        if owned.from > since.0 {
            spans.push((since.0, owned.from, since.1));
        }
        if owned.to > since.0 {
            since = (owned.to, Some(owned.end));
        }
    }
    if to > since.0 {
        spans.push((since.0, to, since.1));
    }
    spans
        .into_iter()
        .flat_map(|span| without(span, blocked))
        .collect()
}

/// Returns the parts of a span that are outside of the others, which are in order.
fn without((from, to, after): Free, others: &[(u64, u64)]) -> Vec<Free> {
    let mut left = Vec::new();
    let mut at = from;
    for (begin, end) in others {
        if *begin > at {
            left.push((at, (*begin).min(to), after));
        }
        at = at.max(*end);
        if at >= to {
            return left;
        }
    }
    left.push((at, to, after));
    left
}
