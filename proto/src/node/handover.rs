//! The handover of this node's voter, and of the voters of others ([`crate::handover`]).

use std::time::Duration;

use super::Node;
use crate::event::{Effects, Event};
use crate::handover::{Handover, Keeper, Leaver, Taker};
use crate::id::{Incarnation, NodeId};
use crate::journal::{JournalOwner, Memory, Record, Started, frame, open_journal, snapshot_head};
use crate::message::RefuseReason;
use crate::time::{Instant, Now, earliest};
use crate::voter::Voter;
use crate::voter_set::VoterSet;
use crate::wire::{DatagramHead, DropReason};

/// The handovers in which this node has a part.
#[derive(Debug)]
pub(super) struct Handovers {
    keeper: Keeper,
    leaver: Option<Leaver>,
    taker: Option<Taker>,
}

impl Handovers {
    pub(super) fn new(voter_set: &VoterSet, seed: u64) -> Self {
        Self {
            keeper: Keeper::new(voter_set.timing(), seed),
            leaver: None,
            taker: None,
        }
    }

    /// Begins to ask for the memory of an earlier incarnation.
    pub(super) fn take(
        &mut self,
        now: Instant,
        (me, voter_set): (&NodeId, &VoterSet),
        nonce: u64,
        out: &mut Effects,
    ) {
        let others = voter_set.members().iter().filter(|it| *it != me);
        let others: Vec<NodeId> = others.cloned().collect();
        let round_trip = voter_set.timing().round_trip;
        self.taker = (!others.is_empty()).then(|| Taker::new(now, others, round_trip, nonce, out));
    }

    /// Asks anew under a higher incarnation: answers to the one before do not count.
    pub(super) fn take_anew(&mut self, now: Instant, me: (&NodeId, &VoterSet), out: &mut Effects) {
        if let Some(taker) = &self.taker {
            let nonce = taker.nonce().wrapping_add(1);
            self.take(now, me, nonce, out);
        }
    }

    /// Asks for no memory any more: this incarnation votes, or it is not the first of its process.
    pub(super) fn stop_taking(&mut self) {
        self.taker = None;
    }

    pub(super) fn hear(&mut self, node: &NodeId, incarnation: Incarnation) {
        self.keeper.hear(node, incarnation);
    }

    pub(super) fn hurry(&mut self, now: Instant) {
        if let Some(taker) = &mut self.taker {
            taker.hurry(now);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.keeper.tokens()
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        earliest([
            self.keeper.next_timeout(),
            self.leaver.as_ref().and_then(Leaver::next_timeout),
            self.taker.as_ref().and_then(Taker::next_timeout),
        ])
    }
}

impl Node {
    /// Stops voting, before the node is shut down: the voter gives and lengthens no vote.
    ///
    /// A voter that has its memory and no journal leaves the memory with other voters.
    /// [`Event::HandedOver`] reports the result, after at most `at_most`. A second call hands
    /// nothing over: if the first is in progress it has no effect, and otherwise the event reports
    /// no voters.
    pub fn hand_over(&mut self, now: Now, at_most: Duration) {
        let now = self.corrected(now);
        if !self.handovers.keeper.leave() && self.handovers.leaver.is_some() {
            return;
        }
        let has_memory = self.voter.as_ref().is_some_and(|voter| {
            let is_open = voter.closed().is_none() && voter.quarantine().is_none();
            let votes_max = voter.limits().handover_votes_max;
            is_open && votes_max > 0 && voter.slots() <= votes_max
        });
        if let Some(voter) = &mut self.voter
            && !mistaken!(HandedOverUnsealed)
        {
            voter.close(Some(RefuseReason::Leaving));
        }
        if let Some(journal) = &mut self.journal {
            journal.hurry();
        }
        let mut others = Vec::new();
        if has_memory && self.journal.is_none() && at_most > Duration::ZERO {
            others = self.other_voters();
        }
        let leaver = Leaver::new(
            now.mono,
            self.claimant.incarnation(),
            others,
            self.voter_set.timing().round_trip,
            now.mono.after(at_most),
            &mut self.effects,
        );
        self.handovers.leaver = Some(leaver);
        self.go_on_leaving(now);
        self.route(now);
    }

    /// Returns the other members, those first that started last: in a rolling restart the others
    /// are restarted next. The flag is `true` if the handover waits for the member. It waits for
    /// those that gossip does not report as dead, and for all if it reports all as dead: it does so
    /// for a moment after a restart.
    fn other_voters(&self) -> Vec<(NodeId, bool)> {
        let members = self.voter_set.members().iter();
        let mut others: Vec<_> = members
            .filter(|node| **node != self.id)
            .map(|node| (self.peers.memory_of(node).1, node.clone()))
            .collect();
        others.sort_by(|a, b| b.cmp(a));
        let is_dead = |node: &NodeId| self.view.peers.get(node).is_some_and(|peer| !peer.alive);
        let all_are_dead = others.iter().all(|(_, node)| is_dead(node));
        let others = others.into_iter().map(|(_, node)| {
            let is_awaited = all_are_dead || !is_dead(&node);
            (node, is_awaited)
        });
        others.collect()
    }

