//! Descriptions of voter sets, and the differences between two of them.
//!
//! Nodes with different voter sets refuse each other. Each describes its voter set to the other, so
//! that both can report what to correct. A recovering voter also learns from descriptions how long
//! votes last that it may have given under earlier settings.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::id::NodeId;
use super::voter_set::{Timing, VoterSet, VoterSetTag};

/// The most members that a [`VoterSetDescription`] lists.
pub const LISTED_MAX: usize = 256;
/// The most bytes of these members' names, plus one byte each, so that all fits into one datagram.
const LISTED_BYTES_MAX: usize = 600;
/// The most node names that the text of a [`Difference`] lists.
const NAMED_MAX: usize = 4;

/// The role of a node in its voter set.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub enum Role {
    /// A node that claims and does not vote.
    Client,
    /// A voter in recovery, which does not vote yet.
    Recovering,
    /// A voter that votes.
    Votes,
}

/// A description of the sender's voter set. The head of the datagram has its version and digest.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct VoterSetDescription {
    /// The sender's role.
    pub role: Role,
    /// The number of voters of each key.
    pub voters_per_key: u32,
    /// The shared constants.
    pub timing: Timing,
    /// The number of members.
    pub members: u32,
    /// The first members in the order of their ids, up to the limit of the datagram.
    #[serde(deserialize_with = "few_members")]
    pub listed: Vec<NodeId>,
}

impl VoterSetDescription {
    /// Creates the description of a voter set.
    #[must_use]
    pub fn of(voter_set: &VoterSet, role: Role) -> Self {
        let mut room = LISTED_BYTES_MAX;
        let fits = |member: &&NodeId| {
            let bytes = member.as_str().len() + 1;
            let fits = bytes <= room;
            room = room.saturating_sub(bytes);
            fits
        };
        let members = voter_set.members();
        let listed = members.iter().take(LISTED_MAX).take_while(fits).cloned();
        Self {
            role,
            voters_per_key: count(voter_set.voters_per_key()),
            timing: *voter_set.timing(),
            members: count(members.len()),
            listed: listed.collect(),
        }
    }

    /// Returns `true` if `node` is listed, or may be one of the members that are not listed.
    #[must_use]
    pub fn may_name(&self, node: &NodeId) -> bool {
        let is_beyond = self.listed.last().is_none_or(|last| last < node);
        self.listed.binary_search(node).is_ok() || (!self.is_whole() && is_beyond)
    }

    fn is_whole(&self) -> bool {
        self.listed.len() >= self.members as usize
    }
}

pub(crate) fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// One difference between another node's voter set and this node's.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Difference {
    /// The version.
    Version {
        /// The other node's value.
        its: u64,
        /// This node's value.
        mine: u64,
    },
    /// A duration in [`Timing`].
    Span {
        /// The name of the field.
        field: &'static str,
        /// The other node's value.
        its: Duration,
        /// This node's value.
        mine: Duration,
    },
    /// A number: `max_drift_ppm`, `voters_per_key`, or the number of voters.
    Number {
        /// The name of the number.
        field: &'static str,
        /// The other node's value.
        its: u32,
        /// This node's value.
        mine: u32,
    },
    /// Voters that are only in this node's voter set.
    Lacks(Vec<NodeId>),
    /// Voters that are only in the other node's voter set.
    Adds(Vec<NodeId>),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version { its, mine } => write!(f, "its version is {its}, mine {mine}"),
            Self::Span { field, its, mine } => {
                write!(f, "its {field} is {}, mine {}", Shown(*its), Shown(*mine))
            }
            Self::Number { field, its, mine } => write!(f, "its {field} is {its}, mine {mine}"),
            Self::Lacks(nodes) => write!(f, "its voters lack {}", Names(nodes)),
            Self::Adds(nodes) => write!(f, "its voters have {} too", Names(nodes)),
        }
    }
}

