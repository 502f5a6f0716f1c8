//! Claims that outlive their process: rules 6, 7 and 17, and shutdown.

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

/// Rule 7.
#[test]
fn outliving_vote_lasts_until_it_expires() {
    let mut booth = Booth::new();
    booth.hears(0, &outliving(claim("a", 5, 1)));
    booth.hears(1, &claim("b", 6, 1));
    // The vote stays though it is not known as granted: the claimant may have notified its caller.
    let next = Incarnation::new(2);
    for at_ms in [2, 3] {
        let said = booth.does(|v, out| v.handle_incarnation(at(at_ms), &node("a"), next, out));
        assert_eq!(said, NOTHING);
    }
    assert_eq!(booth.expires(), "10000");
    assert_eq!(booth.wakes(10_000), ["b Vote 1+10249"]);
    assert_eq!(booth.fence(), 5);
}

/// Rule 7.
#[test]
fn outliving_claim_in_queue_is_dropped() {
    let mut booth = Booth::new();
    booth.hears(0, &claim("b", 5, 1));
    booth.hears(1, &outliving(claim("a", 6, 1)));
    assert_eq!(booth.voter.waiters(), 1);
    booth.does(|v, out| v.handle_incarnation(at(2), &node("a"), Incarnation::new(2), out));
    assert_eq!(booth.voter.waiters(), 0);
}

/// Rule 6.
#[test]
fn release_ends_outliving_vote() {
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
    // No caller was notified of these two.
    assert_eq!(said, [released(2), released(3)].concat());
    assert_eq!(asker.held(131).as_deref(), Some("10000"));
    // An explicit release still ends the lease.
    assert_eq!(
        asker.releases(140),
        ["v1", "v2", "v3"].map(|v| format!("{v} Release #1 granted"))
    );
}

#[test]
fn shutdown_releases_self_renewing_lease() {
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
fn new_incarnation_loses_outliving_lease_without_release() {
    let mut asker = holding(tick());
    let said = asker.does(|c, out| c.adopt(at(130), Incarnation::new(9), out));
    assert_eq!(said, ["Lost w100"]);
    assert_eq!(asker.held(131), None);
}

/// Rule 17. A process cannot know whether the locks of another incarnation are over.
#[test]
fn claims_of_other_incarnations_are_not_released() {
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
    // It does know that a claim of its own ended, by release or by the clock.
    let mut asker = holding(tick());
    assert_eq!(asker.wakes(10_000)[0], "Lost w100");
    assert_eq!(
        asker.hears(10_001, "v1", asked(100, 10_000)),
        ["v1 Release #1 granted"]
    );
}

#[test]
fn every_claim_of_outliving_request_is_flagged() {
    let mut asker = Asker::new(1);
    assert_eq!(
        asker.asks(100, tick()),
        ["v1 Claim #1 w100 100+10000 try outlives"]
    );
    asker.hears(110, "v1", voted(100, 10_000));
    let again = asker.hears(200, "v1", asked(100, 10_000));
    assert_eq!(again, ["v1 Claim #1 w100 200+9910 granted try outlives"]);
}
