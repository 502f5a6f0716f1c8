//! Ticks that run once, and marks of plain locks.
//!
//! The tests of one rule each run in memory under a paused clock. Quarantines of the real clusters
//! last ten minutes: a test that waits for one fails.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use lockmesh::status::{RefuseReason, VoterLimits};
use lockmesh::{AcquireError, Durability, Epoch, MarkError, Mesh, OnceError, Outcome};
use lockmesh_harness::{InMemoryLocks, LocalMesh};

use crate::common::{PATIENCE, nodes, settings, until, within};

const MAX_TTL: Duration = Duration::from_secs(600);
const TTL: Duration = Duration::from_secs(10);
const KEEP: Duration = Duration::from_secs(3_600);

/// Runs a tick at a node. Returns the outcome, whose output is the epoch.
async fn run(mesh: Mesh, tick: &str) -> Outcome<Epoch> {
    let request = mesh.once("report", tick).ttl(TTL).wait(PATIENCE);
    let done = request.run(async |epoch| epoch);
    within("the tick", done).await.unwrap()
}

/// Asks every node for a tick that ran. All say who ran it.
async fn all_say_it_ran(cluster: &LocalMesh, tick: &str, by: &str, epoch: Epoch) {
    for node in nodes(cluster) {
        let said = run(node, tick).await;
        let by = by.to_owned();
        assert_eq!(said, Outcome::AlreadyRan { by, epoch });
    }
}

async fn all_are_ready(cluster: &LocalMesh) {
    let are_ready = || nodes(cluster).iter().all(|node| node.status().is_ready);
    until("all are ready", are_ready).await;
}

/// All nodes ask for a tick at the same time. Returns the node that ran it, and its epoch.
async fn all_at_once(cluster: &LocalMesh, tick: &'static str) -> (String, Epoch) {
    let runs = Arc::new(AtomicU32::new(0));
    let asks = nodes(cluster).into_iter().map(|node| {
        let runs = runs.clone();
        tokio::spawn(async move {
            let request = node.once("report", tick).ttl(TTL).wait(PATIENCE);
            let outcome = request.run(async |epoch| {
                runs.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(20)).await;
                epoch
            });
            (
                node.id().to_string(),
                within("the tick", outcome).await.unwrap(),
            )
        })
    });
    let (mut ran, mut others) = (Vec::new(), Vec::new());
    for ask in asks.collect::<Vec<_>>() {
        match ask.await.unwrap() {
            (node, Outcome::Ran(epoch)) => ran.push((node, epoch)),
            (_, Outcome::AlreadyRan { by, epoch }) => others.push((by, epoch)),
            (node, outcome) => panic!("{node}: {outcome:?}"),
        }
    }
    assert_eq!((ran.len(), others.len()), (1, cluster.size() - 1));
    assert!(
        others.iter().all(|other| *other == ran[0]),
        "{ran:?} {others:?}"
    );
    assert_eq!(runs.load(Ordering::SeqCst), 1);
    ran.remove(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tick_runs_once_over_restarts_with_directories() {
    let settings = settings(5, 0, MAX_TTL).patience(PATIENCE);
    let cluster = settings
        .data_dirs(Durability::Process)
        .start()
        .await
        .unwrap();
    let (by, epoch) = all_at_once(&cluster, "noon").await;
    all_say_it_ran(&cluster, "noon", &by, epoch).await;
    for n in 0..5 {
        cluster.crash(n).await;
        cluster.restart(n).await.unwrap();
        all_are_ready(&cluster).await;
    }
    all_say_it_ran(&cluster, "noon", &by, epoch).await;
    let (_, next) = all_at_once(&cluster, "one").await;
    assert!(next > epoch);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tick_runs_once_over_handovers() {
    let settings = settings(3, 1, MAX_TTL).patience(PATIENCE);
    let cluster = settings.start().await.unwrap();
    let (by, epoch) = all_at_once(&cluster, "noon").await;
    for n in 0..3 {
        let left = within("the shutdown", cluster.shutdown(n)).await;
        assert_eq!(left.handed_over_to.len(), 1);
        cluster.restart(n).await.unwrap();
        all_are_ready(&cluster).await;
    }
    all_say_it_ran(&cluster, "noon", &by, epoch).await;
}

/// Without memory they read the marks of the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tick_runs_once_over_crashes_without_memory() {
    let max_ttl = Duration::from_secs(2);
    let settings = settings(3, 0, max_ttl).patience(PATIENCE);
    let cluster = settings.start().await.unwrap();
    let first = cluster.node(0);
    let request = first.once("report", "noon").ttl(max_ttl / 2).keep_for(KEEP);
    let outcome = within("the tick", request.run(async |epoch| epoch)).await;
    let Outcome::Ran(epoch) = outcome.unwrap() else {
        panic!("nobody else asks");
    };
    for n in 0..3 {
        cluster.crash(n).await;
        cluster.restart(n).await.unwrap();
        all_are_ready(&cluster).await;
        cluster.wait_until_stable().await.unwrap();
    }
    for node in nodes(&cluster) {
        let request = node.once("report", "noon").ttl(max_ttl / 2).wait(PATIENCE);
        let said = within("the tick", request.run(async |_| ())).await.unwrap();
        assert_eq!(
            said,
            Outcome::AlreadyRan {
                by: "n0".to_owned(),
                epoch
            }
        );
    }
}

#[tokio::test(start_paused = true)]
async fn tick_of_dead_runner_runs_at_another() {
    let locks = InMemoryLocks::new();
    let (a, b) = (locks.node("a"), locks.node("b"));
    let runs = tokio::spawn(a.once("job", 1).ttl(TTL).run(|_| pending::<()>()));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let next = tokio::spawn(b.once("job", 1).ttl(TTL).run(async |epoch| epoch));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!next.is_finished());
    locks.cut_off("a");
    let lost = runs.await.unwrap();
    assert_eq!(lost, Err(OnceError::LeaseLost));
    assert!(matches!(next.await.unwrap(), Ok(Outcome::Ran(_))));
    locks.reconnect("a");
    let said = a.once("job", 1).ttl(TTL).run(async |_| ()).await;
    assert!(matches!(said, Ok(Outcome::AlreadyRan { by, .. }) if by == "b"));
}

