//! Short-lived clients, and the state that they leave in the gossip of other nodes.

use std::time::Duration;

use lockmesh::Mesh;
use lockmesh_harness::LocalMesh;
use lockmesh_proto::{DatagramKind, Seal};

use crate::common::{nodes, sees_all, settings, until, within};

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
        let plain = Mesh::builder(name).listen("127.0.0.1:0");
        let plain = plain.insecure_plaintext().voters(["a", "b"]);
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
        let mut others = others.iter();
        others.any(|it| it.node.as_str() == "c" && it.is_alive)
    };
    let forgotten = |mesh: &Mesh| {
        let others = mesh.status().others;
        others.iter().all(|it| it.node.as_str() == "c")
    };
    sees_all(&c).await;
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

/// Three voters that gossip every 20 ms.
async fn voters() -> LocalMesh {
    let settings = settings(3, 0, Duration::from_secs(10));
    let settings = settings.configure(|it| it.gossip_interval(Duration::from_millis(20)));
    settings.start().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_lived_client_locks_without_gossip() {
    let cluster = voters().await;
    let seed = cluster.node(1).local_addr().to_string();
    let client = cluster.client("client").unwrap().short_lived(true);
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
    let members = nodes(&cluster);
    let before: Vec<u64> = members.iter().map(sent).collect();
    until("the members have gossiped since", || {
        let sent = members.iter().map(sent);
        sent.zip(&before).all(|(now, before)| now > before + 20)
    })
    .await;
    assert!(members.iter().all(|it| it.status().others.is_empty()));
    client.shutdown().await;
}

/// Each client starts, locks once and crashes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_lived_clients_leave_no_state() {
    let cluster = voters().await;
    for incarnation in 0..100 {
        let name = format!("{incarnation:038}");
        let client = cluster.client(&name).unwrap().short_lived(true);
        let client = client.start().await.unwrap();
        let acquired = within("a grant", client.lock(name).acquire()).await;
        client.abort();
        drop(acquired.unwrap());
    }
    until("nothing is held or waited for", || {
        nodes(&cluster).iter().all(|node| {
            let status = node.status();
            assert!(status.others.is_empty(), "{:?}", status.others);
            (status.voter_keys, status.voter_waiters) == (0, 0)
        })
    })
    .await;
}
