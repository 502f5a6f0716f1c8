//! **M4 a quorum of what** (`docs/protocol.md`, section 1): a quorum is counted over the voters
//! that the voter set gives a key, never over the nodes that gossip says are alive.
//!
//! At the instant of a grant, and whenever a lease is lengthened, a quorum of the voter set's
//! voters has the vote for it on record. One that lost its memory meanwhile counts with what it
//! had. Where clocks do not keep the bound a vote may be over at the voter before it is at the
//! claimant, so only its having been given could be asked for; that is left to the ledger.

use super::{Fact, History, Law, RequestId};

pub(super) struct AQuorumOfWhat;

impl Law for AQuorumOfWhat {
    fn number(&self) -> &'static str {
        "M4"
    }

    fn see(&mut self, at: u64, fact: &Fact, history: &History) -> Option<String> {
        let (request, epoch) = match fact {
            Fact::Granted { request, epoch, .. } => (request, *epoch),
            Fact::Until { request, until } if *until > at => {
                let asked = history.open.get(request)?;
                // Clocks that change their pace move ends too, and a lease that is over stays so.
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
        let RequestId(id) = request;
        (votes < quorum).then(|| {
            format!(
                "key {}: request {id} owns it by {votes} votes of {}",
                asked.key,
                history.terms.voters[asked.key].len()
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::forged::*;
    use super::*;

    #[test]
    fn a_grant_without_a_quorum_of_the_voter_set_is_rejected() {
        let mut facts = vec![
            (0, asked(1, 2)),
            (0, claimed(1, 10)),
            (1, voted(0, Some((2, 10)))),
            (2, granted(1, 10, 50)),
        ];
        assert_eq!(rejected(&mut AQuorumOfWhat, terms(), &facts), 1);
        facts.insert(3, (1, voted(1, Some((2, 10)))));
        assert_eq!(rejected(&mut AQuorumOfWhat, terms(), &facts), 0);
    }

    #[test]
    fn a_renewal_without_a_quorum_of_the_voter_set_is_rejected() {
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
        assert_eq!(rejected(&mut AQuorumOfWhat, terms(), &facts), 0);
        facts.insert(5, (20, voted(1, None)));
        assert_eq!(rejected(&mut AQuorumOfWhat, terms(), &facts), 1);
    }

    #[test]
    fn a_vote_for_another_epoch_does_not_count_and_a_forgotten_one_does() {
        let mut facts = vec![
            (0, asked(1, 2)),
            (0, claimed(1, 10)),
            (1, voted(0, Some((2, 10)))),
            (1, voted(1, Some((2, 9)))),
            (2, granted(1, 10, 50)),
        ];
        assert_eq!(rejected(&mut AQuorumOfWhat, terms(), &facts), 1);
        facts[3] = (1, voted(1, Some((2, 10))));
        facts.insert(4, (1, Fact::Forgot { voter: 1 }));
        assert_eq!(rejected(&mut AQuorumOfWhat, terms(), &facts), 0);
    }
}
