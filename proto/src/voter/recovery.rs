//! Recovery of a voter that has lost its memory.
//!
//! If a voter forgot its votes it could vote again, and two claims would have a quorum. So it is in
//! quarantine until every lease that it may have voted for is over. Then it queries the other
//! voters for the highest epoch that they know, since two successive quorums may share this voter
//! alone.
//!
//! Wall clocks are the second safeguard: they bound the epochs that were granted before the start.
//! Such an epoch was at most `max_clock_skew` ahead of some right clock. Some right clock has not
//! passed the high time ([`Clocks`](crate::clocks::Clocks)). Right clocks differ by at most
//! `max_clock_skew`. A minority of wrong clocks changes none of this.
//!
//! If the voter knows too few clocks, it uses its own clock at the start. It needs at least as many
//! clocks as a quorum of a key's voters: otherwise its recovered fence might reject all claims
//! until time catches up. While it knows fewer than a quorum of all members has, it waits up to ten
//! seconds for more.
//!
//! An earlier incarnation may have had other settings. So the voter asks all nodes that it knows
//! for their voter sets, and waits for the longest votes of any of them. It does not vote while it
//! receives messages from a voter of another voter set, since two sets need not share a quorum.
//!
//! A voter with a journal has its memory and need not wait. But the journal may be an old copy. So
//! the voter asks the others for the highest incarnation that they received before this one. It
//! resumes once more than half of them, with memories of their own, have confirmed that the journal
//! names it, or after a second.
//!
//! A new cluster need not wait. But the flag for a new cluster tends to stay set, so a voter
//! started with it still queries the others. It skips the quarantine only if all but `quorum - 2`
//! of them reply that they know of no earlier incarnation.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::clocks::{MayReturn, with_drift};
use crate::description::{OtherSet, Role};
use crate::epoch::{Epoch, EpochClock};
use crate::event::{Effects, Event, View};
use crate::id::{Incarnation, NodeId};
use crate::journal::Memory;
use crate::message::{Message, RecoveryQuery, RecoveryReply};
use crate::time::{Instant, Now};
use crate::voter_set::{QUARANTINE_MAX, VoterSet};

/// The minimum number of times that a voter asks for voter sets during its quarantine.
const ASKS: u32 = 8;
/// The time that a voter waits for replies, after its quarantine or before it resumes.
const REPLY_WAIT: Duration = Duration::from_secs(1);
/// The time that a voter waits for the clocks of more members than a quorum.
const CLOCKS_WAIT: Duration = Duration::from_secs(10);

/// The state in which a voter starts.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Start {
    /// The voter may have voted in an earlier incarnation. It starts with a quarantine.
    Recovering,
    /// The operator says that the cluster is new. The voter queries its peers, and starts a
    /// quarantine unless they confirm it.
    NewCluster,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Stage {
    /// The voter has its memory from a journal, and asks the others whether that is the newest.
    Resume { deadline: Instant },
    /// The voter was started as part of a new cluster, and queries the others about it.
    New,
    /// The leases that the voter may have voted for may still last.
    Quarantine,
    /// These leases are over; the voter queries the highest epoch.
    RecoveryQuery { deadline: Instant },
    /// The voter may vote.
    Over,
}

/// The recovery of one voter.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Recovery {
    stage: Stage,
    nonce: u64,
    started: Now,
    /// The time from the start until the last lease that the voter may have voted for is over.
    quarantine: Duration,
    /// The end of the votes of all other voter sets whose voters sent messages.
    others_until: Instant,
    /// The node that the voter waits for until then.
    waits_for: Option<NodeId>,
    /// `false` only if the cluster turned out to be new.
    may_have_voted: bool,
    /// The time of the last message from a voter of another voter set, and the largest skew.
    other_heard: Option<(Now, Duration)>,
    /// The high time as last reported, if it is known.
    high: Option<Now>,
    /// `MayReturn` as last reported.
    may_return: MayReturn,
    /// The end of the wait for more clocks, for `MayReturn::Later`.
    later: Option<Instant>,
    drift_ppm: u64,
    others: Vec<NodeId>,
    /// The nodes that gossip knows. Those that do not vote may still know of an earlier incarnation
    /// of the cluster.
    gossiped: BTreeSet<NodeId>,
    enough: usize,
    /// The last incarnation that the journal names, if the voter resumes from one.
    last: Option<Incarnation>,
    /// One vote is a quorum: no other voter can know of the epochs that this one voted for.
    decides_alone: bool,
    skew: Duration,
    round_trip: Duration,
    asked: u32,
    next_ask: Instant,
    answers: BTreeMap<NodeId, KnownEpoch>,
}

