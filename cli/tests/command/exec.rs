//! `lockmesh exec`, with real nodes, processes and scripts.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::Duration;

use lockmesh::{ClusterSecret, Mesh, MeshConfig, Timing};
use lockmesh_harness::LocalMesh;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use super::common::{lockmesh, stderr, stdout, within};
use super::node::file;

const TAKEN: Option<i32> = Some(75);
const NO_QUORUM: Option<i32> = Some(69);
const LOST: Option<i32> = Some(125);

pub(super) fn secret() -> ClusterSecret {
    ClusterSecret::from_bytes([7; 32]).unwrap()
}

/// Three voters, with a configuration file for each.
pub(super) struct Voters {
    mesh: LocalMesh,
    pub(super) files: Vec<PathBuf>,
}

impl Voters {
    /// Starts them for the test of this name.
    pub(super) async fn start(test: &str) -> Self {
        let mesh = LocalMesh::builder()
            .nodes(3)
            .secret(secret())
            .timing(Timing::lan());
        let mesh = mesh.start().await.unwrap();
        let addrs: Vec<String> = (0..3)
            .map(|i| mesh.node(i).local_addr().to_string())
            .collect();
        let of_node = |i: usize| {
            let config = MeshConfig {
                node_id: Some(format!("n{i}")),
                listen: Some(addrs[i].clone()),
                seeds: Some(addrs.clone()),
                voters: Some((0..3).map(|i| format!("n{i}")).collect()),
                ..MeshConfig::default()
            };
            file(
                &format!("exec/{test}/{i}"),
                &toml::to_string(&config).unwrap(),
            )
        };
        let files = (0..3).map(of_node).collect();
        Self { mesh, files }
    }

    /// Returns `lockmesh exec` beside node `i`, with these options. A lease lasts a minute, so that
    /// a test that waits for its end fails.
    pub(super) fn exec(&self, i: usize, options: &[&str]) -> Command {
        let mut command = lockmesh(&["exec", "--config"]);
        command.arg(&self.files[i]).args(options);
        command
            .env("LOCKMESH_SECRET", secret().to_base64())
            .env("LOCKMESH_TTL", "1m");
        command.stdin(Stdio::null());
        command
    }

    pub(super) fn node(&self) -> Mesh {
        self.mesh.node(0)
    }

    /// Leaves one of three voters.
    pub(super) async fn lose_quorum(&self) {
        self.mesh.crash(1).await;
        self.mesh.crash(2).await;
    }

    async fn waiting(&self, key: &str) -> usize {
        self.node().inspect(key).await.unwrap().waiting
    }

    async fn is_held(&self, key: &str) -> bool {
        self.node().inspect(key).await.unwrap().owner().is_some()
    }
}

/// Adds a shell script as the command.
pub(super) fn sh<'a>(command: &'a mut Command, script: &str) -> &'a mut Command {
    command.args(["--", "sh", "-c", script])
}

/// Waits for the end of a command.
pub(super) async fn ends(command: &mut Command) -> Output {
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    ends_of(child).await
}

async fn ends_of(child: Child) -> Output {
    let waits = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
    within("the command ends", waits).await.unwrap()
}

