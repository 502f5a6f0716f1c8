//! The marks that a voter keeps, in the order of their keys.
//!
//! A voter may keep 100,000 marks for days, so this layout saves memory. Marks lie in chunks of at
//! most [`CHUNK_BYTES`], and a map has the chunks. A mark takes 18 bytes beside its key and the
//! name of its node. A look-up visits the marks of one chunk.
//!
//! Rejected: a map from keys to marks. Each mark has two allocations there, and 11 places for every
//! 6 marks if keys come in order: twice the memory.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::ops::Bound::{Included, Unbounded};
use std::ops::Range;

use crate::epoch::Epoch;
use crate::id::{Key, NodeId};
use crate::time::Instant;

/// The most bytes of a chunk: at least four marks.
const CHUNK_BYTES: usize = 1_536;
/// The bytes of a mark beside its key and its node: both lengths, the epoch and the end.
const HEAD_BYTES: usize = 18;

/// A mark. It ends by the voter's own clock.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct KeptMark {
    pub(super) by: NodeId,
    pub(super) epoch: Epoch,
    pub(super) ends: Instant,
}

/// A mark as its chunk has it.
#[derive(Debug, Eq, Hash, PartialEq)]
struct Packed<'a> {
    key: &'a [u8],
    by: &'a [u8],
    epoch: u64,
    ends: u64,
}

impl<'a> Packed<'a> {
    fn of(key: &'a Key, mark: &'a KeptMark) -> Self {
        Self {
            key: key.as_str().as_bytes(),
            by: mark.by.as_str().as_bytes(),
            epoch: mark.epoch.get(),
            ends: mark.ends.as_nanos(),
        }
    }

    /// Splits the first mark off a chunk. `None` at its end.
    fn split(chunk: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (&[key, by, times @ ..], rest) = chunk.split_first_chunk::<HEAD_BYTES>()?;
        let times = u128::from_le_bytes(times);
        // A key may have 256 bytes.
        let (key, rest) = rest.split_at_checked(usize::from(key) + 1)?;
        let (by, rest) = rest.split_at_checked(usize::from(by))?;
        let mark = Self {
            key,
            by,
            epoch: times as u64,
            ends: (times >> 64) as u64,
        };
        Some((mark, rest))
    }

    fn len(&self) -> usize {
        HEAD_BYTES + self.key.len() + self.by.len()
    }

    fn append(&self, chunk: &mut Vec<u8>) {
        let times = u128::from(self.ends) << 64 | u128::from(self.epoch);
        chunk.extend([(self.key.len() - 1) as u8, self.by.len() as u8]);
        chunk.extend(times.to_le_bytes());
        chunk.extend(self.key);
        chunk.extend(self.by);
    }

    /// Returns the key. It was valid, so it is never `None`.
    fn key(&self) -> Option<Key> {
        Key::new(str::from_utf8(self.key).ok()?).ok()
    }

    /// Returns the mark. The name of its node was valid, so it is never `None`.
    fn mark(&self) -> Option<KeptMark> {
        Some(KeptMark {
            by: NodeId::new(str::from_utf8(self.by).ok()?).ok()?,
            epoch: Epoch::new(self.epoch),
            ends: Instant::from_nanos(self.ends),
        })
    }
}

/// Iterates over the marks of a chunk.
fn marks_of(mut chunk: &[u8]) -> impl Iterator<Item = Packed<'_>> {
    std::iter::from_fn(move || {
        let (mark, rest) = Packed::split(chunk)?;
        chunk = rest;
        Some(mark)
    })
}

/// Returns the bytes of the mark of a key in its chunk. If there is none, the range is empty and
/// starts where the mark belongs.
fn place_of(chunk: &[u8], key: &[u8]) -> Range<usize> {
    let mut start = 0;
    for mark in marks_of(chunk) {
        if mark.key >= key {
            let len = if mark.key == key { mark.len() } else { 0 };
            return start..start + len;
        }
        start += mark.len();
    }
    start..start
}