/// The process ends in the middle, which drops the work.
#[tokio::test(start_paused = true)]
async fn tick_is_given_back_if_its_future_is_dropped() {
    let locks = InMemoryLocks::new();
    let (a, b) = (locks.node("a"), locks.node("b"));
    let runs = tokio::spawn(a.once("job", 1).ttl(TTL).run(|_| pending::<()>()));
    tokio::time::sleep(Duration::from_secs(1)).await;
    runs.abort();
    let began = tokio::time::Instant::now();
    let next = b.once("job", 1).ttl(TTL).run(async |_| 7).await;
    assert_eq!(next, Ok(Outcome::Ran(7)));
    assert!(began.elapsed() < TTL, "no lease had to expire");
}

#[tokio::test(start_paused = true)]
async fn running_tick_is_told_apart() {
    let locks = InMemoryLocks::new();
    let (a, b) = (locks.node("a"), locks.node("b"));
    let (say, epoch) = tokio::sync::oneshot::channel();
    let runs = tokio::spawn(a.once("job", 1).ttl(TTL).run(move |epoch| {
        say.send(epoch).unwrap();
        pending::<()>()
    }));
    let epoch = epoch.await.unwrap();
    let began = tokio::time::Instant::now();
    let said = b
        .once("job", 1)
        .wait(Duration::ZERO)
        .run(async |_| ())
        .await;
    assert_eq!(said, Ok(Outcome::Running { by: None }));
    assert!(began.elapsed() < Duration::from_secs(1));
    let wait = Duration::from_secs(3);
    let said = b.once("job", 1).wait(wait).run(async |_| ()).await;
    let by = Some(("a".to_owned(), epoch));
    assert_eq!(said, Ok(Outcome::Running { by }));
    assert!(began.elapsed() >= wait);
    runs.abort();
}

#[tokio::test(start_paused = true)]
async fn failed_work_gives_its_tick_back() {
    let locks = InMemoryLocks::new();
    let (a, b) = (locks.node("a"), locks.node("b"));
    let failed = a
        .once("job", 1)
        .try_run(async |_| Err::<(), _>("no disk"))
        .await;
    assert_eq!(failed, Ok(Outcome::Failed("no disk")));
    let ran = b.once("job", 1).try_run(async |_| Ok::<_, &str>(3)).await;
    assert_eq!(ran, Ok(Outcome::Ran(3)));
    let said = a
        .once("job", 1)
        .try_run(async |_| Err::<(), _>("again"))
        .await;
    assert!(matches!(said, Ok(Outcome::AlreadyRan { by, .. }) if by == "b"));
    // With `run`, an error is an output as any other.
    let ran = a.once("job", 2).run(async |_| Err::<(), _>("done")).await;
    assert_eq!(ran, Ok(Outcome::Ran(Err("done"))));
}

#[tokio::test(start_paused = true)]
async fn bad_requests_run_nothing() {
    let locks = InMemoryLocks::new();
    let node = locks.node("a");
    let never = async |_: Epoch| panic!("it runs");
    let said: Result<Outcome<()>, _> = node.once("job", "a@b").run(never).await;
    assert_eq!(
        said,
        Err(OnceError::Tick {
            tick: "a@b".to_owned()
        })
    );
    for keep_for in [Duration::ZERO, Duration::from_secs(8 * 86_400)] {
        let request = node.once("job", 1).keep_for(keep_for);
        let said: Result<Outcome<()>, _> = request.run(never).await;
        assert_eq!(said, Err(OnceError::KeepFor { keep_for }));
    }
    let long = "x".repeat(257);
    let said: Result<Outcome<()>, _> = node.once(long, 1).run(never).await;
    assert!(matches!(
        said,
        Err(OnceError::Acquire(AcquireError::Key(_)))
    ));
    // The job may contain what separates it from the tick.
    assert_eq!(
        node.once("a@b", "c").run(async |_| 1).await,
        Ok(Outcome::Ran(1))
    );
    assert_eq!(
        node.once("a", "c").run(async |_| 2).await,
        Ok(Outcome::Ran(2))
    );
}

