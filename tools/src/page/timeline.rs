//! What the page shows of a time: spans and lines.

use std::collections::VecDeque;

use serde::Serialize;

/// A time. A unit is a millisecond since the begin for the viewer, and a nanosecond in a trace.
pub type Time = u64;

/// The age at which the viewer drops an ended span. The page shows a shorter time.
const PAST_MS: Time = 120_000;
/// The maximum number of spans, and of lines, that the viewer keeps.
const SPANS_MAX: usize = 1_000;
const LINES_MAX: usize = 100;

/// The kind of a span.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A node holds a key, by its own guard.
    Holds,
    /// A node waits for a key.
    Waits,
    /// The node's process is paused.
    Frozen,
    /// The node has no process.
    Down,
    /// The node's voter is in recovery.
    Quarantine,
    /// Datagrams of the node are late.
    Slow,
    /// The node reaches no quorum.
    Unserved,
    /// Links are cut.
    Network,
    /// A mark: the resource took a write, or a tick ran.
    Taken,
    /// A mark: the resource refused a write.
    Refused,
    /// A mark: the resource took a write after a later holder's.
    Stale,
    /// A mark: all faults are over.
    Healed,
}

/// A state that lasts from one time to another, or a mark.
#[derive(Clone, Debug, Serialize)]
pub struct Span {
    /// The number of the span.
    pub id: u64,
    /// The version of the timeline at the span's last change.
    #[serde(skip)]
    version: u64,
    /// Its kind.
    pub kind: Kind,
    /// The node's number; `None` for the network.
    pub node: Option<usize>,
    /// The key, if it is about one.
    pub key: Option<String>,
    /// The epoch, if it has one.
    pub epoch: Option<Shown>,
    /// The begin.
    pub from: Time,
    /// The end; `None` while it lasts.
    pub to: Option<Time>,
    /// The description.
    pub what: String,
    /// The reason for its end, or more about it.
    pub why: String,
    /// The side of each node; empty if there are no sides.
    pub sides: Vec<usize>,
}

/// An epoch for display. The rank counts the holders; the page ranks those of a trace. The full number is text,
/// since it exceeds the integers of JavaScript.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[allow(missing_docs, reason = "said above")]
pub struct Shown {
    pub rank: u64,
    pub number: String,
}

impl Shown {
    /// Returns an epoch of a trace.
    #[must_use]
    pub fn of(number: u64) -> Option<Self> {
        let (rank, number) = (0, number.to_string());
        Some(Self { rank, number })
    }
}

/// The severity of a message.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the names say it")]
pub enum Tone {
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
#[allow(missing_docs, reason = "said above")]
pub struct Line {
    #[serde(rename = "id")]
    version: u64,
    pub at: Time,
    pub tone: Tone,
    pub text: String,
}

/// The spans and lines of a cluster.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    /// Increases with every change.
    pub version: u64,
    next: u64,
    /// The spans, in no order.
    pub spans: VecDeque<Span>,
    /// The lines, in no order.
    pub lines: VecDeque<Line>,
}

impl Timeline {
    /// Adds a span that lasts, for the caller to complete.
    pub fn begin(
        &mut self,
        from: Time,
        kind: Kind,
        node: Option<usize>,
        what: String,
    ) -> &mut Span {
        self.version += 1;
        self.next += 1;
        self.spans.push_back(Span {
            id: self.next,
            version: self.version,
            kind,
            node,
            key: None,
            epoch: None,
            from,
            to: None,
            what,
            why: String::new(),
            sides: Vec::new(),
        });
        let last = self.spans.len() - 1;
        &mut self.spans[last]
    }

    /// Adds a span that has ended, for the caller to complete.
    pub fn add(
        &mut self,
        from: Time,
        to: Time,
        kind: Kind,
        node: Option<usize>,
        what: String,
    ) -> &mut Span {
        let span = self.begin(from, kind, node, what);
        span.to = Some(to);
        span
    }

    /// Ends a span, if it is still kept.
    pub fn end(&mut self, id: u64, at: Time, why: &str) {
        self.version += 1;
        if let Some(span) = self.spans.iter_mut().find(|span| span.id == id) {
            span.version = self.version;
            span.to = Some(at.max(span.from));
            why.clone_into(&mut span.why);
        }
    }

