//! One host: its clocks, and the process that runs on it while it is up.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use lockmesh_proto::event::Ticket;
use lockmesh_proto::id::{Incarnation, NodeId};
use lockmesh_proto::time::Instant;
use lockmesh_proto::wire::Seal;

use crate::algorithms::Machine;
use crate::clocks::Clock;
use crate::datagrams::Datagram;
use crate::gossip::Sighting;
use crate::invariants::{KeyAt, RequestId};
use crate::world::WorldEvent;

/// How many datagrams the operating system keeps for a process that does not read them.
pub(crate) const SOCKET_DATAGRAMS_MAX: usize = 256;

/// A request as its process knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ongoing {
    pub(crate) request: RequestId,
    pub(crate) client: Option<usize>,
    /// The epoch that it was last seen to claim with.
    pub(crate) epoch: u64,
    /// What it was last told of its lease.
    pub(crate) until: Option<Instant>,
    /// Whether its lease renews itself.
    pub(crate) renews: bool,
    /// When it was granted, in true time, and for how long at first.
    pub(crate) granted: Option<(u64, u64)>,
    /// When it gives up by its own clock, unless it was granted before.
    pub(crate) deadline: Option<Instant>,
    /// For how long it asked, and by how much its lease was to be lengthened since.
    pub(crate) span: Duration,
}

/// One incarnation of a node.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) node: Box<dyn Machine>,
    /// Where lines of a trace are wanted: opens what the node opens.
    pub(crate) opener: Option<Seal>,
    pub(crate) requests: BTreeMap<Ticket, Ongoing>,
    /// What its voter had on record when it was last looked at.
    pub(crate) voted: BTreeMap<KeyAt, (usize, u64)>,
    pub(crate) slots: usize,
    /// The highest epoch that its wall clock believed in when it started.
    pub(crate) believed: u64,
    /// The highest that a quorum of the members' clocks believed in then.
    pub(crate) believed_by_most: u64,
    pub(crate) started_at: u64,
    /// The number that it goes by.
    pub(crate) incarnation: Option<Incarnation>,
}

/// A machine.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) id: NodeId,
    pub(crate) addr: SocketAddr,
    /// The address that its datagrams come from, where it is behind a NAT.
    pub(crate) mapped: Option<SocketAddr>,
    /// The highest number that a process of its name took while it lived.
    pub(crate) highest: Incarnation,
    pub(crate) clock: Clock,
    pub(crate) process: Option<Process>,
    /// All its incarnations, the last at the end.
    pub(crate) incarnations: Vec<Sighting>,
    /// It runs in the other voter set.
    pub(crate) is_other: bool,
    /// It was ever started in another voter set than before.
    pub(crate) has_changed: bool,
    /// Its process is frozen until then.
    pub(crate) paused_until: Option<u64>,
    /// Its machine is suspended, not its process alone: it hears nothing then.
    pub(crate) is_suspended: bool,
    pub(crate) inbox: Vec<Datagram>,
    /// Its process is busy with a datagram, and reads the next one then.
    pub(crate) is_reading: bool,
    /// What its process would have done while it was frozen.
    pub(crate) put_off: Vec<WorldEvent>,
    /// Tells timers that are still meant from those that are not.
    pub(crate) timer: u64,
    pub(crate) timer_at: Option<u64>,
    /// Its wall clock was ahead by more than twice what the others believe.
    pub(crate) was_far_ahead: bool,
}

impl Host {
    pub(crate) fn new(id: NodeId, addr: SocketAddr, clock: Clock) -> Self {
        Self {
            id,
            addr,
            mapped: None,
            highest: Incarnation::default(),
            clock,
            process: None,
            incarnations: Vec::new(),
            is_other: false,
            has_changed: false,
            paused_until: None,
            is_suspended: false,
            inbox: Vec::new(),
            is_reading: false,
            put_off: Vec::new(),
            timer: 0,
            timer_at: None,
            was_far_ahead: false,
        }
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.paused_until.is_some()
    }

    /// Whether a process runs here and is not frozen.
    pub(crate) fn acts(&self) -> bool {
        self.process.is_some() && !self.is_paused()
    }
}
