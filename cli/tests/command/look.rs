//! `lockmesh status`, `inspect` and `top`, with real nodes.

use std::fs;
use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use lockmesh::{ClusterSecret, Mesh, Timing};
use lockmesh_harness::LocalMesh;
use serde_json::Value;

use super::common::{lockmesh, stderr, stdout, within};

const OTHER_KEY: &str = "abababababababababababababababababababababababababababababababab";

fn key() -> ClusterSecret {
    ClusterSecret::from_bytes([7; 32]).unwrap()
}

async fn mesh() -> LocalMesh {
    LocalMesh::builder()
        .nodes(3)
        .secret(key())
        .start()
        .await
        .unwrap()
}

async fn asks(args: &[&str], peer: &Mesh, key: &str) -> Output {
    let addr = peer.local_addr().to_string();
    let mut command = lockmesh(args);
    command.args(["--peer", &addr]).env("LOCKMESH_SECRET", key);
    let run = tokio::task::spawn_blocking(move || command.output().unwrap());
    run.await.unwrap()
}

async fn status(peer: &Mesh) -> (Value, Option<i32>) {
    let output = asks(&["status", "--json", "--locks"], peer, &key().to_base64()).await;
    let text = stdout(&output);
    assert_eq!(text.lines().count(), 1, "{text} {}", stderr(&output));
    (serde_json::from_str(&text).unwrap(), output.status.code())
}

