//! What the rules have to say to whoever drives them.

use super::description::Differences;
use super::epoch::Epoch;
use super::id::{Key, NodeId};
use super::message::{Message, Outbox, RefuseReason};
use super::time::Instant;

/// Names one request for a lock from its beginning to its end. A request keeps its ticket while
/// its claims change: one that is told `Stale` claims anew under another claim id.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Ticket(pub u64);

/// What the voters had said when a request ended without the lock.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct VoteTally {
    /// How many voters the key has.
    pub voters: usize,
    /// How many had given their vote.
    pub voted: usize,
    /// How many had said that another claim has their vote.
    pub waiting: usize,
    /// How many had refused.
    pub refused: usize,
    /// Why they refused; where their reasons differ, one that does not pass by itself.
    pub reason: Option<RefuseReason>,
    /// How many had not answered at all.
    pub silent: usize,
}

/// Something that happened.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Event {
    /// The request owns its key until `valid_until`, unless it is renewed.
    Granted {
        /// Which request.
        ticket: Ticket,
        /// The key.
        key: Key,
        /// The fencing token.
        epoch: Epoch,
        /// From here on it is lost.
        valid_until: Instant,
    },
    /// The lease was lengthened.
    Renewed {
        /// Which request.
        ticket: Ticket,
        /// From here on it is lost.
        valid_until: Instant,
    },
    /// The lease is over, for good.
    Lost {
        /// Which request.
        ticket: Ticket,
        /// The key.
        key: Key,
        /// The token that is never used again.
        epoch: Epoch,
        /// The lease was not to renew itself, and has come to its end.
        was_due: bool,
    },
    /// A `try` request ended since another claim is granted.
    Denied {
        /// Which request.
        ticket: Ticket,
    },
    /// A request's deadline passed before a quorum had voted for it.
    TimedOut {
        /// Which request.
        ticket: Ticket,
        /// What the voters had said.
        answers: VoteTally,
    },
    /// This voter has lost its memory, and is in recovery for now.
    QuarantineBegan {
        /// When it ends at the latest but for the second in which it asks the others.
        until: Instant,
    },
    /// This voter votes from now on.
    QuarantineEnded {
        /// How many other voters told what they remember.
        answers: usize,
        /// Too few did: that epochs rise leans on a wall clock that was not set back.
        leans_on_wall_clock: bool,
        /// A quorum of the members' clocks was known: it leans on those, not on the own one.
        knows_clocks: bool,
    },
    /// This voter has no memory, and is in recovery for longer than it said before.
    QuarantineExtended {
        /// When it ends at the latest now, but for the second in which it asks the others.
        until: Instant,
        /// The node that is the cause.
        node: NodeId,
        /// Whether that node votes in another voter set: this voter then waits until it does not.
        /// Otherwise the node knows of votes that last longer.
        votes_elsewhere: bool,
    },
    /// A node has another voter set than this one. Said once for each of its incarnations, and
    /// again once it is known in what they differ.
    VoterSetMismatch {
        /// The node.
        node: NodeId,
        /// In what they differ, as far as it has said.
        differences: Differences,
    },
    /// A node that had another voter set has the same now.
    VoterSetMatch {
        /// The node.
        node: NodeId,
    },
    /// Another live process of this node's name was found: this one neither holds nor votes.
    TwinFound,
    /// Nothing was heard of it for long enough: this process goes on.
    TwinGone,
}

/// What a handler leaves behind: messages to send and events to tell, each in order.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Effects {
    /// Messages, and to whom.
    pub messages: Outbox,
    /// Events.
    pub events: Vec<Event>,
}

impl Effects {
    /// Whether nothing is left behind.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.events.is_empty()
    }

    pub(crate) fn send(&mut self, to: &NodeId, message: Message) {
        self.messages.push((to.clone(), message));
    }

    pub(crate) fn tell(&mut self, event: Event) {
        self.events.push(event);
    }
}
