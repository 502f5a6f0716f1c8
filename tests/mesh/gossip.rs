//! Discovery and failure detection by gossip, as seen in the status of a node.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use lockmesh::{Mesh, MeshBuilder, Resolve};

use crate::common::{Cluster, LOOPBACK, key, sees_all, until, within};
use crate::guard::waits_for;

fn of_two(cluster: &Cluster, name: &str) -> MeshBuilder {
    Mesh::builder(name)
        .voters(["a", "b"])
        .secret(key())
        .transport(cluster.links.bind(name, LOOPBACK).unwrap())
        .bootstrap()
        .gossip_interval(Duration::from_millis(300))
}

#[tokio::test]
async fn node_cut_off_after_discovery_is_marked_dead() {
    let cluster = Cluster::start(1, Duration::from_secs(30)).await;
    let a = of_two(&cluster, "a").start().await.unwrap();
    let b = of_two(&cluster, "b").seeds([a.local_addr().to_string()]);
    let b = b.start().await.unwrap();
    let sees_b = || a.status().members[1].is_reachable;
    until("it is discovered", sees_b).await;
    cluster.links.partition(&[a.id()], &[b.id()]);
    until("it is found dead", || !sees_b()).await;
    until("it is not ready", || !a.status().is_ready).await;
}

#[tokio::test]
async fn partitioned_nodes_rejoin_after_heal() {
    let cluster = Cluster::start(3, Duration::from_secs(30)).await;
    let ids: Vec<_> = cluster.nodes.iter().map(Mesh::id).cloned().collect();
    cluster.links.partition(&ids[..2], &ids[2..]);
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
async fn restarted_node_is_found_at_new_address() {
    let mut cluster = Cluster::start(3, Duration::from_millis(1_500)).await;
    let was = cluster.nodes[2].local_addr();
    cluster.nodes[2].abort();
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

/// The locks of the previous incarnation are free as soon as a voter receives a message of the
/// new one. One live seed of ten is enough, without a second round of gossip.
#[tokio::test]
async fn restarted_node_finds_voters_within_one_gossip_round() {
    let round = Duration::from_secs(60);
    let mut cluster = Cluster::start(3, Duration::from_secs(600)).await;
    let ttl = Duration::from_secs(500);
    let guard = cluster.nodes[2].lock("k").ttl(ttl).acquire().await.unwrap();
    let waiting = tokio::spawn(cluster.nodes[0].lock("k").acquire());
    waits_for(&cluster, "k", 1).await;
    let gone = cluster.nodes[2].local_addr();
    cluster.nodes[2].abort();
    // No process listens on ports 1 to 9.
    let mut seeds: Vec<_> = (1..10).map(|port| format!("127.0.0.1:{port}")).collect();
    seeds.push(cluster.nodes[1].local_addr().to_string());
    // A message from the same address proves that the previous incarnation is over.
    let back = cluster.named_at("n2", gone);
    let back = back.seeds(seeds).gossip_interval(round);
    cluster.nodes[2] = back.start().await.unwrap();
    let next = tokio::time::timeout(round / 2, waiting).await;
    let next = next.expect("within the first round").unwrap().unwrap();
    assert!(next.epoch() > guard.epoch());
}

#[tokio::test]
async fn node_joins_through_seed_with_host_name() {
    let cluster = Cluster::start(3, Duration::from_secs(30)).await;
    let port = cluster.nodes[1].local_addr().port();
    let late = cluster.named("late").seeds([format!("localhost:{port}")]);
    let late = late.start().await.unwrap();
    sees_all(&late).await;
    let guard = late.lock("k").acquire().await.unwrap();
    assert!(guard.is_held());
}

/// A resolver with a table that the test sets.
#[derive(Clone, Debug, Default)]
struct Hosts(Arc<Mutex<BTreeMap<String, Vec<SocketAddr>>>>);

impl Hosts {
    fn set(&self, name: &str, addrs: &[SocketAddr]) {
        self.0.lock().unwrap().insert(name.to_owned(), addrs.into());
    }
}

#[async_trait]
impl Resolve for Hosts {
    async fn resolve(&self, seed: &str) -> std::io::Result<Vec<SocketAddr>> {
        let found = self.0.lock().unwrap().get(seed).cloned();
        found.ok_or_else(|| ErrorKind::NotFound.into())
    }
}

#[tokio::test]
async fn unresolvable_seed_does_not_prevent_joining() {
    let cluster = Cluster::start(3, Duration::from_secs(30)).await;
    let up = cluster.nodes[1].local_addr().to_string();
    let late = cluster.named("late").resolver(Hosts::default());
    let late = late.seeds([up, "nobody.invalid:7400".to_owned()]);
    let late = late.start().await.unwrap();
    sees_all(&late).await;
    let guard = late.lock("k").acquire().await.unwrap();
    assert!(guard.is_held());
}

#[tokio::test]
async fn late_resolving_seed_is_found_soon() {
    let cluster = Cluster::start(3, Duration::from_secs(30)).await;
    let hosts = Hosts::default();
    // Gossip rounds are 60 s apart: only the resolution of the seed can lead to it sooner.
    let late = cluster.named("late").resolver(hosts.clone());
    let late = late.gossip_interval(Duration::from_secs(60));
    let late = late.seeds(["headless:7400"]).start().await.unwrap();
    let locks = tokio::spawn(late.lock("k").acquire());
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!locks.is_finished());
    // The name resolves to two addresses, of which one is up.
    let dead = SocketAddr::from(([127, 0, 0, 1], 9));
    hosts.set("headless:7400", &[dead, cluster.nodes[2].local_addr()]);
    let since = Instant::now();
    let guard = within("a grant", locks).await.unwrap().unwrap();
    // One second of backoff, and a margin for a busy machine.
    let took = since.elapsed();
    assert!(took < Duration::from_secs(15), "{took:?}");
    drop(guard);
}

#[tokio::test]
async fn nodes_that_forgot_each_other_rejoin_after_heal() {
    let mut cluster = Cluster::start(1, Duration::from_secs(30)).await;
    let named = |name: &str, cluster: &Cluster| {
        let seeds = cluster.nodes.first().map(|node| node.local_addr());
        let seeds = seeds.iter().map(ToString::to_string).collect::<Vec<_>>();
        cluster
            .named(name)
            .voters(["a", "b", "c"])
            .voters_per_key(3)
            .seeds(seeds)
            .bootstrap()
    };
    cluster.nodes[0].shutdown().await;
    cluster.nodes.clear();
    for name in ["a", "b", "c"] {
        let node = named(name, &cluster).start().await.unwrap();
        cluster.nodes.push(node);
    }
    cluster.ready().await;
    let seed = cluster.nodes.remove(0);
    seed.abort();
    let [b, c] = &cluster.nodes[..] else {
        panic!("two are left")
    };
    let cut = [b.id(), c.id()];
    cluster.links.partition(&cut[..1], &cut[1..]);
    let forgot = |node: &Mesh| {
        let members = node.status().members;
        members.iter().filter(|it| it.is_alive.is_none()).count() == 2
    };
    until("they forget each other", || forgot(b) && forgot(c)).await;
    assert!(!b.status().is_ready && !c.status().is_ready);
    cluster.links.heal();
    let sees = |node: &Mesh| {
        let members = node.status().members;
        members
            .iter()
            .filter(|it| it.is_reachable && it.votes)
            .count()
            == 2
    };
    until("they find each other", || sees(b) && sees(c)).await;
    until("they are ready", || {
        b.status().is_ready && c.status().is_ready
    })
    .await;
}

#[tokio::test]
async fn crashed_client_is_silent_and_then_forgotten() {
    let cluster = Cluster::start(3, Duration::from_secs(30)).await;
    let client = cluster.client("client").await;
    let listed = |node: &Mesh| node.status().others.first().cloned();
    let all = |is_so: &dyn Fn(Option<lockmesh::status::ClientNode>) -> bool| {
        cluster.nodes.iter().all(|node| is_so(listed(node)))
    };
    until("all see it", || all(&|it| it.is_some_and(|it| it.is_alive))).await;
    client.abort();
    until("all call it silent", || {
        all(&|it| it.is_some_and(|it| !it.is_alive && it.silent_for > Some(Duration::from_secs(1))))
    })
    .await;
    until("all forget it", || all(&|it| it.is_none())).await;
}

#[tokio::test]
async fn client_that_left_is_forgotten_at_once() {
    let cluster = Cluster::start(3, Duration::from_secs(30)).await;
    // It stays for two rounds, so that its message spreads on a busy machine too.
    let client = cluster
        .named("client")
        .gossip_interval(Duration::from_millis(500));
    let client = client.start().await.unwrap();
    sees_all(&client).await;
    let listed = |node: &Mesh| node.status().others.len();
    until("all see it", || {
        cluster.nodes.iter().all(|it| listed(it) == 1)
    })
    .await;
    client.shutdown().await;
    let since = Instant::now();
    until("all forget it", || {
        cluster.nodes.iter().all(|it| listed(it) == 0)
    })
    .await;
    // A crashed client would be remembered for 20 s.
    let took = since.elapsed();
    assert!(took < Duration::from_secs(19), "{took:?}");
}
