//! The events and effects that voter and claimant return to the node and its driver, and the view of
//! gossip that the driver supplies.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::description::Differences;
use super::epoch::Epoch;
use super::id::{Incarnation, Key, NodeId, Note};
use super::journal::Record;
use super::message::{Message, RefuseReason};
use super::time::Instant;
use super::wire::seal::Fingerprint;

/// The id of a request for a lock. A request keeps its ticket when its claim changes: after `Stale`
/// it claims anew under another claim id.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Ticket(pub u64);

/// The voters' last replies to a request that ended without the lock.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub struct VoteTally {
    /// The number of voters of the key.
    pub voters: usize,
    /// The number of voters that gave their vote.
    pub voted: usize,
    /// The number of voters whose vote another claim has.
    pub waiting: usize,
    /// The number of voters that refused.
    pub refused: usize,
    /// The reason of the refusals. If reasons differ, the last in the order of [`RefuseReason`].
    pub reason: Option<RefuseReason>,
    /// The number of voters that did not reply.
    pub silent: usize,
}

/// The claim that had a voter's vote.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct KeyHolder {
    /// The node of the claim.
    pub node: NodeId,
    /// The epoch of the claim.
    pub epoch: Epoch,
    /// The least time for which the claim has had the vote.
    pub held_for: Duration,
    /// The note of the claim, if a voter sent one.
    pub note: Option<Note>,
}

