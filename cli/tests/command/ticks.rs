//! A job that runs once in each TTL, across deploys and crashes of its processes.
#![cfg(unix)]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::{lockmesh, stderr, stdout};

const KEY: &str = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=";
/// Long enough for any step on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// A node whose one task repeatedly takes the one key through the trait.
struct Node {
    name: &'static str,
    child: Child,
    addr: String,
    history: PathBuf,
}

impl Node {
    fn start(place: &Path, name: &'static str, listen: &str, seeds: &str) -> Self {
        let config = place.join(format!("{name}.toml"));
        let text = format!(
            "node_id = \"{name}\"\nlisten = \"{listen}\"\nseeds = [{seeds}]\n\
             voters = [\"n1\", \"n2\", \"n3\"]\nsecret = \"{KEY}\"\nbootstrap = true\n\
             [workload]\nkeys = 1\ntasks = 1\nmix = \"tick\"\nhold_ms = [5000, 5000]\n\
             pause_ms = [10, 50]\n"
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
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        let addr = loop {
            assert!(log.read_line(&mut said).unwrap() > 0, "{said}");
            let told = said.split_once(" addr=");
            if let Some((addr, _)) = told.and_then(|(_, rest)| rest.split_once(' ')) {
                break addr.to_owned();
            }
        };
        // Read the log, or the node would block on a full pipe.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Self {
            name,
            child,
            addr,
            history,
        }
    }

    /// Returns the times at which it took the key.
    fn ticks(&self) -> BTreeSet<u64> {
        let text = fs::read_to_string(&self.history).unwrap_or_default();
        let lines = text
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let ticks = lines.filter(|line| line["event"] == "ticked");
        ticks.filter_map(|line| line["at"].as_u64()).collect()
    }

    fn ends(&mut self, signal: &str) {
        let kill = Command::new("kill")
            .args([signal, &self.child.id().to_string()])
            .status();
        assert!(kill.unwrap().success());
        self.child.wait().unwrap();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Each node that takes the key is stopped or killed, and restarted at once. No two ticks may fall
/// within one TTL.
#[test]
fn job_runs_once_per_ttl_across_restarts() {
    let place = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("ticks");
    let _ = fs::remove_dir_all(&place);
    fs::create_dir_all(&place).unwrap();
    let any = "127.0.0.1:0";
    let mut nodes = vec![Node::start(&place, "n1", any, "")];
    let seed = format!("\"{}\"", nodes[0].addr);
    nodes.push(Node::start(&place, "n2", any, &seed));
    nodes.push(Node::start(&place, "n3", any, &seed));
    let seeds: Vec<String> = nodes
        .iter()
        .map(|node| format!("\"{}\"", node.addr))
        .collect();
    let seeds = seeds.join(", ");
    let mut seen = BTreeSet::new();
    // The last node is left running. Its tick must also wait for the TTL before it.
    for signal in [Some("-TERM"), Some("-KILL"), None] {
        let began = Instant::now();
        let owner = loop {
            let new = |node: &Node| node.ticks().iter().any(|at| !seen.contains(at));
            if let Some(owner) = nodes.iter().position(new) {
                break owner;
            }
            assert!(began.elapsed() < PATIENCE, "no tick in {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(5));
        };
        seen.extend(nodes.iter().flat_map(Node::ticks));
        if let Some(signal) = signal {
            let mut owner = nodes.remove(owner);
            owner.ends(signal);
            let (name, addr) = (owner.name, owner.addr.clone());
            drop(owner);
            nodes.push(Node::start(&place, name, &addr, &seeds));
        }
    }
    for node in &mut nodes {
        node.ends("-KILL");
    }
    let files = nodes.iter().map(|node| &node.history);
    let judged = lockmesh(&["check"]).args(files).output().unwrap();
    assert!(
        judged.status.success(),
        "{}{}",
        stdout(&judged),
        stderr(&judged)
    );
    assert_eq!(
        nodes.iter().map(|node| node.ticks().len()).sum::<usize>(),
        3
    );
}
