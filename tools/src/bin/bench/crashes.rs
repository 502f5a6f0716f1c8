//! W4: the holder's process is killed while another process waits.

use std::time::Duration;

use anyhow::{Context, bail};
use lockmesh::Guard;
use tokio::task::JoinHandle;

use super::locks::Cluster;
use super::{Flavour, PATIENCE, Setup, protocol};

/// The killed node does not vote after its restart, since it has lost its state.
const NODES: usize = 3;
/// The TTL of the holder's lock, which it renews.
pub(super) const TTL: Duration = Duration::from_secs(2);
/// The number of runs of each measurement.
pub(super) const RUNS: u32 = 5;
/// The hold before the crash grows by this in each run, so that the age of the last renewal varies.
pub(super) const HELD: Duration = Duration::from_millis(170);

/// The waits until the next grant, in milliseconds.
#[derive(Debug)]
pub(crate) struct Crashes {
    /// From the end of the lease by the holder's clock; negative if the grant was earlier.
    pub(crate) after_end: Vec<f64>,
    /// From the time at which the holder's next incarnation began to start its node.
    pub(crate) after_return: Vec<f64>,
}

/// Kills holders. Each runs in its own process, whatever the setup of the others.
pub(crate) async fn measure(flavour: Flavour) -> anyhow::Result<Crashes> {
    let setup = Setup {
        in_process: false,
        flavour,
    };
    let mut crashes = Crashes {
        after_end: Vec::new(),
        after_return: Vec::new(),
    };
    let mut cluster = Cluster::start(setup, NODES).await?;
    for run in 0..RUNS {
        let (ends, waiter) = crash(&mut cluster, &format!("dead/{run}"), run).await?;
        crashes.after_end.push(millis(ends, granted(waiter).await?));
        cluster.restart(flavour).await?;
        cluster.ready(NODES - 1).await?;
    }
    for run in 0..RUNS {
        let (_, waiter) = crash(&mut cluster, &format!("back/{run}"), run).await?;
        let back = cluster.restart(flavour).await?;
        crashes
            .after_return
            .push(millis(back, granted(waiter).await?));
        cluster.ready(NODES - 1).await?;
    }
    cluster.stop().await;
    Ok(crashes)
}

type Waiter = JoinHandle<anyhow::Result<(Guard, Duration)>>;

/// Holds a key on the last node, waits for it on the first, and kills the last. Returns the end of
/// its lease, and the waiter.
async fn crash(cluster: &mut Cluster, key: &str, run: u32) -> anyhow::Result<(Duration, Waiter)> {
    cluster.hold(key, TTL).await?;
    let request = cluster.mesh.lock(key).acquire_timeout(PATIENCE);
    let waiter = tokio::spawn(async move {
        let guard = request.acquire().await?;
        Ok((guard, protocol::clock()))
    });
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

fn millis(from: Duration, to: Duration) -> f64 {
    (to.as_secs_f64() - from.as_secs_f64()) * 1e3
}
