//! **Section 7** of `docs/protocol.md`: a lease that does not renew itself ends one ttl after its
//! grant, unless it was extended.

use super::{Fact, History};

pub(super) fn judge(_at: u64, fact: &Fact, _history: &History) -> Option<String> {
    match fact {
        Fact::Outlasts { request } => Some(format!(
            "request {request}: its lease is to last longer than was asked for"
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
    fn lease_longer_than_requested_is_rejected() {
        let request = RequestId(1);
        let facts = [(0, asked(1, 0)), (9, Fact::Outlasts { request })];
        assert_eq!(rejected(judge, terms(), &facts), 1);
    }
}
