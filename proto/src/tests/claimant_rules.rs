//! Rules 10 to 13: votes that count, and the lease.

use super::*;

const NOTHING: [&str; 0] = [];

pub(super) fn trying() -> Request {
    let is_try = true;
    Request {
        is_try,
        ..Asker::request()
    }
}

/// A claim sent to three voters at 100 that two of them have voted for at 110.
pub(super) fn holding(request: Request) -> Asker {
    let mut asker = Asker::new(3);
    asker.asks(100, request);
    asker.hears(110, "v1", voted(100, 10_000));
    let granted = asker.hears(110, "v2", voted(100, 10_000));
    assert_eq!(granted, ["Granted w100 until 10000"]);
    asker
}

/// What was sent to one voter.
pub(super) fn to<'a>(voter: &str, said: &'a [(u64, String)]) -> Vec<(u64, &'a str)> {
    let sent = said.iter().filter(|(_, line)| line.starts_with(voter));
    sent.map(|(at, line)| (*at, line.as_str())).collect()
}

#[test]
fn rule_10_a_voter_counts_once_and_only_if_it_is_one() {
    let mut asker = Asker::new(3);
    let sent = asker.asks(100, Asker::request());
    let claims = ["v1", "v2", "v3"].map(|v| format!("{v} Claim #1 w100 100+10000"));
    assert_eq!(sent, claims);
    for (at, voter) in [(110, "v1"), (111, "v1"), (112, "v9"), (113, "a")] {
        assert_eq!(asker.hears(at, voter, voted(100, 10_000)), NOTHING);
    }
    let granted = asker.hears(114, "v3", voted(100, 10_000));
    assert_eq!(granted, ["Granted w100 until 10000"]);
}

#[test]
fn rule_10_an_older_vote_does_not_replace_a_newer_one() {
    let mut asker = Asker::new(3);
    asker.asks(100, trying());
    let again = asker.runs(130);
    let sent_at = to("v1", &again)[0].0;
    asker.hears(500, "v1", voted(sent_at, 10_000));
    asker.hears(501, "v1", voted(100, 10_000));
    let granted = asker.hears(502, "v2", voted(sent_at, 10_000));
    assert_eq!(granted, [format!("Granted w100 until {}", sent_at + 9_900)]);
}

#[test]
fn rule_10_a_vote_for_a_sent_at_that_was_never_sent_does_not_count() {
    let mut asker = Asker::new(3);
    asker.asks(100, Asker::request());
    asker.hears(110, "v1", voted(100, 10_000));
    assert_eq!(asker.hears(110, "v2", voted(101, 10_000)), NOTHING);
}

/// F2: the ttl that counts is the one that the voter names, less the drift, from the send time on.
#[test]
fn rule_11_f2_a_lease_reaches_as_far_as_a_quorum_has_promised() {
    let mut asker = Asker::new(5);
    asker.asks(100, Asker::request());
    asker.hears(110, "v1", voted(100, 8_000));
    asker.hears(110, "v2", voted(100, 10_000));
    let granted = asker.hears(110, "v3", voted(100, 9_000));
    assert_eq!(granted, ["Granted w100 until 8020"]);
    // A fourth vote moves the third-best promise.
    assert_eq!(
        asker.hears(111, "v4", voted(100, 9_500)),
        ["Renewed until 9010"]
    );
    assert_eq!(asker.held(9_009).as_deref(), Some("9010"));
    assert_eq!(asker.held(9_010), None);
}

/// Counted from the send time, not from when the vote came.
#[test]
fn rule_11_a_vote_that_was_slow_on_its_way_may_be_over_when_it_comes() {
    let mut asker = Asker::new(3);
    asker.asks(100, Asker::request());
    asker.hears(9_999, "v1", voted(100, 10_000));
    assert_eq!(asker.hears(10_000, "v2", voted(100, 10_000)), NOTHING);
    assert_eq!(asker.held(10_000), None);
}

#[test]
fn rule_11_drift_is_rounded_down() {
    let mut asker = Asker::new(1);
    asker.asks(100, Asker::request());
    let ttl = Duration::from_nanos(10_000_000_099);
    let odd = Vote {
        ttl,
        ..vote(1, instant(100), 0)
    };
    let granted = asker.hears(101, "v1", Message::Vote(odd));
    assert_eq!(granted, ["Granted w100 until 10000'98"]);
}

