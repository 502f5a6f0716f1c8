//! Requests: what the contract suite does not test.

use std::time::Duration;

use lockmesh::{AcquireError, Mesh};
use lockmesh_proto::{RefuseReason, RequestError, VoterLimits};

use crate::common::{nodes, secret, sees_all, three_and_client, until, voters, within};

const MAX_TTL: Duration = Duration::from_secs(600);
const LONG: Duration = Duration::from_secs(500);

#[tokio::test]
async fn requests_beyond_max_claims_are_refused() {
    let cluster = voters(3, MAX_TTL).await;
    let mesh = cluster.client("few").unwrap().max_claims(2);
    let mesh = mesh.start().await.unwrap();
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

#[tokio::test]
async fn timeout_error_counts_silent_voters() {
    let cluster = three_and_client(MAX_TTL).await;
    let client = cluster.node(3);
    cluster.partition([3], [0, 1]);
    let waited = Duration::from_secs(1);
    let error = client.lock("k").acquire_timeout(waited).acquire().await;
    assert_eq!(
        error.unwrap_err().to_string(),
        "timed out after 1s: 1 of 3 votes (2 did not answer)"
    );
    // The timeout returns the one vote that the claim had.
    until("the vote is given back", || {
        let mut nodes = nodes(&cluster).into_iter();
        nodes.all(|node| node.status().voter_keys == 0)
    })
    .await;
    cluster.heal();
    let patient = client.lock("k").acquire_timeout(Duration::MAX).ttl(LONG);
    let guard = within("its turn", patient.acquire()).await.unwrap();
    let request = cluster.node(0).lock("k").acquire_timeout(waited);
    let error = request.acquire().await.unwrap_err().to_string();
    let epoch = guard.epoch();
    let expected = format!(
        "timed out after 1s: 0 of 3 votes (3 with another claim ahead); held by n3 under epoch \
         {epoch} for at least "
    );
    let held_for = error.strip_prefix(&expected);
    assert!(held_for.is_some_and(|it| it.ends_with(" s")), "{error}");
    let request = client.lock("other").acquire_timeout(Duration::ZERO);
    let error = within("its end", request.acquire()).await.unwrap_err();
    assert!(matches!(error, AcquireError::TimedOut { .. }));
    assert!(guard.is_held());
}

#[tokio::test]
async fn voter_at_waiter_limit_refuses_with_reason() {
    let limits = VoterLimits {
        waiters_max: 1,
        ..VoterLimits::default()
    };
    let tight = Mesh::builder("n0").voters(["n0"]).listen("127.0.0.1:0");
    let tight = tight.secret(secret()).limits(limits).bootstrap();
    let tight = tight.start().await.unwrap();
    let _guard = tight.lock("k").acquire().await.unwrap();
    let waiting = tokio::spawn(tight.lock("k").acquire());
    until("one waits", || tight.status().voter_waiters == 1).await;
    let request = tight.lock("k").acquire_timeout(Duration::from_millis(300));
    let error = request.acquire().await.unwrap_err();
    let text = error.to_string();
    let AcquireError::TimedOut { answers, .. } = error else {
        panic!("{text}")
    };
    assert_eq!(answers.reason, Some(RefuseReason::Limit));
    assert!(
        text.contains("it has reached its limit of claims"),
        "{text}"
    );
    waiting.abort();
}

#[tokio::test]
async fn request_before_cluster_start_waits_for_quorum() {
    let start = async |name: &str, seeds: &[String]| {
        let builder = Mesh::builder(name).listen("127.0.0.1:0").secret(secret());
        let builder = builder.voters(["n0", "n1", "n2"]).seeds(seeds);
        let builder = builder.gossip_interval(Duration::from_millis(50));
        builder.bootstrap().start().await.unwrap()
    };
    let first = start("n0", &[]).await;
    let waiting = tokio::spawn(first.lock("k").acquire());
    until("it waits", || first.status().waiting == 1).await;
    let seeds = [first.local_addr().to_string()];
    let _others = [start("n1", &seeds).await, start("n2", &seeds).await];
    let guard = within("its turn", waiting).await.unwrap().unwrap();
    assert!(guard.is_held());
    sees_all(&first).await;
}
