//! Guards: what the contract suite does not test.

use std::time::{Duration, Instant};

use lockmesh::ExtendError;

use crate::common::{client, voters, within};

#[test]
fn guard_outlives_runtime_of_its_mesh() {
    let others = tokio::runtime::Runtime::new().unwrap();
    let cluster = others.block_on(voters(3, Duration::from_secs(600)));
    // A node outside the voter set, on a runtime of its own.
    let own = tokio::runtime::Runtime::new().unwrap();
    let (mesh, guard) = own.block_on(async {
        let mesh = client(&cluster, "client").await;
        let request = mesh.lock("k").ttl(Duration::from_secs(500));
        let guard = request.acquire().await.unwrap();
        (mesh, guard)
    });
    drop(own);
    assert!(guard.is_held());
    assert!(guard.remaining() > Duration::ZERO);
    assert_eq!(mesh.status().held, 1);
    drop((mesh, guard));
    others.block_on(async {
        let next = within("the next", cluster.node(1).lock("k").acquire()).await;
        drop(next.unwrap());
        drop(cluster);
    });
}

#[tokio::test]
async fn extend_without_quorum_fails_and_keeps_lease() {
    let cluster = voters(3, Duration::from_secs(60)).await;
    let waited = Duration::from_millis(300);
    let asks = cluster.client("asks").unwrap().try_timeout(waited);
    let asks = asks.start().await.unwrap();
    let request = asks.lock("k").ttl(Duration::from_secs(30));
    let guard = request.acquire().await.unwrap();
    for n in 0..3 {
        cluster.crash(n).await;
    }
    let error = guard.extend(Duration::from_secs(25)).await.unwrap_err();
    assert_eq!(error, ExtendError::NoQuorum { waited });
    assert!(guard.is_held());
}

#[tokio::test]
async fn detached_lock_is_kept_until_its_lease_ends() {
    let cluster = voters(3, Duration::from_secs(2)).await;
    let guard = cluster.node(0).lock("k").acquire().await.unwrap();
    let (epoch, remaining) = (guard.epoch(), guard.remaining());
    let began = Instant::now();
    guard.detach();
    let next = within("the next", cluster.node(1).lock("k").acquire()).await;
    assert!(next.unwrap().epoch() > epoch);
    // The allowance for clock drift shortens the lease.
    assert!(began.elapsed() >= remaining * 9 / 10);
}

#[tokio::test]
async fn detached_lock_is_renewed_for_its_span() {
    let cluster = voters(3, Duration::from_secs(2)).await;
    let (began, span) = (Instant::now(), Duration::from_secs(4));
    let guard = cluster.node(0).lock("k").acquire().await.unwrap();
    guard.detach_for(span);
    let next = within("the next", cluster.node(1).lock("k").acquire()).await;
    drop(next.unwrap());
    assert!(began.elapsed() >= span);
}