/// The reply of another voter: the highest epoch that it knows.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
struct KnownEpoch {
    highest: Epoch,
    /// The highest epoch that this voter's wall clock accepts, for an unknown high time.
    limit: Epoch,
}

/// The result of a recovery.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    pub(crate) fence: Epoch,
    /// `true` if the voter has its memory.
    pub(crate) resumes: bool,
    /// `true` if more than half of the others confirmed it.
    pub(crate) is_confirmed: bool,
    pub(crate) was_quarantined: bool,
    pub(crate) answers: usize,
    pub(crate) leans_on_wall_clock: bool,
    pub(crate) knows_clocks: bool,
}

impl Recovery {
    pub(crate) fn new(
        now: Now,
        me: &NodeId,
        voter_set: &VoterSet,
        (start, memory): (Start, Option<&Memory>),
        nonce: u64,
        out: &mut Effects,
    ) -> Self {
        let timing = voter_set.timing();
        let before = memory.map_or(Duration::ZERO, |memory| memory.quarantine);
        let quarantine = timing.quarantine().max(before.min(QUARANTINE_MAX));
        let whole = memory.filter(|memory| memory.is_whole);
        let mut recovery = Self {
            stage: Stage::New,
            nonce,
            started: now,
            quarantine,
            others_until: Instant::ZERO,
            waits_for: None,
            may_have_voted: true,
            other_heard: None,
            high: None,
            may_return: MayReturn::Yes,
            later: None,
            drift_ppm: u64::from(timing.max_drift_ppm),
            others: voter_set
                .members()
                .iter()
                .filter(|member| *member != me)
                .cloned()
                .collect(),
            gossiped: BTreeSet::new(),
            enough: match mistaken!(OneReplyFewer) {
                true => voter_set.recovery_replies().saturating_sub(1),
                false => voter_set.recovery_replies(),
            },
            last: whole.map(|memory| memory.incarnation),
            decides_alone: voter_set.quorum() == 1,
            skew: timing.max_clock_skew,
            round_trip: timing.round_trip,
            asked: 0,
            next_ask: now.mono,
            answers: BTreeMap::new(),
        };
        if whole.is_some() {
            let deadline = now.mono.after(REPLY_WAIT);
            recovery.stage = Stage::Resume { deadline };
        } else if start == Start::Recovering {
            recovery.go_into_quarantine(out);
        }
        recovery
    }

    /// Restarts the recovery of a voter that has to forget its votes again. It keeps the other
    /// settings that it has learned.
    pub(crate) fn restart(self, now: Now, nonce: u64, out: &mut Effects) -> Self {
        // Without other clocks the recovered fence depends on this clock, which may have been set
        // back.
        let wall_ms = now.wall_ms.max(self.started.wall_ms);
        let mut recovery = Self {
            nonce,
            started: Now { wall_ms, ..now },
            may_have_voted: true,
            last: None,
            later: None,
            // The current one is reported next.
            high: None,
            ..self
        };
        recovery.go_into_quarantine(out);
        recovery
    }

    fn go_into_quarantine(&mut self, out: &mut Effects) {
        self.stage = Stage::Quarantine;
        self.answers.clear();
        out.tell(Event::QuarantineBegan {
            until: self.until(),
        });
    }

    /// Handles a message from a node that has another voter set.
    pub(crate) fn handle_other_set(
        &mut self,
        now: Now,
        node: &NodeId,
        set: &OtherSet,
        out: &mut Effects,
    ) {
        if set.names_me {
            self.wait_as_long_as(node, set.quarantine, set.skew, out);
        }
        if !set.votes || mistaken!(OtherSetIgnored) {
            return;
        }
        // The node may still vote until just before its next answer is due.
        let span = set.quarantine.max(self.quarantine) + self.ask_every();
        self.others_until = self.others_until.max(now.mono.after(span));
        let before = self.other_heard.map_or(Duration::ZERO, |(_, skew)| skew);
        self.other_heard = Some((now, set.skew.max(self.skew).max(before)));
        self.hold(now, out);
        if self.waits_for.replace(node.clone()).is_none() {
            out.tell(Event::QuarantineExtended {
                until: self.until(),
                node: node.clone(),
                votes_elsewhere: true,
            });
        }
    }

