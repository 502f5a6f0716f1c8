//! **L2 no barging** (`docs/protocol.md`, section 1): waiters are served in the order of their
//! epochs.
//!
//! A claim that is still on its way to the voters cannot be served before one that is there. So
//! this is judged once the world has settled, and a claim counts as passed over only if it was made
//! long enough ago to have reached every voter before the winner's votes left them.
//!
//! A claim that has stood so long has a place. Its request keeps it though it claims anew, under an
//! epoch that is higher: else nobody who lost its place would ever have been passed over. Where the
//! wall clock of a node is wrong, its place is when it claimed once it knew what others show.

use std::collections::BTreeMap;

use super::history::Asked;
use super::{Fact, History, Law, RequestId};

#[derive(Default)]
pub(super) struct NoBarging {
    /// The first epoch with which each request stood in line.
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
    fn serving_a_later_epoch_first_is_rejected() {
        assert_eq!(
            rejected(&mut NoBarging::default(), terms(), &barging(30)),
            1
        );
    }

    #[test]
    fn a_claim_on_its_way_is_not_passed_over() {
        assert_eq!(
            rejected(&mut NoBarging::default(), terms(), &barging(45)),
            0
        );
        // Nor is anything judged before the settled time.
        assert_eq!(
            rejected(&mut NoBarging::default(), terms(), &barging(30)[1..]),
            0
        );
    }
    /// The second stood at 9 from 30 on, and the first at 8; then the first claims anew.
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
    fn a_claim_that_stood_in_line_keeps_its_place_though_it_claims_anew() {
        assert_eq!(rejected(&mut NoBarging::default(), terms(), &places(55)), 1);
        // One that was told at once that it is below a fence never had a place.
        assert_eq!(rejected(&mut NoBarging::default(), terms(), &places(33)), 0);
    }

    #[test]
    fn the_winner_keeps_its_place_as_well() {
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