/// A process that slept past its lease: the first thing that comes finds it lost, and no vote
/// that waits in the socket brings it back.
#[test]
fn rule_11_m3_a_lease_that_is_over_is_lost_for_good_before_any_message() {
    let vote_from_the_socket = voted(100, 20_000);
    let lost = [
        "Lost w100",
        "v1 Release #1 granted",
        "v2 Release #1 granted",
        "v3 Release #1 granted",
        "v3 Release #1 granted",
    ];
    let mut asker = holding(Asker::request());
    assert_eq!(
        asker.hears(10_000, "v3", vote_from_the_socket.clone()),
        lost
    );
    assert_eq!(asker.held(10_000), None);
    assert_eq!(
        asker.hears(10_001, "v2", vote_from_the_socket),
        ["v2 Release #1 granted"]
    );
    // Nor does a look, a timer, an extension or a release.
    let mut asker = holding(Asker::request());
    assert_eq!(asker.held(10_000), None);
    assert_eq!(asker.wakes(10_000), lost[..4]);
    let mut asker = holding(Asker::request());
    let extended = asker.does(|c, out| {
        assert!(c.extend(at(10_000), Ticket(1), ms(100), out).is_err());
    });
    assert_eq!(extended, lost[..4]);
    let mut asker = holding(Asker::request());
    assert_eq!(asker.releases(10_000), lost[..4]);
    let mut asker = holding(Asker::request());
    let reached = asker.does(|c, out| c.handle_reachable(at(10_000), &node("v3"), out));
    assert_eq!(reached, lost[..4]);
    // The next attempt has another epoch.
    let sent = asker.asks(10_001, Asker::request());
    assert_eq!(sent[0], "v1 Claim #2 w10001 10001+10000");
}

/// Two send times of one instant must differ, or a vote that was given back could be taken for the
/// one given after; the second is ahead of the clock, and the lease so much shorter.
#[test]
fn rule_11_send_times_never_repeat_and_what_is_ahead_is_taken_off() {
    let mut asker = Asker::new(3);
    asker.asks(100, Asker::request());
    let back = asker.hears(100, "v1", wanted_back(100, 10_000));
    assert_eq!(back, ["v1 Claim #1 w100 100'1+10000 since 100'1"]);
    let since = Instant::from_nanos(100_000_001);
    asker.hears(110, "v1", Message::Vote(vote(1, since, 10_000)));
    let granted = asker.hears(110, "v2", Message::Vote(vote(1, instant(100), 20_000)));
    // 100'1 + 9,900 ms, less the one nanosecond.
    assert_eq!(granted[0], "Granted w100 until 10000");
}

#[test]
fn rule_12_an_owner_that_nobody_asked_tells_with_its_first_renewal() {
    let mut asker = holding(Asker::request());
    asker.hears(111, "v3", voted(100, 10_000));
    let said = asker.runs(5_000);
    // A third of ten seconds after the grant, to all.
    assert_eq!(said[0].0, 3_444);
    assert_eq!(said[0].1, "v1 Claim #1 w100 3444+10000 granted join");
    assert_eq!(to("v2", &said)[0].0, 3_444);
    assert_eq!(to("v3", &said)[0].0, 3_444);
}

#[test]
fn rule_12_an_owner_that_was_asked_or_told_to_wait_tells_at_once() {
    for before in [asked(100, 10_000), waits(HolderGranted::No)] {
        let mut asker = Asker::new(5);
        asker.asks(100, Asker::request());
        asker.hears(109, "v3", before.clone());
        asker.hears(110, "v1", voted(100, 10_000));
        let mut news = asker.hears(111, "v2", voted(100, 10_000));
        news.extend(asker.hears(111, "v4", voted(100, 10_000)));
        assert_eq!(news[0], "Granted w100 until 10000");
        let told = |v| format!("v{v} Claim #1 w100 111+10000 granted");
        assert_eq!(news[1..], [1, 2, 3, 4, 5].map(told));

        // The same where the question comes after the grant: a `Wait` tells all voters, `probe`
        // the one that asked (rule 13).
        let mut asker = holding(Asker::request());
        let is_wait = matches!(before, Message::Wait(_));
        let news = asker.hears(111, "v3", before);
        let told = [1, 2, 3].map(told);
        assert_eq!(news, if is_wait { &told[..] } else { &told[2..] });
    }
}

/// Where the votes are reservations there is little time.
#[test]
fn rule_12_an_owner_by_reservations_renews_together_with_the_guard() {
    let mut asker = Asker::new(3);
    asker.asks(100, Asker::request());
    asker.hears(110, "v1", voted(100, 300));
    let news = asker.hears(110, "v2", voted(100, 300));
    assert_eq!(news[0], "Granted w100 until 397");
    assert_eq!(news[1], "v1 Claim #1 w100 110+10000 granted");
    assert_eq!(asker.hears(120, "v1", voted(110, 10_000)), NOTHING);
    assert_eq!(
        asker.hears(120, "v2", voted(110, 10_000)),
        ["Renewed until 10010"]
    );
    // Exactly two thirds are enough to wait for the renewal: 6,667 is the first such lease.
    for (ttl, told) in [(6_743, true), (6_745, false)] {
        let mut asker = Asker::new(1);
        asker.asks(100, Asker::request());
        let news = asker.hears(109, "v1", voted(100, ttl));
        assert_eq!(news.len() > 1, told, "{news:?}");
    }
}

