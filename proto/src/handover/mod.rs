//! The handover of a voter without a disk: it leaves its memory with other voters when it is shut
//! down, and its next incarnation takes the memory up (`docs/protocol.md`, section 6, rules 32 to
//! 35).
//!
//! Three state machines exchange [`Handover`] messages:
//!
//! - [`Leaver`] of the voter that is shut down: collects tokens, then sends the memory.
//! - [`Keeper`] of every other voter: keeps tokens and memories of others.
//! - [`Taker`] of the voter that starts without memory.
//!
//! A keeper that answers with its token has not restarted since the token was drawn. It gives the
//! memory to the first incarnation after it alone, and drops it before a later incarnation can have
//! sat out its quarantine. So if more than half of the keepers named in a memory answer, nobody can
//! have voted under that name since.
//!
//! Rejected: an answer that says only "I know this incarnation". A keeper that restarted can receive
//! a late datagram of that incarnation, and then counts again.

mod keeper;
mod leaver;
mod taker;

pub use keeper::Keeper;
pub use leaver::Leaver;
#[cfg(feature = "testing")]
pub use taker::Delivered;
pub use taker::Taker;

use serde::{Deserialize, Serialize};

use crate::id::{Incarnation, NodeId};
use crate::voter_set::{FNV_OFFSET, fnv, mix};
use crate::wire::codec::{append, take};

/// The most keepers of one memory.
pub(crate) const KEEPERS_MAX: usize = 5;
/// The bytes of a memory in one message. With the longest names and the seal it fits into a
/// datagram.
pub const MEMORY_PART_BYTES: usize = 900;
/// The most parts of a memory: 7 MB.
pub(crate) const PARTS_MAX: u32 = 8_192;
/// The most parts that are on their way to or from one keeper at once.
const WINDOW: usize = 32;

/// A message of a handover.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Handover {
    /// Leaving voter to voter: asks for a token.
    Entrust {
        /// The incarnation that leaves.
        incarnation: Incarnation,
    },
    /// The reply to [`Entrust`](Self::Entrust).
    Token {
        /// The incarnation that leaves.
        incarnation: Incarnation,
        /// The token, or `None` if this voter leaves too.
        token: Option<u64>,
    },
    /// One part of a memory: leaving voter to keeper, or keeper to recovering voter.
    Part(MemoryPart),
    /// Keeper to leaving voter: the part has arrived.
    PartKept {
        /// The token of the keeper.
        token: u64,
        /// The number of the part.
        number: u32,
        /// `true` if the keeper has the whole memory.
        is_whole: bool,
    },
    /// Recovering voter to voter: asks for what it keeps.
    Ask {
        /// Chosen by the sender and echoed in the reply.
        nonce: u64,
    },
    /// The reply to [`Ask`](Self::Ask).
    Told {
        /// The nonce of the question.
        nonce: u64,
        /// The token for the incarnation that asks, if there is one.
        kept: Option<KeptToken>,
    },
    /// Recovering voter to keeper: asks for one part.
    Fetch {
        /// The token of the keeper.
        token: u64,
        /// The number of the part.
        number: u32,
    },
}

/// One part of a memory.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct MemoryPart {
    /// The token of the keeper.
    pub token: u64,
    /// The number of the part, from zero on.
    pub number: u32,
    /// The number of parts, and their digest.
    pub size: MemorySize,
    /// The bytes of the part.
    pub bytes: Vec<u8>,
}

/// The size of a memory, and a digest of all its bytes.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct MemorySize {
    /// The number of parts.
    pub parts: u32,
    /// The digest.
    pub digest: u64,
}

/// The token that a keeper has drawn for an incarnation.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct KeptToken {
    /// The incarnation that left.
    pub incarnation: Incarnation,
    /// The token.
    pub token: u64,
    /// The size of its memory, if the keeper has all of it.
    pub memory: Option<MemorySize>,
}

/// The first bytes of a memory.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct MemoryHead {
    /// The incarnation that left.
    pub incarnation: Incarnation,
    /// The keepers of this memory, each with its token.
    pub keepers: Vec<(NodeId, u64)>,
}

impl MemoryHead {
    /// Returns the bytes of a memory with this head. `None` if it is too large.
    pub(crate) fn with(&self, journal: &[u8]) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        append(&mut bytes, self)?;
        bytes.extend(journal);
        (bytes.len() <= MEMORY_PART_BYTES * PARTS_MAX as usize).then_some(bytes)
    }

    /// Splits the bytes of a memory into its head and its journal. `None` if they are not valid.
    pub(crate) fn split(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (head, journal): (Self, _) = take(bytes).ok()?;
        let is_valid = (1..=KEEPERS_MAX).contains(&head.keepers.len());
        is_valid.then_some((head, journal))
    }
}

