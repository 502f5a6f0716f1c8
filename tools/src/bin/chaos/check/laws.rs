//! The laws of `docs/protocol.md`, section 1, as far as histories of real processes can show them.
//!
//! The state of a process between two lines is unknown. So a law counts as broken only if no run
//! that keeps it could have left these lines.

use std::collections::{BTreeMap, BTreeSet};

use super::records::{Grant, Histories, Place, Request, Seen};
use crate::history::{FaultKind, StartFrom};
use lockmesh::Durability;

/// The highest clock drift that a voter set may allow.
const DRIFT_MAX_PPM: u64 = 100_000;
/// The longest time from a voter's first vote to the look that sees it, or from a look to the sync of
/// what it saw, in nanoseconds.
const LOOK_LATE: u64 = 200_000_000;

/// Returns the least true time in which a clock runs for `span`.
pub(super) fn least(span: u64) -> u64 {
    span - span / 1_000_000 * DRIFT_MAX_PPM
}

/// Collects pairs of lines that contradict each other.
#[derive(Debug)]
pub(crate) struct Found<'a> {
    pub(crate) histories: &'a Histories,
    /// A sentence for each pair, with the positions of both lines.
    pub(crate) sentences: Vec<String>,
}

impl Found<'_> {
    pub(crate) fn add(&mut self, law: &str, lines: [Place; 2], what: &str) {
        let [one, two] = lines.map(|line| self.histories.at(line));
        self.sentences
            .push(format!("{law}: {one} and {two}: {what}"));
    }
}

/// **M1 mutual exclusion**: two requests for one key are never certainly held at one instant.
///
/// A request is certainly held from before its guard is first observed to be held until before the
/// last such observation. A lost guard is never held again.
pub(crate) fn mutual_exclusion(found: &mut Found<'_>) {
    let histories = found.histories;
    for (key, requests) in histories.by_key().into_iter().enumerate() {
        let mut holds: Vec<(Seen, Seen, &Request)> = requests
            .into_iter()
            .filter_map(|request| request.certain().map(|(from, to)| (from, to, request)))
            .collect();
        holds.sort_by_key(|(from, ..)| *from);
        let mut last: Option<(Seen, &Request)> = None;
        for (from, to, request) in holds {
            if let Some((until, other)) = last
                && from.at <= until.at
            {
                let process = |request| histories.process(request);
                let both = until.at.min(to.at) - from.at;
                let what = format!(
                    "{} and {} both held {:?} at {}, for at least {} ns",
                    process(other),
                    process(request),
                    histories.keys[key],
                    from.at,
                    both,
                );
                found.add("M1", [until.place, from.place], &what);
            }
            if last.is_none_or(|(until, _)| to > until) {
                last = Some((to, request));
            }
        }
    }
}

/// **Permits**: of a semaphore at most its number of permits is certainly held at one instant. Each
/// permit is also a key, which has one holder.
pub(crate) fn permits(found: &mut Found<'_>) {
    let histories = found.histories;
    for (semaphore, (permits, requests)) in histories.by_semaphore() {
        let mut holds: Vec<(Seen, Seen)> = requests
            .iter()
            .filter_map(|request| request.certain())
            .collect();
        holds.sort_by_key(|(from, _)| *from);
        // The ends of the holds that have begun.
        let mut held = BTreeSet::new();
        for (from, to) in holds {
            held.retain(|until: &Seen| until.at >= from.at);
            held.insert(to);
            if held.len() > permits
                && let Some(first) = held.first()
            {
                let what = format!(
                    "{} permits of {:?} were held at {}; there are {permits}",
                    held.len(),
                    histories.keys[semaphore],
                    from.at,
                );
                found.add("permits", [first.place, from.place], &what);
            }
        }
    }
}

