//! More stories for the settled phase: withdrawals, restarts, distant waiters and adopted
//! incarnations. A world plays four of them.

use lockmesh_proto::Incarnation;

use crate::gossip::Sighting;
use crate::invariants::{End, Fact, Handover, Host as HostAt, KeyAt, RequestId};
use crate::rng::Rng;
use crate::settings::{PROBE_KEYS, SECOND};
use crate::workload::{Status, Wish};
use crate::world::World;

type Story = fn(&mut World, KeyAt);

/// The number of these stories that a world plays.
const PLAYED: usize = 4;

impl World {
    /// Plays some of these stories, or only `play_maimed` if a minority is broken for good.
    pub(crate) fn play_more(&mut self) {
        let end = self.settings.habits.keys + PROBE_KEYS;
        let keys = end - 2 * PLAYED..end;
        if !self.broken.is_empty() {
            return self.play_maimed(keys);
        }
        let stories: [Story; 15] = [
            Self::play_withdrawn_waiter,
            Self::play_reborn_waiter,
            Self::play_reborn_holder,
            Self::play_denied_try,
            Self::play_lost_word,
            Self::play_slow_waiter,
            Self::play_far_waiter,
            Self::play_new_sessions,
            Self::play_adoption,
            Self::play_called_dead,
            Self::play_late_fence,
            Self::play_left_flag,
            Self::play_skewed_voter,
            Self::play_stall,
            Self::play_stall,
        ];
        let mut rng = Rng::stream(self.settings.seed, "stories");
        let chosen = rng.sample(stories.len(), PLAYED);
        for (story, key) in chosen.into_iter().zip(keys.step_by(2)) {
            if self.laws.violations.is_empty() {
                self.pass_quarantine();
                stories[story](self, key);
            }
        }
    }

    pub(crate) fn is_held(&self, request: RequestId) -> bool {
        matches!(self.probed.get(&request), Some(Status::Held { .. }))
    }

    /// Passes enough time for voters that crashed in an earlier story to leave recovery.
    fn pass_quarantine(&mut self) {
        let quarantine = self.settings.at_most(self.settings.timing.quarantine());
        self.pass(quarantine + 2 * SECOND);
    }

    /// Passes enough time for all messages to arrive, and for a claim that gets `Stale` to be made
    /// anew.
    fn settle(&mut self) {
        self.pass(20 * self.laws.history.terms.settled);
    }

    /// Submits requests on three hosts: the first one holds the key, the others wait in this order.
    /// The second host does not vote for the key.
    fn queue_of_three(&mut self, key: KeyAt) -> Option<[(HostAt, RequestId); 3]> {
        let (second, _) = self.pair_that_may_die(key)?;
        let mut others = (0..self.hosts.len()).filter(|host| *host != second);
        let hosts = [others.next()?, second, others.next()?];
        let mut queue = Vec::new();
        for host in hosts {
            queue.push((host, self.probe(host, self.wish(key))?));
            self.settle();
        }
        let is_held = self.is_held(queue[0].1);
        queue.try_into().ok().filter(|_| is_held)
    }

    /// L4: a waiter that withdraws does not delay those behind it.
    fn play_withdrawn_waiter(&mut self, key: KeyAt) {
        let Some([first, second, last]) = self.queue_of_three(key) else {
            return;
        };
        self.let_go(second.0, second.1);
        self.settle();
        self.let_go(first.0, first.1);
        let bound = self.hand_over_bound(first.0, key);
        self.expect_grant(last.1, Handover::Release, bound);
        self.let_go(last.0, last.1);
    }

    /// Rule 7: a waiter that crashes and comes back does not delay those behind it.
    fn play_reborn_waiter(&mut self, key: KeyAt) {
        let Some([first, second, last]) = self.queue_of_three(key) else {
            return;
        };
        self.crash(second.0);
        self.start(second.0, false, false);
        self.settle();
        self.let_go(first.0, first.1);
        let bound = self.hand_over_bound(first.0, key);
        self.expect_grant(last.1, Handover::Release, bound);
        self.let_go(last.0, last.1);
    }

    /// Rule 7: a holder crashes and comes back, and its key is free at once.
    fn play_reborn_holder(&mut self, key: KeyAt) {
        let Some((holder, next)) = self.pair_that_may_die(key) else {
            return;
        };
        let first = self.probe(holder, self.wish(key));
        self.settle();
        let second = self.probe(next, self.wish(key));
        self.settle();
        let (Some(first), Some(second)) = (first, second) else {
            return;
        };
        if !self.is_held(first) {
            return;
        }
        self.crash(holder);
        self.start(holder, false, false);
        // It may first have to learn that its incarnation is too low.
        let bound = 4 * self.settings.round_trip();
        self.expect_grant(second, Handover::Reborn, bound);
        self.let_go(next, second);
    }

