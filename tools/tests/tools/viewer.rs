//! The viewer through its HTTP interface, without a browser.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::common::{Patience, stderr, viewer};

/// The longest wait for one response.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running lab, which ends with the test.
pub(crate) struct Lab {
    child: Child,
    pub(crate) addr: String,
    agent: ureq::Agent,
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder();
    let config = config.http_status_as_error(false).proxy(None);
    config.timeout_global(Some(PATIENCE)).build().into()
}

impl Lab {
    pub(crate) fn start() -> Self {
        let args = ["--port", "0", "--ttl-ms", "1500"];
        let mut child = viewer(&args).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let mut told = BufReader::new(child.stdout.take().unwrap());
        told.read_line(&mut line).unwrap();
        let addr = line.split("http://").nth(1).unwrap();
        let addr = addr.split('/').next().unwrap().to_owned();
        let agent = agent();
        Self { child, addr, agent }
    }

    /// Returns the status and the body of the response.
    fn ask(&self, command: &Value) -> (u16, Value) {
        let request = self.agent.post(format!("http://{}/api/do", self.addr));
        let mut answer = request.send_json(command).unwrap();
        let status = answer.status().as_u16();
        (status, answer.body_mut().read_json().unwrap())
    }

    fn does(&self, command: &Value) {
        let (status, answer) = self.ask(command);
        assert_eq!(status, 200, "{command}: {answer}");
    }

    pub(crate) fn state(&self) -> Value {
        let request = self.agent.get(format!("http://{}/api/state", self.addr));
        request.call().unwrap().body_mut().read_json().unwrap()
    }

    fn until(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let mut patience = Patience::new();
        loop {
            let state = self.state();
            if is_so(&state) {
                return state;
            }
            patience.sleep(&format!("{what}: {state}"));
        }
    }