/// Displays a duration in seconds or milliseconds if that is exact.
struct Shown(Duration);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (nanos, millis) = (self.0.subsec_nanos(), self.0.as_millis());
        match nanos {
            0 => write!(f, "{} s", self.0.as_secs()),
            _ if nanos % 1_000_000 == 0 => write!(f, "{millis} ms"),
            _ => write!(f, "{:?}", self.0),
        }
    }
}

struct Names<'a>(&'a [NodeId]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named: Vec<&str> = self.0.iter().take(NAMED_MAX).map(NodeId::as_str).collect();
        f.write_str(&named.join(", "))?;
        match self.0.len().saturating_sub(NAMED_MAX) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// All known differences between two voter sets. Empty if none is known yet.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Differences(pub Vec<Difference>);

impl Differences {
    /// Compares this node's voter set with another node's, which has the tag `tag`.
    #[must_use]
    pub fn of(voter_set: &VoterSet, tag: VoterSetTag, other: &VoterSetDescription) -> Self {
        let mut all = Vec::new();
        let (its, mine) = (tag.version, voter_set.tag().version);
        if its != mine {
            all.push(Difference::Version { its, mine });
        }
        all.extend(of_timing(&other.timing, voter_set.timing()));
        let mut number = |field, its, mine| {
            if its != mine {
                all.push(Difference::Number { field, its, mine });
            }
        };
        let (its, mine) = (other.timing.max_drift_ppm, voter_set.timing().max_drift_ppm);
        number("max_drift_ppm", its, mine);
        let mine = count(voter_set.voters_per_key());
        number("voters_per_key", other.voters_per_key, mine);
        let members = voter_set.members();
        number("number of voters", other.members, count(members.len()));
        let lacks = members.iter().filter(|member| !other.may_name(member));
        let lacks: Vec<NodeId> = lacks.cloned().collect();
        let adds = other.listed.iter().filter(|it| !voter_set.has_member(it));
        let adds: Vec<NodeId> = adds.cloned().collect();
        if !lacks.is_empty() {
            all.push(Difference::Lacks(lacks));
        }
        if !adds.is_empty() {
            all.push(Difference::Adds(adds));
        }
        Self(all)
    }
}

fn of_timing(its: &Timing, mine: &Timing) -> impl Iterator<Item = Difference> {
    let both = its.spans().into_iter().zip(mine.spans());
    let differ = both.filter(|(its, mine)| its != mine);
    differ.map(|((field, its), (_, mine))| Difference::Span { field, its, mine })
}

impl fmt::Display for Differences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("it has not said in what");
        }
        let all: Vec<String> = self.0.iter().map(Difference::to_string).collect();
        f.write_str(&all.join("; "))
    }
}

/// Deserializes at most [`LISTED_MAX`] members in ascending order.
fn few_members<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<NodeId>, D::Error> {
    let members: Vec<NodeId> = few::<D, NodeId, LISTED_MAX>(from)?;
    match members.is_sorted_by(|a, b| a < b) {
        true => Ok(members),
        false => Err(D::Error::custom("members are not in order")),
    }
}

/// Deserializes at most `MAX` elements. A plain `Vec` would reserve memory for the length that a
/// foreign node claims, before reading one element.
pub(crate) fn few<'de, D, T, const MAX: usize>(from: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct Few<T, const MAX: usize>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Few<T, MAX> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "at most {MAX} elements")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
            let mut elements = Vec::new();
            while let Some(element) = seq.next_element()? {
                if elements.len() == MAX {
                    return Err(A::Error::invalid_length(MAX + 1, &self));
                }
                elements.push(element);
            }
            Ok(elements)
        }
    }

    from.deserialize_seq(Few::<T, MAX>(PhantomData))
}

/// The properties of another node's voter set that matter to a recovering voter.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct OtherSet {
    /// The quarantine of that voter set, or that of this node's voter set if it is not known.
    pub quarantine: Duration,
    /// The `max_clock_skew` of that voter set, or that of this node's voter set if it is not known.
    pub skew: Duration,
    /// `true` if the set may name the recovering voter, which may then have voted in it.
    pub names_me: bool,
    /// `true` if the other node may give votes in that voter set.
    pub votes: bool,
}
