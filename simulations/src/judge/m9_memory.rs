//! **M9 memory** (`docs/protocol.md`, sections 1 and 6): a voter that resumes from a journal is at
//! least as strict as the process that ended. Each vote that it may have told lasts no shorter, and
//! each fence is at least what it was. A journal that is the newest is used.

use super::{Fact, History};

pub(super) fn judge(_at: u64, fact: &Fact, _history: &History) -> Option<String> {
    match fact {
        Fact::Weaker { voter, what } => Some(format!("voter {voter} resumes with less: {what}")),
        Fact::Dropped { voter } => Some(format!(
            "voter {voter} dropped the memory of its newest journal"
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::forged::*;
    use super::*;

    #[test]
    fn weaker_or_dropped_memory_is_rejected() {
        let what = "key 0".to_owned();
        let facts = [
            (0, Fact::Weaker { voter: 0, what }),
            (1, Fact::Dropped { voter: 0 }),
            (2, Fact::Resumed { voter: 0 }),
        ];
        assert_eq!(rejected(judge, terms(), &facts), 2);
    }
}
