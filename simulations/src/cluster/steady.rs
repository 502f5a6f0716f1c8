//! Records since when each host and each link has had no fault, to judge whether a lease could have
//! been kept.

use crate::cluster::{Gossip, Ongoing, World};
use crate::judge::{Fact, HostAt, KeyAt};
use crate::proto::{ClaimId, Event};

/// The last time that each host and link had a fault, in true time.
#[derive(Debug)]
pub(crate) struct Steady {
    hosts: Vec<u64>,
    links: Vec<u64>,
}

impl Steady {
    pub(crate) fn new(hosts: usize) -> Self {
        Self {
            hosts: vec![0; hosts],
            links: vec![0; hosts * hosts],
        }
    }
}

impl Steady {
    /// Returns the last time that a host had a fault.
    pub(crate) fn host_since(&self, host: HostAt) -> u64 {
        self.hosts[host]
    }
}

impl World {
    /// Cuts links.
    pub(crate) fn cut(&mut self, links: &[(HostAt, HostAt)]) {
        self.note_links();
        self.network.cut(links);
    }

    /// Heals links.
    pub(crate) fn mend_links(&mut self, links: &[(HostAt, HostAt)]) {
        self.note_links();
        self.network.mend(links);
    }

    /// Records the links that have a fault until now. Called before links change.
    pub(crate) fn note_links(&mut self) {
        let hosts = self.hosts.len();
        for from in 0..hosts {
            for to in 0..hosts {
                if !self.network.is_steady(from, to) {
                    self.steady.links[from * hosts + to] = self.time;
                }
            }
        }
    }

    /// Records an event at a host that may cost it, or those that need its vote, a lease.
    pub(crate) fn note_host(&mut self, host: HostAt) {
        self.steady.hosts[host] = self.time;
    }

    /// Returns since when a quorum of a key's voters could have renewed a lease of this host.
    fn steady_since(&self, holder: HostAt, key: KeyAt, ongoing: &Ongoing) -> Option<u64> {
        let history = &self.laws.history;
        let voters = history.voters_of(key, holder);
        let claim = ongoing.claim.map(|(incarnation, seq)| ClaimId {
            node: self.hosts[holder].id.clone(),
            incarnation,
            seq,
        });
        let own = self.host_steady_since(holder)?;
        let versions = &self.settings.versions;
        let may_be_untold = versions.are_mixed || versions.are_untold;
        let mut since: Vec<u64> = voters
            .iter()
            .filter_map(|voter| {
                let its = self.process(*voter)?.node.voter()?;
                // One of another set refuses the claim. One that revoked it renews it no more, and
                // its holder is not told if either speaks version 1.
                let renews = self.hosts[*voter].is_other == self.hosts[holder].is_other
                    && claim
                        .as_ref()
                        .is_none_or(|it| !(may_be_untold && its.has_revoked(it)));
                let votes = renews && its.quarantine().is_none() && its.closed().is_none();
                let at = self.host_steady_since(*voter).filter(|_| votes)?;
                let links = self.links_steady_since(holder, *voter)?;
                let other = self.reaches_since(holder, *voter, key)?;
                Some(at.max(links).max(own).max(other))
            })
            .collect();
        since.sort_unstable();
        since.get(history.quorum_of(key, holder) - 1).copied()
    }

    /// Returns since when the host that has a voter's vote, if it is not `holder`, could give it
    /// back. Until then the vote lasts its ttl, and the voter gives it to nobody else.
    fn reaches_since(&self, holder: HostAt, voter: HostAt, key: KeyAt) -> Option<u64> {
        match self.laws.history.vote_of(voter, key) {
            Some((other, _)) if other != holder => {
                let links = self.links_steady_since(other, voter)?;
                Some(links.max(self.steady.host_since(other)))
            }
            _ => Some(0),
        }
    }

    fn host_steady_since(&self, host: HostAt) -> Option<u64> {
        let machine = &self.hosts[host];
        // Peers may not know its current address.
        let moved = machine
            .incarnations
            .iter()
            .any(|incarnation| incarnation.addr != machine.addr);
        let is_lost = moved && !self.is_settled && self.settings.gossip == Gossip::Hostile;
        (machine.acts() && !is_lost).then_some(self.steady.hosts[host])
    }

    pub(crate) fn links_steady_since(&self, one: HostAt, other: HostAt) -> Option<u64> {
        // What a node sends to itself takes no link.
        if one == other {
            return Some(0);
        }
        self.ways_steady_since(one, other)
    }

    /// Like [`Self::links_steady_since`], also between two processes on the links of one host.
    pub(crate) fn ways_steady_since(&self, one: HostAt, other: HostAt) -> Option<u64> {
        let hosts = self.hosts.len();
        let both = [(one, other), (other, one)];
        let is_steady = both.iter().all(|(a, b)| self.network.is_steady(*a, *b));
        let since = both.map(|(a, b)| self.steady.links[a * hosts + b]);
        is_steady.then(|| since[0].max(since[1]))
    }

    /// Records that a lease with renewal was lost, and how long it could have been renewed.
    pub(crate) fn see_lapse(&mut self, host: HostAt, ongoing: &Ongoing) {
        let lasting = &self.settings.lasting;
        // A timer that was set before the world settled may still be late.
        let late = lasting.timers_late_max;
        let settled_since = self.laws.history.settled_since;
        let is_late = late > 0 && settled_since.is_none_or(|since| self.time <= since + late);
        // Voters of an old version, or of one that is not known yet, do not renew such a lease.
        let versions = &self.settings.versions;
        if ongoing.keep_for.is_some() && (versions.are_mixed || versions.are_untold) {
            return;
        }
        let Some(asked) = self.laws.history.open.get(&ongoing.request) else {
            return;
        };
        // A voter with tight limits that lost its memory may have given the slot to another key.
        if !ongoing.renews || is_late || self.settings.is_tight() {
            return;
        }
        // A reservation that had nearly expired at the grant may end before any reply to its first
        // renewal; its guard reported that short end.
        let few = 4 * self.settings.round_trip();
        if ongoing
            .granted
            .is_none_or(|(at, span)| span < few && self.time <= at + 2 * span)
        {
            return;
        }
        let Some(since) = self.steady_since(host, asked.key, ongoing) else {
            return;
        };
        // A voter may first have to let another claim's vote expire.
        let lease = self.settings.at_most(self.settings.timing.max_ttl);
        let bound = 2 * lease + 20 * self.settings.round_trip();
        let steady = self.time - since;
        let request = ongoing.request;
        self.count("lapses");
        self.see(&Fact::Lapsed {
            request,
            steady,
            bound,
        });
    }

    /// Records that a node has adopted another incarnation and lost its leases.
    pub(crate) fn see_adoption(&mut self, host: HostAt, events: &[Event]) {
        let Some(process) = self.hosts[host].process.as_mut() else {
            return;
        };
        let number = process.node.incarnation();
        if std::mem::replace(&mut process.incarnation, number) == number {
            return;
        }
        let number = number.unwrap_or_default();
        let waited = process.requests.values().any(|it| it.until.is_none());
        let highest = &mut self.hosts[host].highest;
        *highest = (*highest).max(number);
        self.note_host(host);
        self.count("adoptions");
        if waited {
            self.count("adoptions_while_waiting");
        }
        if events.iter().any(|it| matches!(it, Event::Lost { .. })) {
            self.count("adoptions_under_a_lease");
        }
    }
}
