//! The owner of a key, as a quorum of its voters reports it. It is advice for people and may be
//! outdated when they read it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::epoch::Epoch;
use crate::event::Effects;
use crate::id::{ClaimId, Key, NodeId, Note};
use crate::message::{Inspect, Message, REPORTED_WAITERS_MAX, Report, ReportedWaiter};
use crate::time::{Instant, Now};
use crate::voter_set::quorum;

/// The most inspections that run at once. If one more begins, the oldest ends early.
const INSPECTIONS_MAX: usize = 1_024;

/// Identifies one inspection.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct InspectId(u64);

/// The state of a key, as its voters report it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Inspection {
    /// The key.
    pub key: Key,
    /// The number of the key's voters.
    pub voters: usize,
    /// The number of voters that answered.
    pub answered: usize,
    /// The number of those that are in recovery and may have forgotten votes.
    pub recovering: usize,
    /// The holder, if it is known.
    pub state: LockState,
    /// The claims that have votes of the voters that answered, in descending order of votes.
    pub votes: Vec<SeenVotes>,
    /// The highest fence that a voter reported.
    pub fence: Epoch,
    /// The largest number of claims that wait at one voter.
    pub waiting: usize,
    /// The nodes that wait at any voter, in order. Each voter reports only the first of its queue.
    pub waiters: Vec<Waiter>,
}

/// The holder of a key, as far as it is known.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LockState {
    /// A claim has the votes of a quorum.
    Held(KeyOwner),
    /// No claim has a quorum, whatever the other voters would report.
    Free,
    /// The voters that did not answer or are in recovery may complete a quorum.
    Unknown,
}

/// A claim that has votes.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SeenVotes {
    /// The node that claims.
    pub node: NodeId,
    /// The claim's epoch.
    pub epoch: Epoch,
    /// The number of its votes.
    pub votes: usize,
    /// The time until the last of the votes expires.
    pub remaining: Duration,
    /// The note of the claim, if a voter has it.
    pub note: Option<Note>,
}

impl Inspection {
    /// Returns the claim that has the votes of a quorum, if one is known.
    #[must_use]
    pub fn owner(&self) -> Option<&KeyOwner> {
        match &self.state {
            LockState::Held(owner) => Some(owner),
            LockState::Free | LockState::Unknown => None,
        }
    }

    /// Returns the reason why the holder is unknown; `None` unless it is.
    #[must_use]
    pub fn unknown_because(&self) -> Option<String> {
        let (voters, recovering) = (self.voters, self.recovering);
        let silent = voters - self.answered;
        let are = |n: usize| if n == 1 { "is" } else { "are" };
        let quarantine = format!(
            "{recovering} of {voters} voters {} in quarantine",
            are(recovering)
        );
        let no_answer = format!("{silent} of {voters} voters did not answer");
        (self.state == LockState::Unknown).then(|| match (recovering, silent) {
            (0, _) => no_answer,
            (_, 0) => quarantine,
            _ => format!("{quarantine}, {silent} did not answer"),
        })
    }
}

/// The claim that has the votes of a quorum.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[non_exhaustive]
pub struct KeyOwner {
    /// The node that claims.
    pub node: NodeId,
    /// Its fencing token.
    pub epoch: Epoch,
    /// `true` if it has reported to a voter that it is granted. An uncontended owner does so only
    /// at its first renewal.
    pub confirmed: bool,
    /// The time for which a quorum of the votes still runs. The holder's own guard ends sooner.
    pub remaining: Duration,
    /// Its note, if a voter has it.
    pub note: Option<Note>,
}

/// A node that waits for a key.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[non_exhaustive]
pub struct Waiter {
    /// The epoch of its claim, which is its place in the queue.
    pub epoch: Epoch,
    /// The node.
    pub node: NodeId,
    /// The note of its claim, if a voter has it.
    pub note: Option<Note>,
}

/// Notes by the node and the epoch of their claims.
pub(super) type Notes = BTreeMap<(NodeId, Epoch), Note>;

