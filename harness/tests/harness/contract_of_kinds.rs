//! The contract of semaphores, of several keys and of elections, tested over each backend.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use lockmesh::{
    AcquireError, Guard, LOCK_ALL_KEYS_MAX, Leader, LeaseLost, LockAllError, Mesh, OfKey,
    PERMITS_MAX, ReleaseError, SemaphoreError,
};
use tokio::time::Instant;

use crate::common::{Backend, over_all_backends, until, waits_for, within};

/// Longer than any of these tests: an event before it elapses did not wait for the lease to end.
const LONG: Duration = Duration::from_secs(50);
const SHORT: Duration = Duration::from_millis(400);

over_all_backends! {
    semaphore_grants_each_permit_once,
    semaphore_serves_waiters_in_order,
    semaphore_grants_all_permits_to_concurrent_tries,
    semaphore_times_out_and_leaves_nothing,
    semaphore_rejects_numbers_and_ids,
    semaphores_are_apart_whatever_their_ids,
    many_permits_are_granted_together,
    many_permits_are_collected_by_one_at_a_time,
    waiter_for_many_is_not_starved,
    dropped_acquire_of_permits_leaves_nothing,
    lock_all_locks_all_keys_or_none,
    lock_all_in_another_order_never_deadlocks,
    lock_all_waits_and_leaves_nothing_when_dropped,
    concurrent_tries_of_overlapping_sets_grant_one,
    lock_all_rejects_its_keys,
    guards_of_all_keys_act_as_one,
    reentry_is_told_and_denied,
    election_has_one_leader_at_a_time,
    election_is_watched_by_every_node,
    dropped_campaign_leaves_nothing,
}

/// Waits until none of the nodes holds or awaits a lock.
async fn nothing_is_left(nodes: &[&Mesh]) {
    until("nothing is left", || {
        nodes
            .iter()
            .all(|node| (node.status().held, node.status().waiting) == (0, 0))
    })
    .await;
}

/// Takes all permits at once, which shows that none has leaked.
async fn all_permits_are_free(mesh: &Mesh, id: &str, permits: usize) {
    let began = Instant::now();
    let all = mesh.semaphore(id, permits).ttl(LONG).acquire_many(permits);
    let all = within("all permits", all).await.unwrap();
    let keys: BTreeSet<_> = all.keys().map(str::to_owned).collect();
    let expected = (0..permits).map(|number| format!("{id}#{number}"));
    assert_eq!(keys, expected.collect());
    assert!(began.elapsed() < LONG, "no lease was waited for");
    // On a slow machine a lease granted from a reservation may be over by now.
    let _ = all.release().await;
}

async fn semaphore_grants_each_permit_once(Backend { a, b, .. }: Backend) {
    let pool = |mesh: &Mesh| mesh.semaphore("pool", 3).ttl(LONG);
    let mut permits = vec![pool(&a).acquire().await.unwrap(), pool(&b).await.unwrap()];
    permits.push(pool(&b).try_acquire().await.unwrap().unwrap());
    let keys: BTreeSet<_> = permits.iter().map(Guard::key).collect();
    assert_eq!(keys, BTreeSet::from(["pool#0", "pool#1", "pool#2"]));
    for mesh in [&a, &b] {
        assert!(pool(mesh).try_acquire().await.unwrap().is_none());
    }
    let (key, epoch) = (permits[0].key().to_owned(), permits[0].epoch());
    permits.remove(0).release().await.unwrap();
    let next = within("a permit", pool(&b).acquire()).await.unwrap();
    assert_eq!(next.key(), key);
    assert!(next.epoch() > epoch);
    drop((permits, next));
    all_permits_are_free(&a, "pool", 3).await;
}

