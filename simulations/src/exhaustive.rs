//! A search of every interleaving at small scope: the real voter and the real claimant, three
//! voters, and two or three claims for one key. The network loses, duplicates and reorders, leases
//! expire, and a voter loses its memory.
//!
//! Random runs go deep and miss rare interleavings; a search misses none within its scope. Time
//! passes in steps of half a lease for all clocks, and a step may come at any point. A sent message
//! may be read at any later point, several times or never: this models loss, duplication and
//! reordering. Jitter is off, so that states which differ only in jitter are one.

mod deploys;
mod found;
mod parts;
mod scope;

use std::collections::BTreeSet;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use stateright::{Model, Property};

use crate::proto::{
    ClaimId, Claimant, Effects, Event, Incarnation, Instant, Key, MARK_KEEP_MAX, Memory, Message,
    NodeId, Note, Now, RecoveryReply, Request, Revoke, Start, Ticket, Timing, Voter, VoterLimits,
    VoterSet,
};

pub(crate) use found::command;
#[cfg(any(test, lockmesh_mutants))]
pub(crate) use found::{all_scopes, search};
use parts::{Envelope, Kept};
use scope::SET_BACK_MS;
use scope::{Begins, Scope};

const VOTERS: usize = 3;
const ROUND_TRIP: Duration = Duration::from_millis(100);
const LEASE: Duration = Duration::from_secs(1);
/// Two steps are a lease.
const STEP: Duration = Duration::from_millis(500);
const WALL_MS: u64 = 1_760_000_000_000;

fn timing() -> Timing {
    Timing {
        max_ttl: LEASE,
        max_drift_ppm: 0,
        max_clock_skew: LEASE,
        round_trip: ROUND_TRIP,
        reservation: STEP,
        holder_probe_interval: ROUND_TRIP,
    }
}

/// An action of the search.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Action {
    Ask(usize),
    Release(usize),
    /// The holder marks its key.
    Mark(usize),
    /// An operator revokes the claim of a holder.
    Revoke(usize),
    Wake(usize),
    WakeVoter(usize),
    Read(Envelope),
    Step,
    Crash(usize),
}

/// The progress of a claimant.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
struct Attempt {
    ticket: Option<Ticket>,
    is_over: bool,
    epoch: u64,
    /// The highest granted epoch when it claimed with this epoch.
    above: u64,
}

/// A state of the search.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct State {
    time: u64,
    voters: Vec<Kept<Voter>>,
    /// The journals of the voters, if they keep any.
    journals: Vec<Kept<Memory>>,
    claimants: Vec<Kept<Claimant>>,
    attempts: Vec<Attempt>,
    network: BTreeSet<Envelope>,
    crashes: u8,
    /// The claimant and epoch that each voter without memory had voted for.
    forgotten: Vec<Option<(usize, u64)>>,
    highest_owner: u64,
    grants: u8,
    /// `true` once a quorum has marked the key. The mark lasts longer than the search.
    is_marked: bool,
    /// `true` once a voter has reported that it may lack marks.
    may_lack_marks: bool,
    /// The claim that was revoked, and when a quorum of the voters had confirmed it.
    revoked: Option<(ClaimId, Option<u64>)>,
    broken: Option<&'static str>,
}

/// The search: everything that does not change.
#[derive(Clone, Debug)]
pub(crate) struct Search {
    scope: Scope,
    voter_set: Arc<VoterSet>,
    key: Key,
    ids: Vec<NodeId>,
}

impl Search {
    pub(crate) fn new(scope: Scope) -> Self {
        let ids: Vec<NodeId> = (0..VOTERS + scope.walls.len())
            .map(|at| NodeId::new(format!("n{at}")).expect("a short name"))
            .collect();
        let voter_set = VoterSet::new(1, ids[..VOTERS].to_vec(), VOTERS, timing());
        Self {
            scope,
            voter_set: Arc::new(voter_set.expect("constants that fit")),
            key: Key::new("k").expect("a short name"),
            ids,
        }
    }

    fn now(&self, state: &State, at: usize) -> Now {
        let is_back = self.scope.begins == Begins::Forgotten && at == 0 && state.crashes > 0;
        let now = self.now_at(state.time, at);
        let behind = if is_back { SET_BACK_MS } else { 0 };
        Now {
            wall_ms: now.wall_ms - behind,
            ..now
        }
    }