/// A command that runs, and the lines that its script prints.
pub(super) struct Running {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Running {
    pub(super) fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    /// Reads a line of the script.
    pub(super) fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    pub(super) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the end. Returns the rest of what the script printed, sorted by line, and the exit
    /// code and the errors.
    pub(super) async fn ends(self) -> (Vec<String>, Output) {
        let Self { child, mut lines } = self;
        let reads = tokio::task::spawn_blocking(move || {
            let mut rest = String::new();
            lines.read_to_string(&mut rest).unwrap();
            let mut rest: Vec<String> = rest.lines().map(Into::into).collect();
            rest.sort();
            rest
        });
        let output = ends_of(child).await;
        (
            within("the script's output ends", reads).await.unwrap(),
            output,
        )
    }
}

/// Waits until an observation is true.
async fn until<F: Future<Output = bool>>(what: &str, mut is_true: impl FnMut() -> F) {
    let look = async {
        while !is_true().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(what, look).await;
}

fn is_alive(pid: &str) -> bool {
    let pid = Pid::from_raw(pid.parse().unwrap()).unwrap();
    test_kill_process(pid).is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn script_never_runs_beside_itself() {
    let voters = Voters::start("beside").await;
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("exec/beside");
    let (room, log) = (dir.join("room"), dir.join("log"));
    let _ = fs::remove_file(&log);
    let script = "mkdir \"$ROOM\" || exit 1; echo $LOCKMESH_KEY $LOCKMESH_EPOCH >> \"$LOG\"\n\
                  sleep 0.02; rmdir \"$ROOM\"";
    let start = |i: usize| {
        let mut command = voters.exec(i % 3, &["report"]);
        sh(command.env("ROOM", &room).env("LOG", &log), script)
            .spawn()
            .unwrap()
    };
    let children: Vec<Child> = (0..12).map(start).collect();
    for child in children {
        let output = ends_of(child).await;
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    }
    let log = fs::read_to_string(log).unwrap();
    let epochs = log
        .lines()
        .map(|line| line.strip_prefix("report ").unwrap().parse().unwrap());
    let epochs: Vec<u64> = epochs.collect();
    assert_eq!(epochs.len(), 12);
    assert!(epochs.is_sorted_by(|a, b| a < b), "{epochs:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_three_tries_runs() {
    let voters = Voters::start("tries").await;
    let script = "echo $$; read -r _";
    let start = |i| {
        let mut command = voters.exec(i, &["--try", "tick/1"]);
        Running::start(sh(command.stdin(Stdio::piped()), script))
    };
    let mut tries: Vec<Running> = (0..3).map(start).collect();
    // The losers end without a word of the script.
    let said: Vec<String> = tries.iter_mut().map(Running::line).collect();
    assert_eq!(
        said.iter().filter(|line| !line.is_empty()).count(),
        1,
        "{said:?}"
    );
    for (mut one, said) in tries.into_iter().zip(said) {
        let runs = !said.is_empty();
        // The end of its input ends the script.
        drop(one.child.stdin.take());
        let (_, output) = one.ends().await;
        let expected = if runs { Some(1) } else { TAKEN };
        // A loser is silent, since cron sends mails of what is not.
        assert_eq!(
            (output.status.code(), stderr(&output).as_str()),
            (expected, "")
        );
    }
    let output = ends(sh(&mut voters.exec(0, &["--try", "tick/1"]), "exit 0")).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

/// A line of a crontab, on each of three nodes: a shell computes the tick.
#[tokio::test(flavor = "multi_thread")]
async fn tick_of_a_crontab_runs_once() {
    let voters = Voters::start("once").await;
    let line = r#"exec "$LOCKMESH" exec report --once "$(date -u -d @1790000000 +%FT%H)" \
                  --keep-for 2h --config "$CONFIG" -- sh -c 'echo $LOCKMESH_KEY'"#;
    let cron = |i: usize| {
        let mut sh = Command::new("sh");
        sh.args(["-c", line])
            .env("LOCKMESH", env!("CARGO_BIN_EXE_lockmesh"))
            .env("LOCKMESH_SECRET", secret().to_base64())
            .env("CONFIG", &voters.files[i])
            .stdin(Stdio::null());
        sh
    };
    // Two at once, and the others once those have ended.
    let first: Vec<Running> = (0..2).map(|i| Running::start(&mut cron(i))).collect();
    let mut outputs = Vec::new();
    for running in first {
        outputs.push(running.ends().await);
    }
    for i in [2, 0] {
        outputs.push(Running::start(&mut cron(i)).ends().await);
    }
    let (ran, others): (Vec<_>, Vec<_>) = outputs
        .iter()
        .partition(|(_, output)| output.status.code() == Some(0));
    let said: Vec<_> = ran.iter().map(|(said, _)| said.join(",")).collect();
    assert_eq!(said, ["report@2026-09-21T14"]);
    assert_eq!(others.len(), 3);
    for (said, output) in others {
        let silent = (output.status.code(), stderr(output));
        assert_eq!((silent, said.len()), ((TAKEN, String::new()), 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_command_gives_the_tick_back() {
    let voters = Voters::start("gives_back").await;
    let once = |i: usize, script: &str| {
        let mut command = voters.exec(i, &["report", "--once", "1"]);
        Running::start(sh(command.stdin(Stdio::piped()), script))
    };
    // The first ends with the input's end, and the second waits for it.
    let mut fails = once(0, "echo up; read -r _; exit 3");
    assert_eq!(fails.line(), "up");
    let mut runs = once(1, "echo ran");
    until("the second waits", async || {
        voters.waiting("report@1").await == 1
    })
    .await;
    drop(fails.child.stdin.take());
    assert_eq!(fails.ends().await.1.status.code(), Some(3));
    assert_eq!(runs.line(), "ran");
    let (_, output) = runs.ends().await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let (said, output) = once(2, "echo again").ends().await;
    assert_eq!((output.status.code(), said.len()), (TAKEN, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn tick_that_runs_is_taken_for_a_try() {
    let voters = Voters::start("once_try").await;
    let options = ["report", "--once", "1", "--try"];
    let mut command = voters.exec(0, &options);
    let mut runs = Running::start(sh(
        command.stdin(Stdio::piped()),
        "echo up; read -r _; exit 0",
    ));
    assert_eq!(runs.line(), "up");
    let output = ends(sh(&mut voters.exec(1, &options), "echo again")).await;
    assert_eq!(
        (output.status.code(), stdout(&output)),
        (TAKEN, String::new())
    );
    drop(runs.child.stdin.take());
    assert_eq!(runs.ends().await.1.status.code(), Some(0));
    let output = ends(sh(&mut voters.exec(1, &options), "echo again")).await;
    assert_eq!(
        (output.status.code(), stdout(&output)),
        (TAKEN, String::new())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn tick_runs_again_once_keep_for_is_over() {
    let voters = Voters::start("keep_for").await;
    let run = async |i| {
        let mut command = voters.exec(i, &["report", "--once", "1", "--keep-for", "1s"]);
        ends(sh(&mut command, "exit 0")).await.status.code()
    };
    assert_eq!(run(0).await, Some(0));
    until("the tick is forgotten", async || match run(1).await {
        Some(0) => true,
        code => {
            assert_eq!(code, TAKEN);
            false
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tick_without_quorum_for_its_mark_may_run_again() {
    let voters = Voters::start("not_marked").await;
    let mut command = voters.exec(0, &["report", "--once", "1"]);
    command.env("LOCKMESH_TTL", "2s").stdin(Stdio::piped());
    let mut runs = Running::start(sh(&mut command, "echo up; read -r _; exit 0"));
    assert_eq!(runs.line(), "up");
    voters.lose_quorum().await;
    drop(runs.child.stdin.take());
    let (_, output) = runs.ends().await;
    let said = stderr(&output);
    assert_eq!(output.status.code(), LOST, "{said}");
    assert!(said.contains("report@1"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_code_is_that_of_the_command() {
    let voters = Voters::start("codes").await;
    for (command, code) in [
        (&["true"][..], 0),
        (&["sh", "-c", "exit 7"], 7),
        (&["sh", "-c", "kill -KILL $$"], 128 + 9),
        (&["sh", "-c", "kill -TERM $$"], 128 + 15),
        (&["/no/such/command"], 127),
        (&["no-such-command-anywhere"], 127),
        (&[env!("CARGO_MANIFEST_DIR")], 126),
    ] {
        let output = ends(voters.exec(0, &["k", "--"]).args(command)).await;
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{command:?}: {said}");
        assert_eq!(
            said.contains(command[0]),
            [126, 127].contains(&code),
            "{said}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_reach_the_whole_process_group() {
    let voters = Voters::start("signals").await;
    // The shell runs its own trap once its child in the foreground has ended.
    let script = r#"
        for it in INT TERM HUP QUIT USR1 USR2; do trap "echo script $it; exit 42" $it; done
        sh -c 'for it in INT TERM HUP QUIT USR1 USR2; do trap "echo child $it; exit" $it; done
               echo up; while :; do sleep 0.01; done'"#;
    for (signal, name) in [
        (Signal::TERM, "TERM"),
        (Signal::INT, "INT"),
        (Signal::HUP, "HUP"),
        (Signal::QUIT, "QUIT"),
        (Signal::USR1, "USR1"),
        (Signal::USR2, "USR2"),
    ] {
        let mut running = Running::start(sh(&mut voters.exec(1, &["k"]), script));
        assert_eq!(running.line(), "up");
        running.signal(signal);
        let (said, output) = running.ends().await;
        assert_eq!(output.status.code(), Some(42), "{name} {said:?}");
        assert_eq!(said, [format!("child {name}"), format!("script {name}")]);
    }
    let mut running = Running::start(sh(&mut voters.exec(1, &["k"]), "echo up; sleep 1000"));
    running.line();
    running.signal(Signal::TERM);
    let (_, output) = running.ends().await;
    assert_eq!(output.status.code(), Some(128 + 15), "{}", stderr(&output));
    assert_eq!(output.status.signal(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn command_that_ignores_sigterm_keeps_the_lock() {
    let voters = Voters::start("ignores").await;
    let script = "trap '' TERM; trap 'echo INT; exit 3' INT; echo up; while :; do sleep 0.01; done";
    let mut running = Running::start(sh(&mut voters.exec(0, &["k", "--grace", "0s"]), script));
    assert_eq!(running.line(), "up");
    running.signal(Signal::TERM);
    let mut next = Running::start(sh(&mut voters.exec(1, &["k"]), "echo next"));
    until("the next waits", async || voters.waiting("k").await == 1).await;
    assert!(voters.is_held("k").await);
    running.signal(Signal::INT);
    let (said, output) = running.ends().await;
    assert_eq!(
        (output.status.code(), &said[..]),
        (Some(3), &["INT".to_owned()][..])
    );
    assert_eq!(next.line(), "next");
    assert_eq!(next.ends().await.1.status.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_lease_ends_the_command() {
    let voters = Voters::start("lost").await;
    let script = "trap 'echo TERM; exit 0' TERM; echo up; while :; do sleep 0.01; done";
    let mut command = voters.exec(0, &["k"]);
    let mut running = Running::start(sh(command.env("LOCKMESH_TTL", "500ms"), script));
    assert_eq!(running.line(), "up");
    voters.lose_quorum().await;
    let (said, output) = running.ends().await;
    assert_eq!(said, ["TERM"]);
    assert_eq!(output.status.code(), LOST, "{}", stderr(&output));
    assert!(
        stderr(&output).contains("lockmesh: k was lost"),
        "{}",
        stderr(&output)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_lease_kills_what_ignores_sigterm() {
    let voters = Voters::start("kills").await;
    let script = "trap '' TERM; sh -c 'echo $$; while :; do sleep 0.01; done' & wait";
    let mut command = voters.exec(0, &["k", "--grace", "100ms"]);
    let mut running = Running::start(sh(command.env("LOCKMESH_TTL", "500ms"), script));
    let grandchild = running.line();
    voters.lose_quorum().await;
    let (_, output) = running.ends().await;
    assert_eq!(output.status.code(), LOST, "{}", stderr(&output));
    assert!(!is_alive(&grandchild));
}

#[tokio::test(flavor = "multi_thread")]
async fn paused_exec_reports_the_loss() {
    let voters = Voters::start("paused").await;
    let script = "trap 'echo TERM; exit 0' TERM; echo up; while :; do sleep 0.01; done";
    let mut command = voters.exec(0, &["k"]);
    let mut running = Running::start(sh(command.env("LOCKMESH_TTL", "500ms"), script));
    assert_eq!(running.line(), "up");
    running.signal(Signal::STOP);
    // The next holder is another, once the lease of the paused one is over.
    let output = ends(sh(&mut voters.exec(1, &["k"]), "exit 0")).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    running.signal(Signal::CONT);
    let (said, output) = running.ends().await;
    assert_eq!(
        (output.status.code(), &said[..]),
        (LOST, &["TERM".to_owned()][..])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_left_behind_end_before_the_lock() {
    let voters = Voters::start("left").await;
    // The lock is taken by a waiter the moment it is free. Nothing of the group runs then.
    let script = "sh -c 'echo $$; while :; do sleep 0.01; done' & read -r line; exit 5";
    for (grace, ignored) in [("1h", ""), ("100ms", "trap '' TERM; ")] {
        let mut command = voters.exec(0, &["k", "--grace", grace]);
        let script = format!("{ignored}{script}");
        let mut running = Running::start(sh(command.stdin(Stdio::piped()), &script));
        let left = running.line();
        let next = format!("kill -0 {left}; echo $?");
        let mut next = Running::start(sh(&mut voters.exec(1, &["k"]), &next));
        until("the next waits", async || voters.waiting("k").await == 1).await;
        assert!(is_alive(&left));
        drop(running.child.stdin.take());
        assert_eq!(next.line(), "1");
        let (_, output) = running.ends().await;
        assert_eq!(output.status.code(), Some(5), "{}", stderr(&output));
        assert_eq!(next.ends().await.1.status.code(), Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wait_that_times_out_names_the_holder() {
    let voters = Voters::start("wait").await;
    let lock = voters.node().lock("k").note("deploy 812 by ci");
    let guard = lock.acquire().await.unwrap();
    let output = ends(sh(
        &mut voters.exec(1, &["k", "--wait", "300ms"]),
        "echo ran",
    ))
    .await;
    let said = stderr(&output);
    let expected = format!(
        "lockmesh: k is taken by n0, epoch {}: deploy 812 by ci\n",
        guard.epoch().get()
    );
    assert_eq!(
        (output.status.code(), said.as_str()),
        (TAKEN, expected.as_str())
    );
    assert_eq!(stdout(&output), "");

    // A wait that is long enough ends with the lock.
    let options = ["k", "--wait", "1h", "--note", "report of today"];
    let waits = Running::start(sh(&mut voters.exec(1, &options), "echo ran"));
    until("it waits", async || voters.waiting("k").await == 1).await;
    until("its note", async || {
        let seen = voters.node().inspect("k").await.unwrap();
        let note = seen.waiters.first().and_then(|it| it.note.as_ref());
        note.is_some_and(|note| note.as_str() == "report of today")
    })
    .await;
    guard.release().await.unwrap();
    let (said, output) = waits.ends().await;
    assert_eq!(
        (output.status.code(), &said[..]),
        (Some(0), &["ran".to_owned()][..])
    );

    voters.lose_quorum().await;
    for options in [&["k", "--wait", "300ms"][..], &["k", "--try"]] {
        let output = ends(sh(&mut voters.exec(0, options), "echo ran")).await;
        let said = stderr(&output);
        assert_eq!(
            (output.status.code(), stdout(&output).as_str()),
            (NO_QUORUM, ""),
            "{said}"
        );
        assert!(said.contains("2 did not answer"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn signal_ends_the_wait() {
    let voters = Voters::start("interrupted").await;
    let guard = voters.node().lock("k").acquire().await.unwrap();
    for (signal, code) in [(Signal::TERM, 128 + 15), (Signal::INT, 128 + 2)] {
        let waits = Running::start(sh(&mut voters.exec(1, &["k"]), "echo ran"));
        until("it waits", async || voters.waiting("k").await == 1).await;
        waits.signal(signal);
        let (said, output) = waits.ends().await;
        assert_eq!(
            (output.status.code(), said.len()),
            (Some(code), 0),
            "{}",
            stderr(&output)
        );
        until("its claim is withdrawn", async || {
            voters.waiting("k").await == 0
        })
        .await;
    }
    assert!(guard.is_held());
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_quorum_ends_an_endless_wait() {
    let voters = Voters::start("quorum").await;
    let guard = voters.node().lock("k").acquire().await.unwrap();
    let waits = Running::start(sh(&mut voters.exec(0, &["k"]), "echo ran"));
    until("it waits", async || voters.waiting("k").await == 1).await;
    voters.lose_quorum().await;
    let (said, output) = waits.ends().await;
    let text = stderr(&output);
    assert_eq!((output.status.code(), said.len()), (NO_QUORUM, 0), "{text}");
    assert!(
        text.ends_with("lockmesh: no quorum for 10s: 1 of 3 voters would vote\n"),
        "{text}"
    );
    drop(guard);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_secret_ends_even_an_endless_wait() {
    let voters = Voters::start("secret").await;
    let other = ClusterSecret::from_bytes([8; 32]).unwrap().to_base64();
    for options in [&["k"][..], &["k", "--try"], &["k", "--wait", "1h"]] {
        let mut command = voters.exec(0, options);
        let output = ends(sh(command.env("LOCKMESH_SECRET", &other), "echo ran")).await;
        let said = stderr(&output);
        assert_eq!(
            (output.status.code(), stdout(&output).as_str()),
            (NO_QUORUM, ""),
            "{said}"
        );
        let expected = "lockmesh: no answer from any node: is the secret right, the cluster's name \
                        right and the mesh sealed, is it up?\n";
        assert!(said.ends_with(expected), "{said}");
        assert!(!said.contains(&other), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_leaves_no_state_in_the_mesh() {
    let voters = Voters::start("state").await;
    for i in 0..10 {
        let output = ends(sh(&mut voters.exec(i % 3, &["k"]), "exit 0")).await;
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    }
    until("nothing is held", async || {
        (0..3).all(|i| {
            let status = voters.mesh.node(i).status();
            assert!(status.others.is_empty(), "{:?}", status.others);
            (status.voter_keys, status.voter_waiters) == (0, 0)
        })
    })
    .await;
}

#[test]
fn invalid_options_are_refused() {
    for (options, what) in [
        (&["k"][..], "COMMAND"),
        (&["--", "true"], "KEY"),
        (
            &["k", "--try", "--wait", "1s", "--", "true"],
            "cannot be used with",
        ),
        (
            &["k", "--wait", "0s", "--", "true"],
            "it must be 100ms to 366 days",
        ),
        (
            &["k", "--wait", "400days", "--", "true"],
            "it must be 100ms to 366 days",
        ),
        (&["k", "--grace", "soon", "--", "true"], "--grace <SPAN>"),
        (&["k", "--note", "", "--", "true"], "note is empty"),
        (&["k", "--keep-for", "2h", "--", "true"], "--once <TICK>"),
        (
            &["k", "--once", "1", "--keep-for", "8days", "--", "true"],
            "it must be 1s to 7 days",
        ),
        // As of a shell whose `date` is missing.
        (&["k", "--once", "", "--", "true"], "it must not be empty"),
        (&["k", "--once", "1@2", "--", "true"], "not contain '@'"),
        (
            &["k", "--config", "/no/such/file", "--", "true"],
            "/no/such/file: cannot be read",
        ),
        (&["k", "--", "true"], "secret: there must be exactly one"),
    ] {
        let output = lockmesh(&["exec"]).args(options).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{options:?}");
        assert!(stderr(&output).contains(what), "{}", stderr(&output));
    }
    let text = "preset = \"single\"\nnode_id = \"n1\"\ninsecure_plaintext = true\n";
    let config = file("exec/single", text);
    let output = lockmesh(&["exec", "k", "--config"])
        .arg(&config)
        .args(["--", "true"])
        .output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("voters: there are none"),
        "{}",
        stderr(&output)
    );
    let text = "voters = [\"n1\"]\ninsecure_plaintext = true\nlisten = \"127.0.0.1:0\"\n";
    let config = file("exec/key", text);
    let output = lockmesh(&["exec", "", "--config"])
        .arg(&config)
        .args(["--", "true"])
        .output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("key is empty"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn help_lists_exit_codes() {
    let text = stdout(&lockmesh(&["exec", "--help"]).output().unwrap());
    for code in ["2", "69", "75", "125", "126", "127", "128+N"] {
        assert!(text.contains(&format!("\n  {code} ")), "{text}");
    }
}

/// Returns the name of a new terminal, and its other end.
fn terminal() -> (File, PathBuf) {
    let other_end = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&other_end).unwrap();
    unlockpt(&other_end).unwrap();
    let name = ptsname(&other_end, Vec::new())
        .unwrap()
        .into_string()
        .unwrap();
    (other_end.into(), name.into())
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn command_has_the_terminal_in_the_foreground_only() {
    let voters = Voters::start("terminal").await;
    let (_other_end, name) = terminal();
    let terminal = |name: &Path| File::options().read(true).write(true).open(name).unwrap();
    let script = "readlink /proc/$$/fd/0; ps -o pgid= $$";
    for foreground in [false, true] {
        let mut command = voters.exec(0, &["k"]);
        if foreground {
            command.arg("--foreground");
        }
        let output = ends(sh(command.stdin(terminal(&name)), script)).await;
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let input = if foreground {
            &name
        } else {
            Path::new("/dev/null")
        };
        assert_eq!(stdout(&output).lines().next(), input.to_str());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn foreground_command_gets_signals_alone() {
    let voters = Voters::start("foreground").await;
    let script = r#"
        exec 3<&0; trap "exit 6" TERM; trap "echo INT" INT; trap "echo USR1" USR1
        sh -c 'trap "echo child" TERM USR1; echo up; read -r _ <&3; echo read' &
        while :; do sleep 0.01; done"#;
    let mut command = voters.exec(0, &["k", "--foreground"]);
    let mut running = Running::start(sh(command.stdin(Stdio::piped()), script));
    assert_eq!(running.line(), "up");
    // Ctrl-C comes from the terminal to both.
    running.signal(Signal::INT);
    running.signal(Signal::USR1);
    assert_eq!(running.line(), "USR1");
    running.signal(Signal::TERM);
    // The lock is free once the command has ended, although its child runs.
    let output = ends(sh(&mut voters.exec(1, &["k"]), "exit 0")).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    drop(running.child.stdin.take());
    let (said, output) = running.ends().await;
    assert_eq!(
        (output.status.code(), &said[..]),
        (Some(6), &["read".to_owned()][..])
    );
}
