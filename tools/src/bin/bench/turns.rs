//! Measurements in slices that alternate between the floor and locks.

use std::time::{Duration, Instant};

use anyhow::Context;
use hdrhistogram::Histogram;

use super::floor::{self, Caller, Floor};
use super::locks::{self, Cluster};
use super::report::{Figures, One};
use super::{PATIENCE, Row, SLICE, Setup};

/// The number of tasks that contend for one key.
pub(super) const WAITERS: u16 = 16;

/// The load of a measurement.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) nodes: usize,
    pub(crate) tasks: usize,
    pub(crate) keys: usize,
    pub(crate) span: Duration,
    pub(crate) rows: Vec<Row>,
}

/// Measures W1, W2, W3 and W5.
pub(crate) async fn measure(setup: Setup, load: &Load) -> anyhow::Result<Figures> {
    let floor = Floor::start(setup, load.nodes).await?;
    let cluster = Cluster::start(setup, load.nodes).await?;
    let mut turns = Turns::new(load, floor, cluster).await?;
    // Warm-up: the first measurement must not pay for cold caches.
    turns.turn(load, SLICE.min(load.span)).await?;
    turns.forget();
    for slice in slices(load.span) {
        turns.turn(load, slice).await?;
    }
    Ok(turns.stop(load).await)
}

/// Measures W1 alone, with more voters.
pub(crate) async fn measure_one(setup: Setup, nodes: usize, span: Duration) -> anyhow::Result<One> {
    let floor = Floor::start(setup, nodes).await?;
    let cluster = Cluster::start(setup, nodes).await?;
    let mut single = Single::new(floor.caller().await?)?;
    single.turn(&cluster, SLICE.min(span), true).await?;
    single.forget();
    for slice in slices(span) {
        single.turn(&cluster, slice, true).await?;
    }
    cluster.stop().await;
    Ok(single.one(nodes, floor.replies()))
}

/// Divides `span` into slices.
pub(super) fn slices(span: Duration) -> impl Iterator<Item = Duration> {
    let mut left = span;
    std::iter::from_fn(move || {
        let slice = left.min(SLICE);
        left -= slice;
        (!slice.is_zero()).then_some(slice)
    })
}

/// Latencies of one operation at a time, in nanoseconds.
struct Single {
    caller: Caller,
    fresh: u64,
    floor: Histogram<u64>,
    acquire: Histogram<u64>,
}

impl Single {
    fn new(caller: Caller) -> anyhow::Result<Self> {
        Ok(Self {
            caller,
            fresh: 0,
            floor: Histogram::new(3)?,
            acquire: Histogram::new(3)?,
        })
    }

    fn forget(&mut self) {
        self.floor.reset();
        self.acquire.reset();
    }

    async fn turn(
        &mut self,
        cluster: &Cluster,
        slice: Duration,
        with_floor: bool,
    ) -> anyhow::Result<()> {
        let at_most = slice + PATIENCE;
        if with_floor {
            let floor = tokio::time::timeout(at_most, self.floor(slice));
            floor.await.context("a bare round was never answered")??;
        }
        let acquire = tokio::time::timeout(at_most, self.acquire(cluster, slice));
        acquire.await.context("an acquisition never ended")?
    }

    async fn floor(&mut self, slice: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + slice;
        while Instant::now() < end {
            let began = Instant::now();
            self.caller.round().await?;
            self.floor.record(nanos(began.elapsed()))?;
        }
        Ok(())
    }

    async fn acquire(&mut self, cluster: &Cluster, slice: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + slice;
        while Instant::now() < end {
            self.fresh += 1;
            let took = locks::acquire(&cluster.mesh, format!("fresh/{}", self.fresh)).await?;
            self.acquire.record(nanos(took))?;
        }
        Ok(())
    }

    fn one(self, nodes: usize, replies: u32) -> One {
        One {
            nodes,
            replies,
            floor: self.floor,
            acquire: self.acquire,
        }
    }
}

/// A number of operations, with their duration and processor time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Count {
    pub(crate) done: u64,
    pub(super) elapsed: Duration,
    pub(super) cpu: Duration,
}

impl Count {
    pub(crate) fn per_s(&self) -> f64 {
        as_f64(self.done) / self.elapsed.as_secs_f64()
    }

    /// Returns the seconds of processor time for each operation.
    pub(crate) fn cpu_each(&self) -> f64 {
        self.cpu.as_secs_f64() / as_f64(self.done)
    }
}

struct Turns {
    floor: Floor,
    cluster: Cluster,
    single: Single,
    callers: Vec<Caller>,
    /// The keys of each task.
    keys: Vec<Vec<String>>,
    rounds: Count,
    cycles: Count,
    spread: Count,
    contended: Contended,
}

