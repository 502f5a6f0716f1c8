//! W4: the holder's process is killed, and somebody waits.

use std::time::Duration;

use anyhow::{Context, bail};
use lockmesh::Guard;
use tokio::task::JoinHandle;

use super::locks::Cluster;
use super::{Flavour, PATIENCE, Setup, protocol};

/// One of them has no vote once it was killed: it has forgotten what it promised.
const NODES: usize = 3;
/// What the holder asks for, and renews.
pub(super) const TTL: Duration = Duration::from_secs(2);
/// How often each of the two is measured.
pub(super) const RUNS: u32 = 5;
/// So much longer each time is held before the crash, so that the holder has renewed its lease
/// sooner or later before it.
pub(super) const HELD: Duration = Duration::from_millis(170);

/// How long a waiter waited, in milliseconds, each time.
#[derive(Debug)]
pub(crate) struct Crashes {
    /// From the end of the lease as the holder saw it; below zero where that was sooner.
    pub(crate) after_end: Vec<f64>,
    /// From the moment at which the holder's next incarnation began to start its node.
    pub(crate) after_return: Vec<f64>,
}

/// Kills holders, each a process of its own whatever the others are.
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

/// The last node holds a key, the first waits for it, and the last is killed. Returns when the
/// lease of the last ends.
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

/// When the waiter was granted; it releases.
async fn granted(waiter: Waiter) -> anyhow::Result<Duration> {
    let (guard, at) = waiter.await.context("the waiter broke off")??;
    guard.release().await?;
    Ok(at)
}

fn millis(from: Duration, to: Duration) -> f64 {
    (to.as_secs_f64() - from.as_secs_f64()) * 1e3
}
