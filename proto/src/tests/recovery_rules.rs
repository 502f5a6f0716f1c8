//! Section 6, memory only: quarantine, floors, what the others remember, and new clusters.

use super::super::clocks::MayReturn;
use super::super::description::OtherSet;
use super::super::message::{RecoveryQuery, RecoveryReply};
use super::voter_rules::view;
use super::*;

const NOTHING: [&str; 0] = [];
/// 30 s and twice one per cent.
const QUARANTINE_MS: u64 = 30_600;
const SKEW_MS: u64 = 5_000;

/// The nonce of the first question is the voter's own; that of the recovery query is the next one.
fn memory(nonce: u64, highest: Epoch, votes: bool, knew: bool) -> RecoveryReply {
    let seen = Incarnation::new(1);
    RecoveryReply {
        nonce,
        highest,
        votes,
        knew,
        seen,
        quarantine: ms(QUARANTINE_MS),
        skew: ms(SKEW_MS),
    }
}

fn remembers(wall_ms: u64) -> RecoveryReply {
    memory(8, Epoch::at_wall_ms(wall_ms), true, true)
}

impl Booth {
    fn told(&mut self, at_ms: u64, from: &str, memory: &RecoveryReply) -> Vec<String> {
        self.does(|v, out| v.handle_recovery_reply(at(at_ms), &node(from), memory, out))
    }

    fn reply_of(&self, knew: bool) -> RecoveryReply {
        self.voter
            .recovery_reply(&RecoveryQuery { nonce: 1 }, knew, Incarnation::new(1))
    }
}

/// The quarantine of `v1` is over, and it has asked the others.
fn in_query(members: usize, voters: usize) -> Booth {
    let (mut booth, _) = Booth::of(members, voters, Start::Recovering);
    let asked = booth.wakes(QUARANTINE_MS);
    assert_eq!(asked.len(), members - 1);
    booth
}

/// M5: it neither votes nor queues until every lease that it may have voted for is over.
#[test]
fn m5_a_voter_without_memory_takes_no_part_until_its_votes_are_over() {
    let (mut booth, said) = Booth::of(3, 3, Start::Recovering);
    assert_eq!(said[0], format!("QuarantineBegan {QUARANTINE_MS}"));
    assert_eq!(booth.voter.quarantine(), Some(instant(QUARANTINE_MS)));
    let refuse = ["a Refuse Quarantine"];
    assert_eq!(booth.hears(0, &claim("a", 5, 1)), refuse);
    assert_eq!(booth.hears(1, &granted(claim("a", 5, 2))), refuse);
    let asks = ["v2 Describe", "v3 Describe"];
    assert_eq!(booth.wakes(QUARANTINE_MS - 1), asks);
    assert_eq!(booth.hears(QUARANTINE_MS - 1, &claim("a", 5, 3)), refuse);
    assert_eq!((booth.voter.slots(), booth.voter.waiters()), (0, 0));
    assert_eq!(
        booth.wakes(QUARANTINE_MS),
        ["v2 Recovery query", "v3 Recovery query"]
    );
    assert_eq!(booth.hears(QUARANTINE_MS, &claim("a", 5, 4)), refuse);
}

/// F3: of three members with three voters each, all others must answer; and the floors are at
/// least the highest that one of them knows.
#[test]
fn m5_f3_the_floors_are_the_highest_that_all_but_m_minus_2_others_know() {
    let mut booth = in_query(3, 3);
    let now = QUARANTINE_MS + 10;
    assert_eq!(booth.told(now, "v2", &remembers(WALL + 20_000)), NOTHING);
    // Twice from one is one answer, and a foreign node's is none.
    assert_eq!(booth.told(now, "v2", &remembers(WALL + 1)), NOTHING);
    assert_eq!(booth.told(now, "v9", &remembers(WALL + 1)), NOTHING);
    let ended = booth.told(now, "v3", &remembers(WALL + 1));
    assert_eq!(ended, ["QuarantineEnded 2 leans false"]);
    // For all keys, and the highest of what came, not the last.
    assert_eq!(booth.voter.fence(&key()), Epoch::at_wall_ms(WALL + 20_000));
    let other = Key::new("another").unwrap();
    assert_eq!(booth.voter.fence(&other), Epoch::at_wall_ms(WALL + 20_000));
}

