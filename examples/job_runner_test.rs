//! A job runner and its tests: a job never runs on two nodes at once, even if a node fails.
//!
//! `cargo test --example job_runner_test`
//!
//! The runner takes a `Mesh`. Its tests pass nodes of a [`LocalMesh`], whose network can fail, or
//! of [`InMemoryLocks`], which need no network and run in virtual time. To test your own job, copy
//! the module `tests` and replace the job.

use std::future::Future;
use std::time::Duration;

use lockmesh::{AcquireError, Epoch, Mesh};

/// Runs `job` on this node once it holds the lock `name`. If the lease is lost, the job is dropped
/// at its next `.await`, and the runner acquires the lock again. The job passes the epoch to each
/// resource that it writes to.
async fn run_job<F: Future<Output = ()>>(
    mesh: &Mesh,
    name: &str,
    job: impl Fn(Epoch) -> F,
) -> Result<(), AcquireError> {
    loop {
        let guard = mesh.lock(name).acquire().await?;
        if guard.run(job(guard.epoch())).await.is_ok() {
            return Ok(());
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mesh = lockmesh::MeshBuilder::single("dev").insecure_plaintext();
    let mesh = mesh.start().await?;
    run_job(&mesh, "report", async |epoch| {
        println!("the report is written at {epoch}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    })
    .await?;
    mesh.shutdown().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use lockmesh_harness::{InMemoryLocks, LocalMesh};
    use tokio::sync::watch;
    use tokio::task::JoinHandle;

    use super::*;

    /// A job that counts its concurrent runs, and runs until `may_end` is set.
    struct Job {
        running: AtomicUsize,
        most: AtomicUsize,
        starts: watch::Sender<usize>,
        may_end: watch::Sender<bool>,
    }

    /// One run of the job, which ends when this is dropped.
    struct Run<'a>(&'a Job);

    impl Drop for Run<'_> {
        fn drop(&mut self) {
            self.0.running.fetch_sub(1, SeqCst);
        }
    }

    impl Job {
        fn new() -> Arc<Self> {
            Arc::new(Self {
                running: AtomicUsize::new(0),
                most: AtomicUsize::new(0),
                starts: watch::Sender::new(0),
                may_end: watch::Sender::new(false),
            })
        }

        async fn run(&self) {
            let _run = Run(self);
            let running = self.running.fetch_add(1, SeqCst) + 1;
            self.most.fetch_max(running, SeqCst);
            self.starts.send_modify(|starts| *starts += 1);
            let _ = self.may_end.subscribe().wait_for(|may| *may).await;
        }

        async fn started(&self, times: usize) {
            let _ = self.starts.subscribe().wait_for(|n| *n >= times).await;
        }

        fn on(self: &Arc<Self>, mesh: Mesh) -> JoinHandle<Result<(), AcquireError>> {
            let job = self.clone();
            tokio::spawn(async move { run_job(&mesh, "job", |_| job.run()).await })
        }
    }

    /// Uses real nodes, UDP and a partition, and takes some seconds.
    #[tokio::test]
    async fn job_never_overlaps_while_node_is_cut_off() {
        let mesh = LocalMesh::start(5).await.unwrap();
        let job = Job::new();
        let first = job.on(mesh.node(0));
        job.started(1).await;
        let second = job.on(mesh.node(2));

        mesh.partition([0, 1], [2, 3, 4]);
        job.started(2).await; // node 2 runs it after the lease of node 0 is over
        assert_eq!(job.most.load(SeqCst), 1, "node 0 had stopped before");

        mesh.heal();
        job.may_end.send_replace(true);
        second.await.unwrap().unwrap();
        first.await.unwrap().unwrap(); // node 0 ran it again
        assert_eq!(job.most.load(SeqCst), 1);
    }

    /// Does the same without a network and in virtual time.
    #[tokio::test(start_paused = true)]
    async fn job_never_overlaps_in_memory() {
        let locks = InMemoryLocks::new();
        let job = Job::new();
        let first = job.on(locks.node("a"));
        job.started(1).await;
        let second = job.on(locks.node("b"));

        locks.cut_off("a");
        job.started(2).await;
        assert_eq!(job.most.load(SeqCst), 1);

        locks.reconnect("a");
        job.may_end.send_replace(true);
        second.await.unwrap().unwrap();
        first.await.unwrap().unwrap();
        assert_eq!(job.most.load(SeqCst), 1);
    }
}
