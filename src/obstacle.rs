//! The obstacles that keep a node from getting locks, as text: cause, peer and action. To add one,
//! add a variant of [`Obstacle`] and its arm in [`Obstacle::about`].

use std::net::SocketAddr;
use std::time::Duration;

use tracing::Level;

use crate::engine::core::Core;
use crate::obstacles::{NOTED_FOR, PEERS_MAX};
use lockmesh_proto::{DropReason, NodeId, Now, RefuseReason, Standing, Twin, WallClock, quorum};

/// An obstacle that ends within this time is not logged.
const PATIENCE: Duration = Duration::from_secs(1);
/// The maximum number of voters named in one line.
const NAMED_MAX: usize = 5;

/// An obstacle that keeps this node from getting locks, or will.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Obstacle {
    /// Too few voters would vote for a claim of this node, so that keys have no quorum.
    NoQuorum(NoQuorum),
    /// Another voter would not vote for claims of this node.
    Voter { node: NodeId, standing: Standing },
    /// This node's voter is in recovery.
    Recovering { remaining: Duration, blocks: bool },
    /// A node of this cluster has another voter set or other constants.
    OtherVoterSet { node: NodeId, differs: String },
    /// This node's voter is in recovery, and a voter of another voter set is active.
    WaitsForOtherSet { node: NodeId },
    /// Datagrams from this address cannot be opened.
    ForeignNode {
        from: SocketAddr,
        reason: DropReason,
    },
    /// Epochs rise only if no wall clock was set back.
    LeansOnWallClock { answers: usize, knows_clocks: bool },
    /// This node's voter has lost its memory, and could not read the marks of enough others.
    MarksLost,
    /// The wall clock of this node is wrong, or too few clocks are known to tell which are right.
    WallClock(WallClock),
    /// Another live process has this node's name.
    Twin(Twin),
    /// The gossip task has ended.
    GossipEnded,
    /// The name of a seed does not resolve.
    SeedUnresolved { seed: String, error: String },
    /// The socket cannot receive.
    SocketFailed { error: String },
}

/// The voters that are missing for a quorum.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct NoQuorum {
    pub(super) voting: usize,
    pub(super) members: usize,
    /// `true` if only some keys have no quorum.
    pub(super) of_some: bool,
    /// The voters that would not vote, and their standings.
    pub(super) others: Vec<(NodeId, Standing)>,
}

/// The log text of an obstacle, and when it is logged.
#[derive(Debug)]
pub(super) struct About {
    /// A name that is stable across versions.
    pub(super) kind: &'static str,
    pub(super) peer: Option<String>,
    pub(super) level: Level,
    /// The time that the obstacle must hold before it is logged.
    pub(super) patience: Duration,
    /// `true` if it is logged again while it holds.
    pub(super) repeats: bool,
    pub(super) cause: String,
    pub(super) action: String,
    /// The text that is logged once it is over; `None` if its end is not logged.
    pub(super) over: Option<String>,
}

impl About {
    fn new(
        kind: &'static str,
        level: Level,
        cause: impl Into<String>,
        action: impl Into<String>,
        over: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            peer: None,
            level,
            patience: PATIENCE,
            repeats: false,
            cause: cause.into(),
            action: action.into(),
            over: Some(over.into()),
        }
    }

    fn of(mut self, peer: impl ToString) -> Self {
        self.peer = Some(peer.to_string());
        self
    }

    /// Repeats the line while the obstacle holds, since it blocks everything.
    fn repeated(mut self) -> Self {
        self.repeats = true;
        self
    }

    fn at_once(mut self) -> Self {
        self.patience = Duration::ZERO;
        self
    }

    /// Logs the obstacle once, since its end cannot be detected.
    fn once(mut self) -> Self {
        self.over = None;
        self.at_once()
    }
}

