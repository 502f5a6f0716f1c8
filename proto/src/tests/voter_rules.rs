//! Rules 1 to 9, and what section 3 says of a voter's state.

use super::*;

const NOTHING: [&str; 0] = [];

fn tries(claim: Claim) -> Claim {
    let is_try = true;
    Claim { is_try, ..claim }
}

fn with_ttl(claim: Claim, ttl_ms: u64) -> Claim {
    let ttl = ms(ttl_ms);
    Claim { ttl, ..claim }
}

fn giving_back(claim: Claim) -> Claim {
    let since = claim.sent_at;
    Claim {
        votes_valid_since: since,
        ..claim
    }
}

#[test]
fn rule_1_a_holder_alone_lengthens_its_vote() {
    let mut booth = Booth::new();
    assert_eq!(booth.hears(100, &claim("a", 5, 3)), ["a Vote 3+10000"]);
    assert_eq!(booth.hears(400, &claim("a", 5, 303)), ["a Vote 303+10000"]);
    assert_eq!(booth.expires(), "10400");
}

#[test]
fn rule_1_an_old_sent_at_lengthens_nothing() {
    let mut booth = Booth::new();
    booth.hears(100, &claim("a", 5, 50));
    for sent_at in [50, 49, 1] {
        let answer = booth.hears(900, &claim("a", 5, sent_at));
        assert_eq!(answer, ["a Vote 50+10000"]);
    }
    assert_eq!(booth.expires(), "10100");
}

/// F2: the voter says for how long, and that never shrinks.
#[test]
fn rule_1_f2_a_ttl_that_shrinks_frees_no_vote() {
    let mut booth = Booth::new();
    booth.hears(0, &claim("a", 5, 1));
    let shrunk = with_ttl(claim("a", 5, 1_001), 1_000);
    // 9 s are left of the vote, and the voter says so.
    assert_eq!(booth.hears(1_000, &shrunk), ["a Vote 1001+9000"]);
    assert_eq!(
        booth.hears(2_000, &claim("b", 9, 1))[0],
        "b Wait a e5 unheard"
    );
    assert_eq!(booth.expires(), "10000");
}

#[test]
fn rule_1_a_ttl_over_max_ttl_is_cut_and_the_vote_says_so() {
    let mut booth = Booth::new();
    let greedy = with_ttl(claim("a", 5, 1), 99_000);
    assert_eq!(booth.hears(0, &greedy), ["a Vote 1+30000"]);
    let greedy = with_ttl(claim("a", 5, 2), 99_000);
    assert_eq!(booth.hears(1_000, &greedy), ["a Vote 2+30000"]);
    assert_eq!(booth.expires(), "31000");
}

/// F14: it may be one that reaches no quorum.
#[test]
fn rule_1_f14_a_vote_that_has_not_granted_is_never_lengthened_while_others_wait() {
    let mut booth = Booth::new();
    booth.hears(0, &claim("a", 5, 1));
    booth.hears(10, &claim("b", 9, 1));
    assert_eq!(
        booth.hears(5_000, &claim("a", 5, 5_001)),
        ["a Vote 1+10000"]
    );
    assert_eq!(booth.expires(), "10000");
    booth.hears(9_000, &claim("b", 9, 9_001));
    assert_eq!(booth.wakes(10_000), ["b Vote 9001+1250"]);
    // The fence has moved: `a` must claim anew, behind `b`.
    assert_eq!(booth.hears(10_001, &claim("a", 5, 10_001)), ["a Stale e5"]);
}

#[test]
fn rule_1_a_vote_that_has_granted_is_lengthened_though_others_wait() {
    let mut booth = Booth::new();
    booth.hears(0, &claim("a", 5, 1));
    booth.hears(10, &claim("b", 9, 1));
    let renewal = granted(claim("a", 5, 5_001));
    assert_eq!(booth.hears(5_000, &renewal), ["a Vote 5001+10000"]);
    assert_eq!(booth.expires(), "15000");
}

