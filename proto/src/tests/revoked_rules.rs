//! Rule 38: claims that an operator revoked, at voters and at claimants.

use super::*;
use crate::id::Note;
use crate::message::Revoke;

const NOTHING: [&str; 0] = [];

fn revoke_of(claim: ClaimId) -> Revoke {
    Revoke {
        nonce: 7,
        key: key(),
        claim,
        by: Note::new("ann").unwrap(),
        through: node("ops"),
    }
}

impl Booth {
    /// Revokes a claim. Returns the outputs, the remaining time of its vote, and `true` if the voter
    /// remembers the claim.
    fn revokes(&mut self, at_ms: u64, claim: ClaimId) -> (Vec<String>, String, bool) {
        let mut out = Effects::default();
        let reply = self
            .voter
            .handle_revoke(at(at_ms), &revoke_of(claim), false, &mut out);
        (lines(&out), span(reply.remaining), reply.is_kept)
    }

    fn holder(&self, at_ms: u64) -> Option<String> {
        let vote = self.voter.report(at(at_ms), 0, &key()).vote;
        vote.map(|vote| format!("{} for {}", vote.claim.node, span(vote.remaining)))
    }
}

/// A voter whose vote for node `a` was given at 0 and lasts until 10,000.
fn voted_for_a() -> Booth {
    let mut booth = Booth::new();
    booth.hears(0, &granted(claim("a", 5, 0)));
    booth
}

#[test]
fn revoked_vote_is_kept_and_not_renewed() {
    let mut booth = voted_for_a();
    booth.hears(100, &claim("b", 6, 100));
    let (said, remaining, is_kept) = booth.revokes(1_000, id("a"));
    assert_eq!(said, ["VoteRevoked a e5", "a Revoke #1 by ann"]);
    assert_eq!((remaining.as_str(), is_kept), ("9000", true));
    // The holder is told again, and its vote stays as it is.
    let renewed = booth.hears(2_000, &granted(claim("a", 5, 2_000)));
    assert_eq!(renewed, ["a Revoke #1 by ann", "a Vote 0+10000"]);
    assert_eq!(booth.holder(9_999).unwrap(), "a for 1");
    booth.hears(9_000, &claim("b", 6, 9_000));
    assert_eq!(booth.wakes(10_000), ["b Vote 9000+1250"]);
}

#[test]
fn revoked_claim_gets_no_vote_again() {
    let mut booth = voted_for_a();
    booth.revokes(1_000, id("a"));
    booth.wakes(10_000);
    assert_eq!(booth.holder(10_000), None);
    for is_granted in [false, true] {
        let late = Claim {
            granted: is_granted,
            ..claim("a", 5, 10_100)
        };
        let answer = booth.hears(10_100, &late);
        assert_eq!(answer, ["a Revoke #1 by ann", "a Stale e5"]);
    }
    assert_eq!(booth.holder(10_100), None);
    // A later claim of the same node does.
    let other = Claim {
        claim: own(2),
        ..claim("a", 6, 10_200)
    };
    assert_eq!(booth.hears(10_200, &other), ["a Vote 10200+10000"]);
}

#[test]
fn revoked_claim_is_remembered_for_two_quarantines() {
    let mut booth = voted_for_a();
    booth.revokes(1_000, id("a"));
    // max_ttl is 30 s, and the drift 1 %.
    let until = 1_000 + 2 * 30_600;
    let late = |at| granted(claim("a", 5, at));
    let answer = booth.hears(until - 1, &late(until - 1));
    assert_eq!(answer, ["a Revoke #1 by ann", "a Stale e5"]);
    booth.wakes(until);
    assert_eq!(
        booth.hears(until, &late(until)),
        [format!("a Vote {until}+10000")]
    );
}

#[test]
fn revoke_of_one_claim_leaves_later_claim_alone() {
    let mut booth = voted_for_a();
    booth.hears_release(100, &release("a", true));
    booth.hears(200, &claim("b", 6, 200));
    let (said, remaining, is_kept) = booth.revokes(300, id("a"));
    assert_eq!(
        (said, remaining.as_str(), is_kept),
        (vec!["a Revoke #1 by ann".to_owned()], "0", true)
    );
    assert_eq!(
        booth.hears(400, &granted(claim("b", 6, 400))),
        ["b Vote 400+10000"]
    );
}

#[test]
fn session_of_revoked_vote_covers_it_to_its_end() {
    let mut booth = Booth::new();
    let numbered = |seq: u64, at| Claim {
        key: Key::new(format!("k{seq}")).unwrap(),
        claim: own(seq),
        ..joining(claim("a", seq + 4, at))
    };
    booth.hears(0, &joining(claim("a", 5, 0)));
    booth.hears(0, &numbered(2, 0));
    let both = || digest([1, 2]);
    assert_eq!(
        booth.is_kept(5_000, "a", 1, both()),
        ["a Kept S1 5000+10000"]
    );
    let (_, remaining, _) = booth.revokes(6_000, id("a"));
    assert_eq!(remaining, "9000");
    // The session is over for its node, and keeps what it promised.
    assert_eq!(booth.is_kept(8_000, "a", 1, both()), ["a Kept S1 over"]);
    assert_eq!(
        booth.hears(8_100, &numbered(2, 8_100)),
        ["a Vote 8100+10000 by S2"]
    );
    let renewed = booth.hears(8_200, &joining(claim("a", 5, 8_200)));
    assert_eq!(renewed, ["a Revoke #1 by ann", "a Vote 0+10000"]);
    booth.wakes(14_999);
    assert_eq!(booth.holder(14_999).unwrap(), "a for 1");
    booth.wakes(15_000);
    assert_eq!(booth.holder(15_000), None);
    assert_eq!(booth.voter.sessions(), 1);
}

