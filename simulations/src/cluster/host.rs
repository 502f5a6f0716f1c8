//! One host: its clocks, and its process while it is up.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::algorithms::Machine;
use crate::cluster::{Clock, Datagram, HostDisk, LastVoter, Sighting, WorldEvent};
use crate::judge::{KeyAt, RequestId};
use crate::proto::{Incarnation, Instant, NodeId, PROTOCOL_VERSION, RevokeId, Seal, Ticket};

/// The datagrams that the operating system buffers for a process that does not read them.
pub(crate) const SOCKET_DATAGRAMS_MAX: usize = 256;

/// A request in its process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ongoing {
    pub(crate) request: RequestId,
    pub(crate) client: Option<usize>,
    /// The epoch of its current claim, as last observed.
    pub(crate) epoch: u64,
    /// The last reported end of its lease, by the node's clock.
    pub(crate) until: Option<Instant>,
    /// `true` if its lease renews itself.
    pub(crate) renews: bool,
    /// `true` if its lease outlives its process.
    pub(crate) outlives: bool,
    /// The true time of its grant and the initial length of its lease, in nanoseconds.
    pub(crate) granted: Option<(u64, u64)>,
    /// The incarnation and the number of its claim at its grant.
    pub(crate) claim: Option<(Incarnation, u64)>,
    /// Its deadline by the node's clock, which ends with the grant.
    pub(crate) deadline: Option<Instant>,
    /// The requested ttl plus all extensions.
    pub(crate) span: Duration,
    /// The time for which its key is marked, in nanoseconds.
    pub(crate) keep_for: Option<u64>,
    /// The true time at which the mark began.
    pub(crate) marks_since: Option<u64>,
}

/// One incarnation of a node.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) node: Box<dyn Machine>,
    /// Opens datagrams for the trace, if lines are kept.
    pub(crate) opener: Option<Seal>,
    pub(crate) requests: BTreeMap<Ticket, Ongoing>,
    /// The revocations that its node runs, and when each began.
    pub(crate) revokes: BTreeMap<RevokeId, u64>,
    /// The recorded votes of its voter, as last observed.
    pub(crate) voted: BTreeMap<KeyAt, (usize, u64)>,
    pub(crate) slots: usize,
    /// The highest epoch that its wall clock accepted when it started.
    pub(crate) believed: u64,
    /// The highest epoch that a quorum of the members' clocks accepted then.
    pub(crate) believed_by_most: u64,
    pub(crate) started_at: u64,
    /// The current incarnation of its node.
    pub(crate) incarnation: Option<Incarnation>,
    /// The incarnation and the address of its last datagram.
    pub(crate) sent_as: Option<(Option<Incarnation>, SocketAddr)>,
    /// `true` if that incarnation has sent from another address too. Rule 25 then proves nothing
    /// when it is over.
    pub(crate) has_moved: bool,
    /// `Some` while it hands its memory over before it ends, with the time after which the host
    /// starts again.
    pub(crate) leaves: Option<Option<u64>>,
}

impl Process {
    /// Records that it sends a datagram from an address.
    pub(crate) fn note_sent(&mut self, from: SocketAddr) {
        let incarnation = self.node.incarnation();
        match self.sent_as.replace((incarnation, from)) {
            Some((same, before)) if same == incarnation => self.has_moved |= before != from,
            _ => self.has_moved = false,
        }
    }
}

/// A machine: the state that survives a process, and the process.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) id: NodeId,
    pub(crate) addr: SocketAddr,
    /// The address of its NAT mapping, if it has one.
    pub(crate) mapped: Option<SocketAddr>,
    /// The highest incarnation that a namesake had or a running process adopted.
    pub(crate) highest: Incarnation,
    pub(crate) clock: Clock,
    /// The disk with its journal, if it keeps one.
    pub(crate) disk: Option<HostDisk>,
    pub(crate) process: Option<Process>,
    /// The leases that outlive a process that ended or leaves, and their ends by this clock.
    pub(crate) left: Vec<(RequestId, Instant)>,
    /// The last process whose voter had its memory.
    pub(crate) last_voter: Option<LastVoter>,
    /// The number of voters with which its last process left its memory.
    pub(crate) keepers: usize,
    /// The newest version of the protocol that it speaks.
    pub(crate) version: u8,
    /// All its incarnations, the last one at the end.
    pub(crate) incarnations: Vec<Sighting>,
    /// `true` if it runs in the other voter set.
    pub(crate) is_other: bool,
    /// `true` if it was ever restarted in a different voter set.
    pub(crate) has_changed: bool,
    /// The end of the pause of its process, in true time.
    pub(crate) paused_until: Option<u64>,
    /// `true` if the machine is suspended: datagrams that arrive meanwhile are lost.
    pub(crate) is_suspended: bool,
    pub(crate) inbox: Vec<Datagram>,
    /// `true` while its process reads a datagram.
    pub(crate) is_reading: bool,
    /// Events of its process that are deferred while it is paused.
    pub(crate) put_off: Vec<WorldEvent>,
    /// The number of the current timer; events of earlier timers are ignored.
    pub(crate) timer: u64,
    pub(crate) timer_at: Option<u64>,
    /// `true` if its wall clock was ever ahead by more than `2 * max_clock_skew`.
    pub(crate) was_far_ahead: bool,
    /// The end of the last pause of its process.
    pub(crate) paused_at: u64,
    /// `true` if its name ever had a second process: its peers may not accept it again yet.
    pub(crate) had_namesake: bool,
}

impl Host {
    pub(crate) fn new(id: NodeId, addr: SocketAddr, clock: Clock) -> Self {
        Self {
            id,
            addr,
            mapped: None,
            highest: Incarnation::default(),
            clock,
            disk: None,
            process: None,
            left: Vec::new(),
            last_voter: None,
            keepers: 0,
            version: PROTOCOL_VERSION,
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
            paused_at: 0,
            had_namesake: false,
        }
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.paused_until.is_some()
    }

    /// Returns `true` if a process runs here and is not paused.
    pub(crate) fn acts(&self) -> bool {
        self.process.is_some() && !self.is_paused()
    }
}