/// **M2 fencing**: no two grants of a key share an epoch. Of two holders, the later one has the
/// higher epoch. A request that begins after a grant gets a higher epoch.
pub(crate) fn fencing(found: &mut Found<'_>) {
    let histories = found.histories;
    for (key, requests) in histories.by_key().into_iter().enumerate() {
        let key = &histories.keys[key];
        let mut granted: Vec<_> = requests
            .iter()
            .filter_map(|request| request.grant.map(|grant| (grant, *request)))
            .collect();
        let mut epochs = BTreeMap::new();
        for (grant, _) in &granted {
            if let Some(first) = epochs.insert(grant.epoch, grant.place) {
                let what = format!("epoch {} of {key:?} was granted twice", grant.epoch);
                found.add("M2", [first, grant.place], &what);
            }
        }
        // The instant at which the request held the key or, if unknown, at which it began. Its
        // epoch must exceed those of all grants reported before.
        let at = |request: &Request, before: u64| {
            if request.certain().is_some() {
                before
            } else {
                request.asked.at
            }
        };
        granted.sort_by_key(|(grant, request)| at(request, grant.before));
        // Grants in the order of their reports. A later request must exceed the highest of them.
        let mut told: Vec<_> = granted.iter().map(|(grant, _)| *grant).collect();
        told.sort_by_key(|grant| grant.before);
        let (mut next, mut highest) = (0, None::<(u64, Place)>);
        for (grant, request) in &granted {
            let now = at(request, grant.before);
            while let Some(earlier) = told.get(next).filter(|earlier| earlier.before < now) {
                highest = highest.max(Some((earlier.epoch, earlier.place)));
                next += 1;
            }
            if let Some((epoch, place)) = highest
                && grant.epoch < epoch
            {
                let what = format!(
                    "{key:?} was owned with epoch {epoch}, and later with {}",
                    grant.epoch
                );
                found.add("M2", [place, grant.place], &what);
            }
        }
    }
}

/// **M3**: a guard that was lost is never held again.
pub(crate) fn lost_for_good(found: &mut Found<'_>) {
    let histories = found.histories;
    for request in &histories.requests {
        if let (Some(lost), Some(held)) = (request.lost, request.held_after_lost) {
            let what = format!(
                "{:?} was lost, and held again by the same guard",
                histories.keys[request.key]
            );
            found.add("M3", [lost, held], &what);
        }
    }
}

/// **M6**: a lock through the trait lasts its TTL. Until then the key is not granted again, even if
/// the process dies. The TTL counts from the request, less the allowed clock drift.
pub(crate) fn lasts_its_ttl(found: &mut Found<'_>) {
    let histories = found.histories;
    for (key, requests) in histories.by_key().into_iter().enumerate() {
        let granted = |request: &Request| {
            let tick = request.tick.map(|tick| tick.told);
            tick.or_else(|| request.certain().map(|(from, _)| from))
        };
        let mut told: Vec<(Seen, &Request)> = requests
            .into_iter()
            .filter_map(|request| Some((granted(request)?, request)))
            .collect();
        told.sort_by_key(|(told, _)| *told);
        // Compare each grant with the earlier tick that ends last.
        let mut last: Option<(u64, Seen)> = None;
        for (told, request) in told {
            if let Some((end, tick)) = last.filter(|(end, _)| told.at < *end) {
                let what = format!(
                    "{:?} was taken through the trait and granted again {} ms before its end",
                    histories.keys[key],
                    (end - told.at) / 1_000_000
                );
                found.add("M6", [tick.place, told.place], &what);
            }
            if let Some(tick) = request.tick {
                let end = request.asked.at.saturating_add(least(tick.ttl));
                last = last.max(Some((end, told)));
            }
        }
    }
}

/// **Ticks**: a tick that ran is not granted again before its mark ends. A tick that is told to have
/// run had an attempt with that epoch. That the epochs of attempts rise is M2.
///
/// An attempt with a higher epoch was granted after the one that ran. Its grant was before its
/// work. The law does not hold after a voter found that it may lack marks.
pub(crate) fn ticks_run_once(found: &mut Found<'_>) {
    let histories = found.histories;
    for (key, requests) in histories.by_key().into_iter().enumerate() {
        let key = &histories.keys[key];
        let attempts = || requests.iter().filter_map(|request| request.grant);
        for request in &requests {
            if let (Some(ran), Some(grant)) = (request.ran, request.grant) {
                let until = ran.before.saturating_add(least(ran.keep_for));
                let is_again = |other: &Grant| other.epoch > grant.epoch && other.before < until;
                for again in attempts().filter(is_again) {
                    if !may_lack_marks(histories, ran.before, again.before) {
                        let what = format!("{key:?} ran, and began again within its keep_for");
                        found.add("ticks", [ran.place, again.place], &what);
                    }
                }
            }
            if let Some((epoch, place)) = request.ran_before
                && !attempts().any(|attempt| attempt.epoch == epoch)
            {
                let what = format!("{key:?} ran with epoch {epoch}, which no attempt had");
                found.add("ticks", [request.asked.place, place], &what);
            }
        }
    }
}

