//! What a voter does that has lost its memory.
//!
//! A voter that forgot whom it voted for would vote again, and two claims would have a quorum.
//! So it is in recovery until every lease it may have voted for is over, and then asks the others
//! for the highest epoch they know, since it may have been the only one that two owners share. The
//! wall clocks are the second belt. Whatever had been granted when it started was no further ahead
//! of a right clock than `max_clock_skew`, some right clock has not passed the high time
//! ([`Clocks`](super::clocks::Clocks)), and right clocks differ by no more than `max_clock_skew`.
//! Wrong ones that are a minority change nothing in that. A voter that knows too few clocks takes
//! its own at the start, but not while it knows fewer than a quorum has: its floor might shut out
//! everybody until time catches up, and without the others it is of no use. If it knows those of a
//! quorum, it waits some seconds for more.
//!
//! It may have had other settings then. So it asks all that it knows of for theirs, and waits for
//! the longest votes that any of them tells. And it does not vote while a voter of another voter
//! set is heard: two sets need not share a quorum.
//!
//! A cluster that is started for the first time need not wait. But a flag that says so will stay
//! set, so a voter that is told "new" asks first, and believes it only when nearly all others say
//! that they know of no earlier incarnation. Silence is not consent: without those answers it sits
//! out the quarantine.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::clocks::{MayReturn, with_drift};
use super::description::{OtherSet, Role};
use super::epoch::Epoch;
use super::event::{Effects, Event};
use super::id::NodeId;
use super::message::{Message, RecoveryQuery, RecoveryReply};
use super::time::{Instant, Now};
use super::view::View;
use super::voter::Start;
use super::voter_set::VoterSet;

/// How often a voter asks for voter sets in the course of its quarantine, at least.
const ASKS: u32 = 8;
/// How long a voter waits for answers once its quarantine is over.
const REPLY_WAIT: Duration = Duration::from_secs(1);
/// The same for the clocks of more members than a quorum.
const CLOCKS_WAIT: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Phase {
    /// It was told that the cluster is new, and asks whether that is so.
    New,
    /// It waits for the leases it may have voted for.
    Quarantine,
    /// They are over; it asks what was the highest epoch.
    RecoveryQuery { deadline: Instant },
    /// It may vote.
    Over,
}

/// The way from no memory to a vote.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Recovery {
    phase: Phase,
    nonce: u64,
    started: Now,
    /// From the start on: then the last lease is over that it may have voted for.
    quarantine: Duration,
    /// When the votes of all other voter sets are over whose voters were heard.
    others_until: Instant,
    /// The node that it waits for then.
    waits_for: Option<NodeId>,
    /// It was quarantined: there may be something that it has forgotten.
    may_have_voted: bool,
    /// When a voter of another voter set was last heard, and the larger skew of the two.
    other_heard: Option<(Now, Duration)>,
    /// The high time when it was last told, where it is known.
    high: Option<Now>,
    /// By the clocks that are known.
    may_return: MayReturn,
    /// If that is later: then.
    later: Option<Instant>,
    drift_ppm: u64,
    others: Vec<NodeId>,
    /// The nodes that gossip knows. Those of them that do not vote may still remember an earlier
    /// incarnation of the cluster.
    gossiped: BTreeSet<NodeId>,
    enough: usize,
    /// One vote is a quorum: no other voter can have seen what this one voted for.
    decides_alone: bool,
    skew: Duration,
    round_trip: Duration,
    asked: u32,
    next_ask: Instant,
    answers: BTreeMap<NodeId, Answer>,
}

/// The highest epoch that another voter knows.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
struct Answer {
    highest: Epoch,
    /// The highest that the own wall clock lets this voter believe, if the high time is unknown.
    limit: Epoch,
}

