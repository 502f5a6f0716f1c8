//! Redlock as it was published (Sanfilippo, "Distributed locks with Redis").
//!
//! N independent servers know nothing of each other. A claimant draws a random value, asks all of
//! them at once to set the key to it if it is not set (`SET key value NX PX ttl`), and holds the
//! lock if N/2 + 1 did and the validity, ttl less the time that passed less the drift, is not over.
//! Otherwise it deletes the key everywhere where it has its value, and tries again after a random
//! delay. A lease is lengthened by asking all of them to set its expiry anew where the value is
//! still its own; a majority has to.
//!
//! N is as many as lockmesh has voters for a key, the drift is the published one (1 % and 2 ms)
//! or what the world allows if that is more, and a lost question is asked again as TCP would.
//! Clocks are monotonic, though Redis takes expiries from the wall clock: what a jump of it does is
//! not held against Redlock here. A server that crashes comes back empty at once, as one without
//! persistence does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lockmesh_proto::id::{Key, NodeId};
use lockmesh_proto::node::NodeConfig;
use lockmesh_proto::time::{Instant, Now};
use lockmesh_proto::view::View;
use lockmesh_proto::voter_set::VoterSet;

use super::packet::{Packet, Verb};
use super::poller::{Poller, Rules};

const DRIFT_PPM: u32 = 10_000;
const DRIFT_FIXED: Duration = Duration::from_millis(2);

/// A server, and where the others are.
#[derive(Debug)]
pub(super) struct Redlock {
    voter_set: Arc<VoterSet>,
    /// The value and the expiry of each key that is set.
    keys: BTreeMap<u64, (u64, Instant)>,
}

pub(super) fn start(config: NodeConfig) -> Poller<Redlock> {
    let rules = Redlock {
        voter_set: config.voter_set.clone(),
        keys: BTreeMap::new(),
    };
    Poller::new(rules, config)
}

impl Rules for Redlock {
    fn servers(&self, key: &Key) -> Vec<usize> {
        let members: &[NodeId] = self.voter_set.members();
        let voters = self.voter_set.voters_for(key);
        (0..members.len())
            .filter(|at| voters.contains(&members[*at]))
            .collect()
    }

    fn counts_for(&self, ttl: Duration) -> Duration {
        let ppm = DRIFT_PPM.max(self.voter_set.timing().max_drift_ppm);
        let drift = ttl / 1_000_000 * ppm + DRIFT_FIXED;
        ttl.saturating_sub(drift)
    }

    fn draw_epoch(&mut self, _now: Now, value: u64, _fence: u64) -> u64 {
        value
    }

    fn serve(&mut self, now: Now, ask: Packet) -> Option<Packet> {
        let set = self.keys.get(&ask.key).copied();
        let set = set.filter(|(_, expires)| now.mono < *expires);
        let has_it = set.is_some_and(|(value, _)| value == ask.value);
        let yes = match ask.verb {
            // The same question twice has the same answer.
            Verb::Lock => set.is_none() || has_it,
            Verb::Keep => has_it,
            _ => {
                if has_it {
                    self.keys.remove(&ask.key);
                }
                return None;
            }
        };
        if yes {
            let expires = now.mono.after(Duration::from_nanos(ask.ttl));
            self.keys.insert(ask.key, (ask.value, expires));
        }
        Some(ask.answer(yes, 0))
    }

    fn handle_view(&mut self, _view: &View) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockmesh_proto::voter_set::Timing;

    fn server() -> Redlock {
        let members = (0..5).map(|n| NodeId::new(format!("n{n}")).unwrap());
        let voter_set = VoterSet::new(1, members.collect(), 5, Timing::lan()).unwrap();
        Redlock {
            voter_set: Arc::new(voter_set),
            keys: BTreeMap::new(),
        }
    }

    fn ask(verb: Verb, value: u64) -> Packet {
        Packet {
            verb,
            key: 1,
            value,
            epoch: value,
            ttl: 1_000,
            sent_at: 0,
            server: 0,
            fence: 0,
        }
    }

    fn at(nanos: u64) -> Now {
        Now {
            mono: Instant::from_nanos(nanos),
            wall_ms: 0,
        }
    }

    #[test]
    fn a_server_sets_a_key_once_until_it_expires_or_is_deleted_by_value() {
        let mut server = server();
        let mut yes = |at_nanos: u64, verb, value| {
            let answer = server.serve(at(at_nanos), ask(verb, value));
            answer.is_some_and(|answer| answer.verb == Verb::Yes)
        };
        assert!(yes(0, Verb::Lock, 7));
        assert!(!yes(999, Verb::Lock, 8));
        assert!(!yes(999, Verb::Unlock, 8) && !yes(999, Verb::Lock, 8));
        assert!(yes(1_000, Verb::Lock, 8));
        assert!(!yes(1_001, Verb::Keep, 7) && yes(1_001, Verb::Keep, 8));
        assert!(!yes(2_000, Verb::Unlock, 8) && yes(2_000, Verb::Lock, 9));
    }

    #[test]
    fn the_validity_is_the_ttl_less_the_published_drift() {
        let validity = server().counts_for(Duration::from_secs(10));
        assert_eq!(validity, Duration::from_millis(10_000 - 100 - 2));
    }
}
