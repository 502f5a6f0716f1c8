//! Contention, lossy links, crashes and partitions. The ledger must never see overlapping holders or
//! an epoch that does not increase.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lockmesh::status::DropReason;
use lockmesh::{AcquireError, Mesh};

use crate::common::{Ledger, nodes, until, voters, waits_for, within, work};

/// Runs `tasks` tasks on each node, which lock `keys` keys for `rounds` rounds.
async fn fight(nodes: &[Mesh], tasks: usize, keys: usize, rounds: usize) {
    let ledger = Arc::new(Ledger::default());
    let mut workers = Vec::new();
    for (n, node) in nodes.iter().enumerate() {
        for task in 0..tasks {
            let key = format!("k{}", (n + task) % keys);
            let work = work(node.clone(), key, rounds, ledger.clone());
            workers.push(tokio::spawn(work));
        }
    }
    let expected = (workers.len() * rounds) as u64;
    for worker in workers {
        within("a worker", worker).await.unwrap();
    }
    ledger.check();
    // A lease is far longer than a turn, but may end early if the machine pauses.
    let grants = ledger.grants();
    assert!(grants > expected / 2, "{grants} of {expected}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contending_nodes_progress_and_leave_no_state() {
    let cluster = voters(7, Duration::from_secs(30)).await;
    let nodes = nodes(&cluster);
    fight(&nodes, 6, 3, 12).await;
    for node in &nodes {
        assert_eq!((node.status().held, node.status().waiting), (0, 0));
    }
    // L5: voters keep no state for a free key.
    until("the voters forget", || {
        nodes.iter().all(|node| node.status().voter_keys == 0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_lock_over_lossy_links() {
    let cluster = voters(5, Duration::from_secs(30)).await;
    let links = cluster.every_link().loss(0.2).duplicate(0.2);
    links.delay(Duration::ZERO..Duration::from_millis(4));
    let nodes = nodes(&cluster);
    fight(&nodes, 2, 3, 7).await;
    let replayed = |node: &Mesh| node.status().traffic.dropped_for(DropReason::Replayed);
    let replayed: u64 = nodes.iter().map(replayed).sum();
    assert!(replayed > 0, "no duplicate was seen");
}

/// Workers that run until `stop` is called.
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

/// M5: the last node crashes while it holds a lock, restarts without memory, and votes again.
/// Then the first node crashes, so that a quorum needs the restarted voter.
///
/// Depends on real time: it fails if the machine pauses it for 1 s while a guard is held.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crashed_voter_recovers_and_votes() {
    let cluster = voters(3, Duration::from_secs(2)).await;
    let ledger = Arc::new(Ledger::default());
    let workers = Workers::start(&[cluster.node(1)], &ledger);
    let guard = within("a grant", cluster.node(2).lock("k").acquire()).await;
    let guard = ledger.enter(guard.unwrap()).expect("it is held");
    let waiting = tokio::spawn(cluster.node(1).lock("k").acquire());
    waits_for(&cluster.node(1), "k", 1).await;
    cluster.crash(2).await;
    let next = within("the take-over", waiting).await.unwrap().unwrap();
    let next = ledger.enter(next).expect("it is held");
    assert!(!guard.is_held());
    progress(&ledger).await;
    cluster.restart(2).await.unwrap();
    let restarted = cluster.node(2);
    assert!(restarted.status().quarantine.is_some() && !restarted.status().is_ready);
    progress(&ledger).await;
    cluster.wait_until_stable().await.unwrap();
    ledger.leave(next).await;
    cluster.crash(0).await;
    progress(&ledger).await;
    let again = within("a grant", restarted.lock("k").acquire()).await;
    let again = ledger.enter(again.unwrap()).expect("it is held");
    assert!(again.epoch() > guard.epoch());
    workers.stop().await;
    ledger.check();
}

/// M4: a minority is cut off while one of its nodes holds a lock. The holder loses the lock
/// before the other side grants it. The minority acquires nothing until the links are healed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn minority_holds_nothing_until_healed() {
    let cluster = voters(5, Duration::from_secs(2)).await;
    let ledger = Arc::new(Ledger::default());
    let workers = Workers::start(&nodes(&cluster)[..3], &ledger);
    let few = cluster.node(4);
    let guard = within("a grant", few.lock("k").acquire()).await.unwrap();
    let guard = ledger.enter(guard).expect("it is held");
    let waiting = tokio::spawn(cluster.node(0).lock("k").acquire());
    waits_for(&cluster.node(0), "k", 1).await;
    cluster.partition([0, 1, 2], [3, 4]);
    let next = within("the take-over", waiting).await.unwrap().unwrap();
    assert!(!guard.is_held());
    within("lost() of a guard that is lost", guard.lost()).await;
    let next = ledger.enter(next).expect("it is held");
    progress(&ledger).await;
    // A quorum is counted over the voter set, not over the nodes that gossip sees.
    let request = few.lock("fresh").acquire_timeout(Duration::from_secs(1));
    let error = request.clone().try_acquire().await.unwrap_err();
    assert!(matches!(error, AcquireError::TimedOut { .. }), "{error}");
    assert!(request.acquire().await.is_err());
    until("the few see that they are few", || !few.status().is_ready).await;
    let waiting = tokio::spawn(few.lock("k").acquire());
    cluster.heal();
    ledger.leave(next).await;
    let healed = within("a grant after the healing", waiting).await.unwrap();
    let healed = ledger.enter(healed.unwrap()).expect("it is held");
    assert!(healed.epoch() > guard.epoch());
    workers.stop().await;
    cluster.wait_until_stable().await.unwrap();
    ledger.check();
}
