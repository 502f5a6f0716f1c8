//! The locks that are measured: sealed nodes in this process.

use std::time::Duration;

use anyhow::{Context, bail};
use lockmesh::Mesh;

const READY_AT_MOST: Duration = Duration::from_secs(10);
const TRY_AT_MOST: Duration = Duration::from_secs(5);

/// Starts nodes that all vote for every key, sealed with a fresh key.
pub(crate) async fn start(nodes: usize) -> anyhow::Result<Vec<Mesh>> {
    let key = crate::keygen::fresh()?;
    let mut meshes: Vec<Mesh> = Vec::new();
    for n in 0..nodes {
        let mesh = Mesh::builder(format!("n{n}"))
            .voters((0..nodes).map(|n| format!("n{n}")))
            .voters_per_key(nodes)
            .seeds(meshes.iter().map(|mesh| mesh.local_addr().to_string()))
            .key(key.clone())
            .cluster("bench")
            .new_cluster(true)
            .try_at_most(TRY_AT_MOST)
            .start()
            .await?;
        meshes.push(mesh);
    }
    tokio::time::timeout(READY_AT_MOST, all_ready(&meshes))
        .await
        .context("the nodes did not find each other")?;
    Ok(meshes)
}

async fn all_ready(meshes: &[Mesh]) {
    let is_ready = |mesh: &Mesh| {
        let status = mesh.status();
        status.is_ready && status.members.iter().all(|member| member.is_reachable)
    };
    while !meshes.iter().all(is_ready) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// One acquisition of a free key; answers how long it took. The release is sent and not timed.
pub(crate) async fn acquire(mesh: &Mesh, key: String) -> anyhow::Result<Duration> {
    let request = mesh.lock(key);
    let began = std::time::Instant::now();
    let guard = request.try_acquire().await?;
    let took = began.elapsed();
    match guard {
        Some(guard) => guard.release().await?,
        None => bail!("a key that nobody holds was denied"),
    }
    Ok(took)
}

/// One cycle: acquire and release.
pub(crate) async fn cycle(mesh: &Mesh, key: &str) -> anyhow::Result<()> {
    mesh.lock(key).acquire().await?.release().await?;
    Ok(())
}
