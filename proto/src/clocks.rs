//! The difference between this node's wall clock and those of the members, and the corrected time.
//!
//! Members report their wall clocks on request (rule 28). A member read its clock between the
//! request and the answer, so the node knows an interval that contains the clock's time. With time
//! the interval widens by the possible drift between two clocks. Two times follow from these
//! intervals, and from the node's own clock if it is a member. (Here m is the quorum of all
//! members.)
//!
//! - **low time**: the latest time that m clocks have certainly reached,
//! - **high time**: the earliest time that m clocks have certainly not passed.
//!
//! A reading expires after three of the intervals at which members are asked: an unreachable member
//! may have had its clock set since.
//!
//! A minority of wrong clocks moves neither time beyond the range of the other clocks. The
//! **corrected time** is the node's own wall clock, clamped to the two. While fewer than m clocks
//! are known, it is the unchanged wall clock.
//!
//! Rejected: the median of the known clocks. If two of three are known, it follows a wrong one
//! halfway.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::id::NodeId;
use super::time::{Instant, Now};
use super::voter_set::{VoterSet, quorum};

/// A reading expires after this many of the intervals at which its member is asked.
const LASTS: u32 = 3;
/// The shortest such interval: a silent member is asked only every two seconds.
const LEAST: Duration = Duration::from_secs(2);

/// A reading of a member's wall clock.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Reading {
    wall_ms: u64,
    /// This node's monotonic clock when the request was sent, before the reading.
    sent_at: Instant,
    /// This node's monotonic clock when the answer was received, after the reading.
    heard_at: Instant,
}

/// The bounds that follow from the other clocks at one instant.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Bounds {
    at: Instant,
    /// The width of the widest interval among the readings.
    width_ms: u64,
    /// The bounds of the corrected time.
    least_ms: u64,
    most_ms: u64,
    /// The upper bound of the low time and the lower bound of the high time, for any own clock.
    low_most_ms: u64,
    high_least_ms: u64,
}

/// The wall clocks of the members, as far as they are known.
///
/// A member reads its clock between the request and the answer, which bounds its reading (Cristian,
/// "Probabilistic Clock Synchronization", 1989).
#[derive(Clone, Debug)]
pub struct Clocks {
    members: usize,
    is_member: bool,
    drift_ppm: u64,
    skew_ms: u64,
    /// The time after its request at which a reading expires.
    lasts: Duration,
    readings: BTreeMap<NodeId, Reading>,
    /// The expiry of the oldest reading.
    until: Instant,
    /// `None` while fewer than a quorum of all members' clocks are known.
    bounds: Option<Bounds>,
}

/// A node's wall clock compared with those of the members.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WallClock {
    /// Fewer than a quorum of all members' clocks are known: the node uses its own clock.
    #[default]
    Unknown,
    /// The clock is right within `max_clock_skew`.
    Right,
    /// The clock is off by more than `max_clock_skew`. The node uses the time that a quorum of the
    /// clocks shows.
    Skewed {
        /// Milliseconds ahead of the corrected time; negative if behind.
        ahead_ms: i64,
    },
    /// The known clocks differ by more than `max_clock_skew`, and too few are known to decide which
    /// are right.
    Disputed {
        /// The difference in milliseconds.
        by_ms: u64,
    },
}

/// Permission for a voter in recovery to vote again, by the known clocks.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum MayReturn {
    /// The voter may vote: a quorum of all members' clocks is known.
    Yes,
    /// The voter may vote after a wait: only as many clocks as a quorum of a key's voters are
    /// known.
    Later,
    /// The voter may not vote: its recovered fence might reject all claims until time catches up.
    No,
}

impl Clocks {
    /// Creates a table that knows no clock except the node's own.
    #[must_use]
    pub fn new(me: &NodeId, voter_set: &VoterSet) -> Self {
        let skew_ms = voter_set.timing().max_clock_skew.as_millis();
        Self {
            members: voter_set.members().len(),
            is_member: voter_set.has_member(me),
            drift_ppm: u64::from(voter_set.timing().max_drift_ppm),
            skew_ms: u64::try_from(skew_ms).unwrap_or(u64::MAX),
            lasts: voter_set.timing().clocks_every().max(LEAST) * LASTS,
            readings: BTreeMap::new(),
            until: Instant::FAR,
            bounds: None,
        }
    }