#[derive(Clone, Debug)]
struct Running {
    key: Key,
    until: Instant,
    voters: Vec<NodeId>,
    reports: BTreeMap<NodeId, Report>,
    notes: Notes,
}

/// The inspections that this node runs.
#[derive(Clone, Debug)]
pub(crate) struct Inspector {
    next: u64,
    running: BTreeMap<u64, Running>,
}

impl Inspector {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            next: seed >> 1,
            running: BTreeMap::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.running.len()
    }

    pub(crate) fn begin(
        &mut self,
        until: Instant,
        key: &Key,
        voters: Vec<NodeId>,
        out: &mut Effects,
    ) -> InspectId {
        self.next = self.next.wrapping_add(1);
        let nonce = self.next;
        for voter in &voters {
            out.send(
                voter,
                Message::Inspect(Inspect {
                    nonce,
                    key: key.clone(),
                }),
            );
        }
        if self.running.len() >= INSPECTIONS_MAX
            && let Some(mut oldest) = self.running.first_entry()
        {
            oldest.get_mut().until = Instant::ZERO;
        }
        let running = Running {
            key: key.clone(),
            until,
            voters,
            reports: BTreeMap::new(),
            notes: Notes::new(),
        };
        self.running.insert(nonce, running);
        InspectId(nonce)
    }

    /// Records the note of a claim that a voter reports. Of each voter as many count as a report has
    /// claims.
    pub(crate) fn handle_note(
        &mut self,
        from: &NodeId,
        nonce: u64,
        claim: (NodeId, Epoch),
        note: Note,
    ) {
        if let Some(running) = self.running.get_mut(&nonce)
            && running.voters.contains(from)
            && running.notes.len() < running.voters.len() * (1 + REPORTED_WAITERS_MAX)
        {
            running.notes.insert(claim, note);
        }
    }

    /// Records a voter's report. Once a quorum has reported, the inspection ends after `grace`, so
    /// that a dead voter does not cost the whole timeout.
    pub(crate) fn handle_report(
        &mut self,
        now: Now,
        from: &NodeId,
        report: Report,
        grace: Duration,
    ) {
        if let Some(running) = self.running.get_mut(&report.nonce)
            && running.voters.contains(from)
        {
            running.reports.insert(from.clone(), report);
            if running.reports.len() >= quorum(running.voters.len()) {
                running.until = running.until.min(now.mono.after(grace));
            }
        }
    }

    pub(crate) fn finished(&mut self, now: Now) -> Vec<(InspectId, Inspection)> {
        let is_done = |running: &Running| {
            running.reports.len() == running.voters.len() || now.mono >= running.until
        };
        let done = self.running.extract_if(.., |_, running| is_done(running));
        done.map(|(nonce, running)| (InspectId(nonce), conclude(running)))
            .collect()
    }

    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        self.running.values().map(|running| running.until).min()
    }
}

fn conclude(running: Running) -> Inspection {
    let reports: Vec<Report> = running.reports.into_values().collect();
    judge(running.key, running.voters.len(), &reports, &running.notes)
}

/// One vote: its remaining time, the claim's epoch, and `true` if the claim is granted.
type Vote = (Duration, Epoch, bool);

fn seen_votes(claim: &ClaimId, votes: &[Vote], notes: &Notes) -> Option<SeenVotes> {
    let (remaining, epoch, _) = *votes.iter().max()?;
    Some(SeenVotes {
        node: claim.node.clone(),
        epoch,
        votes: votes.len(),
        remaining,
        note: notes.get(&(claim.node.clone(), epoch)).cloned(),
    })
}

