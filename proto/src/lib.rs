//! The protocol of `lockmesh`: the rules of voters and claimants, the wire format, and the node
//! that puts them together.
//!
//! This crate has no socket, no clock, no thread, no source of randomness and no gossip library.
//! Time and random numbers come in as arguments; datagrams, timers and events go out as values. The
//! voter and the claimant only exchange messages.
//!
//! Read [`message`] first, then [`voter`], then [`claimant`], then [`node`].

#[cfg(not(lockmesh_mutants))]
#[macro_use]
mod mutants;
#[cfg(lockmesh_mutants)]
#[macro_use]
pub mod mutants;

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
pub mod node;
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
pub mod wire;
