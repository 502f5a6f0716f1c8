//! Rule 24: full voters, the claims that they refuse, and full queues.

use super::claimant_rules::trying;
use super::*;

const NOTHING: [&str; 0] = [];

fn tight(waiters_max: usize) -> Booth {
    Booth::with(VoterLimits {
        waiters_max,
        ..VoterLimits::default()
    })
}

fn limit() -> Message {
    refused(RefuseReason::Limit)
}

#[test]
fn last_in_full_queue_yields_to_better_rank() {
    let mut booth = tight(2);
    booth.hears(0, &claim("a", 1, 1));
    booth.hears(1, &claim("c", 6, 1));
    booth.hears(1, &claim("d", 8, 1));
    let said = booth.hears(2, &claim("b", 5, 1));
    assert_eq!(said, ["d Refuse Limit", "b Wait a e1 no"]);
    assert_eq!(booth.hears(3, &claim("d", 8, 2)), ["d Refuse Limit"]);
    assert_eq!(
        booth.hears_release(4, &release("a", false)),
        ["b Vote 1+252"]
    );
    // The queue has a free place again.
    assert_eq!(booth.hears(5, &claim("d", 8, 3))[0], "d Wait b e5 no");
}

#[test]
fn granted_claim_takes_the_last_place() {
    let mut booth = tight(1);
    booth.hears(0, &claim("a", 1, 1));
    booth.hears(1, &claim("b", 2, 1));
    let said = booth.hears(2, &granted(claim("z", 9, 1)));
    assert_eq!(said[..2], ["b Refuse Limit", "z Wait a e1 no"]);
}

/// It needs no place in the queue to learn that another claim is granted.
#[test]
fn try_beside_full_queue_learns_of_holder() {
    let mut booth = tight(1);
    let is_try = true;
    booth.hears(0, &granted(claim("a", 1, 1)));
    booth.hears(1, &claim("b", 2, 1));
    let late = Claim {
        is_try,
        ..claim("c", 3, 1)
    };
    assert_eq!(booth.hears(2, &late), ["c Wait a e1 yes"]);
    assert_eq!(booth.voter.waiters(), 1);
    // A `try` that loses its place receives no `Refuse`: it retransmits anyway.
    let mut booth = tight(1);
    booth.hears(0, &claim("a", 1, 1));
    booth.hears(1, &late);
    assert_eq!(booth.hears(2, &claim("b", 2, 1)), ["b Wait a e1 no"]);
}

/// Rule 24.
#[test]
fn refused_claim_releases_all_and_retries() {
    let mut asker = Asker::new(3);
    asker.asks(100, Asker::request());
    asker.hears(110, "v1", voted(100, 10_000));
    // The other two voters may still be a quorum.
    assert_eq!(asker.hears(110, "v2", limit()), NOTHING);
    let said = asker.hears(110, "v3", limit());
    assert_eq!(said, ["v1", "v2", "v3"].map(|v| format!("{v} Release #1")));
    assert_eq!(asker.claimant.waiting(), 1);
    // Answers to the ended claim do not count, and no claim is sent meanwhile.
    assert_eq!(
        asker.hears(111, "v2", voted(100, 10_000)),
        ["v2 Release #1"]
    );
    let reached = asker.does(|c, out| c.handle_reachable(at(111), &node("v2"), out));
    assert_eq!(reached, NOTHING);
    let due = asker.claimant.next_timeout().unwrap();
    // After one round trip and up to four more, drawn at random.
    assert!(
        due >= instant(120) && due <= instant(160),
        "{}",
        reading(due)
    );
    let at_ms = due.as_nanos().div_ceil(1_000_000);
    let claims = ["v1", "v2", "v3"].map(|v| format!("{v} Claim #2 w100 {at_ms}+10000"));
    assert_eq!(asker.wakes(at_ms), claims);
}

#[test]
fn claim_with_other_quorum_ignores_full_voter() {
    let mut asker = Asker::new(3);
    asker.asks(100, Asker::request());
    asker.hears(110, "v1", voted(100, 10_000));
    asker.hears(110, "v2", waits(HolderGranted::No));
    for _ in 0..5 {
        assert_eq!(asker.hears(110, "v3", limit()), NOTHING);
    }
}

/// Rule 24. Voters that do not answer do not count as possible votes.
#[test]
fn claim_backs_off_from_full_and_dead_voters() {
    let mut asker = Asker::new(3);
    asker.asks(100, Asker::request());
    asker.hears(101, "v1", voted(100, 10_000));
    assert_eq!(asker.hears(101, "v2", limit()), NOTHING);
    asker.runs(200);
    let said = asker.hears(201, "v2", limit());
    assert_eq!(said, ["v1", "v2", "v3"].map(|v| format!("{v} Release #1")));
}

#[test]
fn backed_off_request_times_out_with_reason() {
    let mut asker = Asker::new(1);
    let request = Request {
        deadline: Some(instant(130)),
        ..trying()
    };
    asker.asks(100, request);
    asker.hears(110, "v1", limit());
    let mut out = Effects::default();
    asker.claimant.handle_timeout(at(130), &mut out);
    let [Event::TimedOut { answers, .. }] = &out.events[..] else {
        panic!("{:?}", out.events)
    };
    assert_eq!(answers.reason, Some(RefuseReason::Limit));
    assert!(asker.claimant.is_empty());
    assert_eq!(asker.claimant.next_timeout(), None);
}