async fn semaphore_serves_waiters_in_order(Backend { a, b, .. }: Backend) {
    let pool = |mesh: &Mesh| mesh.semaphore("pool", 2).ttl(LONG);
    let mut permits = vec![pool(&a).await.unwrap(), pool(&b).await.unwrap()];
    let order = Arc::new(std::sync::Mutex::new(Vec::new()));
    let mut waiters = Vec::new();
    for n in 0..4 {
        let request = if n % 2 == 0 { pool(&b) } else { pool(&a) };
        let order = order.clone();
        waiters.push(tokio::spawn(async move {
            let permit = request.acquire().await.unwrap();
            order.lock().unwrap().push(n);
            permit.release().await.unwrap();
        }));
        // Each of them waits for each permit.
        for key in ["pool#0", "pool#1"] {
            waits_for(&a, key, n + 1).await;
        }
    }
    assert!(pool(&b).try_acquire().await.unwrap().is_none());
    let began = Instant::now();
    permits.remove(0).release().await.unwrap();
    for waiter in waiters {
        within("a turn", waiter).await.unwrap();
    }
    assert!(began.elapsed() < LONG, "no lease was waited for");
    assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3]);
    drop(permits);
    nothing_is_left(&[&a, &b]).await;
}

async fn semaphore_grants_all_permits_to_concurrent_tries(Backend { a, b, .. }: Backend) {
    for round in 0..5 {
        let tries = (0..9).map(|n| {
            let mesh = if n % 2 == 0 { &a } else { &b };
            let request = mesh.semaphore(format!("pool{round}"), 4).ttl(LONG).eager();
            tokio::spawn(request.try_acquire())
        });
        let mut permits = Vec::new();
        for tried in tries.collect::<Vec<_>>() {
            permits.extend(within("an answer", tried).await.unwrap().unwrap());
        }
        assert_eq!(permits.len(), 4, "round {round}");
    }
}

async fn semaphore_times_out_and_leaves_nothing(Backend { a, b, .. }: Backend) {
    let _permit = a.semaphore("pool", 1).ttl(LONG).await.unwrap();
    let patience = Duration::from_secs(2);
    let request = || b.semaphore("pool", 1).acquire_timeout(patience);
    let error = within("the error", request().acquire()).await.unwrap_err();
    let SemaphoreError::Acquire(OfKey { key, error }) = &error else {
        panic!("{error}")
    };
    assert_eq!(key, "pool#0");
    assert!(matches!(error, AcquireError::TimedOut { waited, .. } if *waited == patience));
    waits_for(&a, "pool#0", 0).await;
    assert_eq!(b.status().waiting, 0);
}

async fn semaphore_rejects_numbers_and_ids(Backend { a, .. }: Backend) {
    for permits in [0, PERMITS_MAX + 1] {
        let error = a.semaphore("pool", permits).await.unwrap_err();
        let text = format!("semaphore pool: permits is {permits}; it must be 1 to 64");
        assert_eq!(error.to_string(), text);
    }
    for wanted in [0, 4] {
        let semaphore = a.semaphore("pool", 3);
        let error = semaphore.clone().acquire_many(wanted).await.unwrap_err();
        let text = format!("semaphore pool: {wanted} permits are wanted; it must be 1 to 3");
        assert_eq!(error.to_string(), text);
        let tried = semaphore.try_acquire_many(wanted).await;
        assert_eq!(tried.unwrap_err(), error);
    }
    let long = |bytes| a.semaphore("x".repeat(bytes), PERMITS_MAX);
    assert!(long(253).acquire_many(1).await.is_err());
    assert!(long(251).acquire_many(PERMITS_MAX).await.is_ok());
    let error = a.semaphore("", 1).acquire().await.unwrap_err();
    assert!(error.to_string().contains("is empty"), "{error}");
    let error = long(255).acquire().await.unwrap_err();
    assert!(
        matches!(error, SemaphoreError::Acquire(ref it) if matches!(it.error, AcquireError::Key(_))),
        "{error}"
    );
}

