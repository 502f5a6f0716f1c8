//! Measurements in slices that alternate between the floor and locks.

use std::time::{Duration, Instant};

use anyhow::Context;
use hdrhistogram::Histogram;
use tokio::task::JoinSet;
use tools::as_f64;

use crate::floor::{self, Floor};
use crate::locks::Locks;
use crate::{PATIENCE, SLICE};

/// The number of tasks that contend for one key.
pub(crate) const WAITERS: u16 = 16;

/// Divides `span` into slices, with a warm-up before them: the first measurement must not pay for
/// cold caches. Each slice comes with `true` if what was measured before it does not count.
fn slices(span: Duration) -> impl Iterator<Item = (bool, Duration)> {
    let full = span.as_nanos() / SLICE.as_nanos();
    let rest = span - SLICE * u32::try_from(full).unwrap_or(u32::MAX);
    let slices = (0..full).map(|_| SLICE).chain([rest]);
    let counted = slices.filter(|slice| !slice.is_zero()).enumerate();
    let counted = counted.map(|(at, slice)| (at == 0, slice));
    std::iter::once((false, SLICE.min(span))).chain(counted)
}

/// Latencies of bare rounds and of acquisitions, in nanoseconds.
#[derive(Debug)]
pub(crate) struct Single {
    pub(crate) rounds: Histogram<u64>,
    pub(crate) acquires: Histogram<u64>,
}

/// W1: one acquisition of a fresh key at a time. The releases are not timed.
pub(crate) async fn single(
    floor: &Floor,
    mut locks: impl Locks,
    span: Duration,
) -> anyhow::Result<Single> {
    let (mut rounds, mut acquires) = (Histogram::new(3)?, Histogram::new(3)?);
    let mut caller = floor.caller().await?;
    let mut fresh = 0_u64;
    for (is_first, slice) in slices(span) {
        if is_first {
            rounds.reset();
            acquires.reset();
        }
        let one_slice = async {
            let end = Instant::now() + slice;
            while Instant::now() < end {
                let began = Instant::now();
                caller.round().await?;
                rounds.record(nanos(began.elapsed()))?;
            }
            let end = Instant::now() + slice;
            while Instant::now() < end {
                fresh += 1;
                let (key, began) = (format!("fresh/{fresh}"), Instant::now());
                let held = locks.acquire_free(key).await?;
                acquires.record(nanos(began.elapsed()))?;
                locks.release(held).await?;
            }
            anyhow::Ok(())
        };
        in_time(slice * 2, one_slice).await?;
    }
    Ok(Single { rounds, acquires })
}

/// A number of operations, with their duration and processor time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Count {
    done: u64,
    elapsed: Duration,
    cpu: Duration,
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

/// The processes that take part in a cycle, this one included.
pub(crate) trait Processes: Send {
    /// Returns their processor time.
    fn cpu(&mut self) -> impl Future<Output = anyhow::Result<Duration>> + Send;
}

/// W2 and W5: many tasks of one client, each on a key of its own. Returns bare rounds and cycles.
pub(crate) async fn cycles<L: Locks>(
    floor: &mut Floor,
    mut locks: Vec<L>,
    service: &mut impl Processes,
    span: Duration,
) -> anyhow::Result<[Count; 2]> {
    let mut callers = Vec::new();
    for _ in 0..locks.len() {
        callers.push(floor.caller().await?);
    }
    let mut counts = [Count::default(); 2];
    for (is_first, slice) in slices(span) {
        if is_first {
            counts = Default::default();
        }
        let [rounds, cycles] = &mut counts;
        let (before, began) = (floor.cpu().await?, Instant::now());
        rounds.done += in_time(slice, floor::rounds(&mut callers, slice)).await?;
        rounds.elapsed += began.elapsed();
        rounds.cpu += floor.cpu().await?.saturating_sub(before);
        let (before, began) = (service.cpu().await?, Instant::now());
        cycles.done += in_time(slice, cycles_for(&mut locks, slice)).await?;
        cycles.elapsed += began.elapsed();
        cycles.cpu += service.cpu().await?.saturating_sub(before);
    }
    Ok(counts)
}

async fn cycles_for<L: Locks>(locks: &mut Vec<L>, slice: Duration) -> anyhow::Result<u64> {
    let began = Instant::now();
    let mut running = JoinSet::new();
    for (task, mut locks) in locks.drain(..).enumerate() {
        running.spawn(async move {
            let (key, mut done) = (format!("own/{task}"), 0);
            while began.elapsed() < slice {
                let held = locks.acquire(key.clone()).await?;
                locks.release(held).await?;
                done += 1;
            }
            anyhow::Ok((locks, done))
        });
    }
    let mut sum = 0;
    while let Some(ended) = running.join_next().await {
        let (task, done) = ended??;
        locks.push(task);
        sum += done;
    }
    Ok(sum)
}

/// W3: the result of contention for one key.
#[derive(Clone, Debug, Default)]
pub(crate) struct Contended {
    /// The number of grants to another task than the previous grant.
    handoffs: u64,
    elapsed: Duration,
    /// The number of grants of each task.
    grants: [u64; WAITERS as usize],
}

impl Contended {
    /// Adds grants, given by their tasks in order.
    pub(crate) fn add(&mut self, order: &[u16], elapsed: Duration) {
        let changes = order.windows(2).filter(|pair| pair[0] != pair[1]).count();
        self.handoffs += changes as u64;
        self.elapsed += elapsed;
        for task in order {
            if let Some(grants) = self.grants.get_mut(usize::from(*task)) {
                *grants += 1;
            }
        }
    }

    pub(crate) fn handoffs_per_s(&self) -> f64 {
        as_f64(self.handoffs) / self.elapsed.as_secs_f64()
    }

    /// Returns Jain's index: 1 if all tasks had the same number of grants, 1/n if one had all.
    pub(crate) fn jain(&self) -> f64 {
        let grants = self.grants.iter().map(|grants| as_f64(*grants));
        let sum: f64 = grants.clone().sum();
        let squares: f64 = grants.map(|grants| grants * grants).sum();
        sum * sum / (f64::from(WAITERS) * squares)
    }
}

/// Waits for a measurement that is to last for `span`.
pub(crate) async fn in_time<T>(
    span: Duration,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let done = tokio::time::timeout(span + PATIENCE, work).await;
    done.context("a step of the measurement never ended")?
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}
