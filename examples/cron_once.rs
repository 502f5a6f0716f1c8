//! A scheduled job that runs once per cluster, although every node schedules it.
//!
//! `cargo run --example cron_once`
//!
//! Two things make it run exactly once a tick. The key names the tick, so that a node whose timer
//! fires late asks for the same lock as the others. And nobody releases it: the lock is over by
//! itself, long after every node's timer for this tick has fired. A lock that is released when
//! the job is done would let a late node run a short job again.

mod common;

use std::time::Duration;

use lockmesh::{DistributedLock, Mesh};

/// How far apart the nodes' timers for one tick may fire, at the most.
const LATENESS_MAX: Duration = Duration::from_secs(10);

/// Runs the job unless another node has it. Answers whether it ran here.
async fn once_per_tick(mesh: &Mesh, tick: u64) -> Result<bool, Box<dyn std::error::Error>> {
    let key = format!("report/{tick}");
    let ttl_ms = LATENESS_MAX.as_millis().try_into()?;
    // `Ok(false)`: another node has this tick. `Err`: nobody knows, since no quorum answered;
    // whether to skip or to try again is the job's to say.
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
