//! Keeps from the gossip library, and from its messages, all nodes but those that live now.
//!
//! The library makes a record of each incarnation of a node that a digest names to it. It names all
//! of its records in each datagram, and panics once they do not fit. It cannot be asked to forget
//! one or to leave one out, so a client that lived for a second would be named for minutes. The
//! digests are therefore rewritten on their way in and out:
//!
//! - A new incarnation is let in if it is the newest of its name, and if there is space for it.
//! - A voter is named to others while the library has a record of it, a client while its heartbeat
//!   rises. One that left, or that a newer one has replaced, is not. A client names another client
//!   only once it has seen its heartbeat rise: otherwise short-lived clients would hand on the
//!   names of the dead for ever.
//! - An incarnation that is over has no heartbeat: the library calls it dead, and forgets it after
//!   its grace period.
//!
//! Rejected: to start the library again with an empty state once its digest is too large. Peers
//! name the dead to it again, and it has to learn of the living.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use super::digest::{Entry, Identity};
use lockmesh_proto::id::NodeId;
use lockmesh_proto::time::Instant;
use lockmesh_proto::voter_set::VoterSet;

/// The most bytes that all entries of a digest may have. The library needs some hundred of the
/// 65,507 that a datagram has for the rest of its message, or it panics.
const DIGEST_BYTES_MAX: usize = 60_000;
/// The most of them that nodes may have that do not vote.
const CLIENTS_BYTES_MAX: usize = 32_000;
/// The most bytes of an entry of a voter beside its name.
const ENTRY_BYTES_MAX: usize = 53;

/// Every incarnation that the gossip library may have a record of.
#[derive(Debug)]
pub(super) struct DigestFilter {
    me: Identity,
    /// This node is a voter.
    votes: bool,
    voter_set: Arc<VoterSet>,
    /// For how long a client is named to others after its heartbeat rose last.
    share_for: Duration,
    clients_bytes_max: usize,
    seen: BTreeMap<Identity, Seen>,
    bytes: Bytes,
}

/// The bytes of all entries in a digest.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Bytes {
    voters: usize,
    clients: usize,
}

#[derive(Clone, Debug)]
struct Seen {
    heartbeat: u64,
    /// When its heartbeat rose last; `None` if others have named it once and no more.
    rose_at: Option<Instant>,
    has_left: bool,
    is_voter: bool,
}

impl DigestFilter {
    pub(super) fn new(me: Identity, voter_set: Arc<VoterSet>, share_for: Duration) -> Self {
        let voters = voter_set.members().iter();
        let voters: usize = voters
            .map(|voter| voter.as_str().len() + ENTRY_BYTES_MAX)
            .sum();
        Self {
            votes: is_member(&voter_set, &me.node),
            me,
            share_for,
            // Room for two incarnations of each voter stays free.
            clients_bytes_max: DIGEST_BYTES_MAX
                .saturating_sub(2 * voters)
                .min(CLIENTS_BYTES_MAX),
            voter_set,
            seen: BTreeMap::new(),
            bytes: Bytes::default(),
        }
    }

    /// Returns what the library may learn from a digest that came in.
    pub(super) fn incoming(&mut self, now: Instant, told: Vec<Entry>) -> Vec<Entry> {
        let mut heard = Vec::with_capacity(told.len());
        for mut entry in told {
            if entry.id.node == self.me.node {
                // Other incarnations of this node are over, or another process.
                if entry.id == self.me {
                    heard.push(entry);
                }
                continue;
            }
            if !self.admit(now, &entry) {
                continue;
            }
            if self.is_over(now, &entry.id) {
                entry.heartbeat = 0;
            }
            heard.push(entry);
        }
        // The library answers with what the sender does not know of each of its records. Nothing is
        // to be sent of these: the sender is said to know all of it.
        let unshared = self.seen.keys().filter(|id| !self.is_shared(now, id));
        let mut known = Vec::new();
        for id in unshared {
            // The library lists them in order.
            if heard.binary_search_by(|entry| entry.id.cmp(id)).is_err() {
                known.push(Entry {
                    id: id.clone(),
                    heartbeat: 0,
                    gc_version: u64::MAX,
                    max_version: u64::MAX,
                });
            }
        }
        heard.append(&mut known);
        heard
    }

