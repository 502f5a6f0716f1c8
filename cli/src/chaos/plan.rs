//! What is done to the nodes, and when: all of it drawn from a seed, before anything begins.

use std::fmt;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};

use super::world::Netem;
use crate::history::FaultKind;

/// Before this the nodes find each other.
const BEGIN: Duration = Duration::from_secs(4);

/// One thing that is done.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Step {
    pub(crate) at: Duration,
    pub(crate) deed: Deed,
}

/// What is done. Nodes are numbers from 0.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Deed {
    /// SIGKILL; whether the next process starts at once.
    Kill { node: usize, restarts: bool },
    /// SIGTERM.
    Terminate { node: usize },
    /// A new process.
    Start { node: usize },
    /// SIGSTOP.
    Freeze { node: usize },
    /// SIGCONT.
    Thaw { node: usize },
    /// From the first node of a pair nothing reaches the second.
    Cut {
        kind: FaultKind,
        nodes: Vec<usize>,
        pairs: Vec<(usize, usize)>,
        /// Whether the sender is told that it may not send, or its datagrams are just gone.
        refused: bool,
    },
    /// All that was cut is whole again.
    Heal,
    /// So many of a thousand datagrams to these nodes are lost; none where it is zero.
    Loss { nodes: Vec<usize>, permille: u32 },
    /// What leaves these nodes is late, doubled or out of order; not any more where it is nothing.
    Disturb { nodes: Vec<usize>, netem: Netem },
}

/// All kinds of episodes; every one of them has its turn before any has its next.
#[derive(Clone, Copy, Debug)]
enum Episode {
    CutOff,
    Split,
    SplitWithoutMajority,
    Deaf,
    Mute,
    OneLink,
    Kill,
    KillAndRestart,
    KillMajority,
    Freeze,
    FreezeShortly,
    FreezeMajority,
    Terminate,
    RollingRestart,
}

const EPISODES: [Episode; 18] = [
    Episode::CutOff,
    Episode::CutOff,
    Episode::Split,
    Episode::SplitWithoutMajority,
    Episode::Deaf,
    Episode::Mute,
    Episode::OneLink,
    Episode::Kill,
    Episode::Kill,
    Episode::KillAndRestart,
    Episode::KillAndRestart,
    Episode::KillMajority,
    Episode::Freeze,
    Episode::Freeze,
    Episode::FreezeShortly,
    Episode::FreezeMajority,
    Episode::Terminate,
    Episode::RollingRestart,
];

/// Draws a plan.
#[derive(Debug)]
struct Planner {
    rng: StdRng,
    nodes: usize,
    /// How long a restarted voter abstains.
    quarantine: Duration,
    steps: Vec<Step>,
}

/// The plan of a run of chaos. The same seed, nodes and span give the same plan in the same
/// version of this command.
pub(crate) fn chaos(seed: u64, nodes: usize, span: Duration, quarantine: Duration) -> Vec<Step> {
    let mut planner = Planner {
        rng: StdRng::seed_from_u64(seed),
        nodes,
        quarantine,
        steps: Vec::new(),
    };
    planner.episodes(span);
    planner.weather(span);
    planner.steps.sort_by_key(|step| step.at);
    planner.steps
}

/// The plan of a measurement: what ends a hold, one at a time, in fair weather.
pub(crate) fn measurement(seed: u64, nodes: usize, rounds: u32, quarantine: Duration) -> Vec<Step> {
    let mut planner = Planner {
        rng: StdRng::seed_from_u64(seed),
        nodes,
        quarantine,
        steps: Vec::new(),
    };
    let mut at = BEGIN + Duration::from_secs(2);
    let (away, settled) = (Duration::from_secs(4), quarantine + Duration::from_secs(3));
    for _ in 0..rounds {
        for kind in 0..4 {
            let node = planner.node();
            let restarts = kind == 1;
            let (deed, undo, lasts) = match kind {
                0 => (
                    Deed::Kill { node, restarts },
                    Some(Deed::Start { node }),
                    away,
                ),
                1 => (Deed::Kill { node, restarts }, None, Duration::ZERO),
                2 => (Deed::Terminate { node }, Some(Deed::Start { node }), away),
                _ => (planner.cut_off(&[node], false), Some(Deed::Heal), away),
            };
            planner.step(at, deed);
            at += lasts;
            if let Some(undo) = undo {
                planner.step(at, undo);
            }
            at += settled;
        }
    }
    planner.steps
}

