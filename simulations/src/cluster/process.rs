//! Processes: how they start, crash, shut down, and are paused.

use std::net::SocketAddr;
use std::time::Duration;

use crate::algorithms::{self, Algorithm};
use crate::cluster::{Gossip, Incarnations, Process, Sighting, World, WorldEvent};
use crate::judge::{End, Fact, HostAt};
use crate::kernel::SECOND;
use crate::proto::{Incarnation, NodeConfig, PROTOCOL_VERSION, Seal, Start, Ticket};

const MAX_CLAIMS: usize = 1_000;

impl World {
    /// Sets the voter set in which a host runs from its next start on.
    pub(crate) fn change(&mut self, host: HostAt, is_other: bool) {
        let machine = &mut self.hosts[host];
        machine.has_changed |= machine.is_other != is_other;
        machine.is_other = is_other;
        self.see(&Fact::Changed { host, is_other });
    }

    pub(crate) fn set_rate(&mut self, host: HostAt, rate_ppm: i64) {
        self.hosts[host].clock.set_rate(self.time, rate_ppm);
        self.see_new_pace(host);
    }

    /// Crashes a process. Its claims lose their memory, and its voter does unless it has a journal.
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
        self.crash_disk(host);
        self.note_last_voter(host);
        let machine = &mut self.hosts[host];
        machine.process = None;
        machine.paused_until = None;
        machine.is_suspended = false;
        machine.inbox.clear();
        machine.put_off.clear();
        machine.timer += 1;
        machine.timer_at = None;
    }

    /// Shuts a process down cleanly: it ends its requests, sends their messages, hands its memory
    /// over, and exits. The host starts again `starts_in` later.
    pub(crate) fn shut_down(&mut self, host: HostAt, starts_in: Option<u64>) {
        let machine = &self.hosts[host];
        let process = machine.process.as_ref().filter(|it| it.leaves.is_none());
        let Some(process) = process.filter(|_| machine.acts()) else {
            return;
        };
        let tickets: Vec<Ticket> = process.requests.keys().copied().collect();
        for ticket in &tickets {
            self.see_over(host, *ticket, End::ShutDown);
        }
        self.at_node(host, |node, now| node.release_all(now, &tickets));
        let has_disk = self.hosts[host].disk.is_some();
        let span = self.settings.handover_span.filter(|_| !has_disk);
        if let Some(span) = span {
            return self.leave(host, span, starts_in);
        }
        self.at_node(host, |node, now| {
            if let Some(node) = node.node_mut() {
                node.hand_over(now, Duration::ZERO);
            }
        });
        if let Some(at) = &mut self.hosts[host].disk {
            at.disk.close();
        }
        self.crash(host);
        if let Some(span) = starts_in {
            self.start_in(span, host);
        }
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
        if self.version_rng.chance(self.settings.versions.change_ppm) {
            let version = &mut self.hosts[host].version;
            *version = match *version {
                PROTOCOL_VERSION => PROTOCOL_VERSION - 1,
                _ => PROTOCOL_VERSION,
            };
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
        self.heartbeats.forget(host);
        if self.is_settled {
            self.send_true_view(host);
        } else if self.settings.gossip != Gossip::Hostile {
            self.send_view(host, self.settings.gossip);
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
        self.forget_received(host);
        let seal = self.next_seal();
        let listens = self.trace.keeps_lines() && self.settings.algorithm == Algorithm::Lockmesh;
        let opener = listens.then(|| self.opener());
        let (believed, believed_by_most) = (self.believed_by(host), self.believed_by_most());
        let machine = &self.hosts[host];
        let now = machine.clock.now(self.time);
        let incarnation = machine.incarnations[machine.incarnations.len() - 1];
        let start = match says_new {
            true => Start::NewCluster,
            false => Start::Recovering,
        };
        let seed = self.start_rng.draw();
        let config = self.node_config(host, incarnation.incarnation, start, seed, seal);
        let mut node = match self.hosts[host].disk {
            None => algorithms::start(self.settings.algorithm, now, config),
            Some(_) => self.start_from_disk(host, now, config),
        };
        if let Some(node) = node.node_mut() {
            node.speak_at_most(self.hosts[host].version);
        }
        self.hosts[host].process = Some(Process {
            node,
            opener,
            requests: Default::default(),
            revokes: Default::default(),
            voted: Default::default(),
            slots: 0,
            believed,
            believed_by_most,
            started_at: self.time,
            incarnation: None,
            sent_as: None,
            has_moved: false,
            leaves: None,
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
        let voter = self.process(host).and_then(|it| it.node.voter());
        if voter.is_some() {
            self.see(&Fact::Forgot { voter: host });
        }
        self.drain(host);
        self.check_voters(host, false);
    }

    /// Returns the configuration of a node that runs under the name of a host.
    pub(crate) fn node_config(
        &self,
        host: HostAt,
        incarnation: Incarnation,
        start: Start,
        seed: u64,
        seal: Seal,
    ) -> NodeConfig {
        NodeConfig {
            id: self.hosts[host].id.clone(),
            incarnation,
            voter_set: self.voter_set_of(host).clone(),
            start,
            limits: self.settings.limits,
            max_claims: MAX_CLAIMS,
            renew_interval: self.settings.renew_interval,
            seed,
            seal,
        }
    }

    /// Returns the incarnation and the address of a host's next start.
    pub(crate) fn next_incarnation(&self, host: HostAt) -> Sighting {
        let machine = &self.hosts[host];
        let number = match self.settings.incarnations {
            // Adopted incarnations count too, since real wall clocks are ahead of them.
            Incarnations::Counted => {
                let numbers = machine.incarnations.iter().map(|it| it.incarnation);
                let highest = numbers.fold(machine.highest, Incarnation::max);
                highest.next().get()
            }
            // Two starts within a millisecond differ, but a clock that was set back gives a lower
            // number.
            Incarnations::WallClock => {
                let wall = machine.clock.now(self.time).wall_ms;
                let mut number = wall * 1_000 + machine.incarnations.len() as u64;
                // A journal names the last one.
                let has_journal = machine.disk.is_some();
                let had = |number| {
                    let mut all = machine.incarnations.iter();
                    all.any(|it| it.incarnation.get() == number)
                };
                while had(number) && !has_journal {
                    number += 1;
                }
                number
            }
        };
        Sighting {
            addr: machine.addr,
            incarnation: Incarnation::new(number),
            version: (!self.settings.versions.are_untold).then_some(machine.version),
        }
    }

    /// Pauses a process for `span`, in nanoseconds.
    pub(crate) fn pause(&mut self, host: HostAt, span: u64) {
        if self.hosts[host].process.is_none() {
            return;
        }
        self.note_host(host);
        let until = self.time + span;
        self.hosts[host].paused_at = until;
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
