//! The split-brain demonstration. It uses only commands that a user can send from the page.

use std::sync::Arc;
use std::time::Duration;

use super::command::Command;
use super::world::{Lab, Stage};

const KEY: &str = "invoice/42";
/// Time for the viewer to read.
const READ: Duration = Duration::from_secs(3);
/// The time limit of a step, in addition to three leases.
const PATIENCE: Duration = Duration::from_secs(20);

/// Plays the demonstration. Any command of the user ends it.
pub(super) async fn split_brain(lab: Arc<Lab>) {
    // A step that is refused or takes too long ends the demonstration. The log shows the reason.
    let _ = act(&lab).await;
    lab.lock().step = None;
}

async fn act(lab: &Arc<Lab>) -> Option<()> {
    let size = lab.mesh.size();
    let side: Vec<usize> = (size / 2 + 1..size).collect();
    let (holder, next) = (*side.first()?, 1);
    tidy(lab).await?;
    step(lab, "1 of 5: one node takes the lock, another gets in line");
    acquire(lab, holder).await?;
    until(lab, |lab| holds(lab, holder)).await?;
    tokio::time::sleep(READ / 3).await;
    acquire(lab, next).await?;
    tokio::time::sleep(READ).await;
    step(
        lab,
        "2 of 5: the network splits, and the holder is on the small side",
    );
    command(lab, Command::Split { side }).await?;
    until(lab, |lab| !holds(lab, holder)).await?;
    step(
        lab,
        "3 of 5: its lease is over, so it stops; only then is the next one served",
    );
    until(lab, |lab| holds(lab, next)).await?;
    tokio::time::sleep(READ).await;
    step(lab, "4 of 5: on the small side, nobody gets the lock");
    acquire(lab, holder).await?;
    tokio::time::sleep(READ).await;
    step(
        lab,
        "5 of 5: the links are healed, and it waits in line like all others",
    );
    command(lab, Command::Heal).await?;
    tokio::time::sleep(READ).await;
    let key = KEY.to_owned();
    command(lab, Command::Release { node: next, key }).await?;
    until(lab, |lab| holds(lab, holder)).await?;
    tokio::time::sleep(READ).await;
    Some(())
}

/// Restores all links and nodes, and releases all claims.
async fn tidy(lab: &Arc<Lab>) -> Option<()> {
    step(lab, "making room: all links, all nodes, no locks");
    command(lab, Command::Heal).await?;
    for node in 0..lab.mesh.size() {
        // Refused if the node is not paused.
        let _ = lab.perform(Command::Resume { node }).await;
        if lab.mesh.condition(node) == lockmesh::harness::Condition::Down {
            command(lab, Command::Restart { node }).await?;
        }
    }
    let wanted: Vec<(usize, String)> = {
        let state = lab.lock();
        let claims = state.claims.iter();
        claims
            .map(|claim| (claim.node, claim.key.clone()))
            .collect()
    };
    for (node, key) in wanted {
        let _ = lab.perform(Command::Release { node, key }).await;
    }
    lab.mesh.wait_until_stable().await.ok()
}

fn step(lab: &Lab, text: &'static str) {
    lab.lock().step = Some(text);
}

async fn command(lab: &Arc<Lab>, command: Command) -> Option<()> {
    lab.perform(command).await.ok()
}

async fn acquire(lab: &Arc<Lab>, node: usize) -> Option<()> {
    let key = KEY.to_owned();
    command(lab, Command::Acquire { node, key }).await
}

fn holds(lab: &Lab, node: usize) -> bool {
    let state = lab.lock();
    let mut claims = state.claims.iter().filter(|claim| claim.node == node);
    claims.any(|claim| claim.key == KEY && matches!(claim.stage, Stage::Holds { .. }))
}

async fn until(lab: &Lab, is_so: impl Fn(&Lab) -> bool) -> Option<()> {
    let mut looks = lab.looks.subscribe();
    let look = async {
        while !is_so(lab) {
            looks.changed().await.ok()?;
        }
        Some(())
    };
    tokio::time::timeout(PATIENCE + 3 * lab.ttl, look)
        .await
        .ok()?
}
