//! The stories that every settled world plays: queues, crashed holders and waiters, voters that
//! lose their memory, locks that outlive their process.

use std::time::Duration;

use super::settled::both_ways;
use crate::cluster::{PROBE_KEYS, World};
use crate::judge::{End, Fact, Handover, HostAt, KeyAt};
use crate::kernel::SECOND;
use crate::users::{Status, Wish};

impl World {
    /// L4 and L2: acquires a free key, then serves a queue one after the other.
    pub(super) fn play_free_then_release(&mut self, key: KeyAt) {
        // A node whose incarnation fell behind with its clock learns that here, before times are
        // taken.
        for host in 0..self.hosts.len() {
            let name = self.keys[key].clone();
            let timeout = self.settings.timing.max_ttl;
            self.at_node(host, |node, now| {
                if let Some(node) = node.node_mut() {
                    node.inspect(now, &name, timeout);
                }
            });
        }
        self.pass(self.settings.max_ttl());
        let hosts = self.start_rng.sample(self.hosts.len(), 5);
        let bound = self.round_trip_to_voters(hosts[0], key);
        let Some(first) = self.probe(hosts[0], key) else {
            return;
        };
        self.expect_grant(first, Handover::Free, bound);
        let mut queue = Vec::new();
        for host in &hosts[1..] {
            queue.extend(self.probe(*host, key).map(|id| (*host, id)));
            self.pass_settled();
        }
        // A node with a slow wall clock may first have to learn the fence and claim anew.
        self.settle();
        let mut holder = (hosts[0], first);
        while !queue.is_empty() && !self.is_broken() {
            let bound = self.hand_over_bound(holder.0, key);
            let begun = self.time;
            self.let_go(holder.0, holder.1);
            let next = self.first_held(&queue, begun + bound.max(self.lease()));
            let (what, took) = (Handover::Release, next.map(|_| self.time - begun));
            self.see(&Fact::Handed { what, took, bound });
            let Some(next) = next else {
                return;
            };
            holder = queue.remove(next);
            self.pass_settled();
        }
        self.let_go(holder.0, holder.1);
    }

    /// L1: many hosts send a `try` for one key at one instant.
    pub(super) fn play_storm(&mut self, key: KeyAt) {
        let hosts = self.start_rng.sample(self.hosts.len(), 8);
        let mut tries = Vec::new();
        for host in &hosts {
            tries.extend(self.ask(*host, None, self.try_wish(key)));
        }
        // A `try` that gets `Stale` or a reservation takes longer.
        let bound = 200 * self.settings.round_trip();
        let end = self.time + bound.min(self.settings.max_ttl());
        self.run_until(end, |world| tries.iter().all(|id| world.is_decided(*id)));
        let denied = |id| {
            let how = End::Denied;
            matches!(self.probed.get(id), Some(Status::Over { how: it, .. }) if *it == how)
        };
        let fact = Fact::Stormed {
            asked: tries.len(),
            granted: tries.iter().filter(|id| self.is_held(**id)).count(),
            denied: tries.iter().filter(|id| denied(*id)).count(),
            bound,
        };
        self.see(&fact);
        for (host, request) in hosts.into_iter().zip(tries) {
            self.let_go(host, request);
        }
        self.pass_settled();
    }

    /// L3: the holder crashes while another request waits.
    pub(super) fn play_dead_holder(&mut self, key: KeyAt) {
        // No voter of the key may crash, or the check would measure its quarantine.
        let Some((holder, next)) = self.pair_that_may_crash(key) else {
            return;
        };
        let first = self.probe(holder, key);
        self.pass_round_trips(20);
        let (Some(first), Some(second)) = (first, self.probe(next, key)) else {
            return;
        };
        if !self.is_held(first) {
            return;
        }
        self.pass_round_trips(20);
        self.crash(holder);
        let bound = self.dead_holder_bound();
        self.expect_grant(second, Handover::DeadHolder, bound);
        self.let_go(next, second);
        self.start(holder, false, false);
        // It may be a voter of the next story's key.
        self.pass_quarantine();
    }

    /// L3: the next in the queue crashes before its turn.
    pub(super) fn play_dead_waiter(&mut self, key: KeyAt) {
        let Some((waiter, other)) = self.pair_that_may_crash(key) else {
            return;
        };
        let Some(first) = self.probe(other, key) else {
            return;
        };
        self.pass_round_trips(10);
        let dead = self.probe(waiter, key);
        self.pass_round_trips(10);
        let Some(last) = self.probe(other, key).filter(|_| dead.is_some()) else {
            return;
        };
        self.pass_round_trips(10);
        self.crash(waiter);
        self.let_go(other, first);
        let bound = self.dead_waiter_bound();
        self.expect_grant(last, Handover::DeadWaiter, bound);
        self.let_go(other, last);
        self.start(waiter, false, false);
        self.pass_settled();
    }

