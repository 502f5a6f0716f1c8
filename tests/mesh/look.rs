//! The results of `inspect` and `status`.

use std::time::Duration;

use lockmesh::observe::Observer;
use lockmesh::status::DropReason;
use lockmesh::{Epoch, InspectError, Mesh};
use lockmesh_proto::{DatagramKind, Seal};

use crate::common::{Cluster, key, timing, until, within};
use crate::guard::waits_for;

const LONG: Duration = Duration::from_secs(500);

async fn three() -> Cluster {
    Cluster::start(3, Duration::from_secs(600)).await
}

#[tokio::test]
async fn inspect_returns_owner_and_waiters_in_order() {
    let cluster = three().await;
    let [a, b, c] = &cluster.nodes[..] else {
        unreachable!()
    };
    let guard = a.lock("k").ttl(LONG).acquire().await.unwrap();
    let first = tokio::spawn(b.lock("k").acquire());
    waits_for(&cluster, "k", 1).await;
    let second = tokio::spawn(c.lock("k").acquire());
    waits_for(&cluster, "k", 2).await;
    for node in &cluster.nodes {
        // The holder confirms its grant to the voters because others wait.
        let told = async {
            loop {
                let seen = node.inspect("k").await.unwrap();
                if seen.owner().is_some_and(|owner| owner.confirmed) {
                    return seen;
                }
            }
        };
        let seen = within("an owner that is confirmed", told).await;
        assert_eq!((seen.key.as_str(), seen.voters), ("k", 3));
        assert!(seen.answered >= 2);
        let owner = seen.owner().cloned().expect("an owner");
        assert_eq!((owner.node.as_str(), owner.epoch), ("n0", guard.epoch()));
        assert!(owner.remaining > Duration::from_secs(400), "{owner:?}");
        assert!(owner.remaining <= LONG, "{owner:?}");
        let waiters: Vec<_> = seen.waiters.iter().map(|w| w.node.as_str()).collect();
        assert_eq!(waiters, ["n1", "n2"]);
        assert!(guard.epoch() < seen.waiters[0].epoch);
        assert!(seen.waiters[0].epoch < seen.waiters[1].epoch);
    }
    guard.release().await.unwrap();
    let guard = within("the first", first).await.unwrap().unwrap();
    let owner = a
        .inspect("k")
        .await
        .unwrap()
        .owner()
        .cloned()
        .expect("an owner");
    assert_eq!((owner.node.as_str(), owner.epoch), ("n1", guard.epoch()));
    guard.release().await.unwrap();
    let guard = within("the second", second).await.unwrap().unwrap();
    let epoch = guard.epoch();
    guard.release().await.unwrap();
    let look = async {
        loop {
            let seen = a.inspect("k").await.unwrap();
            if seen.owner().is_none() {
                return seen;
            }
        }
    };
    let seen = within("a free key", look).await;
    assert_eq!(seen.fence, epoch);
    assert!(seen.waiters.is_empty());
}

#[tokio::test]
async fn inspect_of_unused_key_returns_no_owner() {
    let cluster = three().await;
    let seen = cluster.nodes[0].inspect("k").await.unwrap();
    assert_eq!(seen.owner(), None);
    assert_eq!(seen.fence, Epoch::default());
    assert!(seen.waiters.is_empty());
}

#[tokio::test]
async fn inspection_serializes_to_json() {
    let cluster = three().await;
    let guard = cluster.nodes[0]
        .lock("k")
        .ttl(LONG)
        .acquire()
        .await
        .unwrap();
    let waiting = tokio::spawn(cluster.nodes[1].lock("k").acquire());
    waits_for(&cluster, "k", 1).await;
    let seen = cluster.nodes[2].inspect("k").await.unwrap();
    let json = serde_json::to_value(&seen).unwrap();
    assert_eq!(json["key"], "k");
    assert_eq!(json["voters"], 3);
    assert_eq!(json["state"]["held"]["node"], "n0");
    assert_eq!(json["state"]["held"]["epoch"], guard.epoch().get());
    assert_eq!(json["waiters"][0]["node"], "n1");
    assert!(json["state"]["held"]["remaining"]["secs"].as_u64().unwrap() <= 500);
    waiting.abort();
}

