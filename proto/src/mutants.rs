//! Known mistakes, put back into the rules one at a time.
//!
//! A checker that has never rejected anything is not to be trusted. So the simulations put each of
//! these back, and see that a law catches it. The feature `mutants` is in no default set, and no
//! build that is used has it: without it every question below is the constant `false`.

#[cfg(lockmesh_mutants)]
use std::cell::Cell;

/// A mistake. Each was made by somebody, in a draft of this protocol or in another lock.
#[cfg(lockmesh_mutants)]
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Mutant {
    /// A quorum of the voters that answered, not of those that the voter set names.
    CountTheLiving,
    /// A voter without memory votes at once.
    NoQuarantine,
    /// It votes after half of the span in which its old votes may still count.
    ShortQuarantine,
    /// Its floors stay at zero.
    NoFloors,
    /// What others recovery query leaves out the votes that are out.
    RepliesWithoutVotes,
    /// A vote counts from its receipt, not from when it was asked for.
    ValidFromReceipt,
    /// Votes that are over still count towards a quorum.
    ExpiredVotesCount,
    /// A lease that is over comes back with the next vote.
    LostIsNotForGood,
    /// The drift of clocks is left out of account.
    NoDrift,
    /// A guard does not look at the clock.
    GuardWithoutClock,
    /// A release leaves the fence where it was.
    FenceNotRaisedOnRelease,
    /// An expired vote leaves the fence where it was.
    FenceNotRaisedOnExpiry,
    /// A voter votes below its fence.
    FenceIgnored,
    /// A vote that was given back still counts.
    GivenBackVotesCount,
    /// A claim that was granted and is over says that it was never granted.
    GrantedIsForgotten,
    /// A vote does not say for how long it is: the claimant counts what it asked for.
    VoteWithoutTtl,
    /// A renewal asks for less, and the voter takes back what it had promised.
    LeaseShrinks,
    /// A release frees the vote of whoever has it.
    ReleaseByKeyAlone,
    /// A node that gossip calls dead loses its votes.
    GossipFreesVotes,
    /// A granted claim is held against the fence.
    GrantedHeldAgainstFence,
    /// Claims of equal epochs are not ordered, and nothing keeps epochs apart.
    EqualEpochsNotOrdered,
    /// A waiter that is not heard any more is skipped, not dropped.
    SkipInsteadOfDrop,
    /// The latest waiter is served first.
    Barging,
    /// A waiter's turn lasts its whole ttl.
    ReservationIsWholeTtl,
    /// A waiter lets its turn run out where another voter is late, and loses its place.
    TurnsRunOut,
    /// A session that is over goes on with the next word of its claimant.
    SessionsRevive,
    /// A vote ends when it would without its session.
    CoveredVotesExpire,
    /// What a voter keeps counts from when its word of it came.
    KeptFromReceipt,
    /// Word of one session counts for another at the same voter.
    KeptForAnother,
    /// What a voter keeps counts for all claims there, covered or not.
    KeptCoversAll,
    /// A voter does not look at what its claimant believes to be covered.
    DigestIgnored,
    /// A later incarnation of a node ends also the claims that outlive their process.
    LaterIncarnationEndsAll,
    /// A shutdown releases also the leases that outlive their process.
    ShutdownReleasesAll,
    /// A try ends in false where voters name silent holders, though each another.
    AnySilentHolders,
    /// A try ends in false beside a claim of its own process that is over.
    OwnGhostsDeny,
    /// A claim that voters shut out for a limit keeps the votes that it has.
    ShutOutKeepsVotes,
    /// The last in a full queue does not yield to one that comes before it.
    FullQueuesStay,
    /// Clusters of other names, with the same secret, open each other's datagrams.
    ClusterNotSealed,
    /// A voter that was restarted with a shorter `max_ttl` waits for that alone, and votes while
    /// its peers vote in another voter set.
    OtherSetIgnored,
    /// A claim that gives nothing back gives back a vote with the send time that it names.
    SinceNotAfter,
    /// A waiter that withdraws stays in the queue.
    WaitersNotReleased,
    /// The claims of a node's earlier incarnations go on waiting.
    EarlierIncarnationsWait,
    /// The votes of a node's earlier incarnations stay out.
    EarlierIncarnationsHold,
    /// A voter that may have forgotten says that there was nothing before.
    ForgetfulVouch,
    /// A granted claim is refused for its skew.
    GrantedHeldAgainstSkew,
    /// A vote that is given back raises the fence.
    GivingBackRaisesFence,
    /// A holder that is silent is not asked whether it is there.
    HolderNotAsked,
    /// Waiters that are below the fence leave the queue untold.
    StaleUntold,
    /// The fence of a slot that nobody wants is forgotten with it.
    FenceNotCarried,
    /// A waiter that gossip calls dead loses its place at once.
    DeadWaitersGoAtOnce,
    /// How long ago a waiter was heard is judged by its own clock.
    GoneByTheirSentAt,
    /// A claim that says that it is granted leaves the fence where it was.
    FenceNotRaisedOnWin,
    /// Those that would rather not wait are not told that another is granted.
    TriesUntold,
    /// A vote is never asked back for an earlier claim.
    NeverAskedBack,
    /// The names of sessions come back after a restart.
    SessionNamesComeBack,
    /// Votes for a claim count for the one that follows it.
    OldVotesCount,
    /// A lease that does not renew itself lasts longer than its ttl.
    NoEnd,
    /// A renewal that is not answered is not repeated before the next round.
    RenewalsNotRepeated,
    /// A `try` ends in `false` beside a claim that is not granted.
    UnwonDenies,
    /// A request does not end at its deadline.
    DeadlineIgnored,
    /// A lease goes on though its node goes on under another number.
    LeasesOutliveTheirIncarnation,
    /// A granted claim gives its vote back.
    GrantedIsGivenBack,
    /// A lease that counts on reservations is not renewed at once.
    ReservationsNotRenewed,
    /// `Stale` ends a granted claim.
    StaleEndsLeases,
    /// The k-th `Stale` in a row makes a claim leap no further than the first.
    StalesNotCounted,
    /// Answers to a claim count for the one that follows it.
    TicketsKept,
    /// Leases that were kept late are not looked at before they are over.
    LateKeptUnseen,
    /// A session that covers nothing is kept alive.
    LinksKept,
    /// Half of an even number of voters is a quorum.
    HalfIsAQuorum,
    /// A recovering voter makes do with one answer fewer.
    OneReplyFewer,
    /// A voter that is told that the cluster is new believes it against the others' word.
    NewIsBelieved,
    /// A recovering voter cuts what it is told, and does not say so.
    CutInSilence,
    /// A recovering voter takes the lowest of the answers.
    LowestIsRecalled,
    /// A datagram of an earlier incarnation is heard after one of a later.
    EarlierIncarnationsHeard,
    /// A node goes on under the number of its earlier incarnation.
    AdoptsTheSameNumber,
    /// A node is not told that its number is too low.
    OutdatedUntold,
    /// The wall clock of a single member is believed.
    FirstClockTrusted,
    /// A voter that has lost its memory takes its floors from its own wall clock alone.
    FloorByOwnClock,
    /// A voter that knows no other clock comes back by its own.
    AloneByOwnClock,
    /// A later incarnation ends the claims of earlier ones wherever it speaks from.
    AnyPlaceProves,
    /// A process that learns of another one of its name goes on.
    TwinGoesOn,
    /// The address that a peer was heard from is never given up.
    HeardIsKept,
}

