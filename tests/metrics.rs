//! Metrics under their documented names, and log events. This test is a binary of its own, since
//! a process has only one global recorder and subscriber.

#![allow(clippy::unwrap_used, reason = "a test that unwraps in vain has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lockmesh::metrics::{self, ALL, TICK_OUTCOMES};
use lockmesh::{ClusterSecret, Guard, Mesh, MeshBuilder, OnceError, Outcome};
use lockmesh_proto::{DatagramKind, Seal};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tracing::Event;

#[path = "common/events.rs"]
mod events;
#[path = "common/table.rs"]
mod table;
#[path = "common/waits.rs"]
mod waits;

use events::{Events, fields};
use table::{code, table};
use waits::{PATIENCE, until};

const GUIDE: &str = include_str!("../docs/observability.md");
/// The documented events that this test need not provoke: they are rare, or depend on time.
const RARE: [&str; 14] = [
    "the mesh has stopped after a panic; restart this process, and report the panic",
    "the gossip was not started again; it is tried again, report the error if it stays",
    "quarantine over",
    "voter took up its memory by handover",
    "key not marked: the voters have no room; raise limits.marks_max, or mark for less time",
    "marks of the others read",
    "quarantine extended",
    "the same voter set",
    "the mesh did not end well",
    "the gossip did not end well",
    "a question was not sent",
    "an answer was dropped",
    "the journal is an old copy, so it is not used; never put a data directory back",
    "the journal is not written",
];

/// An event as the guide describes it.
#[derive(Clone, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
struct Said {
    level: String,
    message: String,
    fields: BTreeSet<String>,
}

/// A subscriber that collects all events.
#[derive(Clone, Default)]
struct Log {
    lines: Arc<Mutex<Vec<String>>>,
    /// The events that are no obstacles.
    events: Arc<Mutex<BTreeSet<Said>>>,
}

impl Log {
    fn record(&self, event: &Event<'_>) {
        let level = event.metadata().level().to_string();
        let mut fields = fields(event);
        let texts = fields
            .iter()
            .map(|(name, value)| format!("{name}={value} "));
        let line = format!("{level} {}", texts.collect::<String>());
        self.lines.lock().unwrap().push(line);
        let message = fields.remove("message").unwrap_or_default();
        if !fields.contains_key("cause") {
            self.events.lock().unwrap().insert(Said {
                level,
                message,
                fields: fields.into_keys().map(str::to_owned).collect(),
            });
        }
    }

    /// Returns `true` if a line contains all `words`.
    fn says(&self, words: &[&str]) -> bool {
        let lines = self.lines.lock().unwrap();
        lines
            .iter()
            .any(|line| words.iter().all(|word| line.contains(word)))
    }

    /// Compares the events with the guide.
    fn is_as_documented(&self) {
        let rows = table(GUIDE, "| level | message | fields |");
        let documented: BTreeSet<_> = rows
            .iter()
            .map(|row| Said {
                level: row[0].to_owned(),
                message: code(row[1])[0].to_owned(),
                fields: code(row[2]).into_iter().map(str::to_owned).collect(),
            })
            .collect();
        let seen = self.events.lock().unwrap().clone();
        let unknown: Vec<_> = seen.difference(&documented).collect();
        assert!(unknown.is_empty(), "not in the guide: {unknown:#?}");
        let unseen = documented.difference(&seen).map(|it| it.message.as_str());
        let unseen: Vec<_> = unseen.filter(|it| !RARE.contains(it)).collect();
        assert!(unseen.is_empty(), "did not happen: {unseen:#?}");
    }
}

/// The metrics as Prometheus reads them.
struct Metrics(PrometheusHandle);

impl Metrics {
    /// Returns the value with these labels, as `node=n0,reason=key`.
    fn get(&self, name: &str, labels: &str) -> f64 {
        self.0.run_upkeep();
        let label = |label: &str| label.replace('=', "=\"") + "\"";
        let labels: Vec<_> = labels.split(',').map(label).collect();
        let series = format!("{name}{{{}}} ", labels.join(","));
        let text = self.0.render();
        let value = text.lines().find_map(|line| line.strip_prefix(&series));
        value.map_or(f64::NAN, |value| value.parse().unwrap())
    }

