//! Elections: who leads, for how long, and who learns of it.

use std::time::Duration;

use lockmesh::{Leader, Leadership, Mesh, MeshBuilder};
use lockmesh_harness::InMemoryLocks;
use tokio::sync::watch;
use tokio::time::{Instant, advance, sleep};

use crate::common::{three_and_client, until, within};

const TTL: Duration = Duration::from_secs(6);
const SECOND: Duration = Duration::from_secs(1);
const NAME: &str = "scheduler";

type Watch = watch::Receiver<Leader>;

fn locks() -> InMemoryLocks {
    InMemoryLocks::like(MeshBuilder::lan("any").ttl(TTL)).unwrap()
}

async fn campaign(mesh: &Mesh) -> Leadership {
    mesh.election(NAME).campaign().await.unwrap()
}

fn watch(mesh: &Mesh) -> Watch {
    mesh.election(NAME).watch().unwrap()
}

fn leads(mesh: &Mesh, leadership: &Leadership) -> Leader {
    let (node, epoch) = (mesh.id().clone(), leadership.epoch());
    Leader::Known { node, epoch }
}

/// Waits until each of the watchers has the value. Returns the time until the last had it.
async fn all_learn(watches: &mut [Watch], leader: &Leader) -> Duration {
    let began = Instant::now();
    for watch in watches {
        let learns = watch.wait_for(|seen| seen == leader);
        within(&format!("{leader}"), learns).await.unwrap();
    }
    began.elapsed()
}

#[tokio::test(start_paused = true)]
async fn one_of_five_candidates_leads_at_once() {
    let locks = locks();
    let nodes = ["a", "b", "c", "d", "e"].map(|name| locks.node(name));
    let mut watches = vec![watch(&nodes[0]), watch(&locks.node("client"))];
    let (elected, mut leaders) = tokio::sync::mpsc::channel(5);
    for mesh in &nodes {
        let (mesh, elected) = (mesh.clone(), elected.clone());
        tokio::spawn(async move {
            let leadership = campaign(&mesh).await;
            elected.send((mesh, leadership)).await.unwrap();
        });
    }
    let mut last = None;
    for _ in &nodes {
        let (mesh, leadership) = leaders.recv().await.unwrap();
        sleep(2 * TTL).await;
        assert!(leaders.try_recv().is_err(), "the others wait");
        assert!(leadership.is_held());
        assert!(last < Some(leadership.epoch()));
        last = Some(leadership.epoch());
        assert_eq!(
            all_learn(&mut watches, &leads(&mesh, &leadership)).await,
            Duration::ZERO
        );
        assert!(
            nodes[0]
                .election(NAME)
                .try_campaign()
                .await
                .unwrap()
                .is_none()
        );
        leadership.resign().await.unwrap();
    }
    assert!(all_learn(&mut watches, &Leader::None).await < SECOND);
}

