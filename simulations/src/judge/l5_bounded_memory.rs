//! **L5 bounded memory** (`docs/protocol.md`, section 1): the memory of a voter is bounded by the
//! keys that are held or waited for now, not by the keys ever seen. After all requests and leases
//! have ended, a voter keeps no slot and no waiter, and a claimant keeps no claim. No map of a node
//! exceeds its bound then.

use super::{Fact, History};

pub(super) fn judge(_at: u64, fact: &Fact, _history: &History) -> Option<String> {
    match fact {
        Fact::Drained {
            host,
            slots,
            waiters,
            claims,
        } if slots + waiters + claims > 0 => Some(format!(
            "host {host} keeps {slots} slots, {waiters} waiters and {claims} claims for nobody"
        )),
        Fact::Keeps {
            host,
            slots,
            wanted,
        } if slots > wanted => Some(format!(
            "voter {host} keeps {slots} slots while {wanted} keys are wanted"
        )),
        Fact::Kept {
            host,
            what,
            size,
            bound,
        } if size > bound => Some(format!(
            "host {host} keeps {size} {what} for nobody, the bound is {bound}"
        )),
        Fact::Endless { steps } => Some(format!("no end after {steps} steps")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::forged::*;
    use super::*;

    #[test]
    fn state_kept_for_no_request_is_rejected() {
        for (kept, count) in [
            ([0, 0, 0], 0),
            ([1, 0, 0], 1),
            ([0, 1, 0], 1),
            ([0, 0, 1], 1),
        ] {
            let [slots, waiters, claims] = kept;
            let drained = Fact::Drained {
                host: 0,
                slots,
                waiters,
                claims,
            };
            assert_eq!(rejected(judge, terms(), &[(0, drained)]), count);
        }
    }

    #[test]
    fn map_beyond_its_bound_is_rejected() {
        let kept = |size| Fact::Kept {
            host: 0,
            what: "tickets",
            size,
            bound: 2,
        };
        let facts = [(0, kept(2)), (1, kept(3))];
        assert_eq!(rejected(judge, terms(), &facts), 1);
    }

    #[test]
    fn more_slots_than_wanted_keys_are_rejected() {
        let keeps = |slots| Fact::Keeps {
            host: 0,
            slots,
            wanted: 2,
        };
        let facts = [(0, keeps(2)), (1, keeps(3))];
        assert_eq!(rejected(judge, terms(), &facts), 1);
    }
}