    fn now_at(&self, time: u64, at: usize) -> Now {
        let ahead = match at.checked_sub(VOTERS) {
            Some(claimant) => self.scope.walls[claimant],
            None => 0,
        };
        Now {
            mono: Instant::ZERO.after(LEASE + STEP * time as u32),
            wall_ms: WALL_MS + STEP.as_millis() as u64 * time + ahead,
        }
    }

    fn voter(
        &self,
        now: Now,
        (at, incarnation): (usize, u8),
        memory: Option<Memory>,
        out: &mut Effects,
    ) -> Kept<Voter> {
        let limits = VoterLimits {
            fence_buckets: 1,
            ..VoterLimits::default()
        };
        let me = self.ids[at].clone();
        let nonce = at as u64 + u64::from(incarnation) * VOTERS as u64;
        let start = match incarnation {
            0 => Start::NewCluster,
            _ => Start::Recovering,
        };
        let voter_set = self.voter_set.clone();
        let voter = match memory {
            None => Voter::new(now, me, voter_set, limits, start, nonce, out),
            Some(memory) => {
                let (voter_set, start) = ((voter_set, limits), (start, memory));
                let mut voter = Voter::with_journal(now, me, voter_set, start, nonce, out);
                self.confirm(now, &mut voter, at, nonce, out);
                voter
            }
        };
        Kept::new(voter)
    }

    /// Makes the others reply that they know of no earlier incarnation, and of no later journal.
    fn confirm(&self, now: Now, voter: &mut Voter, at: usize, nonce: u64, out: &mut Effects) {
        let memory = RecoveryReply {
            nonce,
            highest: Default::default(),
            votes: false,
            knew: false,
            seen: Incarnation::new(1),
            before: Incarnation::default(),
            remembers: true,
            quarantine: Duration::ZERO,
            skew: Duration::ZERO,
        };
        for other in (0..VOTERS).filter(|other| *other != at) {
            voter.handle_recovery_reply(now, &self.ids[other], &memory, out);
        }
    }

    fn send(&self, state: &mut State, from: usize, messages: Vec<(NodeId, Message)>) {
        for (to, message) in messages {
            let Some(to) = self.ids.iter().position(|id| *id == to) else {
                continue;
            };
            state.network.insert(Envelope::new(from, to, message));
        }
    }

    /// Applies the effects of a handler.
    fn follow(&self, state: &mut State, at: usize, effects: Effects) {
        if let Some(journal) = state.journals.get_mut(at) {
            // A crash before the write is one in which nothing was sent.
            journal.change(|it| {
                effects
                    .records
                    .into_iter()
                    .for_each(|record| it.apply(record))
            });
        }
        let mut messages = effects.messages;
        // There is only one voter set, so `Describe` has no effect.
        messages.retain(|(_, message)| !matches!(message, Message::Describe(_)));
        self.send(state, at, messages);
        let Some(claimant) = at.checked_sub(VOTERS) else {
            let lacks = |event: &Event| matches!(event, Event::MarksRead { may_lack: true, .. });
            state.may_lack_marks |= effects.events.iter().any(lacks);
            return;
        };
        for event in effects.events {
            match event {
                Event::Granted { .. } if state.is_marked && !state.may_lack_marks => {
                    state.broken = Some("M10");
                }
                Event::Marked { .. } => state.is_marked = true,
                Event::Done { .. } => state.attempts[claimant].is_over = true,
                Event::Granted { epoch, .. } => {
                    let epoch = epoch.get();
                    state.grants += 1;
                    if epoch <= state.highest_owner {
                        state.broken = Some("M2");
                    }
                    if self.votes_for(state, claimant, epoch) < 2 {
                        state.broken = state.broken.or(Some("M4"));
                    }
                    state.highest_owner = state.highest_owner.max(epoch);
                }
                Event::Lost { .. } => state.attempts[claimant].is_over = true,
                _ => {}
            }
        }
        let attempt = &mut state.attempts[claimant];
        let ticket = attempt.ticket.filter(|_| !attempt.is_over);
        let epoch = ticket.and_then(|ticket| state.claimants[claimant].it.epoch(ticket));
        let epoch = epoch.map_or(0, |epoch| epoch.get());
        if epoch != attempt.epoch {
            attempt.epoch = epoch;
            attempt.above = state.highest_owner;
        }
    }

