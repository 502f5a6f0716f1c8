//! One node, one lock. `cargo run --example hello`

use lockmesh::MeshBuilder;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // A cluster of one node, for development.
    let mesh = MeshBuilder::single("dev")
        .insecure_plaintext()
        .start()
        .await?;
    let guard = mesh.lock("greeting").acquire().await?;
    println!(
        "hello: lock {} is held at epoch {}",
        guard.key(),
        guard.epoch()
    );
    guard.release().await?;
    mesh.shutdown().await;
    Ok(())
}
