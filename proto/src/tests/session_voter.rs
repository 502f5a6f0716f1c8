//! Rules 18, 19 and 21: a voter's sessions.

use super::super::voter_keeps::TOLD_MAX;
use super::*;

const NOTHING: [&str; 0] = [];

/// Claim `seq` of node `a` on a key of its own, which is granted.
fn numbered(seq: u64, sent_at_ms: u64) -> Claim {
    Claim {
        key: Key::new(format!("k{seq}")).unwrap(),
        claim: own(seq),
        ..joining(claim("a", seq + 1, sent_at_ms))
    }
}

/// A voter whose vote for node `a` is covered from 1,000 on by a session that expires at 11,000.
fn covering() -> Booth {
    let mut booth = Booth::new();
    booth.hears(0, &claim("a", 5, 0));
    let vote = booth.hears(1_000, &joining(claim("a", 5, 1_000)));
    assert_eq!(vote, ["a Vote 1000+10000 by S1"]);
    booth
}

/// For how long the vote still runs; `None` where there is none.
fn remains(booth: &Booth, at_ms: u64) -> Option<String> {
    let vote = booth.voter.report(at(at_ms), 0, &key()).vote;
    vote.map(|vote| span(vote.remaining))
}

#[test]
fn rule_18_a_claim_that_has_granted_is_covered_if_it_asks_for_that() {
    let mut booth = Booth::new();
    assert_eq!(booth.hears(0, &claim("a", 5, 0)), ["a Vote 0+10000"]);
    let only_says_join = Claim {
        join: true,
        ..claim("a", 5, 1_000)
    };
    let only_says_granted = granted(claim("a", 5, 2_000));
    assert_eq!(booth.hears(1_000, &only_says_join), ["a Vote 1000+10000"]);
    assert_eq!(
        booth.hears(2_000, &only_says_granted),
        ["a Vote 2000+10000"]
    );
    assert_eq!(booth.voter.sessions(), 0);
    let joins = joining(claim("a", 5, 3_000));
    assert_eq!(booth.hears(3_000, &joins), ["a Vote 3000+10000 by S1"]);
    // Every later vote says so, asked for or not.
    let again = granted(claim("a", 5, 4_000));
    assert_eq!(booth.hears(4_000, &again), ["a Vote 4000+10000 by S1"]);
}

/// Votes given again: the voter was restarted.
#[test]
fn rule_18_a_vote_that_is_new_is_covered_at_once() {
    let mut booth = Booth::new();
    let vote = booth.hears(1_000, &joining(claim("a", 5, 1_000)));
    assert_eq!(vote, ["a Vote 1000+10000 by S1"]);
}

#[test]
fn rule_18_a_vote_that_is_new_is_covered_only_if_its_claim_has_granted_and_asks_for_that() {
    for only_says_granted in [false, true] {
        let mut booth = Booth::new();
        let claim = Claim {
            granted: only_says_granted,
            join: !only_says_granted,
            ..claim("a", 5, 1_000)
        };
        assert_eq!(booth.hears(1_000, &claim), ["a Vote 1000+10000"]);
        assert_eq!(booth.voter.sessions(), 0);
    }
}

/// Nobody has woken the voter since.
#[test]
fn rule_18_a_session_that_ends_now_covers_nothing_any_more() {
    let mut booth = covering();
    booth.hears(9_000, &granted(claim("a", 5, 9_000)));
    let mut other = booth.voter.clone();
    let again = booth.hears(11_000, &granted(claim("a", 5, 11_000)));
    assert_eq!(again, ["a Vote 11000+10000"]);
    let mut out = Effects::default();
    other.handle_claim(at(11_000), &numbered(2, 11_000), &mut out);
    assert_eq!(lines(&out), ["a Vote 11000+10000 by S2"]);
}

