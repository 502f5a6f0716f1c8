//! A claimant that asks all servers at once, and tries again after a random delay.
//!
//! It has no queue, so no waiter is notified of its turn. [`Rules`] has the differences between the
//! two algorithms: the servers, their replies, and how long a yes counts.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Debug;
use std::net::SocketAddr;
use std::time::Duration;

use super::Machine;
use super::packet::{Packet, Verb, hash};
use crate::kernel::Rng;
use crate::proto::{
    Epoch, Event, Instant, Key, NodeConfig, NodeId, Now, Output, Request, RequestError, Ticket,
    Timing, View, VoteTally,
};

/// The length of an attempt, in round trips. A server that has not replied by then counts as a no.
const ATTEMPT_ROUND_TRIPS: u32 = 5;
/// The maximum of the random delay before the next attempt, in round trips.
const DELAY_ROUND_TRIPS: u32 = 10;
/// The number of ended attempts that a server remembers.
const ENDED_MAX: usize = 1_024;

/// The rules in which the two algorithms differ.
pub(super) trait Rules: Debug {
    /// Returns the servers of a key, by their indices in the voter set. More than half of them have
    /// to say yes.
    fn servers(&self, key: &Key) -> Vec<usize>;

    /// Returns how long a yes to a request with this ttl counts, from its send time.
    fn counts_for(&self, ttl: Duration) -> Duration;

    /// Returns the number that a holder passes to the resource. `fence`: the highest in a reply.
    fn draw_epoch(&mut self, now: Now, value: u64, fence: u64) -> u64;

    /// Returns the reply of this host's server, if it sends one.
    fn serve(&mut self, now: Now, ask: Packet) -> Option<Packet>;

    /// Handles a new view from gossip.
    fn handle_view(&mut self, view: &View);
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    /// Waits for replies until `ends`, and retransmits at `again`.
    Asks { ends: Instant, again: Instant },
    /// Starts the next attempt at `until`.
    Rests { until: Instant },
    /// Holds the lock until `until`, and renews it at `asks`.
    Holds { until: Instant, asks: Instant },
}

#[derive(Debug)]
struct Claim {
    request: Request,
    /// Drawn anew for each attempt, so that a late reply to an earlier one does not count.
    value: u64,
    epoch: u64,
    ttl: Duration,
    phase: Phase,
    /// All servers that were asked in this attempt.
    asked: BTreeSet<usize>,
    /// The end of each yes.
    promises: BTreeMap<usize, Instant>,
    refusals: BTreeSet<usize>,
    fence: u64,
}

/// A process of one of the two algorithms: its claimant and its server.
#[derive(Debug)]
pub(super) struct Poller<R> {
    rules: R,
    members: Vec<NodeId>,
    /// Its own index in the voter set, if it is a member.
    me: Option<usize>,
    timing: Timing,
    addrs: BTreeMap<usize, SocketAddr>,
    claims: BTreeMap<Ticket, Claim>,
    /// Attempts that are over. A request for one of them is late and would set a key that no
    /// claimant deletes. TCP keeps the order and rules this out.
    ended: VecDeque<u64>,
    last_ticket: u64,
    rng: Rng,
    outputs: VecDeque<Output>,
}

impl<R: Rules> Poller<R> {
    pub(super) fn new(rules: R, config: NodeConfig) -> Self {
        let members = config.voter_set.members().to_vec();
        Self {
            rules,
            me: members.iter().position(|member| *member == config.id),
            members,
            timing: *config.voter_set.timing(),
            addrs: BTreeMap::new(),
            claims: BTreeMap::new(),
            ended: VecDeque::new(),
            last_ticket: 0,
            rng: Rng::stream(config.seed, "poller"),
            outputs: VecDeque::new(),
        }
    }

