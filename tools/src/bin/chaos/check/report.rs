//! Histories as a page.

use serde_json::json;
use tools::page::{Kind, Shown, Timeline, Tone, Trace};

use super::laws::least;
use super::records::{End, Histories, NodeAt, Request};
use super::wakeup::end_of_wait;
use crate::history::FaultKind;

/// Returns the page. `broken` describes the contradictions.
pub(super) fn page(histories: &Histories, broken: &[String]) -> serde_json::Result<String> {
    // Nodes that the runner started have a lane each. Clients, of which there are hundreds, share the
    // last.
    let faults = histories.faults.iter();
    let starts = faults.clone().filter(|it| it.kind == FaultKind::Started);
    let mut lanes: Vec<NodeAt> = starts.flat_map(|it| it.nodes.clone()).collect();
    if lanes.is_empty() {
        lanes.extend(0..histories.nodes.len());
    }
    lanes.sort_by_key(|node| &histories.nodes[*node]);
    lanes.dedup();
    let lane = |node: &NodeAt| {
        lanes
            .iter()
            .position(|it| it == node)
            .unwrap_or(lanes.len())
    };
    let mut timeline = Timeline::default();
    add_faults(&mut timeline, histories, lane, lanes.len());
    for node in &lanes {
        for (from, to) in histories.unserved(*node) {
            let what = format!("{} reaches no quorum", histories.nodes[*node]);
            timeline.add(
                from,
                to.min(histories.end),
                Kind::Unserved,
                Some(lane(node)),
                what,
            );
        }
    }
    for request in &histories.requests {
        let lane = lane(&histories.node_of(request));
        add_request(&mut timeline, histories, request, lane);
    }
    if let Some((calm, _)) = &histories.calm {
        let what = "all faults are over".to_owned();
        timeline.add(calm.at, calm.at, Kind::Healed, None, what);
    }
    for sentence in broken {
        timeline.say(histories.end, Tone::Broken, sentence.clone());
    }
    let begins = histories.incarnations.iter().map(|it| it.start);
    let from = begins
        .chain(faults.map(|it| it.before))
        .min()
        .unwrap_or_default();
    let files = histories.files.iter().map(|it| it.display().to_string());
    let has_clients = lanes.len() < histories.nodes.len();
    let nodes = lanes.iter().map(|node| histories.nodes[*node].clone());
    let trace = Trace {
        title: "Histories of processes".to_owned(),
        command: format!("chaos check {}", files.collect::<Vec<_>>().join(" ")),
        subject: "lockmesh",
        nodes: nodes
            .chain(has_clients.then(|| "clients".to_owned()))
            .collect(),
        is_fenced: true,
        marks: "ticks",
        window: from..histories.end,
        run: from..histories.end,
        timeline,
        ..Trace::default()
    };
    trace.page()
}

/// Adds the spans of a request: that it waited, that it held the key, and that its tick ran.
fn add_request(timeline: &mut Timeline, histories: &Histories, request: &Request, lane: usize) {
    let (key, process) = (&histories.keys[request.key], histories.process(request));
    let mut add = |from, to, kind, what: &str, why: &str, epoch| {
        let span = timeline.add(
            from,
            to,
            kind,
            Some(lane),
            format!("{process} {what} {key}"),
        );
        (span.key, span.epoch, span.why) = (Some(key.clone()), epoch, why.to_owned());
    };
    let epoch = request.grant.and_then(|grant| Shown::of(grant.epoch));
    let end = match request.over.map(|over| over.how) {
        Some(End::Released { held: true }) => "it was released",
        Some(End::Released { held: false } | End::Lost) => "its lease was over: lost",
        Some(End::Denied) => "another was granted, or the tick had run",
        Some(End::TimedOut) => "it timed out",
        Some(End::Withdrawn) => "it was withdrawn",
        Some(End::ShutDown) => "its node was shut down",
        None => "its process ended",
    };
    let told = request.tick.map(|tick| tick.told.at);
    let until = told.unwrap_or_else(|| end_of_wait(histories, request).0);
    let is_granted = epoch.is_some() || told.is_some();
    let why = if is_granted { "it was granted" } else { end };
    add(
        request.asked.at,
        until,
        Kind::Waits,
        "waited for",
        why,
        None,
    );
    if let Some((from, to)) = request.certain() {
        let why = format!("observed until then; {end}");
        add(from.at, to.at, Kind::Holds, "held", &why, epoch.clone());
    } else if let Some(tick) = request.tick {
        let to = request.asked.at.saturating_add(least(tick.ttl)).max(until);
        add(
            until,
            to,
            Kind::Holds,
            "held",
            "taken through the trait",
            None,
        );
    }
    if let Some(ran) = request.ran {
        add(
            ran.before,
            ran.before,
            Kind::Taken,
            "ran the tick",
            "",
            epoch,
        );
    }
}

/// Adds the faults, except for clients.
fn add_faults(
    timeline: &mut Timeline,
    histories: &Histories,
    lane: impl Fn(&NodeAt) -> usize,
    lanes: usize,
) {
    for fault in &histories.faults {
        let kind = json!(fault.kind)
            .as_str()
            .unwrap_or_default()
            .replace('_', " ");
        let names = fault
            .nodes
            .iter()
            .map(|node| histories.nodes[*node].as_str());
        let names = names.collect::<Vec<_>>().join(", ");
        let what = if names.is_empty() {
            kind
        } else {
            format!("{kind}: {names}")
        };
        let mut sides = vec![0; lanes + 1];
        let links = match fault.kind {
            FaultKind::Client | FaultKind::ClientKilled => continue,
            FaultKind::CutOff | FaultKind::Split => {
                fault.nodes.iter().for_each(|node| sides[lane(node)] = 1);
                Some(what.as_str())
            }
            FaultKind::OneWay | FaultKind::Loss | FaultKind::Delay => Some(what.as_str()),
            FaultKind::Duplication | FaultKind::Reordering => Some(what.as_str()),
            FaultKind::Healed => Some(""),
            _ => None,
        };
        if let Some(links) = links {
            timeline.follow(fault.before, Kind::Network, None, links, &sides);
        }
        timeline.say(fault.before, Tone::Calm, what);
    }
}
