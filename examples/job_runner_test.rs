//! A job runner, and the tests of it: a job must not run twice, whatever befalls its node.
//!
//! `cargo test --example job_runner_test`
//!
//! The runner takes a `Mesh`. Its tests hand it nodes of a [`LocalMesh`], whose network can fail,
//! or of [`InMemoryLocks`], which need no network and no time. Copy the module `tests` and put
//! your own job in.

use std::future::Future;
use std::time::Duration;

use lockmesh::{AcquireError, Epoch, Mesh};

/// Runs `job` on this node once it has the lock on `name`. Where the lease is lost on the way the
/// job is dropped at its next `.await`, and the runner waits for its turn again. The job gives
/// the epoch to whatever it writes to.
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

    use lockmesh::harness::{InMemoryLocks, LocalMesh};
    use tokio::sync::watch;
    use tokio::task::JoinHandle;

    use super::*;

    /// A job that counts who is at it, and goes on until it is told that it may end.
    struct Job {
        running: AtomicUsize,
        most: AtomicUsize,
        starts: watch::Sender<usize>,
        may_end: watch::Sender<bool>,
    }

    /// One run of the job; it is over when this is dropped.
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

    /// Real nodes, real UDP, a real partition: a few seconds.
    #[tokio::test]
    async fn a_job_does_not_run_twice_while_its_node_is_cut_off() {
        let mesh = LocalMesh::start(5).await.unwrap();
        let job = Job::new();
        let first = job.on(mesh.node(0));
        job.started(1).await;
        let second = job.on(mesh.node(2));

        mesh.partition([0, 1], [2, 3, 4]);
        job.started(2).await; // node 2 has taken it over, one lease later
        assert_eq!(job.most.load(SeqCst), 1, "node 0 had stopped before");

        mesh.heal();
        job.may_end.send_replace(true);
        second.await.unwrap().unwrap();
        first.await.unwrap().unwrap(); // node 0 has had its turn again
        assert_eq!(job.most.load(SeqCst), 1);
    }

    /// The same without a network and in virtual time: a few milliseconds.
    #[tokio::test(start_paused = true)]
    async fn a_job_does_not_run_twice_in_memory_either() {
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