impl Obstacle {
    pub(super) fn about(&self) -> About {
        match self {
            Self::NoQuorum(quorum) => quorum.about(),
            Self::Voter { node, standing } => about_voter(node, *standing),
            Self::Recovering { remaining, blocks } => about_recovering(*remaining, *blocks),
            Self::WaitsForOtherSet { node } => waits_for_other_set(node),
            Self::ForeignNode { from, reason } => about_foreign_node(*from, *reason),
            Self::OtherVoterSet { node, differs } => About::new(
                "other_voter_set",
                Level::WARN,
                format!(
                    "{node} has another voter set ({differs}); neither counts the other's votes"
                ),
                remedy(RefuseReason::VoterSet),
                format!("{node} has the same voter set, or is gone"),
            )
            .of(node),
            Self::LeansOnWallClock {
                answers,
                knows_clocks,
            } => leans_on_wall_clock(*answers, *knows_clocks),
            Self::MarksLost => About::new(
                "marks_lost",
                Level::WARN,
                "this node's voter lost its memory, and too few others told their marks: ticks that \
                 ran before may run again (this matters to users of `once` alone)",
                "restart voters one at a time, or give them a data directory",
                "",
            )
            .once(),
            Self::WallClock(state) => about_wall_clock(*state),
            Self::Twin(twin) => about_twin(*twin),
            Self::GossipEnded => About::new(
                "gossip_ended",
                Level::ERROR,
                "the gossip has ended: nodes that this one does not know are not found",
                "it is started again; if that does not last, report the reason that the log tells",
                "the gossip runs",
            )
            .at_once(),
            Self::SeedUnresolved { seed, error } => About::new(
                "seed_unresolved",
                Level::WARN,
                format!("the seed {seed} does not resolve: {error}"),
                "it is tried again; check its name and the DNS of this host",
                format!("the seed {seed} resolves"),
            )
            .of(seed),
            Self::SocketFailed { error } => About::new(
                "socket_failed",
                Level::WARN,
                format!("the socket cannot receive: {error}"),
                "check the network of this machine and the limits of this process",
                "the socket receives",
            ),
        }
    }
}

fn leans_on_wall_clock(answers: usize, knows_clocks: bool) -> About {
    let if_so = match knows_clocks {
        true => "most wall clocks were not set back",
        false => "no wall clock was set back",
    };
    About::new(
        "leans_on_wall_clock",
        Level::WARN,
        format!(
            "this node's voter votes, but only {answers} others told what they remember: epochs \
             rise only if {if_so}, and leases exclude each other only if no setting was changed \
             over a restart"
        ),
        "check that no voter's wall clock was set back; restart voters one at a time",
        "",
    )
    .once()
}

fn about_wall_clock(state: WallClock) -> About {
    let (cause, action) = match state {
        WallClock::Skewed { ahead_ms } => {
            let way = if ahead_ms < 0 { "behind" } else { "ahead of" };
            let by = decimal(ahead_ms.unsigned_abs());
            (
                format!("this node's wall clock is {by} {way} those of most voters, which count"),
                "set the wall clock of this machine right",
            )
        }
        WallClock::Disputed { by_ms } => (
            format!(
                "the wall clocks of the voters differ by {}, and too few are known to tell which \
                 are right: voters may refuse claims",
                decimal(by_ms)
            ),
            "set the wall clocks right, or bring back the other voters",
        ),
        WallClock::Right | WallClock::Unknown => (String::new(), ""),
    };
    let over = "this node's wall clock is right";
    About::new("wall_clock", Level::WARN, cause, action, over)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "of interest are the first few digits"
)]
fn decimal(ms: u64) -> String {
    format!("{:.1} s", ms as f64 / 1_000.0)
}

fn about_twin(twin: Twin) -> About {
    let Twin { mine, other } = twin;
    About::new(
        "twin",
        Level::ERROR,
        format!(
            "another process runs under this node's name: it is at {other}, this one at {mine}; \
             neither holds locks or votes"
        ),
        "stop one of the two, or give it a name of its own",
        "no other process of this node's name is heard; this one goes on",
    )
    .of(other)
    .repeated()
    .at_once()
}

fn about_recovering(remaining: Duration, blocks: bool) -> About {
    About::new(
        "quarantine",
        if blocks { Level::WARN } else { Level::INFO },
        format!(
            "this node's voter is in quarantine: voting resumes {} (restart without memory, \
             see docs/operations.md)",
            match remaining {
                Duration::ZERO => "once the other voters tell what they know".to_owned(),
                _ => format!("in {}", rounded(remaining)),
            }
        ),
        "restart voters one at a time, each after the one before it votes",
        "this node's voter votes",
    )
    .repeated()
}

