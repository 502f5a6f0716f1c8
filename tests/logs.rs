//! The log lines of five nodes: start, restarts, outages and misconfigured nodes. Each story has a
//! cluster, a thread and a subscriber of its own, so that all run at once.
//!
//! Lines are compared per node as sets, since their order depends on the speed of the machine. If
//! a watch finds that the machine paused for 300 ms, lines about silent voters are tolerated.

#![allow(clippy::unwrap_used, reason = "a test that unwraps in vain has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lockmesh::{ClusterSecret, Mesh, MeshBuilder, Resolve};
use lockmesh_harness::{LocalMesh, SkewedClock};
use tracing::{Event, Level};

#[path = "common/cluster.rs"]
mod cluster;
#[path = "common/events.rs"]
mod events;

use cluster::{beside, settings, timing};
use events::{Events, Fields, fields};

const PATIENCE: Duration = Duration::from_secs(90);
const MAX_TTL: Duration = Duration::from_secs(4);
/// The time to wait for unexpected lines. A cause is logged 1 s after its start, and its end 1 s
/// after it is over.
const QUIET: Duration = Duration::from_secs(3);
/// The delay of the watch, in milliseconds, from which on the machine counts as paused.
const LATE_MS: u64 = 300;
/// The voters of a second cluster, which restart at once.
const RESTARTED: [&str; 3] = ["r0", "r1", "r2"];
/// The longest time without a warning while a quorum is missing: the interval of 15 s, and lateness.
const GAP_MAX: Duration = Duration::from_secs(20);
/// The causes that a node may log if the machine paused.
const OF_LATENESS: [&str; 3] = ["voter_silent", "no_quorum", "voter_quarantine"];

/// A subscriber that collects events of level INFO and above, by node.
#[derive(Clone, Default)]
struct Log {
    lines: Arc<Mutex<BTreeMap<String, Vec<String>>>>,
    /// The unchanged lines of all nodes.
    said: Arc<Mutex<Vec<Said>>>,
    /// Warnings and errors that name no action.
    without_action: Arc<Mutex<BTreeSet<String>>>,
}

#[derive(Clone, Debug)]
struct Said {
    at: Instant,
    node: String,
    level: Level,
    cause: String,
    message: String,
}

impl Log {
    fn record(&self, event: &Event<'_>) {
        let level = *event.metadata().level();
        if level > Level::INFO {
            return;
        }
        let mut fields = fields(event);
        let node = fields.remove("node").unwrap_or_default();
        let of = |name: &str| fields.get(name).cloned().unwrap_or_default();
        let (cause, message) = (of("cause"), of("message"));
        if level <= Level::WARN && !message.contains("; ") {
            let mut without_action = self.without_action.lock().unwrap();
            without_action.insert(format!("{level} {message}"));
        }
        let mut lines = self.lines.lock().unwrap();
        let of_node = lines.entry(node.clone()).or_default();
        of_node.push(line(level, &fields));
        self.said.lock().unwrap().push(Said {
            at: Instant::now(),
            node,
            level,
            cause,
            message,
        });
    }
}

/// Formats a line without the parts that differ between runs: times, addresses, and the voters
/// that were silent first.
fn line(level: Level, fields: &Fields) -> String {
    let of = |name: &str| fields.get(name).map(String::as_str);
    let mut message = of("message").unwrap_or_default().to_owned();
    if of("cause") == Some("no_quorum") && level == Level::WARN {
        let (_, action) = message.split_once("; ").unwrap();
        let (_, action) = action.split_once("; ").unwrap();
        message = format!("no quorum; {action}");
    }
    // The line may name any of several nodes.
    if of("cause") == Some("waits_for_other_set")
        && let Some((begin, rest)) = message.split_once("while ")
    {
        let (_, end) = rest.split_once(' ').unwrap();
        message = format!("{begin}while _ {end}");
    }
    let words = [of("cause"), of("peer")].into_iter().flatten();
    let words: Vec<&str> = words.collect();
    timeless(&format!("{level} [{}] {message}", words.join(" ")))
}

