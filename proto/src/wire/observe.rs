//! The questions of observers to a node, and its answers.
//!
//! An observer is not a node: it has no name, incarnation or voter set. Its datagrams therefore
//! have no `DatagramHead`, and kinds of their own ([`DatagramKind::Question`], [`DatagramKind::Answer`]). A
//! question is for any node at its destination address. Nothing in the protocol depends on an
//! answer, and no question changes a claim or a vote.
//!
//! **One question, one answer, one datagram.** An answer has the entries that fit, and the number
//! of the next one. The observer asks for those from there.
//!
//! **No amplification.** Only the cluster's nodes can seal a question, and a recorded one is opened
//! once. In plaintext anyone can forge its source address, so an answer is then never longer than
//! its question. Observers pad such questions with zeros.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::codec::{append, decode_whole, take};
use super::{DATAGRAM_BYTES_MAX, DatagramKind, DropReason, Seal, Traffic};
use crate::clocks::WallClock;
use crate::id::{Incarnation, Key, NodeId, Note};
use crate::message::Report;
use crate::voter_set::{Timing, VoterSetTag, short_hash};

/// The content of a question.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub enum Topic {
    /// The node's state, and the nodes that it knows from a number on: the members come first.
    Overview {
        /// The number of the first node, from zero.
        from: u64,
    },
    /// The keys of the node's voter from a number on; see [`first_lock_number`].
    Locks {
        /// The number of the first key, from zero.
        from: u64,
    },
    /// One key, as the node's voter sees it.
    Key {
        /// The key.
        key: Key,
    },
    /// Since version 2. Like [`Locks`](Self::Locks), with the notes of the holders.
    LocksAndNotes {
        /// The number of the first key, from zero.
        from: u64,
    },
    /// Since version 2. Like [`Key`](Self::Key), with notes.
    KeyAndNotes {
        /// The key.
        key: Key,
    },
}

impl Topic {
    /// Returns the topic that a node of version 1 reads.
    pub(crate) fn without_notes(self) -> Self {
        match self {
            Self::LocksAndNotes { from } => Self::Locks { from },
            Self::KeyAndNotes { key } => Self::Key { key },
            other => other,
        }
    }
}

/// A question of an observer.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Question {
    /// A number that the observer chooses and the answer echoes.
    pub nonce: u64,
    /// The content of the question.
    pub topic: Topic,
}

/// An answer of a node.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Answer {
    /// The question's nonce.
    pub nonce: u64,
    /// The node that answers.
    pub node: NodeId,
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// Its voter set.
    pub voter_set: VoterSetTag,
    /// Its state, if the topic is [`Topic::Overview`].
    pub overview: Option<Box<Overview>>,
    /// The nodes that it knows, if the topic is [`Topic::Overview`].
    pub nodes: Vec<SeenNode>,
    /// The keys of its voter, or the one that was asked for.
    pub locks: Vec<SeenLock>,
    /// The number of the first entry that did not fit.
    pub next: Option<u64>,
    /// Since version 2. The notes of claims in `locks`, if the topic asks for them. They are encoded
    /// after the rest, so that an answer without them is one of version 1.
    #[serde(skip)]
    pub notes: Vec<SeenNote>,
}

/// The state of a node, as it reports it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Overview {
    /// The number of voters of each key.
    pub voters_per_key: u32,
    /// The constants that all nodes share.
    pub timing: Timing,
    /// The state of its voter.
    pub voter: VoterState,
    /// The state of its wall clock, compared with those of the members.
    pub wall_clock: WallClock,
    /// The number of keys that its voter keeps: those that are held or waited for.
    pub keys: u64,
    /// The number of its own requests and leases.
    pub claims: u64,
    /// The outcomes of its requests.
    pub counts: Counts,
    /// The counters of its datagrams.
    pub traffic: Flow,
}

/// The state of a node's voter.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub enum VoterState {
    /// The node is not a member of its voter set.
    NotAMember,
    /// The voter votes.
    Votes,
    /// The voter has no memory of its votes and is in recovery.
    Recovering {
        /// Time left in quarantine. Recovery may add up to one second.
        remaining: Duration,
    },
}

/// The outcomes of a node's requests for locks since its start.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Counts {
    /// Requests that were started.
    pub requests: u64,
    /// Locks that were granted.
    pub granted: u64,
    /// `try` requests that were denied, since another claim is granted.
    pub denied: u64,
    /// Requests that ended without a quorum.
    pub timed_out: u64,
    /// Self-renewing leases that were lost.
    pub lost: u64,
}

