//! Rules 18, 19, 21 and 22: the sessions of a voter.

use super::super::voter::TOLD_MAX;
use super::*;

const NOTHING: [&str; 0] = [];

/// The granted claim `seq` of node `a`, which joins a session, on a key of its own.
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

/// The remaining time of the vote, if there is one.
fn remains(booth: &Booth, at_ms: u64) -> Option<String> {
    let vote = booth.voter.report(at(at_ms), 0, &key()).vote;
    vote.map(|vote| span(vote.remaining))
}

/// Rule 18.
#[test]
fn granted_claim_is_covered_if_it_joins() {
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
    // Every later vote names the session, even without `join`.
    let again = granted(claim("a", 5, 4_000));
    assert_eq!(booth.hears(4_000, &again), ["a Vote 4000+10000 by S1"]);
}

/// Rule 18. The voter was restarted, and the vote is given again.
#[test]
fn new_vote_is_covered_at_once() {
    let mut booth = Booth::new();
    let vote = booth.hears(1_000, &joining(claim("a", 5, 1_000)));
    assert_eq!(vote, ["a Vote 1000+10000 by S1"]);
}

/// Rule 18.
#[test]
fn new_vote_needs_grant_and_join_for_cover() {
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

/// Rule 18. The timer of the voter has not run yet.
#[test]
fn session_that_ends_now_covers_nothing() {
    let mut booth = covering();
    booth.hears(9_000, &granted(claim("a", 5, 9_000)));
    let mut other = booth.voter.clone();
    let again = booth.hears(11_000, &granted(claim("a", 5, 11_000)));
    assert_eq!(again, ["a Vote 11000+10000"]);
    let mut out = Effects::default();
    other.handle_claim(at(11_000), &numbered(2, 11_000), &mut out);
    assert_eq!(lines(&out), ["a Vote 11000+10000 by S2"]);
}

/// Rule 18.
#[test]
fn join_counts_only_with_newer_send_time() {
    let mut booth = covering();
    // The vote itself lasts longer than the session.
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

/// Rule 18.
#[test]
fn vote_stays_with_its_active_session() {
    let mut booth = covering();
    let shorter = Claim {
        ttl: ms(5_000),
        ..joining(claim("a", 5, 2_000))
    };
    assert_eq!(booth.hears(2_000, &shorter), ["a Vote 2000+9000 by S1"]);
    assert_eq!(booth.voter.sessions(), 1);
}

/// Rule 18.
#[test]
fn sessions_per_node_and_ttl_are_limited() {
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
    // The end of a session frees a place.
    booth.wakes(2_000);
    let vote = booth.hears(2_000, &of_ttl(9, 9_000));
    assert_eq!(vote, ["a Vote 1000+9000"], "the send time is old");
    let again = Claim {
        ttl: ms(9_000),
        ..numbered(9, 2_000)
    };
    assert_eq!(booth.hears(2_001, &again), ["a Vote 2000+9000 by S10"]);
}

/// Rule 18.
#[test]
fn ended_session_leaves_others_of_its_node() {
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

/// A vote that was renewed individually continues without its session.
#[test]
fn voter_ends_session_before_longer_vote() {
    let mut booth = covering();
    booth.hears(9_000, &granted(claim("a", 5, 9_000)));
    assert_eq!(booth.expires(), "11000");
    assert_eq!(booth.wakes(11_000), NOTHING);
    assert_eq!(
        (booth.voter.sessions(), booth.expires()),
        (0, "19000".to_owned())
    );
}

/// Rule 19.
#[test]
fn keep_alive_extends_covered_vote() {
    let mut booth = covering();
    let kept = booth.is_kept(6_000, "a", 1, digest([1]));
    assert_eq!(kept, ["a Kept S1 6000+10000"]);
    assert_eq!(remains(&booth, 6_000).as_deref(), Some("10000"));
    // The vote's own end passes without an effect.
    assert_eq!(booth.wakes(11_000), NOTHING);
    assert_eq!(remains(&booth, 11_000).as_deref(), Some("5000"));
    let rival = booth.hears(15_999, &claim("b", 6, 0));
    assert_eq!(rival[0], "b Wait a e5 silent");
    let given = booth.wakes(16_000);
    assert_eq!(given, ["b Vote 0+251"]);
    assert_eq!((booth.fence(), booth.voter.sessions()), (5, 0));
}

/// Rule 19.
#[test]
fn rival_claim_finds_session_ended() {
    let mut booth = covering();
    booth.is_kept(6_000, "a", 1, digest([1]));
    booth.hears(15_000, &claim("b", 6, 0));
    // The timer of the voter has not run yet.
    let given = booth.hears(16_000, &claim("c", 7, 0));
    assert_eq!(given[0], "b Vote 0+1250");
}

/// Rule 19.
#[test]
fn older_keep_alive_extends_nothing() {
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

/// Rule 19. The network duplicated the datagram.
#[test]
fn duplicate_keep_alive_extends_nothing() {
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

/// Rule 19.
#[test]
fn expired_session_does_not_come_back() {
    let mut booth = covering();
    assert_eq!(
        booth.is_kept(11_000, "a", 1, digest([1])),
        ["a Kept S1 over"]
    );
    assert_eq!(remains(&booth, 11_000), None);
    // Its number does not come back either.
    let again = booth.hears(11_001, &joining(claim("a", 6, 11_001)));
    assert_eq!(again, ["a Vote 11001+10000 by S2"]);
    assert_eq!(
        booth.is_kept(11_002, "a", 1, digest([1])),
        ["a Kept S1 over"]
    );
}

/// Rule 19.
#[test]
fn only_own_node_and_incarnation_keep_session() {
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

/// Rule 19. If it replied that the session is over, all covered claims would be sent, only to be
/// refused.
#[test]
fn quarantined_voter_ignores_keep_alive() {
    let (mut booth, _) = Booth::of(3, 3, Start::Recovering);
    assert_eq!(booth.is_kept(1_000, "a", 1, digest([1])), NOTHING);
}

#[test]
fn session_without_votes_ends() {
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

/// Rule 7.
#[test]
fn later_incarnation_ends_session() {
    let mut booth = covering();
    booth.does(|v, out| v.handle_incarnation(at(2_000), &node("a"), Incarnation::new(2), out));
    assert_eq!((booth.voter.sessions(), booth.voter.slots()), (0, 0));
    assert_eq!(
        booth.is_kept(2_001, "a", 1, digest([1])),
        ["a Kept S1 over"]
    );
}

/// Rule 7.
#[test]
fn own_and_earlier_incarnations_keep_session() {
    let mut booth = covering();
    for incarnation in [0, 1] {
        let incarnation = Incarnation::new(incarnation);
        booth.does(|v, out| v.handle_incarnation(at(2_000), &node("a"), incarnation, out));
        assert_eq!((booth.voter.sessions(), booth.voter.slots()), (1, 1));
    }
}

/// Rule 5. The session was renewed, but the claim was not received: its holder may have released
/// it.
#[test]
fn holder_is_silent_despite_keep_alive() {
    let mut booth = covering();
    booth.is_kept(6_000, "a", 1, digest([1]));
    let said = booth.hears(6_000, &claim("b", 6, 0));
    assert_eq!(said, ["b Wait a e5 silent", "a Vote 1000+10000 ask by S1"]);
}

#[test]
fn many_expired_votes_end_in_several_calls() {
    let mut booth = Booth::new();
    for seq in 1..=2_500 {
        booth.hears(1_000, &numbered(seq, 1_000));
    }
    booth.is_kept(2_000, "a", 1, digest(1..=2_500));
    let mut left = Vec::new();
    // First the votes' own ends, which only move their timers, and then the end of the session.
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

/// Rule 21.
#[test]
fn repeated_digest_mismatch_resends_covered_votes() {
    let mut booth = Booth::new();
    for seq in 1..=40 {
        booth.hears(1_000, &numbered(seq, 1_000));
    }
    let agree = booth.is_kept(1_100, "a", 1, digest(1..=40));
    assert_eq!(agree, ["a Kept S1 1100+10000"]);
    // The claimant released 17, and the release was lost. One mismatch may be a coincidence.
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
    // The claims of one part, 17 among them.
    let part = [1, 17, 33].map(|seq| (seq, Some(session(1))));
    assert_eq!(seqs.collect::<Vec<_>>(), part);
    // Once it is released, the digests agree again.
    let gone = Release {
        key: numbered(17, 0).key,
        claim: own(17),
        granted: true,
    };
    booth.hears_release(1_350, &gone);
    assert_eq!(booth.is_kept(1_400, "a", 1, believed()).len(), 1);
    assert_eq!(booth.is_kept(1_500, "a", 1, believed()).len(), 1);
}

/// Rule 21.
#[test]
fn resent_votes_are_bounded_and_rotate() {
    let mut booth = Booth::new();
    let last = TOLD_MAX as u64 + 100;
    for seq in 1..=last {
        booth.hears(1_000, &numbered(seq * 16, 1_000));
    }
    let told: Vec<usize> = (0..5)
        .map(|n| booth.is_kept(1_100 + n, "a", 1, Digest::default()).len() - 1)
        .collect();
    // From the second mismatch on. The voter stops at the last slot and then starts over.
    assert_eq!(told, [0, TOLD_MAX, 100, TOLD_MAX, 100]);
}

/// Rule 21. The digests may agree in between.
#[test]
fn resending_continues_where_it_stopped() {
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

/// Rule 21. There are almost as many slots as one call examines.
#[test]
fn resending_round_ends_with_last_slot() {
    let mut booth = Booth::new();
    booth.hears(1_000, &numbered(16, 1_000));
    let others = || (1..).filter(|seq| seq % 16 != 0).take(63 * 64 - 1);
    for seq in others() {
        booth.hears(1_000, &numbered(seq, 1_000));
    }
    assert_eq!(booth.voter.slots(), 63 * 64);
    // The digests agree about all claims but the first.
    let told = [1_100, 1_101, 1_102, 1_103]
        .map(|now| booth.is_kept(now, "a", 1, digest(others())).len() - 1);
    assert_eq!(told, [0, 1, 1, 1]);
}

/// Rule 22.
#[test]
fn voter_reports_lacking_parts_on_second_mismatch() {
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
    // Covering more claims is not reported.
    assert_eq!(lacks(&mut booth, 2_002, digest([])), 0);
    assert_eq!(lacks(&mut booth, 2_003, digest([])), 0);
}