/// Replaces each number of seconds by `_`, and each address by `ADDR`.
fn timeless(text: &str) -> String {
    let words: Vec<&str> = text.split(' ').collect();
    let is_span = |n: usize| {
        let unit = words
            .get(n + 1)
            .map(|word| word.trim_end_matches([';', ',', ':', ')']));
        unit == Some("s") && words[n].parse::<f64>().is_ok()
    };
    let shown = |n: usize| {
        let word = words[n];
        let bare = word.trim_matches(['[', ']', ',', ';']);
        match bare.parse::<SocketAddr>() {
            Ok(_) => word.replace(bare, "ADDR"),
            Err(_) if is_span(n) => "_".to_owned(),
            Err(_) => word.to_owned(),
        }
    };
    (0..words.len()).map(shown).collect::<Vec<_>>().join(" ")
}

/// The longest delay of a timer thread since the last query, in milliseconds.
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

/// The expected lines, by node.
#[derive(Default)]
struct Expected {
    said: Lines,
    /// Lines that are allowed but not required.
    may: Lines,
}

impl Expected {
    fn says(mut self, node: &str, lines: impl IntoIterator<Item = String>) -> Self {
        self.said.entry(node.to_owned()).or_default().extend(lines);
        self
    }

    /// The lines of each of `nodes`.
    fn each<L: IntoIterator<Item = String>>(
        self,
        nodes: impl IntoIterator<Item = usize>,
        lines: impl Fn(usize) -> L,
    ) -> Self {
        let nodes = nodes.into_iter();
        nodes.fold(self, |it, n| it.says(&name(n), lines(n)))
    }

    fn may_say(mut self, node: &str, lines: impl IntoIterator<Item = String>) -> Self {
        self.may.entry(node.to_owned()).or_default().extend(lines);
        self
    }
}

impl Log {
    /// Returns the lines since the last phase, without repetitions of a cause that lasts.
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

