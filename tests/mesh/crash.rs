//! A node whose process ends without a word.

use std::time::Duration;

use crate::common::{Cluster, within};

#[tokio::test]
async fn l3_a_crashed_holder_tells_nobody_and_delays_the_next_by_its_lease() {
    let mut cluster = Cluster::start(3, Duration::from_secs(2)).await;
    let a = cluster.nodes.remove(0);
    let addr = a.local_addr();
    let frozen = a.lock("k").acquire().await.unwrap();
    let waiting = tokio::spawn(cluster.nodes[0].lock("k").acquire());
    let same = a.clone();
    a.crash().await;
    assert!(same.lock("k").try_acquire().await.is_err());
    // A guard that goes after the crash is silent too.
    drop(same);
    std::net::UdpSocket::bind(addr).unwrap();
    let next = within("the next", waiting).await.unwrap().unwrap();
    assert!(next.is_held());
    assert!(!frozen.is_held());
    assert!(next.epoch() > frozen.epoch());
}
