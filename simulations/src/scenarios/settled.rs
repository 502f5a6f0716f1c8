//! The phase after the faults: all of them are healed, and then the laws of liveness are judged.
//!
//! First every requested lock is granted, then every voter and claimant is empty. Then stories are
//! played on the idle cluster: short scripts, each on its own keys, with stated bounds.

use crate::algorithms::Algorithm;
use crate::cluster::{PROBE_KEYS, Rates, World};
use crate::judge::{Fact, Handover, HostAt, KeyAt, RequestId};
use crate::kernel::{Rng, SECOND};
use crate::proto::PROTOCOL_VERSION;
use crate::users::{ClientState, Status, Wish};

/// A script for an idle cluster. It may use the key after its own, too.
type Script = fn(&mut World, KeyAt);

/// The stories of every settled world, in this order, each on a key of its own.
const STORIES: [Script; 11] = [
    World::play_free_then_release,
    World::play_storm,
    World::play_dead_holder,
    World::play_dead_waiter,
    World::play_rolling_restart,
    World::play_forgetful_voter,
    World::play_frozen_holder,
    World::play_early_voter,
    World::play_dead_owner,
    World::play_split_votes,
    World::play_lost_release,
];
/// A settled world plays [`DRAWN`] of these.
const MORE_STORIES: [Script; 16] = [
    World::play_withdrawn_waiter,
    World::play_restarted_waiter,
    World::play_restarted_holder,
    World::play_denied_try,
    World::play_late_release,
    World::play_slow_waiter,
    World::play_far_waiter,
    World::play_new_sessions,
    World::play_adoption,
    World::play_called_dead,
    World::play_late_fence,
    World::play_left_flag,
    World::play_skewed_voter,
    World::play_stall,
    World::play_stall,
    World::play_deploy,
];
const DRAWN: usize = 4;

