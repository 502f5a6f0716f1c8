//! Applies the faults: cuts links, crashes, pauses and starts processes, disturbs clocks.

use std::net::SocketAddr;

use lockmesh_proto::{Incarnation, NodeConfig, Start, Ticket};

use crate::algorithms::{self, Algorithm};
use crate::faults::{FaultKind, Target};
use crate::gossip::Sighting;
use crate::host::Process;
use crate::invariants::{End, Fact, Host as HostAt, KeyAt};
use crate::settings::{Gossip, Incarnations, SECOND};
use crate::world::{World, WorldEvent};

const MAX_CLAIMS: usize = 1_000;

impl World {
    /// Begins a fault.
    pub(crate) fn strike(&mut self, fault: usize) {
        if self.is_settled {
            return;
        }
        let kind = self.faults[fault].kind.clone();
        self.count(kind.name());
        self.trace
            .line(self.time, format_args!("FAULT {fault} {kind:?}"));
        self.note_links();
        let hosts = self.hosts.len();
        match kind {
            FaultKind::Cut { cut, span } => {
                self.network.cut(&cut.links(hosts));
                self.push_in(span, WorldEvent::Mend { fault, step: 1 });
            }
            FaultKind::Flap { cut, half, .. } => {
                self.network.cut(&cut.links(hosts));
                self.push_in(half, WorldEvent::Mend { fault, step: 1 });
            }
            FaultKind::Slow { host, by, span } => {
                self.network.set_slow(host, by);
                self.push_in(span, WorldEvent::Mend { fault, step: 1 });
            }
            FaultKind::Storm { loss_ppm, span } => {
                self.network.set_storm(loss_ppm);
                self.push_in(span, WorldEvent::Mend { fault, step: 1 });
            }
            FaultKind::Crash {
                target,
                down,
                says_new,
                moves,
            } => {
                let host = self.resolve(target);
                self.crash(host);
                let start = WorldEvent::Start {
                    host,
                    says_new,
                    moves,
                };
                self.push_in(down, start);
            }
            FaultKind::Shutdown { target, down } => {
                let host = self.resolve(target);
                self.shut_down(host);
                let start = WorldEvent::Start {
                    host,
                    says_new: false,
                    moves: false,
                };
                self.push_in(down, start);
            }
            FaultKind::Pause { target, span } => {
                let host = self.resolve(target);
                self.pause(host, span);
            }
            FaultKind::Suspend { target, span } => {
                let host = self.resolve(target);
                self.hosts[host].is_suspended = self.hosts[host].process.is_some();
                self.pause(host, span);
            }
            FaultKind::Change {
                host,
                is_other,
                down,
            } => self.restart_in(host, is_other, down),
            FaultKind::WallJump { host, by_ms } => self.jump_wall(host, by_ms),
            FaultKind::Drift { host, rate_ppm } => self.set_rate(host, rate_ppm),
            other => self.strike_more(fault, other),
        }
    }

    fn strike_more(&mut self, fault: usize, kind: FaultKind) {
        match kind {
            FaultKind::SlowWay { from, to, by, span } => {
                self.network.set_slow_way(from, to, by);
                self.push_in(span, WorldEvent::Mend { fault, step: 1 });
            }
            FaultKind::SetBack {
                target,
                back_ms,
                down,
            } => {
                let host = self.resolve(target);
                self.jump_wall(host, -back_ms);
                self.crash(host);
                self.start_in(down, host);
            }
            FaultKind::Namesake { host, on, span } => {
                self.start_namesake(fault, host, on);
                self.push_in(span, WorldEvent::Mend { fault, step: 1 });
            }
            FaultKind::Mapping { host, span } => {
                let addr = SocketAddr::from(([10, 2, fault as u8, host as u8], 7_000));
                self.by_addr.insert(addr, host);
                self.forget_heard(host);
                self.hosts[host].mapped = Some(addr);
                self.push_in(span, WorldEvent::Mend { fault, step: 1 });
            }
            FaultKind::Knot {
                host,
                down,
                span,
                restarts,
            } => self.tie(fault, host, (down, span), restarts),
            _ => {}
        }
    }