    /// Rules 8 and 16: a `try` beside a holder gets `false` at once.
    fn play_denied_try(&mut self, key: KeyAt) {
        let hosts = self.start_rng.sample(self.hosts.len(), 2);
        let [holder, other] = hosts[..] else {
            return;
        };
        let Some(first) = self.probe(holder, self.wish(key)) else {
            return;
        };
        self.settle();
        let wish = Wish {
            is_try: true,
            renews: false,
            ..self.wish(key)
        };
        let begun = self.time;
        let Some(asked) = self.probe(other, wish).filter(|_| self.is_held(first)) else {
            return self.let_go(holder, first);
        };
        // Claimant to voters, voters to holder, and the same way back.
        let bound = self.round_trip_to_voters(other, key) + self.round_trip_to_voters(holder, key);
        let is_denied = move |world: &Self| {
            let status = world.probed.get(&asked);
            matches!(
                status,
                Some(Status::Over {
                    how: End::Denied,
                    ..
                })
            )
        };
        let came = self.run_until(begun + 10 * bound, is_denied);
        let took = came.then(|| self.time - begun);
        let what = Handover::Try;
        self.see(&Fact::Handed { what, took, bound });
        self.let_go(holder, first);
        self.settle();
    }

    /// Rules 5 and 17: a lost release delays waiters by one `holder_probe_interval`.
    fn play_lost_word(&mut self, key: KeyAt) {
        let hosts = self.start_rng.sample(self.hosts.len(), 2);
        let [holder, other] = hosts[..] else {
            return;
        };
        let Some(first) = self.probe(holder, self.wish(key)) else {
            return;
        };
        self.pass(4 * self.settings.round_trip());
        let voters = self.laws.history.terms.voters[key].clone();
        let voters = voters.into_iter().filter(|voter| *voter != holder);
        let links: Vec<_> = voters.map(|voter| (holder, voter)).collect();
        self.cut(&links);
        self.let_go(holder, first);
        self.mend_links(&links);
        let Some(second) = self.probe(other, self.wish(key)) else {
            return;
        };
        // A voter with a recent message of the holder probes it only at the waiter's next message.
        let timing = &self.settings.timing;
        let pace = (timing.round_trip * 50).min(timing.max_ttl / 4);
        let bound = self.settings.at_most(timing.holder_probe_interval + pace)
            + 4 * self.settings.round_trip();
        self.expect_grant(second, Handover::Reborn, bound);
        self.let_go(other, second);
    }

