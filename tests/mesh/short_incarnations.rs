//! Short-lived clients, and the state that they leave in the gossip of other nodes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lockmesh::{Mesh, MeshBuilder};
use lockmesh_harness::{Links, LocalMesh};
use lockmesh_proto::{DatagramKind, Seal};

use crate::common::{LOOPBACK, key, timing, until, within};

/// Three voters, and the settings of their clients.
struct Members {
    nodes: Vec<Mesh>,
    links: Arc<Links>,
    gossip_interval: Duration,
}

impl Members {
    async fn start(gossip_interval: Duration) -> Self {
        let mut members = Self {
            nodes: Vec::new(),
            links: Links::new(7),
            gossip_interval,
        };
        for n in 0..3 {
            let node = members.named(&format!("n{n}")).bootstrap();
            members.nodes.push(node.start().await.unwrap());
        }
        for node in &members.nodes {
            until("it is ready", || node.status().is_ready).await;
        }
        members
    }

    fn named(&self, name: &str) -> MeshBuilder {
        Mesh::builder(name)
            .voters(["n0", "n1", "n2"])
            .seeds(self.nodes.iter().map(|node| node.local_addr().to_string()))
            .secret(key())
            .timing(timing(Duration::from_secs(10)))
            .ttl(Duration::from_secs(1))
            .gossip_interval(self.gossip_interval)
            .transport(self.links.bind(name, LOOPBACK).unwrap())
    }

    /// The bytes of gossip that the members have sent.
    fn bytes(&self) -> u64 {
        let traffic = self.nodes.iter().map(|node| node.status().traffic);
        traffic.map(|traffic| traffic.gossip_bytes_out).sum()
    }

    /// Returns the time until a new node knows all members and all members know it.
    async fn time_to_find(&self, name: &str) -> Duration {
        let since = Instant::now();
        let new = self.named(name).start().await.unwrap();
        let is_found = || {
            let others = |node: &Mesh| node.status().others.iter().any(|o| o.node.as_str() == name);
            let members = new.status().members;
            members.iter().all(|member| member.addr.is_some()) && self.nodes.iter().all(others)
        };
        until("a new node is found", is_found).await;
        let took = since.elapsed();
        new.abort();
        took
    }
}

/// Starts, locks once, crashes.
async fn live(client: MeshBuilder) {
    let node = client.start().await.unwrap();
    let lock = node.lock(node.id().as_str());
    let guard = within("a grant", lock.acquire()).await.unwrap();
    node.abort();
    drop(guard);
}

/// Encodes a gossip digest that names one client per incarnation.
fn names_of(incarnations: std::ops::Range<u64>) -> Vec<u8> {
    let text = |text: &str| {
        let len = u16::try_from(text.len()).unwrap();
        [&len.to_le_bytes(), text.as_bytes()].concat()
    };
    let count = u16::try_from(incarnations.end - incarnations.start).unwrap();
    let entry = |incarnation: u64| {
        let node = text(&format!("{incarnation:038}"));
        let generation = incarnation.to_le_bytes().to_vec();
        let addr = vec![4, 127, 0, 0, 1, 9, 0];
        let [heartbeat, gc, version] = [3, 0, 0].map(|n: u64| n.to_le_bytes().to_vec());
        [node, generation, addr, heartbeat, gc, version].concat()
    };
    let head = [&45_139u16.to_le_bytes()[..], &[0, 0], &count.to_le_bytes()].concat();
    let entries: Vec<u8> = incarnations.flat_map(entry).collect();
    [head, entries, text("lockmesh")].concat()
}

/// The gossip library panics once it knows 827 names of 38 bytes.
#[tokio::test]
async fn gossip_survives_more_incarnations_than_fit_a_digest() {
    let plain = |name: &str| {
        let plain = Mesh::builder(name)
            .listen("127.0.0.1:0")
            .insecure_plaintext()
            .voters(["a", "b"]);
        plain.gossip_interval(Duration::from_millis(50))
    };
    let a = plain("a").bootstrap().start().await.unwrap();
    let seed = a.local_addr().to_string();
    let b = plain("b").bootstrap().seeds([seed.clone()]);
    let b = b.start().await.unwrap();
    until("they are ready", || {
        a.status().is_ready && b.status().is_ready
    })
    .await;
    let small = bytes_of_a_datagram(&a).await;
    let scripted_node = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for hundred in 0..100 {
        let names = names_of(hundred * 100..hundred * 100 + 100);
        let mut seal = Seal::insecure_plaintext().of_cluster("lockmesh");
        let datagram = seal.seal(DatagramKind::Gossip, &names);
        scripted_node.send_to(&datagram, a.local_addr()).unwrap();
        let knows = |mesh: &Mesh| !mesh.status().others.is_empty();
        until("they are known", || knows(&a)).await;
    }
    // A new node and the others discover each other.
    let c = plain("c").seeds([seed]).start().await.unwrap();
    let knows = |mesh: &Mesh| {
        let others = mesh.status().others;
        others
            .iter()
            .any(|it| it.node.as_str() == "c" && it.is_alive)
    };
    let forgotten = |mesh: &Mesh| {
        mesh.status()
            .others
            .iter()
            .all(|it| it.node.as_str() == "c")
    };
    until("c finds all", || {
        c.status().members.iter().all(|it| it.is_reachable)
    })
    .await;
    until("the dead are forgotten", || forgotten(&a) && forgotten(&b)).await;
    until("c is known", || knows(&a) && knows(&b)).await;
    // Gossip no longer contains the names of dead clients.
    let after = bytes_of_a_datagram(&a).await;
    assert!(after < small + 100, "{small} before, {after} after");
    assert_eq!(
        (a.status().gossip_restarts, b.status().gossip_restarts),
        (0, 0)
    );
}

