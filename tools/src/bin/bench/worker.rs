//! The child's side: carries out the orders of its parent.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use lockmesh::{ClusterSecret, Mesh};
use lockmesh_cli::node::{Signals, stop};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;

use crate::child::{NodeOrder, Order, Reply, clock, cpu, orders, say};
use crate::{floor, held, locks};

/// Carries out orders until the parent has ended.
pub(crate) async fn run() -> ExitCode {
    let mut orders = orders();
    // Run on a worker of the runtime, like the parent's own work.
    let done = tokio::spawn(async move { live(&mut orders).await }).await;
    match done.context("the child broke off").flatten() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = say(&Reply::Failed(format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}

async fn live(orders: &mut UnboundedReceiver<Order>) -> anyhow::Result<()> {
    match orders.recv().await {
        Some(Order::Echo) => {
            let (socket, addr) = floor::bind().await?;
            tokio::spawn(floor::echo(socket));
            say(&Reply::Runs(addr, clock()))?;
            while let Some(Order::Cpu) = orders.recv().await {
                say(&Reply::Time(cpu()))?;
            }
            Ok(())
        }
        #[cfg(feature = "compare")]
        Some(Order::HoldOf { service, key, ttl }) => {
            let client = crate::compare::Client::connect(&service, 1).await?;
            let mut contender = client.contender(ttl).await?;
            let held = locks::Locks::acquire(&mut contender, key).await?;
            say(&Reply::Done)?;
            while let Some(Order::Ends) = orders.recv().await {
                say(&Reply::Time(contender.ends(&held)?))?;
            }
            Ok(())
        }
        Some(Order::Remember { locks }) => say(&Reply::Grew(held::remember(locks)?)),
        Some(Order::Node(node)) => be_node(&node, orders).await,
        Some(other) => bail!("it has no role and cannot {other:?}"),
        None => Ok(()),
    }
}

async fn be_node(node: &NodeOrder, orders: &mut UnboundedReceiver<Order>) -> anyhow::Result<()> {
    let began = clock();
    let secret = ClusterSecret::parse(&node.secret)?;
    let builder = locks::builder(node.number, node.nodes, &node.seeds, secret);
    let builder = locks::keeping(builder, node.data_dir.clone());
    let listen = node.listen.unwrap_or_else(|| ([127, 0, 0, 1], 0).into());
    let builder = builder.listen(listen.to_string());
    let builder = match node.is_new {
        true => builder.bootstrap(),
        false => builder,
    };
    let mut signals = Signals::new(false)?;
    let mesh = builder.start().await?;
    say(&Reply::Runs(mesh.local_addr(), began))?;
    let mut kept = None;
    loop {
        let order = tokio::select! {
            order = orders.recv() => order,
            signal = signals.next() => {
                stop(&mesh, signal).await;
                return Ok(());
            }
        };
        let Some(order) = order else { return Ok(()) };
        say(&match order {
            Order::Hold { key, ttl } => {
                kept = Some(mesh.lock(key).ttl(ttl).acquire().await?);
                Reply::Done
            }
            Order::Ends => {
                let guard = kept.as_ref().context("it keeps no lock")?;
                Reply::Time(clock() + guard.remaining())
            }
            Order::Ready { voting } => {
                locks::ready(&mesh, voting).await?;
                Reply::Done
            }
            Order::Contend { key, tasks, span } => {
                Reply::Grants(contend(&mesh, &key, &tasks, span).await?)
            }
            Order::Cpu => Reply::Time(cpu()),
            other => bail!("a node cannot {other:?}"),
        })?;
    }
}

/// Contends for one key for `span`, and releases it at once. Returns the epoch and the task of each
/// grant. Epochs rise with every grant, so they give the order of the grants of all nodes.
pub(crate) async fn contend(
    mesh: &Mesh,
    key: &str,
    tasks: &[u16],
    span: Duration,
) -> anyhow::Result<Vec<(u64, u16)>> {
    let began = Instant::now();
    let mut running = JoinSet::new();
    for task in tasks.iter().copied() {
        let (mesh, key) = (mesh.clone(), key.to_owned());
        running.spawn(async move {
            let mut grants = Vec::new();
            while began.elapsed() < span {
                let guard = mesh.lock(&key).acquire().await?;
                grants.push((guard.epoch().get(), task));
                guard.release().await?;
            }
            anyhow::Ok(grants)
        });
    }
    let mut grants = Vec::new();
    while let Some(ended) = running.join_next().await {
        grants.extend(ended??);
    }
    Ok(grants)
}
