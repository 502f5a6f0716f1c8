//! `lockmesh node` that receives SIGTERM while it holds a lock for which others wait.
#![cfg(unix)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};

use serde_json::Value;

use crate::common::{Patience, lockmesh, stderr};

const KEY: &str = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=";

/// A node that requests the one key and holds it for an hour. It is killed on drop.
struct Node {
    child: Child,
    log: BufReader<ChildStderr>,
    history: PathBuf,
}

impl Node {
    fn start(place: &Path, name: &str, seeds: &str) -> Self {
        let config = place.join(format!("{name}.toml"));
        let text = format!(
            "node_id = \"{name}\"\nlisten = \"127.0.0.1:0\"\nseeds = [{seeds}]\n\
             voters = [\"n1\", \"n2\", \"n3\"]\nsecret = \"{KEY}\"\nbootstrap = true\n\
             ttl = \"30s\"\n[workload]\nkeys = 1\ntasks = 1\nmix = \"hold\"\n\
             hold_ms = [3600000, 3600000]\nacquire_timeout_ms = [3600000, 3600000]\n"
        );
        fs::write(&config, text).unwrap();
        let history = place.join(format!("{name}.jsonl"));
        let mut child = lockmesh(&["node", "--workload", "--config"])
            .arg(config)
            .arg("--history")
            .arg(&history)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        Self {
            child,
            log,
            history,
        }
    }

    /// Returns the address in its log.
    fn addr(&mut self) -> String {
        let mut said = String::new();
        loop {
            assert!(self.log.read_line(&mut said).unwrap() > 0, "{said}");
            let told = said.split_once(" addr=");
            if let Some((addr, _)) = told.and_then(|(_, rest)| rest.split_once(' ')) {
                return addr.to_owned();
            }
        }
    }

    /// Returns its history so far, without an incomplete last line.
    fn lines(&self) -> Vec<Value> {
        let text = fs::read_to_string(&self.history).unwrap_or_default();
        let lines = text.lines().map(serde_json::from_str);
        lines.map_while(Result::ok).collect()
    }

    /// Returns the last event of this kind in its history.
    fn last(&self, event: &str) -> Option<Value> {
        let mut lines = self.lines().into_iter().rev();
        lines.find(|line| line["event"] == event)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Polls until there is a value.
fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let mut patience = Patience::new();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        patience.sleep(what);
    }
}

fn nanos(of: &Value) -> u64 {
    of.as_u64().unwrap()
}

#[test]
fn stopped_holder_hands_lock_over_before_lease_end() {
    let place = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("handover");
    let _ = fs::remove_dir_all(&place);
    fs::create_dir_all(&place).unwrap();
    let mut nodes = vec![Node::start(&place, "n1", "")];
    let seed = format!("\"{}\"", nodes[0].addr());
    nodes.push(Node::start(&place, "n2", &seed));
    nodes.push(Node::start(&place, "n3", &seed));

    let holder = until("one holds and all have asked", || {
        let has_asked = nodes.iter().all(|node| node.last("asked").is_some());
        let holder = nodes.iter().position(|node| node.last("held").is_some());
        holder.filter(|_| has_asked)
    });
    let mut holder = nodes.remove(holder);
    let kill = Command::new("kill")
        .args(["-TERM", &holder.child.id().to_string()])
        .status();
    assert!(kill.unwrap().success());
    let next = until("another is granted", || {
        nodes.iter().find_map(|node| node.last("granted"))
    });
    let mut rest = String::new();
    while holder.log.read_line(&mut rest).unwrap() > 0 {}
    assert!(holder.child.wait().unwrap().success(), "{rest}");

    // All processes share the boot clock.
    let first = holder.last("granted").unwrap();
    let held = holder.last("held").unwrap();
    let stopping = holder.last("stopping").unwrap();
    assert!(holder.last("end").is_some(), "{rest}");
    assert!(nanos(&stopping["at"]) < nanos(&next["after"]), "{next}");
    assert!(
        nanos(&next["after"]) < nanos(&held["until"][0]),
        "{held} {next}"
    );
    assert!(nanos(&first["epoch"]) < nanos(&next["epoch"]), "{next}");

    let files = nodes.iter().chain([&holder]).map(|node| &node.history);
    let judged = lockmesh(&["check"]).args(files).output().unwrap();
    assert!(judged.status.success(), "{}", stderr(&judged));
}