/// The counters of a node's datagrams since its start.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Flow {
    /// Datagrams with votes that were passed to the driver to send.
    pub datagrams_out: u64,
    /// Messages in them.
    pub messages_out: u64,
    /// Datagrams with votes that were received and accepted.
    pub datagrams_in: u64,
    /// Messages in them.
    pub messages_in: u64,
    /// Questions of observers that were answered.
    pub answers: u64,
    /// Dropped datagrams and messages, by reason. The reasons are text, since the node's version
    /// may have other ones.
    pub dropped: BTreeMap<String, u64>,
}

impl From<&Traffic> for Flow {
    fn from(traffic: &Traffic) -> Self {
        let dropped = traffic.dropped.iter();
        Self {
            datagrams_out: traffic.datagrams_out,
            messages_out: traffic.messages_out,
            datagrams_in: traffic.datagrams_in,
            messages_in: traffic.messages_in,
            answers: traffic.answers,
            dropped: dropped
                .map(|(reason, count)| (reason.as_str().to_owned(), *count))
                .collect(),
        }
    }
}

/// A node, as the answering node sees it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SeenNode {
    /// Its id.
    pub node: NodeId,
    /// The address that the answering node sends to.
    pub addr: Option<SocketAddr>,
    /// `true` if the answering node's voter set names it.
    pub is_member: bool,
    /// The state that gossip reports. `None` for the answering node itself and for nodes that
    /// gossip does not know.
    pub is_alive: Option<bool>,
    /// The time for which gossip has reported it as dead.
    pub silent_for: Option<Duration>,
}

/// A key as one voter sees it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SeenLock {
    /// The key.
    pub key: Key,
    /// The voter's report. Its nonce is zero, and in a list it has few waiters.
    pub report: Report,
}

/// The note of a claim in an answer.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct SeenNote {
    /// The number of the lock among those of the answer, from zero.
    pub lock: u32,
    /// The number of the claim: zero for the vote, and from one on for the waiters.
    pub claim: u32,
    /// The note.
    pub note: Note,
}

/// Returns the lowest number that a key may have in the lists of voters. Its upper half is a hash
/// of the key, so all voters list their keys in one order. Its lower half is zero.
#[must_use]
pub fn first_lock_number(key: &Key) -> u64 {
    u64::from(short_hash(key)) << 32
}

impl Question {
    /// Returns a datagram with this question.
    pub fn seal(&self, seal: &mut Seal) -> Vec<u8> {
        let mut body = Vec::new();
        // It always fits, since names are bounded.
        let _ = append(&mut body, self);
        if !seal.is_sealed() {
            body.resize(DATAGRAM_BYTES_MAX - seal.overhead(), 0);
        }
        seal.seal(DatagramKind::Question, &body)
    }

    /// Decodes the body of a datagram.
    ///
    /// # Errors
    /// [`DropReason::Undecodable`] unless it is a question, followed only by zeros.
    pub fn from_body(body: &[u8]) -> Result<Self, DropReason> {
        match take(body)? {
            (question, rest) if rest.iter().all(|byte| *byte == 0) => Ok(question),
            _ => Err(DropReason::Undecodable),
        }
    }
}

impl Answer {
    /// Encodes the body of a datagram.
    #[must_use]
    pub fn to_body(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(DATAGRAM_BYTES_MAX);
        let _ = append(&mut body, self);
        if !self.notes.is_empty() {
            let _ = append(&mut body, &self.notes);
        }
        body
    }

    /// Decodes the body of a datagram.
    ///
    /// # Errors
    /// [`DropReason::Undecodable`] unless every byte belongs to an answer of at most
    /// [`DATAGRAM_BYTES_MAX`] bytes.
    pub fn from_body(body: &[u8]) -> Result<Self, DropReason> {
        if body.len() > DATAGRAM_BYTES_MAX {
            return Err(DropReason::Undecodable);
        }
        let (mut answer, rest): (Self, _) = take(body)?;
        if !rest.is_empty() {
            answer.notes = decode_whole(rest).unwrap_or_default();
            if answer.notes.is_empty() {
                return Err(DropReason::Undecodable);
            }
        }
        Ok(answer)
    }
}
