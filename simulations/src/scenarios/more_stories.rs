//! The stories of which a settled world plays four: withdrawals, restarts, distant waiters, adopted
//! incarnations, and keys under a broken minority of the voters.

use super::settled::both_ways;
use crate::cluster::{Sighting, World};
use crate::judge::{End, Fact, Handover, HostAt, KeyAt, RequestId};
use crate::kernel::{Rng, SECOND};
use crate::proto::Incarnation;
use crate::users::Status;

impl World {
    /// Submits requests on three hosts: the first one holds the key, the others wait in this order.
    /// The second host does not vote for the key.
    fn queue_of_three(&mut self, key: KeyAt) -> Option<[(HostAt, RequestId); 3]> {
        let (second, _) = self.pair_that_may_crash(key)?;
        let mut others = (0..self.hosts.len()).filter(|host| *host != second);
        let hosts = [others.next()?, second, others.next()?];
        let mut queue = Vec::new();
        for host in hosts {
            queue.push((host, self.probe(host, key)?));
            self.settle();
        }
        let is_held = self.is_held(queue[0].1);
        queue.try_into().ok().filter(|_| is_held)
    }

    /// S8 and S6: the voters of a key are shut down one by one under a lease. Each takes its memory
    /// up, and the lease lives.
    pub(super) fn play_deploy(&mut self, key: KeyAt) {
        let round_trip = self.settings.round_trip();
        let voters = self.voters_of_key(key);
        let has_time = |span: u64| span >= 20 * round_trip;
        let Some(holder) = self.outside(key) else {
            return;
        };
        if !self.settings.handover_span.is_some_and(has_time) || voters.len() < 3 {
            return;
        }
        let request = self.probe(holder, key);
        self.settle();
        let Some(request) = request.filter(|request| self.is_held(*request)) else {
            return;
        };
        let votes = |world: &Self, voter: HostAt| {
            let voter = world.process(voter).and_then(|it| it.node.voter());
            voter.is_some_and(|voter| voter.quarantine().is_none())
        };
        for voter in voters {
            if self.hosts[voter].disk.is_some() || !votes(self, voter) {
                continue;
            }
            self.shut_down_and_end(voter);
            self.start(voter, false, false);
            let (begun, bound) = (self.time, 40 * round_trip);
            let came = self.run_until(begun + bound, |world| votes(world, voter));
            let came = came && self.hosts[voter].keepers > 0;
            let took = came.then(|| self.time - begun);
            self.see(&Fact::Deployed { voter, took, bound });
            self.settle();
        }
        let held = self.is_held(request);
        self.see(&Fact::Survived { request, held });
        self.let_go(holder, request);
    }

    /// L4: a waiter that withdraws does not delay those behind it.
    pub(super) fn play_withdrawn_waiter(&mut self, key: KeyAt) {
        if let Some([first, second, last]) = self.queue_of_three(key) {
            self.let_go(second.0, second.1);
            self.settle();
            let bound = self.hand_over_bound(first.0, key);
            self.pass_on(first, last, Handover::Release, bound);
        }
    }

    /// Rule 7: a waiter that crashes and comes back does not delay those behind it. If nothing
    /// proves that it crashed (rule 25), its turn comes and expires.
    pub(super) fn play_restarted_waiter(&mut self, key: KeyAt) {
        let Some([first, second, last]) = self.queue_of_three(key) else {
            return;
        };
        let is_proven = self.restart_proves(second.0);
        self.settle();
        let (what, bound) = match is_proven {
            true => (Handover::Release, self.hand_over_bound(first.0, key)),
            false => (Handover::DeadWaiter, self.dead_waiter_bound()),
        };
        self.pass_on(first, last, what, bound);
    }

    /// The key passes from the first of a queue to the last.
    fn pass_on(
        &mut self,
        first: (HostAt, RequestId),
        last: (HostAt, RequestId),
        what: Handover,
        bound: u64,
    ) {
        self.let_go(first.0, first.1);
        self.expect_grant(last.1, what, bound);
        self.let_go(last.0, last.1);
    }