#[test]
fn rule_18_a_join_counts_only_with_a_newer_sent_at() {
    let mut booth = covering();
    // Its own vote outlives the session.
    booth.hears(9_000, &granted(claim("a", 5, 9_000)));
    booth.wakes(11_000);
    assert_eq!(booth.voter.sessions(), 0);
    for old in [1_000, 9_000] {
        let doubled = joining(claim("a", 5, old));
        assert_eq!(booth.hears(11_500, &doubled), ["a Vote 9000+10000"]);
    }
    let newer = joining(claim("a", 5, 11_600));
    assert_eq!(booth.hears(11_600, &newer), ["a Vote 11600+10000 by S2"]);
}

#[test]
fn rule_18_a_vote_stays_with_its_session_while_that_lives() {
    let mut booth = covering();
    let shorter = Claim {
        ttl: ms(5_000),
        ..joining(claim("a", 5, 2_000))
    };
    assert_eq!(booth.hears(2_000, &shorter), ["a Vote 2000+9000 by S1"]);
    assert_eq!(booth.voter.sessions(), 1);
}

#[test]
fn rule_18_nodes_and_ttls_have_sessions_of_their_own_but_not_many() {
    let mut booth = Booth::new();
    let of_ttl = |seq: u64, ttl: u64| Claim {
        ttl: ms(ttl),
        ..numbered(seq, 1_000)
    };
    for seq in 1..=8 {
        let vote = booth.hears(1_000, &of_ttl(seq, 1_000 * seq));
        assert_eq!(vote, [format!("a Vote 1000+{seq}000 by S{seq}")]);
    }
    assert_eq!(booth.hears(1_000, &of_ttl(9, 9_000)), ["a Vote 1000+9000"]);
    let shared = booth.hears(1_000, &of_ttl(10, 3_000));
    assert_eq!(shared, ["a Vote 1000+3000 by S3"]);
    let other = booth.hears(1_000, &joining(claim("b", 50, 1_000)));
    assert_eq!(other, ["b Vote 1000+10000 by S9"]);
    // One that is over makes room.
    booth.wakes(2_000);
    let vote = booth.hears(2_000, &of_ttl(9, 9_000));
    assert_eq!(vote, ["a Vote 1000+9000"], "the send time is old");
    let again = Claim {
        ttl: ms(9_000),
        ..numbered(9, 2_000)
    };
    assert_eq!(booth.hears(2_001, &again), ["a Vote 2000+9000 by S10"]);
}

#[test]
fn rule_18_the_end_of_a_session_leaves_the_others_of_its_node_alone() {
    let mut booth = Booth::new();
    let of_ttl = |seq: u64, ttl: u64, sent_at_ms: u64| Claim {
        ttl: ms(ttl),
        ..numbered(seq, sent_at_ms)
    };
    booth.hears(1_000, &of_ttl(1, 1_000, 1_000));
    booth.hears(1_000, &of_ttl(2, 3_000, 1_000));
    booth.wakes(2_000);
    assert_eq!(booth.voter.sessions(), 1);
    let shared = booth.hears(2_001, &of_ttl(3, 3_000, 2_001));
    assert_eq!(shared, ["a Vote 2001+3000 by S2"]);
}

/// A vote that was renewed singly goes on without it.
#[test]
fn a_voter_wakes_for_the_end_of_a_session_though_its_vote_lasts_longer() {
    let mut booth = covering();
    booth.hears(9_000, &granted(claim("a", 5, 9_000)));
    assert_eq!(booth.expires(), "11000");
    assert_eq!(booth.wakes(11_000), NOTHING);
    assert_eq!(
        (booth.voter.sessions(), booth.expires()),
        (0, "19000".to_owned())
    );
}

