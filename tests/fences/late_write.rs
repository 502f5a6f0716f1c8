//! The late write of a paused holder: the same for every resource.

use std::time::Duration;

use lockmesh::Guard;
use lockmesh_harness::LocalMesh;

use crate::cluster::settings;
use crate::waits::{PATIENCE, within};

/// The lock of the resource.
pub(crate) const KEY: &str = "account/alice";

/// A number that is written under the lock [`KEY`].
pub(crate) trait Resource {
    /// Returns `true` if the write was admitted.
    async fn write(&self, guard: &Guard, to: i64) -> bool;

    async fn read(&self) -> i64;
}

/// The end of a late write.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Late {
    Refused,
    Landed,
}

pub(crate) async fn start() -> LocalMesh {
    let settings = settings(3, 0, Duration::from_secs(2)).patience(PATIENCE);
    let settings = settings.configure(|mesh| mesh.try_timeout(PATIENCE));
    settings.start().await.unwrap()
}

/// Lets a holder write, pause, and write again after the next holder has written.
pub(crate) async fn late_write(cluster: &LocalMesh, resource: &impl Resource) -> Late {
    let acquire = |node| {
        let request = cluster.node(node).lock(KEY);
        async move { within("a guard", request.acquire()).await.unwrap() }
    };
    let paused = acquire(0).await;
    assert!(resource.write(&paused, 1).await, "a holder writes");
    assert!(resource.write(&paused, 2).await, "and writes again");
    cluster.pause(0);
    let next = acquire(1).await;
    assert!(next.epoch() > paused.epoch());
    assert!(!paused.is_held());
    assert!(resource.write(&next, 3).await, "the next holder writes");
    cluster.resume(0);

    let late = match resource.write(&paused, 4).await {
        true => Late::Landed,
        false => Late::Refused,
    };
    let left = if late == Late::Refused { 3 } else { 4 };
    assert_eq!(resource.read().await, left, "{late:?}");
    assert!(resource.write(&next, 5).await, "the next holder goes on");
    assert_eq!(resource.read().await, 5);
    late
}
