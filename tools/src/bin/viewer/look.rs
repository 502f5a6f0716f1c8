//! Snapshots of the cluster, which the page shows 20 times a second.

use std::sync::Weak;
use std::time::Duration;

use lockmesh::Note;
use lockmesh_harness::Condition;
use serde::Serialize;

use tools::millis;
use tools::page::{Kind, Links, Shown, Time, Tone};

use super::caption::{self, Caption};
use super::world::Lab;

const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The content of the page, except for the timeline.
#[derive(Debug, Default, Serialize)]
pub(super) struct Snapshot {
    pub(super) at: Time,
    pub(super) ttl: Time,
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
    pub(super) quarantine: Option<Time>,
    /// For each node, `true` if this one considers it alive.
    pub(super) sees: Vec<bool>,
    /// The number of voters that it exchanges datagrams with, itself included.
    pub(super) reaches: usize,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct ClaimSeen {
    pub(super) node: usize,
    pub(super) key: String,
    pub(super) note: Option<Note>,
    /// `holds`, `waits` or `tries`.
    pub(super) stage: &'static str,
    pub(super) epoch: Option<Shown>,
    /// The remaining lease.
    pub(super) left: Time,
}

impl Lab {
    /// Takes a snapshot, and notifies all pages.
    pub(super) fn look(&self) {
        let size = self.mesh.size();
        // Nodes and clock are read under the lock: a later snapshot has a later state and time.
        let mut state = self.lock();
        let mut nodes: Vec<NodeSeen> = (0..size).map(|i| self.look_at(i)).collect();
        let cut = |from, to| from != to && self.mesh.fault(from, to).cut;
        let cuts: Vec<Vec<bool>> = (0..size)
            .map(|from| (0..size).map(|to| cut(from, to)).collect())
            .collect();
        for i in 0..size {
            nodes[i].reaches = reaches(&nodes, &cuts, i);
        }
        let now = self.now();
        for (i, node) in nodes.iter().enumerate() {
            let is_down = node.condition == "down";
            let recovers = !is_down && node.quarantine.is_some();
            for (kind, is_so, what) in [
                (
                    Kind::Frozen,
                    node.condition == "frozen",
                    "is frozen: its process does not run, its clock goes on",
                ),
                (Kind::Down, is_down, "is down: its process has crashed"),
                (
                    Kind::Quarantine,
                    recovers,
                    "has lost its memory and is in recovery",
                ),
            ] {
                let what = if is_so {
                    format!("n{i} {what}")
                } else {
                    String::new()
                };
                let ended = state.timeline.follow(now, kind, Some(i), &what, &[]);
                if ended.is_some() && kind == Kind::Quarantine {
                    state
                        .timeline
                        .say(now, Tone::Calm, format!("n{i} votes again"));
                }
            }
        }
        let Links { sides, what } = Links::of(size, |from, to| cuts[from][to]);
        state
            .timeline
            .follow(now, Kind::Network, None, &what, &sides);
        state.drop_the_lost(now);
        let claims = state.claims.iter().map(|claim| claim.seen(now));
        let mut snapshot = Snapshot {
            at: now,
            ttl: millis(self.ttl),
            quorum: size / 2 + 1,
            claims: claims.collect(),
            loss: state.loss,
            delay: state.delay,
            grants: state.stories.grants,
            losses: state.stories.losses,
            broken: state.stories.broken,
            nodes,
            cuts,
            sides,
            caption: Caption::default(),
        };
        snapshot.caption = caption::of(&snapshot, &state.stories);
        state.timeline.forget(now);
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
        let text = state.timeline.message(&state.told, version);
        (state.timeline.version, text.unwrap_or_default())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reaches_counts_connected_running_voters_only() {
        let runs = NodeSeen {
            condition: "running",
            ..NodeSeen::default()
        };
        let mut nodes = vec![runs; 5];
        let mut cuts = vec![vec![false; 5]; 5];
        cuts[0][1] = true;
        assert_eq!(reaches(&nodes, &cuts, 0), 4);
        assert_eq!(reaches(&nodes, &cuts, 2), 5);
        nodes[3].condition = "frozen";
        nodes[4].quarantine = Some(1);
        assert_eq!(reaches(&nodes, &cuts, 2), 3);
    }
}