#[test]
fn rule_19_one_message_lengthens_what_the_session_covers() {
    let mut booth = covering();
    let kept = booth.is_kept(6_000, "a", 1, digest([1]));
    assert_eq!(kept, ["a Kept S1 6000+10000"]);
    assert_eq!(remains(&booth, 6_000).as_deref(), Some("10000"));
    // Its own end passes, and nothing comes of that.
    assert_eq!(booth.wakes(11_000), NOTHING);
    assert_eq!(remains(&booth, 11_000).as_deref(), Some("5000"));
    let rival = booth.hears(15_999, &claim("b", 6, 0));
    assert_eq!(rival[0], "b Wait a e5 silent");
    let given = booth.wakes(16_000);
    assert_eq!(given, ["b Vote 0+251"]);
    assert_eq!((booth.fence(), booth.voter.sessions()), (5, 0));
}

#[test]
fn rule_19_a_rival_that_comes_first_sees_the_end_of_the_session_too() {
    let mut booth = covering();
    booth.is_kept(6_000, "a", 1, digest([1]));
    booth.hears(15_000, &claim("b", 6, 0));
    // Nobody has woken the voter since.
    let given = booth.hears(16_000, &claim("c", 7, 0));
    assert_eq!(given[0], "b Vote 0+1250");
}

#[test]
fn rule_19_an_older_word_does_not_lengthen_and_is_told_what_holds() {
    let mut booth = covering();
    booth.is_kept(6_000, "a", 1, digest([1]));
    let keep = KeepAlive {
        session: session(1),
        sent_at: instant(5_999),
        covered: digest([1]),
    };
    let (from, incarnation) = (node("a"), Incarnation::new(1));
    let kept = booth.does(|v, out| v.handle_keep_alive(at(9_000), &from, incarnation, &keep, out));
    assert_eq!(kept, ["a Kept S1 6000+10000"]);
    assert_eq!(remains(&booth, 9_000).as_deref(), Some("7000"));
}

/// A datagram that the network doubled.
#[test]
fn rule_19_the_same_word_once_more_does_not_lengthen() {
    let mut booth = covering();
    let keep = KeepAlive {
        session: session(1),
        sent_at: instant(6_000),
        covered: digest([1]),
    };
    let (from, incarnation) = (node("a"), Incarnation::new(1));
    for now in [6_000, 9_000] {
        let kept =
            booth.does(|v, out| v.handle_keep_alive(at(now), &from, incarnation, &keep, out));
        assert_eq!(kept, ["a Kept S1 6000+10000"]);
    }
    assert_eq!(remains(&booth, 9_000).as_deref(), Some("7000"));
}

#[test]
fn rule_19_a_session_that_is_over_by_the_clock_does_not_come_back() {
    let mut booth = covering();
    assert_eq!(
        booth.is_kept(11_000, "a", 1, digest([1])),
        ["a Kept S1 over"]
    );
    assert_eq!(remains(&booth, 11_000), None);
    // Nor does its number.
    let again = booth.hears(11_001, &joining(claim("a", 6, 11_001)));
    assert_eq!(again, ["a Vote 11001+10000 by S2"]);
    assert_eq!(
        booth.is_kept(11_002, "a", 1, digest([1])),
        ["a Kept S1 over"]
    );
}

#[test]
fn rule_19_only_its_own_node_in_this_incarnation_keeps_a_session() {
    let mut booth = covering();
    assert_eq!(
        booth.is_kept(2_000, "b", 1, digest([1])),
        ["b Kept S1 over"]
    );
    let (from, keep) = (
        node("a"),
        KeepAlive {
            session: session(1),
            sent_at: instant(3_000),
            covered: digest([1]),
        },
    );
    let of_incarnation = |booth: &mut Booth, incarnation, keep: KeepAlive| {
        let incarnation = Incarnation::new(incarnation);
        booth.does(|v, out| v.handle_keep_alive(at(3_000), &from, incarnation, &keep, out))
    };
    assert_eq!(of_incarnation(&mut booth, 2, keep), ["a Kept S1 over"]);
    let of_other_voter = KeepAlive {
        session: SessionId {
            nonce: 8,
            ..keep.session
        },
        ..keep
    };
    assert_eq!(
        of_incarnation(&mut booth, 1, of_other_voter),
        ["a Kept S1 over"]
    );
    assert_eq!(remains(&booth, 3_000).as_deref(), Some("8000"));
}

