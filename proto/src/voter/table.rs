//! The slots of a voter: all keys that are held or waited for, indexed by key and by expiry.
//!
//! A voter may have a million slots, so this layout saves memory. Slots lie in chunks of 64
//! (`Room`). Growth copies no slot, and an empty chunk frees its memory. Only the first chunk keeps
//! it, since a voter of a few locks empties and fills that chunk all the time. An index entry is
//! four bytes of a key's hash and the slot's position. If two keys have the same hash, their slots
//! are compared. All votes of a node share its name.
//!
//! Rejected: a map from keys to slots and one from instants to keys. These keep each key twice, and
//! the name of the holder's node once for each lock.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::ops::{Index, IndexMut};

use super::slot::{GivenVote, Slot};
use crate::deadlines::Deadlines;
use crate::epoch::Epoch;
use crate::id::{Key, NodeId};
use crate::time::Instant;
use crate::voter_set::short_hash;

/// The number of slots in a chunk: one for each bit of [`Room::taken`].
const ROOM: u32 = u64::BITS;
/// The most keys that may have the same short hash.
const SAME_HASH_MAX: usize = 256;

/// The number of slots that may keep notes, so that these take at most some 30 MB.
const NOTED_SLOTS_MAX: u32 = 16_384;

/// The position of a slot. It belongs to one key until that key's slot is closed, and may then be
/// reused for another key.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct SlotAt(u32);

impl SlotAt {
    pub(crate) const FIRST: Self = Self(0);

    pub(crate) fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }

    /// Returns `true` if the slot may keep notes. Low positions are taken first.
    pub(crate) fn may_keep_notes(self) -> bool {
        self.0 < NOTED_SLOTS_MAX
    }

    fn room(self) -> usize {
        (self.0 / ROOM) as usize
    }

    fn place(self) -> usize {
        (self.0 % ROOM) as usize
    }
}

#[derive(Clone, Debug, Default)]
struct Room {
    /// One bit for each slot, set if the slot is in use.
    taken: u64,
    slots: Vec<Option<Slot>>,
}

/// The slots of a voter.
#[derive(Clone, Debug, Default)]
pub(crate) struct Slots {
    rooms: Vec<Room>,
    /// The chunks that have a free slot.
    open: BTreeSet<u32>,
    index: BTreeSet<(u32, SlotAt)>,
    /// The expiry of each slot's vote.
    due: Deadlines<SlotAt>,
    /// The number of votes that each node has. Its keys are the shared names.
    nodes: BTreeMap<NodeId, u32>,
}

