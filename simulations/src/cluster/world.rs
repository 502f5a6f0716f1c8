//! The simulated world: hosts, links, clients and a resource, driven by one queue of events and one
//! seed.
//!
//! The nodes are production [`Node`](crate::proto::Node)s. Bytes and time go in; bytes, events and
//! the next timeout come out. All random values come from streams of the seed, and no iteration
//! order depends on the process. A seed therefore determines a run.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::algorithms::Machine;
use crate::cluster::{
    Clock, Datagram, Gossip, Heartbeats, Host, HostDisk, Known, MARKED_KEYS, PROBE_KEYS, Process,
    Rates, Settings, Steady, datagrams, gossip,
};
use crate::faults::{CLUSTER, Fault, ForeignCluster, Namesake, draw_rate, draw_wrong};
use crate::judge::{Fact, HostAt, KeyAt, Laws, RequestId, Terms, Violation};
use crate::kernel::{Network, Queue, Rng, SECOND, Trace};
use crate::proto::{
    ClusterSecret, Event, Key, NodeId, Now, Output, PROTOCOL_VERSION, View, VoterSet,
};
use crate::report::Record;
use crate::scenarios::Counted;
use crate::users::{Client, RequestAt, Resource, Status, Write};

/// An event that is scheduled for a point in true time.
#[derive(Clone, Debug)]
pub(crate) enum WorldEvent {
    /// A datagram arrives at an address.
    Arrive { to: SocketAddr, datagram: Datagram },
    /// A node's timer fires.
    Timer { host: HostAt, timer: u64 },
    /// A sync of a host's journal is done: up to the write `number`, `len` bytes.
    Synced {
        host: HostAt,
        /// The number of starts of the host, so that a later process is not meant.
        run: usize,
        number: u64,
        len: usize,
    },
    /// A process has finished reading a datagram and reads the next one.
    Read { host: HostAt },
    /// Gossip delivers a view to a node and schedules the next one.
    Gossip { host: HostAt },
    /// A fault begins.
    Fault(usize),
    /// A fault ends, or its next step begins.
    Mend { fault: usize, step: u32 },
    /// A paused process resumes, unless it was paused again.
    Resume { host: HostAt },
    /// A node queries the voters (`VoterQuery`).
    Check { host: HostAt },
    /// A process starts.
    Start {
        host: HostAt,
        says_new: bool,
        moves: bool,
    },
    /// A request of the scenario is submitted.
    Ask(usize),
    /// A request with a scheduled end is released.
    LetGo { host: HostAt, request: RequestId },
    /// A namesake's timer fires.
    NamesakeWakes { fault: usize, timer: u64 },
    /// A namesake submits or releases a request.
    NamesakeActs(usize),
    /// A client takes its turn.
    Wake { client: usize, turn: u64 },
    /// A client checks its guard before a write.
    Look { client: usize, request: RequestId },
    /// The write leaves the process.
    Leave(Write),
    /// The write reaches the resource.
    Reach(Write),
}

/// A world that can be run.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) settings: Settings,
    pub(crate) faults: Vec<Fault>,
    pub(crate) requests: Vec<RequestAt>,
}

impl From<Settings> for Plan {
    fn from(settings: Settings) -> Self {
        Self {
            settings,
            faults: Vec::new(),
            requests: Vec::new(),
        }
    }
}

impl Plan {
    pub(crate) fn run(self, keeps_lines: bool) -> Outcome {
        World::new(self, keeps_lines).run()
    }
}

/// The result of a run.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) steps: u64,
    pub(crate) facts: u64,
    pub(crate) coverage: BTreeMap<&'static str, u64>,
    pub(crate) violations: Vec<Violation>,
    pub(crate) digest: u64,
    pub(crate) lines: Vec<String>,
    pub(crate) faults: usize,
    /// The record of the run, if the settings ask for one.
    pub(crate) record: Option<Record>,
    /// The events that scenarios count: time, kind and host.
    pub(crate) happened: Vec<(u64, Counted, HostAt)>,
}

impl Outcome {
    pub(crate) fn counted(&self, name: &str) -> u64 {
        self.coverage.get(name).copied().unwrap_or_default()
    }

    /// Prints the trace. The reader may have closed the pipe.
    pub(crate) fn print_lines(&self) {
        let mut out = std::io::stdout().lock();
        for line in &self.lines {
            if writeln!(out, "{line}").is_err() {
                return;
            }
        }
    }
}

