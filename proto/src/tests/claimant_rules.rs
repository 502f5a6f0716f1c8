//! Rules 10 to 13: the votes that count, and the lease.

use super::*;

const NOTHING: [&str; 0] = [];

pub(super) fn trying() -> Request {
    let is_try = true;
    Request {
        is_try,
        ..Asker::request()
    }
}

/// A claim sent to three voters at 100 and granted by two of them at 110.
pub(super) fn holding(request: Request) -> Asker {
    let mut asker = Asker::new(3);
    asker.asks(100, request);
    asker.hears(110, "v1", voted(100, 10_000));
    let granted = asker.hears(110, "v2", voted(100, 10_000));
    assert_eq!(granted, ["Granted w100 until 10000"]);
    asker
}

/// Returns the messages sent to one voter.
pub(super) fn to<'a>(voter: &str, said: &'a [(u64, String)]) -> Vec<(u64, &'a str)> {
    let sent = said.iter().filter(|(_, line)| line.starts_with(voter));
    sent.map(|(at, line)| (*at, line.as_str())).collect()
}

/// Rule 10.
#[test]
fn vote_counts_once_and_only_from_a_voter() {
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

/// Rule 10.
#[test]
fn older_vote_does_not_replace_newer_one() {
    let mut asker = Asker::new(3);
    asker.asks(100, trying());
    let again = asker.runs(130);
    let sent_at = to("v1", &again)[0].0;
    asker.hears(500, "v1", voted(sent_at, 10_000));
    asker.hears(501, "v1", voted(100, 10_000));
    let granted = asker.hears(502, "v2", voted(sent_at, 10_000));
    assert_eq!(granted, [format!("Granted w100 until {}", sent_at + 9_900)]);
}

/// Rule 10.
#[test]
fn vote_for_unsent_send_time_is_ignored() {
    let mut asker = Asker::new(3);
    asker.asks(100, Asker::request());
    asker.hears(110, "v1", voted(100, 10_000));
    assert_eq!(asker.hears(110, "v2", voted(101, 10_000)), NOTHING);
}

/// Rule 11. The ttl in the vote counts, less the drift, from the send time on.
#[test]
fn lease_ends_when_promises_of_quorum_end() {
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

/// Rule 11. A vote counts from its send time, not from its arrival.
#[test]
fn slow_vote_can_be_expired_on_arrival() {
    let mut asker = Asker::new(3);
    asker.asks(100, Asker::request());
    asker.hears(9_999, "v1", voted(100, 10_000));
    assert_eq!(asker.hears(10_000, "v2", voted(100, 10_000)), NOTHING);
    assert_eq!(asker.held(10_000), None);
}

/// Rule 11.
#[test]
fn lease_less_drift_is_rounded_down() {
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

/// Rule 11 and M3. A process that was paused past its lease finds it lost at the first call. No
/// vote that waits in the socket restores it.
#[test]
fn expired_lease_is_lost_before_any_message() {
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
    // A read, a timer, an extension, a release and a reachable voter find it lost as well.
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

/// Rule 11. Two send times of one instant must differ: otherwise a vote that was given back could
/// be taken for its successor. The second send time is ahead of the clock, and the lease is shorter
/// by that amount.
#[test]
fn repeated_send_time_is_advanced_and_shortens_lease() {
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

/// Rule 12.
#[test]
fn unprobed_holder_reports_grant_with_first_renewal() {
    let mut asker = holding(Asker::request());
    asker.hears(111, "v3", voted(100, 10_000));
    let said = asker.runs(5_000);
    // A third of ten seconds after the grant, to all voters.
    assert_eq!(said[0].0, 3_444);
    assert_eq!(said[0].1, "v1 Claim #1 w100 3444+10000 granted join");
    assert_eq!(to("v2", &said)[0].0, 3_444);
    assert_eq!(to("v3", &said)[0].0, 3_444);
}

/// Rule 12.
#[test]
fn holder_probed_or_queued_reports_grant_at_once() {
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

        // The same if the question comes after the grant. A `Wait` makes it report to all voters, a
        // `probe` only to the voter that sent it (rule 13).
        let mut asker = holding(Asker::request());
        let is_wait = matches!(before, Message::Wait(_));
        let news = asker.hears(111, "v3", before);
        let told = [1, 2, 3].map(told);
        assert_eq!(news, if is_wait { &told[..] } else { &told[2..] });
    }
}

/// Rule 12. Reservations are short, so the first renewal is sent at the grant.
#[test]
fn holder_by_reservations_renews_at_grant() {
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
    // With exactly two thirds left it waits for the renewal. The shortest such lease is 6,667 ms.
    for (ttl, told) in [(6_743, true), (6_745, false)] {
        let mut asker = Asker::new(1);
        asker.asks(100, Asker::request());
        let news = asker.hears(109, "v1", voted(100, ttl));
        assert_eq!(news.len() > 1, told, "{news:?}");
    }
}

/// Rule 12.
#[test]
fn holder_renews_every_third_and_retransmits_to_silent() {
    let mut asker = holding(Asker::request());
    let said = asker.runs(3_500);
    // v3 has not answered, so the claim is retransmitted to it until it does.
    assert!(to("v3", &said).len() > 4, "{said:?}");
    assert_eq!(to("v1", &said)[0].0, 3_444);
    asker.hears(3_500, "v1", voted(3_444, 10_000));
    let news = asker.hears(3_500, "v2", voted(3_444, 10_000));
    assert_eq!(news, ["Renewed until 13344"]);
    let said = asker.runs(7_000);
    assert_eq!(to("v1", &said)[0].0, 3_444 + 3_334);
}

/// Rule 12.
#[test]
fn holder_renews_at_most_once_per_round_trip() {
    let mut asker = Asker::new(3);
    let claimant = asker.claimant.clone();
    asker.claimant = claimant.with_renewal(Some(Duration::ZERO));
    asker.asks(100, Asker::request());
    asker.hears(110, "v1", voted(100, 10_000));
    asker.hears(110, "v2", voted(100, 10_000));
    assert_eq!(to("v1", &asker.runs(119)), []);
    assert_eq!(to("v1", &asker.runs(130)).len(), 2);
}

/// Rule 12.
#[test]
fn lease_without_renewal_ends_after_its_ttl() {
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
    // A probe extends the vote only to the end of the lease, 10,110.
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
fn extension_counts_once_a_quorum_promised_it() {
    let mut asker = holding(Asker::request());
    let mut goal = Instant::ZERO;
    let sent = asker.does(|c, out| {
        goal = c.extend(at(1_000), Ticket(1), ms(6_000), out).unwrap();
    });
    // 9,000 ms remain. It requests 15,000 ms, of which 14,850 ms are certain despite drift.
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

/// A claimant with a reservation of `v1` for its claim of 100.
fn offered(ttl_ms: u64) -> Asker {
    let mut asker = Asker::new(3);
    asker.asks(100, Asker::request());
    asker.hears(105, "v1", voted(100, ttl_ms));
    asker
}

/// Rule 13. Another claim waits behind it, so the voter sends the vote again with `probe`.
#[test]
fn reservation_with_half_left_is_given_back() {
    for (at_ms, is_given_back) in [(224, false), (225, true), (349, true)] {
        let mut asker = offered(250);
        for voter in ["v2", "v3"] {
            asker.hears(110, voter, waits(HolderGranted::No));
        }
        // A vote that first arrives this late may still complete a quorum.
        let first = asker.hears(at_ms, "v1", asked(100, 249));
        assert_eq!(first, NOTHING);
        asker.hears(at_ms, "v1", asked(100, 250));
        let said = asker.hears(at_ms, "v1", asked(100, 250));
        let back = format!("v1 Claim #1 w100 {at_ms}+10000 since {at_ms}");
        let expected = if is_given_back { vec![back] } else { vec![] };
        assert_eq!(said, expected, "{at_ms}");
    }
}

/// Rule 13. Each turn of a claim that cannot be granted would hold up those behind it.
#[test]
fn claim_without_quorum_lets_reservation_expire() {
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

/// Rule 13.
#[test]
fn requested_vote_is_yielded_unless_it_grants() {
    let mut asker = Asker::new(3);
    asker.asks(100, Asker::request());
    let back = asker.hears(110, "v1", wanted_back(100, 10_000));
    assert_eq!(back, ["v1 Claim #1 w100 110+10000 since 110"]);
    // A vote that was given back never counts, even if it arrives again.
    asker.hears(111, "v2", voted(100, 10_000));
    assert_eq!(asker.hears(112, "v1", voted(100, 10_000)), NOTHING);
    assert_eq!(asker.held(112), None);
    let granted = asker.hears(113, "v1", voted(110, 10_000));
    assert_eq!(granted[0], "Granted w100 until 10000");

    // The vote is counted first. It completes a quorum, so it is not given back.
    let mut asker = Asker::new(3);
    asker.asks(100, Asker::request());
    asker.hears(110, "v1", voted(100, 10_000));
    let granted = asker.hears(110, "v2", wanted_back(100, 10_000));
    assert_eq!(granted[0], "Granted w100 until 10000");
    assert_eq!(granted[1], "v1 Claim #1 w100 110+10000 granted");
    assert_eq!(granted.len(), 4);
}

/// Rule 13. The loss of one such claim thus does no lasting harm.
#[test]
fn every_later_claim_repeats_votes_valid_since() {
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

/// Rule 13.
#[test]
fn probed_holder_reports_grant_to_that_voter() {
    let mut asker = holding(Asker::request());
    let answer = asker.hears(120, "v2", asked(100, 10_000));
    assert_eq!(answer, ["v2 Claim #1 w100 120+10000 granted"]);
    let answer = asker.hears(121, "v3", wanted_back(100, 10_000));
    assert_eq!(answer, ["v3 Claim #1 w100 121+10000 granted"]);
}

/// Rule 11.
#[test]
fn vote_that_extends_nothing_emits_no_renewal() {
    let mut asker = holding(Asker::request());
    assert_eq!(asker.hears(120, "v3", voted(100, 10_000)), NOTHING);
    assert_eq!(asker.hears(121, "v1", voted(100, 9_000)), NOTHING);
    assert_eq!(asker.held(121).as_deref(), Some("10000"));
}

/// Rule 12. The exact bound: two thirds of the ttl are left.
#[test]
fn lease_with_two_thirds_left_reports_at_renewal() {
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
