//! **M2 fencing** (`docs/protocol.md`, section 1), in both wordings.
//!
//! If clocks keep M1's bound, the epochs of the successive holders of a key strictly rise. The
//! resource then accepts every write of the current holder. With any clocks, a claim made after
//! another was granted gets the higher epoch.
//!
//! Section 6 names the one exception. A voter without memory reports in `QuarantineEnded` that it
//! depends on its wall clock, and that clock had been set back.

use super::{Fact, History, RequestId};

pub(super) fn judge(at: u64, fact: &Fact, history: &History) -> Option<String> {
    if history.leans_on_settings {
        return None;
    }
    match fact {
        Fact::Granted { request, epoch, .. } => judge_grant(*request, *epoch, history),
        Fact::Wrote {
            request,
            key,
            epoch,
            taken: false,
        } if history.terms.clocks_kept && !history.waived.contains(key) => {
            let asked = history.open.get(request)?;
            let holds = asked.until.is_some_and(|until| at < until);
            holds.then(|| format!("key {key}: the holder's write with epoch {epoch} is refused"))
        }
        _ => None,
    }
}

fn judge_grant(request: RequestId, epoch: u64, history: &History) -> Option<String> {
    let asked = history.open.get(&request)?;
    let key = asked.key;
    if history.waived.contains(&key) {
        return None;
    }
    if epoch <= asked.above {
        let above = asked.above;
        return Some(format!(
            "key {key}: request {request} claimed after epoch {above} had been granted, and was granted with {epoch}"
        ));
    }
    let highest = history.highest_owner(key);
    (history.terms.clocks_kept && epoch <= highest).then(|| {
        format!(
            "key {key}: request {request} owns it with epoch {epoch} after an owner with {highest}"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::forged::*;
    use super::super::{End, Terms};
    use super::*;

    /// Two holders; the second claimed at `claimed_at`, with epoch 9.
    fn facts(claimed_at: u64) -> Vec<(u64, Fact)> {
        let mut facts = vec![
            (0, asked(1, 0)),
            (0, asked(2, 1)),
            (0, claimed(1, 10)),
            (5, granted(1, 10, 20)),
            (20, over(1, End::Lost)),
            (30, granted(2, 9, 50)),
        ];
        facts.insert(
            if claimed_at < 5 { 3 } else { 4 },
            (claimed_at, claimed(2, 9)),
        );
        facts
    }

    fn wild() -> Terms {
        Terms {
            clocks_kept: false,
            ..terms()
        }
    }

    #[test]
    fn falling_epoch_between_holders_is_rejected() {
        assert_eq!(rejected(judge, terms(), &facts(1)), 1);
        assert_eq!(rejected(judge, terms(), &facts(6)), 1);
    }

    #[test]
    fn wild_clocks_excuse_only_claims_before_the_grant() {
        assert_eq!(rejected(judge, wild(), &facts(1)), 0);
        assert_eq!(rejected(judge, wild(), &facts(6)), 1);
    }

    /// The first claim is granted with the last `Vote` of a voter that has lost its memory by then.
    #[test]
    fn low_fence_after_a_late_grant_is_excused_if_the_voter_reports_it() {
        let judged = |leans_on_wall_clock| {
            let returned = Fact::Returned {
                voter: 1,
                fences: vec![(0, 5)],
                believed: 5,
                leans_on_wall_clock,
                leans_on_settings: false,
            };
            let facts = [
                (0, asked(1, 0)),
                (0, claimed(1, 10)),
                (1, voted(1, Some((0, 10)))),
                (2, Fact::Forgot { voter: 1 }),
                (3, granted(1, 10, 20)),
                (20, over(1, End::Lost)),
                (21, asked(2, 1)),
                (21, claimed(2, 9)),
                (30, returned),
                (31, granted(2, 9, 50)),
            ];
            rejected(judge, terms(), &facts)
        };
        assert_eq!((judged(true), judged(false)), (0, 1));
    }

    #[test]
    fn equal_epoch_is_rejected() {
        let facts = [
            (0, asked(1, 0)),
            (0, asked(2, 1)),
            (0, claimed(1, 10)),
            (0, claimed(2, 10)),
            (5, granted(1, 10, 20)),
            (30, granted(2, 10, 50)),
        ];
        assert_eq!(rejected(judge, terms(), &facts), 1);
    }

    #[test]
    fn refused_write_is_rejected_only_while_held() {
        let wrote = || Fact::Wrote {
            request: RequestId(1),
            key: 0,
            epoch: 10,
            taken: false,
        };
        let facts = [
            (0, asked(1, 0)),
            (0, claimed(1, 10)),
            (5, granted(1, 10, 20)),
            (19, wrote()),
            (20, wrote()),
        ];
        assert_eq!(rejected(judge, terms(), &facts), 1);
    }
}
