//! Five nodes, twenty workers, a partition, a crash: what happens to the locks?
//!
//! `cargo run -p lockmesh-harness --example demo`
//!
//! Exits with 1 if two workers held one lock at once, an epoch fell, a minority was granted a lock,
//! or a step took too long.

use std::collections::BTreeMap;
use std::error::Error;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lockmesh::{AcquireError, Epoch, Guard, Mesh};
use lockmesh_harness::LocalMesh;

const NODES: usize = 5;
const WORKERS_PER_NODE: usize = 4;
const KEYS: [&str; 4] = ["protocol", "invoices", "emails", "backups"];
const TTL: Duration = Duration::from_secs(2);
const PHASE: Duration = Duration::from_secs(3);
/// The time limit of each step. The longest is a lease, or a recovery of twice a lease.
const STEP_MAX: Duration = Duration::from_secs(20);

/// A resource that fences: it refuses a write whose epoch is lower than the highest it has seen.
#[derive(Default)]
struct Resource {
    highest: Option<Epoch>,
    /// The guards of the workers that use it now.
    users: Vec<Arc<Guard>>,
}

#[derive(Default)]
struct Ledger {
    resources: Mutex<BTreeMap<&'static str, Resource>>,
    grants: AtomicU64,
    timeouts: AtomicU64,
    overlaps: AtomicU64,
    falls: AtomicU64,
}

impl Ledger {
    fn resources(&self) -> MutexGuard<'_, BTreeMap<&'static str, Resource>> {
        self.resources
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a guard, unless its lease is already over.
    fn enter(&self, key: &'static str, guard: &Arc<Guard>) -> bool {
        let mut resources = self.resources();
        let resource = resources.entry(key).or_default();
        // In this order: if the new guard is held now, it was held while the others were counted.
        let others = resource
            .users
            .iter()
            .filter(|other| other.is_held())
            .count();
        if !guard.is_held() {
            return false;
        }
        self.grants.fetch_add(1, Relaxed);
        self.overlaps.fetch_add(others as u64, Relaxed);
        let fell = resource.highest >= Some(guard.epoch());
        self.falls.fetch_add(u64::from(fell), Relaxed);
        resource.highest = resource.highest.max(Some(guard.epoch()));
        resource.users.push(guard.clone());
        true
    }

    fn leave(&self, key: &'static str, guard: &Arc<Guard>) {
        let mut resources = self.resources();
        let users = &mut resources.entry(key).or_default().users;
        users.retain(|other| other.is_held() && !Arc::ptr_eq(other, guard));
    }
}

/// Locks a key again and again.
async fn work(mesh: Mesh, key: &'static str, ledger: Arc<Ledger>) {
    loop {
        match mesh.lock(key).acquire_timeout(TTL / 2).acquire().await {
            Ok(guard) => {
                let guard = Arc::new(guard);
                if ledger.enter(key, &guard) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    ledger.leave(key, &guard);
                }
            }
            Err(AcquireError::ShutDown) => return,
            Err(_) => drop(ledger.timeouts.fetch_add(1, Relaxed)),
        }
    }
}

struct Demo {
    mesh: LocalMesh,
    ledger: Arc<Ledger>,
    start: Instant,
}

impl Demo {
    fn say(&self, text: &str) {
        println!("[{:4.1} s] {text}", self.start.elapsed().as_secs_f64());
    }

    fn employ(&self, node: usize) {
        for key in KEYS {
            tokio::spawn(work(self.mesh.node(node), key, self.ledger.clone()));
        }
    }

    /// Lets the workers run, and prints how many locks they were granted.
    async fn run(&self) {
        let before = self.ledger.grants.load(Relaxed);
        tokio::time::sleep(PHASE).await;
        let granted = self.ledger.grants.load(Relaxed) - before;
        let rate = granted as f64 / PHASE.as_secs_f64();
        self.say(&format!("  {rate:.0} grants a second"));
    }

    async fn lock(&self, node: usize, key: &str) -> Result<Guard, Box<dyn Error>> {
        let request = self.mesh.node(node).lock(key).acquire_timeout(STEP_MAX);
        Ok(request.await?)
    }

    async fn play(&self) -> Result<(), Box<dyn Error>> {
        self.say("five nodes, each key needs three votes of five; four workers on each node");
        (0..NODES).for_each(|node| self.employ(node));
        self.run().await;

        let held = self.lock(4, "night-report").await?;
        self.say(&format!(
            "n4 holds night-report at epoch {}; n3 and n4 are cut off",
            held.epoch()
        ));
        self.mesh.partition([0, 1, 2], [3, 4]);
        let cut = Instant::now();
        let waits = tokio::spawn(self.mesh.node(0).lock("night-report").acquire());
        let refused = self.mesh.node(3).lock("nobody-holds-this");
        match refused.acquire_timeout(TTL / 2).await {
            Ok(_) => return Err("a minority was granted a lock".into()),
            Err(error) => self.say(&format!("  n3 asks in the minority: {error}")),
        }
        held.lost().await;
        self.say(&format!(
            "  n4 knows after {:.1?} that its lease is over",
            cut.elapsed()
        ));
        let next = tokio::time::timeout(STEP_MAX, waits).await???;
        self.say(&format!(
            "  n0 holds it after {:.1?} at epoch {}",
            cut.elapsed(),
            next.epoch()
        ));
        if next.epoch() <= held.epoch() {
            return Err("the epoch did not rise".into());
        }
        self.run().await;

        self.say("the links are healed");
        self.mesh.heal();
        drop(self.lock(3, "nobody-holds-this").await?);
        self.run().await;

        let held = self.lock(1, "billing").await?;
        self.say(&format!(
            "n1 crashes with billing at epoch {}",
            held.epoch()
        ));
        self.mesh.crash(1).await;
        let crashed = Instant::now();
        let next = self.lock(2, "billing").await?;
        let after = crashed.elapsed();
        self.say(&format!(
            "  n2 holds it after {after:.1?}, at epoch {}",
            next.epoch()
        ));
        self.run().await;

        self.say("n1 restarts, and votes again once no vote of its past can be in use");
        self.mesh.restart(1).await?;
        self.employ(1);
        tokio::time::timeout(STEP_MAX, self.mesh.wait_until_stable()).await??;
        self.say("  all five vote");
        self.run().await;
        Ok(())
    }

    /// Prints the result. Returns `true` if nothing was violated.
    fn conclude(&self) -> bool {
        let Ledger {
            grants,
            timeouts,
            overlaps,
            falls,
            ..
        } = &*self.ledger;
        let count = |counter: &AtomicU64| counter.load(Relaxed);
        let (workers, grants, timeouts) =
            (NODES * WORKERS_PER_NODE, count(grants), count(timeouts));
        self.say(&format!(
            "{workers} workers: {grants} grants, {timeouts} timeouts"
        ));
        let (overlaps, falls) = (count(overlaps), count(falls));
        self.say(&format!(
            "two holders at once: {overlaps}; epochs that fell: {falls}"
        ));
        overlaps == 0 && falls == 0 && grants > 0
    }
}

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    println!("starting five nodes on this machine");
    let start = Instant::now();
    let mesh = LocalMesh::builder().nodes(NODES).ttl(TTL).start().await?;
    let ledger = Arc::default();
    let demo = Demo {
        mesh,
        ledger,
        start,
    };
    let played = demo.play().await;
    if let Err(error) = &played {
        demo.say(&format!("FAILED: {error}"));
    }
    let is_clean = demo.conclude();
    Ok(ExitCode::from(u8::from(played.is_err() || !is_clean)))
}