impl Slots {
    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    /// Returns the name and the length of each map.
    pub(crate) fn sizes(&self) -> [(&'static str, usize); 4] {
        [
            ("slots", self.index.len()),
            ("expiries of votes", self.due.len()),
            ("names of holders", self.nodes.len()),
            ("rooms of slots", self.rooms.len()),
        ]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Returns the position of a key's slot.
    pub(crate) fn find(&self, key: &Key) -> Option<SlotAt> {
        let hash = short_hash(key);
        let from = self.index.range((hash, SlotAt(0))..);
        let mut same = from.take_while(|(other, _)| *other == hash);
        let is_it = |at: SlotAt| self.get(at).is_some_and(|slot| slot.key == *key);
        same.find(|(_, at)| is_it(*at)).map(|(_, at)| *at)
    }

    /// Returns `true` if [`SAME_HASH_MAX`] keys have the short hash of `key`. Callers choose keys,
    /// and each look-up visits all keys of one hash. By chance alone, very few keys share one.
    pub(crate) fn is_crowded(&self, key: &Key) -> bool {
        self.has_alike(key, SAME_HASH_MAX)
    }

    fn has_alike(&self, key: &Key, many: usize) -> bool {
        if self.index.len() < many {
            return false;
        }
        let hash = short_hash(key);
        let same = (hash, SlotAt(0))..=(hash, SlotAt(u32::MAX));
        self.index.range(same).nth(many - 1).is_some()
    }

    /// Returns the slot at a position, or `None` if it is free.
    pub(crate) fn get(&self, at: SlotAt) -> Option<&Slot> {
        self.rooms.get(at.room())?.slots.get(at.place())?.as_ref()
    }

    /// Returns the slot of a key.
    pub(crate) fn of(&self, key: &Key) -> Option<&Slot> {
        self.get(self.find(key)?)
    }

    /// Iterates over all slots by position. Opening and closing slots does not change the order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (SlotAt, &Slot)> {
        let places = (0..).map(SlotAt);
        let rooms = self.rooms.iter().zip(places.step_by(ROOM as usize));
        rooms.flat_map(|(room, first)| {
            let places = (first.0..).map(SlotAt);
            let slots = places.zip(&room.slots);
            slots.filter_map(|(at, slot)| Some((at, slot.as_ref()?)))
        })
    }

    /// Returns `true` if the chunk of this position exists.
    pub(crate) fn has_places_from(&self, at: SlotAt) -> bool {
        at.room() < self.rooms.len()
    }

    /// Iterates over the keys in the order of their numbers, starting at `from`. A key's number is
    /// its short hash and then its position, and stays while the key has a slot.
    pub(crate) fn numbered_from(&self, from: u64) -> impl Iterator<Item = (u64, &Key)> {
        let first = ((from >> 32) as u32, SlotAt(from as u32));
        self.index.range(first..).filter_map(|(hash, at)| {
            let number = u64::from(*hash) << 32 | u64::from(at.0);
            Some((number, &self.get(*at)?.key))
        })
    }

    /// Adds a slot for a key that has none.
    pub(crate) fn open(&mut self, key: Key, fence: Epoch, vote: GivenVote) -> SlotAt {
        let at = self.free_place();
        self.index.insert((short_hash(&key), at));
        self.due.insert(vote.expires, at);
        let mut slot = Slot::new(key, fence, vote);
        self.share_name(&mut slot.vote);
        let room = &mut self.rooms[at.room()];
        room.taken |= 1 << at.place();
        if room.taken == u64::MAX {
            self.open.remove(&(at.0 / ROOM));
        }
        if room.slots.len() <= at.place() {
            room.slots.resize_with(at.place() + 1, || None);
        }
        room.slots[at.place()] = Some(slot);
        at
    }

    /// Replaces the outstanding vote.
    pub(crate) fn give(&mut self, at: SlotAt, mut vote: GivenVote) {
        self.share_name(&mut vote);
        let expires = vote.expires;
        let old = std::mem::replace(&mut self[at].vote, vote);
        self.due.remove(old.expires, at);
        self.due.insert(expires, at);
        self.forget_name(&old.claim.node);
    }

    /// Sets the expiry of the outstanding vote. Callers never shorten it, except in the mutant
    /// `LeaseShrinks`.
    pub(crate) fn lengthen(&mut self, at: SlotAt, expires: Instant) {
        let mut timer = self[at].vote.expires;
        self.due.reset(at, &mut timer, expires);
        self[at].vote.expires = timer;
    }

    /// Used only by the mutant `SkipInsteadOfDrop`: the outstanding vote does not expire.
    pub(crate) fn forget_due(&mut self, at: SlotAt) {
        self.due.remove(self[at].vote.expires, at);
    }

    /// Removes a slot, and frees its chunk if that is empty.
    pub(crate) fn close(&mut self, at: SlotAt) {
        let Some(room) = self.rooms.get_mut(at.room()) else {
            return;
        };
        let Some(slot) = room.slots.get_mut(at.place()).and_then(Option::take) else {
            return;
        };
        room.taken &= !(1 << at.place());
        if room.taken == 0 && at.room() > 0 {
            room.slots = Vec::new();
        }
        self.open.insert(at.0 / ROOM);
        self.index.remove(&(short_hash(&slot.key), at));
        self.due.remove(slot.vote.expires, at);
        self.forget_name(&slot.vote.claim.node);
        while self.rooms.len() > 1 && self.rooms.last().is_some_and(|room| room.taken == 0) {
            self.rooms.pop();
            self.open.remove(&(self.rooms.len() as u32));
        }
    }

    /// Returns the earliest expiry of a vote.
    pub(crate) fn first_due(&self) -> Option<Instant> {
        self.due.first().map(|(expires, _)| expires)
    }

    /// Returns the slot of the vote that expires first, if it expires by now.
    pub(crate) fn due(&self, now: Instant) -> Option<SlotAt> {
        self.due.due(now)
    }

    fn free_place(&mut self) -> SlotAt {
        let room = match self.open.first() {
            Some(room) => *room,
            None => {
                let room = self.rooms.len() as u32;
                self.rooms.push(Room::default());
                self.open.insert(room);
                room
            }
        };
        let place = self.rooms[room as usize].taken.trailing_ones();
        SlotAt(room * ROOM + place)
    }

    /// Replaces the node name of a vote, which was decoded from a datagram, by the shared one.
    fn share_name(&mut self, vote: &mut GivenVote) {
        if let Some((shared, _)) = self.nodes.get_key_value(&vote.claim.node) {
            vote.claim.node = shared.clone();
        }
        *self.nodes.entry(vote.claim.node.clone()).or_default() += 1;
    }

    fn forget_name(&mut self, node: &NodeId) {
        if let Some(votes) = self.nodes.get_mut(node) {
            *votes -= 1;
            if *votes == 0 {
                self.nodes.remove(node);
            }
        }
    }

    fn by_key(&self) -> Vec<&Slot> {
        let mut slots: Vec<&Slot> = self.iter().map(|(_, slot)| slot).collect();
        slots.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        slots
    }
}

/// The slot at a position that belongs to a key now.
impl Index<SlotAt> for Slots {
    type Output = Slot;

