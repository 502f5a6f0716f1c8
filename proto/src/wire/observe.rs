//! What somebody beside the mesh may ask of a node, and what the node answers.
//!
//! An observer is no node: it has no name, no incarnation and no voter set, so its datagrams have
//! no [`Head`](super::Head) and are of kinds of their own ([`Kind::Question`](super::Kind),
//! [`Kind::Answer`](super::Kind)). A question is for whoever listens at the address that it is sent
//! to. Nothing in the protocol depends on an answer, and no answer changes the node.
//!
//! **Small.** One question has one answer, of one datagram. What is longer is told in pages: each
//! question names the last entry that the asker has, and the node answers what follows it in order,
//! looking at no more than fits.
//!
//! **No amplifier.** The address that a question came from may be forged. An answer is never longer
//! than its question, so an observer fills its questions up with zeros.

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

/// The most entries that one page has.
pub const PAGE_ENTRIES_MAX: usize = 128;
/// The most waiters that a lock in a page names. A question for one key names more.
pub const LISTED_WAITERS_MAX: usize = 3;
/// The most reasons for drops that an [`Overview`] tells.
pub const DROPPED_MAX: usize = 32;

/// What an observer asks.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub enum Question {
    /// Who are you, and how are you?
    Overview,
    /// Whom do you know, of the members and of the others, in the order of their ids?
    Nodes {
        /// Only those after this one.
        after: Option<NodeId>,
    },
    /// Which keys does your voter keep, and for whom? In the order of a hash of the keys.
    Locks {
        /// Only those after this one.
        after: Option<Key>,
    },
    /// Who owns this key, as your voter sees it?
    Key {
        /// The key.
        key: Key,
    },
}

/// A question on its way.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Asked {
    /// Chosen by the asker, echoed in the answer.
    pub nonce: u64,
    /// What is asked.
    pub question: Question,
}

/// An answer on its way.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Answered {
    /// The question's nonce.
    pub nonce: u64,
    /// Who answers.
    pub node: NodeId,
    /// In which incarnation.
    pub incarnation: Incarnation,
    /// The answerer's voter set.
    pub voter_set: VoterSetTag,
    /// What it says.
    pub answer: Answer,
}

/// What a node answers: to each question its own.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Answer {
    /// To [`Question::Overview`].
    Overview(Box<Overview>),
    /// To [`Question::Nodes`].
    Nodes(Page<SeenNode>),
    /// To [`Question::Locks`].
    Locks(Page<SeenLock>),
    /// To [`Question::Key`]. Its nonce is zero.
    Key(Report),
}

/// A part of a list.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Page<T> {
    /// In order.
    #[serde(
        bound(deserialize = "T: Deserialize<'de>"),
        deserialize_with = "few::<_, T, PAGE_ENTRIES_MAX>"
    )]
    pub entries: Vec<T>,
    /// Whether there is more after the last of them.
    pub more: bool,
}

/// A node in its own words.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Overview {
    /// How many members its voter set names.
    pub members: u32,
    /// How many of them vote for each key.
    pub voters_per_key: u32,
    /// The constants that all nodes share.
    pub timing: Timing,
    /// What its voter does.
    pub voter: VoterState,
    /// What the voters' wall clocks say of its own.
    pub wall_clock: WallClock,
    /// How many keys its voter keeps: those that are held or waited for.
    pub keys: u64,
    /// How many locks it holds or asks for itself.
    pub claims: u64,
    /// What became of its requests.
    pub counts: Counts,
    /// Its datagrams.
    pub traffic: Flow,
}

/// Whether a node votes.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub enum VoterState {
    /// It is no member of its voter set.
    NotAMember,
    /// It votes.
    Votes,
    /// It has no memory of its votes and is in recovery.
    Recovering {
        /// For so long at the most, but for a second.
        remaining: Duration,
    },
}

/// What became of a node's requests for locks, since it was started.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Counts {
    /// Requests that were begun.
    pub requests: u64,
    /// Locks that were granted.
    pub granted: u64,
    /// `try` requests that another claim was granted.
    pub denied: u64,
    /// Requests that ended without a quorum.
    pub timed_out: u64,
    /// Leases that could not be renewed in time.
    pub lost: u64,
}

/// A node's datagrams, since it was started.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Flow {
    /// Datagrams with votes that were handed out to be sent.
    pub datagrams_out: u64,
    /// Messages in them.
    pub messages_out: u64,
    /// Datagrams with votes that were taken in.
    pub datagrams_in: u64,
    /// Messages in them.
    pub messages_in: u64,
    /// Questions of observers that were answered.
    pub answers: u64,
    /// What was dropped.
    #[serde(deserialize_with = "few::<_, Dropped, DROPPED_MAX>")]
    pub dropped: Vec<Dropped>,
}

/// How much was dropped for one reason.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Dropped {
    /// The reason in a word, as [`DropReason::as_str`] has it: text, since the node may be of a
    /// version that knows other reasons.
    pub reason: String,
    /// How often.
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

/// A node as another one sees it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SeenNode {
    /// Its id.
    pub node: NodeId,
    /// Where the other would send to.
    pub addr: Option<SocketAddr>,
    /// Whether the other's voter set names it.
    pub is_member: bool,
    /// What gossip says: advice. `None` where it has not heard of it, and of itself.
    pub is_alive: Option<bool>,
    /// For how long gossip has called it dead.
    pub silent_for: Option<Duration>,
}

/// A key as one voter sees it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SeenLock {
    /// The key.
    pub key: Key,
    /// What the voter has of it: at most [`LISTED_WAITERS_MAX`] waiters. Its nonce is zero.
    pub report: Report,
}

impl Asked {
    /// The body of a datagram: filled up with zeros to `len` bytes, so that an answer of as many
    /// may come.
    #[must_use]
    pub fn to_body(&self, len: usize) -> Vec<u8> {
        let mut body = Vec::with_capacity(len);
        // Names are bounded: it always fits.
        let _ = append(&mut body, self);
        body.resize(len.max(body.len()), 0);
        body
    }

    /// Reads the body of a datagram.
    ///
    /// # Errors
    /// [`DropReason::Undecodable`] unless it is a question, and nothing but zeros after it.
    pub fn from_body(body: &[u8]) -> Result<Self, DropReason> {
        let (asked, rest) = whole(body)?;
        match rest.iter().all(|byte| *byte == 0) {
            true => Ok(asked),
            false => Err(DropReason::Undecodable),
        }
    }
}

impl Answered {
    /// The body of a datagram.
    #[must_use]
    pub fn to_body(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(DATAGRAM_BYTES_MAX);
        let _ = append(&mut body, self);
        body
    }

    /// Reads the body of a datagram.
    ///
    /// # Errors
    /// [`DropReason::Undecodable`] unless every byte of it belongs to an answer.
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
    /// A list that has nothing in it.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            entries: Vec::new(),
            more: false,
        }
    }
}

impl<T: Serialize> Page<T> {
    /// As many of `entries` as fit into `room` bytes, beside what a page without entries takes.
    /// Looks at no more than one that does not fit.
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

/// A plain `Vec` would make room for as many as a foreign node says there are, before it reads one.
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
