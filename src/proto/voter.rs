//! The side that says yes.
//!
//! A voter has one vote for each key. It lends it to one claim at a time, for a span that it names
//! in the `Vote`, and never takes it back before that span is over unless the claimant says that it
//! does not count it. Whoever comes meanwhile waits in order. Two majorities share a voter; this
//! file is why that is enough.
//!
//! The numbers in the comments are the rules of `docs/PROTOCOL.md`.
//!
//! The alternative that was rejected is to let the claimant say how long a vote lasts: then a
//! shrinking or clamped ttl frees a vote under its owner.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::epoch::Epoch;
use super::event::{Effects, Event};
use super::id::{ClaimId, Incarnation, Key, NodeId};
use super::message::{
    Claim, HolderWon, Memory, Message, REPORTED_WAITERS_MAX, Recall, Refuse, RefuseReason, Release,
    Report, ReportedVote, ReportedWaiter, Stale, Vote, Wait,
};
use super::recovery::Recovery;
use super::roster::{Roster, floor_of};
use super::slot::{GivenVote, Heard, Slot};
use super::time::{Instant, Now};
use super::view::View;

/// How many floors a voter keeps for the keys that have no slot: 32 KiB, for ever.
pub const FLOORS: usize = 4_096;

/// What a voter may keep at the most.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Limits {
    /// Keys that are held or waited for at once. Some 300 bytes each.
    pub slots_max: usize,
    /// Claims that wait for one key.
    pub waiters_max: usize,
    /// Floors for the keys that have no slot. More floors: fewer claims on free keys that are
    /// told `Stale` for another key's sake.
    pub floors: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            slots_max: 1 << 20,
            waiters_max: 4_096,
            floors: FLOORS,
        }
    }
}

/// How a voter comes into the world.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Start {
    /// It may have voted in an earlier life, and has forgotten: quarantine.
    Amnesia,
    /// Its operator says that the cluster is new. It asks the others all the same, and goes into
    /// quarantine unless they agree.
    NewCluster,
}

/// One node's votes.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Voter {
    me: NodeId,
    roster: Arc<Roster>,
    limits: Limits,
    pub(super) slots: BTreeMap<Key, Slot>,
    /// When the vote of each slot expires.
    due: BTreeSet<(Instant, Key)>,
    floors: Vec<Epoch>,
    /// While the voter has no memory, what it does about it.
    recovery: Option<Recovery>,
    /// Whether it was ever in quarantine: it may have forgotten something, then and for good.
    forgot: bool,
    /// Who is dead by gossip's word: advice.
    dead: BTreeSet<NodeId>,
}

impl Voter {
    /// A voter without memory. `nonce` must differ from start to start.
    #[must_use]
    pub fn new(
        now: Now,
        me: NodeId,
        roster: Arc<Roster>,
        limits: Limits,
        start: Start,
        nonce: u64,
        out: &mut Effects,
    ) -> Self {
        let recovery = Recovery::new(now, &me, &roster, start, nonce, out);
        let mut voter = Self {
            me,
            roster,
            limits,
            slots: BTreeMap::new(),
            due: BTreeSet::new(),
            floors: vec![Epoch::ZERO; limits.floors.max(1)],
            recovery: Some(recovery),
            forgot: false,
            dead: BTreeSet::new(),
        };
        voter.handle_timeout(now, out);
        voter
    }

    /// A `Claim`: rules 1 to 5, and 8.
    pub fn handle_claim(&mut self, now: Now, msg: &Claim, out: &mut Effects) {
        self.settle(now, &msg.key, out);
        if let Some(reason) = self.refusal(now, msg) {
            let refuse = Refuse {
                claim: msg.claim.clone(),
                reason,
            };
            return out.send(&msg.claim.node, Message::Refuse(refuse));
        }
        let entry = Heard::new(now.mono, msg, self.roster.timing().max_ttl);
        match self.slots.get(&msg.key) {
            Some(slot) if slot.vote.to.claim == msg.claim => {
                if msg.since <= slot.vote.to.stamp {
                    self.renew(now, &msg.key, &entry, out);
                } else {
                    self.take_back(now, &msg.key, entry, out);
                }
            }
            Some(_) => self.wait_or_stale(now, &msg.key, entry, out),
            None => self.vote_for_first(now, &msg.key, entry, out),
        }
    }