async fn semaphores_are_apart_whatever_their_ids(Backend { a, .. }: Backend) {
    let mut permits = Vec::new();
    for id in ["#", "##", "a", "a#", "a#0", "a#0#0", "a#many"] {
        permits.push(a.semaphore(id, 1).try_acquire().await.unwrap().unwrap());
        let many = a.semaphore(id, 1).try_acquire_many(1).await.unwrap();
        assert!(many.is_none(), "{id}");
    }
    let keys: BTreeSet<_> = permits.iter().map(Guard::key).collect();
    assert_eq!(keys.len(), permits.len());
}

async fn many_permits_are_granted_together(Backend { a, b, .. }: Backend) {
    let pool = |mesh: &Mesh| mesh.semaphore("pool", 4).ttl(LONG);
    let three = pool(&a).acquire_many(3).await.unwrap();
    assert_eq!(three.guards().len(), 3);
    assert!(three.is_held() && three.remaining() > LONG / 2);
    assert!(pool(&b).try_acquire_many(2).await.unwrap().is_none());
    // The failed try has given its permit back.
    let one = within("the last", pool(&b).acquire_many(1)).await.unwrap();
    assert!(pool(&a).try_acquire().await.unwrap().is_none());
    let waits = tokio::spawn(pool(&b).acquire_many(3));
    waits_for(&a, one.keys().next().unwrap(), 1).await;
    three.release().await.unwrap();
    let three = within("three permits", waits).await.unwrap().unwrap();
    assert_eq!(three.guards().len(), 3);
    drop((one, three));
    all_permits_are_free(&a, "pool", 4).await;
}

/// Two that want three of four permits would wait for each other if each kept two.
async fn many_permits_are_collected_by_one_at_a_time(Backend { a, b, .. }: Backend) {
    let began = Instant::now();
    let workers = (0..6).map(|n| {
        let mesh = if n % 2 == 0 { a.clone() } else { b.clone() };
        tokio::spawn(async move {
            for _ in 0..3 {
                let permits = mesh.semaphore("pool", 4).ttl(LONG).acquire_many(2 + n % 3);
                let permits = permits.await.unwrap();
                tokio::time::sleep(Duration::from_millis(1)).await;
                let _ = permits.release().await;
            }
        })
    });
    for worker in workers.collect::<Vec<_>>() {
        within("a worker", worker).await.unwrap();
    }
    assert!(began.elapsed() < LONG, "no lease was waited for");
    nothing_is_left(&[&a, &b]).await;
    all_permits_are_free(&b, "pool", 4).await;
}

