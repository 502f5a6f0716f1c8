//! Observes a node after each call: its events, its guards, the recorded votes of its voter.

use lockmesh_proto::{Event, Instant, KeyHolder, Ticket};

use crate::cluster::{Ongoing, World, WorldEvent};
use crate::judge::{End, Fact, HostAt, RequestId};
use crate::scenarios::Counted;
use crate::users::{Status, note_of};

impl World {
    /// Turns the events of a node into facts. Within one instant, ended leases come before votes,
    /// votes before new leases, and new leases before `try` requests that they deny.
    pub(crate) fn see_events(&mut self, host: HostAt, events: &[Event]) {
        for event in events {
            match event {
                Event::Lost { ticket, .. } => self.see_over(host, *ticket, End::Lost),
                Event::Revoked { ticket, .. } => self.see_over(host, *ticket, End::Revoked),
                Event::VoteRevoked { .. } => self.count("votes_revoked"),
                Event::Resumed { is_confirmed, .. } => self.see_resume(host, *is_confirmed),
                Event::TookUp { incarnation, .. } => self.see_taken_up(host, *incarnation),
                Event::HandedOver { voters } => self.see_handed_over(host, voters.len()),
                Event::QuarantineBegan { .. } => {
                    self.count("quarantines");
                    self.see_dropped_memory(host);
                }
                Event::QuarantineEnded {
                    answers,
                    leans_on_wall_clock,
                    knows_clocks,
                } => self.see_return(host, *answers, *leans_on_wall_clock, *knows_clocks),
                Event::MarksRead { may_lack: true, .. } => {
                    self.count("marks_lost");
                    self.see(&Fact::MarksLost { voter: host });
                }
                Event::MarksRead { .. } => self.count("marks_read"),
                Event::QuarantineExtended { .. } => self.count("quarantines_extended"),
                _ => {}
            }
        }
        self.see_votes(host);
        self.see_claims(host);
        for event in events {
            match event {
                Event::Granted {
                    ticket,
                    epoch,
                    valid_until,
                    ..
                } => self.see_grant(host, *ticket, epoch.get(), *valid_until),
                Event::Renewed {
                    ticket,
                    valid_until,
                } => self.see_renewal(host, *ticket, *valid_until),
                Event::TimedOut { ticket, holder, .. } => {
                    self.see_note(host, *ticket, holder.as_deref());
                    self.see_over(host, *ticket, End::TimedOut);
                }
                Event::Denied { ticket } => self.see_over(host, *ticket, End::Denied),
                Event::Done { ticket, .. } => self.see_over(host, *ticket, End::Done),
                Event::Marked { ticket } => self.see_marked(host, *ticket, true),
                Event::NotMarked { ticket } => self.see_marked(host, *ticket, false),
                _ => {}
            }
        }
        self.see_guards(host);
    }

    /// A note that a request names is that of the holder.
    ///
    /// # Panics
    /// Panics if it is that of another.
    fn see_note(&mut self, host: HostAt, ticket: Ticket, holder: Option<&KeyHolder>) {
        let Some((holder, note)) = holder.and_then(|it| Some((it, it.note.as_ref()?))) else {
            return;
        };
        let ongoing = self.process(host).and_then(|it| it.requests.get(&ticket));
        let open = &self.laws.history.open;
        if let Some(asked) = ongoing.and_then(|it| open.get(&it.request)) {
            assert_eq!(*note, note_of(&self.keys[asked.key], &holder.node));
            self.count("notes");
        }
    }

    /// Records that a request has ended.
    pub(crate) fn see_over(&mut self, host: HostAt, ticket: Ticket, how: End) {
        let Some(process) = self.hosts[host].process.as_mut() else {
            return;
        };
        let Some(ongoing) = process.requests.remove(&ticket) else {
            return;
        };
        let key = self
            .laws
            .history
            .open
            .get(&ongoing.request)
            .map(|asked| asked.key);
        if let Some(key) = key {
            self.wanted_at[key] = self.time;
        }
        if how == End::Lost {
            self.see_lapse(host, &ongoing);
        }
        if let (End::Crashed | End::ShutDown | End::Revoked, true, Some(until)) =
            (how, ongoing.outlives, ongoing.until)
        {
            self.hosts[host].left.push((ongoing.request, until));
        }
        match how {
            End::Lost => self.note(Counted::Lost, host),
            End::Denied => self.note(Counted::Denied, host),
            End::Done
            | End::Revoked
            | End::Released
            | End::TimedOut
            | End::Crashed
            | End::ShutDown => {}
        }
        self.count(match how {
            End::Released => "released",
            End::Lost => "lost",
            End::Revoked => "revoked",
            End::TimedOut => "timed_out",
            End::Denied => "denied",
            End::Done => "done",
            End::Crashed => "crashed_with_a_request",
            End::ShutDown => "shut_down_with_a_request",
        });
        self.see(&Fact::Over {
            request: ongoing.request,
            how,
        });
        match ongoing.client {
            Some(client) => self.client_is_done(client),
            None => {
                let status = Status::Over { how, at: self.time };
                self.probed.insert(ongoing.request, status);
            }
        }
    }

