//! Requests: invalid ones, the order of grants, and the errors of a timeout.

use std::time::Duration;

use lockmesh::{AcquireError, Mesh, NameError};
use lockmesh_proto::{RefuseReason, RequestError, VoterLimits};

use crate::common::{Cluster, sees_all, until, within};
use crate::guard::waits_for;

const LONG: Duration = Duration::from_secs(500);

async fn three() -> Cluster {
    Cluster::start(3, Duration::from_secs(600)).await
}

#[tokio::test]
async fn key_must_have_1_to_256_bytes() {
    let cluster = three().await;
    let mesh = &cluster.nodes[0];
    let error = mesh.lock("").acquire().await.unwrap_err();
    assert!(matches!(error, AcquireError::Key(NameError::Empty { .. })));
    assert_eq!(
        error.to_string(),
        "key is empty; it must have 1 to 256 bytes"
    );
    let error = mesh.lock("k".repeat(257)).try_acquire().await.unwrap_err();
    let AcquireError::Key(NameError::TooLong { len, max, .. }) = error else {
        panic!("{error}")
    };
    assert_eq!((len, max), (257, 256));
    for key in ["k".repeat(256), "ключ\n\0/🔒".to_owned(), " ".to_owned()] {
        let guard = mesh.lock(&key).acquire().await.unwrap();
        assert_eq!(guard.key(), key);
        let other = cluster.nodes[1].lock(&key).try_acquire().await.unwrap();
        assert!(other.is_none());
    }
}

#[tokio::test]
async fn ttl_out_of_bounds_is_refused() {
    let cluster = three().await;
    let request = cluster.nodes[0].lock("k");
    for ttl in [Duration::ZERO, Duration::from_millis(99), Duration::MAX] {
        let error = request.clone().ttl(ttl).acquire().await.unwrap_err();
        let AcquireError::Request(RequestError::Ttl { min, max, .. }) = error else {
            panic!("{error}")
        };
        assert_eq!((min, max.as_secs()), (Duration::from_millis(100), 600));
    }
    let error = request.clone().ttl(Duration::from_secs(601)).try_acquire();
    let text = error.await.unwrap_err().to_string();
    assert_eq!(text, "ttl is 601s; it must be 100ms to 600s");
    let longest = request.ttl(Duration::from_secs(600)).acquire().await;
    assert!(longest.unwrap().is_held());
}

#[tokio::test]
async fn requests_beyond_max_claims_are_refused() {
    let cluster = three().await;
    let mesh = cluster.named("few").max_claims(2).start().await.unwrap();
    let a = mesh.lock("a").acquire().await.unwrap();
    let _b = mesh.lock("b").acquire().await.unwrap();
    let error = mesh.lock("c").acquire().await.unwrap_err();
    let expected = RequestError::TooMany { max: 2 };
    assert_eq!(error, AcquireError::Request(expected));
    assert_eq!(
        error.to_string(),
        "this node already has 2 locks or requests for locks"
    );
    a.release().await.unwrap();
    assert!(mesh.lock("c").acquire().await.unwrap().is_held());
}

/// L2.
#[tokio::test]
async fn waiters_are_granted_in_order() {
    let cluster = three().await;
    let guard = cluster.nodes[0]
        .lock("k")
        .ttl(LONG)
        .acquire()
        .await
        .unwrap();
    let mut waiting = Vec::new();
    for n in 0..6 {
        let request = cluster.nodes[n % 3].lock("k").ttl(LONG);
        waiting.push(tokio::spawn(request.acquire()));
        waits_for(&cluster, "k", n + 1).await;
    }
    // `try_acquire` does not overtake the waiters.
    assert!(
        cluster.nodes[1]
            .lock("k")
            .try_acquire()
            .await
            .unwrap()
            .is_none()
    );
    let mut last = guard.epoch();
    guard.release().await.unwrap();
    for (n, next) in waiting.into_iter().enumerate() {
        let next = within("the next in line", next).await.unwrap().unwrap();
        assert!(next.epoch() > last, "{n}");
        last = next.epoch();
        waits_for(&cluster, "k", 5 - n).await;
        next.release().await.unwrap();
    }
}

