//! **M7 epochs follow most clocks** (`docs/protocol.md`, section 1): no claim is granted with an
//! epoch that is further ahead of all right clocks than `max_clock_skew`. This assumes that fewer
//! than half of the voters of each key have a wrong wall clock.
//!
//! Judged if the error of the right clocks is bounded and monotonic clocks keep M1's bound. A node
//! needs the latter to know what the others' wall clocks show.

use super::{Fact, History};
use crate::cluster::wall_ms;
use crate::proto::Epoch;
use crate::proto::EpochClock;

pub(super) fn judge(at: u64, fact: &Fact, history: &History) -> Option<String> {
    let off_ms = history.terms.right_clocks_off_ms?;
    let Fact::Granted { request, epoch, .. } = fact else {
        return None;
    };
    // Clocks are read in whole milliseconds, hence 2 ms more.
    let latest = wall_ms(at) + off_ms + history.terms.skew_ms + 2;
    let is_ahead = *epoch >= EpochClock::first_of(latest).get();
    (history.terms.clocks_kept && is_ahead).then(|| {
        let key = history.open.get(request).map(|asked| asked.key);
        let by = EpochClock::wall_ms(Epoch::new(*epoch)) - wall_ms(at);
        format!("key {key:?}: epoch {epoch} wins {by} ms ahead of the true time")
    })
}

#[cfg(test)]
mod tests {
    use super::super::Terms;
    use super::super::forged::*;
    use super::*;

    fn rejects(ahead_ms: u64, terms: Terms) -> usize {
        let at = 70_000_000;
        let epoch = EpochClock::first_of(wall_ms(at) + ahead_ms).get();
        let facts = [(0, asked(1, 0)), (at, granted(1, epoch, 2 * at))];
        rejected(judge, terms, &facts)
    }

    #[test]
    fn epoch_ahead_of_right_clocks_is_rejected() {
        let terms = |right_clocks_off_ms| Terms {
            right_clocks_off_ms,
            ..terms()
        };
        assert_eq!(rejects(8, terms(Some(2))), 0);
        assert_eq!(rejects(9, terms(Some(2))), 1);
        assert_eq!(rejects(9, terms(None)), 0);
        let wild = Terms {
            clocks_kept: false,
            ..terms(Some(2))
        };
        assert_eq!(rejects(9, wild), 0);
    }
}
