//! Known mistakes, put back into the rules one at a time.
//!
//! A checker that has never rejected anything is not to be trusted. So the simulations put each of
//! these back, and see that a law catches it. The feature `mutants` is in no default set, and no
//! build that is used has it: without it every question below is the constant `false`.

#[cfg(feature = "mutants")]
use std::cell::Cell;

/// A mistake. Each was made by somebody, in a draft of this protocol or in another lock.
#[cfg(feature = "mutants")]
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Mutant {
    /// A majority of the voters that answered, not of those that the roster names.
    CountTheLiving,
    /// A voter without memory votes at once.
    NoQuarantine,
    /// It votes after half of the span in which its old votes may still count.
    ShortQuarantine,
    /// Its floors stay at zero.
    NoFloors,
    /// What others recall leaves out the votes that are out.
    RecallWithoutVotes,
    /// A vote counts from its receipt, not from when it was asked for.
    ValidFromReceipt,
    /// Votes that are over still count towards a majority.
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
    /// A claim that won and is over says that it never won.
    WonIsForgotten,
    /// A vote does not say for how long it is: the claimant counts what it asked for.
    VoteWithoutTtl,
    /// A renewal asks for less, and the voter takes back what it had promised.
    LeaseShrinks,
    /// A release frees the vote of whoever has it.
    ReleaseByKeyAlone,
    /// A node that gossip calls dead loses its votes.
    GossipFreesVotes,
    /// A claim that has won is held against the fence.
    WonHeldAgainstFence,
    /// Claims of equal epochs are not ordered, and nothing keeps epochs apart.
    EqualEpochsNotOrdered,
    /// A waiter that is not heard any more is skipped, not dropped.
    SkipInsteadOfDrop,
    /// The latest waiter is served first.
    Barging,
    /// A waiter's turn lasts its whole ttl.
    OfferIsWholeTtl,
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
    /// A later life of a node ends also the claims that outlive their process.
    LaterLifeEndsAll,
    /// A shutdown releases also the leases that outlive their process.
    ShutdownReleasesAll,
    /// A try ends in false where voters name silent holders, though each another.
    AnySilentHolders,
    /// A claim that voters shut out for a limit keeps the votes that it has.
    ShutOutKeepsVotes,
    /// The last in a full queue does not yield to one that comes before it.
    FullQueuesStay,
    /// Clusters of other names, with the same secret, open each other's datagrams.
    ClusterNotSealed,
    /// A voter that was restarted with a shorter `max_ttl` waits for that alone, and votes while
    /// its peers vote in another voter set.
    OtherSetIgnored,
}

#[cfg(feature = "mutants")]
impl Mutant {
    /// All of them.
    pub const ALL: [Self; 38] = [
        Self::CountTheLiving,
        Self::NoQuarantine,
        Self::ShortQuarantine,
        Self::NoFloors,
        Self::RecallWithoutVotes,
        Self::ValidFromReceipt,
        Self::ExpiredVotesCount,
        Self::LostIsNotForGood,
        Self::NoDrift,
        Self::GuardWithoutClock,
        Self::FenceNotRaisedOnRelease,
        Self::FenceNotRaisedOnExpiry,
        Self::FenceIgnored,
        Self::GivenBackVotesCount,
        Self::WonIsForgotten,
        Self::VoteWithoutTtl,
        Self::LeaseShrinks,
        Self::ReleaseByKeyAlone,
        Self::GossipFreesVotes,
        Self::WonHeldAgainstFence,
        Self::EqualEpochsNotOrdered,
        Self::SkipInsteadOfDrop,
        Self::Barging,
        Self::OfferIsWholeTtl,
        Self::TurnsRunOut,
        Self::SessionsRevive,
        Self::CoveredVotesExpire,
        Self::KeptFromReceipt,
        Self::KeptForAnother,
        Self::KeptCoversAll,
        Self::DigestIgnored,
        Self::LaterLifeEndsAll,
        Self::ShutdownReleasesAll,
        Self::AnySilentHolders,
        Self::ShutOutKeepsVotes,
        Self::FullQueuesStay,
        Self::ClusterNotSealed,
        Self::OtherSetIgnored,
    ];
}

#[cfg(feature = "mutants")]
thread_local! {
    static MADE: Cell<Option<Mutant>> = const { Cell::new(None) };
}

/// From now on this thread makes this mistake, or none.
#[cfg(feature = "mutants")]
pub fn make(mutant: Option<Mutant>) {
    MADE.set(mutant);
}

/// Whether this thread makes this mistake.
#[cfg(feature = "mutants")]
pub(crate) fn is_made(mutant: Mutant) -> bool {
    MADE.get() == Some(mutant)
}

/// Whether a mistake is put back at this place.
#[cfg(feature = "mutants")]
macro_rules! mistaken {
    ($name:ident) => {
        crate::mutants::is_made(crate::mutants::Mutant::$name)
    };
}

/// No mistakes here.
#[cfg(not(feature = "mutants"))]
macro_rules! mistaken {
    ($name:ident) => {
        false
    };
}
