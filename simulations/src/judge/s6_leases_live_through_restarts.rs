//! **Section 6** of `docs/protocol.md`: voters are restarted one by one, each after the quarantine
//! of the one before. A lease survives that, since a granted claim gets the votes of returned
//! voters.

use super::{Fact, History, Law, RequestId};

pub(super) struct LeasesLiveThroughRestarts;

impl Law for LeasesLiveThroughRestarts {
    fn number(&self) -> &'static str {
        "S6"
    }

    fn see(&mut self, _at: u64, fact: &Fact, _history: &History) -> Option<String> {
        match fact {
            Fact::Survived {
                request: RequestId(id),
                held: false,
            } => Some(format!(
                "request {id}: its lease was lost while voters restarted one by one"
            )),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::forged::*;
    use super::*;

    #[test]
    fn lease_lost_in_rolling_restart_is_rejected() {
        let request = RequestId(1);
        let facts = [true, false].map(|held| (0, Fact::Survived { request, held }));
        assert_eq!(rejected(&mut LeasesLiveThroughRestarts, terms(), &facts), 1);
    }
}