/// Others take and release single permits all the time.
async fn waiter_for_many_is_not_starved(Backend { a, b, .. }: Backend) {
    let mut workers = tokio::task::JoinSet::new();
    for n in 0..4 {
        let mesh = if n % 2 == 0 { a.clone() } else { b.clone() };
        workers.spawn(async move {
            loop {
                let permit = mesh.semaphore("pool", 2).ttl(LONG).await.unwrap();
                tokio::time::sleep(Duration::from_millis(2)).await;
                let _ = permit.release().await;
            }
        });
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    for _ in 0..3 {
        let both = a.semaphore("pool", 2).ttl(LONG).acquire_many(2);
        let both = within("both permits", both).await.unwrap();
        let _ = both.release().await;
    }
    workers.shutdown().await;
    nothing_is_left(&[&a, &b]).await;
}

async fn dropped_acquire_of_permits_leaves_nothing(Backend { a, b, .. }: Backend) {
    let pool = |mesh: &Mesh| mesh.semaphore("pool", 2).ttl(LONG);
    let permits = pool(&a).acquire_many(2).await.unwrap();
    let one = tokio::spawn(pool(&b).acquire());
    let two = tokio::spawn(pool(&b).acquire_many(2));
    for key in ["pool#0", "pool#1"] {
        waits_for(&a, key, 2).await;
    }
    for waiter in [one.abort_handle(), two.abort_handle()] {
        waiter.abort();
    }
    assert!(one.await.unwrap_err().is_cancelled() && two.await.unwrap_err().is_cancelled());
    for key in ["pool#0", "pool#1", "pool#many"] {
        waits_for(&a, key, 0).await;
    }
    assert_eq!(b.status().waiting, 0);
    drop(permits);
    all_permits_are_free(&b, "pool", 2).await;
}

async fn lock_all_locks_all_keys_or_none(Backend { a, b, .. }: Backend) {
    let all = |mesh: &Mesh| mesh.lock_all(["c", "a", "b"]).ttl(LONG);
    let guards = all(&a).await.unwrap();
    assert_eq!(guards.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
    for key in ["a", "b", "c"] {
        assert!(guards.epoch(key).is_some());
        assert!(b.lock(key).try_acquire().await.unwrap().is_none());
    }
    assert_eq!(guards.epoch("d"), None);
    assert!(all(&b).try_acquire().await.unwrap().is_none());
    guards.release().await.unwrap();
    let c = within("c", b.lock("c").ttl(LONG).acquire()).await.unwrap();
    assert!(all(&a).try_acquire().await.unwrap().is_none());
    for key in ["a", "b"] {
        drop(within("a free key", b.lock(key).acquire()).await.unwrap());
    }
    drop(c);
    let again = within("all keys", all(&b).acquire()).await.unwrap();
    drop(again);
    nothing_is_left(&[&a, &b]).await;
}

async fn lock_all_in_another_order_never_deadlocks(Backend { a, b, .. }: Backend) {
    let began = Instant::now();
    let sets = [
        ["a", "b", "c"],
        ["c", "b", "a"],
        ["b", "c", "a"],
        ["d", "c", "b"],
    ];
    let workers = sets.into_iter().enumerate().map(|(n, keys)| {
        let mesh = if n % 2 == 0 { a.clone() } else { b.clone() };
        tokio::spawn(async move {
            for _ in 0..5 {
                let guards = mesh.lock_all(keys).ttl(LONG).acquire().await.unwrap();
                tokio::time::sleep(Duration::from_millis(1)).await;
                let _ = guards.release().await;
            }
        })
    });
    for worker in workers.collect::<Vec<_>>() {
        within("a worker", worker).await.unwrap();
    }
    assert!(began.elapsed() < LONG, "no lease was waited for");
    nothing_is_left(&[&a, &b]).await;
}

async fn lock_all_waits_and_leaves_nothing_when_dropped(Backend { a, b, .. }: Backend) {
    let taken = a.lock("b").ttl(LONG).acquire().await.unwrap();
    let all = || b.lock_all(["a", "b", "c"]).ttl(LONG);
    let waiting = tokio::spawn(all().acquire());
    waits_for(&a, "b", 1).await;
    // It holds the key before, and none after.
    assert!(a.lock("a").try_acquire().await.unwrap().is_none());
    drop(within("c", a.lock("c").acquire()).await.unwrap());
    waiting.abort();
    assert!(waiting.await.unwrap_err().is_cancelled());
    waits_for(&a, "b", 0).await;
    drop(within("a", a.lock("a").acquire()).await.unwrap());
    let patience = Duration::from_secs(2);
    let error = all().acquire_timeout(patience).acquire().await.unwrap_err();
    let LockAllError::Acquire(OfKey { key, error }) = &error else {
        panic!("{error}")
    };
    assert_eq!(key, "b");
    assert!(matches!(error, AcquireError::TimedOut { waited, .. } if *waited == patience));
    drop(taken);
    nothing_is_left(&[&a, &b]).await;
    drop(within("all keys", all().acquire()).await.unwrap());
}

async fn concurrent_tries_of_overlapping_sets_grant_one(Backend { a, b, .. }: Backend) {
    for round in 0..10 {
        let key = |n: usize| format!("{round}/{}", n % 3);
        let tries = (0..6).map(|n| {
            let mesh = if n % 2 == 0 { &a } else { &b };
            let request = mesh.lock_all([key(n), key(n + 1)]).ttl(LONG).eager();
            tokio::spawn(request.try_acquire())
        });
        let mut granted = Vec::new();
        for tried in tries.collect::<Vec<_>>() {
            granted.extend(within("an answer", tried).await.unwrap().unwrap());
        }
        // Any two of the sets share a key.
        assert_eq!(granted.len(), 1, "round {round}");
    }
}

async fn lock_all_rejects_its_keys(Backend { a, .. }: Backend) {
    let max = LOCK_ALL_KEYS_MAX;
    for keys in [0, max + 1] {
        let error = a.lock_all((0..keys).map(|n| n.to_string())).await;
        assert_eq!(error.unwrap_err(), LockAllError::Keys { keys, max });
    }
    let error = a.lock_all(["a", "b", "a"]).try_acquire().await;
    let text = "lock_all: the key \"a\" is given twice; give each key once";
    assert_eq!(error.unwrap_err().to_string(), text);
    let long = "x".repeat(257);
    let error = a.lock_all(["a", &long]).await.unwrap_err();
    assert!(
        matches!(error, LockAllError::Acquire(ref it) if it.key == long),
        "{error}"
    );
    let most = a.lock_all((0..max).map(|n| n.to_string())).ttl(LONG);
    drop(within("all keys", most.acquire()).await.unwrap());
    nothing_is_left(&[&a]).await;
}

async fn guards_of_all_keys_act_as_one(Backend { a, b, .. }: Backend) {
    let all = |ttl| a.lock_all(["a", "b"]).ttl(ttl);
    let guards = all(SHORT).auto_renew(false).acquire().await.unwrap();
    assert!(guards.is_held() && guards.remaining() <= SHORT);
    assert_eq!(guards.run(async { 7 }).await, Ok(7));
    let never = guards.run(std::future::pending::<()>());
    assert_eq!(within("the loss", never).await, Err(LeaseLost));
    within("the loss", guards.lost()).await;
    assert!(!guards.is_held() && guards.remaining().is_zero());
    let error = guards.release().await.unwrap_err();
    assert_eq!((error.key.as_str(), error.error), ("a", ReleaseError));

    let guards = all(Duration::from_secs(10))
        .auto_renew(false)
        .await
        .unwrap();
    let before = guards.remaining();
    guards.extend(Duration::from_secs(20)).await.unwrap();
    assert!(guards.remaining() > before);
    let error = guards.extend(Duration::from_secs(3_600)).await.unwrap_err();
    assert!(error.to_string().starts_with("a: "), "{error}");
    guards.detach_for(SHORT);
    let next = b.lock_all(["b", "a"]).ttl(LONG).acquire();
    let next = within("the keys", next).await.unwrap();
    let [of_a, of_b] = next.into_guards().try_into().unwrap();
    assert_eq!((of_a.key(), of_b.key()), ("a", "b"));
    drop(of_a);
    assert!(of_b.is_held());
}

async fn reentry_is_told_and_denied(Backend { a, b, _all }: Backend) {
    let is_one_node = a.id() == b.id();
    let guard = a.lock("k").ttl(LONG).acquire().await.unwrap();
    let patience = Duration::from_millis(200);
    let error = a.lock("k").acquire_timeout(patience).await.unwrap_err();
    let AcquireError::TimedOut { held_here, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(held_here.as_ref().unwrap().epoch, guard.epoch());
    let text = "; this node itself has held the key for ";
    assert!(error.to_string().contains(text), "{error}");

    let error = a.lock("k").deny_reentry().await.unwrap_err();
    assert!(
        matches!(error, AcquireError::Reentry(held) if held.epoch == guard.epoch()),
        "{error}"
    );
    assert!(a.lock("k").deny_reentry().try_acquire().await.is_err());
    let error = a.lock_all(["j", "k"]).deny_reentry().await.unwrap_err();
    assert!(
        matches!(error, LockAllError::Acquire(ref it) if it.key == "k"
            && matches!(it.error, AcquireError::Reentry(_))),
        "{error}"
    );
    if !is_one_node {
        // The key of another node is no reentry.
        let error = b.lock("k").deny_reentry().acquire_timeout(patience).await;
        assert!(matches!(
            error.unwrap_err(),
            AcquireError::TimedOut {
                held_here: None,
                ..
            }
        ));
        assert!(
            b.lock("k")
                .deny_reentry()
                .try_acquire()
                .await
                .unwrap()
                .is_none()
        );
    }
    drop(guard);
    let again = within("the key", a.lock("k").deny_reentry().acquire()).await;
    drop(again.unwrap());
    nothing_is_left(&[&a, &b]).await;
}

async fn election_has_one_leader_at_a_time(Backend { a, b, .. }: Backend) {
    let jobs = |mesh: &Mesh| mesh.election("jobs").ttl(LONG);
    let leadership = jobs(&a).campaign().await.unwrap();
    assert!(leadership.is_held());
    assert_eq!(leadership.guard().key(), "jobs#leader");
    assert!(jobs(&b).try_campaign().await.unwrap().is_none());
    let patience = Duration::from_millis(200);
    let late = jobs(&b).acquire_timeout(patience).campaign().await;
    assert!(matches!(late, Err(AcquireError::TimedOut { .. })));
    // A lock of the same name is another.
    drop(b.lock("jobs").try_acquire().await.unwrap().unwrap());
    let election = jobs(&b);
    let next = tokio::spawn(async move { election.campaign().await });
    waits_for(&a, "jobs#leader", 1).await;
    assert_eq!(leadership.run(async { 7 }).await, Ok(7));
    let (began, epoch) = (Instant::now(), leadership.epoch());
    leadership.resign().await.unwrap();
    let next = within("the next leader", next).await.unwrap().unwrap();
    assert!(next.epoch() > epoch && began.elapsed() < LONG);
    // A drop ends it as well.
    drop(next);
    let last = within("a leader", jobs(&a).campaign()).await.unwrap();
    assert!(began.elapsed() < LONG, "no lease was waited for");
    let guard = last.into_guard();
    assert!(guard.is_held());
    drop(guard);
    nothing_is_left(&[&a, &b]).await;
}

async fn election_is_watched_by_every_node(Backend { a, b, .. }: Backend) {
    let jobs = |mesh: &Mesh| mesh.election("jobs").ttl(LONG);
    let mut watches = [&a, &b, &b].map(|mesh| jobs(mesh).watch().unwrap());
    for leads in [&a, &b] {
        let leadership = jobs(leads).campaign().await.unwrap();
        for watch in &mut watches {
            let is_known =
                |leader: &Leader| leader.known() == Some((leads.id(), leadership.epoch()));
            within("the leader", watch.wait_for(is_known))
                .await
                .unwrap();
        }
        leadership.resign().await.unwrap();
        for watch in &mut watches {
            let is_none = watch.wait_for(|leader| *leader == Leader::None);
            within("no leader", is_none).await.unwrap();
        }
    }
    b.shutdown().await;
    let end = async { while watches[1].changed().await.is_ok() {} };
    within("the end", end).await;
    assert_eq!(*watches[2].borrow(), Leader::Unknown);
}

async fn dropped_campaign_leaves_nothing(Backend { a, b, .. }: Backend) {
    let leadership = a.election("jobs").ttl(LONG).campaign().await.unwrap();
    let election = b.election("jobs").ttl(LONG);
    let waiting = tokio::spawn(async move { election.campaign().await });
    waits_for(&a, "jobs#leader", 1).await;
    waiting.abort();
    assert!(waiting.await.unwrap_err().is_cancelled());
    waits_for(&a, "jobs#leader", 0).await;
    drop(leadership);
    nothing_is_left(&[&a, &b]).await;
    drop(
        within("a leader", b.election("jobs").campaign())
            .await
            .unwrap(),
    );
}