    /// Restarts a host at its address. Returns `true` if that proves its earlier incarnation over:
    /// that one had no other address (rule 25).
    fn restart_proves(&mut self, host: HostAt) -> bool {
        let process = self.hosts[host].process.as_ref();
        let has_moved = process.is_some_and(|process| process.has_moved);
        self.restart(host);
        !has_moved
    }

    /// Rule 7: a holder crashes and comes back, and its key is free at once. If nothing proves that
    /// it crashed (rule 25), its lease runs out.
    pub(super) fn play_restarted_holder(&mut self, key: KeyAt) {
        let Some((holder, next)) = self.pair_that_may_crash(key) else {
            return;
        };
        let first = self.probe(holder, key);
        self.settle();
        let second = self.probe(next, key);
        self.settle();
        let (Some(first), Some(second)) = (first, second) else {
            return;
        };
        if !self.is_held(first) {
            return;
        }
        let (what, bound) = match self.restart_proves(holder) {
            // It may first have to learn that its incarnation is too low.
            true => (Handover::Restarted, 4 * self.settings.round_trip()),
            false => (Handover::DeadHolder, self.dead_holder_bound()),
        };
        self.expect_grant(second, what, bound);
        self.let_go(next, second);
        self.settle();
        self.try_after_restart(holder, key);
    }

    /// Rules 8 and 25: a holder crashes and comes back, and its `try` is not denied by its lease.
    fn try_after_restart(&mut self, holder: HostAt, key: KeyAt) {
        let Some(first) = self.probe(holder, key) else {
            return;
        };
        self.settle();
        if !self.is_held(first) || !self.restart_proves(holder) {
            return;
        }
        let Some(again) = self.ask(holder, None, self.try_wish(key)) else {
            return;
        };
        // Rule 16 would deny it sooner.
        let bound = 64 * self.settings.round_trip();
        self.expect_grant(again, Handover::Restarted, bound);
        self.let_go(holder, again);
    }

    /// Rules 8 and 16: a `try` beside a holder gets `false` at once.
    pub(super) fn play_denied_try(&mut self, key: KeyAt) {
        let Some([holder, other]) = self.two_hosts() else {
            return;
        };
        let Some(first) = self.probe(holder, key) else {
            return;
        };
        self.settle();
        let begun = self.time;
        let asked = self.ask(other, None, self.try_wish(key));
        let Some(asked) = asked.filter(|_| self.is_held(first)) else {
            return self.let_go(holder, first);
        };
        // Claimant to voters, voters to holder, and the same way back.
        let bound = self.round_trip_to_voters(other, key) + self.round_trip_to_voters(holder, key);
        let is_denied = |world: &Self| {
            let how = End::Denied;
            matches!(world.probed.get(&asked), Some(Status::Over { how: it, .. }) if *it == how)
        };
        let came = self.run_until(begun + 10 * bound, is_denied);
        let (what, took) = (Handover::Try, came.then(|| self.time - begun));
        self.see(&Fact::Handed { what, took, bound });
        self.let_go(holder, first);
        self.settle();
    }

    /// Rules 5 and 17: a lost release delays waiters by one `holder_probe_interval`.
    pub(super) fn play_late_release(&mut self, key: KeyAt) {
        let Some([holder, other]) = self.two_hosts() else {
            return;
        };
        let Some(first) = self.probe(holder, key) else {
            return;
        };
        self.pass_round_trips(4);
        let voters = self.voters_of_key(key).into_iter();
        let voters = voters.filter(|voter| *voter != holder);
        let links: Vec<_> = voters.map(|voter| (holder, voter)).collect();
        self.cut(&links);
        self.let_go(holder, first);
        self.mend_links(&links);
        let Some(second) = self.probe(other, key) else {
            return;
        };
        // A voter with a recent message of the holder probes it only at the waiter's next message.
        let timing = &self.settings.timing;
        let backoff = (timing.round_trip * 50).min(timing.max_ttl / 4);
        let bound = self
            .settings
            .at_most(timing.holder_probe_interval + backoff)
            + 4 * self.settings.round_trip();
        self.expect_grant(second, Handover::Restarted, bound);
        self.let_go(other, second);
    }

