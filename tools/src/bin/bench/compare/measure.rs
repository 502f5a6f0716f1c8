//! The measurements of another lock service: as for the mesh, with their own floor.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use hdrhistogram::Histogram;
use tokio::task::JoinSet;

use super::client::{Client, Contender, Kind, Service};
use super::servers::Servers;
use crate::child::Child;
use crate::crashes::{HELD, RUNS, TTL};
use crate::floor::{self, Caller, Floor};
use crate::protocol::{self, Order, Reply};
use crate::turns::{Contended, Count, Load, WAITERS, nanos, slices};
use crate::{PATIENCE, Row, SLICE, Setup};

/// The TTL of locks that must not be lost.
const LONG: Duration = Duration::from_secs(10);
/// The number of client nodes, which is that of the mesh's nodes.
const CLIENTS: usize = 3;

/// The figures; `None` for those that were not measured.
#[derive(Debug, Default)]
pub(super) struct Measured {
    /// Latencies of bare rounds and of acquisitions, in nanoseconds.
    pub(super) single: Option<(Histogram<u64>, Histogram<u64>)>,
    pub(super) rounds: Option<Count>,
    pub(super) cycles: Option<Count>,
    pub(super) contended: Option<Contended>,
    /// The number of times that two tasks held one key at once.
    pub(super) overlaps: u32,
    /// The times from the end of a lease to the waiter's grant, in milliseconds.
    pub(super) after_end: Option<Vec<f64>>,
}

/// Starts the servers, measures, and stops them.
pub(super) async fn measure(kind: Kind, setup: Setup, load: &Load) -> anyhow::Result<Measured> {
    let servers = Servers::start(kind).await?;
    let mut floor = Floor::start(setup, load.nodes).await?;
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        clients.push(Client::connect(&servers.service, number).await?);
    }
    let has = |row| load.rows.contains(&row);
    let mut measured = Measured::default();
    if has(Row::W1) || has(Row::W3) {
        measured.single = Some(single(&floor, &clients[0], load.span).await?);
    }
    if has(Row::W2) || has(Row::W5) {
        let (rounds, cycles) = cycles(&servers, &mut floor, &clients[0], load).await?;
        (measured.rounds, measured.cycles) = (Some(rounds), Some(cycles));
    }
    if has(Row::W3) {
        let (contended, overlaps) = contend(&clients, load.span).await?;
        (measured.contended, measured.overlaps) = (Some(contended), overlaps);
    }
    if has(Row::W4) {
        measured.after_end = Some(crash(&servers.service, setup, &clients[0]).await?);
    }
    Ok(measured)
}

/// W1: one acquisition at a time, alternating with bare rounds.
async fn single(
    floor: &Floor,
    client: &Client,
    span: Duration,
) -> anyhow::Result<(Histogram<u64>, Histogram<u64>)> {
    let (mut rounds, mut acquires) = (Histogram::new(3)?, Histogram::new(3)?);
    let (mut caller, mut contender) = (floor.caller().await?, client.contender(LONG).await?);
    let mut fresh = 0_u64;
    let warm = SLICE.min(span);
    for (at, slice) in std::iter::once(warm).chain(slices(span)).enumerate() {
        if at == 1 {
            // Warm-up: the first measurement must not pay for cold caches.
            rounds.reset();
            acquires.reset();
        }
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
            let held = contender.acquire(&key).await?;
            acquires.record(nanos(began.elapsed()))?;
            contender.release(held).await?;
        }
    }
    Ok((rounds, acquires))
}

/// W2 and W5: many tasks of one client node on their own keys, alternating with bare rounds.
async fn cycles(
    servers: &Servers,
    floor: &mut Floor,
    client: &Client,
    load: &Load,
) -> anyhow::Result<(Count, Count)> {
    let (mut callers, mut contenders): (Vec<Caller>, Vec<Contender>) = Default::default();
    for _ in 0..load.tasks {
        callers.push(floor.caller().await?);
        contenders.push(client.contender(LONG).await?);
    }
    let (mut rounds, mut cycles) = (Count::default(), Count::default());
    let warm = SLICE.min(load.span);
    for (at, slice) in std::iter::once(warm).chain(slices(load.span)).enumerate() {
        if at == 1 {
            (rounds, cycles) = Default::default();
        }
        let (cpu, began) = (floor.cpu().await?, Instant::now());
        rounds.done += floor::rounds(&mut callers, slice).await?;
        rounds.elapsed += began.elapsed();
        rounds.cpu += floor.cpu().await? - cpu;
        let (cpu, began) = (cpu_with(servers)?, Instant::now());
        cycles.done += cycles_for(&mut contenders, load.keys, slice).await?;
        cycles.elapsed += began.elapsed();
        cycles.cpu += cpu_with(servers)?.saturating_sub(cpu);
    }
    Ok((rounds, cycles))
}

