//! The resource that the locks protect.
//!
//! As `Epoch` requires of a resource, it refuses a write whose epoch is lower than the highest seen
//! for the key. Writes take time, and a paused holder sends its write long after its lease is over.

/// The result of a write.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Verdict {
    /// Its epoch is at least the highest seen.
    Taken,
    /// A later holder has written.
    Refused,
}

/// The highest epoch seen, for each key. If epochs are no fencing tokens, it takes every write.
#[derive(Debug)]
pub(crate) struct Resource {
    highest: Vec<u64>,
    is_fenced: bool,
    pub(crate) taken: u64,
    pub(crate) refused: u64,
}

impl Resource {
    pub(crate) fn new(keys: usize, is_fenced: bool) -> Self {
        Self {
            highest: vec![0; keys],
            is_fenced,
            taken: 0,
            refused: 0,
        }
    }

    pub(crate) fn write(&mut self, key: usize, epoch: u64) -> Verdict {
        if self.is_fenced && epoch < self.highest[key] {
            self.refused += 1;
            return Verdict::Refused;
        }
        self.highest[key] = epoch;
        self.taken += 1;
        Verdict::Taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lower_epoch_is_refused_for_its_key_alone() {
        let mut resource = Resource::new(2, true);
        assert_eq!(resource.write(0, 5), Verdict::Taken);
        assert_eq!(resource.write(0, 5), Verdict::Taken);
        assert_eq!(resource.write(0, 4), Verdict::Refused);
        assert_eq!(resource.write(1, 4), Verdict::Taken);
    }

    #[test]
    fn unfenced_ledger_takes_lower_epochs() {
        let mut resource = Resource::new(1, false);
        assert_eq!(resource.write(0, 5), Verdict::Taken);
        assert_eq!(resource.write(0, 4), Verdict::Taken);
    }
}
