//! What the tasks of one node do while they are measured, in this process or in a child.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lockmesh::Mesh;
use tokio::task::JoinSet;

/// Acquires and releases for `span`, a task for each list of keys. Answers how many cycles.
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

/// Fights for one key for `span`, with nothing to do while it is held. Answers the epoch of each
/// grant and the task that got it: epochs rise from owner to owner, so whoever has those of all
/// nodes knows the order.
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
