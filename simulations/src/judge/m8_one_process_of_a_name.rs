//! **M8 one process of a name** (`docs/protocol.md`, section 1): of two live processes of one name
//! neither holds a lock nor votes, once a member has received datagrams of both. M1 is judged in
//! any case, so two holders of one lock are always a breach.

use super::{Fact, History};

pub(super) fn judge(_at: u64, fact: &Fact, _history: &History) -> Option<String> {
    match fact {
        Fact::TwoProcesses {
            host,
            both_for,
            goes_on: true,
            bound,
        } if both_for > bound => Some(format!(
            "two processes of host {host} live, and one goes on after {both_for} ns"
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::forged::*;
    use super::*;

    #[test]
    fn process_active_beside_namesake_is_rejected() {
        let judged = |both_for, goes_on| {
            let fact = Fact::TwoProcesses {
                host: 0,
                both_for,
                goes_on,
                bound: 50,
            };
            rejected(judge, terms(), &[(90, fact)])
        };
        assert_eq!(judged(51, true), 1);
        assert_eq!(judged(50, true), 0);
        assert_eq!(judged(51, false), 0);
    }
}
