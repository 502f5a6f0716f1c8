//! `lockmesh release --force`, beside a lock that `lockmesh exec` holds.

use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use super::common::{lockmesh, stderr, stdout, within};
use super::exec::{Running, Voters, ends, secret, sh};

/// Returns `lockmesh release` beside node 1, with these options.
fn release(voters: &Voters, options: &[&str]) -> Command {
    let mut command = lockmesh(&["release", "report", "--config"]);
    command.arg(&voters.files[1]).args(options);
    command.env("LOCKMESH_SECRET", secret().to_base64());
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn command_under_released_lock_is_ended_at_once() {
    let voters = Voters::start("released").await;
    let mut command = voters.exec(0, &["report"]);
    let mut job = Running::start(sh(&mut command, "echo runs; exec sleep 60"));
    assert_eq!(job.line(), "runs");
    let output = ends(&mut release(&voters, &["--force", "--by", "ann"])).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let said = stdout(&output);
    assert!(said.contains("its guard reports that it is lost"), "{said}");
    assert!(said.contains("3 voters renew it no more"), "{said}");
    let (_, output) = within("the command ends", job.ends()).await;
    assert_eq!(output.status.code(), Some(125));
    let said = stderr(&output);
    assert!(
        said.contains("report was released by force by ann; the command is ended"),
        "{said}"
    );
    // The command has ended, so its lock is released in order.
    let request = voters
        .node()
        .lock("report")
        .acquire_timeout(Duration::from_secs(30));
    let guard = request.acquire().await.unwrap();
    drop(guard);
    let output = ends(&mut release(&voters, &["--force"])).await;
    assert_eq!(output.status.code(), Some(75), "{}", stderr(&output));
    assert!(stderr(&output).contains("nobody holds report"));
}

#[tokio::test(flavor = "multi_thread")]
async fn voters_keep_released_lock_until_its_lease_ends() {
    let voters = Voters::start("kept").await;
    let mut command = voters.exec(0, &["report", "--grace", "1m"]);
    command.env("LOCKMESH_TTL", "3s");
    let script = "trap 'echo term' TERM; trap 'exit 0' USR1; echo $LOCKMESH_EPOCH\n\
                  while :; do sleep 0.02; done";
    let mut job = Running::start(sh(&mut command, script));
    let epoch = job.line();
    let output = ends(&mut release(&voters, &["--force", "--epoch", "7"])).await;
    assert_eq!(output.status.code(), Some(75), "{}", stderr(&output));
    let options = ["--force", "--by", "ann", "--epoch", &epoch, "--json"];
    let output = ends(&mut release(&voters, &options)).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let said: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(
        (&said["epoch"], &said["is_holder_notified"]),
        (&epoch.into(), &true.into()),
        "{said}"
    );
    let mut left = said["remaining_ms"].as_u64().unwrap();
    assert!(left <= 3_000, "{said}");
    // The command ignores the signal. So the key is free once the votes expire, and not before.
    assert_eq!(job.line(), "term");
    let mut looks = 0;
    let look = async {
        while let Some(owner) = voters.node().inspect("report").await.unwrap().owner() {
            assert_eq!(Value::from(owner.node.as_str()), said["node"]);
            let now_left = u64::try_from(owner.remaining.as_millis()).unwrap();
            assert!(now_left <= left, "{now_left} ms after {left} ms");
            (left, looks) = (now_left, looks + 1);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("the votes expire", look).await;
    assert!(
        looks > 0 && left < 1_000,
        "{looks} looks, {left} ms at the last"
    );
    job.signal(Signal::USR1);
    let (_, output) = within("the command ends", job.ends()).await;
    assert_eq!(output.status.code(), Some(125), "{}", stderr(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn release_without_force_is_refused() {
    let voters = Voters::start("refused").await;
    let output = ends(&mut release(&voters, &[])).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("its code may still run"),
        "{}",
        stderr(&output)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn release_that_only_the_holder_confirms_names_no_end() {
    let voters = Voters::start("unconfirmed").await;
    let mut command = voters.exec(0, &["report"]);
    command.env("LOCKMESH_TTL", "30s");
    let mut job = Running::start(sh(&mut command, "echo runs; exec sleep 60"));
    assert_eq!(job.line(), "runs");
    voters.lose_quorum().await;
    let mut command = lockmesh(&["release", "report", "--force", "--patience-ms", "2000"]);
    command.arg("--config").arg(&voters.files[0]);
    let output = ends(command.env("LOCKMESH_SECRET", secret().to_base64())).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let said = stdout(&output);
    assert!(said.contains("1 voters renew it no more"), "{said}");
    assert!(said.contains("that is no quorum"), "{said}");
    assert!(!said.contains("free in"), "{said}");
    let (_, output) = within("the command ends", job.ends()).await;
    assert_eq!(output.status.code(), Some(125));
}

#[tokio::test(flavor = "multi_thread")]
async fn release_without_quorum_says_so() {
    let voters = Voters::start("unreleased").await;
    voters.lose_quorum().await;
    let mut command = lockmesh(&[
        "release",
        "report",
        "--force",
        "--patience-ms",
        "1000",
        "--config",
    ]);
    command.arg(&voters.files[0]);
    let output = ends(command.env("LOCKMESH_SECRET", secret().to_base64())).await;
    assert_eq!(output.status.code(), Some(69), "{}", stderr(&output));
    let said = stderr(&output);
    assert!(said.contains("of 3 voters confirmed"), "{said}");
}
