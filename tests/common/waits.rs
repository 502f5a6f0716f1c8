//! Waits of tests in real time.

use std::time::Duration;

use lockmesh::Mesh;

#[path = "patience.rs"]
mod patience;

pub(crate) use patience::within;

/// The longest timeout that a test configures; no test waits longer.
#[allow(dead_code, reason = "some tests configure no timeout")]
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// Waits until `is_so` returns `true`.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let look = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    };
    within(what, look).await;
}

/// Waits until `count` claims wait for `key`.
#[allow(dead_code, reason = "some tests have no waiters")]
pub(crate) async fn waits_for(mesh: &Mesh, key: &str, count: usize) {
    let look = async {
        while mesh.inspect(key).await.unwrap().waiters.len() != count {
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        // Epochs of two claims are ordered in time if they are milliseconds apart.
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    within("the waiters", look).await;
}