    fn start_in(&mut self, span: u64, host: HostAt) {
        let start = WorldEvent::Start {
            host,
            says_new: false,
            moves: false,
        };
        self.push_in(span, start);
    }

    /// Cuts a holder off from one voter and crashes another voter, and the holder if `restarts`.
    fn tie(&mut self, fault: usize, host: HostAt, (down, span): (u64, u64), restarts: bool) {
        let (key, holder) = self.held_now().unwrap_or((0, host));
        let voters = self.laws.history.terms.voters[key].clone();
        let mut others = voters.into_iter().filter(|voter| *voter != holder);
        if let Some(forgets) = others.next() {
            self.crash(forgets);
            self.start_in(down, forgets);
        }
        if let Some(cut) = others.next() {
            let links = vec![(holder, cut), (cut, holder)];
            self.network.cut(&links);
            self.knots.insert(fault, links);
            self.push_in(span, WorldEvent::Mend { fault, step: 1 });
        }
        if restarts {
            self.crash(holder);
            self.start_in(down / 2, holder);
        }
    }

    /// Ends a fault, or runs its next step.
    pub(crate) fn mend(&mut self, fault: usize, step: u32) {
        if self.is_settled {
            return;
        }
        self.note_links();
        let hosts = self.hosts.len();
        match self.faults[fault].kind.clone() {
            FaultKind::Cut { cut, .. } => self.network.mend(&cut.links(hosts)),
            FaultKind::Flap { cut, half, times } => {
                let links = cut.links(hosts);
                if step % 2 == 1 {
                    self.network.mend(&links);
                } else {
                    self.network.cut(&links);
                }
                if step < times * 2 - 1 {
                    let step = step + 1;
                    self.push_in(half, WorldEvent::Mend { fault, step });
                }
            }
            FaultKind::Slow { host, .. } => self.network.set_slow(host, 0),
            FaultKind::SlowWay { from, to, .. } => self.network.set_slow_way(from, to, 0),
            FaultKind::Knot { .. } => {
                if let Some(links) = self.knots.remove(&fault) {
                    self.network.mend(&links);
                }
            }
            FaultKind::Storm { .. } => self.network.set_storm(0),
            FaultKind::Namesake { .. } => self.end_namesake(fault),
            FaultKind::Mapping { host, .. } => {
                self.forget_heard(host);
                self.hosts[host].mapped = None;
            }
            _ => {}
        }
    }

    fn restart_in(&mut self, host: HostAt, is_other: bool, down: u64) {
        self.crash(host);
        self.change(host, is_other);
        let start = WorldEvent::Start {
            host,
            says_new: false,
            moves: false,
        };
        self.push_in(down, start);
    }

    /// Sets the voter set in which a host runs from its next start on.
    pub(crate) fn change(&mut self, host: HostAt, is_other: bool) {
        let machine = &mut self.hosts[host];
        machine.has_changed |= machine.is_other != is_other;
        machine.is_other = is_other;
        self.see(&Fact::Changed { host, is_other });
    }

    fn resolve(&mut self, target: Target) -> HostAt {
        match target {
            Target::Host(host) => host,
            Target::HolderOr(host) => self.held_now().map_or(host, |(_, holder)| holder),
            Target::VoterOr(host) => {
                let Some((key, _)) = self.held_now() else {
                    return host;
                };
                *self.start_rng.pick(&self.laws.history.terms.voters[key])
            }
        }
    }

    /// Returns a key that is held, and its holder.
    fn held_now(&self) -> Option<(KeyAt, HostAt)> {
        let keys = 0..self.keys.len();
        let history = &self.laws.history;
        let mut holders = keys.flat_map(|key| history.holders(key, self.time));
        holders.next().map(|(_, asked)| (asked.key, asked.host))
    }

