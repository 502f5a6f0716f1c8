//! Section 6, memory only: quarantine, recovered fences, replies of peers, and new clusters.

use super::super::clocks::MayReturn;
use super::super::description::OtherSet;
use super::super::message::{RecoveryQuery, RecoveryReply};
use super::voter_rules::view;
use super::*;
use crate::epoch::EpochClock;

const NOTHING: [&str; 0] = [];
/// `max_ttl` of 30 s plus twice the drift of 1 %.
pub(super) const QUARANTINE_MS: u64 = 30_600;
const SKEW_MS: u64 = 5_000;

/// A reply to a query. Queries after the quarantine have the voter's nonce plus one, which is 8.
/// Earlier ones have the nonce itself, which is 7.
pub(super) fn memory(nonce: u64, highest: Epoch, votes: bool, knew: bool) -> RecoveryReply {
    let seen = Incarnation::new(1);
    RecoveryReply {
        nonce,
        highest,
        votes,
        knew,
        seen,
        before: Incarnation::default(),
        remembers: votes,
        quarantine: ms(QUARANTINE_MS),
        skew: ms(SKEW_MS),
    }
}

pub(super) fn remembers(wall_ms: u64) -> RecoveryReply {
    memory(8, EpochClock::first_of(wall_ms), true, true)
}

impl Booth {
    pub(super) fn told(&mut self, at_ms: u64, from: &str, memory: &RecoveryReply) -> Vec<String> {
        self.does(|v, out| v.handle_recovery_reply(at(at_ms), &node(from), memory, out))
    }

    fn reply_of(&self, knew: bool) -> RecoveryReply {
        self.voter
            .recovery_reply(&RecoveryQuery { nonce: 1 }, knew, Incarnation::new(1))
    }
}

/// Returns `v1` after its quarantine, when it has queried its peers.
pub(super) fn in_query(members: usize, voters: usize) -> Booth {
    let (mut booth, _) = Booth::of(members, voters, Start::Recovering);
    let asked = booth.wakes(QUARANTINE_MS);
    assert_eq!(asked.len(), members - 1);
    booth
}

