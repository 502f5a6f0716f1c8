//! **M6 a lock through the trait lasts its ttl** (`docs/protocol.md`, section 1): a key granted to
//! a claim that outlives its process is granted to no other claim before the reported end. Only a
//! release ends it sooner. Judged if clocks keep `max_drift`, until a voter that changed its settings
//! reports that too few others could name the old ones (section 6).

use std::collections::{BTreeMap, BTreeSet};

use super::{End, Fact, History, KeyAt, Law, RequestId};

#[derive(Default)]
struct Outliving {
    /// Open requests whose leases outlive their process.
    open: BTreeSet<RequestId>,
    /// The last such lease of each key, and its last reported end.
    granted: BTreeMap<KeyAt, (RequestId, u64)>,
}

pub(super) fn law() -> Box<Law> {
    let mut it = Outliving::default();
    Box::new(move |at, fact, history| it.judge(at, fact, history))
}

impl Outliving {
    fn judge(&mut self, at: u64, fact: &Fact, history: &History) -> Option<String> {
        match fact {
            Fact::Asked {
                request,
                outlives: true,
                ..
            } => {
                self.open.insert(*request);
                None
            }
            Fact::Over { request, how } => {
                if self.open.remove(request) && *how == End::Released {
                    self.granted.retain(|_, (other, _)| other != request);
                }
                None
            }
            // Its process is over or leaves, and the clock of its host changed its rate.
            Fact::Until { request, until } if !history.open.contains_key(request) => {
                let mut ends = self.granted.values_mut();
                if let Some((_, end)) = ends.find(|(other, _)| other == request) {
                    *end = *until;
                }
                None
            }
            Fact::Granted { request, until, .. } | Fact::Until { request, until } => {
                let key = history.open.get(request)?.key;
                let earlier = self.granted.get(&key).copied();
                if self.open.contains(request) {
                    self.granted.insert(key, (*request, *until));
                }
                let (other, until) = earlier.filter(|(other, _)| other != request)?;
                let is_judged = history.terms.clocks_kept && !history.leans_on_settings;
                (at < until && is_judged).then(|| {
                    format!(
                        "key {key}: request {request} got it {} ms before the end of request \
                         {other}, which outlives its process",
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

    /// The clock of the host changes its rate once the process is over, and the end moves to `end`.
    #[test]
    fn changed_rate_moves_the_end_of_a_lease_that_was_left() {
        for (end, next_at, count) in [(40, 41, 0), (40, 39, 1), (60, 55, 1)] {
            let tick = Fact::Asked {
                request: RequestId(1),
                host: 0,
                key: 0,
                outlives: true,
            };
            let moved = Fact::Until {
                request: RequestId(1),
                until: end,
            };
            let facts = [
                (0, tick),
                (1, granted(1, 10, 50)),
                (20, over(1, End::ShutDown)),
                (21, moved),
                (22, asked(2, 1)),
                (next_at, granted(2, 11, 90)),
            ];
            assert_eq!(rejected(law(), terms(), &facts), count);
        }
    }

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
        let law = law();
        rejected(law, terms(), &facts)
    }

    #[test]
    fn grant_before_reported_end_is_rejected() {
        for how in [End::Crashed, End::ShutDown, End::Lost] {
            assert_eq!(judged(true, Some(how), 49), 1);
            assert_eq!(judged(true, Some(how), 50), 0);
            // The lease of a guard ends with its process.
            assert_eq!(judged(false, Some(how), 49), 0);
        }
    }

    #[test]
    fn grant_after_release_is_accepted() {
        assert_eq!(judged(true, Some(End::Released), 22), 0);
    }

    #[test]
    fn extended_end_counts() {
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
        let law = law();
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
        let law = law();
        assert_eq!(rejected(law, terms, &facts), 0);
    }
}
