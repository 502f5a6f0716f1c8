//! Guards, from the request to the end of the lease.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lockmesh::{ExtendError, LeaseLost, ReleaseError};

use crate::common::{Cluster, until, within};

const TTL: Duration = Duration::from_secs(10);

#[tokio::test]
async fn next_holder_has_a_higher_epoch() {
    let cluster = Cluster::start(3, TTL).await;
    let [a, b, _] = &cluster.nodes[..] else {
        unreachable!()
    };
    let first = a.lock("k").acquire().await.unwrap();
    assert!(first.is_held());
    assert!(b.lock("k").try_acquire().await.unwrap().is_none());
    let waiting = tokio::spawn(b.lock("k").acquire());
    let epoch = first.epoch();
    first.release().await.unwrap();
    let second = within("the next", waiting).await.unwrap().unwrap();
    assert!(second.epoch() > epoch);
}

#[tokio::test]
async fn guard_returns_key_epoch_and_remaining_time() {
    let cluster = Cluster::start(3, TTL).await;
    let ttl = Duration::from_secs(8);
    let request = cluster.nodes[0].lock("invoice/42").ttl(ttl);
    let guard = request.auto_renew(false).acquire().await.unwrap();
    assert_eq!(guard.key(), "invoice/42");
    assert!(guard.epoch().get() > 0);
    assert!(guard.is_held());
    let remaining = guard.remaining();
    assert!(
        remaining > Duration::ZERO && remaining <= ttl,
        "{remaining:?}"
    );
    assert!(guard.remaining() <= remaining);
    guard.release().await.unwrap();
}

#[tokio::test]
async fn unrenewed_lease_ends_after_its_ttl() {
    let cluster = Cluster::start(3, TTL).await;
    let ttl = Duration::from_millis(500);
    let asked_at = std::time::Instant::now();
    let request = cluster.nodes[0].lock("k").ttl(ttl).auto_renew(false);
    let guard = request.acquire().await.unwrap();
    let granted_at = std::time::Instant::now();
    within("the end of the lease", guard.lost()).await;
    // A lease is shorter than its TTL by the allowance for clock drift.
    assert!(
        asked_at.elapsed() >= ttl * 9 / 10,
        "{:?}",
        granted_at.elapsed()
    );
    assert!(!guard.is_held());
    assert_eq!(guard.remaining(), Duration::ZERO);
    assert_eq!(guard.extend(ttl).await, Err(ExtendError::NotHeld));
    let next = within("the next", cluster.nodes[1].lock("k").acquire()).await;
    assert!(next.unwrap().epoch() > guard.epoch());
    assert_eq!(guard.release().await, Err(ReleaseError));
}

/// Depends on real time: it fails if the machine pauses it for 2.5 s.
#[tokio::test]
async fn renewed_lease_outlives_ttl_and_keeps_its_epoch() {
    let cluster = Cluster::start(3, TTL).await;
    let ttl = Duration::from_secs(4);
    let guard = cluster.nodes[0].lock("k").ttl(ttl).acquire().await.unwrap();
    let epoch = guard.epoch();
    let began = std::time::Instant::now();
    until("three ttls", || {
        assert!(guard.is_held(), "lost after {:?}", began.elapsed());
        began.elapsed() > ttl * 3
    })
    .await;
    assert_eq!(guard.epoch(), epoch);
    assert!(guard.remaining() <= ttl);
    let other = cluster.nodes[1].lock("k").try_acquire().await.unwrap();
    assert!(other.is_none());
    guard.release().await.unwrap();
}

#[tokio::test]
async fn reserved_lease_is_confirmed_for_its_ttl() {
    let cluster = Cluster::start(3, Duration::from_secs(600)).await;
    let ttl = Duration::from_secs(500);
    let mut guard = cluster.nodes[0].lock("k").ttl(ttl).acquire().await.unwrap();
    for (n, renews) in [(1, true), (2, false)] {
        let request = cluster.nodes[n].lock("k").ttl(ttl).auto_renew(renews);
        let waiting = tokio::spawn(request.acquire());
        waits_for(&cluster, "k", 1).await;
        drop(guard);
        guard = within("the next", waiting).await.unwrap().unwrap();
        until("it is more than a reservation", || {
            guard.remaining() > ttl / 2
        })
        .await;
        assert!(guard.remaining() <= ttl);
    }
}

#[tokio::test]
async fn dropped_guard_grants_lock_to_next_waiter() {
    let cluster = Cluster::start(3, Duration::from_secs(600)).await;
    let ttl = Duration::from_secs(500);
    let guard = cluster.nodes[0].lock("k").ttl(ttl).acquire().await.unwrap();
    let waiting = tokio::spawn(cluster.nodes[1].lock("k").acquire());
    waits_for(&cluster, "k", 1).await;
    // The lease lasts 500 s more, so only the release can free the lock.
    drop(guard);
    drop(within("the next", waiting).await.unwrap().unwrap());
}

