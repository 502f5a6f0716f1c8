//! The phase after the faults: all of them are healed, and then the laws of liveness are judged.
//!
//! First every requested lock is granted, then every voter and claimant is empty. Then stories are
//! played on the idle cluster: short scripts, each on its own keys, with stated bounds.

use std::time::Duration;

use crate::algorithms::Algorithm;
use crate::cluster::{PROBE_KEYS, Pace, World};
use crate::judge::{End, Fact, Handover, Host as HostAt, KeyAt, RequestId};
use crate::kernel::SECOND;
use crate::users::{State, Status, Wish};

/// The number of stories in this file.
const STORIES: usize = 11;

impl World {
    /// Runs the second half of a run.
    pub(crate) fn run_settled(&mut self) {
        self.heal();
        self.expect_served();
        if self.settings.algorithm != Algorithm::Lockmesh {
            // The rest is about bounds that only lockmesh promises.
            return;
        }
        if self.laws.violations.is_empty() {
            self.expect_drained();
        }
        if self.laws.violations.is_empty() && self.broken.is_empty() {
            self.play();
        }
        // A voter with tight limits does not keep the bounds of these.
        if self.laws.violations.is_empty() && !self.settings.is_tight() {
            self.play_more();
        }
    }

    fn heal(&mut self) {
        self.is_settled = true;
        self.trace.line(self.time, format_args!("HEAL"));
        self.note_links();
        self.end_namesakes();
        self.network.heal();
        self.break_some();
        self.set_walls_right();
        for host in 0..self.hosts.len() {
            self.hosts[host].mapped = None;
            if self.hosts[host].is_other {
                self.crash(host);
                self.change(host, false);
            }
            if self.hosts[host].was_far_ahead {
                // It may have voted for its own claims, with epochs that all others refuse. Its
                // fence then blocks keys until time catches up, so an operator would restart it.
                self.crash(host);
            }
            if self.settings.pace != Pace::Kept {
                self.set_rate(host, 0);
            }
            if let Some(until) = &mut self.hosts[host].paused_until {
                *until = self.time;
                self.resume(host);
            }
            if !self.broken.contains(&host) || self.hosts[host].process.is_some() {
                self.start(host, false, false);
            }
        }
        for host in 0..self.hosts.len() {
            self.tell_truth(host);
        }
    }

    /// L1: checks that every requested lock is granted and every `try` is decided.
    fn expect_served(&mut self) {
        let settings = &self.settings;
        let timing = &settings.timing;
        let lease = settings.at_most(timing.max_ttl);
        let turn = lease
            + settings.habits.hold_max
            + timing.reservation.as_nanos() as u64
            + 100 * settings.round_trip();
        let bound = settings.longest_quarantine()
            + 3 * SECOND
            + self.clocks_wait()
            + 5 * lease
            + turn * (settings.habits.clients as u64 + 1);
        let end = self.time + bound;
        let rest = |world: &Self| {
            world.clients.iter().all(|it| it.state == State::Rests)
                && world.laws.history.open.is_empty()
        };
        if self.run_until(end, rest) {
            return;
        }
        let unserved: Vec<RequestId> = self.laws.history.open.keys().copied().collect();
        for request in unserved {
            self.see(&Fact::Unserved { request, bound });
        }
    }

    /// L5: checks that no node keeps state of ended requests.
    fn expect_drained(&mut self) {
        let late = self.settings.weather.late_max;
        let quarantine = self.settings.longest_quarantine();
        // Late datagrams may still arrive and open slots for a lease, also at a voter that leaves
        // its quarantine late.
        let bound =
            quarantine + 3 * SECOND + self.clocks_wait() + 3 * self.settings.longest_ttl() + late;
        let end = self.time + bound;
        self.run_until(end, |_| false);
        for host in self.whole() {
            let Some(process) = self.process(host) else {
                continue;
            };
            let voter = process.node.voter();
            let fact = Fact::Drained {
                host,
                slots: voter.map_or(0, |voter| voter.slots() + voter.sessions()),
                waiters: voter.map_or(0, |voter| voter.waiters()),
                claims: process.node.claims(),
            };
            self.see(&fact);
        }
        self.see_sizes();
    }

