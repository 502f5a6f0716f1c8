//! One node that renews 300 locks together.

use std::time::Duration;

use lockmesh::Guard;

use crate::common::{three_and_client, until, within};

const TTL: Duration = Duration::from_secs(3);
const LOCKS: usize = 300;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewals_of_many_locks_share_messages() {
    let cluster = three_and_client(TTL).await;
    let holder = cluster.node(3);
    let mut guards: Vec<Guard> = Vec::new();
    for n in 0..LOCKS {
        let acquired = holder.lock(format!("many/{n}")).ttl(TTL).acquire();
        guards.push(within("a free lock", acquired).await.unwrap());
    }
    let traffic = || holder.status().traffic;
    let kept = || {
        assert!(guards.iter().all(Guard::is_held), "a lock is lost");
        traffic().sessions_kept
    };
    // By then each lock was renewed once on its own, and keep-alives cover all of them.
    until("sessions are kept", || kept() >= 9).await;
    let before = traffic();
    let rounds = before.sessions_kept + 9;
    until("sessions are kept for three more rounds", || {
        kept() >= rounds
    })
    .await;
    let messages = traffic().messages_out - before.messages_out;
    assert!(messages < LOCKS as u64, "{messages} messages");
    for guard in guards.split_off(LOCKS / 2) {
        guard.release().await.unwrap();
    }
    for (n, is_held) in [(0, true), (LOCKS / 2, false), (LOCKS - 1, false)] {
        let known = async {
            let (key, voter) = (format!("many/{n}"), cluster.node(0));
            while voter.inspect(&key).await.unwrap().owner().is_some() != is_held {}
        };
        within("the voters know", known).await;
    }
    assert!(guards.iter().all(Guard::is_held));
}