impl World {
    /// Runs the second half of a run.
    pub(crate) fn run_settled(&mut self) {
        self.heal();
        self.expect_served();
        if self.settings.algorithm != Algorithm::Lockmesh {
            // The rest is about bounds that only lockmesh promises.
            return;
        }
        if !self.is_broken() {
            self.expect_drained();
        }
        if !self.is_broken() && self.broken.is_empty() {
            self.play();
        }
        // A voter with tight limits does not keep the bounds of these.
        if !self.is_broken() && !self.settings.is_tight() {
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
        self.settings.versions.change_ppm = 0;
        for host in 0..self.hosts.len() {
            self.hosts[host].mapped = None;
            if self.hosts[host].is_other {
                self.crash(host);
                self.change(host, false);
            }
            if self.hosts[host].was_far_ahead {
                // It may have voted for its own claims, with epochs that all others refuse. Its
                // fence then blocks keys until time catches up, so an operator would restart it,
                // without its journal.
                self.crash(host);
                self.clear_disk(host);
            }
            if self.hosts[host].version != PROTOCOL_VERSION {
                // The upgrade ends. Nodes of the old version do not vote for keys that are marked.
                self.crash(host);
                self.hosts[host].version = PROTOCOL_VERSION;
            }
            self.set_disk_fails(host, false);
            if self.settings.rates != Rates::Kept {
                self.set_rate(host, 0);
            }
            if let Some(until) = &mut self.hosts[host].paused_until {
                *until = self.time;
                self.resume(host);
            }
            let stays_down = self.left_far_fences(host);
            if !self.broken.contains(&host) && !stays_down || self.hosts[host].process.is_some() {
                self.start(host, false, false);
            }
        }
        self.send_true_views();
        self.start_forgotten();
    }

    /// Starts the hosts that may have left fences far ahead with others, once nobody keeps these.
    fn start_forgotten(&mut self) {
        let hosts = 0..self.hosts.len();
        let forgotten: Vec<HostAt> = hosts
            .filter(|host| self.left_far_fences(*host) && !self.broken.contains(host))
            .collect();
        if forgotten.is_empty() {
            return;
        }
        self.run_until(self.time + self.lease(), |_| false);
        for host in forgotten {
            // A restart that was due may have started it sooner.
            self.crash(host);
            self.start(host, false, false);
        }
        self.send_true_views();
    }

    /// Returns `true` if the wall clock of a host was far ahead and it has no journal, so that its
    /// voter may have left its fences with others when it was shut down.
    fn left_far_fences(&self, host: HostAt) -> bool {
        let machine = &self.hosts[host];
        machine.was_far_ahead && machine.disk.is_none() && self.settings.handover_span.is_some()
    }

    /// L1: checks that every requested lock is granted and every `try` is decided.
    fn expect_served(&mut self) {
        let settings = &self.settings;
        let lease = self.lease();
        let turn = lease
            + settings.habits.hold_max
            + settings.timing.reservation.as_nanos() as u64
            + 100 * settings.round_trip();
        let bound = settings.longest_quarantine()
            + 3 * SECOND
            + self.clocks_wait()
            + self.marks_wait()
            + 5 * lease
            + turn * (settings.habits.clients as u64 + 1);
        let rest = |world: &Self| {
            world
                .clients
                .iter()
                .all(|it| it.state == ClientState::Rests)
                && world.laws.history.open.is_empty()
        };
        if self.run_until(self.time + bound, rest) {
            return;
        }
        let unserved: Vec<RequestId> = self.laws.history.open.keys().copied().collect();
        for request in unserved {
            self.see(&Fact::Unserved { request, bound });
        }
    }

    /// Returns the longest time for which a voter refuses claims for keys that are marked, after its
    /// recovery.
    fn marks_wait(&self) -> u64 {
        match self.settings.habits.once_ppm {
            0 => 0,
            _ => 11 * SECOND,
        }
    }

    /// L5: checks that no node keeps state of ended requests.
    fn expect_drained(&mut self) {
        // Late datagrams may still arrive and open slots for a lease, also at a voter that leaves
        // its quarantine late.
        self.pass(
            self.settings.longest_quarantine()
                + 3 * SECOND
                + self.clocks_wait()
                + 3 * self.settings.longest_ttl()
                + self.settings.link_faults.late_max,
        );
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
        if self.settings.is_tight() {
            // The others are about bounds that a voter with tight limits does not keep.
            self.play_storm(first);
            return self.play_crowd(first + 1);
        }
        for (story, key) in STORIES.into_iter().zip(first..) {
            if !self.is_broken() {
                story(self, key);
            }
        }
    }

    /// Plays some of these stories, or only `play_broken_minority` if a minority is broken for good.
    fn play_more(&mut self) {
        let end = self.settings.habits.keys + PROBE_KEYS;
        let keys = end - 2 * DRAWN..end;
        if !self.broken.is_empty() {
            self.find_each_other();
            return self.play_broken_minority(keys);
        }
        let mut rng = Rng::stream(self.settings.seed, "stories");
        let drawn = rng.sample(MORE_STORIES.len(), DRAWN);
        for (story, key) in drawn.into_iter().zip(keys.step_by(2)) {
            if !self.is_broken() {
                self.pass_quarantine();
                MORE_STORIES[story](self, key);
            }
        }
    }
}

/// The steps from which stories are built.
impl World {
    pub(crate) fn is_broken(&self) -> bool {
        !self.laws.violations.is_empty()
    }

    /// Returns a request that waits and renews its lease.
    pub(crate) fn wish(&self, key: KeyAt) -> Wish {
        Wish {
            key,
            ttl: self.settings.max_ttl(),
            is_try: false,
            renews: true,
            outlives: false,
            keep_for: None,
            timeout: None,
        }
    }

    /// Returns a `try` without renewal.
    pub(crate) fn try_wish(&self, key: KeyAt) -> Wish {
        Wish {
            is_try: true,
            renews: false,
            ..self.wish(key)
        }
    }

    /// Requests a key on a host.
    pub(crate) fn probe(&mut self, host: HostAt, key: KeyAt) -> Option<RequestId> {
        self.ask(host, None, self.wish(key))
    }

    /// Returns `true` if a request holds its lock.
    pub(crate) fn is_held(&self, request: RequestId) -> bool {
        matches!(self.probed.get(&request), Some(Status::Held { .. }))
    }

    /// Returns `true` if a request no longer waits.
    pub(crate) fn is_decided(&self, request: RequestId) -> bool {
        self.probed.get(&request) != Some(&Status::Waits)
    }

    /// Returns the longest true time of a lease.
    pub(crate) fn lease(&self) -> u64 {
        self.settings.at_most(self.settings.timing.max_ttl)
    }

    pub(crate) fn voters_of_key(&self, key: KeyAt) -> Vec<HostAt> {
        self.laws.history.terms.voters[key].clone()
    }

