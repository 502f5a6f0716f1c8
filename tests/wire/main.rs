//! Bytes in, bytes out, and what strangers make of them.

mod arbitrary;
mod codec;
mod node;
mod seal;
