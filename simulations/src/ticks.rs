//! Stories for locks that outlive their process, and for voters with tight limits: deploys, a `try`
//! beside a holder that is gone, and keys that take turns.

use lockmesh_proto::Ticket;

use crate::invariants::{End, Fact, Handover, Host as HostAt, KeyAt};
use crate::settings::{PROBE_KEYS, SECOND};
use crate::workload::{Status, Wish};
use crate::world::World;

impl World {
    /// Shuts a process down cleanly: it ends its requests, sends their messages, and exits.
    pub(crate) fn shut_down(&mut self, host: HostAt) {
        let machine = &self.hosts[host];
        let Some(process) = machine.process.as_ref().filter(|_| machine.acts()) else {
            return;
        };
        let tickets: Vec<Ticket> = process.requests.keys().copied().collect();
        for ticket in &tickets {
            self.see_over(host, *ticket, End::ShutDown);
        }
        self.at_node(host, |node, now| node.release_all(now, &tickets));
        self.crash(host);
    }

    /// M6 and L3: a holder through the trait shuts down or crashes, and may start again. A `try`
    /// beside it gets `false` within a bound.
    pub(crate) fn play_dead_owner(&mut self, key: KeyAt) {
        let Some((owner, other)) = self.pair_that_may_die(key) else {
            return;
        };
        let timing = self.settings.timing;
        let quarantine = self.settings.at_most(timing.quarantine());
        self.pass(quarantine + 2 * SECOND);
        let tick = Wish {
            is_try: true,
            renews: false,
            outlives: true,
            ..self.wish(key)
        };
        let round_trip = self.settings.round_trip();
        for (in_order, starts) in [(true, true), (false, true), (false, false)] {
            let Some(first) = self.probe(owner, tick) else {
                return;
            };
            self.pass(3 * round_trip);
            if !matches!(self.probed.get(&first), Some(Status::Held { .. })) {
                return;
            }
            match in_order {
                true => self.shut_down(owner),
                false => self.crash(owner),
            }
            if starts {
                self.start(owner, false, false);
            }
            let begun = self.time;
            let Some(second) = self.probe(other, tick) else {
                return;
            };
            // Three retransmissions take 14 round trips, and the next two 16 and 32 more. By then
            // the holder has been silent for `holder_probe_interval`.
            let bound = timing.holder_probe_interval.as_nanos() as u64 + 64 * round_trip;
            let told = |world: &Self| world.probed.get(&second) != Some(&Status::Waits);
            let took = self
                .run_until(begun + bound, told)
                .then(|| self.time - begun);
            self.see(&Fact::Handed {
                what: Handover::DeadOwner,
                took,
                bound,
            });
            self.let_go(other, second);
            self.pass(2 * self.settings.at_most(timing.max_ttl));
            self.start(owner, false, false);
            self.pass(20 * round_trip);
        }
    }

    /// L1: each voter's vote is out for a different claim of a process that is gone, so none of
    /// these claims is granted. A `try` made before them does not get `false`; it is granted after
    /// they expire.
    pub(crate) fn play_split_votes(&mut self, key: KeyAt) {
        let voters = self.laws.history.terms.voters[key].clone();
        let Some((gone, other)) = self.pair_that_may_die(key) else {
            return;
        };
        if voters.len() < 3 {
            return;
        }
        let timing = self.settings.timing;
        let quarantine = self.settings.at_most(timing.quarantine());
        self.pass(quarantine + 2 * SECOND);
        let to_voters = |host: HostAt, but: Option<HostAt>| {
            let voters = voters.iter().filter(|it| **it != host && Some(**it) != but);
            let both = voters.flat_map(|voter| [(host, *voter), (*voter, host)]);
            both.collect::<Vec<_>>()
        };
        let tick = Wish {
            is_try: true,
            renews: false,
            ..self.wish(key)
        };
        self.network.cut(&to_voters(other, None));
        let Some(first) = self.probe(other, tick) else {
            return;
        };
        for voter in voters.iter().copied().filter(|voter| *voter != other) {
            let links = to_voters(gone, Some(voter));
            self.network.cut(&links);
            self.start(gone, false, false);
            let outlives = true;
            self.probe(gone, Wish { outlives, ..tick });
            self.pass(self.settings.round_trip());
            self.crash(gone);
            self.network.mend(&links);
        }
        self.network.mend(&to_voters(other, None));
        let bound = self.settings.at_most(timing.max_ttl) * 2 + 100 * self.settings.round_trip();
        let waits = move |world: &Self| world.probed.get(&first) != Some(&Status::Waits);
        if !self.run_until(self.time + bound, waits) {
            let request = first;
            self.see(&Fact::Unserved { request, bound });
        }
        self.let_go(other, first);
        self.start(gone, false, false);
        self.pass(self.laws.history.terms.settled);
    }

    /// L1: more keys are requested at one instant than voters keep. They take turns.
    pub(crate) fn play_crowd(&mut self, first: KeyAt) {
        let hosts = self.start_rng.sample(self.hosts.len(), 8);
        let keys = first..first + PROBE_KEYS - 1;
        let mut asked = Vec::new();
        for (host, key) in hosts.into_iter().zip(keys) {
            asked.extend(self.probe(host, self.wish(key)).map(|id| (host, id)));
        }
        let lease = self.settings.at_most(self.settings.timing.max_ttl);
        let bound = lease + 400 * self.settings.round_trip();
        while !asked.is_empty() && self.laws.violations.is_empty() {
            let is_held = |world: &Self, request| {
                matches!(world.probed.get(&request), Some(Status::Held { .. }))
            };
            let waits = asked.clone();
            self.run_until(self.time + bound, |world| {
                waits.iter().any(|(_, id)| is_held(world, *id))
            });
            let Some(next) = asked.iter().position(|(_, id)| is_held(self, *id)) else {
                let (_, request) = asked[0];
                return self.see(&Fact::Unserved { request, bound });
            };
            let (host, request) = asked.remove(next);
            self.let_go(host, request);
        }
    }
}
