//! The messages between nodes. All messages are idempotent, and may be lost, duplicated, reordered
//! and delayed.
//!
//! The head of a datagram names sender, receiver and voter set once for all messages
//! ([`crate::wire`]). The receiver accepts a [`Claim`] or [`Release`] only from the node whose
//! claim it names, and a reply only if it is for a claim of the receiver.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::description::{Role, VoterSetDescription, few};
use super::digest::{Digest, DigestParts};
use super::epoch::Epoch;
use super::handover::Handover;
use super::id::{ClaimId, Incarnation, Key, NodeId, Note};
use super::time::Instant;
use super::wire::PROTOCOL_VERSION_MIN;

/// One message from one node to another.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub enum Message {
    /// Claimant to voter: requests a vote, keeps waiting, renews, or gives the vote back.
    Claim(Claim),
    /// Voter to claimant: the claim has the vote.
    Vote(Vote),
    /// Voter to claimant: the claim is in the queue.
    Wait(Wait),
    /// Voter to claimant: the epoch is not above the fence.
    Stale(Stale),
    /// Voter to claimant: the voter does not vote now.
    Refuse(Refuse),
    /// Claimant to voter: the claim is over.
    Release(Release),
    /// Recovering voter to all known nodes: queries their highest epoch (protocol, section 6).
    RecoveryQuery(RecoveryQuery),
    /// The reply to [`RecoveryQuery`].
    RecoveryReply(RecoveryReply),
    /// To a node whose incarnation is lower than one it had before, because its wall clock was set
    /// back. The node resumes under a higher one.
    Outdated(Outdated),
    /// Any node to a voter: asks for its view of a key. Advice, for people.
    Inspect(Inspect),
    /// The reply to [`Inspect`].
    Report(Report),
    /// Claimant to voter: renews all votes that a session covers. Boxed because rare and large.
    KeepAlive(Box<KeepAlive>),
    /// The reply to [`KeepAlive`].
    Kept(Kept),
    /// Any node to a voter: asks how it would treat a claim. Advice, for readiness.
    VoterQuery(VoterQuery),
    /// The reply to [`VoterQuery`].
    VoterReply(VoterReply),
    /// Asks for the receiver's voter set, and names the sender's role in its own. (No message is
    /// empty, so that a truncated message is never a valid other one.)
    Describe(Role),
    /// The reply to [`Describe`](Self::Describe), also sent to nodes with a different voter set.
    /// Boxed because rare and large.
    Described(Box<VoterSetDescription>),
    /// To two incarnations of one node that sent from different addresses: asks whether they are
    /// alive.
    Challenge(Challenge),
    /// The reply to [`Challenge`].
    Alive(Challenge),
    /// To both of these incarnations once both have replied: another process of the receiver's name
    /// is alive. Boxed because rare and large.
    Namesake(Box<Namesake>),
    /// A message of a handover, between two voters. Boxed because rare and large.
    Handover(Box<Handover>),
    /// Since version 2. Like [`Claim`](Self::Claim), for a key that may be marked: a voter that may
    /// lack marks refuses it.
    OnceClaim(Claim),
    /// Since version 2. Holder to voter: marks the key.
    Mark(Mark),
    /// Since version 2. The reply to [`Mark`](Self::Mark).
    Marked(Marked),
    /// Since version 2. Voter to claimant: the key is marked.
    Done(Done),
    /// Since version 2. A voter that may lack marks asks another for its marks.
    MarksQuery(MarksQuery),
    /// Since version 2. One of the replies to [`MarksQuery`](Self::MarksQuery). Boxed because rare
    /// and large.
    MarksPage(Box<MarksPage>),
    /// Since version 2. The note of a claim. Advice, for people. Boxed because rare and large.
    Note(Box<NoteMessage>),
    /// Since version 2. Any node to a voter, and voter to holder: the claim is over, although its
    /// holder did not release it. Boxed because rare and large.
    Revoke(Box<Revoke>),
    /// Since version 2. The reply to [`Revoke`](Self::Revoke). Boxed because rare and large.
    Revoked(Box<Revoked>),
}

impl Message {
    /// Returns the version of the protocol that has this message.
    #[must_use]
    pub fn version(&self) -> u8 {
        match self {
            Self::Refuse(refuse) if refuse.reason == RefuseReason::Marks => 2,
            Self::OnceClaim(_)
            | Self::Mark(_)
            | Self::Marked(_)
            | Self::Done(_)
            | Self::MarksQuery(_)
            | Self::MarksPage(_)
            | Self::Note(_)
            | Self::Revoke(_)
            | Self::Revoked(_) => 2,
            _ => PROTOCOL_VERSION_MIN,
        }
    }
}

