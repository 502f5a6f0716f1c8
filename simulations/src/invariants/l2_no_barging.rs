//! **L2 no barging** (`docs/PROTOCOL.md`, section 1): waiters are served in the order of their
//! epochs.
//!
//! A claim that is still on its way to the voters cannot be served before one that is there. So
//! this is judged in the calm, and a claim counts as passed over only if it was made long enough
//! ago to have reached every voter before the winner's votes left them.

use super::{Fact, History, Law, RequestId};

pub(super) struct NoBarging;

impl Law for NoBarging {
    fn number(&self) -> &'static str {
        "L2"
    }

    fn see(&mut self, at: u64, fact: &Fact, history: &History) -> Option<String> {
        let Fact::Granted { request, epoch, .. } = fact else {
            return None;
        };
        let settled = history.terms.settled;
        let calm_since = history.calm_since?;
        let key = history.open.get(request)?.key;
        let passed_over = history.open.iter().find(|(_, asked)| {
            asked.key == key
                && asked.until.is_none()
                && asked.epoch < *epoch
                && asked.claimed_at.max(calm_since) + settled < at
        });
        let (RequestId(passed), asked) = passed_over?;
        let RequestId(id) = request;
        Some(format!(
            "key {key}: request {id} with epoch {epoch} is served before request {passed} \
             with epoch {} that waits",
            asked.epoch
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::forged::*;
    use super::*;

    fn barging(second_claimed: u64) -> Vec<(u64, Fact)> {
        vec![
            (0, Fact::Calm),
            (1, asked(1, 0)),
            (1, claimed(1, 10)),
            (second_claimed, asked(2, 1)),
            (second_claimed, claimed(2, 9)),
            (50, granted(1, 10, 90)),
        ]
    }

    #[test]
    fn serving_a_later_epoch_first_is_rejected() {
        assert_eq!(rejected(&mut NoBarging, terms(), &barging(30)), 1);
    }

    #[test]
    fn a_claim_on_its_way_is_not_passed_over() {
        assert_eq!(rejected(&mut NoBarging, terms(), &barging(45)), 0);
        // Nor is anything judged before the calm.
        assert_eq!(rejected(&mut NoBarging, terms(), &barging(30)[1..]), 0);
    }
}
