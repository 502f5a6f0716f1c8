//! The voter set: who votes, and the constants that all must share.
//!
//! A quorum is counted over the voters that the voter set gives a key, never over the nodes that
//! gossip says are alive: during a partition both sides see a smaller live set, and both would
//! find a quorum of it. Which members vote for a key is settled by rendezvous hashing (Thaler
//! and Ravishankar, 1996): every node works it out alone, and the load spreads over the members.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::id::{Key, NodeId};
use super::time::{Instant, nanos};

/// The most members that a voter set may name.
pub const MEMBERS_MAX: usize = 1_024;
/// The longest `max_ttl`.
pub const MAX_TTL_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// A ttl is at least so many round trips.
pub const TTL_ROUND_TRIPS_MIN: u32 = 10;
/// The largest `max_drift_ppm`: clocks that differ more are no clocks.
pub const MAX_DRIFT_PPM_MAX: u32 = 200_000;

/// No voter without memory waits for longer.
pub(crate) const QUARANTINE_MAX: Duration = MAX_TTL_MAX.saturating_mul(2);
/// A member is asked for its wall clock so often at least.
const CLOCKS_EVERY_MAX: Duration = Duration::from_secs(5);
/// The allowed skew is so many times what an interval may widen by.
const WIDENINGS: u32 = 16;
const MILLION: u32 = 1_000_000;

/// The constants that every node of a cluster must share. They are part of the voter set, so that a
/// node which was given others is refused instead of quietly weakening a lease.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Timing {
    /// The longest lease. A voter that restarts without its memory is in recovery for about so
    /// long, and a dead holder delays the next by at most its own ttl. Rule of thumb: a minute,
    /// since some jobs run for so long.
    pub max_ttl: Duration,
    /// How much faster one node's monotonic clock may run than another's, in parts per million.
    /// Mutual exclusion leans on this and on nothing else. Crystals stay within 100, a clock that
    /// NTP slews within 600; the default leaves room at no cost that anybody would notice.
    pub max_drift_ppm: u32,
    /// How far two wall clocks may be apart before the node that is ahead is refused. At most
    /// `max_ttl`. No lease depends on wall clocks; epochs start from them.
    pub max_clock_skew: Duration,
    /// What a round trip between two nodes takes when the network is slow, not on its best day.
    /// Every repeat is paced by it. Too low: needless datagrams. Too high: slow recovery of loss.
    pub round_trip: Duration,
    /// For how long the vote given to a waiter whose turn it is stands without an answer: what a
    /// dead waiter costs those behind it. Some ten round trips; at least two, and more where
    /// `max_drift_ppm` is large.
    pub reservation: Duration,
    /// How long a voter leaves the holder of its vote in peace before it asks whether it is still
    /// there, once somebody waits. Some ten round trips.
    pub holder_probe_interval: Duration,
}

impl Timing {
    /// Nodes in one data centre: round trips well under 10 ms.
    #[must_use]
    pub const fn lan() -> Self {
        Self {
            max_ttl: Duration::from_secs(60),
            max_drift_ppm: 5_000,
            max_clock_skew: Duration::from_secs(5),
            round_trip: Duration::from_millis(10),
            reservation: Duration::from_millis(250),
            holder_probe_interval: Duration::from_millis(100),
        }
    }

    /// Nodes in several regions: round trips up to 300 ms.
    #[must_use]
    pub const fn wan() -> Self {
        Self {
            max_ttl: Duration::from_secs(120),
            max_drift_ppm: 5_000,
            max_clock_skew: Duration::from_secs(10),
            round_trip: Duration::from_millis(300),
            reservation: Duration::from_secs(3),
            holder_probe_interval: Duration::from_secs(3),
        }
    }

    /// The shortest ttl: ten round trips.
    #[must_use]
    pub fn min_ttl(&self) -> Duration {
        self.round_trip.saturating_mul(TTL_ROUND_TRIPS_MIN)
    }