    /// L4: a waiter with a slow clock learns the fence while the lock is held, not after that.
    fn play_slow_waiter(&mut self, key: KeyAt) {
        let hosts = self.start_rng.sample(self.hosts.len(), 2);
        let [holder, slow] = hosts[..] else {
            return;
        };
        let Some(first) = self.probe(holder, self.wish(key)) else {
            return;
        };
        // It was renewed, so its voters know that it is granted.
        self.pass(self.settings.max_ttl());
        let skew = self.settings.timing.max_clock_skew.as_millis() as i64;
        self.hosts[slow].clock.set_wall(-skew / 2);
        let second = self.probe(slow, self.wish(key));
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
    fn play_called_dead(&mut self, key: KeyAt) {
        let Some([first, second, last]) = self.queue_of_three(key) else {
            return;
        };
        for host in (0..self.hosts.len()).filter(|host| *host != second.0) {
            self.tell_wrongly(host, second.0);
        }
        self.settle();
        let bound = self.hand_over_bound(first.0, key);
        self.let_go(first.0, first.1);
        self.expect_grant(second.1, Handover::Release, bound);
        for host in 0..self.hosts.len() {
            self.tell_truth(host);
        }
        self.let_go(second.0, second.1);
        self.settle();
        self.let_go(last.0, last.1);
    }

    /// L4: a waiter with a slow clock that is below the fence at the release gets `Stale`.
    fn play_late_fence(&mut self, key: KeyAt) {
        let hosts = self.start_rng.sample(self.hosts.len(), 2);
        let [holder, slow] = hosts[..] else {
            return;
        };
        let skew = self.settings.timing.max_clock_skew.as_millis() as i64;
        self.hosts[slow].clock.set_wall(-skew / 2);
        let first = self.probe(holder, self.wish(key));
        // The fence is above its clock, and it has not learnt it.
        self.pass(self.laws.history.terms.settled);
        let second = self.probe(slow, self.wish(key));
        let voters = self.laws.history.terms.voters[key].iter();
        let others = voters.filter(|voter| **voter != slow);
        let ways = others.map(|voter| self.network.longest(slow, *voter));
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
    fn play_far_waiter(&mut self, key: KeyAt) {
        let count = self.hosts.len().min(4);
        let hosts = self.start_rng.sample(self.hosts.len(), count);
        let is_voter = |host: &HostAt| self.laws.history.terms.voters[key].contains(host);
        let Some(far) = hosts.iter().copied().find(|host| !is_voter(host)) else {
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
                let request = self.probe(far, self.wish(key));
                waiter = request.map(|request| (request, self.time));
            }
            for (host, asked) in near.iter().zip(&mut asked) {
                let is_over = |id: RequestId| {
                    matches!(self.probed.get(&id), Some(Status::Over { .. }) | None)
                };
                if asked.is_none_or(is_over) {
                    let next = RequestId(self.requests + 1);
                    self.holds.insert(next, hold);
                    *asked = self.probe(*host, self.wish(key));
                }
            }
            let Some((request, begun)) = waiter else {
                self.pass(hold / 4);
                continue;
            };
            // It was granted, but too briefly for a renewal over a slow link.
            let was_held = matches!(
                self.probed.get(&request),
                Some(Status::Over { how: End::Lost, .. })
            );
            let is_served = self.is_held(request) || was_held;
            let is_done = is_served || self.time > begun + bound;
            if is_done || !self.laws.violations.is_empty() {
                let took = is_served.then(|| self.time - begun);
                let what = Handover::Churn;
                self.see(&Fact::Handed { what, took, bound });
                break;
            }
            self.pass(hold / 4);
        }
        for (host, asked) in near.iter().zip(asked) {
            asked
                .into_iter()
                .for_each(|request| self.let_go(*host, request));
        }
        if let Some((request, _)) = waiter {
            self.let_go(far, request);
        }
    }

    /// Rule 20: a voter that lost its memory covers a holder's new claims, and none that it covered
    /// before. A holder that assumes otherwise counts a vote that does not exist.
    fn play_new_sessions(&mut self, key: KeyAt) {
        let voters = self.laws.history.terms.voters.clone();
        let (kept, fresh) = (key, key + 1);
        let Some(holder) = (0..self.hosts.len()).find(|host| !voters[kept].contains(host)) else {
            return;
        };
        let both = |host: &HostAt| voters[kept].contains(host) && voters[fresh].contains(host);
        let Some(forgets) = (0..self.hosts.len()).find(|host| *host != holder && both(host)) else {
            return;
        };
        // Its first session belongs to the holder, before and after its memory loss.
        self.crash(forgets);
        self.start(forgets, false, false);
        self.pass_quarantine();
        let Some(first) = self.probe(holder, self.wish(kept)) else {
            return;
        };
        // All votes for it are covered.
        self.pass(self.settings.at_most(self.settings.timing.max_ttl));
        let links = [(holder, forgets), (forgets, holder)];
        self.cut(&links);
        self.crash(forgets);
        self.start(forgets, false, false);
        let Some(second) = self.probe(holder, self.wish(fresh)) else {
            return;
        };
        self.pass_quarantine();
        let lease = self.settings.at_most(self.settings.timing.max_ttl);
        // Its messages about old sessions are lost at times.
        let way_back = [(forgets, holder)];
        let from_others: Vec<_> = voters[kept]
            .iter()
            .filter(|voter| **voter != forgets)
            .take(self.laws.history.quorum(kept) - 1)
            .flat_map(|voter| [(holder, *voter), (*voter, holder)])
            .collect();
        // From now on the lease needs the vote of the voter that lost its memory.
        self.cut(&from_others);
        self.mend_links(&links);
        let step = lease / 24;
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
        self.pass(lease);
    }

    /// Section 7: a granted node receives a message that names an incarnation of its own with a
    /// higher number.
    fn play_adoption(&mut self, key: KeyAt) {
        let voters = self.laws.history.terms.voters[key].clone();
        let Some(holder) = (0..self.hosts.len()).find(|host| !voters.contains(host)) else {
            return;
        };
        let Some(rival) = (0..self.hosts.len()).find(|host| *host != holder && voters.len() >= 3)
        else {
            return;
        };
        let knows = voters[0];
        let all = 0..self.hosts.len();
        let to_others: Vec<_> = all
            .filter(|host| *host != holder && *host != knows)
            .flat_map(|host| [(holder, host), (host, holder)])
            .collect();
        let to_it = [(holder, knows), (knows, holder)];
        // Only one voter learns of an incarnation with a far higher number.
        self.cut(&to_others);
        let incarnations = self.hosts[holder].incarnations.iter();
        let last = incarnations
            .map(|incarnation| incarnation.incarnation.get())
            .max();
        let last = last.unwrap_or_default();
        self.be_born(holder, last + 1_000_000);
        self.settle();
        self.cut(&to_it);
        self.mend_links(&to_others);
        self.be_born(holder, last + 1);
        let first = self.probe(holder, self.wish(key));
        self.settle();
        let second = self.probe(rival, self.wish(key));
        self.pass(self.settings.max_ttl() / 2);
        self.mend_links(&to_it);
        let bound = self.settings.max_ttl() / 2 + 4 * self.settings.round_trip();
        if let Some(second) = second.filter(|_| first.is_some()) {
            self.expect_grant(second, Handover::Reborn, bound);
            self.let_go(rival, second);
        }
        if let Some(first) = first {
            self.let_go(holder, first);
        }
        self.settle();
    }

    /// Section 6: a member starts with the new-cluster flag left on, after all others have lost
    /// their memory of it. Voters that were in quarantine vouch for no member.
    fn play_left_flag(&mut self, key: KeyAt) {
        let voters = self.laws.history.terms.voters[key].clone();
        let members = self.settings.members;
        if !(2..=5).contains(&members) {
            return;
        }
        // This gives it something to forget.
        let Some(request) = self.probe(voters[0], self.wish(key)) else {
            return;
        };
        self.settle();
        self.let_go(voters[0], request);
        self.settle();
        let flagged = voters[0];
        self.crash(flagged);
        let others: Vec<HostAt> = (0..members).filter(|other| *other != flagged).collect();
        for other in &others {
            self.crash(*other);
            self.start(*other, false, false);
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
        for host in 0..self.hosts.len() {
            self.tell_truth(host);
        }
        let vote = |world: &Self| others.iter().all(|other| world.votes(*other));
        self.run_until(self.time + 20 * self.settings.round_trip(), vote);
        self.mend_links(&to_it);
        self.pass_quarantine();
    }

    fn votes(&self, host: HostAt) -> bool {
        let voter = self.process(host).and_then(|it| it.node.voter());
        voter.is_some_and(|voter| voter.quarantine().is_none())
    }

    /// Section 2: no voter refuses a granted claim for its skew.
    fn play_skewed_voter(&mut self, key: KeyAt) {
        let voters = self.laws.history.terms.voters[key].clone();
        let Some(holder) = (0..self.hosts.len()).find(|host| !voters.contains(host)) else {
            return;
        };
        let [skewed, other, ..] = voters[..] else {
            return;
        };
        if voters.len() != 3 || !self.may_miss(skewed) {
            return;
        }
        let both = |voter: HostAt| [(holder, voter), (voter, holder)];
        self.cut(&both(skewed));
        let Some(request) = self.probe(holder, self.wish(key)) else {
            return;
        };
        self.settle();
        // Further behind than all the time that is passed here.
        let lease_ms = self.settings.timing.max_ttl.as_millis() as i64;
        self.hosts[skewed].clock.set_wall(-20 * lease_ms);
        self.mend_links(&both(skewed));
        let lease = self.settings.at_most(self.settings.timing.max_ttl);
        self.pass(lease);
        self.cut(&both(other));
        self.pass(2 * lease);
        let held = self.is_held(request);
        self.see(&Fact::Stalled { request, held });
        self.mend_links(&both(other));
        self.hosts[skewed].clock.set_wall(0);
        self.let_go(holder, request);
        self.settle();
    }

    /// L7: the voters are unreachable twice, before a lease is covered and after.
    fn play_stall(&mut self, key: KeyAt) {
        let holder = self.start_rng.below(self.hosts.len() as u64) as HostAt;
        if self.settings.timing.max_drift_ppm > 5_000 {
            return;
        }
        let first = self.settings.habits.keys;
        let keys: Vec<KeyAt> = (first..first + 6).chain([key]).collect();
        let requests: Vec<RequestId> = keys
            .iter()
            .filter_map(|key| self.probe(holder, self.wish(*key)))
            .collect();
        let others = (0..self.hosts.len()).filter(|host| *host != holder);
        let links: Vec<_> = others.map(|host| (holder, host)).collect();
        let ttl = self.settings.max_ttl();
        self.pass(4 * self.settings.round_trip());
        let held: Vec<RequestId> = requests
            .into_iter()
            .filter(|it| self.is_held(*it))
            .collect();
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
    fn be_born(&mut self, host: HostAt, number: u64) {
        self.crash(host);
        let addr = self.hosts[host].addr;
        let incarnation = Incarnation::new(number);
        let incarnation = Sighting { addr, incarnation };
        self.hosts[host].incarnations.push(incarnation);
        self.count("restarts");
        self.start_as(host, false);
        self.tell_truth(host);
    }
}
