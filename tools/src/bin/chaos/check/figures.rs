//! Counts and times of histories.

use std::collections::BTreeMap;

use serde::Serialize;

use super::records::{End, Fault, Histories, Request};
use super::wakeup::end_of_wait;
use crate::history::{FaultKind, How, StartFrom};

/// The counts and times.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Figures {
    pub(crate) files: usize,
    pub(crate) nodes: usize,
    pub(crate) keys: usize,
    pub(crate) incarnations: usize,
    /// Incomplete lines of processes that were killed.
    pub(crate) torn: usize,
    pub(crate) requests: usize,
    pub(crate) grants: usize,
    pub(crate) grants_by_node: BTreeMap<String, usize>,
    pub(crate) released: usize,
    pub(crate) lost: usize,
    pub(crate) extended: u64,
    pub(crate) denied: usize,
    pub(crate) timed_out: usize,
    pub(crate) withdrawn: usize,
    /// Ticks that ran, and requests that learnt that their tick had run.
    pub(crate) ticks_ran: usize,
    pub(crate) ticks_ran_before: usize,
    /// Voters that may lack marks.
    pub(crate) may_lack_marks: usize,
    /// The longest wait in line before a grant.
    pub(crate) longest_wait_ms: f64,
    /// The longest wait in line while the key was free and a quorum was up.
    pub(crate) longest_wait_for_free_ms: f64,
    pub(crate) faults: BTreeMap<FaultKind, usize>,
    /// Processes that ended by power cuts, and the sources of the memory of the next ones, as far as
    /// these were seen to vote.
    pub(crate) power_cuts: usize,
    pub(crate) starts_after_power_cuts: BTreeMap<StartFrom, usize>,
    /// The times from a fault of a holder to the next grant of its keys, if another node waited.
    pub(crate) takeovers: BTreeMap<FaultKind, Spread>,
}

/// A distribution of times, in milliseconds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Spread {
    pub(crate) count: usize,
    pub(crate) min_ms: f64,
    pub(crate) p50_ms: f64,
    pub(crate) max_ms: f64,
}

impl Figures {
    pub(crate) fn of(histories: &Histories, longest_wait_for_free: u64) -> Self {
        let mut figures = Self {
            files: histories.files.len(),
            nodes: histories.nodes.len(),
            keys: histories.keys.len(),
            incarnations: histories.incarnations.len(),
            torn: histories.torn,
            requests: histories.requests.len(),
            longest_wait_for_free_ms: ms(longest_wait_for_free),
            may_lack_marks: histories
                .incarnations
                .iter()
                .filter(|incarnation| incarnation.may_lack_marks.is_some())
                .count(),
            takeovers: takeovers(histories),
            ..Self::default()
        };
        for fault in histories
            .faults
            .iter()
            .filter(|fault| fault.kind.is_fault())
        {
            *figures.faults.entry(fault.kind).or_default() += 1;
        }
        for (_, next) in histories.power_cuts() {
            figures.power_cuts += 1;
            if let Some(from) = next.from {
                *figures.starts_after_power_cuts.entry(from).or_default() += 1;
            }
        }
        for request in &histories.requests {
            figures.count(histories, request);
        }
        figures
    }

    fn count(&mut self, histories: &Histories, request: &Request) {
        self.extended += request.extended;
        self.ticks_ran += usize::from(request.ran.is_some());
        self.ticks_ran_before += usize::from(request.ran_before.is_some());
        if let Some(grant) = request.grant {
            self.grants += 1;
            let node = histories.nodes[histories.node_of(request)].clone();
            *self.grants_by_node.entry(node).or_default() += 1;
            if request.how == How::Acquire {
                let wait = ms(grant.before - request.asked.at);
                self.longest_wait_ms = self.longest_wait_ms.max(wait);
            }
        }
        match request.over.map(|over| over.how) {
            Some(End::Released { held: true }) => self.released += 1,
            Some(End::Released { held: false } | End::Lost) => self.lost += 1,
            Some(End::Denied) => self.denied += 1,
            Some(End::TimedOut) => self.timed_out += 1,
            Some(End::Withdrawn) => self.withdrawn += 1,
            Some(End::ShutDown) | None => {}
        }
    }
}

/// Returns the times from a fault of a holder to the next grant, for each key that it held and
/// another node waited for.
fn takeovers(histories: &Histories) -> BTreeMap<FaultKind, Spread> {
    let by_key = histories.by_key();
    let mut times: BTreeMap<FaultKind, Vec<u64>> = BTreeMap::new();
    for fault in &histories.faults {
        let kind = fault.kind;
        let ends_holds = matches!(
            kind,
            FaultKind::Killed
                | FaultKind::KilledAndRestarted
                | FaultKind::PowerCut
                | FaultKind::Terminated
                | FaultKind::CutOff
                | FaultKind::Frozen
        );
        if ends_holds {
            let keys = by_key.iter();
            let taken = keys.filter_map(|key| takeover(histories, fault, key));
            times.entry(kind).or_default().extend(taken);
        }
    }
    times.retain(|_, times| !times.is_empty());
    let spread = |(kind, times)| (kind, Spread::of(times));
    times.into_iter().map(spread).collect()
}

fn takeover(histories: &Histories, fault: &Fault, requests: &[&Request]) -> Option<u64> {
    // A fault of a node does not affect its twin.
    let is_hit = |request: &Request| {
        fault.nodes.contains(&histories.node_of(request))
            && !histories.incarnations[request.incarnation].is_twin
    };
    let (held, _) = requests
        .iter()
        .filter(|request| is_hit(request))
        .filter_map(|request| Some((request, request.certain()?.0)))
        .find(|(request, from)| {
            let incarnation = &histories.incarnations[request.incarnation];
            let end = request.over.map_or(incarnation.gone, |over| over.after);
            from.at < fault.before && fault.before < end
        })?;
    let waits = |request: &Request| {
        let (end, _) = end_of_wait(histories, request);
        request.how == How::Acquire && request.asked.at < fault.before && fault.before < end
    };
    if !requests.iter().any(|other| !is_hit(other) && waits(other)) {
        return None;
    }
    // A release by the holder itself is not a takeover.
    if let Some(over) = held.over
        && matches!(over.how, End::Released { held: true })
    {
        return None;
    }
    let grants = requests.iter().filter_map(|request| request.grant);
    let next = grants
        .map(|grant| grant.before)
        .filter(|at| *at > fault.before)
        .min()?;
    Some(next - fault.before)
}

impl Spread {
    fn of(mut times: Vec<u64>) -> Self {
        times.sort_unstable();
        let at = |n: usize| times.get(n).copied().map(ms).unwrap_or_default();
        Self {
            count: times.len(),
            min_ms: at(0),
            p50_ms: at(times.len() / 2),
            max_ms: at(times.len().saturating_sub(1)),
        }
    }
}

/// Converts nanoseconds to milliseconds, rounded to hundredths.
pub(crate) fn ms(nanos: u64) -> f64 {
    (nanos as f64 / 1e4).round() / 1e2
}