    pub(crate) fn set_rate(&mut self, host: HostAt, rate_ppm: i64) {
        self.hosts[host].clock.set_rate(self.time, rate_ppm);
        self.see_new_pace(host);
    }

    /// Crashes a process. Its voter and its claims lose their memory.
    pub(crate) fn crash(&mut self, host: HostAt) {
        let Some(process) = self.hosts[host].process.as_ref() else {
            return;
        };
        let tickets: Vec<Ticket> = process.requests.keys().copied().collect();
        let is_voter = process.node.voter().is_some();
        self.count_messages(host);
        self.trace.line(self.time, format_args!("n{host} crashes"));
        for ticket in tickets {
            self.see_over(host, ticket, End::Crashed);
        }
        if is_voter {
            if self.bears_a_lease(host) {
                self.count("crashes_under_a_lease");
            }
            self.see(&Fact::Forgot { voter: host });
        }
        let machine = &mut self.hosts[host];
        machine.process = None;
        machine.paused_until = None;
        machine.is_suspended = false;
        machine.inbox.clear();
        machine.put_off.clear();
        machine.timer += 1;
        machine.timer_at = None;
    }

    /// Returns `true` if a held lock needs this voter's vote.
    fn bears_a_lease(&self, voter: HostAt) -> bool {
        let history = &self.laws.history;
        self.keys_voted_by(voter).iter().any(|key| {
            history.holders(*key, self.time).any(|(_, asked)| {
                history.vote_of(voter, *key) == Some((asked.host, asked.epoch))
                    && history.votes_for(*key, asked.host, asked.epoch)
                        <= history.quorum_of(*key, asked.host)
            })
        })
    }

    /// Starts a process, if none runs.
    pub(crate) fn start(&mut self, host: HostAt, says_new: bool, moves: bool) {
        if self.hosts[host].process.is_some() {
            return;
        }
        if moves {
            self.move_on(host);
        }
        let incarnation = self.next_incarnation(host);
        self.hosts[host].incarnations.push(incarnation);
        self.hosts[host].mapped = None;
        // A flag that was left on is harmless only while all others remember: the protocol promises
        // no more.
        let says_new = says_new && self.others_remember(host);
        self.count(if says_new {
            "restarts_told_new"
        } else {
            "restarts"
        });
        self.start_as(host, says_new);
        self.hearing.forget(host);
        if self.is_settled {
            self.tell_truth(host);
        } else if self.settings.gossip != Gossip::Hostile {
            self.tell(host, self.settings.gossip);
        }
    }

    /// Moves a host to another address, unless its incarnation falls behind as well. Then nodes to
    /// which it sends nothing would not find it: a limit of the protocol.
    fn move_on(&mut self, host: HostAt) {
        let incarnation = self.next_incarnation(host).incarnation;
        if self.hosts[host]
            .incarnations
            .iter()
            .all(|earlier| earlier.incarnation < incarnation)
        {
            let old = self.hosts[host].addr;
            let port = old.port().wrapping_add(1).max(7_000);
            self.move_to(host, SocketAddr::new(old.ip(), port));
        }
    }

    fn others_remember(&self, host: HostAt) -> bool {
        let settled = self.settings.longest_quarantine() + 3 * SECOND;
        (0..self.settings.members)
            .filter(|other| *other != host)
            .all(|other| {
                let process = self.hosts[other].process.as_ref();
                process.is_some_and(|process| process.started_at + settled < self.time)
            })
            && self.settings.members > 1
    }