/// M5. It neither votes nor queues until every lease that it may have voted for is over.
#[test]
fn recovering_voter_refuses_until_its_votes_ended() {
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

/// M5. With three members and three voters for each key, both peers must reply. The recovered fence
/// is at least the highest epoch that either knows.
#[test]
fn recovered_fence_is_highest_known_to_peers() {
    let mut booth = in_query(3, 3);
    let now = QUARANTINE_MS + 10;
    assert_eq!(booth.told(now, "v2", &remembers(WALL + 20_000)), NOTHING);
    // A second reply of one peer does not count, nor does that of a foreign node.
    assert_eq!(booth.told(now, "v2", &remembers(WALL + 1)), NOTHING);
    assert_eq!(booth.told(now, "v9", &remembers(WALL + 1)), NOTHING);
    let ended = booth.told(now, "v3", &remembers(WALL + 1));
    assert_eq!(ended, ["QuarantineEnded 2 leans false"]);
    // The fence holds for all keys. It is the highest epoch received, not the last.
    assert_eq!(
        booth.voter.fence(&key()),
        EpochClock::first_of(WALL + 20_000)
    );
    let other = Key::new("another").unwrap();
    assert_eq!(
        booth.voter.fence(&other),
        EpochClock::first_of(WALL + 20_000)
    );
}

#[test]
fn required_replies_depend_on_members_and_voters() {
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

/// The clock is read at the start of the quarantine, so that claims made at its end are above the
/// recovered fence.
#[test]
fn recovered_fence_is_start_time_plus_skew() {
    let mut booth = in_query(3, 3);
    let floor = EpochClock::limit(at(0), ms(SKEW_MS));
    booth.wakes(QUARANTINE_MS + 1_000);
    assert_eq!(booth.voter.fence(&key()), floor);
    let now = QUARANTINE_MS + 1_000;
    let below = Claim {
        epoch: floor,
        ..claim("a", 0, 1)
    };
    assert_eq!(booth.hears(now, &below), ["a Stale w5000.1048575"]);
    let fresh = Claim {
        epoch: EpochClock::first_of(WALL + now),
        ..below
    };
    assert_eq!(booth.hears(now, &fresh), ["a Vote 1+10000"]);
}

/// After that M2 depends on the wall clock, and the event reports this.
#[test]
fn voter_waits_one_second_for_replies() {
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
        // Only the peer that has not replied is queried again.
        assert_eq!(said, ["v3 Recovery query"]);
        asked += 1;
        due = booth.voter.next_timeout().unwrap();
    }
    assert!(asked >= 3, "{asked}");
    assert_eq!(due, instant(QUARANTINE_MS + 1_000));
    let ended = booth.wakes(QUARANTINE_MS + 1_000);
    assert_eq!(ended, ["QuarantineEnded 1 leans true"]);
    assert_eq!(
        booth.voter.fence(&key()),
        EpochClock::first_of(WALL + 7_000)
    );
}

/// Rule 28. If most clocks are known, the voter's own does not count. The high time is moved back
/// to the start by the time that has certainly passed. Right clocks may differ by the skew.
#[test]
fn recovered_fence_is_high_time_plus_two_skews() {
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
    let floor = EpochClock::limit(start, ms(2 * SKEW_MS));
    assert_eq!(booth.voter.fence(&key()), floor);
    // Replies are accepted up to the high time as well.
    let mut booth = in_query(3, 3);
    booth.voter.handle_clocks(Some(high), MayReturn::Yes);
    for other in ["v2", "v3"] {
        booth.told(QUARANTINE_MS, other, &remembers(WALL + 104_000));
    }
    let told = EpochClock::first_of(WALL + 104_000);
    assert_eq!(booth.voter.fence(&key()), told);
}

/// Rule 28. A recovered fence by the clock that is ahead would refuse every claim. One by the other
/// clock may be too low. So the voter does not vote until the right clocks are known.
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

/// Rule 28. If it knows only the clocks of a quorum, it waits ten seconds for others.
#[test]
fn voter_with_too_few_clocks_recovers_later() {
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

/// Rule 28. A reply is capped by the clocks known at the end, not by those known when it arrived.
#[test]
fn replies_are_capped_at_final_high_time() {
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
    let limit = EpochClock::limit(high, ms(SKEW_MS));
    assert_eq!(booth.voter.fence(&key()), limit);
}

/// A voter that must forget again during its quarantine starts a new one. Settings received from
/// peers still count. Its own wall clock does not, once the clocks of its peers are known.
#[test]
fn restart_in_quarantine_keeps_settings_without_fence() {
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
    // The drift of 1 % over 62 s.
    let limit = EpochClock::limit(at(1_000 + 623), ms(2 * SKEW_MS));
    assert!(booth.voter.fence(&key()) <= limit);
}

/// Peers in quarantine have nothing to report, and replies to earlier queries do not count.
#[test]
fn replies_in_quarantine_or_to_others_are_ignored() {
    let mut booth = in_query(3, 3);
    let highest = EpochClock::first_of(WALL + 9_000);
    booth.told(QUARANTINE_MS, "v2", &memory(8, highest, false, true));
    booth.told(QUARANTINE_MS, "v2", &memory(7, highest, true, true));
    booth.told(QUARANTINE_MS, "v3", &memory(9, highest, true, true));
    let ended = booth.wakes(QUARANTINE_MS + 1_000);
    assert_eq!(ended, ["QuarantineEnded 0 leans true"]);
    assert_eq!(
        booth.voter.fence(&key()),
        EpochClock::limit(at(0), ms(SKEW_MS))
    );
    let (mut booth, _) = Booth::of(3, 3, Start::Recovering);
    booth.told(10, "v2", &remembers(WALL));
    booth.told(10, "v3", &memory(7, highest, true, false));
    assert!(booth.voter.quarantine().is_some());
}

/// One clock set to the year 2100 must not shut out all claimants.
#[test]
fn replies_are_capped_at_wall_clock_plus_skew() {
    let mut booth = in_query(3, 3);
    booth.told(QUARANTINE_MS, "v2", &remembers(WALL + 900_000));
    booth.told(QUARANTINE_MS, "v3", &remembers(WALL));
    let cut = EpochClock::limit(at(QUARANTINE_MS), ms(SKEW_MS));
    assert_eq!(booth.voter.fence(&key()), cut);
}

/// The highest of fence buckets, fences *and outstanding votes*.
#[test]
fn recovery_reply_includes_outstanding_votes() {
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
fn sole_voter_of_key_depends_on_wall_clock() {
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
fn new_cluster_votes_once_peers_know_nothing() {
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

/// The flag may stay set after the first start. One peer that knows of an earlier incarnation is
/// enough.
#[test]
fn new_cluster_quarantines_if_a_peer_remembers() {
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
    // The quarantine counts from the start, and the recovered fence has the clock of the start.
    booth.wakes(QUARANTINE_MS + 1_000);
    assert_eq!(
        booth.voter.fence(&key()),
        EpochClock::limit(at(0), ms(SKEW_MS))
    );
}

/// A missing reply is not consent.
#[test]
fn new_cluster_quarantines_if_peers_are_silent() {
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
    assert_eq!(
        booth.voter.fence(&key()),
        EpochClock::limit(at(0), ms(SKEW_MS))
    );
}

/// It may have forgotten something itself, so it cannot vouch for another voter, not even later.
#[test]
fn voter_once_quarantined_never_vouches() {
    let (booth, _) = Booth::of(3, 3, Start::NewCluster);
    assert!(!booth.reply_of(false).knew);
    let (mut booth, _) = Booth::of(3, 3, Start::Recovering);
    let memory = booth.reply_of(false);
    assert!(memory.knew && !memory.votes);
    booth.wakes(QUARANTINE_MS);
    assert!(booth.reply_of(false).knew);
    booth.wakes(QUARANTINE_MS + 1_000);
    // It had no memory when it first received from the other voter: that proves nothing.
    assert!(booth.reply_of(false).knew);
}

/// A voter that learns of an earlier incarnation of itself need not query any further.
#[test]
fn new_voter_with_earlier_incarnation_is_quarantined() {
    let (mut booth, _) = Booth::of(5, 5, Start::NewCluster);
    let began = booth.does(Voter::handle_earlier_incarnation);
    assert_eq!(began, [format!("QuarantineBegan {QUARANTINE_MS}")]);
    for other in ["v2", "v3", "v4"] {
        booth.told(1, other, &new_here());
    }
    assert!(booth.voter.quarantine().is_some());
    assert_eq!(booth.does(Voter::handle_earlier_incarnation), NOTHING);
}

/// A lease thus survives the restart of its voters one by one.
#[test]
fn granted_claim_is_voted_again_after_quarantine() {
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

/// A reply that had to be capped does not prove the highest epoch, so M2 depends on the wall clock.
#[test]
fn capped_reply_is_reported_as_clock_dependence() {
    let limit = EpochClock::limit(at(QUARANTINE_MS), ms(SKEW_MS));
    for (highest, leans) in [(limit, false), (limit.next(), true)] {
        let mut booth = in_query(3, 3);
        booth.told(QUARANTINE_MS, "v2", &memory(8, highest, true, true));
        let ended = booth.told(QUARANTINE_MS, "v3", &remembers(WALL));
        assert_eq!(ended, [format!("QuarantineEnded 2 leans {leans}")]);
        assert_eq!(booth.voter.fence(&key()), limit);
    }
}

/// The peers may know only lower epochs: this voter may have been the only one that voted.
#[test]
fn start_fence_stands_despite_lower_replies() {
    let mut booth = in_query(3, 3);
    booth.told(QUARANTINE_MS, "v2", &remembers(0));
    let ended = booth.told(QUARANTINE_MS, "v3", &remembers(0));
    assert_eq!(ended, ["QuarantineEnded 2 leans false"]);
    assert_eq!(
        booth.voter.fence(&key()),
        EpochClock::limit(at(0), ms(SKEW_MS))
    );
    assert!(booth.reply_of(false).knew, "it has forgotten something");
}

#[test]
fn new_cluster_of_one_votes_at_once() {
    let (booth, said) = Booth::of(1, 1, Start::NewCluster);
    assert_eq!(said, ["QuarantineEnded 0 leans false"]);
    assert_eq!(booth.voter.fence(&key()), Epoch::ZERO);
}

/// Two round trips at first, doubled each time up to 32 round trips.
#[test]
fn recovery_queries_back_off_exponentially() {
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

/// Nodes that are not members may know of an earlier incarnation of the cluster.
#[test]
fn voter_without_memory_queries_new_gossip_nodes() {
    let (mut booth, said) = Booth::of(3, 3, Start::NewCluster);
    assert_eq!(said, ["v2 Recovery query", "v3 Recovery query"]);
    booth.told(1, "v3", &new_here());
    let found = view(&[("v2", true), ("x", true)]);
    booth.voter.handle_view(&found);
    assert_eq!(booth.wakes(5), ["v2 Recovery query", "x Recovery query"]);
    // The same view again triggers no query, nor does a view with fewer nodes.
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

/// The voter may have given such long votes if that set names it.
#[test]
fn longer_quarantine_of_naming_set_is_observed() {
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

/// The last safeguard: a peer queried at the end knows of the longer votes.
#[test]
fn reply_with_longer_votes_extends_quarantine() {
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

/// The wait is an eighth longer: in that interval the other voter may have been queried without an
/// answer.
#[test]
fn voter_waits_for_votes_of_other_set() {
    let (mut booth, _) = Booth::of(3, 3, Start::Recovering);
    let votes = other_set(20_000, false, true);
    let (at_ms, after) = (20_000, QUARANTINE_MS + QUARANTINE_MS / 8);
    let told = [format!("QuarantineExtended {} v2 true", at_ms + after)];
    assert_eq!(booth.hears_of(at_ms, "v2", &votes), told);
    assert_eq!(booth.hears_of(at_ms + 5, "v2", &votes), NOTHING);
    assert_eq!(booth.voter.quarantine(), Some(instant(at_ms + 5 + after)));
    // The same while it queries its peers.
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
    // The same if it was started as a new cluster.
    let (mut booth, _) = Booth::of(3, 3, Start::NewCluster);
    let began = booth.hears_of(1, "v2", &votes);
    assert!(began[0].starts_with("QuarantineBegan"), "{began:?}");
}

/// Grants in another set raise no fence in this one.
#[test]
fn recovered_fence_covers_grants_of_other_set() {
    let (mut booth, _) = Booth::of(3, 3, Start::Recovering);
    booth.hears_of(20_000, "v2", &other_set(20_000, false, true));
    let mut now = 20_000;
    while booth.voter.quarantine().is_some() {
        now += 1_000;
        booth.wakes(now);
    }
    let floor = EpochClock::limit(at(20_000), ms(2 * SKEW_MS));
    assert_eq!(booth.voter.fence(&key()), floor);
}

#[test]
fn voter_sets_are_queried_with_backoff() {
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

/// Rule 28. A voter that must forget while it waits for clocks waits for them again.
#[test]
fn restart_waits_again_for_clocks() {
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