    /// The least of `ttl` that passes on any clock of the cluster while another counts all of it:
    /// `ttl * (1 - max_drift)`, rounded down.
    #[must_use]
    pub fn at_least(&self, ttl: Duration) -> Duration {
        if mistaken!(NoDrift) {
            return ttl;
        }
        let kept = 1_000_000 - u128::from(self.max_drift_ppm.min(MAX_DRIFT_PPM_MAX));
        let shrunk = u128::from(nanos(ttl)) * kept / 1_000_000;
        Duration::from_nanos(u64::try_from(shrunk).unwrap_or(u64::MAX))
    }

    /// How long a voter that has lost its memory stays in quarantine:
    /// `max_ttl * (1 + 2 * max_drift)`.
    #[must_use]
    pub fn quarantine(&self) -> Duration {
        let grown = u128::from(nanos(self.max_ttl))
            * (1_000_000 + 2 * u128::from(self.max_drift_ppm))
            / 1_000_000;
        Duration::from_nanos(u64::try_from(grown).unwrap_or(u64::MAX))
    }

    /// The shortest `reservation` that a waiter can take up. It counts a reservation from its own
    /// last send time, up to some 62 round trips before (rule 14), shortened by `max_drift`, while
    /// its clock may be as much too fast; a round trip must be left of it, and one more.
    fn min_reservation(&self) -> Duration {
        let drift = u128::from(nanos(self.round_trip)) * 125 * u128::from(self.max_drift_ppm);
        let drift = u64::try_from(drift / 1_000_000).unwrap_or(u64::MAX);
        self.round_trip
            .saturating_mul(2)
            .saturating_add(Duration::from_nanos(drift))
    }

    /// How often a member is asked for its wall clock at least: what is known of it is not to widen
    /// by more than a sixteenth of `max_clock_skew`.
    pub(crate) fn clocks_every(&self) -> Duration {
        let widens = self.max_clock_skew.saturating_mul(MILLION / WIDENINGS);
        let every = widens / self.max_drift_ppm.max(1);
        every.max(self.round_trip).min(CLOCKS_EVERY_MAX)
    }

    pub(crate) fn check(&self) -> Result<(), VoterSetError> {
        if self.max_drift_ppm > MAX_DRIFT_PPM_MAX {
            return Err(VoterSetError::Drift {
                ppm: self.max_drift_ppm,
            });
        }
        let bounds = [
            (
                "round_trip",
                self.round_trip,
                Duration::from_micros(1),
                self.max_ttl / 10,
            ),
            (
                "max_ttl",
                self.max_ttl,
                Duration::from_millis(1),
                MAX_TTL_MAX,
            ),
            (
                "max_clock_skew",
                self.max_clock_skew,
                Duration::from_millis(1),
                self.max_ttl,
            ),
            (
                "reservation",
                self.reservation,
                self.min_reservation(),
                self.max_ttl,
            ),
            (
                "holder_probe_interval",
                self.holder_probe_interval,
                self.round_trip,
                self.max_ttl,
            ),
        ];
        for (field, value, min, max) in bounds {
            if value < min || value > max {
                return Err(VoterSetError::OutOfBounds {
                    field,
                    value,
                    min,
                    max,
                });
            }
        }
        Ok(())
    }
}

/// A voter set that cannot be.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum VoterSetError {
    /// Nobody votes.
    #[error("voters is empty; a voter set names 1 to {MEMBERS_MAX} members")]
    NoMembers,
    /// Too many members.
    #[error("voters has {len} members; a voter set names 1 to {MEMBERS_MAX}")]
    TooManyMembers {
        /// How many were named.
        len: usize,
    },
    /// A member is named twice.
    #[error("voters names {node} twice")]
    Twice {
        /// The member.
        node: NodeId,
    },
    /// There must be at least one voter for each key, and no more than there are members.
    #[error("voters_per_key is {value}; it must be 1 to {members}, the number of voters")]
    VotersPerKey {
        /// What was asked for.
        value: usize,
        /// How many members there are.
        members: usize,
    },
    /// A span is out of its bounds.
    #[error("{field} is {value:?}; it must be {min:?} to {max:?}")]
    OutOfBounds {
        /// The field of [`Timing`].
        field: &'static str,
        /// Its value.
        value: Duration,
        /// The least allowed.
        min: Duration,
        /// The most allowed.
        max: Duration,
    },
    /// Clocks that may drift so far apart are no clocks.
    #[error("max_drift_ppm is {ppm}; it must be 0 to {MAX_DRIFT_PPM_MAX}")]
    Drift {
        /// The value.
        ppm: u32,
    },
}

