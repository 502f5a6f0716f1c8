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

#[derive(Default)]
pub(super) struct NoBarging {
    /// The first epoch with which each request was in the queue.
    places: BTreeMap<RequestId, u64>,
}

impl NoBarging {
    fn place(&self, request: &RequestId, asked: &Asked) -> u64 {
        self.places.get(request).copied().unwrap_or(asked.epoch)
    }
}

impl Law for NoBarging {
    fn number(&self) -> &'static str {
        "L2"
    }

    fn see(&mut self, at: u64, fact: &Fact, history: &History) -> Option<String> {
        let settled_since = history.settled_since?;
        let settled = history.terms.settled;
        let stands = |asked: &Asked| asked.claimed_at.max(settled_since) + settled < at;
        let (request, epoch) = match fact {
            Fact::Claimed { request, .. } => {
                let asked = history.open.get(request)?;
                if asked.epoch > 0 && stands(asked) {
                    self.places.entry(*request).or_insert(asked.epoch);
                }
                return None;
            }
            Fact::Over { request, .. } => {
                self.places.remove(request);
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
        let place = self.places.get(request).copied().unwrap_or(*epoch);
        let (RequestId(passed), asked) = history.open.iter().find(|(other, asked)| {
            asked.key == winner.key
                && asked.until.is_none()
                && !is_wrong(asked)
                && self.place(other, asked) < place
                && (stands(asked) || self.places.contains_key(other))
        })?;
        let before = self.place(&RequestId(*passed), asked);
        let RequestId(id) = request;
        Some(format!(
            "key {}: request {id}, in line with epoch {place}, is served before request {passed}, \
             in line with epoch {before}",
            winner.key
        ))
    }
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
        assert_eq!(
            rejected(&mut NoBarging::default(), terms(), &barging(30)),
            1
        );
    }

    #[test]
    fn claim_on_its_way_is_not_passed_over() {
        assert_eq!(
            rejected(&mut NoBarging::default(), terms(), &barging(45)),
            0
        );
        // Nothing is judged before the world has settled.
        assert_eq!(
            rejected(&mut NoBarging::default(), terms(), &barging(30)[1..]),
            0
        );
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
        assert_eq!(rejected(&mut NoBarging::default(), terms(), &places(55)), 1);
        // A claim that gets `Stale` at once never had a place.
        assert_eq!(rejected(&mut NoBarging::default(), terms(), &places(33)), 0);
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
        assert_eq!(rejected(&mut NoBarging::default(), terms(), &facts), 0);
    }
}
