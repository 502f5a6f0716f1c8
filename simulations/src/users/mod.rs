//! The users of the locks, the resource that they write to, and what is observed of them.

mod client;
mod observe;
mod resource;

pub(crate) use client::{Client, RequestAt, State, Status, Wish, Write};
pub(crate) use resource::{Resource, Verdict};
