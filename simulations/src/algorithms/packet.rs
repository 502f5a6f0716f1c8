//! The datagrams of the two other algorithms: one format of a verb and eight numbers.

use lockmesh_proto::Key;

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

const WORDS: usize = 8;
/// One byte longer than eight numbers, so that no datagram of a node is mistaken for a packet.
const PACKET_BYTES: usize = WORDS * 8 + 1;

impl Packet {
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let words = [
            self.key,
            self.value,
            self.epoch,
            self.ttl,
            self.sent_at,
            self.server,
            self.fence,
            0,
        ];
        let mut bytes = vec![self.verb as u8];
        bytes.extend(words.into_iter().flat_map(u64::to_le_bytes));
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != PACKET_BYTES {
            return None;
        }
        let verb = match bytes[0] {
            0 => Verb::Lock,
            1 => Verb::Keep,
            2 => Verb::Unlock,
            3 => Verb::Withdraw,
            4 => Verb::Yes,
            5 => Verb::No,
            _ => return None,
        };
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[1 + at * 8..9 + at * 8]);
            u64::from_le_bytes(word)
        };
        Some(Self {
            verb,
            key: word(0),
            value: word(1),
            epoch: word(2),
            ttl: word(3),
            sent_at: word(4),
            server: word(5),
            fence: word(6),
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
