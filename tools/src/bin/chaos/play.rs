//! Executes a plan on real processes, and records its faults in a history.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use lockmesh::Durability;
use rustix::process::Signal;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::command::{Command, Setup, Step};
use super::model::Model;
use super::plan::Recoveries;
use super::processes::{Processes, client, name, recoveries, twin};
use super::world::{Netem, Rules, World};
use crate::history::{FORMAT, FaultKind, Line, Writer, boot, now};
use tools::put;

/// The interval at which the nodes are checked.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A world, its processes, and the model of their state.
#[derive(Debug)]
pub(crate) struct Stage {
    // First, so that the processes are dropped before their namespaces.
    processes: Processes,
    world: World,
    model: Model,
    rules: Vec<Rules>,
    leaving: JoinSet<anyhow::Result<()>>,
    notes: Writer,
    file: PathBuf,
    /// `true` if the kernel can delay, duplicate and reorder packets.
    has_netem: bool,
}

impl Stage {
    /// Starts all nodes.
    pub(crate) fn set(
        world: World,
        dir: &Path,
        journals: &[Option<Durability>],
        (processes, seed): (Processes, u64),
        has_netem: bool,
    ) -> anyhow::Result<Self> {
        let nodes = journals.len();
        let file = dir.join("chaos.jsonl");
        let notes = Writer::open(&file)?;
        let nanos = |span: Duration| u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        let Recoveries {
            quarantine,
            of_nodes,
            ..
        } = recoveries(journals, false);
        let of_nodes = of_nodes.into_iter().map(nanos).collect();
        let mut stage = Self {
            processes,
            world,
            model: Model::new(nanos(quarantine), of_nodes),
            rules: vec![Rules::default(); nodes],
            leaving: JoinSet::new(),
            notes,
            file,
            has_netem,
        };
        let at = now();
        stage.notes.write(&Line::Chaos {
            at,
            format: FORMAT,
            boot: boot()?,
            seed,
            nodes: (0..nodes).map(name).collect(),
        })?;
        stage.tell(at, at)?;
        for n in 0..nodes {
            stage.start(n, Setup::Usual)?;
        }
        Ok(stage)
    }

    /// Returns the files of all histories.
    pub(crate) fn histories(&self) -> Vec<PathBuf> {
        let mut files = self.processes.histories();
        files.push(self.file.clone());
        files
    }

    /// Executes all steps, each at its time.
    pub(crate) async fn play(&mut self, steps: &[Step]) -> anyhow::Result<()> {
        let begin = Instant::now();
        for step in steps {
            self.wait_until(begin + step.at).await?;
            if !self.has_netem && matches!(step.command, Command::Disturb { .. }) {
                continue;
            }
            if !matches!(
                step.command,
                Command::Client { .. } | Command::KillClient { .. }
            ) {
                // These are too many to read, and the history contains them.
                put(&step.to_string());
            }
            self.act(&step.command)
                .await
                .with_context(|| format!("{step}"))?;
        }
        Ok(())
    }

    /// Waits until `end`. Meanwhile checks the nodes and records changes of their service.
    pub(crate) async fn wait_until(&mut self, end: Instant) -> anyhow::Result<()> {
        loop {
            let at = now();
            self.tell(at, at)?;
            self.processes.check()?;
            while let Some(gone) = self.leaving.try_join_next() {
                gone.context("a wait broke off")??;
            }
            let next = (Instant::now() + LOOK_EVERY).min(end);
            sleep_until(next).await;
            if Instant::now() >= end {
                return Ok(());
            }
        }
    }

    /// Undoes all faults that are still in effect.
    pub(crate) async fn heal(&mut self) -> anyhow::Result<()> {
        for n in 0..self.rules.len() {
            if self.model.is_frozen(n) {
                self.act(&Command::Thaw { node: n }).await?;
            }
            if !self.model.is_up(n) {
                self.restart(n, Setup::Usual).await?;
            }
            self.rules[n] = Rules::default();
            self.world.filter(n, &self.rules[n])?;
            self.world.queue(n, Netem::default())?;
        }
        self.act(&Command::Heal).await
    }

    /// Records that all faults are over.
    pub(crate) fn calm(&self) -> anyhow::Result<()> {
        let at = now();
        Ok(self.notes.write(&Line::Calm { at })?)
    }

    /// Stops all nodes cleanly.
    pub(crate) async fn end(&mut self) -> anyhow::Result<()> {
        while let Some(gone) = self.leaving.join_next().await {
            gone.context("a wait broke off")??;
        }
        self.processes.stop().await
    }