    /// Returns what others may learn from a digest that goes out.
    pub(super) fn outgoing(&self, now: Instant, mut known: Vec<Entry>) -> Vec<Entry> {
        known.retain(|entry| entry.id == self.me || self.is_shared(now, &entry.id));
        known
    }

    /// Takes over which records the library has, each with whether it has left.
    pub(super) fn sync(&mut self, now: Instant, known: impl IntoIterator<Item = (Identity, bool)>) {
        let known: BTreeMap<Identity, bool> = known.into_iter().collect();
        self.seen.retain(|id, seen| match known.get(id) {
            Some(has_left) => {
                seen.has_left |= has_left;
                true
            }
            None => false,
        });
        for (id, has_left) in known {
            // It was let in while the library was asked before.
            if id != self.me && !self.seen.contains_key(&id) {
                let seen = self.seen_first(now, &id, 0);
                self.seen.insert(id, Seen { has_left, ..seen });
            }
        }
        self.bytes = Bytes::default();
        for (id, seen) in &self.seen {
            *self.bytes.of(seen.is_voter) += id.entry_bytes();
        }
    }

    /// Returns `true` if a newer incarnation of the same node lives.
    fn is_replaced(&self, now: Instant, id: &Identity) -> bool {
        let after = (Bound::Excluded(id), Bound::Unbounded);
        let others = self.seen.range::<Identity, _>(after);
        let mut others = others.take_while(|(other, _)| other.node == id.node);
        others.any(|(other, seen)| {
            let is_newer = other.generation > id.generation;
            is_newer && !seen.has_left && self.is_rising(now, seen)
        })
    }

    /// Returns `true` if only clients were at this address, and all of them are gone.
    pub(super) fn is_abandoned(&self, now: Instant, at: SocketAddr) -> bool {
        let mut there = self.seen.iter().filter(|(id, _)| id.addr == at);
        let mut has_any = false;
        there.all(|(_, seen)| {
            has_any = true;
            !seen.is_voter
                && (seen.has_left || seen.rose_at.is_some() && !self.is_rising(now, seen))
        }) && has_any
    }

    /// Takes over what an entry says. Returns `true` if the library may have a record of it.
    fn admit(&mut self, now: Instant, entry: &Entry) -> bool {
        let id = &entry.id;
        if let Some(seen) = self.seen.get_mut(id) {
            if entry.heartbeat > seen.heartbeat {
                seen.heartbeat = entry.heartbeat;
                seen.rose_at = Some(now);
            }
            return true;
        }
        let is_voter = is_member(&self.voter_set, &id.node);
        if self.is_replaced(now, id) || !self.has_room_for(id, is_voter) {
            return false;
        }
        *self.bytes.of(is_voter) += id.entry_bytes();
        let seen = self.seen_first(now, id, entry.heartbeat);
        self.seen.insert(id.clone(), seen);
        true
    }

    fn seen_first(&self, now: Instant, id: &Identity, heartbeat: u64) -> Seen {
        let is_voter = is_member(&self.voter_set, &id.node);
        Seen {
            heartbeat,
            rose_at: (is_voter || self.votes).then_some(now),
            has_left: false,
            is_voter,
        }
    }

    fn has_room_for(&self, id: &Identity, is_voter: bool) -> bool {
        let bytes = id.entry_bytes();
        let clients = self.bytes.clients;
        let fits = self.bytes.voters + clients + bytes <= DIGEST_BYTES_MAX;
        fits && (is_voter || clients + bytes <= self.clients_bytes_max)
    }

    /// Returns `true` if it has left, or was replaced.
    fn is_over(&self, now: Instant, id: &Identity) -> bool {
        let has_left = self.seen.get(id).is_some_and(|seen| seen.has_left);
        has_left || self.is_replaced(now, id)
    }