    /// Waits for all expected lines and then for [`QUIET`], and compares.
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

/// The line for the start of a cause.
fn begin([begin, _]: [String; 2]) -> String {
    begin
}

/// The line for the end of a cause.
fn end([_, end]: [String; 2]) -> String {
    end
}

fn started() -> String {
    "INFO [] mesh started".to_owned()
}

fn aborted() -> String {
    "INFO [] mesh aborted".to_owned()
}

/// The lines for a voter that does not answer, and that answers again.
fn silent(node: &str) -> [String; 2] {
    [
        format!(
            "INFO [voter_silent {node}] {node} does not answer; check that it runs and that its \
             address can be reached"
        ),
        format!("INFO [voter_silent {node}] {node} answers, after _ s"),
    ]
}

/// The lines for the start and end of another voter's quarantine.
fn quarantined(node: &str) -> [String; 2] {
    [
        format!(
            "INFO [voter_quarantine {node}] {node} is in quarantine for _ s; restart no other \
             voter until it votes"
        ),
        format!("INFO [voter_quarantine {node}] {node} is not in quarantine, after _ s"),
    ]
}

/// The lines for the start and end of the node's own quarantine.
fn recovers(level: Level) -> [String; 2] {
    [
        format!(
            "{level} [quarantine] this node's voter is in quarantine: voting resumes in _ s \
             (restart without memory, see docs/operations.md); restart voters one at a time, each after the one before \
             it votes"
        ),
        "INFO [quarantine] this node's voter votes, after _ s".to_owned(),
    ]
}

/// The lines for the loss of the quorum, with `action` as the advice, and for its return.
fn no_quorum(action: &str) -> [String; 2] {
    [
        format!("WARN [no_quorum] no quorum; {action}"),
        "INFO [no_quorum] there is a quorum again, after _ s".to_owned(),
    ]
}

const CHECK: &str = "check that those that do not answer run and can be reached";
const WAIT: &str = "restart no other voter until it votes";

const SAME_SETTINGS: &str =
    "give all nodes the same voters, voters per key, timing and voter set version";

fn leans_on_wall_clock(answers: usize, knows_clocks: bool) -> String {
    let if_so = match knows_clocks {
        true => "most wall clocks were not set back",
        false => "no wall clock was set back",
    };
    format!(
        "WARN [leans_on_wall_clock] this node's voter votes, but only {answers} others told what \
         they remember: epochs rise only if {if_so}, and leases exclude each other only if no \
         setting was changed over a restart; check that no voter's wall clock was set back; \
         restart voters one at a time"
    )
}

fn marks_lost() -> String {
    "WARN [marks_lost] this node's voter lost its memory, and too few others told their marks: ticks \
     that ran before may run again (this matters to users of `once` alone); restart voters one at \
     a time, or give them a data directory"
        .to_owned()
}

fn name(n: usize) -> String {
    format!("n{n}")
}

fn others(n: usize) -> impl Iterator<Item = String> {
    (0..5).filter(move |other| *other != n).map(name)
}

/// Starts the five voters of a story.
async fn five(log: &Log, watch: &Watch) -> LocalMesh {
    let five = settings(5, 0, MAX_TTL).start().await.unwrap();
    let expected = Expected::default().each(0..5, |_| [started()]);
    log.expect("a new cluster", watch, expected).await;
    five
}

/// All nodes crash, and start without memory at about the same time.
async fn cold_start(five: &LocalMesh, log: &Log, watch: &Watch) {
    for n in 0..5 {
        five.crash(n).await;
    }
    for n in 0..5 {
        five.restart(n).await.unwrap();
    }
    let mut expected = Expected::default();
    for n in 0..5 {
        let lines = others(n).flat_map(|other| quarantined(&other));
        let lines = lines.chain(recovers(Level::WARN)).chain(no_quorum(WAIT));
        expected = expected
            .says(&name(n), lines.chain([aborted(), started()]))
            // Optional: a node that starts after enough others receives their recovery replies.
            .may_say(&name(n), (0..3).map(|it| leans_on_wall_clock(it, true)))
            .may_say(&name(n), (0..3).map(|it| leans_on_wall_clock(it, false)));
    }
    // The first three of five find nobody whose marks are whole. Those are then told to the others.
    let expected = expected.each(0..3, |_| [marks_lost()]);
    let expected = (3..5).fold(expected, |it, n| it.may_say(&name(n), [marks_lost()]));
    log.expect("a cold start", watch, expected).await;
}

/// One node crashes and restarts without memory.
async fn restart(five: &LocalMesh, log: &Log, watch: &Watch) {
    five.crash(4).await;
    while five.node(0).status().members[4].is_reachable {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let expected = Expected::default()
        .says("n4", [aborted()])
        .each(0..4, |_| [begin(silent("n4"))]);
    log.expect("a voter dies", watch, expected).await;
    five.restart(4).await.unwrap();
    let expected = Expected::default()
        .says("n4", recovers(Level::INFO))
        .says("n4", [started()])
        .each(0..4, |_| quarantined("n4"))
        .each(0..4, |_| [end(silent("n4"))]);
    log.expect("a voter comes back", watch, expected).await;
}

/// Two of five nodes are cut off, then a third, and then all links are healed.
async fn outage(five: &LocalMesh, log: &Log, watch: &Watch) {
    let cut_off = |n: usize| five.partition([n], (0..5).filter(|it| *it != n));
    let silents = |nodes: &[String]| Vec::from_iter(nodes.iter().map(|it| begin(silent(it))));
    cut_off(3);
    cut_off(4);
    let expected = Expected::default()
        .each(0..3, |_| silents(&[name(3), name(4)]))
        .each(3..5, |n| silents(&Vec::from_iter(others(n))))
        .each(3..5, |_| [begin(no_quorum(CHECK))]);
    log.expect("two voters are cut off", watch, expected).await;
    cut_off(2);
    let expected = Expected::default()
        .each(0..2, |_| silents(&[name(2)]))
        .says("n2", silents(&[name(0), name(1)]))
        .each(0..3, |_| [begin(no_quorum(CHECK))]);
    log.expect("a third is cut off", watch, expected).await;
    five.heal();
    let answers = |n: usize| {
        let from = if n < 2 { 2 } else { 0 };
        let cut = (from..5).filter(move |it| *it != n);
        cut.map(|it| end(silent(&name(it))))
    };
    let expected = Expected::default()
        .each(0..5, answers)
        .each(0..5, |_| [end(no_quorum(CHECK))]);
    log.expect("all are healed", watch, expected).await;
}

/// One node is restarted at its address with changed settings, and then with the original ones.
async fn misconfigured(
    five: &LocalMesh,
    log: &Log,
    watch: &Watch,
    change: impl Fn(MeshBuilder) -> MeshBuilder,
    [wrong, mended]: [Expected; 2],
) {
    let crashed = || [aborted(), started()];
    five.crash(4).await;
    let listen = five.node(4).local_addr().to_string();
    let misconfigured = change(beside(five, "n4").listen(listen));
    let misconfigured = misconfigured.start().await.unwrap();
    let wrong = wrong.says("n4", crashed());
    // If this lasts, it is told no marks.
    let wrong = wrong.may_say("n4", [marks_lost()]);
    log.expect("a node has settings of its own", watch, wrong)
        .await;
    misconfigured.abort();
    five.restart(4).await.unwrap();
    let mended = mended
        .says("n4", recovers(Level::INFO))
        .says("n4", crashed())
        .each(0..4, |_| quarantined("n4"));
    log.expect("it is mended", watch, mended).await;
}

/// One node has another secret.
async fn wrong_secret(five: &LocalMesh, log: &Log, watch: &Watch) {
    let foreign_node = [
        "WARN [foreign_node ADDR] a datagram from ADDR is not sealed with our secret; give all nodes \
         of the cluster the same secret and cluster name",
        "INFO [foreign_node ADDR] all datagrams from ADDR can be opened, or none come, after _ s",
    ]
    .map(str::to_owned);
    let silents = (0..4).map(|it| begin(silent(&name(it))));
    let wrong = Expected::default()
        // It receives no valid datagram, so its voter stays in quarantine.
        .says("n4", [begin(recovers(Level::WARN))])
        .says("n4", silents)
        .says("n4", [begin(no_quorum(&format!("{CHECK}; {WAIT}")))])
        .each(0..4, |_| [begin(silent("n4"))])
        .each(0..5, |_| [begin(foreign_node.clone())]);
    let mended = Expected::default()
        .each(0..4, |_| [end(silent("n4"))])
        .each(0..4, |_| [end(foreign_node.clone())]);
    let secret = ClusterSecret::from_bytes([8; 32]).unwrap();
    let change = |it: MeshBuilder| it.secret(secret.clone());
    misconfigured(five, log, watch, change, [wrong, mended]).await;
}

/// One node has another `max_ttl`.
async fn other_max_ttl(five: &LocalMesh, log: &Log, watch: &Watch) {
    let timing = timing(MAX_TTL - Duration::from_secs(1));
    let change = |it: MeshBuilder| it.timing(timing).ttl(Duration::from_secs(1));
    let other = |node: &str| {
        [
            format!(
                "WARN [other_voter_set {node}] {node} has another voter set (its max_ttl is _ s, \
                 mine _ s); neither counts the other's votes; {SAME_SETTINGS}"
            ),
            format!(
                "INFO [other_voter_set {node}] {node} has the same voter set, or is gone, after _ s"
            ),
        ]
    };
    let waits = "WARN [waits_for_other_set] this node's voter does not vote while _ speaks for \
                 another voter set; give both the same settings, or stop the other";
    let wrong = Expected::default()
        .says("n4", [begin(recovers(Level::WARN)), waits.to_owned()])
        .says("n4", (0..4).map(|it| begin(other(&name(it)))))
        .says(
            "n4",
            [begin(no_quorum(&format!("{SAME_SETTINGS}; {WAIT}")))],
        )
        .each(0..4, |_| [begin(other("n4"))]);
    let mended = Expected::default().each(0..4, |_| [end(other("n4"))]);
    misconfigured(five, log, watch, change, [wrong, mended]).await;
}

/// The wall clock of one node is 60 s ahead. All nodes can still acquire locks.
async fn wrong_wall_clock(five: &LocalMesh, log: &Log, watch: &Watch) {
    let skewed = "WARN [wall_clock] this node's wall clock is _ s ahead of those of most voters, \
                  which count; set the wall clock of this machine right";
    let wrong = Expected::default()
        .says("n4", recovers(Level::INFO))
        .says("n4", [skewed.to_owned()])
        .each(0..4, |_| quarantined("n4"));
    let change = |it: MeshBuilder| it.clock(SkewedClock::new(60_000));
    misconfigured(five, log, watch, change, [wrong, Expected::default()]).await;
}

/// Another process starts under the name of a running node.
async fn twin(five: &LocalMesh, log: &Log, watch: &Watch) {
    let [begun, over] = [
        "ERROR [twin ADDR] another process runs under this node's name: it is at ADDR, this one at \
         ADDR; neither holds locks or votes; stop one of the two, or give it a name of its own",
        "INFO [twin ADDR] no other process of this node's name is heard; this one goes on, after \
         _ s",
    ]
    .map(str::to_owned);
    let twin = beside(five, "n4").start().await.unwrap();
    let stopped = || ["INFO [] mesh shut down".to_owned()];
    let found = Expected::default()
        .says("c", stopped())
        .says("n4", [started(), begun])
        .each(0..4, |_| [begin(quarantined("n4"))]);
    log.expect("two processes of one name", watch, found).await;
    twin.shutdown().await;
    let gone = Expected::default()
        .says("n4", recovers(Level::INFO))
        .says("n4", stopped())
        .says("n4", [over])
        .each(0..4, |_| [end(quarantined("n4"))]);
    log.expect("one of them is gone", watch, gone).await;
}

/// A resolver that fails until its address is set. The name then has two, of which one is dead.
#[derive(Clone, Debug, Default)]
struct Late(Arc<Mutex<Option<SocketAddr>>>);

#[async_trait::async_trait]
impl Resolve for Late {
    async fn resolve(&self, _: &str) -> std::io::Result<Vec<SocketAddr>> {
        let addr = *self.0.lock().unwrap();
        let addr = addr.ok_or_else(|| std::io::Error::other("no such host"))?;
        Ok(vec![SocketAddr::from(([127, 0, 0, 1], 9)), addr])
    }
}

/// A client has a seed that resolves only later.
async fn unresolved_seed(five: &LocalMesh, log: &Log, watch: &Watch) {
    let late = Late::default();
    let client = five.client("c").unwrap().seeds(["late:7400"]);
    let client = client.resolver(late.clone()).start().await.unwrap();
    let [begun, over] = [
        "WARN [seed_unresolved late:7400] the seed late:7400 does not resolve: no such host; it \
         is tried again; check its name and the DNS of this host",
        "INFO [seed_unresolved late:7400] the seed late:7400 resolves, after _ s",
    ]
    .map(str::to_owned);
    let expected = Expected::default()
        .says("c", [started(), begun, begin(no_quorum(CHECK))])
        .says("c", (0..5).map(|it| begin(silent(&name(it)))));
    log.expect("a seed does not resolve", watch, expected).await;
    *late.0.lock().unwrap() = Some(five.node(0).local_addr());
    let expected = Expected::default()
        .says("c", [over, end(no_quorum(CHECK))])
        .says("c", (0..5).map(|it| end(silent(&name(it)))));
    log.expect("it resolves", watch, expected).await;
    client.shutdown().await;
}

/// Starts voters that all have no memory, with the default `max_ttl` of one minute.
async fn restart_all() -> Vec<Mesh> {
    let mut nodes: Vec<Mesh> = Vec::new();
    for name in RESTARTED {
        let node = Mesh::builder(name)
            .voters(RESTARTED)
            .seeds(nodes.first().map(|node| node.local_addr().to_string()))
            .secret(ClusterSecret::from_bytes([9; 32]).unwrap())
            .listen("127.0.0.1:0");
        nodes.push(node.start().await.unwrap());
    }
    nodes
}

/// While a quorum is missing, each voter warns at least every 15 s, with the time until it votes.
async fn restarted_voters_warn_until_they_vote(log: &Log) {
    let began = Instant::now();
    let nodes = restart_all().await;
    for node in &nodes {
        node.ready(PATIENCE).await.unwrap();
    }
    tokio::time::sleep(QUIET).await;
    let lines = log.said.lock().unwrap().clone();
    for node in RESTARTED {
        let of = |cause: &str| {
            let lines = lines.iter().filter(|it| it.node == node);
            let mut lines = Vec::from_iter(lines.filter(|it| it.cause == cause).cloned());
            let end = lines.pop();
            let warned = lines.iter().filter(|it| it.level == Level::WARN);
            let warned = Vec::from_iter(warned.cloned());
            assert!(warned.len() >= 3, "{lines:#?}");
            assert_eq!(end.map(|it| it.level), Some(Level::INFO), "{lines:#?}");
            let times = [began].into_iter().chain(warned.iter().map(|it| it.at));
            let times = Vec::from_iter(times);
            let is_close = |pair: &[Instant]| pair[1] - pair[0] < GAP_MAX;
            assert!(times.windows(2).all(is_close), "{lines:#?}");
            warned
        };
        of("no_quorum");
        let remaining: Vec<u64> = of("quarantine")
            .iter()
            .filter_map(|it| it.message.split_once("voting resumes in "))
            .map(|(_, rest)| rest.split_once(" s ").unwrap().0.parse().unwrap())
            .collect();
        assert!(remaining.len() >= 3, "{remaining:?}");
        assert!((50..=61).contains(&remaining[0]), "{remaining:?}");
        assert!(remaining.is_sorted_by(|a, b| a > b), "{remaining:?}");
    }
    for node in &nodes {
        node.shutdown().await;
    }
}

/// Runs a story on this thread, with a log of its own.
fn tell(story: impl AsyncFnOnce(&Log, &Watch)) {
    let log = Log::default();
    let of_thread = log.clone();
    let events = Events(move |event: &Event<'_>| of_thread.record(event));
    // All tasks of the runtime run on this thread.
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().unwrap();
    tracing::subscriber::with_default(events, || {
        runtime.block_on(story(&log, &Watch::start()));
    });
    let without_action = log.without_action.lock().unwrap();
    assert!(without_action.is_empty(), "{without_action:#?}");
}

#[test]
fn each_cause_is_logged_at_start_and_end() {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            tell(async |log, _| restarted_voters_warn_until_they_vote(log).await);
        });
        scope.spawn(|| {
            tell(async |log, watch| {
                let five = five(log, watch).await;
                cold_start(&five, log, watch).await;
                restart(&five, log, watch).await;
                outage(&five, log, watch).await;
            });
        });
        scope.spawn(|| {
            tell(async |log, watch| {
                let five = five(log, watch).await;
                wrong_secret(&five, log, watch).await;
                other_max_ttl(&five, log, watch).await;
            });
        });
        scope.spawn(|| {
            tell(async |log, watch| {
                let five = five(log, watch).await;
                wrong_wall_clock(&five, log, watch).await;
                unresolved_seed(&five, log, watch).await;
                twin(&five, log, watch).await;
            });
        });
    });
}
