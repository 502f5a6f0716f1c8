//! `bench --compare`: other lock services and the mesh, in one run on one machine.

mod client;
mod etcd;
mod servers;

use std::future::Future;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use client::Kind;
pub(crate) use client::{Client, Service};
use lockmesh_cli::node::Signals;
use servers::Servers;
use tokio::task::JoinSet;

use crate::child::{Child, Order, clock};
use crate::crashes::{HELD, RUNS, TTL, ms};
use crate::dirs::Keep;
use crate::floor::Floor;
use crate::locks::Locks;
use crate::report::Measured;
use crate::turns::{self, Contended, WAITERS};
use crate::{Args, NODES, Other, PATIENCE, Row};

/// The TTL of locks that must not be lost.
const LONG: Duration = Duration::from_secs(10);

impl Other {
    fn kinds(self) -> &'static [Kind] {
        match self {
            Self::Redis => &[Kind::Redis, Kind::Redlock],
            Self::Etcd => &[Kind::Etcd],
        }
    }
}

/// Checks that all programs are installed, before anything is measured.
pub(super) fn find(others: &[Other]) -> anyhow::Result<()> {
    let mut kinds = others.iter().flat_map(|other| other.kinds());
    kinds.try_for_each(|kind| kind.find())
}

/// Measures the others, one after another.
pub(super) async fn measure(args: &Args) -> anyhow::Result<Vec<(&'static str, Measured)>> {
    let mut services = Vec::new();
    for kind in args.compare.iter().flat_map(|other| other.kinds()) {
        let measured = measure_one(*kind, args).await;
        services.push((kind.name(), measured.with_context(|| kind.name())?));
    }
    Ok(services)
}

/// Starts the servers, measures, and stops them.
async fn measure_one(kind: Kind, args: &Args) -> anyhow::Result<Measured> {
    let on_disk = args.keep.contains(&Keep::Machine);
    let mut servers = Servers::start(kind, on_disk).await?;
    let mut floor = Floor::start(NODES).await?;
    let mut clients = Vec::new();
    for number in 0..NODES {
        clients.push(Client::connect(&servers.service, number).await?);
    }
    let mut measured = Measured::default();
    let span = args.seconds;
    if args.has(&[Row::W1, Row::W3]) {
        let contender = clients[0].contender(LONG).await?;
        measured.one = Some(turns::single(&floor, contender, span).await?);
    }
    if args.has(&[Row::W2, Row::W5]) {
        let mut contenders = Vec::new();
        for _ in 0..args.tasks {
            contenders.push(clients[0].contender(LONG).await?);
        }
        measured.cycles = Some(turns::cycles(&mut floor, contenders, &mut servers, span).await?);
    }
    if args.has(&[Row::W3]) {
        let (contended, overlaps) = contend(&clients, span).await?;
        (measured.contended, measured.overlaps) = (Some(contended), Some(overlaps));
    }
    if args.has(&[Row::W4]) {
        measured.after_end = Some(crash(&servers.service, &clients[0]).await?);
    }
    Ok(measured)
}

/// W3: many tasks on three client nodes contend for one key.
async fn contend(clients: &[Client], span: Duration) -> anyhow::Result<(Contended, u32)> {
    let order = Arc::new(Mutex::new(Vec::new()));
    let counts = Arc::new([AtomicU32::new(0), AtomicU32::new(0)]);
    let mut contenders = Vec::new();
    for task in 0..WAITERS {
        let client = &clients[usize::from(task) % clients.len()];
        contenders.push((task, client.contender(LONG).await?));
    }
    let began = Instant::now();
    let mut running = JoinSet::new();
    for (task, mut contender) in contenders {
        let (order, counts) = (order.clone(), counts.clone());
        running.spawn(async move {
            let [inside, overlaps] = &*counts;
            while began.elapsed() < span {
                let held = contender.acquire("one".to_owned()).await?;
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
    Ok((contended, counts[1].load(Ordering::SeqCst)))
}

/// W4: kills holders, each in its own process, while a task waits for each lock.
async fn crash(service: &Service, client: &Client) -> anyhow::Result<Vec<f64>> {
    let mut holders = Vec::new();
    for run in 0..RUNS {
        let (service, key, ttl) = (service.clone(), format!("dead/{run}"), TTL);
        let mut holder = Child::start()?;
        let waits_for = key.clone();
        holder.ask(&Order::HoldOf { service, key, ttl }).await?;
        let mut waiter = client.contender(LONG).await?;
        let waiter = tokio::spawn(async move {
            let held = waiter.acquire(waits_for).await?;
            let at = clock();
            waiter.release(held).await?;
            anyhow::Ok(at)
        });
        holders.push((holder, waiter));
    }
    let mut waiters = Vec::new();
    for (mut holder, waiter) in holders {
        tokio::time::sleep(HELD).await;
        let ends = holder.time(&Order::Ends).await?;
        holder.kill().await?;
        waiters.push((ends, waiter));
    }
    let mut after_end = Vec::new();
    for (ends, waiter) in waiters {
        let at = tokio::time::timeout(TTL + PATIENCE, waiter).await;
        after_end.push(ms(ends, at.context("no waiter was granted the lock")???));
    }
    Ok(after_end)
}

/// Runs `work`, unless a signal to stop arrives first. Dropping it stops all that it started.
pub(super) async fn unless_stopped<T>(
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let mut signals = Signals::new(true)?;
    tokio::select! {
        done = work => done,
        name = signals.next() => bail!("{name} arrived; the servers are stopped"),
    }
}
