//! **M1 mutual exclusion** (`docs/protocol.md`, section 1): at no instant do two claims for one key
//! both report that they are held. Judged if clocks keep `max_drift`, which it assumes.
//!
//! Two leases start to overlap only when one of them begins or is lengthened. So a check at those
//! two instants covers every instant.

use super::{Fact, History};

pub(super) fn judge(at: u64, fact: &Fact, history: &History) -> Option<String> {
    let (Fact::Granted { request, until, .. } | Fact::Until { request, until }) = fact else {
        return None;
    };
    if !history.terms.clocks_kept || history.leans_on_settings || *until <= at {
        return None;
    }
    let key = history.open.get(request)?.key;
    let mut others = history.holders(key, at).filter(|(id, _)| id != request);
    let (other, asked) = others.next()?;
    Some(format!(
        "key {key}: request {request} and request {other} (host {}, epoch {}) hold it at once",
        asked.host, asked.epoch
    ))
}

#[cfg(test)]
mod tests {
    use super::super::End;
    use super::super::{RequestId, forged::*};
    use super::*;

    fn two(second_at: u64, end: Option<(u64, End)>) -> Vec<(u64, Fact)> {
        let mut facts = vec![
            (0, asked(1, 0)),
            (0, asked(2, 1)),
            (1, granted(1, 10, 50)),
            (second_at, granted(2, 11, 90)),
        ];
        if let Some((at, how)) = end {
            facts.insert(3, (at, over(1, how)));
        }
        facts
    }

    #[test]
    fn overlapping_leases_are_rejected() {
        assert_eq!(rejected(judge, terms(), &two(49, None)), 1);
        assert_eq!(rejected(judge, terms(), &two(50, None)), 0);
    }

    #[test]
    fn released_or_crashed_lease_is_over() {
        for how in [End::Released, End::Crashed] {
            let facts = two(21, Some((20, how)));
            assert_eq!(rejected(judge, terms(), &facts), 0);
        }
    }

    #[test]
    fn renewal_over_another_lease_is_rejected() {
        let mut facts = two(50, None);
        let until = Fact::Until {
            request: RequestId(1),
            until: 80,
        };
        facts.push((60, until));
        assert_eq!(rejected(judge, terms(), &facts), 1);
    }

    #[test]
    fn clocks_beyond_the_bound_are_not_judged() {
        let mut terms = terms();
        terms.clocks_kept = false;
        assert_eq!(rejected(judge, terms, &two(49, None)), 0);
    }
}
