//! What the nodes say to each other. All messages are idempotent and may be lost, doubled,
//! reordered and delayed.
//!
//! A datagram's head names sender, receiver and voter set once for all its messages
//! ([`crate::wire`]); the receiver checks that a [`Claim`] and a [`Release`] come from the node
//! whose claim they name, and that an answer is for a claim of its own.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::description::{Role, VoterSetDescription};
use super::digest::{Digest, Parts};
use super::epoch::Epoch;
use super::id::{ClaimId, Incarnation, Key, NodeId};
use super::time::Instant;

/// One message from one node to another.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub enum Message {
    /// Claimant to voter: ask, keep waiting, renew, give back.
    Claim(Claim),
    /// Voter to claimant: you have my vote.
    Vote(Vote),
    /// Voter to claimant: you are in my queue.
    Wait(Wait),
    /// Voter to claimant: that epoch is not above my fence.
    Stale(Stale),
    /// Voter to claimant: I do not vote now.
    Refuse(Refuse),
    /// Claimant to voter: this claim is over.
    Release(Release),
    /// A voter without memory to all: what do you remember? (Section 6 of the protocol.)
    RecoveryQuery(RecoveryQuery),
    /// The answer to [`RecoveryQuery`].
    RecoveryReply(RecoveryReply),
    /// To a node that speaks under an incarnation lower than one it had before: its wall clock was
    /// set back. It goes on under a higher one.
    Outdated(Outdated),
    /// Anybody to a voter: who owns this key, as you see it? Advice, for people.
    Inspect(Inspect),
    /// The answer to [`Inspect`].
    Report(Report),
    /// Claimant to voter: renew all votes that this session covers. Rare and large.
    KeepAlive(Box<KeepAlive>),
    /// The answer to [`KeepAlive`].
    Kept(Kept),
    /// Anybody to a voter: what would you do with a claim of mine? Advice, for readiness.
    VoterQuery(VoterQuery),
    /// The answer to [`VoterQuery`].
    VoterReply(VoterReply),
    /// "Which voter set do you have?" And what the asker does in its own. (No message is empty: one
    /// that is cut off must not be another that is whole.)
    Describe(Role),
    /// The answer to [`Describe`](Self::Describe), and to a node that speaks for another voter set.
    /// Rare and large.
    Described(Box<VoterSetDescription>),
    /// To both of two incarnations of one node that were heard from different addresses: do you
    /// live?
    Challenge(Challenge),
    /// The answer to [`Challenge`].
    Alive(Challenge),
    /// To both, once both have answered: another process of your name lives. Rare and large.
    Namesake(Box<Namesake>),
}

/// Ask for a vote, keep waiting for it, renew it, or give it back.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Claim {
    /// What it is on.
    pub key: Key,
    /// Which claim.
    pub claim: ClaimId,
    /// Its fencing token and its place in the queue.
    pub epoch: Epoch,
    /// For how long it wants the vote.
    pub ttl: Duration,
    /// The claimant's own clock when it sent this; a voter only echoes it.
    pub sent_at: Instant,
    /// "I count no vote of yours whose send time is before this."
    pub votes_valid_since: Instant,
    /// Whether the claim has a quorum.
    pub granted: bool,
    /// Whether it would rather be told no than wait.
    pub is_try: bool,
    /// Whether the vote is to be covered by a session of the claimant's node.
    pub join: bool,
    /// Whether the claim outlives its process: a later incarnation of its node does not end its
    /// vote.
    pub outlives: bool,
}

/// "You have my vote until `ttl` after `sent_at`."
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Vote {
    /// What the claim is on.
    pub key: Key,
    /// The claim that has the vote.
    pub claim: ClaimId,
    /// The newest send time of the claimant that the voter has heard.
    pub sent_at: Instant,
    /// From that send time on.
    pub ttl: Duration,
    /// An earlier claim waits: give it back unless you are granted.
    pub yield_requested: bool,
    /// Are you there?
    pub probe: bool,
    /// The session that covers the vote.
    pub covered: Option<SessionId>,
}

