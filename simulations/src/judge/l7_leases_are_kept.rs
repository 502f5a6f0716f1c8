//! **L7 leases are kept** (`docs/protocol.md`, section 1): a lease that renews itself is not lost
//! while a quorum of the key's voters can be reached and answers in time.
//!
//! A lease counts on votes up to one lease old, and a voter may first have to let another claim's
//! vote expire. So the quorum must have been reachable for that long. A voter whose vote another
//! host has counts since that host could give it back. One that has revoked the claim does not count,
//! nor does one of another voter set than the holder. Judged if clocks keep `max_drift`.

use super::{Fact, History};

pub(super) fn judge(_at: u64, fact: &Fact, history: &History) -> Option<String> {
    let Fact::Lapsed {
        request,
        steady,
        bound,
    } = fact
    else {
        return stalled(fact);
    };
    (history.terms.clocks_kept && steady > bound).then(|| {
        format!(
            "request {request}: its lease was lost though a quorum of its voters could be reached \
             for {steady} ns"
        )
    })
}

fn stalled(fact: &Fact) -> Option<String> {
    match fact {
        Fact::Stalled {
            request,
            held: false,
        } => Some(format!(
            "request {request}: its lease was lost though its voters were back in time"
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::RequestId;
    use super::super::forged::*;
    use super::*;

    fn lapsed(steady: u64) -> Vec<(u64, Fact)> {
        let request = RequestId(1);
        let lapsed = Fact::Lapsed {
            request,
            steady,
            bound: 7,
        };
        vec![(0, asked(1, 2)), (2, granted(1, 10, 50)), (50, lapsed)]
    }

    #[test]
    fn lease_lost_while_voters_answer_is_rejected() {
        assert_eq!(rejected(judge, terms(), &lapsed(7)), 0);
        assert_eq!(rejected(judge, terms(), &lapsed(8)), 1);
    }

    #[test]
    fn lease_lost_in_short_stall_is_rejected() {
        let request = RequestId(1);
        let facts = [true, false].map(|held| (0, Fact::Stalled { request, held }));
        assert_eq!(rejected(judge, terms(), &facts), 1);
    }

    #[test]
    fn clocks_beyond_the_bound_are_not_judged() {
        let mut terms = terms();
        terms.clocks_kept = false;
        assert_eq!(rejected(judge, terms, &lapsed(8)), 0);
    }
}