#[test]
fn f3_how_many_must_answer_depends_on_members_and_voters() {
    for (members, voters, needed) in [(5, 3, 4), (5, 5, 3), (7, 5, 5), (7, 7, 4)] {
        let mut booth = in_query(members, voters);
        for other in 2..=members {
            let ended = booth.told(QUARANTINE_MS, &format!("v{other}"), &remembers(WALL));
            assert_eq!(
                ended.is_empty(),
                other <= needed,
                "{members} {voters} {other}"
            );
            if other > needed {
                break;
            }
        }
        assert_eq!(booth.voter.quarantine(), None);
    }
}

/// F21: read at the start of the quarantine, so that no claimant of the end is below it.
#[test]
fn f21_the_floor_is_the_wall_clock_at_the_start_and_the_skew() {
    let mut booth = in_query(3, 3);
    let floor = Epoch::limit(at(0), ms(SKEW_MS));
    booth.wakes(QUARANTINE_MS + 1_000);
    assert_eq!(booth.voter.fence(&key()), floor);
    let now = QUARANTINE_MS + 1_000;
    let below = Claim {
        epoch: floor,
        ..claim("a", 0, 1)
    };
    assert_eq!(booth.hears(now, &below), ["a Stale w5000.1048575"]);
    let fresh = Claim {
        epoch: Epoch::at_wall_ms(WALL + now),
        ..below
    };
    assert_eq!(booth.hears(now, &fresh), ["a Vote 1+10000"]);
}

/// F22: it waits a second for answers, no longer; then M2 leans on the wall clock, and it says so.
#[test]
fn f22_it_waits_a_second_for_answers_and_no_longer() {
    let mut booth = in_query(3, 3);
    booth.told(QUARANTINE_MS, "v2", &remembers(WALL + 7_000));
    let mut due = booth.voter.next_timeout().unwrap();
    let mut asked = 0;
    while due < instant(QUARANTINE_MS + 1_000) {
        let said = booth.does(|v, out| {
            let now = Now {
                mono: due,
                wall_ms: WALL + QUARANTINE_MS,
            };
            v.handle_timeout(now, out);
        });
        // Only the one that has not answered is asked again.
        assert_eq!(said, ["v3 Recovery query"]);
        asked += 1;
        due = booth.voter.next_timeout().unwrap();
    }
    assert!(asked >= 3, "{asked}");
    assert_eq!(due, instant(QUARANTINE_MS + 1_000));
    let ended = booth.wakes(QUARANTINE_MS + 1_000);
    assert_eq!(ended, ["QuarantineEnded 1 leans true"]);
    assert_eq!(booth.voter.fence(&key()), Epoch::at_wall_ms(WALL + 7_000));
}

/// Rule 28: where most clocks are known the own one does not count. The high time is brought back
/// to the start by what surely passed, and right clocks may differ by the skew.
#[test]
fn floor_is_high_time_at_start_and_twice_the_skew() {
    let mut booth = in_query(3, 3);
    let end = QUARANTINE_MS + 1_000;
    let high = Now {
        wall_ms: WALL + 100_000,
        ..at(end)
    };
    booth.voter.handle_clocks(Some(high), MayReturn::Yes);
    let ended = booth.wakes(end);
    assert_eq!(ended, ["QuarantineEnded 0 leans true"]);
    let passed = end - 316 - 1;
    let start = Now {
        wall_ms: high.wall_ms - passed,
        ..at(0)
    };
    let floor = Epoch::limit(start, ms(2 * SKEW_MS));
    assert_eq!(booth.voter.fence(&key()), floor);
    // What others remember is believed by it, too.
    let mut booth = in_query(3, 3);
    booth.voter.handle_clocks(Some(high), MayReturn::Yes);
    for other in ["v2", "v3"] {
        booth.told(QUARANTINE_MS, other, &remembers(WALL + 104_000));
    }
    let told = Epoch::at_wall_ms(WALL + 104_000);
    assert_eq!(booth.voter.fence(&key()), told);
}