    /// Sends these bytes, and returns the whole response.
    fn raw(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(&self.addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

fn holds(state: &Value, node: usize) -> bool {
    let mut claims = state["now"]["claims"].as_array().unwrap().iter();
    claims.any(|claim| claim["node"] == node && claim["stage"] == "holds")
}

/// Returns the start and the end of a node's hold on the timeline.
pub(crate) fn held(state: &Value, node: usize) -> (u64, Option<u64>) {
    let mut spans = state["changed"]["spans"].as_array().unwrap().iter();
    let span = spans.find(|span| span["kind"] == "holds" && span["node"] == node);
    let span = span.unwrap();
    (span["from"].as_u64().unwrap(), span["to"].as_u64())
}

#[test]
fn cut_off_holder_loses_lock_before_next_grant() {
    let lab = Lab::start();
    let fresh = lab.state();
    assert_eq!(fresh["now"]["nodes"].as_array().unwrap().len(), 5);
    assert_eq!(fresh["now"]["quorum"], 3);
    let note = "deploy 812";
    lab.does(&json!({"do": "acquire", "node": 3, "key": "k", "note": note}));
    let state = lab.until("held by n3", |state| holds(state, 3));
    assert_eq!(state["now"]["claims"][0]["note"], note);
    lab.does(&json!({"do": "acquire", "node": 1, "key": "k"}));
    lab.until("n1 waits", |state| {
        let mut claims = state["now"]["claims"].as_array().unwrap().iter();
        claims.any(|claim| claim["node"] == 1 && claim["stage"] == "waits")
    });
    lab.does(&json!({"do": "split", "side": [3, 4]}));
    let state = lab.until("held by n1", |state| holds(state, 1));
    let (lost, taken) = (held(&state, 3), held(&state, 1));
    assert!(lost.1.is_some_and(|lost| lost <= taken.0), "{state}");
    assert_eq!(
        (&state["now"]["losses"], &state["now"]["broken"]),
        (&json!(1), &json!(0))
    );
    assert_eq!(state["now"]["sides"], json!([0, 0, 0, 1, 1]));
    lab.until("n3 gone in the eyes of n0", |state| {
        state["now"]["nodes"][0]["sees"][3] == false
    });
    lab.does(&json!({"do": "heal"}));
    lab.until("n3 alive in the eyes of n0", |state| {
        state["now"]["sides"] == json!([]) && state["now"]["nodes"][0]["sees"][3] == true
    });
}

#[test]
fn impossible_commands_are_refused_as_conflict() {
    let lab = Lab::start();
    lab.does(&json!({"do": "loss", "percent": 10}));
    lab.does(&json!({"do": "freeze", "node": 2}));
    lab.does(&json!({"do": "crash", "node": 4}));
    let state = lab.until("frozen and down", |state| {
        let nodes = &state["now"]["nodes"];
        nodes[2]["condition"] == "frozen" && nodes[4]["condition"] == "down"
    });
    assert_eq!(state["now"]["loss"], 10);
    for command in [
        json!({"do": "freeze", "node": 2}),
        json!({"do": "crash", "node": 4}),
        json!({"do": "resume", "node": 0}),
        json!({"do": "acquire", "node": 4, "key": "k"}),
        json!({"do": "release", "node": 0, "key": "k"}),
    ] {
        let (status, answer) = lab.ask(&command);
        assert_eq!(status, 409, "{command}: {answer}");
        assert!(answer["error"].is_string());
    }
    lab.does(&json!({"do": "resume", "node": 2}));
    lab.does(&json!({"do": "restart", "node": 4}));
    lab.until("all run, and n4 does not vote yet", |state| {
        let nodes = &state["now"]["nodes"];
        nodes[2]["condition"] == "running"
            && nodes[4]["condition"] == "running"
            && nodes[4]["quarantine"].is_u64()
    });
}

#[test]
fn invalid_commands_are_rejected_without_change() {
    let lab = Lab::start();
    for (command, words) in [
        (json!({"do": "explode"}), "explode"),
        (json!({"do": "freeze", "node": 5}), "0 to 4"),
        (json!({"do": "loss", "percent": 101}), "0 to 100"),
        (json!({"do": "split", "side": []}), "of 5 nodes"),
        (json!({"do": "acquire", "node": 0, "key": ""}), "key"),
        (
            json!({"do": "acquire", "node": 0, "key": "k".repeat(41)}),
            "41 bytes",
        ),
    ] {
        let (status, answer) = lab.ask(&command);
        assert_eq!(status, 422, "{command}: {answer}");
        assert!(
            answer["error"].as_str().unwrap().contains(words),
            "{answer}"
        );
    }
    let (status, _) = lab.ask(&json!({"do": "acquire", "node": 0, "key": "k".repeat(9_000)}));
    assert_eq!(status, 413);
    let state = lab.state();
    assert_eq!(state["now"]["claims"], json!([]));
    let page = lab.agent.get(format!("http://{}/etc", lab.addr));
    assert_eq!(page.call().unwrap().status(), 404);
}

#[test]
fn page_of_another_site_cannot_reach_lab() {
    let lab = Lab::start();
    let addr = &lab.addr;
    let body = r#"{"do":"crash","node":0}"#;
    let post = |host: &str, kind: &str, more: &str| {
        let length = body.len();
        lab.raw(&format!(
            "POST /api/do HTTP/1.1\r\nhost: {host}\r\ncontent-type: {kind}\r\n{more}\
             content-length: {length}\r\nconnection: close\r\n\r\n{body}"
        ))
    };
    let json = "application/json";
    for (host, kind, more, status) in [
        ("evil.example", json, "", "403"),
        (
            addr.as_str(),
            json,
            "origin: http://evil.example\r\n",
            "403",
        ),
        (addr.as_str(), json, "sec-fetch-site: cross-site\r\n", "403"),
        (addr.as_str(), "text/plain", "", "415"),
    ] {
        let answer = post(host, kind, more);
        let begin = format!("HTTP/1.1 {status}");
        assert!(answer.starts_with(&begin), "{host} {kind} {more}: {answer}");
    }
    assert_eq!(lab.state()["now"]["nodes"][0]["condition"], "running");
    let page = lab.raw(&format!(
        "GET / HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\n\r\n"
    ));
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("<svg id=\"ring\""));
    let page = page.to_lowercase();
    assert!(page.contains("content-security-policy: default-src 'none'"));
}

#[test]
fn events_send_whole_state_then_changes() {
    let lab = Lab::start();
    let stream = TcpStream::connect(&lab.addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!("GET /api/events HTTP/1.1\r\nhost: {}\r\n\r\n", lab.addr);
    (&stream).write_all(request.as_bytes()).unwrap();
    let lines = BufReader::new(stream).lines().map(Result::unwrap);
    let mut looks = lines.filter_map(|line| {
        let told = line.strip_prefix("data: ")?.to_owned();
        Some(serde_json::from_str::<Value>(&told).unwrap())
    });
    let first = looks.next().unwrap();
    assert_eq!(first["now"]["nodes"][0]["condition"], "running");
    lab.does(&json!({"do": "freeze", "node": 0}));
    let is_told = |look: &Value| {
        let spans = look["changed"]["spans"].as_array().unwrap();
        spans
            .iter()
            .any(|span| span["kind"] == "frozen" && span["node"] == 0)
    };
    assert!(looks.any(|look| is_told(&look)));
    let next = looks.next().unwrap();
    assert!(!is_told(&next), "told twice");
}

#[test]
fn viewer_rejects_invalid_settings() {
    for args in [["--nodes", "2"], ["--ttl-ms", "1"]] {
        let output = viewer(&[]).args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(stderr(&output).contains(args[0]), "{}", stderr(&output));
    }
}
