//! The child's side: carries out the orders of its parent.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, bail};
use lockmesh::{ClusterSecret, Mesh};
use tokio::sync::mpsc::UnboundedReceiver;

use super::protocol::{self, NodeOrder, Order, Reply};
use super::{floor, held, locks, work};

/// Carries out orders until the parent has ended.
pub(crate) async fn run() -> ExitCode {
    let mut protocol = protocol::from_stdin();
    // Run on a worker of the runtime, like the parent's own work.
    let obeyed = tokio::spawn(async move { live(&mut protocol).await }).await;
    match obeyed.context("the child broke off").and_then(|done| done) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = say(&Reply::Failed(format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}

async fn live(protocol: &mut UnboundedReceiver<Order>) -> anyhow::Result<()> {
    match protocol.recv().await {
        Some(Order::Echo) => {
            let (socket, addr) = floor::bind().await?;
            tokio::spawn(floor::echo(socket));
            say(&Reply::Listens(addr))?;
            while let Some(order) = protocol.recv().await {
                match order {
                    Order::Cpu => say(&Reply::Cpu(protocol::cpu()))?,
                    other => bail!("an echo cannot {other:?}"),
                }
            }
            Ok(())
        }
        #[cfg(feature = "compare")]
        Some(Order::HoldOf { service, key, ttl }) => {
            super::compare::hold(&service, &key, ttl, protocol).await
        }
        Some(Order::Remember { locks }) => say(&Reply::Grew(held::remember(locks)?)),
        Some(Order::Node(node)) => be_node(&node, protocol).await,
        Some(other) => bail!("it is nothing yet and cannot {other:?}"),
        None => Ok(()),
    }
}

async fn be_node(node: &NodeOrder, protocol: &mut UnboundedReceiver<Order>) -> anyhow::Result<()> {
    let began = protocol::clock();
    let mesh = start(node).await?;
    say(&Reply::Runs(mesh.local_addr(), began))?;
    let mut kept = None;
    while let Some(order) = protocol.recv().await {
        let reply = match order {
            Order::Hold { key, ttl } => {
                kept = Some(mesh.lock(key).ttl(ttl).acquire().await?);
                Reply::Done
            }
            Order::Ends => {
                let guard = kept.as_ref().context("it keeps nothing")?;
                Reply::Ends(protocol::clock() + guard.remaining())
            }
            order => worker(&mesh, order).await?,
        };
        say(&reply)?;
    }
    Ok(())
}

/// Starts a node with the settings of its order.
async fn start(node: &NodeOrder) -> anyhow::Result<Mesh> {
    let secret = ClusterSecret::parse(&node.secret)?;
    let builder = locks::builder(node.number, node.nodes, &node.seeds, secret);
    let mut builder = builder.new_cluster(node.is_new);
    if let Some(listen) = node.listen {
        builder = builder.listen(listen.to_string());
    }
    Ok(builder.start().await?)
}

/// Carries out an order at a node.
pub(crate) async fn worker(mesh: &Mesh, order: Order) -> anyhow::Result<Reply> {
    Ok(match order {
        Order::Ready { voting } => {
            locks::ready(mesh, voting).await?;
            Reply::Done
        }
        Order::Cycles { keys, span } => Reply::Cycles(work::cycles(mesh, &keys, span).await?),
        Order::Contend { key, tasks, span } => {
            Reply::Grants(work::contend(mesh, &key, &tasks, span).await?)
        }
        Order::Cpu => Reply::Cpu(protocol::cpu()),
        other => bail!("a node cannot {other:?}"),
    })
}

pub(super) fn say(reply: &Reply) -> anyhow::Result<()> {
    let line = serde_json::to_string(reply)?;
    writeln!(std::io::stdout().lock(), "{line}").context("nobody listens")
}
