//! Rules 14 to 17: claims that wait, are stale, are denied, or have ended.

use super::claimant_rules::{holding, to, trying};
use super::*;
use crate::epoch::EpochClock;

const NOTHING: [&str; 0] = [];

/// Rule 14. Voters that replied `Wait` receive it less often.
#[test]
fn claim_is_retransmitted_sooner_to_silent_voters() {
    let mut asker = Asker::new(3);
    asker.asks(100, Asker::request());
    asker.hears(105, "v1", waits(HolderGranted::Yes));
    let said = asker.runs(5_000);
    let silent = to("v2", &said);
    // Two round trips, doubled each time, with jitter, up to the interval for voters that replied
    // `Wait`.
    assert!((15..=20).contains(&(silent[0].0 - 100)), "{silent:?}");
    assert!(
        (30..=41).contains(&(silent[1].0 - silent[0].0)),
        "{silent:?}"
    );
    assert!(silent.windows(2).all(|two| two[1].0 - two[0].0 <= 501));
    // Fifty round trips are 500 ms.
    let waiting = to("v1", &said);
    assert!((375..=500).contains(&(waiting[0].0 - 105)), "{waiting:?}");
    assert_ne!(to("v3", &said), silent, "the jitter keeps them apart");
}

/// Rule 14. The interval is at most a quarter of the ttl, including jitter. Thus three
/// retransmissions may be lost before the voter drops the claim.
#[test]
fn waiting_claim_is_retransmitted_within_quarter_ttl() {
    let mut asker = Asker::new(1);
    let ttl = ms(400);
    for n in 1..=50 {
        let start = n * 1_000;
        asker.asks(
            start,
            Request {
                ttl,
                ..Asker::request()
            },
        );
        let wait = Wait {
            key: key(),
            claim: own(n),
            holder: id("b"),
            epoch: EpochClock::first_of(WALL),
            granted: HolderGranted::Yes,
            ahead: 0,
        };
        asker.hears(start, "v1", Message::Wait(wait));
        let due = asker.claimant.next_timeout().unwrap();
        assert!(due <= instant(start + 100), "{}", reading(due));
        asker.does(|c, out| {
            c.release(at(start), Ticket(n), out);
        });
    }
}

/// Rule 14.
#[test]
fn try_is_retransmitted_to_all_voters() {
    let mut asker = Asker::new(3);
    asker.asks(100, trying());
    asker.hears(105, "v1", waits(HolderGranted::No));
    asker.hears(105, "v2", voted(100, 10_000));
    let said = asker.runs(300);
    let (v1, v2, v3) = (to("v1", &said), to("v2", &said), to("v3", &said));
    assert!(v1.len() >= 3);
    assert_eq!((v1.len(), v2.len()), (v3.len(), v3.len()));
    assert!(v1[0].1.ends_with("try"));
}

/// Rule 15.
#[test]
fn stale_ungranted_claim_restarts_above_fence() {
    let mut asker = Asker::new(3);
    asker.asks(100, Asker::request());
    asker.hears(109, "v1", voted(100, 10_000));
    let fence = EpochClock::first_of(WALL + 700);
    let anew = asker.hears(110, "v2", stale(1, fence));
    assert_eq!(
        anew[..3],
        ["v1", "v2", "v3"].map(|v| format!("{v} Release #1"))
    );
    let claims = ["v1", "v2", "v3"].map(|v| format!("{v} Claim #2 w701 110+10000"));
    assert_eq!(anew[3..], claims);
    // The vote for the first claim does not count for the second.
    assert_eq!(
        asker.hears(111, "v2", Message::Vote(vote(2, instant(110), 10_000))),
        NOTHING
    );
    let granted = asker.hears(111, "v3", Message::Vote(vote(2, instant(110), 10_000)));
    assert_eq!(granted, ["Granted w701 until 10010"]);
}