/// Returns the processor time of this process, which is the client, and of all servers.
fn cpu_with(servers: &Servers) -> anyhow::Result<Duration> {
    let servers = servers.cpu();
    let servers = servers.context("the system does not say what processor time a server took")?;
    Ok(servers + protocol::cpu())
}

async fn cycles_for(
    contenders: &mut Vec<Contender>,
    keys: usize,
    slice: Duration,
) -> anyhow::Result<u64> {
    let (began, tasks) = (Instant::now(), contenders.len());
    let mut running = JoinSet::new();
    for (task, mut contender) in contenders.drain(..).enumerate() {
        // Every `tasks`-th key from the task's own number on; at least one.
        let own: Vec<_> = (task % keys..keys).step_by(tasks).collect();
        running.spawn(async move {
            let mut done = 0;
            for key in own.iter().cycle() {
                if began.elapsed() >= slice {
                    break;
                }
                let held = contender.acquire(&format!("own/{key}")).await?;
                contender.release(held).await?;
                done += 1;
            }
            anyhow::Ok((contender, done))
        });
    }
    let mut sum = 0;
    while let Some(ended) = running.join_next().await {
        let (contender, done) = ended??;
        contenders.push(contender);
        sum += done;
    }
    Ok(sum)
}

/// W3: many tasks on three client nodes contend for one key. There are no slices: clients that poll
/// would sleep past their ends.
async fn contend(clients: &[Client], span: Duration) -> anyhow::Result<(Contended, u32)> {
    let (order, inside) = (
        Arc::new(Mutex::new(Vec::new())),
        Arc::new(AtomicU32::new(0)),
    );
    let overlaps = Arc::new(AtomicU32::new(0));
    let mut contenders = Vec::new();
    for task in 0..WAITERS {
        let client = &clients[usize::from(task) % clients.len()];
        contenders.push((task, client.contender(LONG).await?));
    }
    let began = Instant::now();
    let mut running = JoinSet::new();
    for (task, mut contender) in contenders {
        let (order, inside, overlaps) = (order.clone(), inside.clone(), overlaps.clone());
        running.spawn(async move {
            while began.elapsed() < span {
                let held = contender.acquire("one").await?;
                overlaps.fetch_add(inside.fetch_add(1, Ordering::SeqCst), Ordering::SeqCst);
                order
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(task);
                inside.fetch_sub(1, Ordering::SeqCst);
                contender.release(held).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = running.join_next().await {
        ended??;
    }
    let mut contended = Contended::default();
    let order = order.lock().unwrap_or_else(PoisonError::into_inner);
    contended.add(&order, began.elapsed());
    Ok((contended, overlaps.load(Ordering::SeqCst)))
}

/// W4: kills holders, each in its own process, while a task waits for each lock.
async fn crash(service: &Service, setup: Setup, client: &Client) -> anyhow::Result<Vec<f64>> {
    let mut holders = Vec::new();
    for run in 0..RUNS {
        let (service, key) = (service.clone(), format!("dead/{run}"));
        let mut holder = Child::start(setup.flavour)?;
        let order = Order::HoldOf {
            service,
            key: key.clone(),
            ttl: TTL,
        };
        holder.ask(&order, PATIENCE).await?;
        let mut waiter = client.contender(LONG).await?;
        let waiter = tokio::spawn(async move {
            let held = waiter.acquire(&key).await?;
            let at = protocol::clock();
            waiter.release(held).await?;
            anyhow::Ok(at)
        });
        holders.push((holder, waiter));
    }
    let mut after_end = Vec::new();
    let mut waiters = Vec::new();
    for (mut holder, waiter) in holders {
        tokio::time::sleep(HELD).await;
        let ends = match holder.ask(&Order::Ends, PATIENCE).await? {
            Reply::Ends(ends) => ends,
            other => bail!("a holder answered {other:?}"),
        };
        holder.kill().await?;
        waiters.push((ends, waiter));
    }
    for (ends, waiter) in waiters {
        let at = tokio::time::timeout(TTL + PATIENCE, waiter);
        let at = at.await.context("nobody takes over")???;
        after_end.push((at.as_secs_f64() - ends.as_secs_f64()) * 1e3);
    }
    Ok(after_end)
}