    async fn reaches(&self, name: &str, labels: &str, goal: f64) {
        let look = async {
            while self.get(name, labels) != goal {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, look).await.is_err() {
            panic!("{name}: not {goal}: {}", self.0.render());
        }
    }

    /// Compares names, types and help texts with the table.
    fn are_as_in_the_table(&self) {
        let text = self.0.render();
        let begin = |begin| {
            text.lines()
                .filter_map(move |line| line.strip_prefix(begin))
        };
        let split = |line: &'static str| begin(line).filter_map(|rest| rest.split_once(' '));
        let kinds = split("# TYPE ").collect::<BTreeMap<_, _>>();
        let helps = split("# HELP ").collect::<BTreeMap<_, _>>();
        let expected = ALL.iter().map(|metric| {
            let kind = match metric.kind {
                metrics::Kind::Counter => "counter",
                metrics::Kind::Gauge => "gauge",
                _ => "summary",
            };
            (metric.name, kind)
        });
        assert_eq!(kinds, expected.collect());
        let expected = ALL.iter().map(|metric| (metric.name, metric.help));
        assert_eq!(helps, expected.collect());
    }
}

fn builder(name: &str) -> MeshBuilder {
    Mesh::builder(name)
        .voters([name])
        .listen("127.0.0.1:0")
        .secret(ClusterSecret::from_bytes([3; 32]).unwrap())
}

/// One test covers both, since recorder and subscriber see the whole process.
#[tokio::test]
async fn mesh_emits_documented_metrics_and_events() {
    let log = Log::default();
    let of_process = log.clone();
    let events = Events(move |event: &Event<'_>| of_process.record(event));
    tracing::subscriber::set_global_default(events).unwrap();
    let metrics = Metrics(PrometheusBuilder::new().install_recorder().unwrap());
    let mesh = builder("n0").bootstrap().start().await.unwrap();
    mesh.ready(PATIENCE).await.unwrap();
    grants_and_refusals(&mesh, &metrics).await;
    losses(&mesh, &metrics).await;
    kinds(&mesh, &log, &metrics).await;
    ticks(&mesh, &metrics).await;
    revokes(&mesh, &log, &metrics).await;
    drops(&mesh, &metrics).await;
    assert!(log.says(&["INFO", "mesh started", "node=n0"]));
    assert!(log.says(&["DEBUG", "lock granted", "key=k", "epoch="]));
    assert!(log.says(&["DEBUG", "lease over", "key=short"]));
    assert!(log.says(&["WARN", "lease lost", "key=short"]));
    foreign_nodes(&mesh, &metrics).await;
    timeouts_without_quorum(&metrics).await;
    gossip_that_panics_is_started_again(&log, &metrics).await;
    journal_that_fails(&metrics).await;
    rotation(&log, &metrics).await;
    metrics.reaches("lockmesh_ready", "node=n0", 1.0).await;
    mesh.shutdown().await;
    assert_eq!(metrics.get("lockmesh_ready", "node=n0"), 0.0);
    metrics.are_as_in_the_table();
    log.is_as_documented();
    assert!(log.says(&["INFO", "mesh shut down", "node=n0"]));
    let secret = format!("{:?}", [3u8; 32]);
    assert!(!log.says(&[&secret]) && !log.says(&["AwMDAwMD"]) && !log.says(&["BAQEBAQE"]));
}

async fn grants_and_refusals(mesh: &Mesh, metrics: &Metrics) {
    let n0 = "node=n0";
    let guard = mesh.lock("k").acquire().await.unwrap();
    assert!(mesh.lock("k").try_acquire().await.unwrap().is_none());
    let waits = mesh.lock("k").acquire_timeout(Duration::from_millis(50));
    waits.acquire().await.map(drop).unwrap_err();
    let waiting = tokio::spawn(mesh.lock("k").acquire());
    metrics.reaches("lockmesh_requests_total", n0, 4.0).await;
    metrics.reaches("lockmesh_grants_total", n0, 1.0).await;
    metrics.reaches("lockmesh_denied_total", n0, 1.0).await;
    let contended = "node=n0,reason=contended";
    metrics
        .reaches("lockmesh_timeouts_total", contended, 1.0)
        .await;
    for reason in ["node=n0,reason=refused", "node=n0,reason=silent"] {
        assert_eq!(metrics.get("lockmesh_timeouts_total", reason), 0.0);
    }
    for one in [
        "ready",
        "quorum",
        "voters",
        "voters_reachable",
        "voters_voting",
    ] {
        metrics.reaches(&format!("lockmesh_{one}"), n0, 1.0).await;
    }
    for none in ["recovering", "quarantine_seconds", "other_voter_sets"] {
        metrics.reaches(&format!("lockmesh_{none}"), n0, 0.0).await;
    }
    metrics.reaches("lockmesh_held", n0, 1.0).await;
    metrics.reaches("lockmesh_waiting", n0, 1.0).await;
    metrics.reaches("lockmesh_voter_keys", n0, 1.0).await;
    guard.release().await.unwrap();
    drop(waiting.await.unwrap().unwrap());
    metrics.reaches("lockmesh_grants_total", n0, 2.0).await;
    metrics
        .reaches("lockmesh_acquire_seconds_count", n0, 2.0)
        .await;
    metrics
        .reaches("lockmesh_held_seconds_count", "node=n0,kind=lock", 2.0)
        .await;
    metrics.reaches("lockmesh_held", n0, 0.0).await;
    metrics.reaches("lockmesh_voter_keys", n0, 0.0).await;
    // A lock that was released in time does not count as lost.
    assert_eq!(metrics.get("lockmesh_lost_total", n0), 0.0);
}

async fn losses(mesh: &Mesh, metrics: &Metrics) {
    let short = || mesh.lock("short").ttl(Duration::from_millis(200));
    // The planned end of a lease without renewal does not count as a loss.
    let guard = short().auto_renew(false).acquire().await.unwrap();
    guard.extend(Duration::from_millis(20)).await.unwrap();
    guard.lost().await;
    drop(guard);
    // The driver shares this thread: while it is blocked, no lease is renewed.
    let freeze = |guard: &Guard| {
        while guard.is_held() {
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    let guard = short().acquire().await.unwrap();
    freeze(&guard);
    metrics.reaches("lockmesh_lost_total", "node=n0", 1.0).await;
    drop(guard);
    // Here the release itself detects the loss.
    let guard = short().acquire().await.unwrap();
    freeze(&guard);
    guard.release().await.unwrap_err();
    metrics.reaches("lockmesh_lost_total", "node=n0", 2.0).await;
    metrics
        .reaches("lockmesh_held_seconds_count", "node=n0,kind=lock", 5.0)
        .await;
}

/// A semaphore, several keys, an election, and a request that gives another number of permits.
async fn kinds(mesh: &Mesh, log: &Log, metrics: &Metrics) {
    let count = "lockmesh_held_seconds_count";
    for kind in ["semaphore", "lock_all", "election"].map(|it| format!("node=n0,kind={it}")) {
        assert_eq!(metrics.get(count, &kind), 0.0);
    }
    drop(mesh.lock_all(["x", "y"]).await.unwrap());
    metrics.reaches(count, "node=n0,kind=lock_all", 2.0).await;
    let mut leader = mesh.election("jobs").watch().unwrap();
    let leadership = mesh.election("jobs").campaign().await.unwrap();
    let known = tokio::time::timeout(PATIENCE, leader.wait_for(|it| it.known().is_some())).await;
    known.expect("a leader in time").unwrap();
    drop(leadership);
    metrics.reaches(count, "node=n0,kind=election", 1.0).await;
    let permits = mesh.semaphore("pool", 2).acquire_many(2).await.unwrap();
    let fewer = tokio::spawn(mesh.semaphore("pool", 1).acquire());
    let warning = [
        "WARN",
        "a higher permit is in use",
        "semaphore=pool",
        "permits=1",
    ];
    until("the warning", || log.says(&warning)).await;
    drop(permits);
    drop(fewer.await.unwrap().unwrap());
    // With the lock under which both permits were collected.
    metrics.reaches(count, "node=n0,kind=semaphore", 4.0).await;
    assert_eq!(metrics.get(count, "node=n0,kind=lock"), 5.0);
}

/// A tick of each outcome, but for one that cannot be marked.
async fn ticks(mesh: &Mesh, metrics: &Metrics) {
    assert_eq!(metrics.get("lockmesh_voter_marks", "node=n0"), 0.0);
    for is_first in [true, false] {
        let ran = mesh.once("job", 1).run(async |_| ()).await;
        assert_eq!(ran == Ok(Outcome::Ran(())), is_first, "{ran:?}");
    }
    let marks = metrics.reaches("lockmesh_voter_marks", "node=n0", 1.0);
    marks.await;
    assert_eq!(metrics.get("lockmesh_voter_may_lack_marks", "node=n0"), 0.0);
    let failed = mesh.once("job", 2).try_run(async |_| Err::<(), _>("full"));
    assert_eq!(failed.await, Ok(Outcome::Failed("full")));
    let guard = mesh.lock("job@3").acquire().await.unwrap();
    let running = mesh.once("job", 3).wait(Duration::ZERO).run(async |_| ());
    assert_eq!(running.await, Ok(Outcome::Running { by: None }));
    drop(guard);
    let not_acquired = mesh.once("job", "4@").run(async |_| ()).await;
    assert!(not_acquired.is_err(), "{not_acquired:?}");
    // The driver shares this thread: while it is blocked, no lease is renewed.
    let ttl = Duration::from_millis(200);
    let lease_lost = mesh.once("job", 5).ttl(ttl).run(async |_| {
        std::thread::sleep(ttl);
        std::future::pending::<()>().await;
    });
    assert_eq!(lease_lost.await, Err(OnceError::LeaseLost));
    for outcome in TICK_OUTCOMES {
        let labels = format!("node=n0,outcome={outcome}");
        let count = f64::from(u8::from(outcome != "not_marked"));
        metrics
            .reaches("lockmesh_ticks_total", &labels, count)
            .await;
    }
}

/// A lock that is freed by hand.
async fn revokes(mesh: &Mesh, log: &Log, metrics: &Metrics) {
    assert_eq!(metrics.get("lockmesh_revoked_total", "node=n0"), 0.0);
    let guard = mesh.lock("stuck").acquire().await.unwrap();
    let claim = mesh.revoke("stuck", "ann").await.unwrap();
    assert!(claim.is_holder_notified && !guard.is_held());
    assert_eq!(
        (claim.epoch, guard.revoked_by()),
        (guard.epoch(), Some("ann"))
    );
    let revoked = metrics.reaches("lockmesh_revoked_total", "node=n0", 1.0);
    revoked.await;
    let by = ["WARN", "key=stuck", "by=ann", "through=n0"];
    assert!(log.says(&[&by[..], &["lock freed by hand"]].concat()));
    assert!(log.says(&[&by[..], &["vote renewed no more", "holder=n0"]].concat()));
}

async fn drops(mesh: &Mesh, metrics: &Metrics) {
    let noise = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    noise.send_to(b"", mesh.local_addr()).unwrap();
    noise.send_to(&[9; 60], mesh.local_addr()).unwrap();
    let dropped = "lockmesh_dropped_total";
    metrics.reaches(dropped, "node=n0,reason=short", 1.0).await;
    metrics
        .reaches(dropped, "node=n0,reason=version", 1.0)
        .await;
    for name in [
        "lockmesh_datagrams_out_total",
        "lockmesh_datagrams_in_total",
        "lockmesh_gossip_bytes_out_total",
    ] {
        assert!(metrics.get(name, "node=n0") >= 0.0, "{name}");
    }
}

/// A node with another voter set, and a node whose voter is in recovery.
async fn foreign_nodes(mesh: &Mesh, metrics: &Metrics) {
    let foreign_node = builder("foreign_node")
        .voters(["n0"])
        .voter_set_version(2)
        .seeds([mesh.local_addr().to_string()]);
    let _foreign_node = foreign_node.start().await.unwrap();
    metrics
        .reaches("lockmesh_other_voter_sets", "node=n0", 1.0)
        .await;
    let forgetful = builder("forgetful").start().await.unwrap();
    let node = "node=forgetful";
    metrics.reaches("lockmesh_recovering", node, 1.0).await;
    assert!(metrics.get("lockmesh_quarantine_seconds", node) > 1.0);
    for (name, is) in [("ready", 0.0), ("quorum", 0.0), ("voters_voting", 0.0)] {
        assert_eq!(metrics.get(&format!("lockmesh_{name}"), node), is, "{name}");
    }
    time_out(&forgetful).await;
    let refused = "node=forgetful,reason=refused";
    metrics
        .reaches("lockmesh_timeouts_total", refused, 1.0)
        .await;
    forgetful.abort();
}

async fn time_out(mesh: &Mesh) {
    let request = mesh
        .lock("k")
        .acquire_timeout(Duration::from_millis(100))
        .acquire();
    request.await.map(drop).unwrap_err();
}

/// A node whose voters do not run.
async fn timeouts_without_quorum(metrics: &Metrics) {
    let client = builder("client").voters(["x", "y"]).start().await.unwrap();
    time_out(&client).await;
    let silent = "node=client,reason=silent";
    metrics
        .reaches("lockmesh_timeouts_total", silent, 1.0)
        .await;
    metrics.reaches("lockmesh_voters", "node=client", 2.0).await;
    assert_eq!(metrics.get("lockmesh_voters_reachable", "node=client"), 0.0);
    client.shutdown().await;
}

/// Encodes a message that makes the gossip library panic: the library assumes that the last
/// version in a delta is the highest.
fn poison() -> Vec<u8> {
    let text = |text: &str| {
        let len = u16::try_from(text.len()).unwrap();
        [&len.to_le_bytes(), text.as_bytes()].concat()
    };
    let number = |number: u64| number.to_le_bytes().to_vec();
    let addr = [&[4, 127, 0, 0, 1], &9u16.to_le_bytes()[..]].concat();
    let node = [text("x"), number(1), addr].concat();
    let digest = [node.clone(), number(1), number(0), number(0)].concat();
    let begins = [vec![0], node, number(0), number(0)].concat();
    let says = [vec![1], text("key"), text("value"), number(5), vec![0]].concat();
    let up_to = [vec![2], number(1)].concat();
    let delta = [begins, says, up_to].concat();
    let len = u16::try_from(delta.len()).unwrap();
    let head = [&45_139u16.to_le_bytes()[..], &[0, 1], &1u16.to_le_bytes()].concat();
    let block = [vec![2], len.to_le_bytes().to_vec(), delta, vec![0]].concat();
    [head, digest, block].concat()
}

/// Two nodes of which one after the other changes its secret.
async fn rotation(log: &Log, metrics: &Metrics) {
    let [old, new] = [3, 4].map(|byte| ClusterSecret::from_bytes([byte; 32]).unwrap());
    let start = async |name, seeds: &[String]| {
        let node = builder(name).voters(["x0", "x1"]).seeds(seeds).bootstrap();
        node.start().await.unwrap()
    };
    let x0 = start("x0", &[]).await;
    let x1 = start("x1", &[x0.local_addr().to_string()]).await;
    x0.ready(PATIENCE).await.unwrap();
    x1.ready(PATIENCE).await.unwrap();
    let are = async |name: &str, [of_x0, of_x1]: [f64; 2]| {
        let name = format!("lockmesh_{name}");
        metrics.reaches(&name, "node=x0", of_x0).await;
        metrics.reaches(&name, "node=x1", of_x1).await;
    };
    are("secrets", [1.0, 1.0]).await;
    are("other_secrets", [0.0, 0.0]).await;
    x0.rotate_secrets([old.clone(), new.clone()]).unwrap();
    x1.rotate_secrets([new.clone(), old.clone()]).unwrap();
    are("secrets", [2.0, 2.0]).await;
    are("other_secrets", [1.0, 1.0]).await;
    let secret = format!("secret={}", new.fingerprint());
    let changed = "a node seals with another secret than before";
    assert!(log.says(&["INFO", "secrets replaced", "node=x1", "secrets=2", &secret]));
    assert!(log.says(&["INFO", changed, "node=x0", "other=x1", &secret]));
    x0.rotate_secrets([new, old]).unwrap();
    are("other_secrets", [0.0, 0.0]).await;
    x0.shutdown().await;
    x1.shutdown().await;
}

async fn gossip_that_panics_is_started_again(log: &Log, metrics: &Metrics) {
    let plain = |name: &str| {
        Mesh::builder(name)
            .listen("127.0.0.1:0")
            .insecure_plaintext()
            .voters(["a", "b"])
    };
    let a = plain("a").bootstrap().start().await.unwrap();
    let seed = a.local_addr().to_string();
    let b = plain("b").bootstrap().seeds([seed.clone()]);
    let b = b.start().await.unwrap();
    a.ready(PATIENCE).await.unwrap();
    let noise = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut seal = Seal::insecure_plaintext().of_cluster("lockmesh");
    let datagram = seal.seal(DatagramKind::Gossip, &poison());
    for restarts in 1..=2 {
        noise.send_to(&datagram, a.local_addr()).unwrap();
        until("the gossip is started again", || {
            a.status().gossip_restarts == restarts
        })
        .await;
    }
    metrics
        .reaches("lockmesh_gossip_restarts_total", "node=a", 2.0)
        .await;
    assert!(log.says(&[
        "ERROR",
        "the gossip has ended and is started again",
        "node=a"
    ]));
    // The restarted gossip and a new node discover each other, and the old peer stays connected.
    let c = plain("c").seeds([seed]).start().await.unwrap();
    let knows = |mesh: &Mesh, name: &str| {
        let others = mesh.status().others;
        others
            .iter()
            .any(|it| it.node.as_str() == name && it.is_alive)
    };
    until("a new node is found", || knows(&a, "c") && knows(&b, "c")).await;
    let votes = |mesh: &Mesh| {
        mesh.status()
            .members
            .iter()
            .all(|it| it.is_reachable && it.votes)
    };
    until("all know who votes", || votes(&a) && votes(&b) && votes(&c)).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(votes(&a) && votes(&b) && votes(&c), "it stays so");
}

/// A voter that cannot replace its journal, and restarts that find it whole, old and damaged.
async fn journal_that_fails(metrics: &Metrics) {
    let (name, dir) = (
        "keeps",
        Path::new(env!("CARGO_TARGET_TMPDIR")).join("metrics"),
    );
    let _ = fs::remove_dir_all(&dir);
    let start = async |boot| {
        let keeps = builder(name).bootstrap().data_dir(&dir).boot_id(boot);
        keeps.start().await.unwrap()
    };
    let (mesh, node) = (start(1).await, "node=keeps");
    let obstacle = dir.join("journal.new");
    fs::create_dir(&obstacle).unwrap();
    let has_failed = || mesh.status().journal.unwrap().has_failed;
    for n in 0_u64.. {
        if has_failed() {
            break;
        }
        drop(mesh.lock(format!("{n:0>250}")).try_acquire().await);
    }
    metrics.reaches("lockmesh_journal_failed", node, 1.0).await;
    assert!(metrics.get("lockmesh_journal_failures_total", node) >= 1.0);
    assert!(metrics.get("lockmesh_journal_bytes", node) > 1e6);
    fs::remove_dir(obstacle).unwrap();
    metrics.reaches("lockmesh_journal_failed", node, 0.0).await;
    mesh.abort();
    let mesh = start(1).await;
    mesh.ready(PATIENCE).await.unwrap();
    mesh.abort();
    start(2).await.abort();
    let file = dir.join("journal");
    let mut bytes = fs::read(&file).unwrap();
    bytes[20] ^= 1;
    fs::write(file, bytes).unwrap();
    start(2).await.abort();
}
