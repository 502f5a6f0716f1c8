//! The imports of `lockmesh-proto`, in one place.

#[cfg(test)]
pub(crate) use lockmesh_proto::Refuse;
#[cfg(lockmesh_mutants)]
pub(crate) use lockmesh_proto::mutants::{self, Mutant};
pub(crate) use lockmesh_proto::testing::{Disk, Keeper, Leaver, Taker};
pub(crate) use lockmesh_proto::{
    ClaimId, Claimant, ClusterSecret, DatagramKind, DropReason, Effects, Epoch, EpochClock, Event,
    Handover, Incarnation, Instant, Key, MARK_KEEP_MAX, Memory, Message, NEVER_GRANTED_MAX, Node,
    NodeConfig, NodeId, Note, Now, OpenedJournal, Output, PROTOCOL_VERSION, Peer, RecoveryReply,
    RefuseReason, Request, RequestError, Revocation, Revoke, RevokeId, Seal, Start, Ticket, Timing,
    Traffic, View, VoteRecord, VoteTally, Voter, VoterLimits, VoterSet, VoterSetError, quorum,
    unpack_messages,
};
