//! What is asked of a claimant, and why it may say no at once.

use std::time::Duration;

use thiserror::Error;

use super::id::Key;
use super::time::Instant;

/// A request for a lock.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Request {
    /// What to lock.
    pub key: Key,
    /// For how long a vote is asked for at a time.
    pub ttl: Duration,
    /// End with [`Event::Denied`](super::event::Event::Denied) once another claim is granted,
    /// instead of waiting for it.
    pub is_try: bool,
    /// Renew the lease until it is released. Otherwise it is over `ttl` after the grant.
    pub renews: bool,
    /// The lease outlives its process: neither a later incarnation of the node nor
    /// [`Claimant::release_all`](super::claimant::Claimant::release_all) ends it. Only for a lease
    /// that does not renew itself, whose end is known.
    pub outlives: bool,
    /// When to give up; `None`: never.
    pub deadline: Option<Instant>,
}

/// A request that was not taken up. Nothing was sent.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum RequestError {
    /// The ttl is under ten round trips or over `max_ttl`.
    #[error("ttl is {ttl:?}; it must be {min:?} to {max:?}")]
    Ttl {
        /// What was asked for.
        ttl: Duration,
        /// Ten round trips.
        min: Duration,
        /// `max_ttl` of the voter set.
        max: Duration,
    },
    /// This node already has as many requests as it may.
    #[error("this node already has {max} locks or requests for locks")]
    TooMany {
        /// The limit.
        max: usize,
    },
}

/// An extension that was not taken up. The lease is as it was.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum ExtendError {
    /// There is no such lease, or it is over.
    #[error("the lock is not held")]
    NotHeld,
    /// More than `max_ttl` would remain.
    #[error("{remaining:?} remain and {extra:?} more would exceed max_ttl, {max:?}")]
    TooLong {
        /// What remains now.
        remaining: Duration,
        /// What was asked for on top.
        extra: Duration,
        /// `max_ttl` of the voter set.
        max: Duration,
    },
}
