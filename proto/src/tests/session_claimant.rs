//! Rules 18, 20 and 22: the sessions of a claimant, and voters that refuse its claims.

use super::super::claimant::{AGAIN_MAX, WORK_MAX};
use super::claimant_rules::{holding, to};
use super::*;

/// The time of the first renewal of the lease in [`holding`], in milliseconds.
const ROUND: u64 = 3_444;

fn covered(sent_at_ms: u64, number: u32) -> Message {
    Message::Vote(Vote {
        covered: Some(session(number)),
        ..vote(1, instant(sent_at_ms), 10_000)
    })
}

pub(super) fn kept_by(number: u32, sent_at_ms: u64, ttl_ms: u64) -> Kept {
    Kept {
        session: session(number),
        sent_at: instant(sent_at_ms),
        ttl: Some(ms(ttl_ms)),
        lacks: 0,
    }
}

pub(super) fn is_over(number: u32) -> Kept {
    Kept {
        ttl: None,
        ..kept_by(number, 0, 0)
    }
}

impl Asker {
    fn is_told(&mut self, at_ms: u64, from: &str, kept: Kept) {
        self.claimant.handle_kept(at(at_ms), &node(from), &kept);
    }
}

/// A lease renewed at [`ROUND`] and covered by session 1 of each of three voters. All three have
/// replied `Kept` to the `KeepAlive` of 3,460.
fn covered_by_three() -> Asker {
    let mut asker = holding(Asker::request());
    asker.hears(120, "v3", voted(100, 10_000));
    let round = asker.wakes(ROUND);
    let joins = ["v1", "v2", "v3"].map(|v| format!("{v} Claim #1 w100 3444+10000 granted join"));
    assert_eq!(round, joins);
    for voter in ["v1", "v2", "v3"] {
        asker.hears(3_450, voter, covered(3_444, 1));
    }
    let keeps = ["v1", "v2", "v3"].map(|v| format!("{v} KeepAlive S1 3460 of 1"));
    assert_eq!(asker.wakes(3_460), keeps);
    for voter in ["v1", "v2", "v3"] {
        asker.is_told(3_470, voter, kept_by(1, 3_460, 10_000));
    }
    asker
}

/// Rule 18.
#[test]
fn only_renewals_of_renewing_leases_join_sessions() {
    let mut asker = holding(Asker::request());
    // The report of the grant is not a renewal.
    let told = asker.hears(120, "v3", waits(HolderGranted::No));
    assert!(
        told.iter().all(|line| line.ends_with("granted")),
        "{told:?}"
    );
    assert_eq!(told.len(), 3);
    let once = Request {
        renews: false,
        ..Asker::request()
    };
    let said = holding(once).runs(20_000);
    assert!(said.iter().all(|(_, line)| !line.contains("join")));
}

/// Rule 20.
#[test]
fn one_kept_per_voter_renews_covered_lease() {
    let mut asker = covered_by_three();
    // The claim itself is no longer sent: its rounds only recompute the lease.
    let said = asker.runs(6_778);
    assert_eq!(said, [(6_778, "Renewed until 13360".to_owned())]);
    let keeps = asker.runs(6_800);
    let lines: Vec<&str> = keeps.iter().map(|(_, line)| line.as_str()).collect();
    let sent = ["v1", "v2", "v3"].map(|v| format!("{v} KeepAlive S1 6794 of 1"));
    assert_eq!(lines, sent);
    asker.is_told(6_800, "v1", kept_by(1, 6_794, 10_000));
    asker.is_told(6_800, "v2", kept_by(1, 6_794, 10_000));
    let said = asker.runs(10_112);
    assert!(
        said.contains(&(6_820, "Renewed until 16694".to_owned())),
        "{said:?}"
    );
    assert_eq!(asker.held(16_693).as_deref(), Some("16694"));
    assert_eq!(asker.held(16_694), None);
}

/// Rule 20.
#[test]
fn session_counts_from_send_time_less_drift() {
    let mut asker = holding(Asker::request());
    asker.wakes(ROUND);
    for voter in ["v1", "v2"] {
        asker.hears(3_450, voter, covered(3_444, 1));
    }
    asker.wakes(3_460);
    for voter in ["v1", "v2"] {
        asker.is_told(9_000, voter, kept_by(1, 3_460, 20_000));
    }
    let said = asker.wakes(9_001);
    assert!(said.contains(&"Renewed until 23260".to_owned()), "{said:?}");
}

