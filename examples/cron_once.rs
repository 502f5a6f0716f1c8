//! A scheduled job that runs once per cluster, although every node schedules it.
//!
//! `cargo run --example cron_once`
//!
//! The job runs once per tick for two reasons. The key contains the tick, so a node whose timer
//! fires late requests the same lock as the others. The lock is never released: it ends with its
//! TTL, after every node's timer for this tick has fired. If the lock were released after a short
//! job, a late node would run the job again.

mod common;

use std::time::Duration;

use lockmesh::{DistributedLock, Mesh};

/// The longest time between the timers of two nodes for one tick.
const LATENESS_MAX: Duration = Duration::from_secs(10);

/// Runs the job unless another node does. Returns `true` if it ran here.
async fn once_per_tick(mesh: &Mesh, tick: u64) -> Result<bool, Box<dyn std::error::Error>> {
    let key = format!("report/{tick}");
    let ttl_ms = LATENESS_MAX.as_millis().try_into()?;
    // `Ok(false)`: another node runs this tick. `Err`: no quorum answered, so the owner is
    // unknown; skip the tick or retry, as the job requires.
    if !mesh.try_acquire(&key, ttl_ms).await? {
        return Ok(false);
    }
    println!("tick {tick}: node {} writes the report", mesh.id());
    Ok(true)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let nodes = common::three_nodes().await?;
    for tick in 1..=5 {
        let [a, b, c] = &nodes;
        let (a, b, c) = tokio::join!(
            once_per_tick(a, tick),
            once_per_tick(b, tick),
            once_per_tick(c, tick)
        );
        let ran = [a?, b?, c?].into_iter().filter(|ran| *ran).count();
        println!("tick {tick}: ran {ran} time(s)");
        assert_eq!(ran, 1, "exactly one node runs it");
    }
    for node in nodes {
        node.shutdown().await;
    }
    Ok(())
}
