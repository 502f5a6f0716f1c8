//! The counters that were received from one sender, for the detection of replays.

/// The number of counters, down from the highest received, that are checked for replays. Older ones
/// are rejected.
pub const REPLAY_WINDOW: u64 = 1_024;

const WORD_BITS: u64 = u64::BITS as u64;
const WORDS: usize = (REPLAY_WINDOW / WORD_BITS) as usize;

/// The last [`REPLAY_WINDOW`] counters of one sender: a ring with a bit for each.
#[derive(Clone, Debug)]
pub(super) struct Window {
    highest: u64,
    seen: [u64; WORDS],
}

impl Window {
    /// Creates the window of a sender whose first received datagram has this counter. Datagrams
    /// that were sent before it are still accepted.
    pub(super) fn starting_at(counter: u64) -> Self {
        let mut window = Self {
            highest: counter,
            seen: [0; WORDS],
        };
        window.set(counter);
        window
    }

    /// Returns `true` if `counter` is higher than all that were received.
    pub(super) fn is_newest(&self, counter: u64) -> bool {
        counter > self.highest
    }

    /// Returns `true` if `counter` is received for the first time, and records it. A counter below
    /// the window counts as received.
    pub(super) fn admit(&mut self, counter: u64) -> bool {
        if self.is_newest(counter) {
            self.advance(counter);
        } else if self.highest - counter >= REPLAY_WINDOW || self.is_set(counter) {
            return false;
        }
        self.set(counter);
        true
    }

    fn advance(&mut self, counter: u64) {
        if counter - self.highest >= REPLAY_WINDOW {
            self.seen = [0; WORDS];
        } else {
            for fresh in self.highest + 1..=counter {
                let (word, bit) = place(fresh);
                self.seen[word] &= !bit;
            }
        }
        self.highest = counter;
    }

    fn is_set(&self, counter: u64) -> bool {
        let (word, bit) = place(counter);
        self.seen[word] & bit != 0
    }

    fn set(&mut self, counter: u64) {
        let (word, bit) = place(counter);
        self.seen[word] |= bit;
    }
}

fn place(counter: u64) -> (usize, u64) {
    let at = counter % REPLAY_WINDOW;
    ((at / WORD_BITS) as usize, 1 << (at % WORD_BITS))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn window_admits_counters_of_its_width() {
        let mut window = Window::starting_at(5_000);
        assert!(!window.admit(5_000));
        assert!(window.admit(5_000 - (REPLAY_WINDOW - 1)));
        assert!(!window.admit(5_000 - REPLAY_WINDOW));
        assert!(window.admit(u64::MAX));
        assert!(!window.admit(u64::MAX));
        assert!(!window.admit(5_001));
    }

    proptest! {
        /// Compares the ring with a set of all counters.
        #[test]
        fn window_agrees_with_a_set_of_counters(
            start in prop_oneof![0..3_000_u64, u64::MAX - 3_000..u64::MAX],
            steps in prop::collection::vec(-1_100..1_100_i64, 1..400),
        ) {
            let mut window = Window::starting_at(start);
            let mut all = BTreeSet::from([start]);
            for step in steps {
                let highest = all.last().copied().unwrap_or_default();
                let counter = highest.saturating_add_signed(step);
                let is_new = highest - counter.min(highest) < REPLAY_WINDOW && all.insert(counter);
                prop_assert_eq!(window.admit(counter), is_new, "counter {}", counter);
            }
        }
    }
}