    pub(crate) fn start_as(&mut self, host: HostAt, says_new: bool) {
        self.forget_heard(host);
        let seal = self.next_seal();
        let listens = self.trace.keeps_lines() && self.settings.algorithm == Algorithm::Lockmesh;
        let opener = listens.then(|| self.opener());
        let voter_set = self.voter_set_of(host).clone();
        let (believed, believed_by_most) = (self.believed_by(host), self.believed_by_most());
        let machine = &mut self.hosts[host];
        let now = machine.clock.now(self.time);
        let incarnation = machine.incarnations[machine.incarnations.len() - 1];
        let config = NodeConfig {
            id: machine.id.clone(),
            incarnation: incarnation.incarnation,
            voter_set,
            start: if says_new {
                Start::NewCluster
            } else {
                Start::Recovering
            },
            limits: self.settings.limits,
            max_claims: MAX_CLAIMS,
            renew_interval: self.settings.renew_interval,
            seed: self.start_rng.draw(),
            seal,
        };
        machine.process = Some(Process {
            node: algorithms::start(self.settings.algorithm, now, config),
            opener,
            requests: Default::default(),
            voted: Default::default(),
            slots: 0,
            believed,
            believed_by_most,
            started_at: self.time,
            incarnation: None,
        });
        self.note_host(host);
        if let Some(process) = self.hosts[host].process.as_mut() {
            process.incarnation = process.node.incarnation();
        }
        let machine = &mut self.hosts[host];
        machine.timer += 1;
        machine.timer_at = None;
        self.trace
            .line(self.time, format_args!("n{host} starts as {incarnation:?}"));
        if self
            .process(host)
            .is_some_and(|process| process.node.voter().is_some())
        {
            self.see(&Fact::Forgot { voter: host });
        }
        self.drain(host);
        self.check_voters(host, false);
    }

    /// Returns the incarnation and the address of a host's next start.
    pub(crate) fn next_incarnation(&self, host: HostAt) -> Sighting {
        let machine = &self.hosts[host];
        let number = match self.settings.incarnations {
            // Adopted incarnations count too, since real wall clocks are ahead of them.
            Incarnations::Counted => {
                let numbers = machine
                    .incarnations
                    .iter()
                    .map(|incarnation| incarnation.incarnation);
                let highest = numbers.fold(machine.highest, Incarnation::max);
                highest.next().get()
            }
            // Two starts within a millisecond differ, but a clock that was set back gives a lower
            // number.
            Incarnations::WallClock => {
                let wall = machine.clock.now(self.time).wall_ms;
                let mut number = wall * 1_000 + machine.incarnations.len() as u64;
                while machine
                    .incarnations
                    .iter()
                    .any(|incarnation| incarnation.incarnation.get() == number)
                {
                    number += 1;
                }
                number
            }
        };
        Sighting {
            addr: machine.addr,
            incarnation: Incarnation::new(number),
        }
    }

    /// Pauses a process for `span`, in nanoseconds.
    pub(crate) fn pause(&mut self, host: HostAt, span: u64) {
        if self.hosts[host].process.is_none() {
            return;
        }
        self.note_host(host);
        let until = self.time + span;
        self.paused_at[host] = until;
        let paused = &mut self.hosts[host].paused_until;
        *paused = Some(paused.map_or(until, |earlier| earlier.max(until)));
        self.push(until, WorldEvent::Resume { host });
    }

    /// Resumes a paused process. Guards are checked first. Then it reads its buffered datagrams and
    /// runs its timers, in random order.
    pub(crate) fn resume(&mut self, host: HostAt) {
        let machine = &mut self.hosts[host];
        if machine.paused_until.is_none_or(|until| until > self.time) {
            return;
        }
        machine.paused_until = None;
        machine.is_suspended = false;
        self.note_host(host);
        let machine = &mut self.hosts[host];
        let inbox = std::mem::take(&mut machine.inbox);
        let put_off = std::mem::take(&mut machine.put_off);
        self.see_guards(host);
        for event in put_off {
            self.push_in(0, event);
        }
        let timers_first = self.start_rng.chance(500_000);
        if timers_first {
            self.wake(host);
        }
        for datagram in inbox {
            self.receive(host, &datagram);
        }
        if !timers_first {
            self.wake(host);
        }
    }
}