    /// Returns how many voters have their vote out for this claim, or had when they lost their
    /// memory.
    fn votes_for(&self, state: &State, claimant: usize, epoch: u64) -> usize {
        let id = &self.ids[VOTERS + claimant];
        (0..VOTERS)
            .filter(|at| {
                let report = state.voters[*at]
                    .it
                    .report(self.now(state, *at), 0, &self.key);
                let votes = report
                    .vote
                    .is_some_and(|vote| vote.claim.node == *id && vote.epoch.get() == epoch);
                votes || state.forgotten[*at] == Some((claimant, epoch))
            })
            .count()
    }

    /// Checks the laws that must hold in every state.
    fn judge(&self, state: &mut State) {
        for at in 0..VOTERS {
            if state.forgotten[at].is_some() && state.voters[at].it.quarantine().is_none() {
                state.forgotten[at] = None;
            }
        }
        let mut holders = 0;
        for claimant in 0..state.claimants.len() {
            let now = self.now(state, VOTERS + claimant);
            let held: Vec<u64> = state.claimants[claimant]
                .it
                .held(now)
                .map(|(_, epoch, _)| epoch.get())
                .collect();
            holders += held.len();
            let lacks_votes = |epoch: &u64| self.votes_for(state, claimant, *epoch) < 2;
            if held.iter().any(lacks_votes) {
                state.broken = state.broken.or(Some("M3"));
            }
        }
        if holders > 1 {
            state.broken = Some("M1");
        }
        self.judge_revoked(state);
    }

    /// Checks that the lease of a revoked claim ends. Its votes end within a lease, two steps.
    fn judge_revoked(&self, state: &mut State) {
        let Some((claim, confirmed)) = &mut state.revoked else {
            return;
        };
        let voters = state.voters.iter();
        if confirmed.is_none() && voters.filter(|it| it.it.has_revoked(claim)).count() >= 2 {
            *confirmed = Some(state.time);
        }
        let Some(since) = *confirmed else {
            return;
        };
        let Some(at) = self.ids.iter().position(|id| *id == claim.node) else {
            return;
        };
        let now = self.now(state, at);
        let ends = self.now_at(since, at).mono.after(LEASE);
        let claimant = &state.claimants[at - VOTERS].it;
        let goes_on = claimant.held(now).any(|(_, _, until)| until > ends);
        if goes_on {
            state.broken = state.broken.or(Some("S9"));
        }
    }

    fn read(&self, state: &mut State, envelope: &Envelope) {
        if !self.scope.doubles {
            state.network.remove(envelope);
        }
        let (from, to) = (usize::from(envelope.from), usize::from(envelope.to));
        let now = self.now(state, to);
        let mut out = Effects::default();
        let message = &*envelope.message;
        if let Some(claimant) = to.checked_sub(VOTERS) {
            let from = &self.ids[from];
            state.claimants[claimant].change(|it| match message {
                Message::Kept(kept) => it.handle_kept(now, from, kept),
                Message::Revoke(revoke) => {
                    it.revoke(now, revoke, &mut out);
                }
                _ => it.handle(now, from, message, &mut out),
            });
            return self.follow(state, to, out);
        }
        state.voters[to].change(|voter| match message {
            Message::Claim(claim) => voter.handle_claim(now, claim, &mut out),
            Message::OnceClaim(claim) => voter.handle_once_claim(now, claim, &mut out),
            Message::Mark(mark) => voter.handle_mark(now, mark, &mut out),
            Message::MarksQuery(query) => {
                voter.handle_marks_query(now, &self.ids[from], query, &mut out);
            }
            Message::MarksPage(page) => {
                voter.handle_marks_page(now, &self.ids[from], page, &mut out);
            }
            Message::Release(release) => voter.handle_release(now, release, &mut out),
            Message::Revoke(revoke) => {
                voter.handle_revoke(now, revoke, false, &mut out);
            }
            Message::KeepAlive(keep) => {
                let incarnation = Incarnation::new(1);
                voter.handle_keep_alive(now, &self.ids[from], incarnation, keep, &mut out);
            }
            Message::RecoveryQuery(query) => {
                let memory = voter.recovery_reply(query, true, Incarnation::new(1));
                let answer = Message::RecoveryReply(memory);
                out.messages.push((self.ids[from].clone(), answer));
            }
            Message::RecoveryReply(memory) => {
                voter.handle_recovery_reply(now, &self.ids[from], memory, &mut out);
            }
            _ => {}
        });
        self.follow(state, to, out);
    }

