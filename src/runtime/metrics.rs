//! `tracing` events, and metrics through the `metrics` facade.
//!
//! | metric | kind | meaning |
//! | --- | --- | --- |
//! | `lockmesh_requests_total` | counter | requests for locks |
//! | `lockmesh_grants_total` | counter | locks granted |
//! | `lockmesh_denied_total` | counter | `try` requests denied because another claim was granted |
//! | `lockmesh_timeouts_total` | counter | requests that timed out without a quorum |
//! | `lockmesh_lost_total` | counter | leases that were not renewed in time |
//! | `lockmesh_acquire_seconds` | histogram | time from a request to its grant |
//! | `lockmesh_held` | gauge | locks held by this node |
//! | `lockmesh_waiting` | gauge | pending requests of this node |
//! | `lockmesh_voter_keys` | gauge | keys kept by this node's voter |
//! | `lockmesh_wall_clock_ahead_seconds` | gauge | wall clock, ahead of those of most voters |
//! | `lockmesh_datagrams_out_total` | counter | datagrams sent, without gossip |
//! | `lockmesh_datagrams_in_total` | counter | datagrams received, without gossip |
//! | `lockmesh_gossip_bytes_out_total` | counter | bytes of gossip sent |
//! | `lockmesh_gossip_restarts_total` | counter | restarts of gossip |
//! | `lockmesh_dropped_total` | counter, by `reason` | dropped datagrams and messages |
//!
//! Each metric has the label `node`. Gauges and traffic counters are refreshed about once per
//! second; the others are updated at once.

use std::time::Duration;

use metrics::{Counter, Histogram, counter, gauge, histogram};

use super::core::Ended;
use lockmesh_proto::{Event, Node, NodeId, Now, Voter};

/// The metrics of one mesh.
pub(crate) struct Meter {
    node: String,
    requests: Counter,
    grants: Counter,
    denied: Counter,
    timeouts: Counter,
    lost: Counter,
    gossip_restarts: Counter,
    acquire: Histogram,
}

impl Meter {
    pub(crate) fn new(node: &NodeId) -> Self {
        let node = node.to_string();
        let label = || node.clone();
        Self {
            requests: counter!("lockmesh_requests_total", "node" => label()),
            grants: counter!("lockmesh_grants_total", "node" => label()),
            denied: counter!("lockmesh_denied_total", "node" => label()),
            timeouts: counter!("lockmesh_timeouts_total", "node" => label()),
            lost: counter!("lockmesh_lost_total", "node" => label()),
            gossip_restarts: counter!("lockmesh_gossip_restarts_total", "node" => label()),
            acquire: histogram!("lockmesh_acquire_seconds", "node" => label()),
            node,
        }
    }

    pub(crate) fn began(&self) {
        self.requests.increment(1);
    }

    pub(crate) fn granted(&self, took: Duration) {
        self.grants.increment(1);
        self.acquire.record(took);
    }

    pub(crate) fn lost(&self) {
        self.lost.increment(1);
    }

    pub(crate) fn gossip_ended(&self) {
        self.gossip_restarts.increment(1);
    }

    pub(crate) fn ended_without(&self, ended: &Ended) {
        match ended {
            Ended::Denied => self.denied.increment(1),
            Ended::TimedOut { .. } => self.timeouts.increment(1),
            Ended::Granted(_) | Ended::Refused(_) | Ended::ShutDown => {}
        }
    }

    /// Refreshes the gauges and the traffic counters.
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
    pub(crate) fn refresh(&self, node: &Node, now: Now) {
        let label = || self.node.clone();
        let held = node.claimant().held(now).count();
        gauge!("lockmesh_held", "node" => label()).set(held as f64);
        gauge!("lockmesh_waiting", "node" => label()).set(node.claimant().waiting() as f64);
        let keys = node.voter().map_or(0, Voter::slots);
        gauge!("lockmesh_voter_keys", "node" => label()).set(keys as f64);
        let ahead = node.wall_ahead_ms(now) as f64 / 1_000.0;
        gauge!("lockmesh_wall_clock_ahead_seconds", "node" => label()).set(ahead);
        let traffic = node.traffic();
        counter!("lockmesh_datagrams_out_total", "node" => label()).absolute(traffic.datagrams_out);
        counter!("lockmesh_datagrams_in_total", "node" => label()).absolute(traffic.datagrams_in);
        counter!("lockmesh_gossip_bytes_out_total", "node" => label())
            .absolute(traffic.gossip_bytes_out);
        for (reason, count) in &traffic.dropped {
            let dropped = counter!(
                "lockmesh_dropped_total", "node" => label(), "reason" => reason.as_str()
            );
            dropped.absolute(*count);
        }
    }
}

/// Emits an event as a `tracing` event.
pub(crate) fn trace(event: &Event, node: &NodeId) {
    match event {
        Event::Granted {
            ticket, key, epoch, ..
        } => {
            tracing::debug!(%node, ticket = ticket.0, %key, %epoch, "lock granted");
        }
        Event::Renewed { ticket, .. } => {
            tracing::trace!(%node, ticket = ticket.0, "lease renewed");
        }
        Event::Lost {
            ticket,
            key,
            epoch,
            was_due: true,
        } => {
            tracing::debug!(%node, ticket = ticket.0, %key, %epoch, "lease over");
        }
        Event::Lost {
            ticket,
            key,
            epoch,
            was_due: false,
        } => {
            tracing::warn!(%node, ticket = ticket.0, %key, %epoch, "lease lost");
        }
        Event::Denied { ticket } => {
            tracing::debug!(%node, ticket = ticket.0, "lock is another's");
        }
        Event::TimedOut { ticket, answers } => {
            tracing::debug!(%node, ticket = ticket.0, ?answers, "no quorum in time");
        }
        Event::QuarantineEnded { answers, .. } => {
            tracing::debug!(%node, answers, "quarantine over");
        }
        Event::QuarantineExtended { node: other, .. } => {
            tracing::debug!(%node, %other, "quarantine extended");
        }
        Event::VoterSetMismatch {
            node: other,
            differences,
        } => {
            tracing::debug!(%node, %other, %differences, "another voter set");
        }
        Event::VoterSetMatch { node: other } => {
            tracing::debug!(%node, %other, "the same voter set");
        }
        // Logged as obstacles, in obstacles.rs.
        Event::QuarantineBegan { .. } | Event::TwinFound | Event::TwinGone => {}
    }
}