    /// Section 6: the voters are restarted one by one under a lease.
    pub(super) fn play_rolling_restart(&mut self, key: KeyAt) {
        let voters = self.voters_of_key(key);
        // The others must be a quorum without the voter that restarts.
        let Some(holder) = self.outside(key).filter(|_| voters.len() >= 3) else {
            return;
        };
        // Voters that crashed in an earlier story vote again before this one begins.
        self.pass_quarantine();
        let Some(request) = self.probe(holder, key) else {
            return;
        };
        // Before the first renewal, or with sessions at all voters.
        match self.start_rng.chance(500_000) {
            true => self.pass_round_trips(20),
            false => self.pass(self.settings.max_ttl()),
        }
        let quarantine = self.settings.at_most(self.settings.timing.quarantine());
        for voter in voters {
            self.restart(voter);
            self.pass(quarantine + SECOND);
        }
        let held = self.is_held(request);
        self.see(&Fact::Survived { request, held });
        self.let_go(holder, request);
        self.pass_settled();
    }

    /// M5: a holder with exactly a quorum is cut off, and a voter of that quorum loses its memory.
    /// A rival then claims at all voters. The laws of safety judge.
    pub(super) fn play_forgetful_voter(&mut self, key: KeyAt) {
        let voters = self.voters_of_key(key);
        let Some(holder) = self.outside(key) else {
            return;
        };
        let (voted, others) = voters.split_at(self.laws.history.quorum(key));
        let mut hosts = 0..self.hosts.len();
        let Some(rival) = hosts.find(|host| *host != holder && *host != voted[0]) else {
            return;
        };
        self.pass_quarantine();
        self.cut(&both_ways(holder, others));
        let first = self.probe(holder, key);
        self.pass_round_trips(4);
        let Some(first) = first.filter(|first| self.is_held(*first)) else {
            return;
        };
        self.cut(&both_ways(holder, voted));
        self.restart(voted[0]);
        let Some(second) = self.probe(rival, key) else {
            return;
        };
        let timing = self.settings.timing;
        let settled = self.settings.at_most(timing.quarantine() + timing.max_ttl) + 2 * SECOND;
        let settled = settled + self.clocks_wait();
        // It may have to claim anew, above the fence of the voter that lost its memory.
        let bound = settled + self.settings.at_most(2 * timing.max_ttl);
        self.expect_grant(second, Handover::DeadHolder, bound);
        self.mend_links(&both_ways(holder, &voters));
        self.let_go(holder, first);
        self.let_go(rival, second);
    }