    /// Extends the quarantine if a node knows of longer votes that this voter may have given.
    fn wait_as_long_as(
        &mut self,
        node: &NodeId,
        quarantine: Duration,
        skew: Duration,
        out: &mut Effects,
    ) {
        self.skew = self.skew.max(skew);
        if quarantine <= self.quarantine || mistaken!(OtherSetIgnored) {
            return;
        }
        self.quarantine = quarantine;
        if self.stage != Stage::New && self.stage != Stage::Over {
            out.tell(Event::QuarantineExtended {
                until: self.until(),
                node: node.clone(),
                votes_elsewhere: false,
            });
        }
    }

    /// Returns to the quarantine if that is not over yet.
    fn hold(&mut self, now: Now, out: &mut Effects) {
        if now.mono >= self.until() {
            return;
        }
        match self.stage {
            Stage::New => self.go_into_quarantine(out),
            Stage::RecoveryQuery { .. } => {
                self.stage = Stage::Quarantine;
                self.answers.clear();
                self.later = None;
                self.asked = 0;
                self.next_ask = now.mono;
            }
            Stage::Resume { .. } | Stage::Quarantine | Stage::Over => {}
        }
    }

    pub(crate) fn handle_clocks(&mut self, high: Option<Now>, may_return: MayReturn) {
        self.high = high;
        if !mistaken!(FloorByOwnClock) {
            self.may_return = may_return;
        }
    }

    fn may_return(&mut self, now: Now) -> bool {
        if self.may_return != MayReturn::Later {
            self.later = None;
            return self.may_return == MayReturn::Yes;
        }
        let later = now.mono.after(CLOCKS_WAIT);
        now.mono >= *self.later.get_or_insert(later)
    }

    pub(crate) fn handle_view(&mut self, view: &View) {
        let gossiped: BTreeSet<NodeId> = view.peers.keys().cloned().collect();
        if !gossiped.is_subset(&self.gossiped) {
            // A node has become reachable.
            self.next_ask = Instant::ZERO;
        }
        self.gossiped = gossiped;
    }

    /// Starts the quarantine of a voter that was started as new, or from a journal that does not
    /// name its last incarnation, since a node knows of one.
    pub(crate) fn handle_earlier_incarnation(&mut self, out: &mut Effects) {
        if matches!(self.stage, Stage::New | Stage::Resume { .. }) {
            self.last = None;
            self.go_into_quarantine(out);
        }
    }

    pub(crate) fn handle_recovery_reply(
        &mut self,
        now: Now,
        from: &NodeId,
        msg: &RecoveryReply,
        out: &mut Effects,
    ) {
        if msg.nonce != self.nonce.wrapping_add(u64::from(self.is_querying())) {
            return;
        }
        self.wait_as_long_as(from, msg.quarantine, msg.skew, out);
        if self.is_querying() {
            self.hold(now, out);
        }
        match self.stage {
            Stage::Resume { .. } if self.last < Some(msg.before) && !mistaken!(OldCopyResumes) => {
                out.tell(Event::JournalOutdated { node: from.clone() });
                self.handle_earlier_incarnation(out);
            }
            Stage::Resume { .. } if msg.remembers => {
                self.answer(now, from, KnownEpoch::default());
            }
            Stage::New if msg.knew && !mistaken!(NewIsBelieved) => self.go_into_quarantine(out),
            Stage::New => self.answer(now, from, KnownEpoch::default()),
            Stage::RecoveryQuery { .. } if msg.votes => {
                let (highest, limit) = (msg.highest, EpochClock::limit(now, self.skew));
                self.answer(now, from, KnownEpoch { highest, limit });
            }
            Stage::Resume { .. }
            | Stage::RecoveryQuery { .. }
            | Stage::Quarantine
            | Stage::Over => {}
        }
    }

    fn answer(&mut self, now: Now, from: &NodeId, answer: KnownEpoch) {
        if self.others.contains(from) {
            let known = self.answers.entry(from.clone()).or_default();
            known.highest = answer.highest.max(known.highest);
            known.limit = answer.limit;
        }
        self.end_if_answered(now);
    }

    /// Returns the highest epoch that is accepted from a reply, by the clocks as known now.
    fn limit(&self, answer: &KnownEpoch) -> Epoch {
        let high = self.high.map(|high| EpochClock::limit(high, self.skew));
        high.unwrap_or(answer.limit)
    }

