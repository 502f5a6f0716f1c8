//! The public API over real UDP on loopback, sealed.

mod common;
mod config;
mod contract;
mod ending;
mod guard;
mod l1;
