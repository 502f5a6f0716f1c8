//! The wire format, and nodes that receive arbitrary datagrams.

#![allow(clippy::unwrap_used, reason = "a test that unwraps in vain has failed")]

mod arbitrary;
mod codec;
mod fuzz;
mod inspection;
mod node;
mod observe;
mod outputs;
mod rotation;
mod scripted_nodes;
mod seal;
mod sessions;
mod sets;
mod standing;
mod survey;
