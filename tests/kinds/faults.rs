//! Semaphores and several keys over links that are cut.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lockmesh::{Guard, LeaseLost, LockAllError, Mesh, SemaphoreError};
use lockmesh_harness::LocalMesh;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::common::{Ledger, nodes, settings, until, voters, with_clients, within};

const PERMITS: usize = 3;
const KEYS: [&str; 4] = ["a", "b", "c", "d"];

/// The holders of permits, and how many there are at once.
#[derive(Default)]
struct Pool {
    inside: Mutex<Vec<Arc<Guard>>>,
    most: AtomicU64,
}

impl Pool {
    /// Adds permits, and counts those that are held. A guard that is held when it is counted was
    /// also held when the count began, so all that are counted were held at one instant.
    fn enter(&self, permits: &[Arc<Guard>]) {
        let mut inside = self.inside.lock().unwrap();
        inside.retain(|guard| guard.is_held());
        inside.extend_from_slice(permits);
        let held = inside.iter().filter(|guard| guard.is_held()).count();
        self.most.fetch_max(held as u64, Ordering::SeqCst);
    }

    fn leave(&self, permits: &[Arc<Guard>]) {
        let is_one = |guard: &Arc<Guard>| permits.iter().any(|it| Arc::ptr_eq(it, guard));
        self.inside.lock().unwrap().retain(|guard| !is_one(guard));
    }
}

struct Worker {
    mesh: Mesh,
    ledger: Arc<Ledger>,
    pool: Arc<Pool>,
    rng: SmallRng,
}

impl Worker {
    async fn work(mut self, stop: Arc<AtomicBool>) {
        while !stop.load(Ordering::SeqCst) {
            let patience = Duration::from_millis(self.rng.random_range(1..3_000));
            // Some callers go away, and some have a timeout.
            let guards = match self.rng.random() {
                true => self.ask(patience).await,
                false => tokio::time::timeout(patience, self.ask(Duration::from_secs(60)))
                    .await
                    .unwrap_or_default(),
            };
            let is_of_pool = |guard: &&Guard| guard.key().starts_with("pool#");
            let are_permits = guards.iter().any(|guard| is_of_pool(&guard));
            let guards = guards.into_iter().filter_map(|it| self.ledger.enter(it));
            let guards: Vec<_> = guards.collect();
            if are_permits {
                self.pool.enter(&guards);
            }
            tokio::time::sleep(Duration::from_millis(self.rng.random_range(0..5))).await;
            self.pool.leave(&guards);
            for guard in guards {
                self.ledger.leave(guard).await;
            }
        }
    }

    /// Asks for permits or for keys.
    async fn ask(&mut self, wait: Duration) -> Vec<Guard> {
        let pool = self.mesh.semaphore("pool", PERMITS);
        let pool = pool.ttl(Duration::from_secs(1)).acquire_timeout(wait);
        let granted = match self.rng.random_range(0..6) {
            0 => pool.try_acquire().await.map(Vec::from_iter),
            1 | 2 => pool.acquire().await.map(|guard| vec![guard]),
            3 => pool
                .acquire_many(self.rng.random_range(1..=PERMITS))
                .await
                .map(|guards| guards.into_guards()),
            _ => return self.ask_for_keys(wait).await,
        };
        match granted {
            Ok(guards) => guards,
            Err(SemaphoreError::Acquire(late)) => late_is_all(&late.error),
            Err(error) => panic!("{error}"),
        }
    }