/// F6: `granted` sticks, whatever the send time it came with.
#[test]
fn rule_1_f6_granted_sticks_at_an_equal_or_older_sent_at() {
    for sent_at in [50, 7] {
        let mut booth = Booth::new();
        booth.hears(0, &claim("a", 5, 50));
        assert_eq!(
            booth.hears(1, &granted(claim("a", 5, sent_at))),
            ["a Vote 50+10000"]
        );
        assert_eq!(booth.hears(2, &claim("a", 5, 51)), ["a Vote 51+10000"]);
        assert_eq!(booth.hears(3, &claim("b", 9, 1)), ["b Wait a e5 yes"]);
        assert_eq!(booth.fence(), 5);
    }
}

#[test]
fn rule_2_a_vote_that_is_not_counted_goes_to_the_earlier_claim() {
    let mut booth = Booth::new();
    booth.hears(0, &claim("b", 9, 1));
    booth.hears(1, &claim("a", 5, 1));
    let answer = booth.hears(2, &giving_back(claim("b", 9, 2)));
    // A reservation of 250 ms, counted from when `a` was heard.
    assert_eq!(answer, ["a Vote 1+251", "b Wait a e5 no"]);
    // The fence has not moved: `b` still waits with its epoch.
    assert_eq!(booth.fence(), 0);
    assert_eq!(
        booth.hears_release(3, &release("a", false)),
        ["b Vote 2+251"]
    );
}

/// F11: a lost answer does not make the voter useless for the claim.
#[test]
fn rule_2_f11_a_claim_alone_gets_its_vote_again_with_a_sent_at_that_counts() {
    let mut booth = Booth::new();
    booth.hears(0, &claim("b", 9, 1));
    let answer = booth.hears(5, &giving_back(claim("b", 9, 6)));
    assert_eq!(answer, ["b Vote 6+250"]);
    // `votes_valid_since` not after the send time: a renewal like any other, though it names a
    // `votes_valid_since`.
    let since = instant(6);
    let repeat = Claim {
        votes_valid_since: since,
        ..claim("b", 9, 20)
    };
    assert_eq!(booth.hears(20, &repeat), ["b Vote 20+10000"]);
}

/// F19: the give-back crossed with the news that the claim is granted by other votes.
#[test]
fn rule_2_f19_a_claim_that_granted_meanwhile_is_voted_for_again_with_its_whole_ttl() {
    let mut booth = Booth::new();
    booth.hears(0, &claim("b", 9, 1));
    booth.hears(1, &claim("a", 5, 1));
    let answer = booth.hears(2, &granted(giving_back(claim("b", 9, 2))));
    assert_eq!(answer, ["b Vote 2+10000", "a Stale e9"]);
    assert_eq!(booth.fence(), 9);
}

#[test]
fn rule_3_a_claim_not_above_the_fence_is_stale_and_leaves_the_queue() {
    let mut booth = Booth::new();
    booth.hears(0, &claim("a", 5, 1));
    booth.hears_release(1, &release("a", true));
    assert_eq!(booth.hears(2, &claim("b", 5, 1)), ["b Stale e5"]);
    assert_eq!(booth.hears(2, &claim("b", 4, 1)), ["b Stale e5"]);
    assert_eq!(booth.hears(3, &claim("c", 6, 1)), ["c Vote 1+10000"]);
    assert_eq!(booth.hears(4, &claim("b", 5, 2)), ["b Stale e5"]);
    assert_eq!(booth.voter.waiters(), 0);
}

/// F17: what is granted is above no fence, and need not be.
#[test]
fn rule_3_f17_a_claim_that_has_granted_is_not_held_against_the_fence() {
    let mut booth = Booth::new();
    booth.hears(0, &claim("b", 9, 1));
    booth.hears_release(1, &release("b", true));
    assert_eq!(booth.hears(2, &claim("a", 5, 1)), ["a Stale e9"]);
    assert_eq!(
        booth.hears(3, &granted(claim("a", 5, 2))),
        ["a Vote 2+10000"]
    );
    assert_eq!(booth.fence(), 9);
}

