//! The datagrams of the two other algorithms: one format of a verb and eight numbers.

use crate::proto::Key;

/// The kind of a request or a reply.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Verb {
    /// Lock the key, if it is free.
    Lock,
    /// Renew my lock.
    Keep,
    /// Release my lock.
    Unlock,
    /// Withdraw my attempt, which was never granted.
    Withdraw,
    /// The server agrees.
    Yes,
    /// The server refuses.
    No,
}

/// A claimant's request, or a server's reply to it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Packet {
    pub(super) verb: Verb,
    /// A hash of the key.
    pub(super) key: u64,
    /// The random number of one attempt of one claimant.
    pub(super) value: u64,
    pub(super) epoch: u64,
    /// The ttl, in nanoseconds.
    pub(super) ttl: u64,
    /// The claimant's clock when it sent the request; a server only echoes it.
    pub(super) sent_at: u64,
    /// The index of the server in the voter set.
    pub(super) server: u64,
    /// The highest epoch that may have been granted, as far as the server knows.
    pub(super) fence: u64,
}

/// The verbs by their byte.
const VERBS: [Verb; 6] = [
    Verb::Lock,
    Verb::Keep,
    Verb::Unlock,
    Verb::Withdraw,
    Verb::Yes,
    Verb::No,
];
const WORDS: usize = 8;
/// One byte longer than eight numbers, so that no datagram of a node is mistaken for a packet.
const PACKET_BYTES: usize = WORDS * 8 + 1;

impl Packet {
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let Self {
            verb,
            key,
            value,
            epoch,
            ttl,
            sent_at,
            server,
            fence,
        } = self;
        let words = [key, value, epoch, ttl, sent_at, server, fence, 0];
        let words = words.into_iter().flat_map(u64::to_le_bytes);
        [verb as u8].into_iter().chain(words).collect()
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != PACKET_BYTES {
            return None;
        }
        let (words, _) = bytes[1..].as_chunks();
        let mut words = words.iter().map(|word| u64::from_le_bytes(*word));
        Some(Self {
            verb: *VERBS.get(usize::from(bytes[0]))?,
            key: words.next()?,
            value: words.next()?,
            epoch: words.next()?,
            ttl: words.next()?,
            sent_at: words.next()?,
            server: words.next()?,
            fence: words.next()?,
        })
    }

    /// Returns the server's reply to it.
    pub(super) fn answer(self, yes: bool, fence: u64) -> Self {
        let verb = if yes { Verb::Yes } else { Verb::No };
        Self {
            verb,
            fence,
            ..self
        }
    }
}

/// Hashes a key with FNV-1a.
pub(super) fn hash(key: &Key) -> u64 {
    let bytes = key.as_str().bytes();
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packet_round_trips_and_other_bytes_are_rejected() {
        let asks = [Verb::Lock, Verb::Keep, Verb::Unlock, Verb::Withdraw];
        for verb in asks.into_iter().chain([Verb::Yes, Verb::No]) {
            let packet = Packet {
                verb,
                key: 1,
                value: 2,
                epoch: 3,
                ttl: 4,
                sent_at: 5,
                server: 6,
                fence: u64::MAX,
            };
            let bytes = packet.to_bytes();
            assert_eq!(Packet::from_bytes(&bytes), Some(packet));
            assert_eq!(Packet::from_bytes(&bytes[1..]), None);
        }
        assert_eq!(Packet::from_bytes(&[9; PACKET_BYTES]), None);
    }
}