/// How it ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    pub(crate) floor: Epoch,
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
        start: Start,
        nonce: u64,
        out: &mut Effects,
    ) -> Self {
        let timing = voter_set.timing();
        let quarantine = timing.quarantine();
        let mut recovery = Self {
            phase: Phase::New,
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
            decides_alone: voter_set.quorum() == 1,
            skew: timing.max_clock_skew,
            round_trip: timing.round_trip,
            asked: 0,
            next_ask: now.mono,
            answers: BTreeMap::new(),
        };
        if start == Start::Recovering {
            recovery.go_into_quarantine(out);
        }
        recovery
    }

    /// It has to forget again: it waits anew, and keeps what it was told of other settings.
    pub(crate) fn restart(self, now: Now, nonce: u64, out: &mut Effects) -> Self {
        // Without the others' clocks the floor goes by the own one, which may have been set back.
        let wall_ms = now.wall_ms.max(self.started.wall_ms);
        let mut recovery = Self {
            nonce,
            started: Now { wall_ms, ..now },
            may_have_voted: true,
            later: None,
            // Those of now are told.
            high: None,
            ..self
        };
        recovery.go_into_quarantine(out);
        recovery
    }

    fn go_into_quarantine(&mut self, out: &mut Effects) {
        self.phase = Phase::Quarantine;
        self.answers.clear();
        out.tell(Event::QuarantineBegan {
            until: self.until(),
        });
    }

    /// A node speaks for another voter set.
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
        // It may have voted until just before its next answer was due.
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

    /// A node knows of votes that this voter may have given, and that last so long.
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
        if self.phase != Phase::New && self.phase != Phase::Over {
            out.tell(Event::QuarantineExtended {
                until: self.until(),
                node: node.clone(),
                votes_elsewhere: false,
            });
        }
    }

    /// Goes back into the quarantine where it is not over yet.
    fn hold(&mut self, now: Now, out: &mut Effects) {
        if now.mono >= self.until() {
            return;
        }
        match self.phase {
            Phase::New => self.go_into_quarantine(out),
            Phase::RecoveryQuery { .. } => {
                self.phase = Phase::Quarantine;
                self.answers.clear();
                self.later = None;
                self.asked = 0;
                self.next_ask = now.mono;
            }
            Phase::Quarantine | Phase::Over => {}
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
            // Somebody can be reached who could not be.
            self.next_ask = Instant::ZERO;
        }
        self.gossiped = gossiped;
    }

    /// Somebody remembers an earlier incarnation of this voter.
    pub(crate) fn handle_earlier_incarnation(&mut self, out: &mut Effects) {
        if self.phase == Phase::New {
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
        match self.phase {
            Phase::New if msg.knew && !mistaken!(NewIsBelieved) => self.go_into_quarantine(out),
            Phase::New => self.answer(now, from, Answer::default()),
            Phase::RecoveryQuery { .. } if msg.votes => {
                let (highest, limit) = (msg.highest, Epoch::limit(now, self.skew));
                self.answer(now, from, Answer { highest, limit });
            }
            Phase::RecoveryQuery { .. } | Phase::Quarantine | Phase::Over => {}
        }
    }

    fn answer(&mut self, now: Now, from: &NodeId, answer: Answer) {
        if self.others.contains(from) {
            let known = self.answers.entry(from.clone()).or_default();
            known.highest = answer.highest.max(known.highest);
            known.limit = answer.limit;
        }
        self.end_if_answered(now);
    }

    /// The highest epoch that an answer makes it believe, by the clocks as they are known now.
    fn limit(&self, answer: &Answer) -> Epoch {
        let high = self.high.map(|high| Epoch::limit(high, self.skew));
        high.unwrap_or(answer.limit)
    }

    /// While clocks are disputed a voter without memory does not vote: a floor by the one that is
    /// ahead would shut out everybody until time catches up, and one by the other may be too low.
    fn end_if_answered(&mut self, now: Now) {
        let is_new = self.phase == Phase::New;
        let may_return = is_new || self.may_return(now);
        if self.answers.len() >= self.enough && may_return {
            self.may_have_voted &= !is_new;
            self.phase = Phase::Over;
        }
    }

    pub(crate) fn handle_timeout(&mut self, now: Now, out: &mut Effects) {
        if self.enough == 0 && self.phase == Phase::New {
            // Nobody else could remember anything.
            self.may_have_voted = false;
            self.phase = Phase::Over;
        }
        if self.phase == Phase::New && now.mono >= self.until() {
            self.go_into_quarantine(out);
        }
        if self.phase == Phase::Quarantine && now.mono >= self.until() {
            self.phase = Phase::RecoveryQuery {
                deadline: now.mono.after(REPLY_WAIT),
            };
            self.asked = 0;
            self.next_ask = now.mono;
        }
        if let Phase::RecoveryQuery { deadline } = self.phase {
            self.end_if_answered(now);
            if now.mono >= deadline && !self.may_return(now) {
                let deadline = now.mono.after(REPLY_WAIT);
                self.phase = Phase::RecoveryQuery { deadline };
            } else if now.mono >= deadline {
                self.phase = Phase::Over;
            }
        }
        if self.phase != Phase::Over && now.mono >= self.next_ask {
            self.ask(now, out);
        }
    }

    /// How often it asks for voter sets, once it has asked a few times.
    fn ask_every(&self) -> Duration {
        self.quarantine / ASKS
    }

    /// Asks for voter sets during the quarantine, for what is remembered before and after.
    fn ask(&mut self, now: Now, out: &mut Effects) {
        let nonce = self.nonce.wrapping_add(u64::from(self.is_querying()));
        let (question, pause) = match self.phase {
            Phase::Quarantine => {
                let pause = self.round_trip * (1 << self.asked.min(16));
                (
                    Message::Describe(Role::Recovering),
                    pause.min(self.ask_every()),
                )
            }
            _ => {
                let pause = self.round_trip * (1 << self.asked.saturating_add(1).min(5));
                // It may take long until somebody sets a clock right.
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
        // Others than members are asked too: they may know of an earlier incarnation of the
        // cluster, and they learn at which address this incarnation of the node is.
        let members = &self.others;
        let bystanders = self.gossiped.iter().filter(|node| !members.contains(*node));
        to.extend(bystanders.cloned());
        for node in to {
            out.send(&node, question.clone());
        }
        self.asked = self.asked.saturating_add(1);
        self.next_ask = now.mono.after(pause.max(self.round_trip));
    }

    /// Whether it may have forgotten something, and so can vouch for nothing.
    pub(crate) fn is_quarantined(&self) -> bool {
        matches!(self.phase, Phase::Quarantine | Phase::RecoveryQuery { .. })
    }

    fn is_querying(&self) -> bool {
        matches!(self.phase, Phase::RecoveryQuery { .. })
    }

    pub(crate) fn next_timeout(&self) -> Instant {
        match self.phase {
            Phase::New | Phase::Quarantine => self.next_ask.min(self.until()),
            Phase::RecoveryQuery { deadline } => self.next_ask.min(deadline),
            Phase::Over => Instant::ZERO,
        }
    }

    /// A node that speaks for another voter set, whose votes this voter waits for.
    pub(crate) fn waits_for(&self, now: Now) -> Option<&NodeId> {
        self.waits_for
            .as_ref()
            .filter(|_| now.mono < self.others_until)
    }

    pub(crate) fn until(&self) -> Instant {
        // Peers tell the true span too, so a mistake in it is made where it is counted.
        let quarantine = match () {
            () if mistaken!(NoQuarantine) => Duration::ZERO,
            () if mistaken!(ShortQuarantine) => self.quarantine / 2,
            () => self.quarantine,
        };
        let own = self.started.mono.after(quarantine);
        own.max(self.others_until)
    }

    /// No epoch that was granted is above this where this voter may have voted for it before it
    /// started, or in another voter set until that was last heard.
    fn floor(&self) -> Epoch {
        let high = self.high.filter(|_| !mistaken!(FloorByOwnClock));
        let limit = |at: Now, skew: Duration| match high {
            Some(high) => Epoch::limit(self.back_at(high, at), skew),
            None => Epoch::limit(at, skew),
        };
        let skews = if high.is_some() { 2 } else { 1 };
        let own = limit(self.started, self.skew * skews);
        // What was granted there is no further ahead of its clock than that, nor that of this one.
        let other = self.other_heard.map(|(at, skew)| limit(at, skew * 2));
        own.max(other.unwrap_or_default())
    }

    /// The high time as it was at an earlier instant, at most.
    fn back_at(&self, high: Now, at: Now) -> Now {
        let (passed, drift) = with_drift(high.mono.since(at.mono), self.drift_ppm);
        Now {
            wall_ms: high.wall_ms.saturating_sub(passed.saturating_sub(drift)),
            ..at
        }
    }

    pub(crate) fn outcome(&self) -> Option<Outcome> {
        let over = self.phase == Phase::Over;
        if over && mistaken!(NoFloors) {
            return Some(Outcome {
                floor: Epoch::ZERO,
                was_quarantined: false,
                answers: self.answers.len(),
                leans_on_wall_clock: false,
                knows_clocks: false,
            });
        }
        let answers = self.answers.values();
        let is_cut = |it: &Answer| it.highest > self.limit(it) && !mistaken!(CutInSilence);
        let is_cut = answers.clone().any(is_cut);
        let answers = answers.map(|it| it.highest.min(self.limit(it)));
        let highest = match mistaken!(LowestIsRecalled) {
            true => answers.min(),
            false => answers.max(),
        };
        over.then(|| Outcome {
            floor: match self.may_have_voted {
                true => highest.unwrap_or_default().max(self.floor()),
                false => Epoch::ZERO,
            },
            was_quarantined: self.may_have_voted,
            answers: self.answers.len(),
            knows_clocks: self.high.is_some(),
            leans_on_wall_clock: self.may_have_voted
                && (self.decides_alone || is_cut || self.answers.len() < self.enough),
        })
    }
}