    /// M3: a holder is paused between a renewal and its replies, until just after the end of its
    /// lease. The replies are buffered meanwhile; the lease is over all the same.
    pub(super) fn play_frozen_holder(&mut self, key: KeyAt) {
        let holder = self.start_rng.below(self.hosts.len() as u64) as HostAt;
        let rival = (holder + 1) % self.hosts.len();
        let Some(first) = self.probe(holder, key) else {
            return;
        };
        self.pass_round_trips(4);
        let Some(ticket) = self.ticket_of(holder, first) else {
            return;
        };
        let asked = self.laws.history.open.get(&first);
        let Some(until) = asked.and_then(|asked| asked.until) else {
            return self.let_go(holder, first);
        };
        let little = Duration::from_nanos(1);
        self.at_node(holder, |node, now| node.extend(now, ticket, little));
        let past = self.settings.max_ttl() / 20;
        self.pause(holder, until.saturating_sub(self.time) + past);
        let second = self.probe(rival, key).filter(|_| rival != holder);
        let timing = self.settings.timing;
        let reservations = timing.reservation + timing.holder_probe_interval;
        let bound = self.settings.at_most(2 * timing.max_ttl + reservations);
        // If the holder also votes, a vote is paused with it, and the rival has no bound. The same
        // holds if the others need its clock.
        let is_voter = self.voters_of_key(key).contains(&holder);
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
    pub(super) fn play_early_voter(&mut self, key: KeyAt) {
        let voters = self.voters_of_key(key);
        let hosts = self.start_rng.sample(self.hosts.len(), 3);
        let early = voters.iter().copied().find(|voter| *voter != hosts[0]);
        let fits = voters.len() >= 3 && hosts.len() == 3 && self.may_miss(hosts[0]);
        let Some(early) = early.filter(|_| fits) else {
            return;
        };
        self.pass_quarantine();
        let mut asked = Vec::new();
        for host in &hosts {
            asked.extend(self.probe(*host, key).map(|id| (*host, id)));
            // A node with a slow wall clock may first have to learn the fence and claim anew.
            self.pass(5 * self.laws.history.terms.settled);
        }
        let links = both_ways(hosts[0], &[early]);
        self.cut(&links);
        let lease = self.lease();
        self.pass(2 * lease);
        self.pause(hosts[0], 3 * lease);
        let bound = self.dead_holder_bound();
        while asked.len() > 1 && !self.is_broken() {
            let begun = self.time;
            let next = self.first_held(&asked[1..], begun + bound);
            let (what, took) = (Handover::DeadHolder, next.map(|_| self.time - begun));
            self.see(&Fact::Handed { what, took, bound });
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
    pub(super) fn play_lost_release(&mut self, key: KeyAt) {
        let (kept, gone) = (key, key + 1);
        let both = [kept, gone].map(|key| self.voters_of_key(key));
        let votes_for_both = |host: &HostAt| both.iter().all(|voters| voters.contains(host));
        let Some(voter) = (0..self.hosts.len()).find(votes_for_both) else {
            return;
        };
        let holder = (voter + 1) % self.hosts.len();
        if holder == voter {
            return;
        }
        self.pass_quarantine();
        let [Some(first), Some(second)] = [kept, gone].map(|key| self.probe(holder, key)) else {
            return;
        };
        self.pass(self.lease());
        self.cut(&[(holder, voter)]);
        self.let_go(holder, second);
        self.mend_links(&[(holder, voter)]);
        // The holder sends its digest twice, since the voter acts on the second difference.
        self.pass(self.settings.at_most(self.settings.timing.max_ttl * 2));
        if let Some(it) = self.process(voter).and_then(|it| it.node.voter()) {
            let fact = Fact::Keeps {
                host: voter,
                slots: it.slots(),
                wanted: 1,
            };
            self.see(&fact);
        }
        self.let_go(holder, first);
        self.pass_settled();
    }

    /// M6 and L3: a holder through the trait shuts down or crashes, and may start again. A `try`
    /// beside it gets `false` within a bound.
    pub(super) fn play_dead_owner(&mut self, key: KeyAt) {
        let Some((owner, other)) = self.pair_that_may_crash(key) else {
            return;
        };
        self.pass_quarantine();
        let outlives = true;
        let tick = Wish {
            outlives,
            ..self.try_wish(key)
        };
        let what = Handover::DeadOwner;
        for (in_order, starts) in [(true, true), (false, true), (false, false)] {
            let Some(first) = self.ask(owner, None, tick) else {
                return;
            };
            self.pass_round_trips(3);
            if !self.is_held(first) {
                return;
            }
            match in_order {
                true => self.shut_down_and_end(owner),
                false => self.crash(owner),
            }
            if starts {
                self.start(owner, false, false);
            }
            let begun = self.time;
            let Some(second) = self.ask(other, None, tick) else {
                return;
            };
            // Three retransmissions take 14 round trips, and the next two 16 and 32 more. By then
            // the holder has been silent for `holder_probe_interval`.
            let probe = self.settings.timing.holder_probe_interval.as_nanos() as u64;
            let bound = probe + 64 * self.settings.round_trip();
            let came = self.run_until(begun + bound, |world| world.is_decided(second));
            let took = came.then(|| self.time - begun);
            self.see(&Fact::Handed { what, took, bound });
            self.let_go(other, second);
            self.pass(2 * self.lease());
            self.start(owner, false, false);
            self.pass_round_trips(20);
        }
    }

    /// L1: each voter's vote is out for a different claim of a process that is gone, so none of
    /// these claims is granted. A `try` made before them does not get `false`; it is granted after
    /// they expire.
    pub(super) fn play_split_votes(&mut self, key: KeyAt) {
        let voters = self.voters_of_key(key);
        let Some((gone, other)) = self.pair_that_may_crash(key) else {
            return;
        };
        if voters.len() < 3 {
            return;
        }
        self.pass_quarantine();
        let to_voters = |host: HostAt, but: Option<HostAt>| {
            let mut voters = voters.clone();
            voters.retain(|it| *it != host && Some(*it) != but);
            both_ways(host, &voters)
        };
        self.network.cut(&to_voters(other, None));
        let tick = self.try_wish(key);
        let Some(first) = self.ask(other, None, tick) else {
            return;
        };
        for voter in voters.iter().copied().filter(|voter| *voter != other) {
            let links = to_voters(gone, Some(voter));
            self.network.cut(&links);
            self.start(gone, false, false);
            let outlives = true;
            self.ask(gone, None, Wish { outlives, ..tick });
            self.pass_round_trips(1);
            self.crash(gone);
            self.network.mend(&links);
        }
        self.network.mend(&to_voters(other, None));
        let bound = self.lease() * 2 + 100 * self.settings.round_trip();
        if !self.run_until(self.time + bound, |world| world.is_decided(first)) {
            let request = first;
            self.see(&Fact::Unserved { request, bound });
        }
        self.let_go(other, first);
        self.start(gone, false, false);
        self.pass_settled();
    }

    /// L1: more keys are requested at one instant than voters keep. They take turns.
    pub(super) fn play_crowd(&mut self, first: KeyAt) {
        let hosts = self.start_rng.sample(self.hosts.len(), 8);
        let keys = first..first + PROBE_KEYS - 1;
        let mut asked = Vec::new();
        for (host, key) in hosts.into_iter().zip(keys) {
            asked.extend(self.probe(host, key).map(|id| (host, id)));
        }
        let bound = self.lease() + 400 * self.settings.round_trip();
        while !asked.is_empty() && !self.is_broken() {
            let Some(next) = self.first_held(&asked, self.time + bound) else {
                let (_, request) = asked[0];
                return self.see(&Fact::Unserved { request, bound });
            };
            let (host, request) = asked.remove(next);
            self.let_go(host, request);
        }
    }
}
