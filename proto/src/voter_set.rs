//! The voter set: the nodes that vote, and the constants that all nodes must share.
//!
//! A quorum is counted over the voters that the voter set assigns to a key, never over the nodes
//! that gossip reports as alive (M4). During a partition each side sees a smaller live set, and
//! both would find a quorum of it. Rendezvous hashing (Thaler and Ravishankar, 1996) selects the
//! voters of a key. Every node computes them alone, and the load spreads over the members.

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
/// The least ttl, in round trips.
pub const TTL_ROUND_TRIPS_MIN: u32 = 10;
/// The largest `max_drift_ppm`. A clock that drifts more is unusable.
pub const MAX_DRIFT_PPM_MAX: u32 = 200_000;

/// The longest quarantine accepted in a message. Every valid [`Timing`] has a shorter one.
pub(crate) const QUARANTINE_MAX: Duration = MAX_TTL_MAX.saturating_mul(2);
/// The longest interval between two queries for a member's wall clock.
const CLOCKS_EVERY_MAX: Duration = Duration::from_secs(5);
/// `max_clock_skew` divided by the most that a clock's interval may widen between two queries.
const WIDENINGS: u32 = 16;
const MILLION: u32 = 1_000_000;

/// The constants that every node of a cluster must share. They are part of the voter set, so that
/// nodes with other constants are refused instead of silently weakening leases.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Timing {
    /// The longest ttl of a lease. A voter that restarts is in recovery for about this long. A dead
    /// holder delays the next by at most its own ttl. Rule of thumb: one minute, since some
    /// jobs take that long.
    pub max_ttl: Duration,
    /// The most that one node's monotonic clock may run faster than another's, in parts per
    /// million. Mutual exclusion depends on this assumption alone. Crystals stay within 100 and
    /// clocks slewed by NTP within 600, so the defaults leave a wide margin at negligible cost.
    pub max_drift_ppm: u32,
    /// The most that two wall clocks may differ before the node that is ahead is refused. At most
    /// `max_ttl`. No lease depends on wall clocks, but epochs start from them.
    pub max_clock_skew: Duration,
    /// The round-trip time between two nodes when the network is slow. All retransmissions are
    /// timed by it. If it is too low, needless datagrams are sent. If too high, lost ones are
    /// resent late.
    pub round_trip: Duration,
    /// The longest time that a vote is reserved for the next waiter until it replies. A dead waiter
    /// delays those behind it by this time. About ten round trips. The least value is two round
    /// trips, more if `max_drift_ppm` is large.
    pub reservation: Duration,
    /// The time without a renewal after which a voter probes the holder of its vote, if a claim
    /// waits. Also the shortest time between two probes. About ten round trips.
    pub holder_probe_interval: Duration,
}

impl Timing {
    /// Returns the constants for nodes in one data centre, with round trips well below 10 ms.
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

    /// Returns the constants for nodes in several regions, with round trips up to 300 ms.
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

    /// Returns the shortest allowed ttl: ten round trips.
    #[must_use]
    pub fn min_ttl(&self) -> Duration {
        self.round_trip.saturating_mul(TTL_ROUND_TRIPS_MIN)
    }

    /// Returns the least time that passes on any clock of the cluster while `ttl` passes on
    /// another: `ttl * (1 - max_drift)`, rounded down.
    #[must_use]
    pub fn at_least(&self, ttl: Duration) -> Duration {
        if mistaken!(NoDrift) {
            return ttl;
        }
        let kept = 1_000_000 - u128::from(self.max_drift_ppm.min(MAX_DRIFT_PPM_MAX));
        let shrunk = u128::from(nanos(ttl)) * kept / 1_000_000;
        Duration::from_nanos(u64::try_from(shrunk).unwrap_or(u64::MAX))
    }

    /// Returns the duration of a quarantine: `max_ttl * (1 + 2 * max_drift)`.
    #[must_use]
    pub fn quarantine(&self) -> Duration {
        quarantine_of(self.max_ttl, self.max_drift_ppm)
    }

