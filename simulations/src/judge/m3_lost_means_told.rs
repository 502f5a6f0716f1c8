//! **M3 lost means told** (`docs/protocol.md`, section 1): a guard stops reporting "held" before
//! any voter may give its vote away, and needs no message for that. A process that was paused past
//! its lease finds the guard lost at the first check.
//!
//! A lease counts on a quorum. So while a guard reports "held", a quorum of the voters has its vote
//! for it recorded. A voter that lost its memory counts with its former vote, since it gives
//! nothing away before that is over (M5). Judged if clocks keep `max_drift`.

use super::{Fact, History};

pub(super) fn judge(at: u64, fact: &Fact, history: &History) -> Option<String> {
    match fact {
        Fact::Voted { voter, key, to }
            if history.terms.clocks_kept && !history.leans_on_settings =>
        {
            let was = history.vote_of(*voter, *key)?;
            if *to == Some(was) || history.recovering.contains(voter) {
                return None;
            }
            // The vote of `was` has ended. Its guard must no longer need it.
            let mut holders = history.holders(*key, at);
            let (request, _) = holders.find(|(_, asked)| (asked.host, asked.epoch) == was)?;
            let left = history.votes_for(*key, was.0, was.1) - 1;
            (left < history.quorum_of(*key, was.0)).then(|| {
                format!(
                    "key {key}: voter {voter} gave its vote away under request {request}, \
                     {left} votes are left and the guard still says that it is held"
                )
            })
        }
        Fact::Until { request, until } => {
            let was = history.open.get(request)?.until?;
            (was <= at && at < *until)
                .then(|| format!("request {request}: its lease was over and came back"))
        }
        Fact::Looked {
            request,
            held: true,
            expired: true,
        } => Some(format!(
            "request {request}: the guard says held after its lease was over"
        )),
        Fact::Untold { request } => Some(format!(
            "request {request}: its lease is over and it was not told"
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::RequestId;
    use super::super::forged::*;
    use super::*;

    fn held() -> Vec<(u64, Fact)> {
        vec![
            (0, asked(1, 2)),
            (0, claimed(1, 10)),
            (1, voted(0, Some((2, 10)))),
            (1, voted(1, Some((2, 10)))),
            (2, granted(1, 10, 50)),
        ]
    }

    #[test]
    fn vote_given_away_under_guard_is_rejected() {
        let mut facts = held();
        facts.push((30, voted(1, Some((0, 11)))));
        assert_eq!(rejected(judge, terms(), &facts), 1);
        facts[5] = (30, voted(1, None));
        assert_eq!(rejected(judge, terms(), &facts), 1);
        facts[5] = (50, voted(1, None));
        assert_eq!(rejected(judge, terms(), &facts), 0);
    }

    #[test]
    fn vote_that_guard_does_not_need_may_end() {
        let mut facts = held();
        facts.push((3, voted(2, Some((2, 10)))));
        facts.push((30, voted(1, None)));
        assert_eq!(rejected(judge, terms(), &facts), 0);
    }

    #[test]
    fn ended_lease_that_comes_back_is_rejected() {
        let request = RequestId(1);
        for (at, count) in [(49, 0), (50, 1)] {
            let mut facts = held();
            facts.push((at, Fact::Until { request, until: 90 }));
            assert_eq!(rejected(judge, terms(), &facts), count);
        }
    }

    #[test]
    fn guard_held_after_its_end_is_rejected() {
        let request = RequestId(1);
        let looked = |held, expired| Fact::Looked {
            request,
            held,
            expired,
        };
        let facts = [(9, looked(true, true)), (9, looked(true, false))];
        assert_eq!(rejected(judge, terms(), &facts), 1);
        let facts = [(9, looked(false, true)), (9, Fact::Untold { request })];
        assert_eq!(rejected(judge, terms(), &facts), 1);
    }
}