    async fn ask_for_keys(&mut self, wait: Duration) -> Vec<Guard> {
        let mut keys: Vec<_> = KEYS.iter().filter(|_| self.rng.random()).copied().collect();
        keys.push("e");
        // In any order.
        keys.sort_by_key(|_| self.rng.random::<u32>());
        let all = self.mesh.lock_all(keys.iter().copied());
        let all = all.ttl(Duration::from_secs(1)).acquire_timeout(wait);
        let granted = match self.rng.random() {
            true => all.acquire().await.map(Some),
            false => all.try_acquire().await,
        };
        match granted {
            Ok(None) => Vec::new(),
            Ok(Some(guards)) => {
                let locked: BTreeSet<_> = guards.keys().collect();
                assert_eq!(locked, BTreeSet::from_iter(keys));
                guards.into_guards()
            }
            Err(LockAllError::Acquire(late)) => late_is_all(&late.error),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Checks that a request failed since its time was over.
fn late_is_all(error: &lockmesh::AcquireError) -> Vec<Guard> {
    use lockmesh::AcquireError::{TimedOut, Unconfirmed};
    assert!(
        matches!(error, TimedOut { .. } | Unconfirmed { .. }),
        "{error}"
    );
    Vec::new()
}

/// Each node in turn is cut off until its locks are lost, while the others go on.
async fn cut_each_node_off(cluster: &LocalMesh, ledger: &Ledger) {
    for victim in 0..cluster.size() {
        let others = (0..cluster.size()).filter(|it| *it != victim);
        cluster.partition([victim], others);
        let mesh = cluster.node(victim);
        until("the locks of the node are lost", || mesh.status().held == 0).await;
        let before = ledger.grants();
        until("grants beside the cut", || ledger.grants() > before + 30).await;
        cluster.heal();
        until("the node is served", || mesh.status().held > 0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn permits_and_sets_survive_cuts_and_cancellations() {
    let cluster = voters(5, Duration::from_secs(2)).await;
    let (ledger, pool) = (Arc::new(Ledger::default()), Arc::new(Pool::default()));
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = Vec::new();
    for (n, mesh) in nodes(&cluster).into_iter().enumerate() {
        for task in 0..3 {
            let worker = Worker {
                mesh: mesh.clone(),
                ledger: ledger.clone(),
                pool: pool.clone(),
                rng: SmallRng::seed_from_u64((3 * n + task) as u64),
            };
            tasks.push(tokio::spawn(worker.work(stop.clone())));
        }
    }
    cut_each_node_off(&cluster, &ledger).await;
    let links = cluster.every_link().loss(0.1).duplicate(0.1);
    links.delay(Duration::ZERO..Duration::from_millis(4));
    let before = ledger.grants();
    until("grants over lossy links", || ledger.grants() > before + 100).await;
    cluster.heal();
    stop.store(true, Ordering::SeqCst);
    for task in tasks {
        within("a worker", task).await.unwrap();
    }
    ledger.check();
    let most = pool.most.load(Ordering::SeqCst);
    assert!(most <= PERMITS as u64, "{most} permits were out at once");
    assert!(most > 1, "permits were out together");
    for mesh in nodes(&cluster) {
        let permits = mesh.semaphore("pool", PERMITS).acquire_many(PERMITS);
        drop(within("all permits", permits).await.unwrap());
        drop(
            within("all keys", mesh.lock_all(KEYS).acquire())
                .await
                .unwrap(),
        );
    }
    until("the voters forget", || {
        let nodes = nodes(&cluster);
        nodes.iter().all(|node| node.status().voter_keys == 0)
    })
    .await;
}

#[tokio::test]
async fn claims_for_all_permits_share_datagrams() {
    let cluster = with_clients(3, 2, Duration::from_secs(60)).await;
    let [a, b] = [cluster.node(3), cluster.node(4)];
    let permits = 30;
    let all = a.semaphore("pool", permits).acquire_many(permits);
    let all = within("all permits", all).await.unwrap();
    let sent = || b.status().traffic.datagrams_out;
    let before = sent();
    let waiting = tokio::spawn(b.semaphore("pool", permits).acquire());
    until("it waits for each", || b.status().waiting == permits).await;
    // One to each voter for a try, its withdrawal and all claims.
    let sent = sent() - before;
    assert!(sent < permits as u64, "{sent} datagrams");
    drop(all);
    drop(within("a permit", waiting).await.unwrap().unwrap());
}

/// Returns the only voter of `key`.
async fn voter_of(cluster: &LocalMesh, key: &str) -> usize {
    let voters = || (0..3).map(|n| cluster.node(n).status().voter_keys);
    let guard = cluster.node(3).lock(key).acquire().await.unwrap();
    let voter = voters().position(|keys| keys == 1).unwrap();
    guard.release().await.unwrap();
    until("the voters forget", || voters().all(|keys| keys == 0)).await;
    voter
}

/// Starts three voters, of which each key has one, and two clients. Returns two keys of different
/// voters, in order, and their voters.
async fn two_voters(max_ttl: Duration) -> (LocalMesh, [String; 2], [usize; 2]) {
    let settings = settings(3, 2, max_ttl).voters_per_key(1);
    let cluster = settings.start().await.unwrap();
    let first = voter_of(&cluster, "k0").await;
    for n in 1.. {
        let key = format!("k{n}");
        let other = voter_of(&cluster, &key).await;
        if other != first {
            return (cluster, ["k0".to_owned(), key], [first, other]);
        }
    }
    unreachable!("a thousand keys do not have one voter")
}

/// Each client is near the voter of one key, and gets that key first.
#[tokio::test]
async fn one_of_two_tries_with_a_part_each_is_granted() {
    let (cluster, keys, [first, other]) = two_voters(Duration::from_secs(60)).await;
    let delay = Duration::from_millis(50);
    for (client, voter) in [(3, other), (4, first)] {
        cluster.link(client, voter).delay(delay..delay * 2);
    }
    for round in 0..3 {
        let try_all = |client| cluster.node(client).lock_all(&keys).try_acquire();
        let tried = async { tokio::join!(try_all(3), try_all(4)) };
        let (one, two) = within("both answers", tried).await;
        let granted: Vec<_> = [one.unwrap(), two.unwrap()].into_iter().flatten().collect();
        assert_eq!(granted.len(), 1, "round {round}");
        drop(granted);
        let voters = || (0..3).map(|n| cluster.node(n).status().voter_keys);
        until("the voters forget", || voters().all(|keys| keys == 0)).await;
    }
}

#[tokio::test]
async fn guards_are_lost_with_the_first_of_them() {
    let (cluster, [_, other], [first, _]) = two_voters(Duration::from_secs(2)).await;
    let client = cluster.node(3);
    let guards = client.lock_all(["k0", &other]).acquire().await.unwrap();
    cluster.cut(3, first);
    let work = guards.run(std::future::pending::<()>());
    assert_eq!(within("the loss", work).await, Err(LeaseLost));
    let held: Vec<_> = guards.guards().iter().map(Guard::is_held).collect();
    assert_eq!(held, [false, true], "the other lock is renewed");
    assert!(!guards.is_held() && guards.remaining().is_zero());
    let error = guards.release().await.unwrap_err();
    assert_eq!(error.key, "k0");
    let freed = cluster.node(1).lock(&other).acquire();
    drop(within("the other lock", freed).await.unwrap());

    // A lease that is lost while the request waits for the next key is taken anew.
    cluster.heal();
    let taken = within("it", cluster.node(1).lock(&other).acquire())
        .await
        .unwrap();
    let waiting = tokio::spawn(client.lock_all(["k0", &other]).acquire());
    until("the first key is held", || client.status().held == 1).await;
    cluster.cut(3, first);
    until("it is lost", || client.status().held == 0).await;
    let k0 = cluster.node(1).lock("k0").acquire();
    drop(within("the lost key", k0).await.unwrap());
    cluster.heal();
    until("it is held again", || client.status().held == 1).await;
    taken.release().await.unwrap();
    let guards = within("both keys", waiting).await.unwrap().unwrap();
    assert!(guards.is_held());
}