    /// Returns the shortest `reservation` that a waiter can use.
    ///
    /// A waiter counts the vote from its last send time, up to about 62 round trips ago (rule 14).
    /// For that span `max_drift` counts twice: it shortens the ttl, and the waiter's clock may be
    /// as much too fast. Two round trips must be left.
    fn min_reservation(&self) -> Duration {
        let drift = u128::from(nanos(self.round_trip)) * 125 * u128::from(self.max_drift_ppm);
        let drift = u64::try_from(drift / 1_000_000).unwrap_or(u64::MAX);
        self.round_trip
            .saturating_mul(2)
            .saturating_add(Duration::from_nanos(drift))
    }

    /// Returns the longest interval between two queries for a member's wall clock. In that time the
    /// clock's known interval widens by at most a sixteenth of `max_clock_skew`.
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
        let check = |field, value, min, max| match value {
            _ if value < min || value > max => Err(VoterSetError::OutOfBounds {
                field,
                value,
                min,
                max,
            }),
            _ => Ok(()),
        };
        let (micro, milli) = (Duration::from_micros(1), Duration::from_millis(1));
        let (round_trip, max_ttl) = (self.round_trip, self.max_ttl);
        check("round_trip", round_trip, micro, max_ttl / 10)?;
        check("max_ttl", max_ttl, milli, MAX_TTL_MAX)?;
        check("max_clock_skew", self.max_clock_skew, milli, max_ttl)?;
        check(
            "reservation",
            self.reservation,
            self.min_reservation(),
            max_ttl,
        )?;
        let probe = self.holder_probe_interval;
        check("holder_probe_interval", probe, round_trip, max_ttl)
    }

    /// Returns the durations and the names of their fields.
    pub(crate) fn spans(&self) -> [(&'static str, Duration); 5] {
        [
            ("max_ttl", self.max_ttl),
            ("max_clock_skew", self.max_clock_skew),
            ("round_trip", self.round_trip),
            ("reservation", self.reservation),
            ("holder_probe_interval", self.holder_probe_interval),
        ]
    }
}

/// An invalid voter set.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum VoterSetError {
    /// There are no members.
    #[error("voters is empty; a voter set names 1 to {MEMBERS_MAX} members")]
    NoMembers,
    /// There are more than [`MEMBERS_MAX`] members.
    #[error("voters has {len} members; a voter set names 1 to {MEMBERS_MAX}")]
    TooManyMembers {
        /// The number of members.
        len: usize,
    },
    /// A member is named twice.
    #[error("voters names {node} twice")]
    Twice {
        /// The member.
        node: NodeId,
    },
    /// The number of voters of each key is zero, or exceeds the number of members.
    #[error("voters_per_key is {value}; it must be 1 to {members}, the number of voters")]
    VotersPerKey {
        /// The value.
        value: usize,
        /// The number of members.
        members: usize,
    },
    /// A duration is out of its bounds.
    #[error("{field} is {value:?}; it must be {min:?} to {max:?}")]
    OutOfBounds {
        /// The field of [`Timing`].
        field: &'static str,
        /// The value.
        value: Duration,
        /// The least allowed value.
        min: Duration,
        /// The largest allowed value.
        max: Duration,
    },
    /// `max_drift_ppm` exceeds [`MAX_DRIFT_PPM_MAX`].
    #[error("max_drift_ppm is {ppm}; it must be 0 to {MAX_DRIFT_PPM_MAX}")]
    Drift {
        /// The value.
        ppm: u32,
    },
}

/// The version and digest of a voter set, named in every datagram. The digest distinguishes two
/// voter sets that have the same version by mistake.
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize,
)]
pub struct VoterSetTag {
    /// The version, which rises with every change.
    pub version: u64,
    /// A hash of the members, the number of voters of each key, the constants and the cluster's
    /// name.
    pub digest: u64,
}

impl fmt::Display for VoterSetTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}-{:08x}", self.version, self.digest >> 32)
    }
}

/// The members that vote, the number of voters of each key, and the shared constants.
///
/// Rendezvous hashing (Thaler and Ravishankar, 1996) selects the voters of a key. Every node
/// computes them alone, and the load spreads over the members.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct VoterSet {
    tag: VoterSetTag,
    /// Sorted by id.
    members: Vec<NodeId>,
    voters_per_key: usize,
    timing: Timing,
}

