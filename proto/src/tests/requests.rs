//! Reports of a claimant on its requests, to callers and in listings.

use super::claimant_rules::{holding, trying};
use super::*;
use crate::claimant::{ExtendError, RequestError};
use crate::epoch::EpochClock;
use crate::event::VoteTally;

const NOTHING: [&str; 0] = [];

fn with_ttl(ttl: Duration) -> Request {
    Request {
        ttl,
        ..Asker::request()
    }
}

/// From ten round trips to `max_ttl`.
#[test]
fn ttl_is_accepted_from_minimum_to_maximum() {
    let (min, max) = (ms(100), ms(30_000));
    let nano = Duration::from_nanos(1);
    for (ttl, is_taken) in [
        (min - nano, false),
        (min, true),
        (max, true),
        (max + nano, false),
    ] {
        let mut asker = Asker::new(1);
        let mut out = Effects::default();
        let taken = asker.claimant.request(at(1), with_ttl(ttl), &mut out);
        let refused = RequestError::Ttl { ttl, min, max };
        let expected = if is_taken {
            Ok(Ticket(1))
        } else {
            Err(refused)
        };
        assert_eq!(taken, expected);
        assert_eq!(out.messages.len(), usize::from(is_taken));
    }
}

#[test]
fn each_request_keeps_its_own_ticket() {
    let mut asker = Asker::new(1);
    let mut tickets = Vec::new();
    for n in 0..3 {
        asker.does(|c, out| tickets.push(c.request(at(n), Asker::request(), out).unwrap()));
    }
    assert_eq!(asker.claimant.tickets().collect::<Vec<_>>(), tickets);
    assert!(tickets.is_sorted_by(|a, b| a < b));
    asker.releases(10);
    assert_eq!(asker.claimant.tickets().collect::<Vec<_>>(), tickets[1..]);
    assert_eq!((asker.claimant.len(), asker.claimant.waiting()), (2, 2));
    assert!(!asker.claimant.is_empty());
}

/// In any order, since threads draw their tickets before they reach the node.
#[test]
fn request_accepts_ticket_of_its_caller() {
    let mut asker = Asker::new(1);
    let request = |c: &mut Claimant, n, ticket, out: &mut Effects| {
        c.request_as(at(n), Ticket(ticket), Asker::request(), out)
            .unwrap();
    };
    for (n, ticket) in [(1, 7), (2, 5), (3, 6)] {
        asker.does(|c, out| request(c, n, ticket, out));
    }
    let tickets = [5, 6, 7].map(Ticket);
    assert_eq!(asker.claimant.tickets().collect::<Vec<_>>(), tickets);
    assert_eq!(asker.claimant.next_ticket(), Ticket(8));
    // A ticket in use: its earlier request is withdrawn, so that it leaves no vote behind.
    let said = asker.does(|c, out| request(c, 4, 5, out));
    assert_eq!(said, ["v1 Release #2", "v1 Claim #4 w4 4+10000"]);
    assert_eq!(asker.claimant.tickets().collect::<Vec<_>>(), tickets);
    asker.does(|c, out| request(c, 5, u64::MAX, out));
    assert_eq!(asker.claimant.next_ticket(), Ticket(u64::MAX));
}

#[test]
fn release_returns_true_if_lock_was_held() {
    let release = |asker: &mut Asker, at_ms| {
        let mut was_held = false;
        let said = asker.does(|c, out| was_held = c.release(at(at_ms), Ticket(1), out));
        (was_held, said[0].clone())
    };
    let mut asker = holding(Asker::request());
    let held = release(&mut asker, 9_999);
    assert_eq!(held, (true, "v1 Release #1 granted".to_owned()));
    // The lease has expired, so `Lost` is reported first.
    let mut asker = holding(Asker::request());
    let lost = release(&mut asker, 10_000);
    assert_eq!(lost, (false, "Lost w100".to_owned()));
    // The request only waited, so nothing is lost.
    let mut asker = Asker::new(3);
    asker.asks(100, Asker::request());
    let waited = release(&mut asker, 110);
    assert_eq!(waited, (false, "v1 Release #1".to_owned()));
    let twice = asker.does(|c, out| assert!(!c.release(at(111), Ticket(1), out)));
    assert_eq!(twice, NOTHING);
}

#[test]
fn held_leases_are_listed_with_epochs_and_ends() {
    let mut asker = holding(Asker::request());
    let other = Key::new("another").unwrap();
    asker.asks(
        120,
        Request {
            key: other,
            ..Asker::request()
        },
    );
    let held = |at_ms| -> Vec<(String, String, String)> {
        let held = asker.claimant.held(at(at_ms));
        held.map(|(key, epoch, until)| (key.to_string(), number(epoch), reading(until)))
            .collect()
    };
    let lease = ("k".to_owned(), "w100".to_owned(), "10000".to_owned());
    assert_eq!(held(120), std::slice::from_ref(&lease));
    assert_eq!(held(9_999), [lease]);
    assert_eq!(held(10_000), []);
    assert_eq!((asker.claimant.len(), asker.claimant.waiting()), (2, 1));
    let epochs = [1, 2, 3].map(|n| asker.claimant.epoch(Ticket(n)).map(number));
    assert_eq!(
        epochs,
        [Some("w100".to_owned()), Some("w120".to_owned()), None]
    );
}

