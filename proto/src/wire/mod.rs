//! Messages to bytes and back: framing, batching, sealing. No I/O.
//!
//! A datagram is `version | mode | frame`. In mode 0 the frame is `cluster id | kind | body`, for
//! everybody to read and to forge. In mode 1 it is encrypted and authenticated with an AEAD under a
//! key that is derived from the cluster's secret for this cluster's name, this sender and this
//! start ([`seal`]), and `kind | body` is its plaintext. A [`Kind::Votes`] body is a [`Head`] and
//! its messages ([`codec`]), a [`Kind::Gossip`] body belongs to the gossip library, a
//! [`Kind::Question`] and a [`Kind::Answer`] are for those who look at a mesh from beside it
//! ([`observe`]).
//!
//! Whatever does not open or decode is dropped and counted by [`DropReason`]. Nothing that comes
//! from the network panics, blocks, or makes memory grow.

pub mod codec;
pub mod observe;
pub mod seal;
mod secret;
mod window;

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

pub use codec::Head;
pub use seal::{ClusterSecret, Seal, SecretError};

/// The first byte of every datagram. A datagram of another version is dropped.
pub const PROTOCOL_VERSION: u8 = 1;
/// The most bytes that a datagram with votes may have: it passes any path without fragments.
pub const DATAGRAM_BYTES_MAX: usize = 1_200;
/// The most bytes that any datagram may have: what UDP over IPv4 carries. Gossip may need it.
pub const GOSSIP_BYTES_MAX: usize = 65_507;

/// What a datagram is for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Kind {
    /// Messages of this protocol.
    Votes,
    /// Bytes of the gossip library.
    Gossip,
    /// What somebody beside the mesh asks of a node ([`observe`]).
    Question,
    /// What the node answers.
    Answer,
}

impl Kind {
    fn to_byte(self) -> u8 {
        match self {
            Self::Votes => 0,
            Self::Gossip => 1,
            Self::Question => 2,
            Self::Answer => 3,
        }
    }

    fn from_byte(byte: u8) -> Result<Self, DropReason> {
        match byte {
            0 => Ok(Self::Votes),
            1 => Ok(Self::Gossip),
            2 => Ok(Self::Question),
            3 => Ok(Self::Answer),
            _ => Err(DropReason::Undecodable),
        }
    }
}

/// Why a datagram, or a message in it, was dropped.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DropReason {
    /// Too short to be anything, or a question that is shorter than its answer.
    Short,
    /// Of a protocol version that this node does not speak, or framed in neither of its modes.
    Version,
    /// Sealed, and this mesh is plaintext.
    Sealed,
    /// Plaintext, and this mesh is sealed.
    Plaintext,
    /// Sealed with another key.
    Key,
    /// Of a cluster of another name.
    Cluster,
    /// It does not authenticate: forged or damaged.
    Forged,
    /// It was here before, or is too old to tell.
    Replayed,
    /// It authenticates but does not decode.
    Undecodable,
    /// It is for another node.
    Misaddressed,
    /// A message speaks for a claim that is not its sender's, or not its receiver's.
    NotTheirs,
    /// It comes from an earlier incarnation of its sender.
    OutdatedIncarnation,
    /// Its sender has another voter set.
    VoterSet,
    /// It is for a voter, and this node is none.
    NotAVoter,
    /// It is from this node itself.
    FromMyself,
    /// A message to a node whose address is not known.
    NoAddress,
    /// A message that does not fit into a datagram. Names are bounded so that there is none.
    TooLarge,
    /// The gossip library was too slow to take it, or it was too large to be sent.
    GossipFull,
    /// The operating system did not take it.
    SendFailed,
    /// There are more nodes than this node keeps a record of.
    TooManyNodes,
}

impl DropReason {
    /// The reason in one word, as metrics label it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Version => "version",
            Self::Sealed => "sealed",
            Self::Plaintext => "plaintext",
            Self::Key => "key",
            Self::Cluster => "cluster",
            Self::Forged => "forged",
            Self::Replayed => "replayed",
            Self::Undecodable => "undecodable",
            Self::Misaddressed => "misaddressed",
            Self::NotTheirs => "not_theirs",
            Self::OutdatedIncarnation => "outdated_incarnation",
            Self::VoterSet => "voter_set",
            Self::NotAVoter => "not_a_voter",
            Self::FromMyself => "from_myself",
            Self::NoAddress => "no_address",
            Self::TooLarge => "too_large",
            Self::GossipFull => "gossip_full",
            Self::SendFailed => "send_failed",
            Self::TooManyNodes => "too_many_nodes",
        }
    }
}

impl DropReason {
    /// Describes a datagram that cannot be opened; `None` for other reasons.
    #[must_use]
    pub fn as_unopened(self) -> Option<&'static str> {
        match self {
            Self::Key => Some("not sealed with our secret"),
            Self::Cluster => Some("of another cluster"),
            Self::Sealed => Some("sealed, and this mesh is plaintext"),
            Self::Plaintext => Some("plaintext, and this mesh is sealed"),
            Self::Forged => Some("damaged or forged"),
            Self::Version => Some("of another version of the protocol, or of another program"),
            _ => None,
        }
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How much went through, and how much was dropped.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Traffic {
    /// Datagrams with votes that were handed out to be sent.
    pub datagrams_out: u64,
    /// Messages in them.
    pub messages_out: u64,
    /// Datagrams with votes that were taken in.
    pub datagrams_in: u64,
    /// Messages in them.
    pub messages_in: u64,
    /// Datagrams of the gossip that were handed out to be sent.
    pub gossip_datagrams_out: u64,
    /// Bytes in them, as they are sent.
    pub gossip_bytes_out: u64,
    /// Questions of observers that were answered.
    pub answers: u64,
    /// How often a voter has kept what a session of this node covers.
    pub sessions_kept: u64,
    /// How often a voter has said that a session of this node is over.
    pub sessions_over: u64,
    /// What was dropped, by reason.
    pub dropped: BTreeMap<DropReason, u64>,
}

impl Traffic {
    /// Counts one that was dropped.
    pub fn drop_one(&mut self, reason: DropReason) {
        *self.dropped.entry(reason).or_default() += 1;
    }

    /// How many were dropped for `reason`.
    #[must_use]
    pub fn dropped_for(&self, reason: DropReason) -> u64 {
        self.dropped.get(&reason).copied().unwrap_or_default()
    }
}