    /// Ends the recovery if there are enough replies.
    ///
    /// A voter without memory does not vote while clocks are disputed. A fence by the clock that is
    /// ahead would reject all claims until time catches up; one by the other clock may be too low.
    fn end_if_answered(&mut self, now: Now) {
        if matches!(self.stage, Stage::Resume { .. }) {
            if self.is_confirmed() {
                self.stage = Stage::Over;
            }
            return;
        }
        let is_new = self.stage == Stage::New;
        let may_return = is_new || self.may_return(now);
        if self.answers.len() >= self.enough && may_return {
            self.may_have_voted &= !is_new;
            self.stage = Stage::Over;
        }
    }

    /// Returns `true` if more than half of the other members have answered, or there are none.
    fn is_confirmed(&self) -> bool {
        self.answers.len() * 2 > self.others.len() || self.others.is_empty()
    }

    pub(crate) fn handle_timeout(&mut self, now: Now, out: &mut Effects) {
        if let Stage::Resume { deadline } = self.stage {
            self.end_if_answered(now);
            if now.mono >= deadline {
                self.stage = Stage::Over;
            }
        }
        if self.enough == 0 && self.stage == Stage::New {
            // No other member could know of an earlier incarnation.
            self.may_have_voted = false;
            self.stage = Stage::Over;
        }
        if self.stage == Stage::New && now.mono >= self.until() {
            self.go_into_quarantine(out);
        }
        if self.stage == Stage::Quarantine && now.mono >= self.until() {
            self.stage = Stage::RecoveryQuery {
                deadline: now.mono.after(REPLY_WAIT),
            };
            self.asked = 0;
            self.next_ask = now.mono;
        }
        if let Stage::RecoveryQuery { deadline } = self.stage {
            self.end_if_answered(now);
            if now.mono >= deadline && !self.may_return(now) {
                let deadline = now.mono.after(REPLY_WAIT);
                self.stage = Stage::RecoveryQuery { deadline };
            } else if now.mono >= deadline {
                self.stage = Stage::Over;
            }
        }
        if self.stage != Stage::Over && now.mono >= self.next_ask {
            self.ask(now, out);
        }
    }

    /// Returns the longest interval between two requests for voter sets.
    fn ask_every(&self) -> Duration {
        self.quarantine / ASKS
    }

    /// Sends `Describe` during the quarantine, and `RecoveryQuery` before and after it.
    fn ask(&mut self, now: Now, out: &mut Effects) {
        let nonce = self.nonce.wrapping_add(u64::from(self.is_querying()));
        let (question, pause) = match self.stage {
            Stage::Quarantine => {
                let pause = self.round_trip * (1 << self.asked.min(16));
                (
                    Message::Describe(Role::Recovering),
                    pause.min(self.ask_every()),
                )
            }
            _ => {
                let pause = self.round_trip * (1 << self.asked.saturating_add(1).min(5));
                // An operator may need long to correct a clock.
                let least = match self.may_return {
                    MayReturn::Yes => pause,
                    MayReturn::Later | MayReturn::No => REPLY_WAIT,
                };
                let pause = pause.max(least);
                (Message::RecoveryQuery(RecoveryQuery { nonce }), pause)
            }
        };
        let unheard = self
            .others
            .iter()
            .filter(|node| !self.answers.contains_key(*node));
        let mut to: Vec<NodeId> = unheard.cloned().collect();
        // Nodes that are not members are asked too: they may know of an earlier incarnation of the
        // cluster, and they learn the address of this incarnation of the node.
        let members = &self.others;
        let bystanders = self.gossiped.iter().filter(|node| !members.contains(*node));
        to.extend(bystanders.cloned());
        for node in to {
            out.send(&node, question.clone());
        }
        self.asked = self.asked.saturating_add(1);
        self.next_ask = now.mono.after(pause.max(self.round_trip));
    }

    /// Returns `true` if the voter may have forgotten votes, and so cannot confirm that a cluster
    /// is new.
    pub(crate) fn is_quarantined(&self) -> bool {
        matches!(self.stage, Stage::Quarantine | Stage::RecoveryQuery { .. })
    }

    fn is_querying(&self) -> bool {
        matches!(self.stage, Stage::RecoveryQuery { .. })
    }