#[test]
fn rule_4_a_free_voter_votes_for_the_whole_ttl() {
    let mut booth = Booth::new();
    let ask = with_ttl(claim("a", 1, 77), 2_000);
    assert_eq!(booth.hears(1_000, &ask), ["a Vote 77+2000"]);
    assert_eq!(booth.expires(), "3000");
    assert_eq!(booth.voter.slots(), 1);
}

#[test]
fn rule_5_those_who_wait_are_served_in_the_order_of_epoch_then_claim() {
    let mut booth = Booth::new();
    booth.hears(0, &claim("a", 1, 1));
    for (name, epoch) in [("e", 8), ("c", 7), ("d", 7), ("b", 6)] {
        let answer = booth.hears(1, &claim(name, epoch, 1));
        assert_eq!(answer[0], format!("{name} Wait a e1 no"));
    }
    let mut served = Vec::new();
    for holder in ["a", "b", "c", "d"] {
        served.extend(booth.hears_release(2, &release(holder, false)));
    }
    let reservation = |name| format!("{name} Vote 1+251");
    assert_eq!(served, ["b", "c", "d", "e"].map(reservation));
}

#[test]
fn rule_5_only_a_newer_sent_at_replaces_a_place_in_the_queue() {
    let mut booth = Booth::new();
    booth.hears(0, &claim("a", 1, 1));
    booth.hears(10, &claim("b", 6, 50));
    booth.hears(20, &with_ttl(claim("b", 6, 49), 200));
    booth.hears(20, &with_ttl(claim("b", 6, 50), 200));
    assert_eq!(booth.voter.waiters(), 1);
    // Heard at 10 with the send time 50; the reservation ends at 280.
    assert_eq!(
        booth.hears_release(30, &release("a", false)),
        ["b Vote 50+270"]
    );
}

#[test]
fn rule_5_granted_sticks_in_the_queue_and_comes_first() {
    let mut booth = Booth::new();
    booth.hears(0, &claim("a", 1, 1));
    booth.hears(1, &claim("b", 2, 1));
    booth.hears(1, &granted(claim("c", 9, 5)));
    booth.hears(2, &claim("c", 9, 4));
    let answer = booth.hears_release(3, &release("a", false));
    // The whole ttl, and rule 8 at once: nobody below it can win any more.
    assert_eq!(answer, ["c Vote 5+10002", "b Stale e9"]);
}

/// F12: a lost `Release` costs one `holder_probe_interval`, not a lease.
#[test]
fn rule_5_f12_a_holder_that_has_not_granted_is_asked_once_within_holder_probe_interval() {
    let mut booth = Booth::new();
    booth.hears(0, &claim("a", 1, 1));
    let first = booth.hears(10, &claim("b", 6, 1));
    assert_eq!(first, ["b Wait a e1 no", "a Vote 1+10000 ask"]);
    assert_eq!(booth.hears(60, &claim("c", 7, 1)), ["c Wait a e1 no"]);
    assert_eq!(booth.hears(99, &claim("b", 6, 2)), ["b Wait a e1 no"]);
    let again = booth.hears(110, &claim("b", 6, 3));
    assert_eq!(again, ["b Wait a e1 unheard", "a Vote 1+10000 ask"]);
}

#[test]
fn rule_5_a_holder_that_has_granted_is_asked_only_when_it_is_silent() {
    let mut booth = Booth::new();
    booth.hears(0, &granted(claim("a", 1, 1)));
    assert_eq!(booth.hears(99, &claim("b", 6, 1)), ["b Wait a e1 yes"]);
    let silent = booth.hears(100, &claim("b", 6, 2));
    assert_eq!(silent, ["b Wait a e1 silent", "a Vote 1+10000 ask"]);
    assert_eq!(booth.hears(150, &claim("b", 6, 3)), ["b Wait a e1 silent"]);
    booth.hears(160, &granted(claim("a", 1, 161)));
    assert_eq!(booth.hears(170, &claim("b", 6, 4)), ["b Wait a e1 yes"]);
}

