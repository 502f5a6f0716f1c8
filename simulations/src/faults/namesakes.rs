//! A second process under the name of a host. It has an address of its own, and the links and the
//! clock of some host. It claims locks, and lives as long as its fault says. A voter's namesake
//! dies before it would vote, so only the first process of a name is checked for votes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::algorithms::Algorithm;
use crate::cluster::{Datagram, Gossip, Settings, Sighting, World, WorldEvent};
use crate::faults::{Fault, FaultKind};
use crate::judge::{End, Fact, HostAt, KeyAt, RequestId};
use crate::kernel::{MILLISECOND, Rng};
use crate::proto::{
    Epoch, Event, Incarnation, Node, Now, Output, PROTOCOL_VERSION, Request, Start, Ticket,
};

/// The maximum number of its open requests.
const REQUESTS_MAX: usize = 3;

/// A second process under a name.
#[derive(Debug)]
pub(crate) struct Namesake {
    /// The host whose name it has.
    of: HostAt,
    /// The host whose links and clock it has.
    on: HostAt,
    addr: SocketAddr,
    incarnation: Incarnation,
    node: Node,
    started_at: u64,
    requests: BTreeMap<Ticket, NamesakeRequest>,
    timer: u64,
    rng: Rng,
    /// The first time that each member received a datagram of this process.
    received: BTreeMap<HostAt, u64>,
    /// The same for the first process of the name.
    received_other: BTreeMap<HostAt, u64>,
    /// The incarnations of both processes to which these times apply.
    under: Option<(Incarnation, Incarnation)>,
}

#[derive(Clone, Copy, Debug)]
struct NamesakeRequest {
    request: RequestId,
    key: KeyAt,
    epoch: u64,
    is_held: bool,
}

/// Draws namesakes of voters and of other hosts, if the world has any.
pub(crate) fn draw(settings: &Settings, faults: &mut Vec<Fault>) {
    let mut rng = Rng::stream(settings.seed, "namesakes");
    if !settings.has_namesakes {
        return;
    }
    // A changed rate would need new facts about the ends of its leases.
    faults.retain(|fault| !matches!(fault.kind, FaultKind::Drift { .. }));
    let (max_ttl, hosts) = (settings.max_ttl(), settings.hosts() as u64);
    for _ in 0..rng.between(1, 3) {
        let host = match settings.outsiders {
            0 => rng.below(hosts) as HostAt,
            _ if rng.chance(500_000) => rng.below(hosts) as HostAt,
            more => settings.members + rng.below(more as u64) as HostAt,
        };
        let longest = match host < settings.members {
            true => max_ttl * 9 / 10,
            false => max_ttl * 4,
        };
        let on = rng.below(hosts) as HostAt;
        let kind = FaultKind::Namesake {
            host,
            // A wrong clock is not shared: no further voter may have one.
            on: if settings.is_wrong(on) { host } else { on },
            span: rng.spread(max_ttl / 4, longest),
        };
        let at = rng.between(max_ttl / 4, settings.fault_span);
        faults.push(Fault { at, kind });
    }
}

/// Draws a NAT mapping for all hosts at once, in 15 % of the worlds with honest gossip.
pub(crate) fn draw_mappings(settings: &Settings, faults: &mut Vec<Fault>) {
    let mut rng = Rng::stream(settings.seed, "mappings");
    if settings.gossip != Gossip::Honest || !rng.chance(150_000) {
        return;
    }
    let max_ttl = settings.max_ttl();
    let at = rng.between(max_ttl / 4, settings.fault_span / 2);
    let span = rng.spread(max_ttl / 2, max_ttl * 2);
    for host in 0..settings.hosts() {
        let kind = FaultKind::Mapping { host, span };
        faults.push(Fault { at, kind });
    }
}

/// Returns `true` if a world has namesakes.
pub(crate) fn has(seed: u64, hosts: usize) -> bool {
    hosts > 1 && Rng::stream(seed, "has namesakes").chance(150_000)
}

/// Makes half of the worlds with namesakes fair: M8 is judged only if links lose nothing, gossip is
/// honest and timers are prompt.
pub(crate) fn make_fair(settings: &mut Settings) {
    let is_fair = Rng::stream(settings.seed, "fair to namesakes").chance(500_000);
    if !settings.has_namesakes || !is_fair {
        return;
    }
    settings.gossip = Gossip::Honest;
    settings.link_faults.lose_nothing();
    let lasting = &mut settings.lasting;
    lasting.timers_late_max = 0;
    lasting.reading = 0;
    lasting.large_loss_ppm = 0;
}

