//! `lockmesh bench`: what a lock costs, beside the bare datagrams that it cannot do without.
//!
//! Everything is measured in one process and in one run, in slices that take turns, so that
//! whatever else the machine does hits both sides alike. Only the ratios travel.

mod floor;
mod locks;
mod report;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use floor::{Caller, Floor};
use hdrhistogram::Histogram;
use lockmesh::Mesh;
use report::Figures;
use tokio::task::JoinSet;

/// The sides take turns so often.
const SLICE: Duration = Duration::from_millis(250);
/// How much longer than its slice a measurement may take before it has failed.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// How many nodes there are; all of them vote.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(3..=15))]
    nodes: u8,
    /// How many tasks acquire and release at once, spread over the nodes.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096))]
    tasks: u16,
    /// How many keys those tasks share out; one for each task by default. With fewer keys than
    /// tasks they contend.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    keys: Option<u32>,
    /// How long each of the four measurements takes.
    #[arg(long, default_value_t = 3.0, value_parser = seconds)]
    seconds: f64,
    /// Print one JSON object as the last line.
    #[arg(long)]
    json: bool,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| "it must be a number of seconds".to_owned())?;
    if (0.1..=600.0).contains(&seconds) {
        Ok(seconds)
    } else {
        Err("it must be 0.1 to 600".to_owned())
    }
}