#[tokio::test(start_paused = true)]
async fn next_candidate_leads_after_each_kind_of_end() {
    let locks = locks();
    let [a, b, w] = ["a", "b", "w"].map(|name| locks.node(name));
    let mut watches = [watch(&a), watch(&b), watch(&w)];
    for end in ["resign", "drop", "guard", "crash"] {
        let first = campaign(&a).await;
        assert!(all_learn(&mut watches, &leads(&a, &first)).await < SECOND);
        let candidate = b.clone();
        let next = tokio::spawn(async move { campaign(&candidate).await });
        sleep(SECOND).await;
        assert!(!next.is_finished());
        let (began, epoch) = (Instant::now(), first.epoch());
        match end {
            "resign" => first.resign().await.unwrap(),
            "drop" => drop(first),
            "guard" => first.into_guard().release().await.unwrap(),
            _ => a.abort(),
        }
        let next = within(end, next).await.unwrap();
        let took = began.elapsed();
        assert_eq!(took > SECOND, end == "crash", "{end}: after {took:?}");
        assert!(took < TTL + SECOND && next.epoch() > epoch);
        // The node that crashed has no watchers any more.
        let watches = &mut watches[usize::from(end == "crash")..];
        assert!(
            all_learn(watches, &leads(&b, &next)).await < SECOND,
            "{end}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn leader_without_messages_is_lost_before_next_leads() {
    let locks = locks();
    let [a, b, w] = ["a", "b", "w"].map(|name| locks.node(name));
    let mut watches = [watch(&a), watch(&b), watch(&w)];
    let first = campaign(&a).await;
    let old = leads(&a, &first);
    all_learn(&mut watches, &old).await;
    let candidate = b.clone();
    let next = tokio::spawn(async move { campaign(&candidate).await });
    let work = first.run(sleep(10 * TTL));
    locks.cut_off("a");
    let began = Instant::now();
    assert!(work.await.is_err(), "its own clock ends it");
    assert!(began.elapsed() <= TTL && !next.is_finished());
    first.lost().await;
    assert!(!first.is_held());
    // It does not say that it leads until it can ask.
    assert!(all_learn(&mut watches[..1], &Leader::Unknown).await < SECOND / 2);
    let next = within("the next leader", next).await.unwrap();
    assert!(next.epoch() > first.epoch());
    assert!(all_learn(&mut watches[1..], &leads(&b, &next)).await < SECOND);
    assert_eq!(*watches[0].borrow(), Leader::Unknown);
    locks.reconnect("a");
    assert!(all_learn(&mut watches, &leads(&b, &next)).await < SECOND);
    assert!(first.resign().await.is_err(), "it was over");
    sleep(SECOND).await;
    assert_eq!(*watches[0].borrow(), leads(&b, &next));
}

/// The whole process stands still, for longer than the lease.
#[tokio::test(start_paused = true)]
async fn paused_process_no_longer_leads_when_it_resumes() {
    let locks = locks();
    let [a, w] = ["a", "w"].map(|name| locks.node(name));
    let mut watches = [watch(&a), watch(&w)];
    let first = campaign(&a).await;
    all_learn(&mut watches, &leads(&a, &first)).await;
    advance(10 * TTL).await;
    assert!(!first.is_held());
    assert!(all_learn(&mut watches, &Leader::None).await < SECOND);
    let again = campaign(&a).await;
    assert!(again.epoch() > first.epoch());
    assert!(all_learn(&mut watches, &leads(&a, &again)).await < SECOND);
}

#[tokio::test(start_paused = true)]
async fn silent_leader_is_known_no_longer_than_its_lease() {
    let short = Duration::from_millis(700);
    for ttl in [short, TTL] {
        let locks = locks();
        let [a, w] = ["a", "w"].map(|name| locks.node(name));
        let mut watch = watch(&w);
        let first = a.election(NAME).ttl(ttl).campaign().await.unwrap();
        all_learn(std::slice::from_mut(&mut watch), &leads(&a, &first)).await;
        // A lease that is renewed is known all the time.
        let lasts = tokio::time::timeout(10 * TTL, watch.changed()).await;
        assert!(lasts.is_err(), "{:?}", *watch.borrow());
        locks.cut_off("a");
        let began = Instant::now();
        watch.changed().await.unwrap();
        // The votes outlast the lease by the drift of the clocks.
        let took = began.elapsed();
        assert!(
            ttl / 2 < took && took <= ttl + ttl / 50,
            "{took:?} of {ttl:?}"
        );
        assert!(!first.is_held());
        assert!(all_learn(&mut [watch], &Leader::None).await < SECOND);
    }
}

#[tokio::test(start_paused = true)]
async fn leader_is_unknown_while_cut_off_from_voters() {
    let locks = locks();
    let [a, b, w] = ["a", "b", "w"].map(|name| locks.node(name));
    let mut watches = [watch(&w)];
    let first = campaign(&a).await;
    all_learn(&mut watches, &leads(&a, &first)).await;
    locks.cut_off("w");
    assert!(all_learn(&mut watches, &Leader::Unknown).await < SECOND);
    first.resign().await.unwrap();
    let next = campaign(&b).await;
    sleep(10 * TTL).await;
    assert_eq!(*watches[0].borrow(), Leader::Unknown);
    locks.reconnect("w");
    assert!(all_learn(&mut watches, &leads(&b, &next)).await < SECOND);
}

#[tokio::test(start_paused = true)]
async fn watch_begun_while_leading_follows_own_lease() {
    let locks = locks();
    let a = locks.node("a");
    let first = campaign(&a).await;
    let mut watches = [watch(&a)];
    all_learn(&mut watches, &leads(&a, &first)).await;
    locks.cut_off("a");
    first.lost().await;
    assert!(all_learn(&mut watches, &Leader::Unknown).await < SECOND / 2);
    locks.reconnect("a");
    drop(first);
    assert!(all_learn(&mut watches, &Leader::None).await < SECOND);
}

#[tokio::test(start_paused = true)]
async fn watch_says_unknown_and_ends_with_mesh() {
    let locks = locks();
    let [a, b, c] = ["a", "b", "c"].map(|name| locks.node(name));
    let leadership = campaign(&a).await;
    let leader = leads(&a, &leadership);
    for (mesh, end) in [(b, "shutdown"), (c, "abort"), (a, "shutdown")] {
        let mut seen = watch(&mesh);
        all_learn(std::slice::from_mut(&mut seen), &leader).await;
        match end {
            "shutdown" => drop(mesh.shutdown().await),
            _ => mesh.abort(),
        }
        within("the end", async { while seen.changed().await.is_ok() {} }).await;
        assert_eq!(*seen.borrow(), Leader::Unknown, "{end}");
        // So does one that begins later.
        let mut late = watch(&mesh);
        within("the end", async { while late.changed().await.is_ok() {} }).await;
        assert_eq!(*late.borrow(), Leader::Unknown, "{end}");
    }
}

#[tokio::test(start_paused = true)]
async fn watch_does_not_keep_its_mesh_running() {
    let mesh = MeshBuilder::single("a").insecure_plaintext();
    let mesh = mesh.start().await.unwrap();
    let mut seen = watch(&mesh);
    drop(mesh);
    within("the end", async { while seen.changed().await.is_ok() {} }).await;
    assert_eq!(*seen.borrow(), Leader::Unknown);
}

/// Returns the datagrams that the node sends in ten seconds.
async fn datagrams(mesh: &Mesh) -> u64 {
    let sent = || mesh.status().traffic.datagrams_out;
    let before = sent();
    sleep(10 * SECOND).await;
    sent() - before
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_watchers_cost_what_one_costs() {
    let locks = locks();
    let [a, w] = ["a", "w"].map(|name| locks.node(name));
    sleep(SECOND).await;
    let idle = datagrams(&w).await;
    let one = watch(&w);
    let of_one = datagrams(&w).await - idle;
    // One each half second, to the one voter.
    assert!((19..=21).contains(&of_one), "{of_one} datagrams");
    let mut many: Vec<_> = (0..10_000).map(|_| watch(&w)).collect();
    let of_many = datagrams(&w).await - idle;
    assert!(
        of_many <= of_one + 1,
        "{of_many} datagrams instead of {of_one}"
    );
    let leadership = campaign(&a).await;
    assert!(all_learn(&mut many, &leads(&a, &leadership)).await < SECOND);
    drop((one, many));
    sleep(SECOND).await;
    assert!(datagrams(&w).await <= idle + 1, "nobody watches");
    // The node that leads knows it without asking.
    let without = datagrams(&a).await;
    let own = watch(&a);
    assert!(datagrams(&a).await <= without + 1);
    drop((own, leadership));
    assert!(datagrams(&a).await <= idle + 2, "nobody leads or watches");
}

/// More than the inspections that a node runs at once.
#[tokio::test(start_paused = true)]
async fn thousands_of_elections_are_watched_at_once() {
    let locks = locks();
    let [a, w] = ["a", "w"].map(|name| locks.node(name));
    let name = |n: usize| format!("{NAME}{n}");
    let mut watches: Vec<_> = (0..3_000)
        .map(|n| w.election(name(n)).watch().unwrap())
        .collect();
    sleep(2 * SECOND).await;
    assert!(all_learn(&mut watches, &Leader::None).await < SECOND);
    let leadership = a.election(name(7)).campaign().await.unwrap();
    let leader = leads(&a, &leadership);
    assert!(all_learn(&mut watches[7..8], &leader).await < SECOND);
    assert!(all_learn(&mut watches[8..], &Leader::None).await < SECOND);
}

#[tokio::test(start_paused = true)]
async fn watchers_that_come_and_go_are_served() {
    let locks = locks();
    let [a, w] = ["a", "w"].map(|name| locks.node(name));
    let mut epoch = None;
    for round in 0..50 {
        let leadership = campaign(&a).await;
        assert!(epoch < Some(leadership.epoch()));
        epoch = Some(leadership.epoch());
        let mut watches = [watch(&w), watch(&a)];
        if round % 2 == 0 {
            // The last receiver goes, and a new one comes before the task has run.
            watches = [watch(&w), watch(&a)];
            drop(watches);
            watches = [watch(&w), watch(&a)];
        }
        let learnt = all_learn(&mut watches, &leads(&a, &leadership)).await;
        assert!(learnt < SECOND, "round {round}");
        drop(leadership);
        assert!(all_learn(&mut watches, &Leader::None).await < SECOND);
    }
}

#[tokio::test]
async fn name_that_is_too_long_is_refused() {
    let mesh = MeshBuilder::single("a").insecure_plaintext();
    let mesh = mesh.start().await.unwrap();
    let election = mesh.election("x".repeat(249));
    assert!(election.watch().is_ok());
    drop(election.campaign().await.unwrap());
    let election = mesh.election("x".repeat(250));
    let error = election.watch().unwrap_err();
    let refused = election.campaign().await.unwrap_err();
    assert!(matches!(refused, lockmesh::AcquireError::Key(it) if it == error));
}

/// Over real nodes, with three voters.
#[tokio::test]
async fn watchers_of_real_nodes_learn_each_change() {
    let cluster = three_and_client(Duration::from_secs(4)).await;
    let nodes = [0, 1, 2, 3].map(|n| cluster.node(n));
    let mut watches = nodes.each_ref().map(watch);
    let first = campaign(&nodes[0]).await;
    let old = leads(&nodes[0], &first);
    all_learn(&mut watches, &old).await;
    // The client reaches one voter of three.
    cluster.partition([3], [1, 2]);
    all_learn(&mut watches[3..], &Leader::Unknown).await;
    cluster.heal();
    all_learn(&mut watches, &old).await;
    // The leader is paused: it loses its lease by its own clock, and another node is elected.
    cluster.pause(0);
    let next = within("the next leader", campaign(&nodes[1])).await;
    assert!(next.epoch() > first.epoch() && !first.is_held());
    all_learn(&mut watches[1..], &leads(&nodes[1], &next)).await;
    until("the old one knows", || *watches[0].borrow() != old).await;
    cluster.resume(0);
    all_learn(&mut watches, &leads(&nodes[1], &next)).await;
    // No quorum is left.
    cluster.crash(1).await;
    cluster.crash(0).await;
    all_learn(&mut watches[2..], &Leader::Unknown).await;
    cluster.restart(0).await.unwrap();
    all_learn(&mut watches[2..], &Leader::None).await;
    let last = within("the last leader", campaign(&nodes[3])).await;
    assert!(last.epoch() > next.epoch());
    all_learn(&mut watches[2..], &leads(&nodes[3], &last)).await;
}
