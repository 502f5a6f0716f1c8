//! Batches: concurrent callers share datagrams, and one of them, the combiner, sends for all.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use lockmesh::{Guard, Mesh};
use lockmesh_harness::LocalMesh;

use crate::common::{PATIENCE, client, voters, within};

const TASKS: usize = 64;
const CYCLES: usize = 50;
const MAX_TTL: Duration = Duration::from_secs(10);

/// The number of messages and of datagrams that node 0 has sent.
fn sent(cluster: &LocalMesh) -> (u64, u64) {
    let traffic = cluster.node(0).status().traffic;
    (traffic.messages_out, traffic.datagrams_out)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_callers_share_datagrams() {
    let cluster = voters(3, MAX_TTL).await;
    let (messages, datagrams) = sent(&cluster);
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let mesh = cluster.node(0);
            tokio::spawn(async move {
                for _ in 0..CYCLES {
                    let guard = mesh.lock(format!("own/{task}")).acquire().await.unwrap();
                    guard.release().await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        within("all cycles", task).await.unwrap();
    }
    let after = sent(&cluster);
    let (messages, datagrams) = (after.0 - messages, after.1 - datagrams);
    assert!(messages >= (4 * TASKS * CYCLES) as u64, "{messages}");
    assert!(messages > 3 * datagrams, "{messages} in {datagrams}");
}

/// Longer than any test waits: a lock that is not released stays held.
const LONG: Duration = Duration::from_secs(600);

/// The client has a runtime with one thread, which is blocked after the guard is released.
/// The release must therefore be sent before that.
#[test]
fn release_or_drop_sends_before_it_returns() {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let others = runtime.worker_threads(1).enable_all().build().unwrap();
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let own = runtime.enable_all().build().unwrap();
    let cluster = others.block_on(voters(3, LONG));
    let mesh = own.block_on(client(&cluster, "c"));
    own.block_on(async {
        for (n, guard) in in_company(&mesh).await.into_iter().enumerate() {
            let next = cluster.node(1).lock(guard.key().to_owned()).acquire();
            let (tell, told) = std::sync::mpsc::channel();
            others.spawn(async move {
                drop(next.await);
                tell.send(()).unwrap();
            });
            let mut leads = Box::pin(mesh.lock("another").acquire());
            match n % 4 {
                0 => within("a release", guard.release()).await.unwrap(),
                // The release waits for no other task.
                1 => insist(guard.release()).unwrap(),
                2 => {
                    let mut release = Box::pin(guard.release());
                    begin(release.as_mut());
                    drop(release);
                }
                _ => {
                    begin(leads.as_mut());
                    drop(guard);
                }
            }
            told.recv_timeout(PATIENCE).unwrap();
        }
    });
}

/// Returns the guards of concurrent callers, which therefore form a batch.
async fn in_company(mesh: &Mesh) -> Vec<Guard> {
    let ttl = mesh.status().timing.max_ttl / 2;
    let ask = |key| tokio::spawn(mesh.lock(key).ttl(ttl).acquire());
    let asked: Vec<_> = ["a", "b", "c", "d"].into_iter().map(ask).collect();
    let mut guards = Vec::new();
    for guard in asked {
        guards.push(within("a grant", guard).await.unwrap().unwrap());
    }
    guards
}

/// Polls a future to completion without yielding to the runtime.
fn insist<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    for _ in 0..1_000 {
        let mut context = Context::from_waker(Waker::noop());
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
    }
    panic!("it waits for somebody else");
}

/// Polls a future once, and asserts that it is pending.
fn begin<F: Future>(future: Pin<&mut F>) {
    let mut context = Context::from_waker(Waker::noop());
    assert!(
        future.poll(&mut context).is_pending(),
        "nobody has answered yet"
    );
}

#[tokio::test]
async fn forgotten_combiner_blocks_no_other_caller() {
    let cluster = voters(3, MAX_TTL).await;
    let _guards = in_company(&cluster.node(0)).await;
    let mesh = cluster.node(0);
    let mut leads = Box::pin(mesh.lock("forgotten").acquire());
    begin(leads.as_mut());
    let follows = mesh.lock("other").acquire();
    std::mem::forget(leads);
    drop(within("a grant", follows).await.unwrap());
}

#[tokio::test]
async fn dropped_batched_acquire_withdraws_its_claim() {
    let cluster = voters(3, MAX_TTL).await;
    let _guards = in_company(&cluster.node(0)).await;
    let mesh = cluster.node(0);
    for dropped_first in ["leads", "follows"] {
        let mut leads = Box::pin(mesh.lock("leads").acquire());
        begin(leads.as_mut());
        let mut follows = Box::pin(mesh.lock("follows").acquire());
        begin(follows.as_mut());
        let (dropped, other) = match dropped_first {
            "leads" => (leads, follows),
            _ => (follows, leads),
        };
        drop(dropped);
        let guard = within("a grant", other).await.unwrap();
        assert_ne!(guard.key(), dropped_first);
        let elsewhere = cluster.node(1).lock(dropped_first).acquire();
        drop(within("a grant elsewhere", elsewhere).await.unwrap());
    }
}

#[tokio::test]
async fn dropped_combiner_sends_claim_with_its_withdrawal() {
    let cluster = voters(3, MAX_TTL).await;
    let _guards = in_company(&cluster.node(0)).await;
    let before = sent(&cluster);
    let mut leads = Box::pin(cluster.node(0).lock("dropped").acquire());
    begin(leads.as_mut());
    drop(leads);
    let after = sent(&cluster);
    assert_eq!((after.0 - before.0, after.1 - before.1), (4, 2));
}

/// Tasks on two threads claim, release and withdraw. Whichever caller combines, all calls return
/// and no state is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_and_released_locks_leave_no_state() {
    let cluster = voters(3, MAX_TTL).await;
    let key = |task: usize, cycle: usize| format!("k{}", (task + cycle) % (TASKS / 2));
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let mesh = cluster.node(0);
            tokio::spawn(async move {
                for cycle in 0..CYCLES {
                    let mut asked = Box::pin(mesh.lock(key(task, cycle)).acquire());
                    if (task + cycle) % 3 == 0 {
                        // When it is dropped it may be the combiner, batched, or granted.
                        tokio::select! {
                            biased;
                            guard = &mut asked => drop(guard.unwrap()),
                            () = tokio::task::yield_now() => {}
                        }
                        continue;
                    }
                    let guard = asked.await.unwrap();
                    match cycle % 2 {
                        0 => guard.release().await.unwrap(),
                        _ => drop(guard),
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        within("all cycles", task).await.unwrap();
    }
    let status = cluster.node(0).status();
    assert_eq!((status.held, status.waiting), (0, 0));
    for n in 0..TASKS / 2 {
        let free = cluster.node(1).lock(key(n, 0)).acquire();
        drop(within("a key that nobody holds", free).await.unwrap());
    }
}