    fn begin(&self, state: &mut State) {
        match self.scope.begins {
            Begins::Asked => {
                for claimant in 0..self.scope.walls.len() {
                    self.ask(state, claimant);
                }
            }
            Begins::Owned => self.own(state),
            Begins::Marking => {
                self.own(state);
                self.mark(state, 0);
            }
            Begins::Marked => {
                self.own(state);
                self.mark(state, 0);
                self.read_all(state);
                if let Some(ticket) = state.attempts[0].ticket {
                    self.release(state, 0, ticket);
                }
                self.read_all(state);
                state.network.clear();
                self.ask(state, 1);
            }
            Begins::Covered => {
                self.own(state);
                state.network.clear();
                self.step(state);
                self.renew_by_session(state);
            }
            Begins::Forgotten => {
                self.own(state);
                state.crashes = 1;
                self.crash(state, 0);
                state.crashes = 1;
                state.network.clear();
                state.time = 2;
                self.wake_voter(state, 0);
                self.ask(state, 1);
            }
        }
    }

    /// Grants the first claim by two votes.
    fn own(&self, state: &mut State) {
        self.ask(state, 0);
        self.read_all(state);
    }

    /// Makes two voters and then the first claimant read what is on its way to them.
    fn read_all(&self, state: &mut State) {
        for at in [0, 1, VOTERS as u8] {
            let sent = state.network.iter().filter(|it| it.to == at);
            let sent: Vec<Envelope> = sent.cloned().collect();
            for envelope in sent {
                self.read(state, &envelope);
            }
        }
    }

    /// Renews the granted claim twice with two voters, so that their sessions cover and keep it.
    fn renew_by_session(&self, state: &mut State) {
        for _ in 0..2 {
            self.wake(state, 0);
            self.read_all(state);
        }
    }

    fn wake(&self, state: &mut State, claimant: usize) {
        let at = VOTERS + claimant;
        let now = self.now(state, at);
        let mut out = Effects::default();
        state.claimants[claimant].change(|it| it.handle_timeout(now, &mut out));
        self.follow(state, at, out);
    }

    fn ask(&self, state: &mut State, claimant: usize) {
        let at = VOTERS + claimant;
        let now = self.now(state, at);
        let request = Request {
            key: self.key.clone(),
            ttl: LEASE,
            is_try: false,
            renews: true,
            outlives: false,
            deadline: None,
            is_once: self.scope.marks,
            note: None,
        };
        let mut out = Effects::default();
        let it = &mut state.claimants[claimant];
        let ticket = it.change(|it| it.request(now, request, &mut out));
        state.attempts[claimant].ticket = ticket.ok();
        self.follow(state, at, out);
    }

    fn release(&self, state: &mut State, claimant: usize, ticket: Ticket) {
        let at = VOTERS + claimant;
        let now = self.now(state, at);
        let mut out = Effects::default();
        state.claimants[claimant].change(|it| it.release(now, ticket, &mut out));
        state.attempts[claimant].is_over = true;
        self.follow(state, at, out);
    }

    fn mark(&self, state: &mut State, claimant: usize) {
        let Some(ticket) = state.attempts[claimant].ticket else {
            return;
        };
        let at = VOTERS + claimant;
        let now = self.now(state, at);
        let mut out = Effects::default();
        let it = &mut state.claimants[claimant];
        // A lease that is over cannot mark its key.
        it.change(|it| it.mark(now, ticket, MARK_KEEP_MAX, &mut out).ok());
        self.follow(state, at, out);
    }

