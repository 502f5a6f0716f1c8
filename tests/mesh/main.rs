//! The public API over real UDP on loopback, sealed.

mod common;
mod crash;
mod guard;