/// Rule 28: a floor by the clock that is ahead would shut out everybody, one by the other may be
/// too low. So the voter does not vote until it is known which are right.
#[test]
fn quarantine_lasts_while_clocks_are_disputed() {
    let mut booth = in_query(3, 3);
    let end = QUARANTINE_MS + 1_000;
    booth.voter.handle_clocks(Some(at(end)), MayReturn::No);
    for other in ["v2", "v3"] {
        assert_eq!(booth.told(end, other, &remembers(WALL)), NOTHING);
    }
    assert_eq!(booth.wakes(end), NOTHING);
    assert_eq!(booth.hears(end, &claim("a", 5, 1)), ["a Refuse Quarantine"]);
    assert_eq!(booth.voter.next_timeout(), Some(instant(end + 1_000)));
    booth
        .voter
        .handle_clocks(Some(at(end + 1_000)), MayReturn::Yes);
    let ended = booth.wakes(end + 1_000);
    assert_eq!(ended, ["QuarantineEnded 2 leans false"]);
}

/// Rule 28: if it knows the clocks of a quorum alone, it waits ten seconds for others.
#[test]
fn voter_that_knows_too_few_clocks_comes_back_later() {
    let mut booth = in_query(5, 3);
    booth.voter.handle_clocks(None, MayReturn::Later);
    for other in ["v2", "v3", "v4", "v5"] {
        assert_eq!(booth.told(QUARANTINE_MS, other, &remembers(WALL)), NOTHING);
    }
    let end = QUARANTINE_MS + 10_000;
    while booth.voter.next_timeout().unwrap() < instant(end) {
        let due = booth.voter.next_timeout().unwrap();
        let ms = u64::try_from(due.since(instant(0)).as_millis()).unwrap();
        assert_eq!(booth.wakes(ms), NOTHING);
    }
    assert_eq!(booth.wakes(end), ["QuarantineEnded 4 leans false"]);
}

/// Rule 28: an answer is cut by the clocks as they are known at the end, not as they were when it
/// came.
#[test]
fn answers_are_cut_by_the_high_time_of_the_end() {
    let mut booth = in_query(3, 3);
    let ahead = Now {
        wall_ms: WALL + 300_000,
        ..at(QUARANTINE_MS)
    };
    booth.voter.handle_clocks(Some(ahead), MayReturn::No);
    for other in ["v2", "v3"] {
        booth.told(QUARANTINE_MS, other, &remembers(WALL + 290_000));
    }
    let high = at(QUARANTINE_MS + 10);
    booth.voter.handle_clocks(Some(high), MayReturn::Yes);
    let ended = booth.wakes(QUARANTINE_MS + 10);
    assert_eq!(ended, ["QuarantineEnded 2 leans true"], "it was cut");
    let limit = Epoch::limit(high, ms(SKEW_MS));
    assert_eq!(booth.voter.fence(&key()), limit);
}

/// A voter that has to forget while it has no memory waits anew. What it was told of settings
/// still counts; what its own clock showed does not, once those of the others are known.
#[test]
fn restart_without_memory_keeps_what_was_told_of_settings_and_no_floor() {
    let (mut booth, _) = Booth::of(3, 3, Start::Recovering);
    let longer = memory(7, Epoch::ZERO, true, true);
    let longer = RecoveryReply {
        quarantine: ms(2 * QUARANTINE_MS),
        ..longer
    };
    booth.told(10, "v2", &longer);
    let again = Now {
        wall_ms: WALL + 300_000,
        ..at(1_000)
    };
    let said = booth.does(|v, out| v.restart(again, 70, out));
    let until = 1_000 + 2 * QUARANTINE_MS;
    assert_eq!(said[0], format!("QuarantineBegan {until}"));
    booth.wakes(until);
    let high = at(until + 1_000);
    booth.voter.handle_clocks(Some(high), MayReturn::Yes);
    let ended = booth.wakes(until + 1_000);
    assert_eq!(ended, ["QuarantineEnded 0 leans true"]);
    // One per cent of 62 s.
    let limit = Epoch::limit(at(1_000 + 623), ms(2 * SKEW_MS));
    assert!(booth.voter.fence(&key()) <= limit);
}

