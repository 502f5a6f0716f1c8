//! **Section 4** of `docs/protocol.md`: messages may be lost, and damage may do no more than that.
//! A damaged datagram is dropped and counted as a whole; none of its content is used.
//!
//! A node that reads half a message acts on content that no node sent, so this counts as safety.

use super::{Fact, History};

pub(super) fn judge(_at: u64, fact: &Fact, _history: &History) -> Option<String> {
    match fact {
        Fact::Damaged {
            host,
            is_dropped: false,
        } => Some(format!(
            "host {host} did not drop and count a datagram that was damaged on its way"
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::forged::*;
    use super::*;

    #[test]
    fn damage_not_dropped_is_rejected() {
        let host = 1;
        let facts = [true, false].map(|is_dropped| (0, Fact::Damaged { host, is_dropped }));
        assert_eq!(rejected(judge, terms(), &facts), 1);
    }
}