#[tokio::test(start_paused = true)]
async fn no_quorum_is_an_error() {
    let locks = InMemoryLocks::new();
    let node = locks.node("a");
    locks.cut_off("a");
    for wait in [Duration::ZERO, Duration::from_secs(5)] {
        let said = node.once("job", 1).wait(wait).run(async |_| ()).await;
        let is_timeout = matches!(said, Err(OnceError::Acquire(AcquireError::TimedOut { .. })));
        assert!(is_timeout, "{said:?}");
    }
}

/// The work is done, but the voters cannot be reached any more.
#[tokio::test(start_paused = true)]
async fn unmarked_tick_is_an_error() {
    let locks = InMemoryLocks::new();
    let node = locks.node("a");
    let cut = locks.clone();
    let request = node.once("job", 1).ttl(TTL);
    let said = request.run(async move |_| cut.cut_off("a")).await;
    assert!(matches!(said, Err(OnceError::NotMarked(_))), "{said:?}");
}

#[tokio::test(start_paused = true)]
async fn marked_lock_ends_plain_requests() {
    let locks = InMemoryLocks::new();
    let (a, b) = (locks.node("a"), locks.node("b"));
    let guard = a.lock("k").ttl(TTL).acquire().await.unwrap();
    let waits = tokio::spawn(b.lock("k").acquire());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!waits.is_finished());
    guard.mark(KEEP).await.unwrap();
    let done = AcquireError::Done {
        by: "a".to_owned(),
        epoch: guard.epoch(),
    };
    assert_eq!(waits.await.unwrap().map(drop), Err(done.clone()));
    assert!(guard.is_held());
    tokio::time::sleep(TTL * 3).await;
    assert!(guard.is_held(), "it is renewed as before");
    guard.release().await.unwrap();
    assert_eq!(b.lock("k").acquire().await.map(drop), Err(done.clone()));
    assert_eq!(a.lock("k").try_acquire().await.map(drop), Err(done));
    tokio::time::sleep(KEEP * 2).await;
    assert!(b.lock("k").try_acquire().await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn later_mark_lasts_its_own_time() {
    let locks = InMemoryLocks::new();
    let node = locks.node("a");
    let guard = node.lock("k").ttl(TTL).acquire().await.unwrap();
    // Two at once, and another one after them.
    let (first, second) = tokio::join!(guard.mark(KEEP / 4), guard.mark(KEEP / 2));
    assert_eq!((first, second), (Ok(()), Ok(())));
    guard.mark(KEEP).await.unwrap();
    let keep_for = Duration::ZERO;
    assert_eq!(
        guard.mark(keep_for).await,
        Err(MarkError::KeepFor { keep_for })
    );
    guard.release().await.unwrap();
    tokio::time::sleep(KEEP - TTL).await;
    let said = node.lock("k").try_acquire().await;
    assert!(matches!(said, Err(AcquireError::Done { .. })), "{said:?}");
}

#[tokio::test(start_paused = true)]
async fn mark_without_quorum_can_be_repeated() {
    let locks = InMemoryLocks::new();
    let node = locks.node("a");
    let guard = node
        .lock("k")
        .ttl(Duration::from_secs(30))
        .acquire()
        .await
        .unwrap();
    locks.cut_off("a");
    let said = guard.mark(KEEP).await;
    assert!(matches!(said, Err(MarkError::NoQuorum { .. })), "{said:?}");
    locks.reconnect("a");
    guard.mark(KEEP).await.unwrap();
    locks.cut_off("a");
    guard.lost().await;
    assert_eq!(guard.mark(KEEP).await, Err(MarkError::NotHeld));
}

#[tokio::test(start_paused = true)]
async fn full_voters_are_an_error() {
    let limits = VoterLimits {
        marks_max: 2,
        ..VoterLimits::default()
    };
    let locks = InMemoryLocks::like(Mesh::builder("any").limits(limits)).unwrap();
    let node = locks.node("a");
    for tick in 0..2 {
        let ran = node
            .once("job", tick)
            .keep_for(KEEP)
            .run(async |_| ())
            .await;
        assert_eq!(ran, Ok(Outcome::Ran(())));
    }
    // It is refused before the work, which could not be marked.
    let said = node.once("job", 2).run(async |_| panic!("it runs")).await;
    let Err(OnceError::Acquire(AcquireError::TimedOut { answers, .. })) = said else {
        panic!("{said:?}");
    };
    assert_eq!(answers.reason, Some(RefuseReason::Limit));
    tokio::time::sleep(KEEP * 2).await;
    let ran = node.once("job", 2).run(async |_| ()).await;
    assert_eq!(ran, Ok(Outcome::Ran(())));
}