/// Rule 20.
#[test]
fn unrequested_or_old_kept_is_ignored() {
    let mut asker = covered_by_three();
    for voter in ["v1", "v2", "v3"] {
        // A future send time, an old one, another session and another voter.
        asker.is_told(3_480, voter, kept_by(1, 9_000, 10_000));
        asker.is_told(3_480, voter, kept_by(1, 3_459, 30_000));
        asker.is_told(3_480, voter, kept_by(2, 3_460, 30_000));
    }
    asker.is_told(3_480, "v9", kept_by(1, 3_460, 30_000));
    let said = asker.wakes(6_778);
    assert!(said.contains(&"Renewed until 13360".to_owned()), "{said:?}");
}

/// Rule 20. A claim is covered only if its vote names the session.
#[test]
fn session_counts_only_for_covered_claims() {
    let mut asker = covered_by_three();
    let other = Request {
        key: Key::new("other").unwrap(),
        ..Asker::request()
    };
    asker.asks(3_500, other);
    for voter in ["v1", "v2"] {
        let vote = Vote {
            key: Key::new("other").unwrap(),
            ..vote(2, instant(3_500), 5_000)
        };
        asker.hears(3_510, voter, Message::Vote(vote));
    }
    let second = Ticket(2);
    let valid_until = asker.claimant.valid_until(at(3_520), second);
    assert_eq!(valid_until.map(reading).as_deref(), Some("8450"));
}

/// Rule 20.
#[test]
fn late_vote_does_not_restore_earlier_session() {
    let mut asker = holding(Asker::request());
    asker.wakes(ROUND);
    let again = asker.runs(3_470);
    let sent_at = to("v1", &again)[0].0;
    asker.hears(3_480, "v1", covered(sent_at, 2));
    asker.hears(3_481, "v1", covered(3_444, 1));
    let keeps = asker.wakes(3_482);
    let to_v1: Vec<&String> = keeps
        .iter()
        .filter(|line| line.starts_with("v1 K"))
        .collect();
    assert_eq!(to_v1, ["v1 KeepAlive S2 3482 of 1"]);
    assert_eq!(asker.claimant.sessions(), 1);
}

/// Rule 20. The voter ended the first session, and this claimant does not know it yet.
#[test]
fn newer_vote_can_name_another_session() {
    let mut asker = holding(Asker::request());
    asker.wakes(ROUND);
    let again = asker.runs(3_470);
    let sent_at = to("v1", &again)[0].0;
    asker.hears(3_480, "v1", covered(ROUND, 1));
    asker.hears(3_481, "v1", covered(sent_at, 2));
    assert_eq!(asker.claimant.sessions(), 1);
    let keeps = asker.wakes(3_482);
    assert!(
        keeps.contains(&"v1 KeepAlive S2 3482 of 1".to_owned()),
        "{keeps:?}"
    );
}

/// Rule 20.
#[test]
fn ended_session_returns_claims_to_joining_renewals() {
    let mut asker = covered_by_three();
    asker.is_told(3_500, "v2", is_over(1));
    assert_eq!(asker.claimant.sessions(), 2);
    // The claim is sent soon, so that this vote counts again before another voter fails.
    let said = asker.wakes(3_500);
    assert_eq!(said, ["v2 Claim #1 w100 3500+10000 granted join"]);
    asker.hears(3_510, "v2", covered(3_500, 9));
    assert_eq!(asker.claimant.sessions(), 3);
    // A late `Kept` of the ended session does not affect the new one.
    asker.is_told(3_511, "v2", is_over(1));
    assert_eq!(asker.claimant.sessions(), 3);
}

#[test]
fn wait_for_covered_claim_triggers_renewal() {
    let mut asker = covered_by_three();
    asker.hears(3_500, "v2", waits(HolderGranted::No));
    assert_eq!(asker.claimant.sessions(), 2);
    let said = asker.runs(4_100);
    let to_v2 = to("v2", &said);
    assert!(to_v2[0].1.ends_with("granted join"), "{to_v2:?}");
}