    /// Begins, replaces or ends the span of a kind at a node, so that the present one says `what`;
    /// empty for none. Returns the span that has ended.
    pub fn follow(
        &mut self,
        at: Time,
        kind: Kind,
        node: Option<usize>,
        what: &str,
        sides: &[usize],
    ) -> Option<u64> {
        let mut lasting = self.spans.iter().filter(|span| span.to.is_none());
        let before = lasting.find(|span| span.kind == kind && span.node == node);
        if before.map_or("", |span| &span.what) == what {
            return None;
        }
        let before = before.map(|span| span.id);
        if let Some(before) = before {
            self.end(before, at, "");
        }
        if !what.is_empty() {
            self.begin(at, kind, node, what.to_owned()).sides = sides.to_vec();
        }
        before
    }

    /// Adds a line.
    pub fn say(&mut self, at: Time, tone: Tone, text: String) {
        self.version += 1;
        let version = self.version;
        self.lines.push_back(Line {
            version,
            at,
            tone,
            text,
        });
    }

    /// Returns a message to the page: its state `now`, as JSON, and what has changed since `version`.
    ///
    /// # Errors
    /// If a span or a line is not valid JSON.
    pub fn message(&self, now: &str, version: u64) -> serde_json::Result<String> {
        let spans: Vec<&Span> = self
            .spans
            .iter()
            .filter(|span| span.version > version)
            .collect();
        let lines: Vec<&Line> = self
            .lines
            .iter()
            .filter(|line| line.version > version)
            .collect();
        let [spans, lines] = [
            serde_json::to_string(&spans)?,
            serde_json::to_string(&lines)?,
        ];
        Ok(format!(
            r#"{{"now":{now},"changed":{{"spans":{spans},"lines":{lines}}}}}"#
        ))
    }

    /// Drops old spans and lines of a live cluster. Its times are milliseconds.
    pub fn forget(&mut self, now: Time) {
        let oldest = now.saturating_sub(PAST_MS);
        self.spans
            .retain(|span| span.to.is_none_or(|to| to > oldest));
        while self.spans.len() > SPANS_MAX {
            // Lasting spans stay: there are no more of them than nodes and claims.
            let Some(ended) = self.spans.iter().position(|span| span.to.is_some()) else {
                break;
            };
            self.spans.remove(ended);
        }
        let old = self.lines.len().saturating_sub(LINES_MAX);
        self.lines.drain(..old);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forget_drops_old_spans_and_keeps_lasting_ones() {
        let mut timeline = Timeline::default();
        let lasts = timeline.begin(0, Kind::Down, Some(1), String::new()).id;
        for n in 0..3 * SPANS_MAX as u64 {
            let id = timeline.begin(n, Kind::Waits, Some(0), String::new()).id;
            timeline.end(id, n + 1, "withdrawn");
            timeline.say(n, Tone::Calm, format!("line {n}"));
        }
        timeline.forget(3 * SPANS_MAX as u64);
        let kept = (timeline.spans.len(), timeline.lines.len());
        assert_eq!(kept, (SPANS_MAX, LINES_MAX));
        assert_eq!(timeline.spans[0].id, lasts);
        timeline.forget(10 * PAST_MS);
        assert_eq!((timeline.spans.len(), timeline.spans[0].id), (1, lasts));
    }

    #[test]
    fn message_has_only_changes_after_version() {
        let mut timeline = Timeline::default();
        let one = timeline.begin(1, Kind::Frozen, Some(0), String::new()).id;
        let seen = timeline.version;
        timeline.begin(2, Kind::Down, Some(1), String::new());
        let spans = |timeline: &Timeline| {
            let message = timeline.message("1", seen).unwrap();
            let message: serde_json::Value = serde_json::from_str(&message).unwrap();
            message["changed"]["spans"].clone()
        };
        assert_eq!(spans(&timeline).as_array().unwrap().len(), 1);
        timeline.end(one, 3, "it goes on");
        assert_eq!(spans(&timeline).as_array().unwrap().len(), 2);
        assert_eq!(spans(&timeline)[0]["to"], 3);
    }

    #[test]
    fn follow_replaces_span_if_description_changes() {
        let mut timeline = Timeline::default();
        let mut follow = |at, what| {
            let ended = timeline.follow(at, Kind::Network, None, what, &[]);
            (ended.is_some(), timeline.spans.len())
        };
        assert_eq!(follow(1, ""), (false, 0));
        assert_eq!(follow(2, "a"), (false, 1));
        assert_eq!(follow(3, "a"), (false, 1));
        assert_eq!(follow(4, "b"), (true, 2));
        assert_eq!(follow(5, ""), (true, 2));
        let ends: Vec<_> = timeline.spans.iter().map(|span| span.to).collect();
        assert_eq!(ends, [Some(4), Some(5)]);
    }
}