    /// Sets the wall clock of a host back by half of the allowed skew.
    fn slow_down(&mut self, host: HostAt) {
        let skew = self.settings.timing.max_clock_skew.as_millis() as i64;
        self.hosts[host].clock.set_wall(-skew / 2);
    }

    /// L4: a waiter with a slow clock learns the fence while the lock is held, not after that.
    pub(super) fn play_slow_waiter(&mut self, key: KeyAt) {
        let Some([holder, slow]) = self.two_hosts() else {
            return;
        };
        let Some(first) = self.probe(holder, key) else {
            return;
        };
        // It was renewed, so its voters know that it is granted.
        self.pass(self.settings.max_ttl());
        self.slow_down(slow);
        let second = self.probe(slow, key);
        self.settle();
        let bound = self.hand_over_bound(holder, key);
        self.let_go(holder, first);
        if let Some(second) = second {
            self.expect_grant(second, Handover::Release, bound);
            self.let_go(slow, second);
        }
        self.hosts[slow].clock.set_wall(0);
    }

    /// A node that gossip wrongly reports as dead keeps its place while it sends messages.
    pub(super) fn play_called_dead(&mut self, key: KeyAt) {
        let Some([first, second, last]) = self.queue_of_three(key) else {
            return;
        };
        for host in (0..self.hosts.len()).filter(|host| *host != second.0) {
            self.send_false_view(host, second.0);
        }
        self.settle();
        let bound = self.hand_over_bound(first.0, key);
        self.let_go(first.0, first.1);
        self.expect_grant(second.1, Handover::Release, bound);
        self.send_true_views();
        self.let_go(second.0, second.1);
        self.settle();
        self.let_go(last.0, last.1);
    }

    /// L4: a waiter with a slow clock that is below the fence at the release gets `Stale`.
    pub(super) fn play_late_fence(&mut self, key: KeyAt) {
        let Some([holder, slow]) = self.two_hosts() else {
            return;
        };
        self.slow_down(slow);
        let first = self.probe(holder, key);
        // The fence is above its clock, and it has not learnt it.
        self.pass_settled();
        let second = self.probe(slow, key);
        let voters = self.voters_of_key(key).into_iter();
        let others = voters.filter(|voter| *voter != slow);
        let ways = others.map(|voter| self.network.longest(slow, voter));
        self.pass(ways.max().unwrap_or_default());
        let Some(first) = first.filter(|first| self.is_held(*first)) else {
            return self.hosts[slow].clock.set_wall(0);
        };
        self.let_go(holder, first);
        if let Some(second) = second {
            let anew = self.round_trip_to_voters(slow, key);
            let bound = self.hand_over_bound(holder, key) + 2 * anew;
            self.expect_grant(second, Handover::Release, bound);
            self.let_go(slow, second);
        }
        self.hosts[slow].clock.set_wall(0);
        self.settle();
    }

    /// L6: a distant host with a slow wall clock waits for a key that nearby hosts request
    /// continuously.
    pub(super) fn play_far_waiter(&mut self, key: KeyAt) {
        let count = self.hosts.len().min(4);
        let hosts = self.start_rng.sample(self.hosts.len(), count);
        let voters = self.voters_of_key(key);
        let Some(far) = hosts.iter().copied().find(|host| !voters.contains(host)) else {
            return;
        };
        let timing = self.settings.timing;
        let skew = timing.max_clock_skew.as_nanos() as u64;
        let by = self.settings.round_trip();
        // It must be able to claim above what the others draw while its claim is on its way.
        if hosts.len() < 2 || skew < 20 * by {
            return;
        }
        self.hosts[far].clock.set_wall(-(skew as i64) / 2_000_000);
        self.note_links();
        self.network.set_slow(far, by);
        let near: Vec<HostAt> = hosts.into_iter().filter(|host| *host != far).collect();
        let leaps = u64::from((skew / 1_000_000).ilog2()) + 2;
        let way = 2 * by + self.settings.round_trip();
        let hold = 2 * self.settings.round_trip();
        let bound =
            leaps * 2 * way + self.settings.at_most(timing.reservation * 4) + 8 * (hold + way);
        self.churn(key, &near, hold, (far, bound));
        self.note_links();
        self.network.set_slow(far, 0);
        self.hosts[far].clock.set_wall(0);
        self.settle();
    }

