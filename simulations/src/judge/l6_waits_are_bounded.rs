//! **L6 waits are bounded** (`docs/protocol.md`, section 1): a request ends by its deadline. A
//! waiter is served within a stated bound however often others request the key. The bound also
//! holds for a waiter that is far away or has a slow wall clock. It holds if a minority of the
//! voters is broken for good.

use super::{Fact, Handover, History};

pub(super) fn judge(_at: u64, fact: &Fact, _history: &History) -> Option<String> {
    match fact {
        Fact::Overdue { request } => Some(format!("request {request} goes on after its deadline")),
        Fact::Handed { what, took, bound } => {
            let what = match what {
                Handover::Churn => "others ask for the key again and again",
                Handover::BrokenMinority => "a minority of the voters is broken",
                _ => return None,
            };
            let is_late = took.is_none_or(|took| took > *bound);
            is_late.then(|| format!("a waiter waits for {took:?} ns of {bound} ns while {what}"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::RequestId;
    use super::super::forged::*;
    use super::*;

    #[test]
    fn wait_beyond_bound_is_rejected() {
        for what in [Handover::Churn, Handover::BrokenMinority] {
            for (took, count) in [(Some(7), 0), (Some(8), 1), (None, 1)] {
                let bound = 7;
                let facts = [(0, Fact::Handed { what, took, bound })];
                assert_eq!(rejected(judge, terms(), &facts), count);
            }
        }
    }

    #[test]
    fn request_beyond_deadline_is_rejected() {
        let request = RequestId(1);
        let facts = [(0, asked(1, 0)), (9, Fact::Overdue { request })];
        assert_eq!(rejected(judge, terms(), &facts), 1);
    }
}