#[tokio::test]
async fn inspect_without_quorum_is_an_error() {
    let cluster = three().await;
    let asks = cluster.named("asks").try_timeout(Duration::from_secs(2));
    let asks = asks.start().await.unwrap();
    let ids: Vec<_> = cluster.nodes.iter().map(Mesh::id).cloned().collect();
    crate::common::sees_all(&asks).await;
    cluster.links.partition(&[asks.id()], &ids[1..]);
    let error = asks.inspect("k").await.unwrap_err();
    let expected = InspectError::NoQuorum {
        answered: 1,
        voters: 3,
    };
    assert_eq!(error, expected);
    assert_eq!(error.to_string(), "only 1 of 3 voters answered");
    let error = asks.inspect("").await.unwrap_err();
    assert!(matches!(error, InspectError::Key(_)));
    // Two of three voters are a quorum.
    cluster.links.heal();
    cluster.links.partition(&[asks.id()], &ids[2..]);
    assert_eq!(asks.inspect("k").await.unwrap().answered, 2);
}

#[tokio::test]
async fn status_lists_members_clients_and_held_locks() {
    let cluster = three().await;
    let client = cluster.client("client").await;
    let guard = client.lock("k").ttl(LONG).acquire().await.unwrap();
    let waiting = tokio::spawn(cluster.nodes[1].lock("k").acquire());
    waits_for(&cluster, "k", 1).await;
    let mut status = client.status();
    // On a busy machine gossip may mark a member dead for a moment.
    until("it sees all members", || {
        status = client.status();
        let mut members = status.members.iter();
        status.is_ready && members.all(|it| it.is_reachable && it.is_alive == Some(true))
    })
    .await;
    assert_eq!(status.node.as_str(), "client");
    assert_eq!(status.listen, client.local_addr());
    assert_eq!((status.held, status.waiting), (1, 0));
    assert_eq!((status.voters_per_key, status.voter_set.version), (3, 1));
    assert_eq!(status.timing, timing(Duration::from_secs(600)));
    // The client is no voter: it has no quarantine and no keys.
    assert!(status.is_ready && status.quarantine.is_none());
    assert_eq!((status.voter_keys, status.voter_waiters), (0, 0));
    let names: Vec<_> = status.members.iter().map(|m| m.node.as_str()).collect();
    assert_eq!(names, ["n0", "n1", "n2"]);
    for (member, node) in status.members.iter().zip(&cluster.nodes) {
        assert_eq!(member.addr, Some(node.local_addr()));
        assert_eq!(member.is_alive, Some(true));
    }
    assert!(status.others.is_empty());
    let voter = &cluster.nodes[1];
    until("the voters know the client", || {
        voter.status().others.len() == 1
    })
    .await;
    let status = voter.status();
    assert_eq!((status.held, status.waiting), (0, 1));
    assert_eq!((status.voter_keys, status.voter_waiters), (1, 1));
    assert_eq!(status.others[0].node.as_str(), "client");
    assert_eq!(status.others[0].addr, client.local_addr());
    assert!(status.traffic.datagrams_in > 0 && status.traffic.datagrams_out > 0);
    let json = serde_json::to_value(&status).unwrap();
    assert_eq!(json["node"], "n1");
    assert_eq!(json["members"][0]["node"], "n0");
    assert_eq!(json["others"][0]["node"], "client");
    assert_eq!(json["quarantine"], serde_json::Value::Null);
    assert_eq!(json["voter_waiters"], 1);
    assert!(guard.is_held());
    waiting.abort();
}

