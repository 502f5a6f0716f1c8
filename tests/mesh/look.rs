//! The results of `inspect`, `status` and the observer.

use std::time::Duration;

use lockmesh::observe::Observer;
use lockmesh::status::{DropReason, Inspection};
use lockmesh::{AcquireError, Epoch, InspectError, Mesh, Note};
use lockmesh_proto::{DatagramKind, Seal};

use crate::common::{
    nodes, secret, settings, three_and_client, timing, until, voters, waits_for, within,
};

const MAX_TTL: Duration = Duration::from_secs(600);
const LONG: Duration = Duration::from_secs(500);

/// The note of the holder, for those that inspect its lock and those that wait for it.
#[tokio::test]
async fn note_is_shown_to_people_and_waiters() {
    let cluster = voters(3, MAX_TTL).await;
    let [a, b, c] = [0, 1, 2].map(|n| cluster.node(n));
    let note = "deploy 812 by ci";
    let guard = a.lock("k").ttl(LONG).note(note).acquire().await.unwrap();
    assert_eq!(guard.note().map(Note::as_str), Some(note));
    let waits = b.lock("k").note("rollback").acquire();
    let waits = tokio::spawn(waits);
    waits_for(&c, "k", 1).await;
    let seen = within("both notes", async {
        loop {
            let seen = c.inspect("k").await.unwrap();
            if seen.waiters.iter().any(|waiter| waiter.note.is_some()) {
                return seen;
            }
        }
    })
    .await;
    let owner = seen.owner().unwrap();
    assert_eq!(owner.note.as_ref(), guard.note());
    assert_eq!(seen.waiters[0].note, Some(Note::new("rollback").unwrap()));
    let late = c.lock("k").acquire_timeout(Duration::from_millis(500));
    let error = late.acquire().await.unwrap_err();
    let text = error.to_string();
    let AcquireError::TimedOut {
        holder: Some(holder),
        ..
    } = error
    else {
        panic!("{text}")
    };
    assert_eq!((holder.node.as_str(), holder.epoch), ("n0", guard.epoch()));
    assert_eq!(holder.note.as_ref(), guard.note());
    assert!(holder.held_for >= Duration::from_millis(400), "{text}");
    assert!(text.ends_with(" s: deploy 812 by ci"), "{text}");
    // Another survey, over several locks.
    let lists = [a.lock_all(["x", "y"]).note(note).acquire().await.unwrap()];
    let leader = a.election("z").note(note).campaign().await.unwrap();
    assert_eq!(leader.guard().note().map(Note::as_str), Some(note));
    let mut observer = Observer::sealed([b.local_addr().to_string()], secret());
    let survey = observer.survey_with_locks(100).await.unwrap();
    let with_note = |lock: &Inspection| lock.owner().is_some_and(|it| it.note.is_some());
    let keys = survey.locks.iter().filter(|lock| with_note(lock));
    let keys: Vec<_> = keys.map(|lock| lock.key.as_str()).collect();
    assert_eq!(keys, ["k", "x", "y", "z#leader"]);
    drop(lists);
    waits.abort();
}

#[tokio::test]
async fn invalid_note_fails_the_request() {
    let cluster = voters(1, MAX_TTL).await;
    let mesh = cluster.node(0);
    for note in ["", "a\nb", &"n".repeat(129)] {
        let expected = Note::new(note).unwrap_err();
        let error = mesh.lock("k").note(note).acquire().await.unwrap_err();
        assert_eq!(error, AcquireError::Note(expected.clone()));
        assert_eq!(error.to_string(), expected.to_string());
        let tried = mesh.lock("k").note(note).try_acquire().await;
        assert_eq!(tried.unwrap_err(), AcquireError::Note(expected));
    }
}

#[tokio::test]
async fn inspect_returns_owner_and_waiters_in_order() {
    let cluster = voters(3, MAX_TTL).await;
    let [a, b, c] = [0, 1, 2].map(|n| cluster.node(n));
    let seen = a.inspect("k").await.unwrap();
    assert_eq!((seen.owner(), seen.fence), (None, Epoch::default()));
    assert!(seen.waiters.is_empty());
    let guard = a.lock("k").ttl(LONG).acquire().await.unwrap();
    let first = tokio::spawn(b.lock("k").acquire());
    waits_for(&a, "k", 1).await;
    let second = tokio::spawn(c.lock("k").acquire());
    waits_for(&a, "k", 2).await;
    for node in [&a, &b, &c] {
        // The holder confirms its grant to the voters because others wait.
        let confirmed = async {
            loop {
                let seen = node.inspect("k").await.unwrap();
                if seen.owner().is_some_and(|owner| owner.confirmed) {
                    return seen;
                }
            }
        };
        let seen = within("an owner that is confirmed", confirmed).await;
        assert_eq!((seen.key.as_str(), seen.voters), ("k", 3));
        assert!(seen.answered >= 2);
        let owner = seen.owner().expect("an owner");
        assert_eq!((owner.node.as_str(), owner.epoch), ("n0", guard.epoch()));
        assert!(owner.remaining > Duration::from_secs(400), "{owner:?}");
        assert!(owner.remaining <= LONG, "{owner:?}");
        let waiters: Vec<_> = seen.waiters.iter().map(|w| w.node.as_str()).collect();
        assert_eq!(waiters, ["n1", "n2"]);
        assert!(guard.epoch() < seen.waiters[0].epoch);
        assert!(seen.waiters[0].epoch < seen.waiters[1].epoch);
        let json = serde_json::to_value(&seen).unwrap();
        assert_eq!((&json["key"], &json["voters"]), (&"k".into(), &3.into()));
        let held = &json["state"]["held"];
        assert_eq!(held["node"], "n0");
        assert_eq!(held["epoch"], guard.epoch().get());
        assert!(held["remaining"]["secs"].as_u64().unwrap() <= 500);
        assert_eq!(json["waiters"][0]["node"], "n1");
    }
    guard.release().await.unwrap();
    let guard = within("the first", first).await.unwrap().unwrap();
    let seen = a.inspect("k").await.unwrap();
    let owner = seen.owner().expect("an owner");
    assert_eq!((owner.node.as_str(), owner.epoch), ("n1", guard.epoch()));
    guard.release().await.unwrap();
    let guard = within("the second", second).await.unwrap().unwrap();
    let epoch = guard.epoch();
    guard.release().await.unwrap();
    let free = async {
        loop {
            let seen = a.inspect("k").await.unwrap();
            if seen.owner().is_none() {
                return seen;
            }
        }
    };
    let seen = within("a free key", free).await;
    assert_eq!(seen.fence, epoch);
    assert!(seen.waiters.is_empty());
}