    /// Removes expired readings.
    pub fn pass(&mut self, now: Instant) {
        if now > self.until {
            self.weigh(now);
        }
    }

    /// Records that a member's clock showed `wall_ms` between `sent_at` and now.
    pub fn hear(&mut self, now: Now, member: &NodeId, sent_at: Instant, wall_ms: u64) {
        let heard_at = now.mono;
        let reading = Reading {
            wall_ms,
            sent_at,
            heard_at,
        };
        let old = self.readings.get(member);
        if sent_at <= heard_at && old.is_none_or(|old| old.sent_at <= sent_at) {
            self.readings.insert(member.clone(), reading);
            self.weigh(now.mono);
        }
    }

    /// Removes the reading of a member that was restarted: its clock may be another.
    pub fn forget(&mut self, now: Now, member: &NodeId) {
        if self.readings.remove(member).is_some() {
            self.weigh(now.mono);
        }
    }

    /// Returns the same instant with the wall clock corrected.
    #[must_use]
    pub fn correct(&self, now: Now) -> Now {
        let Some(bounds) = &self.bounds else {
            return now;
        };
        let (least, most) = self.limits(bounds, now.mono);
        let wall_ms = now.wall_ms.max(least).min(most);
        Now { wall_ms, ..now }
    }

    /// Returns the high time. Returns `None` while too few clocks are known, or if one clock is a
    /// quorum.
    #[must_use]
    pub fn high(&self, now: Now) -> Option<Now> {
        let bounds = self.bounds.as_ref().filter(|_| self.quorum() > 1)?;
        let (_, wall_ms) = self.low_and_high(bounds, now);
        Some(Now { wall_ms, ..now })
    }

    /// Returns how far the wall clock is ahead of the corrected time, in milliseconds; negative if
    /// behind.
    #[must_use]
    pub fn ahead_ms(&self, now: Now) -> i64 {
        let corrected = self.correct(now).wall_ms;
        let off = i64::try_from(now.wall_ms.abs_diff(corrected)).unwrap_or(i64::MAX);
        if now.wall_ms < corrected { -off } else { off }
    }

    /// Compares this node's wall clock with those of the members.
    #[must_use]
    pub fn judge(&self, now: Now) -> WallClock {
        let Some(bounds) = &self.bounds else {
            return WallClock::Unknown;
        };
        let ahead_ms = self.ahead_ms(now);
        if ahead_ms.unsigned_abs() > self.skew_ms {
            return WallClock::Skewed { ahead_ms };
        }
        let dispute = self.dispute(bounds, now);
        dispute.map_or(WallClock::Right, |by_ms| WallClock::Disputed { by_ms })
    }

    /// Returns `true` if the known clocks differ by more than `max_clock_skew`, and too few are
    /// known to decide which are right.
    #[must_use]
    pub fn are_disputed(&self, now: Now) -> bool {
        let bounds = self.bounds.as_ref();
        bounds.is_some_and(|bounds| self.dispute(bounds, now).is_some())
    }

    /// Returns the difference between low and high time, in milliseconds, if it is larger than it
    /// can be while all clocks are right.
    fn dispute(&self, bounds: &Bounds, now: Now) -> Option<u64> {
        let (low, high) = self.low_and_high(bounds, now);
        let by_ms = high.saturating_sub(low);
        let (slow, fast) = self.spans(now.mono.since(bounds.at));
        (by_ms > self.skew_ms + bounds.width_ms + (fast - slow)).then_some(by_ms)
    }

    /// Returns `true` if the corrected time has moved by more than `max_clock_skew`.
    #[must_use]
    pub fn is_news(&self, now: Now, before: Now) -> bool {
        self.correct(now).wall_ms.abs_diff(before.wall_ms) > self.skew_ms
    }

