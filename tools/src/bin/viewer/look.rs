//! Snapshots of the cluster, which the page shows 20 times a second.

use std::sync::Weak;
use std::time::Duration;

use lockmesh_harness::Condition;
use serde::Serialize;

use super::caption::{self, Caption};
use super::record::{Kind, Line, Ms, Record, Shown, Span, Tone};
use super::world::{Lab, names};
use tools::millis;

const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The content of the page, except for the timeline.
#[derive(Debug, Default, Serialize)]
pub(super) struct Snapshot {
    pub(super) at: Ms,
    pub(super) ttl: Ms,
    /// The number of voters in a quorum.
    pub(super) quorum: usize,
    pub(super) nodes: Vec<NodeSeen>,
    /// `cuts[from][to]` is `true` if the link is cut.
    pub(super) cuts: Vec<Vec<bool>>,
    /// The side of each node; empty if links join all nodes.
    pub(super) sides: Vec<usize>,
    /// The percentage of datagrams that every link loses.
    pub(super) loss: u8,
    /// The delay of every link, in milliseconds.
    pub(super) delay: u16,
    pub(super) claims: Vec<ClaimSeen>,
    pub(super) grants: u64,
    pub(super) losses: u64,
    pub(super) broken: u64,
    pub(super) caption: Caption,
}

#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct NodeSeen {
    /// `running`, `frozen` or `down`.
    pub(super) condition: &'static str,
    /// The least time that its voter remains in recovery.
    pub(super) quarantine: Option<Ms>,
    /// For each node, `true` if this one considers it alive.
    pub(super) sees: Vec<bool>,
    /// The number of voters that it exchanges datagrams with, itself included.
    pub(super) reaches: usize,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct ClaimSeen {
    pub(super) node: usize,
    pub(super) key: String,
    /// `holds`, `waits` or `tries`.
    pub(super) stage: &'static str,
    pub(super) epoch: Option<Shown>,
    /// The remaining lease.
    pub(super) left: Ms,
}

/// The changes in a message to the page.
#[derive(Serialize)]
struct Told<'a> {
    spans: Vec<&'a Span>,
    lines: Vec<&'a Line>,
}

impl Lab {
    /// Takes a snapshot, and notifies all pages.
    pub(super) fn look(&self) {
        let size = self.mesh.size();
        let mut nodes: Vec<NodeSeen> = (0..size).map(|i| self.look_at(i)).collect();
        let cut = |from, to| from != to && self.mesh.fault(from, to).cut;
        let cuts: Vec<Vec<bool>> = (0..size)
            .map(|from| (0..size).map(|to| cut(from, to)).collect())
            .collect();
        for i in 0..size {
            nodes[i].reaches = reaches(&nodes, &cuts, i);
        }
        let mut state = self.lock();
        // Read under the lock, so that records are in the order of their times.
        let now = self.now();
        for (i, node) in nodes.iter().enumerate() {
            let is_down = node.condition == "down";
            for (kind, is_so) in [
                (Kind::Frozen, node.condition == "frozen"),
                (Kind::Down, is_down),
                (Kind::Quarantine, !is_down && node.quarantine.is_some()),
            ] {
                follow(&mut state.record, now, kind, i, is_so);
            }
        }
        let sides = sides(&cuts);
        follow_network(&mut state.record, now, &cuts, &sides);
        state.drop_the_lost(now);
        let claims = state.claims.iter().map(|claim| claim.seen(now));
        let mut snapshot = Snapshot {
            at: now,
            ttl: millis(self.ttl),
            quorum: size / 2 + 1,
            claims: claims.collect(),
            loss: state.loss,
            delay: state.delay,
            grants: state.record.grants,
            losses: state.record.losses,
            broken: state.record.broken,
            nodes,
            cuts,
            sides,
            caption: Caption::default(),
        };
        snapshot.caption = caption::of(&snapshot, &state.record);
        state.told = serde_json::to_string(&snapshot).unwrap_or_default().into();
        drop(state);
        self.looks.send_modify(|looks| *looks += 1);
    }

    fn look_at(&self, i: usize) -> NodeSeen {
        let (condition, status) = (self.mesh.condition(i), self.mesh.node(i).status());
        let is_up = condition != Condition::Down;
        let members = status.members.iter();
        NodeSeen {
            condition: match condition {
                Condition::Running => "running",
                Condition::Paused => "frozen",
                _ => "down",
            },
            quarantine: status.quarantine.map(millis),
            sees: members.map(|member| is_up && member.is_reachable).collect(),
            reaches: 0,
        }
    }

    /// Returns the current version, and a message with the last snapshot and the changes since
    /// `version`.
    pub(super) fn told_since(&self, version: u64) -> (u64, String) {
        let state = self.lock();
        let (spans, lines) = state.record.since(version);
        let told = serde_json::to_string(&Told { spans, lines }).unwrap_or_default();
        let now = &state.told;
        let text = format!("{{\"now\":{now},\"changed\":{told}}}");
        (state.record.version, text)
    }
}

