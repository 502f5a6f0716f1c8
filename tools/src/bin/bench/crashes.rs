//! W4: the holder's process is killed while another process waits.

use std::time::Duration;

use anyhow::{Context, bail};
use lockmesh::Guard;
use tokio::task::JoinHandle;

use crate::PATIENCE;
use crate::child::clock;
use crate::dirs::Keep;
use crate::locks::Cluster;

/// The killed node does not vote after its restart, since it has lost its state.
const NODES: usize = 3;
/// The TTL of the holder's lock, which it renews.
pub(crate) const TTL: Duration = Duration::from_secs(2);
/// The number of runs of each measurement.
pub(crate) const RUNS: u32 = 5;
/// The hold before the crash grows by this in each run, so that the age of the last renewal varies.
pub(crate) const HELD: Duration = Duration::from_millis(170);

/// Kills holders. Returns the times until the next grant, in milliseconds: from the end of the
/// lease by the holder's clock, which is negative if the grant was earlier, and from the time at
/// which the holder's next incarnation began to start its node.
pub(crate) async fn measure() -> anyhow::Result<[Vec<f64>; 2]> {
    let (mut after_end, mut after_return) = (Vec::new(), Vec::new());
    let mut cluster = Cluster::start(NODES, Keep::Memory).await?;
    for run in 0..RUNS {
        let (ends, waiter) = crash(&mut cluster, &format!("dead/{run}"), run).await?;
        after_end.push(ms(ends, granted(waiter).await?));
        cluster.restart().await?;
        cluster.ready(NODES - 1).await?;
    }
    for run in 0..RUNS {
        let (_, waiter) = crash(&mut cluster, &format!("back/{run}"), run).await?;
        let back = cluster.restart().await?;
        after_return.push(ms(back, granted(waiter).await?));
        cluster.ready(NODES - 1).await?;
    }
    cluster.mesh.shutdown().await;
    Ok([after_end, after_return])
}

type Waiter = JoinHandle<anyhow::Result<(Guard, Duration)>>;

/// Holds a key on the last node, waits for it on the first, and kills the last. Returns the end of
/// its lease, and the waiter.
async fn crash(cluster: &mut Cluster, key: &str, run: u32) -> anyhow::Result<(Duration, Waiter)> {
    cluster.hold(key, TTL).await?;
    let request = cluster.mesh.lock(key).acquire_timeout(PATIENCE);
    let waiter = tokio::spawn(async move { Ok((request.acquire().await?, clock())) });
    tokio::time::sleep(HELD * (run + 1)).await;
    if waiter.is_finished() {
        bail!("a lock that is held was granted");
    }
    Ok((cluster.kill().await?, waiter))
}

/// Returns the time of the waiter's grant, and releases the lock.
async fn granted(waiter: Waiter) -> anyhow::Result<Duration> {
    let (guard, at) = waiter.await.context("the waiter broke off")??;
    guard.release().await?;
    Ok(at)
}

/// Returns the milliseconds from one time to another, which may be earlier.
pub(crate) fn ms(from: Duration, to: Duration) -> f64 {
    (to.as_secs_f64() - from.as_secs_f64()) * 1e3
}
