//! A guard that was waited for is good for about its ttl when it is returned.

use std::time::Duration;

use lockmesh::harness::Fault;
use lockmesh::{AcquireError, Guard, LockRequest, Mesh};
use tokio::task::JoinHandle;

use crate::common::{Cluster, until, within};

const MAX_TTL: Duration = Duration::from_secs(60);
const TTL: Duration = Duration::from_secs(50);
/// A voter gives its vote to the next in line for so long at first.
const RESERVATION: Duration = Duration::from_secs(1);

/// Nothing that `mesh` says reaches the voters.
fn mute(cluster: &Cluster, mesh: &Mesh) {
    for node in &cluster.nodes {
        let cut = Fault {
            cut: true,
            ..Fault::default()
        };
        cluster
            .links
            .one_way(mesh.local_addr(), node.local_addr(), cut);
    }
}

#[tokio::test]
async fn guard_that_was_waited_for_lasts_its_ttl() {
    let cluster = Cluster::start(3, MAX_TTL).await;
    let client = cluster.client("client").await;
    let guard = cluster.nodes[0].lock("k").ttl(TTL).acquire().await.unwrap();
    let waits = tokio::spawn(client.lock("k").ttl(TTL).acquire());
    until("it waits", || cluster.nodes[0].status().voter_waiters == 1).await;
    guard.release().await.unwrap();
    let next = within("its turn", waits).await.unwrap().unwrap();
    assert!(next.remaining() > TTL / 2, "{:?}", next.remaining());
}

/// Somebody who waited for a key and is granted it for the span of a reservation, while nothing
/// that it says is heard. A busy machine may let the reservation run out before: then another key
/// is asked for.
async fn offered(
    cluster: &Cluster,
    client: &Mesh,
    ask: impl Fn(LockRequest) -> LockRequest,
) -> JoinHandle<Result<Guard, AcquireError>> {
    for n in 0.. {
        let key = format!("k{n}");
        let guard = cluster.nodes[0]
            .lock(&key)
            .ttl(TTL)
            .acquire()
            .await
            .unwrap();
        let waits = tokio::spawn(ask(client.lock(&key).ttl(TTL)).acquire());
        until("it waits", || cluster.nodes[0].status().voter_waiters == 1).await;
        mute(cluster, client);
        guard.release().await.unwrap();
        let granted = async {
            while client.status().held == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        if tokio::time::timeout(RESERVATION * 3, granted).await.is_ok() {
            return waits;
        }
        waits.abort();
        cluster.links.heal();
        until("nobody waits", || {
            cluster.nodes[0].status().voter_waiters == 0
        })
        .await;
    }
    unreachable!()
}

#[tokio::test]
async fn eager_guard_is_returned_before_its_lease_is_confirmed() {
    let cluster = Cluster::start(3, MAX_TTL).await;
    let client = cluster.client("client").await;
    let waits = offered(&cluster, &client, LockRequest::eager).await;
    let next = within("its turn", waits).await.unwrap().unwrap();
    assert!(next.remaining() <= RESERVATION, "{:?}", next.remaining());
    within("the end of the reservation", next.lost()).await;
}

#[tokio::test]
async fn acquire_waits_again_if_its_reservation_runs_out() {
    let cluster = Cluster::start(3, MAX_TTL).await;
    let client = cluster.client("client").await;
    let waits = offered(&cluster, &client, |request| request).await;
    until("that is over", || client.status().held == 0).await;
    assert!(!waits.is_finished());
    cluster.links.heal();
    let next = within("another turn", waits).await.unwrap().unwrap();
    assert!(next.remaining() > TTL / 2, "{:?}", next.remaining());
}

/// The votes were given for the next in line; no quorum confirms more while nothing reaches it.
#[tokio::test]
async fn lease_that_is_not_confirmed_in_time_is_an_error() {
    let cluster = Cluster::start(3, MAX_TTL).await;
    let client = cluster.client("client").await;
    let waits = offered(&cluster, &client, |it| it.acquire_timeout(RESERVATION * 6)).await;
    let error = within("its end", waits).await.unwrap().unwrap_err();
    let is_expected = matches!(
        error,
        AcquireError::TimedOut { .. } | AcquireError::Unconfirmed { .. }
    );
    assert!(is_expected, "{error}");
    assert_eq!(client.status().held, 0);
    assert_eq!(client.status().waiting, 0);
}

#[tokio::test]
async fn future_dropped_before_its_lease_is_whole_leaves_no_lock() {
    let cluster = Cluster::start(3, MAX_TTL).await;
    let client = cluster.client("client").await;
    let waits = offered(&cluster, &client, |request| request).await;
    waits.abort();
    assert!(waits.await.unwrap_err().is_cancelled());
    assert_eq!(client.status().held, 0);
    assert_eq!(client.status().waiting, 0);
}
