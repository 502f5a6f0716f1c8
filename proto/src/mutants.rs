//! Known mistakes that can be put back into the rules, one at a time.
//!
//! A checker that has never rejected anything proves nothing. So the simulations put back each
//! mistake, and check that a law catches it. Mistakes need `--cfg lockmesh_mutants`; without it
//! each `mistaken!` is the constant `false`.

#[cfg(lockmesh_mutants)]
use std::cell::Cell;

/// Defines the mistakes and the list of all.
#[cfg(lockmesh_mutants)]
macro_rules! mutants {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A mistake that somebody made, in a draft of this protocol or in another lock.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub enum Mutant {
            $($(#[$doc])* $name,)*
        }

        impl Mutant {
            /// All mistakes.
            pub const ALL: &[Self] = &[$(Self::$name,)*];
        }
    };
}

#[cfg(lockmesh_mutants)]
mutants! {
    /// A quorum is counted over the voters that answered, not over those of the voter set.
    CountTheLiving,
    /// A voter without memory votes at once.
    NoQuarantine,
    /// A voter without memory votes after half of its quarantine.
    ShortQuarantine,
    /// A voter without memory starts with a recovered fence of zero.
    NoFloors,
    /// A `RecoveryReply` leaves out the votes that are out.
    RepliesWithoutVotes,
    /// A vote counts from its receipt, not from its send time.
    ValidFromReceipt,
    /// Expired votes still count towards a quorum.
    ExpiredVotesCount,
    /// An expired lease is revived by the next vote.
    LostIsNotForGood,
    /// The drift of clocks is ignored.
    NoDrift,
    /// A guard does not check the clock.
    GuardWithoutClock,
    /// A release does not raise the fence.
    FenceNotRaisedOnRelease,
    /// An expired vote does not raise the fence.
    FenceNotRaisedOnExpiry,
    /// A voter votes for epochs that are not above its fence.
    FenceIgnored,
    /// A vote that was given back still counts.
    GivenBackVotesCount,
    /// The release of a granted claim says that it was never granted.
    GrantedIsForgotten,
    /// A vote carries no ttl: the claimant counts the ttl that it requested.
    VoteWithoutTtl,
    /// A renewal requests a shorter ttl, and the voter shortens its promise.
    LeaseShrinks,
    /// A release frees the vote of any claim on its key.
    ReleaseByKeyAlone,
    /// A node that gossip reports as dead loses its votes.
    GossipFreesVotes,
    /// A granted claim is answered `Stale` if its epoch is not above the fence.
    GrantedHeldAgainstFence,
    /// Claims of equal epochs are not ordered, and epochs are not spread.
    EqualEpochsNotOrdered,
    /// A silent waiter stays in the queue, and blocks it once it is the head.
    SkipInsteadOfDrop,
    /// The last waiter in the queue is served first.
    Barging,
    /// A reservation lasts the waiter's whole ttl.
    ReservationIsWholeTtl,
    /// A waiter lets its reservation expire if another voter is late, and loses its place.
    TurnsRunOut,
    /// An expired session is revived by its claimant's next message.
    SessionsRevive,
    /// A vote that a session covers expires as if it were not covered.
    CoveredVotesExpire,
    /// A `Kept` counts from its receipt, not from its send time.
    KeptFromReceipt,
    /// A `Kept` of one session counts for another at the same voter.
    KeptForAnother,
    /// A `Kept` counts for all claims at its voter, covered or not.
    KeptCoversAll,
    /// A voter ignores the claimant's digest of covered claims.
    DigestIgnored,
    /// A later incarnation of a node also ends the claims that outlive their process.
    LaterIncarnationEndsAll,
    /// A shutdown also releases the leases that outlive their process.
    ShutdownReleasesAll,
    /// A `try` claim is denied if voters name silent holders, even different ones.
    AnySilentHolders,
    /// A `try` claim is denied because of a claim of its own process that is over.
    OwnGhostsDeny,
    /// A claim that voters refuse for a limit keeps its votes.
    ShutOutKeepsVotes,
    /// The last waiter in a full queue does not yield to a claim that comes before it.
    FullQueuesStay,
    /// Clusters of different names with the same secret open each other's datagrams.
    ClusterNotSealed,
    /// A voter restarted with a shorter `max_ttl` waits for that alone, and votes while its peers
    /// vote in another voter set.
    OtherSetIgnored,
    /// A vote whose send time equals `votes_valid_since` is taken as given back.
    SinceNotAfter,
    /// A waiter that withdraws stays in the queue.
    WaitersNotReleased,
    /// Claims of a node's earlier incarnations stay in the queue.
    EarlierIncarnationsWait,
    /// Votes for a node's earlier incarnations are not ended.
    EarlierIncarnationsHold,
    /// A `try` claim is denied because of an earlier incarnation of its node.
    EarlierIncarnationsDeny,
    /// A voter that may have forgotten votes confirms that a cluster is new.
    ForgetfulVouch,
    /// A granted claim is refused for its skew.
    GrantedHeldAgainstSkew,
    /// A vote that is given back raises the fence.
    GivingBackRaisesFence,
    /// A silent holder is not probed.
    HolderNotAsked,
    /// Waiters below the fence are dropped without a `Stale`.
    StaleUntold,
    /// The fence of a key is lost with its slot.
    FenceNotCarried,
    /// A waiter that gossip reports as dead loses its place at once.
    DeadWaitersGoAtOnce,
    /// A waiter's silence is measured by its own clock.
    GoneByTheirSentAt,
    /// A `Claim` with `granted` does not raise the fence.
    FenceNotRaisedOnWin,
    /// Waiting `try` claims are not notified that another claim is granted.
    TriesUntold,
    /// A vote is never requested back for an earlier claim.
    NeverAskedBack,
    /// Session names are reused after a restart.
    SessionNamesComeBack,
    /// Votes for a claim count for the next claim of the same request.
    OldVotesCount,
    /// A lease that does not renew itself lasts longer than its ttl.
    NoEnd,
    /// An unanswered renewal is not retransmitted before the next round.
    RenewalsNotRepeated,
    /// A `try` claim is denied because of a claim that is not granted.
    UnwonDenies,
    /// A request does not end at its deadline.
    DeadlineIgnored,
    /// A lease survives its node's change to a higher incarnation.
    LeasesOutliveTheirIncarnation,
    /// A granted claim gives its vote back.
    GrantedIsGivenBack,
    /// A lease that counts on reservations is not renewed at once.
    ReservationsNotRenewed,
    /// `Stale` ends a granted claim.
    StaleEndsLeases,
    /// Each further `Stale` in a row raises the epoch no further than the first.
    StalesNotCounted,
    /// Answers to a claim count for the next claim of the same request.
    TicketsKept,
    /// Leases whose session was renewed late are not checked before they expire.
    LateKeptUnseen,
    /// A session that covers nothing is kept alive.
    LinksKept,
    /// Half of an even number of voters is a quorum.
    HalfIsAQuorum,
    /// A recovering voter needs one reply fewer.
    OneReplyFewer,
    /// A voter started as new skips its quarantine although a reply knows of an earlier
    /// incarnation.
    NewIsBelieved,
    /// A recovering voter caps the epochs in replies without reporting it.
    CutInSilence,
    /// A recovering voter uses the lowest epoch among the replies.
    LowestIsRecalled,
    /// A datagram of an earlier incarnation is accepted after one of a later.
    EarlierIncarnationsHeard,
    /// A node continues under the number of its earlier incarnation.
    AdoptsTheSameNumber,
    /// A node with an outdated number receives no `Outdated`.
    OutdatedUntold,
    /// A single member's wall clock is trusted.
    FirstClockTrusted,
    /// A recovering voter derives its fence from its own wall clock alone.
    FloorByOwnClock,
    /// A recovering voter votes again although it knows no other clock.
    AloneByOwnClock,
    /// A later incarnation ends the claims of earlier ones from any address.
    AnyPlaceProves,
    /// Any answer to a challenge proves that the earlier incarnations of an address are over.
    AnyAnswerProves,
    /// A process continues after it learns of another process of its name.
    TwinGoesOn,
    /// The last address that a peer sent from is never given up.
    HeardIsKept,
    /// A `Vote` leaves before its record is written.
    VoteBeforeWrite,
    /// A voter goes on after a failed write.
    FailedWriteIgnored,
    /// A longer ttl of a vote is not written.
    LongerTtlUnwritten,
    /// The record of the end of a vote is written after that of the next vote of its key.
    EndAfterNextVote,
    /// Restored votes do not last their whole ttl.
    RestoredVotesAreCut,
    /// The send time of a vote is not restored.
    SentAtNotRestored,
    /// The fences of a journal are not restored.
    FencesNotRestored,
    /// A journal of another boot, whose last records were not synced, counts as memory.
    OtherBootIsMemory,
    /// A journal that was begun in quarantine counts as memory.
    QuarantineIsMemory,
    /// The mark of an ordered end stays when the next process has begun.
    ClosedMarkStays,
    /// The next incarnation does not follow from the one in the journal.
    IncarnationFallsBehind,
    /// A journal that is an old copy counts as memory.
    OldCopyResumes,
    /// A voter that leaves votes on while its memory is handed over.
    HandedOverUnsealed,
    /// A keeper keeps a memory for twice a quarantine.
    CopyKeptTooLong,
    /// A keeper gives a memory to every later incarnation.
    CopyGivenToTwo,
    /// A voter resumes although fewer than half of the keepers have answered.
    OneKeeperEnough,
    /// A token is not compared with that in the memory.
    TokenNotCompared,
    /// A keeper that is asked again for a token keeps the memory for longer.
    SecondEntrustRenews,
    /// A voter ignores that a key is marked.
    DoneIgnored,
    /// A mark that one voter fewer than a quorum has counts.
    OneMarkFewer,
    /// The queue of a key stays when it is marked.
    MarkedQueueServed,
    /// The marks of a journal or of a handover are not restored.
    MarksNotRestored,
    /// A mark ends after its time by the voter's clock, however fast that is.
    MarksDrift,
    /// A voter that lost its memory does not read the marks of the others.
    MarksNotRead,
    /// A voter that reads the marks of the others votes for all claims.
    ReadingVotesForAll,
    /// A voter reads the marks of one other voter fewer.
    OneMarksReplyFewer,
    /// The marks of a voter that has not all of its own count as all.
    PartialMarksSuffice,
    /// A voter frees the vote of a revoked claim at once.
    RevokedVoteFreedAtOnce,
    /// The session of a revoked vote goes on.
    RevokedSessionGoesOn,
    /// A revoke also ends the vote of a later claim for the key.
    RevokedByKeyAlone,
}

#[cfg(lockmesh_mutants)]
thread_local! {
    static MADE: Cell<Option<Mutant>> = const { Cell::new(None) };
}

/// Sets the mistake that this thread makes; `None` for none.
#[cfg(lockmesh_mutants)]
pub fn make(mutant: Option<Mutant>) {
    MADE.set(mutant);
}

/// Returns `true` if this thread makes this mistake.
#[cfg(lockmesh_mutants)]
pub(crate) fn is_made(mutant: Mutant) -> bool {
    MADE.get() == Some(mutant)
}

/// Returns `true` if the mistake is put back at this place.
#[cfg(lockmesh_mutants)]
macro_rules! mistaken {
    ($name:ident) => {
        crate::mutants::is_made(crate::mutants::Mutant::$name)
    };
}

/// Returns `false`: this build has no mistakes.
#[cfg(not(lockmesh_mutants))]
macro_rules! mistaken {
    ($name:ident) => {
        false
    };
}