/// Measures, and tells. Ends with 1 where that failed, whatever the figures.
pub(crate) async fn run(args: &Args) -> ExitCode {
    let args = args.clone();
    let json = args.json;
    // On a worker of the runtime like everything else: the main thread would pay for more wake-ups.
    let measured = tokio::spawn(measure(args)).await;
    match measured
        .context("the measurement broke off")
        .and_then(|figures| figures)
    {
        Ok(figures) => {
            figures.print(json);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("lockmesh: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(args: Args) -> anyhow::Result<Figures> {
    let nodes = usize::from(args.nodes);
    let tasks = usize::from(args.tasks);
    let keys = args.keys.map_or(Ok(tasks), usize::try_from)?;
    let floor = Floor::start(args.nodes).await?;
    let meshes = locks::start(nodes).await?;
    let span = Duration::from_secs_f64(args.seconds);
    let mut one = One::new(&floor, &meshes).await?;
    let mut many = Many::new(&floor, &meshes, tasks, keys).await?;
    // What is measured first must not pay for cold caches.
    let warm = SLICE.min(span);
    one.slice(warm).await?;
    many.slice(warm).await?;
    one.forget();
    many.forget();
    for slice in slices(span) {
        one.slice(slice).await?;
    }
    for slice in slices(span) {
        many.slice(slice).await?;
    }
    for mesh in &meshes {
        mesh.shutdown().await;
    }
    Ok(Figures {
        nodes,
        tasks,
        keys,
        replies: floor.replies(),
        span,
        slice: SLICE.min(span),
        floor: one.floor,
        acquire: one.acquire,
        rounds_lost: many
            .callers
            .iter()
            .chain([&one.caller])
            .map(Caller::lost)
            .sum(),
        rounds_per_s: many.rounds.per_s(),
        cycles_per_s: many.cycles.per_s(),
    })
}

/// `span` in slices.
fn slices(span: Duration) -> impl Iterator<Item = Duration> {
    let mut left = span;
    std::iter::from_fn(move || {
        let slice = left.min(SLICE);
        left -= slice;
        (!slice.is_zero()).then_some(slice)
    })
}

/// One thing at a time: how long it takes, in nanoseconds.
struct One {
    caller: Caller,
    mesh: Mesh,
    fresh: u64,
    floor: Histogram<u64>,
    acquire: Histogram<u64>,
}

impl One {
    async fn new(floor: &Floor, meshes: &[Mesh]) -> anyhow::Result<Self> {
        let mesh = meshes.first().context("no node")?.clone();
        Ok(Self {
            caller: floor.caller().await?,
            mesh,
            fresh: 0,
            floor: Histogram::new(3)?,
            acquire: Histogram::new(3)?,
        })
    }

    fn forget(&mut self) {
        self.floor.reset();
        self.acquire.reset();
    }

    async fn slice(&mut self, slice: Duration) -> anyhow::Result<()> {
        let at_most = slice + PATIENCE;
        let floor = tokio::time::timeout(at_most, self.floor(slice));
        floor.await.context("a bare round was never answered")??;
        let acquire = tokio::time::timeout(at_most, self.acquire(slice));
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

    async fn acquire(&mut self, slice: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + slice;
        while Instant::now() < end {
            self.fresh += 1;
            let took = locks::acquire(&self.mesh, format!("fresh/{}", self.fresh)).await?;
            self.acquire.record(nanos(took))?;
        }
        Ok(())
    }
}

/// Many things at once: how many of them are done.
struct Many {
    callers: Vec<Caller>,
    /// For each task its node and its keys.
    tasks: Vec<(Mesh, Vec<String>)>,
    rounds: Count,
    cycles: Count,
}

#[derive(Debug, Default)]
struct Count {
    done: u64,
    elapsed: Duration,
}

impl Count {
    fn per_s(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a count, for show")]
        let done = self.done as f64;
        done / self.elapsed.as_secs_f64()
    }
}

impl Many {
    async fn new(
        floor: &Floor,
        meshes: &[Mesh],
        tasks: usize,
        keys: usize,
    ) -> anyhow::Result<Self> {
        let mut callers = Vec::new();
        for _ in 0..tasks {
            callers.push(floor.caller().await?);
        }
        let tasks = (0..tasks).zip(meshes.iter().cycle()).map(|(task, mesh)| {
            // Every `tasks`-th key from its own number on; one at least.
            let own = (task % keys..keys).step_by(tasks);
            (mesh.clone(), own.map(|key| format!("own/{key}")).collect())
        });
        Ok(Self {
            callers,
            tasks: tasks.collect(),
            rounds: Count::default(),
            cycles: Count::default(),
        })
    }

    fn forget(&mut self) {
        self.rounds = Count::default();
        self.cycles = Count::default();
    }

    async fn slice(&mut self, slice: Duration) -> anyhow::Result<()> {
        let at_most = slice + PATIENCE;
        let rounds = tokio::time::timeout(at_most, self.rounds(slice));
        rounds.await.context("a bare round was never answered")??;
        let cycles = tokio::time::timeout(at_most, self.cycles(slice));
        cycles.await.context("a cycle never ended")?
    }

    async fn rounds(&mut self, slice: Duration) -> anyhow::Result<()> {
        let began = Instant::now();
        let mut running = JoinSet::new();
        for mut caller in self.callers.drain(..) {
            running.spawn(async move {
                let mut done = 0;
                while began.elapsed() < slice {
                    caller.round().await?;
                    done += 1;
                }
                anyhow::Ok((caller, done))
            });
        }
        while let Some(ended) = running.join_next().await {
            let (caller, done) = ended??;
            self.callers.push(caller);
            self.rounds.done += done;
        }
        self.rounds.elapsed += began.elapsed();
        Ok(())
    }

    async fn cycles(&mut self, slice: Duration) -> anyhow::Result<()> {
        let began = Instant::now();
        let mut running = JoinSet::new();
        for (mesh, keys) in self.tasks.drain(..) {
            running.spawn(async move {
                let mut done = 0;
                for key in keys.iter().cycle() {
                    if began.elapsed() >= slice {
                        break;
                    }
                    locks::cycle(&mesh, key).await?;
                    done += 1;
                }
                anyhow::Ok(((mesh, keys), done))
            });
        }
        while let Some(ended) = running.join_next().await {
            let (task, done) = ended??;
            self.tasks.push(task);
            self.cycles.done += done;
        }
        self.cycles.elapsed += began.elapsed();
        Ok(())
    }
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}
