//! The record of a run, for pages and tables.

use std::collections::BTreeMap;

use crate::cluster::World;
use crate::judge::{Fact, HostAt};
use crate::kernel::Network;

/// The condition of a host.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Condition {
    /// Its process runs, in the incarnation with this number.
    Runs(usize),
    /// Its process is paused.
    Frozen(usize),
    /// No process runs.
    Down,
}

/// The state of the links.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Links {
    /// The links that are cut, each one way.
    pub(crate) cut: Vec<(HostAt, HostAt)>,
    /// The delay added to each datagram of a host, in nanoseconds.
    pub(crate) slow: BTreeMap<HostAt, u64>,
    /// Datagrams per million that a storm loses.
    pub(crate) storm_ppm: u64,
}

/// An entry of a record.
#[derive(Clone, Debug)]
pub(crate) enum Note {
    Fact(Fact),
    Host(HostAt, Condition),
    Links(Links),
}

/// The notes of a run, sorted by time, in nanoseconds of true time.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) notes: Vec<(u64, Note)>,
    /// The end of the run.
    pub(crate) end: u64,
    /// The time at which the faults were healed.
    pub(crate) healed: Option<u64>,
    conditions: Vec<Option<Condition>>,
    links: Links,
    /// The network's number of changes when it was last checked.
    changes: u64,
}

impl Record {
    /// Adds a fact, if pages or tables show it.
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

    /// Removes all notes after the world has settled: only lockmesh plays the stories there.
    pub(crate) fn end_at_settled(&mut self) {
        let is_settled = |note: &(u64, Note)| matches!(note.1, Note::Fact(Fact::Settled));
        if let Some(settled) = self.notes.iter().position(is_settled) {
            self.end = self.notes[settled].0;
            self.notes.truncate(settled);
        }
    }

    /// Adds the changes of the hosts and the links.
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
    /// Updates the record, if there is one.
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
