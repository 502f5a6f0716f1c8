//! **M5 recovery** (`docs/protocol.md`, sections 1 and 6): a voter that has lost its memory takes
//! no part in any vote until every lease it may have voted for is over. Before it votes, its fences
//! must also be at least every epoch it may have voted for.
//!
//! Section 6 limits the second half. If the wall clock was set back, only granted epochs count,
//! since others know only these. If too few members replied as well, the voter reports that it
//! depends on its wall clock, and its fences are not judged.

use super::{Fact, History, HostAt, KeyAt};

pub(super) fn judge(at: u64, fact: &Fact, history: &History) -> Option<String> {
    match fact {
        Fact::Voted {
            voter,
            key,
            to: Some((host, epoch)),
        } if history.recovering.contains(voter) => Some(format!(
            "key {key}: voter {voter} has no memory and votes for host {host}, epoch {epoch}"
        )),
        Fact::Returned {
            voter,
            fences,
            believed,
            leans_on_wall_clock,
            leans_on_settings: false,
        } if !history.leans_on_settings => fences.iter().find_map(|(key, fence)| {
            under_a_guard(at, *voter, *key, history).or_else(|| {
                let needed = needed(*voter, *key, *believed, history);
                let said = *leans_on_wall_clock && *believed < needed;
                // Epochs lost then cannot be recovered at a later start.
                let excused = said || history.waived.contains(key);
                (*fence < needed && !excused)
                    .then(|| format!("key {key}: voter {voter} votes above {fence}, not {needed}"))
            })
        }),
        _ => None,
    }
}

fn under_a_guard(at: u64, voter: HostAt, key: KeyAt, history: &History) -> Option<String> {
    let had = history.vote_of(voter, key)?;
    if !history.terms.clocks_kept {
        return None;
    }
    let mut holders = history.holders(key, at);
    let (request, _) = holders.find(|(_, asked)| (asked.host, asked.epoch) == had)?;
    // The votes of others alone may hold it, given long after this one was over.
    let left = history.votes_for(key, had.0, had.1) - 1;
    (left < history.quorum_of(key, had.0)).then(|| {
        format!(
            "key {key}: voter {voter} votes again while request {request} is held by its old vote"
        )
    })
}

/// Returns the lowest fence that the voter may have.
fn needed(voter: HostAt, key: KeyAt, believed: u64, history: &History) -> u64 {
    let voted_for = history.voted_for(voter, key);
    if voted_for <= believed {
        voted_for
    } else {
        history.lost_owner(voter, key)
    }
}

#[cfg(test)]
mod tests {
    use super::super::forged::*;
    use super::*;

    fn returned(fence: u64, believed: u64, leans_on_wall_clock: bool) -> Fact {
        Fact::Returned {
            voter: 1,
            fences: vec![(0, fence)],
            believed,
            leans_on_wall_clock,
            leans_on_settings: false,
        }
    }

    fn history(back_at: u64, back: Fact) -> Vec<(u64, Fact)> {
        vec![
            (0, asked(1, 2)),
            (0, claimed(1, 10)),
            (1, voted(0, Some((2, 10)))),
            (1, voted(1, Some((2, 10)))),
            (2, granted(1, 10, 50)),
            (3, Fact::Forgot { voter: 1 }),
            (back_at, back),
        ]
    }

    #[test]
    fn vote_in_recovery_is_rejected() {
        let facts = history(20, voted(1, Some((0, 11))));
        assert_eq!(rejected(judge, terms(), &facts), 1);
    }

    #[test]
    fn voter_back_before_lease_end_is_rejected() {
        let facts = history(49, returned(10, 99, false));
        assert_eq!(rejected(judge, terms(), &facts), 1);
        let facts = history(50, returned(10, 99, false));
        assert_eq!(rejected(judge, terms(), &facts), 0);
    }

    #[test]
    fn epoch_granted_after_memory_loss_is_not_needed() {
        let mut facts = history(60, returned(9, 9, false));
        // Before it lost its memory it had voted for a far higher epoch that was never granted.
        facts.insert(2, (0, voted(1, Some((0, 40)))));
        facts.insert(7, (51, asked(2, 0)));
        facts.insert(8, (52, granted(2, 20, 90)));
        assert_eq!(
            rejected(judge, terms(), &facts),
            1,
            "it had voted for 10, which was granted"
        );
        facts[9] = (60, returned(10, 9, false));
        assert_eq!(rejected(judge, terms(), &facts), 0);
    }

    #[test]
    fn low_fence_is_rejected_unless_voter_reports_it() {
        let facts = history(60, returned(9, 99, false));
        assert_eq!(rejected(judge, terms(), &facts), 1);
        // The wall clock was set back: the replies of the others must suffice.
        let facts = history(60, returned(9, 5, false));
        assert_eq!(rejected(judge, terms(), &facts), 1);
        let facts = history(60, returned(9, 5, true));
        assert_eq!(rejected(judge, terms(), &facts), 0);
        // A wall clock that was not set back does not excuse a low fence.
        let facts = history(60, returned(9, 99, true));
        assert_eq!(rejected(judge, terms(), &facts), 1);
    }
}
