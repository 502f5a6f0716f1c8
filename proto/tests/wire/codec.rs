//! Encoding and decoding of messages.

use std::collections::BTreeSet;
use std::mem::discriminant;
use std::time::Duration;

use lockmesh_proto::{
    ClusterSecret, DATAGRAM_BYTES_MAX, DatagramHead, Digest, DigestPart, DropReason, Instant,
    KeepAlive, Kept, Message, REPORTED_WAITERS_MAX, Seal, SessionId, pack_messages,
    unpack_messages,
};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::arbitrary::{any_head, any_message, largest_head, largest_messages};

fn sealed_budget() -> usize {
    let key = ClusterSecret::from_bytes([1; 32]).unwrap();
    DATAGRAM_BYTES_MAX - Seal::sealed(key, [1; 16]).overhead()
}

/// Packs these messages into one body.
fn body_of(head: &DatagramHead, messages: &[Message]) -> Vec<u8> {
    let mut packed = pack_messages(head, messages, DATAGRAM_BYTES_MAX);
    assert_eq!((packed.bodies.len(), packed.too_large), (1, 0));
    packed.bodies.remove(0).0
}

/// Returns the bytes that a message adds to a body.
fn bytes_of(message: &Message) -> Vec<u8> {
    let messages = [message.clone(), message.clone()];
    let whole = |messages| {
        pack_messages(&largest_head(), messages, usize::MAX)
            .bodies
            .remove(0)
            .0
    };
    whole(&messages)[whole(&messages[..1]).len()..].to_vec()
}

#[test]
fn largest_messages_fit_into_sealed_datagrams() {
    let (head, messages) = (largest_head(), largest_messages());
    let kinds: BTreeSet<String> = messages
        .iter()
        .map(|message| {
            // A new kind of message fails to compile here until `largest_messages` is extended.
            match message {
                Message::Claim(_) | Message::Vote(_) | Message::Wait(_) | Message::Stale(_) => {}
                Message::Refuse(_) | Message::Release(_) | Message::RecoveryQuery(_) => {}
                Message::RecoveryReply(_) | Message::Outdated(_) | Message::Inspect(_) => {}
                Message::Report(_) | Message::KeepAlive(_) | Message::Kept(_) => {}
                Message::VoterQuery(_) | Message::VoterReply(_) => {}
                Message::Describe(_) | Message::Described(_) => {}
                Message::Challenge(_) | Message::Alive(_) | Message::Namesake(_) => {}
                Message::Handover(_) => {}
                Message::OnceClaim(_) | Message::Mark(_) | Message::Marked(_) => {}
                Message::Done(_) | Message::MarksQuery(_) | Message::MarksPage(_) => {}
                Message::Note(_) => {}
                Message::Revoke(_) | Message::Revoked(_) => {}
            }
            format!("{:?}", discriminant(message))
        })
        .collect();
    assert_eq!(kinds.len(), 30);
    for message in messages {
        let packed = pack_messages(&head, std::slice::from_ref(&message), sealed_budget());
        assert_eq!(
            (packed.bodies.len(), packed.too_large),
            (1, 0),
            "{message:?}"
        );
        let body = &packed.bodies[0].0;
        assert_eq!(unpack_messages(body), Ok((head.clone(), vec![message])));
    }
}

#[test]
fn oversized_message_is_reported_and_drops_no_other() {
    let head = largest_head();
    let messages = largest_messages();
    let query = messages[6].clone();
    let report = messages[10].clone();
    let one_query = body_of(&head, std::slice::from_ref(&query)).len();
    let mixed = [
        query.clone(),
        report.clone(),
        query.clone(),
        query.clone(),
        report,
    ];
    let packed = pack_messages(&head, &mixed, one_query + 20);
    assert_eq!(packed.too_large, 2);
    let counts: Vec<usize> = packed.bodies.iter().map(|(_, count)| *count).collect();
    assert_eq!(counts, [3]);
    let taken = unpack_messages(&packed.bodies[0].0).map(|(_, messages)| messages);
    assert_eq!(taken, Ok(vec![query; 3]));
    let none = pack_messages(&head, &mixed, 10);
    assert_eq!((none.bodies.len(), none.too_large), (0, mixed.len()));
    // Without messages, one body announces the sender.
    let announced = pack_messages(&head, &[], DATAGRAM_BYTES_MAX);
    assert_eq!(announced.bodies.len(), 1);
    let taken = unpack_messages(&announced.bodies[0].0);
    assert_eq!(taken, Ok((head, Vec::new())));
}