/// The marks of a voter.
#[derive(Clone, Debug, Default)]
pub(super) struct KeptMarks {
    /// Each chunk by a lower bound of its keys, which is above all keys before it. That of the
    /// first chunk is empty.
    chunks: BTreeMap<Box<[u8]>, Vec<u8>>,
    len: usize,
}

impl KeptMarks {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn get(&self, key: &Key) -> Option<KeptMark> {
        // Most voters keep no marks, and are asked for one with each claim.
        if self.is_empty() {
            return None;
        }
        let key = key.as_str().as_bytes();
        let to_key = (Unbounded, Included(key));
        let (_, chunk) = self.chunks.range::<[u8], _>(to_key).next_back()?;
        let (mark, _) = Packed::split(&chunk[place_of(chunk, key)])?;
        mark.mark()
    }

    /// Inserts the mark of a key, or replaces it.
    pub(super) fn put(&mut self, key: &Key, mark: &KeptMark) {
        let mark = Packed::of(key, mark);
        if self.is_empty() {
            self.chunks.insert(Box::default(), Vec::new());
        }
        let to_key = (Unbounded, Included(mark.key));
        let Some((_, chunk)) = self.chunks.range_mut::<[u8], _>(to_key).next_back() else {
            return;
        };
        let place = place_of(chunk, mark.key);
        let mut packed = Vec::with_capacity(mark.len());
        mark.append(&mut packed);
        self.len += usize::from(place.is_empty());
        // Chunks have no spare capacity.
        chunk.reserve_exact(packed.len().saturating_sub(place.len()));
        chunk.splice(place, packed);
        if chunk.len() <= CHUNK_BYTES {
            return;
        }
        let mut half = 0;
        for mark in marks_of(chunk) {
            if half >= chunk.len() / 2 {
                break;
            }
            half += mark.len();
        }
        let upper = chunk.split_off(half);
        chunk.shrink_to_fit();
        if let Some((first, _)) = Packed::split(&upper) {
            self.chunks.insert(first.key.into(), upper);
        }
    }

    /// Iterates over the marks after a key, or over all.
    pub(super) fn after<'a>(
        &'a self,
        key: Option<&'a Key>,
    ) -> impl Iterator<Item = (Key, KeptMark)> + 'a {
        let after = key.map_or(&[][..], |key| key.as_str().as_bytes());
        let to_key = (Unbounded, Included(after));
        let mut before = self.chunks.range::<[u8], _>(to_key);
        let first = before.next_back().map_or(&[][..], |(bound, _)| bound);
        let chunks = self.chunks.range::<[u8], _>((Included(first), Unbounded));
        let marks = chunks.flat_map(|(_, chunk)| marks_of(chunk));
        let marks = marks.skip_while(move |mark| mark.key <= after);
        marks.filter_map(|mark| Some((mark.key()?, mark.mark()?)))
    }

    /// Removes the marks that have ended, and fills the chunks. Returns the earliest end of the
    /// rest.
    pub(super) fn remove_ended(&mut self, now: Instant) -> Instant {
        let mut rest = Self::default();
        let (mut bound, mut filling) = (Box::default(), Vec::new());
        let mut first_ends = Instant::FAR.as_nanos();
        for chunk in std::mem::take(&mut self.chunks).into_values() {
            for mark in marks_of(&chunk).filter(|mark| now.as_nanos() < mark.ends) {
                if filling.len() + mark.len() > CHUNK_BYTES {
                    let bound = std::mem::replace(&mut bound, mark.key.into());
                    rest.chunks.insert(bound, filling.as_slice().into());
                    filling.clear();
                }
                mark.append(&mut filling);
                first_ends = first_ends.min(mark.ends);
                rest.len += 1;
            }
        }
        if !rest.is_empty() {
            filling.shrink_to_fit();
            rest.chunks.insert(bound, filling);
        }
        *self = rest;
        Instant::from_nanos(first_ends)
    }

    fn packed(&self) -> impl Iterator<Item = Packed<'_>> {
        self.chunks.values().flat_map(|chunk| marks_of(chunk))
    }
}

// Equality and hash depend on the marks alone, not on their chunks.

impl PartialEq for KeptMarks {
    fn eq(&self, other: &Self) -> bool {
        self.packed().eq(other.packed())
    }
}