    fn index(&self, at: SlotAt) -> &Slot {
        self.get(at).expect("the slot is open")
    }
}

/// Only [`Slots::give`] and [`Slots::lengthen`] may replace the slot's vote or change its expiry.
impl IndexMut<SlotAt> for Slots {
    fn index_mut(&mut self, at: SlotAt) -> &mut Slot {
        let slot = self.rooms[at.room()].slots[at.place()].as_mut();
        slot.expect("the slot is open")
    }
}

// Equality and hash depend on the slots alone, not on their positions.

impl PartialEq for Slots {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.by_key() == other.by_key()
    }
}

impl Eq for Slots {}

impl Hash for Slots {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.by_key().hash(state);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::id::{ClaimId, Incarnation};
    use crate::voter::slot::QueueEntry;

    fn key(n: u32) -> Key {
        Key::new(format!("key/{n:012}")).unwrap()
    }

    fn vote(node: &str, expires: u64) -> GivenVote {
        let claim = ClaimId {
            node: NodeId::new(node).unwrap(),
            incarnation: Incarnation::new(1),
            seq: expires,
        };
        let heard = QueueEntry {
            claim,
            epoch: Epoch::new(1),
            ttl: Duration::ZERO,
            sent_at: Instant::ZERO,
            heard: Instant::ZERO,
            granted: false,
            is_try: false,
            outlives: false,
        };
        GivenVote::new(heard, Instant::from_nanos(expires))
    }

    fn filled(keys: impl IntoIterator<Item = u32>) -> Slots {
        let mut slots = Slots::default();
        for n in keys {
            slots.open(key(n), Epoch::ZERO, vote("a", u64::from(n)));
        }
        slots
    }

    #[test]
    fn slot_takes_at_most_120_bytes() {
        assert!(
            size_of::<Option<Slot>>() <= 120,
            "{}",
            size_of::<Option<Slot>>()
        );
    }

