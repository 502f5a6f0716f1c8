//! Discovery and failure detection by gossip, as seen in the status of a node.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use lockmesh::Mesh;
use lockmesh::status::ClientNode;
use lockmesh_harness::Links;

use crate::common::{
    beside, client, nodes, restart_elsewhere, secret, sees_all, until, voters, waits_for,
};

const MAX_TTL: Duration = Duration::from_secs(30);

#[tokio::test]
async fn restarted_node_is_found_at_new_address() {
    let cluster = voters(3, Duration::from_millis(1_500)).await;
    let was = cluster.node(2).local_addr();
    restart_elsewhere(&cluster, 2).await;
    let is = cluster.node(2).local_addr();
    assert_ne!(was, is);
    until("the others have its address", || {
        let addr = |n: usize| cluster.node(n).status().members[2].addr;
        [addr(0), addr(1)] == [Some(is); 2]
    })
    .await;
    cluster.wait_until_stable().await.unwrap();
}

/// The locks of the previous incarnation are free as soon as a voter receives a message of the
/// new one. One live seed of ten is enough, without a second round of gossip.
#[tokio::test]
async fn restarted_node_finds_voters_within_one_gossip_round() {
    let round = Duration::from_secs(60);
    let cluster = voters(3, Duration::from_secs(600)).await;
    let request = cluster.node(2).lock("k").ttl(Duration::from_secs(500));
    let guard = request.acquire().await.unwrap();
    let waiting = tokio::spawn(cluster.node(0).lock("k").acquire());
    waits_for(&cluster.node(0), "k", 1).await;
    let gone = cluster.node(2).local_addr();
    cluster.crash(2).await;
    // No process listens on ports 1 to 9.
    let mut seeds: Vec<_> = (1..10).map(|port| format!("127.0.0.1:{port}")).collect();
    seeds.push(cluster.node(1).local_addr().to_string());
    // A message from the same address proves that the previous incarnation is over.
    let back = beside(&cluster, "n2").listen(gone.to_string());
    let back = back.seeds(seeds).gossip_interval(round);
    let _back = back.start().await.unwrap();
    let next = tokio::time::timeout(round / 2, waiting).await;
    let next = next.expect("within the first round").unwrap().unwrap();
    assert!(next.epoch() > guard.epoch());
}

#[tokio::test]
async fn unresolvable_seed_does_not_prevent_joining() {
    let cluster = voters(3, MAX_TTL).await;
    let port = cluster.node(1).local_addr().port();
    let seeds = [
        format!("localhost:{port}"),
        "nobody.invalid:7400".to_owned(),
    ];
    let late = cluster.client("late").unwrap().seeds(seeds);
    let late = late.start().await.unwrap();
    sees_all(&late).await;
    assert!(late.lock("k").acquire().await.unwrap().is_held());
}

#[tokio::test]
async fn nodes_that_forgot_each_other_rejoin_after_heal() {
    let links = Links::new(7);
    let start = async |name: &str, seeds: Vec<String>| {
        let free_port = SocketAddr::from(([127, 0, 0, 1], 0));
        let builder = Mesh::builder(name).voters(["a", "b", "c"]).seeds(seeds);
        let builder = builder.secret(secret()).bootstrap();
        let builder = builder.gossip_interval(Duration::from_millis(50));
        let transport = links.bind(name, free_port).unwrap();
        builder.transport(transport).start().await.unwrap()
    };
    let seed = start("a", Vec::new()).await;
    let seeds = || vec![seed.local_addr().to_string()];
    let pair = [start("b", seeds()).await, start("c", seeds()).await];
    for node in &pair {
        sees_all(node).await;
    }
    seed.abort();
    links.partition(&["b"], &["c"]);
    let forgot = |node: &Mesh| {
        let members = node.status().members;
        members.iter().filter(|it| it.is_alive.is_none()).count() == 2
    };
    until("they forget each other", || pair.iter().all(forgot)).await;
    assert!(pair.iter().all(|node| !node.status().is_ready));
    links.heal();
    until("they are ready", || {
        pair.iter().all(|node| node.status().is_ready)
    })
    .await;
}

#[tokio::test]
async fn crashed_client_is_silent_and_then_forgotten() {
    let cluster = voters(3, MAX_TTL).await;
    let client = client(&cluster, "client").await;
    let all = |is_so: &dyn Fn(Option<ClientNode>) -> bool| {
        let listed = |node: &Mesh| node.status().others.first().cloned();
        nodes(&cluster).iter().all(|node| is_so(listed(node)))
    };
    until("all see it", || all(&|it| it.is_some_and(|it| it.is_alive))).await;
    client.abort();
    let second = Duration::from_secs(1);
    until("all call it silent", || {
        all(&|it| it.is_some_and(|it| !it.is_alive && it.silent_for > Some(second)))
    })
    .await;
    until("all forget it", || all(&|it| it.is_none())).await;
}

#[tokio::test]
async fn client_that_left_is_forgotten_at_once() {
    let cluster = voters(3, MAX_TTL).await;
    let client = client(&cluster, "client").await;
    let all_list = |count: usize| {
        let mut nodes = nodes(&cluster).into_iter();
        nodes.all(|node| node.status().others.len() == count)
    };
    until("all see it", || all_list(1)).await;
    client.shutdown().await;
    let since = Instant::now();
    until("all forget it", || all_list(0)).await;
    // A crashed client would be remembered for 20 s.
    let took = since.elapsed();
    assert!(took < Duration::from_secs(19), "{took:?}");
}