    fn is_shared(&self, now: Instant, id: &Identity) -> bool {
        let seen = self.seen.get(id);
        let is_shared = |seen: &Seen| seen.is_voter || self.is_rising(now, seen);
        seen.is_some_and(is_shared) && !self.is_over(now, id)
    }

    fn is_rising(&self, now: Instant, seen: &Seen) -> bool {
        let rose_at = seen.rose_at;
        rose_at.is_some_and(|rose_at| now.since(rose_at) <= self.share_for)
    }
}

impl Bytes {
    fn of(&mut self, is_voter: bool) -> &mut usize {
        if is_voter {
            &mut self.voters
        } else {
            &mut self.clients
        }
    }
}

fn is_member(voter_set: &VoterSet, node: &str) -> bool {
    NodeId::new(node).is_ok_and(|node| voter_set.has_member(&node))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::digest::tests::{entry, identity};
    use lockmesh_proto::voter_set::Timing;

    const SHARE_FOR: Duration = Duration::from_secs(2);

    fn filter(me: &str) -> DigestFilter {
        let voters = ["v0", "v1", "v2"].map(|voter| NodeId::new(voter).unwrap());
        let voter_set = VoterSet::new(1, voters.to_vec(), 3, Timing::lan()).unwrap();
        DigestFilter::new(identity(me, 1), Arc::new(voter_set), SHARE_FOR)
    }

    fn at(millis: u64) -> Instant {
        Instant::ZERO.after(Duration::from_millis(millis))
    }

    /// Names and generations.
    fn names(entries: &[Entry]) -> Vec<(&str, u64)> {
        let ids = entries.iter().map(|entry| &entry.id);
        ids.map(|id| (id.node.as_str(), id.generation)).collect()
    }

    fn shared(filter: &DigestFilter, now: u64) -> Vec<(String, u64)> {
        let all = filter.seen.keys().map(|id| Entry {
            id: id.clone(),
            ..entry("", 0, 0)
        });
        let told = filter.outgoing(at(now), all.collect());
        let names = names(&told).into_iter();
        names
            .map(|(node, generation)| (node.to_owned(), generation))
            .collect()
    }

    #[test]
    fn newest_incarnation_alone_is_shared() {
        let mut filter = filter("v0");
        for generation in [3, 5] {
            filter.incoming(at(0), vec![entry("c", generation, 1)]);
        }
        assert_eq!(shared(&filter, 0), [("c".to_owned(), 5)]);
        // Neither is it let in once it is forgotten, nor does a heartbeat of it count.
        let heard = filter.incoming(at(1), vec![entry("c", 4, 1), entry("c", 3, 9)]);
        assert_eq!(names(&heard), [("c", 3)]);
        assert_eq!(heard[0].heartbeat, 0);
        // Of a clock that was set back: an older number, after the newer one fell silent.
        let heard = filter.incoming(at(2_500), vec![entry("c", 3, 10)]);
        assert_eq!(
            (names(&heard), heard[0].heartbeat),
            (vec![("c", 3), ("c", 5)], 10)
        );
        assert_eq!(shared(&filter, 2_600), [("c".to_owned(), 3)]);
    }

    #[test]
    fn client_is_shared_while_its_heartbeat_rises() {
        let mut filter = filter("v0");
        for (now, heartbeat) in [(0, 1), (1_500, 2), (1_600, 2)] {
            filter.incoming(at(now), vec![entry("c", 1, heartbeat)]);
        }
        assert_eq!(shared(&filter, 3_400).len(), 1);
        assert_eq!(shared(&filter, 3_600).len(), 0);
        filter.incoming(at(3_700), vec![entry("c", 1, 3)]);
        assert_eq!(shared(&filter, 3_700).len(), 1);
    }

    #[test]
    fn voter_that_is_silent_is_shared() {
        let mut filter = filter("c0");
        filter.incoming(at(0), vec![entry("v1", 1, 1)]);
        assert_eq!(shared(&filter, 60_000), [("v1".to_owned(), 1)]);
    }

    #[test]
    fn node_that_left_is_not_shared() {
        let mut filter = filter("v0");
        filter.incoming(at(0), vec![entry("c", 1, 1), entry("v1", 1, 1)]);
        filter.sync(
            at(0),
            [(identity("c", 1), true), (identity("v1", 1), false)],
        );
        assert_eq!(shared(&filter, 0), [("v1".to_owned(), 1)]);
        // Nor does a heartbeat bring it back, and who does not know it is not to learn of it.
        let heard = filter.incoming(at(1), vec![entry("c", 1, 2)]);
        assert_eq!(heard[0].heartbeat, 0);
        let heard = filter.incoming(at(1), vec![entry("v1", 1, 2)]);
        assert_eq!(names(&heard), [("v1", 1), ("c", 1)]);
        assert_eq!(heard[1].max_version, u64::MAX);
    }

    #[test]
    fn client_hands_on_no_hearsay_of_clients() {
        let (mut client, mut voter) = (filter("c0"), filter("v0"));
        for filter in [&mut client, &mut voter] {
            filter.incoming(at(0), vec![entry("c", 1, 7), entry("v1", 1, 7)]);
        }
        assert_eq!(shared(&client, 0), [("v1".to_owned(), 1)]);
        assert_eq!(shared(&voter, 0).len(), 2);
        client.incoming(at(1), vec![entry("c", 1, 8)]);
        assert_eq!(shared(&client, 1).len(), 2);
    }

    #[test]
    fn digest_of_many_incarnations_stays_within_bound() {
        let mut filter = filter("v0");
        let name = |n: usize| format!("{n:038}");
        let many = (0..1_000).map(|n| entry(&name(n), 1, 1));
        filter.incoming(at(0), many.collect());
        assert!(filter.bytes.clients <= CLIENTS_BYTES_MAX);
        assert!(filter.bytes.clients > CLIENTS_BYTES_MAX - 100);
        let len = filter.seen.len();
        // A voter finds space, also in its next incarnations.
        for generation in 1..=3 {
            let heard = filter.incoming(at(0), vec![entry("v1", generation, 1)]);
            assert!(names(&heard).contains(&("v1", generation)));
        }
        // But not in any number of them.
        let many = (4..1_000).map(|generation| entry("v1", generation, 1));
        filter.incoming(at(0), many.collect());
        assert!(filter.bytes.voters + filter.bytes.clients <= DIGEST_BYTES_MAX);
        assert!(filter.seen.len() < len + 900);
        // What the library has forgotten makes room.
        filter.sync(at(0), (0..len / 2).map(|n| (identity(&name(n), 1), false)));
        let heard = filter.incoming(at(0), vec![entry("late", 1, 1)]);
        assert!(names(&heard).contains(&("late", 1)));
    }

    #[test]
    fn other_incarnations_of_this_node_are_dropped() {
        let mut filter = filter("v0");
        let heard = filter.incoming(at(0), vec![entry("v0", 1, 4), entry("v0", 2, 1)]);
        assert_eq!(names(&heard), [("v0", 1)]);
    }

    #[test]
    fn address_of_a_client_that_is_gone_is_abandoned() {
        let mut filter = filter("v0");
        let here = identity("c", 1).addr;
        assert!(!filter.is_abandoned(at(0), here), "nobody was there");
        filter.incoming(at(0), vec![entry("c", 1, 1)]);
        assert!(!filter.is_abandoned(at(0), here));
        assert!(filter.is_abandoned(at(2_500), here));
        filter.incoming(at(2_500), vec![entry("c", 1, 1), entry("d", 1, 1)]);
        assert!(
            !filter.is_abandoned(at(2_500), here),
            "another took its port"
        );
        filter.incoming(at(2_500), vec![entry("v1", 1, 1)]);
        assert!(
            !filter.is_abandoned(at(9_500), here),
            "a voter may come back"
        );
    }
}
