//! The users of the locks: they rest, request, hold, write, extend, release and withdraw.

use std::time::Duration;

use crate::cluster::{Habits, MARKED_KEYS, Ongoing, PROBE_KEYS, World, WorldEvent};
use crate::judge::{End, Fact, HostAt, KeyAt, RequestId};
use crate::kernel::Rng;
use crate::proto::{Key, NodeId, Note, Request, Revocation, RevokeId, Ticket};
use crate::scenarios::Counted;
use crate::users::Verdict;

/// The state of a client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum ClientState {
    /// It is idle, and sends its next request at its next turn.
    Rests,
    /// It waits for a lock, and withdraws if its turn comes first.
    Waits { request: RequestId },
    /// It holds a lock until its next turn, and may write so.
    Holds(Write),
}

/// A write of a holder to the resource.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Write {
    host: HostAt,
    request: RequestId,
    key: KeyAt,
    epoch: u64,
}

/// One user, in the process of one host.
#[derive(Debug)]
pub(crate) struct Client {
    host: HostAt,
    rng: Rng,
    /// The stream for requests that outlive their process.
    ticks: Rng,
    /// The stream for requests whose key is marked.
    marks: Rng,
    /// The stream for locks that are freed by hand.
    revokes: Rng,
    /// `true` if it does not release its lock, like a user that takes a lock for one tick.
    keeps: bool,
    pub(crate) state: ClientState,
    /// The number of the current turn; events of earlier turns are ignored.
    turn: u64,
    key: KeyAt,
}

/// The status of a request that no client made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Status {
    /// It waits.
    Waits,
    /// It has held its lock since `at`.
    Held { at: u64 },
    /// It ended at `at`.
    Over { how: End, at: u64 },
}

/// The parameters of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    pub(crate) key: KeyAt,
    pub(crate) ttl: u64,
    pub(crate) is_try: bool,
    pub(crate) renews: bool,
    /// `true` if it outlives its process, as through the trait.
    pub(crate) outlives: bool,
    /// The time for which its holder marks the key, in nanoseconds.
    pub(crate) keep_for: Option<u64>,
    /// The time after which it gives up, in nanoseconds of its node's clock.
    pub(crate) timeout: Option<u64>,
}

/// A scheduled request, and how long its lock is held.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestAt {
    pub(crate) at: u64,
    pub(crate) host: HostAt,
    pub(crate) wish: Wish,
    pub(crate) hold: u64,
}

/// Returns the note of the requests of a node for a key.
pub(crate) fn note_of(key: &Key, node: &NodeId) -> Note {
    Note::new(format!("{key} by {node}")).expect("a short name")
}

impl World {
    pub(crate) fn draw_clients(&mut self) {
        let mut rng = Rng::stream(self.settings.seed, "clients");
        let mut ticks = Rng::stream(self.settings.seed, "ticks of clients");
        let mut marks = Rng::stream(self.settings.seed, "marks of clients");
        let mut revokes = Rng::stream(self.settings.seed, "revokes of clients");
        let hosts = self.hosts.len() as u64;
        for client in 0..self.settings.habits.clients {
            let mut own = rng.child();
            let first = own.below(self.settings.habits.rest_max.max(1));
            self.clients.push(Client {
                host: own.below(hosts) as HostAt,
                rng: own,
                ticks: ticks.child(),
                marks: marks.child(),
                revokes: revokes.child(),
                keeps: false,
                state: ClientState::Rests,
                turn: 0,
                key: 0,
            });
            self.push(first, WorldEvent::Wake { client, turn: 0 });
        }
    }