/// Also within `holder_probe_interval`, and always with `probe`: the one `probe` before may have
/// been lost, and a granted holder answers to nothing else.
#[test]
fn rule_5_a_holder_behind_an_earlier_claim_is_always_asked_to_give_back() {
    let mut booth = Booth::new();
    booth.hears(0, &claim("c", 9, 1));
    let later = booth.hears(1, &claim("d", 10, 1));
    assert_eq!(later, ["d Wait c e9 no", "c Vote 1+10000 ask"]);
    for (sent_at, earlier) in [(1, "a"), (1, "b"), (2, "a")] {
        let answer = booth.hears(2, &claim(earlier, 5, sent_at));
        let wait = format!("{earlier} Wait c e9 no");
        assert_eq!(answer, [&wait, "c Vote 1+10000 back ask"]);
    }
    // Asked just now: a later claim is no reason to ask again, but the earlier one still waits.
    let later = booth.hears(3, &claim("d", 10, 2));
    assert_eq!(later, ["d Wait c e9 no", "c Vote 1+10000 back ask"]);
    booth.hears(4, &granted(claim("c", 9, 4)));
    assert_eq!(booth.hears(5, &claim("d", 10, 3)), ["d Wait c e9 yes"]);
}

#[test]
fn rule_5_a_holder_that_has_granted_is_never_asked_to_give_back() {
    let mut booth = Booth::new();
    booth.hears(0, &granted(claim("b", 9, 1)));
    // It is granted as well, by other votes: one of the two is over, and the voter cannot know
    // which.
    assert_eq!(
        booth.hears(1, &granted(claim("a", 5, 1))),
        ["a Wait b e9 yes"]
    );
    assert_eq!(
        booth.hears(2, &granted(claim("b", 9, 2))),
        ["b Vote 2+10000"]
    );
}

/// F8: claims of one epoch are in order too, or they would wait for each other for ever.
#[test]
fn rule_5_f8_equal_epochs_are_ordered_by_claim() {
    let mut booth = Booth::new();
    booth.hears(0, &claim("b", 5, 1));
    let answer = booth.hears(1, &claim("a", 5, 1));
    assert_eq!(answer, ["a Wait b e5 no", "b Vote 1+10000 back ask"]);
    let answer = booth.hears(2, &claim("c", 5, 1));
    assert_eq!(answer[0], "c Wait b e5 no");
    // The fence compares epochs alone: owners of a key never share one.
    let news = booth.hears(3, &granted(claim("b", 5, 3)));
    assert_eq!(news, ["b Vote 3+10000", "a Stale e5", "c Stale e5"]);
}

#[test]
fn rule_6_a_release_raises_the_fence_if_either_side_knows_that_it_granted() {
    for (told, said, fence) in [(false, false, 0), (true, false, 5), (false, true, 5)] {
        let mut booth = Booth::new();
        booth.hears(
            0,
            &Claim {
                granted: told,
                ..claim("a", 5, 1)
            },
        );
        assert_eq!(booth.hears_release(1, &release("a", said)), NOTHING);
        assert_eq!(booth.fence(), fence, "{told} {said}");
        assert_eq!(booth.voter.slots(), 0);
        assert_eq!(booth.expires(), "never");
    }
}

/// F20: it would throw out earlier claims for nothing.
#[test]
fn rule_6_f20_a_claim_that_never_granted_leaves_the_fence_where_it_is() {
    let mut booth = Booth::new();
    booth.hears(0, &claim("b", 9, 1));
    booth.hears(1, &claim("a", 5, 1));
    assert_eq!(
        booth.hears_release(2, &release("b", false)),
        ["a Vote 1+251"]
    );
}