/// The complete state of a run.
pub(crate) struct World {
    pub(crate) settings: Settings,
    /// True time, in nanoseconds.
    pub(crate) time: u64,
    queue: Queue<WorldEvent>,
    pub(crate) hosts: Vec<Host>,
    pub(crate) by_addr: BTreeMap<SocketAddr, HostAt>,
    by_id: BTreeMap<NodeId, HostAt>,
    pub(crate) voter_set: Arc<VoterSet>,
    /// The other voter set; equal to `voter_set` if there is none.
    pub(crate) other_voter_set: Arc<VoterSet>,
    pub(crate) keys: Vec<Key>,
    /// The keys that each host votes for, in each voter set.
    pub(crate) voter_keys: [Vec<Vec<KeyAt>>; 2],
    pub(crate) network: Network,
    pub(crate) faults: Vec<Fault>,
    pub(crate) clients: Vec<Client>,
    pub(crate) resource: Resource,
    pub(crate) steady: Steady,
    /// The links that each `CutAndCrash` has cut, by fault.
    pub(crate) cut_links: BTreeMap<usize, Vec<(HostAt, HostAt)>>,
    /// Hosts that stay broken after the world has settled.
    pub(crate) broken: BTreeSet<HostAt>,
    /// The stream of timer delays.
    pub(crate) late_rng: Rng,
    pub(crate) heartbeats: Heartbeats,
    pub(crate) laws: Laws,
    pub(crate) trace: Trace,
    pub(crate) coverage: BTreeMap<&'static str, u64>,
    pub(crate) steps: u64,
    pub(crate) gossip_rng: Rng,
    pub(crate) start_rng: Rng,
    pub(crate) version_rng: Rng,
    /// The stream of power cuts and syncs.
    pub(crate) disk_rng: Rng,
    /// The stream of the cluster's secret and the boot ids.
    pub(crate) seal_rng: Rng,
    /// The secret of the cluster, if datagrams are sealed.
    pub(crate) cluster_secret: Option<ClusterSecret>,
    /// The voters of another cluster with the same names.
    pub(crate) foreign_cluster: ForeignCluster,
    /// Second processes under the names of hosts, by the fault that started them.
    pub(crate) namesakes: BTreeMap<usize, Namesake>,
    /// `true` once the faults are over.
    pub(crate) is_settled: bool,
    pub(crate) requests: u64,
    /// The status of each request that no client made.
    pub(crate) probed: BTreeMap<RequestId, Status>,
    /// The last time at which a request for each key began or ended.
    pub(crate) wanted_at: Vec<u64>,
    pub(crate) record: Option<Record>,
    /// The requests that a scenario schedules.
    scheduled: Vec<RequestAt>,
    /// The time from grant to release of a scripted request, in nanoseconds.
    pub(crate) holds: BTreeMap<RequestId, u64>,
    happened: Vec<(u64, Counted, HostAt)>,
}

/// A run with more steps is reported as endless. Most runs take about 10,000 steps.
const STEPS_MAX: u64 = 5_000_000;

