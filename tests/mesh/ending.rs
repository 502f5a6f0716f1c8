//! Shutdown, drop and crash of a node, and what its peers see.

use std::net::UdpSocket;
use std::task::{Context, Waker};
use std::time::Duration;

use lockmesh::{AcquireError, InspectError, MeshBuilder};

use crate::common::{
    beside, client, secret, sees_all, three_and_client, until, voters, waits_for, within,
};

const MAX_TTL: Duration = Duration::from_secs(600);

#[tokio::test]
async fn shutdown_ends_pending_inspection() {
    let cluster = three_and_client(MAX_TTL).await;
    cluster.partition([3], [0, 1, 2]);
    let asks = cluster.node(3);
    let asking = tokio::spawn(async move { asks.inspect("k").await });
    tokio::task::yield_now().await;
    within("the shutdown", cluster.shutdown(3)).await;
    let ended = within("the inspection", asking).await.unwrap();
    assert_eq!(ended.unwrap_err(), InspectError::ShutDown);
}

#[tokio::test]
async fn shutdown_frees_address_despite_live_handle_and_guard() {
    let cluster = voters(3, MAX_TTL).await;
    let mesh = client(&cluster, "client").await;
    let guard = mesh.lock("k").acquire().await.unwrap();
    within("the shutdown", mesh.shutdown()).await;
    let again = beside(&cluster, "client").listen(mesh.local_addr().to_string());
    let again = again.start().await.unwrap();
    assert_eq!(again.local_addr(), mesh.local_addr());
    sees_all(&again).await;
    let next = within("its next incarnation", again.lock("k").acquire()).await;
    assert!(next.unwrap().epoch() > guard.epoch());
}

/// L3.
#[tokio::test]
async fn crash_delays_next_grant_by_the_lease() {
    let cluster = voters(3, Duration::from_secs(30)).await;
    let mesh = client(&cluster, "client").await;
    let request = mesh.lock("k").ttl(Duration::from_secs(2));
    let guard = request.acquire().await.unwrap();
    let waiting = tokio::spawn(cluster.node(0).lock("k").acquire());
    waits_for(&cluster.node(0), "k", 1).await;
    let (addr, same) = (mesh.local_addr(), mesh.clone());
    mesh.abort();
    assert!(same.lock("k").try_acquire().await.is_err());
    // A handle that is dropped after the crash sends nothing either.
    drop(same);
    UdpSocket::bind(addr).unwrap();
    let next = within("the next", waiting).await.unwrap().unwrap();
    assert!(!guard.is_held());
    assert!(next.epoch() > guard.epoch());
}

#[tokio::test]
async fn dropped_shutdown_future_still_shuts_down() {
    let cluster = voters(3, MAX_TTL).await;
    let mesh = client(&cluster, "client").await;
    {
        let shutdown = std::pin::pin!(mesh.shutdown());
        let mut context = Context::from_waker(Waker::noop());
        assert!(shutdown.poll(&mut context).is_pending());
    }
    let is_free = || UdpSocket::bind(mesh.local_addr()).is_ok();
    until("the address is free", is_free).await;
}

#[tokio::test]
async fn dropped_mesh_frees_its_address_at_once() {
    let single = || MeshBuilder::single("a").secret(secret());
    let mesh = single().start().await.unwrap();
    let guard = mesh.lock("k").await.unwrap();
    let addr = mesh.local_addr().to_string();
    drop((mesh, guard));
    single().listen(addr).start().await.unwrap();
}

#[test]
fn requests_end_when_mesh_runtime_is_gone() {
    let runtime = || tokio::runtime::Runtime::new().unwrap();
    let (its_own, other) = (runtime(), runtime());
    let mesh = its_own.block_on(async {
        let alone = MeshBuilder::single("n0").secret(secret());
        alone.voters(["n0", "n1"]).start().await.unwrap()
    });
    let waiting = other.spawn(mesh.lock("k").acquire());
    let inspecting = other.spawn({
        let mesh = mesh.clone();
        async move { mesh.inspect("k").await }
    });
    other.block_on(until("they wait", || mesh.status().waiting > 0));
    drop(its_own);
    other.block_on(async {
        let ended = within("a request that waited", waiting).await.unwrap();
        assert_eq!(ended.unwrap_err(), AcquireError::ShutDown);
        let ended = within("an inspection", inspecting).await.unwrap();
        assert_eq!(ended.unwrap_err(), InspectError::ShutDown);
        let error = within("a new request", mesh.lock("l").acquire()).await;
        assert_eq!(error.unwrap_err(), AcquireError::ShutDown);
        within("the shutdown", mesh.shutdown()).await;
    });
}
