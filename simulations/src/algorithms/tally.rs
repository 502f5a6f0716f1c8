//! The results of a run that matter to the users of a lock, counted from its record.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::judge::{End, Fact, HostAt, KeyAt, RequestId};
use crate::report::{Note, Record};

/// The span in which a request held a key, by its own process.
#[derive(Clone, Debug)]
pub(crate) struct Lease {
    pub(crate) request: RequestId,
    pub(crate) host: HostAt,
    pub(crate) key: KeyAt,
    pub(crate) epoch: u64,
    pub(crate) asked: u64,
    pub(crate) from: u64,
    pub(crate) until: u64,
    pub(crate) renewals: usize,
    /// The way it ended; `None` if it was still held at the end of the run.
    pub(crate) how: Option<End>,
}

/// A request that waited, and how the wait ended.
#[derive(Clone, Debug)]
pub(crate) struct Wait {
    pub(crate) host: HostAt,
    pub(crate) key: KeyAt,
    pub(crate) from: u64,
    pub(crate) until: u64,
    /// The way it ended; `None` if it was granted or still waited at the end of the run.
    pub(crate) how: Option<End>,
}

/// A write that reached the resource.
#[derive(Clone, Debug)]
pub(crate) struct WriteAt {
    pub(crate) at: u64,
    pub(crate) host: HostAt,
    pub(crate) key: KeyAt,
    pub(crate) epoch: u64,
    pub(crate) taken: bool,
    /// `true` if a write of a later holder had been taken before.
    pub(crate) is_stale: bool,
}

/// A span in which two requests held one key.
#[derive(Clone, Debug)]
pub(crate) struct Overlap {
    pub(crate) key: KeyAt,
    pub(crate) from: u64,
    pub(crate) until: u64,
}

/// A run as its users saw it.
#[derive(Debug, Default)]
pub(crate) struct UserView {
    /// Leases in the order of their grants.
    pub(crate) leases: Vec<Lease>,
    pub(crate) waits: Vec<Wait>,
    pub(crate) writes: Vec<WriteAt>,
    pub(crate) overlaps: Vec<Overlap>,
}

/// The figures of one row of the table.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub(crate) struct Tally {
    pub(crate) runs: u64,
    /// Pairs of leases of one key that overlap.
    pub(crate) overlaps: u64,
    /// The time in which keys had two holders, in nanoseconds.
    pub(crate) overlap_nanos: u64,
    pub(crate) stale_taken: u64,
    pub(crate) stale_refused: u64,
    pub(crate) grants: u64,
    /// The longest wait for a free key after the faults were healed, in nanoseconds.
    pub(crate) free_but_waited_nanos: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, other: Self) {
        self.runs += other.runs;
        self.overlaps += other.overlaps;
        self.overlap_nanos += other.overlap_nanos;
        self.stale_taken += other.stale_taken;
        self.stale_refused += other.stale_refused;
        self.grants += other.grants;
        let longest = &mut self.free_but_waited_nanos;
        *longest = (*longest).max(other.free_but_waited_nanos);
    }
}

/// A request that has not ended.
#[derive(Clone, Copy)]
struct Open {
    host: HostAt,
    key: KeyAt,
    asked: u64,
    lease: Option<usize>,
}

impl UserView {
    /// Builds the story of a record.
    pub(crate) fn of(record: &Record) -> Self {
        let mut story = Self::default();
        let mut open = BTreeMap::new();
        let mut granted: BTreeMap<RequestId, usize> = BTreeMap::new();
        let mut last_writer: BTreeMap<KeyAt, usize> = BTreeMap::new();
        for (at, note) in &record.notes {
            let Note::Fact(fact) = note else {
                continue;
            };
            match fact {
                Fact::Wrote {
                    request,
                    key,
                    epoch,
                    taken,
                } => {
                    let Some(writer) = granted.get(request).copied() else {
                        continue;
                    };
                    let last = last_writer.get(key).copied();
                    let is_stale = last.is_some_and(|last| last > writer);
                    if *taken && !is_stale {
                        last_writer.insert(*key, writer);
                    }
                    let host = story.leases[writer].host;
                    story.writes.push(WriteAt {
                        at: *at,
                        host,
                        key: *key,
                        epoch: *epoch,
                        taken: *taken,
                        is_stale,
                    });
                }
                fact => story.request(*at, fact, &mut open, &mut granted),
            }
        }
        for it in open.into_values() {
            story.end(record.end, it, None);
        }
        story.find_overlaps();
        story
    }

