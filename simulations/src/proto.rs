//! The imports of `lockmesh-proto`, in one place.

#[cfg(lockmesh_mutants)]
pub(crate) use lockmesh_proto::mutants::{self, Mutant};
pub(crate) use lockmesh_proto::{
    Claimant, ClusterSecret, DatagramKind, DropReason, Effects, Epoch, EpochClock, Event,
    Incarnation, Instant, Key, Message, NEVER_GRANTED_MAX, Node, NodeConfig, NodeId, Now, Output,
    PROTOCOL_VERSION, Peer, RecoveryReply, Request, RequestError, Seal, Start, Ticket, Timing,
    Traffic, View, VoteTally, Voter, VoterLimits, VoterSet, VoterSetError, quorum, unpack_messages,
};
#[cfg(test)]
pub(crate) use lockmesh_proto::{Refuse, RefuseReason};