/// A session of a node at a voter. Never used twice, not even after the voter lost its memory.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct SessionId {
    /// The voter's: different for every start.
    pub nonce: u64,
    /// Which of that incarnation.
    pub number: u32,
}

/// Whether the claim that has a voter's vote is granted.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub enum HolderGranted {
    /// It has not said so, and was heard not long ago.
    No,
    /// It has not said so, and was not heard for `holder_probe_interval`: it may have been granted
    /// all the same.
    Unheard,
    /// It has, and was heard not long ago.
    Yes,
    /// It has, but was not heard for `holder_probe_interval`.
    Silent,
}

/// "You are in my queue."
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Wait {
    /// What the claim is on.
    pub key: Key,
    /// The claim that waits.
    pub claim: ClaimId,
    /// Who has the vote.
    pub holder: ClaimId,
    /// The holder's epoch.
    pub epoch: Epoch,
    /// Whether the holder is granted.
    pub granted: HolderGranted,
    /// How many wait before this claim.
    pub ahead: u32,
}

/// "That epoch is not above my fence."
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Stale {
    /// The claim that is too low.
    pub claim: ClaimId,
    /// The voter's fence.
    pub fence: Epoch,
}

/// Why a voter does not vote. The later ones do not pass by themselves.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub enum RefuseReason {
    /// It has lost its memory and waits until its old votes are over.
    Quarantine,
    /// It has another voter set.
    VoterSet,
    /// The epoch is further ahead of its wall clock than `max_clock_skew`.
    Skew,
    /// It already keeps as many keys, or as many waiters of this key, as it may.
    Limit,
    /// It is not a voter for this key.
    NotAVoter,
}

/// "I do not vote now."
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Refuse {
    /// The claim that is refused.
    pub claim: ClaimId,
    /// Why.
    pub reason: RefuseReason,
}

/// "This claim is over."
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Release {
    /// What it was on.
    pub key: Key,
    /// Which claim.
    pub claim: ClaimId,
    /// It is granted, or the sender cannot know that it has not.
    pub granted: bool,
}

/// "Renew all votes that this session covers."
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct KeepAlive {
    /// The session, as a `Vote` has named it.
    pub session: SessionId,
    /// The claimant's own clock when it sent this; a voter only echoes it.
    pub sent_at: Instant,
    /// The claims that the claimant knows to be covered.
    pub covered: Digest,
}

/// "All votes that this session covers last until `ttl` after `sent_at`."
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Kept {
    /// The session.
    pub session: SessionId,
    /// The newest send time of a [`KeepAlive`] that the voter has heard for it.
    pub sent_at: Instant,
    /// From that send time on; `None`: the session is over for good.
    pub ttl: Option<Duration>,
    /// Where the voter covers fewer claims than the claimant believes.
    pub lacks: Parts,
}

/// "I have no memory: what do you remember?"
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct RecoveryQuery {
    /// Chosen by the asker, echoed in the answer: an answer to an earlier question does not count.
    pub nonce: u64,
}

/// "This is what I remember."
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct RecoveryReply {
    /// The question's nonce.
    pub nonce: u64,
    /// The highest of the floors, fences and votes that are out.
    pub highest: Epoch,
    /// Whether the answerer is a voter that votes, and so has a memory to speak of.
    pub votes: bool,
    /// Whether it knew of any earlier incarnation of the cluster, or of the asker, when it first
    /// heard of the asker's present incarnation.
    pub knew: bool,
    /// The highest incarnation of the asker that it has heard of.
    pub seen: Incarnation,
    /// The longest that votes of the asker last, by any voter set which the answerer knows to name
    /// it: the quarantine of that set. Zero where it knows of none.
    pub quarantine: Duration,
    /// The largest `max_clock_skew` of those.
    pub skew: Duration,
}

