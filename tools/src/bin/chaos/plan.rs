//! The plan of a run: all faults and their times, drawn from a seed before the run.

use std::time::Duration;

use clap::ValueEnum;
use lockmesh::Durability;
use rand::rngs::StdRng;
use rand::seq::{IndexedMutRandom, IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};

use super::command::{Command, Setup, Step};
use super::world::Netem;
use crate::history::FaultKind;

/// The nodes find each other before this time.
const BEGIN: Duration = Duration::from_secs(4);

/// The kinds of episodes. Each kind occurs once in every round. The last kind takes longest. The
/// first round ends with it, so that a short run has the others.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Episode {
    CutOff,
    Split,
    SplitWithoutQuorum,
    Deaf,
    Mute,
    OneLink,
    Kill,
    KillAndRestart,
    KillQuorum,
    Freeze,
    FreezeShortly,
    FreezeQuorum,
    Terminate,
    Twin,
    OtherSecret,
    ShortMaxTtl,
    ShortMaxTtlQuorum,
    WallClock,
    Elsewhere,
    Readdress,
    RollingRestart,
}

/// The offset of a wrong wall clock.
const WALL_OFFSET_MS: i64 = 60_000;
/// The mean interval between clients, for a hundred of them a minute.
const CLIENT_EVERY_MS: u64 = 600;

/// The nodes that have a data directory, and what their journals survive.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum DataDirs {
    /// No node has one.
    None,
    /// All nodes have one, for the end of a process.
    Process,
    /// All nodes have one, for the end of the machine.
    Machine,
    /// All but one node have one of either kind, from the seed.
    Mixed,
}

impl DataDirs {
    /// Returns the durability of each node's journal; `None` if the node has no directory.
    pub(crate) fn draw(self, seed: u64, nodes: usize) -> Vec<Option<Durability>> {
        let one = match self {
            Self::None => None,
            Self::Process => Some(Durability::Process),
            Self::Machine => Some(Durability::Machine),
            Self::Mixed => {
                // Not the numbers of the plan.
                let mut rng = StdRng::seed_from_u64(!seed);
                let kinds = [Durability::Process, Durability::Machine];
                let mut all: Vec<_> = (0..nodes)
                    .map(|_| kinds.choose(&mut rng).copied())
                    .collect();
                if let Some(one) = all.choose_mut(&mut rng) {
                    *one = None;
                }
                return all;
            }
        };
        vec![one; nodes]
    }
}

/// The longest times that restarted voters do not vote.
#[derive(Clone, Debug)]
pub(crate) struct Recoveries {
    /// That of a voter without memory.
    pub(crate) quarantine: Duration,
    /// Those of the nodes, unless they have lost their memory.
    pub(crate) of_nodes: Vec<Duration>,
    /// Those of the nodes after a power cut; `None` if the run has none.
    pub(crate) of_cuts: Option<Vec<Duration>>,
}

/// Draws a plan.
#[derive(Debug)]
struct Planner {
    rng: StdRng,
    nodes: usize,
    recoveries: Recoveries,
    steps: Vec<Step>,
}

/// Returns the plan of a chaos run. The same arguments give the same plan in the same version of
/// this command.
pub(crate) fn chaos(seed: u64, span: Duration, recoveries: Recoveries) -> Vec<Step> {
    let mut planner = Planner::new(seed, recoveries);
    planner.episodes(span);
    planner.weather(span);
    planner.clients(span);
    planner.steps.sort_by_key(|step| step.at);
    planner.steps
}

