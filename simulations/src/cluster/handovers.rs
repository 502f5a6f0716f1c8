//! Processes that leave their voter's memory with others, and what is compared when the next one
//! takes it up.

use std::time::Duration;

use super::disks::{KeptKey, KeptVote};
use crate::cluster::{Rates, World};
use crate::judge::{Fact, HostAt};
use crate::proto::{Epoch, Incarnation};

/// The last process of a host whose voter had its memory when it ended.
#[derive(Debug)]
pub(crate) struct LastVoter {
    incarnation: Option<Incarnation>,
    /// Its votes and fences.
    keys: Vec<KeptKey>,
}

impl World {
    /// Lets a process leave: it ends once its memory is handed over, and the host starts again
    /// `starts_in` later.
    pub(crate) fn leave(&mut self, host: HostAt, span: u64, starts_in: Option<u64>) {
        self.count("handovers");
        self.note_host(host);
        if let Some(process) = self.hosts[host].process.as_mut() {
            process.leaves = Some(starts_in);
        }
        self.at_node(host, |node, now| {
            if let Some(node) = node.node_mut() {
                node.hand_over(now, Duration::from_nanos(span));
            }
        });
    }

    /// Handles the report that a handover is over.
    pub(crate) fn see_handed_over(&mut self, host: HostAt, keepers: usize) {
        if keepers > 0 {
            self.count("memories_left");
        }
        self.hosts[host].keepers = keepers;
        let Some(process) = self.hosts[host].process.as_mut() else {
            return;
        };
        let Some(starts_in) = process.leaves.take() else {
            return;
        };
        self.crash(host);
        if let Some(span) = starts_in {
            self.start_in(span, host);
        }
    }

    /// Notes what the voter of a process that ends knows, if it has its memory.
    pub(crate) fn note_last_voter(&mut self, host: HostAt) {
        let Some(process) = self.process(host) else {
            return;
        };
        let Some(voter) = process.node.voter() else {
            return;
        };
        if voter.quarantine().is_some() {
            return;
        }
        let incarnation = process.node.incarnation();
        let keys = self.keys_voted_by(host).iter();
        let keys = keys.map(|key| self.known_about(host, voter, *key));
        let keys = keys.collect();
        self.hosts[host].last_voter = Some(LastVoter { incarnation, keys });
    }

    /// Handles the report that a voter has taken up the memory of an incarnation.
    pub(crate) fn see_taken_up(&mut self, host: HostAt, incarnation: Incarnation) {
        self.count("memories_taken_up");
        self.note_host(host);
        // Without bounds on clocks, a copy may be kept for longer than a quarantine.
        if self.settings.rates == Rates::Kept
            && let Some(what) = self.weaker_than_last(host, incarnation)
        {
            self.see(&Fact::Weaker { voter: host, what });
        }
        self.see_votes_restored(host);
    }

    /// Returns the way in which the voter of a host knows less than the last one.
    fn weaker_than_last(&self, host: HostAt, incarnation: Incarnation) -> Option<String> {
        let Some(last) = &self.hosts[host].last_voter else {
            return Some(format!("{incarnation:?} never voted"));
        };
        if last.incarnation != Some(incarnation) {
            let voted = last.incarnation;
            return Some(format!("took {incarnation:?} up, but {voted:?} voted last"));
        }
        let voter = self.process(host)?.node.voter()?;
        last.keys.iter().find_map(|had| {
            let has = self.known_about(host, voter, had.key);
            self.has_less(host, had, &has)
                .then(|| format!("had {had:?}, has {has:?}"))
        })
    }

    fn has_less(&self, host: HostAt, had: &KeptKey, has: &KeptKey) -> bool {
        let epoch = |vote: &Option<KeptVote>| vote.as_ref().map_or(Epoch::ZERO, |it| it.epoch);
        let fence = has.fence.max(epoch(&has.vote));
        let Some(had_vote) = &had.vote else {
            return fence < had.fence;
        };
        if fence < had.fence {
            return true;
        }
        // The claims of the voter's own earlier incarnations are over.
        let is_over = had_vote.claim.node == self.hosts[host].id && fence >= had_vote.epoch;
        let is_kept = has.vote.as_ref().is_some_and(|vote| {
            vote.claim == had_vote.claim && vote.remaining_ms >= had_vote.remaining_ms
        });
        !is_kept && !is_over
    }
}
