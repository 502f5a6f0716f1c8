//! **L4 one round trip** (`docs/protocol.md`, section 1): from the request for a free key to the
//! grant, and from a release to the next grant (holder to voters, voters to waiter). A `try` takes
//! two if the voters do not know yet that the holder is granted: they probe it.

use super::{Fact, Handover, History};

pub(super) fn judge(_at: u64, fact: &Fact, _history: &History) -> Option<String> {
    let Fact::Handed { what, took, bound } = fact else {
        return None;
    };
    let what = match what {
        Handover::Free => "a free key was owned",
        Handover::Release => "a released key had its next owner",
        Handover::Try => "a try beside a holder was told",
        _ => return None,
    };
    match took {
        Some(took) if took <= bound => None,
        took => Some(format!(
            "{what} after {took:?} ns, a round trip is {bound} ns"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::super::forged::*;
    use super::*;

    #[test]
    fn handover_beyond_one_round_trip_is_rejected() {
        for what in [Handover::Free, Handover::Release, Handover::Try] {
            for (took, count) in [(Some(7), 0), (Some(8), 1), (None, 1)] {
                let facts = [(
                    0,
                    Fact::Handed {
                        what,
                        took,
                        bound: 7,
                    },
                )];
                assert_eq!(rejected(judge, terms(), &facts), count);
            }
        }
    }
}