    fn see_return(&mut self, host: HostAt, answers: usize, leans: bool, knows_clocks: bool) {
        // A voter whose vote is enough alone needs no reply, but then nobody can name other settings.
        let needed = self.voter_set_of(host).recovery_replies().max(1);
        let too_few = answers < needed;
        let leans_on_settings = too_few && self.hosts[host].has_changed;
        let Some(process) = self.process(host) else {
            return;
        };
        let Some(voter) = process.node.voter() else {
            return;
        };
        // A voter that knows the clocks of most members depends on those, not on its own.
        let are_right = self.has_right_clocks() && self.laws.history.terms.clocks_kept;
        let leans_on_wall_clock = leans && !(knows_clocks && are_right);
        let believed = match knows_clocks {
            false => process.believed,
            true if are_right => process.believed_by_most,
            true => 0,
        };
        let fences = self
            .keys_voted_by(host)
            .iter()
            .map(|key| (*key, voter.fence(&self.keys[*key]).get()))
            .collect();
        if leans_on_wall_clock {
            self.count("leans_on_wall_clock");
        }
        if leans_on_settings {
            self.count("leans_on_settings");
        }
        self.count("voters_returned");
        self.note_host(host);
        self.see(&Fact::Returned {
            voter: host,
            fences,
            believed,
            leans_on_wall_clock,
            leans_on_settings,
        });
    }

    fn see_votes(&mut self, host: HostAt) {
        let now = self.hosts[host].clock.now(self.time);
        let Some(process) = self.hosts[host].process.as_ref() else {
            return;
        };
        let Some(voter) = process.node.voter() else {
            return;
        };
        let slots = voter.slots();
        if slots == 0 && process.slots == 0 {
            return;
        }
        let mut changed = Vec::new();
        for key in self.keys_voted_by(host) {
            let vote = voter.report(now, 0, &self.keys[*key]).vote;
            let to = vote.and_then(|vote| {
                let holder = self.host_of(&vote.claim.node)?;
                Some((holder, vote.epoch.get()))
            });
            if to.as_ref() != process.voted.get(key) {
                changed.push((*key, to));
            }
        }
        let grew = slots > process.slots;
        self.keep_votes(host, slots, &changed);
        for (key, to) in changed {
            self.see(&Fact::Voted {
                voter: host,
                key,
                to,
            });
        }
        if grew {
            self.see_slots(host, slots);
        }
    }

    fn keep_votes(
        &mut self,
        host: HostAt,
        slots: usize,
        changed: &[(usize, Option<(usize, u64)>)],
    ) {
        let Some(process) = self.hosts[host].process.as_mut() else {
            return;
        };
        process.slots = slots;
        for (key, to) in changed {
            match to {
                Some(to) => process.voted.insert(*key, *to),
                None => process.voted.remove(key),
            };
        }
    }

    fn see_slots(&mut self, host: HostAt, slots: usize) {
        let linger = self.laws.history.terms.linger;
        let time = self.time;
        let open = &self.laws.history.open;
        let is_wanted = |key: usize| {
            self.wanted_at[key] + linger >= time || open.values().any(|asked| asked.key == key)
        };
        let wanted = (0..self.keys.len()).filter(|key| is_wanted(*key)).count();
        self.see(&Fact::Keeps {
            host,
            slots,
            wanted,
        });
    }

    /// Records the requests that claim with a new epoch.
    fn see_claims(&mut self, host: HostAt) {
        let Some(process) = self.hosts[host].process.as_mut() else {
            return;
        };
        let mut claimed = Vec::new();
        for (ticket, ongoing) in &mut process.requests {
            if ongoing.until.is_some() {
                continue;
            }
            let Some(epoch) = process.node.epoch(*ticket) else {
                continue;
            };
            let epoch = epoch.get();
            if epoch != ongoing.epoch {
                ongoing.epoch = epoch;
                claimed.push((ongoing.request, epoch));
            }
        }
        for (request, epoch) in claimed {
            self.count("claims");
            self.see(&Fact::Claimed { request, epoch });
        }
    }

