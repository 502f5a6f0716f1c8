//! Two nodes in two terminals, which hold the lock in turn for one second.
//!
//! ```sh
//! cargo run --example two_nodes -- a
//! cargo run --example two_nodes -- b
//! ```
//!
//! Both nodes vote, and a quorum of two voters is two: if you stop one with Ctrl-C, the other waits
//! until it is back. A production cluster has three or more voters.

use std::time::Duration;

use lockmesh::{AcquireError, ClusterSecret, Mesh};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (name, port, peer) = match std::env::args().nth(1).as_deref() {
        Some("a") => ("a", 7411, 7412),
        Some("b") => ("b", 7412, 7411),
        _ => return Err("give the name of the node: a or b".into()),
    };
    let mesh = Mesh::builder(name)
        .listen(format!("127.0.0.1:{port}"))
        .seeds([format!("127.0.0.1:{peer}")])
        .voters(["a", "b"])
        .secret(ClusterSecret::from_bytes(
            *b"an example's key: make your own!",
        )?)
        .bootstrap()
        .start()
        .await?;
    println!("{name} listens on {}", mesh.local_addr());
    let turns = async {
        loop {
            match mesh.lock("turn").acquire().await {
                Ok(guard) => {
                    println!("{name} holds the lock at epoch {}", guard.epoch());
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                Err(error @ AcquireError::TimedOut { .. }) => println!("{name} waits: {error}"),
                Err(error) => return Err(error),
            }
        }
    };
    tokio::select! {
        ended = turns => ended?,
        stopped = tokio::signal::ctrl_c() => stopped?,
    }
    mesh.shutdown().await;
    Ok(())
}