/// Combines the reports of some of a key's voters.
pub(super) fn judge(key: Key, voters: usize, reports: &[Report], notes: &Notes) -> Inspection {
    let mut votes: BTreeMap<&ClaimId, Vec<Vote>> = BTreeMap::new();
    let mut waiters: Vec<Waiter> = Vec::new();
    for report in reports {
        if let Some(vote) = &report.vote {
            let vote_for = votes.entry(&vote.claim).or_default();
            vote_for.push((vote.remaining, vote.epoch, vote.granted));
        }
        let named = report.waiters.iter();
        waiters.extend(named.map(|ReportedWaiter { node, epoch }| Waiter {
            epoch: *epoch,
            node: node.clone(),
            note: notes.get(&(node.clone(), *epoch)).cloned(),
        }));
    }
    waiters.sort();
    waiters.dedup();
    let needed = quorum(voters);
    let recovering = reports.iter().filter(|it| it.is_recovering).count();
    let unknown = voters - (reports.len() - recovering);
    let most = votes.values().map(Vec::len).max().unwrap_or_default();
    let seen = votes.iter();
    let seen = seen.filter_map(|(claim, votes)| seen_votes(claim, votes, notes));
    let mut seen: Vec<SeenVotes> = seen.collect();
    seen.sort_by(|a, b| (b.votes, a.epoch, &a.node).cmp(&(a.votes, b.epoch, &b.node)));
    let owner = votes.into_iter().find(|(_, votes)| votes.len() >= needed);
    let owner = owner.map(|(claim, mut votes)| {
        votes.sort_by(|a, b| b.cmp(a));
        KeyOwner {
            node: claim.node.clone(),
            epoch: votes[0].1,
            confirmed: votes.iter().any(|(_, _, granted)| *granted),
            remaining: votes[needed - 1].0,
            note: notes.get(&(claim.node.clone(), votes[0].1)).cloned(),
        }
    });
    let state = match owner {
        Some(owner) => LockState::Held(owner),
        None if most + unknown < needed => LockState::Free,
        None => LockState::Unknown,
    };
    let fence = reports.iter().map(|report| report.fence).max();
    let waiting = reports.iter().map(|report| report.waiting).max();
    Inspection {
        key,
        voters,
        answered: reports.len(),
        recovering,
        state,
        votes: seen,
        fence: fence.unwrap_or_default(),
        waiting: waiting.unwrap_or_default() as usize,
        waiters,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Incarnation;
    use crate::message::ReportedVote;

    /// A note is that of the claim with its node and epoch, from whichever voter.
    #[test]
    fn inspection_has_notes_of_votes_and_waiters() {
        let (now, voter) = (Now::default(), |name| NodeId::new(name).unwrap());
        let (voters, note) = (["b", "c"].map(voter).to_vec(), |it| Note::new(it).unwrap());
        let (key, span) = (Key::new("k").unwrap(), Duration::from_secs(1));
        let mut inspector = Inspector::new(7);
        let until = now.mono.after(span);
        let InspectId(nonce) = inspector.begin(until, &key, voters, &mut Effects::default());
        let mut told = |from, nonce, node, epoch, text| {
            let claim = (voter(node), Epoch::new(epoch));
            inspector.handle_note(&voter(from), nonce, claim, note(text));
        };
        told("b", nonce, "x", 70, "deploy 812");
        told("c", nonce, "y", 80, "waits");
        told("c", nonce, "x", 71, "of another claim");
        told("c", nonce + 1, "x", 70, "of another inspection");
        told("z", nonce, "x", 70, "of a node that is no voter of the key");
        // Of one voter as many count as its report has claims.
        (0..50).for_each(|n| told("c", nonce, "w", 100 + n, "more"));
        assert_eq!(inspector.running[&nonce].notes.len(), 18);
        let report = Report {
            nonce,
            vote: Some(ReportedVote {
                claim: ClaimId {
                    node: voter("x"),
                    incarnation: Incarnation::new(1),
                    seq: 1,
                },
                epoch: Epoch::new(70),
                granted: true,
                remaining: span,
            }),
            waiters: vec![ReportedWaiter {
                node: voter("y"),
                epoch: Epoch::new(80),
            }],
            ..Report::default()
        };
        for from in ["b", "c"] {
            inspector.handle_report(now, &voter(from), report.clone(), span);
        }
        let (_, seen) = inspector.finished(now).remove(0);
        assert_eq!(seen.owner().unwrap().note, Some(note("deploy 812")));
        assert_eq!(seen.votes[0].note, Some(note("deploy 812")));
        assert_eq!(seen.waiters[0].note, Some(note("waits")));
    }
}
