//! How each fault begins and ends.

use std::net::SocketAddr;

use super::{FaultKind, Target};
use crate::cluster::{World, WorldEvent};
use crate::judge::{HostAt, KeyAt};

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
        if let Some(span) = self.begin_fault(fault, kind) {
            self.push_in(span, WorldEvent::Mend { fault, step: 1 });
        }
    }

    /// Returns the time after which the fault ends, if it does not end by itself.
    fn begin_fault(&mut self, fault: usize, kind: FaultKind) -> Option<u64> {
        let hosts = self.hosts.len();
        match kind {
            FaultKind::Cut { cut, span } => {
                self.network.cut(&cut.links(hosts));
                return Some(span);
            }
            FaultKind::Flap { cut, half, .. } => {
                self.network.cut(&cut.links(hosts));
                return Some(half);
            }
            FaultKind::Slow { host, by, span } => {
                self.network.set_slow(host, by);
                return Some(span);
            }
            FaultKind::SlowWay { from, to, by, span } => {
                self.network.set_slow_way(from, to, by);
                return Some(span);
            }
            FaultKind::Storm { loss_ppm, span } => {
                self.network.set_storm(loss_ppm);
                return Some(span);
            }
            FaultKind::Namesake { host, on, span } => {
                self.start_namesake(fault, host, on);
                return Some(span);
            }
            FaultKind::Mapping { host, span } => {
                let addr = SocketAddr::from(([10, 2, fault as u8, host as u8], 7_000));
                self.by_addr.insert(addr, host);
                self.forget_received(host);
                self.hosts[host].mapped = Some(addr);
                return Some(span);
            }
            FaultKind::OldCopy { host, down, span } => {
                self.copy_journal(host);
                self.crash(host);
                self.start_in(down, host);
                return Some(down + span);
            }
            FaultKind::DiskFails { host, span } => {
                self.set_disk_fails(host, true);
                return Some(span);
            }
            FaultKind::Replaced { host } => self.replace_journal(host),
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
                self.shut_down(host, Some(down));
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
            } => {
                self.crash(host);
                self.change(host, is_other);
                self.start_in(down, host);
            }
            FaultKind::WallJump { host, by_ms } => self.jump_wall(host, by_ms),
            FaultKind::Drift { host, rate_ppm } => self.set_rate(host, rate_ppm),
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
            FaultKind::CutAndCrash {
                host,
                down,
                span,
                restarts,
            } => self.cut_and_crash(fault, host, (down, span), restarts),
        }
        None
    }

    pub(crate) fn start_in(&mut self, span: u64, host: HostAt) {
        let start = WorldEvent::Start {
            host,
            says_new: false,
            moves: false,
        };
        self.push_in(span, start);
    }

    /// Cuts a holder off from one voter and crashes another voter, and the holder if `restarts`.
    fn cut_and_crash(
        &mut self,
        fault: usize,
        host: HostAt,
        (down, span): (u64, u64),
        restarts: bool,
    ) {
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
            self.cut_links.insert(fault, links);
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
                match step % 2 {
                    1 => self.network.mend(&links),
                    _ => self.network.cut(&links),
                }
                if step < times * 2 - 1 {
                    let step = step + 1;
                    self.push_in(half, WorldEvent::Mend { fault, step });
                }
            }
            FaultKind::Slow { host, .. } => self.network.set_slow(host, 0),
            FaultKind::SlowWay { from, to, .. } => self.network.set_slow_way(from, to, 0),
            FaultKind::CutAndCrash { .. } => {
                if let Some(links) = self.cut_links.remove(&fault) {
                    self.network.mend(&links);
                }
            }
            FaultKind::Storm { .. } => self.network.set_storm(0),
            FaultKind::OldCopy { host, down, .. } => {
                self.crash(host);
                self.put_copy_back(host);
                self.start_in(down, host);
            }
            FaultKind::DiskFails { host, .. } => self.set_disk_fails(host, false),
            FaultKind::Namesake { .. } => self.end_namesake(fault),
            FaultKind::Mapping { host, .. } => {
                self.forget_received(host);
                self.hosts[host].mapped = None;
            }
            _ => {}
        }
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
}
