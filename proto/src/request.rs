//! Requests to a claimant, and the errors that reject them.

use std::time::Duration;

use thiserror::Error;

use super::id::Key;
use super::time::Instant;

/// A request for a lock.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Request {
    /// The key to lock.
    pub key: Key,
    /// The duration of each vote that is requested.
    pub ttl: Duration,
    /// Ends with [`Event::Denied`](super::event::Event::Denied) once another claim is granted,
    /// instead of waiting.
    pub is_try: bool,
    /// Renews the lease until it is released. Otherwise the lease ends `ttl` after the grant.
    pub renews: bool,
    /// Lets the lease outlive its process: neither a later incarnation of the node nor
    /// [`Claimant::release_all`](super::claimant::Claimant::release_all) ends it. Ignored if
    /// `renews` is set, since the end must be known.
    pub outlives: bool,
    /// The instant at which the request gives up; `None` for never.
    pub deadline: Option<Instant>,
}

/// The reason why a request was rejected. Nothing was sent.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum RequestError {
    /// The ttl is under ten round trips or over `max_ttl`.
    #[error("ttl is {ttl:?}; it must be {min:?} to {max:?}")]
    Ttl {
        /// The ttl of the request.
        ttl: Duration,
        /// The minimum: ten round trips.
        min: Duration,
        /// `max_ttl` of the voter set.
        max: Duration,
    },
    /// This node already has the maximum number of requests.
    #[error("this node already has {max} locks or requests for locks")]
    TooMany {
        /// The maximum.
        max: usize,
    },
}

/// The reason why an extension was rejected. The lease is unchanged.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum ExtendError {
    /// The request holds no lease, or the lease has expired.
    #[error("the lock is not held")]
    NotHeld,
    /// More than `max_ttl` would remain.
    #[error("{remaining:?} remain and {extra:?} more would exceed max_ttl, {max:?}")]
    TooLong {
        /// The remaining time of the lease.
        remaining: Duration,
        /// The extension that was requested.
        extra: Duration,
        /// `max_ttl` of the voter set.
        max: Duration,
    },
}