#[test]
fn rule_6_a_waiter_that_releases_leaves_the_queue_and_the_vote_stays() {
    let mut booth = Booth::new();
    booth.hears(0, &claim("a", 1, 1));
    booth.hears(1, &claim("b", 6, 1));
    booth.hears(1, &claim("c", 7, 1));
    assert_eq!(booth.hears_release(2, &release("b", true)), NOTHING);
    // By claim, not by key or node: another claim of the holder's node releases nothing.
    let other = ClaimId { seq: 2, ..id("a") };
    let other = Release {
        claim: other,
        ..release("a", true)
    };
    assert_eq!(booth.hears_release(2, &other), NOTHING);
    assert_eq!(booth.hears(3, &claim("a", 1, 2)), ["a Vote 1+10000"]);
    assert_eq!(
        booth.hears_release(4, &release("a", true)),
        ["c Vote 1+253"]
    );
}

#[test]
fn rule_7_an_expired_vote_raises_the_fence_and_goes_to_the_head() {
    let mut booth = Booth::new();
    booth.hears(0, &claim("b", 6, 1));
    booth.hears(9_000, &claim("a", 5, 1));
    booth.hears(9_000, &claim("c", 7, 1));
    assert_eq!(booth.wakes(9_999), NOTHING);
    assert_eq!(booth.wakes(10_000), ["a Stale e6", "c Vote 1+1250"]);
    assert_eq!(booth.fence(), 6);
    assert_eq!(booth.expires(), "10250");
}

/// The timer may be late: a message that comes first finds the vote expired all the same.
#[test]
fn rule_7_comes_before_any_message() {
    let mut booth = Booth::new();
    booth.hears(0, &claim("a", 5, 1));
    assert_eq!(booth.hears(10_000, &claim("a", 5, 2)), ["a Stale e5"]);

    let mut booth = Booth::new();
    booth.hears(0, &claim("a", 5, 1));
    booth.hears(9_000, &claim("b", 6, 1));
    assert_eq!(
        booth.hears_release(10_000, &release("a", false)),
        ["b Vote 1+1250"]
    );
    assert_eq!(booth.fence(), 5);
}

/// F10: dropped, not skipped, so that nobody waits behind one that is gone.
#[test]
fn rule_7_f10_a_waiter_not_heard_for_its_ttl_is_dropped() {
    let mut booth = Booth::new();
    booth.hears(0, &granted(claim("a", 1, 1)));
    booth.hears(0, &with_ttl(claim("b", 6, 1), 2_000));
    booth.hears(1_999, &granted(claim("a", 1, 2)));
    assert_eq!(booth.voter.waiters(), 1);
    booth.hears(2_000, &granted(claim("a", 1, 3)));
    assert_eq!(booth.voter.waiters(), 0);
    booth.hears(2_000, &with_ttl(claim("b", 6, 2), 2_000));
    booth.hears(2_001, &claim("c", 7, 1));
    // `b` is due to leave at the very moment at which its turn would come.
    assert_eq!(
        booth.hears_release(4_000, &release("a", true)),
        ["c Vote 1+2249"]
    );
    assert_eq!(booth.voter.waiters(), 0);
}

/// Also where no message comes, and the timer alone ends the vote.
#[test]
fn rule_9_a_waiter_that_is_gone_is_not_voted_for_when_the_vote_expires() {
    let mut booth = Booth::new();
    booth.hears(0, &claim("a", 1, 1));
    booth.hears(1, &with_ttl(claim("b", 6, 1), 9_999));
    booth.hears(2, &claim("c", 7, 1));
    assert_eq!(booth.wakes(10_000), ["c Vote 1+10248"]);
    assert_eq!(booth.voter.waiters(), 0);
}

