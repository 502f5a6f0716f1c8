//! Three, five and seven nodes: crowds, lossy links, crashes, partitions. Whatever happens, the
//! ledger sees no two holders at once and no epoch that does not rise.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lockmesh::harness::Fault;
use lockmesh::{AcquireError, Mesh};

use crate::common::{Cluster, Ledger, until, within, work};
use crate::guard::waits_for;

/// Several tasks on each node lock a few keys, over and over.
async fn fight(nodes: &[Mesh], tasks: usize, keys: usize, rounds: usize) -> Arc<Ledger> {
    let ledger = Arc::new(Ledger::default());
    let mut workers = Vec::new();
    for (n, node) in nodes.iter().enumerate() {
        for task in 0..tasks {
            let key = format!("k{}", (n + task) % keys);
            workers.push(tokio::spawn(work(
                node.clone(),
                key,
                rounds,
                ledger.clone(),
            )));
        }
    }
    let expected = (workers.len() * rounds) as u64;
    for worker in workers {
        within("a worker", worker).await.unwrap();
    }
    ledger.check();
    // A lease is far longer than a turn, but on a machine that stands still it may be over.
    assert!(
        ledger.grants() > expected / 2,
        "{} of {expected}",
        ledger.grants()
    );
    ledger
}

async fn contended(size: usize) {
    let cluster = Cluster::start(size, Duration::from_secs(30)).await;
    fight(&cluster.nodes, 6, 3, 12).await;
    for node in &cluster.nodes {
        assert_eq!((node.status().held, node.status().waiting), (0, 0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_fight_over_a_few_keys_and_nobody_is_left_out() {
    contended(3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_nodes_fight_over_a_few_keys_and_nobody_is_left_out() {
    contended(5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seven_nodes_fight_over_a_few_keys_and_nobody_is_left_out() {
    contended(7).await;
}

/// Each node has a key of its own: nobody waits for anybody, and nothing is left behind.
async fn uncontended(size: usize) {
    let cluster = Cluster::start(size, Duration::from_secs(30)).await;
    fight(&cluster.nodes, 1, size, 40).await;
    // L5: what nobody holds takes no room.
    until("the voters forget", || {
        cluster
            .nodes
            .iter()
            .all(|node| node.status().voter_keys == 0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_with_keys_of_their_own_do_not_meet() {
    uncontended(3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_nodes_with_keys_of_their_own_do_not_meet() {
    uncontended(5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seven_nodes_with_keys_of_their_own_do_not_meet() {
    uncontended(7).await;
}

async fn lossy(size: usize) {
    let cluster = Cluster::start(size, Duration::from_secs(30)).await;
    cluster.links.everywhere(Fault {
        cut: false,
        loss: 0.2,
        duplicate: 0.2,
        delay: Some((Duration::ZERO, Duration::from_millis(4))),
    });
    let rounds = 36 / size;
    fight(&cluster.nodes, 2, 3, rounds).await;
    let dropped = cluster.nodes.iter().map(|node| node.status().traffic);
    let replayed = dropped.map(|traffic| traffic.dropped_for(lockmesh::DropReason::Replayed));
    assert!(replayed.sum::<u64>() > 0, "no duplicate was seen");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_fight_over_links_that_lose_and_double_a_fifth() {
    lossy(3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_nodes_fight_over_links_that_lose_and_double_a_fifth() {
    lossy(5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seven_nodes_fight_over_links_that_lose_and_double_a_fifth() {
    lossy(7).await;
}

/// Workers that go on until they are told to stop.
struct Workers {
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Workers {
    fn start(nodes: &[Mesh], ledger: &Arc<Ledger>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let tasks = nodes.iter().map(|node| {
            let (node, stop, ledger) = (node.clone(), stop.clone(), ledger.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    work(node.clone(), "busy".to_owned(), 1, ledger.clone()).await;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            })
        });
        let tasks = tasks.collect();
        Self { stop, tasks }
    }

    async fn stop(self) {
        self.stop.store(true, Ordering::SeqCst);
        for task in self.tasks {
            within("a worker", task).await.unwrap();
        }
    }
}

async fn progress(ledger: &Ledger) {
    let before = ledger.grants();
    until("twenty more grants", || ledger.grants() >= before + 20).await;
}

/// The last node crashes while it holds a lock, comes back without memory, and votes again; then
/// the first one crashes, so that a quorum needs it. Depends on real time where it takes a guard
/// to be held: a machine that does not run it for a second breaks it.
async fn crash_and_recovery(size: usize) {
    let mut cluster = Cluster::start(size, Duration::from_secs(2)).await;
    let ledger = Arc::new(Ledger::default());
    let last = size - 1;
    let workers = Workers::start(&cluster.nodes[1..last], &ledger);
    let victim = cluster.nodes[last].clone();
    let guard = within("a grant", victim.lock("k").acquire()).await.unwrap();
    let guard = ledger.enter(guard).expect("it is held");
    let waiting = tokio::spawn(cluster.nodes[1].lock("k").acquire());
    waits_for(&cluster, "k", 1).await;
    victim.crash().await;
    let next = within("the take-over", waiting).await.unwrap().unwrap();
    let next = ledger.enter(next).expect("it is held");
    assert!(!guard.is_held());
    progress(&ledger).await;
    cluster.restart(last).await;
    assert!(cluster.nodes[last].status().quarantine.is_some());
    assert!(!cluster.nodes[last].status().is_ready);
    progress(&ledger).await;
    cluster.ready().await;
    ledger.leave(next).await;
    cluster.nodes[0].crash().await;
    // Now it takes the vote of the one that had forgotten, where three vote.
    progress(&ledger).await;
    let again = within("a grant", cluster.nodes[last].lock("k").acquire()).await;
    let again = ledger.enter(again.unwrap()).expect("it is held");
    assert!(again.epoch() > guard.epoch());
    workers.stop().await;
    ledger.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m5_of_three_nodes_one_crashes_comes_back_without_memory_and_is_relied_on_again() {
    crash_and_recovery(3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m5_of_five_nodes_one_crashes_comes_back_without_memory_and_is_relied_on_again() {
    crash_and_recovery(5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m5_of_seven_nodes_one_crashes_comes_back_without_memory_and_is_relied_on_again() {
    crash_and_recovery(7).await;
}

/// The lesser half is cut off while one of it holds a lock. It loses it before the greater half
/// grants it, gets nothing more, and is served again once the links are healed.
async fn partition_and_heal(size: usize) {
    // All vote for each key: with fewer, the lesser half may well have a quorum of a key's.
    let cluster = Cluster::with_voters(size, size, Duration::from_secs(2)).await;
    let ledger = Arc::new(Ledger::default());
    let addrs: Vec<_> = cluster.nodes.iter().map(Mesh::local_addr).collect();
    let most = size / 2 + 1;
    let workers = Workers::start(&cluster.nodes[..most], &ledger);
    let few = &cluster.nodes[size - 1];
    let guard = within("a grant", few.lock("k").acquire()).await.unwrap();
    let guard = ledger.enter(guard).expect("it is held");
    let waiting = tokio::spawn(cluster.nodes[0].lock("k").acquire());
    waits_for(&cluster, "k", 1).await;
    cluster.links.partition(&addrs[..most], &addrs[most..]);
    let next = within("the take-over", waiting).await.unwrap().unwrap();
    assert!(!guard.is_held());
    let next = ledger.enter(next).expect("it is held");
    progress(&ledger).await;
    // M4: gossip sees a small cluster on either side; a quorum is one of the voter set.
    let request = few.lock("fresh").acquire_timeout(Duration::from_secs(1));
    let error = request.clone().try_acquire().await.unwrap_err();
    assert!(matches!(error, AcquireError::TimedOut { .. }), "{error}");
    assert!(request.acquire().await.is_err());
    until("the few see that they are few", || !few.status().is_ready).await;
    let waiting = tokio::spawn(few.lock("k").acquire());
    cluster.links.heal();
    ledger.leave(next).await;
    let healed = within("a grant after the healing", waiting).await.unwrap();
    let healed = ledger.enter(healed.unwrap()).expect("it is held");
    assert!(healed.epoch() > guard.epoch());
    workers.stop().await;
    cluster.ready().await;
    ledger.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m4_one_of_three_that_is_cut_off_loses_its_lock_gets_none_and_is_served_once_healed() {
    partition_and_heal(3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m4_two_of_five_that_are_cut_off_lose_their_lock_get_none_and_are_served_once_healed() {
    partition_and_heal(5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m4_three_of_seven_that_are_cut_off_lose_their_lock_get_none_and_are_served_once_healed() {
    partition_and_heal(7).await;
}
