//! The base of every run: time, the queue of events, random numbers, links, and the trace.

mod network;
mod parallel;
mod queue;
mod rng;
mod trace;

pub(crate) use network::{LinkFaults, Network};
pub(crate) use parallel::on_all_cores;
pub(crate) use queue::Queue;
pub(crate) use rng::{Rng, mix};
pub(crate) use trace::Trace;

pub(crate) const MILLISECOND: u64 = 1_000_000;
pub(crate) const SECOND: u64 = 1_000 * MILLISECOND;