/// Requests a vote, keeps waiting for it, renews it, or gives it back.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Claim {
    /// The claimed key.
    pub key: Key,
    /// The claim.
    pub claim: ClaimId,
    /// The claim's fencing token and place in the queue.
    pub epoch: Epoch,
    /// The requested duration of the vote.
    pub ttl: Duration,
    /// The claimant's clock at the time of sending. A voter only echoes it.
    pub sent_at: Instant,
    /// The claimant counts no vote of this voter with an earlier send time.
    pub votes_valid_since: Instant,
    /// `true` if the claim is granted.
    pub granted: bool,
    /// `true` if the request ends once another claim is granted, instead of waiting.
    pub is_try: bool,
    /// `true` if a session of the claimant's node shall cover the vote.
    pub join: bool,
    /// `true` if the claim outlives its process: a later incarnation of its node does not end its
    /// vote.
    pub outlives: bool,
}

/// The claim has the voter's vote until `ttl` after `sent_at`.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Vote {
    /// The claimed key.
    pub key: Key,
    /// The claim that has the vote.
    pub claim: ClaimId,
    /// The newest send time that the voter has received from the claimant.
    pub sent_at: Instant,
    /// The duration of the vote, from `sent_at` on.
    pub ttl: Duration,
    /// `true` if an earlier claim waits: the claimant gives the vote back unless it is granted.
    pub yield_requested: bool,
    /// `true` if a claimant that is granted shall reply with a `Claim`.
    pub probe: bool,
    /// The session that covers the vote.
    pub covered: Option<SessionId>,
}

/// The id of a session at a voter. Ids are never reused, even after the voter lost its memory.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct SessionId {
    /// The voter's nonce, which differs from start to start.
    pub nonce: u64,
    /// The number of the session within that start.
    pub number: u32,
}

/// The state of the claim that has a voter's vote.
///
/// The holder is silent if the `Claim` that last gave or renewed its vote was received at
/// least `holder_probe_interval` ago. For a claim of a later incarnation of its node it is always
/// silent, unless it outlives its process.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub enum HolderGranted {
    /// Not known to be granted, and not silent.
    No,
    /// Not known to be granted, and silent: it may have been granted since.
    Unheard,
    /// Granted, and not silent.
    Yes,
    /// Granted, and silent: it may be over.
    Silent,
}

/// The claim waits in the voter's queue.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Wait {
    /// The claimed key.
    pub key: Key,
    /// The waiting claim.
    pub claim: ClaimId,
    /// The claim that has the vote.
    pub holder: ClaimId,
    /// The holder's epoch.
    pub epoch: Epoch,
    /// The state of the holder.
    pub granted: HolderGranted,
    /// The number of claims before this one in the queue.
    pub ahead: u32,
}

/// The claim's epoch is not above the voter's fence.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Stale {
    /// The claim.
    pub claim: ClaimId,
    /// The voter's fence.
    pub fence: Epoch,
}

/// The reason why a voter does not vote.
///
/// Of several reasons, [`VoteTally`](super::event::VoteTally) reports the one that is least likely to
/// pass by itself: the last in this order, and [`Marks`](Self::Marks) only if there is no other.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub enum RefuseReason {
    /// The voter is in recovery.
    Quarantine,
    /// The voter is shutting down.
    Leaving,
    /// The voter has a different voter set.
    VoterSet,
    /// The epoch is more than `max_clock_skew` ahead of the voter's time.
    Skew,
    /// The voter has reached its limit of keys, or of waiters for this key.
    Limit,
    /// The voter cannot write its journal.
    Storage,
    /// The node is not a voter for this key.
    NotAVoter,
    /// Since version 2. The voter may lack marks, and the claim is for a key that may be marked.
    Marks,
}

impl RefuseReason {
    /// Returns how unlikely the reason is to pass by itself.
    pub(crate) fn weight(self) -> u8 {
        match self {
            // It passes within ten seconds.
            Self::Marks => 0,
            other => 1 + other as u8,
        }
    }
}

/// The voter does not vote for the claim now.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Refuse {
    /// The refused claim.
    pub claim: ClaimId,
    /// The reason.
    pub reason: RefuseReason,
}

/// The claim is over.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Release {
    /// The claimed key.
    pub key: Key,
    /// The claim.
    pub claim: ClaimId,
    /// `true` if the claim was granted, or the sender cannot rule that out.
    pub granted: bool,
}

/// Renews all votes that a session covers.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct KeepAlive {
    /// The session, as named by a `Vote`.
    pub session: SessionId,
    /// The claimant's clock at the time of sending. A voter only echoes it.
    pub sent_at: Instant,
    /// A digest of the claims that the claimant knows to be covered.
    pub covered: Digest,
}

