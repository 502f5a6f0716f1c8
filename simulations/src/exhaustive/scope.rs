//! The limits of the searches, and their initial states.

use super::Mistake;

/// The limits of one search.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    pub(crate) name: &'static str,
    /// The lead of each claimant's wall clock, in milliseconds; it orders the epochs.
    pub(crate) walls: &'static [u64],
    pub(crate) begins: Begins,
    /// The number of steps of time.
    pub(crate) steps: u64,
    /// The number of times that a voter may be restarted. It loses its memory then, unless it has a
    /// journal.
    pub(crate) crashes: u8,
    /// `true` if the voters keep journals.
    pub(crate) journals: bool,
    /// `true` if holders mark the key.
    pub(crate) marks: bool,
    /// `true` if an operator revokes one claim.
    pub(crate) revokes: bool,
    /// `true` if a message may be read more than once.
    pub(crate) doubles: bool,
    /// The maximum number of messages on their way.
    pub(crate) messages_max: usize,
    pub(super) mistake: Mistake,
}

/// Returns the scopes of the search for the real rules.
#[rustfmt::skip]
pub(crate) fn scopes() -> Vec<Scope> {
    use Begins::{Asked, Covered, Forgotten, Marked, Marking, Owned};
    let scopes: [(_, &[u64], _, _, _, _); 20] = [
        // name, walls, begins, steps, crashes, doubles
        ("set back and forgetful", &[1_000, 0], Forgotten, 2, 1, false),
        ("two claims meet", &[1, 0], Asked, 0, 0, false),
        ("equal epochs", &[0, 0], Asked, 0, 0, false),
        ("doubles", &[1, 0], Asked, 0, 0, true),
        ("leases run out", &[1, 0], Owned, 3, 0, false),
        ("a voter forgets", &[1, 0], Owned, 4, 1, false),
        ("a session", &[1, 0], Covered, 4, 0, false),
        ("a session, doubles", &[1, 0], Covered, 4, 0, true),
        ("a session is forgotten", &[1, 0], Covered, 5, 1, false),
        ("three claims", &[1, 0, 2], Owned, 1, 0, false),
        ("voters resume", &[1, 0], Owned, 3, 2, false),
        ("resumes, doubles", &[1, 0], Asked, 1, 1, true),
        ("a session resumes", &[1, 0], Covered, 4, 1, false),
        ("a mark", &[0, 1], Marking, 2, 0, false),
        ("a mark, doubles", &[0, 1], Marking, 2, 0, true),
        ("a mark is forgotten", &[0, 1], Marked, 6, 1, false),
        ("two forget a mark", &[0, 1], Marked, 5, 2, false),
        ("a mark resumes", &[0, 1], Marked, 3, 2, false),
        ("a revoke", &[1, 0], Owned, 3, 0, false),
        ("a session is revoked", &[1, 0], Covered, 5, 0, false),
    ];
    let scopes = scopes.map(|(name, walls, begins, steps, crashes, doubles)| Scope {
        name,
        walls,
        begins,
        steps,
        crashes,
        journals: name.contains("resume"),
        marks: name.contains("mark"),
        revokes: name.contains("revoke"),
        doubles,
        messages_max: 16,
        mistake: Mistake::default(),
    });
    scopes.into()
}

/// The initial state of a search.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Begins {
    /// All claims were sent, and no message has been read.
    Asked,
    /// The first claim is granted by two votes; its message to the third voter is still on its way.
    /// The others may be made at any time.
    Owned,
    /// As [`Owned`](Self::Owned), and the first claimant has sent marks to all voters.
    Marking,
    /// As [`Marking`](Self::Marking), and two voters have the mark. The first claimant has released the
    /// key, and the second has sent its claims.
    Marked,
    /// As [`Owned`](Self::Owned), and renewed half a lease later: sessions cover the two votes and
    /// were kept. The message to the third voter is on its way.
    Covered,
    /// As [`Owned`](Self::Owned), but the first claimant died. Then a voter that had voted for it
    /// lost its memory, and came back with its wall clock set back by half a lease. Its quarantine
    /// is over. The other voters are late and have not yet ended the votes of that lease.
    Forgotten,
}

/// The span by which that voter's wall clock was set back, in milliseconds.
pub(super) const SET_BACK_MS: u64 = 500;