    /// Returns the number of other members whose clocks are known.
    #[must_use]
    pub fn known(&self) -> usize {
        self.readings.len()
    }

    /// Returns the permission for a voter in recovery to vote. `quorum` is that of a key's voters.
    #[must_use]
    pub fn may_return(&self, now: Now, quorum: usize) -> MayReturn {
        let known = self.readings.len() + usize::from(self.is_member);
        if self.are_disputed(now) {
            MayReturn::No
        } else if known >= self.quorum() || mistaken!(AloneByOwnClock) {
            MayReturn::Yes
        } else if known >= quorum {
            MayReturn::Later
        } else {
            MayReturn::No
        }
    }

    fn quorum(&self) -> usize {
        quorum(self.members)
    }

    /// Returns the bounds of the corrected time at an instant.
    fn limits(&self, bounds: &Bounds, at: Instant) -> (u64, u64) {
        let (slow, fast) = self.spans(at.since(bounds.at));
        let most = bounds.most_ms.saturating_add(fast);
        (bounds.least_ms.saturating_add(slow), most)
    }

    fn low_and_high(&self, bounds: &Bounds, now: Now) -> (u64, u64) {
        let (least, most) = self.limits(bounds, now.mono);
        if !self.is_member {
            return (least, most);
        }
        let (slow, fast) = self.spans(now.mono.since(bounds.at));
        let own = now.wall_ms;
        let low = own.min(bounds.low_most_ms.saturating_add(slow)).max(least);
        let high = own.max(bounds.high_least_ms.saturating_add(fast)).min(most);
        (low, high)
    }

    /// Converts a span of this node's monotonic clock to the least and most milliseconds of another
    /// clock.
    fn spans(&self, span: Duration) -> (u64, u64) {
        let (ms, drift) = with_drift(span, self.drift_ppm);
        (ms.saturating_sub(drift), ms.saturating_add(drift + 1))
    }

    /// Removes expired readings and computes the bounds from the others.
    ///
    /// This node's own clock is left out, since it is read anew each time. If it counts, one clock
    /// fewer of the others makes a quorum.
    fn weigh(&mut self, at: Instant) {
        let lasts = self.lasts;
        let until = |reading: &Reading| reading.sent_at.after(lasts);
        self.readings.retain(|_, reading| at <= until(reading));
        self.until = self
            .readings
            .values()
            .map(until)
            .min()
            .unwrap_or(Instant::FAR);
        self.bounds = self.bounds_at(at);
    }

    fn bounds_at(&self, at: Instant) -> Option<Bounds> {
        let needed = match mistaken!(FirstClockTrusted) {
            true => 1,
            false => self.quorum(),
        };
        let (mut lows, mut highs) = (Vec::new(), Vec::new());
        for reading in self.readings.values() {
            let (least, _) = self.spans(at.since(reading.heard_at));
            let (_, most) = self.spans(at.since(reading.sent_at));
            lows.push(reading.wall_ms.saturating_add(least));
            highs.push(reading.wall_ms.saturating_add(most));
        }
        let widths = lows.iter().zip(&highs);
        let width_ms = widths.map(|(low, high)| high.saturating_sub(*low)).max();
        if lows.len() + usize::from(self.is_member) < needed {
            return None;
        }
        lows.sort_unstable_by(|a, b| b.cmp(a));
        highs.sort_unstable();
        let nth = |list: &[u64], n: usize| list.get(n.checked_sub(1)?).copied();
        Some(Bounds {
            at,
            width_ms: width_ms.unwrap_or(0),
            least_ms: nth(&lows, needed).unwrap_or(0),
            most_ms: nth(&highs, needed).unwrap_or(u64::MAX),
            low_most_ms: nth(&lows, needed - 1).unwrap_or(u64::MAX),
            high_least_ms: nth(&highs, needed - 1).unwrap_or(0),
        })
    }
}