    /// Plays stories on an idle cluster, each with a key of its own.
    fn play(&mut self) {
        self.find_each_other();
        // Order is judged from here on: datagrams delayed by the faults have arrived by now.
        self.see(&Fact::Settled);
        let first = self.settings.habits.keys;
        let keys = first..first + PROBE_KEYS;
        // The last story uses two keys.
        let stories: [fn(&mut Self, KeyAt); STORIES] = [
            Self::play_free_then_release,
            Self::play_storm,
            Self::play_dead_holder,
            Self::play_dead_waiter,
            Self::play_rolling_restart,
            Self::play_forgetful_voter,
            Self::play_frozen_holder,
            Self::play_early_voter,
            Self::play_dead_owner,
            Self::play_split_votes,
            Self::play_lost_release,
        ];
        if self.settings.is_tight() {
            // The others are about bounds that a voter with tight limits does not keep.
            self.play_storm(first);
            return self.play_crowd(first + 1);
        }
        for (story, key) in stories.into_iter().zip(keys) {
            if self.laws.violations.is_empty() {
                story(self, key);
            }
        }
    }

    pub(crate) fn wish(&self, key: KeyAt) -> Wish {
        Wish {
            key,
            ttl: self.settings.max_ttl(),
            is_try: false,
            renews: true,
            outlives: false,
            patience: None,
        }
    }

    /// L4 and L2: acquires a free key, then serves a queue one after the other.
    fn play_free_then_release(&mut self, key: KeyAt) {
        // A node whose incarnation fell behind with its clock learns that here, before times are
        // taken.
        for host in 0..self.hosts.len() {
            let name = self.keys[key].clone();
            let patience = self.settings.timing.max_ttl;
            self.at_node(host, |node, now| node.inspect(now, &name, patience));
        }
        self.pass(self.settings.max_ttl());
        let hosts = self.start_rng.sample(self.hosts.len(), 5);
        let bound = self.round_trip_to_voters(hosts[0], key);
        let Some(first) = self.probe(hosts[0], self.wish(key)) else {
            return;
        };
        self.expect_grant(first, Handover::Free, bound);
        let mut queue = Vec::new();
        let pause = self.laws.history.terms.settled;
        for host in &hosts[1..] {
            queue.extend(self.probe(*host, self.wish(key)));
            self.pass(pause);
        }
        // A node with a slow wall clock may first have to learn the fence and claim anew.
        self.pass(20 * pause);
        let mut holder = (hosts[0], first);
        while !queue.is_empty() && self.laws.violations.is_empty() {
            let bound = self.hand_over_bound(holder.0, key);
            let begun = self.time;
            self.let_go(holder.0, holder.1);
            let end = begun + bound.max(self.settings.at_most(self.settings.timing.max_ttl));
            let is_held = |world: &Self, id: &RequestId| {
                matches!(world.probed.get(id), Some(Status::Held { .. }))
            };
            let waits = queue.clone();
            self.run_until(end, |world| waits.iter().any(|id| is_held(world, id)));
            let next = queue.iter().position(|id| is_held(self, id));
            let took = next.map(|_| self.time - begun);
            self.see(&Fact::Handed {
                what: Handover::Release,
                took,
                bound,
            });
            let Some(next) = next else {
                return;
            };
            let request = queue.remove(next);
            let host = self.host_of_request(request);
            holder = (host.unwrap_or(holder.0), request);
            self.pass(pause);
        }
        self.let_go(holder.0, holder.1);
    }

    /// L1: many hosts send a `try` for one key at one instant.
    fn play_storm(&mut self, key: KeyAt) {
        let hosts = self.start_rng.sample(self.hosts.len(), 8);
        let mut tries = Vec::new();
        for host in &hosts {
            let wish = Wish {
                is_try: true,
                renews: false,
                ..self.wish(key)
            };
            tries.extend(self.probe(*host, wish));
        }
        // A `try` that gets `Stale` or a reservation takes longer.
        let bound = 200 * self.settings.round_trip();
        let ids = tries.clone();
        let is_decided = move |world: &Self| {
            ids.iter()
                .all(|id| world.probed.get(id) != Some(&Status::Waits))
        };
        self.run_until(self.time + bound.min(self.settings.max_ttl()), is_decided);
        let granted = self.count_probed(&tries, |status| matches!(status, Status::Held { .. }));
        let denied = self.count_probed(&tries, |status| {
            matches!(
                status,
                Status::Over {
                    how: End::Denied,
                    ..
                }
            )
        });
        self.see(&Fact::Stormed {
            asked: tries.len(),
            granted,
            denied,
            bound,
        });
        for (host, request) in hosts.into_iter().zip(tries) {
            self.let_go(host, request);
        }
        self.pass(self.laws.history.terms.settled);
    }

