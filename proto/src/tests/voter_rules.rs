//! Rules 1 to 9 and the state of a voter (section 3).

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

/// Rule 1.
#[test]
fn sole_claim_extends_its_vote() {
    let mut booth = Booth::new();
    assert_eq!(booth.hears(100, &claim("a", 5, 3)), ["a Vote 3+10000"]);
    assert_eq!(booth.hears(400, &claim("a", 5, 303)), ["a Vote 303+10000"]);
    assert_eq!(booth.expires(), "10400");
}

/// Rule 1.
#[test]
fn old_send_time_extends_nothing() {
    let mut booth = Booth::new();
    booth.hears(100, &claim("a", 5, 50));
    for sent_at in [50, 49, 1] {
        let answer = booth.hears(900, &claim("a", 5, sent_at));
        assert_eq!(answer, ["a Vote 50+10000"]);
    }
    assert_eq!(booth.expires(), "10100");
}

/// Rule 1. The end of a vote never moves back, and its `ttl` shows that.
#[test]
fn shorter_ttl_does_not_shorten_vote() {
    let mut booth = Booth::new();
    booth.hears(0, &claim("a", 5, 1));
    let shrunk = with_ttl(claim("a", 5, 1_001), 1_000);
    // The vote has 9 s left, and its `ttl` shows that.
    assert_eq!(booth.hears(1_000, &shrunk), ["a Vote 1001+9000"]);
    assert_eq!(
        booth.hears(2_000, &claim("b", 9, 1))[0],
        "b Wait a e5 unheard"
    );
    assert_eq!(booth.expires(), "10000");
}

/// Rule 1.
#[test]
fn ttl_above_max_ttl_is_capped_in_vote() {
    let mut booth = Booth::new();
    let greedy = with_ttl(claim("a", 5, 1), 99_000);
    assert_eq!(booth.hears(0, &greedy), ["a Vote 1+30000"]);
    let greedy = with_ttl(claim("a", 5, 2), 99_000);
    assert_eq!(booth.hears(1_000, &greedy), ["a Vote 2+30000"]);
    assert_eq!(booth.expires(), "31000");
}

/// Rule 1. Its claim may be one that reaches no quorum.
#[test]
fn ungranted_vote_is_not_extended_while_others_wait() {
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
    // The fence has moved, so `a` must claim again, behind `b`.
    assert_eq!(booth.hears(10_001, &claim("a", 5, 10_001)), ["a Stale e5"]);
}

/// Rule 1.
#[test]
fn granted_vote_is_extended_while_others_wait() {
    let mut booth = Booth::new();
    booth.hears(0, &claim("a", 5, 1));
    booth.hears(10, &claim("b", 9, 1));
    let renewal = granted(claim("a", 5, 5_001));
    assert_eq!(booth.hears(5_000, &renewal), ["a Vote 5001+10000"]);
    assert_eq!(booth.expires(), "15000");
}