#[test]
fn extended_lease_is_renewed_individually() {
    let mut asker = covered_by_three();
    let extended = asker.does(|c, out| {
        c.extend(at(4_000), Ticket(1), ms(10_000), out).unwrap();
    });
    let claims = ["v1", "v2", "v3"].map(|v| format!("{v} Claim #1 w100 4000+19344 granted"));
    assert_eq!(extended, claims);
    for voter in ["v1", "v2", "v3"] {
        let vote = Vote {
            covered: Some(session(1)),
            ..vote(1, instant(4_000), 19_344)
        };
        asker.hears(4_010, voter, Message::Vote(vote));
    }
    let said = asker.runs(7_334);
    let single = to("v1", &said);
    assert!(
        single.contains(&(7_334, "v1 Claim #1 w100 7334+16010 granted")),
        "{single:?}"
    );
}

/// Each lease is recomputed in its own round. If `Kept` arrives after that, the next round would be
/// too late.
#[test]
fn late_kept_renews_lease_before_its_end() {
    let mut asker = covered_by_three();
    asker.runs(13_000);
    assert_eq!(asker.held(13_000).as_deref(), Some("13360"));
    asker.is_told(13_010, "v1", kept_by(1, 6_794, 10_000));
    asker.is_told(13_010, "v3", kept_by(1, 6_794, 10_000));
    assert!(asker.claimant.next_timeout() <= Some(instant(13_010)));
    let said = asker.wakes(13_010);
    assert!(said.contains(&"Renewed until 16694".to_owned()), "{said:?}");
}

#[test]
fn ended_lease_leaves_its_sessions() {
    let mut asker = covered_by_three();
    assert_eq!(asker.claimant.sessions(), 3);
    asker.releases(4_000);
    assert_eq!(asker.claimant.sessions(), 0);
    assert_eq!(asker.runs(60_000), []);
    let mut asker = covered_by_three();
    let lost = asker.wakes(30_000);
    assert_eq!(lost[0], "Lost w100");
    assert!(
        lost[1..].iter().all(|line| line.contains("Release")),
        "{lost:?}"
    );
    assert_eq!(asker.claimant.sessions(), 0);
}

#[test]
fn later_incarnation_has_no_sessions() {
    let mut asker = covered_by_three();
    asker.does(|c, out| c.adopt(at(4_000), Incarnation::new(5), out));
    assert_eq!(asker.claimant.sessions(), 0);
}

/// At the intervals of rule 14: soon at first, then every 50 round trips.
#[test]
fn silent_voter_receives_keep_alives_alone() {
    let mut asker = covered_by_three();
    let said = asker.runs(13_000);
    let to_v1 = to("v1", &said);
    assert!(to_v1.iter().all(|(_, line)| line.contains("KeepAlive")));
    let pauses: Vec<u64> = to_v1.windows(2).map(|two| two[1].0 - two[0].0).collect();
    assert!(
        pauses[0] <= 20 && *pauses.last().unwrap() >= 375,
        "{pauses:?}"
    );
    assert!(pauses.iter().all(|pause| *pause <= 500), "{pauses:?}");
}

/// Rule 22.
#[test]
fn claim_in_lacking_part_is_renewed_individually() {
    let mut asker = covered_by_three();
    let lacks = |part: u16| Kept {
        lacks: 1 << part,
        ..kept_by(1, 3_460, 10_000)
    };
    asker.is_told(3_480, "v1", lacks(2));
    asker.is_told(3_480, "v2", lacks(1));
    let said = asker.runs(6_778);
    assert!(to("v1", &said).is_empty());
    let single = to("v2", &said);
    assert_eq!(
        single,
        [(6_778, "v2 Claim #1 w100 6778+10000 granted join")]
    );
}

fn three_leases() -> Asker {
    let mut asker = Asker::new(3);
    for seq in 1..=3 {
        let key = Key::new(format!("k{seq}")).unwrap();
        let request = Request {
            key: key.clone(),
            ..Asker::request()
        };
        asker.asks(100, request);
        for voter in ["v1", "v2"] {
            let vote = Vote {
                key: key.clone(),
                ..vote(seq, instant(100), 10_000)
            };
            asker.hears(110, voter, Message::Vote(vote));
        }
    }
    asker
}