/// Gossip may be wrong: it shortens the stay of a waiter, and nothing else (M4).
#[test]
fn rule_7_a_waiter_that_gossip_calls_dead_is_dropped_after_half_its_ttl() {
    let mut booth = Booth::new();
    booth.hears(0, &granted(claim("a", 1, 1)));
    booth.hears(0, &claim("b", 6, 1));
    booth
        .voter
        .handle_view(&view(&[("a", false), ("b", false)]));
    booth.hears(4_999, &granted(claim("a", 1, 2)));
    assert_eq!(booth.voter.waiters(), 1);
    booth.hears(5_000, &granted(claim("a", 1, 3)));
    assert_eq!(booth.voter.waiters(), 0);
    // The holder is "dead" as well, and keeps its vote.
    assert_eq!(booth.expires(), "15000");
    assert_eq!(
        booth.hears(5_200, &claim("c", 7, 1))[0],
        "c Wait a e1 silent"
    );
}

#[test]
fn rule_8_those_who_can_no_longer_win_are_told_and_so_are_tries() {
    let mut booth = Booth::new();
    booth.hears(0, &claim("b", 6, 1));
    booth.hears(1, &claim("a", 5, 1));
    booth.hears(1, &tries(claim("c", 7, 1)));
    booth.hears(1, &claim("d", 8, 1));
    let news = booth.hears(2, &granted(claim("b", 6, 2)));
    assert_eq!(news, ["b Vote 2+10000", "a Stale e6", "c Wait b e6 yes"]);
    assert_eq!(booth.voter.waiters(), 1);
    assert_eq!(booth.fence(), 6);
    // A try that is granted by other votes is no mere waiter, and stays.
    booth.hears(3, &granted(tries(claim("e", 9, 1))));
    booth.hears(4, &granted(claim("b", 6, 3)));
    assert_eq!(booth.voter.waiters(), 2);
}

/// A claim that is known to are granted may be long dead when its turn comes; then a `try` must not
/// take it for the owner (F13).
#[test]
fn rule_8_f13_a_winner_that_was_not_heard_lately_is_called_silent() {
    let mut booth = Booth::new();
    booth.hears(0, &claim("a", 1, 1));
    booth.hears(0, &granted(claim("b", 6, 1)));
    booth.hears(150, &tries(claim("c", 7, 1)));
    let answer = booth.hears_release(200, &release("a", false));
    assert_eq!(answer, ["b Vote 1+10200", "c Wait b e6 silent"]);
}

#[test]
fn rule_9_a_vote_unasked_is_a_reservation_and_granted_makes_a_lease_of_it() {
    let mut booth = Booth::new();
    booth.hears(0, &claim("a", 1, 1));
    booth.hears(100, &claim("b", 6, 40));
    booth.hears(100, &with_ttl(claim("c", 7, 1), 200));
    assert_eq!(
        booth.hears_release(150, &release("a", true)),
        ["b Vote 40+300"]
    );
    assert_eq!(booth.expires(), "400");
    assert_eq!(
        booth.hears(160, &granted(claim("b", 6, 60))),
        ["b Vote 60+10000"]
    );
    assert_eq!(booth.expires(), "10160");
    booth.hears(200, &with_ttl(claim("c", 7, 2), 200));
    // Never longer than what was asked for.
    assert_eq!(
        booth.hears_release(210, &release("b", true)),
        ["c Vote 2+210"]
    );
    assert_eq!(booth.expires(), "410");
}

/// F9: a dead waiter costs those behind it a reservation.
#[test]
fn rule_9_f9_a_reservation_that_nobody_takes_is_over_soon() {
    let mut booth = Booth::new();
    booth.hears(0, &claim("a", 1, 1));
    booth.hears(1, &claim("b", 6, 1));
    booth.hears(1, &claim("c", 7, 1));
    booth.hears_release(2, &release("a", true));
    assert_eq!(booth.wakes(251), NOTHING);
    assert_eq!(booth.wakes(252), ["c Vote 1+501"]);
    assert_eq!(booth.fence(), 6);
}

