//! Notes of claims: what a voter keeps and sends, and what a waiting claimant learns.

use super::*;
use crate::event::KeyHolder;
use crate::id::Note;
use crate::message::REPORTED_WAITERS_MAX;

fn note(text: &str) -> Note {
    Note::new(text).unwrap()
}

fn notes(booth: &mut Booth, at_ms: u64, name: &str) {
    let text = note(&format!("note of {name}"));
    booth.voter.handle_note(at(at_ms), &key(), &id(name), &text);
}

/// The notes that the voter reports, as numbers of claims and texts.
fn kept(booth: &Booth) -> Vec<(u32, String)> {
    let key = key();
    let notes = booth.voter.notes(&key);
    notes
        .map(|(number, _, _, note)| (number, note.to_string()))
        .collect()
}

#[test]
fn waiter_is_sent_note_of_holder() {
    let mut booth = Booth::new();
    booth.hears(0, &claim("a", 1, 1));
    notes(&mut booth, 0, "a");
    let said = booth.hears(90, &claim("b", 2, 90));
    assert_eq!(
        said,
        [
            "b Wait a e1 no",
            "b Note of a for 90: note of a",
            "a Vote 1+10000 ask"
        ]
    );
    notes(&mut booth, 90, "b");
    assert_eq!(
        kept(&booth),
        [(0, "note of a".to_owned()), (1, "note of b".to_owned())]
    );
    // The next holder has waited with its note.
    booth.hears_release(95, &release("a", true));
    let said = booth.hears(96, &claim("c", 3, 96));
    assert_eq!(
        said[..2],
        ["c Wait b e2 no", "c Note of b for 0: note of b"]
    );
    notes(&mut booth, 100, "b");
    let said = booth.hears(130, &claim("c", 3, 130));
    assert_eq!(said[1], "c Note of b for 30: note of b");
    booth.hears_release(140, &release("b", true));
    booth.hears_release(140, &release("c", false));
    assert_eq!(kept(&booth), []);
    assert_eq!(booth.voter.slots(), 0);
}

/// A holder without a note is not reported with the note of an earlier one.
#[test]
fn note_ends_with_its_claim() {
    let mut booth = Booth::new();
    booth.hears(0, &claim("a", 1, 1));
    notes(&mut booth, 0, "a");
    booth.hears(1, &claim("b", 2, 1));
    booth.hears_release(2, &release("a", true));
    assert_eq!(kept(&booth), []);
    let said = booth.hears(3, &claim("c", 3, 3));
    assert_eq!(said[0], "c Wait b e2 no");
    assert!(!said.iter().any(|line| line.contains("Note")), "{said:?}");
    // A late copy of the note keeps nothing.
    notes(&mut booth, 4, "a");
    assert_eq!(kept(&booth), []);
}

/// The time before a vote was given back does not count.
#[test]
fn holder_that_yielded_counts_anew() {
    let mut booth = Booth::new();
    booth.hears(0, &claim("b", 2, 1));
    notes(&mut booth, 0, "b");
    booth.hears(5, &claim("a", 1, 5));
    let back = Claim {
        votes_valid_since: instant(10),
        ..claim("b", 2, 10)
    };
    booth.hears(10, &back);
    notes(&mut booth, 10, "b");
    booth.hears_release(20, &release("a", false));
    notes(&mut booth, 30, "b");
    let said = booth.hears(40, &claim("c", 3, 40));
    assert_eq!(said[1], "c Note of b for 10: note of b");
}

#[test]
fn notes_of_a_key_are_bounded() {
    let mut booth = Booth::new();
    booth.hears(0, &claim("a", 1, 1));
    for n in 0..50 {
        let name = format!("w{n:02}");
        booth.hears(1, &claim(&name, 2 + n, 1));
        notes(&mut booth, 1, &name);
    }
    assert_eq!(kept(&booth).len(), REPORTED_WAITERS_MAX);
    notes(&mut booth, 2, "a");
    // That of the holder has room all the same.
    assert_eq!(kept(&booth).len(), 1 + REPORTED_WAITERS_MAX);
    // Those of claims that are gone make room.
    for n in 0..9 {
        booth.hears_release(3, &release(&format!("w{n:02}"), false));
    }
    assert_eq!(kept(&booth), [(0, "note of a".to_owned())]);
    for n in 9..20 {
        notes(&mut booth, 4, &format!("w{n:02}"));
    }
    assert_eq!(kept(&booth).len(), 1 + REPORTED_WAITERS_MAX);
}