/// Rule 15.
#[test]
fn stale_after_grant_is_ignored() {
    let mut asker = holding(Asker::request());
    let fence = EpochClock::first_of(WALL + 700);
    assert_eq!(asker.hears(120, "v3", stale(1, fence)), NOTHING);
    assert_eq!(asker.held(120).as_deref(), Some("10000"));
}

/// Rule 15.
#[test]
fn stale_for_ended_claim_is_ignored() {
    let mut asker = Asker::new(3);
    asker.asks(100, Asker::request());
    let fence = EpochClock::first_of(WALL + 700);
    asker.hears(110, "v2", stale(1, fence));
    assert_eq!(asker.hears(111, "v3", stale(1, fence)), NOTHING);
}

/// Rule 16.
#[test]
fn try_is_denied_when_no_quorum_remains() {
    let mut asker = Asker::new(5);
    asker.asks(100, trying());
    assert_eq!(asker.hears(110, "v1", waits(HolderGranted::Yes)), NOTHING);
    assert_eq!(asker.hears(110, "v1", waits(HolderGranted::Yes)), NOTHING);
    assert_eq!(asker.hears(110, "v2", waits(HolderGranted::Yes)), NOTHING);
    let denied = asker.hears(110, "v3", waits(HolderGranted::Yes));
    assert_eq!(denied[0], "Denied");
    assert_eq!(denied[1], "v1 Release #1");
    assert_eq!(denied.len(), 6);
    assert!(asker.claimant.is_empty());
}

/// Rule 16. The report of one voter may be out of date. Voters that report no grant never deny,
/// whatever their number.
#[test]
fn try_is_not_denied_by_minority_or_no() {
    let mut asker = Asker::new(3);
    asker.asks(100, trying());
    asker.hears(110, "v1", waits(HolderGranted::Yes));
    for _ in 0..2 {
        asker.hears(110, "v2", waits(HolderGranted::No));
        asker.hears(110, "v3", waits(HolderGranted::No));
    }
    let said = asker.runs(3_000);
    assert!(said.iter().all(|(_, line)| line != "Denied"));
    // The same if no voter answers at all.
    let mut asker = Asker::new(3);
    asker.asks(100, trying());
    let said = asker.runs(20_000);
    assert!(said.iter().all(|(_, line)| line != "Denied"));
}

/// Rule 16.
#[test]
fn silent_voters_count_after_three_retransmissions() {
    let outcomes = [
        (
            waits(HolderGranted::Silent),
            waits(HolderGranted::Silent),
            true,
        ),
        (
            waits(HolderGranted::Silent),
            refused(RefuseReason::Quarantine),
            true,
        ),
        (
            waits(HolderGranted::Yes),
            waits(HolderGranted::Silent),
            true,
        ),
        (waits(HolderGranted::Silent), waits(HolderGranted::No), true),
        (waits(HolderGranted::No), waits(HolderGranted::No), false),
        (
            refused(RefuseReason::Limit),
            refused(RefuseReason::Limit),
            false,
        ),
    ];
    for (first, second, denied) in outcomes {
        let mut asker = Asker::new(3);
        asker.asks(100, trying());
        let mut repeats = 0;
        let mut ended = None;
        while repeats < 6 && ended.is_none() {
            let mut said = asker.hears(101, "v1", first.clone());
            said.extend(asker.hears(101, "v2", second.clone()));
            let due = asker
                .claimant
                .next_timeout()
                .map(|due| due.as_nanos() / 1_000_000 + 1);
            said.extend(due.map_or(Vec::new(), |due| asker.wakes(due)));
            if said.contains(&"Denied".to_owned()) {
                ended = Some(repeats);
            }
            repeats += 1;
        }
        assert_eq!(ended, denied.then_some(3), "{first:?} {second:?}");
    }
}

/// A `Wait` for the first claim, with this holder, epoch and state.
fn waits_for(holder: &str, epoch: u64, granted: HolderGranted) -> Message {
    let Message::Wait(wait) = waits(granted) else {
        unreachable!()
    };
    Message::Wait(Wait {
        holder: id(holder),
        epoch: EpochClock::first_of(WALL + epoch),
        ..wait
    })
}

