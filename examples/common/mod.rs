//! Three nodes of a service in one process. In your service each process starts one node, with a
//! fixed address to listen on and the addresses of the others as seeds.

use std::time::Duration;

use lockmesh::{ClusterSecret, Mesh};

/// Starts `a`, `b` and `c`, and waits until they have found each other.
pub(crate) async fn three_nodes() -> Result<[Mesh; 3], Box<dyn std::error::Error>> {
    let key = ClusterSecret::from_bytes(*b"an example's key: make your own!")?;
    let start = |id: &str, seeds: Vec<String>| {
        Mesh::builder(id)
            .listen("127.0.0.1:0")
            .voters(["a", "b", "c"])
            .seeds(seeds)
            .secret(key.clone())
            .bootstrap()
            .start()
    };
    let a = start("a", vec![]).await?;
    let seed = a.local_addr().to_string();
    let b = start("b", vec![seed.clone()]).await?;
    let c = start("c", vec![seed]).await?;
    for mesh in [&a, &b, &c] {
        mesh.ready(Duration::from_secs(10)).await?;
    }
    Ok([a, b, c])
}
