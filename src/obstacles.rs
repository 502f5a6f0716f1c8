//! The rule for logs. An obstacle is a condition that keeps this node from getting a lock.
//!
//! - An obstacle that holds for more than one second is logged in one line, with the cause, the
//!   peer and the action.
//! - An obstacle that blocks everything is logged again every 15 s while it holds.
//! - When an obstacle is over, one line states how long it held.
//!
//! [`obstacle`](super::obstacle) lists the obstacles. They are tracked in three ways:
//!
//! - Lasting conditions are found by [`holding`](crate::obstacle::holding).
//! - Events are [noted](Obstacles::note). They hold until they have not happened for [`NOTED_FOR`].
//! - Conditions with a known start and end are [begun](Obstacles::begin) and
//!   [ended](Obstacles::end).
//!
//! Other code does not warn of obstacles, and no obstacle is logged within a turn.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tracing::Level;

use crate::obstacle::{About, Obstacle};
use lockmesh_proto::{Instant, NodeId};

/// An interruption shorter than this does not end an obstacle, so that flapping logs no pairs of
/// lines.
const LINGER: Duration = Duration::from_secs(1);
/// The interval at which an obstacle that blocks everything is logged again.
const AGAIN: Duration = Duration::from_secs(15);
/// The time for which a noted event holds.
pub(super) const NOTED_FOR: Duration = Duration::from_secs(30);
/// The maximum number of peers named for one kind of obstacle. One line states that there are more.
pub(super) const PEERS_MAX: usize = 16;

/// A line for the log.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Line {
    level: Level,
    cause: &'static str,
    peer: Option<String>,
    text: String,
}

impl Line {
    pub(crate) fn log(&self, node: &NodeId) {
        let (cause, text) = (self.cause, &self.text);
        let peer = self.peer.as_deref();
        match self.level {
            Level::ERROR => tracing::error!(%node, cause, peer, "{text}"),
            Level::WARN => tracing::warn!(%node, cause, peer, "{text}"),
            _ => tracing::info!(%node, cause, peer, "{text}"),
        }
    }
}

/// The obstacles that hold, by kind and peer, and what was logged of them.
#[derive(Debug, Default)]
pub(crate) struct Obstacles {
    tracked: BTreeMap<(&'static str, Option<String>), Tracked>,
    /// The kinds with more peers than are named since the last look, and when that was logged.
    left_out: BTreeSet<&'static str>,
    crowded: BTreeMap<&'static str, Instant>,
}

#[derive(Debug)]
struct Tracked {
    about: About,
    since: Instant,
    seen: Instant,
    /// If the obstacle was noted, the time until which it holds.
    noted: Option<Instant>,
    said: Option<(Level, Instant)>,
}

impl Obstacles {
    /// Records an event that keeps this node from getting locks.
    pub(crate) fn note(&mut self, now: Instant, obstacle: &Obstacle) {
        if let Some(tracked) = self.track(now, obstacle) {
            tracked.noted = Some(now.after(NOTED_FOR));
        }
    }

    /// Records the start of a condition that keeps this node from getting locks. It holds until
    /// [`end`](Obstacles::end).
    pub(crate) fn begin(&mut self, now: Instant, obstacle: &Obstacle) {
        if let Some(tracked) = self.track(now, obstacle) {
            tracked.noted = Some(Instant::FAR);
        }
    }

    /// Records the end of the condition with the same kind and peer.
    pub(crate) fn end(&mut self, now: Instant, obstacle: &Obstacle) {
        let About { kind, peer, .. } = obstacle.about();
        if let Some(tracked) = self.tracked.get_mut(&(kind, peer)) {
            (tracked.seen, tracked.noted) = (now, None);
        }
    }

    /// Returns the lines to log, if `holding` and the noted obstacles are all that hold.
    pub(crate) fn look(&mut self, now: Instant, holding: &[Obstacle]) -> Vec<Line> {
        for obstacle in holding {
            if let Some(tracked) = self.track(now, obstacle) {
                tracked.noted = None;
            }
        }
        let mut lines = Vec::new();
        self.tracked.retain(|_, tracked| {
            let (line, stays) = tracked.look(now);
            lines.extend(line);
            stays
        });
        lines.extend(self.say_crowded(now));
        lines
    }