#[test]
fn voter_in_recovery_does_not_confirm() {
    let (mut booth, _) = Booth::of(3, 3, Start::Recovering);
    assert_eq!(
        booth.revokes(10, id("a")),
        (Vec::new(), "0".to_owned(), false)
    );
}

#[test]
fn revoked_claims_are_bounded() {
    let mut booth = voted_for_a();
    for seq in 2..2_000 {
        let (.., is_kept) = booth.revokes(10, own(seq));
        assert_eq!(is_kept, seq < 2 + 1_024);
    }
    // The holder is told nevertheless.
    let (sent, _, is_kept) = booth.revokes(10, id("b"));
    assert!(!is_kept);
    assert_eq!(sent, ["b Revoke #1 by ann"]);
    // A claim that is over at its own node makes room.
    booth.voter.note_over(&own(2));
    assert!(booth.revokes(10, id("b")).2);
    assert!(!booth.revokes(10, id("c")).2);
    let (.., is_kept) = booth.revokes(10 + 61_200, id("a"));
    assert!(is_kept);
}

/// The claimant of node `a`, whose lease lasts until 9,900, and its three voters.
fn held() -> Asker {
    let mut asker = Asker::new(3);
    asker.asks(0, Asker::request());
    for voter in ["v1", "v2"] {
        asker.hears(10, voter, voted(0, 10_000));
    }
    assert_eq!(asker.held(10).unwrap(), "9899'999999");
    asker
}

fn is_revoked(asker: &mut Asker, at_ms: u64, claim: ClaimId) -> Vec<String> {
    asker.does(|claimant, out| {
        assert!(claimant.revoke(at(at_ms), &revoke_of(claim), out));
    })
}

#[test]
fn revoked_lease_is_lost_and_sends_nothing() {
    let mut asker = held();
    assert_eq!(is_revoked(&mut asker, 20, own(1)), ["Revoked w0 by ann"]);
    assert_eq!(asker.held(20), None);
    assert_eq!(is_revoked(&mut asker, 30, own(1)), NOTHING);
    // Neither a probe nor a late vote is answered.
    assert_eq!(asker.hears(40, "v1", asked(0, 10_000)), NOTHING);
    assert_eq!(asker.hears(40, "v3", voted(0, 10_000)), NOTHING);
    assert_eq!(asker.runs(9_899), []);
    let over = asker.wakes(9_900);
    let releases = ["v1", "v2", "v3"].map(|voter| format!("{voter} Release #1 granted"));
    assert_eq!(over, releases);
    assert!(asker.claimant.is_empty());
}

#[test]
fn guard_that_is_dropped_releases_revoked_lease() {
    let mut asker = held();
    is_revoked(&mut asker, 20, own(1));
    let releases = ["v1", "v2", "v3"].map(|voter| format!("{voter} Release #1 granted"));
    assert_eq!(asker.releases(30), releases);
    assert!(asker.claimant.is_empty());
}

#[test]
fn revoked_lease_that_outlives_is_not_released_at_shutdown() {
    let mut asker = Asker::new(1);
    asker.asks(
        0,
        Request {
            renews: false,
            outlives: true,
            ..Asker::request()
        },
    );
    asker.hears(10, "v1", voted(0, 10_000));
    is_revoked(&mut asker, 20, own(1));
    let shut_down = asker.does(|claimant, out| claimant.release_all(at(30), out));
    assert_eq!(shut_down, NOTHING);
}

#[test]
fn waiting_request_goes_on_as_another_claim() {
    let mut asker = Asker::new(1);
    asker.asks(0, Asker::request());
    let said = is_revoked(&mut asker, 20, own(1));
    assert_eq!(said, ["v1 Release #1", "v1 Claim #2 w20 20+10000"]);
    // It is another claim, so the first is over.
    assert_eq!(is_revoked(&mut asker, 30, own(1)), NOTHING);
}

#[test]
fn key_of_revoked_lease_is_not_marked() {
    let mut asker = held();
    asker.does(|claimant, out| claimant.mark(at(15), Ticket(1), ms(1_000), out).unwrap());
    is_revoked(&mut asker, 20, own(1));
    let marked = crate::message::Marked {
        claim: own(1),
        sent_at: instant(15),
        is_kept: true,
    };
    for voter in ["v1", "v2", "v3"] {
        let marked = Message::Marked(marked.clone());
        assert_eq!(asker.hears(25, voter, marked), NOTHING);
    }
    let again = asker
        .claimant
        .mark(at(30), Ticket(1), ms(1_000), &mut Effects::default());
    assert!(again.is_err());
}