/// A voter that refuses all claims must not receive 100,000 of them twice a second.
#[test]
fn refusing_voter_receives_one_claim_for_all() {
    let mut asker = three_leases();
    let refuse = |seq: u64, reason| {
        let claim = own(seq);
        Message::Refuse(Refuse { claim, reason })
    };
    for seq in 1..=3 {
        asker.hears(120, "v3", refuse(seq, RefuseReason::Quarantine));
    }
    let said = asker.runs(1_000);
    let asks = to("v3", &said);
    assert!(asks[0].0 >= 120 + 375 && asks[0].0 <= 620, "{asks:?}");
    assert!(
        asks.iter().all(|(_, line)| line.contains("Claim #1 ")),
        "{asks:?}"
    );
    // The claim is refused again just before the round of all three, and is still sent for all.
    asker.hears(3_400, "v3", refuse(1, RefuseReason::Quarantine));
    let said = asker.runs(3_450);
    assert!(to("v3", &said).is_empty(), "{said:?}");
    assert_eq!(to("v1", &said).len(), 3);
    let said = asker.runs(4_100);
    let asks = to("v3", &said);
    assert!(!asks.is_empty(), "{said:?}");
    assert!(
        asks.iter().all(|(_, line)| line.contains("Claim #1 ")),
        "{asks:?}"
    );
    asker.hears(4_100, "v3", refuse(1, RefuseReason::Quarantine));
    // Once the voter votes for one claim, the others are sent at once.
    asker.hears(4_110, "v3", voted(100, 10_000));
    let said = asker.runs(4_111);
    let asks = to("v3", &said);
    let all = ["#1 ", "#2 ", "#3 "].map(|seq| asks.iter().any(|(_, line)| line.contains(seq)));
    assert_eq!(all, [true; 3], "{asks:?}");
}

/// A voter that returns must not receive 100,000 claims at one instant.
#[test]
fn many_claims_are_resent_to_voter_in_batches() {
    let many = 2 * AGAIN_MAX + 100;
    let mut asker = with_many(many, 100);
    for seq in 1..=many as u64 {
        asker.hears(100, "v1", Message::Vote(vote(seq, instant(100), 10_000)));
    }
    while asker.claimant.next_timeout() <= Some(instant(ROUND)) {
        asker.wakes(ROUND);
    }
    for seq in 1..=many as u64 {
        let vote = Vote {
            covered: Some(session(1)),
            ..vote(seq, instant(ROUND), 10_000)
        };
        asker.hears(ROUND, "v1", Message::Vote(vote));
    }
    asker.is_told(4_000, "v1", is_over(1));
    let said = asker.runs(4_020);
    let at_once = |at| {
        to("v1", &said)
            .iter()
            .filter(|(said_at, _)| *said_at == at)
            .count()
    };
    assert_eq!(
        [4_000, 4_004, 4_008].map(at_once),
        [AGAIN_MAX, AGAIN_MAX, 100]
    );
}

#[test]
fn lease_refused_for_limit_waits_for_its_round() {
    let mut asker = three_leases();
    for seq in 1..=3 {
        let (claim, reason) = (own(seq), RefuseReason::Limit);
        asker.hears(120, "v3", Message::Refuse(Refuse { claim, reason }));
    }
    let said = asker.runs(3_440);
    assert!(to("v3", &said).is_empty(), "{said:?}");
    assert_eq!(to("v3", &asker.runs(3_445)).len(), 3);
}

/// A claimant without jitter, with `many` requests for one key, all made at `at_ms`.
fn with_many(many: usize, at_ms: u64) -> Asker {
    let voter_set = voter_set(1, 1);
    let claimant = Claimant::new(node("a"), Incarnation::new(1), voter_set, many, 0);
    let mut asker = Asker { claimant };
    for _ in 0..many {
        asker.asks(at_ms, Asker::request());
    }
    asker
}

#[test]
fn many_due_leases_are_renewed_in_several_calls() {
    let many = WORK_MAX + 500;
    let mut asker = with_many(many, 100);
    for seq in 1..=many as u64 {
        asker.hears(100, "v1", Message::Vote(vote(seq, instant(100), 10_000)));
    }
    let said = [0; 3].map(|_| {
        let is_due = asker.claimant.next_timeout() <= Some(instant(ROUND));
        (is_due, asker.wakes(ROUND).len())
    });
    assert_eq!(said, [(true, WORK_MAX), (true, 500), (false, 0)]);
}

/// Rule 20. The lease is recomputed soon after its sessions were kept, not just before. It thus
/// includes the latest promise and outlasts a stall of nearly two thirds of the ttl.
#[test]
fn stall_shorter_than_session_loses_no_lease() {
    let mut asker = covered_by_three();
    asker.runs(6_800);
    for voter in ["v1", "v2", "v3"] {
        asker.is_told(6_800, voter, kept_by(1, 6_794, 10_000));
    }
    asker.runs(10_100);
    // The process pauses before its next `KeepAlive` at 10,128. The voters keep the lease until
    // 16,694.
    let said = asker.wakes(16_600);
    assert!(
        said.iter().all(|line| !line.starts_with("Lost")),
        "{said:?}"
    );
}

