//! How far the searches go, and where they begin.

/// How far one search goes.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    pub(crate) name: &'static str,
    /// How far the wall clock of each claimant is ahead, in milliseconds: the order of the epochs.
    pub(crate) walls: &'static [u64],
    pub(crate) begins: Begins,
    /// How many steps of time.
    pub(crate) steps: u64,
    /// How many voters may lose their memory.
    pub(crate) crashes: u8,
    /// Whether a message may be read more than once.
    pub(crate) doubles: bool,
    /// The most messages that are on their way.
    pub(crate) messages_max: usize,
    /// The mistake that the rules make, for the searches that must find one.
    #[cfg(lockmesh_mutants)]
    pub(crate) mutant: Option<lockmesh_proto::mutants::Mutant>,
}

/// The scopes of the search for the real rules.
pub(crate) fn scopes() -> Vec<Scope> {
    let scope = |name, walls, begins, steps, crashes, doubles| Scope {
        name,
        walls,
        begins,
        steps,
        crashes,
        doubles,
        messages_max: 16,
        #[cfg(lockmesh_mutants)]
        mutant: None,
    };
    vec![
        scope(
            "set back and forgetful",
            &[1_000, 0],
            Begins::Forgotten,
            2,
            1,
            false,
        ),
        scope("two claims meet", &[1, 0], Begins::Asked, 0, 0, false),
        scope("equal epochs", &[0, 0], Begins::Asked, 0, 0, false),
        scope("doubles", &[1, 0], Begins::Asked, 0, 0, true),
        scope("leases run out", &[1, 0], Begins::Owned, 3, 0, false),
        scope("a voter forgets", &[1, 0], Begins::Owned, 4, 1, false),
        scope("a session", &[1, 0], Begins::Covered, 4, 0, false),
        scope("a session, doubles", &[1, 0], Begins::Covered, 4, 0, true),
        scope(
            "a session is forgotten",
            &[1, 0],
            Begins::Covered,
            5,
            1,
            false,
        ),
        scope("three claims", &[1, 0, 2], Begins::Owned, 1, 0, false),
    ]
}

/// Where a search begins.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Begins {
    /// All have asked, and no message has been read.
    Asked,
    /// The first owns the key by two votes; its claim to the third voter is still on its way. The
    /// others may ask at any time.
    Owned,
    /// So it does, and half a lease later it was renewed: those two votes are covered by sessions,
    /// and these were kept. Its claim to the third voter is on its way.
    Covered,
    /// So it did, and died. Then a voter that had voted for it forgot, and came back with its
    /// wall clock set back by half a lease. Its quarantine is over; the other voters sleep, and
    /// have not noticed yet that the lease is over.
    Forgotten,
}

/// The wall clock of the voter that came back.
pub(super) const SET_BACK_MS: u64 = 500;