/// Returns `true` if a voter may have lacked marks of the time `marked` when it voted for an attempt
/// that began at `granted`. One that ended before it was seen to vote may have voted just before.
fn may_lack_marks(histories: &Histories, marked: u64, granted: u64) -> bool {
    histories.incarnations.iter().any(|incarnation| {
        let until = incarnation.gone.saturating_add(incarnation.max_lease);
        let last_look = incarnation.last.at.saturating_sub(LOOK_LATE);
        match incarnation.has_voted {
            true => {
                let lacks = incarnation.may_lack_marks.is_some_and(|at| at >= marked);
                lacks && incarnation.start <= granted
            }
            false => (last_look..=until).contains(&granted),
        }
    })
}

/// **Resume**: a voter that had voted, and whose journal is synced, votes from its journal after a
/// power cut.
pub(crate) fn resumes_after_power_cuts(found: &mut Found<'_>) {
    let histories = found.histories;
    for (last, next) in histories.power_cuts() {
        let is_synced = last.durability == Some(Durability::Machine);
        let has_lost = next.from.is_some_and(|from| from != StartFrom::Journal);
        // Its journal may not yet say that it votes.
        let voted = last.votes_since.map(|at| at.saturating_add(LOOK_LATE));
        let has_voted = voted.is_some_and(|at| at <= last.gone);
        if is_synced && has_voted && has_lost {
            let node = &histories.nodes[last.node];
            let what = format!("{node} voted, and lost its synced journal by a power cut");
            found.add("resume", [last.last.place, next.place], &what);
        }
    }
}

/// **L1**: once all faults are over, every node is granted a lock again.
pub(crate) fn served_in_the_calm(found: &mut Found<'_>) {
    let histories = found.histories;
    let Some((calm, nodes)) = &histories.calm else {
        return;
    };
    for node in nodes {
        let is_served = histories.requests.iter().any(|request| {
            let grant = request.grant.map(|grant| grant.before);
            histories.node_of(request) == *node && grant > Some(calm.at)
        });
        if !is_served {
            let incarnations = histories
                .incarnations
                .iter()
                .filter(|incarnation| incarnation.node == *node);
            let last = incarnations.map(|incarnation| incarnation.last).max();
            let what = format!(
                "{} was granted nothing once all faults were over",
                histories.nodes[*node]
            );
            found.add(
                "L1",
                [calm.place, last.map_or(calm.place, |last| last.place)],
                &what,
            );
        }
    }
}

/// The shortest incarnation that must be granted a lock, in nanoseconds.
const FAIR_INCARNATION: u64 = 6_000_000_000;

/// **L1**: a node with a wrong wall clock is granted locks, if it is the only such node.
pub(crate) fn served_with_a_wrong_wall_clock(found: &mut Found<'_>) {
    let histories = found.histories;
    for fault in &histories.faults {
        if fault.kind != FaultKind::WallClock {
            continue;
        }
        for node in &fault.nodes {
            let incarnations = histories.incarnations.iter().enumerate();
            let incarnation = incarnations
                .filter(|(_, incarnation)| incarnation.node == *node && !incarnation.is_twin)
                .filter(|(_, incarnation)| incarnation.start >= fault.before)
                .min_by_key(|(_, incarnation)| incarnation.start);
            let Some((number, incarnation)) = incarnation else {
                continue;
            };
            let (start, end) = (incarnation.start, incarnation.gone.min(histories.end));
            let unserved: u64 = histories
                .unserved(*node)
                .into_iter()
                .map(|(from, to)| to.min(end).saturating_sub(from.max(start)))
                .sum();
            let mut requests = histories.requests.iter();
            let is_granted = requests.any(|it| it.incarnation == number && it.grant.is_some());
            if !is_granted && (end - start).saturating_sub(unserved) >= FAIR_INCARNATION {
                let what = format!(
                    "{} was granted nothing while its wall clock was off",
                    histories.nodes[*node]
                );
                found.add("L1", [incarnation.place, incarnation.last.place], &what);
            }
        }
    }
}
