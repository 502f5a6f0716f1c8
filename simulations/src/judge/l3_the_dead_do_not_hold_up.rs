//! **L3 the dead do not hold up** (`docs/protocol.md`, section 1): a dead holder delays the next
//! claim by at most its lease, a dead waiter by at most a `reservation`. A holder that came back,
//! or whose release was lost, delays it only until the voters receive a message from it. A `try`
//! beside a dead holder ends within a bound.

use super::{Fact, Handover, History};

pub(super) fn judge(_at: u64, fact: &Fact, _history: &History) -> Option<String> {
    let Fact::Handed { what, took, bound } = fact else {
        return None;
    };
    let who = match what {
        Handover::DeadHolder => "holder",
        Handover::DeadWaiter => "waiter",
        Handover::DeadOwner => "owner",
        Handover::Restarted => "holder that came back",
        _ => return None,
    };
    match took {
        Some(took) if took <= bound => None,
        took => Some(format!(
            "a dead {who} delayed the next by {:?} ns, the bound is {bound} ns",
            took
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::super::forged::*;
    use super::*;

    #[test]
    fn wait_for_the_dead_beyond_bound_is_rejected() {
        for what in [
            Handover::DeadHolder,
            Handover::DeadWaiter,
            Handover::DeadOwner,
            Handover::Restarted,
        ] {
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