/// The mean size of at least 40 gossip datagrams.
async fn bytes_of_a_datagram(mesh: &Mesh) -> u64 {
    let traffic = || mesh.status().traffic;
    let before = traffic();
    let sent = || traffic().gossip_datagrams_out - before.gossip_datagrams_out;
    until("it has gossiped", || sent() >= 40).await;
    (traffic().gossip_bytes_out - before.gossip_bytes_out) / sent()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_lived_client_locks_without_gossip() {
    let members = Members::start(Duration::from_millis(20)).await;
    let seed = members.nodes[1].local_addr().to_string();
    let client = members.named("client").short_lived(true);
    let client = client.seeds([seed]).start().await.unwrap();
    let lock = client.lock("k").ttl(Duration::from_secs(5));
    let guard = lock.acquire().await.unwrap();
    until("it is ready", || client.status().is_ready).await;
    let remains = |seconds| guard.remaining() > Duration::from_secs(seconds);
    until("a part of the lease is over", || !remains(4)).await;
    until("it is renewed", || remains(4)).await;
    let sent = |mesh: &Mesh| mesh.status().traffic.gossip_datagrams_out;
    assert_eq!(sent(&client), 0);
    guard.release().await.unwrap();
    let before: Vec<u64> = members.nodes.iter().map(sent).collect();
    until("the members have gossiped since", || {
        let sent = members.nodes.iter().map(sent);
        sent.zip(&before).all(|(now, before)| now > before + 20)
    })
    .await;
    assert!(
        members
            .nodes
            .iter()
            .all(|node| node.status().others.is_empty())
    );
    client.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_lived_clients_leave_no_state() {
    let members = Members::start(Duration::from_millis(20)).await;
    for incarnation in 0..100 {
        let client = members
            .named(&format!("{incarnation:038}"))
            .short_lived(true);
        live(client).await;
    }
    until("nothing is held or waited for", || {
        members.nodes.iter().all(|node| {
            let status = node.status();
            assert!(status.others.is_empty(), "{:?}", status.others);
            (status.voter_keys, status.voter_waiters) == (0, 0)
        })
    })
    .await;
}

#[tokio::test]
async fn short_lived_voter_is_refused() {
    let error = Mesh::builder("n0")
        .listen("127.0.0.1:0")
        .voters(["n0"])
        .secret(key())
        .short_lived(true);
    let error = error.start().await.unwrap_err();
    assert!(
        matches!(error, lockmesh::ConfigError::ShortLivedVoter),
        "{error}"
    );
}

fn resident_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or_default()
}

fn number(variable: &str, default: u64) -> u64 {
    let text = std::env::var(variable);
    text.map_or(default, |text| text.parse().expect("a number"))
}

/// Measures the cost of gossip while `INCARNATIONS` clients start and crash, `RATE` per second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement: seventeen minutes"]
async fn gossip_cost_over_many_incarnations_is_measured() {
    let (incarnations, rate) = (number("INCARNATIONS", 10_000), number("RATE", 10));
    let members = Arc::new(Members::start(Duration::from_millis(200)).await);
    let start = Instant::now();
    let mut last = (start, members.bytes());
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / u32::try_from(rate).unwrap());
    for incarnation in 0..incarnations {
        ticks.tick().await;
        tokio::spawn(live(members.named(&format!("{incarnation:038}"))));
        if incarnation % (rate * 10) == 0 {
            let (now, bytes) = (Instant::now(), members.bytes());
            let per_second = (bytes - last.1) as f64 / (now - last.0).as_secs_f64();
            last = (now, bytes);
            println!(
                "{incarnation} incarnations in {} s: {:.1} kB/s of gossip by three members, {} kB resident",
                start.elapsed().as_secs(),
                per_second / 1e3,
                resident_kb(),
            );
            let members = members.clone();
            tokio::spawn(async move {
                let took = members.time_to_find(&format!("probe-{incarnation}")).await;
                println!(
                    "a node that starts after {incarnation} incarnations is found in {took:?}"
                );
            });
        }
    }
}

/// Measures the cost of gossip among 60 voters, and the time until all of them find a restarted
/// node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement: a minute of a quiet machine"]
async fn gossip_of_sixty_nodes_is_measured() {
    const NODES: usize = 60;
    let mesh = LocalMesh::start(NODES).await.unwrap();
    let bytes = || {
        let traffic = (0..NODES).map(|n| mesh.node(n).status().traffic);
        traffic.map(|it| it.gossip_bytes_out).sum::<u64>()
    };
    let (since, before) = (Instant::now(), bytes());
    tokio::time::sleep(Duration::from_secs(10)).await;
    let per_second = (bytes() - before) as f64 / since.elapsed().as_secs_f64();
    println!(
        "{:.1} kB/s of gossip by each",
        per_second / 1e3 / NODES as f64
    );
    for n in 1..=5 {
        let since = Instant::now();
        mesh.restart(n).await.unwrap();
        let (id, addr) = (mesh.node(n).id().clone(), mesh.node(n).local_addr());
        let finds = |other: usize| {
            let members = mesh.node(other).status().members;
            members
                .iter()
                .any(|it| it.node == id && it.addr == Some(addr))
        };
        let others = || (0..NODES).filter(|other| *other != n);
        until("it is found", || others().all(finds)).await;
        println!(
            "a node that comes back is found by all after {:?}",
            since.elapsed()
        );
    }
}