/// Those that are in quarantine themselves have nothing to say, and old answers are no answers.
#[test]
fn answers_of_the_quarantined_and_to_other_questions_do_not_count() {
    let mut booth = in_query(3, 3);
    let highest = Epoch::at_wall_ms(WALL + 9_000);
    booth.told(QUARANTINE_MS, "v2", &memory(8, highest, false, true));
    booth.told(QUARANTINE_MS, "v2", &memory(7, highest, true, true));
    booth.told(QUARANTINE_MS, "v3", &memory(9, highest, true, true));
    let ended = booth.wakes(QUARANTINE_MS + 1_000);
    assert_eq!(ended, ["QuarantineEnded 0 leans true"]);
    assert_eq!(booth.voter.fence(&key()), Epoch::limit(at(0), ms(SKEW_MS)));
    let (mut booth, _) = Booth::of(3, 3, Start::Recovering);
    booth.told(10, "v2", &remembers(WALL));
    booth.told(10, "v3", &memory(7, highest, true, false));
    assert!(booth.voter.quarantine().is_some());
}

/// F23: one clock in the year 2100 must not shut out all claimants.
#[test]
fn f23_answers_are_cut_at_the_wall_clock_and_the_skew() {
    let mut booth = in_query(3, 3);
    booth.told(QUARANTINE_MS, "v2", &remembers(WALL + 900_000));
    booth.told(QUARANTINE_MS, "v3", &remembers(WALL));
    let cut = Epoch::limit(at(QUARANTINE_MS), ms(SKEW_MS));
    assert_eq!(booth.voter.fence(&key()), cut);
}

/// F28: the highest of floors, fences *and votes that are out*.
#[test]
fn f28_what_a_voter_remembers_includes_the_votes_that_are_out() {
    let mut booth = Booth::new();
    assert_eq!(booth.reply_of(false).highest, Epoch::ZERO);
    booth.hears(0, &claim("a", 5, 1));
    assert_eq!(booth.reply_of(false).highest, Epoch::new(5));
    booth.hears_release(1, &release("a", true));
    assert_eq!(booth.reply_of(false).highest, Epoch::new(5));
    booth.hears(2, &granted(claim("b", 4, 1)));
    assert_eq!(booth.reply_of(false).highest, Epoch::new(5));
    let memory = booth.reply_of(true);
    assert!(memory.votes && memory.knew);
    assert!(!booth.reply_of(false).knew);
}

#[test]
fn one_voter_for_a_key_leans_on_its_wall_clock_whoever_answers() {
    let mut booth = in_query(3, 1);
    booth.told(QUARANTINE_MS, "v2", &remembers(WALL));
    let ended = booth.told(QUARANTINE_MS, "v3", &remembers(WALL));
    assert_eq!(ended, ["QuarantineEnded 2 leans true"]);
    let (mut booth, _) = Booth::of(1, 1, Start::Recovering);
    assert_eq!(booth.wakes(QUARANTINE_MS), ["QuarantineEnded 0 leans true"]);
}

fn new_here() -> RecoveryReply {
    memory(7, Epoch::ZERO, false, false)
}

#[test]
fn a_new_cluster_votes_once_nearly_all_others_say_that_they_know_of_nothing() {
    let (mut booth, said) = Booth::of(5, 5, Start::NewCluster);
    assert_eq!(
        said,
        [
            "v2 Recovery query",
            "v3 Recovery query",
            "v4 Recovery query",
            "v5 Recovery query"
        ]
    );
    assert_eq!(booth.hears(1, &claim("a", 5, 1)), ["a Refuse Quarantine"]);
    booth.told(2, "v2", &new_here());
    booth.told(2, "v3", &new_here());
    assert!(booth.voter.quarantine().is_some());
    let ended = booth.told(2, "v4", &new_here());
    assert_eq!(ended, ["QuarantineEnded 3 leans false"]);
    assert_eq!(booth.hears(3, &claim("a", 5, 1)), ["a Vote 1+10000"]);
}

/// F27: the flag will stay set. One that knows of an earlier incarnation is enough.
#[test]
fn f27_a_voter_told_that_all_is_new_goes_into_quarantine_if_anybody_knows_better() {
    let (mut booth, _) = Booth::of(3, 3, Start::NewCluster);
    booth.told(1, "v2", &new_here());
    let knows = memory(7, Epoch::ZERO, true, true);
    let began = booth.told(2, "v3", &knows);
    assert_eq!(began, [format!("QuarantineBegan {QUARANTINE_MS}")]);
    assert_eq!(booth.told(3, "v3", &new_here()), NOTHING);
    assert_eq!(
        booth.wakes(QUARANTINE_MS),
        ["v2 Recovery query", "v3 Recovery query"]
    );
    // Counted from its start, with the floor of its start.
    booth.wakes(QUARANTINE_MS + 1_000);
    assert_eq!(booth.voter.fence(&key()), Epoch::limit(at(0), ms(SKEW_MS)));
}

