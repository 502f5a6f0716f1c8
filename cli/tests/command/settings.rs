//! Real nodes with different settings: another `max_ttl` after a restart, another cluster, another
//! secret.
#![cfg(unix)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::lockmesh;

pub(crate) const KEY: &str = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=";
const OTHER_KEY: &str = "abababababababababababababababababababababababababababababababab";
/// Long enough for any step on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// The settings of a configuration in addition to name, voters and workload, and the offset of the
/// wall clock.
pub(crate) struct Setup<'a> {
    pub(crate) listen: &'a str,
    pub(crate) seeds: &'a str,
    pub(crate) key: &'a str,
    pub(crate) cluster: &'a str,
    pub(crate) max_ttl_ms: u64,
    pub(crate) is_new: bool,
    pub(crate) wall_offset_ms: i64,
}

impl Default for Setup<'_> {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:0",
            seeds: "",
            key: KEY,
            cluster: "prod",
            max_ttl_ms: 12_000,
            is_new: true,
            wall_offset_ms: 0,
        }
    }
}

/// A running node. With `asks` it requests the one key and holds it for an hour. It is killed on
/// drop.
pub(crate) struct Node {
    child: Child,
    log: Arc<Mutex<String>>,
    history: PathBuf,
}

impl Node {
    pub(crate) fn start(place: &Path, name: &str, asks: bool, setup: &Setup<'_>) -> Self {
        let Setup {
            listen,
            seeds,
            key,
            cluster,
            max_ttl_ms,
            is_new,
            wall_offset_ms,
        } = setup;
        let ttl_ms = max_ttl_ms - max_ttl_ms / 10;
        let text = format!(
            "node_id = \"{name}\"\nlisten = \"{listen}\"\nseeds = [{seeds}]\n\
             voters = [\"n1\", \"n2\", \"n3\"]\nsecret = \"{key}\"\ncluster = \"{cluster}\"\n\
             bootstrap = {is_new}\nttl = \"{ttl_ms}ms\"\n\
             [timing]\nmax_ttl = \"{max_ttl_ms}ms\"\nmax_clock_skew = \"1s\"\n\
             [workload]\nkeys = 1\ntasks = 1\nmix = \"hold\"\n\
             hold_ms = [3600000, 3600000]\nacquire_timeout_ms = [3600000, 3600000]\n"
        );
        let config = place.join(format!("{name}-{cluster}-{max_ttl_ms}.toml"));
        fs::write(&config, text).unwrap();
        let history = place.join(format!("{name}-{cluster}-{max_ttl_ms}.jsonl"));
        let mut command = lockmesh(&["node", "--config"]);
        command.arg(config).stderr(Stdio::piped());
        command.arg(format!("--wall-offset-ms={wall_offset_ms}"));
        if asks {
            command.arg("--workload").arg("--history").arg(&history);
        }
        let mut child = command.spawn().unwrap();
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
        Self {
            child,
            log,
            history,
        }
    }

    fn said(&self) -> String {
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

    /// Returns the last event of this kind in its history.
    pub(crate) fn last(&self, event: &str) -> Option<Value> {
        let text = fs::read_to_string(&self.history).unwrap_or_default();
        let lines = text.lines().map(serde_json::from_str::<Value>);
        let lines: Vec<Value> = lines.map_while(Result::ok).collect();
        lines.into_iter().rev().find(|line| line["event"] == event)
    }

    pub(crate) fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < end, "not in {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) fn place(name: &str) -> PathBuf {
    let place = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&place);
    fs::create_dir_all(&place).unwrap();
    place
}

pub(crate) fn quoted(addr: &str) -> String {
    format!("\"{addr}\"")
}

/// The two restarted voters are a quorum by themselves, long before the end of the lease that they
/// voted for.
#[test]
fn restart_with_shorter_max_ttl_grants_nothing_twice() {
    let place = place("settings-max-ttl");
    let first = Node::start(&place, "n1", true, &Setup::default());
    let seeds = &quoted(&first.addr());
    let long = Setup {
        seeds,
        ..Setup::default()
    };
    let second = Node::start(&place, "n2", false, &long);
    let third = Node::start(&place, "n3", false, &long);
    until("a lock", || first.last("held"));

    let short = Setup {
        seeds,
        max_ttl_ms: 2_000,
        is_new: false,
        ..Setup::default()
    };
    third.kill();
    let third = Node::start(&place, "n3", false, &short);
    third.says("its max_ttl is 12 s, mine 2 s");
    first.says("its max_ttl is 2 s, mine 12 s");
    // Longer than its quarantine and its wait for recovery replies.
    std::thread::sleep(Duration::from_secs(4));
    second.kill();
    let second = Node::start(&place, "n2", true, &short);
    let last = until("its asking", || second.last("asked"));
    until("the end of the lease", || first.last("lost"));
    assert!(second.last("granted").is_none(), "{last}");
    std::thread::sleep(Duration::from_secs(4));
    assert!(second.last("granted").is_none());
    assert!(!second.is_ready() && !third.is_ready());
    third.says("does not vote while n1 speaks for another voter set");

    // Now all settings are the same: a lock is granted once the longest lease is over.
    first.kill();
    let (two, three) = (quoted(&second.addr()), quoted(&third.addr()));
    let seeds = &format!("{two}, {three}");
    let short = Setup { seeds, ..short };
    let first = Node::start(&place, "n1", false, &short);
    until("a lock", || second.last("granted"));
    until("all ready", || {
        (first.is_ready() && second.is_ready() && third.is_ready()).then_some(())
    });
}