    fn notify(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    /// Starts an attempt.
    fn attempt(&mut self, now: Now, ticket: Ticket) {
        let Some(claim) = self.claims.get_mut(&ticket) else {
            return;
        };
        let round_trip = self.timing.round_trip;
        claim.value = self.rng.draw();
        claim.epoch = self.rules.draw_epoch(now, claim.value, claim.fence);
        claim.phase = Phase::Asks {
            ends: now.mono.after(round_trip * ATTEMPT_ROUND_TRIPS),
            again: now.mono.after(round_trip * 3 / 2),
        };
        claim.asked.clear();
        claim.promises.clear();
        claim.refusals.clear();
        self.ask(now, ticket, Verb::Lock);
    }

    /// Sends a request to all servers; a `Lock` only to those that have not replied.
    fn ask(&mut self, now: Now, ticket: Ticket, verb: Verb) {
        let Some(claim) = self.claims.get_mut(&ticket) else {
            return;
        };
        let answered = |at: &usize| {
            let said_no = claim.refusals.contains(at);
            verb == Verb::Lock && (said_no || claim.promises.contains_key(at))
        };
        let servers = self.rules.servers(&claim.request.key);
        let servers: Vec<usize> = servers.into_iter().filter(|at| !answered(at)).collect();
        claim.asked.extend(&servers);
        let packet = packet(claim, verb, now);
        self.send_all(now, &servers, packet);
    }

    /// Sends a packet to these servers. The own server comes last and replies at once.
    fn send_all(&mut self, now: Now, servers: &[usize], packet: Packet) {
        for server in servers {
            if let Some(to) = self.addrs.get(server).copied() {
                let server = *server as u64;
                let bytes = Packet { server, ..packet }.to_bytes();
                self.outputs.push_back(Output::Transmit { to, bytes });
            }
        }
        if let Some(me) = self.me.filter(|me| servers.contains(me)) {
            let server = me as u64;
            let answer = self.rules.serve(now, Packet { server, ..packet });
            if let Some(answer) = answer {
                self.take_answer(now, answer);
            }
        }
    }

    /// Asks all servers of an attempt to delete its value.
    fn unlock(&mut self, now: Now, claim: &Claim) {
        let servers: Vec<usize> = claim.asked.iter().copied().collect();
        let verb = match claim.phase {
            Phase::Holds { .. } => Verb::Unlock,
            _ => Verb::Withdraw,
        };
        self.send_all(now, &servers, packet(claim, verb, now));
    }

    fn take_answer(&mut self, now: Now, answer: Packet) {
        let found = self
            .claims
            .iter_mut()
            .find(|(_, claim)| claim.value == answer.value);
        let Some((ticket, claim)) = found else {
            return;
        };
        let ticket = *ticket;
        let server = answer.server as usize;
        claim.fence = claim.fence.max(answer.fence);
        if answer.verb == Verb::Yes {
            let counts = self.rules.counts_for(Duration::from_nanos(answer.ttl));
            let promise = Instant::from_nanos(answer.sent_at).after(counts);
            let kept = claim.promises.entry(server).or_insert(promise);
            *kept = promise.max(*kept);
            claim.refusals.remove(&server);
        } else {
            claim.refusals.insert(server);
        }
        self.count(now, ticket);
    }

    /// Counts the replies: the claim may be granted, renewed or fail.
    fn count(&mut self, now: Now, ticket: Ticket) {
        let Some(claim) = self.claims.get_mut(&ticket) else {
            return;
        };
        let servers = self.rules.servers(&claim.request.key);
        let needed = servers.len() / 2 + 1;
        let promises = servers.iter().filter_map(|at| claim.promises.get(at));
        let mut promises: Vec<Instant> = promises.copied().collect();
        promises.sort_unstable_by(|a, b| b.cmp(a));
        let reaches = promises.get(needed - 1).copied();
        let reaches = reaches.filter(|until| now.mono < *until);
        let no = servers.iter().filter(|at| claim.refusals.contains(at));
        let is_beaten = no.count() + needed > servers.len();
        match (claim.phase, reaches) {
            (Phase::Asks { .. }, Some(until)) => {
                let asks = now.mono.after(claim.ttl / 3);
                claim.phase = Phase::Holds { until, asks };
                let event = Event::Granted {
                    ticket,
                    key: claim.request.key.clone(),
                    epoch: Epoch::new(claim.epoch),
                    valid_until: until,
                };
                self.notify(event);
            }
            (Phase::Asks { .. }, None) if is_beaten => self.fail(now, ticket),
            (Phase::Holds { until, asks }, Some(reaches)) if reaches > until => {
                claim.phase = Phase::Holds {
                    until: reaches,
                    asks,
                };
                let event = Event::Renewed {
                    ticket,
                    valid_until: reaches,
                };
                self.notify(event);
            }
            _ => {}
        }
    }

    /// Ends a failed attempt. A `try` is denied; other requests try again after a random delay.
    fn fail(&mut self, now: Now, ticket: Ticket) {
        let Some(mut claim) = self.claims.remove(&ticket) else {
            return;
        };
        self.unlock(now, &claim);
        if claim.fence >= claim.epoch {
            // Its epoch was too low, so it claims anew without a delay.
            self.claims.insert(ticket, claim);
            return self.attempt(now, ticket);
        }
        if claim.request.is_try {
            return self.notify(Event::Denied { ticket });
        }
        let most = (self.timing.round_trip * DELAY_ROUND_TRIPS).as_nanos() as u64;
        let delay = self.rng.between(most / 10, most);
        let until = now.mono.after(Duration::from_nanos(delay));
        claim.phase = Phase::Rests { until };
        claim.value = 0;
        self.claims.insert(ticket, claim);
    }

    fn act(&mut self, now: Now, ticket: Ticket) {
        let Some(claim) = self.claims.get_mut(&ticket) else {
            return;
        };
        let is_late = claim.request.deadline.is_some_and(|end| now.mono >= end);
        match &mut claim.phase {
            Phase::Holds { until, .. } if now.mono >= *until => self.lose(now, ticket),
            Phase::Holds { asks, .. } if now.mono >= *asks => {
                *asks = if claim.request.renews {
                    now.mono.after(claim.ttl / 3)
                } else {
                    Instant::FAR
                };
                if claim.request.renews {
                    self.ask(now, ticket, Verb::Keep);
                }
            }
            Phase::Holds { .. } => {}
            _ if is_late => self.give_up(now, ticket),
            Phase::Asks { ends, .. } if now.mono >= *ends => self.fail(now, ticket),
            Phase::Asks { again, .. } if now.mono >= *again => {
                *again = again.after(self.timing.round_trip * 3 / 2);
                self.ask(now, ticket, Verb::Lock);
            }
            Phase::Rests { until } if now.mono >= *until => self.attempt(now, ticket),
            _ => {}
        }
    }

    fn lose(&mut self, now: Now, ticket: Ticket) {
        if let Some(claim) = self.claims.remove(&ticket) {
            let (key, epoch) = (claim.request.key.clone(), Epoch::new(claim.epoch));
            self.notify(Event::Lost {
                ticket,
                key,
                epoch,
                was_due: false,
            });
            self.unlock(now, &claim);
        }
    }

    fn give_up(&mut self, now: Now, ticket: Ticket) {
        if let Some(claim) = self.claims.remove(&ticket) {
            let mut answers = VoteTally::default();
            answers.voters = claim.asked.len();
            answers.voted = claim.promises.len();
            answers.refused = claim.refusals.len();
            self.notify(Event::TimedOut {
                ticket,
                answers,
                holder: None,
            });
            self.unlock(now, &claim);
        }
    }

    fn tickets(&self) -> Vec<Ticket> {
        self.claims.keys().copied().collect()
    }

    fn next_timeout(&self) -> Option<Instant> {
        let next = |claim: &Claim| {
            let own = match claim.phase {
                Phase::Asks { ends, again } => ends.min(again),
                Phase::Rests { until } => until,
                Phase::Holds { until, asks } => return until.min(asks),
            };
            claim.request.deadline.map_or(own, |end| own.min(end))
        };
        self.claims.values().map(next).min()
    }
}

fn packet(claim: &Claim, verb: Verb, now: Now) -> Packet {
    Packet {
        verb,
        key: hash(&claim.request.key),
        value: claim.value,
        epoch: claim.epoch,
        ttl: claim.ttl.as_nanos() as u64,
        sent_at: now.mono.as_nanos(),
        server: 0,
        fence: 0,
    }
}

impl<R: Rules> Machine for Poller<R> {
    fn handle_datagram(&mut self, now: Now, from: SocketAddr, bytes: &[u8]) {
        // An expired lease ends before a late reply is counted.
        self.handle_timeout(now);
        let Some(packet) = Packet::from_bytes(bytes) else {
            return;
        };
        if matches!(packet.verb, Verb::Yes | Verb::No) {
            return self.take_answer(now, packet);
        }
        if self.me.is_none_or(|me| me as u64 != packet.server) {
            return;
        }
        if self.ended.contains(&packet.value) {
            return;
        }
        if matches!(packet.verb, Verb::Unlock | Verb::Withdraw) {
            self.ended.push_back(packet.value);
            if self.ended.len() > ENDED_MAX {
                self.ended.pop_front();
            }
        }
        if let Some(answer) = self.rules.serve(now, packet) {
            let bytes = answer.to_bytes();
            self.outputs.push_back(Output::Transmit { to: from, bytes });
        }
    }

