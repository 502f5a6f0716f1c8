//! A node whose process ends without a message.

use std::time::Duration;

use crate::common::{Cluster, within};

/// L3.
#[tokio::test]
async fn crashed_holder_delays_next_grant_by_its_lease() {
    let mut cluster = Cluster::start(3, Duration::from_secs(2)).await;
    let a = cluster.nodes.remove(0);
    let addr = a.local_addr();
    let frozen = a.lock("k").acquire().await.unwrap();
    let waiting = tokio::spawn(cluster.nodes[0].lock("k").acquire());
    let same = a.clone();
    a.abort();
    assert!(same.lock("k").try_acquire().await.is_err());
    // A handle that is dropped after the crash sends nothing either.
    drop(same);
    std::net::UdpSocket::bind(addr).unwrap();
    let next = within("the next", waiting).await.unwrap().unwrap();
    assert!(next.is_held());
    assert!(!frozen.is_held());
    assert!(next.epoch() > frozen.epoch());
}
