//! **L2 no barging** (`docs/protocol.md`, section 1): waiters are served in the order of their
//! epochs.
//!
//! A claim on its way to the voters cannot be served before one that has arrived. So this is judged
//! after the world has settled. A claim counts as passed over only if it is old enough to have
//! reached every voter before the winner's votes left.
//!
//! The epoch of such a claim is the place of its request. The request keeps its place if it claims
//! anew with a higher epoch; otherwise one that lost its place would never count as passed over.
//! Hosts with wrong wall clocks are not judged.

use std::collections::BTreeMap;

use super::history::Asked;
use super::{Fact, History, Law, RequestId};

/// The first epoch with which each request was in the queue.
type Places = BTreeMap<RequestId, u64>;

pub(super) fn law() -> Box<Law> {
    let mut places = Places::new();
    Box::new(move |at, fact, history| judge(&mut places, at, fact, history))
}

fn place(places: &Places, request: &RequestId, asked: &Asked) -> u64 {
    places.get(request).copied().unwrap_or(asked.epoch)
}

fn judge(places: &mut Places, at: u64, fact: &Fact, history: &History) -> Option<String> {
    let settled_since = history.settled_since?;
    let settled = history.terms.settled;
    let stands = |asked: &Asked| asked.claimed_at.max(settled_since) + settled < at;
    let (request, epoch) = match fact {
        Fact::Claimed { request, .. } => {
            let asked = history.open.get(request)?;
            if asked.epoch > 0 && stands(asked) {
                places.entry(*request).or_insert(asked.epoch);
            }
            return None;
        }
        Fact::Over { request, .. } => {
            places.remove(request);
            return None;
        }
        Fact::Granted { request, epoch, .. } => (request, epoch),
        _ => return None,
    };
    let winner = history.open.get(request)?;
    let is_wrong = |asked: &Asked| history.terms.wrong_clocks.contains(&asked.host);
    if is_wrong(winner) {
        return None;
    }
    let own = places.get(request).copied().unwrap_or(*epoch);
    let (passed, asked) = history.open.iter().find(|(other, asked)| {
        asked.key == winner.key
            && asked.until.is_none()
            && !is_wrong(asked)
            && place(places, other, asked) < own
            && (stands(asked) || places.contains_key(other))
    })?;
    let before = place(places, passed, asked);
    Some(format!(
        "key {}: request {request}, in line with epoch {own}, is served before request {passed}, \
         in line with epoch {before}",
        winner.key
    ))
}

#[cfg(test)]
mod tests {
    use super::super::forged::*;
    use super::*;

    fn barging(second_claimed: u64) -> Vec<(u64, Fact)> {
        vec![
            (0, Fact::Settled),
            (1, asked(1, 0)),
            (1, claimed(1, 10)),
            (second_claimed, asked(2, 1)),
            (second_claimed, claimed(2, 9)),
            (50, granted(1, 10, 90)),
        ]
    }

    #[test]
    fn later_epoch_served_first_is_rejected() {
        assert_eq!(rejected(law(), terms(), &barging(30)), 1);
    }

    #[test]
    fn claim_on_its_way_is_not_passed_over() {
        assert_eq!(rejected(law(), terms(), &barging(45)), 0);
        // Nothing is judged before the world has settled.
        assert_eq!(rejected(law(), terms(), &barging(30)[1..]), 0);
    }
    /// The second waits with epoch 9 from 30 on, the first with 8. At `anew` the first claims anew.
    fn places(anew: u64) -> Vec<(u64, Fact)> {
        vec![
            (0, Fact::Settled),
            (28, asked(1, 0)),
            (28, claimed(1, 8)),
            (30, asked(2, 1)),
            (30, claimed(2, 9)),
            (anew, claimed(1, 10)),
            (60, granted(2, 9, 90)),
        ]
    }

    #[test]
    fn waiter_that_claims_anew_keeps_its_place() {
        assert_eq!(rejected(law(), terms(), &places(55)), 1);
        // A claim that gets `Stale` at once never had a place.
        assert_eq!(rejected(law(), terms(), &places(33)), 0);
    }

    #[test]
    fn winner_that_claims_anew_keeps_its_place() {
        let facts = [
            (0, Fact::Settled),
            (28, asked(1, 0)),
            (28, claimed(1, 8)),
            (30, asked(2, 1)),
            (30, claimed(2, 9)),
            (55, claimed(1, 10)),
            (60, granted(1, 10, 90)),
        ];
        assert_eq!(rejected(law(), terms(), &facts), 0);
    }
}