    /// L3: the holder crashes while another request waits.
    fn play_dead_holder(&mut self, key: KeyAt) {
        // No voter of the key may crash, or the check would measure its quarantine.
        let Some((holder, next)) = self.pair_that_may_die(key) else {
            return;
        };
        let (Some(first), Some(second)) = (
            self.probe(holder, self.wish(key)),
            self.probe_later(next, self.wish(key)),
        ) else {
            return;
        };
        let held = |world: &Self| matches!(world.probed.get(&first), Some(Status::Held { .. }));
        if !held(self) {
            return;
        }
        self.pass(20 * self.settings.round_trip());
        self.crash(holder);
        let timing = self.settings.timing;
        let reservations = timing.reservation + timing.holder_probe_interval;
        let bound =
            self.settings.at_most(timing.max_ttl + reservations) + 20 * self.settings.round_trip();
        self.expect_grant(second, Handover::DeadHolder, bound);
        self.let_go(next, second);
        self.start(holder, false, false);
        // It may be a voter of the next story's key.
        let quarantine = self.settings.at_most(self.settings.timing.quarantine());
        self.pass(quarantine + 2 * SECOND);
    }

    /// L3: the next in the queue crashes before its turn.
    fn play_dead_waiter(&mut self, key: KeyAt) {
        let Some((waiter, other)) = self.pair_that_may_die(key) else {
            return;
        };
        let Some(first) = self.probe(other, self.wish(key)) else {
            return;
        };
        self.pass(10 * self.settings.round_trip());
        let dead = self.probe(waiter, self.wish(key));
        self.pass(10 * self.settings.round_trip());
        let Some(last) = self.probe(other, self.wish(key)).filter(|_| dead.is_some()) else {
            return;
        };
        self.pass(10 * self.settings.round_trip());
        self.crash(waiter);
        self.let_go(other, first);
        let timing = self.settings.timing;
        let bound = self.settings.at_most(timing.reservation) + 20 * self.settings.round_trip();
        self.expect_grant(last, Handover::DeadWaiter, bound);
        self.let_go(other, last);
        self.start(waiter, false, false);
        self.pass(self.laws.history.terms.settled);
    }

    /// Section 6: the voters are restarted one by one under a lease.
    fn play_rolling_restart(&mut self, key: KeyAt) {
        let voters = self.laws.history.terms.voters[key].clone();
        let holder = (0..self.hosts.len()).find(|host| !voters.contains(host));
        // The others must be a quorum without the voter that restarts.
        let Some(holder) = holder.filter(|_| voters.len() >= 3) else {
            return;
        };
        // Voters that crashed in an earlier story vote again before this one begins.
        let quarantine = self.settings.at_most(self.settings.timing.quarantine());
        self.pass(quarantine + 2 * SECOND);
        let Some(request) = self.probe(holder, self.wish(key)) else {
            return;
        };
        // Before the first renewal, or with sessions at all voters.
        let first = match self.start_rng.chance(500_000) {
            true => 20 * self.settings.round_trip(),
            false => self.settings.max_ttl(),
        };
        self.pass(first);
        for voter in voters {
            self.crash(voter);
            self.start(voter, false, false);
            self.pass(quarantine + SECOND);
        }
        let held = matches!(self.probed.get(&request), Some(Status::Held { .. }));
        self.see(&Fact::Survived { request, held });
        self.let_go(holder, request);
        self.pass(self.laws.history.terms.settled);
    }

    /// M5: a holder with exactly a quorum is cut off, and a voter of that quorum loses its memory.
    /// A rival then claims at all voters. The laws of safety judge.
    fn play_forgetful_voter(&mut self, key: KeyAt) {
        let voters = self.laws.history.terms.voters[key].clone();
        let quorum = self.laws.history.quorum(key);
        let Some(holder) = (0..self.hosts.len()).find(|host| !voters.contains(host)) else {
            return;
        };
        let (voted, others) = voters.split_at(quorum);
        let Some(rival) = (0..self.hosts.len()).find(|host| *host != holder && *host != voted[0])
        else {
            return;
        };
        let links = |to: &[HostAt]| -> Vec<(HostAt, HostAt)> {
            to.iter()
                .flat_map(|voter| [(holder, *voter), (*voter, holder)])
                .collect()
        };
        let quarantine = self.settings.at_most(self.settings.timing.quarantine());
        self.pass(quarantine + 2 * SECOND);
        self.cut(&links(others));
        let first = self.probe(holder, self.wish(key));
        self.pass(4 * self.settings.round_trip());
        let is_held =
            first.is_some_and(|first| matches!(self.probed.get(&first), Some(Status::Held { .. })));
        if !is_held {
            return;
        }
        self.cut(&links(voted));
        self.crash(voted[0]);
        self.start(voted[0], false, false);
        let second = self.probe(rival, self.wish(key));
        let (Some(first), Some(second)) = (first, second) else {
            return;
        };
        let timing = self.settings.timing;
        let settled = self.settings.at_most(timing.quarantine() + timing.max_ttl) + 2 * SECOND;
        let settled = settled + self.clocks_wait();
        // It may have to claim anew, above the fence of the voter that lost its memory.
        let bound = settled + self.settings.at_most(2 * timing.max_ttl);
        self.expect_grant(second, Handover::DeadHolder, bound);
        self.mend_links(&links(&voters));
        self.let_go(holder, first);
        self.let_go(rival, second);
    }

