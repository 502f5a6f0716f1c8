//! Where a voter keeps its slots: all keys that are held or waited for, found by key and by when
//! their votes expire.
//!
//! A voter may hold a million of them, so what counts here is bytes. The slots lie in rooms of 64,
//! so that no growth copies them and an empty room gives its memory back; only the first stays,
//! which a voter of few locks empties and fills all the time. The index has four bytes of a key's
//! hash and the place of its slot; two keys of one hash are told apart in the slots. The names of
//! nodes are shared by all the votes that they have.
//!
//! The alternative that was rejected is one map from keys to slots, and a second one from instants
//! to keys: then each key is kept twice, and the name of its holder's node once for each lock.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};

use super::epoch::Epoch;
use super::id::{Key, NodeId};
use super::slot::{GivenVote, Slot};
use super::time::Instant;
use super::voter_set::short_hash;

/// One bit of [`Room::taken`] for each.
const ROOM: u32 = u64::BITS;
/// The most keys of one short hash.
const SAME_HASH_MAX: usize = 256;

/// The place of a slot, from when its key is first voted for until nobody wants it any more. Then
/// another key may get it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct SlotAt(u32);

impl SlotAt {
    pub(crate) const FIRST: Self = Self(0);

    pub(crate) fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
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
    /// A bit for each place that is taken.
    taken: u64,
    slots: Vec<Option<Slot>>,
}

/// The slots of a voter.
#[derive(Clone, Debug, Default)]
pub(crate) struct Slots {
    rooms: Vec<Room>,
    /// Rooms with a free place.
    open: BTreeSet<u32>,
    index: BTreeSet<(u32, SlotAt)>,
    /// When the vote of each slot expires.
    due: BTreeSet<(Instant, SlotAt)>,
    /// How many votes each node has.
    nodes: BTreeMap<NodeId, u32>,
}

impl Slots {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    /// How many entries each of its maps has, by name.
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

    /// Where the slot of a key is.
    pub(crate) fn find(&self, key: &Key) -> Option<SlotAt> {
        let hash = short_hash(key);
        let from = self.index.range((hash, SlotAt(0))..);
        let mut same = from.take_while(|(other, _)| *other == hash);
        let is_it = |at: SlotAt| self.get(at).is_some_and(|slot| slot.key == *key);
        same.find(|(_, at)| is_it(*at)).map(|(_, at)| *at)
    }

    /// Whether as many keys have this one's short hash as may. Foreign nodes may choose keys, and
    /// each look-up goes through all of one hash; by chance there are no more than a few.
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

    /// The slot at a place; `None` where nobody wants its key any more.
    pub(crate) fn get(&self, at: SlotAt) -> Option<&Slot> {
        self.rooms.get(at.room())?.slots.get(at.place())?.as_ref()
    }

    /// The same, to change it. The vote is changed by [`Slots::give`] and [`Slots::lengthen`].
    pub(crate) fn get_mut(&mut self, at: SlotAt) -> Option<&mut Slot> {
        let room = self.rooms.get_mut(at.room())?;
        room.slots.get_mut(at.place())?.as_mut()
    }

    /// The slot of a key.
    pub(crate) fn of(&self, key: &Key) -> Option<&Slot> {
        self.get(self.find(key)?)
    }