/// The result of contention for one key.
#[derive(Clone, Debug, Default)]
pub(crate) struct Contended {
    /// Grants to another task than the previous grant.
    pub(crate) handoffs: Count,
    /// The number of grants of each task.
    pub(crate) grants: Vec<u64>,
}

impl Contended {
    pub(super) fn add(&mut self, order: &[u16], elapsed: Duration) {
        let changes = order.windows(2).filter(|pair| pair[0] != pair[1]).count();
        self.handoffs.done += changes as u64;
        self.handoffs.elapsed += elapsed;
        self.grants.resize(usize::from(WAITERS), 0);
        for task in order {
            if let Some(grants) = self.grants.get_mut(usize::from(*task)) {
                *grants += 1;
            }
        }
    }

    /// Returns Jain's index: 1 if all tasks had the same number of grants, 1/n if one had all.
    pub(crate) fn jain(&self) -> f64 {
        let grants = self.grants.iter().map(|grants| as_f64(*grants));
        let sum: f64 = grants.clone().sum();
        let squares: f64 = grants.map(|grants| grants * grants).sum();
        sum * sum / (as_f64(self.grants.len() as u64) * squares)
    }
}

impl Turns {
    async fn new(load: &Load, floor: Floor, cluster: Cluster) -> anyhow::Result<Self> {
        let single = Single::new(floor.caller().await?)?;
        let mut callers = Vec::new();
        for _ in 0..load.tasks {
            callers.push(floor.caller().await?);
        }
        let (tasks, keys) = (load.tasks, load.keys);
        // Every `tasks`-th key from the task's own number on; at least one.
        let own = |task: usize| (task % keys..keys).step_by(tasks);
        let own = |task: usize| own(task).map(|key| format!("own/{key}")).collect();
        Ok(Self {
            floor,
            cluster,
            single,
            callers,
            keys: (0..tasks).map(own).collect(),
            rounds: Count::default(),
            cycles: Count::default(),
            spread: Count::default(),
            contended: Contended::default(),
        })
    }

    fn forget(&mut self) {
        self.single.forget();
        (self.rounds, self.cycles, self.spread) = Default::default();
        self.contended = Contended::default();
    }

    async fn turn(&mut self, load: &Load, slice: Duration) -> anyhow::Result<()> {
        let has = |row| load.rows.contains(&row);
        if has(Row::W1) || has(Row::W3) {
            let single = &mut self.single;
            single.turn(&self.cluster, slice, has(Row::W1)).await?;
        }
        if has(Row::W2) || has(Row::W5) {
            let at_most = slice + PATIENCE;
            let rounds = tokio::time::timeout(at_most, self.rounds(slice));
            rounds.await.context("a bare round was never answered")??;
            self.cycles(slice).await?;
        }
        if has(Row::W2) {
            let began = Instant::now();
            self.spread.done += self.cluster.cycles(&self.keys, slice).await?;
            self.spread.elapsed += began.elapsed();
        }
        if has(Row::W3) {
            let began = Instant::now();
            let order = self.cluster.contend("one", WAITERS, slice).await?;
            self.contended.add(&order, began.elapsed());
        }
        Ok(())
    }

    async fn rounds(&mut self, slice: Duration) -> anyhow::Result<()> {
        let cpu = self.floor.cpu().await?;
        let began = Instant::now();
        self.rounds.done += floor::rounds(&mut self.callers, slice).await?;
        self.rounds.elapsed += began.elapsed();
        self.rounds.cpu += self.floor.cpu().await? - cpu;
        Ok(())
    }

    /// Runs all tasks at the first node: one client process, as for the bare rounds.
    async fn cycles(&mut self, slice: Duration) -> anyhow::Result<()> {
        let cpu = self.cluster.cpu().await?;
        let began = Instant::now();
        self.cycles.done += self.cluster.cycles_here(&self.keys, slice).await?;
        self.cycles.elapsed += began.elapsed();
        self.cycles.cpu += self.cluster.cpu().await? - cpu;
        Ok(())
    }

    async fn stop(self, load: &Load) -> Figures {
        let has = |row| load.rows.contains(&row);
        self.cluster.stop().await;
        let lost = self.callers.iter().chain([&self.single.caller]);
        Figures {
            rounds_lost: lost.map(Caller::lost).sum(),
            rounds: (has(Row::W2) || has(Row::W5)).then_some(self.rounds),
            cycles: (has(Row::W2) || has(Row::W5)).then_some(self.cycles),
            spread: has(Row::W2).then_some(self.spread),
            contended: has(Row::W3).then_some(self.contended),
            one: (has(Row::W1) || has(Row::W3))
                .then(|| self.single.one(load.nodes, self.floor.replies())),
            ..Figures::default()
        }
    }
}

pub(super) fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

fn as_f64(count: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a count, for show")]
    let count = count as f64;
    count
}
