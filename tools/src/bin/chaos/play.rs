//! Executes a plan on real processes, and records its faults in a history.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use rustix::process::Signal;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::command::{Command, Setup, Step};
use super::model::Model;
use super::processes::{Load, Processes, QUARANTINE, client_id};
use super::world::{Netem, Rules, World};
use crate::history::{Clock, FORMAT, FaultKind, Line, Writer};
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
    clock: Clock,
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
        nodes: usize,
        seed: u64,
        load: Load,
        has_netem: bool,
    ) -> anyhow::Result<Self> {
        let clock = Clock::open().map_err(anyhow::Error::msg)?;
        let processes = Processes::hire(dir, nodes, seed, load)?;
        let file = dir.join("chaos.jsonl");
        let notes = Writer::open(&file)?;
        let quarantine = u64::try_from(QUARANTINE.as_nanos())?;
        let mut stage = Self {
            processes,
            world,
            model: Model::new(nodes, quarantine),
            rules: vec![Rules::default(); nodes],
            leaving: JoinSet::new(),
            clock,
            notes,
            file,
            has_netem,
        };
        let at = stage.clock.now();
        stage.notes.write(&Line::Chaos {
            at,
            format: FORMAT,
            boot: stage.clock.boot().to_owned(),
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
            let now = self.clock.now();
            self.tell(now, now)?;
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
        let at = self.clock.now();
        Ok(self.notes.write(&Line::Calm { at })?)
    }

    /// Stops all nodes cleanly.
    pub(crate) async fn end(&mut self) -> anyhow::Result<()> {
        while let Some(gone) = self.leaving.join_next().await {
            gone.context("a wait broke off")??;
        }
        self.processes.check()?;
        self.processes.clients_gone().await?;
        self.processes.dismiss().await
    }

    async fn act(&mut self, command: &Command) -> anyhow::Result<()> {
        let before = self.clock.now();
        let (kind, nodes) = match command {
            Command::Kill { node, restarts } => {
                self.model.end(*node);
                self.processes.kill(*node).await?;
                let kind = if *restarts {
                    FaultKind::KilledAndRestarted
                } else {
                    FaultKind::Killed
                };
                (kind, vec![*node])
            }
            Command::Terminate { node } => {
                self.model.end(*node);
                let leaving = self.processes.terminate(*node)?;
                self.leaving.spawn(leaving.gone());
                (FaultKind::Terminated, vec![*node])
            }
            Command::Start { node, setup } => return self.restart(*node, *setup).await,
            Command::Freeze { node } => (self.freeze(*node, true)?, vec![*node]),
            Command::Thaw { node } => (self.freeze(*node, false)?, vec![*node]),
            Command::Cut {
                kind,
                nodes,
                pairs,
                refused,
            } => {
                self.model.cut(pairs);
                self.cut(pairs, *refused)?;
                (*kind, nodes.clone())
            }
            Command::Heal => {
                self.model.heal();
                self.whole()?;
                (FaultKind::Healed, Vec::new())
            }
            Command::Loss { nodes, permille } => {
                let kind = self.lose(nodes, *permille)?;
                (kind, nodes.clone())
            }
            Command::Disturb { nodes, netem } => {
                return self.disturb(before, command, nodes, *netem);
            }
            Command::Twin { node } => {
                self.model.twin(*node);
                self.processes.start_twin(&self.world, *node)?;
                (FaultKind::Twin, vec![*node])
            }
            Command::TwinGone { node } => {
                self.processes.kill_twin().await?;
                (FaultKind::TwinGone, vec![*node])
            }
            Command::Readdress { node, moved } => (self.readdress(*node, *moved)?, vec![*node]),
            Command::Client { number } => return self.client(*number),
            Command::KillClient { number } => return self.kill_client(before, *number).await,
        };
        self.note(before, kind, &nodes, &command.to_string())?;
        if matches!(command, Command::Kill { restarts: true, .. }) {
            for node in nodes {
                self.start(node, Setup::Usual)?;
            }
        }
        Ok(())
    }

    fn freeze(&mut self, node: usize, is_frozen: bool) -> anyhow::Result<FaultKind> {
        let (signal, kind) = if is_frozen {
            (Signal::STOP, FaultKind::Frozen)
        } else {
            (Signal::CONT, FaultKind::Thawed)
        };
        self.model.freeze(node, is_frozen);
        self.processes.signal(node, signal)?;
        Ok(kind)
    }

    fn lose(&mut self, nodes: &[usize], permille: u32) -> anyhow::Result<FaultKind> {
        for n in nodes {
            self.rules[*n].loss_permille = permille;
            self.world.filter(*n, &self.rules[*n])?;
        }
        Ok(if permille > 0 {
            FaultKind::Loss
        } else {
            FaultKind::Healed
        })
    }

    fn readdress(&mut self, node: usize, moved: bool) -> anyhow::Result<FaultKind> {
        self.world.readdress(node, moved)?;
        Ok(if moved {
            FaultKind::Readdressed
        } else {
            FaultKind::Healed
        })
    }

    /// Records a fault and its effect on service: worse from before the fault, better from after
    /// it.
    fn note(
        &mut self,
        before: u64,
        fault: FaultKind,
        nodes: &[usize],
        what: &str,
    ) -> anyhow::Result<()> {
        let names = nodes.iter().copied().map(name).collect();
        self.write(before, fault, names, what)
    }

    fn write(
        &mut self,
        before: u64,
        fault: FaultKind,
        nodes: Vec<String>,
        what: &str,
    ) -> anyhow::Result<()> {
        let after = self.clock.now();
        self.notes.write(&Line::Fault {
            before,
            after,
            fault,
            nodes,
            what: what.to_owned(),
        })?;
        self.tell(before, after)
    }

    fn tell(&mut self, before: u64, after: u64) -> anyhow::Result<()> {
        for (n, is_served) in self.model.changes(after) {
            let nodes = if n == self.model.clients() {
                self.processes.clients()
            } else {
                vec![name(n)]
            };
            for node in nodes {
                self.notes.write(&if is_served {
                    Line::Served { at: after, node }
                } else {
                    Line::Unserved { at: before, node }
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
        let before = self.clock.now();
        self.processes.start(&self.world, node, setup)?;
        self.model.start(node, before, setup);
        let what = Command::Start { node, setup }.to_string();
        self.note(before, setup.kind(), &[node], &what)
    }

    /// Starts a client, which may be unserved from its first instant.
    fn client(&mut self, number: u32) -> anyhow::Result<()> {
        let before = self.clock.now();
        let node = client_id(number);
        if !self.model.is_served(self.model.clients()) {
            let node = node.clone();
            self.notes.write(&Line::Unserved { at: before, node })?;
        }
        self.processes.start_client(&self.world, number)?;
        let what = Command::Client { number }.to_string();
        self.write(before, FaultKind::Client, vec![node], &what)
    }

    async fn kill_client(&mut self, before: u64, number: u32) -> anyhow::Result<()> {
        if !self.processes.kill_client(number).await? {
            return Ok(());
        }
        let what = Command::KillClient { number }.to_string();
        let nodes = vec![client_id(number)];
        self.write(before, FaultKind::ClientKilled, nodes, &what)
    }

    fn cut(&mut self, pairs: &[(usize, usize)], refused: bool) -> anyhow::Result<()> {
        let mut touched = BTreeSet::new();
        for (from, to) in pairs {
            if refused {
                self.rules[*from].mute_to.insert(*to);
                touched.insert(*from);
            } else {
                self.rules[*to].deaf_to.insert(*from);
                touched.insert(*to);
            }
        }
        for n in touched {
            self.world.filter(n, &self.rules[n])?;
        }
        Ok(())
    }

    fn whole(&mut self) -> anyhow::Result<()> {
        for (n, rules) in self.rules.iter_mut().enumerate() {
            if rules.deaf_to.is_empty() && rules.mute_to.is_empty() {
                continue;
            }
            rules.deaf_to.clear();
            rules.mute_to.clear();
            self.world.filter(n, rules)?;
        }
        Ok(())
    }

    /// Records one fault for each effect of `netem`.
    fn disturb(
        &mut self,
        before: u64,
        command: &Command,
        nodes: &[usize],
        netem: Netem,
    ) -> anyhow::Result<()> {
        for n in nodes {
            self.world.queue(*n, netem)?;
        }
        let kinds = [
            (netem.delay_ms, FaultKind::Delay),
            (netem.duplicate_percent, FaultKind::Duplication),
            (netem.reorder_percent, FaultKind::Reordering),
        ];
        let mut done = kinds.into_iter().filter(|(much, _)| *much > 0).peekable();
        if done.peek().is_none() {
            return self.note(before, FaultKind::Healed, nodes, &command.to_string());
        }
        for (_, kind) in done {
            self.note(before, kind, nodes, &command.to_string())?;
        }
        Ok(())
    }
}

fn name(n: usize) -> String {
    format!("n{n}")
}
