//! What has happened, for the time line: who believed to hold what, and which faults there were.
//! Bounded: what is long past is forgotten.

use std::collections::{BTreeMap, VecDeque};

use lockmesh::Epoch;
use serde::Serialize;

/// Milliseconds since the lab began.
pub(super) type Ms = u64;

/// What ended longer ago than this is forgotten; the page shows less.
const PAST_MS: Ms = 120_000;
/// The most spans and the most lines that are kept.
const SPANS_MAX: usize = 1_000;
const LINES_MAX: usize = 100;
/// Keys whose story is kept. Of more, the one that was quiet for longest is forgotten.
const STORIES_MAX: usize = 64;

#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// A node believes that it holds a key.
    Holds,
    /// A node waits for a key.
    Waits,
    Frozen,
    Down,
    Quarantine,
    /// Links are cut.
    Network,
}

/// Something that lasts.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Span {
    pub(super) id: u64,
    /// The version of the record in which it changed last.
    #[serde(skip)]
    pub(super) version: u64,
    pub(super) kind: Kind,
    /// The node's number; `None` for the network.
    pub(super) node: Option<usize>,
    pub(super) key: Option<String>,
    pub(super) epoch: Option<Shown>,
    pub(super) from: Ms,
    /// `None` while it lasts.
    pub(super) to: Option<Ms>,
    /// Why it ended.
    pub(super) why: Option<&'static str>,
    /// What it is, in words.
    pub(super) what: String,
    /// The side that each node is on; empty where there are no sides.
    pub(super) sides: Vec<usize>,
}

/// An epoch as people read it: the how-manieth owner of its key it is, and the full number, as
/// text, since a page cannot count that far.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(super) struct Shown {
    pub(super) rank: u64,
    pub(super) number: String,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Tone {
    Calm,
    Good,
    Warn,
    Lost,
    /// A law is broken.
    Broken,
}

/// A sentence with its time.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Line {
    #[serde(rename = "id")]
    pub(super) version: u64,
    pub(super) at: Ms,
    pub(super) tone: Tone,
    pub(super) text: String,
}

/// How a node's time with a lock ended.
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
    pub(super) at: Ms,
    pub(super) how: How,
}

/// What is known of a key.
#[derive(Clone, Debug, Default)]
pub(super) struct Story {
    owners: u64,
    highest: Epoch,
    touched: u64,
    /// How the last owner ended.
    pub(super) ended: Option<Ended>,
    /// When the present owner got it.
    pub(super) granted: Option<Ms>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Record {
    /// Rises with every change.
    pub(super) version: u64,
    next: u64,
    spans: VecDeque<Span>,
    lines: VecDeque<Line>,
    stories: BTreeMap<String, Story>,
    /// The key that something happened to last.
    pub(super) focus: Option<String>,
    pub(super) grants: u64,
    pub(super) losses: u64,
    /// Times that two guards of one key both said "held", or an epoch did not rise.
    pub(super) broken: u64,
}

impl Record {
    /// Something begins. Returns its id.
    pub(super) fn begin(&mut self, at: Ms, kind: Kind, node: Option<usize>, what: String) -> u64 {
        self.version += 1;
        self.next += 1;
        self.spans.push_back(Span {
            id: self.next,
            version: self.version,
            kind,
            node,
            key: None,
            epoch: None,
            from: at,
            to: None,
            why: None,
            what,
            sides: Vec::new(),
        });
        self.forget(at);
        self.next
    }

    /// Changes a span that may be known still.
    pub(super) fn change(&mut self, id: u64, change: impl FnOnce(&mut Span)) {
        self.version += 1;
        if let Some(span) = self.spans.iter_mut().find(|span| span.id == id) {
            span.version = self.version;
            change(span);
        }
    }

    pub(super) fn end(&mut self, id: u64, at: Ms, why: &'static str) {
        self.change(id, |span| {
            span.to = Some(at.max(span.from));
            span.why = Some(why);
        });
    }

    /// The span of a kind that lasts at a node.
    pub(super) fn lasting(&self, kind: Kind, node: Option<usize>) -> Option<&Span> {
        let mut lasting = self.spans.iter().filter(|span| span.to.is_none());
        lasting.find(|span| span.kind == kind && span.node == node)
    }