#[test]
fn a_queue_is_kept_only_while_the_vote_is_out() {
    let mut booth = Booth::new();
    booth.hears(0, &claim("a", 1, 1));
    booth.hears(1, &claim("b", 6, 1));
    booth.hears_release(2, &release("a", false));
    booth.hears_release(3, &release("b", false));
    assert_eq!((booth.voter.slots(), booth.voter.waiters()), (0, 0));
}

/// F15: a floor for each of 4,096 hashes, not one for all keys.
#[test]
fn a_dropped_slot_leaves_its_fence_in_the_floor_of_its_hash() {
    let mut booth = Booth::new();
    booth.hears(0, &claim("a", 50, 1));
    booth.hears_release(1, &release("a", true));
    assert_eq!(booth.fence(), 50);
    let floors = |booth: &Booth| {
        let keys = (0..1_000).map(|n| Key::new(format!("other/{n}")).unwrap());
        keys.filter(|key| booth.voter.fence(key) > Epoch::ZERO)
            .count()
    };
    assert!(floors(&booth) < 5, "{}", floors(&booth));
}

#[test]
fn a_floor_that_keys_share_is_not_lowered_by_the_lower_fence() {
    let floors = 1;
    let mut booth = Booth::with(VoterLimits {
        floors,
        ..VoterLimits::default()
    });
    booth.hears(0, &claim("a", 5, 1));
    let other = Key::new("l").unwrap();
    let later = Claim {
        key: other.clone(),
        ..claim("b", 50, 1)
    };
    booth.hears(1, &later);
    let over = Release {
        key: other,
        ..release("b", true)
    };
    booth.hears_release(2, &over);
    booth.hears_release(3, &release("a", true));
    assert_eq!(booth.fence(), 50);
}

#[test]
fn a_voter_keeps_no_more_than_its_limits() {
    let mut booth = Booth::with(VoterLimits {
        slots_max: 2,
        waiters_max: 2,
        floors: 16,
    });
    let on = |key: &str, claim| Claim {
        key: Key::new(key).unwrap(),
        ..claim
    };
    booth.hears(0, &claim("a", 1, 1));
    booth.hears(0, &on("l", claim("a", 1, 1)));
    let over = on("m", claim("a", 1, 1));
    assert_eq!(booth.hears(0, &over), ["a Refuse Limit"]);
    booth.hears(1, &claim("b", 2, 1));
    booth.hears(1, &claim("c", 3, 1));
    assert_eq!(booth.hears(1, &claim("d", 4, 1)), ["d Refuse Limit"]);
    // Those who are in may stay.
    assert_eq!(booth.hears(2, &claim("c", 3, 2)), ["c Wait a e1 no"]);
    assert_eq!(booth.hears(2, &claim("a", 1, 2)), ["a Vote 1+10000"]);
    booth.hears_release(3, &release("b", false));
    assert_eq!(booth.hears(4, &claim("d", 4, 2))[0], "d Wait a e1 no");
}

#[test]
fn a_node_votes_only_for_the_keys_that_the_voter_set_gives_it() {
    let (mut booth, _) = Booth::of(5, 3, Start::Recovering);
    let keys = (0..50).map(|n| Key::new(format!("k{n}")).unwrap());
    let voter_set = voter_set(5, 3);
    for key in keys {
        let is_voter = voter_set.voters_for(&key).contains(&node("v1"));
        let answer = booth.hears(
            0,
            &Claim {
                key,
                ..claim("a", 1, 1)
            },
        );
        let reason = if is_voter { "Quarantine" } else { "NotAVoter" };
        assert_eq!(answer, [format!("a Refuse {reason}")]);
    }
}

pub(super) fn view(peers: &[(&str, bool)]) -> View {
    let peers = peers.iter().map(|(name, alive)| {
        let peer = crate::view::Peer {
            addr: ([127, 0, 0, 1], 1).into(),
            incarnation: Incarnation::new(1),
            alive: *alive,
        };
        (node(name), peer)
    });
    View {
        peers: peers.collect(),
    }
}