#[test]
fn slots_beyond_limit_keep_no_notes() {
    let mut booth = Booth::new();
    let (limit, more) = (16_384, 16_384 + 64);
    let mut with_notes = 0;
    for n in 0..more {
        let key = Key::new(format!("key/{n}")).unwrap();
        let claim = Claim {
            key: key.clone(),
            claim: ClaimId { seq: n, ..id("a") },
            ..claim("a", 1 + n, 1)
        };
        booth.hears(0, &claim);
        booth
            .voter
            .handle_note(at(0), &key, &claim.claim, &note("n"));
        with_notes += booth.voter.notes(&key).count() as u64;
    }
    assert_eq!((booth.voter.slots() as u64, with_notes), (more, limit));
}

#[test]
fn each_claim_is_followed_by_its_note() {
    let mut asker = Asker::new(1);
    let said = asker.asks(
        100,
        Request {
            note: Some(note("deploy 812")),
            ..Asker::request()
        },
    );
    assert_eq!(
        said,
        ["v1 Claim #1 w100 100+10000", "v1 Note #1: deploy 812"]
    );
    let said = asker.runs(130);
    assert_eq!(said[1].1, "v1 Note #1: deploy 812");
    let said = asker.hears(200, "v1", stale(1, EpochClock::first_of(WALL + 500)));
    assert_eq!(said[2], "v1 Note #2: deploy 812");
    // A request without a note sends none.
    let said = Asker::new(1).asks(100, Asker::request());
    assert_eq!(said, ["v1 Claim #1 w100 100+10000"]);
}

/// Returns the holder that a request names when it gives up at 60 s.
fn holder_of(asker: &mut Asker) -> KeyHolder {
    let mut out = Effects::default();
    asker.claimant.handle_timeout(at(60_000), &mut out);
    let holder = out.events.into_iter().find_map(|event| match event {
        Event::TimedOut { holder, .. } => holder,
        _ => None,
    });
    *holder.unwrap()
}

fn of_b(held_for: Duration) -> KeyHolder {
    KeyHolder {
        node: node("b"),
        epoch: EpochClock::first_of(WALL),
        held_for,
        note: Some(note("deploy 812")),
    }
}

#[test]
fn request_that_gives_up_names_holder_with_note() {
    let asks = || {
        let mut asker = Asker::new(3);
        let deadline = Some(instant(60_000));
        let request = Asker::request();
        asker.asks(
            100,
            Request {
                deadline,
                ..request
            },
        );
        asker
    };
    let mut asker = asks();
    asker.hears(10_000, "v1", waits(HolderGranted::Yes));
    asker.hears(20_000, "v2", waits(HolderGranted::Yes));
    let named = holder_of(&mut asker);
    assert_eq!((named.held_for, named.note), (ms(50_000), None));

    // Of several voters, the one that has known the holder for the longest time counts.
    let mut asker = asks();
    for (at_ms, voter, held_for) in [
        (10_000, "v1", 3_000),
        (20_000, "v2", 240_000),
        (21_000, "v3", 0),
    ] {
        asker.hears(at_ms, voter, waits(HolderGranted::Yes));
        asker
            .claimant
            .handle_note(at(at_ms), &own(1), of_b(ms(held_for)));
    }
    let named = holder_of(&mut asker);
    assert_eq!(named, of_b(ms(240_000 + 40_000)));

    // A note of another holder than the last is late. An impossible span is harmless.
    let mut asker = asks();
    asker.hears(10_000, "v1", waits(HolderGranted::Yes));
    let other = KeyHolder {
        node: node("c"),
        ..of_b(ms(1))
    };
    asker.claimant.handle_note(at(10_000), &own(1), other);
    asker.claimant.handle_note(at(10_000), &own(2), of_b(ms(1)));
    assert_eq!(holder_of(&mut asker).note, None);
    let mut asker = asks();
    asker.hears(10_000, "v1", waits(HolderGranted::Yes));
    asker
        .claimant
        .handle_note(at(10_000), &own(1), of_b(Duration::MAX));
    assert_eq!(holder_of(&mut asker).held_for, Duration::MAX);
}
