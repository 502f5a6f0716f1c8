//! A child that holds a lock of another service until it is killed.

use std::time::Duration;

use anyhow::bail;
use tokio::sync::mpsc::UnboundedReceiver;

use super::client::{Client, Service};
use crate::protocol::{Order, Reply};
use crate::worker::say;

/// Acquires a lock, and reports the end of its lease on request.
pub(crate) async fn hold(
    service: &Service,
    key: &str,
    ttl: Duration,
    protocol: &mut UnboundedReceiver<Order>,
) -> anyhow::Result<()> {
    let client = Client::connect(service, 1).await?;
    let mut contender = client.contender(ttl).await?;
    let held = contender.acquire(key).await?;
    say(&Reply::Done)?;
    while let Some(order) = protocol.recv().await {
        match order {
            Order::Ends => say(&Reply::Ends(contender.ends(&held)?))?,
            other => bail!("a holder cannot {other:?}"),
        }
    }
    Ok(())
}