/// What every datagram says of the sender's voter set: its version, and a digest of its content, so
/// that two voter sets which carry the same number by mistake are told apart.
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize,
)]
pub struct VoterSetTag {
    /// The version: it rises with every change.
    pub version: u64,
    /// A hash of members, voters for each key and constants.
    pub digest: u64,
}

impl fmt::Display for VoterSetTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}-{:08x}", self.version, self.digest >> 32)
    }
}

/// Who votes, how many for each key, and by which constants.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct VoterSet {
    tag: VoterSetTag,
    /// Sorted by id.
    members: Vec<NodeId>,
    voters_per_key: usize,
    timing: Timing,
}

impl VoterSet {
    /// A voter set of `members`, `voters_per_key` of which vote for each key.
    ///
    /// # Errors
    /// [`VoterSetError`] names the field, its value and its bounds.
    pub fn new(
        version: u64,
        mut members: Vec<NodeId>,
        voters_per_key: usize,
        timing: Timing,
    ) -> Result<Self, VoterSetError> {
        match members.len() {
            0 => return Err(VoterSetError::NoMembers),
            len if len > MEMBERS_MAX => return Err(VoterSetError::TooManyMembers { len }),
            _ => {}
        }
        members.sort();
        if let Some(pair) = members.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(VoterSetError::Twice {
                node: pair[0].clone(),
            });
        }
        if voters_per_key == 0 || voters_per_key > members.len() {
            let members = members.len();
            return Err(VoterSetError::VotersPerKey {
                value: voters_per_key,
                members,
            });
        }
        timing.check()?;
        let digest = digest(&members, voters_per_key, &timing);
        Ok(Self {
            tag: VoterSetTag { version, digest },
            members,
            voters_per_key,
            timing,
        })
    }

    /// The same for the cluster of this name, which becomes part of the digest.
    #[must_use]
    pub fn of_cluster(mut self, name: &str) -> Self {
        if mistaken!(ClusterNotSealed) {
            return self;
        }
        self.tag.digest = mix(self.tag.digest ^ hash_of_name(name));
        self
    }

    /// Version and digest: what a datagram says of it.
    #[must_use]
    pub fn tag(&self) -> VoterSetTag {
        self.tag
    }

    /// All members, sorted by id.
    #[must_use]
    pub fn members(&self) -> &[NodeId] {
        &self.members
    }

    /// How many members vote for each key.
    #[must_use]
    pub fn voters_per_key(&self) -> usize {
        self.voters_per_key
    }

    /// The shared constants.
    #[must_use]
    pub fn timing(&self) -> &Timing {
        &self.timing
    }

    /// Whether `node` is a member.
    #[must_use]
    pub fn has_member(&self, node: &NodeId) -> bool {
        self.members.binary_search(node).is_ok()
    }

    /// The voters of `key`: the members that rendezvous hashing puts first for it.
    #[must_use]
    pub fn voters_for(&self, key: &Key) -> Vec<NodeId> {
        if self.voters_per_key == self.members.len() {
            return self.members.clone();
        }
        let mut scored: Vec<(u64, &NodeId)> = self
            .members
            .iter()
            .map(|member| (score(member, key), member))
            .collect();
        scored.select_nth_unstable_by(self.voters_per_key - 1, |a, b| b.cmp(a));
        let mut voters: Vec<NodeId> = scored[..self.voters_per_key]
            .iter()
            .map(|(_, member)| (*member).clone())
            .collect();
        voters.sort();
        voters
    }

    /// Whether `node` is one of the voters of `key`.
    #[must_use]
    pub fn votes_for(&self, node: &NodeId, key: &Key) -> bool {
        if self.voters_per_key == self.members.len() {
            return self.has_member(node);
        }
        let own = (score(node, key), node);
        let above = self
            .members
            .iter()
            .filter(|member| (score(member, key), *member) > own)
            .count();
        self.has_member(node) && above < self.voters_per_key
    }

    /// The least number of a key's voters that is more than half of them.
    #[must_use]
    pub fn quorum(&self) -> usize {
        quorum(self.voters_per_key)
    }

    /// How many *other* members must have answered a voter that lost its memory, so that one of
    /// them is sure to have voted for whatever it voted for: all but `quorum - 2`.
    #[must_use]
    pub fn recovery_replies(&self) -> usize {
        (self.members.len() - 1).saturating_sub(self.quorum().saturating_sub(2))
    }
}