#[tokio::test]
async fn inspect_without_quorum_is_an_error() {
    let patience = Duration::from_secs(2);
    let settings = settings(3, 1, MAX_TTL).configure(move |it| it.try_timeout(patience));
    let cluster = settings.start().await.unwrap();
    let asks = cluster.node(3);
    cluster.partition([3], [1, 2]);
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
    cluster.link(3, 1).mend();
    assert_eq!(asks.inspect("k").await.unwrap().answered, 2);
}

#[tokio::test]
async fn status_lists_members_clients_and_held_locks() {
    let cluster = three_and_client(MAX_TTL).await;
    let client = cluster.node(3);
    let guard = client.lock("k").ttl(LONG).acquire().await.unwrap();
    let waiting = tokio::spawn(cluster.node(1).lock("k").acquire());
    let voters = &nodes(&cluster)[..3];
    until("it waits at each voter", || {
        voters.iter().all(|it| it.status().voter_waiters == 1)
    })
    .await;
    let mut status = client.status();
    // On a busy machine gossip may mark a member dead for a moment.
    until("it sees all members", || {
        status = client.status();
        let mut members = status.members.iter();
        status.is_ready && members.all(|it| it.is_reachable && it.is_alive == Some(true))
    })
    .await;
    assert_eq!(status.node.as_str(), "n3");
    assert_eq!(status.listen, client.local_addr());
    assert_eq!((status.held, status.waiting), (1, 0));
    assert_eq!((status.voters_per_key, status.voter_set.version), (3, 1));
    assert_eq!(status.timing, timing(MAX_TTL));
    // The client is no voter: it has no quarantine and no keys.
    assert!(status.quarantine.is_none());
    assert_eq!((status.voter_keys, status.voter_waiters), (0, 0));
    let seen = status.members.iter().map(|it| (it.node.clone(), it.addr));
    let voters = voters
        .iter()
        .map(|it| (it.id().clone(), Some(it.local_addr())));
    assert_eq!(Vec::from_iter(seen), Vec::from_iter(voters));
    assert!(status.others.is_empty());
    let voter = &cluster.node(1);
    until("the voters know the client", || {
        voter.status().others.len() == 1
    })
    .await;
    let status = voter.status();
    assert_eq!((status.held, status.waiting), (0, 1));
    assert_eq!((status.voter_keys, status.voter_waiters), (1, 1));
    assert_eq!(status.others[0].node.as_str(), "n3");
    assert_eq!(status.others[0].addr, client.local_addr());
    assert!(status.traffic.datagrams_in > 0 && status.traffic.datagrams_out > 0);
    let json = serde_json::to_value(&status).unwrap();
    assert_eq!(json["node"], "n1");
    assert_eq!(json["members"][0]["node"], "n0");
    assert_eq!(json["others"][0]["node"], "n3");
    assert_eq!(json["quarantine"], serde_json::Value::Null);
    assert_eq!(json["voter_waiters"], 1);
    assert!(json["traffic"]["dropped"].is_object(), "{json}");
    assert!(guard.is_held());
    waiting.abort();
}

#[tokio::test]
async fn observer_with_any_patience_sees_all_members() {
    let cluster = voters(3, MAX_TTL).await;
    for patience in [
        Duration::MAX,
        Observer::PATIENCE_MAX,
        Duration::from_secs(60),
    ] {
        let seeds = [cluster.node(0).local_addr().to_string()];
        let mut observer = Observer::sealed(seeds, secret()).patience(patience);
        let survey = within("a survey", observer.survey()).await.unwrap();
        assert_eq!((survey.answered(), survey.voting()), (3, 3), "{patience:?}");
    }
}

/// It can be observed, and counts an answer that it did not ask for.
#[tokio::test]
async fn plaintext_mesh_can_be_observed() {
    let mesh = Mesh::builder("n0").voters(["n0"]).insecure_plaintext();
    let mesh = mesh.listen("127.0.0.1:0").bootstrap().start();
    let mesh = mesh.await.unwrap();
    let guard = mesh.lock("k").ttl(LONG / 100).acquire().await.unwrap();
    let mut observer = Observer::insecure_plaintext([mesh.local_addr().to_string()]);
    let survey = within("a survey", observer.survey_with_locks(9)).await;
    let survey = survey.unwrap();
    assert_eq!((survey.voting(), survey.locks.len()), (1, 1));
    let seen = within("an inspection", observer.inspect("k")).await;
    let epoch = seen.unwrap().owner().map(|owner| owner.epoch);
    assert_eq!(epoch, Some(guard.epoch()));
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
