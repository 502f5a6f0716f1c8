//! `chaos check`, and the histories that workers write.

use std::fs;
use std::path::Path;

use crate::common::{chaos, place, stderr, stdout, until};
use crate::worker::{Node, Setup};

/// Returns the exit code and the output of `chaos check` for these files.
fn checked(files: &[&Path]) -> (Option<i32>, String, String) {
    let output = chaos(&["check", "--json"]).args(files).output().unwrap();
    (output.status.code(), stdout(&output), stderr(&output))
}

/// Returns the history of an incarnation that holds `k` from `from` to `to`.
pub(crate) fn incarnation(node: &str, from: u64, to: u64, epoch: u64) -> String {
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
    let dir = place("check-forged");
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
    let file = place("check-rubbish").join("a.jsonl");
    fs::write(&file, incarnation("n1", 10, 30, 7) + "rubbish\n").unwrap();
    let (code, _, said) = checked(&[&file]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains(&format!("{}:5: ", file.display())), "{said}");
    let (code, _, said) = checked(&[&file.with_extension("none")]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("cannot be read"), "{said}");
}

/// Two incarnations of one node under load: the first is killed, the second receives SIGTERM.
#[test]
fn history_of_killed_and_stopped_node_is_accepted() {
    let dir = place("check-load");
    let setup = Setup {
        voters: "\"n1\"",
        load: "--hold-ms 1..50 --pause-ms 1..5 --look-every-ms 1",
        max_ttl_ms: 2_000,
        ..Setup::default()
    };
    let mut history = None;
    for (signal, expected) in [("-KILL", 1), ("-TERM", 2)] {
        let setup = Setup {
            is_new: expected == 1,
            ..setup
        };
        let mut node = Node::start(&dir, "n1", &setup);
        let starts = |node: &Node| {
            let lines = node.lines();
            let starts = lines.iter().filter(|line| line["event"] == "start");
            starts.count()
        };
        // After ten releases the node probably holds a lock at the time of the signal.
        until("ten releases", || {
            let lines = node.lines();
            let own = lines.rsplit(|line| line["event"] == "start").next()?;
            let released = own.iter().filter(|line| line["event"] == "released");
            (starts(&node) == expected && released.count() >= 10).then_some(())
        });
        assert_eq!(node.ends(signal).success(), signal == "-TERM");
        history = Some(node.history.clone());
    }
    let history = history.unwrap();
    assert!(fs::read_to_string(&history).unwrap().contains("\"end\""));
    let (code, said, error) = checked(&[&history]);
    assert_eq!(code, Some(0), "{said}{error}");
    let last: serde_json::Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert_eq!(last["figures"]["incarnations"], 2);
}

#[test]
fn worker_refuses_invalid_workload_naming_option() {
    let invalid = [
        ("--keys", "0"),
        ("--tasks", "1001"),
        ("--hold-ms", "3..2"),
        ("--pause-ms", "0"),
        ("--look-every-ms", "0"),
    ];
    for (option, value) in invalid {
        let args = [
            "worker",
            "--config",
            "none",
            "--history",
            "none",
            option,
            value,
        ];
        let output = chaos(&args).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).contains(option), "{}", stderr(&output));
    }
}