    /// M3: a holder is paused between a renewal and its replies, until just after the end of its
    /// lease. The replies are buffered meanwhile; the lease is over all the same.
    fn play_frozen_holder(&mut self, key: KeyAt) {
        let holder = self.start_rng.below(self.hosts.len() as u64) as HostAt;
        let rival = (holder + 1) % self.hosts.len();
        let Some(first) = self.probe(holder, self.wish(key)) else {
            return;
        };
        self.pass(4 * self.settings.round_trip());
        let Some(ticket) = self.ticket_of(holder, first) else {
            return;
        };
        let Some(until) = self
            .laws
            .history
            .open
            .get(&first)
            .and_then(|asked| asked.until)
        else {
            return self.let_go(holder, first);
        };
        let little = Duration::from_nanos(1);
        self.at_node(holder, |node, now| node.extend(now, ticket, little));
        let past = self.settings.max_ttl() / 20;
        self.pause(holder, until.saturating_sub(self.time) + past);
        let second = self
            .probe(rival, self.wish(key))
            .filter(|_| rival != holder);
        let timing = self.settings.timing;
        let bound = self
            .settings
            .at_most(2 * timing.max_ttl + timing.reservation + timing.holder_probe_interval);
        // If the holder also votes, a vote is paused with it, and the rival has no bound. The same
        // holds if the others need its clock.
        let is_voter = self.laws.history.terms.voters[key].contains(&holder);
        match second {
            Some(second) if !is_voter && self.may_miss(holder) => {
                self.expect_grant(second, Handover::DeadHolder, bound)
            }
            _ => self.pass(bound),
        }
        if let Some(second) = second {
            self.let_go(rival, second);
        }
        self.pass(self.settings.max_ttl() + past);
        self.let_go(holder, first);
    }

    /// L2: one voter's vote for the holder expires a lease before those of the others. Waiters get
    /// that vote in vain until then, and are still served in their order.
    fn play_early_voter(&mut self, key: KeyAt) {
        let voters = self.laws.history.terms.voters[key].clone();
        let hosts = self.start_rng.sample(self.hosts.len(), 3);
        let early = voters.iter().copied().find(|voter| *voter != hosts[0]);
        let Some(early) =
            early.filter(|_| voters.len() >= 3 && hosts.len() == 3 && self.may_miss(hosts[0]))
        else {
            return;
        };
        let timing = self.settings.timing;
        let quarantine = self.settings.at_most(timing.quarantine());
        self.pass(quarantine + 2 * SECOND);
        let settled = self.laws.history.terms.settled;
        let mut asked = Vec::new();
        for host in &hosts {
            asked.extend(self.probe(*host, self.wish(key)).map(|id| (*host, id)));
            // A node with a slow wall clock may first have to learn the fence and claim anew.
            self.pass(5 * settled);
        }
        let links = [(hosts[0], early), (early, hosts[0])];
        self.cut(&links);
        let lease = self.settings.at_most(timing.max_ttl);
        self.pass(2 * lease);
        self.pause(hosts[0], 3 * lease);
        let bound = self
            .settings
            .at_most(timing.max_ttl + timing.reservation + timing.holder_probe_interval)
            + 20 * self.settings.round_trip();
        while asked.len() > 1 && self.laws.violations.is_empty() {
            let begun = self.time;
            let is_held = |world: &Self, id: &RequestId| {
                matches!(world.probed.get(id), Some(Status::Held { .. }))
            };
            let waits = asked[1..].to_vec();
            self.run_until(begun + bound, |world| {
                waits.iter().any(|(_, id)| is_held(world, id))
            });
            let next = asked[1..].iter().position(|(_, id)| is_held(self, id));
            self.see(&Fact::Handed {
                what: Handover::DeadHolder,
                took: next.map(|_| self.time - begun),
                bound,
            });
            let Some(next) = next else {
                return;
            };
            let (host, request) = asked.remove(next + 1);
            self.let_go(host, request);
        }
        self.mend_links(&links);
        self.pass(4 * lease);
        if let Some((host, request)) = asked.pop() {
            self.let_go(host, request);
        }
    }