/// Returns the number of retransmissions after which a `try` is denied. Each round its voters reply
/// with `said`. Its own epoch is `w100`.
fn denied_after(said: &[Option<Message>]) -> Option<u32> {
    let mut asker = Asker::new(said.len());
    asker.asks(100, trying());
    for repeats in 0..6 {
        let mut lines = Vec::new();
        for (n, message) in (1..).zip(said) {
            let voter = format!("v{n}");
            let told = message.clone().map(|it| asker.hears(101, &voter, it));
            lines.extend(told.unwrap_or_default());
        }
        let due = asker.claimant.next_timeout();
        let due = due.map(|due| due.as_nanos() / 1_000_000 + 1);
        lines.extend(due.map_or(Vec::new(), |due| asker.wakes(due)));
        if lines.contains(&"Denied".to_owned()) {
            return Some(repeats);
        }
    }
    None
}

/// Rule 16. The holder may have been granted. No other claim can be before those votes end.
#[test]
fn try_beside_one_unheard_holder_is_denied() {
    let unheard = |holder, epoch| Some(waits_for(holder, epoch, HolderGranted::Unheard));
    let before = unheard("b", 50);
    let after = unheard("b", 150);
    let no = Some(waits_for("b", 50, HolderGranted::No));
    let silent = Some(waits_for("b", 50, HolderGranted::Silent));
    let vote = Some(voted(101, 10_000));
    for (said, denied) in [
        // A quorum names the holder.
        (vec![before.clone(), before.clone(), vote.clone()], true),
        (vec![after.clone(), after.clone(), vote.clone()], true),
        (vec![before.clone(), silent, vote.clone()], true),
        // A voter without an answer may have voted for the holder, unless the holder would yield.
        (vec![before.clone(), None, vote.clone()], true),
        (vec![after, None, vote.clone()], false),
        (vec![before.clone(), vote.clone(), None, None, vote], true),
        // No quorum answers, or the holder was received lately.
        (
            vec![before.clone(), before.clone(), None, None, None],
            false,
        ),
        (vec![before, None, None, None, None], false),
        (vec![no.clone(), no, None], false),
    ] {
        let expected = denied.then_some(3);
        assert_eq!(denied_after(&said), expected, "{said:?}");
    }
}

/// Rule 16. All of them may be `try` claims. If each were denied, none would be granted.
#[test]
fn differing_unheard_holders_deny_nothing() {
    let unheard = |holder, epoch| Some(waits_for(holder, epoch, HolderGranted::Unheard));
    let vote = Some(voted(101, 10_000));
    let split = vec![unheard("b", 50), unheard("c", 60), vote];
    assert_eq!(denied_after(&split), None);
    let split = vec![unheard("b", 150), unheard("c", 160), None];
    assert_eq!(denied_after(&split), None);
}

/// Rule 16. Its release was lost, and the voter's next probe repeats the release.
#[test]
fn own_ended_claim_denies_no_try() {
    for granted in [
        HolderGranted::Unheard,
        HolderGranted::Silent,
        HolderGranted::Yes,
    ] {
        let Message::Wait(wait) = waits_for("b", 50, granted) else {
            unreachable!()
        };
        let holder = own(77);
        let ghost = Some(Message::Wait(Wait { holder, ..wait }));
        assert_eq!(
            denied_after(&[ghost.clone(), ghost, None]),
            None,
            "{granted:?}"
        );
    }
}

/// Rule 16.
#[test]
fn acquire_is_never_denied() {
    let mut asker = Asker::new(3);
    asker.asks(100, Asker::request());
    for voter in ["v1", "v2", "v3"] {
        assert_eq!(asker.hears(110, voter, waits(HolderGranted::Yes)), NOTHING);
    }
    assert_eq!(asker.claimant.waiting(), 1);
}

