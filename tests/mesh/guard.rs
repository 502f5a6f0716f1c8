//! Guards: from a request to the end.

use std::time::Duration;

use crate::common::{Cluster, PATIENCE};

#[tokio::test]
async fn a_lock_is_held_by_one_node_and_then_by_the_next_with_a_higher_epoch() {
    let cluster = Cluster::start(3, Duration::from_secs(10)).await;
    let [a, b, _] = &cluster.nodes[..] else {
        unreachable!()
    };
    let first = a.lock("k").acquire().await.unwrap();
    assert!(first.is_held());
    assert!(b.lock("k").try_acquire().await.unwrap().is_none());
    let waiting = tokio::spawn(b.lock("k").acquire());
    let epoch = first.epoch();
    first.release().await.unwrap();
    let second = tokio::time::timeout(PATIENCE, waiting)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert!(second.epoch() > epoch);
}
