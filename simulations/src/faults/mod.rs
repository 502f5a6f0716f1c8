//! The faults: their kinds and times, and how each begins and ends.

mod broken_minority;
pub(crate) mod disks;
mod foreign_cluster;
pub(crate) mod handovers;
mod kinds;
pub(crate) mod lasting;
pub(crate) mod namesakes;
mod strike;
pub(crate) mod wrong_clocks;

pub(crate) use foreign_cluster::{CLUSTER, ForeignCluster};
pub(crate) use kinds::{Cut, Fault, FaultKind, Target, draw, draw_rate};
pub(crate) use lasting::LastingFaults;
pub(crate) use namesakes::Namesake;
pub(crate) use wrong_clocks::draw_wrong;