    /// Rule 6.
    pub fn handle_release(&mut self, now: Now, msg: &Release, out: &mut Effects) {
        self.settle(now, &msg.key, out);
        let Some(slot) = self.slots.get_mut(&msg.key) else {
            return;
        };
        if slot.vote.to.claim != msg.claim && !mistaken!(ReleaseByKeyAlone) {
            slot.remove_waiter(&msg.claim);
            return;
        }
        if (msg.won || slot.vote.to.won) && !mistaken!(FenceNotRaisedOnRelease) {
            slot.raise_fence(slot.vote.to.epoch);
        }
        self.vote_for_head(now, &msg.key, out);
    }

    /// Rule 7: a node that speaks under a higher incarnation, itself and not by gossip, is proof
    /// that the claims of its earlier lives are over.
    pub fn handle_incarnation(
        &mut self,
        now: Now,
        node: &NodeId,
        incarnation: Incarnation,
        out: &mut Effects,
    ) {
        let is_over = |c: &ClaimId| c.node == *node && c.incarnation < incarnation;
        let mut freed = Vec::new();
        for (key, slot) in &mut self.slots {
            slot.take_waiters(|waiter| is_over(&waiter.claim));
            if is_over(&slot.vote.to.claim) {
                freed.push(key.clone());
            }
        }
        for key in freed {
            self.end_vote(now, &key, out);
        }
    }

    /// Gossip's word on who is dead: those leave the queues sooner. Nothing else follows from it.
    pub fn handle_view(&mut self, view: &View) {
        let dead = view.peers.iter().filter(|(_, peer)| !peer.alive);
        self.dead = dead.map(|(node, _)| node.clone()).collect();
        if let Some(recovery) = &mut self.recovery {
            recovery.handle_view(view);
        }
    }

    /// An answer to a question that this voter asked since it has no memory.
    pub fn handle_memory(&mut self, now: Now, from: &NodeId, msg: &Memory, out: &mut Effects) {
        if let Some(recovery) = &mut self.recovery {
            recovery.handle_memory(now, from, msg, out);
        }
        self.finish_recovery(out);
    }

    /// Somebody remembers an earlier life of this voter: it was told wrongly that all is new.
    pub fn handle_earlier_life(&mut self, out: &mut Effects) {
        if let Some(recovery) = &mut self.recovery {
            recovery.handle_earlier_life(out);
        }
    }

    /// What this voter remembers, for one that has lost its memory. `knew` and `seen` are of the
    /// node's knowledge of the asker.
    #[must_use]
    pub fn recollect(&self, msg: &Recall, knew: bool, seen: Incarnation) -> Memory {
        let fences = self
            .slots
            .values()
            .map(|slot| match mistaken!(RecallWithoutVotes) {
                true => slot.fence,
                false => slot.fence.max(slot.vote.to.epoch),
            });
        let highest = self
            .floors
            .iter()
            .copied()
            .chain(fences)
            .max()
            .unwrap_or_default();
        // One that may itself have forgotten cannot vouch that there was nothing before.
        let forgets = self.recovery.as_ref().is_some_and(Recovery::is_quarantined);
        let knew = knew || self.forgot || forgets;
        Memory {
            nonce: msg.nonce,
            highest,
            votes: self.recovery.is_none(),
            knew,
            seen,
        }
    }

    /// Rule 7 for all votes that are due, and the next step out of the quarantine.
    pub fn handle_timeout(&mut self, now: Now, out: &mut Effects) {
        if let Some(recovery) = &mut self.recovery {
            recovery.handle_timeout(now, out);
        }
        self.finish_recovery(out);
        while let Some((at, key)) = self.due.first() {
            if *at > now.mono {
                break;
            }
            let key = key.clone();
            self.end_vote(now, &key, out);
        }
    }

