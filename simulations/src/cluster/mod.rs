//! The hosts: their clocks, processes, gossip and sockets, and the world that runs them.

mod clock;
pub(crate) mod datagrams;
pub(crate) mod disks;
pub(crate) mod gossip;
mod handovers;
mod heartbeats;
mod host;
mod process;
mod settings;
mod steady;
mod world;

pub(crate) use clock::{Clock, wall_ms};
pub(crate) use datagrams::Datagram;
pub(crate) use disks::HostDisk;
pub(crate) use gossip::{Known, Sighting};
pub(crate) use handovers::LastVoter;
pub(crate) use heartbeats::Heartbeats;
pub(crate) use host::{Host, Ongoing, Process, SOCKET_DATAGRAMS_MAX};
pub(crate) use settings::{Gossip, Habits, Incarnations, MARKED_KEYS, PROBE_KEYS, Rates, Settings};
pub(crate) use steady::Steady;
pub(crate) use world::{Outcome, Plan, World, WorldEvent};