/// All votes that a session covers last until `ttl` after `sent_at`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Kept {
    /// The session.
    pub session: SessionId,
    /// The newest send time of a [`KeepAlive`] that the voter has received for the session.
    pub sent_at: Instant,
    /// The duration from `sent_at` on, or `None` if the session is over for good.
    pub ttl: Option<Duration>,
    /// The parts in which the voter covers fewer claims than the claimant's digest (rule 22).
    pub lacks: DigestParts,
}

/// A query of a recovering voter for the highest epoch and for earlier incarnations.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct RecoveryQuery {
    /// Chosen by the sender and echoed in the reply, so that a reply to an earlier query is
    /// ignored.
    pub nonce: u64,
}

/// The reply to a [`RecoveryQuery`].
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct RecoveryReply {
    /// The nonce of the query.
    pub nonce: u64,
    /// The highest epoch of all fence buckets, fences and outstanding votes.
    pub highest: Epoch,
    /// `true` if the replying node is a voter that is not in recovery. Otherwise `highest` does not
    /// count.
    pub votes: bool,
    /// `true` if the replying node may have known an earlier incarnation of the cluster, or of the
    /// recovering voter, when it first received a message of the present one.
    pub knew: bool,
    /// The highest incarnation of the recovering voter that the replying node knows.
    pub seen: Incarnation,
    /// The highest incarnation of the recovering voter that the replying node received before the
    /// present one, or that its journal names.
    pub before: Incarnation,
    /// `true` if the replying node is a voter that has its memory, even if it does not vote yet.
    pub remembers: bool,
    /// The longest quarantine of all voter sets known to the replying node that may name the
    /// recovering voter. Zero if there is none.
    pub quarantine: Duration,
    /// The largest `max_clock_skew` of these voter sets.
    pub skew: Duration,
}

/// The sender knows a higher incarnation of the receiver than the receiver's present one.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Outdated {
    /// The highest incarnation of the receiver that the sender knows.
    pub seen: Incarnation,
}

/// Asks whether the receiver is alive. The receiver returns it as [`Message::Alive`].
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Challenge {
    /// Chosen by the sender and echoed in the reply.
    pub nonce: u64,
}

/// Another process of the receiver's name is alive: both replied to the same [`Challenge`].
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Namesake {
    /// The receiver's incarnation when it replied. In any other incarnation, the receiver ignores
    /// this message.
    pub yours: Incarnation,
    /// The address from which the receiver replied.
    pub yours_at: SocketAddr,
    /// The incarnation of the other process.
    pub other: Incarnation,
    /// The address from which the other process replied.
    pub other_at: SocketAddr,
}

/// Marks a key for which the claim has the voter's vote.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Mark {
    /// The key.
    pub key: Key,
    /// The claim.
    pub claim: ClaimId,
    /// The claimant's clock at the time of sending. A voter only echoes it.
    pub sent_at: Instant,
    /// The time for which the voter shall grant the key to nobody, from receipt, at most
    /// [`MARK_KEEP_MAX`](crate::MARK_KEEP_MAX).
    pub keep_for: Duration,
}

/// The reply to a [`Mark`] of the claim that has the vote.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Marked {
    /// The claim.
    pub claim: ClaimId,
    /// The send time of the `Mark`.
    pub sent_at: Instant,
    /// `false` if the voter has its maximum number of marks.
    pub is_kept: bool,
}

/// The key of a claim is marked.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Done {
    /// The claim that asks for the key.
    pub claim: ClaimId,
    /// The node whose claim marked the key.
    pub by: NodeId,
    /// The epoch of that claim.
    pub epoch: Epoch,
    /// The time until the mark ends.
    pub remaining: Duration,
}

/// Asks for the marks of a voter, in the order of their keys.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct MarksQuery {
    /// Chosen by the sender and echoed in the replies.
    pub nonce: u64,
    /// The last key that the sender has read, if any.
    pub after: Option<Key>,
}

/// A part of the marks of a voter.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct MarksPage {
    /// The nonce of the query.
    pub nonce: u64,
    /// The last key of the page before this one, if any.
    pub after: Option<Key>,
    /// The next marks.
    pub marks: Vec<MarkEntry>,
    /// The end of the page: whether more pages follow, and how.
    pub end: PageEnd,
    /// `true` if the voter has all marks that it must know.
    pub is_whole: bool,
}

/// The end of a [`MarksPage`]: whether more pages follow, and how.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub enum PageEnd {
    /// Another page, without a query.
    More,
    /// Another page, after another query.
    Query,
    /// Nothing.
    Last,
}