    /// Requests a lock on a host. Returns `None` if no process runs there or the node rejects it.
    pub(crate) fn ask(
        &mut self,
        host: HostAt,
        client: Option<usize>,
        wish: Wish,
    ) -> Option<RequestId> {
        let now = self.hosts[host].clock.now(self.time);
        let ttl_max = self.voter_set_of(host).timing().max_ttl;
        // A third of the requests have one.
        let has_note = self.requests.is_multiple_of(3);
        let note = has_note.then(|| note_of(&self.keys[wish.key], &self.hosts[host].id));
        let process = self.hosts[host].process.as_mut();
        let process = process.filter(|it| it.leaves.is_none())?;
        let timeout = wish.timeout.map(Duration::from_nanos);
        let deadline = timeout.map(|span| now.mono.after(span));
        let request = Request {
            key: self.keys[wish.key].clone(),
            ttl: Duration::from_nanos(wish.ttl).min(ttl_max),
            is_try: wish.is_try,
            renews: wish.renews,
            outlives: wish.outlives,
            deadline,
            is_once: wish.keep_for.is_some(),
            note,
        };
        let ticket = process.node.claim(now, request).ok()?;
        self.requests += 1;
        let request = RequestId(self.requests);
        let ongoing = Ongoing {
            request,
            client,
            epoch: 0,
            until: None,
            renews: wish.renews,
            outlives: wish.outlives,
            granted: None,
            claim: None,
            deadline,
            span: Duration::from_nanos(wish.ttl),
            keep_for: wish.keep_for,
            marks_since: None,
        };
        process.requests.insert(ticket, ongoing);
        self.wanted_at[wish.key] = self.time;
        self.count(if wish.is_try { "tries" } else { "waits" });
        if wish.outlives {
            self.count("ticks");
        }
        self.see(&Fact::Asked {
            request,
            host,
            key: wish.key,
            outlives: wish.outlives,
        });
        if client.is_none() {
            self.probed.insert(request, Status::Waits);
        }
        self.drain(host);
        Some(request)
    }

    /// Releases a lock, or withdraws a request.
    pub(crate) fn let_go(&mut self, host: HostAt, request: RequestId) {
        let Some(ticket) = self.ticket_of(host, request) else {
            return;
        };
        self.see_over(host, ticket, End::Released);
        self.at_node(host, |node, now| node.release(now, ticket));
    }

    pub(crate) fn ticket_of(&self, host: HostAt, request: RequestId) -> Option<Ticket> {
        let requests = &self.process(host)?.requests;
        let mut found = requests
            .iter()
            .filter(|(_, ongoing)| ongoing.request == request);
        found.next().map(|(ticket, _)| *ticket)
    }

    /// Handles a client's turn.
    pub(crate) fn wake_client(&mut self, client: usize, turn: u64) {
        if self.clients[client].turn != turn {
            return;
        }
        let host = self.clients[client].host;
        if self.is_deferred(host, WorldEvent::Wake { client, turn }) {
            return;
        }
        match self.clients[client].state {
            ClientState::Rests if self.is_settled => {}
            ClientState::Rests => self.client_asks(client),
            ClientState::Holds(Write { request, .. }) if self.begins_mark(host, request) => {
                // If the mark takes too long, the client gives up.
                self.clients[client].turn += 1;
                let turn = self.clients[client].turn;
                let wait = self.settings.max_ttl() * 2;
                self.push_in(wait, WorldEvent::Wake { client, turn });
                self.mark(host, request);
            }
            ClientState::Waits { request } | ClientState::Holds(Write { request, .. }) => {
                self.let_go(host, request);
            }
        }
    }

    /// Returns `true` if the key of a held request is to be marked, and is not being marked yet.
    fn begins_mark(&self, host: HostAt, request: RequestId) -> bool {
        let ongoing = self.ongoing(host, request);
        ongoing.is_some_and(|it| it.keep_for.is_some() && it.marks_since.is_none())
    }

    fn ongoing(&self, host: HostAt, request: RequestId) -> Option<&Ongoing> {
        let ticket = self.ticket_of(host, request)?;
        self.process(host)?.requests.get(&ticket)
    }

    /// Marks the key of a held request.
    fn mark(&mut self, host: HostAt, request: RequestId) {
        let Some(ticket) = self.ticket_of(host, request) else {
            return;
        };
        let time = self.time;
        let process = self.hosts[host].process.as_mut();
        let ongoing = process.and_then(|it| it.requests.get_mut(&ticket));
        let Some(keep_for) = ongoing.and_then(|it| {
            it.marks_since = Some(time);
            it.keep_for
        }) else {
            return;
        };
        let keep_for = Duration::from_nanos(keep_for);
        self.at_node(host, |node, now| {
            if let Some(node) = node.node_mut() {
                // A lease that is over cannot mark its key.
                node.mark(now, ticket, keep_for).ok();
            }
        });
    }

    /// Handles the end of the marking of a key.
    pub(crate) fn see_marked(&mut self, host: HostAt, ticket: Ticket, is_marked: bool) {
        let process = self.process(host);
        let Some(ongoing) = process.and_then(|it| it.requests.get(&ticket)).copied() else {
            return;
        };
        if let (true, Some(since), Some(keep_for)) =
            (is_marked, ongoing.marks_since, ongoing.keep_for)
        {
            self.count("marked");
            self.see(&Fact::Marked {
                request: ongoing.request,
                since,
                until: since + keep_for,
            });
        }
        if let Some(client) = ongoing.client {
            self.clients[client].turn += 1;
            let turn = self.clients[client].turn;
            self.push_in(1, WorldEvent::Wake { client, turn });
        }
    }