#[test]
fn rule_12_it_renews_every_third_and_sooner_to_voters_that_do_not_answer() {
    let mut asker = holding(Asker::request());
    let said = asker.runs(3_500);
    // v3 has not answered; it is asked again and again until it does.
    assert!(to("v3", &said).len() > 4, "{said:?}");
    assert_eq!(to("v1", &said)[0].0, 3_444);
    asker.hears(3_500, "v1", voted(3_444, 10_000));
    let news = asker.hears(3_500, "v2", voted(3_444, 10_000));
    assert_eq!(news, ["Renewed until 13344"]);
    let said = asker.runs(7_000);
    assert_eq!(to("v1", &said)[0].0, 3_444 + 3_334);
}

#[test]
fn rule_12_it_renews_at_most_once_in_a_round_trip() {
    let mut asker = Asker::new(3);
    let claimant = asker.claimant.clone();
    asker.claimant = claimant.with_renewal(Some(Duration::ZERO));
    asker.asks(100, Asker::request());
    asker.hears(110, "v1", voted(100, 10_000));
    asker.hears(110, "v2", voted(100, 10_000));
    assert_eq!(to("v1", &asker.runs(119)), []);
    assert_eq!(to("v1", &asker.runs(130)).len(), 2);
}

#[test]
fn rule_12_a_lease_that_does_not_renew_itself_is_over_after_its_ttl() {
    let renews = false;
    let mut asker = Asker::new(1);
    asker.asks(
        100,
        Request {
            renews,
            ..Asker::request()
        },
    );
    let granted = asker.hears(110, "v1", voted(100, 10_000));
    assert_eq!(granted, ["Granted w100 until 10000"]);
    assert_eq!(asker.runs(9_999), []);
    // Asked, it lengthens the vote no further than its own end: 10,110.
    let answer = asker.hears(5_000, "v1", asked(100, 10_000));
    assert_eq!(answer, ["v1 Claim #1 w100 5000+5110 granted"]);
    assert_eq!(
        asker.hears(5_001, "v1", voted(5_000, 30_000)),
        ["Renewed until 10110"]
    );
    assert_eq!(asker.held(10_110), None);
    assert_eq!(asker.wakes(10_110), ["Lost w100", "v1 Release #1 granted"]);
}

#[test]
fn an_extension_holds_once_a_quorum_has_promised_it() {
    let mut asker = holding(Asker::request());
    let mut goal = Instant::ZERO;
    let sent = asker.does(|c, out| {
        goal = c.extend(at(1_000), Ticket(1), ms(6_000), out).unwrap();
    });
    // 9,000 remain; 15,000 are asked for, and 14,850 sure whatever the drift.
    assert_eq!(sent[0], "v1 Claim #1 w100 1000+15000 granted");
    assert_eq!(reading(goal), "15850");
    assert_eq!(asker.held(1_001).as_deref(), Some("10000"));
    asker.hears(1_010, "v1", voted(1_000, 15_000));
    assert_eq!(
        asker.hears(1_010, "v3", voted(1_000, 15_000)),
        ["Renewed until 15850"]
    );
    let too_long = asker.does(|c, out| {
        assert!(c.extend(at(1_020), Ticket(1), ms(20_000), out).is_err());
    });
    assert_eq!(too_long, NOTHING);
}

/// An asker whose turn at `v1` is a reservation from 100 on, while it waits at the others.
fn offered(ttl_ms: u64) -> Asker {
    let mut asker = Asker::new(3);
    asker.asks(100, Asker::request());
    asker.hears(105, "v1", voted(100, ttl_ms));
    asker
}

/// Somebody waits behind it, so the voter tells it of its turn once more.
#[test]
fn rule_13_a_turn_of_which_half_a_reservation_is_left_is_given_back() {
    for (at_ms, is_given_back) in [(224, false), (225, true), (349, true)] {
        let mut asker = offered(250);
        for voter in ["v2", "v3"] {
            asker.hears(110, voter, waits(HolderGranted::No));
        }
        // Heard for the first time so late, it may be what wins.
        let first = asker.hears(at_ms, "v1", asked(100, 249));
        assert_eq!(first, NOTHING);
        asker.hears(at_ms, "v1", asked(100, 250));
        let said = asker.hears(at_ms, "v1", asked(100, 250));
        let back = format!("v1 Claim #1 w100 {at_ms}+10000 since {at_ms}");
        let expected = if is_given_back { vec![back] } else { vec![] };
        assert_eq!(said, expected, "{at_ms}");
    }
}