/// Silence is not consent.
#[test]
fn f27_a_voter_told_that_all_is_new_sits_out_the_quarantine_if_nobody_answers() {
    let (mut booth, _) = Booth::of(3, 3, Start::NewCluster);
    booth.told(1, "v2", &new_here());
    let mut now = 1;
    while booth.voter.quarantine().is_some() {
        let due = booth
            .voter
            .next_timeout()
            .unwrap()
            .as_nanos()
            .div_ceil(1_000_000);
        assert!(due > now || due == QUARANTINE_MS);
        now = due;
        booth.wakes(now);
    }
    assert_eq!(now, QUARANTINE_MS + 1_000);
    assert_eq!(booth.voter.fence(&key()), Epoch::limit(at(0), ms(SKEW_MS)));
}

/// One that may itself have forgotten cannot vouch for anybody, not even later.
#[test]
fn a_voter_that_was_ever_in_quarantine_vouches_for_nobody() {
    let (booth, _) = Booth::of(3, 3, Start::NewCluster);
    assert!(!booth.reply_of(false).knew);
    let (mut booth, _) = Booth::of(3, 3, Start::Recovering);
    let memory = booth.reply_of(false);
    assert!(memory.knew && !memory.votes);
    booth.wakes(QUARANTINE_MS);
    assert!(booth.reply_of(false).knew);
    booth.wakes(QUARANTINE_MS + 1_000);
    // It first heard of the asker while it had nothing to remember: that proves nothing.
    assert!(booth.reply_of(false).knew);
}

/// A voter that is told of an earlier incarnation of itself need not ask any further.
#[test]
fn a_new_voter_that_hears_of_an_earlier_incarnation_of_itself_goes_into_quarantine() {
    let (mut booth, _) = Booth::of(5, 5, Start::NewCluster);
    let began = booth.does(Voter::handle_earlier_incarnation);
    assert_eq!(began, [format!("QuarantineBegan {QUARANTINE_MS}")]);
    for other in ["v2", "v3", "v4"] {
        booth.told(1, other, &new_here());
    }
    assert!(booth.voter.quarantine().is_some());
    assert_eq!(booth.does(Voter::handle_earlier_incarnation), NOTHING);
}

/// F17: a lease lives through the restart of its voters one by one.
#[test]
fn f17_after_the_quarantine_a_claim_that_has_granted_is_voted_for_again() {
    let mut booth = in_query(3, 3);
    booth.wakes(QUARANTINE_MS + 1_000);
    let now = QUARANTINE_MS + 1_001;
    assert_eq!(
        booth.hears(now, &claim("a", 5, 1)),
        ["a Stale w5000.1048575"]
    );
    assert_eq!(
        booth.hears(now, &granted(claim("a", 5, 2))),
        ["a Vote 2+10000"]
    );
    assert_eq!(
        booth.hears(now, &claim("b", 6, 2)),
        ["b Stale w5000.1048575"]
    );
}

/// An answer that had to be cut is no proof of what was the highest: M2 leans on the wall clock.
#[test]
fn f23_an_answer_that_was_cut_is_told_and_one_just_not_cut_is_none() {
    let limit = Epoch::limit(at(QUARANTINE_MS), ms(SKEW_MS));
    for (highest, leans) in [(limit, false), (limit.next(), true)] {
        let mut booth = in_query(3, 3);
        booth.told(QUARANTINE_MS, "v2", &memory(8, highest, true, true));
        let ended = booth.told(QUARANTINE_MS, "v3", &remembers(WALL));
        assert_eq!(ended, [format!("QuarantineEnded 2 leans {leans}")]);
        assert_eq!(booth.voter.fence(&key()), limit);
    }
}