#[tokio::test]
async fn guard_dropped_outside_a_runtime_releases_lock() {
    let cluster = Cluster::start(3, Duration::from_secs(600)).await;
    let ttl = Duration::from_secs(500);
    let guard = cluster.nodes[0].lock("k").ttl(ttl).acquire().await.unwrap();
    std::thread::spawn(move || {
        assert!(guard.is_held());
        drop(guard);
    })
    .join()
    .unwrap();
    let next = within("the next", cluster.nodes[1].lock("k").acquire()).await;
    drop(next.unwrap());
}

#[test]
fn guard_outlives_runtime_of_its_mesh() {
    let others = tokio::runtime::Runtime::new().unwrap();
    let mut cluster = others.block_on(Cluster::start(3, Duration::from_secs(600)));
    // A node outside the voter set, on a runtime of its own.
    let (mesh, guard) = {
        let own = tokio::runtime::Runtime::new().unwrap();
        own.block_on(async {
            let mesh = cluster.client("client").await;
            let ttl = Duration::from_secs(500);
            let guard = mesh.lock("k").ttl(ttl).acquire().await.unwrap();
            (mesh, guard)
        })
    };
    assert!(guard.is_held());
    assert!(guard.remaining() > Duration::ZERO);
    assert_eq!(mesh.status().held, 1);
    drop(mesh);
    drop(guard);
    others.block_on(async {
        let next = within("the next", cluster.nodes[1].lock("k").acquire()).await;
        drop(next.unwrap());
        cluster.nodes.clear();
    });
}

/// Depends on real time: it fails if the machine pauses it for 2.5 s.
#[tokio::test]
async fn guard_keeps_its_mesh_running() {
    let cluster = Cluster::start(3, TTL).await;
    let client = cluster.client("client").await;
    let ttl = Duration::from_secs(4);
    let guard = client.lock("k").ttl(ttl).acquire().await.unwrap();
    drop(client);
    let began = std::time::Instant::now();
    until("two ttls", || {
        assert!(guard.is_held(), "lost after {:?}", began.elapsed());
        began.elapsed() > ttl * 2
    })
    .await;
    drop(guard);
    let next = within("the next", cluster.nodes[1].lock("k").acquire()).await;
    drop(next.unwrap());
}

#[tokio::test]
async fn extend_adds_to_the_remaining_lease() {
    let cluster = Cluster::start(3, Duration::from_secs(60)).await;
    for renews in [true, false] {
        let request = cluster.nodes[0].lock(format!("k/{renews}"));
        let request = request.ttl(Duration::from_secs(20)).auto_renew(renews);
        let guard = request.acquire().await.unwrap();
        let before = guard.remaining();
        guard.extend(Duration::from_secs(30)).await.unwrap();
        let after = guard.remaining();
        // The allowance for clock drift and the duration of the call are subtracted.
        assert!(after > before + Duration::from_secs(20), "{after:?}");
        assert!(after <= before + Duration::from_secs(30), "{after:?}");
        let error = guard.extend(Duration::from_secs(30)).await.unwrap_err();
        let ExtendError::TooLong { max, extra, .. } = error else {
            panic!("{error}")
        };
        assert_eq!(max, Duration::from_secs(60));
        assert_eq!(extra, Duration::from_secs(30));
        assert!(error.to_string().contains("max_ttl, 60s"), "{error}");
        assert!(guard.is_held());
    }
}

#[tokio::test]
async fn extend_without_quorum_fails_and_keeps_lease() {
    let cluster = Cluster::start(3, Duration::from_secs(60)).await;
    let asks = cluster
        .named("asks")
        .try_timeout(Duration::from_millis(300));
    let asks = asks.start().await.unwrap();
    let ttl = Duration::from_secs(30);
    let guard = asks.lock("k").ttl(ttl).acquire().await.unwrap();
    let ids: Vec<_> = cluster
        .nodes
        .iter()
        .map(lockmesh::Mesh::id)
        .cloned()
        .collect();
    cluster.links.partition(&[asks.id()], &ids);
    let error = guard.extend(Duration::from_secs(25)).await.unwrap_err();
    let waited = Duration::from_millis(300);
    assert_eq!(error, ExtendError::NoQuorum { waited });
    assert!(guard.is_held());
}

#[tokio::test]
async fn run_returns_output_of_its_future() {
    let cluster = Cluster::start(3, TTL).await;
    let guard = cluster.nodes[0].lock("k").acquire().await.unwrap();
    assert_eq!(guard.run(async { 42 }).await, Ok(42));
    assert!(guard.is_held());
}