#[cfg(lockmesh_mutants)]
impl Mutant {
    /// All of them.
    pub const ALL: [Self; 82] = [
        Self::CountTheLiving,
        Self::NoQuarantine,
        Self::ShortQuarantine,
        Self::NoFloors,
        Self::RepliesWithoutVotes,
        Self::ValidFromReceipt,
        Self::ExpiredVotesCount,
        Self::LostIsNotForGood,
        Self::NoDrift,
        Self::GuardWithoutClock,
        Self::FenceNotRaisedOnRelease,
        Self::FenceNotRaisedOnExpiry,
        Self::FenceIgnored,
        Self::GivenBackVotesCount,
        Self::GrantedIsForgotten,
        Self::VoteWithoutTtl,
        Self::LeaseShrinks,
        Self::ReleaseByKeyAlone,
        Self::GossipFreesVotes,
        Self::GrantedHeldAgainstFence,
        Self::EqualEpochsNotOrdered,
        Self::SkipInsteadOfDrop,
        Self::Barging,
        Self::ReservationIsWholeTtl,
        Self::TurnsRunOut,
        Self::SessionsRevive,
        Self::CoveredVotesExpire,
        Self::KeptFromReceipt,
        Self::KeptForAnother,
        Self::KeptCoversAll,
        Self::DigestIgnored,
        Self::LaterIncarnationEndsAll,
        Self::ShutdownReleasesAll,
        Self::AnySilentHolders,
        Self::OwnGhostsDeny,
        Self::ShutOutKeepsVotes,
        Self::FullQueuesStay,
        Self::ClusterNotSealed,
        Self::OtherSetIgnored,
        Self::SinceNotAfter,
        Self::WaitersNotReleased,
        Self::EarlierIncarnationsWait,
        Self::EarlierIncarnationsHold,
        Self::ForgetfulVouch,
        Self::GrantedHeldAgainstSkew,
        Self::GivingBackRaisesFence,
        Self::HolderNotAsked,
        Self::StaleUntold,
        Self::FenceNotCarried,
        Self::DeadWaitersGoAtOnce,
        Self::GoneByTheirSentAt,
        Self::FenceNotRaisedOnWin,
        Self::TriesUntold,
        Self::NeverAskedBack,
        Self::SessionNamesComeBack,
        Self::OldVotesCount,
        Self::NoEnd,
        Self::RenewalsNotRepeated,
        Self::UnwonDenies,
        Self::DeadlineIgnored,
        Self::LeasesOutliveTheirIncarnation,
        Self::GrantedIsGivenBack,
        Self::ReservationsNotRenewed,
        Self::StaleEndsLeases,
        Self::StalesNotCounted,
        Self::TicketsKept,
        Self::LateKeptUnseen,
        Self::LinksKept,
        Self::HalfIsAQuorum,
        Self::OneReplyFewer,
        Self::NewIsBelieved,
        Self::CutInSilence,
        Self::LowestIsRecalled,
        Self::EarlierIncarnationsHeard,
        Self::AdoptsTheSameNumber,
        Self::OutdatedUntold,
        Self::FirstClockTrusted,
        Self::FloorByOwnClock,
        Self::AloneByOwnClock,
        Self::AnyPlaceProves,
        Self::TwinGoesOn,
        Self::HeardIsKept,
    ];
}

#[cfg(lockmesh_mutants)]
thread_local! {
    static MADE: Cell<Option<Mutant>> = const { Cell::new(None) };
}

/// From now on this thread makes this mistake, or none.
#[cfg(lockmesh_mutants)]
pub fn make(mutant: Option<Mutant>) {
    MADE.set(mutant);
}

/// Whether this thread makes this mistake.
#[cfg(lockmesh_mutants)]
pub(crate) fn is_made(mutant: Mutant) -> bool {
    MADE.get() == Some(mutant)
}

/// Whether a mistake is put back at this place.
#[cfg(lockmesh_mutants)]
macro_rules! mistaken {
    ($name:ident) => {
        crate::mutants::is_made(crate::mutants::Mutant::$name)
    };
}

/// No mistakes here.
#[cfg(not(lockmesh_mutants))]
macro_rules! mistaken {
    ($name:ident) => {
        false
    };
}