    /// Handles a message of a handover. It counts only between two voters of one voter set.
    pub(super) fn handle_handover(
        &mut self,
        now: Now,
        head: &DatagramHead,
        msg: Handover,
    ) -> Result<(), DropReason> {
        if head.voter_set != self.voter_set.tag() {
            return Err(DropReason::VoterSet);
        }
        if self.voter.is_none() || !self.voter_set.has_member(&head.from) {
            return Err(DropReason::NotAVoter);
        }
        let (from, out) = (&head.from, &mut self.effects);
        let Handovers {
            keeper,
            leaver,
            taker,
        } = &mut self.handovers;
        match &msg {
            Handover::Entrust { .. } | Handover::Ask { .. } | Handover::Fetch { .. } => {
                keeper.handle(now.mono, (from, head.incarnation), msg, out);
            }
            Handover::Token { .. } | Handover::PartKept { .. } => {
                if let Some(leaver) = leaver {
                    leaver.handle(now.mono, from, &msg, out);
                }
            }
            Handover::Told { .. } => {
                if let Some(taker) = taker {
                    taker.handle(now.mono, from, msg, out);
                }
            }
            // A part is for whoever knows its token.
            Handover::Part(_) => {
                if let Some(taker) = taker {
                    taker.handle(now.mono, from, msg.clone(), out);
                }
                keeper.handle(now.mono, (from, head.incarnation), msg, out);
            }
        }
        self.go_on_leaving(now);
        self.take_up(now);
        Ok(())
    }

    pub(super) fn handle_handover_timeout(&mut self, now: Now) {
        let Handovers {
            keeper,
            leaver,
            taker,
        } = &mut self.handovers;
        keeper.handle_timeout(now.mono);
        if let Some(leaver) = leaver {
            leaver.handle_timeout(now.mono, &mut self.effects);
        }
        if let Some(taker) = taker {
            taker.handle_timeout(now.mono, &mut self.effects);
        }
        self.go_on_leaving(now);
        self.take_up(now);
    }

    /// Supplies the memory once the keepers are fixed, and reports the end of the handover.
    fn go_on_leaving(&mut self, now: Now) {
        let Some(leaver) = &mut self.handovers.leaver else {
            return;
        };
        if leaver.wants_memory().is_some() {
            let journal = self.voter.as_ref().map(|voter| {
                let mut records = Vec::new();
                for (node, heard) in self.peers.heard_members() {
                    records.extend(heard.records(node));
                }
                let me = (&self.id, self.claimant.incarnation());
                memory_of(now.mono, me, voter, records)
            });
            leaver.send_memory(now.mono, journal.as_deref(), &mut self.effects);
        }
        if let Some(voters) = leaver.outcome() {
            let voters = voters.to_vec();
            self.effects.tell(Event::HandedOver { voters });
            self.handovers.leaver = None;
        }
    }

    /// Resumes the voter if its memory was delivered and confirmed.
    fn take_up(&mut self, now: Now) {
        let (Some(taker), Some(voter)) = (&self.handovers.taker, &mut self.voter) else {
            return;
        };
        if voter.quarantine().is_none() {
            return self.handovers.stop_taking();
        }
        let Some(delivered) = taker.confirmed() else {
            return;
        };
        let (from, left) = (delivered.from.clone(), delivered.head.incarnation);
        let incarnation = self.claimant.incarnation();
        let started = Started::new(incarnation, None, true, &self.voter_set);
        let owner = owner_of(&self.id, voter);
        let opened = open_journal(&delivered.journal, &owner, started);
        let opened = opened.ok().filter(|it| it.why.is_none() && it.torn == 0);
        self.handovers.stop_taking();
        let Some(opened) = opened else {
            return;
        };
        let memory: Memory = opened.memory;
        self.peers.remember(&memory.heard);
        let votes = voter.take_up(now, memory, &mut self.effects);
        let incarnation = left;
        self.effects.tell(Event::TookUp {
            from,
            incarnation,
            votes,
        });
    }
}

fn owner_of(me: &NodeId, voter: &Voter) -> JournalOwner {
    JournalOwner {
        node: me.clone(),
        // The seal proves the cluster.
        cluster: String::new(),
        buckets: voter.limits().fence_buckets,
    }
}

/// Returns the memory of a voter in the form of a journal.
fn memory_of(
    now: Instant,
    me: (&NodeId, Incarnation),
    voter: &Voter,
    heard: Vec<Record>,
) -> Vec<u8> {
    let (me, incarnation) = me;
    let started = Started::new(incarnation, None, true, voter.voter_set());
    let mut bytes = snapshot_head(&owner_of(me, voter), &started);
    let mut records = heard;
    voter.handover(now, &mut records);
    for record in &records {
        frame(record, &mut bytes);
    }
    bytes
}