    async fn act(&mut self, command: &Command) -> anyhow::Result<()> {
        let before = now();
        let mut nodes = Vec::new();
        let kind = match command {
            Command::Kill { node, restarts } => {
                self.model.end(*node, before);
                self.processes.kill(&name(*node)).await?;
                nodes.push(*node);
                match restarts {
                    true => FaultKind::KilledAndRestarted,
                    false => FaultKind::Killed,
                }
            }
            Command::PowerCut { nodes: hit, torn } => {
                for n in hit {
                    self.model.end(*n, before);
                    if !self.processes.survives_power_cuts(*n) {
                        self.model.forget(*n);
                    }
                }
                self.processes.cut_power(hit, *torn).await?;
                nodes.clone_from(hit);
                FaultKind::PowerCut
            }
            Command::Terminate { node } => {
                self.model.end(*node, before);
                self.leaving.spawn(self.processes.terminate(name(*node))?);
                nodes.push(*node);
                FaultKind::Terminated
            }
            Command::Start { node, setup } => return self.restart(*node, *setup).await,
            Command::Freeze { node } => {
                self.model.freeze(*node, true);
                self.processes.signal(&name(*node), Signal::STOP)?;
                nodes.push(*node);
                FaultKind::Frozen
            }
            Command::Thaw { node } => {
                self.model.freeze(*node, false);
                self.processes.signal(&name(*node), Signal::CONT)?;
                nodes.push(*node);
                FaultKind::Thawed
            }
            Command::Cut {
                kind,
                nodes: hit,
                pairs,
                refused,
            } => {
                self.model.cut(pairs);
                self.cut(pairs, *refused)?;
                nodes.clone_from(hit);
                *kind
            }
            Command::Heal => {
                self.model.heal();
                self.mend()?;
                FaultKind::Healed
            }
            Command::Loss {
                nodes: hit,
                permille,
            } => {
                for n in hit {
                    self.rules[*n].loss_permille = *permille;
                    self.world.filter(*n, &self.rules[*n])?;
                }
                nodes.clone_from(hit);
                FaultKind::Loss.or_healed(*permille > 0)
            }
            Command::Disturb { nodes: hit, netem } => {
                for n in hit {
                    self.world.queue(*n, *netem)?;
                }
                nodes.clone_from(hit);
                // The lesser effects are recorded first; the last one below.
                for (much, kind) in [
                    (netem.duplicate_percent, FaultKind::Duplication),
                    (netem.reorder_percent, FaultKind::Reordering),
                ] {
                    if much > 0 {
                        self.note(before, kind, names(hit), command)?;
                    }
                }
                FaultKind::Delay.or_healed(netem.delay_ms > 0)
            }
            Command::Twin { node } => {
                self.model.twin(*node);
                self.processes.start_twin(&self.world, *node)?;
                nodes.push(*node);
                FaultKind::Twin
            }
            Command::TwinGone { node } => {
                self.processes.kill(&twin(*node)).await?;
                nodes.push(*node);
                FaultKind::TwinGone
            }
            Command::Readdress { node, moved } => {
                self.world.readdress(*node, *moved)?;
                nodes.push(*node);
                FaultKind::Readdressed.or_healed(*moved)
            }
            Command::Client { number } => {
                let node = client(*number);
                // It may be unserved from its first instant.
                if !self.model.is_served(self.model.clients()) {
                    let (at, node) = (before, node.clone());
                    self.notes.write(&Line::Unserved { at, node })?;
                }
                self.processes.start_client(&self.world, *number)?;
                return self.note(before, FaultKind::Client, vec![node], command);
            }
            Command::KillClient { number } => {
                let node = client(*number);
                if self.processes.kill(&node).await? {
                    self.note(before, FaultKind::ClientKilled, vec![node], command)?;
                }
                return Ok(());
            }
        };
        self.note(before, kind, names(&nodes), command)?;
        if let Command::Kill {
            node,
            restarts: true,
        } = command
        {
            self.start(*node, Setup::Usual)?;
        }
        Ok(())
    }

    /// Records a fault and its effect on service: worse from before the fault, better from after
    /// it.
    fn note(
        &mut self,
        before: u64,
        fault: FaultKind,
        nodes: Vec<String>,
        command: &Command,
    ) -> anyhow::Result<()> {
        let (after, what) = (now(), format!("{command:?}"));
        let line = Line::Fault {
            before,
            after,
            fault,
            nodes,
            what,
        };
        self.notes.write(&line)?;
        self.tell(before, after)
    }

    fn tell(&mut self, before: u64, after: u64) -> anyhow::Result<()> {
        for (n, is_served) in self.model.changes(after) {
            let nodes = match n == self.model.clients() {
                true => self.processes.clients(),
                false => vec![name(n)],
            };
            for node in nodes {
                self.notes.write(&match is_served {
                    true => Line::Served { at: after, node },
                    false => Line::Unserved { at: before, node },
                })?;
            }
        }
        Ok(())
    }

    /// Starts a node once all stopping processes have ended.
    async fn restart(&mut self, node: usize, setup: Setup) -> anyhow::Result<()> {
        while let Some(gone) = self.leaving.join_next().await {
            gone.context("a wait broke off")??;
        }
        self.start(node, setup)
    }

    fn start(&mut self, node: usize, setup: Setup) -> anyhow::Result<()> {
        let before = now();
        self.processes.start(&self.world, node, setup)?;
        self.model.start(node, before, setup);
        let command = Command::Start { node, setup };
        self.note(before, setup.kind(), vec![name(node)], &command)
    }

    fn cut(&mut self, pairs: &[(usize, usize)], refused: bool) -> anyhow::Result<()> {
        let mut touched = BTreeSet::new();
        for (from, to) in pairs.iter().copied() {
            if refused {
                self.rules[from].mute_to.insert(to);
            } else {
                self.rules[to].deaf_to.insert(from);
            }
            touched.insert(if refused { from } else { to });
        }
        for n in touched {
            self.world.filter(n, &self.rules[n])?;
        }
        Ok(())
    }

    /// Restores all cut links. Loss goes on.
    fn mend(&mut self) -> anyhow::Result<()> {
        for (n, rules) in self.rules.iter_mut().enumerate() {
            if !rules.deaf_to.is_empty() || !rules.mute_to.is_empty() {
                let loss_permille = rules.loss_permille;
                *rules = Rules {
                    loss_permille,
                    ..Rules::default()
                };
                self.world.filter(n, rules)?;
            }
        }
        Ok(())
    }
}

fn names(nodes: &[usize]) -> Vec<String> {
    nodes.iter().copied().map(name).collect()
}
