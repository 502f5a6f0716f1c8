//! Redlock as it was published (Sanfilippo, "Distributed locks with Redis").
//!
//! N independent servers do not communicate with each other. A claimant draws a random value. It
//! asks all of them at once to set the key to that value if it is not set
//! (`SET key value NX PX ttl`). It holds the lock if N/2 + 1 did and the validity is not over: the
//! ttl less the elapsed time and the drift. Otherwise it deletes its value everywhere, and tries
//! again after a random delay. To extend a lease, it asks all servers to renew the expiry if the
//! key still has its value; a majority has to agree.
//!
//! N is the number of voters that lockmesh has for a key. The drift is the published one (1 % and
//! 2 ms), or that of the world if it is larger. A lost request is retransmitted, as TCP would do.
//! Clocks are monotonic, although Redis takes expiries from the wall clock: jumps of it are not
//! held against Redlock here. A server that crashes comes back empty at once, as one without
//! persistence.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::packet::{Packet, Verb};
use super::poller::{Poller, Rules};
use crate::proto::{Instant, Key, NodeConfig, NodeId, Now, View, VoterSet};

const DRIFT_PPM: u32 = 10_000;
const DRIFT_FIXED: Duration = Duration::from_millis(2);

/// A server.
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
            // A retransmitted request gets the same reply.
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
    use crate::proto::Timing;

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
    fn key_is_set_once_until_expired_or_deleted() {
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
    fn validity_is_ttl_less_published_drift() {
        let validity = server().counts_for(Duration::from_secs(10));
        assert_eq!(validity, Duration::from_millis(10_000 - 100 - 2));
    }
}