    /// Sends all voters the revoke of the claim that a claimant holds.
    fn revoke(&self, state: &mut State, claimant: usize) {
        let id = &self.ids[VOTERS + claimant];
        let votes = (0..VOTERS).filter_map(|at| {
            let now = self.now(state, at);
            state.voters[at].it.report(now, 0, &self.key).vote
        });
        let mut claims = votes.map(|vote| vote.claim);
        let Some(claim) = claims.find(|claim| claim.node == *id) else {
            return;
        };
        let revoke = Message::Revoke(Box::new(Revoke {
            nonce: 1,
            key: self.key.clone(),
            claim: claim.clone(),
            by: Note::new("operator").expect("a short note"),
            through: self.ids[VOTERS].clone(),
        }));
        state.revoked = Some((claim, None));
        let all = self.ids[..VOTERS].iter();
        let messages = all.map(|voter| (voter.clone(), revoke.clone())).collect();
        self.send(state, VOTERS, messages);
    }

    fn crash(&self, state: &mut State, at: usize) {
        let now = self.now(state, at);
        state.crashes += 1;
        if let Some(journal) = state.journals.get(at) {
            let memory = (*journal.it).clone();
            let mut out = Effects::default();
            let who = (at, state.crashes);
            state.voters[at] = self.voter(now, who, Some(memory), &mut out);
            return self.follow(state, at, out);
        }
        let vote = state.voters[at].it.report(now, 0, &self.key).vote;
        let before = state.forgotten[at];
        let forgotten = vote.and_then(|vote| {
            let claimant = self.ids.iter().position(|id| *id == vote.claim.node)?;
            Some((claimant.checked_sub(VOTERS)?, vote.epoch.get()))
        });
        state.forgotten[at] = forgotten.or(before);
        let mut out = Effects::default();
        state.voters[at] = self.voter(now, (at, state.crashes), None, &mut out);
        self.follow(state, at, out);
    }

    /// Advances time. Voters handle timeouts at once, the most dangerous order; claimants may be
    /// late. From [`Begins::Forgotten`] voters may be late too, and the search wakes them.
    fn step(&self, state: &mut State) {
        state.time += 1;
        if self.scope.begins != Begins::Forgotten {
            for at in 0..VOTERS {
                self.wake_voter(state, at);
            }
        }
    }

    fn wake_voter(&self, state: &mut State, at: usize) {
        let now = self.now(state, at);
        let mut out = Effects::default();
        if self.is_due(state, at) {
            state.voters[at].change(|it| it.handle_timeout(now, &mut out));
            self.follow(state, at, out);
        }
    }

    fn is_due(&self, state: &State, at: usize) -> bool {
        let now = self.now(state, at);
        let due = state.voters[at].it.next_timeout();
        due.is_some_and(|due| due <= now.mono)
    }
}