    fn handle_timeout(&mut self, now: Now) {
        for ticket in self.tickets() {
            self.act(now, ticket);
        }
    }

    fn handle_view(&mut self, now: Now, view: &View) {
        self.handle_timeout(now);
        for (at, member) in self.members.iter().enumerate() {
            if let Some(peer) = view.peers.get(member) {
                self.addrs.insert(at, peer.addr);
            }
        }
        self.rules.handle_view(view);
        for ticket in self.tickets() {
            self.count(now, ticket);
        }
    }

    fn poll_output(&mut self) -> Output {
        let next = self.outputs.pop_front();
        next.unwrap_or_else(|| Output::Timeout(self.next_timeout()))
    }

    fn claim(&mut self, now: Now, request: Request) -> Result<Ticket, RequestError> {
        self.handle_timeout(now);
        let (min, max) = (self.timing.min_ttl(), self.timing.max_ttl);
        let ttl = request.ttl;
        if ttl < min || ttl > max {
            return Err(RequestError::Ttl { ttl, min, max });
        }
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        let claim = Claim {
            request,
            value: 0,
            epoch: 0,
            ttl,
            phase: Phase::Rests { until: now.mono },
            asked: BTreeSet::new(),
            promises: BTreeMap::new(),
            refusals: BTreeSet::new(),
            fence: 0,
        };
        self.claims.insert(ticket, claim);
        self.attempt(now, ticket);
        Ok(ticket)
    }

