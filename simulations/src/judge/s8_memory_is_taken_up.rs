//! **Rules 32 to 35** of `docs/protocol.md`: a voter that was shut down while others vote leaves its
//! memory with them, and its next incarnation votes within a few round trips.

use super::{Fact, History};

pub(super) fn judge(_at: u64, fact: &Fact, _history: &History) -> Option<String> {
    let Fact::Deployed { voter, took, bound } = fact else {
        return None;
    };
    match took {
        Some(took) if took <= bound => None,
        Some(took) => Some(format!(
            "voter {voter} took up its memory after {} ms, the bound is {} ms",
            took / 1_000_000,
            bound / 1_000_000
        )),
        None => Some(format!("voter {voter} did not take up its memory")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::forged::*;
    use super::*;

    #[test]
    fn late_or_lost_memory_is_rejected() {
        let (voter, bound) = (0, 10);
        let facts = [Some(10), Some(11), None];
        let facts = facts.map(|took| (0, Fact::Deployed { voter, took, bound }));
        assert_eq!(rejected(judge, terms(), &facts), 2);
    }
}
