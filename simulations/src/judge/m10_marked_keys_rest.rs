//! **M10 marked keys rest** (`docs/protocol.md`, section 1): once a quorum has marked a key, nobody is
//! granted it until the mark ends.
//!
//! It assumes that clocks keep M1's bound. If a voter reports that it may lack marks, it may have
//! forgotten those that began before it lost its memory.

use std::collections::BTreeMap;

use super::{Fact, History, HostAt, KeyAt, Law};

/// A mark: when it began and when it ends.
struct Marked {
    since: u64,
    until: u64,
}

#[derive(Default)]
struct Marks {
    marked: BTreeMap<KeyAt, Vec<Marked>>,
    /// When each voter last lost its memory.
    forgot: BTreeMap<HostAt, u64>,
}

pub(super) fn law() -> Box<Law> {
    let mut marks = Marks::default();
    Box::new(move |at, fact, history| judge(&mut marks, at, fact, history))
}

fn judge(marks: &mut Marks, at: u64, fact: &Fact, history: &History) -> Option<String> {
    match fact {
        Fact::Forgot { voter } => {
            marks.forgot.insert(*voter, at);
        }
        Fact::Marked {
            request,
            since,
            until,
        } => {
            let key = history.open.get(request)?.key;
            let (since, until) = (*since, *until);
            let marked = marks.marked.entry(key).or_default();
            marked.push(Marked { since, until });
        }
        Fact::MarksLost { voter } => {
            let forgot = marks.forgot.get(voter).copied().unwrap_or_default();
            for (key, marked) in &mut marks.marked {
                if history.voters_of(*key, *voter).contains(voter) {
                    marked.retain(|mark| mark.since >= forgot);
                }
            }
        }
        Fact::Granted { request, .. } if history.terms.clocks_kept => {
            let key = history.open.get(request)?.key;
            let marked = marks.marked.get(&key)?.iter();
            let longest = marked.map(|mark| mark.until).max()?;
            return (at < longest).then(|| {
                let left = (longest - at) / 1_000_000;
                format!("key {key}: request {request} is granted {left} ms before its mark ends")
            });
        }
        _ => {}
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::RequestId;
    use super::super::forged::*;
    use super::super::{End, Terms};
    use super::*;

    /// A key is marked from 6 on until 100, and granted again at `granted_at`.
    fn facts(granted_at: u64) -> Vec<(u64, Fact)> {
        let marked = Fact::Marked {
            request: RequestId(1),
            since: 6,
            until: 100,
        };
        vec![
            (0, Fact::Forgot { voter: 0 }),
            (0, asked(1, 0)),
            (5, granted(1, 10, 50)),
            (8, marked),
            (9, over(1, End::Released)),
            (20, asked(2, 1)),
            (granted_at, granted(2, 11, 200)),
        ]
    }

    #[test]
    fn grant_before_end_of_mark_is_rejected() {
        for (at, count) in [(21, 1), (99, 1), (100, 0), (150, 0)] {
            assert_eq!(rejected(law(), terms(), &facts(at)), count, "{at}");
        }
        let wild = Terms {
            clocks_kept: false,
            ..terms()
        };
        assert_eq!(rejected(law(), wild, &facts(21)), 0);
    }

    #[test]
    fn lost_marks_excuse_only_earlier_marks_of_their_voters() {
        for (voter, forgot, count) in [(0, 7, 0), (0, 3, 1), (9, 7, 1)] {
            let mut facts = facts(21);
            let lost = (20, Fact::MarksLost { voter });
            facts.insert(6, lost);
            facts.insert(3, (forgot, Fact::Forgot { voter }));
            assert_eq!(rejected(law(), terms(), &facts), count, "{voter} {forgot}");
        }
    }

    /// The voters of a key in the other voter set are not those of the first.
    #[test]
    fn lost_marks_of_voter_in_other_set_excuse_earlier_marks() {
        for (is_other, count) in [(true, 0), (false, 1)] {
            let (host, voter) = (9, 9);
            let mut facts = facts(21);
            facts.insert(6, (20, Fact::MarksLost { voter }));
            facts.insert(3, (7, Fact::Forgot { voter }));
            facts.insert(3, (7, Fact::Changed { host, is_other }));
            let terms = Terms {
                other_voters: vec![vec![voter]],
                ..terms()
            };
            assert_eq!(rejected(law(), terms, &facts), count);
        }
    }
}
