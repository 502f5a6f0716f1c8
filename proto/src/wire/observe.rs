//! The questions of observers to a node, and its answers.
//!
//! An observer is not a node: it has no name, incarnation or voter set. Its datagrams therefore
//! have no [`DatagramHead`](super::Head), and kinds of their own ([`DatagramKind::Question`](super::Kind),
//! [`DatagramKind::Answer`](super::Kind)). A question is for any node at its destination address. Nothing
//! in the protocol depends on an answer, and no question changes a claim or a vote.
//!
//! **Bounded.** One question has one answer of one datagram. Longer lists are paged: a question
//! names the last entry that the observer has, and the answer has the entries after it. The node
//! reads at most one entry more than fits.
//!
//! **No amplification.** The source address of a question may be forged. An answer is never longer
//! than its question, so an observer pads its questions with zeros.

use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::time::Duration;

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::codec::{append, take};
use super::{DATAGRAM_BYTES_MAX, DropReason, Traffic};
use crate::clocks::WallClock;
use crate::id::{Incarnation, Key, NodeId};
use crate::message::Report;
use crate::voter_set::{Timing, VoterSetTag};

/// The most entries in one page.
pub const PAGE_ENTRIES_MAX: usize = 128;
/// The most waiters of a lock in a page. The answer to [`Question::Key`] may have more.
pub const LISTED_WAITERS_MAX: usize = 3;
/// The most reasons for drops in an [`Overview`].
pub const DROPPED_MAX: usize = 32;

/// A question of an observer.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub enum Question {
    /// The node's identity and state.
    Overview,
    /// The members and the other known nodes, in the order of their ids.
    Nodes {
        /// The node after which the page starts.
        after: Option<NodeId>,
    },
    /// The keys of the node's voter and their claims, in the order of a hash of the keys.
    Locks {
        /// The key after which the page starts.
        after: Option<Key>,
    },
    /// One key, as the node's voter sees it.
    Key {
        /// The key.
        key: Key,
    },
}

/// The content of a question's datagram.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Asked {
    /// A number that the observer chooses and the answer echoes.
    pub nonce: u64,
    /// The question.
    pub question: Question,
}

/// The content of an answer's datagram.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Answered {
    /// The question's nonce.
    pub nonce: u64,
    /// The node that answers.
    pub node: NodeId,
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// Its voter set.
    pub voter_set: VoterSetTag,
    /// The answer.
    pub answer: Answer,
}

/// An answer of a node, with one variant for each question.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Answer {
    /// The answer to [`Question::Overview`].
    Overview(Box<Overview>),
    /// The answer to [`Question::Nodes`].
    Nodes(Page<SeenNode>),
    /// The answer to [`Question::Locks`].
    Locks(Page<SeenLock>),
    /// The answer to [`Question::Key`]. Its nonce is zero.
    Key(Report),
}

/// A part of a list.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Page<T> {
    /// The entries, in order.
    #[serde(
        bound(deserialize = "T: Deserialize<'de>"),
        deserialize_with = "few::<_, T, PAGE_ENTRIES_MAX>"
    )]
    pub entries: Vec<T>,
    /// `true` if there are entries after the last of them.
    pub more: bool,
}

/// The state of a node, as it reports it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Overview {
    /// The number of members of its voter set.
    pub members: u32,
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
    /// Dropped datagrams and messages, by reason.
    #[serde(deserialize_with = "few::<_, Dropped, DROPPED_MAX>")]
    pub dropped: Vec<Dropped>,
}

/// The number of drops for one reason.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Dropped {
    /// The reason, as [`DropReason::as_str`] returns it. It is text, since the node's version may
    /// have other reasons.
    pub reason: String,
    /// The number of drops.
    pub count: u64,
}

impl From<&Traffic> for Flow {
    fn from(traffic: &Traffic) -> Self {
        let dropped = traffic.dropped.iter().take(DROPPED_MAX);
        Self {
            datagrams_out: traffic.datagrams_out,
            messages_out: traffic.messages_out,
            datagrams_in: traffic.datagrams_in,
            messages_in: traffic.messages_in,
            answers: traffic.answers,
            dropped: dropped
                .map(|(reason, count)| Dropped {
                    reason: reason.as_str().to_owned(),
                    count: *count,
                })
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
    /// The voter's report, with at most [`LISTED_WAITERS_MAX`] waiters. Its nonce is zero.
    pub report: Report,
}

impl Asked {
    /// Encodes the body of a datagram. It is padded with zeros to `len` bytes, so that the answer
    /// may have as many.
    #[must_use]
    pub fn to_body(&self, len: usize) -> Vec<u8> {
        let mut body = Vec::with_capacity(len);
        // It always fits, since names are bounded.
        let _ = append(&mut body, self);
        body.resize(len.max(body.len()), 0);
        body
    }

    /// Decodes the body of a datagram.
    ///
    /// # Errors
    /// [`DropReason::Undecodable`] unless it is a question, followed only by zeros, of at most
    /// [`DATAGRAM_BYTES_MAX`] bytes.
    pub fn from_body(body: &[u8]) -> Result<Self, DropReason> {
        let (asked, rest) = whole(body)?;
        match rest.iter().all(|byte| *byte == 0) {
            true => Ok(asked),
            false => Err(DropReason::Undecodable),
        }
    }
}

impl Answered {
    /// Encodes the body of a datagram.
    #[must_use]
    pub fn to_body(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(DATAGRAM_BYTES_MAX);
        let _ = append(&mut body, self);
        body
    }

    /// Decodes the body of a datagram.
    ///
    /// # Errors
    /// [`DropReason::Undecodable`] unless every byte belongs to an answer of at most
    /// [`DATAGRAM_BYTES_MAX`] bytes.
    pub fn from_body(body: &[u8]) -> Result<Self, DropReason> {
        match whole(body)? {
            (answered, []) => Ok(answered),
            _ => Err(DropReason::Undecodable),
        }
    }
}

fn whole<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<(T, &'a [u8]), DropReason> {
    if body.len() > DATAGRAM_BYTES_MAX {
        return Err(DropReason::Undecodable);
    }
    take(body)
}

impl<T> Page<T> {
    /// Returns a page without entries.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            entries: Vec::new(),
            more: false,
        }
    }
}

impl<T: Serialize> Page<T> {
    /// Returns a page of the first `entries` that fit into `room` bytes, besides the bytes of an
    /// empty page. Reads at most one entry that does not fit.
    #[must_use]
    pub fn fill(room: usize, entries: impl IntoIterator<Item = T>) -> Self {
        let (mut page, mut used) = (Vec::new(), Vec::with_capacity(room));
        for entry in entries {
            let fits = append(&mut used, &entry).is_some() && used.len() <= room;
            if !fits || page.len() == PAGE_ENTRIES_MAX {
                return Self {
                    entries: page,
                    more: true,
                };
            }
            page.push(entry);
        }
        Self {
            entries: page,
            more: false,
        }
    }
}

/// Decodes at most `MAX` entries. A plain `Vec` would allocate for the length that a foreign node
/// claims, before it reads an entry.
fn few<'de, D, T, const MAX: usize>(from: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct Few<T, const MAX: usize>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Few<T, MAX> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "at most {MAX} entries")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let mut entries = Vec::new();
            while let Some(entry) = seq.next_element()? {
                if entries.len() == MAX {
                    return Err(A::Error::invalid_length(MAX + 1, &self));
                }
                entries.push(entry);
            }
            Ok(entries)
        }
    }

    from.deserialize_seq(Few::<T, MAX>(PhantomData))
}
