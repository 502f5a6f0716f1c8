//! A worker process of chaos, started by hand.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::common::{chaos, until};

pub(crate) const KEY: &str = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=";
/// The settings of a worker.
#[derive(Clone, Copy)]
pub(crate) struct Setup<'a> {
    pub(crate) listen: &'a str,
    pub(crate) seeds: &'a str,
    pub(crate) voters: &'a str,
    pub(crate) key: &'a str,
    pub(crate) cluster: &'a str,
    pub(crate) max_ttl_ms: u64,
    pub(crate) is_new: bool,
    pub(crate) wall_offset_ms: i64,
    /// More lines of its configuration.
    pub(crate) more: &'a str,
    /// The options of its workload.
    pub(crate) load: &'a str,
}

impl Default for Setup<'_> {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:0",
            seeds: "",
            voters: r#""n1", "n2", "n3""#,
            key: KEY,
            cluster: "prod",
            max_ttl_ms: 12_000,
            is_new: true,
            wall_offset_ms: 0,
            more: "",
            load: "--tasks 0",
        }
    }
}

impl Setup<'_> {
    /// Returns these settings for a node that requests the one key, and holds it for an hour.
    pub(crate) fn holding(self) -> Self {
        let load = "--keys 1 --tasks 1 --mix hold --hold-ms 3600000 --acquire-timeout-ms 3600000";
        Self { load, ..self }
    }
}

/// A running worker. It is killed on drop.
pub(crate) struct Node {
    pub(crate) name: &'static str,
    child: Child,
    log: Arc<Mutex<String>>,
    pub(crate) history: PathBuf,
}

impl Node {
    pub(crate) fn start(place: &Path, name: &'static str, setup: &Setup<'_>) -> Self {
        let Setup {
            listen,
            seeds,
            voters,
            key,
            cluster,
            max_ttl_ms,
            is_new,
            wall_offset_ms,
            more,
            load,
        } = setup;
        let ttl_ms = max_ttl_ms - max_ttl_ms / 10;
        let text = format!(
            "node_id = \"{name}\"\nlisten = \"{listen}\"\nseeds = [{seeds}]\n\
             voters = [{voters}]\nsecret = \"{key}\"\ncluster = \"{cluster}\"\n\
             bootstrap = {is_new}\nttl = \"{ttl_ms}ms\"\n{more}\
             [timing]\nmax_ttl = \"{max_ttl_ms}ms\"\nmax_clock_skew = \"1s\"\n"
        );
        let file = |kind| place.join(format!("{name}-{cluster}-{max_ttl_ms}.{kind}"));
        fs::write(file("toml"), text).unwrap();
        let mut command = chaos(&["worker", "--config"]);
        command.arg(file("toml")).arg("--history");
        command.arg(file("jsonl")).args(load.split(' '));
        command.arg(format!("--wall-offset-ms={wall_offset_ms}"));
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let log = Arc::new(Mutex::new(String::new()));
        let written = log.clone();
        std::thread::spawn(move || {
            let mut line = String::new();
            while lines.read_line(&mut line).is_ok_and(|len| len > 0) {
                written.lock().unwrap().push_str(&line);
                line.clear();
            }
        });
        let history = file("jsonl");
        Self {
            name,
            child,
            log,
            history,
        }
    }

    pub(crate) fn said(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub(crate) fn says(&self, what: &str) {
        until(&format!("{what:?} in {}", self.said()), || {
            self.said().contains(what).then_some(())
        });
    }

    /// Returns the address in its log.
    pub(crate) fn addr(&self) -> String {
        until("its address", || {
            let said = self.said();
            let (_, rest) = said.split_once(" addr=")?;
            rest.split_once(' ').map(|(addr, _)| addr.to_owned())
        })
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.said().contains(" ready node=")
    }

    /// Returns its history so far, without an incomplete last line.
    pub(crate) fn lines(&self) -> Vec<Value> {
        let text = fs::read_to_string(&self.history).unwrap_or_default();
        let lines = text.lines().map(serde_json::from_str);
        lines.map_while(Result::ok).collect()
    }

    /// Returns the last event of this kind in its history.
    pub(crate) fn last(&self, event: &str) -> Option<Value> {
        let mut lines = self.lines().into_iter().rev();
        lines.find(|line| line["event"] == event)
    }

    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let kill = Command::new("kill").args([signal, &pid]).status();
        assert!(kill.unwrap().success());
    }

    /// Sends a signal, and waits for the end.
    pub(crate) fn ends(&mut self, signal: &str) -> ExitStatus {
        self.signal(signal);
        self.child.wait().unwrap()
    }

    pub(crate) fn kill(mut self) {
        self.ends("-KILL");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn quoted(addr: &str) -> String {
    format!("\"{addr}\"")
}