impl VoterSet {
    /// Creates a voter set of `members`, of which `voters_per_key` vote for each key.
    ///
    /// # Errors
    /// - [`VoterSetError::NoMembers`] or [`VoterSetError::TooManyMembers`] if `members` is empty or
    ///   names more than [`MEMBERS_MAX`].
    /// - [`VoterSetError::Twice`] if `members` names a node twice.
    /// - [`VoterSetError::VotersPerKey`] if `voters_per_key` is not 1 to the number of members.
    /// - [`VoterSetError::OutOfBounds`] if a duration of `timing` is out of its bounds.
    /// - [`VoterSetError::Drift`] if `max_drift_ppm` exceeds [`MAX_DRIFT_PPM_MAX`].
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

    /// Returns this voter set with the name of its cluster included in the digest.
    #[must_use]
    pub fn of_cluster(mut self, name: &str) -> Self {
        if mistaken!(ClusterNotSealed) {
            return self;
        }
        self.tag.digest = mix(self.tag.digest ^ hash_of_name(name));
        self
    }

    /// Returns the version and digest, which every datagram names.
    #[must_use]
    pub fn tag(&self) -> VoterSetTag {
        self.tag
    }

    /// Returns all members, sorted by id.
    #[must_use]
    pub fn members(&self) -> &[NodeId] {
        &self.members
    }

    /// Returns the number of voters of each key.
    #[must_use]
    pub fn voters_per_key(&self) -> usize {
        self.voters_per_key
    }

    /// Returns the shared constants.
    #[must_use]
    pub fn timing(&self) -> &Timing {
        &self.timing
    }

    /// Returns `true` if `node` is a member.
    #[must_use]
    pub fn has_member(&self, node: &NodeId) -> bool {
        self.members.binary_search(node).is_ok()
    }

    /// Returns the voters of `key`, sorted by id: the members that rendezvous hashing ranks first.
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

    /// Returns a hash of the members and the number of voters of each key. If it is the same in two
    /// voter sets, each quorum of a key in one shares a voter with each in the other.
    #[must_use]
    pub fn hash_of_voters(&self) -> u64 {
        hash_of_voters(&self.members, self.voters_per_key)
    }

    /// Returns `true` if `node` is one of the voters of `key`.
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

    /// Returns the quorum of a key: the least number that is more than half of its voters.
    #[must_use]
    pub fn quorum(&self) -> usize {
        quorum(self.voters_per_key)
    }

    /// Returns the number of members that may be missing while every key has a quorum. Keys have
    /// different voters: in the worst case, all missing members are voters of one key.
    #[must_use]
    pub fn spare(&self) -> usize {
        self.voters_per_key - self.quorum()
    }

    /// Checks if one of the members may be restarted while `voting` of them vote: every key must
    /// have a quorum without any one more.
    ///
    /// # Errors
    /// [`NoSpareVoter`] if a restart may cost some keys their quorum.
    pub fn check_restart(&self, voting: usize) -> Result<(), NoSpareVoter> {
        let (members, spare) = (self.members.len(), self.spare());
        let needed = members + 1 - spare;
        if spare == 0 {
            let voters_per_key = self.voters_per_key;
            Err(NoSpareVoter::Never { voters_per_key })
        } else if voting < needed {
            Err(NoSpareVoter::Missing {
                voting,
                members,
                needed,
            })
        } else {
            Ok(())
        }
    }

    /// Returns the number of *other* members that must reply to a recovering voter: all but
    /// `quorum - 2`. Then at least one of them is in each quorum of which the voter was part.
    #[must_use]
    pub fn recovery_replies(&self) -> usize {
        (self.members.len() - 1).saturating_sub(self.quorum().saturating_sub(2))
    }
}

