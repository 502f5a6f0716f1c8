//! Rule 7 and section 6: a process that restarts.

use super::*;

fn in_incarnation(claim: Claim, incarnation: u64) -> Claim {
    let incarnation = Incarnation::new(incarnation);
    let id = ClaimId {
        incarnation,
        ..claim.claim.clone()
    };
    Claim { claim: id, ..claim }
}

/// Rule 7.
#[test]
fn later_incarnation_ends_claims_of_earlier_ones() {
    let mut booth = Booth::new();
    let on = |key: &str, claim| Claim {
        key: Key::new(key).unwrap(),
        ..claim
    };
    booth.hears(0, &in_incarnation(claim("a", 5, 1), 3));
    booth.hears(1, &claim("b", 6, 1));
    booth.hears(1, &on("l", claim("b", 6, 1)));
    booth.hears(1, &on("l", in_incarnation(claim("a", 7, 1), 3)));
    booth.hears(1, &on("l", in_incarnation(claim("c", 8, 1), 3)));
    assert_eq!(booth.voter.waiters(), 3);
    let same =
        booth.does(|v, out| v.handle_incarnation(at(2), &node("a"), Incarnation::new(3), out));
    assert_eq!(same, [""; 0]);
    let next =
        booth.does(|v, out| v.handle_incarnation(at(3), &node("a"), Incarnation::new(4), out));
    // The vote goes to the next claim, above the fence of the ended one. The waiters of the ended
    // incarnation are dropped.
    assert_eq!(next, ["b Vote 1+252"]);
    assert_eq!(booth.fence(), 5);
    assert_eq!(booth.voter.waiters(), 1);
    let l = Key::new("l").unwrap();
    assert_eq!(booth.voter.fence(&l), Epoch::ZERO);
}

/// The leases of an ended incarnation end at the claimant first.
#[test]
fn later_incarnation_loses_leases_and_restarts_claims() {
    let mut asker = Asker::new(1);
    asker.asks(100, Asker::request());
    asker.hears(110, "v1", voted(100, 10_000));
    asker.asks(120, Asker::request());
    let said = asker.does(|c, out| c.adopt(at(130), Incarnation::new(9), out));
    let expected = [
        "Lost w100",
        "v1 Release #1 granted",
        "v1 Release #2",
        "v1 Claim #3 w130 130+10000",
    ];
    assert_eq!(said, expected);
    assert_eq!(asker.held(131), None);
    assert_eq!(asker.claimant.incarnation(), Incarnation::new(9));
    // A vote for the same number in the earlier incarnation does not count.
    let old = Vote {
        claim: own(3),
        ..vote(3, instant(130), 10_000)
    };
    let answer = asker.hears(140, "v1", Message::Vote(old.clone()));
    assert_eq!(answer, [""; 0]);
    let incarnation = Incarnation::new(9);
    let claim = ClaimId {
        incarnation,
        ..own(3)
    };
    let granted = asker.hears(140, "v1", Message::Vote(Vote { claim, ..old }));
    assert_eq!(granted, ["Granted w130 until 10030"]);
    // An incarnation that is not higher changes nothing.
    assert_eq!(
        asker.does(|c, out| c.adopt(at(150), Incarnation::new(9), out)),
        [""; 0]
    );
}
