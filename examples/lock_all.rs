//! Two nodes move money between the same two accounts, and name them in opposite orders.
//! `cargo run --example lock_all`

use lockmesh::{Epoch, Guard, Mesh};
use lockmesh_harness::LocalMesh;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Three nodes in this process. In production each is in a process of its own.
    let cluster = LocalMesh::start(3).await?;
    let (a, b) = (cluster.node(0), cluster.node(1));
    // With two separate locks each, they could wait for each other forever.
    let (one, other) = tokio::join!(
        transfers(&a, ["alice", "bob"]),
        transfers(&b, ["bob", "alice"])
    );
    one?;
    other
}

async fn transfers(mesh: &Mesh, [from, to]: [&str; 2]) -> Result<(), Box<dyn std::error::Error>> {
    for amount in 1..=3 {
        let accounts = mesh.lock_all([from, to]).acquire().await?;
        // Each account has an epoch of its own, which fences the writes to it.
        let fences: Vec<_> = accounts.guards().iter().map(Guard::epoch).collect();
        accounts
            .run(move_money(mesh.id().as_str(), amount, &fences))
            .await?;
        accounts.release().await?;
    }
    Ok(())
}

async fn move_money(node: &str, amount: u32, fences: &[Epoch]) {
    println!(
        "{node} moves {amount}, fenced by {} and {}",
        fences[0], fences[1]
    );
}