/// The others may know of nothing so high: this voter may have been the only one that voted.
#[test]
fn f21_the_floor_of_the_start_stands_whatever_little_the_others_remember() {
    let mut booth = in_query(3, 3);
    booth.told(QUARANTINE_MS, "v2", &remembers(0));
    let ended = booth.told(QUARANTINE_MS, "v3", &remembers(0));
    assert_eq!(ended, ["QuarantineEnded 2 leans false"]);
    assert_eq!(booth.voter.fence(&key()), Epoch::limit(at(0), ms(SKEW_MS)));
    assert!(booth.reply_of(false).knew, "it has forgotten something");
}

#[test]
fn a_new_cluster_of_one_votes_at_once_and_leans_on_nothing() {
    let (booth, said) = Booth::of(1, 1, Start::NewCluster);
    assert_eq!(said, ["QuarantineEnded 0 leans false"]);
    assert_eq!(booth.voter.fence(&key()), Epoch::ZERO);
}

/// Twice a round trip, doubled each time up to 32 round trips.
#[test]
fn a_voter_without_memory_asks_soon_at_first_and_then_less_often() {
    let (mut booth, _) = Booth::of(3, 3, Start::NewCluster);
    let mut asked = vec![0];
    while asked.len() < 8 {
        let due = booth.voter.next_timeout().unwrap().as_nanos() / 1_000_000;
        assert_eq!(booth.wakes(due - 1), NOTHING);
        assert_eq!(booth.wakes(due), ["v2 Recovery query", "v3 Recovery query"]);
        asked.push(due);
    }
    assert_eq!(asked, [0, 20, 60, 140, 300, 620, 940, 1_260]);
}

/// Others than members may know of an earlier incarnation of the cluster, and are asked too.
#[test]
fn a_voter_without_memory_asks_at_once_whom_gossip_has_just_found() {
    let (mut booth, said) = Booth::of(3, 3, Start::NewCluster);
    assert_eq!(said, ["v2 Recovery query", "v3 Recovery query"]);
    booth.told(1, "v3", &new_here());
    let found = view(&[("v2", true), ("x", true)]);
    booth.voter.handle_view(&found);
    assert_eq!(booth.wakes(5), ["v2 Recovery query", "x Recovery query"]);
    // The same again is no news; nor is one that is gone.
    booth.voter.handle_view(&found);
    booth.voter.handle_view(&view(&[("x", true)]));
    assert_eq!(booth.wakes(6), NOTHING);
}

fn other_set(quarantine_ms: u64, names_me: bool, votes: bool) -> OtherSet {
    OtherSet {
        quarantine: ms(quarantine_ms),
        skew: ms(SKEW_MS),
        names_me,
        votes,
    }
}

impl Booth {
    fn hears_of(&mut self, at_ms: u64, from: &str, set: &OtherSet) -> Vec<String> {
        self.does(|v, out| v.handle_other_set(at(at_ms), &node(from), set, out))
    }
}

/// It may have promised as much, if that set names it.
#[test]
fn a_longer_quarantine_of_a_set_that_names_it_is_sat_out() {
    let (mut booth, _) = Booth::of(3, 3, Start::Recovering);
    assert_eq!(
        booth.hears_of(1, "x", &other_set(90_000, false, false)),
        NOTHING
    );
    assert_eq!(
        booth.hears_of(1, "x", &other_set(20_000, true, false)),
        NOTHING
    );
    assert_eq!(booth.voter.quarantine(), Some(instant(QUARANTINE_MS)));
    let longer = other_set(90_000, true, false);
    let told = ["QuarantineExtended 90000 x false"];
    assert_eq!(booth.hears_of(29_000, "x", &longer), told);
    assert_eq!(booth.hears_of(29_001, "x", &longer), NOTHING);
    booth.wakes(89_999);
    assert_eq!(
        booth.hears(89_999, &claim("a", 5, 1)),
        ["a Refuse Quarantine"]
    );
    assert_eq!(
        booth.wakes(90_000),
        ["v2 Recovery query", "v3 Recovery query"]
    );
}

