//! Shutdown, drop and crash of a node, and what its peers see.

use std::time::Duration;

use lockmesh::{AcquireError, ExtendError, InspectError, Mesh, MeshBuilder, ReleaseError};

use crate::common::{Cluster, key, sees_all, until, within};
use crate::guard::waits_for;

const LONG: Duration = Duration::from_secs(500);

async fn three() -> Cluster {
    Cluster::start(3, Duration::from_secs(600)).await
}

#[tokio::test]
async fn shutdown_releases_locks_and_ends_guards() {
    let cluster = three().await;
    let client = cluster.client("client").await;
    let guard = client.lock("k").ttl(LONG).acquire().await.unwrap();
    let other = client.lock("l").ttl(LONG).acquire().await.unwrap();
    let waiting = tokio::spawn(cluster.nodes[0].lock("k").acquire());
    waits_for(&cluster, "k", 1).await;
    within("the shutdown", client.shutdown()).await;
    assert!(!guard.is_held() && !other.is_held());
    assert_eq!(guard.remaining(), Duration::ZERO);
    within("a guard of a mesh that is gone", guard.lost()).await;
    assert_eq!(guard.extend(LONG).await, Err(ExtendError::NotHeld));
    assert_eq!(guard.release().await, Err(ReleaseError));
    drop(within("the next", waiting).await.unwrap().unwrap());
    drop(
        within("the next", cluster.nodes[1].lock("l").acquire())
            .await
            .unwrap(),
    );
}

#[tokio::test]
async fn requests_after_shutdown_return_shut_down() {
    let cluster = three().await;
    let client = cluster.client("client").await;
    let guard = cluster.nodes[0]
        .lock("k")
        .ttl(LONG)
        .acquire()
        .await
        .unwrap();
    let waiting = tokio::spawn(client.lock("k").acquire());
    waits_for(&cluster, "k", 1).await;
    within("the shutdown", client.shutdown()).await;
    let ended = within("a request that waited", waiting).await.unwrap();
    assert_eq!(ended.unwrap_err(), AcquireError::ShutDown);
    // The shutdown withdrew its claim.
    waits_for(&cluster, "k", 0).await;
    let error = client.lock("l").acquire().await.unwrap_err();
    assert_eq!(error, AcquireError::ShutDown);
    assert_eq!(error.to_string(), "the mesh is shut down");
    let error = client.lock("l").try_acquire().await.unwrap_err();
    assert_eq!(error, AcquireError::ShutDown);
    let error = client.inspect("l").await.unwrap_err();
    assert_eq!(error, InspectError::ShutDown);
    assert!(client.status().is_shut_down);
    assert!(client.ready(Duration::ZERO).await.is_err());
    assert_eq!((client.status().held, client.status().waiting), (0, 0));
    within("a second shutdown", client.shutdown()).await;
    assert!(guard.is_held());
}

#[tokio::test]
async fn shutdown_ends_pending_inspection() {
    let cluster = three().await;
    let client = cluster.client("client").await;
    let ids: Vec<_> = cluster.nodes.iter().map(Mesh::id).cloned().collect();
    cluster.links.partition(&[client.id()], &ids);
    let asks = client.clone();
    let asking = tokio::spawn(async move { asks.inspect("k").await });
    tokio::task::yield_now().await;
    within("the shutdown", client.shutdown()).await;
    let ended = within("the inspection", asking).await.unwrap();
    assert_eq!(ended.unwrap_err(), InspectError::ShutDown);
}

#[tokio::test]
async fn peers_see_a_shut_down_node_leave() {
    let cluster = three().await;
    let client = cluster.client("client").await;
    let sees = |mesh: &Mesh, alive| {
        let others = mesh.status().others;
        others
            .iter()
            .any(|other| other.node.as_str() == "client" && other.is_alive == alive)
    };
    until("all see the client", || {
        cluster.nodes.iter().all(|node| sees(node, true))
    })
    .await;
    within("the shutdown", client.shutdown()).await;
    until("all see it gone", || {
        cluster.nodes.iter().all(|node| !sees(node, true))
    })
    .await;
    let leaver = cluster.nodes[2].clone();
    within("the shutdown", leaver.shutdown()).await;
    until("the others see a member gone", || {
        let member = &cluster.nodes[0].status().members[2];
        member.is_alive == Some(false) && !member.is_reachable
    })
    .await;
    assert!(
        cluster.nodes[0].status().is_ready,
        "two of three are a quorum"
    );
}

#[tokio::test]
async fn shutdown_frees_address_despite_live_handle_and_guard() {
    let cluster = three().await;
    let client = cluster.client("client").await;
    let guard = client.lock("k").acquire().await.unwrap();
    within("the shutdown", client.shutdown()).await;
    let again = cluster.named_at("client", client.local_addr());
    let again = again.start().await.unwrap();
    assert_eq!(again.local_addr(), client.local_addr());
    sees_all(&again).await;
    let next = within("its next incarnation", again.lock("k").acquire()).await;
    assert!(next.unwrap().epoch() > guard.epoch());
}

#[tokio::test]
async fn dropping_last_handle_frees_the_address() {
    let cluster = three().await;
    let client = cluster.client("client").await;
    let addr = client.local_addr();
    drop(client);
    std::net::UdpSocket::bind(addr).unwrap();
}

#[tokio::test]
async fn dropped_node_is_marked_dead_by_peers() {
    let cluster = three().await;
    let client = cluster.client("client").await;
    let sees = || {
        let others = cluster.nodes[0].status().others;
        others.iter().any(|other| other.is_alive)
    };
    until("it is seen", sees).await;
    drop(client);
    until("it is seen dead", || !sees()).await;
}

#[tokio::test]
async fn crash_delays_next_grant_by_the_lease() {
    let cluster = Cluster::start(3, Duration::from_secs(30)).await;
    let client = cluster.client("client").await;
    let request = client.lock("k").ttl(Duration::from_secs(2));
    let guard = request.acquire().await.unwrap();
    let waiting = tokio::spawn(cluster.nodes[0].lock("k").acquire());
    waits_for(&cluster, "k", 1).await;
    client.abort();
    let next = within("the next", waiting).await.unwrap().unwrap();
    assert!(!guard.is_held());
    assert!(next.epoch() > guard.epoch());
}

#[tokio::test]
async fn dropped_shutdown_future_still_shuts_down() {
    let cluster = three().await;
    let client = cluster.client("client").await;
    {
        let shutdown = std::pin::pin!(client.shutdown());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(shutdown.poll(&mut context).is_pending());
    }
    let next = MeshBuilder::single("next").secret(key());
    let addr = client.local_addr().to_string();
    within("the address", async {
        // A shutdown keeps the address for ten round trips.
        while std::net::UdpSocket::bind(&addr).is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    next.listen(addr).start().await.unwrap();
}

#[tokio::test]
async fn dropped_mesh_frees_its_address_at_once() {
    let mesh = MeshBuilder::single("a")
        .secret(key())
        .start()
        .await
        .unwrap();
    let guard = mesh.lock("k").await.unwrap();
    let addr = mesh.local_addr().to_string();
    drop((mesh, guard));
    let next = MeshBuilder::single("a").secret(key()).listen(addr);
    next.start().await.unwrap();
}

#[test]
fn requests_end_when_mesh_runtime_is_gone() {
    let runtime = || tokio::runtime::Runtime::new().unwrap();
    let (its_own, other) = (runtime(), runtime());
    let mesh = its_own.block_on(async {
        let alone = MeshBuilder::single("n0").secret(key());
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
