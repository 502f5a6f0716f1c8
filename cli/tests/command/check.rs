//! `lockmesh check`, and the histories that `lockmesh node --workload` writes.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{lockmesh, stderr, stdout};

fn dir(name: &str) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("check-{name}"));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    dir
}

/// Returns the exit code and the output of `lockmesh check` for these files.
fn checked(files: &[&Path]) -> (Option<i32>, String, String) {
    let output = lockmesh(&["check", "--json"]).args(files).output().unwrap();
    (output.status.code(), stdout(&output), stderr(&output))
}

/// Returns the history of an incarnation that holds `k` from `from` to `to`.
fn incarnation(node: &str, from: u64, to: u64, epoch: u64) -> String {
    let (asked, after) = (from - 1, from + 1);
    let start = r#""event":"start","at":1,"format":1,"boot":"b","incarnation":1"#;
    format!(
        r#"{{{start},"node":"{node}","max_lease_ms":3000}}
{{"event":"asked","at":{asked},"id":0,"key":"k","how":"acquire","wait_ms":9000}}
{{"event":"granted","id":0,"before":{from},"after":{after},"epoch":{epoch},"until":[900,901]}}
{{"event":"held","id":0,"before":{to},"after":{to},"until":[900,901]}}
"#
    )
}

#[test]
fn contradictory_histories_are_rejected_with_both_lines() {
    let dir = dir("forged");
    let (a, b) = (dir.join("a.jsonl"), dir.join("b.jsonl"));
    fs::write(&a, incarnation("n1", 10, 30, 7)).unwrap();
    fs::write(&b, incarnation("n2", 40, 50, 8)).unwrap();
    let (code, said, _) = checked(&[&a, &b]);
    assert_eq!(code, Some(0), "{said}");
    fs::write(&b, incarnation("n2", 20, 50, 8)).unwrap();
    let (code, said, _) = checked(&[&a, &b]);
    assert_eq!(code, Some(1), "{said}");
    let lines = format!("M1: {}:4 and {}:3: ", a.display(), b.display());
    assert!(said.contains(&lines), "{said}");
    let last: serde_json::Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert_eq!(last["accepted"], false);
}

#[test]
fn invalid_history_exits_with_two_and_names_line() {
    let file = dir("rubbish").join("a.jsonl");
    fs::write(&file, incarnation("n1", 10, 30, 7) + "rubbish\n").unwrap();
    let (code, _, said) = checked(&[&file]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains(&format!("{}:5: ", file.display())), "{said}");
    let (code, _, said) = checked(&[&file.with_extension("none")]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("cannot be read"), "{said}");
}

/// Two incarnations of one node under load: the first is killed, the second receives SIGTERM.
#[cfg(target_os = "linux")]
#[test]
fn history_of_killed_and_stopped_node_is_accepted() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    let dir = dir("load");
    let (config, history) = (dir.join("node.toml"), dir.join("n1.jsonl"));
    let text = "node_id = \"n1\"\npreset = \"single\"\ninsecure_plaintext = true\n\
                [workload]\nhold_ms = [1, 50]\npause_ms = [1, 5]\nlook_every_ms = 1\n";
    fs::write(&config, text).unwrap();
    for signal in ["-KILL", "-TERM"] {
        let mut node = lockmesh(&["node", "--workload", "--config"])
            .arg(&config)
            .arg("--history")
            .arg(&history)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(node.stderr.take().unwrap());
        let mut said = String::new();
        while !said.contains(" ready node=") {
            assert!(log.read_line(&mut said).unwrap() > 0, "{said}");
        }
        let written = || fs::read_to_string(&history).unwrap();
        let incarnations = || written().matches("\"start\"").count();
        let incarnation = || written().rsplit("\"start\"").next().unwrap().to_owned();
        let expected = if signal == "-KILL" { 1 } else { 2 };
        // After ten releases the node probably holds a lock at the time of the signal.
        while incarnations() < expected || incarnation().matches("\"released\"").count() < 10 {
            assert!(node.try_wait().unwrap().is_none(), "it ended: {said}");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let kill = Command::new("kill")
            .args([signal, &node.id().to_string()])
            .status();
        assert!(kill.unwrap().success());
        while log.read_line(&mut said).unwrap() > 0 {}
        let status = node.wait().unwrap();
        assert_eq!(status.success(), signal == "-TERM", "{said}");
    }
    assert!(fs::read_to_string(&history).unwrap().contains("\"end\""));
    let (code, said, error) = checked(&[&history]);
    assert_eq!(code, Some(0), "{said}{error}");
    let last: serde_json::Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert_eq!(last["figures"]["incarnations"], 2);
}

#[test]
fn invalid_workload_is_refused_with_its_line() {
    let config = dir("refused").join("node.toml");
    let text = "node_id = \"n1\"\ninsecure_plaintext = true\n[workload]\ntasks = 0\n";
    fs::write(&config, text).unwrap();
    let output = lockmesh(&["node", "--config"])
        .arg(&config)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = stderr(&output);
    assert!(
        said.contains(&format!("{}:4: workload.tasks is 0", config.display())),
        "{said}"
    );
}