#[tokio::test]
async fn timeout_error_counts_silent_voters() {
    let cluster = three().await;
    let client = cluster.client("client").await;
    let ids: Vec<_> = cluster.nodes.iter().map(Mesh::id).cloned().collect();
    cluster.links.partition(&[client.id()], &ids[..2]);
    let waited = Duration::from_secs(1);
    let error = client.lock("k").acquire_timeout(waited).acquire().await;
    assert_eq!(
        error.unwrap_err().to_string(),
        "timed out after 1s: 1 of 3 votes (2 did not answer)"
    );
    // The timeout returns the one vote that the claim had.
    until("the vote is given back", || {
        cluster
            .nodes
            .iter()
            .all(|node| node.status().voter_keys == 0)
    })
    .await;
    cluster.links.heal();
    let guard = client
        .lock("k")
        .acquire_timeout(LONG)
        .acquire()
        .await
        .unwrap();
    assert!(guard.is_held());
}

#[tokio::test]
async fn zero_acquire_timeout_ends_at_once() {
    let cluster = three().await;
    let client = cluster.client("client").await;
    let request = client.lock("k").acquire_timeout(Duration::ZERO);
    let error = within("its end", request.acquire()).await.unwrap_err();
    assert!(matches!(error, AcquireError::TimedOut { .. }));
    let patient = client.lock("k").acquire_timeout(Duration::MAX).acquire();
    assert!(within("its turn", patient).await.unwrap().is_held());
}

#[tokio::test]
async fn voter_at_waiter_limit_refuses_with_reason() {
    let limits = VoterLimits {
        waiters_max: 1,
        ..VoterLimits::default()
    };
    let cluster = Cluster::start(1, Duration::from_secs(600)).await;
    let tight = cluster.nodes[0].clone();
    tight.abort();
    let tight = cluster.builder(0).limits(limits).bootstrap().seeds([""; 0]);
    let tight = tight.start().await.unwrap();
    tight.ready(Duration::from_secs(60)).await.unwrap();
    let guard = tight.lock("k").ttl(LONG).acquire().await.unwrap();
    let waiting = tokio::spawn(tight.lock("k").acquire());
    until("one waits", || tight.status().voter_waiters == 1).await;
    let request = tight.lock("k").acquire_timeout(Duration::from_millis(300));
    let error = request.acquire().await.unwrap_err();
    let AcquireError::TimedOut { answers, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(answers.reason, Some(RefuseReason::Limit));
    assert!(
        error
            .to_string()
            .contains("it has reached its limit of claims"),
        "{error}"
    );
    guard.release().await.unwrap();
    drop(
        within("the one that waited", waiting)
            .await
            .unwrap()
            .unwrap(),
    );
}

#[tokio::test]
async fn request_before_cluster_start_waits_for_quorum() {
    let first = Mesh::builder("n0")
        .listen("127.0.0.1:0")
        .voters(["n0", "n1", "n2"])
        .secret(crate::common::key())
        .bootstrap()
        .gossip_interval(Duration::from_millis(50))
        .start()
        .await
        .unwrap();
    let waiting = tokio::spawn(first.lock("k").acquire());
    until("it waits", || first.status().waiting == 1).await;
    let mut others = Vec::new();
    for name in ["n1", "n2"] {
        let other = Mesh::builder(name)
            .listen("127.0.0.1:0")
            .voters(["n0", "n1", "n2"])
            .seeds([first.local_addr().to_string()])
            .secret(crate::common::key())
            .bootstrap()
            .gossip_interval(Duration::from_millis(50));
        others.push(other.start().await.unwrap());
    }
    assert!(
        within("its turn", waiting)
            .await
            .unwrap()
            .unwrap()
            .is_held()
    );
    sees_all(&first).await;
}