impl World {
    /// Starts a second process under the name of a host.
    pub(crate) fn start_namesake(&mut self, fault: usize, of: HostAt, on: HostAt) {
        if self.settings.algorithm != Algorithm::Lockmesh {
            return;
        }
        let mut rng = Rng::stream(self.settings.seed, &format!("namesake {fault}"));
        let incarnation = match rng.chance(250_000) {
            true => Incarnation::default(),
            false => self.next_incarnation(of).incarnation,
        };
        let addr = SocketAddr::from(([10, 1, fault as u8, of as u8], 7_000));
        let now = self.hosts[on].clock.now(self.time);
        let (seed, seal) = (rng.draw(), self.next_seal());
        let config = self.node_config(of, incarnation, Start::Recovering, seed, seal);
        let mut node = Node::new(now, config);
        let view = self.true_view(of);
        node.handle_view(now, &view);
        let namesake = Namesake {
            of,
            on,
            addr,
            incarnation,
            node,
            started_at: self.time,
            requests: BTreeMap::new(),
            timer: 0,
            rng,
            received: BTreeMap::new(),
            received_other: BTreeMap::new(),
            under: None,
        };
        let highest = &mut self.hosts[of].highest;
        *highest = (*highest).max(incarnation);
        self.hosts[of].had_namesake = true;
        self.namesakes.insert(fault, namesake);
        self.drain_namesake(fault);
        self.push_in(0, WorldEvent::NamesakeActs(fault));
    }

    /// Ends a namesake.
    pub(crate) fn end_namesake(&mut self, fault: usize) {
        let Some(gone) = self.namesakes.remove(&fault) else {
            return;
        };
        let highest = &mut self.hosts[gone.of].highest;
        *highest = (*highest).max(gone.node.claimant().incarnation());
        self.note_host(gone.of);
        for asked in gone.requests.into_values() {
            self.wanted_at[asked.key] = self.time;
            let (request, how) = (asked.request, End::Crashed);
            self.see(&Fact::Over { request, how });
        }
    }

    /// Ends all namesakes.
    pub(crate) fn end_namesakes(&mut self) {
        let all: Vec<usize> = self.namesakes.keys().copied().collect();
        for fault in all {
            self.end_namesake(fault);
        }
    }

    /// Returns the host whose links an address has.
    pub(crate) fn links_of(&self, addr: SocketAddr) -> Option<HostAt> {
        let namesake = || self.namesakes.values().find(|it| it.addr == addr);
        let host = self.by_addr.get(&addr).copied();
        host.or_else(|| namesake().map(|it| it.on))
    }

    /// Returns the sighting of a host's namesake for gossip.
    pub(crate) fn sighting_beside(&self, host: HostAt) -> Option<Sighting> {
        let it = self.namesakes.values().find(|it| it.of == host)?;
        Some(Sighting {
            addr: it.addr,
            incarnation: it.incarnation,
            version: Some(PROTOCOL_VERSION),
        })
    }

    /// Delivers a datagram to an address that no host has.
    pub(crate) fn arrive_at_namesake(&mut self, to: SocketAddr, datagram: &Datagram) {
        let mut found = self.namesakes.iter().filter(|(_, it)| it.addr == to);
        let Some(fault) = found.next().map(|(fault, _)| *fault) else {
            return;
        };
        self.at_namesake(fault, |node, now| {
            node.handle_datagram(now, datagram.from, &datagram.bytes);
        });
    }

    pub(crate) fn wake_namesake(&mut self, fault: usize, timer: u64) {
        let it = self.namesakes.get(&fault);
        if it.is_some_and(|it| it.timer == timer) {
            self.at_namesake(fault, |node, now| node.handle_timeout(now));
        }
    }

    fn at_namesake(&mut self, fault: usize, call: impl FnOnce(&mut Node, Now)) {
        if let Some(it) = self.namesakes.get_mut(&fault) {
            let now = self.hosts[it.on].clock.now(self.time);
            call(&mut it.node, now);
            self.drain_namesake(fault);
        }
    }

    fn drain_namesake(&mut self, fault: usize) {
        self.steps += 1;
        let mut events = Vec::new();
        loop {
            let Some(it) = self.namesakes.get_mut(&fault) else {
                return;
            };
            let (on, addr) = (it.on, it.addr);
            match it.node.poll_output() {
                Output::Transmit { to, bytes } => self.transmit_from(on, addr, to, bytes),
                Output::Event(event) => events.push(event),
                Output::Timeout(at) => {
                    it.timer += 1;
                    let timer = it.timer;
                    if let Some(at) = at.and_then(|at| self.hosts[on].clock.when(at)) {
                        let at = at.max(self.time);
                        self.push(at, WorldEvent::NamesakeWakes { fault, timer });
                    }
                    break;
                }
                Output::Persist { .. }
                | Output::Gossip { .. }
                | Output::Answer { .. }
                | Output::Inspected { .. }
                | Output::Revoked { .. }
                | Output::ForeignNode(_) => {}
            }
        }
        self.see_namesake(fault, &events);
    }