    pub(super) fn say(&mut self, at: Ms, tone: Tone, text: String) {
        self.version += 1;
        let version = self.version;
        self.lines.push_back(Line {
            version,
            at,
            tone,
            text,
        });
        while self.lines.len() > LINES_MAX {
            self.lines.pop_front();
        }
    }

    /// A key has a new owner. Returns its epoch as it is shown, and whether the epoch has risen.
    pub(super) fn owner(&mut self, at: Ms, key: &str, epoch: Epoch) -> (Shown, bool) {
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

    /// A key has lost its owner.
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

    /// Something happens to a key.
    pub(super) fn touch(&mut self, key: &str) -> &mut Story {
        self.version += 1;
        if self.stories.len() >= STORIES_MAX && !self.stories.contains_key(key) {
            let oldest = self.stories.iter().min_by_key(|(_, story)| story.touched);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                self.stories.remove(&oldest);
            }
        }
        self.focus = Some(key.to_owned());
        let story = self.stories.entry(key.to_owned()).or_default();
        story.touched = self.version;
        story
    }

    /// What has changed since a version.
    pub(super) fn since(&self, version: u64) -> (Vec<&Span>, Vec<&Line>) {
        let spans = self.spans.iter().filter(|span| span.version > version);
        let lines = self.lines.iter().filter(|line| line.version > version);
        (spans.collect(), lines.collect())
    }

    fn forget(&mut self, now: Ms) {
        let oldest = now.saturating_sub(PAST_MS);
        self.spans
            .retain(|span| span.to.is_none_or(|to| to > oldest));
        while self.spans.len() > SPANS_MAX {
            // What lasts stays: there are no more of those than nodes and claims.
            let Some(ended) = self.spans.iter().position(|span| span.to.is_some()) else {
                return;
            };
            self.spans.remove(ended);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_long_past_is_forgotten_and_what_lasts_is_not() {
        let mut record = Record::default();
        let lasts = record.begin(0, Kind::Down, Some(1), String::new());
        for n in 0..3 * SPANS_MAX as u64 {
            let id = record.begin(n, Kind::Waits, Some(0), String::new());
            record.end(id, n + 1, "withdrawn");
            record.say(n, Tone::Calm, format!("line {n}"));
        }
        let (spans, lines) = record.since(0);
        assert_eq!((spans.len(), lines.len()), (SPANS_MAX, LINES_MAX));
        assert_eq!(spans[0].id, lasts);
        record.begin(10 * PAST_MS, Kind::Waits, Some(0), String::new());
        assert_eq!(record.since(0).0.len(), 2);
        assert!(record.lasting(Kind::Down, Some(1)).is_some());
    }

    #[test]
    fn only_what_has_changed_since_a_version_is_told_again() {
        let mut record = Record::default();
        let one = record.begin(1, Kind::Frozen, Some(0), String::new());
        let seen = record.version;
        record.begin(2, Kind::Down, Some(1), String::new());
        assert_eq!(record.since(seen).0.len(), 1);
        record.end(one, 3, "it goes on");
        let (spans, _) = record.since(seen);
        assert_eq!(spans.len(), 2);
        assert_eq!(spans[0].to, Some(3));
    }

    #[test]
    fn owners_of_a_key_are_counted_and_an_epoch_that_does_not_rise_is_told() {
        let mut record = Record::default();
        let (shown, has_risen) = record.owner(1, "k", Epoch::new(7));
        assert_eq!((shown.rank, shown.number.as_str()), (1, "7"));
        assert!(has_risen);
        assert!(record.owner(2, "k", Epoch::new(8)).1);
        assert!(!record.owner(3, "k", Epoch::new(8)).1);
        assert!(record.owner(3, "other", Epoch::new(2)).1);
    }

    #[test]
    fn of_too_many_keys_the_one_that_was_quiet_for_longest_is_forgotten() {
        let mut record = Record::default();
        for n in 0..=STORIES_MAX {
            record.touch(&format!("k{n}"));
            record.touch("k0");
        }
        assert!(record.story("k0").is_some() && record.story("k1").is_none());
        assert_eq!(record.stories.len(), STORIES_MAX);
    }
}
