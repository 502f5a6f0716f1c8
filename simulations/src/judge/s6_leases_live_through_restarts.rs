//! **Section 6** of `docs/protocol.md`: voters are restarted one by one, each after the quarantine
//! of the one before. A lease survives that, since a granted claim gets the votes of returned
//! voters.

use super::{Fact, History};

pub(super) fn judge(_at: u64, fact: &Fact, _history: &History) -> Option<String> {
    match fact {
        Fact::Survived {
            request,
            held: false,
        } => Some(format!(
            "request {request}: its lease was lost while voters restarted one by one"
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::RequestId;
    use super::super::forged::*;
    use super::*;

    #[test]
    fn lease_lost_in_rolling_restart_is_rejected() {
        let request = RequestId(1);
        let facts = [true, false].map(|held| (0, Fact::Survived { request, held }));
        assert_eq!(rejected(judge, terms(), &facts), 1);
    }
}
