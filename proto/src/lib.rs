//! The protocol of `lockmesh`: the rules of voters and claimants, the wire format, and the node
//! that puts them together.
//!
//! This crate has no socket, no clock, no thread, no source of randomness and no gossip library.
//! Time and random seeds are arguments. Datagrams, timers and events are return values. Voter and
//! claimant interact by messages alone.
//!
//! Read [`Message`] first, then [`Voter`], then [`Claimant`], then [`Node`].
//!
//! After each call, drain [`Node::poll_output`] until it returns [`Output::Timeout`].
//! In this example the node is the only voter:
//!
//! ```rust
//! use std::sync::Arc;
//! use lockmesh_proto::{
//!     Event, Incarnation, Instant, Key, Node, NodeConfig, NodeId, Now, Output, Request, Seal, Start,
//!     Timing, VoterLimits, VoterSet,
//! };
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let id = NodeId::new("alone")?;
//! let voter_set = VoterSet::new(1, vec![id.clone()], 1, Timing::lan())?;
//! let now = Now { mono: Instant::from_nanos(1), wall_ms: 1_700_000_000_000 };
//! let mut node = Node::new(now, NodeConfig {
//!     id,
//!     incarnation: Incarnation::new(1),
//!     voter_set: Arc::new(voter_set),
//!     start: Start::NewCluster,
//!     limits: VoterLimits::default(),
//!     max_claims: 1_000,
//!     renew_interval: None,
//!     seed: 42,
//!     seal: Seal::insecure_plaintext(),
//! });
//! let ttl = std::time::Duration::from_secs(10);
//! let request = Request { key: Key::new("k")?, ttl, is_try: true, renews: true, outlives: false, deadline: None, is_once: false, note: None };
//! node.claim(now, request)?;
//! let mut granted = false;
//! loop {
//!     match node.poll_output() {
//!         Output::Transmit { to, bytes } => { /* socket.send_to(&bytes, to) */ }
//!         Output::Event(Event::Granted { epoch, .. }) => granted = true,
//!         Output::Timeout(at) => break, // node.handle_timeout(now) then
//!         _ => {}
//!     }
//! }
//! assert!(granted); // one voter, which is this node itself: no datagram is needed
//! # Ok(())
//! # }
//! ```

#[cfg(not(lockmesh_mutants))]
#[macro_use]
mod mutants;
#[cfg(lockmesh_mutants)]
#[macro_use]
pub mod mutants;

mod claimant;
mod clocks;
mod deadlines;
mod description;
mod digest;
mod epoch;
mod event;
#[cfg_attr(
    not(feature = "testing"),
    expect(
        unreachable_pub,
        reason = "the search of the simulations drives these state machines"
    )
)]
mod handover;
mod id;
mod journal;
mod message;
mod node;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(test)]
mod tests;
mod time;
mod voter;
mod voter_set;
mod wire;

pub use claimant::{Claimant, ExtendError, MarkError, NEVER_GRANTED_MAX, Request, RequestError};
pub use clocks::{Clocks, MayReturn, WallClock};
pub use description::{
    Difference, Differences, LISTED_MEMBERS_MAX, OtherSet, Role, VoterSetDescription,
};
pub use digest::{DIGEST_PARTS, Digest, DigestPart, DigestParts};
pub use epoch::{Epoch, EpochClock, EpochError};
pub use event::{Effects, Event, KeyHolder, Peer, Ticket, View, VoteTally};
pub use handover::{Handover, KeptToken, MEMORY_PART_BYTES, MemoryPart, MemorySize};
pub use id::{
    ClaimId, Incarnation, KEY_BYTES_MAX, Key, NODE_ID_BYTES_MAX, NOTE_BYTES_MAX, NameError, NodeId,
    Note,
};
pub use journal::{
    FileChange, JOURNAL_FORMAT, JournalError, JournalOwner, MarkRecord, Memory, NotMemory,
    OpenedJournal, Record, Started, VoteRecord, open_journal,
};
pub use message::{
    Challenge, Claim, Done, HolderGranted, Inspect, KeepAlive, Kept, Mark, MarkEntry, Marked,
    MarksPage, MarksQuery, Message, Namesake, NoteMessage, Outdated, PageEnd, REPORTED_WAITERS_MAX,
    RecoveryQuery, RecoveryReply, Refuse, RefuseReason, Release, Report, ReportedVote,
    ReportedWaiter, Revoke, Revoked, SessionId, Stale, Vote, VoterQuery, VoterReply, Wait,
};
pub use node::{
    FOREIGN_NODE_INTERVAL, ForeignNode, InspectId, Inspection, KeyOwner, LockState, Node,
    NodeAnswer, NodeConfig, NodeJournal, NodeSurvey, Output, Revocation, RevokeId, RevokedClaim,
    SeenVotes, SnapshotPart, Standing, Survey, SurveyHealth, Surveyor, Twin, Waiter, Wanted,
};
pub use time::{Instant, Now};
pub use voter::{MARK_KEEP_MAX, MARKS_MAX, Start, Voter, VoterLimits};
pub use voter_set::{
    MAX_DRIFT_PPM_MAX, MAX_TTL_MAX, MEMBERS_MAX, NoSpareVoter, TTL_ROUND_TRIPS_MIN, Tally, Timing,
    VoterSet, VoterSetError, VoterSetTag, quorum,
};
pub use wire::codec::{
    DATAGRAM_MESSAGES_MAX, DatagramHead, Packed, pack_messages, unpack_messages,
};
pub use wire::observe::{
    Answer, Counts, Flow, Overview, Question, SeenLock, SeenNode, SeenNote, Topic, VoterState,
    first_lock_number,
};
pub use wire::seal::{
    BOOT_ID_BYTES, BOOT_IDS_MAX, CLUSTER_SECRET_BYTES, CLUSTER_SECRETS_MAX, ClusterSecret,
    ClusterSecrets, Fingerprint, REPLAY_WINDOW, SEALED_OVERHEAD, Seal, SecretError,
};
pub use wire::{
    DATAGRAM_BYTES_MAX, DatagramKind, DropReason, GOSSIP_BYTES_MAX, PROTOCOL_VERSION,
    PROTOCOL_VERSION_MIN, Traffic,
};