impl Planner {
    fn step(&mut self, at: Duration, deed: Deed) {
        self.steps.push(Step { at, deed });
    }

    fn node(&mut self) -> usize {
        self.rng.random_range(0..self.nodes)
    }

    fn ms(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(self.rng.random_range(least..=most))
    }

    /// So many different nodes.
    fn some(&mut self, count: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..self.nodes).collect();
        all.shuffle(&mut self.rng);
        all.truncate(count);
        all.sort_unstable();
        all
    }

    fn majority(&self) -> usize {
        self.nodes / 2 + 1
    }

    /// One after another, with short pauses.
    fn episodes(&mut self, span: Duration) {
        let mut at = BEGIN;
        let mut bag = Vec::new();
        while at < span {
            if bag.is_empty() {
                bag = EPISODES.to_vec();
                bag.shuffle(&mut self.rng);
            }
            let Some(episode) = bag.pop() else { return };
            let before = self.steps.len();
            let end = self.episode(at, episode);
            if end > span {
                // It would not be over in time.
                self.steps.truncate(before);
                if span - at < Duration::from_secs(3) {
                    return;
                }
                continue;
            }
            at = end + self.ms(300, 3_000);
        }
    }

    /// Answers when it is over.
    fn episode(&mut self, at: Duration, episode: Episode) -> Duration {
        match episode {
            Episode::CutOff | Episode::Split | Episode::SplitWithoutMajority => {
                let count = match episode {
                    Episode::CutOff => 1,
                    Episode::Split => (self.nodes - self.majority()).max(1),
                    _ => self.majority(),
                };
                let nodes = self.some(count);
                let alone = matches!(episode, Episode::SplitWithoutMajority);
                let deed = self.cut_off(&nodes, alone);
                self.cut(at, deed, 1_000, 6_000)
            }
            Episode::Deaf | Episode::Mute | Episode::OneLink => {
                let [one, other] = self.some(2)[..] else {
                    return at;
                };
                let others = (0..self.nodes).filter(|n| *n != one);
                let pairs = match episode {
                    Episode::Deaf => others.map(|n| (n, one)).collect(),
                    Episode::Mute => others.map(|n| (one, n)).collect(),
                    _ => vec![(one, other)],
                };
                let deed = Deed::Cut {
                    kind: FaultKind::OneWay,
                    nodes: vec![one],
                    pairs,
                    refused: self.rng.random_bool(0.3),
                };
                self.cut(at, deed, 1_000, 6_000)
            }
            Episode::Kill => self.away(at, 1, 500, 4_000),
            Episode::KillMajority => self.away(at, self.majority(), 300, 2_000) + self.quarantine,
            Episode::KillAndRestart => {
                let node = self.node();
                self.step(
                    at,
                    Deed::Kill {
                        node,
                        restarts: true,
                    },
                );
                at
            }
            Episode::Freeze => self.freeze(at, 1, 2_500, 5_000),
            Episode::FreezeShortly => self.freeze(at, 1, 100, 1_500),
            Episode::FreezeMajority => self.freeze(at, self.majority(), 2_500, 4_000),
            Episode::Terminate => {
                let node = self.node();
                self.restart(at, node)
            }
            Episode::RollingRestart => {
                let mut at = at;
                for node in self.some(self.nodes) {
                    at = self.restart(at, node) + self.quarantine;
                }
                at
            }
        }
    }

    /// Cuts nodes off from the others, or from the others and from each other.
    fn cut_off(&mut self, nodes: &[usize], alone: bool) -> Deed {
        let mut pairs = Vec::new();
        for one in nodes {
            for other in (0..self.nodes).filter(|other| other != one) {
                if alone || !nodes.contains(&other) {
                    pairs.extend([(*one, other), (other, *one)]);
                }
            }
        }
        pairs.sort_unstable();
        pairs.dedup();
        Deed::Cut {
            kind: if nodes.len() == 1 {
                FaultKind::CutOff
            } else {
                FaultKind::Split
            },
            nodes: nodes.to_vec(),
            pairs,
            refused: self.rng.random_bool(0.3),
        }
    }

    fn cut(&mut self, at: Duration, deed: Deed, least: u64, most: u64) -> Duration {
        self.step(at, deed);
        let end = at + self.ms(least, most);
        self.step(end, Deed::Heal);
        end
    }

    /// Kills nodes, which stay away for a while.
    fn away(&mut self, at: Duration, count: usize, least: u64, most: u64) -> Duration {
        let end = at + self.ms(least, most);
        for node in self.some(count) {
            self.step(
                at,
                Deed::Kill {
                    node,
                    restarts: false,
                },
            );
            self.step(end, Deed::Start { node });
        }
        end
    }

    fn freeze(&mut self, at: Duration, count: usize, least: u64, most: u64) -> Duration {
        let end = at + self.ms(least, most);
        for node in self.some(count) {
            self.step(at, Deed::Freeze { node });
            self.step(end, Deed::Thaw { node });
        }
        end
    }

    fn restart(&mut self, at: Duration, node: usize) -> Duration {
        let end = at + self.ms(500, 2_000);
        self.step(at, Deed::Terminate { node });
        self.step(end, Deed::Start { node });
        end
    }

    /// Loss, and what netem does, beside all else.
    fn weather(&mut self, span: Duration) {
        let mut at = BEGIN + self.ms(0, 3_000);
        loop {
            let end = at + self.ms(2_000, 8_000);
            if end > span {
                return;
            }
            let count = *[1, 2, self.nodes].choose(&mut self.rng).unwrap_or(&1);
            let nodes = self.some(count);
            if self.rng.random_bool(0.6) {
                let permille = self.rng.random_range(50..=300);
                let nodes = nodes.clone();
                self.step(at, Deed::Loss { nodes, permille });
            } else {
                let netem = Netem {
                    delay_ms: self.rng.random_range(1..=20),
                    jitter_ms: self.rng.random_range(1..=10),
                    duplicate_percent: self.rng.random_range(0..=20),
                    reorder_percent: self.rng.random_range(0..=20),
                };
                let nodes = nodes.clone();
                self.step(at, Deed::Disturb { nodes, netem });
            }
            let undo = match self.steps.last().map(|step| &step.deed) {
                Some(Deed::Disturb { .. }) => Deed::Disturb {
                    nodes,
                    netem: Netem::default(),
                },
                _ => Deed::Loss { nodes, permille: 0 },
            };
            self.step(end, undo);
            at = end + self.ms(1_000, 6_000);
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:7.2} s  {}", self.at.as_secs_f64(), self.deed)
    }
}