    /// Defers an event of a process while it is paused. Returns `true` if it does.
    fn is_deferred(&mut self, host: HostAt, event: WorldEvent) -> bool {
        let machine = &mut self.hosts[host];
        let is_paused = machine.is_paused();
        if is_paused {
            machine.put_off.push(event);
        }
        is_paused
    }

    /// Frees the lock on a key by hand, from the node of a client.
    fn client_revokes(&mut self, client: usize) {
        let habits = self.settings.habits;
        let patience = Duration::from_nanos(self.settings.max_ttl() / 4);
        let Client { host, revokes, .. } = &mut self.clients[client];
        if !revokes.chance(habits.revoke_ppm) {
            return;
        }
        let host = *host;
        let key = self.keys[revokes.below(habits.keys as u64) as usize].clone();
        let time = self.time;
        let now = self.hosts[host].clock.now(time);
        let process = self.hosts[host].process.as_mut();
        let Some(process) = process.filter(|it| it.leaves.is_none()) else {
            return;
        };
        let by = Note::new("client").expect("a short note");
        if let Some(node) = process.node.node_mut() {
            let id = node.revoke(now, (&key, None), by, patience);
            process.revokes.insert(id, time);
            self.count("revokes");
            self.drain(host);
        }
    }

    /// Handles the outcome of a revocation.
    pub(crate) fn see_revocation(&mut self, host: HostAt, id: RevokeId, revocation: Revocation) {
        let process = self.hosts[host].process.as_mut();
        let since = process.and_then(|it| it.revokes.remove(&id));
        let has_quorum = revocation.has_quorum();
        let key = self.keys.iter().position(|key| *key == revocation.key);
        let (Some(since), Some(key), Some(claim)) = (since, key, revocation.claim) else {
            return;
        };
        self.count(match claim.is_holder_notified {
            true => "revokes_told",
            false => "revokes_untold",
        });
        let Some(holder) = self.host_of(&claim.node).filter(|_| has_quorum) else {
            return;
        };
        self.count("revokes_confirmed");
        let voters = claim.confirmed.iter();
        let voters = voters.filter_map(|voter| self.host_of(voter)).collect();
        let timing = self.voter_set_of(host).timing();
        let span = timing.quarantine() + timing.round_trip;
        let ends = self.time + span.as_nanos() as u64;
        self.see(&Fact::Revoked {
            key,
            claim: (holder, claim.epoch.get()),
            voters,
            since,
            ends,
        });
    }

    fn client_asks(&mut self, client: usize) {
        self.client_revokes(client);
        let habits = self.settings.habits;
        let (round_trip, max_ttl) = (self.settings.round_trip(), self.settings.max_ttl());
        let Client {
            host,
            rng,
            ticks,
            marks,
            keeps,
            ..
        } = &mut self.clients[client];
        let host = *host;
        let (mut wish, withdraws) = draw_wish(rng, &habits, round_trip, max_ttl);
        wish.outlives = ticks.chance(habits.tick_ppm);
        *keeps = wish.outlives && ticks.chance(700_000);
        if wish.outlives {
            (wish.is_try, wish.renews) = (true, false);
        }
        if marks.chance(habits.once_ppm) {
            let key = marks.below(MARKED_KEYS as u64) as usize;
            wish.key = habits.keys + PROBE_KEYS + key;
            (wish.renews, wish.outlives, *keeps) = (true, false, false);
            wish.keep_for = Some(marks.between(max_ttl / 4, max_ttl * 4));
        }
        self.clients[client].key = wish.key;
        // The request may end before `ask` returns; the client is then idle already.
        let before = self.clients[client].turn;
        let request = RequestId(self.requests + 1);
        self.clients[client].state = ClientState::Waits { request };
        if self.ask(host, Some(client), wish).is_none() {
            return self.client_is_done(client);
        }
        if self.clients[client].turn == before {
            self.clients[client].turn += 1;
            if let Some(span) = withdraws {
                let turn = self.clients[client].turn;
                self.push_in(span, WorldEvent::Wake { client, turn });
            }
        }
    }

    /// Handles the end of a client's request: the client rests.
    pub(crate) fn client_is_done(&mut self, client: usize) {
        let rest_max = self.settings.habits.rest_max;
        let it = &mut self.clients[client];
        it.state = ClientState::Rests;
        it.turn += 1;
        let turn = it.turn;
        let span = it.rng.between(rest_max / 10, rest_max);
        self.push_in(span, WorldEvent::Wake { client, turn });
    }

