//! A minority of the voters that stays broken after all else was healed: crashed, mute, deaf or cut
//! off for good. Requests that can reach the other voters are still served.

use crate::cluster::{MARKED_KEYS, World};
use crate::judge::{Fact, HostAt};
use crate::kernel::Rng;
use crate::proto::{NEVER_GRANTED_MAX, Node, Peer, View};

impl World {
    /// Breaks a minority of the voters of each key for good, in worlds that draw that.
    pub(crate) fn break_some(&mut self) {
        // A voter whose wall clock was far ahead may return with a fence as far ahead. It cannot
        // vote then, and without it the others may be no quorum.
        let was_ahead = self.hosts.iter().any(|host| host.was_far_ahead);
        if !self.settings.lasting.breaks_minority || was_ahead {
            return;
        }
        let mut rng = Rng::stream(self.settings.seed, "wounds");
        let most = (self.settings.voters_per_key - 1) / 2;
        let count = rng.between(1, most as u64) as usize;
        for host in rng.sample(self.settings.members, count) {
            self.broken.insert(host);
            self.break_one(host, rng.below(4));
            self.count("broken_for_good");
        }
    }

    fn break_one(&mut self, host: HostAt, how: u64) {
        let others = (0..self.hosts.len()).filter(|other| *other != host);
        let out = others.clone().map(|other| (host, other));
        let into = others.map(|other| (other, host));
        let links: Vec<(HostAt, HostAt)> = match how {
            0 => return self.crash(host),
            1 => out.collect(),
            2 => into.collect(),
            _ => out.chain(into).collect(),
        };
        self.cut(&links);
        // Its own requests need not be served. Voters that received them may not receive their
        // releases.
        let requests = self.process(host).map(|it| it.requests.values());
        let requests: Vec<_> = requests
            .into_iter()
            .flatten()
            .map(|it| it.request)
            .collect();
        for request in requests {
            self.let_go(host, request);
        }
    }

    /// L5: records the sizes of what each idle node keeps.
    pub(crate) fn see_sizes(&mut self) {
        let members = self.settings.members;
        let hosts = self.hosts.len();
        let incarnations: usize = self.hosts.iter().map(|host| host.incarnations.len()).sum();
        let revokes = self.coverage.get("revokes").copied().unwrap_or_default();
        let namesakes = self.coverage.get("namesakes").copied().unwrap_or_default();
        for host in self.whole() {
            let sizes = self
                .process(host)
                .and_then(|it| it.node.node())
                .map(Node::sizes);
            for (what, size) in sizes.into_iter().flatten() {
                let bound = match what {
                    "peers" => hosts,
                    "boot ids" => incarnations + namesakes as usize,
                    "claims that were never granted" => NEVER_GRANTED_MAX,
                    "voters asked again" | "voters left alone" => members,
                    "rooms of slots" => 1,
                    "marks" => MARKED_KEYS,
                    "revoked claims" => revokes as usize,
                    _ => 0,
                };
                let kept = Fact::Kept {
                    host,
                    what,
                    size,
                    bound,
                };
                self.see(&kept);
            }
        }
    }

    /// Delivers a view to a node that wrongly reports one host as dead.
    pub(crate) fn send_false_view(&mut self, host: HostAt, dead: HostAt) {
        let others = (0..self.hosts.len()).filter(|other| *other != host);
        let peers = others.filter_map(|other| {
            let machine = &self.hosts[other];
            let incarnation = machine.incarnations.last()?;
            let peer = Peer {
                addr: incarnation.addr,
                incarnation: incarnation.incarnation,
                alive: other != dead,
                version: incarnation.version,
            };
            Some((machine.id.clone(), peer))
        });
        let view = View {
            peers: peers.collect(),
        };
        self.at_node(host, |node, now| node.handle_view(now, &view));
    }

    /// Returns the hosts that are not broken for good.
    pub(crate) fn whole(&self) -> Vec<HostAt> {
        let hosts = 0..self.hosts.len();
        hosts.filter(|host| !self.broken.contains(host)).collect()
    }
}
