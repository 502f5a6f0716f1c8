//! A guard granted after a wait has about its whole TTL left when it is returned.

use std::time::Duration;

use lockmesh::{AcquireError, Guard, LockRequest, Mesh};
use lockmesh_harness::Fault;
use tokio::task::JoinHandle;

use crate::common::{Cluster, until, within};

const MAX_TTL: Duration = Duration::from_secs(60);
const TTL: Duration = Duration::from_secs(50);
/// The time for which a voter first reserves its vote for the next waiter.
const RESERVATION: Duration = Duration::from_secs(1);

/// Cuts all links from `mesh` to the voters.
fn mute(cluster: &Cluster, mesh: &Mesh) {
    for node in &cluster.nodes {
        let cut = Fault {
            cut: true,
            ..Fault::default()
        };
        cluster
            .links
            .one_way(mesh.id().as_str(), node.id().as_str(), cut);
    }
}

#[tokio::test]
async fn awaited_guard_lasts_its_ttl() {
    let cluster = Cluster::start(3, MAX_TTL).await;
    let client = cluster.client("client").await;
    let guard = cluster.nodes[0].lock("k").ttl(TTL).acquire().await.unwrap();
    let waits = tokio::spawn(client.lock("k").ttl(TTL).acquire());
    until("it waits", || cluster.nodes[0].status().voter_waiters == 1).await;
    guard.release().await.unwrap();
    let next = within("its turn", waits).await.unwrap().unwrap();
    assert!(next.remaining() > TTL / 2, "{:?}", next.remaining());
}

/// Returns a request of a muted client that waited and was granted its key for a reservation.
///
/// On a busy machine the reservation may expire before the grant; then it tries another key.
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
async fn eager_guard_is_returned_before_confirmation() {
    let cluster = Cluster::start(3, MAX_TTL).await;
    let client = cluster.client("client").await;
    let waits = offered(&cluster, &client, LockRequest::eager).await;
    let next = within("its turn", waits).await.unwrap().unwrap();
    assert!(next.remaining() <= RESERVATION, "{:?}", next.remaining());
    within("the end of the reservation", next.lost()).await;
}

#[tokio::test]
async fn acquire_waits_again_after_its_reservation_expires() {
    let cluster = Cluster::start(3, MAX_TTL).await;
    let client = cluster.client("client").await;
    let waits = offered(&cluster, &client, |request| request).await;
    until("that is over", || client.status().held == 0).await;
    assert!(!waits.is_finished());
    cluster.links.heal();
    let next = within("another turn", waits).await.unwrap().unwrap();
    assert!(next.remaining() > TTL / 2, "{:?}", next.remaining());
}

/// The voters only reserve their votes: without a message of the client none confirms the lease.
#[tokio::test]
async fn unconfirmed_lease_is_an_error() {
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
async fn acquire_dropped_before_confirmation_leaves_no_lock() {
    let cluster = Cluster::start(3, MAX_TTL).await;
    let client = cluster.client("client").await;
    let waits = offered(&cluster, &client, |request| request).await;
    waits.abort();
    assert!(waits.await.unwrap_err().is_cancelled());
    assert_eq!(client.status().held, 0);
    assert_eq!(client.status().waiting, 0);
}