impl Model for Search {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        self.scope.mistake.make();
        let claims = self.scope.walls.len();
        let mut state = State {
            time: 0,
            voters: Vec::new(),
            journals: Vec::new(),
            claimants: Vec::new(),
            attempts: vec![Attempt::default(); claims],
            network: BTreeSet::new(),
            crashes: 0,
            forgotten: vec![None; VOTERS],
            highest_owner: 0,
            grants: 0,
            is_marked: false,
            may_lack_marks: false,
            revoked: None,
            broken: None,
        };
        for at in 0..VOTERS {
            let now = self.now(&state, at);
            let mut out = Effects::default();
            let memory = self.scope.journals.then(|| Memory::empty(1));
            if let Some(memory) = &memory {
                state.journals.push(Kept::new(memory.clone()));
            }
            let is_new = memory.is_none();
            let mut voter = self.voter(now, (at, 0), memory, &mut out);
            if is_new {
                voter.change(|it| self.confirm(now, it, at, at as u64, &mut out));
            }
            state.voters.push(voter);
            out.messages.clear();
            self.follow(&mut state, at, out);
        }
        for claimant in 0..claims {
            let me = self.ids[VOTERS + claimant].clone();
            let it = Claimant::new(me, Incarnation::new(1), self.voter_set.clone(), 4, 0);
            state.claimants.push(Kept::new(it));
        }
        self.begin(&mut state);
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.broken.is_some() {
            return;
        }
        let is_gone = matches!(self.scope.begins, Begins::Forgotten | Begins::Marked);
        let dead = usize::from(is_gone);
        for (claimant, attempt) in state.attempts.iter().enumerate().skip(dead) {
            match attempt.ticket {
                None => actions.push(Action::Ask(claimant)),
                Some(ticket) if !attempt.is_over => {
                    actions.push(Action::Release(claimant));
                    let now = self.now(state, VOTERS + claimant);
                    let lease = state.claimants[claimant].it.valid_until(now, ticket);
                    if self.scope.marks && lease.is_some() {
                        actions.push(Action::Mark(claimant));
                    }
                    if self.scope.revokes && lease.is_some() && state.revoked.is_none() {
                        actions.push(Action::Revoke(claimant));
                    }
                }
                Some(_) => {}
            }
            let now = self.now(state, VOTERS + claimant);
            let due = state.claimants[claimant].it.next_timeout();
            if due.is_some_and(|due| due <= now.mono) {
                actions.push(Action::Wake(claimant));
            }
        }
        let sleepers = (0..VOTERS).filter(|at| self.is_due(state, *at));
        actions.extend(sleepers.map(Action::WakeVoter));
        actions.extend(state.network.iter().cloned().map(Action::Read));
        if state.time < self.scope.steps {
            actions.push(Action::Step);
        }
        if state.crashes < self.scope.crashes {
            actions.extend((0..VOTERS).map(Action::Crash));
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        self.scope.mistake.make();
        let mut state = last.clone();
        match action {
            Action::Ask(claimant) => self.ask(&mut state, claimant),
            Action::Release(claimant) => {
                let ticket = state.attempts[claimant].ticket?;
                self.release(&mut state, claimant, ticket);
            }
            Action::Mark(claimant) => self.mark(&mut state, claimant),
            Action::Revoke(claimant) => self.revoke(&mut state, claimant),
            Action::Wake(claimant) => self.wake(&mut state, claimant),
            Action::WakeVoter(at) => self.wake_voter(&mut state, at),
            Action::Read(envelope) => self.read(&mut state, &envelope),
            Action::Step => self.step(&mut state),
            Action::Crash(at) => self.crash(&mut state, at),
        }
        self.judge(&mut state);
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("M1 to M4, M10, S9", |_, state: &State| {
                state.broken.is_none()
            }),
            Property::sometimes("all own it in turn", |search: &Self, state: &State| {
                usize::from(state.grants) == search.scope.walls.len()
            }),
        ]
    }

    fn within_boundary(&self, state: &State) -> bool {
        state.network.len() <= self.scope.messages_max
    }
}

/// The mistake in the rules that a search makes, for the searches that must find it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mistake {
    #[cfg(lockmesh_mutants)]
    pub(crate) mutant: Option<crate::proto::Mutant>,
}

impl Mistake {
    /// Makes the mistake on this thread.
    #[cfg_attr(
        not(lockmesh_mutants),
        expect(clippy::unused_self, reason = "for mutants")
    )]
    fn make(self) {
        #[cfg(lockmesh_mutants)]
        crate::proto::mutants::make(self.mutant);
    }
}

#[cfg(test)]
mod tests {
    use super::scope::scopes;
    use super::*;

    #[test]
    fn short_search_finds_no_breach_in_any_scope() {
        for scope in all_scopes() {
            let found = search(&scope, Duration::from_secs(20), 10_000);
            assert!(
                found.broken.is_none(),
                "{}: {:?}",
                found.scope,
                found.broken
            );
            assert!(found.states > 1_000);
        }
    }

    #[test]
    fn covered_start_has_sessions_with_two_voters() {
        let scopes = scopes();
        let covered = scopes
            .iter()
            .find(|scope| scope.begins == Begins::Covered)
            .unwrap();
        let state = Search::new(covered.clone()).init_states().remove(0);
        assert_eq!(state.claimants[0].it.sessions(), 2);
        let sessions = state.voters.iter().map(|voter| voter.it.sessions());
        assert_eq!(sessions.collect::<Vec<_>>(), [1, 1, 0]);
        assert_eq!((state.time, state.broken), (1, None));
    }

    #[test]
    fn asked_start_has_claims_for_every_voter() {
        let scopes = scopes();
        let asked = scopes
            .iter()
            .find(|scope| scope.begins == Begins::Asked)
            .unwrap();
        let state = Search::new(asked.clone()).init_states().remove(0);
        assert_eq!(state.network.len(), VOTERS * asked.walls.len());
        for envelope in &state.network {
            assert!(matches!(*envelope.message, Message::Claim(_)));
        }
    }
}