    fn request(
        &mut self,
        at: u64,
        fact: &Fact,
        open: &mut BTreeMap<RequestId, Open>,
        granted: &mut BTreeMap<RequestId, usize>,
    ) {
        match fact {
            Fact::Asked {
                request, host, key, ..
            } => {
                let it = Open {
                    host: *host,
                    key: *key,
                    asked: at,
                    lease: None,
                };
                open.insert(*request, it);
            }
            Fact::Granted {
                request,
                epoch,
                until,
            } => {
                let Some(it) = open.get_mut(request) else {
                    return;
                };
                self.wait(*it, at, None);
                it.lease = Some(self.leases.len());
                granted.insert(*request, self.leases.len());
                self.leases.push(Lease {
                    request: *request,
                    host: it.host,
                    key: it.key,
                    epoch: *epoch,
                    asked: it.asked,
                    from: at,
                    until: *until,
                    renewals: 0,
                    how: None,
                });
            }
            Fact::Until { request, until } => {
                let lease = open.get(request).and_then(|it| it.lease);
                if let Some(lease) = lease.and_then(|at| self.leases.get_mut(at)) {
                    lease.until = *until;
                    lease.renewals += 1;
                }
            }
            Fact::Over { request, how } => {
                if let Some(it) = open.remove(request) {
                    self.end(at, it, Some(*how));
                }
            }
            _ => {}
        }
    }

    fn end(&mut self, at: u64, it: Open, how: Option<End>) {
        match it.lease {
            Some(lease) => {
                let lease = &mut self.leases[lease];
                // The lease may have ended by its own clock before the node reported it.
                lease.until = lease.until.min(at).max(lease.from);
                lease.how = how;
            }
            None => self.wait(it, at, how),
        }
    }

    fn wait(&mut self, it: Open, until: u64, how: Option<End>) {
        self.waits.push(Wait {
            host: it.host,
            key: it.key,
            from: it.asked,
            until,
            how,
        });
    }

    fn find_overlaps(&mut self) {
        let mut held: BTreeMap<KeyAt, Vec<usize>> = BTreeMap::new();
        for (at, lease) in self.leases.iter().enumerate() {
            let others = held.entry(lease.key).or_default();
            others.retain(|other| self.leases[*other].until > lease.from);
            for other in &*others {
                let until = self.leases[*other].until.min(lease.until);
                if until > lease.from {
                    self.overlaps.push(Overlap {
                        key: lease.key,
                        from: lease.from,
                        until,
                    });
                }
            }
            others.push(at);
        }
    }

    /// Returns the figures of this run.
    pub(crate) fn tally(&self, healed: Option<u64>) -> Tally {
        let stale = |taken: bool| {
            let writes = self.writes.iter();
            writes.filter(|it| it.is_stale && it.taken == taken).count() as u64
        };
        let mut spans: BTreeMap<KeyAt, Vec<(u64, u64)>> = BTreeMap::new();
        for overlap in &self.overlaps {
            let of_key = spans.entry(overlap.key).or_default();
            of_key.push((overlap.from, overlap.until));
        }
        Tally {
            runs: 1,
            overlaps: self.overlaps.len() as u64,
            overlap_nanos: spans.into_values().map(length_of_union).sum(),
            stale_taken: stale(true),
            stale_refused: stale(false),
            grants: self.leases.len() as u64,
            free_but_waited_nanos: healed.map_or(0, |healed| self.free_but_waited(healed)),
        }
    }

