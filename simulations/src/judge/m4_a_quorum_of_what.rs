//! **M4 a quorum of what** (`docs/protocol.md`, section 1): a quorum is counted over the voters
//! that the voter set gives a key, never over the nodes that gossip reports as alive.
//!
//! At each grant and each renewal, a quorum of these voters has its vote for the claim recorded. A
//! voter that lost its memory counts with its former vote. If clocks do not keep `max_drift`, a
//! vote may expire at the voter before it does at the claimant. Such runs are left to the resource.

use super::{Fact, History};

pub(super) fn judge(at: u64, fact: &Fact, history: &History) -> Option<String> {
    let (request, epoch) = match fact {
        Fact::Granted { request, epoch, .. } => (request, *epoch),
        Fact::Until { request, until } if *until > at => {
            let asked = history.open.get(request)?;
            // A changed clock rate moves ends too, and a lease that is over stays over.
            let lasts = asked.until.is_some_and(|was| at < was && was < *until);
            (request, lasts.then_some(asked.epoch)?)
        }
        _ => return None,
    };
    if !history.terms.clocks_kept || history.leans_on_settings {
        return None;
    }
    let asked = history.open.get(request)?;
    let votes = history.votes_for(asked.key, asked.host, epoch);
    let quorum = history.quorum_of(asked.key, asked.host);
    (votes < quorum).then(|| {
        format!(
            "key {}: request {request} owns it by {votes} votes of {}",
            asked.key,
            history.terms.voters[asked.key].len()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::RequestId;
    use super::super::forged::*;
    use super::*;

    #[test]
    fn grant_without_quorum_is_rejected() {
        let mut facts = vec![
            (0, asked(1, 2)),
            (0, claimed(1, 10)),
            (1, voted(0, Some((2, 10)))),
            (2, granted(1, 10, 50)),
        ];
        assert_eq!(rejected(judge, terms(), &facts), 1);
        facts.insert(3, (1, voted(1, Some((2, 10)))));
        assert_eq!(rejected(judge, terms(), &facts), 0);
    }

    #[test]
    fn renewal_without_quorum_is_rejected() {
        let until = Fact::Until {
            request: RequestId(1),
            until: 90,
        };
        let mut facts = vec![
            (0, asked(1, 2)),
            (0, claimed(1, 10)),
            (1, voted(0, Some((2, 10)))),
            (1, voted(1, Some((2, 10)))),
            (2, granted(1, 10, 50)),
            (30, until),
        ];
        assert_eq!(rejected(judge, terms(), &facts), 0);
        facts.insert(5, (20, voted(1, None)));
        assert_eq!(rejected(judge, terms(), &facts), 1);
    }

    #[test]
    fn forgotten_vote_counts_but_another_epoch_does_not() {
        let mut facts = vec![
            (0, asked(1, 2)),
            (0, claimed(1, 10)),
            (1, voted(0, Some((2, 10)))),
            (1, voted(1, Some((2, 9)))),
            (2, granted(1, 10, 50)),
        ];
        assert_eq!(rejected(judge, terms(), &facts), 1);
        facts[3] = (1, voted(1, Some((2, 10))));
        facts.insert(4, (1, Fact::Forgot { voter: 1 }));
        assert_eq!(rejected(judge, terms(), &facts), 0);
    }
}
