//! Hides ended incarnations of nodes from the gossip library, and from its messages.
//!
//! The library creates a record for each incarnation that a digest names. It names all of its
//! records in each datagram, and panics if they do not fit. It cannot forget or omit a single
//! record: a client that lived for one second would be named for minutes. This filter therefore
//! rewrites incoming and outgoing digests:
//!
//! - A new incarnation is admitted if no newer incarnation of its name is live and there is space
//!   for it.
//! - A voter is shared with peers while the library has a record of it; a client, while its
//!   heartbeat rises. An incarnation that left, or that a newer one has replaced, is not shared.
//! - A client shares another client only after it has seen its heartbeat rise. Otherwise
//!   short-lived clients would spread the names of dead nodes forever.
//! - An ended incarnation has its heartbeat cleared. The library then considers it dead, and
//!   forgets it after its grace period.
//!
//! Rejected: restarting the library with an empty state once its digest is too large. Peers would
//! name the dead nodes again, and the library would have to learn of the live ones.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use crate::gossip::digest::{Entry, Identity};
use lockmesh_proto::{Instant, NodeId, VoterSet};

/// The maximum size of all entries of a digest, in bytes. The library panics unless some of the
/// 65,507 bytes of a datagram are left for the rest of its message.
const DIGEST_BYTES_MAX: usize = 60_000;
/// The maximum size of the entries of nodes that do not vote, in bytes.
const CLIENTS_BYTES_MAX: usize = 32_000;
/// The maximum size of a voter's entry without its name, in bytes.
const ENTRY_BYTES_MAX: usize = 53;

/// The incarnations of which the gossip library may have a record.
#[derive(Debug)]
pub(super) struct DigestFilter {
    me: Identity,
    /// `true` if this node is a voter.
    votes: bool,
    voter_set: Arc<VoterSet>,
    /// The time for which a client is shared after its heartbeat last rose.
    share_for: Duration,
    clients_bytes_max: usize,
    seen: BTreeMap<Identity, Seen>,
    bytes: Bytes,
}

/// The size of all entries in a digest, in bytes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Bytes {
    voters: usize,
    clients: usize,
}