/// The reason why no voter may be restarted now without costing some keys their quorum.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum NoSpareVoter {
    /// A key has one or two voters and needs all of them, so each restart costs a quorum.
    #[error("{}", match *.voters_per_key {
        1 => "each key has only one voter".to_owned(),
        all => format!("each key needs all of its {all} voters"),
    })]
    Never {
        /// The number of voters of each key.
        voters_per_key: usize,
    },
    /// Too few members vote.
    #[error("{voting} of {members} voters vote, and it takes {needed}")]
    Missing {
        /// The number of members that vote.
        voting: usize,
        /// The number of members.
        members: usize,
        /// The number of members that must vote before one may be restarted.
        needed: usize,
    },
    /// The voter of this node reads the marks of the others. If one of them lost its marks too, ticks
    /// that ran could run again. Only the node itself reports it.
    #[error("this voter reads the marks of the others")]
    ReadsMarks,
}

/// Returns the least number that is more than half of `voters`: a majority, as in Thomas, "A
/// Majority Consensus Approach" (1979).
#[must_use]
pub fn quorum(voters: usize) -> usize {
    if mistaken!(HalfIsAQuorum) {
        return voters.div_ceil(2);
    }
    voters / 2 + 1
}

/// The result of a count of votes. One value, so that no flag can disagree with a number.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Tally {
    /// Neither granted nor lost yet.
    Pending,
    /// A quorum voted yes.
    Granted,
    /// The voters that did not vote no are fewer than a quorum.
    Lost,
}

impl Tally {
    /// Counts `yes` and `no` votes of `voters`. The other voters have not voted yet.
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

/// Returns the time after which every vote of this ttl is over by any clock: `ttl * (1 + 2 *
/// max_drift)`.
pub(crate) fn quarantine_of(ttl: Duration, max_drift_ppm: u32) -> Duration {
    let grown = u128::from(nanos(ttl)) * (1_000_000 + 2 * u128::from(max_drift_ppm)) / 1_000_000;
    Duration::from_nanos(u64::try_from(grown).unwrap_or(u64::MAX))
}

/// Returns the end of a lease: the newest instant until which a quorum of the `voters` have
/// promised their votes. Returns `None` if fewer than a quorum have promised.
pub(crate) fn quorum_reaches(
    voters: usize,
    promises: impl Iterator<Item = Instant>,
) -> Option<Instant> {
    let mut promises: Vec<Instant> = promises.collect();
    promises.sort_unstable_by(|a, b| b.cmp(a));
    promises.get(quorum(voters) - 1).copied()
}

fn score(member: &NodeId, key: &Key) -> u64 {
    mix(mix(fnv(FNV_OFFSET, member.as_str().as_bytes())) ^ fnv(FNV_OFFSET, key.as_str().as_bytes()))
}

/// Returns a hash of a cluster's name.
pub(crate) fn hash_of_name(name: &str) -> u64 {
    mix(fnv(FNV_OFFSET ^ 3, name.as_bytes()))
}

/// Returns the index of the fence bucket of `key` among `fence_buckets` buckets.
pub(crate) fn fence_bucket_of(key: &Key, fence_buckets: usize) -> usize {
    let hash = mix(fnv(FNV_OFFSET ^ 1, key.as_str().as_bytes()));
    (hash % fence_buckets.max(1) as u64) as usize
}

/// Returns a hash of four bytes, for an index of keys.
pub(crate) fn short_hash(key: &Key) -> u32 {
    mix(fnv(FNV_OFFSET ^ 2, key.as_str().as_bytes())) as u32
}

fn hash_of_voters(members: &[NodeId], voters_per_key: usize) -> u64 {
    let mut hash = FNV_OFFSET;
    for member in members {
        hash = fnv(hash, member.as_str().as_bytes());
        hash = fnv(hash, &[0]);
    }
    fnv(hash, &(voters_per_key as u64).to_le_bytes())
}

fn digest(members: &[NodeId], voters_per_key: usize, timing: &Timing) -> u64 {
    let mut hash = hash_of_voters(members, voters_per_key);
    let numbers = [
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

pub(crate) const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a (Fowler, Noll, Vo). All nodes must compute the same hash, but the standard library's
/// hashers may change between releases.
pub(crate) fn fnv(mut hash: u64, bytes: &[u8]) -> u64 {
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood, 2014), since FNV alone spreads short names
/// badly.
pub(crate) fn mix(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}