/// "I have heard of a later incarnation of yours than the one you speak under."
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Outdated {
    /// The highest incarnation of the addressee that the sender has heard of.
    pub seen: Incarnation,
}

/// "Do you live?" And, as `Alive`, "I do."
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Challenge {
    /// Chosen by the asker, echoed in the answer.
    pub nonce: u64,
}

/// "Another process of your name lives: it and you have answered the same question."
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Namesake {
    /// The addressee's incarnation when it answered. In any other this means nothing.
    pub yours: Incarnation,
    /// Where the addressee was heard from.
    pub yours_at: SocketAddr,
    /// The other process's incarnation.
    pub other: Incarnation,
    /// Where the other process was heard from.
    pub other_at: SocketAddr,
}

/// "Who owns this key, as you see it?"
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Inspect {
    /// Chosen by the asker, echoed in the answer.
    pub nonce: u64,
    /// The key.
    pub key: Key,
}

/// "What would you do with a claim of mine that has this epoch?"
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct VoterQuery {
    /// The asker's own clock when it sent this; the voter only echoes it.
    pub sent_at: Instant,
    /// The epoch that a claim of the asker would have.
    pub epoch: Epoch,
}

/// "This is what I would do with it."
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct VoterReply {
    /// That of the question.
    pub sent_at: Instant,
    /// Why it would be refused; `None`: the voter votes.
    pub refuses: Option<RefuseReason>,
    /// For how long the voter is in quarantine at the most, but for a second. Zero if it is not,
    /// or if it may vote as soon as others have answered it.
    pub remaining: Duration,
    /// Its own wall clock as it answered, in milliseconds since the Unix epoch (rule 28).
    pub wall_ms: u64,
}

/// One voter's view of a key.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Report {
    /// The question's nonce.
    pub nonce: u64,
    /// The claim that has the voter's vote, if any.
    pub vote: Option<ReportedVote>,
    /// Those that wait, in order, at most [`REPORTED_WAITERS_MAX`] of them.
    #[serde(deserialize_with = "few_waiters")]
    pub waiters: Vec<ReportedWaiter>,
    /// How many wait in all.
    pub waiting: u32,
    /// The voter's fence for the key.
    pub fence: Epoch,
    /// The voter has no memory of its votes: it may have given one that it does not know of.
    pub is_recovering: bool,
}

/// The most waiters that a [`Report`] names, so that it fits into one datagram.
pub const REPORTED_WAITERS_MAX: usize = 8;

/// The claim that has a voter's vote.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct ReportedVote {
    /// The claim.
    pub claim: ClaimId,
    /// Its epoch.
    pub epoch: Epoch,
    /// Whether the voter knows that it is granted.
    pub granted: bool,
    /// How long the vote still runs.
    pub remaining: Duration,
}

/// A claim that waits at a voter.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct ReportedWaiter {
    /// The node that waits.
    pub node: NodeId,
    /// The claim's epoch: its place in the queue.
    pub epoch: Epoch,
}

/// A plain `Vec` would make room for as many as a foreign node says there are, before it reads one.
fn few_waiters<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<ReportedWaiter>, D::Error> {
    struct FewWaiters;

    impl<'de> Visitor<'de> for FewWaiters {
        type Value = Vec<ReportedWaiter>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "at most {REPORTED_WAITERS_MAX} waiters")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let mut waiters = Vec::new();
            while let Some(waiter) = seq.next_element()? {
                if waiters.len() == REPORTED_WAITERS_MAX {
                    return Err(A::Error::invalid_length(waiters.len() + 1, &self));
                }
                waiters.push(waiter);
            }
            Ok(waiters)
        }
    }

    from.deserialize_seq(FewWaiters)
}

/// What a handler has to say: messages and to whom, in order.
pub type Outbox = Vec<(NodeId, Message)>;
