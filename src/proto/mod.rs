//! The rules, and nothing but the rules.
//!
//! Nothing in this folder knows a socket, a clock, a thread, a source of randomness or a gossip
//! library. Time and random numbers come in as arguments; messages, timers and events go out as
//! values. The voter and the claimant never see each other: they only exchange messages.
//!
//! Read [`message`] first, then [`voter`], then [`claimant`].

mod aside;
mod backoff;
pub mod claimant;
mod claimant_keeps;
mod claimant_works;
pub mod clocks;
pub mod description;
pub mod digest;
pub mod epoch;
pub mod event;
pub mod id;
mod link;
pub(crate) mod listing;
pub mod message;
mod own_claim;
mod recovery;
mod renewal;
pub mod request;
pub(crate) mod rng;
mod session;
mod slot;
mod slots;
#[cfg(test)]
mod tests;
pub mod time;
pub mod view;
pub mod voter;
mod voter_keeps;
mod voter_says;
pub mod voter_set;