/// An event for the driver.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Event {
    /// The request is granted: it holds its key until `valid_until`, or longer if it is renewed.
    Granted {
        /// The request.
        ticket: Ticket,
        /// The key.
        key: Key,
        /// The fencing token.
        epoch: Epoch,
        /// When the lease ends.
        valid_until: Instant,
    },
    /// The lease was extended.
    Renewed {
        /// The request.
        ticket: Ticket,
        /// When the lease ends.
        valid_until: Instant,
    },
    /// The lease is over, for good.
    Lost {
        /// The request.
        ticket: Ticket,
        /// The key.
        key: Key,
        /// The fencing token, which is never used again.
        epoch: Epoch,
        /// `true` if the lease does not renew itself, so that its end was expected.
        was_due: bool,
    },
    /// The lease is over, for good, since an operator has freed its lock by hand. Its voters keep their
    /// votes until they expire, or until the request is released.
    Revoked {
        /// The request.
        ticket: Ticket,
        /// The key.
        key: Key,
        /// The fencing token, which is never used again.
        epoch: Epoch,
        /// The person or program that did it.
        by: Note,
        /// The node through which it was done.
        through: NodeId,
    },
    /// This voter no longer renews its vote for a claim, since an operator has freed its lock by hand.
    VoteRevoked {
        /// The key.
        key: Key,
        /// The node of the claim.
        holder: NodeId,
        /// The epoch of the claim.
        epoch: Epoch,
        /// The person or program that did it.
        by: Note,
        /// The node through which it was done.
        through: NodeId,
    },
    /// A `try` request ended because another claim is granted.
    Denied {
        /// The request.
        ticket: Ticket,
    },
    /// A request's deadline passed before it had a quorum of votes.
    TimedOut {
        /// The request.
        ticket: Ticket,
        /// The voters' last replies.
        answers: VoteTally,
        /// The holder that a voter named last. It may not be granted. Boxed to keep events small.
        holder: Option<Box<KeyHolder>>,
    },
    /// A request ended since the key is marked: what it stands for is done.
    Done {
        /// The request.
        ticket: Ticket,
        /// The node that marked the key.
        by: NodeId,
        /// The epoch of the claim that marked it.
        epoch: Epoch,
        /// The time until the mark ends, by one voter.
        remaining: Duration,
    },
    /// A quorum has the mark of a held key.
    Marked {
        /// The request.
        ticket: Ticket,
    },
    /// Too many voters have no room for the mark of a held key.
    NotMarked {
        /// The request.
        ticket: Ticket,
    },
    /// This voter has no memory of marks and has read those of the others.
    MarksRead {
        /// The number of marks.
        marks: usize,
        /// `true` if too few of the others answered. Keys that were marked before may then be
        /// granted again.
        may_lack: bool,
    },
    /// This voter has read its memory from its journal and votes from now on.
    Resumed {
        /// The number of votes that are out.
        votes: usize,
        /// The number of other members that confirmed that the journal is the newest.
        answers: usize,
        /// `true` if these were more than half. Otherwise the voter resumed after a second without
        /// them, and the journal may be an old copy.
        is_confirmed: bool,
    },
    /// This voter has taken up the memory that its last incarnation left with others, and votes from
    /// now on.
    TookUp {
        /// The voter that delivered the memory.
        from: NodeId,
        /// The incarnation that left it.
        incarnation: Incarnation,
        /// The number of votes that are out.
        votes: usize,
    },
    /// A [handover](crate::Node::hand_over) is over.
    HandedOver {
        /// The voters that have the whole memory. Empty if there was nothing to hand over, or nobody
        /// took it.
        voters: Vec<NodeId>,
    },
    /// A member has received an incarnation of this voter that its journal does not name: the
    /// journal is an old copy. The voter has dropped its memory and begun a quarantine.
    JournalOutdated {
        /// The member.
        node: NodeId,
    },
    /// A record could not be written. This voter does not vote until a new journal is written.
    JournalFailed,
    /// A new journal is written after a failure, and this voter votes again.
    JournalRestored,
    /// This voter has no memory and has begun a quarantine.
    QuarantineBegan {
        /// When the quarantine ends. Recovery may last longer, until [`Event::QuarantineEnded`].
        until: Instant,
    },
    /// Recovery is over: this voter votes from now on.
    QuarantineEnded {
        /// The number of other members whose `RecoveryReply` counted.
        answers: usize,
        /// `true` if epoch monotonicity depends on no wall clock having been set back, because too
        /// few members replied, a reply was cut at the limit, or one vote is a quorum.
        leans_on_wall_clock: bool,
        /// `true` if the high time of the members' clocks was known. The recovered fence is then
        /// computed from it, otherwise from this node's wall clock.
        knows_clocks: bool,
    },
    /// The quarantine of this voter lasts longer than announced before.
    QuarantineExtended {
        /// When the quarantine now ends. Recovery may last longer.
        until: Instant,
        /// The node that caused the extension.
        node: NodeId,
        /// `true` if that node votes in another voter set. This voter then waits until it does not.
        /// `false` if that node knows of votes that last longer.
        votes_elsewhere: bool,
    },
    /// A node has a different voter set. Sent once for each incarnation and voter set of that node,
    /// and again when its description arrives.
    VoterSetMismatch {
        /// The node.
        node: NodeId,
        /// The known differences. Empty before the description arrives.
        differences: Differences,
    },
    /// A node that had a different voter set now has the same as this node.
    VoterSetMatch {
        /// The node.
        node: NodeId,
    },
    /// A node seals with another secret than before.
    SecretChanged {
        /// The node.
        node: NodeId,
        /// The secret with which it seals now.
        secret: Fingerprint,
    },
    /// Another live process of this node's name was found. This process now holds no lock and
    /// does not vote.
    TwinFound,
    /// The other process of this name was not reported for half a `max_ttl`. This process resumes
    /// under a higher incarnation. Its voter is still in recovery.
    TwinGone,
}

/// The effects of a handler: messages to send and events to emit, each in order.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Effects {
    /// Messages and their receivers.
    pub messages: Vec<(NodeId, Message)>,
    /// Events.
    pub events: Vec<Event>,
    /// Records for the journal, which must be written before the messages leave.
    pub records: Vec<Record>,
}

impl Effects {
    /// Returns `true` if there are no effects.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.events.is_empty() && self.records.is_empty()
    }

    pub(crate) fn send(&mut self, to: &NodeId, message: Message) {
        self.messages.push((to.clone(), message));
    }

    pub(crate) fn tell(&mut self, event: Event) {
        self.events.push(event);
    }
}

/// The state of one node in gossip.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Peer {
    /// The address at which the node receives datagrams.
    pub addr: SocketAddr,
    /// The incarnation that gossip reports.
    pub incarnation: Incarnation,
    /// `true` if the failure detector considers the node alive.
    pub alive: bool,
    /// The newest version of the protocol that this incarnation reads. `None` if nobody announces
    /// it: the node then finds out by itself.
    pub version: Option<u8>,
}

/// The current state of gossip, without this node. It is advice only: it may be stale, wrong and
/// different on every node. No quorum is counted over it, and it never ends a vote early (M4).
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct View {
    /// The known nodes.
    pub peers: BTreeMap<NodeId, Peer>,
}
