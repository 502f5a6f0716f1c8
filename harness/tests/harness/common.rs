//! Backends of the contract tests, and waits with a bound.

use std::time::Duration;

use lockmesh::{Mesh, MeshBuilder, Timing};
use lockmesh_harness::{InMemoryLocks, LocalMesh};

#[path = "../../../tests/common/waits.rs"]
mod waits;

pub(crate) use waits::{PATIENCE, until, waits_for, within};

/// Two nodes of an implementation of the contract; the same node twice if it has only one.
pub(crate) struct Backend {
    pub(crate) a: Mesh,
    pub(crate) b: Mesh,
    pub(crate) _all: Option<LocalMesh>,
}

impl Backend {
    pub(crate) async fn in_memory() -> Self {
        let locks = InMemoryLocks::new();
        let (a, b) = (locks.node("a"), locks.node("b"));
        Self { a, b, _all: None }
    }

    pub(crate) async fn single() -> Self {
        let a = MeshBuilder::single("a").insecure_plaintext();
        let a = a.start().await.unwrap();
        let b = a.clone();
        Self { a, b, _all: None }
    }

    pub(crate) async fn five_nodes() -> Self {
        let mesh = LocalMesh::builder()
            .timing(Timing::lan())
            .ttl(Duration::from_secs(10))
            .configure(|mesh| mesh.try_timeout(PATIENCE));
        let mesh = mesh.start().await.unwrap();
        let (a, b) = (mesh.node(0), mesh.node(1));
        let _all = Some(mesh);
        Self { a, b, _all }
    }

    pub(crate) fn is_one_node(&self) -> bool {
        self.a.id() == self.b.id()
    }
}

/// Defines one test per contract function and backend.
macro_rules! over_all_backends {
    ($($sentence:ident,)*) => {
        mod in_memory {
            $(
                #[tokio::test(start_paused = true)]
                async fn $sentence() {
                    super::$sentence(crate::common::Backend::in_memory().await).await;
                }
            )*
        }
        mod single {
            $(
                #[tokio::test]
                async fn $sentence() {
                    super::$sentence(crate::common::Backend::single().await).await;
                }
            )*
        }
        mod five_nodes {
            $(
                #[tokio::test]
                async fn $sentence() {
                    super::$sentence(crate::common::Backend::five_nodes().await).await;
                }
            )*
        }
    };
}
pub(crate) use over_all_backends;