    /// Nearby hosts request and hold the key until the distant one is served, or the bound is over.
    fn churn(&mut self, key: KeyAt, near: &[HostAt], hold: u64, (far, bound): (HostAt, u64)) {
        let mut asked: Vec<Option<RequestId>> = vec![None; near.len()];
        // They are active before it starts to wait.
        let warm = self.time + 10 * hold;
        let mut waiter: Option<(RequestId, u64)> = None;
        loop {
            if waiter.is_none() && self.time >= warm {
                waiter = self.probe(far, key).map(|request| (request, self.time));
            }
            for (host, asked) in near.iter().zip(&mut asked) {
                let is_over = |id: RequestId| {
                    matches!(self.probed.get(&id), Some(Status::Over { .. }) | None)
                };
                if asked.is_none_or(is_over) {
                    let next = RequestId(self.requests + 1);
                    self.holds.insert(next, hold);
                    *asked = self.probe(*host, key);
                }
            }
            if let Some((request, begun)) = waiter {
                // It was granted, but too briefly for a renewal over a slow link.
                let status = self.probed.get(&request);
                let was_held = matches!(status, Some(Status::Over { how: End::Lost, .. }));
                let is_served = self.is_held(request) || was_held;
                if is_served || self.time > begun + bound || self.is_broken() {
                    let took = is_served.then(|| self.time - begun);
                    let what = Handover::Churn;
                    self.see(&Fact::Handed { what, took, bound });
                    break;
                }
            }
            self.pass(hold / 4);
        }
        for (host, asked) in near.iter().zip(asked) {
            if let Some(request) = asked {
                self.let_go(*host, request);
            }
        }
        if let Some((request, _)) = waiter {
            self.let_go(far, request);
        }
    }

    /// Rule 20: a voter that lost its memory covers a holder's new claims, and none that it covered
    /// before. A holder that assumes otherwise counts a vote that does not exist.
    pub(super) fn play_new_sessions(&mut self, key: KeyAt) {
        let (kept, fresh) = (key, key + 1);
        let [voters, voters_too] = [kept, fresh].map(|key| self.voters_of_key(key));
        let Some(holder) = self.outside(kept) else {
            return;
        };
        let both = |host: &HostAt| voters.contains(host) && voters_too.contains(host);
        let mut hosts = 0..self.hosts.len();
        let Some(forgets) = hosts.find(|host| *host != holder && both(host)) else {
            return;
        };
        // Its first session belongs to the holder, before and after its memory loss.
        self.restart(forgets);
        self.pass_quarantine();
        let Some(first) = self.probe(holder, kept) else {
            return;
        };
        // All votes for it are covered.
        self.pass(self.lease());
        let links = both_ways(holder, &[forgets]);
        self.cut(&links);
        self.restart(forgets);
        let Some(second) = self.probe(holder, fresh) else {
            return;
        };
        self.pass_quarantine();
        // Its messages about old sessions are lost at times.
        let way_back = [(forgets, holder)];
        let others = voters.iter().copied().filter(|voter| *voter != forgets);
        let others: Vec<HostAt> = others.take(self.laws.history.quorum(kept) - 1).collect();
        let from_others = both_ways(holder, &others);
        // From now on the lease needs the vote of the voter that lost its memory.
        self.cut(&from_others);
        self.mend_links(&links);
        let step = self.lease() / 24;
        for _ in 0..24 {
            let lost = self.start_rng.chance(500_000);
            if lost {
                self.cut(&way_back);
            }
            self.pass(step);
            if lost {
                self.mend_links(&way_back);
            }
        }
        self.mend_links(&from_others);
        self.let_go(holder, first);
        self.let_go(holder, second);
        self.pass(self.lease());
    }

