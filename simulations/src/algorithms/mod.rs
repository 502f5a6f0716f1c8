//! The algorithms that a host may run: lockmesh, or one of two others for comparison.
//!
//! All run in the same world, with the same links, clocks, pauses, crashes, users and resource. If
//! an algorithm leaves a choice open, the better one for it was taken, and a comment says so there.
//! The remaining difference is what the comparison measures.

pub(crate) mod compare;
mod living;
mod packet;
mod poller;
mod redlock;
mod stories;
mod tally;

use std::fmt::Debug;
use std::net::SocketAddr;
use std::time::Duration;

use clap::ValueEnum;

use crate::cluster::{Gossip, Settings};
use crate::proto::{
    Epoch, Incarnation, Instant, Node, NodeConfig, Now, Output, Request, RequestError, Ticket,
    Traffic, View, Voter,
};

pub(crate) use tally::{Lease, UserView};

/// A lock algorithm.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub(crate) enum Algorithm {
    /// This project: a quorum of the voters that the voter set names, and a fence.
    #[default]
    Lockmesh,
    /// A majority of the members that gossip reports as alive.
    Living,
    /// Redlock as it was published: a majority of independent servers, random values.
    Redlock,
}

impl Algorithm {
    /// All algorithms, in the order of the table.
    pub(crate) const ALL: [Self; 3] = [Self::Lockmesh, Self::Living, Self::Redlock];

    /// Returns its name in tables and pages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Lockmesh => "lockmesh",
            Self::Living => "majority of the living",
            Self::Redlock => "Redlock",
        }
    }

    /// Returns its name in one word.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Lockmesh => "lockmesh",
            Self::Living => "living",
            Self::Redlock => "redlock",
        }
    }

    /// Returns the command line flag that selects it.
    pub(crate) fn flag(self) -> &'static str {
        match self {
            Self::Lockmesh => "",
            Self::Living => " --algorithm living",
            Self::Redlock => " --algorithm redlock",
        }
    }

    /// Returns the laws that judge it; `None` means all. The others have no queue and no bounds in
    /// round trips, so only laws that every lock user relies on judge them. The values of Redlock
    /// need not rise, so M2 does not judge it.
    pub(crate) fn laws(self) -> Option<&'static [&'static str]> {
        match self {
            Self::Lockmesh => None,
            Self::Living => Some(&["M1", "M2", "M3"]),
            Self::Redlock => Some(&["M1", "M3"]),
        }
    }

    /// Makes the hosts of a world run it. The other algorithms get gossip by heartbeats, since they
    /// depend on it and adversarial gossip would be no fair test.
    pub(crate) fn put_into(self, settings: &mut Settings) {
        settings.algorithm = self;
        if self != Self::Lockmesh {
            settings.gossip = Gossip::Heartbeats;
            (settings.other_set, settings.has_foreign_cluster) = (None, false);
            settings.wrong_clocks = None;
            settings.has_namesakes = false;
            settings.journals.clear();
            settings.handover_span = None;
            settings.send_plain_and_whole();
        }
    }

    /// Returns `true` if its numbers are fencing tokens, so that a resource can refuse lower ones.
    pub(crate) fn has_fence(self) -> bool {
        self != Self::Redlock
    }
}

/// The program of a host: bytes and time go in, outputs come out. After every call the outputs are
/// drained, as those of a [`Node`].
pub(crate) trait Machine: Debug {
    /// Handles a received datagram.
    fn handle_datagram(&mut self, now: Now, from: SocketAddr, bytes: &[u8]);

    /// Handles all timers that are due.
    fn handle_timeout(&mut self, now: Now);

    /// Handles a new view from gossip.
    fn handle_view(&mut self, now: Now, view: &View);

    /// Returns the next output; `Timeout` is the last one.
    fn poll_output(&mut self) -> Output;

    /// Starts a claim for a key.
    fn claim(&mut self, now: Now, request: Request) -> Result<Ticket, RequestError>;

    /// Withdraws a request or releases its lease. Returns `true` if it was held until now.
    fn release(&mut self, now: Now, ticket: Ticket) -> bool;

    /// Ends all requests, as a clean shutdown does. `tickets` are all that there are.
    fn release_all(&mut self, now: Now, tickets: &[Ticket]) {
        for ticket in tickets {
            self.release(now, *ticket);
        }
    }

    /// Extends a lease. Returns `false` if the extension is not possible.
    fn extend(&mut self, now: Now, ticket: Ticket, extra: Duration) -> bool;

    /// Returns the end of a request's lease, or `None` if it is not held.
    fn valid_until(&self, now: Now, ticket: Ticket) -> Option<Instant>;

    /// Returns the epoch with which a request claims.
    fn epoch(&self, ticket: Ticket) -> Option<Epoch>;

    /// Returns the number of open requests.
    fn claims(&self) -> usize;

    /// Returns the node, if this is lockmesh.
    fn node(&self) -> Option<&Node> {
        None
    }

    /// Returns the node for queries that only lockmesh has.
    fn node_mut(&mut self) -> Option<&mut Node> {
        None
    }

    /// Asks the voters that are due whether they would vote, and for their wall clocks.
    fn check_voters(&mut self, now: Now) {
        if let Some(node) = self.node_mut() {
            node.check_voters(now);
        }
    }

    /// Returns its traffic counters, if it has any.
    fn traffic(&self) -> Option<&Traffic> {
        self.node().map(Node::traffic)
    }

    /// Returns the lockmesh voter, if there is one.
    fn voter(&self) -> Option<&Voter> {
        self.node().and_then(Node::voter)
    }

    /// Returns its current incarnation, if that may change while it runs.
    fn incarnation(&self) -> Option<Incarnation> {
        self.node().map(|node| node.claimant().incarnation())
    }
}

impl Machine for Node {
    fn handle_datagram(&mut self, now: Now, from: SocketAddr, bytes: &[u8]) {
        Self::handle_datagram(self, now, from, bytes);
    }

    fn handle_timeout(&mut self, now: Now) {
        Self::handle_timeout(self, now);
    }

    fn handle_view(&mut self, now: Now, view: &View) {
        Self::handle_view(self, now, view);
    }

    fn poll_output(&mut self) -> Output {
        Self::poll_output(self)
    }

    fn claim(&mut self, now: Now, request: Request) -> Result<Ticket, RequestError> {
        Self::claim(self, now, request)
    }

    fn release(&mut self, now: Now, ticket: Ticket) -> bool {
        Self::release(self, now, ticket)
    }

    fn release_all(&mut self, now: Now, _tickets: &[Ticket]) {
        Self::release_all(self, now);
    }

    fn extend(&mut self, now: Now, ticket: Ticket, extra: Duration) -> bool {
        Self::extend(self, now, ticket, extra).is_ok()
    }

    fn valid_until(&self, now: Now, ticket: Ticket) -> Option<Instant> {
        self.claimant().valid_until(now, ticket)
    }

    fn epoch(&self, ticket: Ticket) -> Option<Epoch> {
        self.claimant().epoch(ticket)
    }

    fn claims(&self) -> usize {
        self.claimant().len()
    }

    fn node(&self) -> Option<&Node> {
        Some(self)
    }

    fn node_mut(&mut self) -> Option<&mut Node> {
        Some(self)
    }
}

/// Starts a process.
pub(crate) fn start(algorithm: Algorithm, now: Now, config: NodeConfig) -> Box<dyn Machine> {
    match algorithm {
        Algorithm::Lockmesh => Box::new(Node::new(now, config)),
        Algorithm::Living => Box::new(living::start(now, config)),
        Algorithm::Redlock => Box::new(redlock::start(config)),
    }
}