/// Rule 20. The votes that named the session were slow, and so was the first `Kept`.
#[test]
fn late_first_kept_prevents_loss_of_lease() {
    let mut asker = holding(Asker::request());
    asker.hears(120, "v3", voted(100, 10_000));
    asker.wakes(ROUND);
    for voter in ["v1", "v2", "v3"] {
        asker.hears(5_600, voter, covered(3_444, 1));
    }
    asker.runs(10_300);
    for voter in ["v1", "v2", "v3"] {
        asker.is_told(10_301, voter, kept_by(1, 9_000, 10_000));
    }
    let said = asker.runs(13_400);
    let lost = said.iter().find(|(_, line)| line.starts_with("Lost"));
    assert_eq!(lost, None);
}

#[test]
fn late_kept_renews_many_leases_in_calls() {
    let many = 2 * WORK_MAX;
    let mut asker = with_many(many, 100);
    for seq in 1..=many as u64 {
        asker.hears(100, "v1", Message::Vote(vote(seq, instant(100), 10_000)));
    }
    while asker.claimant.next_timeout() <= Some(instant(ROUND)) {
        asker.wakes(ROUND);
    }
    for seq in 1..=many as u64 {
        let vote = Vote {
            covered: Some(session(1)),
            ..vote(seq, instant(ROUND), 10_000)
        };
        asker.hears(3_450, "v1", Message::Vote(vote));
    }
    assert_eq!(
        asker.wakes(3_460),
        [format!("v1 KeepAlive S1 3460 of {many}")]
    );
    asker.is_told(3_470, "v1", kept_by(1, 3_460, 10_000));
    let keeps = asker.runs(13_000);
    let (_, first) = keeps
        .iter()
        .find(|(_, line)| line.contains("Keep"))
        .unwrap();
    assert_eq!(*first, format!("v1 KeepAlive S1 6794 of {many}"));
    // The voter received the `KeepAlive`, but its answer was slow.
    asker.is_told(13_010, "v1", kept_by(1, 6_794, 10_000));
    let renewed = [0; 3].map(|_| {
        let is_due = asker.claimant.next_timeout() <= Some(instant(13_010));
        let said = asker.wakes(13_010);
        let of_leases = said.iter().filter(|line| *line == "Renewed until 16694");
        (is_due, of_leases.count())
    });
    assert_eq!(renewed, [(true, WORK_MAX), (true, WORK_MAX), (true, 0)]);
    assert!(asker.claimant.next_timeout() > Some(instant(13_010)));
}

/// Rule 20. The voter names the session when it sends the vote again.
#[test]
fn retransmitted_vote_can_name_its_session() {
    let mut asker = holding(Asker::request());
    asker.wakes(ROUND);
    asker.hears(3_450, "v1", voted(ROUND, 10_000));
    assert_eq!(asker.claimant.sessions(), 0);
    asker.hears(3_460, "v1", covered(ROUND, 1));
    assert_eq!(asker.claimant.sessions(), 1);
}

/// Its send time is that of an earlier round, since covered claims are not sent.
#[test]
fn covered_vote_of_earlier_round_triggers_no_claim() {
    let mut asker = covered_by_three();
    asker.is_told(3_500, "v2", is_over(1));
    let said = asker.runs(6_778);
    assert!(said.contains(&(6_778, "v2 Claim #1 w100 6778+10000 granted join".to_owned())));
    asker.hears(6_780, "v1", covered(ROUND, 1));
    let said = asker.runs(8_000);
    let claims = to("v1", &said);
    assert!(
        claims.iter().all(|(_, line)| !line.contains("Claim")),
        "{claims:?}"
    );
}

/// Rule 12. A reservation ends soon.
#[test]
fn short_vote_is_renewed_within_half_of_it() {
    let mut asker = holding(Asker::request());
    // Another claim waits, so the grant is reported to all voters.
    assert_eq!(asker.hears(120, "v1", waits(HolderGranted::No)).len(), 3);
    asker.hears(125, "v3", voted(100, 300));
    let said = asker.runs(1_000);
    let again = to("v3", &said)[0].0;
    assert!((125 + 112..=125 + 150).contains(&again), "{again}");
}