#[tokio::test(flavor = "multi_thread")]
async fn status_lists_members_and_reports_dead_ones() {
    let mesh = mesh().await;
    let guard = mesh.node(1).lock("job\u{1b}/1").acquire().await.unwrap();
    let (seen, code) = status(&mesh.node(0)).await;
    assert_eq!((code, &seen["health"]), (Some(0), &"ok".into()), "{seen}");
    assert_eq!((&seen["voting"], &seen["schema"]), (&3.into(), &2.into()));
    assert_eq!(seen["nodes"].as_array().unwrap().len(), 3, "{seen}");
    assert_eq!(seen["locks"][0]["key"], "job\u{1b}/1", "{seen}");
    assert_eq!(seen["locks"][0]["owner"]["node"], "n1", "{seen}");
    let epoch = guard.epoch().get().to_string();
    assert_eq!(seen["locks"][0]["owner"]["epoch"], epoch, "{seen}");
    // An observer must not appear as a node.
    assert!(mesh.node(0).status().others.is_empty());

    let plain = asks(&["status", "--locks"], &mesh.node(2), &key().to_base64()).await;
    let text = stdout(&plain);
    let end = "safe to restart one voter: yes\nok: every member votes\n";
    assert!(text.ends_with(end), "{text}");
    assert_eq!(seen["safe_to_restart"], true, "{seen}");
    assert!(
        text.contains("job\\u{1b}/1: n1") && !text.contains('\u{1b}'),
        "{text}"
    );

    mesh.crash(2).await;
    let (seen, code) = status(&mesh.node(0)).await;
    assert_eq!(
        (code, &seen["health"]),
        (Some(3), &"degraded".into()),
        "{seen}"
    );
    assert_eq!(seen["nodes"][2]["state"], "silent", "{seen}");
    assert_eq!(seen["safe_to_restart"], false, "{seen}");
    assert_eq!(seen["because"], "2 of 3 voters vote, and it takes 3");
    let (code, text) = says(&["status"], &mesh.node(0)).await;
    let line = "\nsafe to restart one voter: no, because 2 of 3 voters vote, and it takes 3\n";
    assert!(code == Some(3) && text.contains(line), "{text}");
    mesh.crash(1).await;
    let (seen, code) = status(&mesh.node(0)).await;
    assert_eq!(
        (code, &seen["health"]),
        (Some(4), &"blocked".into()),
        "{seen}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn status_of_two_voters_is_never_safe() {
    let mesh = LocalMesh::builder().nodes(2).secret(key());
    let mesh = mesh.start().await.unwrap();
    within("a quorum", mesh.node(0).ready(Duration::from_secs(60)))
        .await
        .unwrap();
    let (code, text) = says(&["status"], &mesh.node(0)).await;
    let line = "\nsafe to restart one voter: no, because each key needs all of its 2 voters: a \
                restart always costs a quorum\n";
    assert!(code == Some(0) && text.contains(line), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_probe_follows_the_node_and_quorum() {
    let mesh = mesh().await;
    let probe = ["status", "--ready"];
    let ready = |text: &str| text.starts_with("ready: n0: votes; ");
    let (code, text) = says(&probe, &mesh.node(0)).await;
    assert!(code == Some(0) && ready(&text), "{text}");
    // One dead member leaves the others ready.
    mesh.crash(2).await;
    let (code, text) = says(&probe, &mesh.node(0)).await;
    assert_eq!(text, "ready: n0: votes; 2 of 3 members vote\n");
    assert_eq!(code, Some(0));
    mesh.crash(1).await;
    let (code, text) = says(&probe, &mesh.node(0)).await;
    assert_eq!(text, "not ready: n0: votes; 1 of 3 members vote\n");
    assert_eq!(code, Some(4));
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_probe_refuses_a_recovering_node() {
    let timing = Timing {
        max_ttl: Duration::from_secs(600),
        ..Timing::lan()
    };
    let builder = LocalMesh::builder().nodes(3).secret(key()).timing(timing);
    let mesh = builder.start().await.unwrap();
    // Its quarantine is longer than this test.
    mesh.restart(1).await.unwrap();
    let (code, text) = says(&["status", "--ready"], &mesh.node(1)).await;
    assert!(text.starts_with("not ready: n1: in recovery "), "{text}");
    assert_eq!(code, Some(3));

    // A configuration names the node, and its environment replaces the file.
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("probe");
    fs::create_dir_all(&dir).unwrap();
    let config = dir.join("node.toml");
    let (own, seed) = (mesh.node(0).local_addr(), mesh.node(1).local_addr());
    let text = format!("node_id = \"n1\"\nlisten = \"{own}\"\nseeds = [\"{seed}\"]\n");
    fs::write(&config, text).unwrap();
    let output = tokio::task::spawn_blocking(move || {
        let mut command = lockmesh(&["status", "--ready", "--config"]);
        command
            .arg(config)
            .env("LOCKMESH_SECRET", key().to_base64());
        command.env("LOCKMESH_NODE_ID", "n0").output().unwrap()
    });
    let output = output.await.unwrap();
    let text = stdout(&output);
    assert_eq!(
        text,
        "ready: n0: votes; 2 of 3 members vote\n",
        "{}",
        stderr(&output)
    );

    let (code, text) = says(&["status", "--ready", "--peer", "[::1]:9"], &mesh.node(0)).await;
    assert_eq!((code, text.as_str()), (Some(2), ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn inspect_shows_owner_epoch_and_queue() {
    let mesh = mesh().await;
    let lock = mesh.node(0).lock("deploy").note("deploy 812 \u{202e}");
    let guard = lock.acquire().await.unwrap();
    let waiter = mesh.node(1).lock("deploy").note("rollback");
    let waits = tokio::spawn(waiter.acquire());
    let look = async {
        while mesh.node(2).inspect("deploy").await.unwrap().waiting == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within("a waiter", look).await;
    let key = key().to_base64();
    let output = asks(&["inspect", "deploy", "--json"], &mesh.node(2), &key).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let seen: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(seen["owner"]["node"], "n0", "{seen}");
    assert_eq!(
        seen["owner"]["epoch"],
        guard.epoch().get().to_string(),
        "{seen}"
    );
    assert_eq!(
        (&seen["waiting"], &seen["waiters"][0]["node"]),
        (&1.into(), &"n1".into())
    );
    let output = asks(&["inspect", "deploy"], &mesh.node(2), &key).await;
    let text = stdout(&output);
    assert!(text.starts_with("deploy: held by n0"), "{text}");
    // Nothing that changes the direction of writing reaches the terminal.
    assert!(text.contains(" ms left: deploy 812 \\u{202e}\n"), "{text}");
    assert!(text.contains(": rollback\n"), "{text}");
    assert_eq!(seen["owner"]["note"], "deploy 812 \u{202e}", "{seen}");
    assert_eq!(seen["waiters"][0]["note"], "rollback", "{seen}");
    let (_, text) = says(&["status", "--locks"], &mesh.node(2)).await;
    assert!(text.contains(", 1 wait: deploy 812 \\u{202e}\n"), "{text}");
    let output = asks(&["inspect", "free"], &mesh.node(2), &key).await;
    assert!(
        stdout(&output).starts_with("free: held by nobody"),
        "{}",
        stdout(&output)
    );
    waits.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_secret_is_reported_as_no_answer() {
    let mesh = mesh().await;
    let command = ["status", "--patience-ms", "300"];
    let output = asks(&command, &mesh.node(0), OTHER_KEY).await;
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("no answer from 127.0.0.1:"), "{said}");
    assert!(
        said.contains(
            "is the secret right, the cluster's name right and the mesh sealed, is it up?"
        ),
        "{said}"
    );
    assert!(!said.contains(OTHER_KEY), "{said}");
    let command = ["status", "--patience-ms", "300", "--insecure-plaintext"];
    let output = asks(&command, &mesh.node(0), OTHER_KEY).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("is the mesh plaintext and the cluster's name right, is it up?")
    );
    let output = asks(&["status"], &mesh.node(0), "hunter2").await;
    assert_eq!(output.status.code(), Some(2));
    assert!(!stderr(&output).contains("hunter2"), "{}", stderr(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn top_without_terminal_prints_one_snapshot() {
    let mesh = mesh().await;
    let lock = mesh.node(1).lock("report").note("daily");
    let guard = lock.acquire().await.unwrap();
    let command = ["top", "--every-ms", "200"];
    let output = asks(&command, &mesh.node(0), &key().to_base64()).await;
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(text.contains("ok, 3 of 3 members vote, 1 locks"), "{text}");
    let epoch = guard.epoch().get().to_string();
    let row = text.lines().find(|line| line.starts_with("report"));
    let row = row.unwrap();
    assert!(row.contains("n1") && row.contains(&epoch), "{text}");
    assert!(text.contains("NOTE") && row.ends_with("daily"), "{text}");
    assert!(!text.contains('\u{1b}'), "{text}");
}

/// Returns the exit code and the output of a command.
async fn says(args: &[&str], peer: &Mesh) -> (Option<i32>, String) {
    let output = asks(args, peer, &key().to_base64()).await;
    (output.status.code(), stdout(&output))
}

#[tokio::test(flavor = "multi_thread")]
async fn voters_in_quarantine_make_a_key_unknown() {
    let timing = Timing {
        max_ttl: Duration::from_secs(600),
        ..Timing::lan()
    };
    let builder = LocalMesh::builder().nodes(3).secret(key()).timing(timing);
    let mesh = builder.start().await.unwrap();
    let request = mesh.node(0).lock("deploy").ttl(Duration::from_secs(500));
    let guard = request.acquire().await.unwrap();
    mesh.restart(1).await.unwrap();
    mesh.restart(2).await.unwrap();
    let look = async {
        while mesh
            .node(0)
            .inspect("deploy")
            .await
            .map_or(0, |seen| seen.recovering)
            < 2
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within("both in quarantine", look).await;
    assert!(guard.is_held());
    let n0 = mesh.node(0);
    let (code, text) = says(&["inspect", "deploy"], &n0).await;
    assert_eq!(code, Some(4), "{text}");
    assert!(
        text.starts_with("deploy: unknown: 2 of 3 voters are in quarantine\n  n0 has 1 of 3 votes"),
        "{text}"
    );
    let (code, text) = says(&["inspect", "deploy", "--json"], &n0).await;
    let seen: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (code, &seen["state"]),
        (Some(4), &"unknown".into()),
        "{seen}"
    );
    assert_eq!(
        (&seen["recovering"], &seen["owner"]),
        (&2.into(), &Value::Null)
    );
    assert_eq!(seen["votes"][0]["node"], "n0", "{seen}");
    // Every command that surveys all members returns this exit code, and reports no key as free.
    let (code, text) = says(&["status", "--locks"], &n0).await;
    assert_eq!(code, Some(4), "{text}");
    assert!(
        text.contains("deploy: unknown, 2 of 3 voters are in quarantine"),
        "{text}"
    );
    let (code, text) = says(&["top", "--once", "--every-ms", "100"], &n0).await;
    assert_eq!(code, Some(4), "{text}");
    let row = text
        .lines()
        .find(|line| line.starts_with("deploy"))
        .unwrap();
    assert!(row.contains("unknown"), "{text}");
}