#[test]
fn report_of_too_many_waiters_is_undecodable() {
    let head = largest_head();
    let messages = largest_messages();
    let Message::Report(mut report) = messages[10].clone() else {
        panic!("the eleventh of the largest is a report");
    };
    report.waiters.push(report.waiters[0].clone());
    assert!(report.waiters.len() > REPORTED_WAITERS_MAX);
    let body = body_of(&head, &[Message::Report(report.clone())]);
    assert_eq!(unpack_messages(&body), Err(DropReason::Undecodable));
    // A report with such a count but without the entries.
    report.waiters.clear();
    report.vote = None;
    let bytes = bytes_of(&Message::Report(report));
    let at = 1 + 9 + 1;
    assert_eq!(bytes[at], 0, "the number of waiters");
    for count in [
        [253; 9],
        [253, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
    ] {
        let mut body = body_of(&head, &messages[6..7]);
        body.extend(&bytes[..at]);
        body.extend(count);
        body.extend(&bytes[at + 1..]);
        assert_eq!(unpack_messages(&body), Err(DropReason::Undecodable));
    }
}

/// Other builds must decode them, so these bytes change only with the protocol version.
#[test]
fn session_messages_keep_their_encoding() {
    let (session, sent_at) = (
        SessionId {
            nonce: 7,
            number: 300,
        },
        Instant::from_nanos(9),
    );
    let mut covered = Digest::default();
    covered.parts[1] = DigestPart {
        count: 2,
        sum: 0x0102_0304,
    };
    let keep_alive = Message::KeepAlive(Box::new(KeepAlive {
        session,
        sent_at,
        covered,
    }));
    let head = [11, 7, 251, 44, 1, 9];
    let parts = [&[0, 0, 2, 252, 4, 3, 2, 1][..], &[0; 28]].concat();
    assert_eq!(bytes_of(&keep_alive), [&head[..], &parts].concat());
    let kept = |ttl| {
        bytes_of(&Message::Kept(Kept {
            session,
            sent_at,
            ttl,
            lacks: 5,
        }))
    };
    let head = [12, 7, 251, 44, 1, 9];
    assert_eq!(kept(None), [&head[..], &[0, 5]].concat());
    let three_seconds = Some(Duration::from_secs(3));
    assert_eq!(kept(three_seconds), [&head[..], &[1, 3, 0, 5]].concat());
}

#[test]
fn overflowing_duration_is_undecodable() {
    let head = largest_head();
    let Message::Vote(mut vote) = largest_messages()[1].clone() else {
        panic!("the second of the largest is a vote");
    };
    vote.ttl = Duration::new(u64::MAX, 999_999_999);
    vote.covered = None;
    let body = body_of(&head, &[Message::Vote(vote)]);
    // The nanoseconds, a marker and four bytes, precede `yield_requested`, `probe` and `covered`.
    let at = body.len() - 3 - 4;
    assert_eq!(body[at..at + 4], 999_999_999_u32.to_le_bytes());
    for nanos in [1_000_000_000, u32::MAX] {
        let mut hostile = body.clone();
        hostile[at..at + 4].copy_from_slice(&nanos.to_le_bytes());
        assert_eq!(unpack_messages(&hostile), Err(DropReason::Undecodable));
    }
}

#[test]
fn body_truncated_inside_message_is_undecodable() {
    let head = largest_head();
    for message in largest_messages() {
        let body = body_of(&head, std::slice::from_ref(&message));
        let head_len = body.len() - bytes_of(&message).len();
        for len in 0..body.len() {
            let expected = match len == head_len {
                true => Ok((head.clone(), Vec::new())),
                false => Err(DropReason::Undecodable),
            };
            assert_eq!(
                unpack_messages(&body[..len]),
                expected,
                "{len} of {message:?}"
            );
        }
    }
    let long = [0; DATAGRAM_BYTES_MAX + 1];
    assert_eq!(unpack_messages(&long), Err(DropReason::Undecodable));
}

proptest! {
    #[test]
    fn packed_messages_unpack_in_order(
        head in any_head(),
        messages in vec(any_message(), 0..60),
        budget in prop_oneof![Just(sealed_budget()), 890..=DATAGRAM_BYTES_MAX],
    ) {
        let packed = pack_messages(&head, &messages, budget);
        prop_assert_eq!(packed.too_large, 0);
        let mut taken = Vec::new();
        for (body, count) in &packed.bodies {
            prop_assert!(body.len() <= budget);
            let (same_head, some) = unpack_messages(body).map_err(|r| TestCaseError::fail(r.as_str()))?;
            prop_assert_eq!(&same_head, &head);
            prop_assert_eq!(some.len(), *count);
            taken.extend(some);
        }
        prop_assert_eq!(&taken, &messages);
        // The first message of a body would not have fitted into the body before.
        for (at, pair) in packed.bodies.windows(2).enumerate() {
            let before: usize = packed.bodies[..=at].iter().map(|(_, count)| count).sum();
            let next = bytes_of(&messages[before]).len();
            prop_assert!(pair[0].0.len() + next > budget);
        }
    }

    #[test]
    fn unpacking_arbitrary_bytes_does_not_panic(bytes in vec(any::<u8>(), 0..1_300)) {
        let _ = unpack_messages(&bytes);
    }

    #[test]
    fn damaged_bodies_unpack_consistently_or_fail(
        head in any_head(),
        messages in vec(any_message(), 1..6),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        for (mut body, _) in pack_messages(&head, &messages, DATAGRAM_BYTES_MAX).bodies {
            for (at, byte) in &damage {
                let at = at.index(body.len());
                body[at] = *byte;
            }
            if let Ok((head, messages)) = unpack_messages(&body) {
                // Decoded messages can be encoded again.
                let again = pack_messages(&head, &messages, usize::MAX);
                let (body, count) = again.bodies.into_iter().next().unwrap_or_default();
                prop_assert_eq!(count, messages.len());
                if count > 0 && body.len() <= DATAGRAM_BYTES_MAX {
                    prop_assert_eq!(unpack_messages(&body), Ok((head, messages)));
                }
            }
        }
    }
}