/// Both clusters have the same secret and the same names, and now the same addresses.
#[test]
fn foreign_voters_at_old_addresses_do_not_vote() {
    let place = place("settings-cluster");
    let first = Node::start(&place, "n1", false, &Setup::default());
    let seeds = &quoted(&first.addr());
    let prod = Setup {
        seeds,
        ..Setup::default()
    };
    let dead = ["n2", "n3"].map(|name| Node::start(&place, name, false, &prod));
    let addrs = dead.each_ref().map(Node::addr);
    until("prod is ready", || first.is_ready().then_some(()));
    dead.into_iter().for_each(Node::kill);
    let other = Node::start(
        &place,
        "n1",
        false,
        &Setup {
            cluster: "staging",
            ..Setup::default()
        },
    );
    let seeds = &quoted(&other.addr());
    let staging = ["n2", "n3"].iter().zip(&addrs).map(|(name, listen)| {
        let setup = Setup {
            listen,
            seeds,
            cluster: "staging",
            ..Setup::default()
        };
        Node::start(&place, name, false, &setup)
    });
    let staging: Vec<Node> = staging.collect();
    until("staging is ready", || {
        staging.iter().all(Node::is_ready).then_some(())
    });
    // A claimant that knows all three addresses.
    let (one, two, three) = (quoted(&first.addr()), quoted(&addrs[0]), quoted(&addrs[1]));
    let seeds = &format!("{one}, {two}, {three}");
    let asks = Setup {
        seeds,
        ..Setup::default()
    };
    let client = Node::start(&place, "client", true, &asks);
    until("its asking", || client.last("asked"));
    std::thread::sleep(Duration::from_secs(3));
    assert!(client.last("granted").is_none());
    for node in &staging {
        node.says("is of another cluster");
    }
}

#[test]
fn wrong_secret_is_logged_on_both_sides() {
    let place = place("settings-secret");
    let first = Node::start(&place, "n1", false, &Setup::default());
    let seeds = &quoted(&first.addr());
    let wrong = Setup {
        seeds,
        key: OTHER_KEY,
        ..Setup::default()
    };
    let second = Node::start(&place, "n2", false, &wrong);
    let is = "is not sealed with our secret";
    first.says(&format!("a datagram from {} {is}", second.addr()));
    let seeds = &quoted(&second.addr());
    let right = Setup {
        seeds,
        ..Setup::default()
    };
    let third = Node::start(&place, "n3", false, &right);
    second.says(&format!("a datagram from {} {is}", third.addr()));
    // The message is not repeated for each datagram.
    std::thread::sleep(Duration::from_secs(3));
    let told = first.said().matches(is).count();
    assert_eq!(told, 1, "{}", first.said());
}

/// Both request one lock, like two pods that were given one name.
#[test]
fn processes_of_one_name_never_hold_at_once() {
    let place = place("settings-one-name");
    let twin_place = place.join("twin");
    fs::create_dir_all(&twin_place).unwrap();
    let short = Setup {
        max_ttl_ms: 4_000,
        ..Setup::default()
    };
    let first = Node::start(&place, "n1", false, &short);
    let seeds = &quoted(&first.addr());
    let short = Setup { seeds, ..short };
    let second = Node::start(&place, "n2", true, &short);
    let _third = Node::start(&place, "n3", false, &short);
    until("a lock", || second.last("held"));

    let twin = Node::start(&twin_place, "n2", true, &short);
    let is = "another process runs under this node's name";
    let (mine, other) = (second.addr(), twin.addr());
    second.says(&format!("{is}: it is at {other}, this one at {mine}"));
    twin.says(&format!("{is}: it is at {mine}, this one at {other}"));
    until("its loss", || second.last("lost"));
    assert!(second.said().contains("ERROR"), "{}", second.said());
    std::thread::sleep(Duration::from_secs(6));
    assert!(twin.last("granted").is_none() && !twin.is_ready());
    second.kill();
    until("a lock", || twin.last("granted"));
}