    /// When [`Voter::handle_timeout`] has something to do.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        let expiry = self.due.first().map(|(at, _)| *at);
        let recovery = self.recovery.as_ref().map(Recovery::next_timeout);
        [expiry, recovery].into_iter().flatten().min()
    }

    /// Until when this voter abstains at the latest but for a second; `None` once it votes.
    #[must_use]
    pub fn quarantine(&self) -> Option<Instant> {
        self.recovery.as_ref().map(Recovery::until)
    }

    /// Whether it has ever voted for anything that it still knows of.
    #[must_use]
    pub fn has_memory(&self) -> bool {
        !self.slots.is_empty() || self.floors.iter().any(|floor| *floor > Epoch::ZERO)
    }

    /// How many keys are held or waited for here.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// How many claims wait here, over all keys.
    #[must_use]
    pub fn waiters(&self) -> usize {
        self.slots.values().map(|slot| slot.queue().len()).sum()
    }

    /// The fence of a key: no claim with this epoch or a lower one wins a vote here.
    #[must_use]
    pub fn fence(&self, key: &Key) -> Epoch {
        match self.slots.get(key) {
            Some(slot) => slot.fence,
            None => self.floors[floor_of(key, self.floors.len())],
        }
    }

    /// This voter's view of a key.
    #[must_use]
    pub fn report(&self, now: Now, nonce: u64, key: &Key) -> Report {
        let fence = self.fence(key);
        let Some(slot) = self
            .slots
            .get(key)
            .filter(|slot| slot.vote.expires > now.mono)
        else {
            return Report {
                nonce,
                vote: None,
                waiters: Vec::new(),
                waiting: 0,
                fence,
            };
        };
        let to = &slot.vote.to;
        let vote = ReportedVote {
            claim: to.claim.clone(),
            epoch: to.epoch,
            won: to.won,
            remaining: slot.vote.expires.since(now.mono),
        };
        let waiters = slot.queue().iter().take(REPORTED_WAITERS_MAX);
        let waiters = waiters
            .map(|w| ReportedWaiter {
                node: w.claim.node.clone(),
                epoch: w.epoch,
            })
            .collect();
        Report {
            nonce,
            vote: Some(vote),
            waiters,
            waiting: count(slot.queue().len()),
            fence,
        }
    }

    /// First of all: rule 7 if it is due, and those leave the queue who were not heard for their
    /// ttl, or for half of it where gossip says that they are dead.
    fn settle(&mut self, now: Now, key: &Key, out: &mut Effects) {
        let Some(slot) = self.slots.get_mut(key) else {
            return;
        };
        if now.mono >= slot.vote.expires {
            return self.end_vote(now, key, out);
        }
        let dead = &self.dead;
        slot.take_waiters(|waiter| is_gone(now, waiter, dead));
    }

    fn refusal(&self, now: Now, msg: &Claim) -> Option<RefuseReason> {
        if !self.roster.votes_for(&self.me, &msg.key) {
            return Some(RefuseReason::NotAVoter);
        }
        if self.recovery.is_some() {
            return Some(RefuseReason::Quarantine);
        }
        let slot = self.slots.get(&msg.key);
        let holds = slot.is_some_and(|slot| slot.vote.to.claim == msg.claim);
        let waiter = slot.and_then(|slot| slot.waiter(&msg.claim));
        let won = msg.won || waiter.is_some_and(|waiter| waiter.won);
        let limit = Epoch::limit(now, self.roster.timing().max_clock_skew);
        if !won && !holds && msg.epoch > limit {
            return Some(RefuseReason::Skew);
        }
        let full = match slot {
            None => self.slots.len() >= self.limits.slots_max,
            Some(slot) => {
                !holds && waiter.is_none() && slot.queue().len() >= self.limits.waiters_max
            }
        };
        full.then_some(RefuseReason::Limit)
    }

    /// Rule 1, for the claim that has the vote.
    fn renew(&mut self, now: Now, key: &Key, entry: &Heard, out: &mut Effects) {
        let poke = self.roster.timing().poke;
        let Some(slot) = self.slots.get_mut(key) else {
            return;
        };
        let is_alone = slot.queue().is_empty();
        let vote = &mut slot.vote;
        vote.to.won |= entry.won;
        // A vote that has not won is never lengthened while others wait: its holder may be one
        // that cannot win.
        if (vote.to.won || is_alone) && entry.stamp > vote.to.stamp {
            vote.to.stamp = entry.stamp;
            vote.to.heard = now.mono;
            vote.to.ttl = entry.ttl;
            let expires = match mistaken!(LeaseShrinks) {
                true => now.mono.after(entry.ttl),
                false => vote.expires.max(now.mono.after(entry.ttl)),
            };
            if expires != vote.expires {
                self.due.remove(&(vote.expires, key.clone()));
                self.due.insert((expires, key.clone()));
                vote.expires = expires;
            }
        }
        send_vote(slot, key, false, out);
        if entry.won {
            learn_won(now, slot, key, poke, out);
        }
    }

    /// Rule 2: the claimant says that it does not count the vote. The fence does not move.
    fn take_back(&mut self, now: Now, key: &Key, mut entry: Heard, out: &mut Effects) {
        let Some(slot) = self.slots.get_mut(key) else {
            return;
        };
        entry.won |= slot.vote.to.won;
        let claim = entry.claim.clone();
        slot.enqueue(entry);
        self.vote_for_head(now, key, out);
        let Some(slot) = self.slots.get(key) else {
            return;
        };
        if let Some(ahead) = slot.queue().iter().position(|waiter| waiter.claim == claim) {
            let poke = self.roster.timing().poke;
            send_wait(now, slot, key, (&claim, ahead), poke, out);
        }
    }

    /// Rules 3 and 5, for a claim that comes while another has the vote.
    fn wait_or_stale(&mut self, now: Now, key: &Key, mut entry: Heard, out: &mut Effects) {
        let Some(slot) = self.slots.get_mut(key) else {
            return;
        };
        entry.won |= slot.waiter(&entry.claim).is_some_and(|waiter| waiter.won);
        if entry.is_below(slot.fence) {
            slot.remove_waiter(&entry.claim);
            return send_stale(&entry, slot.fence, out);
        }
        let poke = self.roster.timing().poke;
        let claim = entry.claim.clone();
        let ahead = slot.enqueue(entry);
        send_wait(now, slot, key, (&claim, ahead), poke, out);
        let silent = now.mono.since(slot.vote.to.heard) >= poke;
        let rested = slot
            .vote
            .asked
            .is_none_or(|asked| now.mono.since(asked) >= poke);
        if (!slot.vote.to.won || silent) && rested || slot.wants_back() {
            slot.vote.asked = Some(now.mono);
            send_vote(slot, key, true, out);
        }
    }

    /// Rules 3 and 4, for a claim that comes while no vote is out.
    fn vote_for_first(&mut self, now: Now, key: &Key, entry: Heard, out: &mut Effects) {
        let poke = self.roster.timing().poke;
        let fence = self.floors[floor_of(key, self.floors.len())];
        if entry.is_below(fence) {
            return send_stale(&entry, fence, out);
        }
        let vote = GivenVote {
            expires: now.mono.after(entry.ttl),
            to: entry,
            asked: None,
        };
        self.due.insert((vote.expires, key.clone()));
        let slot = self
            .slots
            .entry(key.clone())
            .or_insert_with(|| Slot::new(fence, vote));
        send_vote(slot, key, false, out);
        if slot.vote.to.won {
            learn_won(now, slot, key, poke, out);
        }
    }

    /// Rule 7: the vote ended other than by being given back.
    fn end_vote(&mut self, now: Now, key: &Key, out: &mut Effects) {
        if let Some(slot) = self.slots.get_mut(key)
            && !mistaken!(FenceNotRaisedOnExpiry)
        {
            slot.raise_fence(slot.vote.to.epoch);
        }
        self.vote_for_head(now, key, out);
    }

    /// Rule 9: clears the vote that is out and votes for the head of the queue. Where nobody
    /// waits the slot goes, and its floor keeps the fence.
    fn vote_for_head(&mut self, now: Now, key: &Key, out: &mut Effects) {
        let (offer, poke) = (self.roster.timing().offer, self.roster.timing().poke);
        let Some(slot) = self.slots.get_mut(key) else {
            return;
        };
        self.due.remove(&(slot.vote.expires, key.clone()));
        let dead = &self.dead;
        if mistaken!(SkipInsteadOfDrop) && !slot.skip(|it| is_gone(now, it, dead)) {
            return;
        }
        slot.take_waiters(|waiter| is_gone(now, waiter, dead));
        let fence = slot.fence;
        for waiter in slot.take_waiters(|waiter| waiter.is_below(fence)) {
            send_stale(&waiter, fence, out);
        }
        let Some(head) = slot.pop_head() else {
            let floor = floor_of(key, self.floors.len());
            self.floors[floor] = self.floors[floor].max(fence);
            self.slots.remove(key);
            return;
        };
        // An offer: a dead waiter must cost those behind it little. `Claim` with `won` makes a
        // lease of it.
        let span = if head.won || mistaken!(OfferIsWholeTtl) {
            head.ttl
        } else {
            head.ttl.min(offer)
        };
        slot.vote = GivenVote {
            expires: now.mono.after(span),
            to: head,
            asked: None,
        };
        self.due.insert((slot.vote.expires, key.clone()));
        send_vote(slot, key, false, out);
        if slot.vote.to.won {
            learn_won(now, slot, key, poke, out);
        }
    }

    fn finish_recovery(&mut self, out: &mut Effects) {
        let Some(done) = self.recovery.as_ref().and_then(Recovery::outcome) else {
            return;
        };
        for floor in &mut self.floors {
            *floor = (*floor).max(done.floor);
        }
        self.recovery = None;
        self.forgot = done.was_quarantined;
        out.tell(Event::QuarantineEnded {
            answers: done.answers,
            leans_on_wall_clock: done.leans_on_wall_clock,
        });
    }
}

