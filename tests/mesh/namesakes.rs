//! Two meshes of one name.

use std::time::Duration;

use crate::common::{Cluster, until, within};

/// One holds, another one of its name starts and asks: both stop, and the one that is left goes on.
#[tokio::test]
async fn two_meshes_of_one_name_hold_nothing_until_one_is_gone() {
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