    /// Returns the first host that does not vote for the key.
    pub(crate) fn outside(&self, key: KeyAt) -> Option<HostAt> {
        let voters = &self.laws.history.terms.voters[key];
        (0..self.hosts.len()).find(|host| !voters.contains(host))
    }

    pub(crate) fn pass(&mut self, span: u64) {
        let end = self.time + span;
        self.run_until(end, |_| false);
    }

    pub(crate) fn pass_round_trips(&mut self, count: u64) {
        self.pass(count * self.settings.round_trip());
    }

    /// Passes enough time for every message on its way to arrive.
    pub(crate) fn pass_settled(&mut self) {
        self.pass(self.laws.history.terms.settled);
    }

    /// Passes enough time for all messages to arrive, and for a claim that gets `Stale` to be made
    /// anew.
    pub(crate) fn settle(&mut self) {
        self.pass(20 * self.laws.history.terms.settled);
    }

    /// Passes enough time for voters that crashed before to leave recovery.
    pub(crate) fn pass_quarantine(&mut self) {
        let quarantine = self.settings.at_most(self.settings.timing.quarantine());
        self.pass(quarantine + 2 * SECOND);
    }

    /// Shuts a host down, and waits until its process has ended.
    pub(crate) fn shut_down_and_end(&mut self, host: HostAt) {
        self.shut_down(host, None);
        self.run_until(self.time + 3 * SECOND, |it| {
            it.hosts[host].process.is_none()
        });
    }

    /// Crashes a host and starts it again.
    pub(crate) fn restart(&mut self, host: HostAt) {
        self.crash(host);
        self.start(host, false, false);
    }

    pub(crate) fn expect_grant(&mut self, request: RequestId, what: Handover, bound: u64) {
        let begun = self.time;
        let end = begun + bound.max(self.lease());
        let came = self.run_until(end, |world| world.is_held(request));
        let took = came.then(|| self.time - begun);
        self.see(&Fact::Handed { what, took, bound });
    }

    /// L3: the longest time from the crash of a holder to the grant to a waiter, in nanoseconds.
    pub(crate) fn dead_holder_bound(&self) -> u64 {
        let timing = &self.settings.timing;
        let spans = timing.max_ttl + timing.reservation + timing.holder_probe_interval;
        self.settings.at_most(spans) + 20 * self.settings.round_trip()
    }

    /// L3: the longest time from a release to the grant behind a waiter that crashed, in nanoseconds.
    pub(crate) fn dead_waiter_bound(&self) -> u64 {
        let reservation = self.settings.timing.reservation;
        self.settings.at_most(reservation) + 20 * self.settings.round_trip()
    }

    /// Runs until one of these requests holds its lock, or until `end`. Returns its index.
    pub(crate) fn first_held(&mut self, asked: &[(HostAt, RequestId)], end: u64) -> Option<usize> {
        self.run_until(end, |world| asked.iter().any(|(_, id)| world.is_held(*id)));
        asked.iter().position(|(_, id)| self.is_held(*id))
    }

    /// Returns two hosts. The first may crash: it is no voter of the key, and no needed clock.
    pub(crate) fn pair_that_may_crash(&self, key: KeyAt) -> Option<(HostAt, HostAt)> {
        let voters = &self.laws.history.terms.voters[key];
        let may_crash = |host: &HostAt| !voters.contains(host) && self.may_miss(*host);
        let mortal = (0..self.hosts.len()).find(may_crash)?;
        let other = (0..self.hosts.len()).find(|host| *host != mortal)?;
        Some((mortal, other))
    }

    /// Returns two different hosts, drawn.
    pub(crate) fn two_hosts(&mut self) -> Option<[HostAt; 2]> {
        let hosts = self.start_rng.sample(self.hosts.len(), 2);
        hosts.try_into().ok()
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
        let way = |from: HostAt, to: HostAt| match from == to {
            true => 0,
            false => self.network.longest(from, to),
        };
        let voters = self.laws.history.terms.voters[key].iter();
        let ways = voters.map(|voter| {
            let on = (0..self.hosts.len()).map(|next| way(*voter, next)).max();
            way(holder, *voter) + on.unwrap_or_default()
        });
        ways.max().unwrap_or_default()
    }
}

/// Returns the links between a host and others, in both directions.
pub(crate) fn both_ways(host: HostAt, others: &[HostAt]) -> Vec<(HostAt, HostAt)> {
    let both = others.iter().flat_map(|it| [(host, *it), (*it, host)]);
    both.collect()
}