/// Takes snapshots until the lab is dropped.
pub(super) async fn watch(lab: Weak<Lab>) {
    let mut every = tokio::time::interval(LOOK_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while let Some(lab) = lab.upgrade() {
        lab.look();
        drop(lab);
        every.tick().await;
    }
}

/// Returns the number of voters that a node exchanges datagrams with, itself included. These voters
/// run and vote, and the links to and from them are not cut.
fn reaches(nodes: &[NodeSeen], cuts: &[Vec<bool>], i: usize) -> usize {
    let votes = |node: &NodeSeen| node.condition == "running" && node.quarantine.is_none();
    let passes = |j: usize| !cuts[i][j] && !cuts[j][i];
    (0..nodes.len())
        .filter(|j| votes(&nodes[*j]) && passes(*j))
        .count()
}

/// Returns the side of each node, or an empty list if all are on one side. Nodes are on one side if
/// a path of links joins them in both directions. Side 0 is the largest.
fn sides(cuts: &[Vec<bool>]) -> Vec<usize> {
    let size = cuts.len();
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut known = vec![false; size];
    for start in 0..size {
        if known[start] {
            continue;
        }
        known[start] = true;
        let mut group = vec![start];
        let mut at = 0;
        while at < group.len() {
            let i = group[at];
            at += 1;
            for j in 0..size {
                if !known[j] && !cuts[i][j] && !cuts[j][i] {
                    known[j] = true;
                    group.push(j);
                }
            }
        }
        groups.push(group);
    }
    if groups.len() < 2 {
        return Vec::new();
    }
    groups.sort_by_key(|group| std::cmp::Reverse(group.len()));
    let mut sides = vec![0; size];
    for (side, group) in groups.iter().enumerate() {
        group.iter().for_each(|i| sides[*i] = side);
    }
    sides
}

/// Begins or ends the span of a node's condition.
fn follow(record: &mut Record, now: Ms, kind: Kind, node: usize, is_so: bool) {
    let span = record.lasting(kind, Some(node)).map(|span| span.id);
    match (span, is_so) {
        (None, true) => {
            let what = match kind {
                Kind::Frozen => "is frozen: its process does not run, its clock goes on",
                Kind::Down => "is down: its process has crashed",
                _ => "has lost its memory and is in recovery",
            };
            record.begin(now, kind, Some(node), format!("n{node} {what}"));
        }
        (Some(span), false) => {
            record.end(span, now, "it is over");
            if kind == Kind::Quarantine {
                record.say(now, Tone::Calm, format!("n{node} votes again"));
            }
        }
        _ => {}
    }
}

/// Replaces the span of the cut links if they have changed.
fn follow_network(record: &mut Record, now: Ms, cuts: &[Vec<bool>], sides: &[usize]) {
    let what = network(cuts, sides);
    if let Some(span) = record.lasting(Kind::Network, None) {
        if span.what == what {
            return;
        }
        record.end(span.id, now, "the links changed");
    }
    if !what.is_empty() {
        record.begin(now, Kind::Network, None, what).sides = sides.to_vec();
    }
}

/// Describes the cuts; empty if there are none. Cuts between sides are not listed.
fn network(cuts: &[Vec<bool>], sides: &[usize]) -> String {
    let mut words = Vec::new();
    for side in 0..=sides.iter().copied().max().unwrap_or_default() {
        let group = (0..sides.len()).filter(|i| sides[*i] == side);
        words.push(names(&group.collect::<Vec<_>>()));
    }
    let mut text = match sides.is_empty() {
        true => String::new(),
        false => format!("partition: {}", words.join(" | ")),
    };
    words.clear();
    for (a, b) in (0..cuts.len()).flat_map(|b| (0..b).map(move |a| (a, b))) {
        let crosses = !sides.is_empty() && sides[a] != sides[b];
        match (cuts[a][b], cuts[b][a]) {
            (true, true) if !crosses => words.push(format!("n{a}–n{b}")),
            (true, false) => words.push(format!("n{a}→n{b}")),
            (false, true) => words.push(format!("n{b}→n{a}")),
            _ => {}
        }
    }
    if !words.is_empty() {
        let sep = if text.is_empty() { "" } else { "; " };
        text += &format!("{sep}cut: {}", words.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cuts(size: usize, cut: &[(usize, usize)]) -> Vec<Vec<bool>> {
        let is_cut = |a, b| cut.contains(&(a, b));
        (0..size)
            .map(|a| (0..size).map(|b| is_cut(a, b)).collect())
            .collect()
    }

    #[test]
    fn sides_are_connected_components_largest_first() {
        assert_eq!(sides(&cuts(3, &[])), [0; 0]);
        assert_eq!(sides(&cuts(3, &[(0, 1), (1, 0)])), [0; 0], "over n2");
        let one_way = cuts(3, &[(0, 1), (0, 2)]);
        assert_eq!(sides(&one_way), [1, 0, 0]);
        assert_eq!(
            network(&one_way, &sides(&one_way)),
            "partition: n1, n2 | n0; cut: n0→n1, n0→n2"
        );
        let both = cuts(3, &[(0, 1), (0, 2), (1, 0), (2, 0)]);
        assert_eq!(network(&both, &sides(&both)), "partition: n1, n2 | n0");
        let pair = cuts(3, &[(0, 1), (1, 0)]);
        assert_eq!(network(&pair, &sides(&pair)), "cut: n0–n1");
        assert_eq!(network(&cuts(3, &[]), &[]), "");
    }

    #[test]
    fn reaches_counts_connected_running_voters_only() {
        let runs = NodeSeen {
            condition: "running",
            ..NodeSeen::default()
        };
        let mut nodes = vec![runs; 5];
        let cuts = cuts(5, &[(0, 1)]);
        assert_eq!(reaches(&nodes, &cuts, 0), 4);
        assert_eq!(reaches(&nodes, &cuts, 2), 5);
        nodes[3].condition = "frozen";
        nodes[4].quarantine = Some(1);
        assert_eq!(reaches(&nodes, &cuts, 2), 3);
    }
}