/// Rule 17.
#[test]
fn vote_for_ended_claim_is_released() {
    // A claim of this process that ended without a grant.
    let mut asker = Asker::new(3);
    asker.asks(100, Asker::request());
    asker.releases(105);
    assert_eq!(
        asker.hears(110, "v1", voted(100, 10_000)),
        ["v1 Release #1"]
    );
    assert_eq!(
        asker.hears(110, "v2", waits(HolderGranted::No)),
        ["v2 Release #1"]
    );
    // A claim that ended after its grant.
    let mut asker = holding(Asker::request());
    asker.releases(120);
    assert_eq!(
        asker.hears(130, "v3", voted(100, 10_000)),
        ["v3 Release #1 granted"]
    );
    // A claim that this process does not know.
    let unknown = Vote {
        claim: own(77),
        ..vote(1, instant(100), 10_000)
    };
    let answer = asker.hears(131, "v3", Message::Vote(unknown));
    assert_eq!(answer, ["v3 Release #77 granted"]);
    let mut asker = Asker::new(3);
    asker.asks(100, Asker::request());
    // `Stale` and `Refuse` imply neither a vote nor a place in the queue.
    asker.releases(133);
    assert_eq!(asker.hears(134, "v1", stale(1, Epoch::new(5))), NOTHING);
    assert_eq!(
        asker.hears(134, "v1", refused(RefuseReason::Limit)),
        NOTHING
    );
}

/// Rule 17. A claim that was granted raises the fence when it ends. So does a claim whose grant is
/// no longer remembered.
#[test]
fn ended_or_forgotten_claim_releases_as_granted() {
    let mut asker = holding(Asker::request());
    asker.wakes(10_000);
    assert_eq!(
        asker.hears(10_001, "v2", wanted_back(100, 10_000)),
        ["v2 Release #1 granted"]
    );
    // After 1,024 more claims the first is no longer remembered as never granted.
    let mut asker = Asker::new(1);
    for n in 1..=1_025 {
        asker.asks(100, Asker::request());
        asker.does(|c, out| {
            c.release(at(100), Ticket(n), out);
        });
    }
    let late = |seq| Message::Vote(vote(seq, instant(100), 10_000));
    assert_eq!(asker.hears(110, "v1", late(1)), ["v1 Release #1 granted"]);
    assert_eq!(asker.hears(110, "v1", late(2)), ["v1 Release #2"]);
}

/// Rule 17.
#[test]
fn ungranted_claims_are_remembered_in_any_order() {
    let mut asker = Asker::new(1);
    for _ in 1..=4 {
        asker.asks(100, Asker::request());
    }
    for n in [2, 4, 3, 1] {
        asker.does(|c, out| {
            c.release(at(105), Ticket(n), out);
        });
    }
    for seq in 1..=4 {
        let late = Message::Vote(vote(seq, instant(100), 10_000));
        let answer = asker.hears(110, "v1", late);
        assert_eq!(answer, [format!("v1 Release #{seq}")]);
    }
}

#[test]
fn request_ends_at_deadline_and_leaves_queues() {
    let mut asker = Asker::new(3);
    let deadline = Some(instant(600));
    asker.asks(
        100,
        Request {
            deadline,
            ..Asker::request()
        },
    );
    asker.hears(110, "v1", waits(HolderGranted::Yes));
    let said = asker.runs(10_000);
    let last: Vec<_> = said.iter().rev().take(4).rev().cloned().collect();
    let releases = ["v1", "v2", "v3"].map(|v| (600, format!("{v} Release #1")));
    assert_eq!(last[0], (600, "TimedOut".to_owned()));
    assert_eq!(last[1..], releases);
    assert!(asker.claimant.is_empty());
}