impl NoQuorum {
    fn about(&self) -> About {
        let quorum = if self.of_some {
            "some keys have no quorum"
        } else {
            "no quorum"
        };
        let Self {
            voting,
            members,
            others,
            ..
        } = self;
        About::new(
            "no_quorum",
            Level::WARN,
            format!(
                "{quorum}: {voting} of {members} voters would vote for this node's claims; {}",
                list(others)
            ),
            what_to_do(others),
            "there is a quorum again",
        )
        .repeated()
    }
}

/// Describes the standing of another voter. A silent or recovering voter is no warning: while there
/// is a quorum without it, it blocks no lock.
fn about_voter(node: &NodeId, standing: Standing) -> About {
    let about = match standing {
        Standing::Recovering { remaining } => About::new(
            "voter_quarantine",
            Level::INFO,
            format!("{node} is in quarantine for {}", rounded(remaining)),
            remedy(RefuseReason::Quarantine),
            format!("{node} is not in quarantine"),
        ),
        Standing::Refuses(reason) => About::new(
            "voter_refuses",
            Level::WARN,
            format!("{node} refuses this node's claims: {}", because(reason)),
            remedy(reason),
            format!("{node} does not refuse this node's claims"),
        ),
        _ => About::new(
            "voter_silent",
            Level::INFO,
            format!("{node} does not answer"),
            "check that it runs and that its address can be reached",
            format!("{node} answers"),
        ),
    };
    about.of(node)
}

/// Returns the remaining time in whole seconds. Voting does not resume earlier; recovery may add
/// one second.
fn rounded(remaining: Duration) -> String {
    format!("{} s", remaining.as_secs() + 1)
}

fn because(reason: RefuseReason) -> &'static str {
    match reason {
        RefuseReason::Quarantine => "it is in quarantine",
        RefuseReason::Leaving => "it is shutting down",
        RefuseReason::Storage => "it cannot write its journal",
        RefuseReason::VoterSet => "it has another voter set",
        RefuseReason::Skew => "the wall clocks are too far apart",
        RefuseReason::Limit => "it keeps as many keys as it may",
        RefuseReason::NotAVoter => "it is not a voter",
        RefuseReason::Marks => "it reads the marks of the others",
    }
}

fn remedy(reason: RefuseReason) -> &'static str {
    match reason {
        RefuseReason::Quarantine | RefuseReason::Leaving | RefuseReason::Marks => {
            "restart no other voter until it votes"
        }
        RefuseReason::Storage => "give its data directory space, and look at its disk",
        RefuseReason::VoterSet | RefuseReason::NotAVoter => {
            "give all nodes the same voters, voters per key, timing and voter set version"
        }
        RefuseReason::Skew => "set the wall clocks of both right",
        RefuseReason::Limit => "hold fewer locks at once, or raise its limits",
    }
}

/// Returns the voters that would not vote, with their reasons.
fn list(others: &[(NodeId, Standing)]) -> String {
    let mut said: Vec<String> = others
        .iter()
        .take(NAMED_MAX)
        .map(|(node, standing)| match standing {
            Standing::Votes => format!("{node} votes"),
            Standing::Silent => format!("{node} does not answer"),
            Standing::Recovering { remaining } => {
                format!("{node} is in quarantine for {}", rounded(*remaining))
            }
            Standing::Refuses(reason) => format!("{node} refuses, {}", because(*reason)),
            _ => format!("{node} does not vote"),
        })
        .collect();
    if others.len() > NAMED_MAX {
        said.push(format!("and {} more", others.len() - NAMED_MAX));
    }
    said.join(", ")
}

/// Returns the remedies, each once. The remedy for silent voters comes first.
fn what_to_do(others: &[(NodeId, Standing)]) -> String {
    let mut remedies = Vec::new();
    if others.iter().any(|(_, it)| *it == Standing::Silent) {
        remedies.push("check that those that do not answer run and can be reached");
    }
    for (_, standing) in others {
        match standing {
            Standing::Refuses(reason) => remedies.push(remedy(*reason)),
            Standing::Recovering { .. } => remedies.push(remedy(RefuseReason::Quarantine)),
            _ => {}
        }
    }
    let mut said = Vec::new();
    remedies.retain(|remedy| {
        !said.contains(remedy) && {
            said.push(*remedy);
            true
        }
    });
    remedies.join("; ")
}

