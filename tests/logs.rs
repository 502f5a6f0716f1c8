//! What five nodes log, line by line: a start, restarts, outages and misconfigured nodes. One
//! binary of its own, since a subscriber is a process's own.
//!
//! What is said does not depend on how fast the machine is, so lines are compared as sets, by
//! node. A machine that stands still for some hundred milliseconds is told by a watch, and what
//! the nodes then rightly say of silent voters is no failure.

#![allow(clippy::unwrap_used, reason = "a test that unwraps in vain has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lockmesh::harness::Links;
use lockmesh::{ClusterKey, Mesh, MeshBuilder, Timing};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

const PATIENCE: Duration = Duration::from_secs(90);
const MAX_TTL: Duration = Duration::from_secs(4);
/// Long enough for a line that should not come: an obstacle is said after a second, and is over
/// after another.
const QUIET: Duration = Duration::from_secs(3);
/// The watch is late by this much where the machine stands still.
const LATE_MS: u64 = 300;
/// What a node may say where the machine stands still.
const OF_LATENESS: [&str; 3] = ["voter_silent", "no_quorum", "voter_quarantine"];

/// Keeps what events say from information on, by the node that says it.
#[derive(Clone, Default)]
struct Log {
    lines: Arc<Mutex<BTreeMap<String, Vec<String>>>>,
}