#[test]
fn request_out_of_bounds_sends_nothing() {
    let mut asker = Asker::new(1);
    for ttl in [ms(99), ms(30_001)] {
        let sent = asker.does(|c, out| {
            assert!(
                c.request(
                    at(1),
                    Request {
                        ttl,
                        ..Asker::request()
                    },
                    out
                )
                .is_err()
            );
        });
        assert_eq!(sent, NOTHING);
    }
    for n in 0..100 {
        asker.asks(n, Asker::request());
    }
    asker.does(|c, out| {
        assert!(c.request(at(200), Asker::request(), out).is_err());
    });
    assert_eq!(asker.claimant.len(), 100);
}

#[test]
fn answers_of_non_voters_are_ignored() {
    let mut asker = Asker::new(3);
    asker.asks(100, trying());
    let fence = EpochClock::first_of(WALL + 700);
    let said = [
        stale(1, fence),
        waits(HolderGranted::Yes),
        refused(RefuseReason::Skew),
        voted(100, 10_000),
    ];
    for message in said {
        for foreign_node in ["v4", "v5", "a"] {
            assert_eq!(asker.hears(110, foreign_node, message.clone()), NOTHING);
        }
    }
    let sent = asker.runs(130);
    assert!(to("v1", &sent)[0].1.starts_with("v1 Claim #1 w100"));
}

/// Rule 14. A reservation ends soon, so the claim is sent again while there is time to renew it.
#[test]
fn short_vote_is_renewed_within_half_of_it() {
    let mut asker = Asker::new(3);
    asker.asks(100, Asker::request());
    asker.hears(110, "v1", voted(100, 300));
    asker.hears(110, "v2", waits(HolderGranted::No));
    let said = asker.runs(1_000);
    let (v1, v2) = (to("v1", &said)[0].0, to("v2", &said)[0].0);
    assert!((110 + 112..=110 + 150).contains(&v1), "{v1}");
    assert!((110 + 375..=110 + 500).contains(&v2), "{v2}");
}

/// Rule 12. A late answer to an earlier round does not show that the renewal arrived.
#[test]
fn late_answer_does_not_confirm_renewal() {
    let mut asker = holding(Asker::request());
    asker.hears(111, "v3", voted(100, 10_000));
    asker.runs(3_450);
    for voter in ["v1", "v3"] {
        asker.hears(3_455, voter, voted(100, 10_000));
    }
    asker.hears(3_455, "v2", voted(3_444, 10_000));
    let said = asker.runs(4_000);
    assert!(!to("v1", &said).is_empty() && !to("v3", &said).is_empty());
    assert_eq!(to("v2", &said), []);
}

fn reaches(asker: &mut Asker, at_ms: u64, voter: &str) -> Vec<String> {
    asker.does(|c, out| c.handle_reachable(at(at_ms), &node(voter), out))
}

#[test]
fn reachable_voter_gets_unanswered_claims_at_once() {
    let mut asker = Asker::new(3);
    asker.asks(100, Asker::request());
    asker.hears(105, "v1", waits(HolderGranted::No));
    assert_eq!(reaches(&mut asker, 106, "v1"), NOTHING);
    assert_eq!(reaches(&mut asker, 106, "v9"), NOTHING);
    assert_eq!(
        reaches(&mut asker, 106, "v2"),
        ["v2 Claim #1 w100 106+10000"]
    );
}

#[test]
fn reachable_voter_gets_renewals_it_missed() {
    let mut asker = holding(Asker::request());
    assert_eq!(reaches(&mut asker, 120, "v1"), NOTHING);
    assert_eq!(
        reaches(&mut asker, 120, "v3"),
        ["v3 Claim #1 w100 120+10000 granted"]
    );
    // The renewal has been sent.
    asker.runs(3_444);
    asker.hears(3_450, "v1", voted(3_444, 10_000));
    assert_eq!(reaches(&mut asker, 3_460, "v1"), NOTHING);
    assert_eq!(
        reaches(&mut asker, 3_460, "v2"),
        ["v2 Claim #1 w100 3460+10000 granted join"]
    );
}
