//! Bytes in, bytes out, and what strangers make of them.

#![allow(clippy::unwrap_used, reason = "a test that unwraps in vain has failed")]

mod arbitrary;
mod codec;
mod node;
mod observe;
mod seal;
