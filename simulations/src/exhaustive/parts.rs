//! The parts of a state of the search.

use std::cmp::Ordering;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use crate::proto::Message;

/// A message on its way. Voters are numbered first, then claimants.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Envelope {
    pub(super) from: u8,
    pub(super) to: u8,
    pub(super) message: Arc<Message>,
    /// Orders envelopes, since messages have no order of their own.
    digest: u64,
}

impl Envelope {
    pub(super) fn new(from: usize, to: usize, message: Message) -> Self {
        // This hasher has no random keys, so it is the same in every run.
        let mut hasher = DefaultHasher::new();
        message.hash(&mut hasher);
        Self {
            from: from as u8,
            to: to as u8,
            message: Arc::new(message),
            digest: hasher.finish(),
        }
    }

    fn order(&self) -> (u64, u8, u8) {
        (self.digest, self.from, self.to)
    }
}

impl Hash for Envelope {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.order().hash(hasher);
    }
}

impl Ord for Envelope {
    fn cmp(&self, other: &Self) -> Ordering {
        self.order().cmp(&other.order())
    }
}

impl PartialOrd for Envelope {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A state machine and its digest, which makes comparisons cheap: most parts do not change in a
/// step.
#[derive(Clone, Debug)]
pub(crate) struct Kept<T> {
    pub(super) it: Arc<T>,
    digest: u64,
}

impl<T: Clone + Hash> Kept<T> {
    pub(super) fn new(it: T) -> Self {
        let mut kept = Self {
            it: Arc::new(it),
            digest: 0,
        };
        kept.seal();
        kept
    }

    /// Changes the machine, and updates the digest.
    pub(super) fn change<R>(&mut self, change: impl FnOnce(&mut T) -> R) -> R {
        let answer = change(Arc::make_mut(&mut self.it));
        self.seal();
        answer
    }

    fn seal(&mut self) {
        let mut hasher = DefaultHasher::new();
        self.it.hash(&mut hasher);
        self.digest = hasher.finish();
    }
}

impl<T> Hash for Kept<T> {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.digest.hash(hasher);
    }
}

impl<T> PartialEq for Kept<T> {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl<T> Eq for Kept<T> {}