    fn track(&mut self, now: Instant, obstacle: &Obstacle) -> Option<&mut Tracked> {
        let about = obstacle.about();
        let name = (about.kind, about.peer.clone());
        let is_known = self.tracked.contains_key(&name);
        let of_kind = self.tracked.keys().filter(|(kind, _)| *kind == about.kind);
        if !is_known && of_kind.count() >= PEERS_MAX {
            self.left_out.insert(about.kind);
            return None;
        }
        let tracked = self.tracked.entry(name).or_insert_with(|| Tracked {
            about: obstacle.about(),
            since: now,
            seen: now,
            noted: None,
            said: None,
        });
        tracked.about = about;
        tracked.seen = now;
        Some(tracked)
    }

    /// Returns one line for each kind with more peers than are named, once while that is so.
    fn say_crowded(&mut self, now: Instant) -> Vec<Line> {
        let left_out = std::mem::take(&mut self.left_out);
        self.crowded
            .retain(|kind, since| left_out.contains(kind) || now.since(*since) < NOTED_FOR);
        for kind in left_out {
            self.crowded.entry(kind).or_insert(now);
        }
        let new = self.crowded.iter().filter(|(_, since)| **since == now);
        let line = |(kind, _): (&&'static str, &Instant)| Line {
            level: Level::WARN,
            cause: kind,
            peer: None,
            text: format!(
                "more than {PEERS_MAX} peers have this cause; `lockmesh status` lists all"
            ),
        };
        new.map(line).collect()
    }
}

impl Tracked {
    /// Returns the line to log, and `true` if the obstacle is tracked further.
    fn look(&mut self, now: Instant) -> (Option<Line>, bool) {
        let holds = self.seen == now || self.noted.is_some_and(|until| now < until);
        let About { level, .. } = self.about;
        if holds {
            let said = match self.said {
                None if now.since(self.since) >= self.about.patience => self.begun(),
                // A more severe level is smaller.
                Some((before, _)) if level < before => self.begun(),
                Some((_, at)) if self.about.repeats && now.since(at) >= AGAIN => self.still(now),
                _ => return (None, true),
            };
            self.said = Some((level, now));
            return (Some(said), true);
        }
        if now.since(self.seen) < LINGER {
            return (None, true);
        }
        let was_said = self.said.is_some();
        (self.over().filter(|_| was_said), false)
    }

    fn line(&self, level: Level, text: String) -> Line {
        Line {
            level,
            cause: self.about.kind,
            peer: self.about.peer.clone(),
            text,
        }
    }

    fn begun(&self) -> Line {
        let About { cause, action, .. } = &self.about;
        self.line(self.about.level, format!("{cause}; {action}"))
    }

    fn still(&self, now: Instant) -> Line {
        let (took, About { cause, action, .. }) = (now.since(self.since), &self.about);
        let text = format!("for {} now: {cause}; {action}", seconds(took));
        self.line(self.about.level, text)
    }