#[derive(Default)]
struct Fields(BTreeMap<&'static str, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let text = format!("{value:?}").trim_matches('"').to_owned();
        self.0.insert(field.name(), text);
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO && metadata.target().starts_with("lockmesh")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let node = fields.0.remove("node").unwrap_or_default();
        let line = line(*event.metadata().level(), &fields.0);
        let mut lines = self.lines.lock().unwrap();
        lines.entry(node).or_default().push(line);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// A line without what differs from run to run: times, addresses, and which voters were silent
/// first.
fn line(level: Level, fields: &BTreeMap<&'static str, String>) -> String {
    let of = |name: &str| fields.get(name).map(String::as_str);
    let mut message = timeless(of("message").unwrap_or_default());
    if of("cause") == Some("no_quorum") && level == Level::WARN {
        let (_, action) = message.split_once("; ").unwrap();
        let (_, action) = action.split_once("; ").unwrap();
        message = format!("no quorum; {action}");
    }
    let words = [of("cause"), of("peer")].into_iter().flatten();
    let words: Vec<&str> = words.collect();
    format!("{level} [{}] {message}", words.join(" "))
}

/// Each number of seconds is `_`.
fn timeless(text: &str) -> String {
    let words: Vec<&str> = text.split(' ').collect();
    let is_span = |n: usize| {
        let unit = words
            .get(n + 1)
            .map(|word| word.trim_end_matches([';', ',', ':']));
        unit == Some("s") && words[n].parse::<f64>().is_ok()
    };
    let shown = (0..words.len()).map(|n| if is_span(n) { "_" } else { words[n] });
    shown.collect::<Vec<_>>().join(" ")
}

/// The most that a thread of its own was late, in milliseconds, since it was last asked.
#[derive(Clone, Default)]
struct Watch(Arc<AtomicU64>);

impl Watch {
    fn start() -> Self {
        let watch = Self::default();
        let late = watch.0.clone();
        let nap = Duration::from_millis(20);
        std::thread::spawn(move || {
            loop {
                let began = Instant::now();
                std::thread::sleep(nap);
                let over = began.elapsed().saturating_sub(nap).as_millis();
                late.fetch_max(u64::try_from(over).unwrap(), Ordering::SeqCst);
            }
        });
        watch
    }

    fn was_late(&self) -> bool {
        self.0.swap(0, Ordering::SeqCst) >= LATE_MS
    }
}

type Lines = BTreeMap<String, BTreeSet<String>>;

/// What nodes are expected to say.
#[derive(Default)]
struct Expected {
    said: Lines,
    /// What may be said besides.
    may: Lines,
}

impl Expected {
    fn says(mut self, node: &str, lines: impl IntoIterator<Item = String>) -> Self {
        self.said.entry(node.to_owned()).or_default().extend(lines);
        self
    }

    fn may_say(mut self, node: &str, lines: impl IntoIterator<Item = String>) -> Self {
        self.may.entry(node.to_owned()).or_default().extend(lines);
        self
    }
}

impl Log {
    /// What was said since the last phase. What is only said again is left out.
    fn seen(&self) -> Lines {
        let lines = self.lines.lock().unwrap();
        let first = |lines: &Vec<String>| {
            let first = lines
                .iter()
                .filter(|line| !line.contains("] for _ s now: "));
            first.cloned().collect::<BTreeSet<_>>()
        };
        lines
            .iter()
            .map(|(node, lines)| (node.clone(), first(lines)))
            .collect()
    }

    /// Waits until all of it was said, and then for a while, and compares.
    async fn expect(&self, phase: &str, watch: &Watch, expected: Expected) {
        let began = Instant::now();
        let missing = || {
            let seen = self.seen();
            let mut missing = Vec::new();
            for (node, lines) in &expected.said {
                let seen = seen.get(node);
                let not_seen = lines
                    .iter()
                    .filter(|line| !seen.is_some_and(|it| it.contains(*line)));
                missing.extend(not_seen.map(|line| format!("{node}: {line}")));
            }
            missing
        };
        while !missing().is_empty() && began.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        tokio::time::sleep(QUIET).await;
        let was_late = watch.was_late();
        let of_lateness = |line: &str| {
            OF_LATENESS
                .iter()
                .any(|kind| line.contains(&format!("[{kind}")))
        };
        let is_known = |node: &str, line: &str| {
            let known = [&expected.said, &expected.may];
            let known = known.iter().filter_map(|lines| lines.get(node));
            known.into_iter().any(|lines| lines.contains(line)) || was_late && of_lateness(line)
        };
        let mut wrong: Vec<String> = missing();
        wrong.retain(|line| !(was_late && of_lateness(line)));
        wrong
            .iter_mut()
            .for_each(|line| line.insert_str(0, "not said: "));
        for (node, lines) in self.seen() {
            let more = lines.iter().filter(|line| !is_known(&node, line));
            wrong.extend(more.map(|line| format!("said by {node}: {line}")));
        }
        assert!(
            wrong.is_empty(),
            "{phase} (late: {was_late}):\n{}",
            wrong.join("\n")
        );
        self.lines.lock().unwrap().clear();
    }
}

fn started() -> String {
    "INFO [] mesh started".to_owned()
}

/// That a voter does not answer, and that it answers again.
fn silent(node: &str) -> [String; 2] {
    [
        format!(
            "INFO [voter_silent {node}] {node} does not answer; check that it runs and that its \
             address can be reached"
        ),
        format!("INFO [voter_silent {node}] {node} answers, after _ s"),
    ]
}

/// That another voter is in quarantine, and that it is not.
fn quarantined(node: &str) -> [String; 2] {
    [
        format!(
            "INFO [voter_quarantine {node}] {node} is in quarantine for _ s; restart no other \
             voter until it votes"
        ),
        format!("INFO [voter_quarantine {node}] {node} is not in quarantine, after _ s"),
    ]
}

/// That the node's own voter is in quarantine, and that it votes.
fn recovers(level: Level) -> [String; 2] {
    [
        format!(
            "{level} [quarantine] this node's voter is in quarantine: voting resumes in _ s \
             (restart without memory); restart voters one at a time, each after the one before \
             it votes"
        ),
        "INFO [quarantine] this node's voter votes, after _ s".to_owned(),
    ]
}

/// That there is no quorum, with what to do, and that there is one again.
fn no_quorum(action: &str) -> [String; 2] {
    [
        format!("WARN [no_quorum] no quorum; {action}"),
        "INFO [no_quorum] there is a quorum again, after _ s".to_owned(),
    ]
}

const CHECK: &str = "check that those that do not answer run and can be reached";
const WAIT: &str = "restart no other voter until it votes";

/// By their own wall clock, or by those of most where these are known.
fn leans_on_wall_clock(answers: usize) -> [String; 2] {
    let whose = [
        ("no wall clock was", "no voter's wall clock was"),
        (
            "most wall clocks were not",
            "most voters' wall clocks were not",
        ),
    ];
    whose.map(|(if_so, check)| {
        format!(
            "WARN [leans_on_wall_clock] this node's voter votes, but only {answers} others told \
             what they remember: epochs rise only if {if_so} set back, and leases exclude each \
             other only if no setting was changed over a restart; check that {check} set back; \
             restart voters one at a time"
        )
    })
}

struct Five {
    links: Arc<Links>,
    nodes: Vec<Mesh>,
}

fn name(n: usize) -> String {
    format!("n{n}")
}

fn others(n: usize) -> impl Iterator<Item = String> {
    (0..5).filter(move |other| *other != n).map(name)
}

impl Five {
    fn builder(&self, name: &str) -> MeshBuilder {
        let running = self.nodes.iter().filter(|node| node.id().as_str() != name);
        let lan = Timing::lan();
        Mesh::builder(name)
            .voters((0..5).map(self::name))
            .seeds(running.map(|node| node.local_addr().to_string()))
            .key(ClusterKey::from_bytes([7; 32]).unwrap())
            .timing(Timing {
                max_ttl: MAX_TTL,
                max_clock_skew: lan.max_clock_skew.min(MAX_TTL),
                ..lan
            })
            .ttl(MAX_TTL / 2)
            .gossip_every(Duration::from_millis(50))
            .links(self.links.clone())
    }

    async fn start(&mut self, n: usize) {
        let node = self.builder(&name(n)).start().await.unwrap();
        match self.nodes.get_mut(n) {
            Some(old) => *old = node,
            None => self.nodes.push(node),
        }
    }

    /// Cuts one node off from all others.
    fn cut(&self, n: usize) {
        let addr = |n: usize| self.nodes[n].local_addr();
        let rest: Vec<_> = (0..5).filter(|other| *other != n).map(addr).collect();
        self.links.partition(&[addr(n)], &rest);
    }
}

/// All start without memory, at about the same time.
async fn cold_start(five: &mut Five, log: &Log, watch: &Watch) {
    for n in 0..5 {
        five.start(n).await;
    }
    let mut expected = Expected::default();
    for n in 0..5 {
        let lines = others(n).flat_map(|other| quarantined(&other));
        let lines = lines.chain(recovers(Level::WARN)).chain(no_quorum(WAIT));
        expected = expected
            .says(&name(n), lines.chain([started()]))
            // Who is a little later than enough others hears what they remember.
            .may_say(&name(n), (0..3).flat_map(leans_on_wall_clock));
    }
    log.expect("a cold start", watch, expected).await;
}

/// One dies and comes back without memory.
async fn restart(five: &mut Five, log: &Log, watch: &Watch) {
    five.nodes[4].crash().await;
    let said = |five: &Five| five.nodes[0].status().members[4].is_reachable;
    while said(five) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut expected = Expected::default().says("n4", ["INFO [] mesh crashed".to_owned()]);
    for n in 0..4 {
        expected = expected.says(&name(n), [silent("n4")[0].clone()]);
    }
    log.expect("a voter dies", watch, expected).await;
    five.start(4).await;
    let mut expected = Expected::default()
        .says("n4", recovers(Level::INFO))
        .says("n4", [started()]);
    for n in 0..4 {
        expected = expected
            .says(&name(n), quarantined("n4"))
            .says(&name(n), [silent("n4")[1].clone()]);
    }
    log.expect("a voter comes back", watch, expected).await;
}

/// Two of five are cut off, then a third, and all are healed.
async fn outage(five: &Five, log: &Log, watch: &Watch) {
    five.cut(3);
    five.cut(4);
    let mut expected = Expected::default();
    for n in 0..3 {
        let lines = ["n3", "n4"].map(|it| silent(it)[0].clone());
        expected = expected.says(&name(n), lines);
    }
    for n in 3..5 {
        let lines = others(n).map(|it| silent(&it)[0].clone());
        let lines = lines.chain([no_quorum(CHECK)[0].clone()]);
        expected = expected.says(&name(n), lines);
    }
    log.expect("two voters are cut off", watch, expected).await;
    five.cut(2);
    let mut expected = Expected::default();
    for n in 0..2 {
        let lines = [silent("n2")[0].clone(), no_quorum(CHECK)[0].clone()];
        expected = expected.says(&name(n), lines);
    }
    let lines = ["n0", "n1"].map(|it| silent(it)[0].clone());
    expected = expected
        .says("n2", lines)
        .says("n2", [no_quorum(CHECK)[0].clone()]);
    log.expect("a third is cut off", watch, expected).await;
    five.links.heal();
    let mut expected = Expected::default();
    for n in 0..5 {
        let from = if n < 2 { 2 } else { 0 };
        let lines = (from..5)
            .filter(|it| *it != n)
            .map(|it| silent(&name(it))[1].clone());
        let lines = lines.chain([no_quorum(CHECK)[1].clone()]);
        expected = expected.says(&name(n), lines);
    }
    log.expect("all are healed", watch, expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_nodes_log_each_cause_once_and_its_end() {
    let log = Log::default();
    tracing::subscriber::set_global_default(log.clone()).unwrap();
    let watch = Watch::start();
    let mut five = Five {
        links: Arc::new(Links::new(7)),
        nodes: Vec::new(),
    };
    cold_start(&mut five, &log, &watch).await;
    restart(&mut five, &log, &watch).await;
    outage(&five, &log, &watch).await;
    for node in &five.nodes {
        node.shutdown().await;
    }
}