/// Returns the plan of a measurement: ends of a hold, one at a time without other faults.
pub(crate) fn measurement(seed: u64, rounds: u32, recoveries: Recoveries) -> Vec<Step> {
    let settled = recoveries.quarantine + Duration::from_secs(3);
    let mut planner = Planner::new(seed, recoveries);
    let mut at = BEGIN + Duration::from_secs(2);
    let away = Duration::from_secs(4);
    for _ in 0..rounds {
        for kind in 0..4 {
            let node = planner.node();
            let restarts = kind == 1;
            let (command, undo, lasts) = match kind {
                0 => (Command::Kill { node, restarts }, Some(start(node)), away),
                1 => (Command::Kill { node, restarts }, None, Duration::ZERO),
                2 => (Command::Terminate { node }, Some(start(node)), away),
                _ => (planner.cut_off(&[node], false), Some(Command::Heal), away),
            };
            planner.step(at, command);
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
    fn new(seed: u64, recoveries: Recoveries) -> Self {
        let (rng, steps) = (StdRng::seed_from_u64(seed), Vec::new());
        Self {
            rng,
            nodes: recoveries.of_nodes.len(),
            recoveries,
            steps,
        }
    }

    /// Returns the longest time until these nodes vote after a restart.
    fn recovery(&self, nodes: &[usize]) -> Duration {
        let of = nodes.iter().map(|n| self.recoveries.of_nodes[*n]);
        of.max().unwrap_or_default()
    }

    fn step(&mut self, at: Duration, command: Command) {
        self.steps.push(Step { at, command });
    }

    fn node(&mut self) -> usize {
        self.rng.random_range(0..self.nodes)
    }

    fn ms(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(self.rng.random_range(least..=most))
    }

    /// Draws `count` different nodes.
    fn some(&mut self, count: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..self.nodes).collect();
        all.shuffle(&mut self.rng);
        all.truncate(count);
        all.sort_unstable();
        all
    }

    fn quorum(&self) -> usize {
        self.nodes / 2 + 1
    }

    /// Plans episodes one after another, with short pauses.
    fn episodes(&mut self, span: Duration) {
        let mut at = BEGIN;
        let mut bag = Episode::value_variants().to_vec();
        let last = bag.len() - 1;
        bag[..last].shuffle(&mut self.rng);
        bag.reverse();
        while at < span {
            if bag.is_empty() {
                bag.extend(Episode::value_variants());
                bag.shuffle(&mut self.rng);
            }
            let Some(episode) = bag.pop() else { return };
            let before = self.steps.len();
            let end = self.episode(at, episode);
            if end > span {
                // The episode would end after the run.
                self.steps.truncate(before);
                if span - at < Duration::from_secs(3) {
                    return;
                }
                continue;
            }
            at = end + self.ms(300, 1_500);
            at = self.power_cuts(at, span);
        }
    }

    /// Plans one to three power cuts, if the run has any. Returns the time after the last one.
    fn power_cuts(&mut self, mut at: Duration, span: Duration) -> Duration {
        let Some(recoveries) = self.recoveries.of_cuts.clone() else {
            return at;
        };
        for _ in 0..self.rng.random_range(1..=3) {
            let before = self.steps.len();
            let end = self.power_cut(at, &recoveries);
            if end > span {
                self.steps.truncate(before);
                return at;
            }
            at = end + self.ms(300, 1_500);
        }
        at
    }

    /// Plans a power cut of one node, of a quorum or of all. Returns the time at which they vote
    /// again, or start if it is one.
    fn power_cut(&mut self, at: Duration, recoveries: &[Duration]) -> Duration {
        let count = match self.rng.random_range(0..4) {
            0 => self.nodes,
            1 => self.quorum(),
            _ => 1,
        };
        let nodes = self.some(count);
        let torn = self.rng.random_bool(0.5).then(|| self.rng.random());
        let end = at + self.ms(0, 1_000);
        let recovery = nodes.iter().map(|n| recoveries[*n]).max();
        let starts: Vec<Command> = nodes.iter().copied().map(start).collect();
        self.step(at, Command::PowerCut { nodes, torn });
        starts.into_iter().for_each(|start| self.step(end, start));
        match count {
            1 => end,
            _ => end + recovery.unwrap_or_default(),
        }
    }

    /// Plans an episode. Returns its end.
    fn episode(&mut self, at: Duration, episode: Episode) -> Duration {
        match episode {
            Episode::CutOff | Episode::Split | Episode::SplitWithoutQuorum => {
                let count = match episode {
                    Episode::CutOff => 1,
                    Episode::Split => (self.nodes - self.quorum()).max(1),
                    _ => self.quorum(),
                };
                let nodes = self.some(count);
                let alone = matches!(episode, Episode::SplitWithoutQuorum);
                let command = self.cut_off(&nodes, alone);
                self.cut(at, command, 1_000, 6_000)
            }
            Episode::Deaf | Episode::Mute | Episode::OneLink => {
                let command = self.one_way(episode);
                self.cut(at, command, 1_000, 6_000)
            }
            Episode::Kill => self.away(at, 1, 500, 4_000).0,
            Episode::KillQuorum => {
                let (end, nodes) = self.away(at, self.quorum(), 300, 2_000);
                end + self.recovery(&nodes)
            }
            Episode::KillAndRestart => {
                let (node, restarts) = (self.node(), true);
                self.step(at, Command::Kill { node, restarts });
                at
            }
            Episode::Freeze => self.freeze(at, 1, 2_500, 5_000),
            Episode::FreezeShortly => self.freeze(at, 1, 100, 1_500),
            Episode::FreezeQuorum => self.freeze(at, self.quorum(), 2_500, 4_000),
            Episode::Terminate => {
                let node = self.node();
                self.restart(at, node)
            }
            Episode::Twin => self.twin(at),
            Episode::OtherSecret => self.differs(at, 1, Setup::OtherSecret),
            Episode::ShortMaxTtl => self.differs(at, 1, Setup::ShortMaxTtl),
            Episode::ShortMaxTtlQuorum => {
                self.differs(at, self.quorum(), Setup::ShortMaxTtl) + self.recoveries.quarantine
            }
            Episode::WallClock => {
                let offset_ms = *[-WALL_OFFSET_MS, WALL_OFFSET_MS]
                    .choose(&mut self.rng)
                    .unwrap_or(&WALL_OFFSET_MS);
                self.differs(at, 1, Setup::WallClock { offset_ms })
            }
            Episode::Elsewhere => {
                let node = self.node();
                let moved = self.restart_elsewhere(at, node, true);
                let back = moved + self.ms(2_000, 5_000);
                self.restart_elsewhere(back, node, false)
            }
            Episode::Readdress => {
                let node = self.node();
                self.step(at, Command::Readdress { node, moved: true });
                let end = at + self.ms(2_000, 5_000);
                self.step(end, Command::Readdress { node, moved: false });
                end
            }
            Episode::RollingRestart => {
                let mut at = at;
                for node in self.some(self.nodes) {
                    at = self.restart(at, node) + self.recovery(&[node]);
                }
                at
            }
        }
    }

    /// Cuts links of one node in one direction.
    fn one_way(&mut self, episode: Episode) -> Command {
        let (one, other) = match self.some(2)[..] {
            [one, other] => (one, other),
            _ => (0, 1),
        };
        let others = (0..self.nodes).filter(|n| *n != one);
        let pairs = match episode {
            Episode::Deaf => others.map(|n| (n, one)).collect(),
            Episode::Mute => others.map(|n| (one, n)).collect(),
            _ => vec![(one, other)],
        };
        Command::Cut {
            kind: FaultKind::OneWay,
            nodes: vec![one],
            pairs,
            refused: self.rng.random_bool(0.3),
        }
    }

    /// Plans a twin of a node, and then a restart of the node. Half of the time the node is cut off
    /// when its twin starts, like a node that was given up and replaced.
    fn twin(&mut self, at: Duration) -> Duration {
        let node = self.node();
        let mut begin = at;
        if self.rng.random_bool(0.5) {
            let command = self.cut_off(&[node], false);
            begin += self.ms(100, 300);
            self.cut(at, command, 2_500, 4_000);
        }
        self.step(begin, Command::Twin { node });
        let end = at + self.ms(5_000, 8_000);
        self.step(end, Command::TwinGone { node });
        self.restart(end, node)
    }

    /// Cuts nodes off from the others, or from the others and from each other.
    fn cut_off(&mut self, nodes: &[usize], alone: bool) -> Command {
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
        Command::Cut {
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

    fn cut(&mut self, at: Duration, command: Command, least: u64, most: u64) -> Duration {
        self.step(at, command);
        let end = at + self.ms(least, most);
        self.step(end, Command::Heal);
        end
    }

    /// Kills nodes and starts them later. Returns the time at which they start, and the nodes.
    fn away(
        &mut self,
        at: Duration,
        count: usize,
        least: u64,
        most: u64,
    ) -> (Duration, Vec<usize>) {
        let end = at + self.ms(least, most);
        let nodes = self.some(count);
        for node in nodes.iter().copied() {
            let restarts = false;
            self.step(at, Command::Kill { node, restarts });
            self.step(end, start(node));
        }
        (end, nodes)
    }

    /// Kills nodes and starts them at once with a setup that differs from their peers'. Later they
    /// are restarted as usual.
    fn differs(&mut self, at: Duration, count: usize, setup: Setup) -> Duration {
        let nodes = self.some(count);
        let mut back = at + self.ms(3_000, 4_500);
        if setup.is_of_cluster() {
            // Leave time to vote with this setup.
            back += self.recoveries.quarantine;
        }
        let mut end = back;
        for node in nodes {
            let restarts = false;
            self.step(at, Command::Kill { node, restarts });
            self.step(at, Command::Start { node, setup });
            end = end.max(self.restart(back, node));
        }
        end
    }

    /// Stops a node and starts it at another address, or at its first one again.
    fn restart_elsewhere(&mut self, at: Duration, node: usize, moved: bool) -> Duration {
        self.step(at, Command::Terminate { node });
        let end = at + self.ms(500, 2_000);
        self.step(end, Command::Readdress { node, moved });
        self.step(end, start(node));
        end
    }

    fn freeze(&mut self, at: Duration, count: usize, least: u64, most: u64) -> Duration {
        let end = at + self.ms(least, most);
        for node in self.some(count) {
            self.step(at, Command::Freeze { node });
            self.step(end, Command::Thaw { node });
        }
        end
    }

    fn restart(&mut self, at: Duration, node: usize) -> Duration {
        let end = at + self.ms(500, 2_000);
        self.step(at, Command::Terminate { node });
        self.step(end, start(node));
        end
    }

    /// Plans a hundred short-lived clients a minute, half of which are killed, parallel to the
    /// episodes.
    fn clients(&mut self, span: Duration) {
        let mut at = BEGIN;
        let mut number = 0;
        while at + Duration::from_secs(2) < span {
            self.step(at, Command::Client { number });
            if self.rng.random_bool(0.5) {
                let end = at + self.ms(30, 1_500);
                self.step(end, Command::KillClient { number });
            }
            number += 1;
            at += self.ms(CLIENT_EVERY_MS / 2, CLIENT_EVERY_MS * 3 / 2);
        }
    }

    /// Plans loss, delay, duplication and reordering, parallel to the episodes.
    fn weather(&mut self, span: Duration) {
        let mut at = BEGIN + self.ms(0, 3_000);
        loop {
            let end = at + self.ms(2_000, 8_000);
            if end > span {
                return;
            }
            let count = *[1, 2, self.nodes].choose(&mut self.rng).unwrap_or(&1);
            let nodes = self.some(count);
            let (hit, permille) = (nodes.clone(), self.rng.random_range(50..=300));
            let (fault, undo) = if self.rng.random_bool(0.6) {
                let undo = Command::Loss { nodes, permille: 0 };
                (
                    Command::Loss {
                        nodes: hit,
                        permille,
                    },
                    undo,
                )
            } else {
                let netem = Netem {
                    delay_ms: self.rng.random_range(1..=20),
                    jitter_ms: self.rng.random_range(1..=10),
                    duplicate_percent: self.rng.random_range(0..=20),
                    reorder_percent: self.rng.random_range(0..=20),
                };
                let none = Netem::default();
                let undo = Command::Disturb { nodes, netem: none };
                (Command::Disturb { nodes: hit, netem }, undo)
            };
            self.step(at, fault);
            self.step(end, undo);
            at = end + self.ms(1_000, 6_000);
        }
    }
}

fn start(node: usize) -> Command {
    let setup = Setup::Usual;
    Command::Start { node, setup }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(seed: u64, seconds: u64) -> Vec<Step> {
        let quarantine = Duration::from_secs(4);
        // Odd seeds have nodes with a directory.
        let recovery = quarantine / (1 + u32::try_from(seed % 2).unwrap());
        let recoveries = Recoveries {
            quarantine,
            of_nodes: vec![recovery; 5],
            // A quarter of the seeds.
            of_cuts: (seed % 4 == 3).then(|| vec![recovery; 5]),
        };
        chaos(seed, Duration::from_secs(seconds), recoveries)
    }

    #[test]
    fn mixed_directories_leave_one_node_without() {
        let mut kinds = std::collections::BTreeSet::new();
        for seed in 0..50 {
            let drawn = DataDirs::Mixed.draw(seed, 5);
            assert_eq!(drawn, DataDirs::Mixed.draw(seed, 5));
            assert_eq!(drawn.iter().filter(|it| it.is_none()).count(), 1);
            kinds.insert(format!("{drawn:?}"));
        }
        assert!(kinds.len() > 10, "{kinds:?}");
    }

    #[test]
    fn plan_repeats_per_seed_and_differs_across_seeds() {
        assert_eq!(plan(1, 120), plan(1, 120));
        assert_ne!(plan(1, 120), plan(2, 120));
    }

    #[test]
    fn every_fault_is_undone_within_run() {
        for seed in 0..200 {
            let (mut away, mut frozen, mut cut) = ([false; 5], [false; 5], false);
            let (mut disturbed, mut moved, mut differs) = ([false; 5], [false; 5], [false; 5]);
            let (mut twins, mut clients) = ([false; 5], 0);
            let steps = plan(seed, 120);
            assert!(steps.is_sorted_by_key(|step| step.at));
            for step in steps {
                assert!(step.at <= Duration::from_secs(120), "{step}");
                match step.command {
                    Command::Kill { node, restarts } => {
                        assert!(!away[node] && !frozen[node], "{seed}");
                        away[node] = !restarts;
                    }
                    Command::PowerCut { nodes, .. } => {
                        for node in nodes {
                            assert!(!away[node] && !frozen[node], "{seed}");
                            away[node] = true;
                        }
                    }
                    Command::Terminate { node } => {
                        assert!(!away[node] && !frozen[node], "{seed}");
                        away[node] = true;
                    }
                    Command::Start { node, setup } => {
                        assert!(std::mem::take(&mut away[node]), "{seed}");
                        differs[node] = setup != Setup::Usual;
                    }
                    Command::Twin { node } => twins[node] = true,
                    Command::TwinGone { node } => {
                        assert!(std::mem::take(&mut twins[node]), "{seed}")
                    }
                    Command::Readdress { node, moved: to } => {
                        assert_ne!(std::mem::replace(&mut moved[node], to), to, "{seed}");
                    }
                    Command::Client { number } => clients = number + 1,
                    Command::KillClient { number } => assert!(number < clients, "{seed}"),
                    Command::Freeze { node } => frozen[node] = true,
                    Command::Thaw { node } => assert!(std::mem::take(&mut frozen[node]), "{seed}"),
                    Command::Cut { .. } => cut = true,
                    Command::Heal => assert!(std::mem::take(&mut cut), "{seed}"),
                    Command::Loss { nodes, permille } => {
                        nodes.iter().for_each(|n| disturbed[*n] = permille > 0);
                    }
                    Command::Disturb { nodes, netem } => nodes
                        .iter()
                        .for_each(|n| disturbed[*n] = netem != Netem::default()),
                }
            }
            let left = [away, frozen, disturbed, moved, differs, twins].concat();
            assert!(!cut && left.iter().all(|left| !left), "{seed}");
        }
    }

    #[test]
    fn power_cuts_hit_one_node_and_all() {
        for seed in (0..200).filter(|seed| seed % 4 == 3) {
            let hit = plan(seed, 120).into_iter().map(|step| match step.command {
                Command::PowerCut { nodes, torn } => (nodes.len(), torn.is_some()),
                _ => (0, false),
            });
            let hit: Vec<_> = hit.filter(|(nodes, _)| *nodes > 0).collect();
            assert!((10..=50).contains(&hit.len()), "{seed}: {hit:?}");
            for nodes in [1, 5] {
                assert!(hit.iter().any(|it| it.0 == nodes), "{seed}: {hit:?}");
            }
        }
    }

    #[test]
    fn two_minutes_have_every_kind_of_fault() {
        for seed in (0..200).filter(|seed| seed % 4 != 3) {
            let mut kinds = [0; 13];
            for step in plan(seed, 120) {
                let kind = match step.command {
                    Command::Kill { restarts, .. } => usize::from(restarts),
                    Command::Terminate { .. } => 2,
                    Command::Freeze { .. } => 3,
                    Command::Cut { .. } => 4,
                    Command::Loss { .. } | Command::Disturb { .. } => 5,
                    Command::Twin { .. } => 6,
                    Command::Start {
                        setup: Setup::OtherSecret,
                        ..
                    } => 7,
                    Command::Start {
                        setup: Setup::ShortMaxTtl,
                        ..
                    } => 8,
                    Command::Readdress { .. } => 9,
                    Command::Client { .. } => 10,
                    Command::KillClient { .. } => 11,
                    Command::Start {
                        setup: Setup::WallClock { .. },
                        ..
                    } => 12,
                    _ => continue,
                };
                kinds[kind] += 1;
            }
            assert!(kinds.iter().all(|count| *count > 0), "{seed}: {kinds:?}");
            assert!((150..=230).contains(&kinds[10]), "{seed}: {kinds:?}");
        }
    }
}
