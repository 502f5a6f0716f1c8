//! The opening of damaged, foreign and replayed datagrams.

use std::collections::BTreeMap;

use lockmesh_proto::{
    ClusterSecret, DatagramKind, DropReason, PROTOCOL_VERSION, PROTOCOL_VERSION_MIN, REPLAY_WINDOW,
    Seal,
};
use proptest::collection::vec;
use proptest::prelude::*;

const BODY: &[u8] = b"a body";

fn seal_of(key: u8, boot: u8) -> Seal {
    Seal::sealed(ClusterSecret::from_bytes([key; 32]).unwrap(), [boot; 16])
}

/// A sender and a receiver of one cluster.
fn pair() -> (Seal, Seal) {
    (seal_of(1, 1), seal_of(1, 2))
}

#[test]
fn truncated_datagram_does_not_open() {
    let (mut a, mut b) = pair();
    let datagram = a.seal(DatagramKind::Votes, BODY);
    for len in 0..datagram.len() {
        let reason = b.open(&datagram[..len]).unwrap_err();
        let expected = if len < a.overhead() {
            DropReason::Short
        } else {
            DropReason::Forged
        };
        assert_eq!(reason, expected, "{len} bytes");
    }
    assert_eq!(b.peers(), 0);
    let mut long = datagram.clone();
    long.push(0);
    assert_eq!(b.open(&long), Err(DropReason::Forged));
    assert_eq!(b.open(&datagram), Ok((DatagramKind::Votes, BODY.to_vec())));
}

#[test]
fn plaintext_truncated_before_kind_does_not_open() {
    let mut seal = Seal::insecure_plaintext();
    let datagram = seal.seal(DatagramKind::Votes, BODY);
    for len in 0..seal.overhead() {
        assert_eq!(seal.open(&datagram[..len]), Err(DropReason::Short));
    }
}

#[test]
fn datagram_with_flipped_bit_does_not_open() {
    let (mut a, mut b) = pair();
    // The second time its sender is known and its counter has been used.
    let known = a.seal(DatagramKind::Votes, BODY);
    let datagram = a.seal(DatagramKind::Votes, BODY);
    for _ in 0..2 {
        for bit in 0..datagram.len() * 8 {
            let mut flipped = datagram.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let expected = match bit {
                0..8 => DropReason::Version,
                8 => DropReason::Plaintext,
                9..16 => DropReason::Version,
                16..48 => DropReason::Key,
                48..80 => DropReason::Cluster,
                _ => DropReason::Forged,
            };
            assert_eq!(b.open(&flipped), Err(expected), "bit {bit}");
        }
        let _ = b.open(&known);
        let _ = b.open(&datagram);
        assert_eq!(b.peers(), 1);
    }
}

#[test]
fn datagram_of_another_version_is_dropped() {
    for mut seal in [seal_of(1, 2), Seal::insecure_plaintext()] {
        let mut datagram = seal_of(1, 1).seal(DatagramKind::Votes, BODY);
        let read = PROTOCOL_VERSION_MIN..=PROTOCOL_VERSION;
        for version in (0..=u8::MAX).filter(|version| !read.contains(version)) {
            datagram[0] = version;
            assert_eq!(seal.open(&datagram), Err(DropReason::Version));
            assert_eq!(seal.open(&[version]), Err(DropReason::Version));
        }
        assert_eq!(seal.open(&[]), Err(DropReason::Short));
    }
}

#[test]
fn changed_version_of_sealed_datagram_is_a_forgery() {
    let (mut a, mut b) = pair();
    let mut datagram = a.seal(DatagramKind::Votes, BODY);
    datagram[0] = PROTOCOL_VERSION;
    assert_eq!(b.open(&datagram), Err(DropReason::Forged));
}

#[test]
fn datagrams_in_window_open_once_in_any_order() {
    let (mut a, mut b) = pair();
    let window = usize::try_from(REPLAY_WINDOW).unwrap();
    let sent: Vec<Vec<u8>> = (0..=window)
        .map(|_| a.seal(DatagramKind::Votes, BODY))
        .collect();
    for datagram in sent[1..].iter().rev() {
        assert!(b.open(datagram).is_ok());
    }
    for datagram in &sent {
        assert_eq!(b.open(datagram), Err(DropReason::Replayed));
    }
    // The first was never opened, but it is outside the window.
    assert_eq!(b.peers(), 1);
}

#[test]
fn each_sender_has_its_own_replay_window() {
    let mut b = seal_of(1, 2);
    for boot in 10..20 {
        let mut sender = seal_of(1, boot);
        let datagram = sender.seal(DatagramKind::Gossip, BODY);
        assert!(b.open(&datagram).is_ok());
        assert_eq!(b.open(&datagram), Err(DropReason::Replayed));
    }
    assert_eq!(b.peers(), 10);
}

proptest! {
    #[test]
    fn sealed_datagram_opens_unchanged(body in vec(any::<u8>(), 0..2_000), is_gossip in any::<bool>()) {
        let kind = if is_gossip { DatagramKind::Gossip } else { DatagramKind::Votes };
        let (mut a, mut b) = pair();
        prop_assert_eq!(b.open(&a.seal(kind, &body)), Ok((kind, body.clone())));
        let mut plain = Seal::insecure_plaintext();
        let datagram = plain.seal(kind, &body);
        prop_assert_eq!(plain.open(&datagram), Ok((kind, body)));
    }

    #[test]
    fn bytes_of_foreign_nodes_leave_no_state(
        bytes in vec(any::<u8>(), 0..200),
        has_header in any::<bool>(),
    ) {
        let (mut a, mut b) = pair();
        let mut datagram = bytes;
        if has_header {
            // The predictable bytes of the header are right.
            let head = a.seal(DatagramKind::Votes, b"");
            for (byte, right) in datagram.iter_mut().zip(&head[..3]) {
                *byte = *right;
            }
        }
        prop_assert!(b.open(&datagram).is_err());
        prop_assert_eq!(b.peers(), 0);
        let _ = Seal::insecure_plaintext().open(&datagram);
    }

    #[test]
    fn every_datagram_opens_at_most_once(order in vec(0..40_usize, 0..200)) {
        let (mut a, mut b) = pair();
        let sent: Vec<Vec<u8>> = (0..40_u8).map(|n| a.seal(DatagramKind::Votes, &[n])).collect();
        let mut taken: BTreeMap<usize, usize> = BTreeMap::new();
        for at in &order {
            match b.open(&sent[*at]) {
                Ok((DatagramKind::Votes, body)) => {
                    prop_assert_eq!(usize::from(body[0]), *at);
                    *taken.entry(*at).or_default() += 1;
                }
                other => prop_assert_eq!(other, Err(DropReason::Replayed)),
            }
        }
        prop_assert!(order.iter().all(|at| taken.get(at) == Some(&1)));
    }
}