/// Were it to say "over", everything that the session covered would come to be refused.
#[test]
fn rule_19_a_voter_in_quarantine_is_mute() {
    let (mut booth, _) = Booth::of(3, 3, Start::Recovering);
    assert_eq!(booth.is_kept(1_000, "a", 1, digest([1])), NOTHING);
}

#[test]
fn a_session_that_covers_nothing_is_over() {
    let mut booth = covering();
    booth.hears(1_000, &numbered(2, 1_000));
    booth.hears_release(2_000, &release("a", true));
    assert_eq!(booth.voter.sessions(), 1);
    let gone = Release {
        key: numbered(2, 0).key,
        claim: own(2),
        granted: true,
    };
    booth.hears_release(2_000, &gone);
    assert_eq!((booth.voter.sessions(), booth.voter.slots()), (0, 0));
    assert_eq!(booth.voter.next_timeout(), None);
}

#[test]
fn rule_7_a_later_incarnation_of_its_node_ends_a_session() {
    let mut booth = covering();
    booth.does(|v, out| v.handle_incarnation(at(2_000), &node("a"), Incarnation::new(2), out));
    assert_eq!((booth.voter.sessions(), booth.voter.slots()), (0, 0));
    assert_eq!(
        booth.is_kept(2_001, "a", 1, digest([1])),
        ["a Kept S1 over"]
    );
}

#[test]
fn rule_7_the_incarnation_that_a_session_is_of_and_those_before_it_do_not_end_it() {
    let mut booth = covering();
    for incarnation in [0, 1] {
        let incarnation = Incarnation::new(incarnation);
        booth.does(|v, out| v.handle_incarnation(at(2_000), &node("a"), incarnation, out));
        assert_eq!((booth.voter.sessions(), booth.voter.slots()), (1, 1));
    }
}

/// The session was heard, the claim was not: its holder may have let go of it.
#[test]
fn rule_5_a_holder_is_silent_if_its_claim_was_not_heard_whatever_its_session_says() {
    let mut booth = covering();
    booth.is_kept(6_000, "a", 1, digest([1]));
    let said = booth.hears(6_000, &claim("b", 6, 0));
    assert_eq!(said, ["b Wait a e5 silent", "a Vote 1000+10000 ask by S1"]);
}

#[test]
fn many_votes_that_end_at_once_end_in_several_calls() {
    let mut booth = Booth::new();
    for seq in 1..=2_500 {
        booth.hears(1_000, &numbered(seq, 1_000));
    }
    booth.is_kept(2_000, "a", 1, digest(1..=2_500));
    let mut left = Vec::new();
    // Their own ends first, of which nothing comes but the look, and then that of the session.
    for now in [11_000, 12_000] {
        while booth
            .voter
            .next_timeout()
            .is_some_and(|due| due <= instant(now))
        {
            assert_eq!(booth.wakes(now), NOTHING);
            left.push(booth.voter.slots());
        }
    }
    assert_eq!(left, [2_500, 2_500, 2_500, 1_500, 500, 0]);
}