    /// Turns the events of a namesake into facts, in the order of [`World::see_events`].
    fn see_namesake(&mut self, fault: usize, events: &[Event]) {
        for event in events {
            if let Event::Lost { ticket, .. } = event {
                self.namesake_is_done(fault, *ticket, End::Lost);
            }
        }
        for fact in self.facts_of_namesake(fault, events) {
            if matches!(fact, Fact::Granted { .. }) {
                self.count("grants_of_namesakes");
            }
            self.see(&fact);
        }
        for event in events {
            let (ticket, how) = match event {
                Event::TimedOut { ticket, .. } => (ticket, End::TimedOut),
                Event::Denied { ticket } => (ticket, End::Denied),
                _ => continue,
            };
            self.namesake_is_done(fault, *ticket, how);
        }
    }

    /// Returns the claims, grants and renewals of a namesake.
    fn facts_of_namesake(&mut self, fault: usize, events: &[Event]) -> Vec<Fact> {
        let mut facts = Vec::new();
        let Some(it) = self.namesakes.get_mut(&fault) else {
            return facts;
        };
        for (ticket, asked) in &mut it.requests {
            let epoch = it.node.claimant().epoch(*ticket).map(Epoch::get);
            if let Some(epoch) = epoch.filter(|epoch| !asked.is_held && *epoch != asked.epoch) {
                asked.epoch = epoch;
                let request = asked.request;
                facts.push(Fact::Claimed { request, epoch });
            }
        }
        let clock = &self.hosts[it.on].clock;
        for event in events {
            let (Event::Granted {
                ticket,
                valid_until,
                ..
            }
            | Event::Renewed {
                ticket,
                valid_until,
            }) = event
            else {
                continue;
            };
            let until = clock.when(*valid_until).unwrap_or(u64::MAX);
            let Some(asked) = it.requests.get_mut(ticket) else {
                continue;
            };
            let request = asked.request;
            facts.push(match event {
                Event::Granted { epoch, .. } => {
                    asked.is_held = true;
                    let epoch = epoch.get();
                    Fact::Granted {
                        request,
                        epoch,
                        until,
                    }
                }
                _ => Fact::Until { request, until },
            });
        }
        facts
    }

    fn namesake_is_done(&mut self, fault: usize, ticket: Ticket, how: End) {
        let it = self.namesakes.get_mut(&fault);
        if let Some(asked) = it.and_then(|it| it.requests.remove(&ticket)) {
            self.wanted_at[asked.key] = self.time;
            let request = asked.request;
            self.see(&Fact::Over { request, how });
        }
    }

    /// Submits or releases a request of a namesake, and schedules its next turn.
    pub(crate) fn namesake_acts(&mut self, fault: usize) {
        let pause = self.beat_of_namesakes();
        let (keys, max_ttl) = (self.settings.habits.keys, self.settings.max_ttl());
        let round_trip = self.settings.round_trip();
        let Some(it) = self.namesakes.get_mut(&fault) else {
            return;
        };
        let (of, key) = (it.of, it.rng.below(keys as u64) as KeyAt);
        let asks = it.requests.len() < REQUESTS_MAX && it.rng.chance(300_000);
        let lets_go = it.rng.chance(50_000);
        let wish = Request {
            key: self.keys[key].clone(),
            ttl: Duration::from_nanos(it.rng.spread(round_trip * 10, max_ttl)),
            is_try: it.rng.chance(300_000),
            renews: it.rng.chance(700_000),
            outlives: false,
            deadline: None,
            is_once: false,
            note: None,
        };
        let first = it.requests.keys().next().copied();
        let now = self.hosts[it.on].clock.now(self.time);
        let taken = asks.then(|| it.node.claim(now, wish).ok()).flatten();
        if let Some(ticket) = taken {
            self.requests += 1;
            let request = RequestId(self.requests);
            let asked = NamesakeRequest {
                request,
                key,
                epoch: 0,
                is_held: false,
            };
            it.requests.insert(ticket, asked);
            self.wanted_at[key] = self.time;
            self.see(&Fact::Asked {
                request,
                host: of,
                key,
                outlives: false,
            });
            self.drain_namesake(fault);
        }
        if let Some(ticket) = first.filter(|_| lets_go) {
            self.namesake_is_done(fault, ticket, End::Released);
            self.at_namesake(fault, |node, now| {
                node.release(now, ticket);
            });
        }
        self.note_host(of);
        self.judge_namesake(fault);
        self.push_in(pause, WorldEvent::NamesakeActs(fault));
    }

    fn beat_of_namesakes(&self) -> u64 {
        (5 * self.settings.round_trip()).max(self.settings.max_ttl() / 40)
    }