impl Eq for KeptMarks {}

impl Hash for KeptMarks {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.packed().for_each(|mark| mark.hash(state));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    const MARKS: u64 = 10_000;

    fn key(number: u64) -> Key {
        Key::new(format!("nightly/report@2026-11-30 {number:06}")).unwrap()
    }

    fn mark(number: u64) -> KeptMark {
        KeptMark {
            by: NodeId::new(format!("node-{:02}", number % 16)).unwrap(),
            epoch: Epoch::new(number),
            ends: Instant::from_nanos(number),
        }
    }

    fn filled(numbers: impl IntoIterator<Item = u64>) -> KeptMarks {
        let mut marks = KeptMarks::default();
        for number in numbers {
            marks.put(&key(number), &mark(number));
        }
        marks
    }

    /// Returns the bytes for each mark, if each place of the map takes two and each allocation 16
    /// bytes more.
    fn bytes(marks: &KeptMarks) -> usize {
        let place = 2 * size_of::<(Box<[u8]>, Vec<u8>)>();
        let chunks = marks.chunks.iter();
        let bytes = chunks.map(|(bound, chunk)| place + bound.len() + chunk.capacity() + 32);
        bytes.sum::<usize>() / marks.len()
    }

    #[test]
    fn mark_takes_at_most_80_bytes_in_any_order() {
        let in_order = filled(0..MARKS);
        let backwards = filled((0..MARKS).rev());
        let in_none = filled((0..MARKS).map(|n| n * 7_919 % MARKS));
        let mut ended = in_none.clone();
        ended.remove_ended(Instant::from_nanos(MARKS - 100));
        for marks in [in_order, backwards, in_none, ended] {
            assert!(bytes(&marks) <= 80, "{} of {}", bytes(&marks), marks.len());
        }
    }

    /// Compares with a plain map, over keys and names of all lengths.
    #[test]
    fn marks_are_those_of_a_plain_map() {
        let (mut marks, mut plain) = (KeptMarks::default(), BTreeMap::new());
        let mut random = Random(1);
        let mut below = |bound| random.below(bound);
        for now in 0..4_000 {
            let number = below(400);
            let len = [1, 20, 252][number as usize % 3];
            let key = Key::new(format!("{number:03}{}", "k".repeat(len))).unwrap();
            assert_eq!(marks.get(&key), plain.get(&key).cloned());
            let mark = KeptMark {
                by: NodeId::new("n".repeat(1 + below(64) as usize)).unwrap(),
                epoch: Epoch::new(u64::MAX - below(9)),
                ends: Instant::from_nanos(now + 1 + below(2_000)),
            };
            marks.put(&key, &mark);
            plain.insert(key.clone(), mark);
            if below(100) == 0 {
                let at = Instant::from_nanos(now);
                plain.retain(|_, mark: &mut KeptMark| at < mark.ends);
                let first = plain.values().map(|mark| mark.ends).min();
                assert_eq!(Some(marks.remove_ended(at)), first);
            }
            assert_eq!(marks.len(), plain.len());
            let after: Vec<_> = marks.after(Some(&key)).collect();
            let range = plain.range((std::ops::Bound::Excluded(&key), Unbounded));
            let expected: Vec<_> = range
                .map(|(key, mark)| (key.clone(), mark.clone()))
                .collect();
            assert_eq!(after, expected);
        }
        assert!(marks.chunks.len() > 9, "{}", marks.chunks.len());
        assert!(marks.after(None).eq(plain));
        assert_eq!(marks.remove_ended(Instant::FAR), Instant::FAR);
        assert!(marks.is_empty() && marks.chunks.is_empty());
    }

    #[test]
    fn marks_in_other_chunks_are_equal() {
        let digest = |marks: &KeptMarks| {
            let mut hasher = std::hash::DefaultHasher::new();
            marks.hash(&mut hasher);
            hasher.finish()
        };
        let (one, other) = (filled(0..100), filled((0..100).rev()));
        assert!(!one.chunks.values().eq(other.chunks.values()));
        assert_eq!((&one, digest(&one)), (&other, digest(&other)));
        assert_ne!(one, filled(0..99));
    }
}
