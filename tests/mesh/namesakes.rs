//! Two nodes with the same name.

use std::time::Duration;

use crate::common::{beside, until, voters, within};

/// A node holds a lock when a second one of its name starts. Both stop until one shuts down.
#[tokio::test]
async fn two_nodes_of_one_name_hold_nothing() {
    let cluster = voters(3, Duration::from_secs(2)).await;
    let first = cluster.node(2);
    let guard = first.lock("k").acquire().await.unwrap();
    let twin = beside(&cluster, "n2").start().await.unwrap();
    let asks = tokio::spawn(twin.lock("k").acquire());
    until("both stop", || {
        !guard.is_held() && !first.status().is_ready && !twin.status().is_ready
    })
    .await;
    let other = cluster.node(0).lock("l").acquire();
    let other = within("two of three vote", other).await.unwrap();
    assert!(other.is_held() && !asks.is_finished());
    drop(guard);
    cluster.shutdown(2).await;
    until("it goes on", || twin.status().is_ready).await;
    let guard = within("its lock", asks).await.unwrap().unwrap();
    assert!(guard.is_held());
}