    fn over(&self) -> Option<Line> {
        let took = seconds(self.seen.since(self.since));
        let over = self.about.over.as_ref()?;
        Some(self.line(Level::INFO, format!("{over}, after {took}")))
    }
}

fn seconds(span: Duration) -> String {
    format!("{:.1} s", span.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGUN: &str = "WARN n1 has another voter set (its max_ttl is 5 s, mine 60 s); neither \
                         counts the other's votes; give all nodes the same voters, voters per key, \
                         timing and voter set version";

    fn other(n: usize) -> Obstacle {
        let node = NodeId::new(format!("n{n}")).unwrap();
        let differs = "its max_ttl is 5 s, mine 60 s".to_owned();
        Obstacle::OtherVoterSet { node, differs }
    }

    fn recovering(seconds: u64, blocks: bool) -> Obstacle {
        let remaining = Duration::from_secs(seconds);
        Obstacle::Recovering { remaining, blocks }
    }

    fn at(ms: u64) -> Instant {
        Instant::ZERO.after(Duration::from_millis(ms))
    }

    /// Returns the lines logged at each quarter of a second, for seconds `from` to `to`.
    fn looks(all: &mut Obstacles, from: u64, to: u64, holding: &[Obstacle]) -> Vec<String> {
        let quarters = (from * 4..to * 4).map(|quarter| at(quarter * 250));
        let lines = quarters.flat_map(|now| all.look(now, holding));
        lines
            .map(|line| format!("{} {}", line.level, line.text))
            .collect()
    }

    #[test]
    fn obstacle_under_a_second_is_not_logged() {
        let mut all = Obstacles::default();
        let mut said = all.look(at(0), &[other(1)]);
        said.extend(all.look(at(999), &[other(1)]));
        said.extend(all.look(at(1_000), &[]));
        said.extend(all.look(at(9_000), &[]));
        assert_eq!(said, []);
        assert!(all.tracked.is_empty());
    }

    #[test]
    fn obstacle_is_logged_at_start_and_end() {
        let mut all = Obstacles::default();
        let said = looks(&mut all, 0, 100, &[other(1)]);
        assert_eq!(said, [BEGUN]);
        let said = looks(&mut all, 100, 200, &[]);
        assert_eq!(
            said,
            ["INFO n1 has the same voter set, or is gone, after 99.8 s"]
        );
    }

    #[test]
    fn flapping_obstacle_is_logged_once() {
        let mut all = Obstacles::default();
        let flaps = (0..200).flat_map(|n| {
            let holding = [other(1)];
            all.look(at(n * 250), &holding[usize::from(n % 4 != 0)..])
        });
        assert_eq!(flaps.count(), 1);
    }

    #[test]
    fn quarantine_is_logged_every_15_s() {
        let mut all = Obstacles::default();
        let said: Vec<String> = (0..40)
            .flat_map(|n| looks(&mut all, n, n + 1, &[recovering(60 - n, false)]))
            .collect();
        let resumes = |left: u64| {
            format!(
                "this node's voter is in quarantine: voting resumes in {left} s (restart without \
                 memory, see docs/operations.md); restart voters one at a time, each after the one before it votes"
            )
        };
        let expected = [
            format!("INFO {}", resumes(60)),
            format!("INFO for 16.0 s now: {}", resumes(45)),
            format!("INFO for 31.0 s now: {}", resumes(30)),
        ];
        assert_eq!(said, expected);
        let said = looks(&mut all, 40, 50, &[]);
        assert_eq!(said, ["INFO this node's voter votes, after 39.8 s"]);
    }

    #[test]
    fn worsening_obstacle_is_logged_at_once() {
        let mut all = Obstacles::default();
        assert_eq!(looks(&mut all, 0, 5, &[recovering(60, false)]).len(), 1);
        let said = all.look(at(5_000), &[recovering(55, true)]);
        assert_eq!(said[0].level, Level::WARN);
        assert_eq!(looks(&mut all, 6, 9, &[recovering(55, false)]).len(), 0);
    }

    #[test]
    fn noted_obstacle_ends_after_its_last_event() {
        let mut all = Obstacles::default();
        let error = || "no buffer".to_owned();
        for quarter in 0..40 {
            all.note(
                at(quarter * 250),
                &Obstacle::SocketFailed { error: error() },
            );
            let said = all.look(at(quarter * 250), &[]);
            assert_eq!(said.len(), usize::from(quarter == 4), "at {quarter}");
        }
        let said = looks(&mut all, 10, 100, &[]);
        assert_eq!(said, ["INFO the socket receives, after 9.8 s"]);
        let leans = Obstacle::LeansOnWallClock {
            answers: 0,
            knows_clocks: false,
        };
        all.note(at(200_000), &leans);
        assert_eq!(looks(&mut all, 200, 300, &[]).len(), 1, "no line ends it");
    }

    #[test]
    fn begun_obstacle_holds_until_it_ends() {
        let mut all = Obstacles::default();
        all.begin(at(0), &other(1));
        assert_eq!(looks(&mut all, 0, 500, &[]), [BEGUN]);
        all.end(at(500_000), &other(2));
        assert_eq!(looks(&mut all, 500, 600, &[]).len(), 0);
        all.end(at(600_000), &other(1));
        let said = looks(&mut all, 601, 610, &[]);
        assert_eq!(
            said,
            ["INFO n1 has the same voter set, or is gone, after 600.0 s"]
        );
    }

    #[test]
    fn excess_peers_share_one_line() {
        let mut all = Obstacles::default();
        let many: Vec<Obstacle> = (0..1_000).map(other).collect();
        let said = looks(&mut all, 0, 100, &many);
        assert_eq!(said.len(), PEERS_MAX + 1);
        assert!(
            said[0].starts_with("WARN more than 16 peers"),
            "{}",
            said[0]
        );
        assert_eq!(all.tracked.len(), PEERS_MAX);
        // The bound holds for each kind alone.
        let all_of = [&many[..], &[recovering(9, true)]].concat();
        assert_eq!(looks(&mut all, 100, 102, &all_of).len(), 1);
    }
}
