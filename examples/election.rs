//! Of three nodes one is the scheduler. A fourth only watches. `cargo run --example election`

use std::error::Error;
use std::time::Duration;

use lockmesh::{Leader, Mesh};
use lockmesh_harness::LocalMesh;

/// Campaigns, leads for a while, and gives another node its turn.
async fn candidate(mesh: Mesh) -> Result<(), Box<dyn Error + Send + Sync>> {
    let leadership = mesh.election("scheduler").campaign().await?;
    println!("{} leads at epoch {}", mesh.id(), leadership.epoch());
    // The work stops if the lease is lost. Each write passes the epoch.
    leadership
        .run(tokio::time::sleep(Duration::from_secs(1)))
        .await?;
    leadership.resign().await?;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    // Three voters and a client in this process. In production each is in a process of its own.
    let cluster = LocalMesh::builder().nodes(4).voters(3).start().await?;
    let mut leader = cluster.node(3).election("scheduler").watch()?;
    let candidates = (0..3).map(|n| tokio::spawn(candidate(cluster.node(n))));
    let candidates: Vec<_> = candidates.collect();
    let mut seen = Vec::new();
    while seen.len() < 3 {
        leader.changed().await?;
        let leader = leader.borrow_and_update().clone();
        println!("n3 sees the leader: {leader}");
        if let Leader::Known { node, .. } = leader {
            seen.push(node);
        }
    }
    for candidate in candidates {
        candidate.await??;
    }
    leader.wait_for(|leader| *leader == Leader::None).await?;
    Ok(())
}
