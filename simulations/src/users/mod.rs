//! The users of the locks, the resource that they write to, and what is observed of them.

mod client;
mod observe;
mod resource;

pub(crate) use client::{Client, ClientState, RequestAt, Status, Wish, Write, note_of};
pub(crate) use resource::{Resource, Verdict};
