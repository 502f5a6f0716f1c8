//! Two nodes with the same name.

use std::time::Duration;

use crate::common::{Cluster, until, within};

/// A node holds a lock when a second one of its name starts. Both stop until one shuts down.
#[tokio::test]
async fn two_nodes_of_one_name_hold_nothing() {
    let mut cluster = Cluster::start(3, Duration::from_secs(2)).await;
    let guard = cluster.nodes[2].lock("k").acquire().await.unwrap();
    let twin = cluster.builder(2).start().await.unwrap();
    let asks = tokio::spawn(twin.lock("k").acquire());
    until("both stop", || {
        let first = &cluster.nodes[2];
        !guard.is_held() && !first.status().is_ready && !twin.status().is_ready
    })
    .await;
    let other = cluster.nodes[0].lock("l").acquire();
    let other = within("two of three vote", other).await.unwrap();
    assert!(other.is_held() && !asks.is_finished());
    drop(guard);
    cluster.nodes.remove(2).shutdown().await;
    until("it goes on", || twin.status().is_ready).await;
    let guard = within("its lock", asks).await.unwrap().unwrap();
    assert!(guard.is_held());
}