    /// L5: a holder renews several locks by one session, and releases one while it is cut off from
    /// a voter. The voter learns of the release although the session continues.
    fn play_lost_release(&mut self, key: KeyAt) {
        let voters = &self.laws.history.terms.voters;
        let (kept, gone) = (key, key + 1);
        let votes_for_both =
            |host: &HostAt| voters[kept].contains(host) && voters[gone].contains(host);
        let Some(voter) = (0..self.hosts.len()).find(votes_for_both) else {
            return;
        };
        let holder = (voter + 1) % self.hosts.len();
        if holder == voter {
            return;
        }
        let timing = self.settings.timing;
        let quarantine = self.settings.at_most(timing.quarantine());
        self.pass(quarantine + 2 * SECOND);
        let probes = [kept, gone].map(|key| self.probe(holder, self.wish(key)));
        let [Some(first), Some(second)] = probes else {
            return;
        };
        self.pass(self.settings.at_most(timing.max_ttl));
        self.cut(&[(holder, voter)]);
        self.let_go(holder, second);
        self.mend_links(&[(holder, voter)]);
        // The holder sends its digest twice, since the voter acts on the second difference.
        self.pass(self.settings.at_most(timing.max_ttl * 2));
        if let Some(voter_of_both) = self.process(voter).and_then(|it| it.node.voter()) {
            let slots = voter_of_both.slots();
            self.see(&Fact::Keeps {
                host: voter,
                slots,
                wanted: 1,
            });
        }
        self.let_go(holder, first);
        self.pass(self.laws.history.terms.settled);
    }

    /// Returns two hosts. The first may crash: it is no voter of the key, and no needed clock.
    pub(crate) fn pair_that_may_die(&mut self, key: KeyAt) -> Option<(HostAt, HostAt)> {
        let voters = &self.laws.history.terms.voters[key];
        let may_die = |host: &HostAt| !voters.contains(host) && self.may_miss(*host);
        let mut others = (0..self.hosts.len()).filter(may_die);
        let mortal = others.next()?;
        let other = (0..self.hosts.len()).find(|host| *host != mortal)?;
        Some((mortal, other))
    }

    pub(crate) fn probe(&mut self, host: HostAt, wish: Wish) -> Option<RequestId> {
        self.ask(host, None, wish)
    }

    pub(crate) fn probe_later(&mut self, host: HostAt, wish: Wish) -> Option<RequestId> {
        self.pass(20 * self.settings.round_trip());
        self.probe(host, wish)
    }

    pub(crate) fn pass(&mut self, span: u64) {
        let end = self.time + span;
        self.run_until(end, |_| false);
    }

    pub(crate) fn expect_grant(&mut self, request: RequestId, what: Handover, bound: u64) {
        let begun = self.time;
        let held = |world: &Self| matches!(world.probed.get(&request), Some(Status::Held { .. }));
        let lease = self.settings.at_most(self.settings.timing.max_ttl);
        let came = self.run_until(begun + bound.max(lease), held);
        let took = came.then(|| self.time - begun);
        self.see(&Fact::Handed { what, took, bound });
    }

    fn host_of_request(&self, request: RequestId) -> Option<HostAt> {
        self.laws.history.open.get(&request).map(|asked| asked.host)
    }

    fn count_probed(&self, ids: &[RequestId], is: fn(&Status) -> bool) -> usize {
        ids.iter()
            .filter(|id| self.probed.get(*id).is_some_and(is))
            .count()
    }

    /// Returns the longest delay from a host to a voter of the key and back, in nanoseconds.
    pub(crate) fn round_trip_to_voters(&self, host: HostAt, key: KeyAt) -> u64 {
        let voters = self.laws.history.terms.voters[key].iter();
        let ways = voters
            .filter(|voter| **voter != host)
            .map(|voter| self.network.longest(host, *voter) + self.network.longest(*voter, host));
        ways.max().unwrap_or_default()
    }

    /// Returns the longest delay from a holder via a voter of the key to any host, in nanoseconds.
    pub(crate) fn hand_over_bound(&self, holder: HostAt, key: KeyAt) -> u64 {
        let voters = &self.laws.history.terms.voters[key];
        let way = |from: HostAt, to: HostAt| {
            if from == to {
                0
            } else {
                self.network.longest(from, to)
            }
        };
        let hosts = 0..self.hosts.len();
        let ways = voters.iter().map(|voter| {
            let on = hosts.clone().map(|next| way(*voter, next)).max();
            way(holder, *voter) + on.unwrap_or_default()
        });
        ways.max().unwrap_or_default()
    }
}
