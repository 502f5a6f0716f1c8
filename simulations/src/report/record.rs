//! What is kept of a run for whoever wants to look at it afterwards.

use std::collections::BTreeMap;

use crate::invariants::{Fact, Host};
use crate::network::Network;
use crate::world::World;

/// What a host is up to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Condition {
    /// Its process runs; the number of its incarnation.
    Runs(usize),
    /// Its process is frozen.
    Frozen(usize),
    /// No process runs.
    Down,
}

/// How the links are.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Links {
    /// Those that are cut, each one way.
    pub(crate) cut: Vec<(Host, Host)>,
    /// What is added to each datagram of a host, in nanoseconds.
    pub(crate) slow: BTreeMap<Host, u64>,
    /// How many datagrams per million a fault loses.
    pub(crate) storm_ppm: u64,
}

/// One thing that is worth showing.
#[derive(Clone, Debug)]
pub(crate) enum Note {
    Fact(Fact),
    Host(Host, Condition),
    Links(Links),
}

/// The notes of a run, in order of time, in nanoseconds of true time.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) notes: Vec<(u64, Note)>,
    /// When the run was over.
    pub(crate) end: u64,
    /// When all was mended.
    pub(crate) healed: Option<u64>,
    conditions: Vec<Option<Condition>>,
    links: Links,
    /// How often the network had changed when it was last looked at.
    changes: u64,
}

impl Record {
    /// Keeps a fact, if a page or a table shows it.
    pub(crate) fn keep(&mut self, at: u64, fact: &Fact) {
        let is_shown = matches!(
            fact,
            Fact::Asked { .. }
                | Fact::Granted { .. }
                | Fact::Until { .. }
                | Fact::Over { .. }
                | Fact::Wrote { .. }
                | Fact::Forgot { .. }
                | Fact::Returned { .. }
                | Fact::Settled
        );
        if is_shown {
            self.notes.push((at, Note::Fact(fact.clone())));
        }
    }

    /// Leaves out what is played once the world has settled at the end: only one of the algorithms
    /// plays it.
    pub(crate) fn end_at_settled(&mut self) {
        let is_settled = |note: &(u64, Note)| matches!(note.1, Note::Fact(Fact::Settled));
        if let Some(settled) = self.notes.iter().position(is_settled) {
            self.end = self.notes[settled].0;
            self.notes.truncate(settled);
        }
    }

    /// Looks at the hosts and the links, and keeps what has changed.
    pub(crate) fn look(
        &mut self,
        at: u64,
        hosts: impl Iterator<Item = Condition>,
        network: &Network,
        is_settled: bool,
    ) {
        self.end = at;
        if is_settled && self.healed.is_none() {
            self.healed = Some(at);
        }
        for (host, condition) in hosts.enumerate() {
            if self.conditions.len() <= host {
                self.conditions.push(None);
            }
            if self.conditions[host] != Some(condition) {
                self.conditions[host] = Some(condition);
                self.notes.push((at, Note::Host(host, condition)));
            }
        }
        if self.changes != network.changes {
            self.changes = network.changes;
            let links = network.links();
            if links != self.links {
                self.links = links.clone();
                self.notes.push((at, Note::Links(links)));
            }
        }
    }
}

impl World {
    /// The record, if there is one, takes note of what has changed.
    pub(crate) fn look(&mut self) {
        if let Some(record) = &mut self.record {
            let hosts = self.hosts.iter().map(|host| match &host.process {
                None => Condition::Down,
                Some(_) if host.is_paused() => Condition::Frozen(host.incarnations.len()),
                Some(_) => Condition::Runs(host.incarnations.len()),
            });
            record.look(self.time, hosts, &self.network, self.is_settled);
        }
    }
}
