//! Reports of a voter on a key, to waiters and to inspections.

use super::*;
use crate::message::Report;

/// Returns the receiver and the place of each `Wait`.
fn places(out: &Effects) -> Vec<(String, u32)> {
    let told = out
        .messages
        .iter()
        .filter_map(|(to, message)| match message {
            Message::Wait(wait) => Some((to.to_string(), wait.ahead)),
            _ => None,
        });
    told.collect()
}

fn place(booth: &mut Booth, at_ms: u64, claim: &Claim) -> Vec<(String, u32)> {
    let mut out = Effects::default();
    booth.voter.handle_claim(at(at_ms), claim, &mut out);
    places(&out)
}

#[test]
fn wait_contains_number_of_earlier_waiters() {
    let mut booth = Booth::new();
    booth.hears(0, &granted(claim("a", 1, 1)));
    let told = |name: &str, ahead| vec![(name.to_owned(), ahead)];
    assert_eq!(place(&mut booth, 1, &claim("c", 7, 1)), told("c", 0));
    assert_eq!(place(&mut booth, 1, &claim("d", 8, 1)), told("d", 1));
    assert_eq!(place(&mut booth, 1, &claim("e", 9, 1)), told("e", 2));
    assert_eq!(place(&mut booth, 1, &claim("b", 6, 1)), told("b", 0));
    // Each retransmission returns the current place.
    assert_eq!(place(&mut booth, 2, &claim("d", 8, 2)), told("d", 2));
    booth.hears_release(3, &release("b", false));
    assert_eq!(place(&mut booth, 4, &claim("d", 8, 3)), told("d", 1));
}

#[test]
fn claim_that_yields_learns_its_new_place() {
    let mut booth = Booth::new();
    booth.hears(0, &claim("d", 9, 1));
    for (name, epoch) in [("a", 5), ("b", 6), ("c", 7)] {
        booth.hears(1, &claim(name, epoch, 1));
    }
    let back = Claim {
        votes_valid_since: instant(2),
        ..claim("d", 9, 2)
    };
    assert_eq!(place(&mut booth, 2, &back), [("d".to_owned(), 2)]);
}

/// The places count the tries that leave with them, so that the last one is not reported as the
/// next.
#[test]
fn tries_that_leave_queue_get_ordered_places() {
    let mut booth = Booth::new();
    booth.hears(0, &claim("a", 1, 1));
    for (name, epoch) in [("b", 6), ("c", 7)] {
        let is_try = true;
        booth.hears(
            1,
            &Claim {
                is_try,
                ..claim(name, epoch, 1)
            },
        );
    }
    let mut out = Effects::default();
    booth
        .voter
        .handle_claim(at(2), &granted(claim("a", 1, 2)), &mut out);
    assert_eq!(places(&out), [("b".to_owned(), 0), ("c".to_owned(), 1)]);
}

fn report(booth: &Booth, at_ms: u64) -> Report {
    booth.voter.report(at(at_ms), 3, &key())
}

#[test]
fn report_names_holder_and_first_waiters() {
    let mut booth = Booth::new();
    booth.hears(0, &granted(claim("a", 5, 1)));
    for n in 0..12 {
        booth.hears(1, &claim(&format!("w{n:02}"), 20 + n, 1));
    }
    let said = report(&booth, 1_000);
    let vote = said.vote.unwrap();
    assert_eq!(
        (vote.claim, vote.epoch, vote.granted),
        (id("a"), Epoch::new(5), true)
    );
    assert_eq!(vote.remaining, ms(9_000));
    let named: Vec<_> = said.waiters.iter().map(|it| it.node.to_string()).collect();
    let first: Vec<_> = (0..8).map(|n| format!("w{n:02}")).collect();
    assert_eq!(named, first);
    assert_eq!(said.waiters[3].epoch, Epoch::new(23));
    assert_eq!(
        (said.waiting, said.nonce, said.fence),
        (12, 3, Epoch::new(5))
    );
}

/// The timer may be late, and the report must not depend on it.
#[test]
fn report_omits_expired_vote() {
    let mut booth = Booth::new();
    booth.hears(0, &claim("a", 5, 1));
    booth.hears(9_000, &claim("b", 6, 1));
    assert_eq!(report(&booth, 9_999).vote.unwrap().remaining, ms(1));
    let said = report(&booth, 10_000);
    assert_eq!((said.vote, said.waiting, said.waiters.len()), (None, 0, 0));
    // No claim has ever named this key.
    let said = booth.voter.report(at(1), 4, &Key::new("other").unwrap());
    assert_eq!((said.vote, said.fence, said.nonce), (None, Epoch::ZERO, 4));
}

#[test]
fn voter_has_memory_after_its_first_vote() {
    let mut booth = Booth::new();
    assert!(!booth.voter.has_memory());
    booth.hears(0, &claim("a", 5, 1));
    assert!(booth.voter.has_memory());
    booth.hears_release(1, &release("a", true));
    assert_eq!(booth.voter.slots(), 0);
    assert!(booth.voter.has_memory(), "a fence is left");
    let mut booth = Booth::new();
    booth.hears(0, &claim("a", 5, 1));
    booth.hears_release(1, &release("a", false));
    assert!(!booth.voter.has_memory(), "nothing was granted");
}

#[test]
fn report_with_too_many_waiters_is_rejected() {
    let mut booth = Booth::new();
    booth.hears(0, &claim("a", 5, 1));
    booth.hears(1, &claim("b", 6, 1));
    let mut said = report(&booth, 2);
    let read =
        |said: &Report| serde_json::from_str::<Report>(&serde_json::to_string(said).unwrap());
    said.waiters = vec![said.waiters[0].clone(); 8];
    assert_eq!(read(&said).unwrap(), said);
    said.waiters.push(said.waiters[0].clone());
    let refused = read(&said).unwrap_err().to_string();
    let expected = "invalid length 9, expected at most 8 elements";
    assert!(refused.starts_with(expected), "{refused}");
}

/// An exhaustive search merges states that are equal.
#[test]
fn voters_are_equal_iff_their_state_is() {
    let digest = |booth: &Booth| {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut hasher = DefaultHasher::new();
        booth.voter.hash(&mut hasher);
        hasher.finish()
    };
    let booth = |claims: &[(&str, &str, u64)]| {
        let mut booth = Booth::new();
        for (key, name, epoch) in claims {
            let key = Key::new(key).unwrap();
            let claim = Claim {
                key,
                ..claim(name, *epoch, 1)
            };
            booth.hears(0, &claim);
        }
        booth
    };
    let one = booth(&[("k", "a", 5), ("l", "b", 6)]);
    let same = booth(&[("l", "b", 6), ("k", "a", 5)]);
    assert_eq!((&one.voter, digest(&one)), (&same.voter, digest(&same)));
    let others: [&[(&str, &str, u64)]; 4] = [
        &[("k", "a", 5), ("l", "b", 7)],
        &[("k", "a", 5), ("l", "c", 6)],
        &[("k", "a", 5), ("m", "b", 6)],
        &[("k", "a", 5)],
    ];
    for other in others {
        let other = booth(other);
        assert_ne!(one.voter, other.voter);
        assert_ne!(digest(&one), digest(&other));
    }
}
