//! What a host may run: the node of lockmesh, or one of two other ways to lock, for comparison.
//!
//! All run in the same world, with the same links, clocks, pauses, crashes, users and ledger. Where
//! the others leave a choice open, the one that is better for them was taken, and said where it is
//! taken; what remains is the difference that the comparison is about.

pub(crate) mod compare;
mod hearing;
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
use lockmesh_proto::claimant::{Request, RequestError};
use lockmesh_proto::epoch::Epoch;
use lockmesh_proto::event::Ticket;
use lockmesh_proto::id::{Incarnation, Key};
use lockmesh_proto::node::{Node, NodeConfig, Output};
use lockmesh_proto::time::{Instant, Now};
use lockmesh_proto::view::View;
use lockmesh_proto::voter::Voter;
use lockmesh_proto::wire::Traffic;

use crate::faults::Fault;
use crate::scenario::{AskAt, Scenario};
use crate::settings::{Gossip, Settings};

pub(crate) use hearing::Hearing;
pub(crate) use tally::{Lease, Overlap, Story, Wait, Write};

/// Which way to lock.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub(crate) enum Algorithm {
    /// This project: a majority of the voters that the voter set names, and a fence.
    #[default]
    Lockmesh,
    /// A majority of the members that gossip says are alive.
    Living,
    /// Redlock as it was published: a majority of independent servers, random values.
    Redlock,
}

impl Algorithm {
    /// All of them, in the order of the table.
    pub(crate) const ALL: [Self; 3] = [Self::Lockmesh, Self::Living, Self::Redlock];

    /// What tables and pages call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Lockmesh => "lockmesh",
            Self::Living => "majority of the living",
            Self::Redlock => "Redlock",
        }
    }

    /// Its name in one word.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Lockmesh => "lockmesh",
            Self::Living => "living",
            Self::Redlock => "redlock",
        }
    }

    /// How a command line asks for it.
    pub(crate) fn flag(self) -> &'static str {
        match self {
            Self::Lockmesh => "",
            Self::Living => " --algorithm living",
            Self::Redlock => " --algorithm redlock",
        }
    }

    /// The laws that it is held to; `None`: all. The others keep no queue and promise no bound in
    /// round trips, so they are judged by what a user of any lock relies on. The values of Redlock
    /// do not rise and do not claim to.
    pub(crate) fn laws(self) -> Option<&'static [&'static str]> {
        match self {
            Self::Lockmesh => None,
            Self::Living => Some(&["M1", "M2", "M3"]),
            Self::Redlock => Some(&["M1", "M3"]),
        }
    }

    /// Has the hosts of a world run it. Who believes in gossip is told what heartbeats tell: an
    /// adversary would be no fair test.
    pub(crate) fn put_into(self, settings: &mut Settings) {
        settings.algorithm = self;
        if self != Self::Lockmesh {
            settings.gossip = Gossip::Heard;
            (settings.other_set, settings.has_twins) = (None, false);
            settings.wrong_clocks = None;
            settings.has_namesakes = false;
            settings.send_plain_and_whole();
        }
    }

    /// Whether its numbers are fencing tokens, so that a resource can refuse the lower ones.
    pub(crate) fn has_fence(self) -> bool {
        self != Self::Redlock
    }
}

/// A world that can be played.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) settings: Settings,
    pub(crate) faults: Vec<Fault>,
    pub(crate) asks: Vec<AskAt>,
}

impl Plan {
    /// The world of a scenario, run by this algorithm.
    pub(crate) fn of_scenario(scenario: Scenario, algorithm: Algorithm) -> Self {
        let mut settings = scenario.settings;
        algorithm.put_into(&mut settings);
        Self {
            settings,
            faults: scenario.faults,
            asks: scenario.asks,
        }
    }
}

/// What a host runs: bytes and time go in, outputs come out. After every call the outputs are
/// drained, as those of a [`Node`].
pub(crate) trait Machine: Debug {
    /// A datagram came in.
    fn handle_datagram(&mut self, now: Now, from: SocketAddr, bytes: &[u8]);

    /// Time has come.
    fn handle_timeout(&mut self, now: Now);

    /// Gossip has news.
    fn handle_view(&mut self, now: Now, view: &View);

    /// What it wants done, or has to say; `Timeout` last.
    fn poll_output(&mut self) -> Output;

    /// Begins to claim a key.
    fn claim(&mut self, now: Now, request: Request) -> Result<Ticket, RequestError>;

    /// Withdraws a request or releases its lease. Answers whether it was held until now.
    fn release(&mut self, now: Now, ticket: Ticket) -> bool;

    /// Ends all requests, as a shutdown in order does; `tickets` are all that there are.
    fn release_all(&mut self, now: Now, tickets: &[Ticket]) {
        for ticket in tickets {
            self.release(now, *ticket);
        }
    }

    /// Asks that a lease last longer. Answers whether it may.
    fn extend(&mut self, now: Now, ticket: Ticket, extra: Duration) -> bool;

    /// Until when the lease of a request is held; `None` where it is not.
    fn valid_until(&self, now: Now, ticket: Ticket) -> Option<Instant>;

    /// The number that a request claims with.
    fn epoch(&self, ticket: Ticket) -> Option<Epoch>;

    /// How many requests there are.
    fn claims(&self) -> usize;

    /// Asks the voters of a key what they know of it, where there is such a question.
    fn inspect(&mut self, _now: Now, _key: &Key, _patience: Duration) {}

    /// Asks the voters what they would do with its claims, and what their clocks show.
    fn check_voters(&mut self, _now: Now) {}

    /// What it counts of its datagrams, where it counts.
    fn traffic(&self) -> Option<&Traffic> {
        None
    }

    /// The voter, where it is one of this project.
    fn voter(&self) -> Option<&Voter> {
        None
    }

    /// How much it keeps of what, where it can tell.
    fn sizes(&self) -> Vec<(&'static str, usize)> {
        Vec::new()
    }

    /// The number that it goes by, where that may change while it lives.
    fn incarnation(&self) -> Option<Incarnation> {
        None
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

    fn inspect(&mut self, now: Now, key: &Key, patience: Duration) {
        Self::inspect(self, now, key, patience);
    }

    fn check_voters(&mut self, now: Now) {
        Self::check_voters(self, now);
    }

    fn traffic(&self) -> Option<&Traffic> {
        Some(Self::traffic(self))
    }

    fn voter(&self) -> Option<&Voter> {
        Self::voter(self)
    }

    fn sizes(&self) -> Vec<(&'static str, usize)> {
        Self::sizes(self)
    }

    fn incarnation(&self) -> Option<Incarnation> {
        Some(self.claimant().incarnation())
    }
}

/// A process that begins to live.
pub(crate) fn start(algorithm: Algorithm, now: Now, config: NodeConfig) -> Box<dyn Machine> {
    match algorithm {
        Algorithm::Lockmesh => Box::new(Node::new(now, config)),
        Algorithm::Living => Box::new(living::start(now, config)),
        Algorithm::Redlock => Box::new(redlock::start(config)),
    }
}