    pub(crate) fn next_timeout(&self) -> Instant {
        match self.stage {
            Stage::New | Stage::Quarantine => self.next_ask.min(self.until()),
            Stage::Resume { deadline } | Stage::RecoveryQuery { deadline } => {
                self.next_ask.min(deadline)
            }
            Stage::Over => Instant::ZERO,
        }
    }

    /// Returns the time from the start until the last lease that the voter may have voted for is
    /// over.
    pub(crate) fn quarantine(&self) -> Duration {
        self.quarantine
    }

    /// Lengthens the quarantine, since votes were out that last longer.
    pub(crate) fn at_least(self, quarantine: Duration) -> Self {
        let quarantine = self.quarantine.max(quarantine.min(QUARANTINE_MAX));
        Self { quarantine, ..self }
    }

    /// Returns `true` while the voter has its memory, but does not vote yet.
    pub(crate) fn resumes(&self) -> bool {
        self.last.is_some()
    }

    /// Returns a node with another voter set for whose votes this voter waits.
    pub(crate) fn waits_for(&self, now: Now) -> Option<&NodeId> {
        self.waits_for
            .as_ref()
            .filter(|_| now.mono < self.others_until)
    }

    /// Returns when the quarantine ends.
    pub(crate) fn until(&self) -> Instant {
        // Peers report the true span too, so the mistakes are applied only here.
        let quarantine = match () {
            () if mistaken!(NoQuarantine) => Duration::ZERO,
            () if mistaken!(ShortQuarantine) => self.quarantine / 2,
            () => self.quarantine,
        };
        let own = self.started.mono.after(quarantine);
        own.max(self.others_until)
    }

    /// Returns an upper bound for every granted epoch that this voter may have voted for before its
    /// start, or in another voter set until that set's last message.
    fn fence(&self) -> Epoch {
        let high = self.high.filter(|_| !mistaken!(FloorByOwnClock));
        let limit = |at: Now, skew: Duration| match high {
            Some(high) => EpochClock::limit(self.back_at(high, at), skew),
            None => EpochClock::limit(at, skew),
        };
        let skews = if high.is_some() { 2 } else { 1 };
        let own = limit(self.started, self.skew * skews);
        // An epoch granted there is at most one skew ahead of that clock, and that clock at most
        // one skew ahead of this one.
        let other = self.other_heard.map(|(at, skew)| limit(at, skew * 2));
        own.max(other.unwrap_or_default())
    }

    /// Returns an upper bound of the high time at an earlier instant.
    fn back_at(&self, high: Now, at: Now) -> Now {
        let (passed, drift) = with_drift(high.mono.since(at.mono), self.drift_ppm);
        Now {
            wall_ms: high.wall_ms.saturating_sub(passed.saturating_sub(drift)),
            ..at
        }
    }

    pub(crate) fn outcome(&self) -> Option<Outcome> {
        let over = self.stage == Stage::Over;
        let resumes = self.last.is_some();
        if over && resumes {
            return Some(Outcome {
                fence: Epoch::ZERO,
                resumes,
                is_confirmed: self.is_confirmed(),
                was_quarantined: false,
                answers: self.answers.len(),
                leans_on_wall_clock: false,
                knows_clocks: self.high.is_some(),
            });
        }
        if over && mistaken!(NoFloors) {
            return Some(Outcome {
                fence: Epoch::ZERO,
                resumes: false,
                is_confirmed: false,
                was_quarantined: false,
                answers: self.answers.len(),
                leans_on_wall_clock: false,
                knows_clocks: false,
            });
        }
        let answers = self.answers.values();
        let is_cut = |it: &KnownEpoch| it.highest > self.limit(it) && !mistaken!(CutInSilence);
        let is_cut = answers.clone().any(is_cut);
        let answers = answers.map(|it| it.highest.min(self.limit(it)));
        let highest = match mistaken!(LowestIsRecalled) {
            true => answers.min(),
            false => answers.max(),
        };
        over.then(|| Outcome {
            fence: match self.may_have_voted {
                true => highest.unwrap_or_default().max(self.fence()),
                false => Epoch::ZERO,
            },
            resumes,
            is_confirmed: false,
            was_quarantined: self.may_have_voted,
            answers: self.answers.len(),
            knows_clocks: self.high.is_some(),
            leans_on_wall_clock: self.may_have_voted
                && (self.decides_alone || is_cut || self.answers.len() < self.enough),
        })
    }
}