/// The last belt: those that are asked at the end know it.
#[test]
fn an_answer_that_tells_of_longer_votes_sends_it_back_into_quarantine() {
    let mut booth = in_query(3, 3);
    let longer = RecoveryReply {
        quarantine: ms(60_000),
        ..remembers(WALL)
    };
    let told = booth.told(QUARANTINE_MS, "v2", &longer);
    assert_eq!(told, ["QuarantineExtended 60000 v2 false"]);
    assert_eq!(booth.told(QUARANTINE_MS, "v3", &remembers(WALL)), NOTHING);
    assert_eq!(booth.voter.quarantine(), Some(instant(60_000)));
    booth.wakes(59_999);
    assert_eq!(
        booth.wakes(60_000),
        ["v2 Recovery query", "v3 Recovery query"]
    );
    booth.told(60_001, "v2", &longer);
    let ended = booth.told(60_001, "v3", &remembers(WALL));
    assert_eq!(ended, ["QuarantineEnded 2 leans false"]);
}

/// An eighth of it more: so long a voter may have been asked and not have answered.
#[test]
fn a_voter_of_another_set_is_waited_for_until_its_votes_are_over() {
    let (mut booth, _) = Booth::of(3, 3, Start::Recovering);
    let votes = other_set(20_000, false, true);
    let (at_ms, after) = (20_000, QUARANTINE_MS + QUARANTINE_MS / 8);
    let told = [format!("QuarantineExtended {} v2 true", at_ms + after)];
    assert_eq!(booth.hears_of(at_ms, "v2", &votes), told);
    assert_eq!(booth.hears_of(at_ms + 5, "v2", &votes), NOTHING);
    assert_eq!(booth.voter.quarantine(), Some(instant(at_ms + 5 + after)));
    // Also while it asks what is remembered.
    let mut booth = in_query(3, 3);
    booth.hears_of(QUARANTINE_MS + 1, "v2", &votes);
    assert_eq!(
        booth.told(QUARANTINE_MS + 2, "v2", &remembers(WALL)),
        NOTHING
    );
    assert_eq!(
        booth.told(QUARANTINE_MS + 2, "v3", &remembers(WALL)),
        NOTHING
    );
    assert!(booth.voter.quarantine().is_some());
    // And where it was told that all is new.
    let (mut booth, _) = Booth::of(3, 3, Start::NewCluster);
    let began = booth.hears_of(1, "v2", &votes);
    assert!(began[0].starts_with("QuarantineBegan"), "{began:?}");
}

/// What was granted in another set is above no floor of this one.
#[test]
fn the_floor_is_above_what_may_have_granted_in_another_set() {
    let (mut booth, _) = Booth::of(3, 3, Start::Recovering);
    booth.hears_of(20_000, "v2", &other_set(20_000, false, true));
    let mut now = 20_000;
    while booth.voter.quarantine().is_some() {
        now += 1_000;
        booth.wakes(now);
    }
    let floor = Epoch::limit(at(20_000), ms(2 * SKEW_MS));
    assert_eq!(booth.voter.fence(&key()), floor);
}

#[test]
fn voter_sets_are_asked_for_soon_at_first_and_eight_times_in_all() {
    let (mut booth, said) = Booth::of(3, 3, Start::Recovering);
    assert_eq!(said[1..], ["v2 Describe", "v3 Describe"]);
    let mut asked = Vec::new();
    loop {
        let due = booth.voter.next_timeout().unwrap().as_nanos() / 1_000_000;
        if due >= QUARANTINE_MS {
            break;
        }
        assert_eq!(booth.wakes(due), ["v2 Describe", "v3 Describe"]);
        asked.push(due);
    }
    assert_eq!(asked[..4], [10, 30, 70, 150]);
    assert_eq!(asked.len(), 15);
}

/// Rule 28: a voter that has to forget while it waits for clocks waits for them anew.
#[test]
fn restart_waits_for_clocks_anew() {
    let mut booth = in_query(5, 3);
    booth.voter.handle_clocks(None, MayReturn::Later);
    for other in ["v2", "v3", "v4", "v5"] {
        booth.told(QUARANTINE_MS, other, &remembers(WALL));
    }
    let again = QUARANTINE_MS + 1_500;
    booth.does(|v, out| v.restart(at(again), 70, out));
    booth.voter.handle_clocks(None, MayReturn::Later);
    let end = again + QUARANTINE_MS;
    booth.wakes(end);
    for other in ["v2", "v3", "v4", "v5"] {
        let answer = memory(71, Epoch::ZERO, true, true);
        assert_eq!(booth.told(end + 10, other, &answer), NOTHING, "{other}");
    }
}