fn size_of(bytes: &[u8]) -> MemorySize {
    MemorySize {
        parts: bytes.len().div_ceil(MEMORY_PART_BYTES) as u32,
        digest: mix(fnv(FNV_OFFSET, bytes)),
    }
}

/// The parts of a memory that have arrived.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Parts {
    size: MemorySize,
    parts: Vec<Option<Vec<u8>>>,
    missing: usize,
}

impl Parts {
    /// Returns an empty collection. `None` if there cannot be a memory of this size.
    fn of(size: MemorySize) -> Option<Self> {
        let count = size.parts as usize;
        (1..=PARTS_MAX).contains(&size.parts).then(|| Self {
            size,
            parts: vec![None; count],
            missing: count,
        })
    }

    /// Adds a part.
    fn add(&mut self, part: MemoryPart) {
        let fits = part.size == self.size && part.bytes.len() <= MEMORY_PART_BYTES;
        if let Some(place) = self.parts.get_mut(part.number as usize)
            && fits
            && place.is_none()
        {
            *place = Some(part.bytes);
            self.missing -= 1;
        }
    }

    fn has(&self, number: u32) -> bool {
        self.parts
            .get(number as usize)
            .is_some_and(|part| part.is_some())
    }

    fn get(&self, number: u32) -> Option<&Vec<u8>> {
        self.parts.get(number as usize)?.as_ref()
    }

    /// Returns all bytes, if every part is there and the digest fits.
    fn whole(&self) -> Option<Vec<u8>> {
        if self.missing > 0 {
            return None;
        }
        let bytes: Vec<u8> = self.parts.iter().flatten().flatten().copied().collect();
        (size_of(&bytes) == self.size).then_some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts_of(bytes: &[u8]) -> Vec<MemoryPart> {
        let part = |(number, bytes): (usize, &[u8])| MemoryPart {
            token: 1,
            number: number as u32,
            size: size_of(bytes),
            bytes: bytes.to_vec(),
        };
        let chunks = bytes.chunks(MEMORY_PART_BYTES).enumerate();
        let parts = chunks.map(part);
        let size = size_of(bytes);
        parts.map(|part| MemoryPart { size, ..part }).collect()
    }

    #[test]
    fn parts_in_any_order_make_the_whole() {
        let bytes: Vec<u8> = (0..5 * MEMORY_PART_BYTES + 7).map(|n| n as u8).collect();
        let sent = parts_of(&bytes);
        let mut parts = Parts::of(size_of(&bytes)).unwrap();
        for part in sent.iter().rev().chain(&sent) {
            parts.add(part.clone());
        }
        assert_eq!(parts.whole(), Some(bytes));
    }

    #[test]
    fn parts_of_two_memories_are_not_mixed() {
        let [first, second] = [1, 2].map(|n| vec![n; 2 * MEMORY_PART_BYTES]);
        let (first, second) = (parts_of(&first), parts_of(&second));
        let mut parts = Parts::of(first[0].size).unwrap();
        parts.add(first[0].clone());
        parts.add(second[1].clone());
        assert_eq!(parts.missing, 1, "of another size");
        // Even with the right size, the digest tells.
        parts.add(MemoryPart {
            size: first[0].size,
            ..second[1].clone()
        });
        assert_eq!((parts.missing, parts.whole()), (0, None));
    }

    #[test]
    fn impossible_sizes_are_refused() {
        let of = |parts| Parts::of(MemorySize { parts, digest: 0 });
        assert!(of(0).is_none() && of(PARTS_MAX + 1).is_none());
        assert!(of(PARTS_MAX).is_some());
        let keepers = |count: usize| {
            let node = NodeId::new("n").unwrap();
            let keepers = vec![(node, 1); count];
            let incarnation = Incarnation::new(1);
            MemoryHead {
                incarnation,
                keepers,
            }
            .with(b"journal")
            .unwrap()
        };
        assert!(MemoryHead::split(&keepers(0)).is_none());
        assert!(MemoryHead::split(&keepers(KEEPERS_MAX + 1)).is_none());
        let (head, journal) = (keepers(KEEPERS_MAX), b"journal".as_slice());
        assert_eq!(MemoryHead::split(&head).unwrap().1, journal);
        assert!(MemoryHead::split(&head[..3]).is_none());
    }
}