    /// Returns the longest span after `since` in which a request waits for a key that nobody holds.
    fn free_but_waited(&self, since: u64) -> u64 {
        let longest = self.waits.iter().map(|wait| {
            let mut at = wait.from.max(since);
            let mut longest = 0;
            let of_key = self.leases.iter().filter(|lease| lease.key == wait.key);
            for lease in of_key.filter(|lease| lease.until > since) {
                longest = longest.max(lease.from.min(wait.until).saturating_sub(at));
                at = at.max(lease.until);
            }
            longest.max(wait.until.saturating_sub(at))
        });
        longest.max().unwrap_or_default()
    }
}

fn length_of_union(mut spans: Vec<(u64, u64)>) -> u64 {
    spans.sort_unstable();
    let (mut total, mut end) = (0, 0);
    for (from, until) in spans {
        total += until.max(end) - from.max(end).min(until.max(end));
        end = end.max(until);
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(facts: Vec<(u64, Fact)>) -> Record {
        let mut record = Record::default();
        for (at, fact) in facts {
            record.end = at;
            record.keep(at, &fact);
        }
        record
    }

    fn asked(at: u64, request: u64) -> (u64, Fact) {
        let (request, host) = (RequestId(request), request as HostAt);
        let key = 0;
        let asked = Fact::Asked {
            request,
            host,
            key,
            outlives: false,
        };
        (at, asked)
    }

    fn granted(at: u64, request: u64, epoch: u64, until: u64) -> (u64, Fact) {
        let request = RequestId(request);
        let fact = Fact::Granted {
            request,
            epoch,
            until,
        };
        (at, fact)
    }

    fn over(at: u64, request: u64, how: End) -> (u64, Fact) {
        let request = RequestId(request);
        (at, Fact::Over { request, how })
    }

    fn wrote(at: u64, request: u64, epoch: u64, taken: bool) -> (u64, Fact) {
        let request = RequestId(request);
        let fact = Fact::Wrote {
            request,
            key: 0,
            epoch,
            taken,
        };
        (at, fact)
    }

    #[test]
    fn overlap_is_counted_once_with_its_length() {
        let facts = vec![
            asked(0, 1),
            granted(1, 1, 5, 50),
            asked(2, 2),
            granted(30, 2, 6, 90),
            over(50, 1, End::Lost),
            over(60, 2, End::Released),
        ];
        let tally = UserView::of(&record(facts)).tally(None);
        assert_eq!(
            (tally.overlaps, tally.overlap_nanos, tally.grants),
            (1, 20, 2)
        );
    }

    #[test]
    fn lease_released_before_next_grant_does_not_overlap() {
        let facts = vec![
            asked(0, 1),
            granted(1, 1, 5, 50),
            over(20, 1, End::Released),
            asked(2, 2),
            granted(20, 2, 6, 90),
        ];
        assert_eq!(UserView::of(&record(facts)).tally(None).overlaps, 0);
    }

    #[test]
    fn write_is_stale_after_later_holders_write() {
        let facts = vec![
            asked(0, 1),
            granted(1, 1, 5, 10),
            asked(2, 2),
            granted(20, 2, 6, 90),
            wrote(21, 1, 5, true),
            wrote(22, 2, 6, true),
            wrote(23, 1, 5, false),
            wrote(24, 1, 5, true),
        ];
        let tally = UserView::of(&record(facts)).tally(None);
        assert_eq!((tally.stale_taken, tally.stale_refused), (1, 1));
    }

    #[test]
    fn wait_for_free_key_is_timed_from_healing() {
        let facts = vec![
            asked(0, 1),
            granted(1, 1, 5, 500),
            asked(2, 2),
            over(120, 1, End::Lost),
            granted(150, 2, 6, 900),
        ];
        let story = UserView::of(&record(facts));
        assert_eq!(story.tally(Some(100)).free_but_waited_nanos, 30);
        assert_eq!(story.tally(Some(140)).free_but_waited_nanos, 10);
    }

    #[test]
    fn overlapping_spans_are_counted_once() {
        assert_eq!(length_of_union(vec![(5, 10), (0, 6), (20, 21), (7, 8)]), 11);
    }
}