    /// Section 7: a granted node receives a message that names an incarnation of its own with a
    /// higher number.
    pub(super) fn play_adoption(&mut self, key: KeyAt) {
        let voters = self.voters_of_key(key);
        let Some(holder) = self.outside(key).filter(|_| voters.len() >= 3) else {
            return;
        };
        // The incarnation of a host with a journal is never too low.
        if self.hosts[holder].disk.is_some() {
            return;
        }
        let rival = usize::from(holder == 0);
        let knows = voters[0];
        let mut others: Vec<HostAt> = (0..self.hosts.len()).collect();
        others.retain(|host| *host != holder && *host != knows);
        let to_others = both_ways(holder, &others);
        let to_it = both_ways(holder, &[knows]);
        // Only one voter learns of an incarnation with a far higher number.
        self.cut(&to_others);
        let incarnations = self.hosts[holder].incarnations.iter();
        let last = incarnations.map(|it| it.incarnation).max();
        // Members may know one that a process adopted.
        let last = last.max(Some(self.hosts[holder].highest));
        let last = last.unwrap_or_default().get();
        self.restart_as(holder, last + 1_000_000);
        self.settle();
        self.cut(&to_it);
        // An answer on its way would name the incarnation too early.
        self.pass_settled();
        self.mend_links(&to_others);
        self.restart_as(holder, last + 1);
        let first = self.probe(holder, key);
        self.settle();
        let second = self.probe(rival, key);
        self.pass(self.settings.max_ttl() / 2);
        self.mend_links(&to_it);
        let bound = self.settings.max_ttl() / 2 + 4 * self.settings.round_trip();
        if let Some(second) = second.filter(|_| first.is_some()) {
            self.expect_grant(second, Handover::Restarted, bound);
            self.let_go(rival, second);
        }
        if let Some(first) = first {
            self.let_go(holder, first);
        }
        self.settle();
    }

    /// Section 6: a member starts with the new-cluster flag left on, after all others have lost
    /// their memory of it. Voters that were in quarantine vouch for no member.
    pub(super) fn play_left_flag(&mut self, key: KeyAt) {
        let members = self.settings.members;
        if !(2..=5).contains(&members) {
            return;
        }
        // This gives it something to forget.
        let flagged = self.voters_of_key(key)[0];
        let Some(request) = self.probe(flagged, key) else {
            return;
        };
        self.settle();
        self.let_go(flagged, request);
        self.settle();
        self.crash(flagged);
        let others: Vec<HostAt> = (0..members).filter(|other| *other != flagged).collect();
        for other in &others {
            self.restart(*other);
        }
        // It queries them while they are in quarantine, and receives no reply before that is over.
        let all = (0..self.hosts.len()).filter(|host| *host != flagged);
        let to_it: Vec<_> = all.map(|host| (host, flagged)).collect();
        self.cut(&to_it);
        let quarantine = self.settings.at_most(self.settings.timing.quarantine());
        self.pass(quarantine + SECOND - 10 * self.settings.round_trip());
        let incarnation = self.next_incarnation(flagged);
        self.hosts[flagged].incarnations.push(incarnation);
        self.count("restarts_told_new");
        self.start_as(flagged, true);
        self.send_true_views();
        let votes = |world: &Self, host: &HostAt| {
            let voter = world.process(*host).and_then(|it| it.node.voter());
            voter.is_some_and(|voter| voter.quarantine().is_none())
        };
        self.run_until(self.time + 20 * self.settings.round_trip(), |world| {
            others.iter().all(|other| votes(world, other))
        });
        self.mend_links(&to_it);
        self.pass_quarantine();
    }

