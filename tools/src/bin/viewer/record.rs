//! The history that the timeline shows: claims and faults. It is bounded, and drops old entries.

use std::collections::{BTreeMap, VecDeque};

use lockmesh::Epoch;
use serde::Serialize;

/// Milliseconds since the lab began.
pub(super) type Ms = u64;

/// The age at which an ended span is dropped. The page shows a shorter time.
const PAST_MS: Ms = 120_000;
/// The maximum number of spans, and of lines.
const SPANS_MAX: usize = 1_000;
const LINES_MAX: usize = 100;
/// The maximum number of keys with a story. Beyond it, the least recently used one is dropped.
const STORIES_MAX: usize = 64;

#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// A node holds a key, by its own guard.
    Holds,
    /// A node waits for a key.
    Waits,
    Frozen,
    Down,
    Quarantine,
    /// Links are cut.
    Network,
}

/// A state that lasts from one time to another.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Span {
    pub(super) id: u64,
    /// The version of the record at the span's last change.
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
    /// The reason for its end.
    pub(super) why: Option<&'static str>,
    /// The description.
    pub(super) what: String,
    /// The side of each node; empty if there are no sides.
    pub(super) sides: Vec<usize>,
}

/// An epoch for display. The rank counts the holders of the key. The full number is text, since it
/// exceeds the integers of JavaScript.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(super) struct Shown {
    pub(super) rank: u64,
    pub(super) number: String,
}

/// The severity of a message.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Tone {
    #[default]
    Calm,
    Good,
    Warn,
    Lost,
    /// A law is broken.
    Broken,
}

/// A message with its time.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Line {
    #[serde(rename = "id")]
    pub(super) version: u64,
    pub(super) at: Ms,
    pub(super) tone: Tone,
    pub(super) text: String,
}

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
    pub(super) at: Ms,
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
    pub(super) granted: Option<Ms>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Record {
    /// Increases with every change.
    pub(super) version: u64,
    next: u64,
    spans: VecDeque<Span>,
    lines: VecDeque<Line>,
    stories: BTreeMap<String, Story>,
    /// The key of the latest event.
    pub(super) focus: Option<String>,
    pub(super) grants: u64,
    pub(super) losses: u64,
    /// The number of times that two guards of one key were held at once, or an epoch did not rise.
    pub(super) broken: u64,
}

impl Record {
    /// Begins a span.
    pub(super) fn begin(
        &mut self,
        from: Ms,
        kind: Kind,
        node: Option<usize>,
        what: String,
    ) -> &mut Span {
        self.version += 1;
        self.next += 1;
        self.forget(from);
        self.spans.push_back(Span {
            id: self.next,
            version: self.version,
            kind,
            node,
            key: None,
            epoch: None,
            from,
            to: None,
            why: None,
            what,
            sides: Vec::new(),
        });
        let last = self.spans.len() - 1;
        &mut self.spans[last]
    }

    /// Ends a span, if it is still kept.
    pub(super) fn end(&mut self, id: u64, at: Ms, why: &'static str) {
        self.version += 1;
        if let Some(span) = self.spans.iter_mut().find(|span| span.id == id) {
            span.version = self.version;
            span.to = Some(at.max(span.from));
            span.why = Some(why);
        }
    }

    /// Returns the current span of a kind at a node.
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

    /// Records a grant. Returns the epoch for display, and `true` if the epoch has risen.
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

    /// Returns the spans and lines that have changed since `version`.
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
            // Lasting spans stay: there are no more of them than nodes and claims.
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
    fn record_drops_old_spans_and_keeps_lasting_ones() {
        let mut record = Record::default();
        let lasts = record.begin(0, Kind::Down, Some(1), String::new()).id;
        for n in 0..3 * SPANS_MAX as u64 {
            let id = record.begin(n, Kind::Waits, Some(0), String::new()).id;
            record.end(id, n + 1, "withdrawn");
            record.say(n, Tone::Calm, format!("line {n}"));
        }
        let (spans, lines) = record.since(0);
        assert_eq!((spans.len(), lines.len()), (SPANS_MAX + 1, LINES_MAX));
        assert_eq!(spans[0].id, lasts);
        record.begin(10 * PAST_MS, Kind::Waits, Some(0), String::new());
        assert_eq!(record.since(0).0.len(), 2);
        assert!(record.lasting(Kind::Down, Some(1)).is_some());
    }

    #[test]
    fn since_returns_only_changes_after_version() {
        let mut record = Record::default();
        let one = record.begin(1, Kind::Frozen, Some(0), String::new()).id;
        let seen = record.version;
        record.begin(2, Kind::Down, Some(1), String::new());
        assert_eq!(record.since(seen).0.len(), 1);
        record.end(one, 3, "it goes on");
        let (spans, _) = record.since(seen);
        assert_eq!(spans.len(), 2);
        assert_eq!(spans[0].to, Some(3));
    }

    #[test]
    fn owner_counts_grants_and_detects_stale_epoch() {
        let mut record = Record::default();
        let (shown, has_risen) = record.owner(1, "k", Epoch::new(7));
        assert_eq!((shown.rank, shown.number.as_str()), (1, "7"));
        assert!(has_risen);
        assert!(record.owner(2, "k", Epoch::new(8)).1);
        assert!(!record.owner(3, "k", Epoch::new(8)).1);
        assert!(record.owner(3, "other", Epoch::new(2)).1);
    }

    #[test]
    fn touch_beyond_limit_drops_least_recent_key() {
        let mut record = Record::default();
        for n in 0..=STORIES_MAX {
            record.touch(&format!("k{n}"));
            record.touch("k0");
        }
        assert!(record.story("k0").is_some() && record.story("k1").is_none());
        assert_eq!(record.stories.len(), STORIES_MAX);
    }
}