/// Returns the obstacles that hold now.
pub(super) fn holding(core: &Core, now: Now) -> Vec<Obstacle> {
    let node = &core.node;
    let members = node.voter_set().members();
    let standings = members.iter().map(|it| (it, node.standing_of(now, it)));
    let others = standings.filter(|(_, standing)| *standing != Standing::Votes);
    let others: Vec<_> = others
        .map(|(it, standing)| (it.clone(), standing))
        .collect();
    let voters_per_key = node.voter_set().voters_per_key();
    let voting = members.len() - others.len();
    let has_quorum = core.has_quorum(voting);
    let mut holding: Vec<Obstacle> = others
        .iter()
        .filter_map(|(voter, standing)| of_voter(core, voter, *standing, !has_quorum))
        .collect();
    if !has_quorum {
        holding.push(Obstacle::NoQuorum(NoQuorum {
            voting,
            members: members.len(),
            of_some: voting >= quorum(voters_per_key),
            others,
        }));
    }
    if let Some(waits_for) = node.voter().and_then(|voter| voter.waits_for(now)) {
        let node = waits_for.clone();
        holding.push(Obstacle::WaitsForOtherSet { node });
    }
    // One more than are named, so that the excess is detected.
    for other in node.of_other_sets(now, NOTED_FOR).take(PEERS_MAX + 1) {
        let obstacle = other_voter_set(core, other);
        if !holding.contains(&obstacle) {
            holding.push(obstacle);
        }
    }
    let clock = node.wall_clock(now);
    if !matches!(clock, WallClock::Right | WallClock::Unknown) {
        holding.push(Obstacle::WallClock(clock));
    }
    if let Some(twin) = node.twin() {
        // Peers may answer the other process, and this node's voter has no memory.
        holding.retain(|it| {
            !matches!(
                it,
                Obstacle::Recovering { .. } | Obstacle::NoQuorum(_) | Obstacle::Voter { .. }
            )
        });
        holding.push(Obstacle::Twin(twin));
    }
    if core.has_gossip_ended {
        holding.push(Obstacle::GossipEnded);
    }
    holding
}

fn waits_for_other_set(node: &NodeId) -> About {
    About::new(
        "waits_for_other_set",
        Level::WARN,
        format!("this node's voter does not vote while {node} speaks for another voter set"),
        "give both the same settings, or stop the other",
        "no voter of another voter set is heard",
    )
    .repeated()
}

fn about_foreign_node(from: SocketAddr, reason: DropReason) -> About {
    let is = reason.as_unopened().unwrap_or(reason.as_str());
    About::new(
        "foreign_node",
        Level::WARN,
        format!("a datagram from {from} is {is}"),
        "give all nodes of the cluster the same secret and cluster name",
        format!("all datagrams from {from} can be opened, or none come"),
    )
    .of(from)
    .repeated()
    .at_once()
}

fn other_voter_set(core: &Core, node: &NodeId) -> Obstacle {
    let differs = core.node.differences(node).unwrap_or_default();
    Obstacle::OtherVoterSet {
        node: node.clone(),
        differs: differs.to_string(),
    }
}

fn of_voter(core: &Core, voter: &NodeId, standing: Standing, blocks: bool) -> Option<Obstacle> {
    match standing {
        Standing::Recovering { remaining } if voter == core.node.id() => {
            Some(Obstacle::Recovering { remaining, blocks })
        }
        Standing::Votes => None,
        Standing::Refuses(RefuseReason::VoterSet) => Some(other_voter_set(core, voter)),
        standing => {
            let node = voter.clone();
            Some(Obstacle::Voter { node, standing })
        }
    }
}

#[cfg(test)]
#[path = "../tests/common/table.rs"]
mod table;

#[cfg(test)]
mod tests {
    use super::table::{code, table};
    use super::*;