/// A waiter speaks every quarter of its ttl. One that gossip calls dead may miss a single word:
/// were it dropped sooner, gossip that is wrong would cost it its turn.
fn is_gone(now: Now, waiter: &Heard, dead: &BTreeSet<NodeId>) -> bool {
    let is_dead = dead.contains(&waiter.claim.node);
    let patience = if is_dead { waiter.ttl / 2 } else { waiter.ttl };
    now.mono.since(waiter.heard) >= patience
}

/// Rule 8: the claim that has the vote has won. Those that can no longer win are told at once,
/// and so are those that would rather not wait.
fn learn_won(now: Now, slot: &mut Slot, key: &Key, poke: Duration, out: &mut Effects) {
    slot.raise_fence(slot.vote.to.epoch);
    let fence = slot.fence;
    for waiter in slot.take_waiters(|waiter| waiter.is_below(fence)) {
        send_stale(&waiter, fence, out);
    }
    for (ahead, waiter) in slot
        .take_waiters(|w| w.is_try && !w.won)
        .into_iter()
        .enumerate()
    {
        send_wait(now, slot, key, (&waiter.claim, ahead), poke, out);
    }
}

fn send_vote(slot: &Slot, key: &Key, ask: bool, out: &mut Effects) {
    let to = &slot.vote.to;
    let vote = Vote {
        key: key.clone(),
        claim: to.claim.clone(),
        stamp: to.stamp,
        ttl: slot.vote.expires.since(to.heard),
        back: slot.wants_back(),
        ask,
    };
    out.send(&to.claim.node, Message::Vote(vote));
}

/// To the claim that has so many before it. A holder that was not heard lately is called silent:
/// one that has won may be over by now.
fn send_wait(
    now: Now,
    slot: &Slot,
    key: &Key,
    (claim, ahead): (&ClaimId, usize),
    poke: Duration,
    out: &mut Effects,
) {
    let holder = &slot.vote.to;
    let silent = now.mono.since(holder.heard) >= poke;
    let wait = Wait {
        key: key.clone(),
        claim: claim.clone(),
        holder: holder.claim.clone(),
        epoch: holder.epoch,
        won: match (holder.won, silent) {
            (false, _) => HolderWon::No,
            (true, false) => HolderWon::Yes,
            (true, true) => HolderWon::Silent,
        },
        ahead: count(ahead),
    };
    out.send(&claim.node, Message::Wait(wait));
}

fn send_stale(entry: &Heard, fence: Epoch, out: &mut Effects) {
    let stale = Stale {
        claim: entry.claim.clone(),
        fence,
    };
    out.send(&entry.claim.node, Message::Stale(stale));
}

fn count(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
