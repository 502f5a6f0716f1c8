//! What gossip says of the others, through the status of a node.

use std::time::Duration;

use lockmesh::{Mesh, MeshBuilder};

use crate::common::{Cluster, key, sees_all, until};
use crate::guard::waits_for;

fn of_two(cluster: &Cluster, name: &str) -> MeshBuilder {
    Mesh::builder(name)
        .voters(["a", "b"])
        .key(key())
        .links(cluster.links.clone())
        .new_cluster(true)
        .gossip_every(Duration::from_millis(300))
}

#[tokio::test]
async fn a_node_that_is_cut_off_as_soon_as_it_was_discovered_is_found_dead() {
    let cluster = Cluster::start(1, Duration::from_secs(30)).await;
    let a = of_two(&cluster, "a").start().await.unwrap();
    let b = of_two(&cluster, "b").seeds([a.local_addr().to_string()]);
    let b = b.start().await.unwrap();
    let sees_b = || a.status().members[1].is_reachable;
    until("it is discovered", sees_b).await;
    cluster
        .links
        .partition(&[a.local_addr()], &[b.local_addr()]);
    until("it is found dead", || !sees_b()).await;
    until("it is not ready", || !a.status().is_ready).await;
}

#[tokio::test]
async fn nodes_that_were_cut_off_find_each_other_again() {
    let cluster = Cluster::start(3, Duration::from_secs(30)).await;
    let addrs: Vec<_> = cluster.nodes.iter().map(Mesh::local_addr).collect();
    cluster.links.partition(&addrs[..2], &addrs[2..]);
    until("the one sees that it is alone", || {
        !cluster.nodes[2].status().is_ready
    })
    .await;
    until("the two see that one is gone", || {
        !cluster.nodes[0].status().members[2].is_reachable
    })
    .await;
    assert!(cluster.nodes[0].status().is_ready);
    cluster.links.heal();
    cluster.ready().await;
}

#[tokio::test]
async fn a_node_that_comes_back_at_another_address_is_found_there() {
    let mut cluster = Cluster::start(3, Duration::from_millis(1_500)).await;
    let was = cluster.nodes[2].local_addr();
    cluster.nodes[2].crash().await;
    cluster.restart(2).await;
    let is = cluster.nodes[2].local_addr();
    assert_ne!(was, is);
    until("the others have its address", || {
        let mut others = cluster.nodes[..2].iter();
        others.all(|node| node.status().members[2].addr == Some(is))
    })
    .await;
    cluster.ready().await;
}

/// What its former life held is free as soon as it speaks to the voters; to find them it needs one
/// seed of many that is up, and no second round of gossip.
#[tokio::test]
async fn a_node_that_comes_back_finds_the_voters_within_its_first_round_of_gossip() {
    let round = Duration::from_secs(60);
    let mut cluster = Cluster::start(3, Duration::from_secs(600)).await;
    let ttl = Duration::from_secs(500);
    let guard = cluster.nodes[2].lock("k").ttl(ttl).acquire().await.unwrap();
    let waiting = tokio::spawn(cluster.nodes[0].lock("k").acquire());
    waits_for(&cluster, "k", 1).await;
    let gone = cluster.nodes[2].local_addr();
    cluster.nodes[2].crash().await;
    // Nobody listens where it was, nor at the ports that nobody may bind.
    let mut seeds: Vec<_> = (1..10).map(|port| format!("127.0.0.1:{port}")).collect();
    seeds.push(gone.to_string());
    seeds.push(cluster.nodes[1].local_addr().to_string());
    let back = cluster.named("n2").seeds(seeds).gossip_every(round);
    cluster.nodes[2] = back.start().await.unwrap();
    let next = tokio::time::timeout(round / 2, waiting).await;
    let next = next.expect("within the first round").unwrap().unwrap();
    assert!(next.epoch() > guard.epoch());
}

#[tokio::test]
async fn nodes_find_each_other_through_one_seed_named_by_its_host() {
    let cluster = Cluster::start(3, Duration::from_secs(30)).await;
    let port = cluster.nodes[1].local_addr().port();
    let late = cluster.named("late").seeds([format!("localhost:{port}")]);
    let late = late.start().await.unwrap();
    sees_all(&late).await;
    let guard = late.lock("k").acquire().await.unwrap();
    assert!(guard.is_held());
}
