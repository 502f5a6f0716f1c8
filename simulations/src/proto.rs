//! What the simulations use of `lockmesh-proto`, imported in one place.

#[cfg(test)]
pub(crate) use lockmesh_proto::message::{Refuse, RefuseReason};
#[cfg(lockmesh_mutants)]
pub(crate) use lockmesh_proto::mutants::{self, Mutant};
pub(crate) use lockmesh_proto::{
    claimant::{Claimant, NEVER_GRANTED_MAX, Request, RequestError},
    epoch::{Epoch, EpochClock},
    event::{Effects, Event, Ticket, VoteTally},
    id::{Incarnation, Key, NodeId},
    message::{Message, Outbox, RecoveryReply},
    node::{Node, NodeConfig, Output},
    time::{Instant, Now},
    view::{Peer, View},
    voter::{Start, Voter, VoterLimits},
    voter_set::{Timing, VoterSet, VoterSetError, quorum},
    wire::codec::unpack,
    wire::{ClusterSecret, DropReason, Kind, PROTOCOL_VERSION, Seal, Traffic},
};