    /// Section 2: no voter refuses a granted claim for its skew.
    pub(super) fn play_skewed_voter(&mut self, key: KeyAt) {
        let Some(holder) = self.outside(key) else {
            return;
        };
        let [skewed, other, _] = self.voters_of_key(key)[..] else {
            return;
        };
        if !self.may_miss(skewed) {
            return;
        }
        let (to_skewed, to_other) = (both_ways(holder, &[skewed]), both_ways(holder, &[other]));
        self.cut(&to_skewed);
        let Some(request) = self.probe(holder, key) else {
            return;
        };
        self.settle();
        // Further behind than all the time that is passed here.
        let lease_ms = self.settings.timing.max_ttl.as_millis() as i64;
        self.hosts[skewed].clock.set_wall(-20 * lease_ms);
        self.mend_links(&to_skewed);
        self.pass(self.lease());
        self.cut(&to_other);
        self.pass(2 * self.lease());
        let held = self.is_held(request);
        self.see(&Fact::Stalled { request, held });
        self.mend_links(&to_other);
        self.hosts[skewed].clock.set_wall(0);
        self.let_go(holder, request);
        self.settle();
    }

    /// L7: the voters are unreachable twice, before a lease is covered and after.
    pub(super) fn play_stall(&mut self, key: KeyAt) {
        let holder = self.start_rng.below(self.hosts.len() as u64) as HostAt;
        if self.settings.timing.max_drift_ppm > 5_000 {
            return;
        }
        let first = self.settings.habits.keys;
        let keys = (first..first + 6).chain([key]);
        let mut held: Vec<RequestId> = keys.filter_map(|key| self.probe(holder, key)).collect();
        let others = (0..self.hosts.len()).filter(|host| *host != holder);
        let links: Vec<_> = others.map(|host| (holder, host)).collect();
        let ttl = self.settings.max_ttl();
        self.pass_round_trips(4);
        held.retain(|it| self.is_held(*it));
        // The first stall loses two rounds of renewals, the second lasts half of a session's ttl.
        for (before, away) in [(0, ttl / 100 * 65), (2 * ttl, ttl / 2)] {
            self.pass(before);
            self.cut(&links);
            self.pass(away);
            self.mend_links(&links);
            self.pass(ttl);
        }
        for request in held {
            let held = self.is_held(request);
            self.see(&Fact::Stalled { request, held });
            self.let_go(holder, request);
        }
        self.settle();
    }

    /// Crashes a host, and restarts it in this incarnation.
    fn restart_as(&mut self, host: HostAt, number: u64) {
        self.crash(host);
        let addr = self.hosts[host].addr;
        let incarnation = Incarnation::new(number);
        let version = Some(self.hosts[host].version);
        let incarnation = Sighting {
            addr,
            incarnation,
            version,
        };
        self.hosts[host].incarnations.push(incarnation);
        self.count("restarts");
        self.start_as(host, false);
        self.send_true_view(host);
    }

    /// L6: keys change hands among the hosts that are not broken.
    pub(super) fn play_broken_minority(&mut self, keys: impl Iterator<Item = KeyAt>) {
        let mut rng = Rng::stream(self.settings.seed, "whole");
        let whole = self.whole();
        if whole.len() < 2 {
            return;
        }
        for key in keys {
            let [first, second] = [0, 1].map(|at| whole[rng.sample(whole.len(), 2)[at]]);
            self.hand_over(key, first, second);
            if self.is_broken() {
                return;
            }
        }
    }

    fn hand_over(&mut self, key: KeyAt, first: HostAt, second: HostAt) {
        // A reservation may have to expire first if the messages of a voter are lost.
        let timing = self.settings.timing;
        let reservations = timing.reservation + timing.holder_probe_interval;
        let bound = self.settings.at_most(reservations) + 20 * self.settings.round_trip();
        let what = Handover::BrokenMinority;
        let Some(one) = self.probe(first, key) else {
            return;
        };
        self.expect_grant(one, what, bound);
        self.pass_round_trips(20);
        let Some(two) = self.probe(second, key) else {
            return;
        };
        self.pass(self.settings.max_ttl());
        let held = self.is_held(one);
        self.see(&Fact::Survived { request: one, held });
        self.let_go(first, one);
        self.expect_grant(two, what, bound);
        self.let_go(second, two);
        self.pass_settled();
    }
}
