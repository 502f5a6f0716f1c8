//! Claims that outlive their process: rules 6, 7 and 17 for them, and what a shutdown leaves.

use super::claimant_rules::holding;
use super::*;

const NOTHING: [&str; 0] = [];

fn outliving(claim: Claim) -> Claim {
    Claim {
        outlives: true,
        ..claim
    }
}

fn tick() -> Request {
    Request {
        is_try: true,
        renews: false,
        outlives: true,
        ..Asker::request()
    }
}

fn in_incarnation(claim: &ClaimId, incarnation: u64) -> ClaimId {
    ClaimId {
        incarnation: Incarnation::new(incarnation),
        ..claim.clone()
    }
}

#[test]
fn rule_7_outliving_vote_stays_until_its_clock() {
    let mut booth = Booth::new();
    booth.hears(0, &outliving(claim("a", 5, 1)));
    booth.hears(1, &claim("b", 6, 1));
    // Granted or not known to be: the claimant may have told its caller.
    let next = Incarnation::new(2);
    for at_ms in [2, 3] {
        let said = booth.does(|v, out| v.handle_incarnation(at(at_ms), &node("a"), next, out));
        assert_eq!(said, NOTHING);
    }
    assert_eq!(booth.expires(), "10000");
    assert_eq!(booth.wakes(10_000), ["b Vote 1+10249"]);
    assert_eq!(booth.fence(), 5);
}

#[test]
fn rule_7_outliving_claim_that_waits_is_dropped() {
    let mut booth = Booth::new();
    booth.hears(0, &claim("b", 5, 1));
    booth.hears(1, &outliving(claim("a", 6, 1)));
    assert_eq!(booth.voter.waiters(), 1);
    booth.does(|v, out| v.handle_incarnation(at(2), &node("a"), Incarnation::new(2), out));
    assert_eq!(booth.voter.waiters(), 0);
}

#[test]
fn rule_6_release_ends_an_outliving_vote() {
    let mut booth = Booth::new();
    booth.hears(0, &outliving(claim("a", 5, 1)));
    booth.hears_release(1, &release("a", true));
    assert_eq!(booth.voter.slots(), 0);
}

#[test]
fn shutdown_withdraws_requests_and_leaves_outliving_leases() {
    let mut asker = holding(tick());
    asker.asks(120, tick());
    asker.asks(120, Asker::request());
    let said = asker.does(|c, out| c.release_all(at(130), out));
    let released = |seq| ["v1", "v2", "v3"].map(|v| format!("{v} Release #{seq}"));
    // Those that were not granted were told to nobody.
    assert_eq!(said, [released(2), released(3)].concat());
    assert_eq!(asker.held(131).as_deref(), Some("10000"));
    // An explicit release ends it as ever.
    assert_eq!(
        asker.releases(140),
        ["v1", "v2", "v3"].map(|v| format!("{v} Release #1 granted"))
    );
}

#[test]
fn shutdown_releases_a_lease_that_renews_itself() {
    let mut asker = holding(Request {
        outlives: true,
        ..Asker::request()
    });
    let said = asker.does(|c, out| c.release_all(at(130), out));
    assert_eq!(
        said,
        ["v1", "v2", "v3"].map(|v| format!("{v} Release #1 granted"))
    );
}

#[test]
fn adoption_loses_an_outliving_lease_and_releases_nothing() {
    let mut asker = holding(tick());
    let said = asker.does(|c, out| c.adopt(at(130), Incarnation::new(9), out));
    assert_eq!(said, ["Lost w100"]);
    assert_eq!(asker.held(131), None);
}

/// Of an earlier incarnation it cannot know whether its locks are over.
#[test]
fn rule_17_claims_of_other_incarnations_are_not_released() {
    let mut asker = Asker::new(3);
    asker.asks(100, Asker::request());
    for incarnation in [0, 2] {
        let vote = Vote {
            claim: in_incarnation(&own(1), incarnation),
            ..vote(1, instant(100), 10_000)
        };
        assert_eq!(asker.hears(110, "v1", Message::Vote(vote)), NOTHING);
        let Message::Wait(wait) = waits(HolderGranted::No) else {
            unreachable!()
        };
        let claim = in_incarnation(&own(1), incarnation);
        let wait = Message::Wait(Wait { claim, ..wait });
        assert_eq!(asker.hears(110, "v1", wait), NOTHING);
    }
    // Of this incarnation it knows that it is over, by release or by the clock.
    let mut asker = holding(tick());
    assert_eq!(asker.wakes(10_000)[0], "Lost w100");
    assert_eq!(
        asker.hears(10_001, "v1", asked(100, 10_000)),
        ["v1 Release #1 granted"]
    );
}

#[test]
fn every_claim_of_an_outliving_request_says_so() {
    let mut asker = Asker::new(1);
    assert_eq!(
        asker.asks(100, tick()),
        ["v1 Claim #1 w100 100+10000 try outlives"]
    );
    asker.hears(110, "v1", voted(100, 10_000));
    let again = asker.hears(200, "v1", asked(100, 10_000));
    assert_eq!(again, ["v1 Claim #1 w100 200+9910 granted try outlives"]);
}
