//! **L1 someone wins** (`docs/protocol.md`, section 1): of several claims that meet on a free key,
//! `try` claims included, exactly one is granted. Nodes that all try at one instant never all get
//! `false`. After the faults, every requested lock is granted within a stated bound.

use super::{End, Fact, History};

pub(super) fn judge(_at: u64, fact: &Fact, history: &History) -> Option<String> {
    match fact {
        Fact::Over {
            request,
            how: End::Denied,
        } => {
            let asked = history.open.get(request)?;
            let linger = history.terms.linger;
            let end = history.last_end(asked.key);
            let was_owned = end.is_some_and(|end| end + linger >= asked.asked_at);
            (!was_owned && !history.may_have_granted(asked)).then(|| {
                format!(
                    "key {}: request {request} got false and no claim was granted, or could have been",
                    asked.key
                )
            })
        }
        Fact::Unserved { request, bound } => {
            let asked = history.open.get(request)?;
            Some(format!(
                "key {}: request {request} of host {} still waits, {} ms after all was mended",
                asked.key,
                asked.host,
                bound / 1_000_000
            ))
        }
        Fact::Stormed {
            asked,
            granted,
            denied,
            bound,
        } if *granted != 1 || granted + denied != *asked => Some(format!(
            "of {asked} tries in one instant {granted} were granted and {denied} got false in {} ms",
            bound / 1_000_000
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::RequestId;
    use super::super::forged::*;
    use super::*;

    #[test]
    fn denied_try_without_grant_is_rejected() {
        let facts = [(0, asked(1, 0)), (9, over(1, End::Denied))];
        assert_eq!(rejected(judge, terms(), &facts), 1);
    }

    #[test]
    fn denied_try_beside_grant_is_accepted() {
        let facts = [
            (0, asked(1, 0)),
            (0, asked(2, 1)),
            (5, granted(2, 10, 50)),
            (9, over(1, End::Denied)),
            (300, asked(3, 0)),
            (310, over(3, End::Denied)),
        ];
        // The second `false` comes after the lease is over and no voter keeps state of it.
        assert_eq!(rejected(judge, terms(), &facts), 1);
        assert_eq!(rejected(judge, terms(), &facts[..4]), 0);
    }

    /// Votes for different claims do not explain a `false`. Two votes for one claim do, and so does
    /// one vote for an earlier claim.
    #[test]
    fn denied_try_beside_split_votes_is_rejected() {
        let denied = |votes: &[(usize, (usize, u64))]| {
            let mut facts = vec![(0, asked(1, 0)), (0, claimed(1, 10))];
            let votes = votes
                .iter()
                .map(|(voter, to)| (5, voted(*voter, Some(*to))));
            facts.extend(votes);
            facts.push((9, over(1, End::Denied)));
            rejected(judge, terms(), &facts)
        };
        assert_eq!(denied(&[(0, (1, 11)), (1, (2, 12)), (2, (0, 10))]), 1);
        assert_eq!(denied(&[(0, (1, 11)), (1, (1, 11))]), 0);
        assert_eq!(denied(&[(0, (1, 9))]), 0);
    }

    /// A claim that ended before the request began does not explain a `false`.
    #[test]
    fn denied_try_after_ended_votes_is_rejected() {
        let facts = [
            (1, voted(0, Some((1, 9)))),
            (2, voted(1, Some((1, 9)))),
            (3, voted(0, None)),
            (3, voted(1, None)),
            (4, asked(1, 0)),
            (4, claimed(1, 10)),
            (9, over(1, End::Denied)),
        ];
        assert_eq!(rejected(judge, terms(), &facts), 1);
    }

    #[test]
    fn storm_without_exactly_one_winner_is_rejected() {
        let stormed = |granted, denied| Fact::Stormed {
            asked: 8,
            granted,
            denied,
            bound: 1,
        };
        for (granted, denied, count) in [(1, 7, 0), (0, 8, 1), (2, 6, 1), (1, 6, 1)] {
            let facts = [(0, stormed(granted, denied))];
            assert_eq!(rejected(judge, terms(), &facts), count);
        }
    }

    #[test]
    fn waiter_unserved_after_bound_is_rejected() {
        let unserved = Fact::Unserved {
            request: RequestId(1),
            bound: 5,
        };
        let facts = [(0, asked(1, 0)), (9, unserved)];
        assert_eq!(rejected(judge, terms(), &facts), 1);
    }
}