    /// All slots, by their places: an order that stays while others come and go.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (SlotAt, &Slot)> {
        let places = (0..).map(SlotAt);
        let rooms = self.rooms.iter().zip(places.step_by(ROOM as usize));
        rooms.flat_map(|(room, first)| {
            let places = (first.0..).map(SlotAt);
            let slots = places.zip(&room.slots);
            slots.filter_map(|(at, slot)| Some((at, slot.as_ref()?)))
        })
    }

    /// Whether there are places from here on.
    pub(crate) fn has_places_from(&self, at: SlotAt) -> bool {
        at.room() < self.rooms.len()
    }

    /// The keys from this short hash on, and theirs, in the order of the hashes.
    pub(crate) fn since_hash(&self, hash: u32) -> impl Iterator<Item = (u32, &Key)> {
        let found = self.index.range((hash, SlotAt(0))..);
        found.filter_map(|(hash, at)| Some((*hash, &self.get(*at)?.key)))
    }

    /// Keeps a slot for a key that has none.
    pub(crate) fn open(&mut self, key: Key, fence: Epoch, vote: GivenVote) -> SlotAt {
        let at = self.free_place();
        self.index.insert((short_hash(&key), at));
        self.due.insert((vote.expires, at));
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

    /// Another vote instead of the one that is out.
    pub(crate) fn give(&mut self, at: SlotAt, mut vote: GivenVote) {
        self.share_name(&mut vote);
        let Some(slot) = self.get_mut(at) else {
            return;
        };
        let expires = vote.expires;
        let old = std::mem::replace(&mut slot.vote, vote);
        self.due.remove(&(old.expires, at));
        self.due.insert((expires, at));
        self.forget_name(&old.claim.node);
    }

    /// The vote that is out expires then, unless it is to last longer already.
    pub(crate) fn lengthen(&mut self, at: SlotAt, expires: Instant) {
        let Some(slot) = self.get_mut(at) else {
            return;
        };
        let old = std::mem::replace(&mut slot.vote.expires, expires);
        if old != expires {
            self.due.remove(&(old, at));
            self.due.insert((expires, at));
        }
    }

    /// A mistake's part: the vote that is out does not expire.
    pub(crate) fn forget_due(&mut self, at: SlotAt) {
        if let Some(expires) = self.get(at).map(|slot| slot.vote.expires) {
            self.due.remove(&(expires, at));
        }
    }

    /// Nobody wants the key any more.
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
        self.due.remove(&(slot.vote.expires, at));
        self.forget_name(&slot.vote.claim.node);
        while self.rooms.len() > 1 && self.rooms.last().is_some_and(|room| room.taken == 0) {
            self.rooms.pop();
            self.open.remove(&(self.rooms.len() as u32));
        }
    }

    /// The vote that expires first, and when.
    pub(crate) fn first_due(&self) -> Option<(Instant, SlotAt)> {
        self.due.first().copied()
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

    /// A name comes out of each datagram anew. All votes of a node share one.
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

// Two voters that keep the same are the same, wherever the slots lie.

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
    use crate::slot::Heard;

    fn key(n: u32) -> Key {
        Key::new(format!("key/{n:012}")).unwrap()
    }

    fn vote(node: &str, expires: u64) -> GivenVote {
        let claim = ClaimId {
            node: NodeId::new(node).unwrap(),
            incarnation: Incarnation::new(1),
            seq: expires,
        };
        let heard = Heard {
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
    fn a_slot_takes_little() {
        assert!(
            size_of::<Option<Slot>>() <= 120,
            "{}",
            size_of::<Option<Slot>>()
        );
    }

    #[test]
    fn every_key_is_found_and_no_other() {
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
    fn two_keys_of_one_hash_are_told_apart() {
        // Found by trying: there are only so many hashes of four bytes.
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
    fn what_expires_first_comes_first() {
        let mut slots = filled([30, 10, 20]);
        let first = |slots: &Slots| slots.first_due().map(|(at, _)| at.as_nanos());
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
    fn the_votes_of_a_node_share_its_name_until_the_last_is_over() {
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
    fn nothing_is_kept_for_keys_that_nobody_wants() {
        let mut slots = filled(0..10_000);
        for n in 0..10_000 {
            slots.close(slots.find(&key(n)).unwrap());
        }
        assert!(slots.is_empty());
        assert_eq!((slots.rooms.len(), slots.open.len()), (1, 1));
        // A room in the middle that is empty keeps no memory either, and is used again.
        let mut slots = filled(0..3 * ROOM);
        for n in ROOM..2 * ROOM {
            slots.close(slots.find(&key(n)).unwrap());
        }
        assert_eq!(slots.rooms[1].slots.capacity(), 0);
        let at = slots.open(key(9_999), Epoch::ZERO, vote("a", 1));
        assert_eq!(at, SlotAt(ROOM));
    }

    #[test]
    fn two_that_keep_the_same_are_the_same_wherever_it_lies() {
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