/// Rule 1. `granted` is kept, whatever the send time of its message.
#[test]
fn granted_persists_at_equal_or_older_send_time() {
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

/// Rule 2.
#[test]
fn uncounted_vote_goes_to_earlier_claim() {
    let mut booth = Booth::new();
    booth.hears(0, &claim("b", 9, 1));
    booth.hears(1, &claim("a", 5, 1));
    let answer = booth.hears(2, &giving_back(claim("b", 9, 2)));
    // The reservation lasts 250 ms from now, and 251 ms from the receipt of `a`.
    assert_eq!(answer, ["a Vote 1+251", "b Wait a e5 no"]);
    // The fence has not moved, so `b` still waits with its epoch.
    assert_eq!(booth.fence(), 0);
    assert_eq!(
        booth.hears_release(3, &release("a", false)),
        ["b Vote 2+251"]
    );
}

/// Rule 2. The new vote has a send time that counts. The voter thus stays useful after a lost
/// reply.
#[test]
fn sole_claim_that_yields_is_voted_again() {
    let mut booth = Booth::new();
    booth.hears(0, &claim("b", 9, 1));
    let answer = booth.hears(5, &giving_back(claim("b", 9, 6)));
    assert_eq!(answer, ["b Vote 6+250"]);
    // `votes_valid_since` is not after the vote's send time, so this is a plain renewal.
    let since = instant(6);
    let repeat = Claim {
        votes_valid_since: since,
        ..claim("b", 9, 20)
    };
    assert_eq!(booth.hears(20, &repeat), ["b Vote 20+10000"]);
}

/// Rule 2. The claim was granted by other votes when it gives this one back. The new vote lasts the
/// whole ttl.
#[test]
fn yielded_vote_returns_if_granted_meanwhile() {
    let mut booth = Booth::new();
    booth.hears(0, &claim("b", 9, 1));
    booth.hears(1, &claim("a", 5, 1));
    let answer = booth.hears(2, &granted(giving_back(claim("b", 9, 2))));
    assert_eq!(answer, ["b Vote 2+10000", "a Stale e9"]);
    assert_eq!(booth.fence(), 9);
}

/// Rule 3.
#[test]
fn claim_at_or_below_fence_is_stale() {
    let mut booth = Booth::new();
    booth.hears(0, &claim("a", 5, 1));
    booth.hears_release(1, &release("a", true));
    assert_eq!(booth.hears(2, &claim("b", 5, 1)), ["b Stale e5"]);
    assert_eq!(booth.hears(2, &claim("b", 4, 1)), ["b Stale e5"]);
    assert_eq!(booth.hears(3, &claim("c", 6, 1)), ["c Vote 1+10000"]);
    assert_eq!(booth.hears(4, &claim("b", 5, 2)), ["b Stale e5"]);
    assert_eq!(booth.voter.waiters(), 0);
}

/// Rule 3. A granted claim need not be above the fence.
#[test]
fn granted_claim_below_fence_is_voted_for() {
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

/// Rule 4.
#[test]
fn free_voter_votes_for_whole_ttl() {
    let mut booth = Booth::new();
    let ask = with_ttl(claim("a", 1, 77), 2_000);
    assert_eq!(booth.hears(1_000, &ask), ["a Vote 77+2000"]);
    assert_eq!(booth.expires(), "3000");
    assert_eq!(booth.voter.slots(), 1);
}

/// Rule 5.
#[test]
fn waiters_are_served_by_epoch_then_claim() {
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

/// Rule 5.
#[test]
fn only_newer_send_time_replaces_queue_entry() {
    let mut booth = Booth::new();
    booth.hears(0, &claim("a", 1, 1));
    booth.hears(10, &claim("b", 6, 50));
    booth.hears(20, &with_ttl(claim("b", 6, 49), 200));
    booth.hears(20, &with_ttl(claim("b", 6, 50), 200));
    assert_eq!(booth.voter.waiters(), 1);
    // Received at 10 with the send time 50. The reservation ends at 280.
    assert_eq!(
        booth.hears_release(30, &release("a", false)),
        ["b Vote 50+270"]
    );
}

/// Rule 5.
#[test]
fn granted_persists_in_queue_and_ranks_first() {
    let mut booth = Booth::new();
    booth.hears(0, &claim("a", 1, 1));
    booth.hears(1, &claim("b", 2, 1));
    booth.hears(1, &granted(claim("c", 9, 5)));
    booth.hears(2, &claim("c", 9, 4));
    let answer = booth.hears_release(3, &release("a", false));
    // The vote lasts the whole ttl, and rule 8 applies at once: no lower claim can be granted.
    assert_eq!(answer, ["c Vote 5+10002", "b Stale e9"]);
}

/// Rule 5. A lost `Release` thus costs one `holder_probe_interval`, not a lease.
#[test]
fn ungranted_holder_is_probed_once_per_interval() {
    let mut booth = Booth::new();
    booth.hears(0, &claim("a", 1, 1));
    let first = booth.hears(10, &claim("b", 6, 1));
    assert_eq!(first, ["b Wait a e1 no", "a Vote 1+10000 ask"]);
    assert_eq!(booth.hears(60, &claim("c", 7, 1)), ["c Wait a e1 no"]);
    assert_eq!(booth.hears(99, &claim("b", 6, 2)), ["b Wait a e1 no"]);
    let again = booth.hears(110, &claim("b", 6, 3));
    assert_eq!(again, ["b Wait a e1 unheard", "a Vote 1+10000 ask"]);
}

/// Rule 5.
#[test]
fn granted_holder_is_probed_only_when_silent() {
    let mut booth = Booth::new();
    booth.hears(0, &granted(claim("a", 1, 1)));
    assert_eq!(booth.hears(99, &claim("b", 6, 1)), ["b Wait a e1 yes"]);
    let silent = booth.hears(100, &claim("b", 6, 2));
    assert_eq!(silent, ["b Wait a e1 silent", "a Vote 1+10000 ask"]);
    assert_eq!(booth.hears(150, &claim("b", 6, 3)), ["b Wait a e1 silent"]);
    booth.hears(160, &granted(claim("a", 1, 161)));
    assert_eq!(booth.hears(170, &claim("b", 6, 4)), ["b Wait a e1 yes"]);
}

/// Rule 5. The request is repeated within `holder_probe_interval`, since the one before may have
/// been lost. It includes `probe`, the only flag to which a granted holder replies.
#[test]
fn holder_behind_earlier_claim_is_requested_to_yield() {
    let mut booth = Booth::new();
    booth.hears(0, &claim("c", 9, 1));
    let later = booth.hears(1, &claim("d", 10, 1));
    assert_eq!(later, ["d Wait c e9 no", "c Vote 1+10000 ask"]);
    for (sent_at, earlier) in [(1, "a"), (1, "b"), (2, "a")] {
        let answer = booth.hears(2, &claim(earlier, 5, sent_at));
        let wait = format!("{earlier} Wait c e9 no");
        assert_eq!(answer, [&wait, "c Vote 1+10000 back ask"]);
    }
    // A later claim alone would not repeat the request so soon, but the earlier one still waits.
    let later = booth.hears(3, &claim("d", 10, 2));
    assert_eq!(later, ["d Wait c e9 no", "c Vote 1+10000 back ask"]);
    booth.hears(4, &granted(claim("c", 9, 4)));
    assert_eq!(booth.hears(5, &claim("d", 10, 3)), ["d Wait c e9 yes"]);
}

/// Rule 5.
#[test]
fn granted_holder_is_never_requested_to_yield() {
    let mut booth = Booth::new();
    booth.hears(0, &granted(claim("b", 9, 1)));
    // `a` was granted too, by other votes. One of the two leases is over, and the voter cannot know
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

/// Rule 5. Without an order, claims of one epoch would wait for each other for ever.
#[test]
fn equal_epochs_are_ordered_by_claim() {
    let mut booth = Booth::new();
    booth.hears(0, &claim("b", 5, 1));
    let answer = booth.hears(1, &claim("a", 5, 1));
    assert_eq!(answer, ["a Wait b e5 no", "b Vote 1+10000 back ask"]);
    let answer = booth.hears(2, &claim("c", 5, 1));
    assert_eq!(answer[0], "c Wait b e5 no");
    // The fence compares epochs alone, so two grants of a key never share one.
    let news = booth.hears(3, &granted(claim("b", 5, 3)));
    assert_eq!(news, ["b Vote 3+10000", "a Stale e5", "c Stale e5"]);
}

/// Rule 6.
#[test]
fn release_raises_fence_if_either_side_reports_grant() {
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

/// Rule 6. A higher fence would reject earlier claims needlessly.
#[test]
fn release_of_ungranted_claim_keeps_fence() {
    let mut booth = Booth::new();
    booth.hears(0, &claim("b", 9, 1));
    booth.hears(1, &claim("a", 5, 1));
    assert_eq!(
        booth.hears_release(2, &release("b", false)),
        ["a Vote 1+251"]
    );
}

/// Rule 6.
#[test]
fn release_by_waiter_leaves_vote_in_place() {
    let mut booth = Booth::new();
    booth.hears(0, &claim("a", 1, 1));
    booth.hears(1, &claim("b", 6, 1));
    booth.hears(1, &claim("c", 7, 1));
    assert_eq!(booth.hears_release(2, &release("b", true)), NOTHING);
    // A release names a claim: another claim of the holder's node releases nothing.
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

/// Rule 7.
#[test]
fn expired_vote_raises_fence_and_serves_head() {
    let mut booth = Booth::new();
    booth.hears(0, &claim("b", 6, 1));
    booth.hears(9_000, &claim("a", 5, 1));
    booth.hears(9_000, &claim("c", 7, 1));
    assert_eq!(booth.wakes(9_999), NOTHING);
    assert_eq!(booth.wakes(10_000), ["a Stale e6", "c Vote 1+1250"]);
    assert_eq!(booth.fence(), 6);
    assert_eq!(booth.expires(), "10250");
}

/// Rule 7. The timer may be late: a message that arrives first also finds the vote expired.
#[test]
fn expiry_precedes_any_message() {
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

/// Rule 7. It is dropped, not skipped, so that no claim waits behind it.
#[test]
fn waiter_not_received_for_ttl_is_dropped() {
    let mut booth = Booth::new();
    booth.hears(0, &granted(claim("a", 1, 1)));
    booth.hears(0, &with_ttl(claim("b", 6, 1), 2_000));
    booth.hears(1_999, &granted(claim("a", 1, 2)));
    assert_eq!(booth.voter.waiters(), 1);
    booth.hears(2_000, &granted(claim("a", 1, 3)));
    assert_eq!(booth.voter.waiters(), 0);
    booth.hears(2_000, &with_ttl(claim("b", 6, 2), 2_000));
    booth.hears(2_001, &claim("c", 7, 1));
    // `b` is dropped at the very instant of its turn.
    assert_eq!(
        booth.hears_release(4_000, &release("a", true)),
        ["c Vote 1+2249"]
    );
    assert_eq!(booth.voter.waiters(), 0);
}

/// Rule 9. The same if no message arrives and the timer alone ends the vote.
#[test]
fn expired_waiter_gets_no_vote_on_timeout() {
    let mut booth = Booth::new();
    booth.hears(0, &claim("a", 1, 1));
    booth.hears(1, &with_ttl(claim("b", 6, 1), 9_999));
    booth.hears(2, &claim("c", 7, 1));
    assert_eq!(booth.wakes(10_000), ["c Vote 1+10248"]);
    assert_eq!(booth.voter.waiters(), 0);
}

/// Rule 7 and M4. Gossip may be wrong: it only shortens the stay of a waiter.
#[test]
fn waiter_dead_in_gossip_leaves_after_half_ttl() {
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
    // The holder is dead in gossip as well, and keeps its vote.
    assert_eq!(booth.expires(), "15000");
    assert_eq!(
        booth.hears(5_200, &claim("c", 7, 1))[0],
        "c Wait a e1 silent"
    );
}

/// Rule 8.
#[test]
fn grant_notifies_stale_waiters_and_tries() {
    let mut booth = Booth::new();
    booth.hears(0, &claim("b", 6, 1));
    booth.hears(1, &claim("a", 5, 1));
    booth.hears(1, &tries(claim("c", 7, 1)));
    booth.hears(1, &claim("d", 8, 1));
    let news = booth.hears(2, &granted(claim("b", 6, 2)));
    assert_eq!(news, ["b Vote 2+10000", "a Stale e6", "c Wait b e6 yes"]);
    assert_eq!(booth.voter.waiters(), 1);
    assert_eq!(booth.fence(), 6);
    // A `try` that other votes granted is no longer a mere waiter, and stays.
    booth.hears(3, &granted(tries(claim("e", 9, 1))));
    booth.hears(4, &granted(claim("b", 6, 3)));
    assert_eq!(booth.voter.waiters(), 2);
}

/// Rule 8. A claim known as granted may be long dead at its turn. A `try` must not take it for a
/// live holder then.
#[test]
fn granted_waiter_not_received_lately_is_silent() {
    let mut booth = Booth::new();
    booth.hears(0, &claim("a", 1, 1));
    booth.hears(0, &granted(claim("b", 6, 1)));
    booth.hears(150, &tries(claim("c", 7, 1)));
    let answer = booth.hears_release(200, &release("a", false));
    assert_eq!(answer, ["b Vote 1+10200", "c Wait b e6 silent"]);
}

/// Rule 9.
#[test]
fn reservation_becomes_lease_once_granted() {
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
    // A reservation is never longer than the requested ttl.
    assert_eq!(
        booth.hears_release(210, &release("b", true)),
        ["c Vote 2+210"]
    );
    assert_eq!(booth.expires(), "410");
}

/// Rule 9. A dead waiter costs those behind it one reservation.
#[test]
fn unused_reservation_expires_soon() {
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
fn slot_and_queue_end_with_last_release() {
    let mut booth = Booth::new();
    booth.hears(0, &claim("a", 1, 1));
    booth.hears(1, &claim("b", 6, 1));
    booth.hears_release(2, &release("a", false));
    booth.hears_release(3, &release("b", false));
    assert_eq!((booth.voter.slots(), booth.voter.waiters()), (0, 0));
}

/// There are 4,096 fence buckets, picked by hash, not one for all keys.
#[test]
fn dropped_slot_leaves_fence_in_its_bucket() {
    let mut booth = Booth::new();
    booth.hears(0, &claim("a", 50, 1));
    booth.hears_release(1, &release("a", true));
    assert_eq!(booth.fence(), 50);
    let fence_buckets = |booth: &Booth| {
        let keys = (0..1_000).map(|n| Key::new(format!("other/{n}")).unwrap());
        keys.filter(|key| booth.voter.fence(key) > Epoch::ZERO)
            .count()
    };
    assert!(fence_buckets(&booth) < 5, "{}", fence_buckets(&booth));
}

#[test]
fn shared_fence_bucket_keeps_highest_fence() {
    let fence_buckets = 1;
    let mut booth = Booth::with(VoterLimits {
        fence_buckets,
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
fn voter_keeps_no_more_than_its_limits() {
    let mut booth = Booth::with(VoterLimits {
        slots_max: 2,
        waiters_max: 2,
        fence_buckets: 16,
        handover_votes_max: 16,
        marks_max: 16,
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
    // Claims that have a place keep it.
    assert_eq!(booth.hears(2, &claim("c", 3, 2)), ["c Wait a e1 no"]);
    assert_eq!(booth.hears(2, &claim("a", 1, 2)), ["a Vote 1+10000"]);
    booth.hears_release(3, &release("b", false));
    assert_eq!(booth.hears(4, &claim("d", 4, 2))[0], "d Wait a e1 no");
}

#[test]
fn node_votes_only_for_its_assigned_keys() {
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
        let peer = crate::event::Peer {
            addr: ([127, 0, 0, 1], 1).into(),
            incarnation: Incarnation::new(1),
            alive: *alive,
            version: Some(crate::PROTOCOL_VERSION),
        };
        (node(name), peer)
    });
    View {
        peers: peers.collect(),
    }
}