    #[test]
    fn find_after_closes_returns_only_open_keys() {
        let mut slots = filled(0..1_000);
        for n in (0..1_000).step_by(3) {
            slots.close(slots.find(&key(n)).unwrap());
        }
        for n in 0..1_000 {
            let found = slots.of(&key(n)).map(|slot| slot.key.clone());
            assert_eq!(found, (n % 3 != 0).then(|| key(n)), "{n}");
        }
        assert_eq!(slots.len(), slots.iter().count());
        assert_eq!(slots.find(&key(1_000)), None);
    }

    #[test]
    fn keys_with_equal_hash_are_found_separately() {
        // A short hash has 32 bits, so a collision is found by trial.
        let mut seen = BTreeMap::new();
        let twins = (0..).find_map(|n| {
            let other = seen.insert(short_hash(&key(n)), n)?;
            Some((other, n))
        });
        let (a, b) = twins.unwrap();
        let mut slots = filled([a, b]);
        for n in [a, b] {
            assert_eq!(slots.of(&key(n)).unwrap().key, key(n));
        }
        assert!(slots.has_alike(&key(a), 2) && !slots.has_alike(&key(a), 3));
        assert!(!slots.is_crowded(&key(a)));
        slots.close(slots.find(&key(a)).unwrap());
        assert_eq!(slots.find(&key(a)), None);
        assert_eq!(slots.of(&key(b)).unwrap().key, key(b));
    }

    #[test]
    fn first_due_after_changes_is_earliest_expiry() {
        let mut slots = filled([30, 10, 20]);
        let first = |slots: &Slots| slots.first_due().map(Instant::as_nanos);
        assert_eq!(first(&slots), Some(10));
        slots.lengthen(slots.find(&key(10)).unwrap(), Instant::from_nanos(40));
        assert_eq!(first(&slots), Some(20));
        slots.give(slots.find(&key(20)).unwrap(), vote("b", 50));
        assert_eq!(first(&slots), Some(30));
        slots.close(slots.find(&key(30)).unwrap());
        assert_eq!(first(&slots), Some(40));
        assert_eq!(slots.due.len(), slots.len());
    }

    #[test]
    fn votes_of_node_share_one_name() {
        let mut slots = filled(0..3);
        slots.give(slots.find(&key(1)).unwrap(), vote("b", 5));
        let votes = |slots: &Slots, node| slots.nodes.get(&NodeId::new(node).unwrap()).copied();
        assert_eq!((votes(&slots, "a"), votes(&slots, "b")), (Some(2), Some(1)));
        let names = slots
            .iter()
            .map(|(_, slot)| slot.vote.claim.node.as_str().as_ptr());
        let different: BTreeSet<_> = names.collect();
        assert_eq!(different.len(), 2);
        for n in 0..3 {
            slots.close(slots.find(&key(n)).unwrap());
        }
        assert!(slots.nodes.is_empty());
    }

    #[test]
    fn closed_slots_free_their_chunks() {
        let mut slots = filled(0..10_000);
        for n in 0..10_000 {
            slots.close(slots.find(&key(n)).unwrap());
        }
        assert!(slots.is_empty());
        assert_eq!((slots.rooms.len(), slots.open.len()), (1, 1));
        // An empty chunk in the middle also frees its memory, and is reused.
        let mut slots = filled(0..3 * ROOM);
        for n in ROOM..2 * ROOM {
            slots.close(slots.find(&key(n)).unwrap());
        }
        assert_eq!(slots.rooms[1].slots.capacity(), 0);
        let at = slots.open(key(9_999), Epoch::ZERO, vote("a", 1));
        assert_eq!(at, SlotAt(ROOM));
    }

    #[test]
    fn slots_in_different_positions_are_equal() {
        let digest = |slots: &Slots| {
            let mut hasher = std::hash::DefaultHasher::new();
            slots.hash(&mut hasher);
            hasher.finish()
        };
        let (one, other) = (filled([1, 2, 3]), filled([3, 1, 2]));
        assert_eq!((&one, digest(&one)), (&other, digest(&other)));
        assert_ne!(one, filled([1, 2]));
    }
}