impl World {
    pub(crate) fn new(plan: Plan, keeps_lines: bool) -> Self {
        let Plan {
            settings,
            faults,
            requests,
        } = plan;
        let seed = settings.seed;
        let hosts = draw_hosts(&settings);
        let ids: Vec<NodeId> = hosts.iter().map(|host| host.id.clone()).collect();
        let members = ids[..settings.members].to_vec();
        let voter_set = VoterSet::new(1, members, settings.voters_per_key, settings.timing);
        let voter_set = voter_set.expect("settings that were drawn or checked are valid");
        let voter_set = Arc::new(voter_set.of_cluster(CLUSTER));
        let keys: Vec<Key> = (0..settings.habits.keys + PROBE_KEYS + MARKED_KEYS)
            .map(|key| Key::new(format!("key/{key}")).expect("a short name"))
            .collect();
        let by_id: BTreeMap<NodeId, HostAt> = ids.iter().cloned().zip(0..).collect();
        let other_voter_set = other_voter_set(&settings, &ids).unwrap_or_else(|| voter_set.clone());
        let voters = [&voter_set, &other_voter_set]
            .map(|voter_set| voters_of(voter_set, &keys, |id| by_id[id]));
        let voter_keys = voters.each_ref().map(|voters| {
            let of = |host: HostAt| {
                let keys = 0..keys.len();
                keys.filter(|key| voters[*key].contains(&host)).collect()
            };
            (0..hosts.len()).map(of).collect()
        });
        let network = draw_network(&settings, hosts.len());
        let terms = terms(&settings, voters);
        let mut seal_rng = Rng::stream(seed, "seal");
        let mut world = Self {
            time: 0,
            queue: Queue::new(),
            by_addr: hosts.iter().map(|host| host.addr).zip(0..).collect(),
            by_id,
            voter_set,
            other_voter_set,
            voter_keys,
            network,
            faults,
            clients: Vec::new(),
            resource: Resource::new(keys.len(), settings.algorithm.has_fence()),
            steady: Steady::new(hosts.len()),
            cut_links: BTreeMap::new(),
            broken: BTreeSet::new(),
            late_rng: Rng::stream(seed, "late timers"),
            heartbeats: Heartbeats::new(hosts.len()),
            laws: Laws::new(terms, settings.algorithm.laws()),
            trace: Trace::new(keeps_lines),
            coverage: BTreeMap::new(),
            steps: 0,
            gossip_rng: Rng::stream(seed, "gossip"),
            start_rng: Rng::stream(seed, "start"),
            version_rng: Rng::stream(seed, "changes of version"),
            disk_rng: Rng::stream(seed, "disks"),
            cluster_secret: settings
                .is_sealed
                .then(|| datagrams::draw_secret(&mut seal_rng)),
            seal_rng,
            foreign_cluster: ForeignCluster::default(),
            namesakes: BTreeMap::new(),
            is_settled: false,
            requests: 0,
            probed: BTreeMap::new(),
            wanted_at: vec![0; keys.len()],
            record: settings.is_recorded.then(Record::default),
            scheduled: requests,
            holds: BTreeMap::new(),
            happened: Vec::new(),
            keys,
            hosts,
            settings,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        let says_new = self.settings.starts_new;
        self.begin_foreign_cluster();
        for host in 0..self.hosts.len() {
            let incarnation = self.next_incarnation(host);
            self.hosts[host].incarnations.push(incarnation);
        }
        for host in 0..self.hosts.len() {
            self.start_as(host, says_new);
            self.send_true_view(host);
            let at = self.gossip_rng.below(self.settings.max_ttl());
            self.push(at, WorldEvent::Gossip { host });
            self.check_voters(host, true);
        }
        if self.settings.gossip == Gossip::Heartbeats {
            self.send_true_views();
        }
        for fault in 0..self.faults.len() {
            self.push(self.faults[fault].at, WorldEvent::Fault(fault));
        }
        self.draw_clients();
        for at in 0..self.scheduled.len() {
            self.push(self.scheduled[at].at, WorldEvent::Ask(at));
        }
    }

    fn submit_scheduled(&mut self, at: usize) {
        let RequestAt {
            host, wish, hold, ..
        } = self.scheduled[at];
        let request = RequestId(self.requests + 1);
        self.holds.insert(request, hold);
        if self.hosts[host].acts() {
            self.ask(host, None, wish);
        }
    }

    /// Records an event that a scenario may count.
    pub(crate) fn note(&mut self, what: Counted, host: HostAt) {
        self.happened.push((self.time, what, host));
    }

    /// Runs the faults, then the settled phase in which every request must be served.
    pub(crate) fn run(mut self) -> Outcome {
        self.run_until(self.settings.fault_span, |_| false);
        if !self.is_over() {
            self.run_settled();
        }
        if self.steps > STEPS_MAX {
            self.see(&Fact::Endless { steps: self.steps });
        }
        self.outcome()
    }

    fn outcome(mut self) -> Outcome {
        for host in 0..self.hosts.len() {
            self.count_messages(host);
        }
        let fates = self.network.fates;
        let counts = [
            ("datagrams", fates.sent),
            ("datagrams_lost", fates.lost),
            ("datagrams_cut", fates.cut),
            ("datagrams_doubled", fates.doubled),
            ("datagrams_late", fates.late),
            ("datagrams_damaged", fates.damaged),
            ("datagrams_too_large", fates.too_large),
            ("writes_taken", self.resource.taken),
            ("writes_refused", self.resource.refused),
        ];
        if self.settings.is_sealed {
            self.count("sealed_worlds");
        }
        if self.has_right_clocks() {
            self.count("worlds_with_wrong_clocks");
        }
        if self.settings.is_tight() {
            self.count("tight_worlds");
        }
        for (name, count) in counts {
            self.count_many(name, count);
        }
        Outcome {
            steps: self.steps,
            facts: self.laws.facts,
            coverage: self.coverage,
            violations: self.laws.violations,
            digest: self.trace.digest(),
            lines: self.trace.into_lines(),
            faults: self.faults.len(),
            record: self.record,
            happened: self.happened,
        }
    }

    /// Adds a process's message and session counters to the coverage, when it dies or the run ends.
    /// Several messages may share a datagram.
    pub(crate) fn count_messages(&mut self, host: HostAt) {
        let Some(said) = self.process(host).and_then(|it| it.node.traffic()) else {
            return;
        };
        let (messages, kept, over) = (said.messages_out, said.sessions_kept, said.sessions_over);
        self.count_many("messages", messages);
        self.count_many("sessions_kept", kept);
        self.count_many("sessions_over", over);
    }

    /// Handles events until `end`, or until `done` returns `true`, or until the run is over.
    /// Returns `true` if `done` does.
    pub(crate) fn run_until(&mut self, end: u64, done: impl Fn(&Self) -> bool) -> bool {
        loop {
            if done(self) {
                return true;
            }
            if self.is_over() {
                return false;
            }
            let Some((at, event)) = self.queue.pop_until(end) else {
                self.time = end;
                return done(self);
            };
            self.time = at;
            self.happen(event);
            self.look();
        }
    }

    /// Returns `true` if the run ends early. A broken law ends it, unless it is recorded to show
    /// the consequences.
    fn is_over(&self) -> bool {
        (!self.settings.is_recorded && self.is_broken()) || self.steps > STEPS_MAX
    }

    pub(crate) fn push(&mut self, at: u64, event: WorldEvent) {
        self.queue.push(at, event);
    }

    pub(crate) fn push_in(&mut self, span: u64, event: WorldEvent) {
        self.push(self.time + span, event);
    }

    fn happen(&mut self, event: WorldEvent) {
        match event {
            WorldEvent::Arrive { to, datagram } => self.arrive(to, datagram),
            WorldEvent::Timer { host, timer } => {
                if self.hosts[host].timer == timer {
                    // Also while the host is paused: it may ask for the same time again.
                    self.hosts[host].timer_at = None;
                    if self.hosts[host].acts() {
                        self.wake(host);
                    }
                }
            }
            WorldEvent::Synced {
                host,
                run,
                number,
                len,
            } => self.synced(host, run, number, len),
            WorldEvent::Read { host } => self.read_next(host),
            WorldEvent::Gossip { host } => self.gossip(host),
            WorldEvent::Fault(fault) => self.strike(fault),
            WorldEvent::Mend { fault, step } => self.mend(fault, step),
            WorldEvent::Resume { host } => self.resume(host),
            WorldEvent::Start {
                host,
                says_new,
                moves,
            } => self.start(host, says_new, moves),
            WorldEvent::Check { host } => self.check_voters(host, true),
            WorldEvent::NamesakeWakes { fault, timer } => self.wake_namesake(fault, timer),
            WorldEvent::NamesakeActs(fault) => self.namesake_acts(fault),
            WorldEvent::Ask(at) => self.submit_scheduled(at),
            WorldEvent::LetGo { host, request } => self.let_go(host, request),
            WorldEvent::Wake { client, turn } => self.wake_client(client, turn),
            WorldEvent::Look { client, request } => self.look_and_write(client, request),
            WorldEvent::Leave(write) => self.write_leaves(write),
            WorldEvent::Reach(write) => self.write_reaches(write),
        }
    }

    /// Runs the node's due timers, then checks its guards and deadlines.
    pub(crate) fn wake(&mut self, host: HostAt) {
        self.at_node(host, |node, now| node.handle_timeout(now));
        self.find_untold(host);
    }

    /// Calls a node and drains its outputs. Returns `None` if no process runs.
    pub(crate) fn at_node<R>(
        &mut self,
        host: HostAt,
        call: impl FnOnce(&mut dyn Machine, Now) -> R,
    ) -> Option<R> {
        let now = self.hosts[host].clock.now(self.time);
        let process = self.hosts[host].process.as_mut()?;
        let answer = call(process.node.as_mut(), now);
        self.drain(host);
        Some(answer)
    }

    /// Polls all outputs of a node and observes its events.
    pub(crate) fn drain(&mut self, host: HostAt) {
        self.steps += 1;
        let (mut events, mut revoked) = (Vec::new(), Vec::new());
        let wakes = loop {
            let Some(process) = self.hosts[host].process.as_mut() else {
                return;
            };
            match process.node.poll_output() {
                Output::Persist { number, bytes } => self.persist(host, number, &bytes),
                Output::Transmit { to, bytes } => self.transmit(host, to, bytes),
                Output::Event(event) => events.push(event),
                Output::Revoked { id, revocation } => revoked.push((id, *revocation)),
                Output::Gossip { .. }
                | Output::Answer { .. }
                | Output::Inspected { .. }
                | Output::ForeignNode(_) => {}
                Output::Timeout(at) => break at,
            }
        };
        let wakes = wakes.and_then(|at| self.hosts[host].clock.when(at));
        self.set_timer(host, wakes);
        self.trace
            .fold(&[self.time, host as u64, events.len() as u64]);
        self.observe(host, events);
        for (id, revocation) in revoked {
            self.see_revocation(host, id, revocation);
        }
    }

    fn set_timer(&mut self, host: HostAt, at: Option<u64>) {
        let machine = &mut self.hosts[host];
        if machine.timer_at == at && at.is_some() {
            return;
        }
        machine.timer += 1;
        machine.timer_at = at;
        if let Some(at) = at {
            let timer = machine.timer;
            let late = self.lateness();
            self.push(at.max(self.time) + late, WorldEvent::Timer { host, timer });
        }
    }

    /// Delivers a view to a node and schedules the next one.
    fn gossip(&mut self, host: HostAt) {
        let pause = self.settings.max_ttl() / 2;
        if self.is_settled {
            return;
        }
        let next = self.gossip_rng.between(pause / 4, pause);
        self.push_in(next, WorldEvent::Gossip { host });
        if self.hosts[host].acts() {
            self.send_view(host, self.settings.gossip);
        }
    }

    /// Delivers an honest view to a node.
    pub(crate) fn send_true_view(&mut self, host: HostAt) {
        self.send_view(host, Gossip::Honest);
    }

    /// Delivers an honest view to every node.
    pub(crate) fn send_true_views(&mut self) {
        for host in 0..self.hosts.len() {
            self.send_true_view(host);
        }
    }

    /// Returns the view that honest gossip gives a host.
    pub(crate) fn true_view(&mut self, host: HostAt) -> View {
        let runs = self.hosts.iter().map(|host| host.process.is_some());
        let known = self.known(runs.collect());
        gossip::view(&mut self.gossip_rng, Gossip::Honest, host, &known)
    }

    fn known(&self, up: Vec<bool>) -> Vec<Known> {
        let hosts = self.hosts.iter().enumerate().zip(up);
        let known = hosts.map(|((at, host), up)| {
            let mut incarnations = host.incarnations.clone();
            incarnations.extend(self.sighting_beside(at));
            Known {
                id: host.id.clone(),
                incarnations,
                up,
            }
        });
        known.collect()
    }

    pub(crate) fn send_view(&mut self, host: HostAt, gossip: Gossip) {
        let runs = self.hosts.iter().map(|host| host.process.is_some());
        let mut up: Vec<bool> = runs.collect();
        if gossip == Gossip::Heartbeats {
            let speaks: Vec<bool> = self.hosts.iter().map(Host::acts).collect();
            let network = &self.network;
            let is_open = |from, to| network.is_open(from, to);
            up = self.heartbeats.round(host, &speaks, is_open);
        }
        let known = self.known(up);
        let view = gossip::view(&mut self.gossip_rng, gossip, host, &known);
        self.count("views");
        self.at_node(host, |node, now| node.handle_view(now, &view));
    }

    /// Returns the voter set in which a host runs.
    pub(crate) fn voter_set_of(&self, host: HostAt) -> &Arc<VoterSet> {
        match self.hosts[host].is_other {
            true => &self.other_voter_set,
            false => &self.voter_set,
        }
    }

    /// Returns the keys that a host votes for, in the voter set in which it runs.
    pub(crate) fn keys_voted_by(&self, host: HostAt) -> &[KeyAt] {
        &self.voter_keys[usize::from(self.hosts[host].is_other)][host]
    }

    /// Changes the address of a host.
    pub(crate) fn move_to(&mut self, host: HostAt, addr: SocketAddr) {
        self.hosts[host].addr = addr;
        self.by_addr.insert(addr, host);
    }

    pub(crate) fn host_of(&self, id: &NodeId) -> Option<HostAt> {
        self.by_id.get(id).copied()
    }

    pub(crate) fn count(&mut self, name: &'static str) {
        self.count_many(name, 1);
    }

    pub(crate) fn count_many(&mut self, name: &'static str, by: u64) {
        *self.coverage.entry(name).or_default() += by;
    }

    pub(crate) fn see(&mut self, fact: &Fact) {
        if self.trace.keeps_lines() {
            self.trace.line(self.time, format_args!("{fact:?}"));
        }
        if let Some(record) = &mut self.record {
            record.keep(self.time, fact);
        }
        self.laws.see(self.time, fact);
    }

    /// Returns the process of a host, if it is up.
    pub(crate) fn process(&self, host: HostAt) -> Option<&Process> {
        self.hosts[host].process.as_ref()
    }

    fn observe(&mut self, host: HostAt, events: Vec<Event>) {
        if self.trace.keeps_lines() {
            for event in &events {
                self.trace
                    .line(self.time, format_args!("n{host} {event:?}"));
            }
        }
        self.see_namesake_found(host, &events);
        self.see_adoption(host, &events);
        self.see_events(host, &events);
    }
}

fn other_voter_set(settings: &Settings, ids: &[NodeId]) -> Option<Arc<VoterSet>> {
    let other = settings.other_set.as_ref()?;
    let members = other.members.iter().map(|host| ids[*host].clone());
    let voter_set = VoterSet::new(1, members.collect(), other.voters_per_key, other.timing);
    let voter_set = voter_set.expect("settings that were drawn are valid");
    Some(Arc::new(voter_set.of_cluster(CLUSTER)))
}

fn voters_of(
    voter_set: &VoterSet,
    keys: &[Key],
    at: impl Fn(&NodeId) -> HostAt,
) -> Vec<Vec<HostAt>> {
    let of = |key| voter_set.voters_for(key).iter().map(&at).collect();
    keys.iter().map(of).collect()
}

fn draw_network(settings: &Settings, hosts: usize) -> Network {
    let rng = Rng::stream(settings.seed, "network");
    let mut network = Network::new(rng, hosts, settings.delay, settings.link_faults);
    let lasting = &settings.lasting;
    network.set_large(lasting.large_bytes, lasting.large_loss_ppm);
    network
}

fn draw_hosts(settings: &Settings) -> Vec<Host> {
    let mut rng = Rng::stream(settings.seed, "hosts");
    let mut wrong_rng = Rng::stream(settings.seed, "how wrong");
    (0..settings.hosts())
        .map(|at| {
            let id = NodeId::new(format!("n{at:03}")).expect("a short name");
            let addr = SocketAddr::from(([10, 0, 0, at as u8], 7_000));
            let base = rng.below(1_000 * SECOND);
            let rate = draw_rate(&mut rng, settings);
            let off = settings.wall_off_max_ms;
            let mut wall_off = rng.between(0, 2 * off.unsigned_abs()) as i64 - off;
            if settings.is_wrong(at) {
                wall_off = draw_wrong(&mut wrong_rng, settings);
            }
            let mut host = Host::new(id, addr, Clock::new(0, base, rate, wall_off));
            if settings.versions.old.get(at) == Some(&true) {
                host.version = PROTOCOL_VERSION - 1;
            }
            host.disk = settings
                .journals
                .get(at)
                .copied()
                .flatten()
                .map(HostDisk::new);
            host
        })
        .collect()
}

fn terms(settings: &Settings, voters: [Vec<Vec<HostAt>>; 2]) -> Terms {
    let late = settings.link_faults.late_max.max(settings.longest_ttl());
    let [voters, other_voters] = voters;
    Terms {
        clocks_kept: settings.rates == Rates::Kept,
        voters,
        other_voters,
        linger: 4 * settings.longest_ttl() + 2 * late,
        settled: 4 * settings.round_trip(),
        right_clocks_off_ms: settings
            .wrong_clocks
            .is_some()
            .then_some(settings.wall_off_max_ms.unsigned_abs()),
        wrong_clocks: settings.wrong_clocks.clone().unwrap_or_default(),
        skew_ms: settings.timing.max_clock_skew.as_millis() as u64,
    }
}