/// Returns a span of a monotonic clock in milliseconds, and the most by which another clock may
/// differ.
pub(super) fn with_drift(span: Duration, drift_ppm: u64) -> (u64, u64) {
    let ms = span.as_millis();
    let drift = ms * u128::from(drift_ppm) / 1_000_000 + 1;
    let [ms, drift] = [ms, drift].map(|it| u64::try_from(it).unwrap_or(u64::MAX / 2));
    (ms, drift)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::voter_set::Timing;

    const WALL: u64 = 1_760_000_000_000;
    const HOUR: i64 = 3_600_000;

    fn node(n: usize) -> NodeId {
        NodeId::new(format!("n{n}")).unwrap()
    }

    fn at(ms: u64, off_ms: i64) -> Now {
        Now {
            mono: Instant::from_nanos(1).after(Duration::from_millis(ms)),
            wall_ms: (WALL + ms).saturating_add_signed(off_ms),
        }
    }

    /// Returns the clocks that `me` knows among `members`. Each node in `offs` was asked at 0 ms,
    /// and answered at once with a clock off by that many milliseconds.
    fn clocks(me: &str, members: usize, offs: &[(usize, i64)]) -> Clocks {
        let all = (0..members).map(node).collect();
        let voter_set = VoterSet::new(1, all, members, Timing::lan()).unwrap();
        let mut clocks = Clocks::new(&NodeId::new(me).unwrap(), &voter_set);
        for (n, off) in offs {
            hear(&mut clocks, *n, 0, *off);
        }
        clocks
    }

    fn hear(clocks: &mut Clocks, n: usize, ms: u64, off_ms: i64) {
        let now = at(ms, off_ms);
        clocks.hear(now, &node(n), now.mono, now.wall_ms);
    }

    /// Returns the error of the corrected time if the own clock is off by `off_ms`.
    fn corrected(clocks: &Clocks, ms: u64, off_ms: i64) -> i64 {
        let wall = clocks.correct(at(ms, off_ms)).wall_ms;
        i64::try_from(wall).unwrap() - i64::try_from(WALL + ms).unwrap()
    }

    fn near(off: i64, of: i64) -> bool {
        (off - of).abs() <= 6
    }

    #[test]
    fn own_clock_counts_while_too_few_others_are_known() {
        assert_eq!(corrected(&clocks("n0", 3, &[]), 9, HOUR), HOUR);
        assert_eq!(corrected(&clocks("n0", 3, &[(1, 0)]), 9, HOUR), HOUR);
        assert_eq!(corrected(&clocks("client", 3, &[(1, 0)]), 9, HOUR), HOUR);
        assert_eq!(corrected(&clocks("n0", 1, &[]), 9, HOUR), HOUR);
    }

    #[test]
    fn wrong_own_clock_is_corrected_by_majority() {
        for off in [-HOUR, HOUR] {
            for (me, known) in [("n0", &[(1, 0), (2, 0)]), ("client", &[(0, 0), (2, 0)])] {
                let clocks = clocks(me, 3, known);
                assert!(near(corrected(&clocks, 5, off), 0), "{me} off by {off}");
                let WallClock::Skewed { ahead_ms } = clocks.judge(at(5, off)) else {
                    panic!("{:?}", clocks.judge(at(5, off)));
                };
                assert!(near(ahead_ms, off));
            }
        }
    }

    #[test]
    fn minority_of_wrong_clocks_moves_nothing() {
        for wrong in [[-HOUR, -HOUR], [HOUR, HOUR], [-HOUR, HOUR]] {
            let known = [(1, wrong[0]), (2, wrong[1]), (3, 0), (4, 0)];
            for known in [&known[..], &known[..3], &known[1..], &known[1..3]] {
                let clocks = clocks("n0", 5, known);
                assert!(near(corrected(&clocks, 5, 0), 0), "{known:?}");
            }
            // If all others are known, a wrong own clock is corrected too.
            let clocks = clocks("n0", 5, &[(1, wrong[0]), (2, 0), (3, 0), (4, 0)]);
            assert!(near(corrected(&clocks, 5, wrong[1]), 0), "{wrong:?}");
        }
    }

    #[test]
    fn two_clocks_of_three_that_differ_are_disputed() {
        for me in ["n0", "client"] {
            let known = [(1, 0), (2, -HOUR)];
            let clocks = clocks(me, 3, &known[usize::from(me == "n0")..]);
            assert_eq!(corrected(&clocks, 5, 0), 0);
            let disputed = matches!(clocks.judge(at(5, 0)), WallClock::Disputed { by_ms } if
                near(by_ms as i64, HOUR));
            assert!(disputed, "{me}: {:?}", clocks.judge(at(5, 0)));
        }
    }

    #[test]
    fn clocks_within_the_skew_are_right() {
        let clocks = clocks("n0", 3, &[(1, -2_000), (2, 2_000)]);
        for off in [-6_000, 0, 6_000] {
            assert_eq!(clocks.judge(at(5, off)), WallClock::Right, "{off}");
        }
        // Two of the three clocks have reached -2,000 ms.
        assert!(near(corrected(&clocks, 5, -6_000), -2_000));
    }

    #[test]
    fn interval_grows_by_the_round_trip_and_the_drift() {
        let mut clocks = clocks("client", 1, &[]);
        // The clock was read between the request at 100 ms and the answer at 300 ms.
        clocks.hear(at(300, 0), &node(0), at(100, 0).mono, at(200, 0).wall_ms);
        assert!((-106..=-100).contains(&corrected(&clocks, 300, -HOUR)));
        assert!((100..=106).contains(&corrected(&clocks, 300, HOUR)));
        // Drift of 5,000 ppm over less than 1 s, and over 1,000 s.
        assert!((104..=110).contains(&corrected(&clocks, 1_000, HOUR)));
        let later = 1_000_300;
        assert!((-5_110..=-5_100).contains(&corrected(&clocks, later, -HOUR)));
        assert!((5_100..=5_110).contains(&corrected(&clocks, later, HOUR)));
    }

    #[test]
    fn older_or_forgotten_or_future_reading_is_ignored() {
        let mut clocks = clocks("client", 1, &[(0, 0)]);
        hear(&mut clocks, 0, 50, HOUR);
        let late = at(70, 0);
        clocks.hear(late, &node(0), at(40, 0).mono, late.wall_ms);
        assert!(near(corrected(&clocks, 100, 0), HOUR));
        clocks.forget(at(110, 0), &node(0));
        assert_eq!(corrected(&clocks, 120, -7), -7);
        let future = at(300, 0);
        clocks.hear(at(200, 0), &node(0), future.mono, future.wall_ms);
        assert_eq!(clocks.known(), 0);
    }

    #[test]
    fn high_time_is_passed_by_minority_at_most() {
        let high = |clocks: &Clocks, off| {
            let high = clocks.high(at(5, off))?.wall_ms;
            Some(i64::try_from(high).unwrap() - i64::try_from(WALL + 5).unwrap())
        };
        let two = clocks("n0", 3, &[(1, 0)]);
        assert_eq!(high(&two, HOUR), Some(HOUR));
        assert!(near(high(&two, -HOUR).unwrap(), 0));
        let all = clocks("n0", 3, &[(1, 0), (2, HOUR)]);
        for off in [-HOUR, 0, 2 * HOUR] {
            let expected = off.clamp(0, HOUR);
            assert!(near(high(&all, off).unwrap(), expected), "{off}");
        }
        assert_eq!(high(&clocks("n0", 3, &[]), 0), None);
        assert_eq!(high(&clocks("n0", 1, &[]), 0), None, "its own alone");
    }

    #[test]
    fn clock_of_the_far_future_overflows_nothing() {
        let mut clocks = clocks("n0", 3, &[]);
        for n in [1, 2] {
            clocks.hear(at(9, 0), &node(n), Instant::ZERO, u64::MAX);
        }
        let later = Now {
            mono: Instant::FAR,
            wall_ms: 5,
        };
        assert_eq!(clocks.correct(later).wall_ms, u64::MAX);
        assert!(matches!(clocks.judge(later), WallClock::Skewed { .. }));
    }
}
