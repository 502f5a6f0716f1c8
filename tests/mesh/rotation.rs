//! The cluster secret is replaced while locks are held and acquired.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use lockmesh::status::DropReason;
use lockmesh::{AcquireError, ClusterSecret, Mesh, RotateError, SecretError};
use lockmesh_harness::LocalMesh;

use crate::common::{Ledger, beside, nodes, secret, sees_all, until, voters, within};

const MAX_TTL: Duration = Duration::from_secs(30);

fn new_secret() -> ClusterSecret {
    ClusterSecret::from_bytes([8; 32]).unwrap()
}

/// Returns the secrets of the three steps.
fn steps() -> [Vec<ClusterSecret>; 3] {
    let (old, new) = (secret(), new_secret());
    [
        vec![old.clone(), new.clone()],
        vec![new.clone(), old],
        vec![new],
    ]
}

/// A node that acquires locks until it is stopped. Each must be granted.
struct Load {
    grants: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Load {
    fn start(mesh: Mesh, ledger: Arc<Ledger>, stop: Arc<AtomicBool>) -> Self {
        let grants = Arc::new(AtomicU64::new(0));
        let counted = grants.clone();
        let task = tokio::spawn(async move {
            let own = format!("of {}", mesh.id());
            while !stop.load(Ordering::SeqCst) {
                for key in [own.as_str(), "shared"] {
                    let guard = within("a turn", mesh.lock(key).acquire()).await;
                    let guard = ledger.enter(guard.unwrap()).expect("it is held");
                    assert!(ledger.leave(guard).await, "lost");
                }
                let held = mesh.lock("held").try_acquire().await;
                assert!(held.unwrap().is_none(), "a second owner");
                counted.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self { grants, task }
    }

    fn grants(&self) -> u64 {
        self.grants.load(Ordering::SeqCst)
    }
}

/// Waits until each node has acquired locks from now on.
async fn all_go_on(loads: &[Load]) {
    let before: Vec<u64> = loads.iter().map(Load::grants).collect();
    until("all nodes acquire locks", || {
        let mut pairs = loads.iter().zip(&before);
        pairs.all(|(load, before)| load.grants() >= before + 2 || load.task.is_finished())
    })
    .await;
}

/// Waits until each node has received a datagram of each other with this secret.
async fn all_speak(cluster: &LocalMesh, secret: &ClusterSecret) {
    let fingerprint = Some(secret.fingerprint());
    until("all nodes seal with the secret", || {
        let members = nodes(cluster).into_iter().map(|node| node.status().members);
        let mut all = members.flatten();
        all.all(|member| member.secret == fingerprint)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotation_under_load_loses_no_lock() {
    let cluster = voters(5, MAX_TTL).await;
    let ledger = Arc::new(Ledger::default());
    let guard = cluster.node(0).lock("held").acquire().await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let load = |mesh| Load::start(mesh, ledger.clone(), stop.clone());
    let loads: Vec<Load> = nodes(&cluster).into_iter().map(load).collect();
    for secrets in steps() {
        for n in 0..cluster.size() {
            cluster.rotate_secrets(n, secrets.clone()).unwrap();
            all_go_on(&loads).await;
            assert!(guard.is_held(), "n{n}");
        }
        all_speak(&cluster, &secrets[0]).await;
    }
    stop.store(true, Ordering::SeqCst);
    for load in loads {
        within("the load", load.task).await.unwrap();
    }
    for node in nodes(&cluster) {
        let status = node.status();
        assert_eq!(status.secrets, [new_secret().fingerprint()]);
        for reason in [DropReason::Key, DropReason::Forged, DropReason::Replayed] {
            assert_eq!(status.traffic.dropped_for(reason), 0, "{reason}");
        }
    }
    guard.release().await.unwrap();
    ledger.check();

    // A node without the new secret stays outside, until it has it.
    let late = beside(&cluster, "late").start().await.unwrap();
    until("the node is reported", || {
        let dropped = cluster.node(0).status().traffic.dropped;
        dropped.contains_key(&DropReason::Key)
    })
    .await;
    let request = late.lock("k").acquire_timeout(Duration::from_secs(2));
    let error = request.acquire().await.map(drop).unwrap_err();
    let AcquireError::TimedOut { answers, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(answers.silent, 5);
    assert!(cluster.node(0).status().others.is_empty());
    late.rotate_secrets([new_secret()]).unwrap();
    sees_all(&late).await;
    let guard = within("a lock", late.lock("k").acquire()).await.unwrap();
    assert!(guard.is_held());
    // A restarted node has the new secret.
    cluster.restart(4).await.unwrap();
    sees_all(&cluster.node(4)).await;
}

#[tokio::test]
async fn invalid_rotation_leaves_secrets_unchanged() {
    let node = || Mesh::builder("n0").voters(["n0"]).listen("127.0.0.1:0");
    let sealed = node().secret(secret()).start().await.unwrap();
    let before = sealed.status().secrets;
    let fingerprint = secret().fingerprint();
    for (secrets, error) in [
        (vec![], SecretError::Count { count: 0 }),
        (vec![new_secret(); 4], SecretError::Count { count: 4 }),
        (vec![secret(); 2], SecretError::Repeated { fingerprint }),
    ] {
        let refused = sealed.rotate_secrets(secrets.clone()).unwrap_err();
        assert_eq!(refused, RotateError::Secret(error));
        let refused = node().secrets(secrets).start().await.unwrap_err();
        assert_eq!(refused.to_string(), format!("secret: {error}"));
    }
    assert_eq!(sealed.status().secrets, before);
    sealed.shutdown().await;
    let over = sealed.rotate_secrets([new_secret()]);
    assert_eq!(over, Err(RotateError::ShutDown));

    let plain = node().insecure_plaintext().start().await.unwrap();
    let refused = plain.rotate_secrets([secret()]).unwrap_err();
    assert_eq!(refused, RotateError::Secret(SecretError::Plaintext));
    assert_eq!(plain.status().secrets, []);
    plain.shutdown().await;
}