#[test]
fn rule_21_a_claimant_that_believes_otherwise_twice_is_told_what_is_covered() {
    let mut booth = Booth::new();
    for seq in 1..=40 {
        booth.hears(1_000, &numbered(seq, 1_000));
    }
    let agree = booth.is_kept(1_100, "a", 1, digest(1..=40));
    assert_eq!(agree, ["a Kept S1 1100+10000"]);
    // It has let go of 17, and its release was lost. Once may be chance.
    let believed = || digest((1..=40).filter(|seq| *seq != 17));
    assert_eq!(booth.is_kept(1_200, "a", 1, believed()).len(), 1);
    let mut told = Effects::default();
    let keep = KeepAlive {
        session: session(1),
        sent_at: instant(1_300),
        covered: believed(),
    };
    let (from, incarnation) = (node("a"), Incarnation::new(1));
    let voter = &mut booth.voter;
    voter.handle_keep_alive(at(1_300), &from, incarnation, &keep, &mut told);
    let seqs = told
        .messages
        .iter()
        .filter_map(|(_, message)| match message {
            Message::Vote(vote) => Some((vote.claim.seq, vote.covered)),
            _ => None,
        });
    // Those of one part, 17 among them.
    let part = [1, 17, 33].map(|seq| (seq, Some(session(1))));
    assert_eq!(seqs.collect::<Vec<_>>(), part);
    // Once it is released they agree again.
    let gone = Release {
        key: numbered(17, 0).key,
        claim: own(17),
        granted: true,
    };
    booth.hears_release(1_350, &gone);
    assert_eq!(booth.is_kept(1_400, "a", 1, believed()).len(), 1);
    assert_eq!(booth.is_kept(1_500, "a", 1, believed()).len(), 1);
}

#[test]
fn rule_21_what_is_told_is_bounded_and_goes_round() {
    let mut booth = Booth::new();
    let last = TOLD_MAX as u64 + 100;
    for seq in 1..=last {
        booth.hears(1_000, &numbered(seq * 16, 1_000));
    }
    let told: Vec<usize> = (0..5)
        .map(|n| booth.is_kept(1_100 + n, "a", 1, Digest::default()).len() - 1)
        .collect();
    // The second time on; at the end of the slots it rests, and then begins again.
    assert_eq!(told, [0, TOLD_MAX, 100, TOLD_MAX, 100]);
}

/// They may agree in between.
#[test]
fn rule_21_telling_goes_on_where_it_stopped() {
    let mut booth = Booth::new();
    let seqs = || (1..=TOLD_MAX as u64 + 100).map(|n| n * 16);
    for seq in seqs() {
        booth.hears(1_000, &numbered(seq, 1_000));
    }
    let nothing = Digest::default;
    let words = [nothing(), nothing(), digest(seqs()), nothing(), nothing()];
    let told: Vec<usize> = (1_100..)
        .zip(words)
        .map(|(now, word)| booth.is_kept(now, "a", 1, word).len() - 1)
        .collect();
    assert_eq!(told, [0, TOLD_MAX, 0, 0, 100]);
}

/// Where the slots are almost as many as are looked at in one call.
#[test]
fn rule_21_a_round_ends_with_the_last_slot() {
    let mut booth = Booth::new();
    booth.hears(1_000, &numbered(16, 1_000));
    let others = || (1..).filter(|seq| seq % 16 != 0).take(63 * 64 - 1);
    for seq in others() {
        booth.hears(1_000, &numbered(seq, 1_000));
    }
    assert_eq!(booth.voter.slots(), 63 * 64);
    // They agree about all but the first.
    let told = [1_100, 1_101, 1_102, 1_103]
        .map(|now| booth.is_kept(now, "a", 1, digest(others())).len() - 1);
    assert_eq!(told, [0, 1, 1, 1]);
}

#[test]
fn rule_22_a_voter_that_covers_fewer_says_so_the_second_time() {
    let mut booth = covering();
    let lacks = |booth: &mut Booth, at_ms: u64, covered: Digest| {
        let mut out = Effects::default();
        let keep = KeepAlive {
            session: session(1),
            sent_at: instant(at_ms),
            covered,
        };
        let (from, incarnation) = (node("a"), Incarnation::new(1));
        let voter = &mut booth.voter;
        voter.handle_keep_alive(at(at_ms), &from, incarnation, &keep, &mut out);
        match out.messages.first() {
            Some((_, Message::Kept(kept))) => kept.lacks,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(lacks(&mut booth, 2_000, digest([1, 3])), 0);
    assert_eq!(lacks(&mut booth, 2_001, digest([1, 3])), 1 << 3);
    // More is not fewer.
    assert_eq!(lacks(&mut booth, 2_002, digest([])), 0);
    assert_eq!(lacks(&mut booth, 2_003, digest([])), 0);
}