    fn see_grant(&mut self, host: HostAt, ticket: Ticket, epoch: u64, valid_until: Instant) {
        let Some(ongoing) = self.note_until(host, ticket, valid_until) else {
            return;
        };
        self.count("grants");
        self.note(Counted::Grants, host);
        let until = self.true_end(host, valid_until);
        let process = self.hosts[host].process.as_mut();
        if let Some(process) = process
            && let Some(ongoing) = process.requests.get_mut(&ticket)
        {
            ongoing.granted = Some((self.time, until.saturating_sub(self.time)));
            let node = process.node.node();
            let claim = node.and_then(|it| it.claimant().claim_id(ticket));
            ongoing.claim = claim.map(|it| (it.incarnation, it.seq));
        }
        let request = ongoing.request;
        self.see(&Fact::Granted {
            request,
            epoch,
            until,
        });
        match ongoing.client {
            Some(client) => self.client_holds(client, request, epoch),
            None => {
                let status = Status::Held { at: self.time };
                self.probed.insert(request, status);
                if let Some(hold) = self.holds.get(&request).copied() {
                    self.push_in(hold, WorldEvent::LetGo { host, request });
                }
            }
        }
    }

    fn see_renewal(&mut self, host: HostAt, ticket: Ticket, valid_until: Instant) {
        if let Some(ongoing) = self.note_until(host, ticket, valid_until) {
            self.count("renewals");
            let until = self.true_end(host, valid_until);
            self.see(&Fact::Until {
                request: ongoing.request,
                until,
            });
        }
    }

    fn note_until(&mut self, host: HostAt, ticket: Ticket, until: Instant) -> Option<Ongoing> {
        let now = self.hosts[host].clock.now(self.time);
        let process = self.hosts[host].process.as_mut()?;
        let ongoing = process.requests.get_mut(&ticket)?;
        // Called at a grant or an extension: from then on it lasts at most `span`.
        let outlasts = !ongoing.renews && until > now.mono.after(ongoing.span);
        ongoing.until = Some(until);
        let ongoing = *ongoing;
        if outlasts {
            self.see(&Fact::Outlasts {
                request: ongoing.request,
            });
        }
        Some(ongoing)
    }

    fn true_end(&self, host: HostAt, valid_until: Instant) -> u64 {
        self.hosts[host].clock.when(valid_until).unwrap_or(u64::MAX)
    }

    /// Checks the guards of a process, as any caller may at this instant.
    pub(crate) fn see_guards(&mut self, host: HostAt) {
        let now = self.hosts[host].clock.now(self.time);
        let Some(process) = self.hosts[host].process.as_ref() else {
            return;
        };
        let mut lies = Vec::new();
        for (ticket, ongoing) in &process.requests {
            let Some(until) = ongoing.until else {
                continue;
            };
            let held = process.node.valid_until(now, *ticket).is_some();
            let expired = now.mono >= until;
            if held && expired {
                lies.push(Fact::Looked {
                    request: ongoing.request,
                    held,
                    expired,
                });
            }
        }
        for lie in lies {
            self.see(&lie);
        }
    }

    /// Finds leases that ended without a report, although the node handled its timeouts.
    pub(crate) fn find_untold(&mut self, host: HostAt) {
        let now = self.hosts[host].clock.now(self.time);
        let Some(process) = self.hosts[host].process.as_ref() else {
            return;
        };
        let is_over = |ongoing: &&Ongoing| ongoing.until.is_some_and(|until| now.mono >= until);
        let untold: Vec<RequestId> = process
            .requests
            .values()
            .filter(is_over)
            .map(|ongoing| ongoing.request)
            .collect();
        for request in untold {
            self.see(&Fact::Untold { request });
        }
        self.find_overdue(host);
    }

    /// Finds requests that are open after their deadlines, although the node handled its timeouts.
    fn find_overdue(&mut self, host: HostAt) {
        let now = self.hosts[host].clock.now(self.time);
        let Some(process) = self.hosts[host].process.as_ref() else {
            return;
        };
        let is_late = |it: &&Ongoing| {
            it.until.is_none() && it.deadline.is_some_and(|deadline| now.mono >= deadline)
        };
        let late = process.requests.values().filter(is_late);
        let late: Vec<RequestId> = late.map(|it| it.request).collect();
        for request in late {
            self.see(&Fact::Overdue { request });
        }
    }

    /// Moves the true ends of a host's leases after its clock changed its rate.
    pub(crate) fn see_new_pace(&mut self, host: HostAt) {
        let now = self.hosts[host].clock.now(self.time);
        let machine = &self.hosts[host];
        let requests = machine.process.iter().flat_map(|it| it.requests.values());
        let leases: Vec<(RequestId, Instant)> = requests
            .filter_map(|ongoing| Some((ongoing.request, ongoing.until?)))
            .chain(machine.left.iter().copied())
            // A lease that ended while its process was paused keeps its end.
            .filter(|(_, until)| *until > now.mono)
            .collect();
        for (request, until) in leases {
            let until = self.true_end(host, until);
            self.see(&Fact::Until { request, until });
        }
        let wakes = self.hosts[host].timer_at.take();
        if wakes.is_some() {
            // An early wake-up is harmless: it only sets the timer anew.
            self.hosts[host].timer += 1;
            let timer = self.hosts[host].timer;
            self.hosts[host].timer_at = Some(self.time);
            self.push_in(0, WorldEvent::Timer { host, timer });
        }
    }
}
