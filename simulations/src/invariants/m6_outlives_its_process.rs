//! **M6 a lock through the trait lasts its ttl** (`docs/protocol.md`, section 1): a key that was
//! granted to a claim that outlives its process is granted to nobody else until the end that its
//! holder was told, whatever becomes of the process, unless it was released. It assumes that clocks
//! keep `max_drift`, so it is judged only where they do.

use std::collections::{BTreeMap, BTreeSet};

use super::{End, Fact, History, KeyAt, Law, RequestId};

#[derive(Debug, Default)]
pub(super) struct OutlivesItsProcess {
    /// Requests that outlive their process.
    outliving: BTreeSet<RequestId>,
    /// Of each key the last such lease that was granted, and the end that was told of it.
    granted: BTreeMap<KeyAt, (RequestId, u64)>,
}

impl Law for OutlivesItsProcess {
    fn number(&self) -> &'static str {
        "M6"
    }

    fn see(&mut self, at: u64, fact: &Fact, history: &History) -> Option<String> {
        match fact {
            Fact::Asked {
                request,
                outlives: true,
                ..
            } => {
                self.outliving.insert(*request);
                None
            }
            Fact::Over { request, how } => {
                if self.outliving.remove(request) && *how == End::Released {
                    self.granted.retain(|_, (other, _)| other != request);
                }
                None
            }
            Fact::Granted { request, until, .. } | Fact::Until { request, until } => {
                let key = history.open.get(request)?.key;
                let earlier = self.granted.get(&key).copied();
                if self.outliving.contains(request) {
                    self.granted.insert(key, (*request, *until));
                }
                let (RequestId(other), until) = earlier.filter(|(other, _)| other != request)?;
                (at < until && history.terms.clocks_kept).then(|| {
                    let RequestId(id) = request;
                    format!(
                        "key {key}: request {id} got it {} ms before the end of request {other}, \
                         which outlives its process",
                        (until - at) / 1_000_000
                    )
                })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::forged::*;
    use super::*;

    fn judged(outlives: bool, end: Option<End>, next_at: u64) -> usize {
        let tick = Fact::Asked {
            request: RequestId(1),
            host: 0,
            key: 0,
            outlives,
        };
        let mut facts = vec![(0, tick), (1, granted(1, 10, 50))];
        facts.extend(end.map(|how| (20, over(1, how))));
        facts.extend([(21, asked(2, 1)), (next_at, granted(2, 11, 90))]);
        let law = &mut OutlivesItsProcess::default();
        rejected(law, terms(), &facts)
    }

    #[test]
    fn grant_before_the_end_is_rejected_however_its_process_ended() {
        for how in [End::Crashed, End::ShutDown, End::Lost] {
            assert_eq!(judged(true, Some(how), 49), 1);
            assert_eq!(judged(true, Some(how), 50), 0);
            // A guard's ends with its process.
            assert_eq!(judged(false, Some(how), 49), 0);
        }
    }

    #[test]
    fn grant_after_a_release_is_not() {
        assert_eq!(judged(true, Some(End::Released), 22), 0);
    }

    #[test]
    fn end_that_was_extended_counts() {
        let tick = Fact::Asked {
            request: RequestId(1),
            host: 0,
            key: 0,
            outlives: true,
        };
        let until = Fact::Until {
            request: RequestId(1),
            until: 80,
        };
        let facts = [
            (0, tick),
            (1, granted(1, 10, 50)),
            (30, until),
            (40, over(1, End::Crashed)),
            (41, asked(2, 1)),
            (60, granted(2, 11, 90)),
        ];
        let law = &mut OutlivesItsProcess::default();
        assert_eq!(rejected(law, terms(), &facts), 1);
    }

    #[test]
    fn clocks_beyond_the_bound_are_not_judged() {
        let mut terms = terms();
        terms.clocks_kept = false;
        let tick = Fact::Asked {
            request: RequestId(1),
            host: 0,
            key: 0,
            outlives: true,
        };
        let facts = [
            (0, tick),
            (1, granted(1, 10, 50)),
            (2, over(1, End::Crashed)),
            (3, asked(2, 1)),
            (9, granted(2, 11, 90)),
        ];
        let law = &mut OutlivesItsProcess::default();
        assert_eq!(rejected(law, terms, &facts), 0);
    }
}
