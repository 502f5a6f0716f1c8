//! The work of one node's tasks during a measurement, in this process or in a child.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lockmesh::Mesh;
use tokio::task::JoinSet;

/// Acquires and releases for `span`, in one task for each list of keys. Returns the number of
/// cycles.
pub(crate) async fn cycles(
    mesh: &Mesh,
    keys: &[Vec<String>],
    span: Duration,
) -> anyhow::Result<u64> {
    let began = Instant::now();
    let mut running = JoinSet::new();
    for keys in keys {
        let (mesh, keys) = (mesh.clone(), keys.clone());
        running.spawn(async move {
            let mut done = 0;
            for key in keys.iter().cycle() {
                if began.elapsed() >= span {
                    break;
                }
                mesh.lock(key).acquire().await?.release().await?;
                done += 1;
            }
            anyhow::Ok(done)
        });
    }
    let mut done = 0;
    while let Some(ended) = running.join_next().await {
        done += ended??;
    }
    Ok(done)
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
    let key: Arc<str> = key.into();
    for task in tasks.iter().copied() {
        let (mesh, key) = (mesh.clone(), key.clone());
        running.spawn(async move {
            let mut grants = Vec::new();
            while began.elapsed() < span {
                let guard = mesh.lock(&*key).acquire().await?;
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