/// The least number that is more than half of `voters`.
#[must_use]
pub fn quorum(voters: usize) -> usize {
    if mistaken!(HalfIsAQuorum) {
        return voters.div_ceil(2);
    }
    voters / 2 + 1
}

/// What a count of votes says: never a yes beside a number.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Tally {
    /// Neither a quorum for it, nor so many against it that there can be none.
    Pending,
    /// A quorum is for it.
    Granted,
    /// So many are against it that the rest are no quorum.
    Lost,
}

impl Tally {
    /// Counts `yes` and `no` of `voters`; the others have not said.
    #[must_use]
    pub fn of(voters: usize, yes: usize, no: usize) -> Self {
        if yes >= quorum(voters) {
            Self::Granted
        } else if voters.saturating_sub(no) < quorum(voters) {
            Self::Lost
        } else {
            Self::Pending
        }
    }
}

/// Where the lease ends for a claimant that has these promises, `None` where no quorum has
/// promised anything: the newest instant that a quorum of the `voters` have promised to reach.
#[must_use]
pub fn quorum_reaches(voters: usize, promises: impl Iterator<Item = Instant>) -> Option<Instant> {
    let mut promises: Vec<Instant> = promises.collect();
    promises.sort_unstable_by(|a, b| b.cmp(a));
    promises.get(quorum(voters) - 1).copied()
}

fn score(member: &NodeId, key: &Key) -> u64 {
    mix(mix(fnv(FNV_OFFSET, member.as_str().as_bytes())) ^ fnv(FNV_OFFSET, key.as_str().as_bytes()))
}

/// A hash of a cluster's name.
pub(crate) fn hash_of_name(name: &str) -> u64 {
    mix(fnv(FNV_OFFSET ^ 3, name.as_bytes()))
}

/// Which of `floors` floors stands for `key`.
pub(crate) fn floor_of(key: &Key, floors: usize) -> usize {
    let hash = mix(fnv(FNV_OFFSET ^ 1, key.as_str().as_bytes()));
    (hash % floors.max(1) as u64) as usize
}

/// Four bytes of a hash, for an index of keys.
pub(crate) fn short_hash(key: &Key) -> u32 {
    mix(fnv(FNV_OFFSET ^ 2, key.as_str().as_bytes())) as u32
}

fn digest(members: &[NodeId], voters_per_key: usize, timing: &Timing) -> u64 {
    let mut hash = FNV_OFFSET;
    for member in members {
        hash = fnv(hash, member.as_str().as_bytes());
        hash = fnv(hash, &[0]);
    }
    let numbers = [
        voters_per_key as u64,
        nanos(timing.max_ttl),
        u64::from(timing.max_drift_ppm),
        nanos(timing.max_clock_skew),
        nanos(timing.round_trip),
        nanos(timing.reservation),
        nanos(timing.holder_probe_interval),
    ];
    for number in numbers {
        hash = fnv(hash, &number.to_le_bytes());
    }
    mix(hash)
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a (Fowler, Noll, Vo). The standard library's hashers do not promise to stay the same from
/// one release to the next, and all nodes must agree on these.
fn fnv(mut hash: u64, bytes: &[u8]) -> u64 {
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood, 2014): FNV alone spreads short names badly.
pub(crate) fn mix(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}
