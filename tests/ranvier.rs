//! The published user of the trait: an axon that runs on only one node of the cluster.

#![allow(clippy::unwrap_used, reason = "a test that unwraps in vain has failed")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use lockmesh::{Mesh, MeshBuilder, Timing};
use lockmesh_harness::LocalMesh;
use ranvier_core::cluster::DistributedLock;
use ranvier_core::prelude::{Bus, Outcome, Transition};
use ranvier_runtime::axon::{Axon, ExecutionMode};
use tokio::sync::Barrier;

const NODES: usize = 3;
const ROUNDS: usize = 120;
/// Far longer than a round: the axon never releases, and a slow node must still find the lock
/// held.
const TTL_MS: u64 = 30_000;
const PATIENCE: Duration = Duration::from_secs(60);

/// The work that exactly one node of the cluster does per round.
#[derive(Clone)]
struct Work {
    runs: Arc<AtomicUsize>,
}

#[async_trait]
impl Transition<u64, u64> for Work {
    type Error = String;
    type Resources = ();

    async fn run(&self, round: u64, _: &(), _: &mut Bus) -> Outcome<u64, String> {
        self.runs.fetch_add(1, Ordering::SeqCst);
        tokio::task::yield_now().await;
        Outcome::Next(round)
    }
}

/// Returns a timing with a long reservation. If the machine pauses for longer than a reservation,
/// the winner loses its lock and a second node runs.
fn patient() -> Timing {
    Timing {
        reservation: Duration::from_secs(5),
        ..Timing::lan()
    }
}

/// Runs an axon on each node at the same instant. Returns the outcome of each.
async fn round(meshes: &[Mesh], key: &str, work: &Work) -> Vec<Outcome<u64, String>> {
    let start = Arc::new(Barrier::new(meshes.len()));
    let axons = meshes.iter().map(|mesh| {
        let mode = ExecutionMode::Singleton {
            lock_key: key.to_owned(),
            ttl_ms: TTL_MS,
            lock_provider: Arc::new(mesh.clone()),
        };
        let axon = Axon::typed::<u64, String>("job")
            .then(work.clone())
            .with_execution_mode(mode);
        let start = start.clone();
        tokio::spawn(async move {
            start.wait().await;
            axon.execute_simple(1, &mut Bus::new()).await
        })
    });
    let axons: Vec<_> = axons.collect();
    let mut outcomes = Vec::new();
    for axon in axons {
        let outcome = tokio::time::timeout(PATIENCE, axon).await;
        outcomes.push(outcome.expect("an axon hangs").unwrap());
    }
    outcomes
}

/// Returns the node that ran. Panics unless exactly one ran and the others found the lock held.
fn winner(outcomes: &[Outcome<u64, String>]) -> usize {
    let held = |outcome: &Outcome<u64, String>| match outcome {
        Outcome::Emit(event, _) => event == "execution.skipped.lock_held",
        _ => false,
    };
    let ran: Vec<usize> = (0..outcomes.len())
        .filter(|n| outcomes[*n].is_next())
        .collect();
    let skipped = outcomes.iter().filter(|outcome| held(outcome)).count();
    assert_eq!((ran.len(), skipped), (1, NODES - 1), "{outcomes:?}");
    ran[0]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_singleton_axons_run_exactly_once() {
    let cluster = LocalMesh::builder().nodes(NODES).timing(patient());
    let cluster = cluster.configure(|mesh| mesh.try_timeout(PATIENCE));
    let cluster = cluster.start().await.unwrap();
    let meshes: Vec<Mesh> = (0..NODES).map(|n| cluster.node(n)).collect();
    let work = Work {
        runs: Arc::new(AtomicUsize::new(0)),
    };
    for n in 0..ROUNDS {
        // The axon never releases. Even rounds use a fresh key; odd rounds share one key, which
        // the node that ran releases.
        let is_fresh = n.is_multiple_of(2);
        let key = if is_fresh {
            format!("job/{n}")
        } else {
            "job".to_owned()
        };
        let ran = winner(&round(&meshes, &key, &work).await);
        assert_eq!(work.runs.load(Ordering::SeqCst), n + 1);
        if !is_fresh {
            for (at, mesh) in meshes.iter().enumerate() {
                let released = DistributedLock::release(mesh, &key).await;
                assert_eq!(released.is_ok(), at == ran, "round {n}: {released:?}");
            }
        }
    }
    for mesh in &meshes {
        mesh.shutdown().await;
    }
}

#[tokio::test]
async fn published_trait_behaves_like_our_own() {
    let mesh = MeshBuilder::single("alone")
        .insecure_plaintext()
        .bootstrap()
        .start()
        .await
        .unwrap();
    let lock: Arc<dyn DistributedLock> = Arc::new(mesh.clone());
    assert!(lock.try_acquire("k", TTL_MS / 2).await.unwrap());
    assert!(!lock.try_acquire("k", TTL_MS / 2).await.unwrap());
    lock.extend("k", 1_000).await.unwrap();
    lock.release("k").await.unwrap();
    let error = lock.release("k").await.unwrap_err();
    assert!(matches!(
        error,
        ranvier_core::cluster::ClusterError::LockReleaseFailed(_)
    ));
    let error = lock.try_acquire("k", 1).await.unwrap_err();
    assert!(matches!(
        error,
        ranvier_core::cluster::ClusterError::LockAcquisitionFailed(_)
    ));
    mesh.shutdown().await;
    let error = lock.try_acquire("k", TTL_MS).await.unwrap_err();
    assert!(matches!(
        error,
        ranvier_core::cluster::ClusterError::Internal(_)
    ));
}