/// Each turn of one that cannot win would hold up those behind it.
#[test]
fn rule_13_one_that_no_quorum_answers_lets_its_turns_run_out() {
    let mut asker = offered(120);
    let back = asker.hears(112, "v1", asked(100, 120));
    assert_eq!(back, ["v1 Claim #1 w100 112+10000 since 112"]);
    let mut asker = offered(140);
    let again = asker.runs(130);
    assert_eq!([to("v2", &again).len(), to("v3", &again).len()], [1, 1]);
    assert_eq!(asker.hears(131, "v1", asked(100, 140)), NOTHING);
    asker.hears(132, "v2", waits(HolderGranted::No));
    let back = asker.hears(133, "v1", asked(100, 140));
    assert_eq!(back, ["v1 Claim #1 w100 133+10000 since 133"]);
}

#[test]
fn rule_13_a_vote_that_is_wanted_back_is_given_back_unless_it_wins() {
    let mut asker = Asker::new(3);
    asker.asks(100, Asker::request());
    let back = asker.hears(110, "v1", wanted_back(100, 10_000));
    assert_eq!(back, ["v1 Claim #1 w100 110+10000 since 110"]);
    // What was given back never counts, however often it comes.
    asker.hears(111, "v2", voted(100, 10_000));
    assert_eq!(asker.hears(112, "v1", voted(100, 10_000)), NOTHING);
    assert_eq!(asker.held(112), None);
    let granted = asker.hears(113, "v1", voted(110, 10_000));
    assert_eq!(granted[0], "Granted w100 until 10000");

    // Counted first: the vote that is wanted back makes a quorum, and is not given back.
    let mut asker = Asker::new(3);
    asker.asks(100, Asker::request());
    asker.hears(110, "v1", voted(100, 10_000));
    let granted = asker.hears(110, "v2", wanted_back(100, 10_000));
    assert_eq!(granted[0], "Granted w100 until 10000");
    assert_eq!(granted[1], "v1 Claim #1 w100 110+10000 granted");
    assert_eq!(granted.len(), 4);
}

/// F11: every later claim repeats it, so that a lost give-back is no lasting harm.
#[test]
fn rule_13_f11_the_voter_is_told_again_and_again_what_does_not_count() {
    let mut asker = Asker::new(3);
    asker.asks(100, Asker::request());
    asker.hears(110, "v1", wanted_back(100, 10_000));
    let said = asker.runs(400);
    assert!(to("v1", &said).len() >= 2);
    assert!(
        to("v1", &said)
            .iter()
            .all(|(_, line)| line.ends_with("since 110"))
    );
    assert!(
        to("v2", &said)
            .iter()
            .all(|(_, line)| !line.contains("since"))
    );
}

#[test]
fn rule_13_an_owner_that_is_asked_says_so_to_that_voter() {
    let mut asker = holding(Asker::request());
    let answer = asker.hears(120, "v2", asked(100, 10_000));
    assert_eq!(answer, ["v2 Claim #1 w100 120+10000 granted"]);
    let answer = asker.hears(121, "v3", wanted_back(100, 10_000));
    assert_eq!(answer, ["v3 Claim #1 w100 121+10000 granted"]);
}

#[test]
fn rule_11_a_vote_that_moves_the_end_of_the_lease_by_nothing_is_no_renewal() {
    let mut asker = holding(Asker::request());
    assert_eq!(asker.hears(120, "v3", voted(100, 10_000)), NOTHING);
    assert_eq!(asker.hears(121, "v1", voted(100, 9_000)), NOTHING);
    assert_eq!(asker.held(121).as_deref(), Some("10000"));
}

/// The bound itself: two thirds of the ttl are left, to the nanosecond.
#[test]
fn rule_12_a_lease_with_two_thirds_left_is_told_with_the_first_renewal() {
    for (ttl, told) in [(14_850, false), (14_851, true)] {
        let mut asker = Asker::new(1);
        asker.asks(
            100,
            Request {
                ttl: ms(ttl),
                ..Asker::request()
            },
        );
        let news = asker.hears(100, "v1", voted(100, 10_000));
        assert_eq!(news[0], "Granted w100 until 10000");
        assert_eq!(news.len() > 1, told, "{news:?}");
    }
}
