//! The history of each key, which captions tell. It is bounded.

use std::collections::BTreeMap;

use lockmesh::Epoch;
use tools::page::{Shown, Time};

/// The maximum number of keys with a story. Beyond it, the least recently used one is dropped.
const STORIES_MAX: usize = 64;

/// How a node ceased to hold a lock.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum How {
    Released,
    Lost,
    Crashed,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Ended {
    pub(super) node: usize,
    pub(super) rank: u64,
    pub(super) at: Time,
    pub(super) how: How,
}

/// The history of one key.
#[derive(Clone, Debug, Default)]
pub(super) struct Story {
    owners: u64,
    highest: Epoch,
    touched: u64,
    /// How the last holder ended.
    pub(super) ended: Option<Ended>,
    /// The time of the current grant.
    pub(super) granted: Option<Time>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Stories {
    touches: u64,
    stories: BTreeMap<String, Story>,
    /// The key of the latest event.
    pub(super) focus: Option<String>,
    pub(super) grants: u64,
    pub(super) losses: u64,
    /// The number of times that two guards of one key were held at once, or an epoch did not rise.
    pub(super) broken: u64,
}

impl Stories {
    /// Records a grant. Returns the epoch for display, and `true` if the epoch has risen.
    pub(super) fn owner(&mut self, at: Time, key: &str, epoch: Epoch) -> (Shown, bool) {
        self.grants += 1;
        let story = self.touch(key);
        story.owners += 1;
        let has_risen = epoch > story.highest;
        story.highest = story.highest.max(epoch);
        story.granted = Some(at);
        let rank = story.owners;
        let number = epoch.get().to_string();
        (Shown { rank, number }, has_risen)
    }

    /// Records that a holder ended.
    pub(super) fn ended(&mut self, key: &str, ended: Ended) {
        if ended.how == How::Lost {
            self.losses += 1;
        }
        let story = self.touch(key);
        story.granted = None;
        story.ended = Some(ended);
    }

    pub(super) fn story(&self, key: &str) -> Option<&Story> {
        self.stories.get(key)
    }

    /// Marks a key as the latest one with an event.
    pub(super) fn touch(&mut self, key: &str) -> &mut Story {
        self.touches += 1;
        if self.stories.len() >= STORIES_MAX && !self.stories.contains_key(key) {
            let oldest = self.stories.iter().min_by_key(|(_, story)| story.touched);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                self.stories.remove(&oldest);
            }
        }
        self.focus = Some(key.to_owned());
        let story = self.stories.entry(key.to_owned()).or_default();
        story.touched = self.touches;
        story
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owner_counts_grants_and_detects_stale_epoch() {
        let mut stories = Stories::default();
        let (shown, has_risen) = stories.owner(1, "k", Epoch::new(7));
        assert_eq!((shown.rank, shown.number.as_str()), (1, "7"));
        assert!(has_risen);
        assert!(stories.owner(2, "k", Epoch::new(8)).1);
        assert!(!stories.owner(3, "k", Epoch::new(8)).1);
        assert!(stories.owner(3, "other", Epoch::new(2)).1);
    }

    #[test]
    fn touch_beyond_limit_drops_least_recent_key() {
        let mut stories = Stories::default();
        for n in 0..=STORIES_MAX {
            stories.touch(&format!("k{n}"));
            stories.touch("k0");
        }
        assert!(stories.story("k0").is_some() && stories.story("k1").is_none());
        assert_eq!(stories.stories.len(), STORIES_MAX);
    }
}