#[derive(Clone, Debug)]
struct Seen {
    heartbeat: u64,
    /// The time at which its heartbeat last rose; `None` if peers have only named it once.
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
            // Leaves space for two incarnations of each voter.
            clients_bytes_max: DIGEST_BYTES_MAX
                .saturating_sub(2 * voters)
                .min(CLIENTS_BYTES_MAX),
            voter_set,
            seen: BTreeMap::new(),
            bytes: Bytes::default(),
        }
    }

    /// Returns the entries of an incoming digest that the library may learn.
    pub(super) fn incoming(&mut self, now: Instant, digest: Vec<Entry>) -> Vec<Entry> {
        let mut admitted = Vec::with_capacity(digest.len());
        for mut entry in digest {
            if entry.id.node == self.me.node {
                // Another incarnation of this node has ended, or is another process.
                if entry.id == self.me {
                    admitted.push(entry);
                }
                continue;
            }
            if !self.admit(now, &entry) {
                continue;
            }
            if self.is_over(now, &entry.id) {
                entry.heartbeat = 0;
            }
            admitted.push(entry);
        }
        // The library replies with the part of its records that the sender lacks. Maximal versions
        // keep it from sending records that are not shared.
        let unshared = self.seen.keys().filter(|id| !self.is_shared(now, id));
        let mut known = Vec::new();
        for id in unshared {
            // The library lists entries in order.
            if admitted.binary_search_by(|entry| entry.id.cmp(id)).is_err() {
                known.push(Entry {
                    id: id.clone(),
                    heartbeat: 0,
                    gc_version: u64::MAX,
                    max_version: u64::MAX,
                });
            }
        }
        admitted.append(&mut known);
        admitted
    }

    /// Returns the entries of an outgoing digest that peers may learn.
    pub(super) fn outgoing(&self, now: Instant, mut known: Vec<Entry>) -> Vec<Entry> {
        known.retain(|entry| entry.id == self.me || self.is_shared(now, &entry.id));
        known
    }

    /// Synchronizes with the records of the library. The flag of a record is `true` if the node has
    /// left.
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
            // The last sync dropped it, since the library had not created its record yet.
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

    /// Returns `true` if a newer incarnation of the same node is live.
    fn is_replaced(&self, now: Instant, id: &Identity) -> bool {
        let after = (Bound::Excluded(id), Bound::Unbounded);
        let others = self.seen.range::<Identity, _>(after);
        let mut others = others.take_while(|(other, _)| other.node == id.node);
        others.any(|(other, seen)| {
            let is_newer = other.generation > id.generation;
            is_newer && !seen.has_left && self.is_rising(now, seen)
        })
    }

    /// Returns `true` if only clients were at this address, and all of them have ended.
    pub(super) fn is_abandoned(&self, now: Instant, at: SocketAddr) -> bool {
        let mut there = self.seen.iter().filter(|(id, _)| id.addr == at);
        let mut has_any = false;
        there.all(|(_, seen)| {
            has_any = true;
            !seen.is_voter
                && (seen.has_left || seen.rose_at.is_some() && !self.is_rising(now, seen))
        }) && has_any
    }

    /// Records an entry. Returns `true` if the library may have a record of it.
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

    /// Returns `true` if the incarnation has left or was replaced.
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
    use crate::gossip::digest::tests::{entry, identity};
    use lockmesh_proto::Timing;

    const SHARE_FOR: Duration = Duration::from_secs(2);

    fn filter(me: &str) -> DigestFilter {
        let voters = ["v0", "v1", "v2"].map(|voter| NodeId::new(voter).unwrap());
        let voter_set = VoterSet::new(1, voters.to_vec(), 3, Timing::lan()).unwrap();
        DigestFilter::new(identity(me, 1), Arc::new(voter_set), SHARE_FOR)
    }

    fn at(millis: u64) -> Instant {
        Instant::ZERO.after(Duration::from_millis(millis))
    }

    /// Returns names and generations.
    fn names(entries: &[Entry]) -> Vec<(&str, u64)> {
        let ids = entries.iter().map(|entry| &entry.id);
        ids.map(|id| (id.node.as_str(), id.generation)).collect()
    }

    fn engine(filter: &DigestFilter, now: u64) -> Vec<(String, u64)> {
        let all = filter.seen.keys().map(|id| Entry {
            id: id.clone(),
            ..entry("", 0, 0)
        });
        let digest = filter.outgoing(at(now), all.collect());
        let names = names(&digest).into_iter();
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
        assert_eq!(engine(&filter, 0), [("c".to_owned(), 5)]);
        // An older incarnation is not admitted, and the heartbeat of a known one does not count.
        let admitted = filter.incoming(at(1), vec![entry("c", 4, 1), entry("c", 3, 9)]);
        assert_eq!(names(&admitted), [("c", 3)]);
        assert_eq!(admitted[0].heartbeat, 0);
        // After a clock was set back, an older number follows a newer one that went silent.
        let admitted = filter.incoming(at(2_500), vec![entry("c", 3, 10)]);
        assert_eq!(
            (names(&admitted), admitted[0].heartbeat),
            (vec![("c", 3), ("c", 5)], 10)
        );
        assert_eq!(engine(&filter, 2_600), [("c".to_owned(), 3)]);
    }

    #[test]
    fn client_is_shared_while_its_heartbeat_rises() {
        let mut filter = filter("v0");
        for (now, heartbeat) in [(0, 1), (1_500, 2), (1_600, 2)] {
            filter.incoming(at(now), vec![entry("c", 1, heartbeat)]);
        }
        assert_eq!(engine(&filter, 3_400).len(), 1);
        assert_eq!(engine(&filter, 3_600).len(), 0);
        filter.incoming(at(3_700), vec![entry("c", 1, 3)]);
        assert_eq!(engine(&filter, 3_700).len(), 1);
    }

    #[test]
    fn silent_voter_is_shared() {
        let mut filter = filter("c0");
        filter.incoming(at(0), vec![entry("v1", 1, 1)]);
        assert_eq!(engine(&filter, 60_000), [("v1".to_owned(), 1)]);
    }

    #[test]
    fn node_that_left_is_not_shared() {
        let mut filter = filter("v0");
        filter.incoming(at(0), vec![entry("c", 1, 1), entry("v1", 1, 1)]);
        filter.sync(
            at(0),
            [(identity("c", 1), true), (identity("v1", 1), false)],
        );
        assert_eq!(engine(&filter, 0), [("v1".to_owned(), 1)]);
        // A heartbeat does not bring it back, and a peer that does not know it does not learn of
        // it.
        let admitted = filter.incoming(at(1), vec![entry("c", 1, 2)]);
        assert_eq!(admitted[0].heartbeat, 0);
        let admitted = filter.incoming(at(1), vec![entry("v1", 1, 2)]);
        assert_eq!(names(&admitted), [("v1", 1), ("c", 1)]);
        assert_eq!(admitted[1].max_version, u64::MAX);
    }

    #[test]
    fn client_shares_only_clients_with_rising_heartbeat() {
        let (mut client, mut voter) = (filter("c0"), filter("v0"));
        for filter in [&mut client, &mut voter] {
            filter.incoming(at(0), vec![entry("c", 1, 7), entry("v1", 1, 7)]);
        }
        assert_eq!(engine(&client, 0), [("v1".to_owned(), 1)]);
        assert_eq!(engine(&voter, 0).len(), 2);
        client.incoming(at(1), vec![entry("c", 1, 8)]);
        assert_eq!(engine(&client, 1).len(), 2);
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
            let admitted = filter.incoming(at(0), vec![entry("v1", generation, 1)]);
            assert!(names(&admitted).contains(&("v1", generation)));
        }
        // The number of incarnations of a voter is bounded.
        let many = (4..1_000).map(|generation| entry("v1", generation, 1));
        filter.incoming(at(0), many.collect());
        assert!(filter.bytes.voters + filter.bytes.clients <= DIGEST_BYTES_MAX);
        assert!(filter.seen.len() < len + 900);
        // Records that the library has forgotten free their space.
        filter.sync(at(0), (0..len / 2).map(|n| (identity(&name(n), 1), false)));
        let admitted = filter.incoming(at(0), vec![entry("late", 1, 1)]);
        assert!(names(&admitted).contains(&("late", 1)));
    }

    #[test]
    fn other_incarnations_of_this_node_are_dropped() {
        let mut filter = filter("v0");
        let admitted = filter.incoming(at(0), vec![entry("v0", 1, 4), entry("v0", 2, 1)]);
        assert_eq!(names(&admitted), [("v0", 1)]);
    }

    #[test]
    fn address_of_ended_client_is_abandoned() {
        let mut filter = filter("v0");
        let here = identity("c", 1).addr;
        assert!(!filter.is_abandoned(at(0), here), "no node was there");
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
