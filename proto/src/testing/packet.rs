//! Datagrams in flight, and random numbers that decide about them.

use crate::{Message, Seal, unpack_messages};

/// A datagram in flight.
#[derive(Clone, Debug)]
pub struct Packet {
    /// The seat of its sender.
    pub from: usize,
    /// The seat of its receiver.
    pub to: usize,
    /// The datagram.
    pub bytes: Vec<u8>,
    /// The source port that the receiver sees.
    pub from_port: u16,
}

impl Packet {
    /// Returns the messages of a datagram in plaintext.
    ///
    /// # Panics
    /// Panics if the datagram is sealed or malformed.
    #[must_use]
    pub fn messages(&self) -> Vec<Message> {
        let opened = Seal::insecure_plaintext().open(&self.bytes);
        let (_, body) = opened.expect("a datagram in plaintext");
        unpack_messages(&body).expect("a valid datagram").1
    }

    /// Returns `true` if `is_such` holds for one of its messages.
    ///
    /// # Panics
    /// Panics if the datagram is sealed or malformed.
    pub fn has(&self, is_such: impl Fn(&Message) -> bool) -> bool {
        self.messages().iter().any(is_such)
    }

    /// Returns `true` if it goes from one of these seats to the other.
    #[must_use]
    pub fn is_between(&self, a: usize, b: usize) -> bool {
        (self.from, self.to) == (a, b) || (self.from, self.to) == (b, a)
    }
}

/// A SplitMix64 generator.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// Returns a number below `bound`, or zero if `bound` is zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % bound.max(1)
    }

    /// Returns `true` with a probability of `chance` percent.
    pub fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }
}