#[tokio::test]
async fn status_reports_quarantine_and_dropped_datagrams() {
    let cluster = three().await;
    cluster.nodes[2].abort();
    let again = cluster.builder(2).start().await.unwrap();
    let noise = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    noise.send_to(b"!", again.local_addr()).unwrap();
    until("the noise is counted", || {
        !again.status().traffic.dropped.is_empty()
    })
    .await;
    let status = again.status();
    let left = status.quarantine.expect("a quarantine");
    assert!(left > Duration::from_secs(500) && left < Duration::from_secs(700));
    assert!(!status.is_ready);
    let json = serde_json::to_value(&status).unwrap();
    assert!(json["quarantine"]["secs"].as_u64().unwrap() > 500);
    assert!(json["traffic"]["dropped"].is_object(), "{json}");
    // A voter in quarantine refuses; the other two are a quorum.
    let guard = within("two of three", again.lock("k").acquire()).await;
    assert!(guard.unwrap().is_held());
    cluster.nodes[1].abort();
    let request = again.lock("l").acquire_timeout(Duration::from_secs(1));
    let error = request.acquire().await.unwrap_err().to_string();
    assert!(error.contains("in quarantine after a restart"), "{error}");
}

#[tokio::test]
async fn node_in_quarantine_is_not_ready() {
    let alone = Mesh::builder("n0").voters(["n0"]).listen("127.0.0.1:0");
    let alone = alone.secret(key()).start().await.unwrap();
    let error = alone.ready(Duration::from_millis(100)).await.unwrap_err();
    assert_eq!((error.reachable, error.members), (0, 1));
    let text = error.to_string();
    assert_eq!(text, "not ready in 100ms: 0 of 1 members can be counted on");
}

#[tokio::test]
async fn node_without_quorum_is_not_ready() {
    let cluster = three().await;
    for node in &cluster.nodes {
        node.ready(Duration::ZERO).await.unwrap();
    }
    let lonely = Mesh::builder("n0")
        .voters(["n0", "n1", "n2"])
        .listen("127.0.0.1:0")
        .secret(key());
    let lonely = lonely.bootstrap().start().await.unwrap();
    let error = lonely.ready(Duration::from_millis(50)).await.unwrap_err();
    assert_eq!(error.members, 3);
    assert!(error.reachable <= 1, "{error}");
}

#[tokio::test]
async fn observer_with_any_patience_sees_all_members() {
    let cluster = Cluster::start(3, Duration::from_secs(30)).await;
    for patience in [
        Duration::MAX,
        Observer::PATIENCE_MAX,
        Duration::from_secs(60),
    ] {
        let observer = Observer::sealed([cluster.nodes[0].local_addr().to_string()], key());
        let mut observer = observer.patience(patience);
        let survey = within("a survey", observer.survey()).await.unwrap();
        assert_eq!((survey.answered(), survey.voting()), (3, 3), "{patience:?}");
    }
}

#[tokio::test]
async fn plaintext_mesh_can_be_observed() {
    let mesh = Mesh::builder("n0").voters(["n0"]).insecure_plaintext();
    let mesh = mesh.bootstrap().start().await.unwrap();
    let guard = mesh.lock("k").ttl(LONG / 100).acquire().await.unwrap();
    let mut observer = Observer::insecure_plaintext([mesh.local_addr().to_string()]);
    let survey = within("a survey", observer.survey_with_locks(9)).await;
    let survey = survey.unwrap();
    assert_eq!((survey.voting(), survey.locks.len()), (1, 1));
    let seen = within("an inspection", observer.inspect("k"))
        .await
        .unwrap();
    assert_eq!(seen.owner().map(|owner| owner.epoch), Some(guard.epoch()));
}

#[tokio::test]
async fn unrequested_answer_is_counted_and_dropped() {
    let mesh = Mesh::builder("n0").voters(["n0"]).insecure_plaintext();
    let mesh = mesh.bootstrap().start().await.unwrap();
    let mut seal = Seal::insecure_plaintext().of_cluster("lockmesh");
    let answer = seal.seal(DatagramKind::Answer, b"anything");
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.send_to(&answer, mesh.local_addr()).unwrap();
    until("it is counted", || {
        let dropped = mesh.status().traffic.dropped;
        dropped == [(DropReason::Misaddressed, 1)].into()
    })
    .await;
}