    fn release(&mut self, now: Now, ticket: Ticket) -> bool {
        let was_held = self.valid_until(now, ticket).is_some();
        if let Some(claim) = self.claims.remove(&ticket) {
            self.unlock(now, &claim);
        }
        was_held
    }

    fn extend(&mut self, now: Now, ticket: Ticket, extra: Duration) -> bool {
        let Some(until) = self.valid_until(now, ticket) else {
            return false;
        };
        let ttl = until.since(now.mono) + extra;
        let Some(claim) = self.claims.get_mut(&ticket) else {
            return false;
        };
        if ttl > self.timing.max_ttl || ttl < self.timing.min_ttl() {
            return false;
        }
        claim.ttl = claim.ttl.max(ttl);
        self.ask(now, ticket, Verb::Keep);
        true
    }

    fn valid_until(&self, now: Now, ticket: Ticket) -> Option<Instant> {
        match self.claims.get(&ticket)?.phase {
            Phase::Holds { until, .. } if now.mono < until => Some(until),
            _ => None,
        }
    }

    fn epoch(&self, ticket: Ticket) -> Option<Epoch> {
        let claim = self.claims.get(&ticket)?;
        Some(Epoch::new(claim.epoch))
    }

    fn claims(&self) -> usize {
        self.claims.len()
    }
}