    /// M8: finds since when a member has received datagrams of both, and whether either is still
    /// active.
    fn judge_namesake(&mut self, fault: usize) {
        let lasting = &self.settings.lasting;
        let is_prompt = lasting.timers_late_max == 0 && lasting.reading == 0;
        if !is_prompt || self.settings.gossip != Gossip::Honest {
            return;
        }
        self.forget_if_renamed(fault);
        let Some(it) = self.namesakes.get(&fault) else {
            return;
        };
        let (of, on) = (it.of, it.on);
        let Some(base) = self.process(of).filter(|_| self.hosts[of].acts()) else {
            return;
        };
        let started = base.started_at.max(it.started_at);
        let received_both = (0..self.settings.members).filter_map(|peer| {
            let (one, other) = (it.received.get(&peer)?, it.received_other.get(&peer)?);
            let links = [of, on].map(|host| self.ways_steady_since(host, peer));
            let links = links[0]?.max(links[1]?);
            let is_one = peer != of && !self.hosts[peer].had_namesake;
            let received = (*one).max(*other).max(links);
            let steady = self.steady.host_since(peer);
            (is_one && self.hosts[peer].acts() && *other >= started)
                .then(|| received.max(steady).max(started))
        });
        let Some(received_both) = received_both.min() else {
            return;
        };
        // The time in which the first process was paused is not judged.
        let since = received_both.max(self.hosts[of].paused_at);
        let now = self.hosts[on].clock.now(self.time);
        let base_now = self.hosts[of].clock.now(self.time);
        let holds_there = it.node.claimant().held(now).next().is_some();
        let votes = base
            .node
            .voter()
            .is_some_and(|voter| voter.quarantine().is_none());
        let is_held = |ticket: &Ticket| base.node.valid_until(base_now, *ticket).is_some();
        let holds = base.requests.keys().any(is_held);
        let fact = Fact::TwoProcesses {
            host: of,
            both_for: self.time - since,
            goes_on: holds || votes || holds_there,
            bound: 20 * self.settings.round_trip(),
        };
        self.count("namesakes_judged");
        self.see(&fact);
    }

    /// Records that a host reads a datagram from an address.
    pub(crate) fn note_received(&mut self, peer: HostAt, from: SocketAddr) {
        let time = self.time;
        let host = self.by_addr.get(&from).copied();
        for it in self.namesakes.values_mut() {
            if it.addr == from {
                it.received.entry(peer).or_insert(time);
            } else if host == Some(it.of) {
                it.received_other.entry(peer).or_insert(time);
            }
        }
    }

    /// Discards the times at which datagrams of or at this host were received: its address or its
    /// process is another one now.
    pub(crate) fn forget_received(&mut self, host: HostAt) {
        for it in self.namesakes.values_mut() {
            if it.of == host {
                it.received_other.clear();
            }
            if it.on == host {
                it.received.clear();
            }
            it.received.remove(&host);
            it.received_other.remove(&host);
        }
    }

    /// Discards these times if either process has adopted another incarnation.
    fn forget_if_renamed(&mut self, fault: usize) {
        let of = self.namesakes.get(&fault).map(|it| it.of);
        let other = of.and_then(|of| self.process(of)?.node.incarnation());
        if let (Some(it), Some(other)) = (self.namesakes.get_mut(&fault), other) {
            let under = Some((it.node.claimant().incarnation(), other));
            if it.under != under {
                it.received.clear();
                it.received_other.clear();
            }
            it.under = under;
        }
    }

    /// Handles that a process has learnt of its namesake: its voter loses its memory.
    pub(crate) fn see_namesake_found(&mut self, host: HostAt, events: &[Event]) {
        if events.contains(&Event::TwinGone) {
            self.note_host(host);
        }
        if !events.contains(&Event::TwinFound) {
            return;
        }
        self.count("twins_found");
        self.note_host(host);
        let (believed, believed_by_most) = (self.believed_by(host), self.believed_by_most());
        let Some(process) = self.hosts[host].process.as_mut() else {
            return;
        };
        process.believed = believed;
        process.believed_by_most = believed_by_most;
        process.voted.clear();
        process.slots = 0;
        if process.node.voter().is_some() {
            self.see(&Fact::Forgot { voter: host });
        }
    }

    /// Makes every process query all voters until all know the current addresses. Needed only after
    /// namesakes or NAT mappings.
    pub(crate) fn find_each_other(&mut self) {
        if !self.settings.has_namesakes && !self.coverage.contains_key("mappings") {
            return;
        }
        for _ in 0..8 {
            for host in 0..self.hosts.len() {
                self.at_node(host, |node, now| node.check_voters(now));
            }
            let pause = 300 * MILLISECOND;
            self.run_until(self.time + pause, |_| false);
        }
    }
}
