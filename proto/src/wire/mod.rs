//! The encoding of messages as datagrams: framing, batching, sealing. No I/O.
//!
//! A datagram is `version | mode | frame`. In mode 0 the frame is `cluster id | kind | body`, which
//! anyone can read and forge. In mode 1 the frame is encrypted and authenticated with an AEAD, and
//! its plaintext is `kind | body`. The AEAD's key is derived from the cluster's secret, for the
//! cluster's name and one start of the sender ([`seal`]).
//!
//! The kind determines the body:
//!
//! - [`DatagramKind::Votes`]: a [`DatagramHead`] and its messages ([`codec`]);
//! - [`DatagramKind::Gossip`]: bytes of the gossip library;
//! - [`DatagramKind::Question`] and [`DatagramKind::Answer`]: a question of an observer, and the answer
//!   ([`observe`]).
//!
//! A datagram that cannot be opened or decoded is dropped and counted by [`DropReason`]. No
//! datagram makes a node panic or block, or makes its memory grow without bound.

pub(crate) mod codec;
pub(crate) mod observe;
pub(crate) mod seal;
mod secret;
mod window;

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

pub(crate) use codec::DatagramHead;
pub(crate) use seal::Seal;

/// The newest version of the protocol that this crate speaks. Each datagram begins with the version
/// of its sender for that receiver.
pub const PROTOCOL_VERSION: u8 = 2;
/// The oldest version that this crate reads. It speaks it to nodes that are not known to read a
/// newer one, and in gossip, questions and answers.
pub const PROTOCOL_VERSION_MIN: u8 = 1;
/// The largest datagram with votes, in bytes. It passes any path without fragmentation.
pub const DATAGRAM_BYTES_MAX: usize = 1_200;
/// The largest datagram of any kind, in bytes: the limit of UDP over IPv4. Gossip may need it.
pub const GOSSIP_BYTES_MAX: usize = 65_507;

/// The purpose of a datagram.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum DatagramKind {
    /// Messages of this protocol.
    Votes,
    /// Bytes of the gossip library.
    Gossip,
    /// A question of an observer to a node.
    Question,
    /// The answer of a node to an observer.
    Answer,
}

impl DatagramKind {
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

/// The reason why a datagram, or a message in it, was dropped.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DropReason {
    /// Too short for its format, or a question that is shorter than its answer.
    Short,
    /// Of another protocol version, or of an unknown mode.
    Version,
    /// Sealed, and this mesh is plaintext.
    Sealed,
    /// Plaintext, and this mesh is sealed.
    Plaintext,
    /// Sealed with another secret.
    Key,
    /// Of a cluster of another name.
    Cluster,
    /// Not authentic: forged or damaged.
    Forged,
    /// Received before, or too old to be checked for a replay.
    Replayed,
    /// Opened, but not decodable or out of the protocol's limits.
    Undecodable,
    /// For another receiver.
    Misaddressed,
    /// A `Claim` or `Release` for a claim of another node than its sender, or an answer to a claim
    /// of another node than its receiver.
    NotTheirs,
    /// From an earlier incarnation of its sender.
    OutdatedIncarnation,
    /// From a node with another voter set.
    VoterSet,
    /// For a voter, and this node is none.
    NotAVoter,
    /// From this node itself.
    FromMyself,
    /// For a node whose address is not known.
    NoAddress,
    /// A message too large for a datagram. Names are bounded so that there is none.
    TooLarge,
    /// A gossip datagram that is too large to send, or that the gossip library was too slow to
    /// receive.
    GossipFull,
    /// Not accepted by the operating system.
    SendFailed,
    /// From a node beyond the number that this node remembers.
    TooManyNodes,
}

impl DropReason {
    /// All reasons.
    pub const ALL: [Self; 20] = [
        Self::Short,
        Self::Version,
        Self::Sealed,
        Self::Plaintext,
        Self::Key,
        Self::Cluster,
        Self::Forged,
        Self::Replayed,
        Self::Undecodable,
        Self::Misaddressed,
        Self::NotTheirs,
        Self::OutdatedIncarnation,
        Self::VoterSet,
        Self::NotAVoter,
        Self::FromMyself,
        Self::NoAddress,
        Self::TooLarge,
        Self::GossipFull,
        Self::SendFailed,
        Self::TooManyNodes,
    ];

    /// Returns the reason in one word, for the labels of metrics.
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
    /// Returns why a datagram cannot be opened, for people; `None` for other reasons.
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

/// Counters of sent, received and dropped datagrams.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Traffic {
    /// Datagrams with votes that were passed to the driver to send.
    pub datagrams_out: u64,
    /// Messages in them.
    pub messages_out: u64,
    /// Datagrams with votes that were received and accepted.
    pub datagrams_in: u64,
    /// Messages in them.
    pub messages_in: u64,
    /// Datagrams of the gossip library that were passed to the driver to send.
    pub gossip_datagrams_out: u64,
    /// Bytes in them, after sealing.
    pub gossip_bytes_out: u64,
    /// Questions of observers that were answered.
    pub answers: u64,
    /// Replies of voters that renewed a session of this node.
    pub sessions_kept: u64,
    /// Replies of voters that a session of this node is over.
    pub sessions_over: u64,
    /// Dropped datagrams and messages, by reason.
    pub dropped: BTreeMap<DropReason, u64>,
}

impl Traffic {
    /// Counts one dropped datagram or message.
    pub fn drop_one(&mut self, reason: DropReason) {
        *self.dropped.entry(reason).or_default() += 1;
    }

    /// Returns the number of drops for `reason`.
    #[must_use]
    pub fn dropped_for(&self, reason: DropReason) -> u64 {
        self.dropped.get(&reason).copied().unwrap_or_default()
    }
}