/// One mark of a voter.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct MarkEntry {
    /// The key.
    pub key: Key,
    /// The node whose claim marked it.
    pub by: NodeId,
    /// The epoch of that claim.
    pub epoch: Epoch,
    /// The time until the mark ends.
    pub remaining: Duration,
}

/// The note of a claim, which decides nothing.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub enum NoteMessage {
    /// Claimant to voter, after a `Claim`: the note of that claim.
    OfClaim {
        /// The claimed key.
        key: Key,
        /// The claim.
        claim: ClaimId,
        /// Its note.
        note: Note,
    },
    /// Voter to claimant, after a `Wait`: the note of the holder that the `Wait` names.
    OfHolder {
        /// The waiting claim.
        claim: ClaimId,
        /// The node of the holder.
        node: NodeId,
        /// The epoch of the holder.
        epoch: Epoch,
        /// The least time for which the holder has had the vote.
        held_for: Duration,
        /// The note of the holder.
        note: Note,
    },
    /// Voter to any node, before a `Report`: the note of a claim in it.
    OfReported {
        /// The nonce of the query.
        nonce: u64,
        /// The node of the claim.
        node: NodeId,
        /// The epoch of the claim.
        epoch: Epoch,
        /// The note of the claim.
        note: Note,
    },
}

/// Ends a claim that its holder does not release. A voter neither renews its vote for the claim nor
/// gives it again. The holder reports that its lease is lost.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Revoke {
    /// Chosen by the sender and echoed in the reply, so that a reply to an earlier `Revoke` does not
    /// count. Zero if a voter passes the message on.
    pub nonce: u64,
    /// The key.
    pub key: Key,
    /// The claim. It is named, so that a late message never ends a later claim.
    pub claim: ClaimId,
    /// The person or program that asked for it, for logs.
    pub by: Note,
    /// The node through which it was asked.
    pub through: NodeId,
}

/// The reply to a [`Revoke`].
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Revoked {
    /// The nonce of the `Revoke`.
    pub nonce: u64,
    /// The key.
    pub key: Key,
    /// The claim.
    pub claim: ClaimId,
    /// `true` if the replying node is a voter that neither renews nor gives its vote to the claim.
    pub is_kept: bool,
    /// The time until the claim's vote at this voter expires; zero if the claim does not have it.
    pub remaining: Duration,
    /// `true` if the claim is over at its own node, as far as the replying node knows.
    pub is_over: bool,
}

/// A query for a voter's view of a key.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Inspect {
    /// Chosen by the sender and echoed in the reply.
    pub nonce: u64,
    /// The key.
    pub key: Key,
}

/// Asks whether a voter would vote for a claim with this epoch on a free key.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct VoterQuery {
    /// The sender's clock at the time of sending. The voter only echoes it.
    pub sent_at: Instant,
    /// The epoch that a claim of the sender would have.
    pub epoch: Epoch,
}

/// The reply to a [`VoterQuery`].
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct VoterReply {
    /// The send time of the query.
    pub sent_at: Instant,
    /// The reason for which the voter would refuse, or `None` if it would vote.
    pub refuses: Option<RefuseReason>,
    /// The time left in quarantine. Recovery may add one second, or more while clocks are disputed.
    /// Zero if the voter is not in quarantine.
    pub remaining: Duration,
    /// The voter's uncorrected wall clock at the time of the reply, in milliseconds since the Unix
    /// epoch (rule 28).
    pub wall_ms: u64,
}

/// One voter's view of a key.
#[derive(Clone, Debug, Default, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Report {
    /// The nonce of the query.
    pub nonce: u64,
    /// The claim that has the voter's vote, if any.
    pub vote: Option<ReportedVote>,
    /// The first waiters in the order of the queue, at most [`REPORTED_WAITERS_MAX`].
    #[serde(deserialize_with = "few::<_, _, REPORTED_WAITERS_MAX>")]
    pub waiters: Vec<ReportedWaiter>,
    /// The number of all waiters.
    pub waiting: u32,
    /// The voter's fence for the key.
    pub fence: Epoch,
    /// `true` if the voter is in recovery. It may then have given a vote that it does not know.
    pub is_recovering: bool,
}

/// The most waiters in a [`Report`], so that it fits into one datagram.
pub const REPORTED_WAITERS_MAX: usize = 8;

/// The claim that has a voter's vote.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct ReportedVote {
    /// The claim.
    pub claim: ClaimId,
    /// The claim's epoch.
    pub epoch: Epoch,
    /// `true` if the voter knows that the claim is granted.
    pub granted: bool,
    /// The time until the vote expires.
    pub remaining: Duration,
}

/// A waiting claim at a voter.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct ReportedWaiter {
    /// The claimant's node.
    pub node: NodeId,
    /// The claim's epoch, which determines its place in the queue.
    pub epoch: Epoch,
}
