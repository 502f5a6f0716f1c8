//! A scheduled job that runs once per cluster, although every node schedules it.
//!
//! `cargo run --example cron_once`
//!
//! Each node waits for the same ticks, and asks to run the job once for each. The first runs it, and
//! leaves a mark with the voters. A node whose timer fires late then learns that the tick ran, even if
//! the job was short.

mod common;

use std::time::Duration;

use lockmesh::{Mesh, OnceError, Outcome, Schedule, Tick};

/// The time for which a tick that ran is remembered: more than the timers of two nodes differ.
const KEEP_FOR: Duration = Duration::from_secs(60);

/// Runs the tick unless another node does. Returns `true` if it ran here.
async fn run(mesh: &Mesh, tick: Tick) -> Result<bool, OnceError> {
    let request = mesh.once("report", tick).keep_for(KEEP_FOR);
    let outcome = request.run(|epoch| async move {
        // Pass the epoch with each write: two attempts at a tick differ in it.
        println!(
            "tick {tick}: node {} writes the report ({epoch})",
            mesh.id()
        );
    });
    Ok(matches!(outcome.await?, Outcome::Ran(())))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let nodes = common::three_nodes().await?;
    let mut schedule = Schedule::every(Duration::from_secs(1))?;
    for _ in 0..3 {
        let tick = schedule.next().await;
        let [a, b, c] = &nodes;
        let (a, b) = tokio::join!(run(a, tick), run(b, tick));
        // The timer of this node is late: the job is over.
        let c = run(c, tick).await;
        let ran = [a?, b?, c?].into_iter().filter(|ran| *ran).count();
        println!("tick {tick}: ran {ran} time(s)");
        assert_eq!(ran, 1, "exactly one node runs it");
    }
    for node in nodes {
        node.shutdown().await;
    }
    Ok(())
}