    #[test]
    fn missing_quorum_names_voters_and_remedies() {
        let node = |n: usize| NodeId::new(format!("n{n}")).unwrap();
        let remaining = Duration::from_secs(60);
        let mut others = vec![
            (node(1), Standing::Silent),
            (node(2), Standing::Recovering { remaining }),
            (node(3), Standing::Refuses(RefuseReason::Skew)),
            (node(4), Standing::Silent),
        ];
        let no_quorum = |others: &[(NodeId, Standing)]| {
            let others = others.to_vec();
            let no_quorum = NoQuorum {
                voting: 1,
                members: 5,
                of_some: false,
                others,
            };
            Obstacle::NoQuorum(no_quorum).about()
        };
        let About { cause, action, .. } = no_quorum(&others);
        let expected = "no quorum: 1 of 5 voters would vote for this node's claims; n1 does \
                        not answer, n2 is in quarantine for 61 s, n3 refuses, the wall clocks are \
                        too far apart, n4 does not answer; check that those that do not answer \
                        run and can be reached; restart no other voter until it votes; set the \
                        wall clocks of both right";
        assert_eq!(format!("{cause}; {action}"), expected);
        others.extend((5..300).map(|n| (node(n), Standing::Silent)));
        let about = no_quorum(&others);
        assert!(about.cause.ends_with("and 294 more"), "{about:?}");
        assert!(about.action.len() < 300, "{about:?}");
    }

    /// Returns every obstacle, and each level that it may have.
    fn all() -> Vec<Obstacle> {
        let error = "ERROR".to_owned();
        let node = || NodeId::new("PEER").unwrap();
        let remaining = Duration::from_secs(9);
        let of_voter = |standing| Obstacle::Voter {
            node: node(),
            standing,
        };
        let recovering = |blocks| Obstacle::Recovering { remaining, blocks };
        vec![
            Obstacle::NoQuorum(NoQuorum {
                voting: 1,
                members: 3,
                of_some: false,
                others: vec![(node(), Standing::Silent)],
            }),
            recovering(false),
            recovering(true),
            of_voter(Standing::Recovering { remaining }),
            of_voter(Standing::Silent),
            of_voter(Standing::Refuses(RefuseReason::Limit)),
            Obstacle::OtherVoterSet {
                node: node(),
                differs: String::new(),
            },
            Obstacle::WaitsForOtherSet { node: node() },
            Obstacle::ForeignNode {
                from: "127.0.0.1:1".parse().unwrap(),
                reason: DropReason::Key,
            },
            Obstacle::Twin(Twin {
                mine: "127.0.0.1:1".parse().unwrap(),
                other: "127.0.0.1:2".parse().unwrap(),
            }),
            Obstacle::WallClock(WallClock::Skewed { ahead_ms: -9 }),
            Obstacle::WallClock(WallClock::Disputed { by_ms: 9 }),
            Obstacle::MarksLost,
            Obstacle::LeansOnWallClock {
                answers: 1,
                knows_clocks: true,
            },
            Obstacle::GossipEnded,
            Obstacle::SeedUnresolved {
                seed: "SEED".to_owned(),
                error: error.clone(),
            },
            Obstacle::SocketFailed { error },
        ]
    }

    #[test]
    fn every_obstacle_has_cause_and_action() {
        for about in all().iter().map(Obstacle::about) {
            assert!(
                !about.cause.is_empty() && !about.action.is_empty(),
                "{about:?}"
            );
        }
    }

    #[test]
    fn guide_lists_every_obstacle() {
        let guide = include_str!("../docs/observability.md");
        let rows = table(guide, "| `cause` | level |");
        let mut listed: Vec<&str> = rows.iter().map(|row| code(row[0])[0]).collect();
        for about in all().iter().map(Obstacle::about) {
            let row = rows.iter().find(|row| code(row[0])[0] == about.kind);
            let row = row.unwrap_or_else(|| panic!("{} is not in the guide", about.kind));
            listed.retain(|kind| *kind != about.kind);
            let [level, peer, end] = [row[1], row[3], row[4]];
            assert!(level.contains(about.level.as_str()), "{about:?}");
            assert_eq!(level.contains("repeated"), about.repeats, "{about:?}");
            let is_at_once = about.patience.is_zero();
            assert_eq!(level.contains("at once"), is_at_once, "{about:?}");
            assert_eq!(peer != "-", about.peer.is_some(), "{about:?}");
            let over = about.over.map(|over| over.replace("127.0.0.1:1", "ADDR"));
            assert_eq!(code(end).first().copied(), over.as_deref(), "{row:?}");
        }
        assert!(listed.is_empty(), "only in the guide: {listed:?}");
    }
}