    /// Handles the grant of a client's request: schedules its writes and its release.
    pub(crate) fn client_holds(&mut self, client: usize, request: RequestId, epoch: u64) {
        let Habits {
            hold_max, work_max, ..
        } = self.settings.habits;
        // A client with slow writes releases its lock only after its last write has arrived.
        let last = match work_max {
            0 => 0,
            work_max => work_max + self.settings.round_trip(),
        };
        let it = &mut self.clients[client];
        it.state = ClientState::Holds(Write {
            host: it.host,
            request,
            key: it.key,
            epoch,
        });
        it.turn += 1;
        let turn = it.turn;
        let hold = if it.rng.chance(500_000) {
            it.rng.between(hold_max / 2, hold_max)
        } else {
            it.rng.spread(hold_max / 100, hold_max)
        };
        let writes = it.rng.below(3) * u64::from(hold > last);
        let room = hold.saturating_sub(last);
        let looks: Vec<u64> = (0..writes).map(|_| it.rng.below(room)).collect();
        if !self.clients[client].keeps {
            self.push_in(hold, WorldEvent::Wake { client, turn });
        }
        for span in looks {
            self.push_in(span, WorldEvent::Look { client, request });
        }
    }

    /// Checks a client's guard. If it holds, the client writes or extends its lease.
    pub(crate) fn look_and_write(&mut self, client: usize, request: RequestId) {
        let ClientState::Holds(write) = self.clients[client].state else {
            return;
        };
        let host = write.host;
        if write.request != request || self.is_deferred(host, WorldEvent::Look { client, request })
        {
            return;
        }
        let Some(ticket) = self.ticket_of(host, request) else {
            return;
        };
        let now = self.hosts[host].clock.now(self.time);
        let process = self.process(host);
        if process.is_none_or(|it| it.node.valid_until(now, ticket).is_none()) {
            return;
        }
        let extends = self.settings.habits.extend_ppm;
        let it = &mut self.clients[client];
        if it.rng.chance(extends) {
            let extra = it.rng.below(self.settings.max_ttl() / 4);
            let extra = Duration::from_nanos(extra);
            self.count("extends");
            let process = self.hosts[host].process.as_mut();
            if let Some(ongoing) = process.and_then(|it| it.requests.get_mut(&ticket)) {
                ongoing.span += extra;
            }
            self.at_node(host, |node, now| node.extend(now, ticket, extra));
            return;
        }
        let work_max = self.settings.habits.work_max;
        let gap = it.rng.below(self.settings.round_trip().max(work_max));
        self.push_in(gap, WorldEvent::Leave(write));
    }

    /// Sends a write from its process, or defers it while the process is paused.
    pub(crate) fn write_leaves(&mut self, write: Write) {
        let has_process = self.hosts[write.host].process.is_some();
        if has_process && !self.is_deferred(write.host, WorldEvent::Leave(write)) {
            let span = self.start_rng.below(self.settings.round_trip());
            self.push_in(span, WorldEvent::Reach(write));
        }
    }

    pub(crate) fn write_reaches(&mut self, write: Write) {
        let Write {
            host,
            request,
            key,
            epoch,
        } = write;
        let taken = self.resource.write(key, epoch) == Verdict::Taken;
        let counted = match taken {
            true => Counted::WritesTaken,
            false => Counted::WritesRefused,
        };
        self.note(counted, host);
        self.see(&Fact::Wrote {
            request,
            key,
            epoch,
            taken,
        });
    }
}

fn draw_wish(rng: &mut Rng, habits: &Habits, round_trip: u64, max_ttl: u64) -> (Wish, Option<u64>) {
    let is_try = rng.chance(habits.try_ppm);
    let wish = Wish {
        key: rng.below(habits.keys as u64) as KeyAt,
        ttl: if rng.chance(500_000) {
            max_ttl
        } else {
            rng.spread(round_trip * 10, max_ttl)
        },
        is_try,
        renews: rng.chance(habits.renew_ppm),
        outlives: false,
        keep_for: None,
        timeout: rng
            .chance(habits.deadline_ppm)
            .then(|| rng.spread(round_trip, max_ttl)),
    };
    let withdraws = rng
        .chance(habits.withdraw_ppm)
        .then(|| rng.spread(round_trip, max_ttl));
    (wish, withdraws)
}
