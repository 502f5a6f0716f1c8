//! A guard granted after a wait has about its whole TTL left when it is returned.

use std::time::Duration;

use lockmesh::{AcquireError, Guard, LockRequest};
use lockmesh_harness::LocalMesh;
use tokio::task::JoinHandle;

use crate::common::{three_and_client, until, within};

const MAX_TTL: Duration = Duration::from_secs(60);
const TTL: Duration = Duration::from_secs(50);
/// The time for which a voter first reserves its vote for the next waiter.
const RESERVATION: Duration = Duration::from_secs(1);

#[tokio::test]
async fn awaited_guard_lasts_its_ttl() {
    let cluster = three_and_client(MAX_TTL).await;
    let mut guard = cluster.node(0).lock("k").ttl(TTL).acquire().await.unwrap();
    for renews in [true, false] {
        let request = cluster.node(3).lock("k").ttl(TTL).auto_renew(renews);
        let waits = tokio::spawn(request.acquire());
        until("it waits", || cluster.node(0).status().voter_waiters == 1).await;
        guard.release().await.unwrap();
        guard = within("its turn", waits).await.unwrap().unwrap();
        let remaining = guard.remaining();
        assert!(remaining > TTL / 2 && remaining <= TTL, "{remaining:?}");
    }
}

/// Returns a request of a muted client that waited and was granted its key for a reservation.
///
/// On a busy machine the reservation may expire before the grant; then it tries another key.
async fn offered(
    cluster: &LocalMesh,
    ask: impl Fn(LockRequest) -> LockRequest,
) -> JoinHandle<Result<Guard, AcquireError>> {
    let client = cluster.node(3);
    for n in 0.. {
        let key = format!("k{n}");
        let request = cluster.node(0).lock(&key).ttl(TTL);
        let guard = request.acquire().await.unwrap();
        let waits = tokio::spawn(ask(client.lock(&key).ttl(TTL)).acquire());
        until("it waits", || cluster.node(0).status().voter_waiters == 1).await;
        for voter in 0..3 {
            cluster.cut_one_way(3, voter);
        }
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
        cluster.heal();
        until("nobody waits", || {
            cluster.node(0).status().voter_waiters == 0
        })
        .await;
    }
    unreachable!()
}

#[tokio::test]
async fn eager_guard_is_returned_before_confirmation() {
    let cluster = three_and_client(MAX_TTL).await;
    let waits = offered(&cluster, LockRequest::eager).await;
    let next = within("its turn", waits).await.unwrap().unwrap();
    assert!(next.remaining() <= RESERVATION, "{:?}", next.remaining());
    within("the end of the reservation", next.lost()).await;
}

#[tokio::test]
async fn acquire_waits_again_after_its_reservation_expires() {
    let cluster = three_and_client(MAX_TTL).await;
    let client = cluster.node(3);
    let waits = offered(&cluster, |request| request).await;
    until("that is over", || client.status().held == 0).await;
    assert!(!waits.is_finished());
    cluster.heal();
    let next = within("another turn", waits).await.unwrap().unwrap();
    assert!(next.remaining() > TTL / 2, "{:?}", next.remaining());
}

/// The voters only reserve their votes: without a message of the client none confirms the lease.
#[tokio::test]
async fn unconfirmed_lease_is_an_error() {
    let cluster = three_and_client(MAX_TTL).await;
    let client = cluster.node(3);
    let waits = offered(&cluster, |it| it.acquire_timeout(RESERVATION * 6)).await;
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
    let cluster = three_and_client(MAX_TTL).await;
    let client = cluster.node(3);
    let waits = offered(&cluster, |request| request).await;
    waits.abort();
    assert!(waits.await.unwrap_err().is_cancelled());
    assert_eq!(client.status().held, 0);
    assert_eq!(client.status().waiting, 0);
}