/// It is the fencing token, and rises if a claim was stale.
#[test]
fn request_epoch_is_that_of_latest_claim() {
    let mut asker = Asker::new(1);
    asker.asks(100, Asker::request());
    asker.hears(110, "v1", stale(1, EpochClock::first_of(WALL + 500)));
    let epoch = asker.claimant.epoch(Ticket(1)).unwrap();
    assert_eq!(number(epoch), "w501");
    let granted = asker.hears(111, "v1", Message::Vote(vote(2, instant(110), 10_000)));
    assert_eq!(granted[0], "Granted w501 until 10010");
    assert_eq!(asker.claimant.epoch(Ticket(1)), Some(epoch));
}

#[test]
fn timed_out_request_tallies_voter_answers() {
    let mut asker = Asker::new(7);
    let deadline = Some(instant(600));
    asker.asks(
        100,
        Request {
            deadline,
            ..Asker::request()
        },
    );
    asker.hears(110, "v1", voted(100, 10_000));
    asker.hears(110, "v2", voted(100, 10_000));
    asker.hears(110, "v3", waits(HolderGranted::Yes));
    asker.hears(110, "v4", waits(HolderGranted::No));
    // Of several reasons it reports one that does not pass by itself.
    asker.hears(110, "v5", refused(RefuseReason::Limit));
    asker.hears(110, "v6", refused(RefuseReason::Quarantine));
    let mut out = Effects::default();
    asker.claimant.handle_timeout(at(599), &mut out);
    assert_eq!(out.events, []);
    asker.claimant.handle_timeout(at(600), &mut out);
    let answers = VoteTally {
        voters: 7,
        voted: 2,
        waiting: 2,
        refused: 2,
        reason: Some(RefuseReason::Limit),
        silent: 1,
    };
    let ticket = Ticket(1);
    let holder = out.events.iter().find_map(|event| match event {
        Event::TimedOut { holder, .. } => holder.clone(),
        _ => None,
    });
    assert!(holder.is_some(), "two voters named one");
    let timed_out = Event::TimedOut {
        ticket,
        answers,
        holder,
    };
    assert_eq!(out.events, [timed_out]);
}

/// The deadline applies to the acquisition, not to the lease.
#[test]
fn deadline_after_grant_ends_nothing() {
    let deadline = Some(instant(600));
    let mut asker = holding(Request {
        deadline,
        ..Asker::request()
    });
    let said = asker.runs(3_000);
    assert!(
        said.iter().all(|(_, line)| line.starts_with("v3")),
        "{said:?}"
    );
    assert_eq!(asker.held(3_000).as_deref(), Some("10000"));
}

/// It may have been granted by votes that the other voters do not know yet.
#[test]
fn granted_try_is_never_denied() {
    let mut asker = holding(trying());
    for voter in ["v1", "v2", "v3"] {
        let said = asker.hears(120, voter, waits(HolderGranted::Yes));
        assert!(!said.contains(&"Denied".to_owned()), "{said:?}");
    }
    let said = asker.runs(5_000);
    assert!(said.iter().all(|(_, line)| line != "Denied"));
    assert_eq!(asker.held(5_000).as_deref(), Some("10000"));
}

/// Rule 16. A voter that refuses may have voted for the granted claim before it lost its memory.
#[test]
fn refusing_voter_counts_as_silent() {
    let denials = |said: &[(u64, String)]| said.iter().filter(|(_, line)| line == "Denied").count();
    let mut asker = Asker::new(3);
    asker.asks(100, trying());
    asker.hears(101, "v1", waits(HolderGranted::Yes));
    asker.hears(101, "v2", voted(100, 10_000));
    asker.hears(101, "v3", refused(RefuseReason::Limit));
    assert_eq!(denials(&asker.runs(1_000)), 1);
    // No denial while the voters that report no other grant may still be a quorum.
    let mut asker = Asker::new(5);
    asker.asks(100, trying());
    asker.hears(101, "v1", waits(HolderGranted::Yes));
    asker.hears(101, "v2", waits(HolderGranted::No));
    asker.hears(101, "v3", voted(100, 10_000));
    asker.hears(101, "v4", voted(100, 10_000));
    asker.hears(101, "v5", refused(RefuseReason::Limit));
    assert_eq!(denials(&asker.runs(5_000)), 0);
}

#[test]
fn extension_is_limited_to_max_ttl() {
    let extend = |extra: Duration| {
        let mut asker = holding(Asker::request());
        let mut out = Effects::default();
        // 9,900 ms remain.
        asker.claimant.extend(at(100), Ticket(1), extra, &mut out)
    };
    let most = ms(20_100);
    assert!(extend(most).is_ok());
    let extra = most + Duration::from_nanos(1);
    let too_long = ExtendError::TooLong {
        remaining: ms(9_900),
        extra,
        max: ms(30_000),
    };
    assert_eq!(extend(extra), Err(too_long));
    let mut asker = Asker::new(3);
    asker.asks(100, Asker::request());
    let waits = asker.does(|c, out| {
        let extended = c.extend(at(110), Ticket(1), ms(10), out);
        assert_eq!(extended, Err(ExtendError::NotHeld));
    });
    assert_eq!(waits, NOTHING);
    assert_eq!(asker.claimant.waiting(), 1);
}