#[tokio::test]
async fn run_drops_its_future_when_lease_is_lost() {
    struct Dropped(Arc<AtomicBool>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let cluster = Cluster::start(3, TTL).await;
    let request = cluster.nodes[0].lock("k").ttl(Duration::from_millis(300));
    let guard = request.auto_renew(false).acquire().await.unwrap();
    let stopped = Arc::new(AtomicBool::new(false));
    let dropped = Dropped(stopped.clone());
    let work = async move {
        let _dropped = dropped;
        std::future::pending::<()>().await;
    };
    assert_eq!(within("the end", guard.run(work)).await, Err(LeaseLost));
    assert!(stopped.load(Ordering::SeqCst));
    // After the end of the lease even a future that is ready at once returns an error.
    assert_eq!(guard.run(async {}).await, Err(LeaseLost));
}

/// M3.
#[tokio::test]
async fn cut_off_guard_ends_before_next_grant() {
    let cluster = Cluster::start(3, Duration::from_secs(2)).await;
    let ids: Vec<_> = cluster
        .nodes
        .iter()
        .map(lockmesh::Mesh::id)
        .cloned()
        .collect();
    let guard = cluster.nodes[2].lock("k").acquire().await.unwrap();
    let waiting = tokio::spawn(cluster.nodes[0].lock("k").acquire());
    waits_for(&cluster, "k", 1).await;
    cluster.links.partition(&ids[2..], &ids[..2]);
    let next = within("the next", waiting).await.unwrap().unwrap();
    assert!(!guard.is_held());
    assert!(next.is_held());
    within("lost() of a guard that is lost", guard.lost()).await;
}

#[tokio::test]
async fn dropped_acquire_withdraws_its_claim() {
    let cluster = Cluster::start(3, Duration::from_secs(600)).await;
    let [a, b, c] = &cluster.nodes[..] else {
        unreachable!()
    };
    let ttl = Duration::from_secs(500);
    let guard = a.lock("k").ttl(ttl).acquire().await.unwrap();
    let first = tokio::spawn(b.lock("k").ttl(ttl).acquire());
    waits_for(&cluster, "k", 1).await;
    let second = tokio::spawn(c.lock("k").ttl(ttl).acquire());
    waits_for(&cluster, "k", 2).await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    waits_for(&cluster, "k", 1).await;
    assert_eq!(b.status().waiting, 0);
    guard.release().await.unwrap();
    drop(within("the second", second).await.unwrap().unwrap());
}

#[tokio::test]
async fn timed_out_acquire_withdraws_its_claim() {
    let cluster = Cluster::start(3, Duration::from_secs(600)).await;
    let [a, b, c] = &cluster.nodes[..] else {
        unreachable!()
    };
    let guard = a.lock("k").ttl(Duration::from_secs(500)).acquire().await;
    let guard = guard.unwrap();
    let waited = Duration::from_secs(1);
    let error = b.lock("k").acquire_timeout(waited).acquire().await;
    let text = error.unwrap_err().to_string();
    assert!(text.contains("timed out after 1s"), "{text}");
    assert!(
        text.contains("0 of 3 votes (3 with another claim ahead)"),
        "{text}"
    );
    waits_for(&cluster, "k", 0).await;
    let second = tokio::spawn(c.lock("k").acquire());
    waits_for(&cluster, "k", 1).await;
    guard.release().await.unwrap();
    drop(within("the second", second).await.unwrap().unwrap());
}

/// Waits until `count` claims wait for `key`, and every voter has a waiter if `count` > 0.
pub(crate) async fn waits_for(cluster: &Cluster, key: &str, count: usize) {
    let look = async {
        loop {
            let seen = cluster.nodes[0].inspect(key).await.unwrap();
            let everywhere = cluster.nodes.iter();
            let waiting = everywhere.map(|node| node.status().voter_waiters).min();
            if seen.waiters.len() == count && waiting >= Some(count.min(1)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    };
    within("the waiters", look).await;
}

#[tokio::test]
async fn detached_lock_is_kept_until_its_lease_ends() {
    let cluster = Cluster::start(3, Duration::from_secs(2)).await;
    let guard = cluster.nodes[0].lock("k").acquire().await.unwrap();
    let (epoch, remaining) = (guard.epoch(), guard.remaining());
    let began = std::time::Instant::now();
    guard.detach();
    let next = within("the next", cluster.nodes[1].lock("k").acquire()).await;
    assert!(next.unwrap().epoch() > epoch);
    // The allowance for clock drift shortens the lease.
    assert!(began.elapsed() >= remaining * 9 / 10);
}

#[tokio::test]
async fn detached_lock_is_renewed_for_its_span() {
    let cluster = Cluster::start(3, Duration::from_secs(2)).await;
    let (began, span) = (std::time::Instant::now(), Duration::from_secs(4));
    let guard = cluster.nodes[0].lock("k").acquire().await.unwrap();
    guard.detach_for(span);
    let next = within("the next", cluster.nodes[1].lock("k").acquire()).await;
    drop(next.unwrap());
    assert!(began.elapsed() >= span);
}