impl fmt::Display for Deed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |nodes: &[usize]| {
            let names: Vec<String> = nodes.iter().map(|n| format!("n{n}")).collect();
            names.join(" ")
        };
        match self {
            Self::Kill { node, restarts } => {
                let then = if *restarts {
                    ", and start it again at once"
                } else {
                    ""
                };
                write!(f, "kill -9 n{node}{then}")
            }
            Self::Terminate { node } => write!(f, "SIGTERM to n{node}"),
            Self::Start { node } => write!(f, "start n{node}"),
            Self::Freeze { node } => write!(f, "SIGSTOP to n{node}"),
            Self::Thaw { node } => write!(f, "SIGCONT to n{node}"),
            Self::Cut { pairs, refused, .. } => {
                let pairs: Vec<String> = pairs
                    .iter()
                    .map(|(from, to)| format!("n{from}>n{to}"))
                    .collect();
                let how = if *refused { "refuse" } else { "cut" };
                write!(f, "{how} {}", pairs.join(" "))
            }
            Self::Heal => f.write_str("heal all links"),
            Self::Loss { nodes, permille: 0 } => write!(f, "no more loss at {}", names(nodes)),
            Self::Loss { nodes, permille } => {
                write!(f, "lose {permille} of 1000 at {}", names(nodes))
            }
            Self::Disturb { nodes, netem } if *netem == Netem::default() => {
                write!(f, "no more delay at {}", names(nodes))
            }
            Self::Disturb { nodes, netem } => write!(
                f,
                "at {}: {} ms late, give or take {}; {} % doubled, {} % out of order",
                names(nodes),
                netem.delay_ms,
                netem.jitter_ms,
                netem.duplicate_percent,
                netem.reorder_percent
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUARANTINE: Duration = Duration::from_secs(4);

    fn plan(seed: u64, seconds: u64) -> Vec<Step> {
        chaos(seed, 5, Duration::from_secs(seconds), QUARANTINE)
    }

    #[test]
    fn a_seed_gives_the_same_plan_every_time_and_another_seed_another() {
        assert_eq!(plan(1, 120), plan(1, 120));
        assert_ne!(plan(1, 120), plan(2, 120));
    }

    #[test]
    fn whatever_is_done_is_undone_within_the_run() {
        for seed in 0..200 {
            let (mut away, mut frozen, mut cut) = ([false; 5], [false; 5], false);
            let mut disturbed = [false; 5];
            let steps = plan(seed, 120);
            assert!(steps.is_sorted_by_key(|step| step.at));
            for step in steps {
                assert!(step.at <= Duration::from_secs(120), "{step}");
                match step.deed {
                    Deed::Kill { node, restarts } => {
                        assert!(!away[node] && !frozen[node], "{seed}");
                        away[node] = !restarts;
                    }
                    Deed::Terminate { node } => {
                        assert!(!away[node] && !frozen[node], "{seed}");
                        away[node] = true;
                    }
                    Deed::Start { node } => assert!(std::mem::take(&mut away[node]), "{seed}"),
                    Deed::Freeze { node } => frozen[node] = true,
                    Deed::Thaw { node } => assert!(std::mem::take(&mut frozen[node]), "{seed}"),
                    Deed::Cut { .. } => cut = true,
                    Deed::Heal => assert!(std::mem::take(&mut cut), "{seed}"),
                    Deed::Loss { nodes, permille } => {
                        nodes.iter().for_each(|n| disturbed[*n] = permille > 0);
                    }
                    Deed::Disturb { nodes, netem } => nodes
                        .iter()
                        .for_each(|n| disturbed[*n] = netem != Netem::default()),
                }
            }
            let left = [away, frozen, disturbed].concat();
            assert!(!cut && left.iter().all(|left| !left), "{seed}");
        }
    }

    #[test]
    fn two_minutes_have_every_kind_of_fault() {
        let mut kinds = [0; 6];
        for step in plan(7, 120) {
            let kind = match step.deed {
                Deed::Kill { restarts, .. } => usize::from(restarts),
                Deed::Terminate { .. } => 2,
                Deed::Freeze { .. } => 3,
                Deed::Cut { .. } => 4,
                Deed::Loss { .. } | Deed::Disturb { .. } => 5,
                Deed::Start { .. } | Deed::Thaw { .. } | Deed::Heal => continue,
            };
            kinds[kind] += 1;
        }
        assert!(kinds.iter().all(|count| *count > 0), "{kinds:?}");
    }
}
